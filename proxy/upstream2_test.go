package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gateway/routes"
)

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
	g := newProxyGate(t, routes.Pool{RequestTimeout: 200 * time.Millisecond}, to)
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
	if resp, _, _ := g.ask(t, g.request(t, "GET", "/slow", nil)); resp.StatusCode != 504 {
		t.Errorf("a slow server gave %d, want 504", resp.StatusCode)
	}
	server.Close()
	if resp, _, _ := g.ask(t, g.request(t, "GET", "/", nil)); resp.StatusCode != 502 {
		t.Errorf("no server gave %d, want 502; log:\n%s", resp.StatusCode, g.log.text())
	}
	g.free(t)
}
