package fcgi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

type handler = func(context.Context, *Request)

// serveOn runs a server on one connection until the test ends.
func serveOn(t testing.TB, app net.Conn, h handler) *Server {
	t.Helper()
	s := &Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeConn(app)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown() = %v", err)
		}
		<-done
	})
	return s
}

// ask makes a request and reads the response.
func ask(c *Conn, params []Param, body string) (out, stderr string, err error) {
	var said strings.Builder
	r, err := c.Do(params, strings.NewReader(body), int64(len(body)), func(b []byte) { said.Write(b) })
	if err != nil {
		return "", said.String(), err
	}
	b, err := io.ReadAll(r)
	_ = r.Close()
	return string(b), said.String(), err
}

func TestClientAndServer(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 300_000)
	tests := []struct {
		name    string
		handler handler
		body    string
		out     string
		stderr  string
	}{
		{"hello", func(_ context.Context, r *Request) { fmt.Fprint(r.Stdout, "hello") }, "", "hello", ""},
		{"no output", func(context.Context, *Request) {}, "", "", ""},
		{"a small body comes back", echo, "body", "body", ""},
		{"a large body comes back while it is read", echo, large, large, ""},
		{"a large body that nobody reads", func(_ context.Context, r *Request) { fmt.Fprint(r.Stdout, "no") }, large, "no", ""},
		{"a large answer before a large body is read", answerThenRead, large, large, ""},
		{"variables in order", func(_ context.Context, r *Request) { fmt.Fprint(r.Stdout, r.Params) }, "", "[{A b} {LONG " + large[:1000] + "}]", ""},
		{"error output", func(_ context.Context, r *Request) {
			fmt.Fprint(r.Stdout, "a")
			fmt.Fprint(r.Stderr, "uh", " oh")
			fmt.Fprint(r.Stdout, "b")
		}, "", "ab", "uh oh"},
		{"large error output", func(_ context.Context, r *Request) { _, _ = io.WriteString(r.Stderr, large) }, "", "", large},
		{"output flushed by piece", func(_ context.Context, r *Request) {
			for i := range 10 {
				fmt.Fprint(r.Stdout, i)
				_ = r.Stdout.Flush()
				_ = r.Stdout.Flush() // with nothing to do
			}
		}, "", "0123456789", ""},
	}
	front, app := pair(t)
	var current atomic.Value // one connection serves all of them
	serveOn(t, app, func(ctx context.Context, r *Request) { current.Load().(handler)(ctx, r) })
	c := NewConn(front)
	params := []Param{{"A", "b"}, {"LONG", large[:1000]}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			current.Store(tt.handler)
			for range 2 {
				out, stderr, err := ask(c, params, tt.body)
				if err != nil || out != tt.out || stderr != tt.stderr {
					t.Fatalf("the answer is %.80q, %.80q, %v; want %.80q, %.80q", out, stderr, err, tt.out, tt.stderr)
				}
			}
		})
	}
}

func echo(_ context.Context, r *Request) { _, _ = io.Copy(r.Stdout, r.Body) }

func answerThenRead(_ context.Context, r *Request) {
	_, _ = io.WriteString(r.Stdout, strings.Repeat("0123456789abcdef", 300_000))
	_ = r.Stdout.Flush()
	_, _ = io.Copy(io.Discard, r.Body)
}

func TestServerGivesTheExitStatus(t *testing.T) {
	front, app := pair(t)
	serveOn(t, app, func(_ context.Context, r *Request) { r.AppStatus = 0x01020304 })
	r, err := NewConn(front).Do(nil, nil, 0, nil)
	if err != nil || r.AppStatus() != 0x01020304 {
		t.Errorf("AppStatus() = %#x, %v", r.AppStatus(), err)
	}
}

