package fcgi

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests talk to the real php-cgi, one child each, started as a supervisor starts it.

type phpCGI struct {
	cmd    *exec.Cmd
	socket string
	dir    string // scripts
}

// startPHP runs php-cgi with a listening socket on descriptor 0. The socket must block: php-cgi ends when accept says EAGAIN.
func startPHP(t testing.TB) *phpCGI {
	t.Helper()
	path, err := exec.LookPath("php-cgi")
	if err != nil {
		t.Skip("php-cgi is not installed")
	}
	dir := t.TempDir()
	p := &phpCGI{socket: filepath.Join(dir, "s"), dir: dir}
	l := blockingListener(t, p.socket)
	defer l.Close()
	p.cmd = exec.Command(path, "-d", "cgi.fix_pathinfo=1", "-d", "memory_limit=256M", "-d", "post_max_size=100M", "-d", "error_log=")
	p.cmd.Env = []string{"PHP_FCGI_MAX_REQUESTS=0"}
	p.cmd.Stdin = l
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *phpCGI) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func blockingListener(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), path)
}

func (p *phpCGI) dial(t testing.TB) net.Conn {
	t.Helper()
	nc, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// script writes a script and returns the variables of a request for it.
func (p *phpCGI) script(t testing.TB, method string, bodyLen int, code string) []Param {
	t.Helper()
	f, err := os.CreateTemp(p.dir, "*.php")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, "<?php "+code); err != nil {
		t.Fatal(err)
	}
	return []Param{
		{"SCRIPT_FILENAME", f.Name()}, {"REQUEST_METHOD", method}, {"QUERY_STRING", ""}, {"REDIRECT_STATUS", "200"},
		{"CONTENT_TYPE", "application/octet-stream"}, {"CONTENT_LENGTH", strconv.Itoa(bodyLen)}, {"SERVER_PROTOCOL", "HTTP/1.1"},
	}
}

// ask asks for a script and returns the response.
func (p *phpCGI) ask(c *Conn, params []Param, body []byte) (status int, content string, stderr string, err error) {
	var said strings.Builder
	resp, err := c.Do(params, bytes.NewReader(body), int64(len(body)), func(b []byte) { said.Write(b) })
	if err != nil {
		return 0, "", said.String(), err
	}
	r := bufio.NewReader(resp)
	status, _, err = ParseHeader(r)
	if err != nil {
		return 0, "", said.String(), err
	}
	b, err := io.ReadAll(r)
	_ = resp.Close()
	return status, string(b), said.String(), err
}

func TestPHP(t *testing.T) {
	p := startPHP(t)
	c := NewConn(p.dial(t)) // for all of it
	upload := bytes.Repeat([]byte("0123456789abcde\n"), 5<<20/16)
	sum := fmt.Sprintf("%x", md5.Sum(upload))
	tests := []struct {
		name   string
		method string
		body   []byte
		more   []Param
		code   string
		status int
		want   string
		stderr string // contained
	}{
		{name: "hello", method: "GET", code: `echo "hello";`, want: "hello"},
		{name: "HEAD has no body", method: "HEAD", code: `header("X-A: b"); echo "hello";`},
		{name: "a status", method: "GET", code: `http_response_code(404); echo "no";`, status: 404, want: "no"},
		{name: "a redirect", method: "GET", code: `header("Location: /x");`, status: 302},
		{name: "a small body", method: "POST", body: []byte("abc"), code: `echo file_get_contents("php://input");`, want: "abc"},
		{name: "5 MiB up", method: "POST", body: upload, code: `echo md5(file_get_contents("php://input"));`, want: sum},
		{name: "5 MiB that nobody reads", method: "POST", body: upload, code: `echo "no";`, want: "no"},
		{name: "5 MiB out before 5 MiB in", method: "POST", body: upload,
			code: `echo str_repeat("x", 5<<20); flush(); echo strlen(file_get_contents("php://input"));`, want: strings.Repeat("x", 5<<20) + "5242880"},
		{name: "30 MiB out", method: "GET", code: `for ($i = 0; $i < 480; $i++) echo str_repeat(chr(97 + $i % 26), 65536);`, want: letters(480)},
		{name: "a parameter that fills its record", method: "GET", more: []Param{{"X", strings.Repeat("y", maxContent-6)}},
			code: `echo strlen($_SERVER["X"]);`, want: strconv.Itoa(maxContent - 6)},
		{name: "300 parameters of 1 KiB", method: "GET", more: many(300), code: `echo strlen($_SERVER["P0"] . $_SERVER["P299"]);`, want: "2048"},
		{name: "messages and output", method: "GET", code: `error_log("uh oh"); echo "a"; flush(); error_log("again"); echo "b";`, want: "ab", stderr: "uh oh"},
		{name: "a fatal error", method: "GET", code: `ini_set("display_errors", "0"); nothing();`, status: 500, stderr: "nothing()"},
		{name: "an exit status", method: "GET", code: `echo "a"; exit(3);`, want: "a"},
		{name: "hello again, on the same connection", method: "GET", code: `echo "hello";`, want: "hello"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			params := append(p.script(t, tt.method, len(tt.body), tt.code), tt.more...)
			status, got, stderr, err := p.ask(c, params, tt.body)
			if err != nil || status != tt.status || got != tt.want || !c.Usable() {
				t.Errorf("%s gave %d, %d bytes: %.60q, %v; want %d, %d bytes: %.60q", tt.code, status, len(got), got, err, tt.status, len(tt.want), tt.want)
			}
			if !strings.Contains(stderr, tt.stderr) || tt.stderr == "" && stderr != "" {
				t.Errorf("%s said %q, want %q", tt.code, stderr, tt.stderr)
			}
		})
	}
}

