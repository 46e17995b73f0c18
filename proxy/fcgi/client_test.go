package fcgi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// pair returns the two ends of a unix stream, with deadlines so that a failing test ends.
func pair(t testing.TB) (front, app net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	front, app = connOf(t, fds[0]), connOf(t, fds[1])
	t.Cleanup(func() {
		_ = front.Close()
		_ = app.Close()
	})
	return front, app
}

func connOf(t testing.TB, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// readRequest reads the records of one request, to the end of STDIN, and writes them down as describe does.
func readRequest(in *reader) (string, error) {
	var out strings.Builder
	for {
		h, err := in.next()
		if err != nil {
			return out.String(), err
		}
		b, err := in.appendContent(nil)
		if err != nil {
			return out.String(), err
		}
		fmt.Fprintf(&out, "%d/%d:%s ", h.kind, h.id, b)
		if h.kind == kindStdin && h.length == 0 {
			return out.String(), nil
		}
	}
}

// answer runs an application that reads one request, writes response and hangs up.
func answer(t *testing.T, app net.Conn, response string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := newReader(app)
		if _, err := readRequest(&in); err == nil {
			_, _ = io.WriteString(app, response)
		}
		_ = app.Close()
	}()
	t.Cleanup(func() { <-done })
}

const endOK = "\x01\x03\x00\x01\x00\x08\x00\x00" + "\x00\x00\x00\x07\x00\x00\x00\x00"

func endWith(s protocolStatus) string { return string(appendEnd(nil, 1, 0, s)) }

func TestDoSendsOneWrite(t *testing.T) {
	nc := &scriptConn{input: io.MultiReader(strings.NewReader(endOK), strings.NewReader(endOK))}
	c := NewConn(nc)
	for range 2 { // the second request must look like the first
		nc.writes = nil
		r, err := c.Do([]Param{{"A", "b"}}, strings.NewReader("body and more"), 4, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); len(b) != 0 || err != nil || r.AppStatus() != 7 {
			t.Errorf("the response is %q, %v with status %d; want nothing and status 7", b, err, r.AppStatus())
		}
		if len(nc.writes) != 1 {
			t.Fatalf("Do() made %d writes, want 1", len(nc.writes))
		}
		in := newReader(strings.NewReader(nc.writes[0]))
		got, err := readRequest(&in)
		want := "1/1:\x00\x01\x01\x00\x00\x00\x00\x00 4/1:\x01\x01Ab 4/1: 5/1:body 5/1: "
		if got != want || err != nil || in.buffered() != 0 {
			t.Errorf("Do() sent %q, %v and %d more bytes; want %q", got, err, in.buffered(), want)
		}
	}
}

