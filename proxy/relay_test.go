package proxy

import (
	"bufio"
	"bytes"
	"context"
	stdtls "crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/routes"
)

// upstream is the one server of a gate.
func (g *proxyGate) upstream() *upstream { return g.server.proxies[0].servers[0] }

// onLoops waits until so many connections of loops wait for a request.
func (g *proxyGate) onLoops(t testing.TB, n int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d connections that wait on loops", n), func() bool { return g.upstream().idleOnLoops.Load() == n })
}

// TestRelayedRequests: the loop asks over a connection that a goroutine has opened, and keeps it.
func TestRelayedRequests(t *testing.T) {
	server, connections := counting(t)
	g := newProxyGate(t, routes.Pool{}, server)
	g.warm(t)
	nc, br := dialText(t, g.addr, "")
	for i := range 20 {
		target := fmt.Sprintf("/%d?q=%d", i, i)
		if resp, body := get(t, nc, br, "GET", target); resp.StatusCode != 200 || body != target {
			t.Fatalf("%s got %d, %q", target, resp.StatusCode, body)
		}
		g.onLoops(t, 1)
	}
	status := g.server.Upstreams()[0]
	if connections.Load() != 1 || status.Requests != 21 || status.Relayed != 20 || status.Connections != (UpstreamConnections{Idle: 1}) {
		t.Errorf("%d connections, status %+v", connections.Load(), status)
	}
	if st := g.pool.Status(); st.Requests.Total != 21 || st.Requests.Failed != 0 {
		t.Errorf("the pool has served %+v", st.Requests)
	}
	eventually(t, "21 responses in the books", func() bool { // that of a goroutine comes after the response
		counted := uint64(0)
		for _, r := range g.server.Responses() {
			counted += r.Times.Count
		}
		return counted == 21
	})
}

// TestRelayRoutes: what a route has that a goroutine has to see to.
func TestRelayRoutes(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "abc") }))
	defer server.Close()
	to := "proxy { to = [\"http://" + server.Listener.Addr().String() + "\"] }"
	for _, row := range []struct {
		name, pattern, more string
		want                bool
	}{
		{"nothing", "/*", "", true},
		{"a time limit that goroutines watch in time", "/*", `request_timeout = "3s"`, true},
		{"a shorter one", "/*", `request_timeout = "2s"`, false},
		{"a field of the response", "/*", "header {\n set = { \"X-A\" = \"b\" }\n}", false},
		{"a field of the request", "/*", "request_header {\n set = { \"X-A\" = \"b\" }\n}", false},
		{"a prefix to cut off", "/a/*", `strip_prefix = true`, false},
		{"a rate limit", "/*", "rate_limit {\n rate = \"1000r/s\"\n burst = 100\n}", false},
		{"addresses that are let in", "/*", `allow = ["127.0.0.1"]`, false},
		{"compression", "/*", "compress {}", false},
		{"pieces that go out as they come", "/*", "buffer = false", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			addr, _, s := engineSite(t, "route \""+row.pattern+"\" {\n pool = \"edge\"\n"+row.more+"\n"+to+"\n}", nil, nil)
			nc, br := dialText(t, addr, "")
			tries := 0
			eventually(t, "an answer of the loop, or several of goroutines", func() bool { // a goroutine has the next request, too, if that is quick
				time.Sleep(time.Millisecond)
				if resp, body := get(t, nc, br, "GET", "/a/b"); resp.StatusCode != 200 || body != "abc" {
					t.Fatal(resp.StatusCode, body)
				}
				tries++
				return s.Upstreams()[0].Relayed > 0 || !row.want && tries == 10
			})
			if got := s.Upstreams()[0].Relayed > 0; got != row.want {
				t.Errorf("the loop has passed one on: %t, want %t", got, row.want)
			}
		})
	}
}