func TestServerRecords(t *testing.T) {
	begin := func(id uint16, role uint16) string { return string(appendBegin(nil, id, role, flagKeepConn)) }
	params := func(id uint16) string { return rec(kindParams, id, "\x01\x01Ab", 2) + rec(kindParams, id, "", 0) }
	get := func(id uint16) string { return begin(id, roleResponder) + params(id) + rec(kindStdin, id, "", 0) }
	answer := func(id uint16) string { return fmt.Sprintf("6/%d:ok 6/%d: 3/%d:%s ", id, id, id, make([]byte, 8)) }
	end := func(id uint16, s protocolStatus) string {
		return fmt.Sprintf("3/%d:%s ", id, appendEnd(nil, id, 0, s)[8:])
	}
	tests := []struct {
		name  string
		input string
		want  string
	}{
		{"nothing", "", ""},
		{"a request", get(1), answer(1)},
		{"requests one after the other", get(1) + get(2) + get(1), answer(1) + answer(2) + answer(1)},
		{"a pair split between records", begin(1, 1) + rec(kindParams, 1, "\x01\x05Ahe", 0) + rec(kindParams, 1, "llo", 0) + rec(kindParams, 1, "", 0) +
			rec(kindStdin, 1, "", 0), answer(1)},
		{"another role", begin(1, 2) + params(1) + rec(kindStdin, 1, "", 0) + get(2), end(1, unknownRole) + answer(2)},
		{"a second request inside the first", begin(1, 1) + begin(2, 1) + params(2) + rec(kindStdin, 2, "x", 0) + params(1) + rec(kindStdin, 1, "", 0),
			end(2, cantMultiplex) + answer(1)},
		{"an abort before the request is known", begin(1, 1) + rec(kindAbort, 1, "", 0) + params(1) + get(2), "6/1: " + end(1, requestComplete) + answer(2)},
		{"an abort of nothing", rec(kindAbort, 1, "", 0) + get(1), answer(1)},
		{"records of no request", rec(kindStdin, 5, "abc", 0) + params(6) + get(1), answer(1)},
		{"no KEEP_CONN", string(appendBegin(nil, 1, 1, 0)) + params(1) + rec(kindStdin, 1, "", 0) + get(2), answer(1)},
		{"no KEEP_CONN and another role", string(appendBegin(nil, 1, 3, 0)) + get(2), end(1, unknownRole)},
		{"values", rec(kindGetValues, 0, "\x0f\x00FCGI_MPXS_CONNS\x0e\x00FCGI_MAX_CONNS", 0) + get(1),
			"10/0:\x0e\x01FCGI_MAX_CONNS1\x0f\x01FCGI_MPXS_CONNS0 " + answer(1)},
		{"values asked for twice, and others", rec(kindGetValues, 0, strings.Repeat("\x0d\x00FCGI_MAX_REQS", 900)+"\x01\x00A", 0), "10/0:\x0d\x01FCGI_MAX_REQS1 "},
		{"an unknown management record", rec(77, 0, "abc", 0) + get(1), "11/0:M\x00\x00\x00\x00\x00\x00\x00 " + answer(1)},

		{"a wrong version", "GET / HTTP/1.1\r\n\r\n", ""},
		{"request 0", begin(0, 1) + params(0), ""},
		{"a request that begins twice", begin(1, 1) + get(1), ""},
		{"a short BEGIN", rec(kindBegin, 1, "\x00\x01", 0) + get(1), ""},
		{"lengths that are wrong", begin(1, 1) + rec(kindParams, 1, "\x05\x05A", 0) + params(1), ""},
		{"values whose lengths are wrong", rec(kindGetValues, 0, "\x7f", 0) + get(1), ""},
		{"a body before the end of the variables", begin(1, 1) + rec(kindStdin, 1, "a", 0) + params(1), ""},
		{"a record that only an application sends", begin(1, 1) + rec(kindStdout, 1, "a", 0) + params(1), ""},
		{"too many variables", begin(1, 1) + strings.Repeat(rec(kindParams, 1, strings.Repeat("\x01\x00A", 20_000), 0), 18) + params(1), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := serveBytes([]byte(tt.input), func(_ context.Context, r *Request) { fmt.Fprint(r.Stdout, "ok") })
			got, err := describe(strings.NewReader(out))
			if got != tt.want || err != io.EOF {
				t.Errorf("the server answered %q with %q, %v; want %q", tt.input, got, err, tt.want)
			}
		})
	}
}

// serveBytes gives a server one input and returns all of its output.
func serveBytes(input []byte, h handler) string {
	nc := &closableConn{scriptConn: scriptConn{input: bytes.NewReader(input)}}
	s := &Server{Handler: h}
	s.ServeConn(nc)
	return strings.Join(nc.writes, "")
}

