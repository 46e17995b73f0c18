package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gateway/mpm"
	"gateway/proxy/fcgi"
	"gateway/routes"
)

const sh = "#!/bin/sh\n"

var cgiFiles = map[string]string{
	"cgi-bin/hello":         sh + `printf 'Content-Type: text/plain\n\nhello'`,
	"cgi-bin/env":           sh + "printf 'Content-Type: text/plain\n\n'\nexec env",
	"cgi-bin/sub/where":     sh + `printf 'Content-Type: text/plain\n\n%s %s %s' "$PWD" "$SCRIPT_NAME" "$PATH_INFO"`,
	"cgi-bin/args":          sh + `printf 'Content-Type: text/plain\n\n%s' "$#"`,
	"cgi-bin/body":          sh + "printf 'Content-Type: text/plain\n\n'\nexec md5sum",
	"cgi-bin/deaf":          sh + `printf 'Content-Type: text/plain\n\nnot read'`,
	"cgi-bin/fds":           sh + "printf 'Content-Type: text/plain\n\n'\nls -l /proc/self/fd | grep -c -e socket: -e anon_inode:",
	"cgi-bin/status":        sh + `printf 'Status: 418 Teapot\nContent-Type: text/plain\nX-A: b\n\nshort and stout'`,
	"cgi-bin/local":         sh + `printf 'Location: /landed?from=local\n\n'`,
	"cgi-bin/loop":          sh + `printf 'Location: /cgi-bin/loop\n\n'`,
	"cgi-bin/client":        sh + `printf 'Location: http://example.com/x\n\n'`,
	"cgi-bin/clientbody":    sh + `printf 'Location: /x\nContent-Type: text/plain\n\nmoved'`,
	"cgi-bin/elsewhere":     sh + `printf 'Location: //example.com/x\n\n'`,
	"cgi-bin/landed":        sh + `printf 'Content-Type: text/plain\n\nlanded %s' "$QUERY_STRING"`,
	"cgi-bin/notype":        sh + `printf 'X-A: b\n\n<html>'`,
	"cgi-bin/big":           sh + "printf 'Content-Type: text/plain\n\n'\nexec head -c 3000000 /dev/zero",
	"cgi-bin/head":          sh + `printf 'Content-Type: text/plain\n\nHEAD has no body'`,
	"cgi-bin/fails":         sh + "echo uh oh >&2\nexit 3",
	"cgi-bin/crashes":       sh + "kill -9 $$",
	"cgi-bin/crasheslater":  sh + "printf 'Content-Type: text/plain\n\n'; head -c 200000 /dev/zero; kill -9 $$",
	"cgi-bin/exits":         sh + "printf 'Content-Type: text/plain\n\nanswered'; exit 1",
	"cgi-bin/nohead":        sh + "echo hello",
	"cgi-bin/silent":        sh + "exit 0",
	"cgi-bin/split":         sh + "printf 'X-A: b\\rSet-Cookie: e=1\n\nhello'",
	"cgi-bin/daemon":        sh + "printf 'Content-Type: text/plain\n\n'; sleep 100 >/dev/null & echo $!",
	"cgi-bin/noshebang":     "echo hello",
	"cgi-bin/nointerpreter": "#!/no/such/interpreter\n",
	"cgi-bin/data.txt":      "not a script",
	"cgi-bin/stuck":         sh + "echo $$ >started\nread x <go\n",
	"cgi-bin/a.cgi":         sh + `printf 'Content-Type: text/plain\n\n%s %s' "$SCRIPT_NAME" "$PATH_INFO"`,
	"www/x":                 "",
}

