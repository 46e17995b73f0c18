package proxy

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
)

// proxyGate is an engine whose every route leads to the servers, through an event pool.
type proxyGate struct {
	addr   string
	pool   *mpm.Pool
	server *Server
	engine *event.Engine
	log    *testLog
}

func newProxyGate(t testing.TB, cfg routes.Pool, to ...routes.Upstream) *proxyGate {
	t.Helper()
	return newRouteGate(t, cfg, routes.Route{Proxy: &routes.Proxy{To: to}})
}

func newRouteGate(t testing.TB, cfg routes.Pool, route routes.Route, options ...Option) *proxyGate {
	t.Helper()
	g, handler := newRoute(t, cfg, route, options...)
	g.addr, g.engine = serveOn(t, handler, g.server)
	return g
}

// newRoute is a gate that nobody has opened yet.
func newRoute(t testing.TB, cfg routes.Pool, route routes.Route, options ...Option) (*proxyGate, http.HandlerFunc) {
	t.Helper()
	cfg.Name, cfg.MPM, cfg.MaxRequestWorkers = "edge", routes.Event, max(cfg.MaxRequestWorkers, 10)
	site := routes.Site{Names: []string{"legacy.example"}, Listen: []routes.Listen{{Network: "tcp", Address: ":0"}}, TLS: routes.TLS{Mode: "off"}}
	site.KeepAliveTimeout, site.EncodedSlashes = time.Minute, true
	route.Pattern, route.Pool, route.MaxRequestBody = cmp.Or(route.Pattern, routes.Pattern{Kind: routes.Prefix, Text: "/"}), "edge", 8<<20
	site.Routes = []routes.Route{route}
	g := &proxyGate{log: newTestLog()}
	g.pool = mpm.NewPool(cfg, nil, mpm.WithLogger(g.log))
	c := &routes.Config{Gateway: routes.Gateway{SpoolDir: t.TempDir()}, Pools: []routes.Pool{cfg}, Sites: []routes.Site{site}}
	s := NewServer(c, map[string]*mpm.Pool{"edge": g.pool}, g.log, options...)
	t.Cleanup(func() {
		g.pool.Close()
		s.Close()
	})
	g.server = s
	return g, func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r)
		x.listener, x.local = "tcp :0", netip.MustParseAddrPort("127.0.0.1:80")
		s.ServeHTTP(w, r)
	}
}

func (g *proxyGate) ask(t testing.TB, r *http.Request) (*http.Response, string, error) {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func (g *proxyGate) request(t testing.TB, method, target string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.addr+target, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// free returns once no request holds a slot.
func (g *proxyGate) free(t testing.TB) {
	t.Helper()
	if err := g.pool.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// soon is a timeout that a test waits for, long enough for what comes before it on a busy machine, too. Who waits for it runs beside
// others.
const soon = 2 * time.Second

func serverOf(s *httptest.Server) routes.Upstream {
	return routes.Upstream{Network: "tcp", Address: s.Listener.Addr().String()}
}

// scripted is a server that reads one request head on each connection and then does as told.
func scripted(t testing.TB, answer func(net.Conn)) routes.Upstream {
	t.Helper()
	return listening(t, func(nc net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(nc)); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			answer(nc)
		}
	})
}

// listening is a server that does with each connection, one after the other, as told.
func listening(t testing.TB, serve func(net.Conn)) routes.Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			serve(nc)
			nc.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return routes.Upstream{Network: "tcp", Address: l.Addr().String()}
}

// conversing is a server that does with each request of a connection as told, as long as that says that another may follow.
func conversing(t testing.TB, answer func(net.Conn, *http.Request) (more bool)) routes.Upstream {
	t.Helper()
	return listening(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		for more := true; more; {
			r, err := http.ReadRequest(br)
			more = err == nil && answer(nc, r)
		}
	})
}

// counting is a server that answers with what it was asked for, and counts its connections.
func counting(t testing.TB) (to routes.Upstream, connections *atomic.Int32) {
	t.Helper()
	connections = new(atomic.Int32)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL) }))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return serverOf(server), connections
}

