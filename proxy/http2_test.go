package proxy

import (
	"bytes"
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"gateway/mpm/event"
	"gateway/routes"
	"gateway/tls"
)

// lab2 is a server that speaks HTTP/2, without TLS unless it is a secure one.
type lab2 struct {
	*HTTP
	engine *event.Engine
	addr   string
}

// maxConns2 is how many connections a lab2 has at once.
const maxConns2 = 64

// serveHTTP2 runs a handler behind the engine. setup may change what is served; nil: nothing.
func serveHTTP2(t testing.TB, secure bool, handler http.HandlerFunc, setup func(*HTTP)) *lab2 {
	t.Helper()
	log := zap.NewNop().Sugar()
	h := &HTTP{Handler: handler, Log: log, Address: "tcp :0", Local: func(*event.Conn) netip.AddrPort { return netip.AddrPort{} }, HTTP2: NewHTTP2(0, routes.DefaultHTTP2Requests, log)}
	var shedding sync.WaitGroup
	e, err := event.New(event.Options{MaxConns: maxConns2, Shed: func() { shedding.Go(h.HTTP2.Shed) }}) // ends when they are closed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(); shedding.Wait() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sc, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	sc.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }) // as the supervisor does
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	if secure {
		certs, err := tls.New(t.TempDir(), []tls.Site{{Names: []string{"localhost"}, Mode: tls.Internal, Addresses: []string{h.Address}}}, func(string, string, ...any) {})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(certs.Close)
		h.Hello, h.Handshakes = tls.Hello, NewHandshakes(log)
		h.Secure = func(c *event.Conn) *SecureConn {
			return NewSecureConn(c, func(raw net.Conn) Secure { return certs.Server(h.Address, raw) })
		}
	}
	if setup != nil {
		setup(h)
	}
	if err := e.Listen(f, event.Listener{Protocol: h, Raw: secure, Address: h.Address}); err != nil {
		t.Fatal(err)
	}
	return &lab2{HTTP: h, engine: e, addr: ln.Addr().String()}
}

