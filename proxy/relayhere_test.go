package proxy

import (
	"bufio"
	"context"
	stdtls "crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/proxy/http1"
	"gateway/routes"
)

// dialTLS opens a connection to a front.
func dialTLS(t testing.TB, front *secureFront) (*stdtls.Conn, *bufio.Reader) {
	t.Helper()
	c := stdtls.Client(front.dial(t), clientConfig)
	return c, bufio.NewReader(c)
}

// TestRelayHereBacksOff: answers of one server that can't be relayed do not keep those of another one from it.
func TestRelayHereBacksOff(t *testing.T) {
	var to []routes.Upstream
	for _, location := range []string{"/x", ""} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if location != "" {
				w.Header().Set("Location", location)
			}
			fmt.Fprint(w, "abc")
		}))
		defer server.Close()
		to = append(to, serverOf(server))
	}
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: to}})
	c, br := dialTLS(t, serveHTTPSOn(t, time.Minute, handler, g.server))
	for range 42 { // of which the first of each server opens a connection
		if resp, body := get(t, c, br, "GET", "/"); resp.StatusCode != 200 || body != "abc" {
			t.Fatal(resp.StatusCode, body)
		}
		eventually(t, "the end of the request", func() bool {
			return g.server.proxies[0].servers[0].active.Load()+g.server.proxies[0].servers[1].active.Load() == 0
		})
	}
	if bad, good := g.server.proxies[0].servers[0].relayed.Load(), g.server.proxies[0].servers[1].relayed.Load(); bad != 0 || good != 20 {
		t.Errorf("%d answers of the one and %d of the other server were relayed, want 0 and 20", bad, good)
	}
}

// TestRelayHereMaxConnections: a server that takes one request at once gets one connection, however many clients there are.
func TestRelayHereMaxConnections(t *testing.T) {
	to, connections := counting(t)
	to.MaxConnections = 1
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{to}}})
	front := serveHTTPSOn(t, time.Minute, handler, g.server)
	var clients sync.WaitGroup
	for range 4 {
		c, br := dialTLS(t, front)
		clients.Go(func() {
			for range 300 {
				fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != 200 && resp.StatusCode != 503 {
					t.Error(resp.StatusCode)
				}
			}
		})
	}
	clients.Wait()
	if n := connections.Load(); n != 1 {
		t.Errorf("the server got %d connections", n)
	}
	if g.upstream().relayed.Load() == 0 {
		t.Error("nothing was relayed")
	}
}

// TestRelayHereLargestAnswers: nothing is lost, and nothing is left for the next one, of answers that just fill the memory, or just don't.
func TestRelayHereLargestAnswers(t *testing.T) {
	t.Parallel()
	server := conversing(t, func(nc net.Conn, r *http.Request) (more bool) {
		size, err := strconv.Atoi(r.URL.Query().Get("size"))
		if err != nil {
			size = 300
		}
		body := strings.Repeat("a", size-200)
		var head, text string
		switch r.URL.Path {
		case "/chunks":
			head, text = "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		case "/head":
			head, text = "Content-Length: 3", "abc"
		default:
			head, text = fmt.Sprintf("Content-Length: %d", len(body)), body
		}
		head = "HTTP/1.1 200 OK\r\n" + head + "\r\nX-Fill: "
		_, _ = io.WriteString(nc, head+strings.Repeat("x", size-len(head)-len(text)-4)+"\r\n\r\n"+text)
		return true
	})
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{server}}})
	c, br := dialTLS(t, serveHTTPSOn(t, time.Minute, handler, g.server))
	get(t, c, br, "GET", "/length")
	for _, kind := range []string{"/chunks", "/length", "/head"} {
		for size := spoolMemory - 3; size <= spoolMemory+3; size++ {
			resp, body := get(t, c, br, "GET", fmt.Sprintf("%s?size=%d", kind, size))
			want := size - 200
			switch {
			case kind == "/head" && size-3 > http1.MaxAnswerBytes:
				if resp.StatusCode != 502 {
					t.Errorf("a head of %d bytes got %d", size-3, resp.StatusCode)
				}
			case kind == "/head":
				want = 3
				fallthrough
			default:
				if resp.StatusCode != 200 || len(body) != want {
					t.Errorf("%s of %d bytes got %d, %d bytes", kind, size, resp.StatusCode, len(body))
				}
			}
			for range 2 { // the second is relayed
				eventually(t, "the end of the request", func() bool { return g.upstream().active.Load() == 0 })
				if _, body := get(t, c, br, "GET", "/length"); body != strings.Repeat("a", 100) {
					t.Errorf("after %s of %d bytes the next one got %q", kind, size, body)
				}
			}
		}
	}
	if g.upstream().relayed.Load() == 0 {
		t.Error("nothing was relayed")
	}
	g.free(t)
}

