package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

// named makes servers "a", "b" … that nobody connects to.
func named(t testing.TB, p *routes.Proxy, servers ...routes.Upstream) *upstreams {
	t.Helper()
	for i, s := range servers {
		s.Network, s.Address = "unix", string(rune('a'+i))
		p.To = append(p.To, s)
	}
	u := newUpstreams(&routes.Route{Proxy: p}, noTLS, newTestLog())
	t.Cleanup(u.close)
	return u
}

// asked is a request with these fields.
func asked(fields ...string) *call {
	r := httptest.NewRequest("GET", "/", nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return &call{r: r, x: &exchange{routeState: routeState{path: "/"}}}
}

// serve gives so many requests to servers, which all answer at once, and tells who got them.
func serve(u *upstreams, n int) string {
	var got strings.Builder
	for range n {
		s := u.next(asked(), nil)
		if s == nil {
			got.WriteByte('-')
			continue
		}
		got.WriteString(s.Address)
		s.leave()
	}
	return got.String()
}

func TestBalance(t *testing.T) {
	failure := errors.New("refused")
	passing := routes.Proxy{MaxFails: 1, FailTimeout: 10 * time.Second}
	for _, row := range []struct {
		name    string
		proxy   routes.Proxy
		servers []routes.Upstream
		do      func(u *upstreams)
		want    string
	}{
		{"servers take turns", routes.Proxy{}, make([]routes.Upstream, 3), nil, "abcabc"},
		{"a heavy one has more, in between", routes.Proxy{}, []routes.Upstream{{Weight: 4}, {}, {}}, nil, "aabaca"},
		{"a backup has none", routes.Proxy{}, []routes.Upstream{{}, {Backup: true}}, nil, "aaaaaa"},
		{"unless the others fail", passing, []routes.Upstream{{}, {Backup: true}}, func(u *upstreams) { u.servers[0].failed(failure, "") }, "bbbbbb"},
		{"when all fail, all are tried", passing, make([]routes.Upstream, 2), func(u *upstreams) {
			u.servers[0].failed(failure, "")
			u.servers[1].failed(failure, "")
		}, "ababab"},
		{"one failure of two says nothing", routes.Proxy{MaxFails: 2, FailTimeout: time.Second}, make([]routes.Upstream, 2), func(u *upstreams) { u.servers[0].failed(failure, "") }, "ababab"},
		{"who fails for the second time later is not passed over", routes.Proxy{MaxFails: 2, FailTimeout: time.Second}, make([]routes.Upstream, 2), func(u *upstreams) {
			u.servers[0].failed(failure, "")
			time.Sleep(1001 * time.Millisecond)
			u.servers[0].failed(failure, "")
		}, "ababab"},
		{"one that failed is passed over", passing, make([]routes.Upstream, 2), func(u *upstreams) { u.servers[0].failed(failure, "") }, "bbbbbb"},
		{"for a while", passing, make([]routes.Upstream, 2), func(u *upstreams) {
			u.servers[0].failed(failure, "")
			time.Sleep(10 * time.Second)
		}, "ababab"},
		{"or until it answers", passing, make([]routes.Upstream, 2), func(u *upstreams) {
			u.servers[0].failed(failure, "")
			u.servers[0].succeeded()
		}, "ababab"},
		{"one that is ill is not asked", routes.Proxy{}, make([]routes.Upstream, 2), func(u *upstreams) { u.servers[1].ill.Store(true) }, "aaaaaa"},
		{"not even when there is no other", routes.Proxy{}, make([]routes.Upstream, 1), func(u *upstreams) { u.servers[0].ill.Store(true) }, "------"},
		{"one that has its connections gets no more", routes.Proxy{}, []routes.Upstream{{MaxConnections: 1}, {}}, func(u *upstreams) { u.servers[0].enter() }, "bbbbbb"},
		{"when all have there is none", routes.Proxy{}, []routes.Upstream{{MaxConnections: 1}}, func(u *upstreams) { u.servers[0].enter() }, "------"},
		{"who has the fewest requests is next", routes.Proxy{Balance: routes.LeastConnections}, make([]routes.Upstream, 2), func(u *upstreams) { u.servers[0].enter() }, "bbbbbb"},
		{"for its weight", routes.Proxy{Balance: routes.LeastConnections}, []routes.Upstream{{Weight: 3}, {}}, func(u *upstreams) {
			u.servers[0].enter()
			u.servers[0].enter()
			u.servers[1].enter()
		}, "aaaaaa"},
		{"as many are equal", routes.Proxy{Balance: routes.LeastConnections}, make([]routes.Upstream, 2), nil, "ababab"},
		{"without a key they take turns", routes.Proxy{Balance: routes.Hash, Key: "cookie:sid"}, make([]routes.Upstream, 2), nil, "ababab"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := named(t, &row.proxy, row.servers...)
				if row.do != nil {
					row.do(u)
				}
				if got := serve(u, 6); got != row.want {
					t.Errorf("the servers are %s, want %s", got, row.want)
				}
			})
		})
	}
}