// TestRelayRoutesOfServers: which servers, sites and pools the loop leaves to goroutines.
func TestRelayRoutesOfServers(t *testing.T) {
	const plain = `to = ["http://127.0.0.1:1", "http://127.0.0.1:2"]`
	for _, row := range []struct {
		name, site, route, proxy string
		want                     bool
	}{
		{"two servers in turn", "", "", plain, true},
		{"the one with the fewest connections", "", "", plain + "\n balance = \"least_connections\"", true},
		{"a server by a hash", "", "", plain + "\n balance = \"hash:uri\"", false},
		{"TLS", "", "", `to = ["https://127.0.0.1:1"]`, false},
		{"HTTP/2", "", "", `to = ["h2c://127.0.0.1:1"]`, false},
		{"a path of the server", "", "", `to = ["http://127.0.0.1:1/base"]`, false},
		{"the PROXY protocol", "", "", plain + "\n proxy_protocol = \"v1\"", false},
		{"a time limit of its own for the answer", "", "", plain + "\n response_timeout = \"2s\"", false},
		{"one for its pieces", "", "", plain + "\n idle_timeout = \"2s\"", false},
		{"error pages of the site", "error_page \"404\" {\n path = \"/e\"\n}", "", plain, false},
		{"fields of the site", "header {\n set = { \"X-A\" = \"b\" }\n}", "", plain, false},
		{"rewrites of the site", "rewrite \"^/old/(.*)$\" {\n to = \"/$1\"\n}", "", plain, false},
		{"a rate limit of the site", "rate_limit {\n rate = \"1r/s\"\n}", "", plain, false},
		{"a path that is only for redirects", "", "internal = true", plain, false},
		{"a pool that tells of its queue", "", "pool = \"timed\"", plain, false},
		{"a pool that looks at sessions", "", "pool = \"limited\"", plain, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !strings.Contains(row.route, "pool") {
				row.route += "\n pool = \"edge\""
			}
			s, _ := routedFolder(t, "pool \"limited\" {\n mpm = \"event\"\n session_limit {\n cookie = \"s\"\n}\n}\npool \"timed\" {\n mpm = \"event\"\n queue {\n header = true\n}\n}\nsite \"localhost\" {\n listen = [\":80\"]\n"+row.site+"\nroute \"/*\" {\n"+
				row.route+"\n proxy {\n"+row.proxy+"\n}\n}\n}", nil)
			if got := len(s.relayRoutes) > 0; got != row.want {
				t.Errorf("the loop passes on what comes for the route: %t, want %t", got, row.want)
			}
		})
	}
}

