package proxy

import (
	"bufio"
	stdtls "crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
	"gateway/tls"
)

const hotRequestHead = "GET /a.html HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"

// BenchmarkHotAnswer is what the loop does between the two system calls of a request for a hot file of 1 KiB: below 2 us, 0 allocs/op.
func BenchmarkHotAnswer(b *testing.B) {
	addr, _, s := hotSite(b, map[string]string{"a.html": strings.Repeat("x", 1024)})
	access, err := NewAccessLog(routes.AccessLog{Path: os.DevNull, Format: "combined"})
	if err != nil {
		b.Fatal(err)
	}
	defer access.Close()
	h := &HTTP{Server: s, Address: "tcp " + addr, Access: access}
	age(b)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	get(b, c, bufio.NewReader(c), "GET", "/a.html")
	var head http1.Head
	var entry LogEntry
	now := time.Now() // it stands still: the file stays hot
	request, out := []byte(hotRequestHead), make([]byte, 0, 4<<10)
	remote := netip.MustParseAddrPort("198.51.100.7:5000")
	b.ReportAllocs()
	for b.Loop() {
		if n, err := head.Parse(request); n != len(request) || err != nil {
			b.Fatal(n, err)
		}
		a, ok := h.hot(&head, nil, now)
		if !ok {
			b.Fatal("the file is not hot")
		}
		out = a.append(out[:0], false, &h.date, now)
		entry.setHot(remote, &head, &a, now)
		access.Log(&entry)
	}
}

// BenchmarkHotTLSRequest is a request for a hot file over a TLS session and back, with the client's half of the cryptography.
func BenchmarkHotTLSRequest(b *testing.B) {
	c := stdtls.Client(secureHotSite(b), &stdtls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	defer c.Close()
	r := bufio.NewReader(c)
	age(b)
	if resp, _ := get(b, c, r, "GET", "/a.html"); resp.StatusCode != http.StatusOK {
		b.Fatal(resp.Status)
	}
	var answer strings.Builder
	r.Reset(io.TeeReader(c, &answer))
	get(b, c, r, "GET", "/a.html", "User-Agent: bench\r\nAccept: */*\r\n")
	request, buffer := []byte(hotRequestHead), make([]byte, answer.Len()) // the next answers are as long
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buffer); err != nil {
			b.Fatal(err)
		}
	}
}

// secureHotSite serves a.html over TLS, as the program does, and returns a connection to it.
func secureHotSite(b *testing.B) net.Conn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	address := ln.Addr().String()
	key := "tcp " + address
	s, _ := routedFolder(b, `
site "localhost" {
  listen = ["`+address+` tls"]
  root   = "{root}"
  tls {
    mode = "internal"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`, map[string]string{"a.html": strings.Repeat("x", 1024)})
	certs, err := tls.New(b.TempDir(), []tls.Site{{Of: s.table.Site(key, "localhost"), Names: []string{"localhost"}, Mode: tls.Internal, Addresses: []string{key}}}, func(string, string, ...any) {})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(certs.Close)
	e, err := event.New(event.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() }) // before the server's folders close
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		b.Fatal(err)
	}
	log := zap.NewNop().Sugar()
	h := &HTTP{
		Handler: http.Handler(s), Server: s, Address: key, Log: log, Hello: tls.Hello, Handshakes: NewHandshakes(log),
		Local: func(*event.Conn) netip.AddrPort { return netip.AddrPort{} },
		Secure: func(c *event.Conn) *SecureConn {
			return NewSecureConn(c, func(raw net.Conn) Secure { return certs.Server(key, raw) })
		},
	}
	if err := e.Listen(f, event.Listener{Protocol: h, Raw: true, Address: key}); err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// BenchmarkPHPRequest is a request for a script and back, on a connection that is kept: what the front does for it, php-cgi being
// another process. user-us/op is the processor time of the front alone, system calls left out, and the client's little.
func BenchmarkPHPRequest(b *testing.B) {
	g := newGate(b, phpPool(b), map[string]string{"www/hello.php": `<?php header("Content-Type: text/plain"); echo "hello world\n";`})
	e, err := event.New(event.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		b.Fatal(err)
	}
	h := &HTTP{Handler: g.handler, Server: g.handler, Address: "tcp :80", Log: zap.NewNop().Sugar(), Local: func(*event.Conn) netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:80") }}
	if err := e.Listen(f, event.Listener{Protocol: h, Address: "tcp :80"}); err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request, buf := []byte("GET /hello.php HTTP/1.1\r\nHost: legacy.example\r\n\r\n"), make([]byte, 4096)
	var before, after unix.Rusage
	b.ReportAllocs()
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	for b.Loop() {
		c.Write(request)
		if n, err := c.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
			b.Fatal(string(buf[:n]), err)
		}
	}
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano())/float64(b.N)/1000, "user-us/op")
}