func TestCGI(t *testing.T) {
	g := newGate(t, routes.Pool{}, cgiFiles)
	rows := []struct {
		name, method, target string
		status               int
		want                 string // "*": anything
		field, value         string // of the response
		logged               string
	}{
		{name: "a script", target: "/cgi-bin/hello", want: "hello", field: "Content-Length", value: "5"},
		{name: "PATH_INFO behind a script in a folder", target: "/cgi-bin/sub/where/a%20b/c", want: g.cgi + "/sub /cgi-bin/sub/where /a b/c"},
		{name: "a slash behind a script", target: "/cgi-bin/sub/where/", want: g.cgi + "/sub /cgi-bin/sub/where /"},
		{name: "a suffix route", target: "/a.cgi", want: "/a.cgi "},
		{name: "a suffix behind another file", target: "/hello/x.cgi", status: 404, want: "404 Not Found\n"},
		{name: "a query is not an argument", target: "/cgi-bin/args?-s+x", want: "0"},
		{name: "a query without = is not an argument", target: "/cgi-bin/args?one+two", want: "0"},
		{name: "no descriptor of the gateway's", target: "/cgi-bin/fds", want: "0\n"},
		{name: "a status", target: "/cgi-bin/status", status: 418, want: "short and stout", field: "X-A", value: "b"},
		{name: "a local redirect", target: "/cgi-bin/local", want: "landed from=local"},
		{name: "local redirects in a circle", target: "/cgi-bin/loop", status: 500, want: "*", logged: "circles"},
		{name: "a redirect for the client", target: "/cgi-bin/client", status: 302, field: "Location", value: "http://example.com/x"},
		{name: "a path to redirect to, and a body", target: "/cgi-bin/clientbody", status: 302, want: "moved", field: "Location", value: "/x"},
		{name: "a redirect to another host", target: "/cgi-bin/elsewhere", status: 302, field: "Location", value: "//example.com/x"},
		{name: "a body without type", target: "/cgi-bin/notype", want: "<html>", field: "X-Content-Type-Options", value: "nosniff"},
		{name: "3 MB", target: "/cgi-bin/big", want: strings.Repeat("\x00", 3000000)},
		{name: "HEAD", method: "HEAD", target: "/cgi-bin/head", field: "Content-Type", value: "text/plain"},
		{name: "an exit status after an answer", target: "/cgi-bin/exits", want: "answered"},
		{name: "a script that is missing", target: "/cgi-bin/none", status: 404, want: "404 Not Found\n"},
		{name: "a folder", target: "/cgi-bin/sub/", status: 404, want: "404 Not Found\n"},
		{name: "a path out of the folder", target: "/cgi-bin/..%2f..%2fwww/x", status: 404, want: "404 Not Found\n"},
		{name: "dots out of the folder", target: "/cgi-bin/.%2e/.%2e/.%2e/bin/sh", status: 400, want: "400 Bad Request\n"},
		{name: "a file that is not executable", target: "/cgi-bin/data.txt", status: 403, want: "403 Forbidden\n", logged: "not executable"},
		{name: "a failure without output", target: "/cgi-bin/fails", status: 502, want: "502 Bad Gateway\n", logged: "exit status 3, and no output"},
		{name: "its message", target: "/cgi-bin/fails", status: 502, want: "*", logged: "uh oh"},
		{name: "a crash", target: "/cgi-bin/crashes", status: 502, want: "502 Bad Gateway\n", logged: "signal 9 (killed), and no output"},
		{name: "no output at all", target: "/cgi-bin/silent", status: 502, want: "502 Bad Gateway\n", logged: "exit status 0, and no output"},
		{name: "no head", target: "/cgi-bin/nohead", status: 502, want: "502 Bad Gateway\n", logged: "malformed response head"},
		{name: "a CR in the head", target: "/cgi-bin/split", status: 502, want: "502 Bad Gateway\n", logged: "malformed response head"},
		{name: "no first line", target: "/cgi-bin/noshebang", status: 502, want: "502 Bad Gateway\n", logged: "name its interpreter"},
		{name: "an interpreter that is missing", target: "/cgi-bin/nointerpreter", status: 502, want: "502 Bad Gateway\n", logged: "interpreter does not exist"},
		{name: "a script after all that", target: "/cgi-bin/hello", want: "hello"},
	}
	g.askOK(t, "GET", "/cgi-bin/hello", "") // opens what is kept open
	pid := g.starter.only().cmd.Process.Pid
	before := descriptors(t, pid)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			method, status := row.method, row.status
			if method == "" {
				method = "GET"
			}
			if status == 0 {
				status = 200
			}
			resp, got := g.askOK(t, method, row.target, "")
			if resp.StatusCode != status || got != row.want && row.want != "*" {
				t.Errorf("%s %s gave %d, %d bytes: %.100q; want %d, %d bytes: %.100q", method, row.target, resp.StatusCode, len(got), got, status, len(row.want), row.want)
			}
			if got := resp.Header.Get(row.field); got != row.value {
				t.Errorf("%s %s gave %s: %q, want %q", method, row.target, row.field, got, row.value)
			}
			if row.logged != "" {
				g.log.wait(row.logged)
			}
		})
	}
	if now := g.starter.only().cmd.Process.Pid; now != pid {
		t.Errorf("child %d was replaced by %d: scripts that fail cost no child", pid, now)
	}
	if after := descriptors(t, pid); after != before {
		t.Errorf("the child has %d descriptors, and had %d before", after, before)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range threads {
		if left := readFile(t, name); left != "" {
			t.Errorf("the child has children: %s", left)
		}
	}
}

