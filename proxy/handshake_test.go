package proxy

import (
	"bytes"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"gateway/mpm/event"
	"gateway/tls"
)

// secureFront is an engine with one TLS listener.
type secureFront struct {
	addr       string
	engine     *event.Engine
	handshakes *Handshakes
	log        *observer.ObservedLogs
}

func serveHTTPS(t testing.TB, timeout time.Duration) *secureFront {
	t.Helper()
	return serveHTTPSOn(t, timeout, echo, nil)
}

// serveHTTPSOn is serveHTTPS with a handler, and perhaps a server that answers without it, too.
func serveHTTPSOn(t testing.TB, timeout time.Duration, handler http.HandlerFunc, server *Server, options ...func(*HTTP)) *secureFront {
	t.Helper()
	core, log := observer.New(zap.WarnLevel)
	s := &secureFront{log: log, handshakes: NewHandshakes(zap.New(core).Sugar())}
	site := tls.Site{Names: []string{"localhost"}, Mode: tls.Internal, Addresses: []string{"tcp :0"}}
	if server != nil {
		site.Of = server.table.Site("tcp :0", "localhost")
	}
	certs, err := tls.New(t.TempDir(), []tls.Site{site},
		func(string, string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(certs.Close)
	if s.engine, err = event.New(event.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.engine.Close() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	h := &HTTP{
		Handler: handler, Server: server, Address: "tcp :0", Log: zap.NewNop().Sugar(), Hello: tls.Hello, Handshakes: s.handshakes,
		Local: func(*event.Conn) netip.AddrPort { return netip.AddrPort{} },
		Secure: func(c *event.Conn) *SecureConn {
			return NewSecureConn(c, func(raw net.Conn) Secure { return certs.Server("tcp :0", raw) })
		},
	}
	for _, option := range options {
		option(h)
	}
	s.addr = ln.Addr().String()
	if err := s.engine.Listen(f, event.Listener{Protocol: h, Raw: true, Address: "tcp :0", HeadTimeout: timeout}); err != nil {
		t.Fatal(err)
	}
	return s
}

var clientConfig = &stdtls.Config{InsecureSkipVerify: true, ServerName: "localhost"}

func (s *secureFront) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// get makes a request on a TLS connection of its own.
func (s *secureFront) get(t testing.TB, config *stdtls.Config) string {
	t.Helper()
	c := stdtls.Client(s.dial(t), config)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("real client: %v after %q", err, got)
	}
	return string(got)
}

// settles waits until the front has no connection left.
func (s *secureFront) settles(t testing.TB) {
	t.Helper()
	eventually(t, "every connection ends", func() bool { return s.engine.Stats().Open == 0 })
	if n := len(s.handshakes.computing); n != 0 {
		t.Errorf("%d handshakes compute after the last connection, want none", n)
	}
	if n := s.half(); n != 0 {
		t.Errorf("%d handshakes wait after the last connection, want none", n)
	}
}

func (s *secureFront) half() int {
	s.handshakes.mu.Lock()
	defer s.handshakes.mu.Unlock()
	return s.handshakes.waiting.Len()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s until %s", what)
		}
	}
}