func TestProxyRequests(t *testing.T) {
	got := make(chan *http.Request, 1)
	bodies := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies <- string(b)
		got <- r
	}))
	defer server.Close()
	based := serverOf(server)
	based.Base = "/a b"
	plain, below := newProxyGate(t, routes.Pool{}, serverOf(server)), newProxyGate(t, routes.Pool{}, based)
	large := strings.Repeat("0123456789abcdef", 200<<10/16)
	for _, row := range []struct {
		name    string
		gate    *proxyGate
		request string
		uri     string
		body    string
		fields  map[string]string
	}{
		{"host, query and the spelling of the path stay", plain, "GET /a%20b/%41?q=%20&r HTTP/1.1\r\nHost: legacy.example:81\r\n\r\n", "/a%20b/%41?q=%20&r", "",
			map[string]string{"Host": "legacy.example:81", "X-Forwarded-Host": "legacy.example:81", "X-Forwarded-Proto": "http", "X-Forwarded-For": "127.0.0.1"}},
		{"so does an encoded slash", below, "GET /a%2fb%2Fc HTTP/1.1\r\nHost: x\r\n\r\n", "/a%20b/a%2fb%2Fc", "", nil},
		{"a path with dots is resolved", plain, "GET /a/../b/./c HTTP/1.1\r\nHost: x\r\n\r\n", "/b/c", "", nil},
		{"a base goes before the path", below, "GET /c%20d?e HTTP/1.1\r\nHost: x\r\n\r\n", "/a%20b/c%20d?e", "", nil},
		{"what a client says of itself is replaced", plain,
			"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n\r\n", "/", "",
			map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "x", "Forwarded": ""}},
		{"fields of the connection end here", plain,
			"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: 1\r\nProxy-Connection: 1\r\nTe: gzip\r\nUpgrade: h2c\r\nX-Kept: 1\r\n\r\n", "/", "",
			map[string]string{"X-Private": "", "Keep-Alive": "", "Proxy-Connection": "", "Te": "", "Upgrade": "", "Connection": "", "X-Kept": "1"}},
		{"a client that takes trailers is known to", plain, "GET / HTTP/1.1\r\nHost: x\r\nTe: trailers, gzip\r\nConnection: te\r\n\r\n", "/", "", map[string]string{"Te": "trailers"}},
		{"a chunked body gets a length", plain, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "/", "abcde",
			map[string]string{"Content-Length": "5", "Transfer-Encoding": ""}},
		{"a large body is whole", plain, fmt.Sprintf("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(large), large), "/", large, nil},
		{"a GET without a body says nothing of one", plain, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "/", "", map[string]string{"Content-Length": "", "Transfer-Encoding": ""}},
		{"so does an OPTIONS", plain, "OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n", "/", "", map[string]string{"Content-Length": "", "Transfer-Encoding": ""}},
		{"a POST without a body says so", plain, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "/", "", map[string]string{"Content-Length": "0", "Transfer-Encoding": ""}},
		{"names that could be taken for others end here", plain, "GET / HTTP/1.1\r\nHost: x\r\nX_User: a\r\nX.User: b\r\nX-User: c\r\nProxy: http://192.0.2.9\r\n\r\n", "/", "",
			map[string]string{"X_user": "", "X.user": "", "X-User": "c", "Proxy": ""}},
		{"a client may say that a request can be repeated", plain, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nIdempotency-Key: k\r\n\r\n", "/", "", map[string]string{"Idempotency-Key": "k"}},
		{"nobody goes on in h2c", plain, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket, H2C\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", "/", "",
			map[string]string{"Connection": "", "Upgrade": "", "Http2-Settings": ""}},
		{"nothing is said of a client without a name", plain, "GET / HTTP/1.0\r\n\r\n", "/", "", map[string]string{"User-Agent": "", "Accept-Encoding": "", "Host": "legacy.example"}},
	} {
		check := func(t *testing.T, answer string) {
			if !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") {
				t.Fatalf("the answer is %.300q", answer)
			}
			body, r := <-bodies, <-got
			if r.RequestURI != row.uri || body != row.body {
				t.Errorf("the server got %q and %d bytes, want %q and %d", r.RequestURI, len(body), row.uri, len(row.body))
			}
			r.Header.Set("Host", r.Host)
			if r.Header.Get("Transfer-Encoding") == "" {
				r.Header.Set("Transfer-Encoding", strings.Join(r.TransferEncoding, ","))
			}
			for name, want := range row.fields {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		}
		t.Run(row.name, func(t *testing.T) { check(t, raw(t, row.gate.addr, row.request, true)) })
		t.Run("from one who stays: "+row.name, func(t *testing.T) {
			nc, br := dialText(t, row.gate.addr, row.request)
			defer nc.Close()
			line, err := br.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			check(t, line)
		})
	}
}

func TestProxyResponses(t *testing.T) {
	say := func(text string) func(net.Conn) {
		return func(nc net.Conn) { _, _ = io.WriteString(nc, text) }
	}
	// hold writes and then waits for the gateway to give up.
	hold := func(text string) func(net.Conn) {
		return func(nc net.Conn) {
			_, _ = io.WriteString(nc, text)
			_, _ = io.Copy(io.Discard, nc)
		}
	}
	// forever says it until the gateway gives up, behind what comes before.
	forever := func(text string, before ...string) func(net.Conn) {
		return func(nc net.Conn) {
			_, err := io.WriteString(nc, strings.Join(before, ""))
			for err == nil {
				_, err = io.WriteString(nc, text)
			}
		}
	}
	for _, row := range []struct {
		name    string
		answer  func(net.Conn)
		timeout time.Duration
		status  int
		body    string
		cut     bool
		logged  string
	}{
		{"a body up to the end of the connection is whole", say("HTTP/1.0 200 OK\r\n\r\nabc"), 0, 200, "abc", false, ""},
		{"fields of the connection end here", say("HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: 1\r\nContent-Length: 3\r\n\r\nabc"), 0, 200, "abc", false, ""},
		{"an early hint comes before the answer", say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), 0, 200, "abc", false, ""},
		{"no HTTP", say("SSH-2.0-OpenSSH\r\n"), 0, 502, "502 Bad Gateway\n", false, "malformed HTTP"},
		{"no answer", say(""), 0, 502, "502 Bad Gateway\n", false, "no HTTP response"},
		{"half a head", say("HTTP/1.1 200 OK\r\nA: b"), 0, 502, "502 Bad Gateway\n", false, "unexpected EOF"},
		{"two lengths", say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), 0, 502, "502 Bad Gateway\n", false, "Content-Length"},
		{"a length and chunks", say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 0, 502, "502 Bad Gateway\n", false, "Content-Length with Transfer-Encoding"},
		{"a field that is split by a CR", say("HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: e=1\r\n\r\n"), 0, 502, "502 Bad Gateway\n", false, "CR without LF"},
		{"chunks with bare LF", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Accel-Buffering: no\r\n\r\n3\nabc\n0\n\n"), 0, 200, "", true, "cut off"},
		{"no body where a status has none", say("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc"), 0, 204, "", false, ""},
		{"a head without end", say("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", http1.MaxAnswerBytes) + "\r\n\r\n"), 0, 502, "502 Bad Gateway\n", false, "no HTTP response"},
		{"fields without end", forever("A: b\r\n", "HTTP/1.1 200 OK\r\n"), 0, 502, "502 Bad Gateway\n", false, "malformed HTTP"},
		{"a line without end", forever("aaaaaaaa", "HTTP/1.1 200 "), 0, 502, "502 Bad Gateway\n", false, "malformed HTTP"},
		{"zeros without end", forever("\x00\x00\x00\x00"), 0, 502, "502 Bad Gateway\n", false, "malformed HTTP"},
		{"an alert of TLS", say("\x15\x03\x01\x00\x02\x02\x46"), 0, 502, "502 Bad Gateway\n", false, "malformed HTTP"},
		{"a body that goes on and on", forever("abc", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), 0, 200, "abc", false, ""},
		{"a chunk longer than there can be", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Accel-Buffering: no\r\n\r\nfffffffffffffffff\r\nabc"), 0, 200, "", true, "cut off"},
		{"a trailer without end", forever("A: b\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Accel-Buffering: no\r\n\r\n3\r\nabc\r\n0\r\n"), 0, 200, "abc", true, "cut off"},
		{"a continuation that nobody waits for, without end", forever("HTTP/1.1 100 Continue\r\n\r\n"), 0, 502, "502 Bad Gateway\n", false, "too many informational"},
		{"early answers without end", forever("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), 0, 502, "502 Bad Gateway\n", false, "too many informational"},
		{"large early answers", forever("HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("a", 20<<10) + "\r\n\r\n"), 0, 502, "502 Bad Gateway\n", false, "too many informational"},
		{"status 000", say("HTTP/1.1 000 X\r\nContent-Length: 3\r\n\r\nabc"), 0, 502, "502 Bad Gateway\n", false, "status 000"},
		{"status 099", say("HTTP/1.1 099 X\r\nContent-Length: 3\r\n\r\nabc"), 0, 502, "502 Bad Gateway\n", false, "status 099"},
		{"status 600", say("HTTP/1.1 600 X\r\n\r\nabc"), 0, 502, "502 Bad Gateway\n", false, "status 600"},
		{"status 599 is the largest", say("HTTP/1.1 599 X\r\nContent-Length: 3\r\n\r\nabc"), 0, 599, "abc", false, ""},
		{"an upgrade that nobody asked for", say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), 0, 502, "502 Bad Gateway\n", false, "has not asked for"},
		{"a body that is cut", say("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("a", 80000)), 0, 200, "", true, "cut off"},
		{"chunks that are cut", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Accel-Buffering: no\r\n\r\n3\r\nabc\r\n"), 0, 200, "abc", true, "cut off"},
		{"no answer in time", hold(""), 100 * time.Millisecond, 504, "504 Gateway Timeout\n", false, "request_timeout"},
		{"no rest in time", hold("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("a", 80000)), soon, 200, "", true, "request_timeout"},
	} {
		check := func(t *testing.T, g *proxyGate) {
			resp, body, err := g.ask(t, g.request(t, "GET", "/", nil))
			if resp.StatusCode != row.status || (err != nil) != row.cut || row.body != "" && body != row.body {
				t.Errorf("the client got %d, %.40q, %v; want %d, %.40q, cut %t", resp.StatusCode, body, err, row.status, row.body, row.cut)
			}
			for _, name := range []string{"X-Private", "Keep-Alive", "X-Accel-Buffering"} {
				if got := resp.Header.Get(name); got != "" {
					t.Errorf("%s is %q, want none", name, got)
				}
			}
			g.free(t)
			if log := g.log.text(); !strings.Contains(log, row.logged) {
				t.Errorf("the log lacks %q:\n%s", row.logged, log)
			}
		}
		t.Run(row.name, func(t *testing.T) {
			check(t, newProxyGate(t, routes.Pool{RequestTimeout: row.timeout}, scripted(t, row.answer)))
		})
		t.Run("asked by the loop: "+row.name, func(t *testing.T) {
			g := newProxyGate(t, routes.Pool{RequestTimeout: row.timeout}, warm(t, row.answer))
			g.warm(t)
			check(t, g)
		})
	}
}

// warm is a server that does as told with the first request of a connection, but for one to /warm, which leaves it to the next.
func warm(t testing.TB, answer func(net.Conn)) routes.Upstream {
	t.Helper()
	return conversing(t, func(nc net.Conn, r *http.Request) (more bool) {
		if r.URL.Path != "/warm" {
			answer(nc)
			return false
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		return true
	})
}

// warm has a connection to the server wait for a request.
func (g *proxyGate) warm(t testing.TB) {
	t.Helper()
	if resp, _, err := g.ask(t, g.request(t, "GET", "/warm", nil)); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	eventually(t, "a connection that waits", func() bool { return g.server.Upstreams()[0].Connections.Idle == 1 })
}

// TestProxyConnections: which answers leave a connection that takes another request. The server counts how many it gets, and
// answers those on one connection alike.
func TestProxyConnections(t *testing.T) {
	const whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
	for _, row := range []struct {
		name, answer string
		want         int32
	}{
		{"a whole answer leaves one", whole, 1},
		{"so do chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 1},
		{"and HTTP/1.0 that wants to", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", 1},
		{"one with more than announced does not", whole + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 3},
		{"nor does one that says so", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", 3},
		{"nor a body behind a status that has none", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc", 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			var connections atomic.Int32
			g := newProxyGate(t, routes.Pool{}, scripted(t, func(nc net.Conn) {
				connections.Add(1)
				_, _ = io.WriteString(nc, row.answer)
				for br := bufio.NewReader(nc); ; { // the next ones
					if _, err := http.ReadRequest(br); err != nil {
						return
					}
					_, _ = io.WriteString(nc, row.answer)
				}
			}))
			for range 3 {
				resp, body, err := g.ask(t, g.request(t, "POST", "/", nil))
				if err != nil || resp.StatusCode == 200 && body != "abc" || resp.StatusCode > 304 {
					t.Errorf("the client got %d, %q, %v", resp.StatusCode, body, err)
				}
			}
			if got := connections.Load(); got != row.want {
				t.Errorf("there were %d connections, want %d", got, row.want)
			}
		})
	}
}

// TestProxyUnaskedAnswer: what a server says on a connection that waits for a request is nobody's answer.
func TestProxyUnaskedAnswer(t *testing.T) {
	goOn, said := make(chan struct{}), make(chan struct{})
	g := newProxyGate(t, routes.Pool{}, scripted(t, func(nc net.Conn) {
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
		<-goOn // the connection waits
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		said <- struct{}{}
		_, _ = io.Copy(io.Discard, nc)
	}))
	for range 2 {
		if _, body, err := g.ask(t, g.request(t, "POST", "/", nil)); body != "abc" || err != nil {
			t.Errorf("the client got %q, %v", body, err)
		}
		goOn <- struct{}{}
		<-said
	}
}

// TestProxyEarlyAnswer: a server may answer a large upload before it has read it, and then hang up.
func TestProxyEarlyAnswer(t *testing.T) {
	for _, hangsUp := range []bool{false, true} {
		t.Run(fmt.Sprintf("and hang up %t", hangsUp), func(t *testing.T) {
			answered := make(chan struct{})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(nc, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
				if !hangsUp {
					<-answered
				}
			}()
			g := newProxyGate(t, routes.Pool{}, routes.Upstream{Network: "tcp", Address: l.Addr().String()})
			resp, body, err := g.ask(t, g.request(t, "POST", "/", strings.NewReader(strings.Repeat("a", 7<<20))))
			if resp.StatusCode != 413 && resp.StatusCode != 502 || resp.StatusCode == 413 && body != "big" || err != nil {
				t.Errorf("the client got %d, %q, %v", resp.StatusCode, body, err)
			}
			close(answered)
			g.free(t)
			l.Close()
			<-done
		})
	}
}

// TestProxyAsksAgain has requests end the connection, which carried others before and as which there are more.
func TestProxyAsksAgain(t *testing.T) {
	const clients = 4
	for _, row := range []struct {
		name, method, body string
		fields             http.Header
		want               int32
	}{
		{"a GET is asked twice at most", "GET", "", nil, 2},
		{"so is one with a body", "GET", "body", nil, 2},
		{"a POST is asked once", "POST", "body", nil, 1},
		{"whatever its client says of it", "POST", "body", http.Header{"Idempotency-Key": {"k"}}, 1},
		{"without a body as well", "POST", "", http.Header{"X-Idempotency-Key": {"k"}}, 1},
		{"a DELETE is asked once", "DELETE", "", nil, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			var ended atomic.Int32
			var meeting sync.WaitGroup
			meeting.Add(clients)
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/end" {
					ended.Add(1)
					panic(http.ErrAbortHandler) // closes the connection
				}
				meeting.Done()
				meeting.Wait()
			}))
			defer server.Close()
			g := newProxyGate(t, routes.Pool{}, serverOf(server))
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() { g.ask(t, g.request(t, "GET", "/meet", nil)) })
			}
			wg.Wait()
			r := g.request(t, row.method, "/end", strings.NewReader(row.body))
			for name, values := range row.fields {
				r.Header[name] = values
			}
			if resp, _, err := g.ask(t, r); err != nil || resp.StatusCode != 502 {
				t.Errorf("the answer is %d, %v, want 502", resp.StatusCode, err)
			}
			if got := ended.Load(); got != row.want {
				t.Errorf("the server was asked %d times, want %d", got, row.want)
			}
		})
	}
}

func TestMayAskAgain(t *testing.T) {
	child, server := &routes.Route{}, &routes.Route{Proxy: &routes.Proxy{}}
	for _, row := range []struct {
		name           string
		route          *routes.Route
		method         string
		carried        bool
		sent, received bool
		before         bool
		err            error
		want           bool
	}{
		{"nothing was written on a connection that was kept", child, "POST", true, false, false, false, io.EOF, true},
		{"the same for the second time", child, "POST", true, false, false, true, io.EOF, true},
		{"nothing was written on a new one", child, "GET", false, false, false, false, io.EOF, false},
		{"a server may have ended an idle connection", server, "GET", true, true, false, false, io.EOF, true},
		{"but not twice", server, "GET", true, true, false, true, io.EOF, false},
		{"a new connection was not idle", server, "GET", false, true, false, false, io.EOF, false},
		{"a POST may have had its effect", server, "POST", true, true, false, false, io.EOF, false},
		{"a child has read it all", child, "GET", true, true, false, false, io.EOF, false},
		{"a child has not", child, "POST", true, true, false, false, unix.ECONNRESET, true},
		{"but not twice", child, "POST", true, true, false, true, unix.ECONNRESET, false},
		{"the server has begun to answer", server, "GET", true, true, true, false, io.EOF, false},
	} {
		c := &call{r: &http.Request{Method: row.method}, x: &exchange{routeState: routeState{route: row.route}}, body: &spooled{}}
		k := &serverConn{carried: row.carried, sent: row.sent, received: row.received}
		if got := c.mayAskAgain(k, row.err, row.before); got != row.want {
			t.Errorf("%s: mayAskAgain = %t, want %t", row.name, got, row.want)
		}
	}
}

// TestAskAgainAfterReset: a child that closes a connection without having read the request has not run it.
func TestAskAgainAfterReset(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // a request and a half, and another one
		for _, last := range []bool{false, true} {
			nc, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(nc))
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			if !last {
				awaitUnread(t, nc.(*net.UnixConn))
			}
			nc.Close()
		}
	})
	child := mpm.Child{PID: os.Getpid(), Socket: l.Addr().String()}
	var kept *serverConn
	for range 2 {
		c := &call{
			Server: &Server{applications: newApplications(&routes.Config{}, newTestLog())}, w: httptest.NewRecorder(), r: httptest.NewRequest("POST", "/", nil),
			x: &exchange{routeState: routeState{route: &routes.Route{}, path: "/"}}, body: &spooled{},
		}
		a, err := c.ask(&hold{client: t.Context(), body: c.body}, func() (*serverConn, error) {
			if k := kept; k != nil {
				kept = nil
				return k, nil
			}
			return connectHTTP(t.Context(), child)
		})
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		kept = a.conn
	}
	kept.Close()
	l.Close()
	wg.Wait()
}

// awaitUnread returns when something has come that is not read.
func awaitUnread(t testing.TB, nc *net.UnixConn) {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err != nil {
		t.Error(err)
	}
}

// TestProxyRefusesH2C: a server that goes on in h2c without being asked to gets no client.
func TestProxyRefusesH2C(t *testing.T) {
	g := newProxyGate(t, routes.Pool{}, scripted(t, func(nc net.Conn) {
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	}))
	if got := raw(t, g.addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", true); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
		t.Errorf("the answer is %.100q, want 502", got)
	}
}

// TestProxyTooSlowForClient has the server be too slow while the client takes nothing of what it has said: the slot is free then.
func TestProxyTooSlowForClient(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		go io.Copy(io.Discard, r.Body) // ends with the connection
		_ = control.Flush()
		_ = control.SetWriteDeadline(time.Now().Add(2 * time.Second))
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 1<<20))
		}
		close(stuck)
		_ = control.SetWriteDeadline(time.Time{})
		<-r.Context().Done()
	}))
	defer server.Close()
	g := newRouteGate(t, routes.Pool{RequestTimeout: soon}, routes.Route{Unbuffered: true, Proxy: &routes.Proxy{To: []routes.Upstream{serverOf(server)}}})
	nc, _ := dialText(t, g.addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"+strings.Repeat("a", 100<<10))
	<-stuck
	if _, err := io.WriteString(nc, "more"); err != nil { // of this on it should have said something
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := g.pool.Drain(ctx); err != nil {
		t.Errorf("the slot is still held: %v", err)
	}
}

// TestProxyEarlyAnswers: informational responses and trailers go on to a client that can take them.
func TestProxyEarlyAnswers(t *testing.T) {
	g := newProxyGate(t, routes.Pool{}, scripted(t, func(nc net.Conn) {
		_, _ = io.WriteString(nc, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"+
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nX-Late: 8\r\nSet-Cookie: a=b\r\n\r\n")
	}))
	var early []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(status int, fields textproto.MIMEHeader) error {
		early = append(early, fmt.Sprint(status, fields))
		return nil
	}}
	r := g.request(t, "GET", "/", nil)
	resp, body, err := g.ask(t, r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if got, want := strings.Join(early, " "), "100map[] 103map[Link:[</a>]]"; strings.ReplaceAll(got, " map", "map") != want {
		t.Errorf("early answers are %q, want %q", got, want)
	}
	if err != nil || body != "abc" || resp.Header.Get("Link") != "" {
		t.Errorf("the answer is %q, %v, %v", body, err, resp.Header)
	}
	if want := "map[X-Late:[8] X-Sum:[7]]"; fmt.Sprint(resp.Trailer) != want {
		t.Errorf("the trailer is %v, want %s", resp.Trailer, want)
	}
	old := raw(t, g.addr, "GET / HTTP/1.0\r\n\r\n", false)
	if !strings.HasPrefix(old, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(old, "\r\n\r\nabc") || strings.Contains(old, "railer") {
		t.Errorf("an HTTP/1.0 client gets %q", old)
	}
}

// TestProxyTrailerAfterAWhile: the head goes out while the rest of the body, and with it the trailer, is being read.
func TestProxyTrailerAfterAWhile(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "abc")
		w.(http.Flusher).Flush()
		time.Sleep(gatherTime)
		w.Header().Set("X-Sum", "7")
	}))
	defer server.Close()
	g := newProxyGate(t, routes.Pool{}, serverOf(server))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			resp, body, err := g.ask(t, g.request(t, "GET", "/", nil))
			if err != nil || body != "abc" || fmt.Sprint(resp.Trailer) != "map[X-Sum:[7]]" {
				t.Errorf("GET = %q, %v with the trailer %v", body, err, resp.Trailer)
			}
		})
	}
	wg.Wait()
}