// descriptors counts the open descriptors of a process.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestCGIEnvironment(t *testing.T) {
	g := newGate(t, routes.Pool{}, cgiFiles)
	_, got := g.askOK(t, "POST", "/cgi-bin/env/a/b?x=1", "four", "Proxy", "http://192.0.2.9:1", "User-Agent", "curl", "Accept-Encoding", "br", "Content-Type", "a/b")
	want := []string{
		"GATEWAY_INTERFACE=CGI/1.1", "SERVER_SOFTWARE=mine", "FROM_ROUTE=yes", "SERVER_PROTOCOL=HTTP/1.1", "SERVER_NAME=legacy.example", "SERVER_PORT=80",
		"SERVER_ADDR=192.0.2.1", "REMOTE_ADDR=198.51.100.7", "REMOTE_PORT=5000", "REQUEST_METHOD=POST", "REQUEST_SCHEME=http", "REQUEST_URI=/cgi-bin/env/a/b?x=1",
		"QUERY_STRING=x=1", "SCRIPT_NAME=/cgi-bin/env", "SCRIPT_FILENAME=" + g.cgi + "/env", "PATH_INFO=/a/b", "PATH_TRANSLATED=" + g.root + "/a/b",
		"DOCUMENT_ROOT=" + g.root, "REDIRECT_STATUS=200", "HTTP_HOST=legacy.example:8080", "HTTP_USER_AGENT=curl", "HTTP_ACCEPT_ENCODING=br",
		"CONTENT_TYPE=a/b", "CONTENT_LENGTH=4", "PATH=" + scriptPath, "PWD=" + g.cgi,
	}
	have := map[string]bool{}
	for line := range strings.Lines(got) {
		have[strings.TrimSuffix(line, "\n")] = true
	}
	for _, line := range want {
		if !have[line] {
			t.Errorf("%s is missing", line)
		}
		delete(have, line)
	}
	delete(have, "_=/usr/bin/env") // the shell's own
	if len(have) > 0 {
		t.Errorf("there are more variables: %v", have)
	}
	if _, got := g.askOK(t, "GET", "/one/a/b", ""); !strings.Contains(got, "SCRIPT_NAME=/one\n") || !strings.Contains(got, "PATH_INFO=/a/b\n") {
		t.Errorf("a route with one script has the environment\n%s", got)
	}
}

func TestCGIBodies(t *testing.T) {
	g := newGate(t, routes.Pool{}, cgiFiles)
	for _, size := range []int{0, 1, atomicBody, atomicBody + 1, 70 << 10, 2 << 20} {
		body := strings.Repeat("x", size)
		if _, got := g.askOK(t, "POST", "/cgi-bin/body", body); got != md5Text(body) {
			t.Errorf("a body of %d bytes gave %q, want %q", size, got, md5Text(body))
		}
		if _, got := g.askOK(t, "POST", "/cgi-bin/deaf", body); got != "not read" {
			t.Errorf("a body of %d bytes that is not read gave %q", size, got)
		}
	}
}

// TestCGIFailuresAreCounted: a script that gives no answer is a failed request in the status, though no child was lost.
func TestCGIFailuresAreCounted(t *testing.T) {
	g := newGate(t, routes.Pool{}, cgiFiles)
	failing := map[string]string{"/cgi-bin/crashes": "and no output", "/cgi-bin/nohead": "request failed", "/cgi-bin/silent": "and no output"}
	for path, logged := range failing {
		if resp, _, err := g.ask(t, "GET", path, ""); err != nil || resp.StatusCode != 502 {
			t.Fatalf("GET %s gave %v, %v; want 502", path, resp, err)
		}
		g.log.wait(logged, path)
	}
	g.askOK(t, "GET", "/cgi-bin/hello", "")
	if s := g.pool.Status(); s.Requests.Failed != uint64(len(failing)) || s.Exits[mpm.ExitCrash] != 0 {
		t.Errorf("requests are %+v, want %d failed; exits are %v", s.Requests, len(failing), s.Exits)
	}
}

func TestCGICutOff(t *testing.T) {
	g := newGate(t, routes.Pool{}, cgiFiles)
	resp, got, err := g.ask(t, "GET", "/cgi-bin/crasheslater", "")
	if err == nil {
		t.Errorf("a script that crashes in the middle of its output gave %d, %d bytes, and a clean end", resp.StatusCode, len(got))
	}
	g.log.wait("response was cut off", "/cgi-bin/crasheslater")
	g.log.wait("signal 9 (killed), in the middle of its output")
	if _, got := g.askOK(t, "GET", "/cgi-bin/hello", ""); got != "hello" {
		t.Errorf("the next request gave %q", got)
	}
}

func TestCGIDaemon(t *testing.T) {
	g := newGate(t, routes.Pool{}, cgiFiles)
	_, got := g.askOK(t, "GET", "/cgi-bin/daemon", "")
	pid, err := strconv.Atoi(strings.TrimSpace(got))
	if err != nil {
		t.Fatalf("the script gave %q", got)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("what the script left behind, process %d: %v; it should still run", pid, err)
	}
}