// TestRelayHereClientGone: what has come of a client that has gone meanwhile is not asked for any more.
func TestRelayHereClientGone(t *testing.T) {
	const requests = 100
	asked, goOn := make(chan struct{}), make(chan struct{})
	var count atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/warm" && count.Add(1) == 1 {
			close(asked)
			<-goOn
		}
	}))
	defer server.Close()
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{serverOf(server)}}})
	front := serveHTTPSOn(t, time.Minute, handler, g.server)
	c, br := dialTLS(t, front)
	get(t, c, br, "GET", "/warm")
	eventually(t, "a connection that waits", func() bool { return g.server.Upstreams()[0].Connections == UpstreamConnections{Idle: 1} })
	fmt.Fprint(c, strings.Repeat("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", requests))
	<-asked
	nc := c.NetConn().(*net.TCPConn)
	if err := nc.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	time.Sleep(50 * time.Millisecond) // a reset that takes longer does not matter: there are many requests
	close(goOn)
	front.settles(t)
	if n := count.Load(); n == requests {
		t.Errorf("the server got all %d requests", n)
	}
	if g.upstream().relayed.Load() == 0 {
		t.Error("nothing was relayed")
	}
	g.free(t)
}

// TestRelayHereIsTheOrdinaryWay: over TLS, too, clients, servers, the log and the books can't tell how a request was passed on.
func TestRelayHereIsTheOrdinaryWay(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" {
			w.Header().Set(hstsField, "max-age=2")
		}
		var text strings.Builder
		for _, name := range slices.Sorted(slices.Values([]string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "User-Agent"})) {
			fmt.Fprintf(&text, "%s: %q\n", name, r.Header[name])
		}
		fmt.Fprint(w, r.Method, " ", r.Host, " ", r.RequestURI, "\n", text.String())
	}))
	defer server.Close()
	const host = " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\n"
	conversations := [][]string{
		{"GET /1" + host + "\r\n", "GET /2" + host + "\r\n", "GET /3" + host + "\r\n"},                                                                    // the third is the last that the site grants
		{"GET /1" + host + "\r\nHEAD /2" + host + "\r\nGET /3" + host + "\r\n"},                                                                           // a pipeline
		{"GET /own" + host + "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nConnection: close\r\n\r\n"},                                           // the client ends the connection
		{"GET /a" + host + "\r\n", "GET /b" + host + "Connection: close\r\n\r\n"},                                                                         // later
		{"GET /large?" + strings.Repeat("a", 5000) + host + strings.Repeat("Cookie: "+strings.Repeat("b", 5000)+"\r\n", 8) + "Connection: close\r\n\r\n"}, // heads that are larger than the first buffer
	}
	var texts []string
	for _, way := range []struct {
		timeout time.Duration
		relayed uint64
	}{{0, 10}, {time.Second, 0}} { // goroutines that relay do not watch so short a time
		path := filepath.Join(t.TempDir(), "log")
		access, err := NewAccessLog(routes.AccessLog{Path: path, Format: `%h %u "%r" %s %b "%{User-Agent}i" %v %{pool}x %P %{SSL_PROTOCOL}x`})
		if err != nil {
			t.Fatal(err)
		}
		g, handler := newRoute(t, routes.Pool{}, routes.Route{RequestTimeout: way.timeout, Proxy: &routes.Proxy{To: []routes.Upstream{serverOf(server)}}})
		site := g.server.table.Site("tcp :0", "localhost")
		site.TLS.HSTS, site.MaxKeepAlive = "max-age=1", 3
		front := serveHTTPSOn(t, time.Minute, handler, g.server, func(h *HTTP) { h.Access = access })
		front.get(t, clientConfig)
		eventually(t, "a connection that waits", func() bool { return g.server.Upstreams()[0].Connections == UpstreamConnections{Idle: 1} })
		text := ""
		for _, conversation := range conversations {
			c, br := dialTLS(t, front)
			for _, requests := range conversation {
				_, _ = io.WriteString(c, requests)
				for request := range strings.SplitAfterSeq(requests, "\r\n\r\n") {
					if request != "" {
						text += sorted(t, br, strings.HasPrefix(request, "HEAD")) + "\n"
					}
				}
				eventually(t, "the end of the requests", func() bool { return g.upstream().active.Load() == 0 })
			}
			if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
				t.Errorf("after its answers the client got %q, %v", rest, err)
			}
			_ = c.Close()
			front.settles(t)
		}
		for _, r := range g.server.Responses() {
			text += fmt.Sprintf("%s %d %v\n", r.Pool, r.Times.Count, r.Classes)
		}
		if err := access.Close(); err != nil {
			t.Error(err)
		}
		logged, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		texts = append(texts, text+string(logged))
		if got := g.upstream().relayed.Load(); got != way.relayed {
			t.Errorf("%d requests were relayed, want %d", got, way.relayed)
		}
	}
	if texts[0] != texts[1] {
		t.Errorf("relayed:\n%s\nin the ordinary way:\n%s", texts[0], texts[1])
	}
}