// TestRelayedAnswersAreTheOrdinaryOnes asks the same of a server by the loop, by a goroutine that relays, and in the ordinary way.
func TestRelayedAnswersAreTheOrdinaryOnes(t *testing.T) {
	const date = "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n"
	for _, row := range []struct {
		name, request, answer string
		relayed               bool
	}{
		{"a length", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\nServer: s\r\nETag: \"a\"\r\n\r\nabc", true},
		{"chunks", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n", true},
		{"chunks without content", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true},
		{"a trailer", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", false},
		{"an error", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 503 Busy\r\n" + date + "Retry-After: 1\r\nContent-Length: 3\r\n\r\nabc", true},
		{"an unknown status", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 599\r\n" + date + "Content-Length: 0\r\n\r\n", true},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\n", true},
		{"HEAD without length", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "\r\n", true},
		{"HEAD of nothing", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 0\r\n\r\n", true},
		{"HEAD of chunks", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n", true},
		{"304", "GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"a\"\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n" + date + "ETag: \"a\"\r\n\r\n", true},
		{"304 with a length", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n" + date + "Content-Length: 3\r\n\r\n", true},
		{"204", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 204 No Content\r\n" + date + "\r\n", true},
		{"205 with a body", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 205 Reset Content\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"an empty body", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 0\r\n\r\n", true},
		{"a client that ends the connection", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", true},
		{"a server that ends the connection", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Connection: close\r\nContent-Length: 3\r\n\r\nabc", true},
		{"a body up to the end of the connection", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Connection: close\r\n\r\nabc", false},
		{"fields of the connection", "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nContent-Length: 3\r\n\r\nabc", true},
		{"named fields of the connection", "GET / HTTP/1.1\r\nHost: x\r\nConnection: X-P\r\nX-P: 1\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Connection: X-Q\r\nX-Q: 1\r\nContent-Length: 3\r\n\r\nabc", false},
		{"such fields of the server", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Connection: X-Q\r\nX-Q: 1\r\nContent-Length: 3\r\n\r\nabc", false},
		{"an Upgrade that is only offered", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Upgrade: h2c\r\nContent-Length: 3\r\n\r\nabc", false},
		{"names in small letters", "GET / HTTP/1.1\r\nhost: x\r\nuser-agent: a\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "content-type: text/plain\r\nset-cookie: a=b; Path=/\r\nset-cookie: c=d\r\ncontent-length: 3\r\n\r\nabc", true},
		{"a cookie for a domain", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Set-Cookie: a=b; Domain=127.0.0.1; Path=/\r\nContent-Length: 3\r\n\r\nabc", false},
		{"a redirect to the server's own name", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 302 Found\r\n" + date + "Location: http://{server}/a\r\nContent-Length: 0\r\n\r\n", false},
		{"an early hint", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"a large body", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 300000\r\n\r\n" + strings.Repeat("0123456789", 30000), false},
		{"a body that just fits", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 60000\r\n\r\n" + strings.Repeat("0123456789", 6000), true},
		{"large chunks", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("a\r\n0123456789\r\n", 10000) + "0\r\n\r\n", false},
		{"an event stream", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Type: text/event-stream\r\nContent-Length: 3\r\n\r\nabc", false},
		{"a path that is spelled otherwise", "GET /a%41 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"a target with a host", "GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"more than the answer", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabcdef", false},
		{"a method with effects", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"one who takes a trailer", "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"an upgrade", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 3\r\n\r\nabc", false},
		{"a word of the server for the gateway", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "X-Accel-Buffering: no\r\nContent-Length: 3\r\n\r\nabc", false},
		{"what is said of where the answer is", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Location: http://{server}/a\r\nContent-Length: 3\r\n\r\nabc", false},
		{"no answer", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			requests := make(chan string, 8)
			var address string
			to := warm(t, func(nc net.Conn) { _, _ = io.WriteString(nc, strings.ReplaceAll(row.answer, "{server}", address)) })
			address = to.Address
			to = recorded(t, to, requests)
			var answers, asked []string
			for _, way := range []struct {
				name    string
				before  string // a request that comes with the other one
				timeout time.Duration
				relayed bool
			}{
				{"the loop", "", 0, row.relayed},
				{"the goroutine that has the connection", "POST /warm HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 0, row.relayed},
				{"the ordinary way", "", time.Second, false}, // which alone watches so short a time
			} {
				g := newRouteGate(t, routes.Pool{}, routes.Route{RequestTimeout: way.timeout, Proxy: &routes.Proxy{To: []routes.Upstream{to}}})
				g.warm(t)
				<-requests
				nc, br := dialText(t, g.addr, way.before+row.request)
				_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
				if way.before != "" {
					sorted(t, br, false)
					<-requests
				}
				answers = append(answers, sorted(t, br, strings.HasPrefix(row.request, "HEAD")))
				asked = append(asked, <-requests)
				eventually(t, "the end of the request", func() bool { return g.upstream().active.Load() == 0 })
				if got := g.upstream().relayed.Load() == 1; got != way.relayed {
					t.Errorf("%s has relayed it: %t, want %t", way.name, got, way.relayed)
				}
				if answers[0] != answers[len(answers)-1] {
					t.Errorf("the loop gives\n%.600s\n%s\n%.600s", answers[0], way.name, answers[len(answers)-1])
				}
				if asked[0] != asked[len(asked)-1] {
					t.Errorf("the loop asks\n%s\n%s\n%s", asked[0], way.name, asked[len(asked)-1])
				}
			}
		})
	}
}

// recorded is a server before another one, that tells of the head of each request with its fields sorted, and leaves its connection to that.
func recorded(t testing.TB, to routes.Upstream, requests chan<- string) routes.Upstream {
	t.Helper()
	return listening(t, func(nc net.Conn) {
		behind, err := net.Dial(to.Network, to.Address)
		if err != nil {
			t.Error(err)
			return
		}
		defer behind.Close()
		go func() {
			defer nc.Close()
			_, _ = io.Copy(nc, behind)
		}()
		for br := bufio.NewReader(nc); ; {
			var lines []string
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
				lines = append(lines, line)
			}
			slices.Sort(lines[1:])
			_, _ = io.WriteString(behind, strings.Join(lines, "")+"\r\n")
			requests <- strings.Join(lines, "")
		}
	})
}

// sorted is a response with its fields sorted, as it came otherwise.
func sorted(t testing.TB, br *bufio.Reader, isHead bool) string {
	t.Helper()
	method := "GET"
	if isHead {
		method = "HEAD"
	}
	for text := ""; ; {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		text += fmt.Sprintf("%s %d %v %v\n", resp.Proto, resp.ContentLength, resp.TransferEncoding, err)
		text += resp.Status + fmt.Sprintf(" close %t\n", resp.Close)
		for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
			if name == "Date" && len(resp.Header[name]) == 1 {
				continue // one of the gateway's own
			}
			text += fmt.Sprintf("%s: %q\n", name, resp.Header[name])
		}
		text += fmt.Sprintf("trailer %v\n%.80q %d", resp.Trailer, body, len(body))
		if resp.StatusCode >= 200 {
			return text
		}
	}
}

// TestRelayOfSlowServer: a goroutine goes on where the loop has asked, with what is left of the time.
func TestRelayOfSlowServer(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	g := newRouteGate(t, routes.Pool{}, routes.Route{RequestTimeout: 4 * time.Second, Proxy: &routes.Proxy{To: []routes.Upstream{warm(t, func(nc net.Conn) {
		connections.Add(1)
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
		time.Sleep(3 * time.Second)
		_, _ = io.WriteString(nc, "def")
		_, _ = http.ReadRequest(bufio.NewReader(nc))
		_, _ = io.Copy(io.Discard, nc) // silent, until the gateway has enough
	})}}})
	g.warm(t)
	nc, br := dialText(t, g.addr, "")
	if resp, body := get(t, nc, br, "GET", "/"); resp.StatusCode != 200 || body != "abcdef" {
		t.Errorf("the client got %d, %q", resp.StatusCode, body)
	}
	began := time.Now()
	resp, _ := get(t, nc, br, "GET", "/")
	if took := time.Since(began); resp.StatusCode != 504 || took < 3900*time.Millisecond || took > 30*time.Second {
		t.Errorf("the client got %d after %s", resp.StatusCode, took)
	}
	if connections.Load() != 1 {
		t.Errorf("the server was asked on %d connections", connections.Load())
	}
	g.free(t)
}

// TestRelayedClientGone: the server is told, and the slot is free.
func TestRelayedClientGone(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"by a reset": func(nc *net.TCPConn) error { return nc.SetLinger(0) },
		"by an end":  func(*net.TCPConn) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			asked, left := make(chan struct{}), make(chan struct{})
			g := newProxyGate(t, routes.Pool{}, warm(t, func(nc net.Conn) {
				close(asked)
				_, _ = io.Copy(io.Discard, nc)
				close(left)
			}))
			g.warm(t)
			nc, _ := dialText(t, g.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			<-asked
			if err := leave(nc.(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
			nc.Close()
			<-left
			g.free(t)
		})
	}
}

// TestRelayedPipeline: requests that have come at once are answered in their order.
func TestRelayedPipeline(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL) }))
	defer server.Close()
	g := newProxyGate(t, routes.Pool{}, serverOf(server))
	g.warm(t)
	text := ""
	for i := range 50 {
		text += fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
	}
	half := len(text)/2 + 7
	nc, br := dialText(t, g.addr, text[:half])
	time.Sleep(20 * time.Millisecond) // any time is right
	_, _ = io.WriteString(nc, text[half:])
	for i := range 50 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != fmt.Sprintf("/%d", i) || err != nil {
			t.Errorf("the %d-th answer is %q, %v", i, body, err)
		}
	}
}

// TestRelayAsksAgain: a server that ends a connection instead of answering gets the request on another one.
func TestRelayAsksAgain(t *testing.T) {
	var connections atomic.Int32
	g := newProxyGate(t, routes.Pool{}, warm(t, func(nc net.Conn) {
		if connections.Add(1) > 1 {
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
		}
	}))
	g.warm(t)
	nc, br := dialText(t, g.addr, "")
	if resp, body := get(t, nc, br, "GET", "/"); resp.StatusCode != 200 || body != "abc" || connections.Load() != 2 {
		t.Errorf("the client got %d, %q, from the %d-th connection", resp.StatusCode, body, connections.Load())
	}
	g.free(t)
}

// TestRelayBacksOff: after answers that were not for it the loop leaves some requests to goroutines, and more each time.
func TestRelayBacksOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			w.Header().Set("Location", "/x")
		}
		fmt.Fprint(w, "abc")
	}))
	defer server.Close()
	g := newProxyGate(t, routes.Pool{}, serverOf(server))
	g.warm(t)
	nc, br := dialText(t, g.addr, "")
	for i, row := range []struct {
		target  string
		relayed uint64 // all so far
	}{
		{"/", 1}, {"/redirect", 1}, {"/", 1}, {"/", 2}, // one is left out
		{"/redirect", 2}, {"/", 2}, {"/redirect", 2}, {"/", 2}, {"/", 2}, {"/", 2}, {"/", 3}, // one, and then three
		{"/redirect", 3}, {"/", 3}, {"/", 4}, // an answer that the loop has passed on makes good
	} {
		if resp, body := get(t, nc, br, "GET", row.target); resp.StatusCode != 200 || body != "abc" {
			t.Fatalf("request %d got %d, %q", i, resp.StatusCode, body)
		}
		eventually(t, "a connection that waits, and a client that is parked", func() bool {
			return g.server.Upstreams()[0].Connections == UpstreamConnections{Idle: 1} && g.engine.Stats().Active == 0
		})
		if got := g.upstream().relayed.Load(); got != row.relayed {
			t.Errorf("after request %d the loop has passed on %d, want %d", i, got, row.relayed)
		}
	}
	r := &relay{home: &loopRelays{}}
	for _, want := range []int{1, 3, 7, 15, 31, 63, 63} {
		if r.home.backoff.increase(); r.home.backoff.skip != want {
			t.Errorf("%d requests are not relayed, want %d", r.home.backoff.skip, want)
		}
	}
}

// TestRelayUnaskedAnswer: a connection on which the server says something unasked is closed, and so is one that has waited for too long.
func TestRelayUnaskedAnswer(t *testing.T) {
	say := make(chan struct{})
	server := conversing(t, func(nc net.Conn, r *http.Request) (more bool) {
		fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.URL.Path), r.URL.Path)
		if r.URL.Path == "/evil" {
			<-say
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		}
		return true
	})
	g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{server}, KeepAliveTimeout: time.Second}})
	g.warm(t)
	nc, br := dialText(t, g.addr, "")
	for _, path := range []string{"/evil", "/good"} {
		if resp, body := get(t, nc, br, "GET", path); resp.StatusCode != 200 || body != path {
			t.Errorf("%s got %d, %q", path, resp.StatusCode, body)
		}
		if path == "/evil" {
			g.onLoops(t, 1)
			close(say)
			g.onLoops(t, 0)
		}
	}
	eventually(t, "an answer of the loop", func() bool {
		if resp, body := get(t, nc, br, "GET", "/good"); resp.StatusCode != 200 || body != "/good" {
			t.Fatalf("got %d, %q", resp.StatusCode, body)
		}
		return g.upstream().idleOnLoops.Load() == 1
	})
	g.onLoops(t, 0)
}

// TestRelayIdleTimeout: a connection that has waited for its time carries no more requests, even if the loop has not closed it yet.
func TestRelayIdleTimeout(t *testing.T) {
	server, connections := counting(t)
	const patience = 20 * time.Millisecond
	g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{server}, KeepAliveTimeout: patience}})
	nc, br := dialText(t, g.addr, "")
	eventually(t, "an answer of the loop", func() bool {
		get(t, nc, br, "GET", "/")
		return g.upstream().idleOnLoops.Load() == 1
	})
	had := connections.Load()
	time.Sleep(2 * patience)
	if get(t, nc, br, "GET", "/"); connections.Load() != had+1 {
		t.Error("the request came over the connection that had waited for too long")
	}
}

// TestRelayEndsWithEngine: requests in progress end with the engine, and what was theirs is given back.
func TestRelayEndsWithEngine(t *testing.T) {
	asked := make(chan struct{})
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{warm(t, func(nc net.Conn) {
		close(asked)
		_, _ = io.Copy(io.Discard, nc)
	})}}})
	var e *event.Engine
	g.addr, e = serveOn(t, handler, g.server)
	g.warm(t)
	nc, br := dialText(t, g.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("there was an answer")
	}
	nc.Close()
	g.free(t)
}

