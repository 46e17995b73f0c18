package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gateway/proxy/http1"
	"gateway/routes"
)

// TestProxyHTTP2LongFields: a long field of the client leaves room for the others, and for what the gateway says.
func TestProxyHTTP2LongFields(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Long-") {
				n += len(r.Header[name][0])
			}
		}
		fmt.Fprint(w, n, r.Header["X-Short"], r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"])
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	to := serverOf(server)
	to.HTTP2 = true
	g := newProxyGate(t, routes.Pool{}, to)
	nc, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	long := strings.Repeat("a", http1.MaxFieldBytes-len("X-Long-1:")) // without a space
	fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: a\r\nX-Long-1:%[1]s\r\nX-Long-2:%[1]s\r\nX-Long-3:%[1]s\r\nX-Short: 1\r\nConnection: close\r\n\r\n", long)
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	want := fmt.Sprint(3*len(long)) + " [1] [127.0.0.1] [http]"
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
		t.Errorf("the server got %q, %v; want %q", body, err, want)
	}
}

// TestProxyHTTP2 has a server that speaks HTTP/2 without TLS answer.
func TestProxyHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cut":
			_, _ = io.WriteString(w, strings.Repeat("a", 100<<10))
			panic(http.ErrAbortHandler)
		case "/slow":
			<-r.Context().Done()
		}
		b, _ := io.ReadAll(r.Body)
		_ = http.NewResponseController(w).Flush() // the length is not known
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		fmt.Fprint(w, r.Proto, r.Method, " ", r.Host, r.RequestURI, " ", len(b), r.Header["X-Forwarded-For"], r.Header["Te"], r.Header["X-Hop"])
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	to := serverOf(server)
	to.HTTP2 = true
	sick := &upstream{Upstream: to, proxy: &routes.Proxy{}}
	if err := sick.check(t.Context(), &routes.Health{URI: "/", Timeout: time.Minute}); err != nil {
		t.Errorf("the health check gives %v", err)
	}
	if err := sick.check(t.Context(), &routes.Health{URI: "/", Timeout: time.Minute, Status: 204}); fmt.Sprint(err) != "status 200" {
		t.Errorf("the health check gives %v, want status 200", err)
	}
	g := newProxyGate(t, routes.Pool{}, to)
	for _, row := range []struct{ method, body, want string }{
		{"GET", "", "HTTP/2.0GET legacy.example/a%20b?c 0 [127.0.0.1] [trailers] []"},
		{"POST", strings.Repeat("a", 300<<10), "HTTP/2.0POST legacy.example/a%20b?c 307200 [127.0.0.1] [trailers] []"},
	} {
		r := g.request(t, row.method, "/a%20b?c", strings.NewReader(row.body))
		r.Host = "legacy.example"
		r.Header.Set("Te", "trailers")
		r.Header.Set("Connection", "X-Hop, Te")
		r.Header.Set("X-Hop", "1")
		resp, body, err := g.ask(t, r)
		if err != nil || body != row.want || resp.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%s gave %q, %v with the trailer %v; want %q", row.method, body, err, resp.Trailer, row.want)
		}
	}
	if _, _, err := g.ask(t, g.request(t, "GET", "/cut", nil)); err == nil {
		t.Error("a response that ends early has a clean end")
	}
	hasty := newProxyGate(t, routes.Pool{RequestTimeout: 200 * time.Millisecond}, to)
	if resp, _, _ := hasty.ask(t, hasty.request(t, "GET", "/slow", nil)); resp.StatusCode != 504 {
		t.Errorf("a slow server gave %d, want 504", resp.StatusCode)
	}
	hasty.free(t)
	server.Close()
	if resp, _, _ := g.ask(t, g.request(t, "GET", "/", nil)); resp.StatusCode != 502 {
		t.Errorf("no server gave %d, want 502; log:\n%s", resp.StatusCode, g.log.text())
	}
	g.free(t)
}