func TestResponse(t *testing.T) {
	out := func(s string) string { return rec(kindStdout, 1, s, paddingFor(len(s))) }
	tests := []struct {
		name   string
		answer string
		want   string // "" and an error: Do may fail with it
		stderr string
		err    error
		usable bool // as far as the client can know
	}{
		{"a response", out("hello") + endOK, "hello", "", nil, true},
		{"an empty response", endOK, "", "", nil, true},
		{"several records", out("a") + out("b") + out("c") + endOK, "abc", "", nil, true},
		{"an empty STDOUT record anywhere", out("") + out("a") + out("") + endOK, "a", "", nil, true},
		{"error output between", rec(kindStderr, 1, "uh", 6) + out("a") + rec(kindStderr, 1, " oh", 0) + out("b") + endOK, "ab", "uh oh", nil, true},
		{"a record larger than the buffer", rec(kindStdout, 1, strings.Repeat("x", maxContent), 1) + endOK, strings.Repeat("x", maxContent), "", nil, true},
		{"padding after the end", out("a") + rec(kindEnd, 1, "\x00\x00\x00\x07\x00\x00\x00\x00", 8), "a", "", nil, true},
		{"surplus after the end", out("a") + endOK + out("b"), "a", "", nil, false},

		{"nothing", "", "", "", ErrNoResponse, false},
		{"part of a header", out("a")[:7], "", "", ErrNoResponse, false},
		{"a header without content", out("a")[:8], "", "", ErrNoResponse, false},
		{"only error output", rec(kindStderr, 1, "uh", 0), "", "uh", ErrNoResponse, false},
		{"error output cut off", rec(kindStderr, 1, "uh", 0)[:9], "", "u", ErrNoResponse, false},
		{"no end", out("abc"), "abc", "", ErrTruncated, false},
		{"no end, and the cause is an end of file", out("abc"), "abc", "", io.ErrUnexpectedEOF, false},
		{"content cut off", out("abc")[:9], "a", "", ErrTruncated, false},
		{"the end cut off", out("abc") + endOK[:12], "abc", "", ErrTruncated, false},

		{"overloaded", endWith(overloaded), "", "", ErrRefused, false},
		{"an unknown role", endWith(unknownRole), "", "", ErrRefused, false},
		{"no multiplexing, in the middle", out("a") + endWith(cantMultiplex), "a", "", ErrRefused, false},
		{"a status nobody knows", endWith(77), "", "", ErrRefused, false},

		{"not FastCGI", "HTTP/1.1 400 Bad Request\r\n\r\n", "", "", ErrProtocol, false},
		{"garbage in the middle", out("abc") + "garbage!", "abc", "", ErrProtocol, false},
		{"another request's output", rec(kindStdout, 2, "a", 0) + endOK, "", "", ErrProtocol, false},
		{"another request's end", out("a") + rec(kindEnd, 9, "12345678", 0), "a", "", ErrProtocol, false},
		{"a management record", rec(kindUnknownType, 0, "12345678", 0) + endOK, "", "", ErrProtocol, false},
		{"a record that only a front sends", rec(kindStdin, 1, "a", 0) + endOK, "", "", ErrProtocol, false},
		{"an unknown type", rec(99, 1, "a", 0) + endOK, "", "", ErrProtocol, false},
		{"an end that is too long", rec(kindEnd, 1, "123456789", 0), "", "", ErrProtocol, false},
		{"an end that is too short", rec(kindEnd, 1, "", 0), "", "", ErrProtocol, false},
	}
	for _, tt := range tests {
		for name, input := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r },
			"by byte": iotest.OneByteReader,
		} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				c := NewConn(&scriptConn{input: input(strings.NewReader(tt.answer))})
				var stderr strings.Builder
				got, err := roundTrip(c, func(b []byte) { stderr.Write(b) })
				if string(got) != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("the response to %.60q is %.60q, %v; want %.60q, %v", tt.answer, got, err, tt.want, tt.err)
				}
				if stderr.String() != tt.stderr {
					t.Errorf("the error output of %.60q is %q, want %q", tt.answer, stderr.String(), tt.stderr)
				}
				// What is surplus can only be seen when it arrives together with the end.
				if c.Usable() != tt.usable && name == "at once" {
					t.Errorf("Usable() = %t after %.60q", c.Usable(), tt.answer)
				}
			})
		}
	}
}

// roundTrip makes a small request and reads the response by Read.
func roundTrip(c *Conn, stderr func([]byte)) ([]byte, error) {
	r, err := c.Do([]Param{{"A", "b"}}, nil, 0, stderr)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = io.Copy(struct{ io.Writer }{&b}, struct{ io.Reader }{r})
	if _, again := r.Read(make([]byte, 1)); err != nil && again != err {
		return b.Bytes(), fmt.Errorf("Read failed with %w and then with %w", err, again)
	}
	return b.Bytes(), err
}

func TestResponseWriteTo(t *testing.T) {
	answer := rec(kindStdout, 1, "abc", 5) + rec(kindStdout, 1, "def", 0) + endOK
	c := NewConn(&scriptConn{input: io.MultiReader(strings.NewReader(answer), strings.NewReader(answer), strings.NewReader(answer[:20]))})
	for i, want := range []error{nil, io.ErrShortWrite, ErrTruncated} {
		r, err := c.Do(nil, nil, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		var w io.Writer = &b
		if want == io.ErrShortWrite {
			w = shortWriter{}
		}
		if n, err := r.WriteTo(w); !errors.Is(err, want) || n != int64(b.Len()) && want == nil {
			t.Errorf("WriteTo() = %d, %v; want %v", n, err, want)
		}
		if want == nil && b.String() != "abcdef" {
			t.Errorf("WriteTo() wrote %q", b.String())
		}
		if i == 1 { // the rest is still there
			if rest, err := io.ReadAll(r); string(rest) != "bcdef" || err != nil {
				t.Errorf("after a short write ReadAll() = %q, %v", rest, err)
			}
		}
	}
}

type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return 1, nil }

func TestDoOnAConnectionThatWasClosedWhileIdle(t *testing.T) {
	front, app := pair(t)
	_ = app.Close()
	c := NewConn(front)
	for range 2 { // also when it is known
		if _, err := c.Do(nil, nil, 0, nil); !errors.Is(err, ErrNotSent) || c.Usable() {
			t.Errorf("Do() = %v, want ErrNotSent", err)
		}
	}
}