// TestHash: each key has its server, the shares are fair, and when a server fails only its keys move.
func TestHash(t *testing.T) {
	for key, with := range map[string]func(i int) *call{
		"header:X-User": func(i int) *call { return asked("X-User", fmt.Sprint("user", i)) },
		"cookie:sid":    func(i int) *call { return asked("Cookie", fmt.Sprint("a=b; sid=", i)) },
		"uri": func(i int) *call {
			c := asked()
			c.x.path = fmt.Sprint("/page/", i)
			return c
		},
		"remote_ip": func(i int) *call {
			c := asked()
			c.x.remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
			return c
		},
	} {
		u := named(t, &routes.Proxy{Balance: routes.Hash, Key: key}, routes.Upstream{Weight: 2}, routes.Upstream{}, routes.Upstream{})
		counts, before := map[string]int{}, map[int]string{}
		for i := range 4000 {
			before[i] = u.next(with(i), nil).Address
			counts[before[i]]++
			if again := u.next(with(i), nil).Address; again != before[i] {
				t.Fatalf("%s: request %d goes to %s and then to %s", key, i, before[i], again)
			}
		}
		if counts["a"] < 1800 || counts["b"] < 850 || counts["c"] < 850 {
			t.Errorf("%s: the shares of 4000 are %v, want 2000, 1000 and 1000 or so", key, counts)
		}
		u.servers[2].ill.Store(true)
		for i := range 4000 {
			if after := u.next(with(i), nil).Address; before[i] != "c" && after != before[i] {
				t.Fatalf("%s: request %d moved from %s to %s though that is well", key, i, before[i], after)
			}
		}
	}
}

// TestProxyRetry: what another server may be asked for when one hangs up.
func TestProxyRetry(t *testing.T) {
	for _, row := range []struct {
		name, method string
		retry        bool
		want         string
	}{
		{"a GET, if it is wanted", "GET", true, "200"},
		{"a PUT with its body", "PUT", true, "200"},
		{"no POST", "POST", true, "502"},
		{"nothing by default", "GET", false, "502"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bad := scripted(t, func(net.Conn) {})
			good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
			defer good.Close()
			g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{bad, serverOf(good)}, Retry: row.retry}})
			resp, body, err := g.ask(t, g.request(t, row.method, "/", strings.NewReader("body")))
			if got := fmt.Sprint(resp.StatusCode); err != nil || got != row.want || got == "200" && body != "body" {
				t.Errorf("the client got %s, %q, %v; want %s", got, body, err, row.want)
			}
		})
	}
}

// TestProxyTimeouts are those of the route, where the pool has none.
func TestProxyTimeouts(t *testing.T) {
	hold := func(text string) func(net.Conn) {
		return func(nc net.Conn) {
			_, _ = io.WriteString(nc, text)
			_, _ = io.Copy(io.Discard, nc)
		}
	}
	ask := func(t *testing.T, p routes.Proxy, answer string) (*http.Response, error) {
		p.To = []routes.Upstream{scripted(t, hold(answer))}
		g := newRouteGate(t, routes.Pool{}, routes.Route{Unbuffered: true, Proxy: &p})
		resp, _, err := g.ask(t, g.request(t, "GET", "/", nil))
		g.free(t)
		return resp, err
	}
	if resp, err := ask(t, routes.Proxy{ResponseTimeout: 50 * time.Millisecond}, ""); err != nil || resp.StatusCode != 504 {
		t.Errorf("no head in time gave %d, %v, want 504", resp.StatusCode, err)
	}
	if resp, err := ask(t, routes.Proxy{IdleTimeout: 50 * time.Millisecond}, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"); err == nil || resp.StatusCode != 200 {
		t.Errorf("no rest in time gave %d, %v, want 200 and a cut", resp.StatusCode, err)
	}
}