// closableConn is a scriptConn that is over once it was closed.
type closableConn struct {
	scriptConn
	closed atomic.Bool
}

func (c *closableConn) Read(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	return c.scriptConn.Read(p)
}

func (c *closableConn) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	return c.scriptConn.Write(p)
}

func (c *closableConn) Close() error {
	c.closed.Store(true)
	return nil
}

func TestServerPadsAndSendsASmallResponseInOneWrite(t *testing.T) {
	nc := &closableConn{scriptConn: scriptConn{input: strings.NewReader(
		string(appendBegin(nil, 1, 1, 1)) + rec(kindParams, 1, "", 0) + rec(kindStdin, 1, "", 0))}}
	s := &Server{Handler: func(_ context.Context, r *Request) { fmt.Fprint(r.Stdout, "hello") }}
	s.ServeConn(nc)
	want := string(appendHeader(nil, kindStdout, 1, 5, 3)) + "hello\x00\x00\x00" + rec(kindStdout, 1, "", 0) + endWith(requestComplete)
	if len(nc.writes) != 1 || nc.writes[0] != want {
		t.Errorf("the server wrote %q, want %q in one write", nc.writes, want)
	}
}

func TestServerBodyIsCutOff(t *testing.T) {
	input := string(appendBegin(nil, 1, 1, 1)) + rec(kindParams, 1, "", 0) + rec(kindStdin, 1, "abc", 0)
	for _, cut := range []int{0, 1} {
		var got []byte
		var err error
		serveBytes([]byte(input[:len(input)-cut]), func(_ context.Context, r *Request) { got, err = io.ReadAll(r.Body) })
		if string(got) != "abc"[:3-cut] || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("with %d bytes cut off the body was %q, %v", cut, got, err)
		}
	}
}

func TestServerContextEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(front net.Conn) error
		want error
	}{
		"when the peer closes":        {func(front net.Conn) error { return front.Close() }, ErrPeerGone},
		"when the peer aborts":        {func(front net.Conn) error { _, err := io.WriteString(front, rec(kindAbort, 1, "", 0)); return err }, ErrAborted},
		"when the peer sends garbage": {func(front net.Conn) error { _, err := io.WriteString(front, "garbage!"); return err }, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			front, app := pair(t)
			started, ended := make(chan struct{}), make(chan error)
			serveOn(t, app, func(ctx context.Context, _ *Request) {
				close(started)
				<-ctx.Done()
				ended <- context.Cause(ctx)
			})
			request := string(appendBegin(nil, 1, 1, 1)) + rec(kindParams, 1, "", 0) + rec(kindStdin, 1, "", 0)
			if _, err := io.WriteString(front, request); err != nil {
				t.Fatal(err)
			}
			<-started
			if err := tt.end(front); err != nil {
				t.Fatal(err)
			}
			if got := <-ended; !errors.Is(got, tt.want) {
				t.Errorf("the cause is %v, want %v", got, tt.want)
			}
		})
	}
}

func TestServerContextEndsWhenWritingFails(t *testing.T) {
	front, app := pair(t)
	ended := make(chan error, 3)
	serveOn(t, app, func(ctx context.Context, r *Request) {
		_, err := io.CopyN(r.Stdout, zeroReader{}, 8<<20) // more than the socket takes: waits for the close
		_, again := r.Stderr.Write([]byte("x"))
		ended <- err
		ended <- again
		ended <- context.Cause(ctx)
	})
	c := NewConn(front)
	r, err := c.Do(nil, zeros(8<<20), 8<<20, nil) // and the server doesn't come to see the end of this
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("writing to a closed connection succeeded")
		}
	}
	if err := <-ended; !errors.Is(err, ErrPeerGone) {
		t.Errorf("the cause is %v", err)
	}
}

func TestAbortCutsTheResponse(t *testing.T) {
	front, app := pair(t)
	serveOn(t, app, func(_ context.Context, r *Request) {
		fmt.Fprint(r.Stdout, "half")
		_ = r.Stdout.Flush()
		r.Abort()
	})
	out, _, err := ask(NewConn(front), nil, "")
	if out != "half" || !errors.Is(err, ErrTruncated) {
		t.Errorf("the response is %q, %v; want ErrTruncated", out, err)
	}
}