// clientHello is the first record of a client.
func clientHello(t testing.TB) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() { // ends when far closes
		stdtls.Client(near, clientConfig).Handshake()
		near.Close()
	}()
	defer far.Close()
	header := make([]byte, 5)
	if _, err := io.ReadFull(far, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

func descriptorCount(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestBadTLSEndsItsConnectionOnly(t *testing.T) {
	s := serveHTTPS(t, 0)
	hello := clientHello(t)
	s.get(t, clientConfig)
	s.settles(t)
	descriptors := descriptorCount(t)
	rows := []struct {
		name  string
		bytes string
		leave bool   // the client closes; else the front has to
		want  string // in what the client gets
	}{
		{"a client that says nothing and leaves", "", true, ""},
		{"zeros", strings.Repeat("\x00", 64), false, ""},
		{"plain HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", false, "begin the URL with https://"},
		{"an SSL 2 hello", "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", false, ""},
		{"an alert as the first record", "\x15\x03\x01\x00\x02\x02\x28", false, ""},
		{"a record that is larger than any may be", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 1000), false, ""},
		{"an empty handshake record", "\x16\x03\x01\x00\x00", true, ""},
		{"a hello of nonsense", "\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff", false, "\x15\x03"},
		{"a handshake message that is larger than any may be", "\x16\x03\x01\x00\x04\x01\xff\xff\xff", false, "\x15\x03"},
		{"half a hello, and the client leaves", string(hello[:len(hello)/2]), true, ""},
		{"a hello, and the client leaves", string(hello), true, "\x16\x03"},
		{"a hello and another one", string(hello) + string(hello), false, "\x16\x03"},
		{"a hello and garbage", string(hello) + strings.Repeat("\x17\x03\x03\x00\x10garbage garbage!", 20), false, "\x16\x03"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := s.dial(t)
			io.WriteString(c, row.bytes)
			if row.leave {
				c.(*net.TCPConn).CloseWrite()
			}
			got, err := io.ReadAll(c)
			if err != nil && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("after %.40q the connection stays open: %v", row.bytes, err)
			}
			if !bytes.Contains(got, []byte(row.want)) {
				t.Errorf("answer to %.40q = %.80q, want %q in it", row.bytes, got, row.want)
			}
			c.Close()
			s.settles(t)
			if got := s.get(t, clientConfig); !strings.Contains(got, "200 OK") {
				t.Errorf("the next client gets %q, want 200", got)
			}
		})
	}
	s.settles(t)
	eventually(t, "its descriptors are closed", func() bool { return descriptorCount(t) <= descriptors })
}

func TestBadRecordsAfterTheHandshake(t *testing.T) {
	s := serveHTTPS(t, 0)
	rows := []struct{ name, bytes string }{
		{"a record that does not decrypt", "\x17\x03\x03\x00\x20" + strings.Repeat("x", 32)},
		{"a record that is larger than any may be", "\x17\x03\x03\xff\xff" + strings.Repeat("x", 100)},
		{"a plain alert", "\x15\x03\x03\x00\x02\x02\x28"},
		{"a new hello", string(clientHello(t))},
		{"plain HTTP", "GET / HTTP/1.1\r\n\r\n"},
	}
	for _, row := range rows {
		for _, version := range []uint16{stdtls.VersionTLS12, stdtls.VersionTLS13} {
			t.Run(row.name+", "+stdtls.VersionName(version), func(t *testing.T) {
				config := clientConfig.Clone()
				config.MaxVersion = version
				raw := s.dial(t)
				c := stdtls.Client(raw, config)
				// The request has the connection parked, so that the bytes reach one that was.
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
				if _, err := c.Read(make([]byte, 4096)); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it is parked", func() bool { return s.engine.Stats().Parked == 1 })
				io.WriteString(raw, row.bytes)
				if _, err := io.Copy(io.Discard, raw); err != nil && !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("after %q the connection stays open: %v", row.name, err)
				}
				raw.Close()
				s.settles(t)
			})
		}
	}
}

func TestRenegotiationIsRefused(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	s := serveHTTPS(t, 0)
	cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", s.addr, "-tls1_2", "-legacy_renegotiation")
	cmd.Stdin = strings.NewReader("R\n")
	out, _ := cmd.CombinedOutput() // it fails: that is what is asked for
	if !strings.Contains(string(out), "RENEGOTIATING") || strings.Contains(string(out), "HTTP/1.1") {
		t.Errorf("openssl s_client with a renegotiation:\n%s", out)
	}
	s.settles(t)
	s.get(t, clientConfig)
}

func TestHandshakesHaveATime(t *testing.T) {
	s := serveHTTPS(t, time.Second)
	hello := clientHello(t)
	rows := []struct{ name, bytes string }{
		{"nothing", ""},
		{"a byte", string(hello[:1])},
		{"all of the hello but a byte", string(hello[:len(hello)-1])},
		{"a hello, and no answer to that of the front", string(hello)},
		{"the first half of a hello that comes in two records", "\x16\x03\x01\x00\x08\x01\x00\x01\x00\x03\x03\x00\x00"},
	}
	conns := make([]net.Conn, len(rows)) // at once: each takes its time
	for i, row := range rows {
		conns[i] = s.dial(t)
		io.WriteString(conns[i], row.bytes)
	}
	for i, row := range rows {
		if _, err := io.Copy(io.Discard, conns[i]); err != nil {
			t.Errorf("after %s the connection stays open: %v", row.name, err)
		}
		conns[i].Close()
	}
	s.settles(t)
}