// TestRelayHereLeavesNoDeadline: who has the connection to the server afterwards waits for as long as it takes.
func TestRelayHereLeavesNoDeadline(t *testing.T) {
	t.Parallel()
	server := conversing(t, func(nc net.Conn, r *http.Request) (more bool) {
		switch {
		case r.Header.Get("Upgrade") != "":
			_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			time.Sleep(2 * relayTime)
			_, _ = io.WriteString(nc, "hello")
			return false
		case r.Method == "POST":
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
			time.Sleep(2 * relayTime)
			_, _ = io.WriteString(nc, "bc")
		default:
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
		}
		return true
	})
	g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{server}}})
	c, br := dialTLS(t, serveHTTPSOn(t, time.Minute, handler, g.server))
	for i, method := range []string{"GET", "GET", "POST", "GET"} {
		if resp, body := get(t, c, br, method, "/", "Content-Length: 0", ""); resp.StatusCode != 200 || body != "abc" {
			t.Fatalf("request %d got %d, %q", i, resp.StatusCode, body)
		}
		eventually(t, "a connection that waits", func() bool { return g.server.Upstreams()[0].Connections == UpstreamConnections{Idle: 1} })
	}
	if got := g.upstream().relayed.Load(); got != 2 {
		t.Errorf("%d requests were relayed, want 2", got)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	if got, err := io.ReadAll(br); string(got) != "hello" {
		t.Errorf("the server was heard to say %q, %v", got, err)
	}
	g.free(t)
}

// TestRelayHereEnds: a request in progress gets its answer when the engine drains, and ends with it; what was its own is given back.
func TestRelayHereEnds(t *testing.T) {
	t.Parallel()
	for _, drains := range []bool{true, false} {
		t.Run(fmt.Sprintf("drains %t", drains), func(t *testing.T) {
			t.Parallel()
			asked, goOn := make(chan struct{}), make(chan struct{})
			g, handler := newRoute(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{warm(t, func(nc net.Conn) {
				close(asked)
				<-goOn
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
			})}}})
			front := serveHTTPSOn(t, time.Minute, handler, g.server)
			c, br := dialTLS(t, front)
			get(t, c, br, "GET", "/warm")
			eventually(t, "a connection that waits", func() bool { return g.server.Upstreams()[0].Connections == UpstreamConnections{Idle: 1} })
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			<-asked
			ended := make(chan error, 1)
			if drains {
				go func() { ended <- front.engine.Drain(context.Background()) }()
				eventually(t, "draining", front.engine.Draining)
				close(goOn)
			} else {
				defer close(goOn)
				go func() { ended <- front.engine.Close() }()
			}
			resp, err := http.ReadResponse(br, nil)
			if drains != (err == nil && resp.StatusCode == 200 && resp.Close) {
				t.Error(resp, err)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if got, want := g.upstream().relayed.Load() == 1, drains; got != want {
				t.Errorf("the answer was relayed: %t, want %t", got, want)
			}
			g.free(t)
			if st := g.server.Upstreams()[0].Connections; st.Active != 0 {
				t.Errorf("the server has %d requests", st.Active)
			}
		})
	}
}