func TestWriteAfterTheHandlerReturned(t *testing.T) {
	front, app := pair(t)
	var old *Request
	serveOn(t, app, func(_ context.Context, r *Request) {
		if old != nil {
			_, err := fmt.Fprint(old.Stdout, "stale")
			fmt.Fprint(r.Stdout, err)
		}
		old = r
	})
	c := NewConn(front)
	for _, want := range []string{"", errFinished.Error()} {
		if out, _, err := ask(c, nil, ""); out != want || err != nil {
			t.Errorf("the response is %q, %v; want %q", out, err, want)
		}
	}
}

// listen returns a server on a socket, and a way to connect to it.
func listen(t *testing.T, h handler) (s *Server, dial func() net.Conn, served chan error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s = &Server{Handler: h}
	served = make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	dial = func() net.Conn {
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		return nc
	}
	return s, dial, served
}

func TestServeGoesBackToAccept(t *testing.T) {
	s, dial, served := listen(t, echo)
	for i := range 3 {
		nc := dial()
		if i == 1 {
			_, _ = io.WriteString(nc, "garbage!") // must not end the server
			_ = nc.Close()
			continue
		}
		c := NewConn(nc)
		for range 3 {
			if out, _, err := ask(c, nil, "x"); out != "x" || err != nil {
				t.Errorf("connection %d: the response is %q, %v", i, out, err)
			}
		}
		_ = c.Close() // a front that died
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v after Shutdown", err)
	}
}

func TestShutdownFinishesTheRequest(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s, dial, served := listen(t, func(_ context.Context, r *Request) {
		close(started)
		<-release
		fmt.Fprint(r.Stdout, "done")
	})
	c := NewConn(dial())
	answered := make(chan string)
	go func() {
		out, _, err := ask(c, nil, "")
		answered <- fmt.Sprint(out, err)
	}()
	<-started
	over := s.stop()
	close(release)
	if got := <-answered; got != "done<nil>" {
		t.Errorf("the response is %s", got)
	}
	<-over
	if err := s.Shutdown(context.Background()); err != nil {
		t.Errorf("Shutdown() = %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v", err)
	}
	if _, _, err := ask(c, nil, ""); !errors.Is(err, ErrNotSent) {
		t.Errorf("a request after Shutdown: %v, want ErrNotSent", err)
	}
}

func TestShutdownClosesIdleConnections(t *testing.T) {
	s, dial, served := listen(t, echo)
	c := NewConn(dial())
	if _, _, err := ask(c, nil, "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Errorf("Shutdown() = %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v", err)
	}
	if err := s.Serve(closedListener(t)); err != nil {
		t.Errorf("Serve() after Shutdown = %v", err)
	}
	front, app := pair(t)
	s.ServeConn(app)
	if _, err := front.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection given to ServeConn after Shutdown: %v, want EOF", err)
	}
}

func closedListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l
}