// TestRelayDrains: a request in progress gets its answer, and its client is told that it was the last.
func TestRelayDrains(t *testing.T) { drainAround(t, 0) }

// TestRelayDrainsSlowServer: so does one that the loop leaves to a goroutine meanwhile.
func TestRelayDrainsSlowServer(t *testing.T) {
	t.Parallel()
	drainAround(t, 2500*time.Millisecond) // longer than the loop holds a client
}

// drainAround has the engine drain while a server has a request, which it answers so much later.
func drainAround(t *testing.T, later time.Duration) {
	t.Helper()
	asked, goOn := make(chan struct{}), make(chan struct{})
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{warm(t, func(nc net.Conn) {
		close(asked)
		<-goOn
		time.Sleep(later)
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
	})}}})
	var e *event.Engine
	g.addr, e = serveOn(t, handler, g.server)
	g.warm(t)
	_, br := dialText(t, g.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	drained := make(chan error, 1)
	go func() { drained <- e.Drain(context.Background()) }()
	eventually(t, "draining", e.Draining)
	close(goOn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Error(resp, err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestRelayBesideHandler: what a handler before the server answers itself is not for the loop, or for the next request.
func TestRelayBesideHandler(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" {
			w.Header().Set("Location", "/") // the loop leaves it to a goroutine
		}
		fmt.Fprint(w, "the server: "+r.URL.Path)
	}))
	defer server.Close()
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{serverOf(server)}}})
	g.addr, _ = serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" || strings.HasPrefix(r.URL.Path, challengePath+"/") {
			fmt.Fprint(w, "the handler: "+r.URL.Path)
			return
		}
		handler(w, r)
	}, g.server)
	for path, want := range map[string]string{"/own": "the handler: /own", challengePath + "/x": "the handler: " + challengePath + "/x"} {
		g.warm(t)
		_, br := dialText(t, g.addr, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n")
		for _, want := range []string{want, "the server: /next"} {
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); string(body) != want || err != nil {
				t.Errorf("the client got %q, %v, want %q", body, err, want)
			}
		}
	}
	g.free(t)
	if n := g.upstream().active.Load(); n != 0 {
		t.Errorf("the server has %d requests", n)
	}
}