func TestCGIClientGone(t *testing.T) {
	for name, body := range map[string]string{"without a body": "", "with a body that the script does not read": strings.Repeat("x", 1<<20)} {
		t.Run(name, func(t *testing.T) { testClientGone(t, body) })
	}
}

func testClientGone(t *testing.T, body string) {
	g := newGate(t, routes.Pool{}, cgiFiles)
	g.root = g.cgi // for the pipes
	started := g.fifo(t, "started")
	g.fifo(t, "go")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r, err := http.NewRequestWithContext(ctx, "POST", g.URL+"/cgi-bin/stuck", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error)
	go func() {
		resp, err := g.Client().Do(r)
		if err == nil {
			err = errors.Join(errors.New("there is an answer"), resp.Body.Close())
		}
		gone <- err
	}()
	pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, started)))
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, got := g.askOK(t, "GET", "/cgi-bin/hello", ""); got != "hello" { // waits for the only child
		t.Errorf("the next request gave %q", got)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the script, process %d, lives on without its client: %v", pid, err)
	}
}

// inProcess runs a child of scripts in the test itself, and returns a connection to it.
func inProcess(t *testing.T) (c *fcgi.Conn, log func() string) {
	t.Helper()
	l, log := inProcessWith(t, Duties{Threads: 1, Run: []string{os.TempDir()}})
	return l.Conn, log
}

// inProcessWith runs any child.
func inProcessWith(t *testing.T, duties Duties) (c *link, log func() string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lines []string
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- ServeChild(ctx, l, duties, func(line string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
		})
	}()
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	socket, _ := nc.(*net.UnixConn)
	files := newReceiver(socket)
	c = &link{Conn: fcgi.NewConn(files), nc: files, files: files}
	t.Cleanup(func() {
		_ = c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(lines, "\n")
	}
}

func scriptParams(t testing.TB, code string) []fcgi.Param {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte(sh+code), 0o755); err != nil {
		t.Fatal(err)
	}
	return []fcgi.Param{{Name: "SCRIPT_FILENAME", Value: file}, {Name: "BAD=NAME", Value: "x"}, {Name: "BAD_VALUE", Value: "a\x00b"}}
}

func TestServeChild(t *testing.T) {
	rows := []struct{ name, code, want string }{
		{"output in pieces", `printf 'X: y\n\n'; sleep 0.01; printf a; sleep 0.01; printf b`, "X: y\n\nab"},
		{"an output that is closed before the end", `printf 'X: y\n\na'; exec >&- 2>&-; sleep 0.01`, "X: y\n\na"},
		{"a descendant that writes after the script has exited", `(sleep 0.05; printf b) & printf 'X: y\n\na'`, "X: y\n\nab"},
		{"bad variables are left out", `printf 'X: y\n\n'; env | grep -c BAD`, "X: y\n\n0\n"},
	}
	c, _ := inProcess(t)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var b strings.Builder
			resp, err := c.Do(scriptParams(t, row.code), nil, 0, nil)
			if err == nil {
				_, err = resp.WriteTo(&b)
			}
			if err != nil || b.String() != row.want {
				t.Errorf("%s gave %q, %v; want %q", row.code, b.String(), err, row.want)
			}
		})
	}
}

func TestServeChildBodyCutOff(t *testing.T) {
	c, _ := inProcess(t)
	params := append(scriptParams(t, "exec cat"), fcgi.Param{Name: "CONTENT_LENGTH", Value: "100"})
	if _, err := c.Do(params, strings.NewReader("short"), 100, nil); !errors.Is(err, fcgi.ErrBody) {
		t.Errorf("Do() = %v, want ErrBody", err)
	}
}

// TestScriptIgnoresTerm: a script that ignores SIGTERM ends by SIGKILL, and its child of the pool is free.
func TestScriptIgnoresTerm(t *testing.T) {
	c, _ := inProcess(t)
	resp, err := c.Do(scriptParams(t, `trap '' TERM; printf 'X: y\n\n'; while :; do read x </dev/zero; done`), nil, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Close() // hangs up; the Cleanup of inProcess waits for the handler
}

func md5Text(body string) string { return fmt.Sprintf("%x  -\n", md5Of(body)) }

// BenchmarkCGI is a script as the front asks for it, with what running its program costs.
func BenchmarkCGI(b *testing.B) {
	g := newGate(b, routes.Pool{}, map[string]string{"cgi-bin/hello": cgiFiles["cgi-bin/hello"]})
	g.askOK(b, "GET", "/cgi-bin/hello", "")
	for b.Loop() {
		g.askOK(b, "GET", "/cgi-bin/hello", "")
	}
}