func TestProxyTurns(t *testing.T) {
	name := func(name string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
		t.Cleanup(s.Close)
		return s
	}
	a, b, gone := name("a"), name("b"), name("gone")
	gone.Close()
	ask := func(t *testing.T, g *proxyGate, times int) string {
		var got strings.Builder
		for range times {
			resp, body, err := g.ask(t, g.request(t, "POST", "/", strings.NewReader("once")))
			if err != nil || resp.StatusCode != 200 {
				body = fmt.Sprint(resp.StatusCode)
			}
			got.WriteString(body)
		}
		return got.String()
	}
	t.Run("servers take turns", func(t *testing.T) {
		if got := ask(t, newProxyGate(t, routes.Pool{}, serverOf(a), serverOf(b)), 4); got != "abab" {
			t.Errorf("they answer %q, want abab", got)
		}
	})
	t.Run("one that takes no connection is passed over", func(t *testing.T) {
		g := newProxyGate(t, routes.Pool{}, serverOf(a), serverOf(gone))
		if got := ask(t, g, 4); got != "aaaa" {
			t.Errorf("they answer %q, want aaaa", got)
		}
		if got := strings.Count(g.log.text(), "is passed over"); got != 1 {
			t.Errorf("that is logged %d times, want once:\n%s", got, g.log.text())
		}
	})
	t.Run("none takes a connection", func(t *testing.T) {
		g := newProxyGate(t, routes.Pool{}, serverOf(gone))
		if got := ask(t, g, 1); got != "502" {
			t.Errorf("the answer is %q, want 502", got)
		}
		if log := g.log.text(); !strings.Contains(log, serverOf(gone).Address+": the application takes no connection: dial tcp") {
			t.Errorf("the log does not tell which server refused:\n%s", log)
		}
	})
	t.Run("a unix socket", func(t *testing.T) {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(a.Config.Handler)
		s.Listener = l
		s.Start()
		defer s.Close()
		if got := ask(t, newProxyGate(t, routes.Pool{}, routes.Upstream{Network: "unix", Address: l.Addr().String()}), 2); got != "aa" {
			t.Errorf("it answers %q, want aa", got)
		}
	})
}