// TestRelayOverTLS: a goroutine relays what comes over TLS, and leaves to the ordinary way what a loop does.
func TestRelayOverTLS(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 30000))
		case "/slow":
			time.Sleep(2500 * time.Millisecond)
			fmt.Fprint(w, "slow")
		case "/silent":
			<-r.Context().Done()
			close(silent)
		case "/cut":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("abc"))
			panic(http.ErrAbortHandler)
		case "/none":
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"), " ", r.URL)
		}
	}))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{serverOf(server)}}})
	site := g.server.table.Site("tcp :0", "localhost")
	site.TLS.HSTS = "max-age=1"
	front := serveHTTPSOn(t, time.Minute, handler, g.server)
	c := stdtls.Client(front.dial(t), clientConfig)
	defer c.Close()
	br := bufio.NewReader(c)
	for i := range 10 {
		target := fmt.Sprintf("/%d?a", i)
		resp, body := get(t, c, br, "GET", target)
		if resp.StatusCode != 200 || body != "https "+target || resp.Header.Get(hstsField) != "max-age=1" {
			t.Errorf("the client got %d, %q, %v", resp.StatusCode, body, resp.Header)
		}
	}
	if got := g.upstream().relayed.Load(); got != 9 { // the first has opened the connection
		t.Errorf("%d requests were relayed, want 9", got)
	}
	for _, row := range []struct {
		target string
		status int
		length int
	}{
		{"/large", 200, 300000}, {"/a", 200, len("https /a")}, {"/none", 502, len("502 Bad Gateway\n")}, {"/b", 200, len("https /b")}, {"/slow", 200, len("slow")}, {"/c", 200, len("https /c")},
	} {
		resp, body := get(t, c, br, "GET", row.target)
		if resp.StatusCode != row.status || len(body) != row.length {
			t.Errorf("%s got %d, %d bytes, want %d, %d", row.target, resp.StatusCode, len(body), row.status, row.length)
		}
	}
	fmt.Fprint(c, "GET /cut HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if resp, err := http.ReadResponse(br, nil); err == nil {
		if _, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode == 200 {
			t.Error("an answer that was cut is whole")
		}
	}
	gone := stdtls.Client(front.dial(t), clientConfig)
	fmt.Fprint(gone, "GET /silent HTTP/1.1\r\nHost: localhost\r\n\r\n")
	eventually(t, "a request in progress", func() bool { return g.upstream().active.Load() == 1 })
	gone.Close()
	select {
	case <-silent: // the server hears of the end, not at once
	case <-time.After(20 * time.Second):
		t.Error("the server was not told that the client has gone")
	}
	g.free(t)
}

