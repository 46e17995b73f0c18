package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"gateway/mpm/event"
)

// serveHTTP runs a handler behind the engine and returns the address.
func serveHTTP(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	addr, _ := serveOn(t, handler, nil)
	return addr
}

// serveOn is serveHTTP with a server by which the loop answers, too.
func serveOn(t testing.TB, handler http.HandlerFunc, s *Server) (addr string, e *event.Engine) {
	t.Helper()
	e, err := event.New(event.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	h := &HTTP{Handler: handler, Server: s, Address: "tcp :0", Log: zap.NewNop().Sugar(), Local: func(*event.Conn) netip.AddrPort { return netip.AddrPort{} }}
	if err := e.Listen(f, event.Listener{Protocol: h, Address: "tcp :0"}); err != nil {
		t.Fatal(err)
	}
	return ln.Addr().String(), e
}

// raw sends bytes on a new connection, half closes it if asked to, and returns everything that comes back.
func raw(t testing.TB, addr, request string, halfClose bool) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if halfClose {
		c.(*net.TCPConn).CloseWrite()
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("reading the answer to %.60q: %v after %q", request, err, got)
	}
	return string(got)
}

// echo answers with the method and the body. The path changes how.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintln(w, err)
		return
	}
	switch r.URL.Path {
	case "/chunked":
		fmt.Fprintf(w, "first ")
		w.(http.Flusher).Flush()
		fmt.Fprintf(w, "second")
	case "/length":
		w.Header().Set("Content-Length", "4")
		fmt.Fprintf(w, "four")
	case "/short":
		w.Header().Set("Content-Length", "10")
		fmt.Fprintf(w, "four")
	case "/long":
		w.Header().Set("Content-Length", "4")
		if _, err := fmt.Fprintf(w, "fourteen"); !errors.Is(err, http.ErrContentLength) {
			panic(err)
		}
		fmt.Fprintf(w, "four")
	case "/204":
		w.WriteHeader(http.StatusNoContent)
	case "/304":
		w.Header().Set("Etag", `"x"`)
		w.WriteHeader(http.StatusNotModified)
	case "/103":
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "hinted")
	case "/split":
		w.Header().Set("X-Bad", "a\r\nX-Injected: 1")
		fmt.Fprint(w, "whole")
	case "/panic":
		panic("as asked for")
	case "/abort":
		fmt.Fprint(w, strings.Repeat("x", 100_000))
		panic(http.ErrAbortHandler)
	case "/big":
		w.Write(bytes.Repeat([]byte("0123456789"), 100_000))
	default:
		fmt.Fprintf(w, "%s %s", r.Method, body)
	}
}

