package wsgi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gateway/proxy/fcgi"
)

// TestThreads: four requests wait for each other, on four connections.
func TestThreads(t *testing.T) {
	child := start(t, "app", 4)
	var wg sync.WaitGroup
	var mu sync.Mutex
	names := map[string]bool{}
	for range 4 {
		c := child.dial(t)
		wg.Go(func() {
			a := get(c, "/meets")
			mu.Lock()
			defer mu.Unlock()
			names[a.body] = true
		})
	}
	wg.Wait()
	for i := range 4 {
		if want := fmt.Sprintf("request-%d", i); !names[want] {
			t.Errorf("the requests were answered by %v, want %s among them", names, want)
		}
	}
}

// TestStreaming: each block can be read before the application makes the next one.
func TestStreaming(t *testing.T) {
	child := start(t, "app", 1)
	for _, path := range []string{"/stepwise", "/unbuffered"} {
		t.Run(path, func(t *testing.T) {
			step := filepath.Join(t.TempDir(), "step")
			c := child.dial(t)
			params := append(request("GET", path, nil), fcgi.Param{Name: "STEP", Value: step})
			touch(t, step+"0")
			resp, err := c.Do(params, nil, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Close()
			got := ""
			for i := range 3 {
				buf := make([]byte, 1000)
				for !strings.HasSuffix(got, fmt.Sprintf("step %d", i)) {
					n, err := resp.Read(buf)
					if err != nil {
						t.Fatalf("after %q: %v", got, err)
					}
					got += string(buf[:n])
				}
				touch(t, fmt.Sprintf("%s%d", step, i+1))
			}
		})
	}
}

func touch(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBodyArrivesLate: the application runs while its body is on the way.
func TestBodyArrivesLate(t *testing.T) {
	c := start(t, "app", 1).dial(t)
	body, feed := io.Pipe()
	params := request("POST", "/late_body", nil, fcgi.Param{Name: "CONTENT_LENGTH", Value: "100000"})
	done := make(chan error, 1)
	go func() { // ends with the response
		defer close(done)
		resp, err := c.Do(params, body, 100000, nil)
		if err != nil {
			done <- err
			return
		}
		defer resp.Close()
		// The application answers before it reads, so the second half is sent only now.
		if _, err = feed.Write(make([]byte, 30000)); err == nil {
			var out []byte
			out, err = io.ReadAll(resp)
			if err == nil && !bytes.HasSuffix(out, []byte("first 100000")) {
				err = fmt.Errorf("the response ends with %.80q", out)
			}
		}
		done <- err
	}()
	if _, err := feed.Write(make([]byte, 70000)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBodyEndsEarly(t *testing.T) {
	child := start(t, "app", 1)
	c := child.dial(t)
	_, err := c.Do(request("POST", "/echo", make([]byte, 200000)), bytes.NewReader(make([]byte, 100000)), 200000, nil)
	if !errors.Is(err, fcgi.ErrBody) {
		t.Errorf("the request ended with %v, want ErrBody", err)
	}
	if a := get(child.dial(t), "/plain"); a.body != "hello" { // the only thread is free again
		t.Errorf("afterwards: %d, %q, %v", a.status, a.body, a.err)
	}
	if said := child.output.String(); said != "" {
		t.Errorf("the child said %q", said)
	}
}

// TestBodyWithoutLength: the body ends where its records do, and what has more than its length is cut.
func TestBodyWithoutLength(t *testing.T) {
	c := start(t, "app", 1).dial(t)
	for _, n := range []int{0, 3, 70000} {
		body := bytes.Repeat([]byte("x"), n)
		if a := ask(c, request("POST", "/echo", nil), body); a.body != string(body) {
			t.Errorf("%d bytes without length: %d, %d bytes, %v", n, a.status, len(a.body), a.err)
		}
		length := fcgi.Param{Name: "CONTENT_LENGTH", Value: "2"}
		if a := ask(c, request("POST", "/echo", nil, length), body); a.body != string(body[:min(2, n)]) {
			t.Errorf("%d bytes with length 2: %d, %q, %v", n, a.status, a.body, a.err)
		}
	}
}

func TestInputAfterItsRequest(t *testing.T) {
	c := start(t, "app", 1).dial(t)
	body := make([]byte, 200000)
	if a := ask(c, request("POST", "/late_read", body), body); a.body != "wait" {
		t.Fatalf("%d, %q, %v", a.status, a.body, a.err)
	}
	if a := get(c, "/late_read"); !strings.Contains(a.body, "after the end of its request") {
		t.Errorf("a late read gave %q, %v, %s", a.body, a.err, a.stderr)
	}
}

// TestErrorsAfterTheirRequest: with another request in progress the lines are logged with that, and without one with the child.
func TestErrorsAfterTheirRequest(t *testing.T) {
	child := start(t, "app", 1)
	c := child.dial(t)
	if a := get(c, "/late_errors"); a.body != "x" || a.stderr != "" {
		t.Fatalf("%d, %q, %q, %v", a.status, a.body, a.stderr, a.err)
	}
	child.output.await(t, "afterwards\n")
	if a := get(c, "/late_errors"); a.body != "x" || a.stderr != "between\n" {
		t.Errorf("%d, %q, %q, %v", a.status, a.body, a.stderr, a.err)
	}
}

func TestPrintedLinesComeAtOnce(t *testing.T) {
	child := start(t, "app", 1)
	get(child.dial(t), "/printed")
	child.output.await(t, "printed\n")
}

// TestFrontIsReplaced: threads that lose their connection take the next one, whatever they were doing.
func TestFrontIsReplaced(t *testing.T) {
	child := start(t, "app", 2)
	step := filepath.Join(t.TempDir(), "step")
	for range 3 {
		idle, busy := child.dial(t), child.dial(t)
		if a := get(idle, "/plain"); a.body != "hello" {
			t.Fatalf("%d, %q, %v", a.status, a.body, a.err)
		}
		touch(t, step+"0")
		resp, err := busy.Do(append(request("GET", "/unbuffered", nil), fcgi.Param{Name: "STEP", Value: step}), nil, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = idle.Close()
		_ = resp.Close() // before its end: closes busy
		touch(t, step+"1")
		touch(t, step+"2")
	}
	for range 2 { // both threads are there
		if a := get(child.dial(t), "/plain"); a.body != "hello" {
			t.Errorf("%d, %q, %v", a.status, a.body, a.err)
		}
	}
}

func TestTerminate(t *testing.T) {
	t.Run("idle threads end at once", func(t *testing.T) {
		child := start(t, "app", 4)
		for range 2 { // two wait for a request, two for a connection
			if a := get(child.dial(t), "/plain"); a.body != "hello" {
				t.Fatalf("%d, %q, %v", a.status, a.body, a.err)
			}
		}
		child.terminate(t)
	})
	t.Run("a forked process goes on", func(t *testing.T) {
		child := start(t, "app", 4)
		if a := get(child.dial(t), "/leaves_copy"); a.body != "left" {
			t.Fatalf("%d, %q, %v", a.status, a.body, a.err)
		}
		child.terminate(t)
	})
	t.Run("requests in progress are finished", func(t *testing.T) {
		child := start(t, "app", 3)
		step := filepath.Join(t.TempDir(), "step")
		touch(t, step+"0")
		c := child.dial(t)
		resp, err := c.Do(append(request("GET", "/unbuffered", nil), fcgi.Param{Name: "STEP", Value: step}), nil, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Close()
		idle := child.dialRaw(t)
		if err := fcgi.Probe(idle); err != nil {
			t.Fatal(err)
		}
		child.signal(t, syscall.SIGTERM)
		if _, err := idle.Read(make([]byte, 1)); err != io.EOF { // the stop has begun
			t.Fatalf("the idle connection: %v, want its end", err)
		}
		child.signal(t, syscall.SIGTERM) // as the supervisor repeats it
		touch(t, step+"1")
		touch(t, step+"2")
		out, err := io.ReadAll(resp)
		if err != nil || !bytes.HasSuffix(out, []byte("step 0step 1step 2")) {
			t.Errorf("the request in progress gave %q, %v", out, err)
		}
		if got := child.wait(t); got != 0 {
			t.Errorf("exit status %d, want 0", got)
		}
	})
	t.Run("requests that were sent before are answered", func(t *testing.T) {
		child := start(t, "app", 1)
		first, step := child.dial(t), filepath.Join(t.TempDir(), "step")
		touch(t, step+"0")
		resp, err := first.Do(append(request("GET", "/unbuffered", nil), fcgi.Param{Name: "STEP", Value: step}), nil, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Close()
		second := child.dial(t) // waits in the backlog
		answers := make(chan answer, 1)
		go func() { answers <- get(second, "/plain") }()
		_ = first.Close()
		touch(t, step+"1")
		touch(t, step+"2")
		if a := <-answers; a.body != "hello" {
			t.Errorf("%d, %q, %v", a.status, a.body, a.err)
		}
		child.terminate(t)
	})
}

func (c *child) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// terminate wants the child to end in peace, and at once.
func (c *child) terminate(t testing.TB) {
	t.Helper()
	c.signal(t, syscall.SIGTERM)
	if got := c.wait(t); got != 0 || c.output.String() != "" {
		t.Errorf("exit status %d, want 0; it said %q", got, c.output)
	}
}

// Records by hand, for what the client does not send.

func rec(kind byte, id uint16, content string) string {
	b := []byte{1, kind}
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(content)))
	return string(append(b, 3, 0)) + content + "pad"
}

func begin(id uint16, role, flags byte) string {
	return rec(1, id, string([]byte{0, role, flags, 0, 0, 0, 0, 0}))
}

func pair(name, value string) string {
	return string([]byte{byte(len(name)), byte(len(value))}) + name + value
}

// plainRequest is a whole request in records that are cut up as no front would.
func plainRequest(id uint16, flags byte) string {
	params := pair("PATH_INFO", "/echo") + pair("REQUEST_METHOD", "POST") + pair("CONTENT_LENGTH", "4")
	return begin(id, 1, flags) + rec(4, id, params[:5]) + rec(4, id, params[5:]) + rec(4, id, "") +
		rec(5, id, "a") + rec(5, id, "bcd") + rec(5, id, "")
}

const (
	complete = "\x01\x03\x00\x01\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	echoed   = "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nabcd"
)

func TestRecords(t *testing.T) {
	child := start(t, "app", 2)
	out := func(id uint16, content string) string {
		return strings.Replace(rec(6, id, content), "\x03\x00", "\x00\x00", 1)[:8+len(content)]
	}
	end := func(id uint16, status byte) string {
		return string([]byte{1, 3, byte(id >> 8), byte(id), 0, 8, 0, 0, 0, 0, 0, 0, status, 0, 0, 0})
	}
	good := out(1, echoed) + out(1, "") + complete
	tests := []struct {
		name string
		sent string
		want string
	}{
		{"nothing", "", ""},
		{"half a header", "\x01\x01\x00", ""},
		{"a request in pieces", plainRequest(1, 1), good},
		{"two requests at once", plainRequest(1, 1) + plainRequest(1, 1), good + good},
		{"another number", plainRequest(700, 1), out(700, echoed) + out(700, "") + end(700, 0)},
		{"without keep-alive the next one is not answered", plainRequest(1, 0) + plainRequest(1, 1), good},
		{"the wrong version", "\x02" + plainRequest(1, 1)[1:], ""},
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		{"another role, then a request", begin(1, 2, 1) + rec(4, 1, "") + rec(5, 1, "") + plainRequest(1, 1), end(1, 3) + good},
		{"another role without keep-alive", begin(1, 3, 0) + plainRequest(1, 1), end(1, 3)},
		{"a short begin", rec(1, 1, "abc"), ""},
		{"a second request while the first is read", begin(1, 1, 1) + begin(2, 1, 1) + plainRequest(1, 1)[19:], end(2, 1) + good},
		{"a second request in the body of the first", strings.Replace(plainRequest(1, 1), rec(5, 1, "bcd"), begin(2, 1, 1)+rec(5, 2, "xy")+rec(5, 1, "bcd"), 1), end(2, 1) + good},
		{"the same request twice", begin(1, 1, 1) + begin(1, 1, 1), ""},
		{"an aborted request", begin(1, 1, 1) + rec(2, 1, "") + plainRequest(1, 1), end(1, 0) + good},
		{"aborted in its body", strings.Replace(plainRequest(1, 1), rec(5, 1, "bcd"), rec(2, 1, ""), 1), ""},
		{"a body before the parameters", begin(1, 1, 1) + rec(5, 1, "abc"), ""},
		{"an unknown record in a body", strings.Replace(plainRequest(1, 1), rec(5, 1, "bcd"), rec(9, 1, ""), 1), ""},
		{"records of no request, then a request", rec(5, 1, "abc") + rec(4, 9, "abc") + plainRequest(1, 1), good},
		{"parameters that are cut off", begin(1, 1, 1) + rec(4, 1, "\x05\x05abc") + rec(4, 1, ""), ""},
		{"parameter lengths that are cut off", begin(1, 1, 1) + rec(4, 1, "\x81\x00") + rec(4, 1, ""), ""},
		{"an enormous parameter length", begin(1, 1, 1) + rec(4, 1, "\xff\xff\xff\xff\xff\xff\xff\xffabc") + rec(4, 1, ""), ""},
		{"too many parameters", begin(1, 1, 1) + strings.Repeat(rec(4, 1, strings.Repeat(pair("n", "v"), 5000)), 60), ""},
		{"values that are asked for", rec(9, 0, pair("FCGI_MAX_CONNS", "")+pair("X", "")+pair("FCGI_MPXS_CONNS", "")) + plainRequest(1, 1),
			"\x01\x0a\x00\x00\x00\x23\x00\x00" + pair("FCGI_MAX_CONNS", "2") + pair("FCGI_MPXS_CONNS", "0") + good},
		{"values in a body", strings.Replace(plainRequest(1, 1), rec(5, 1, "bcd"), rec(9, 0, pair("FCGI_MAX_REQS", ""))+rec(5, 1, "bcd"), 1),
			"\x01\x0a\x00\x00\x00\x10\x00\x00" + pair("FCGI_MAX_REQS", "2") + good},
		{"an unknown management record", rec(77, 0, "abc") + plainRequest(1, 1), "\x01\x0b\x00\x00\x00\x08\x00\x00\x4d\x00\x00\x00\x00\x00\x00\x00" + good},
		{"a request numbered 0", begin(0, 1, 1), ""},
		{"garbage", strings.Repeat("\x01\x07\x00\x01\xff\xff\xff\xff", 1000), ""},
	}
	for _, tt := range tests {
		for piece, name := range map[int]string{1 << 20: "whole", 7: "in pieces"} {
			if len(tt.sent) > 10000 && piece < 10 {
				continue
			}
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				if got := child.converse(t, tt.sent, piece); got != tt.want {
					t.Errorf("%.200q was answered with\n%q, want\n%q", tt.sent, got, tt.want)
				}
			})
		}
	}
	if said := child.output.String(); said != "" {
		t.Errorf("the child said %q", said)
	}
}

// converse sends bytes, no more than so many at a time, and returns all that is answered.
func (c *child) converse(t testing.TB, sent string, piece int) string {
	t.Helper()
	nc := c.dialRaw(t)
	defer nc.Close()
	go func() { // ends with the connection
		for len(sent) > 0 {
			n, err := io.WriteString(nc, sent[:min(piece, len(sent))])
			if err != nil {
				return
			}
			sent = sent[n:]
		}
		_ = nc.CloseWrite()
	}()
	got, err := io.ReadAll(nc)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // it need not have read all
		t.Fatal(err)
	}
	return string(got)
}

// FuzzRecords: whatever arrives, the answer consists of whole records unless an application failed in the middle of its
// output, the child lives, has nothing to say, and answers the next request.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(plainRequest(1, 1)), 0)
	f.Add([]byte(plainRequest(700, 0)), 5)
	f.Add([]byte(begin(1, 2, 1)+rec(2, 1, "")+plainRequest(1, 1)), 9)
	f.Add([]byte(rec(9, 0, pair("FCGI_MAX_CONNS", ""))+begin(1, 1, 1)+begin(2, 1, 1)), 30)
	f.Add([]byte(plainGet), 20)
	f.Add([]byte(plainGet+plainGet), 0)
	child := start(f, "app", 2)
	f.Fuzz(func(t *testing.T, sent []byte, piece int) {
		if piece <= 0 || piece < len(sent)/100 {
			piece = len(sent) + 1
		}
		wantRecords(t, child.converse(t, string(sent), piece))
		if got := child.converse(t, plainRequest(1, 1), 1000); !strings.Contains(got, echoed) {
			t.Fatalf("the next request was answered with %q", got)
		}
		if said := child.output.String(); said != "" {
			t.Fatalf("the child said %q", said)
		}
	})
}

// plainGet is the request that the shim has a short way for.
const plainGet = "\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00" +
	"\x01\x04\x00\x01\x00\x12\x00\x00\x09\x05PATH_INFO/echo\x00\x00" +
	"\x01\x04\x00\x01\x00\x00\x00\x00\x01\x05\x00\x01\x00\x00\x00\x00"

func wantRecords(t *testing.T, answer string) {
	t.Helper()
	for rest := answer; rest != ""; {
		if len(rest) < 8 || rest[0] != 1 {
			t.Fatalf("no record at %q of %q", rest, answer)
		}
		n := 8 + int(rest[4])<<8 + int(rest[5]) + int(rest[6])
		if len(rest) < n {
			t.Fatalf("a record that is cut off at %q of %q", rest, answer)
		}
		rest = rest[n:]
	}
}

// BenchmarkHello is a small request to a real child, as the front makes it: so many threads, each with its own connection.
func BenchmarkHello(b *testing.B) {
	for _, threads := range []int{1, 4, 25} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) { benchmark(b, "app:plain", threads) })
	}
}