// client speaks HTTP/2 only, by prior knowledge where there is no TLS.
func (l *lab2) client(t testing.TB) *http.Client {
	tr := &http.Transport{TLSClientConfig: &stdtls.Config{InsecureSkipVerify: true, ServerName: "localhost"}, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP2(l.Secure != nil)
	tr.Protocols.SetUnencryptedHTTP2(l.Secure == nil)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (l *lab2) url(path string) string {
	if l.Secure != nil {
		return "https://" + l.addr + path
	}
	return "http://" + l.addr + path
}

func TestHTTP2Answers(t *testing.T) {
	rows := []struct {
		name   string
		method string
		path   string
		body   io.Reader
		status int
		want   string
		length int64
	}{
		{"a short answer gets a length", "GET", "/", nil, 200, "GET ", 4},
		{"HEAD has no body", "HEAD", "/", nil, 200, "", 5},
		{"a body with a length arrives", "POST", "/", strings.NewReader("hello"), 200, "POST hello", 10},
		{"a body without a length arrives", "POST", "/", io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo")), 200, "POST hello", 10},
		{"a large body arrives", "PUT", "/", bytes.NewReader(bytes.Repeat([]byte("x"), 1<<20)), 200, "PUT " + strings.Repeat("x", 1<<20), -1},
		{"a flushed answer has no length", "GET", "/chunked", nil, 200, "first second", -1},
		{"the length of a handler is kept", "GET", "/length", nil, 200, "four", 4},
		{"a handler can't write more than it has announced", "GET", "/long", nil, 200, "four", 4},
		{"204 has no body", "GET", "/204", nil, 204, "", 0},
		{"304 has no body", "GET", "/304", nil, 304, "", 0},
		{"an early hint is not the answer", "GET", "/103", nil, 200, "hinted", 6},
		{"a panic is a 500", "GET", "/panic", nil, 500, "500 Internal Server Error\n", 26},
		{"a large answer arrives", "GET", "/big", nil, 200, strings.Repeat("0123456789", 100_000), -1},
	}
	for _, secure := range []bool{false, true} {
		l := serveHTTP2(t, secure, echo, nil)
		client := l.client(t)
		for _, row := range rows {
			t.Run(fmt.Sprintf("%s, TLS %t", row.name, secure), func(t *testing.T) {
				if s, ok := row.body.(io.Seeker); ok {
					s.Seek(0, io.SeekStart)
				} else if row.body != nil {
					row.body = io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo"))
				}
				r, err := http.NewRequest(row.method, l.url(row.path), row.body)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != row.want || resp.StatusCode != row.status || resp.Proto != "HTTP/2.0" {
					t.Errorf("%s %s = %s %d, %d bytes %.60q, %v; want %d, %d bytes %.60q", row.method, row.path, resp.Proto, resp.StatusCode, len(got), got, err, row.status, len(row.want), row.want)
				}
				if row.length > 0 && resp.ContentLength != row.length {
					t.Errorf("Content-Length is %d, want %d", resp.ContentLength, row.length)
				}
				if resp.Header.Get("Server") != serverName || resp.Header.Get("Date") == "" {
					t.Errorf("Server or Date is missing: %v", resp.Header)
				}
			})
		}
	}
}

func TestHTTP2CutsAnswers(t *testing.T) {
	l := serveHTTP2(t, false, echo, nil)
	for _, path := range []string{"/short", "/abort"} {
		resp, err := l.client(t).Get(l.url(path))
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if stream, ok := errors.AsType[http2.StreamError](err); !ok || stream.Code != http2.ErrCodeInternal {
			t.Errorf("GET %s: %v; want a stream reset with INTERNAL_ERROR", path, err)
		}
	}
}

func TestHTTP2Requests(t *testing.T) {
	seen := make(chan *http.Request, 1)
	l := serveHTTP2(t, true, func(_ http.ResponseWriter, r *http.Request) { seen <- r }, nil)
	r, _ := http.NewRequest("GET", l.url("/a%2fb/../c?d=%2f"), nil)
	r.Host = "localhost"
	r.Header["Cookie"] = []string{"a=1", "b=2"}
	r.Header["X-Two"] = []string{"1", "2"}
	r.Header.Set("Te", "trailers")
	resp, err := l.client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := <-seen
	if got.URL.Path != "/a%2fb/../c" || got.URL.RawQuery != "d=%2f" || got.RequestURI != "/a%2fb/../c?d=%2f" || got.Host != "localhost" {
		t.Errorf("path %q, query %q, URI %q, host %q: not as they were sent", got.URL.Path, got.URL.RawQuery, got.RequestURI, got.Host)
	}
	if c := got.Header["Cookie"]; len(c) != 1 || c[0] != "a=1; b=2" {
		t.Errorf("Cookie is %q: its pieces are one field in HTTP/1.1", c)
	}
	if v := got.Header["X-Two"]; len(v) != 2 || v[0] != "1" {
		t.Errorf("X-Two is %q", v)
	}
	if got.Proto != "HTTP/2.0" || got.ProtoMajor != 2 || got.TLS == nil || got.TLS.NegotiatedProtocol != "h2" || got.Body != http.NoBody {
		t.Errorf("%s, TLS %v, body %v", got.Proto, got.TLS, got.Body)
	}
	x := exchangeOf(got)
	if !x.secure || x.tls.protocol != "TLSv1.3" || !x.remote.IsValid() || x.listener != l.Address {
		t.Errorf("exchange %+v", x.tls)
	}
}

func TestHTTP2NeverGuessesTypes(t *testing.T) {
	l := serveHTTP2(t, false, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html><script>") }, nil)
	resp, err := l.client(t).Get(l.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if v, ok := resp.Header["Content-Type"]; ok {
		t.Errorf("Content-Type is %q, which no handler has set", v)
	}
}

func TestHTTP2Trailers(t *testing.T) {
	l := serveHTTP2(t, false, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "body")
		http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Sum", "42")
	}, nil)
	resp, err := l.client(t).Get(l.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil || resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailer %v, %v", resp.Trailer, err)
	}
}

func TestHTTP2Expect(t *testing.T) {
	l := serveHTTP2(t, false, echo, nil)
	r, _ := http.NewRequest("POST", l.url("/"), strings.NewReader("late"))
	r.Header.Set("Expect", "100-continue")
	client := l.client(t)
	asked := false
	r = r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { asked = true }}))
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "POST late" || !asked {
		t.Errorf("answer %q, 100 (Continue) %t", b, asked)
	}
}

func TestHTTP2ClientCancels(t *testing.T) {
	began, cause := make(chan struct{}), make(chan error, 1)
	l := serveHTTP2(t, false, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		cause <- context.Cause(r.Context())
	}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", l.url("/"), nil)
	go func() { <-began; cancel() }() // ends with the request
	if _, err := l.client(t).Do(r); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := <-cause; !errors.Is(err, event.ErrGone) {
		t.Errorf("the handler's context ends with %v, want %v", err, event.ErrGone)
	}
}