func TestConnectionTable(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: a\r\n"
	addr := serveHTTP(t, echo)
	tests := []struct {
		name, send string
		want       []string // pieces of the answer, in order
		not        string   // what must not be in it
	}{
		{"a request that asks for it is answered and closed", get + "Connection: close\r\n\r\n", []string{"HTTP/1.1 200 OK", "Connection: close", "GET "}, ""},
		{"HTTP/1.0 closes by default", "GET / HTTP/1.0\r\n\r\n", []string{"HTTP/1.1 200 OK", "Content-Length: 4", "Connection: close", "GET "}, ""},
		{"HTTP/1.0 keeps the connection when asked to", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n", []string{"Connection: keep-alive", "GET HTTP/1.1 200"}, ""},
		{"HTTP/1.0 gets no chunks", "GET /chunked HTTP/1.0\r\n\r\n", []string{"Connection: close", "first second"}, "chunked"},
		{"pipelined requests are answered in order", get + "\r\nHEAD /length HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
			[]string{"GET ", "Content-Length: 4\r\n\r\nHTTP/1.1 200", "POST abc"}, "four"},
		{"HEAD has the length of GET and no body", "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"Content-Length: 5"}, "HEAD"},
		{"a chunked body is decoded", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: v\r\n\r\n", []string{"POST abcdefg"}, ""},
		{"a response of unknown length is chunked", "GET /chunked HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"Transfer-Encoding: chunked", "6\r\nfirst \r\n6\r\nsecond\r\n0\r\n\r\n"}, ""},
		{"a broken chunk is refused", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nX\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", []string{"HTTP/1.1 400", "Connection: close"}, "smuggled"},
		{"100 (Continue) comes when the body is read", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n", []string{"HTTP/1.1 200"}, "100 Continue"},
		{"another expectation fails", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: tea\r\n\r\nx", []string{"HTTP/1.1 417"}, ""},
		{"204 has neither body nor length", "GET /204 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"204 No Content"}, "Content-Length"},
		{"304 has no body", "GET /304 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"304 Not Modified", "Etag: \"x\""}, "Content-Length"},
		{"early hints come before the answer", "GET /103 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"HTTP/1.1 103 Early Hints\r\n", "Link: </a.css>", "HTTP/1.1 200 OK", "hinted"}, ""},
		{"HTTP/1.0 gets no early hints", "GET /103 HTTP/1.0\r\n\r\n", []string{"HTTP/1.1 200 OK", "hinted"}, "103"},
		{"a field can't split the response", "GET /split HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"200 OK", "whole"}, "X-Injected"},
		{"what is beyond the declared length is refused", "GET /long HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"Content-Length: 4", "\r\n\r\nfour"}, "fourteen"},
		{"a handler that panics costs a 500", "GET /panic HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"HTTP/1.1 500", "HTTP/1.1 200"}, "as asked for"},
		{"a refused head closes the connection", "GET / HTTP/1.1\r\n\r\n" + get + "\r\n", []string{"HTTP/1.1 400", "Connection: close"}, "200 OK"},
		{"TRACE is answered with what is allowed", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", []string{"HTTP/1.1 405", "Allow: GET"}, ""},
		{"a TLS hello on a plain port is closed silently", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", nil, "HTTP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := raw(t, addr, tt.send, false)
			rest := got
			for _, want := range tt.want {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Fatalf("answer to %q:\n%q\nwant %q in it, in order", tt.send, got, want)
				}
				rest = after
			}
			if tt.not != "" && strings.Contains(got, tt.not) {
				t.Errorf("answer to %q:\n%q\nmust not hold %q", tt.send, got, tt.not)
			}
		})
	}
}

func TestARequestByteByByte(t *testing.T) {
	addr := serveHTTP(t, echo)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, b := range []byte("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n") {
		c.Write([]byte{b})
	}
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(got), "POST abc") {
		t.Errorf("answer = %q, %v", got, err)
	}
}

func TestExpectContinue(t *testing.T) {
	addr := serveHTTP(t, echo)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	got := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("before the body: %q, %v", got, err)
	}
	io.WriteString(c, "abc")
	if rest, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(rest), "POST abc") {
		t.Errorf("answer = %q, %v", rest, err)
	}
}

func TestTruncationIsVisible(t *testing.T) {
	addr := serveHTTP(t, echo)
	for path, what := range map[string]string{"/short": "a body shorter than its length", "/abort": "an aborted handler"} {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			continue // the head was lost as well: visible enough
		}
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("%s looks complete to the client", what)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestUnreadBodies(t *testing.T) {
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "unread") })
	small := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000)
	last := "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	if got := raw(t, addr, small+last, false); strings.Count(got, "200 OK") != 2 {
		t.Errorf("after a small unread body: %q, want two answers", got)
	}
	large := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n" + strings.Repeat("x", 400_000)
	if got := raw(t, addr, large, false); strings.Count(got, "200 OK") != 1 || !strings.HasSuffix(got, "unread") {
		t.Errorf("after a large unread body: %q, want one whole answer and a close", got)
	}
}

func TestHalfClosedClientIsAnswered(t *testing.T) {
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(3 * probeDelay):
			fmt.Fprint(w, "still here")
		case <-r.Context().Done():
			t.Error("a half-closed client was taken for one that has gone")
		}
	})
	for _, version := range []string{"1.0", "1.1"} {
		got := raw(t, addr, "GET / HTTP/"+version+"\r\nHost: a\r\nConnection: close\r\n\r\n", true)
		if !strings.Contains(got, "HTTP/1.1 200 OK") || !strings.HasSuffix(got, "still here") {
			t.Errorf("HTTP/%s: %q", version, got)
		}
	}
}