// TestProxyHTTP2Faults: what a server does wrong that is to speak HTTP/2 costs its own request, and says so.
func TestProxyHTTP2Faults(t *testing.T) {
	// frames answers the first request with what it writes.
	frames := func(write func(*http2.Framer, []byte)) func(net.Conn) {
		return func(nc net.Conn) {
			_, _ = io.ReadFull(nc, make([]byte, len(http2.ClientPreface)))
			f := http2.NewFramer(nc, nc)
			_ = f.WriteSettings()
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					return
				}
				if _, ok := frame.(*http2.HeadersFrame); ok {
					var head bytes.Buffer
					e := hpack.NewEncoder(&head)
					_ = e.WriteField(hpack.HeaderField{Name: ":status", Value: "200"}) // to memory
					_ = e.WriteField(hpack.HeaderField{Name: "content-length", Value: "3"})
					write(f, head.Bytes())
				}
			}
		}
	}
	head := func(f *http2.Framer, b []byte) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b, EndHeaders: true})
	}
	for _, row := range []struct {
		name   string
		answer func(net.Conn)
		status int
		cut    bool
	}{
		{"HTTP/1.1", func(nc net.Conn) { _, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") }, 502, false},
		{"nothing", func(net.Conn) {}, 502, false},
		{"a refusal", frames(func(f *http2.Framer, _ []byte) { _ = f.WriteRSTStream(1, http2.ErrCodeRefusedStream) }), 502, false},
		{"a farewell", frames(func(f *http2.Framer, _ []byte) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }), 502, false},
		{"data before a head", frames(func(f *http2.Framer, _ []byte) { _ = f.WriteData(1, true, []byte("abc")) }), 502, false},
		{"a head without end", frames(func(f *http2.Framer, b []byte) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b})
			for f.WriteContinuation(1, false, nil) == nil {
			}
		}), 504, false},
		{"less than announced", frames(func(f *http2.Framer, b []byte) { head(f, b); _ = f.WriteData(1, true, []byte("ab")) }), 200, true},
		{"more than announced", frames(func(f *http2.Framer, b []byte) { head(f, b); _ = f.WriteData(1, true, []byte("abcdef")) }), 200, false},
		{"a reset in the middle", frames(func(f *http2.Framer, b []byte) { head(f, b); _ = f.WriteRSTStream(1, http2.ErrCodeInternal) }), 200, true},
		{"a window that overflows", frames(func(f *http2.Framer, _ []byte) { _ = f.WriteWindowUpdate(1, 1<<31-1) }), 502, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			to := listening(t, row.answer)
			to.HTTP2 = true
			timeout := time.Minute
			if row.status == 504 {
				timeout = 500 * time.Millisecond
			}
			g := newRouteGate(t, routes.Pool{RequestTimeout: timeout}, routes.Route{Unbuffered: true, Proxy: &routes.Proxy{To: []routes.Upstream{to}, KeepAliveTimeout: 100 * time.Millisecond}})
			resp, body, err := g.ask(t, g.request(t, "GET", "/", nil))
			if resp.StatusCode != row.status || (err != nil) != row.cut {
				t.Errorf("the client got %d, %q, %v; want %d, cut %t; log:\n%s", resp.StatusCode, body, err, row.status, row.cut, g.log.text())
			}
			g.free(t)
		})
	}
}

// TestProxyHTTP2Frozen: a connection on which a server has fallen silent gets no more requests.
func TestProxyHTTP2Frozen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	frozen := make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		for first := true; ; first = false {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			if first {
				serving.Go(func() { <-frozen; _ = nc.Close() }) // as one whose machine has gone
				continue
			}
			serving.Go(func() {
				new(http2.Server).ServeConn(nc, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(frozen)
		serving.Wait()
	})
	to := routes.Upstream{Network: "tcp", Address: l.Addr().String(), HTTP2: true}
	g := newProxyGate(t, routes.Pool{RequestTimeout: silence + soon}, to)
	for _, want := range []int{504, 200, 200} {
		if resp, _, err := g.ask(t, g.request(t, "GET", "/", nil)); err != nil || resp.StatusCode != want {
			t.Errorf("the answer is %v, %v; want %d", resp, err, want)
		}
	}
	g.free(t)
}