// The child is free when it has written everything, as on HTTP/1.1: see TestSlowReaderHoldsNoChild.
func TestHTTP2SlowReaderHoldsNoChild(t *testing.T) {
	g := phpGate(t, phpPool(t), slowFiles)
	l := serveHTTP2(t, false, func(w http.ResponseWriter, r *http.Request) {
		exchangeOf(r).listener = "tcp :80"
		g.handler.ServeHTTP(w, r)
	}, nil)
	client := l.client(t)
	for _, row := range []struct {
		name, query string
		cut         bool
	}{
		{"of unknown length", "", false},
		{"of known length", "&length=0", false},
		{"that ends early", "&length=1", true},
	} {
		t.Run("a response "+row.name, func(t *testing.T) {
			const size = 30 << 20
			resp, err := client.Get(l.url(fmt.Sprintf("/random.php?size=%d%s", size, row.query)))
			if err != nil {
				t.Fatal(err)
			}
			g.idle(t)
			if used := g.handler.spool.used.Load(); used < size/2 {
				t.Errorf("the child is free and only %d bytes are in files: who took the others?", used)
			}
			if status, n, err := restOf(resp); status != 200 || n != size || (err != nil) != row.cut {
				t.Errorf("the client got %d, %d bytes, %v; want %d bytes and cut: %t", status, n, err, size, row.cut)
			}
			g.released(t)
		})
	}
}

func TestHTTP2Drain(t *testing.T) {
	began, finish := make(chan struct{}, 1), make(chan struct{})
	l := serveHTTP2(t, true, func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-finish
		io.WriteString(w, "whole")
	}, nil)
	idle := l.raw(t)
	idle.settle()
	answer := make(chan string, 1)
	go func() { // ends with its request
		resp, err := l.client(t).Get(l.url("/"))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-began
	l.HTTP2.Drain()
	drained := make(chan error, 1)
	go func() { drained <- l.engine.Drain(t.Context()) }() // ends when both connections have
	if f := idle.until(http2.FrameGoAway); f.(*http2.GoAwayFrame).ErrCode != http2.ErrCodeNo {
		t.Errorf("idle connection: %v, want NO_ERROR", f)
	}
	close(finish)
	if got := <-answer; got != "whole" {
		t.Errorf("the request in progress got %q", got)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestHTTP2ConnectionsThatComeInADrainAreToldToo(t *testing.T) {
	for _, secure := range []bool{false, true} {
		l := serveHTTP2(t, secure, echo, nil)
		l.HTTP2.Drain()
		late := l.raw(t)
		if f := late.until(http2.FrameGoAway); f.(*http2.GoAwayFrame).ErrCode != http2.ErrCodeNo {
			t.Errorf("secure %v: a connection without a request got %v, want NO_ERROR", secure, f)
		}
		late.leave()
		if err := l.engine.Drain(t.Context()); err != nil {
			t.Errorf("secure %v: %v", secure, err)
		}
	}
}

func TestHTTP2IdleConnectionsMakeRoom(t *testing.T) {
	for _, secure := range []bool{false, true} {
		l := serveHTTP2(t, secure, echo, nil)
		for i := range 2 * maxConns2 {
			c := l.raw(t)
			c.get(1, "/")
			if got := c.status(1); got != "200" {
				t.Fatalf("secure %v: connection %d: status %s, want 200", secure, i, got)
			}
			go c.leave() // ends with the connection
		}
	}
}

func TestHTTP2WhichConnectionsMakeRoom(t *testing.T) {
	finish := make(chan struct{})
	l := serveHTTP2(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-finish
		}
		io.WriteString(w, "body")
	}, nil)
	connect := func(path string, settings ...http2.Setting) (c *raw2, s *session) {
		before := l.HTTP2.all()
		c = l.raw(t, settings...)
		c.settle()
		for s := range l.HTTP2.all() {
			if !before[s] {
				if path != "" {
					c.get(1, path)
				}
				return c, s
			}
		}
		t.Fatal("no session")
		return nil, nil
	}
	longest, of := connect("/")
	shorter, other := connect("/")
	busy, _ := connect("/slow")
	fresh, _ := connect("")
	stalled, _ := connect("/", http2.Setting{ID: http2.SettingInitialWindowSize})
	for _, c := range []*raw2{longest, shorter, stalled} {
		if got := c.status(1); got != "200" {
			t.Fatalf("status %s, want 200", got)
		}
	}
	eventually(t, "two are idle", func() bool { return l.HTTP2.Idle() == 2 })
	for s, age := range map[*session]time.Duration{of: time.Minute, other: time.Second} {
		s.mu.Lock()
		s.idle = s.idle.Add(-age)
		s.mu.Unlock()
	}
	l.HTTP2.Shed()
	stalled.WriteWindowUpdate(1, 100)
	if got := string(stalled.until(http2.FrameData).(*http2.DataFrame).Data()); got != "body" {
		t.Errorf("the one whose client lets nothing of its response through got %q, want all of it", got)
	}
	if f := longest.until(http2.FrameGoAway).(*http2.GoAwayFrame); f.ErrCode != http2.ErrCodeNo || f.LastStreamID != 1 {
		t.Errorf("the one that has idled for longest: %v, want NO_ERROR and stream 1", f)
	}
	close(finish)
	for name, c := range map[string]*raw2{"idles for less": shorter, "is new": fresh} {
		c.get(3, "/")
		if got := c.status(3); got != "200" {
			t.Errorf("the one that %s: status %s, want 200", name, got)
		}
	}
	if got := busy.status(1); got != "200" {
		t.Errorf("the one with a request in progress: status %s, want 200", got)
	}
}