// longLived is a server of conversations ("/echo") and event streams, which go on as its channel says.
func longLived(t testing.TB) (s *httptest.Server, goOn chan<- string, left <-chan struct{}) {
	t.Helper()
	events, ended := make(chan string), make(chan struct{}, 10)
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		switch r.URL.Path {
		case "/slow":
			_, _ = io.Copy(io.Discard, r.Body) // the end of the client shows behind it
			<-r.Context().Done()
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for {
				_ = http.NewResponseController(w).Flush() // the loop ends with the client
				select {
				case <-r.Context().Done():
					return
				case e := <-events:
					fmt.Fprintf(w, "data: %s\n\n", e)
				}
			}
		case "/echo":
			nc, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			fmt.Fprintf(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: yes\r\n\r\nwelcome", r.Header.Get("Upgrade"))
			_, _ = io.Copy(nc, rw)
		}
	}))
	t.Cleanup(s.Close)
	return s, events, ended
}

// outlive returns when a request that came now has run into request_timeout.
func (g *proxyGate) outlive(t testing.TB) {
	t.Helper()
	if resp, _, err := g.ask(t, g.request(t, "GET", "/slow", nil)); err != nil || resp.StatusCode != 504 {
		t.Errorf("a slow request gave %d, %v, want 504", resp.StatusCode, err)
	}
}