// TestProxyHealth has a server fall ill and get well again.
func TestProxyHealth(t *testing.T) {
	var ill atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/base/health" && ill.Load() {
			w.WriteHeader(500)
		}
	}))
	defer server.Close()
	to := serverOf(server)
	to.Base = "/base"
	p := &routes.Proxy{To: []routes.Upstream{to}, Health: &routes.Health{URI: "/health?x", Interval: time.Millisecond, Timeout: time.Minute}}
	g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: p})
	for _, want := range []int{200, 503, 200} {
		ill.Store(want == 503)
		got := 0
		for deadline := time.Now().Add(10 * time.Second); got != want && time.Now().Before(deadline); {
			resp, _, _ := g.ask(t, g.request(t, "GET", "/", nil))
			got = resp.StatusCode
		}
		if got != want {
			t.Fatalf("the answer stays %d, want %d; log:\n%s", got, want, g.log.text())
		}
	}
	for _, text := range []string{"server is ill", "status 500", "server is well again"} {
		eventually(t, "the log has "+text, func() bool { return strings.Contains(g.log.text(), text) })
	}
}

// TestResolve: a name is looked up again after a while, and has its last addresses when that fails.
func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		found, failure := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, error(nil)
		lookups := 0
		s := &upstream{proxy: &routes.Proxy{Resolve: time.Minute}, log: newTestLog(), lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			lookups++
			return found, failure
		}}
		expect := func(name, want string, count int) {
			t.Helper()
			got, err := s.resolve(t.Context(), "app.internal")
			if fmt.Sprint(got, err) != want+" <nil>" || lookups != count {
				t.Errorf("%s: resolve = %v, %v after %d lookups; want %s after %d", name, got, err, lookups, want, count)
			}
		}
		expect("the first time", "[10.0.0.2 10.0.0.1]", 1)
		expect("soon again", "[10.0.0.1 10.0.0.2]", 1)
		found = []netip.Addr{netip.MustParseAddr("10.0.0.3")}
		expect("others are not seen yet", "[10.0.0.2 10.0.0.1]", 1)
		time.Sleep(time.Minute)
		expect("later", "[10.0.0.3]", 2)
		failure = errors.New("no such host")
		time.Sleep(time.Minute)
		expect("when it fails", "[10.0.0.3]", 3)
		expect("which is not tried each time", "[10.0.0.3]", 3)
		s.addrs = nil
		time.Sleep(time.Minute)
		if _, err := s.resolve(t.Context(), "app.internal"); !errors.Is(err, failure) {
			t.Errorf("resolve of an unknown name = %v, want %v", err, failure)
		}
	})
}

// TestProxyStatus: `gateway status` tells how each server is.
func TestProxyStatus(t *testing.T) {
	u := named(t, &routes.Proxy{MaxFails: 1, FailTimeout: time.Hour}, routes.Upstream{}, routes.Upstream{Backup: true}, routes.Upstream{})
	u.line = "site.hcl:3"
	u.servers[0].enter()
	u.servers[0].failed(errors.New("refused"), "edge")
	u.servers[2].ill.Store(true)
	got := fmt.Sprint((&Server{proxies: []*upstreams{u}}).Upstreams())
	want := "[{site.hcl:3 a failing false {1 0} 1 1 0} {site.hcl:3 b well true {0 0} 0 0 0} {site.hcl:3 c ill false {0 0} 0 0 0}]"
	if got != want {
		t.Errorf("Upstreams() = %s, want %s", got, want)
	}
}

// TestProxyProtocolOut: each connection begins with the client's address, and carries one request.
func TestProxyProtocolOut(t *testing.T) {
	for version, want := range map[string]string{"v1": "PROXY TCP4 127.0.0.1 ", "v2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 2 {
				nc, err := l.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				br := bufio.NewReader(nc)
				if version == "v2" {
					head := make([]byte, 28)
					_, err = io.ReadFull(br, head)
					if !strings.HasPrefix(string(head), want) {
						t.Errorf("the connection begins with %q, %v, want %q", head, err, want)
					}
				} else if line, err := br.ReadString('\n'); !strings.HasPrefix(line, want) {
					t.Errorf("the connection begins with %q, %v, want %q", line, err, want)
				}
				if _, err := http.ReadRequest(br); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n")
				_, _ = io.Copy(io.Discard, nc)
				nc.Close()
			}
		}()
		g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{{Network: "tcp", Address: l.Addr().String()}}, ProxyProtocol: version}})
		for range 2 {
			if resp, _, err := g.ask(t, g.request(t, "GET", "/", nil)); err != nil || resp.StatusCode != 204 {
				t.Errorf("the answer is %d, %v", resp.StatusCode, err)
			}
		}
		<-done
		l.Close()
	}
}