// TestRelayMixesNothing has many clients, of whom some leave early, ask for answers of all kinds at once: each gets its own.
func TestRelayMixesNothing(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		switch n % 7 {
		case 0:
			w.Header().Set("Connection", "close")
		case 1:
			w.(http.Flusher).Flush() // chunks
		case 2:
			time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
		case 3:
			w.Header().Set("Location", "/x")
		}
		_, _ = w.Write(bytes.Repeat([]byte(r.URL.Query().Get("n")+";"), 1+n%4000))
	}))
	defer server.Close()
	g := newProxyGate(t, routes.Pool{MaxRequestWorkers: 64}, serverOf(server))
	var clients sync.WaitGroup
	for c := range 24 {
		clients.Go(func() {
			var nc net.Conn
			var br *bufio.Reader
			for i := range 60 {
				if nc == nil {
					nc, br = dialText(t, g.addr, "")
				}
				n := c*100 + i
				fmt.Fprintf(nc, "GET /?n=%d HTTP/1.1\r\nHost: x\r\n\r\n", n)
				if rand.IntN(10) == 0 {
					time.Sleep(time.Duration(rand.IntN(2)) * time.Millisecond)
					nc.Close()
					nc = nil
					continue
				}
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Error(n, err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				if want := bytes.Repeat([]byte(fmt.Sprintf("%d;", n)), 1+n%4000); err != nil || resp.StatusCode != 200 || !bytes.Equal(body, want) {
					t.Errorf("%d got %d, %d bytes, %.40q, want %d; %v", n, resp.StatusCode, len(body), body, len(want), err)
				}
				if resp.Close {
					nc.Close()
					nc = nil
				}
			}
		})
	}
	clients.Wait()
	eventually(t, "the end of all requests", func() bool { return g.upstream().active.Load() == 0 })
	g.free(t)
}