func letters(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(string(rune('a'+i%26)), 65536))
	}
	return b.String()
}

func many(n int) []Param {
	value := strings.Repeat("v", 1024)
	params := make([]Param, n)
	for i := range params {
		params[i] = Param{"P" + strconv.Itoa(i), value}
	}
	return params
}

func TestPHPKeepsTheConnection(t *testing.T) {
	p := startPHP(t)
	c := NewConn(p.dial(t))
	params := p.script(t, "POST", 4, `echo getmypid(), file_get_contents("php://input");`)
	for i := range 500 {
		body := fmt.Sprintf("%04d", i)
		if _, got, _, err := p.ask(c, params, []byte(body)); err != nil || got != strconv.Itoa(p.cmd.Process.Pid)+body {
			t.Fatalf("request %d: %q, %v", i, got, err)
		}
	}
}

func TestPHPDies(t *testing.T) {
	die := `posix_kill(getmypid(), 9);`
	if out, err := exec.Command("php-cgi", "-m").Output(); err == nil && !bytes.Contains(out, []byte("posix")) {
		t.Skip("php-cgi has no posix_kill")
	}
	upload := make([]byte, 5<<20)
	for name, tt := range map[string]struct {
		code string
		body []byte
		want error
	}{
		"before the response":                      {die, nil, ErrNoResponse},
		"before the response, with a message":      {`error_log("uh oh");` + die, nil, ErrNoResponse},
		"before the response, with an unread body": {die, upload, ErrNoResponse},
		"in the middle of the response":            {`echo "abc"; while (ob_get_level()) ob_end_flush(); flush();` + die, nil, ErrTruncated},
		"in the middle, with an unread body":       {`echo "abc"; while (ob_get_level()) ob_end_flush(); flush();` + die, upload, ErrTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			p := startPHP(t)
			c := NewConn(p.dial(t))
			params := p.script(t, "POST", len(tt.body), tt.code)
			if _, got, _, err := p.ask(c, params, tt.body); !errors.Is(err, tt.want) || c.Usable() {
				t.Errorf("the response is %q, %v; want %v", got, err, tt.want)
			}
		})
	}
	t.Run("between two requests", func(t *testing.T) {
		p := startPHP(t)
		c := NewConn(p.dial(t))
		params := p.script(t, "GET", 0, `echo "a";`)
		if _, _, _, err := p.ask(c, params, nil); err != nil {
			t.Fatal(err)
		}
		p.kill()
		if _, _, _, err := p.ask(c, params, nil); !errors.Is(err, ErrNotSent) {
			t.Errorf("the request ended with %v, want ErrNotSent", err)
		}
	})
}

func TestPHPIsProbed(t *testing.T) {
	p := startPHP(t)
	if err := Probe(p.dial(t)); err != nil {
		t.Error(err)
	}
	p.kill()
	nc, err := net.Dial("unix", p.socket)
	if err == nil {
		defer nc.Close()
		err = Probe(nc)
	}
	if err == nil {
		t.Error("a dead child was found ready")
	}
}

// BenchmarkPHP is a request to a real child, as the front makes it.
func BenchmarkPHP(b *testing.B) {
	for name, code := range map[string]string{
		"hello": `echo "hello";`,
		"30MiB": `for ($i = 0; $i < 480; $i++) echo str_repeat("x", 65536);`,
	} {
		b.Run(name, func(b *testing.B) {
			p := startPHP(b)
			c := NewConn(p.dial(b))
			params := p.script(b, "GET", 0, code)
			b.ReportAllocs()
			for b.Loop() {
				resp, err := c.Do(params, nil, 0, nil)
				if err != nil {
					b.Fatal(err)
				}
				n, err := resp.WriteTo(io.Discard)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
			}
		})
	}
}