// BenchmarkOutput is a response of 20 MiB, in one block and in small ones.
func BenchmarkOutput(b *testing.B) {
	b.Run("block", func(b *testing.B) { benchmark(b, "app:big", 1) })
	b.Run("blocks", func(b *testing.B) { benchmark(b, "app:many", 1) })
}

func benchmark(b *testing.B, application string, threads int) {
	child := start(b, application, threads)
	params := request("GET", "/", nil,
		fcgi.Param{Name: "HTTP_ACCEPT_ENCODING", Value: "gzip, deflate, br"}, fcgi.Param{Name: "HTTP_ACCEPT_LANGUAGE", Value: "en-US,en;q=0.5"},
		fcgi.Param{Name: "HTTP_COOKIE", Value: "session=0123456789abcdef0123456789abcdef"}, fcgi.Param{Name: "HTTP_REFERER", Value: "http://example.com/shop/list"})
	requests := make(chan struct{}, threads)
	var wg sync.WaitGroup
	for range threads {
		c := child.dial(b)
		wg.Go(func() {
			for range requests {
				resp, err := c.Do(params, nil, 0, nil)
				if err == nil {
					var n int64
					n, err = resp.WriteTo(io.Discard)
					b.SetBytes(n)
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ResetTimer()
	for range b.N {
		requests <- struct{}{}
	}
	close(requests)
	wg.Wait()
	b.StopTimer()
	child.terminate(b)
	used := child.cmd.ProcessState.UserTime() + child.cmd.ProcessState.SystemTime()
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "child-µs/op") // with its start
}