// BenchmarkRelay is what the loop does for a request that it passes on, and for the answer, beside the system calls: no allocation.
func BenchmarkRelay(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "abc") }))
	defer server.Close()
	g := newProxyGate(b, routes.Pool{}, serverOf(server))
	g.warm(b)
	h := &HTTP{Server: g.server, Address: "tcp :0"}
	s := h.scratch()
	request := []byte("GET /a/b?c=d HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\nCookie: a=b\r\n\r\n")
	answer := []byte("HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\nabc")
	r := &relay{server: g.upstream(), http: h, slot: &mpm.Slot{}, method: "GET"}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		if n, err := s.head.Parse(request); n != len(request) || err != nil {
			b.Fatal(n, err)
		}
		if g.server.relayRouteOf(g.server.table.Site("tcp :0", "localhost"), &s.head) == nil {
			b.Fatal("no route")
		}
		s.out = r.appendRequest(s.out[:0], &s.head, netip.MustParseAddrPort("127.0.0.1:5000"))
		r.head.Reset()
		n, err := r.head.Parse(answer)
		if err != nil || !r.isSimple() {
			b.Fatal(n, err)
		}
		length, _, _ := r.measure(answer[n:], 1<<16)
		out = r.appendBody(r.appendHead(out[:0], length), answer[n:])
	}
}