// A client that gives its hello byte by byte is parked between them.
func TestAHelloByteByByteIsServed(t *testing.T) {
	s := serveHTTPS(t, 0)
	c := stdtls.Client(&dribble{s.dial(t)}, clientConfig)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || !bytes.Contains(got, []byte("200 OK")) {
		t.Errorf("answer = %q, %v, want 200", got, err)
	}
}

type dribble struct{ net.Conn }

func (d *dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestHalfOpenHandshakesDelayNobody(t *testing.T) {
	const each = 667
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 6*each+100 {
		t.Skipf("needs %d descriptors, the limit is %d", 6*each+100, limit.Cur)
	}
	s := serveHTTPS(t, time.Minute)
	hello := clientHello(t)
	before := runtime.NumGoroutine()
	for range each {
		s.dial(t)
		s.dial(t).Write(hello[:len(hello)/2])
	}
	eventually(t, "all are accepted", func() bool { return s.engine.Stats().Open == 2*each })
	if n := runtime.NumGoroutine() - before; n > 100 {
		t.Errorf("%d clients without a whole hello have %d goroutines, want next to none", 2*each, n)
	}
	for range each {
		s.dial(t).Write(hello)
	}
	for range 20 {
		if got := s.get(t, clientConfig); !strings.Contains(got, "200 OK") {
			t.Fatalf("real client gets %q, want 200", got)
		}
	}
	eventually(t, "all hellos are answered", func() bool { return s.half() == each })
	if n := s.handshakes.Status().Shed; n != 0 {
		t.Errorf("%d handshakes were given up, want none below the limit", n)
	}
}

// TestAnIdleHandshakeLetsAnotherCompute has one place, and one who waits there for something else.
func TestAnIdleHandshakeLetsAnotherCompute(t *testing.T) {
	u := &under{computing: make(chan struct{}, 1)}
	u.computing <- struct{}{}
	u.Idle(func() {
		select {
		case u.computing <- struct{}{}:
			<-u.computing
		default:
			t.Error("the place is taken while nobody computes")
		}
	})
	if len(u.computing) != 1 {
		t.Error("who goes on has no place")
	}
}

func TestTheOldestHalfOpenHandshakesAreGivenUp(t *testing.T) {
	s := serveHTTPS(t, time.Minute)
	s.handshakes.mu.Lock() // the engine runs already
	s.handshakes.limit = 3
	s.handshakes.mu.Unlock()
	hello := clientHello(t)
	var conns []net.Conn
	for i := range 6 {
		c := s.dial(t)
		c.Write(hello)
		eventually(t, "the handshake waits", func() bool { return s.engine.Stats().Accepted == uint64(i+1) && s.half() == min(i+1, 3) })
		conns = append(conns, c)
	}
	for i, c := range conns[:3] {
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("connection %d of 6 stays open: %v", i+1, err)
		}
	}
	if n := s.handshakes.Status().Shed; n != 3 {
		t.Errorf("Status().Shed = %d, want 3", n)
	}
	if n := s.log.Len(); n != 1 {
		t.Errorf("%d warnings, want 1: %v", n, s.log.All())
	}
	s.get(t, clientConfig)
}

func TestTLSConnectionsAreParkedAndGoOn(t *testing.T) {
	s := serveHTTPS(t, 0)
	for _, version := range []uint16{stdtls.VersionTLS12, stdtls.VersionTLS13} {
		config := clientConfig.Clone()
		config.MaxVersion = version
		c := stdtls.Client(s.dial(t), config)
		for i := range 5 {
			body := strings.Repeat("x", i*20_000)
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			got := make([]byte, 0, 128<<10)
			for !bytes.HasSuffix(got, []byte("POST "+body)) {
				n, err := c.Read(got[len(got):cap(got)])
				if err != nil {
					t.Fatalf("%s, request %d: %v after %.100q", stdtls.VersionName(version), i+1, err, got)
				}
				got = got[:len(got)+n]
			}
			eventually(t, "it is parked", func() bool { return s.engine.Stats().Active == 0 })
		}
		c.Close()
	}
	s.settles(t)
}

func BenchmarkHandshake(b *testing.B) {
	s := serveHTTPS(b, 0)
	for b.Loop() {
		s.get(b, clientConfig)
	}
}