func TestServeReturnsTheErrorOfAccept(t *testing.T) {
	if err := new(Server).Serve(closedListener(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve() = %v", err)
	}
}

func TestShutdownLosesPatience(t *testing.T) {
	started := make(chan struct{})
	s, dial, served := listen(t, func(ctx context.Context, _ *Request) {
		close(started)
		<-ctx.Done()
	})
	c := NewConn(dial())
	answered := make(chan error)
	go func() {
		_, _, err := ask(c, nil, "")
		answered <- err
	}()
	<-started
	impatient := errors.New("impatient")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(impatient)
	if err := s.Shutdown(ctx); !errors.Is(err, impatient) {
		t.Errorf("Shutdown() = %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v", err)
	}
	if err := <-answered; !errors.Is(err, ErrNoResponse) {
		t.Errorf("the request ended with %v", err)
	}
}

// FuzzServer gives the server any bytes. Whatever they are, it answers in records that a front understands.
func FuzzServer(f *testing.F) {
	get := string(appendBegin(nil, 1, 1, 1)) + rec(kindParams, 1, "\x01\x01Ab", 2) + rec(kindParams, 1, "", 0) + rec(kindStdin, 1, "body", 0) + rec(kindStdin, 1, "", 0)
	f.Add([]byte(get+get), true)
	f.Add([]byte(get[:len(get)-9]), false)
	f.Add([]byte(rec(kindGetValues, 0, "\x0f\x00FCGI_MPXS_CONNS", 0)+rec(77, 0, "", 0)+rec(kindAbort, 1, "", 0)), true)
	f.Fuzz(func(t *testing.T, data []byte, read bool) {
		out := serveBytes(data, func(_ context.Context, r *Request) {
			if read {
				_, _ = io.Copy(r.Stdout, r.Body)
			}
			for _, p := range r.Params {
				fmt.Fprintf(r.Stderr, "%s=%s", p.Name, p.Value)
			}
		})
		in := newReader(strings.NewReader(out))
		kinds := []kind{kindStdout, kindStderr, kindEnd, kindGetValuesResult, kindUnknownType}
		for {
			h, err := in.next()
			if err == io.EOF {
				return
			}
			if err != nil || !slices.Contains(kinds, h.kind) {
				t.Fatalf("the server answered %q with %q: %+v, %v", data, out, h, err)
			}
		}
	})
}

// BenchmarkRoundTrip: a small request and response cost the front one write.
func BenchmarkRoundTrip(b *testing.B) {
	for name, h := range map[string]handler{
		"hello": func(_ context.Context, r *Request) {
			_, _ = io.WriteString(r.Stdout, "Content-Type: text/plain\r\n\r\nhello\n")
		},
		"1MiB": func(_ context.Context, r *Request) { _, _ = io.CopyN(r.Stdout, zeroReader{}, 1<<20) },
	} {
		b.Run(name, func(b *testing.B) {
			front, app := pair(b)
			_ = front.SetDeadline(time.Time{})
			_ = app.SetDeadline(time.Time{})
			serveOn(b, app, h)
			c := NewConn(front)
			b.ReportAllocs()
			for b.Loop() {
				r, err := c.Do(benchParams(), nil, 0, nil)
				if err != nil {
					b.Fatal(err)
				}
				n, err := r.WriteTo(io.Discard)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
			}
		})
	}
}

// BenchmarkDo is the front's share of a round trip: the peer's answer is there at once.
func BenchmarkDo(b *testing.B) {
	answer := rec(kindStdout, 1, "Content-Type: text/plain\r\n\r\nhello\n", 5) + endOK
	src := strings.NewReader("")
	c := NewConn(&discardConn{src: src})
	params := benchParams()
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(answer)
		r, err := c.Do(params, nil, 0, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

type discardConn struct {
	net.Conn
	src io.Reader
}

func (c *discardConn) Read(p []byte) (int, error)  { return c.src.Read(p) }
func (c *discardConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *discardConn) Close() error                { return nil }

func benchParams() []Param {
	return []Param{
		{"SCRIPT_FILENAME", "/srv/legacy/public/index.php"}, {"DOCUMENT_ROOT", "/srv/legacy/public"}, {"SCRIPT_NAME", "/index.php"},
		{"REQUEST_URI", "/index.php?id=12345"}, {"QUERY_STRING", "id=12345"}, {"REQUEST_METHOD", "GET"}, {"SERVER_PROTOCOL", "HTTP/1.1"},
		{"GATEWAY_INTERFACE", "CGI/1.1"}, {"SERVER_SOFTWARE", "gateway"}, {"SERVER_NAME", "www.example.com"}, {"SERVER_PORT", "443"},
		{"SERVER_ADDR", "192.0.2.1"}, {"REMOTE_ADDR", "198.51.100.23"}, {"REMOTE_PORT", "51234"}, {"HTTPS", "on"}, {"REDIRECT_STATUS", "200"},
		{"HTTP_HOST", "www.example.com"}, {"HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
		{"HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, {"HTTP_ACCEPT_LANGUAGE", "en-US,en;q=0.5"},
		{"HTTP_ACCEPT_ENCODING", "gzip, deflate, br"}, {"HTTP_COOKIE", "PHPSESSID=u1v9c4k2m8"},
	}
}