func TestDoWithALargeBodyOnAClosedConnection(t *testing.T) {
	front, app := pair(t)
	_ = app.Close()
	if _, err := NewConn(front).Do(nil, zeros(1<<20), 1<<20, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("Do() = %v, want ErrNotSent", err)
	}
}

// zeros is a body of n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestDoWhenTheApplicationHangsUpInTheBody(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		want   error
	}{
		"without a response":      {"", ErrNoResponse},
		"with part of a response": {rec(kindStdout, 1, "abc", 0), ErrTruncated},
		"with a whole response":   {rec(kindStdout, 1, "abc", 0) + endOK, nil},
	} {
		t.Run(name, func(t *testing.T) {
			front, app := pair(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.ReadFull(app, make([]byte, 100_000))
				_, _ = io.WriteString(app, tt.answer)
				_ = app.Close()
			}()
			c := NewConn(front)
			r, err := c.Do(nil, zeros(8<<20), 8<<20, nil)
			if err == nil {
				_, err = io.ReadAll(r)
				_ = r.Close()
			}
			if !errors.Is(err, tt.want) || c.Usable() {
				t.Errorf("the request ended with %v (usable: %t), want %v", err, c.Usable(), tt.want)
			}
			<-done
		})
	}
}

func TestDoWithAShortBody(t *testing.T) {
	for name, tt := range map[string]struct {
		length int64
		usable bool
	}{
		"a small one does not touch the connection": {10, true},
		"a large one closes it":                     {1 << 20, false},
		"one that fails at the first byte":          {1 << 30, false},
	} {
		t.Run(name, func(t *testing.T) {
			front, app := pair(t)
			have := tt.length - 1
			if tt.length == 1<<30 {
				have = 0
			}
			c := NewConn(front)
			got := make(chan string, 1)
			go func() {
				in := newReader(app)
				_, err := readRequest(&in)
				got <- fmt.Sprint(err)
			}()
			if _, err := c.Do(nil, zeros(have), tt.length, nil); !errors.Is(err, ErrBody) || c.Usable() != tt.usable {
				t.Errorf("Do() = %v (usable: %t), want ErrBody (usable: %t)", err, c.Usable(), tt.usable)
			}
			_ = c.Close()
			if end := <-got; end == "<nil>" {
				t.Error("the application saw the end of STDIN")
			}
		})
	}
}

func TestDoRefuses(t *testing.T) {
	front, app := pair(t)
	c := NewConn(front)
	if _, err := c.Do([]Param{{"A", strings.Repeat("x", 70_000)}}, nil, 0, nil); !errors.Is(err, ErrParamTooLarge) {
		t.Errorf("Do() with a large parameter = %v", err)
	}
	if _, err := c.Do(nil, nil, 5, nil); !errors.Is(err, ErrBody) {
		t.Errorf("Do() without the body = %v", err)
	}
	if _, err := c.Do(nil, zeros(1), -1, nil); !errors.Is(err, ErrBody) {
		t.Errorf("Do() with a negative length = %v", err)
	}
	if !c.Usable() {
		t.Fatal("the connection was given up")
	}
	answer(t, app, rec(kindStdout, 1, "a", 0)+endOK)
	r, err := c.Do(nil, nil, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(nil, nil, 0, nil); !errors.Is(err, errBusy) {
		t.Errorf("Do() during a response = %v", err)
	}
	if b, err := io.ReadAll(r); string(b) != "a" || err != nil {
		t.Errorf("the first response was %q, %v", b, err)
	}
}

func TestDeadline(t *testing.T) {
	for _, size := range []int64{0, 8 << 20} { // the larger one waits in Write as well as in Read
		for _, wait := range []time.Duration{0, 20 * time.Millisecond} {
			front, _ := pair(t)
			if err := front.SetDeadline(time.Now().Add(wait)); err != nil {
				t.Fatal(err)
			}
			if _, err := NewConn(front).Do(nil, zeros(size), size, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Do() with a body of %d bytes and %v = %v", size, wait, err)
			}
		}
	}
}

func TestArrived(t *testing.T) {
	out := func(s string) string { return rec(kindStdout, 1, s, paddingFor(len(s))) }
	rows := []struct {
		name  string
		first string // what comes with the first byte
		want  bool
	}{
		{"all of it", out("hello") + endOK, true},
		{"nothing but the end", endOK, true},
		{"several records", out("a") + rec(kindStderr, 1, "uh", 6) + out("") + out("b") + endOK, true},
		{"all but the last byte", out("hello") + endOK[:len(endOK)-1], false},
		{"all but the end", out("hello"), false},
		{"a part of a record", out("hello")[:10], false},
		{"another version", out("hello") + "\x02" + endOK[1:], false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r, err := NewConn(&scriptConn{input: strings.NewReader(row.first)}).Do(nil, nil, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Arrived(); got != row.want {
				t.Errorf("Arrived() after %q = %t, want %t", row.first, got, row.want)
			}
			if _, err := io.ReadAll(r); !r.Arrived() {
				t.Errorf("Arrived() after the response has ended with %v = false", err)
			}
		})
	}
}

func TestCloseBeforeTheEndClosesTheConnection(t *testing.T) {
	front, app := pair(t)
	go func() { _, _ = io.WriteString(app, rec(kindStdout, 1, "abc", 0)) }()
	c := NewConn(front)
	r, err := c.Do(nil, zeros(64<<20), 64<<20, nil) // nobody reads it: Close must end the sender
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, errClosed) || c.Usable() {
		t.Errorf("Read() after Close = %v, usable: %t", err, c.Usable())
	}
}

