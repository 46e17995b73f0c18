package proxy

import (
	"context"
	stdtls "crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/routes"
	"gateway/tls"
)

// encryptWith has package tls speak TLS to servers that an authority has certified; empty: it is the system's.
func encryptWith(t testing.TB, terms routes.ClientTLS, files tls.ClientFiles) Option {
	t.Helper()
	client, err := tls.NewClient(&terms, files)
	if err != nil {
		t.Fatal(err)
	}
	return WithEncrypt(func(ctx context.Context, _ *routes.Proxy, to *routes.Upstream, nc net.Conn) (net.Conn, error) {
		return client.Handshake(ctx, nc, to.Address, to.HTTP2)
	})
}

// tlsServer is a server with TLS, as a route knows it, and the certificate of its authority. Its own is for 127.0.0.1 and example.com.
func tlsServer(t testing.TB, handler http.HandlerFunc, http2 bool, change func(*stdtls.Config)) (to routes.Upstream, files tls.ClientFiles) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = http2
	s.TLS = new(stdtls.Config)
	if change != nil {
		change(s.TLS)
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	to = serverOf(s)
	to.TLS, to.HTTP2 = true, http2
	return to, tls.ClientFiles{CARoots: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

var trusting = routes.ClientTLS{CARoot: "given"}

// TestProxyTLS has a server with TLS answer: over one connection, over others that resume its session, and asked how it is.
func TestProxyTLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %t", http2), func(t *testing.T) {
			var connections sync.Map // by their addresses
			var resumed atomic.Int32
			to, files := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
				if _, known := connections.LoadOrStore(r.RemoteAddr, nil); !known && r.TLS.DidResume {
					resumed.Add(1)
				}
				b, _ := io.ReadAll(r.Body)
				if r.URL.Path == "/close" {
					w.Header().Set("Connection", "close")
				}
				fmt.Fprint(w, r.Proto, r.Method, " ", r.Host, r.RequestURI, " ", len(b), r.Header["X-Forwarded-Proto"])
			}, http2, nil)
			with := encryptWith(t, trusting, files)
			g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{to}, ResponseTimeout: time.Minute}}, with)
			proto := "HTTP/1.1"
			if http2 {
				proto = "HTTP/2.0"
			}
			for _, row := range []struct{ method, target, body string }{
				{"GET", "/a?b", ""}, {"POST", "/", strings.Repeat("a", 300<<10)}, {"POST", "/", "short"}, {"GET", "/close", ""}, {"GET", "/", ""},
			} {
				resp, body, err := g.ask(t, g.request(t, row.method, row.target, strings.NewReader(row.body)))
				if want := fmt.Sprintf("%s%s %s%s %d [http]", proto, row.method, g.addr, row.target, len(row.body)); err != nil || body != want {
					t.Fatalf("%s %s gave %d %q, %v; want %q; log:\n%s", row.method, row.target, resp.StatusCode, body, err, want, g.log.text())
				}
			}
			n := 0
			connections.Range(func(any, any) bool { n++; return true })
			if again := resumed.Load(); n != 2 || again != 1 {
				t.Errorf("5 requests took %d connections, of which %d resumed a session; want 2 and 1", n, again)
			}
			var s Server
			with(&s)
			sick := &upstream{Upstream: to, proxy: &routes.Proxy{}, secure: s.encrypt}
			if err := sick.check(t.Context(), &routes.Health{URI: "/", Timeout: time.Minute}); err != nil {
				t.Errorf("the health check gives %v", err)
			}
			g.free(t)
		})
	}
}

// TestProxyTLSFailures: a server that is not the one that was meant gets no request, and the log says why.
func TestProxyTLSFailures(t *testing.T) {
	for _, row := range []struct {
		name   string
		terms  routes.ClientTLS
		http2  bool // the server is to speak it, and does not
		change func(*stdtls.Config)
		status int
		logged string
	}{
		{"of an unknown authority", routes.ClientTLS{}, false, nil, 502, "tls { ca }"},
		{"with another name", routes.ClientTLS{CARoot: "given", ServerName: "other.example"}, false, nil, 502, "not other.example: tls { server_name }"},
		{"with another name that is known", routes.ClientTLS{CARoot: "given", ServerName: "example.com"}, false, nil, 200, ""},
		{"that is not looked at", routes.ClientTLS{Insecure: true}, false, nil, 200, ""},
		{"without HTTP/2", trusting, true, nil, 502, "no application protocol"},
		{"that chooses no protocol", trusting, true, func(c *stdtls.Config) { c.NextProtos = []string{} }, 502, "does not choose HTTP/2"},
		{"of old TLS", trusting, false, func(c *stdtls.Config) { c.MinVersion, c.MaxVersion = stdtls.VersionTLS11, stdtls.VersionTLS11 }, 502, "protocol version"},
		{"that wants a certificate", trusting, false, func(c *stdtls.Config) { c.ClientAuth = stdtls.RequireAnyClientCert }, 502, "certificate required"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var asked atomic.Bool
			to, files := tlsServer(t, func(http.ResponseWriter, *http.Request) { asked.Store(true) }, false, row.change)
			to.HTTP2 = row.http2
			g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: &routes.Proxy{To: []routes.Upstream{to}}}, encryptWith(t, row.terms, files))
			resp, _, err := g.ask(t, g.request(t, "GET", "/", nil))
			if err != nil || resp.StatusCode != row.status || asked.Load() != (row.status == 200) {
				t.Errorf("the client got %d, %v, and the server was asked %t; want %d", resp.StatusCode, err, asked.Load(), row.status)
			}
			g.free(t)
			if log := g.log.text(); !strings.Contains(log, row.logged) {
				t.Errorf("the log lacks %q:\n%s", row.logged, log)
			}
		})
	}
}

// TestProxyTLSTimeout: a handshake is a part of the connection, and its time counts.
func TestProxyTLSTimeout(t *testing.T) {
	for _, row := range []struct {
		name, says string
		timeout    time.Duration
		status     int
		logged     string
	}{
		{"a server that says nothing", "", 100 * time.Millisecond, 504, "context deadline exceeded"},
		{"a server without TLS", "SSH-2.0-OpenSSH_9\r\n", time.Minute, 502, "does not speak TLS"},
	} {
		t.Run(row.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			done := make(chan struct{})
			go func() { // ends with the listener
				defer close(done)
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(nc, row.says)
					_, _ = io.Copy(io.Discard, nc)
					nc.Close()
				}
			}()
			to := routes.Upstream{Network: "tcp", Address: l.Addr().String(), TLS: true}
			p := &routes.Proxy{To: []routes.Upstream{to}, ConnectTimeout: row.timeout}
			g := newRouteGate(t, routes.Pool{}, routes.Route{Proxy: p}, encryptWith(t, routes.ClientTLS{}, tls.ClientFiles{}))
			if resp, _, err := g.ask(t, g.request(t, "GET", "/", nil)); err != nil || resp.StatusCode != row.status {
				t.Errorf("the client got %d, %v; want %d", resp.StatusCode, err, row.status)
			}
			g.free(t)
			if log := g.log.text(); !strings.Contains(log, row.logged) {
				t.Errorf("the log lacks %q:\n%s", row.logged, log)
			}
			l.Close()
			<-done
		})
	}
}