// TestRelayRoutesKnowEveryAttribute: who adds one has to say what it means for requests that no goroutine looks at.
func TestRelayRoutesKnowEveryAttribute(t *testing.T) {
	for _, row := range []struct {
		of    any
		known string // checked by newRelayRoute or for each request, or of no concern
	}{
		{routes.Site{}, "Names Listen Root Symlinks Index KeepAliveTimeout MaxKeepAlive MaxRequestBody EncodedSlashes TLS Rewrites Headers RequestHeaders ErrorPages RateLimits Compress Routes"},
		{routes.Route{}, "Pattern Methods Pool Root StripPrefix Rewrites Headers RequestHeaders ErrorPages RateLimits Access RequestTimeout TryFiles Symlinks MaxRequestBody Unbuffered Compress SendFile Static CGI Proxy FastCGI Redirect Respond Internal Line"},
		{routes.Proxy{}, "To Balance Key Retry MaxFails FailTimeout ConnectTimeout ResponseTimeout IdleTimeout KeepAlive KeepAliveTimeout Resolve ProxyProtocol Health TLS"},
		{routes.Upstream{}, "Network Address Base Host TLS HTTP2 Weight Backup MaxConnections"},
		{routes.Listen{}, "Network Address TLS Proxied H2C"},
		{routes.TLS{}, "Mode Certificates ACME MinVersion ClientAuth Redirect HSTS"},
		{routes.Queue{}, "Length Timeout Header"},
	} {
		known := strings.Fields(row.known)
		for _, f := range reflect.VisibleFields(reflect.TypeOf(row.of)) {
			if !slices.Contains(known, f.Name) {
				t.Errorf("%T.%s is new: see in newRelayRoute to what it means there, then name it here", row.of, f.Name)
			}
		}
	}
}