func TestClientThatHasGoneEndsTheContext(t *testing.T) {
	running, ended := make(chan struct{}, 1), make(chan error, 1)
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		running <- struct{}{}
		<-r.Context().Done()
		ended <- context.Cause(r.Context())
	})
	for how, leave := range map[string]func(*net.TCPConn){
		"closes": func(c *net.TCPConn) { c.Close() },
		"resets": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		<-running
		leave(c.(*net.TCPConn))
		select {
		case err := <-ended:
			if !errors.Is(err, event.ErrGone) {
				t.Errorf("a client that %s: cause %v, want %v", how, err, event.ErrGone)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("a client that %s was never noticed", how)
		}
	}
}

func TestFilesGoOutWhole(t *testing.T) {
	dir := t.TempDir()
	want := map[string][]byte{}
	for _, size := range []int{0, 1, 4 << 10, 12 << 10, 13 << 10, 1 << 20} {
		b := make([]byte, size)
		rand.Read(b)
		want[strconv.Itoa(size)] = b
		os.WriteFile(filepath.Join(dir, strconv.Itoa(size)), b, 0o644)
	}
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(filepath.Join(dir, r.URL.Path))
		if err != nil {
			panic(err)
		}
		defer f.Close()
		http.ServeContent(w, r, "", time.Time{}, f)
	})
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	for name, b := range want {
		for _, ranges := range []string{"", "bytes=1-", "bytes=0-0,2-3"} {
			if ranges != "" && len(b) < 4 {
				continue
			}
			r, _ := http.NewRequest("GET", "http://"+addr+"/"+name, nil)
			if ranges != "" {
				r.Header.Set("Range", ranges)
			}
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			ok := ranges == "" && bytes.Equal(got, b) || ranges == "bytes=1-" && bytes.Equal(got, b[1:]) || ranges == "bytes=0-0,2-3" && bytes.Contains(got, b[2:4])
			if err != nil || !ok {
				t.Errorf("file of %s bytes, range %q: %d bytes, %v", name, ranges, len(got), err)
			}
		}
	}
}

func TestFileThatShrinksIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, make([]byte, 100_000), 0o644)
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(path)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		w.Header().Set("Content-Length", "100000")
		os.Truncate(path, 50_000)
		io.CopyN(w, f, 100_000)
	})
	resp, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil || len(got) > 50_000 {
		t.Errorf("a file that has shrunk: %d bytes, %v, want a cut after at most 50000", len(got), err)
	}
}

func TestSlowBodyIsGivenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the timeout")
	}
	t.Parallel()
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); !errors.Is(err, errBodySlow) {
			t.Errorf("reading a body that never comes: %v", err)
		}
		w.WriteHeader(http.StatusRequestTimeout)
	})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusRequestTimeout || !resp.Close {
		t.Errorf("answer = %+v, %v, want 408 and a close", resp, err)
	}
}

func BenchmarkHTTPRoundTrip(b *testing.B) {
	addr := serveHTTP(b, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello world\n") })
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request, buf := []byte("GET /hello HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(request)
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// TestCutWithoutLength: a response whose end only the end of the connection tells must not look whole when it is cut off.
func TestCutWithoutLength(t *testing.T) {
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 100_000))
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
	})
	for path, want := range map[string]error{"/whole": nil, "/cut": syscall.ECONNRESET} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path)
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, want) {
			t.Errorf("GET %s with HTTP/1.0 ended with %v, want %v", path, err, want)
		}
		_ = c.Close()
	}
}

// TestAResponseThatIsOverLeavesTheConnectionAlone has those come late who would end what waits for the client of a request.
func TestAResponseThatIsOverLeavesTheConnectionAlone(t *testing.T) {
	responses := make(chan http.ResponseWriter, 3)
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		responses <- w
		if r.URL.Path == "/aborted" {
			panic(http.ErrAbortHandler)
		}
	})
	for _, path := range []string{"/whole", "/aborted"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", path)
		_, _ = io.ReadAll(c) // an aborted one ends with a reset
		c.Close()
		w := <-responses
		if err := http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)); !errors.Is(err, errOver) {
			t.Errorf("%s: SetReadDeadline = %v, want %v", path, err, errOver)
		}
		w.(interface{ interrupt() }).interrupt()
	}
}