func TestProxyConversation(t *testing.T) {
	t.Parallel()
	s, _, left := longLived(t)
	g := newProxyGate(t, routes.Pool{RequestTimeout: soon}, serverOf(s))
	nc, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprint(nc, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n")
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-WebSocket-Accept") != "yes" {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
			t.Fatalf("the server says %q, %v; want %q", got, err, want)
		}
	}
	expect("welcome")
	g.outlive(t)
	<-left
	fmt.Fprint(nc, "still there?")
	expect("still there?")
	nc.Close()
	<-left
	g.free(t)
}

func TestProxyEventStream(t *testing.T) {
	t.Parallel()
	s, goOn, left := longLived(t)
	g := newProxyGate(t, routes.Pool{RequestTimeout: soon}, serverOf(s))
	nc, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprint(nc, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil) // before the first event
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	for _, event := range []string{"one", "two"} {
		goOn <- event
		if got, err := body.ReadString('\n'); err != nil || got != "data: "+event+"\n" {
			t.Fatalf("the event is %q, %v", got, err)
		}
		if _, err := body.Discard(1); err != nil {
			t.Fatal(err)
		}
		g.outlive(t)
		<-left
	}
	nc.Close() // while the server is silent
	<-left
	g.free(t)
}

// TestProxyClientGone: a server that has not answered yet learns that nobody waits.
func TestProxyClientGone(t *testing.T) {
	asked, left := make(chan struct{}), make(chan struct{})
	g := newProxyGate(t, routes.Pool{}, scripted(t, func(nc net.Conn) {
		close(asked)
		_, _ = io.Copy(io.Discard, nc)
		close(left)
	}))
	nc, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	nc.Close()
	<-left
	g.free(t)
}

