package wsgi

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"gateway/proxy/fcgi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds everything that a test waits for.
const patience = 60 * time.Second

// child is a real Python, started as the supervisor starts it.
type child struct {
	cmd    *exec.Cmd
	socket string
	output *output
	exited chan struct{}
}

// start runs an application of testdata.
func start(t testing.TB, application string, threads int) *child {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return startIn(t, python(t), dir, application, threads)
}

// python prefers the distribution's interpreter, which has the distribution's packages.
func python(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	return path
}

func startIn(t testing.TB, python, dir, application string, threads int) *child {
	t.Helper()
	c := &child{socket: filepath.Join(t.TempDir(), "s"), output: newOutput(), exited: make(chan struct{})}
	l := blockingListener(t, c.socket)
	defer l.Close()
	args, env := Command(python, application, threads)
	c.cmd = &exec.Cmd{
		Path: python, Args: args, Dir: dir,
		Env:   append(env, "PYTHONDONTWRITEBYTECODE=1"),
		Stdin: l, Stdout: c.output, Stderr: c.output,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the child
		_ = c.cmd.Wait()
		close(c.exited)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.exited
		if t.Failed() {
			t.Logf("the child said:\n%s", c.output)
		}
	})
	return c
}

// blockingListener makes the socket by hand, because that of package net would not block.
func blockingListener(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), path)
}

func (c *child) dial(t testing.TB) *fcgi.Conn { return fcgi.NewConn(c.dialRaw(t)) }

func (c *child) dialRaw(t testing.TB) *net.UnixConn {
	t.Helper()
	nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// wait returns the exit status; -1 is a signal.
func (c *child) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-c.exited:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the child does not end")
		return 0
	}
}

// output gathers what a child says.
type output struct {
	mu   sync.Mutex
	more *sync.Cond
	text strings.Builder
}

func newOutput() *output {
	o := &output{}
	o.more = sync.NewCond(&o.mu)
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.more.Broadcast()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await returns when the output has the text.
func (o *output) await(t testing.TB, text string) {
	t.Helper()
	late := false
	timer := time.AfterFunc(patience, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		late = true
		o.more.Broadcast()
	})
	defer timer.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	for !strings.Contains(o.text.String(), text) {
		if late {
			t.Fatalf("the child said %q, want %q", o.text.String(), text)
		}
		o.more.Wait()
	}
}

// request is a request as the front makes it.
func request(method, path string, body []byte, more ...fcgi.Param) []fcgi.Param {
	params := []fcgi.Param{
		{Name: "GATEWAY_INTERFACE", Value: "CGI/1.1"}, {Name: "SERVER_SOFTWARE", Value: "gateway"}, {Name: "REDIRECT_STATUS", Value: "200"},
		{Name: "SCRIPT_NAME", Value: "/shop"}, {Name: "PATH_INFO", Value: path}, {Name: "SERVER_PROTOCOL", Value: "HTTP/1.1"},
		{Name: "REQUEST_METHOD", Value: method}, {Name: "REQUEST_URI", Value: "/shop" + path}, {Name: "QUERY_STRING", Value: ""},
		{Name: "HTTP_HOST", Value: "example.com"}, {Name: "REQUEST_SCHEME", Value: "http"}, {Name: "SERVER_ADDR", Value: "127.0.0.1"},
		{Name: "SERVER_PORT", Value: "8080"}, {Name: "SERVER_NAME", Value: "example.com"}, {Name: "REMOTE_ADDR", Value: "127.0.0.1"},
		{Name: "REMOTE_PORT", Value: "43210"}, {Name: "HTTP_USER_AGENT", Value: "test"}, {Name: "HTTP_ACCEPT", Value: "*/*"},
	}
	if body != nil {
		params = append(params, fcgi.Param{Name: "CONTENT_LENGTH", Value: strconv.Itoa(len(body))},
			fcgi.Param{Name: "CONTENT_TYPE", Value: "application/octet-stream"})
	}
	return append(params, more...)
}

// answer is what came of a request.
type answer struct {
	status int
	header http.Header
	body   string
	stderr string
	err    error
}