func TestCloseOfTheConnEndsDo(t *testing.T) {
	front, app := pair(t)
	c := NewConn(front)
	go func() {
		in := newReader(app)
		_, _ = readRequest(&in)
		_ = c.Close() // as the owner of the child does when that has exited
	}()
	if _, err := c.Do(nil, nil, 0, nil); !errors.Is(err, ErrNoResponse) {
		t.Errorf("Do() = %v, want ErrNoResponse", err)
	}
}

func TestProbe(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		want   error
	}{
		"values":                  {rec(kindGetValuesResult, 0, "\x0f\x01FCGI_MPXS_CONNS0", 4), nil},
		"no value":                {rec(kindGetValuesResult, 0, "", 0), nil},
		"a program that is dated": {rec(kindUnknownType, 0, "\x09\x00\x00\x00\x00\x00\x00\x00", 0), nil},
		"a closed connection":     {"", io.ErrUnexpectedEOF},
		"half an answer":          {rec(kindGetValuesResult, 0, "\x0f\x01FCGI", 0)[:12], io.ErrUnexpectedEOF},
		"a response":              {rec(kindStdout, 1, "", 0), ErrProtocol},
		"not FastCGI":             {"220 mail.example.com ESMTP\r\n", ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			nc := &scriptConn{input: strings.NewReader(tt.answer)}
			if err := Probe(nc); !errors.Is(err, tt.want) {
				t.Errorf("Probe() = %v, want %v", err, tt.want)
			}
			if len(nc.writes) != 1 || !strings.HasPrefix(nc.writes[0], "\x01\x09\x00\x00") {
				t.Errorf("Probe() wrote %q", nc.writes)
			}
		})
	}
}

// scriptConn is a connection whose peer says input, whatever it hears.
type scriptConn struct {
	net.Conn
	input  io.Reader
	writes []string
}

func (c *scriptConn) Read(p []byte) (int, error) { return c.input.Read(p) }

func (c *scriptConn) Write(p []byte) (int, error) {
	c.writes = append(c.writes, string(p))
	return len(p), nil
}

func (c *scriptConn) Close() error { return nil }

// modelResponse says what a response means, in the simplest way: the STDOUT content, and whether it is complete.
func modelResponse(data []byte) (out []byte, complete bool) {
	for len(data) >= headerSize {
		length, pad := int(data[4])<<8|int(data[5]), int(data[6])
		if data[0] != version || data[2] != 0 || data[3] != requestID {
			return out, false
		}
		kind, content := kind(data[1]), data[headerSize:]
		whole := len(content) >= length
		content = content[:min(length, len(content))]
		switch {
		case kind == kindStdout:
			out = append(out, content...)
		case kind == kindEnd:
			return out, whole && length == endSize && content[4] == 0
		case kind != kindStderr:
			return out, false
		}
		data = data[min(headerSize+length+pad, len(data)):]
	}
	return out, false
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte(rec(kindStdout, 1, "abc", 5)+rec(kindStderr, 1, "x", 0)+endOK), 100)
	f.Add([]byte(endOK+endOK), 0)
	f.Add([]byte(rec(kindStdout, 1, "abc", 0)), 2)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		c := NewConn(&scriptConn{input: &pieceReader{data: data, size: size}})
		got, err := roundTrip(c, nil)
		want, complete := modelResponse(data)
		if !bytes.Equal(got, want) || (err == nil) != complete {
			t.Errorf("the response to %q is %q, %v; want %q, complete: %t", data, got, err, want, complete)
		}
		if err != nil && c.Usable() {
			t.Errorf("the connection is usable after %v", err)
		}
	})
}