// all are the sessions there are.
func (h *HTTP2) all() map[*session]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[*session]bool)
	for s := range h.sessions {
		all[s] = true
	}
	return all
}

func TestHTTP2EndsWhereItMay(t *testing.T) {
	site := &routes.Site{MaxKeepAlive: 2}
	l := serveHTTP2(t, false, func(_ http.ResponseWriter, r *http.Request) { exchangeOf(r).site = site }, nil)
	c := l.raw(t)
	c.get(1, "/")
	c.until(http2.FrameHeaders)
	c.get(3, "/")
	if f := c.until(http2.FrameGoAway).(*http2.GoAwayFrame); f.LastStreamID != 3 || f.ErrCode != http2.ErrCodeNo {
		t.Errorf("%v after max_keep_alive_requests, want the last stream 3 and NO_ERROR", f)
	}
}

func TestHTTP2LogsRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	access, err := NewAccessLog(routes.AccessLog{Path: path, Format: `%r %>s %B`})
	if err != nil {
		t.Fatal(err)
	}
	l := serveHTTP2(t, false, echo, func(h *HTTP) { h.Access = access })
	client := l.client(t)
	for _, path := range []string{"/length", "/%00"} {
		resp, err := client.Get(l.url(path))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	client.CloseIdleConnections()
	l.engine.Close()
	access.Close()
	got, _ := os.ReadFile(path)
	if want := "GET /length HTTP/2.0 200 4\nGET /%00 HTTP/2.0 400 26\n"; string(got) != want {
		t.Errorf("access log %q, want %q", got, want)
	}
}

func TestHTTP2DeadlineAfterTheHandler(t *testing.T) {
	kept := make(chan http.ResponseWriter, 1)
	l := serveHTTP2(t, false, func(w http.ResponseWriter, _ *http.Request) { kept <- w }, nil)
	resp, err := l.client(t).Get(l.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := http.NewResponseController(<-kept).SetReadDeadline(time.Unix(1, 0)); !errors.Is(err, errOver) {
		t.Errorf("SetReadDeadline after the handler returned: %v", err)
	}
}

// Both protocols live on one port.
func TestHTTP2BesideHTTP1(t *testing.T) {
	plain := serveHTTP2(t, false, echo, nil)
	if got := raw(t, plain.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("HTTP/1.1 on a port with h2c: %q", got)
	}
	if got := raw(t, plain.addr, "PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n0123", false); !strings.HasPrefix(got, "HTTP/1.1 501 ") {
		t.Errorf("a preface that is none: %q", got)
	}
	if got := raw(t, plain.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"+http2.ClientPreface, false); !strings.Contains(got, "HTTP/1.1 501 ") {
		t.Errorf("a preface behind a request: %q", got)
	}
	if got := raw(t, serveHTTP(t, echo), http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00", false); !strings.HasPrefix(got, "HTTP/1.1 505 ") {
		t.Errorf("a preface on a port without h2c: %q", got)
	}
	secure := serveHTTP2(t, true, echo, nil)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &stdtls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get(secure.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Proto != "HTTP/1.1" {
		t.Errorf("a client of HTTP/1.1 gets %s", resp.Proto)
	}
}

func TestHTTP2PrefaceInPieces(t *testing.T) {
	l := serveHTTP2(t, false, echo, nil)
	conn, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range len(http2.ClientPreface) {
		io.WriteString(conn, http2.ClientPreface[i:i+1])
	}
	f := http2.NewFramer(conn, conn)
	f.WriteSettings()
	if frame, err := f.ReadFrame(); err != nil || frame.Header().Type != http2.FrameSettings {
		t.Errorf("%v, %v; want the server's settings", frame, err)
	}
}