func ask(c *fcgi.Conn, params []fcgi.Param, body []byte) answer {
	var stderr strings.Builder
	resp, err := c.Do(params, bytes.NewReader(body), int64(len(body)), func(b []byte) { stderr.Write(b) })
	if err != nil {
		return answer{stderr: stderr.String(), err: err}
	}
	defer resp.Close()
	r := bufio.NewReader(resp)
	a := answer{}
	if a.status, a.header, a.err = fcgi.ParseHeader(r); a.err == nil {
		var b []byte
		b, a.err = io.ReadAll(r)
		a.body = string(b)
	}
	a.stderr = stderr.String()
	return a
}

func get(c *fcgi.Conn, path string, more ...fcgi.Param) answer {
	return ask(c, request("GET", path, nil, more...), nil)
}

func TestResponses(t *testing.T) {
	c := start(t, "app", 1).dial(t) // for all of it
	upload := bytes.Repeat([]byte("0123456789abcde\n"), 20<<20/16)
	large := bytes.Repeat(allBytes(), 20<<12)
	tests := []struct {
		name   string
		path   string
		method string // "": GET
		body   []byte
		more   []fcgi.Param
		status int // 0: 200
		want   string
		length string // Content-Length; "": none
		stderr string // contained
	}{
		{name: "hello", path: "/plain", want: "hello", length: "5"},
		{name: "HEAD has no body, but its length", path: "/plain", method: "HEAD", length: "5"},
		{name: "HEAD of a generator has no length", path: "/generator", method: "HEAD"},
		{name: "a small body", path: "/echo", method: "POST", body: []byte("abc"), want: "abc", length: "3"},
		{name: "an empty body", path: "/echo", method: "POST", body: []byte{}, length: "0"},
		{name: "a body of 100 KiB", path: "/echo", method: "POST", body: upload[:100<<10], want: string(upload[:100<<10]), length: "102400"},
		{name: "20 MiB up", path: "/count", method: "POST", body: upload, want: "20971520", length: "8"},
		{name: "20 MiB up, unread", path: "/unread", method: "POST", body: upload, want: "not read", length: "8"},
		{name: "20 MiB up, of which three bytes are read", path: "/some_read", method: "POST", body: upload, want: "012", length: "3"},
		{name: "a small body, unread", path: "/unread", method: "POST", body: []byte("abc"), want: "not read", length: "8"},
		{name: "lines of a body", path: "/lines", method: "POST", body: []byte("a\nbcdef\ng\nh\ni\nj"),
			want: `(b'g\n', b'a\n', b'bcd', [b'ef\n'], [b'h\n', b'i\n', b'j'], b'', b'')`, length: "69"},
		{name: "a generator, whose length the front finds out", path: "/generator", want: "one two"},
		{name: "start_response from within a generator", path: "/late_start", want: "late"},
		{name: "an empty list", path: "/nothing", length: "0"},
		{name: "no content has no length", path: "/no_content", status: 204},
		{name: "a length that the application gave", path: "/own_length", want: "abc", length: "3"},
		{name: "write", path: "/with_write", want: "written returned"},
		{name: "20 MiB in one block", path: "/big", want: string(large), length: strconv.Itoa(len(large))},
		{name: "20 MB in blocks", path: "/many", want: strings.Repeat("x", 1000*20<<10)},
		{name: "a file", path: "/file", want: strings.Repeat("0123456789", 10000)},
		{name: "the file was closed", path: "/closed_names", want: "file", length: "4"},
		{name: "an exception", path: "/raises", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "LookupError: before\n"},
		{name: "an exception after start_response", path: "/raises_after_start", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "LookupError: after start\n"},
		{name: "an exception on HEAD", path: "/raises", method: "HEAD", status: 500, stderr: "LookupError: before\n"},
		{name: "an exception in close", path: "/raises_in_close", want: "whole", stderr: "ZeroDivisionError"},
		{name: "sys.exit", path: "/exits", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "SystemExit: 5\n"},
		{name: "start_response is not called", path: "/no_start", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "output before start_response"},
		{name: "start_response is not called, and no output", path: "/no_start_empty", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "did not call start_response"},
		{name: "text for bytes", path: "/text", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "must be bytes, not str"},
		{name: "start_response called twice", path: "/twice", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "twice without exc_info"},
		{name: "start_response with exc_info replaces the head", path: "/replaced", status: 503, want: "replaced", length: "8"},
		{name: "a header that is two", path: "/split", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "line breaks"},
		{name: "a status that is two lines", path: "/split_status", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "line breaks"},
		{name: "a status without a number", path: "/bad_status", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "status 'OK'"},
		{name: "a header that is a number", path: "/bad_value", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "expected str instance, int found"},
		{name: "a header of ISO 8859-1", path: "/latin", want: "x", length: "1"},
		{name: "a header of other letters", path: "/not_latin", status: 500, want: "500 Internal Server Error\n", length: "26", stderr: "UnicodeEncodeError"},
		{name: "wsgi.errors", path: "/errors", want: "x", length: "1", stderr: "one line\ncaf\u00e9 \\ud800\nno end"},
		{name: "200 KB to wsgi.errors", path: "/many_errors", want: "x", length: "1", stderr: strings.Repeat("e", 200000) + "\n"},
		{name: "a program that the application starts has nothing of ours", path: "/descriptors", want: "[] /dev/null False\n", length: "19"},
		{name: "copies of the process end", path: "/forks", want: "256 15", length: "6"},
		{name: "parameters of 300 KB", path: "/plain", more: bigParams(), want: "hello", length: "5"},
		{name: "hello again", path: "/plain", want: "hello", length: "5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			method, status := tt.method, tt.status
			if method == "" {
				method = "GET"
			}
			if status == 0 {
				status = 200
			}
			a := ask(c, request(method, tt.path, tt.body, tt.more...), tt.body)
			if a.err != nil || a.status != status || a.body != tt.want || !c.Usable() {
				t.Fatalf("%s %s gave %d, %d bytes: %.60q, %v; want %d, %d bytes: %.60q; stderr %.1000s",
					method, tt.path, a.status, len(a.body), a.body, a.err, status, len(tt.want), tt.want, a.stderr)
			}
			if got := a.header.Get("Content-Length"); got != tt.length {
				t.Errorf("%s %s has Content-Length %q, want %q", method, tt.path, got, tt.length)
			}
			if !strings.Contains(a.stderr, tt.stderr) || tt.stderr == "" && a.stderr != "" {
				t.Errorf("%s %s said %.2000q, want %.200q", method, tt.path, a.stderr, tt.stderr)
			}
			if strings.Contains(a.stderr, "gateway wsgi") {
				t.Errorf("%s %s: the traceback shows the shim: %s", method, tt.path, a.stderr)
			}
		})
	}
}

func allBytes() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func bigParams() []fcgi.Param {
	params := []fcgi.Param{{Name: "HTTP_LARGE", Value: strings.Repeat("v", 65000)}}
	for i := range 240 {
		params = append(params, fcgi.Param{Name: "HTTP_X" + strconv.Itoa(i), Value: strings.Repeat("v", 1000)})
	}
	return params
}

// TestConnectionIsCut: a response that can't be completed must not look complete.
func TestConnectionIsCut(t *testing.T) {
	child := start(t, "app", 1)
	for path, want := range map[string]string{
		"/raises_sent":   "LookupError: sent\n",
		"/replaced_late": "LookupError: too late\n",
	} {
		t.Run(path, func(t *testing.T) {
			a := get(child.dial(t), path)
			if !errors.Is(a.err, fcgi.ErrTruncated) || a.status != 200 || !strings.Contains(a.stderr, want) {
				t.Errorf("GET %s gave %d, %v, %q; want 200, ErrTruncated, %q", path, a.status, a.err, a.stderr, want)
			}
		})
	}
	if a := get(child.dial(t), "/closed_names"); a.body != "sent" {
		t.Errorf("close was called on %q, want sent; %v", a.body, a.err)
	}
}