// TestProxyThroughChildren: on a pool with processes a child connects, and nothing that a server does is its fault.
func TestProxyThroughChildren(t *testing.T) {
	s, goOn, left := longLived(t)
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, cfg := range []routes.Pool{
		{MPM: routes.Prefork, MaxRequestWorkers: 2}, {MPM: routes.Worker, ThreadsPerChild: 4, MaxRequestWorkers: 4, ServerLimit: 1},
	} {
		t.Run(string(cfg.MPM), func(t *testing.T) {
			cfg.RequestTimeout = time.Second
			to := func(prefix string, u routes.Upstream) routes.Route {
				return routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: prefix}, Proxy: &routes.Proxy{To: []routes.Upstream{u}}}
			}
			g := newGate(t, cfg, nil, to("/gone/", routes.Upstream{Network: "tcp", Address: gone.Listener.Addr().String()}), to("/", serverOf(s)))
			_, br := dialText(t, g.front(t), "GET /events HTTP/1.1\r\nHost: legacy.example\r\n\r\n")
			if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
				t.Fatalf("the answer is %v, %v; log:\n%s", resp, err, g.log.text())
			}
			for _, row := range []struct {
				method, target string
				status         int
			}{{"GET", "/slow", 504}, {"POST", "/gone/", 502}, {"POST", "/", 200}, {"POST", "/", 200}} {
				if resp, got := g.askOK(t, row.method, row.target, "body"); resp.StatusCode != row.status {
					t.Errorf("%s %s gave %d, %q, want %d; log:\n%s", row.method, row.target, resp.StatusCode, got, row.status, g.log.text())
				}
				if row.target != "/gone/" {
					<-left
				}
			}
			goOn <- "still there"
			if got, err := br.ReadString('\n'); err == nil && !strings.Contains(got, "data: still there") {
				got, err = br.ReadString('\n') // behind the length of the chunk
				if err != nil || got != "data: still there\n" {
					t.Errorf("the event is %q, %v", got, err)
				}
			}
			eventually(t, "only the slot of the stream is busy", func() bool { return g.pool.Status().Slots.Busy == 1 })
			if st := g.pool.Status(); st.Exits[mpm.ExitCrash]+st.Exits[mpm.ExitDeadline] != 0 {
				t.Errorf("exits %v, want none", st.Exits)
			}
		})
	}
}
