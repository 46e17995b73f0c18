package proxy

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/mpm"
	"gateway/proxy/wsgi"
	"gateway/routes"
)

// childVariable makes the test binary a child of a pool of scripts.
const childVariable = "PROXY_TEST_CHILD"

// TestScriptChild is not a test: it is the program that the pools of scripts run in the other tests.
func TestScriptChild(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		t.Skip("started by other tests")
	}
	l, err := net.FileListener(os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var duties Duties
	if err := json.Unmarshal([]byte(os.Getenv(childVariable)), &duties); err != nil {
		t.Fatal(err)
	}
	if err := ServeChild(ctx, l, duties, func(line string) { fmt.Fprintln(os.Stderr, line) }); err != nil {
		t.Fatal(err)
	}
	os.Exit(0)
}

// starter is a supervisor of real processes: an mpm.Starter.
type starter struct {
	t       testing.TB
	command []string
	env     []string
	dir     string // of the sockets
	http    bool   // the programs are HTTP servers

	mu       sync.Mutex
	pool     *mpm.Pool
	children map[int]*process // by pid
	lastID   int
	quiet    bool // exits are not reported unless somebody asks for them
	closed   bool
	exits    sync.WaitGroup
}

type process struct {
	cmd  *exec.Cmd
	slot int
	gone chan struct{} // closed when it was reaped
}

func (s *starter) Start(_ string, slot int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.lastID++
	socket := filepath.Join(s.dir, strconv.Itoa(s.lastID))
	waiting := 16
	if s.http {
		waiting = 0 // so it shows whether the program uses it
	}
	l := blockingListener(s.t, socket, waiting)
	defer l.Close()
	cmd := exec.Command(s.command[0], s.command[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stderr = s.env, l, os.Stderr
	if s.http {
		own := ctl.OwnSocket(socket)
		if err := os.MkdirAll(filepath.Dir(own), 0o700); err != nil {
			s.t.Error(err)
		}
		cmd.Stdin, cmd.ExtraFiles = nil, []*os.File{l}
		cmd.Env = append(slices.Clone(s.env), "GATEWAY_SOCKET="+own)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		s.t.Error(err)
		return
	}
	p := &process{cmd: cmd, slot: slot, gone: make(chan struct{})}
	s.children[cmd.Process.Pid] = p
	s.exits.Go(func() { s.bury(p) })
	s.pool.Started(slot, cmd.Process.Pid, socket, 0)
}

// bury reaps p.
func (s *starter) bury(p *process) {
	_ = p.cmd.Wait()
	close(p.gone)
	s.mu.Lock()
	quiet := s.quiet
	s.mu.Unlock()
	if !quiet {
		s.report(p)
	}
}

func (s *starter) report(p *process) {
	<-p.gone
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	s.pool.Exited(p.slot, p.cmd.ProcessState.Pid(), int(status), false)
}

func (s *starter) Retire(_ string, _, pid int) { s.kill(pid, syscall.SIGTERM) }

func (s *starter) Kill(_ string, _, pid int) {
	s.kill(pid, syscall.SIGKILL)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.children[pid]; s.quiet && p != nil {
		s.exits.Go(func() { s.report(p) })
	}
}

func (s *starter) kill(pid int, sig syscall.Signal) {
	_ = syscall.Kill(-pid, sig)
}

// only returns the only child that lives.
func (s *starter) only() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found *process
	for _, p := range s.children {
		select {
		case <-p.gone:
		default:
			if found != nil {
				s.t.Fatal("there is more than one child")
			}
			found = p
		}
	}
	if found == nil {
		s.t.Fatal("there is no child")
	}
	return found
}

func (s *starter) close() {
	s.mu.Lock()
	s.closed = true
	for pid := range s.children {
		s.kill(pid, syscall.SIGKILL)
	}
	s.mu.Unlock()
	s.exits.Wait()
}

// blockingListener makes a socket that php-cgi can accept from: Go's own would not block.
func blockingListener(t testing.TB, path string, waiting int) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, waiting)); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), path)
}

// testLog is a Logger whose lines can be waited for.
type testLog struct {
	mu    sync.Mutex
	lines []string
	added *sync.Cond
}

func newTestLog() *testLog {
	l := &testLog{}
	l.added = sync.NewCond(&l.mu)
	return l
}

func (l *testLog) add(level, msg string, facts []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, level+" "+msg+" "+fmt.Sprintln(facts...))
	l.added.Broadcast()
}

func (l *testLog) Debugw(msg string, facts ...any) { l.add("debug", msg, facts) }
func (l *testLog) Infow(msg string, facts ...any)  { l.add("info", msg, facts) }
func (l *testLog) Warnw(msg string, facts ...any)  { l.add("warn", msg, facts) }
func (l *testLog) Errorw(msg string, facts ...any) { l.add("error", msg, facts) }

// wait returns when a line has all the words; the test's own timeout is the limit.
func (l *testLog) wait(words ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !slices.ContainsFunc(l.lines, func(line string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
	}) {
		l.added.Wait()
	}
}

func (l *testLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// gate is a Server with one pool of real children, and net/http before it.
type gate struct {
	*httptest.Server
	handler *Server
	config  *routes.Config
	starter *starter
	pool    *mpm.Pool
	log     *testLog
	root    string // of the site
	cgi     string // of the scripts
}

// newGate serves the files, which are given by their names below "www" and "cgi-bin". Files in the latter are executable. Routes
// that are given take the place of the usual ones.
func newGate(t testing.TB, cfg routes.Pool, files map[string]string, own ...routes.Route) *gate {
	t.Helper()
	base := t.TempDir()
	g := &gate{log: newTestLog(), root: filepath.Join(base, "www"), cgi: filepath.Join(base, "cgi-bin")}
	for name, content := range files {
		name, mode := filepath.Join(base, name), os.FileMode(0o644)
		if strings.HasPrefix(name, g.cgi) && !strings.HasSuffix(name, ".txt") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(g.root, 0o755), os.MkdirAll(g.cgi, 0o755)); err != nil {
		t.Fatal(err)
	}
	cfg = withDefaults(cfg)
	g.starter = &starter{t: t, dir: base, children: map[int]*process{}}
	switch {
	case cfg.HTTP != nil:
		g.starter.command, g.starter.http = cfg.HTTP.Command, true
	case cfg.FastCGI != nil:
		g.starter.command, g.starter.env = cfg.FastCGI.Command, []string{foreignVariable + "=1"}
	case cfg.WSGI != nil:
		g.starter.command, g.starter.env = wsgi.Command(cfg.WSGI.Python, cfg.WSGI.Module, max(cfg.ThreadsPerChild, 1))
		g.starter.env = append(g.starter.env, "PYTHONPATH="+g.root)
	case cfg.PHP != nil:
		g.starter.command = append(slices.Clone(cfg.PHP.Command), "-d", "cgi.fix_pathinfo=1", "-d", "error_log=", "-d", "upload_max_filesize=10M", "-d", "post_max_size=20M")
		g.starter.env = []string{"PHP_FCGI_MAX_REQUESTS=0"}
	default:
		g.starter.command, g.starter.env = []string{os.Args[0], "-test.run=^TestScriptChild$"}, []string{"SECRET=of the child"}
	}
	g.pool = mpm.NewPool(cfg, g.starter, mpm.WithProbe(ProbeOf(&cfg)), mpm.WithLogger(g.log))
	g.starter.pool = g.pool
	g.serve(t, cfg, own)
	t.Cleanup(func() {
		g.Close()
		g.pool.Close()
		g.starter.close()
	})
	g.pool.Open()
	return g
}

func withDefaults(cfg routes.Pool) routes.Pool {
	cfg.Name = "app"
	if cfg.MPM == "" {
		cfg.MPM = routes.Prefork
	}
	cfg.StartServers, cfg.MinSpareServers = 1, 0
	cfg.MaxRequestWorkers = max(cfg.MaxRequestWorkers, 1)
	cfg.MaxSpareServers = max(cfg.MaxRequestWorkers, 2)
	if cfg.Queue == (routes.Queue{}) {
		cfg.Queue = routes.Queue{Length: 100, Timeout: time.Minute}
	}
	return cfg
}

// serve makes the routes, and the HTTP side, which passes on what our own would know of a connection.
func (g *gate) serve(t testing.TB, cfg routes.Pool, own []routes.Route) {
	t.Helper()
	route := func(kind routes.PatternKind, text string, cgi *routes.CGI) routes.Route {
		return routes.Route{Pattern: routes.Pattern{Kind: kind, Text: text}, Pool: "app", Root: g.root, MaxRequestBody: 8 << 20, CGI: cgi}
	}
	site := routes.Site{Names: []string{"legacy.example"}, Listen: []routes.Listen{{Network: "tcp", Address: ":80"}}, Root: g.root, TLS: routes.TLS{Mode: "off"}}
	if own != nil {
		for _, r := range own {
			r.Pool = "app"
			if r.Root == "" {
				r.Root = g.root
			}
			site.Routes = append(site.Routes, r)
		}
	} else if cfg.HTTP != nil || cfg.WSGI != nil || cfg.FastCGI != nil {
		site.Routes = []routes.Route{route(routes.Prefix, "/", nil)}
	} else if cfg.PHP != nil {
		site.Routes = []routes.Route{route(routes.Exact, "/exact", nil), route(routes.Suffix, ".php", nil), route(routes.Prefix, "/", nil)}
	} else {
		site.Routes = []routes.Route{
			route(routes.Prefix, "/cgi-bin/", &routes.CGI{Root: g.cgi, Env: map[string]string{"FROM_ROUTE": "yes", "SERVER_SOFTWARE": "mine"}}),
			route(routes.Prefix, "/one/", &routes.CGI{Script: filepath.Join(g.cgi, "env")}),
			route(routes.Suffix, ".cgi", &routes.CGI{Root: g.cgi}),
			route(routes.Exact, "/landed", &routes.CGI{Root: g.cgi}),
		}
	}
	c := &routes.Config{Gateway: routes.Gateway{SpoolDir: t.TempDir()}, Pools: []routes.Pool{cfg}, Sites: []routes.Site{site}}
	if !cfg.HasApplication() {
		duties := DutiesOf(c, &cfg)
		duties.Threads = max(duties.Threads, 1)
		text, err := json.Marshal(duties)
		if err != nil {
			t.Fatal(err)
		}
		g.starter.env = append(g.starter.env, childVariable+"="+string(text))
	}
	edge := routes.Pool{Name: "edge", MPM: routes.Event, MaxRequestWorkers: 1, Queue: routes.Queue{Length: 100, Timeout: time.Minute}} // for what is sent in an application's place
	pools := map[string]*mpm.Pool{"app": g.pool, "edge": mpm.NewPool(edge, nil)}
	pools["edge"].Open()
	t.Cleanup(pools["edge"].Close)
	c.Pools = append(c.Pools, edge)
	s := NewServer(c, pools, g.log)
	g.handler, g.config = s, c
	t.Cleanup(func() { s.Close() })
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{began: time.Now(), listener: "tcp :80", local: netip.MustParseAddrPort("192.0.2.1:80"), remote: netip.MustParseAddrPort("198.51.100.7:5000")}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		r.URL.Path = r.URL.EscapedPath()
		s.ServeHTTP(w, r)
	}))
	g.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

// ask returns the response to a request, with its body read, and the error that reading ended with.
func (g *gate) ask(t testing.TB, method, target, body string, fields ...string) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, g.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque, r.Host = target, "legacy.example:8080"
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	resp, err := g.Client().Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

// askOK is ask for a response that must be complete.
func (g *gate) askOK(t testing.TB, method, target, body string, fields ...string) (*http.Response, string) {
	t.Helper()
	resp, got, err := g.ask(t, method, target, body, fields...)
	if err != nil {
		t.Fatalf("%s %s: %v, after %.100q; log:\n%s", method, target, err, got, g.log.text())
	}
	return resp, got
}

func phpPool(t testing.TB) routes.Pool {
	path, err := exec.LookPath("php-cgi")
	if err != nil {
		t.Skip("php-cgi is not installed")
	}
	return routes.Pool{PHP: &routes.PHP{Command: []string{path}}}
}

// fifo makes a pipe in the site's root, by which a script and a test can wait for each other.
func (g *gate) fifo(t testing.TB, name string) string {
	t.Helper()
	name = filepath.Join(g.root, name)
	if err := unix.Mkfifo(name, 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

const (
	helloPHP = `<?php echo "hello";`
	// waitPHP says on one pipe that it runs, and ends when something is written to the other.
	waitPHP = `<?php file_put_contents("started", getmypid()); file_get_contents("go"); echo "done";`
)

var phpFiles = map[string]string{
	"www/hello.php":          helloPHP,
	"www/dir/index.php":      helloPHP,
	"www/env.php":            `<?php header("Content-Type: application/json"); echo json_encode($_SERVER);`,
	"www/form.php":           `<?php echo $_POST["a"], "|", $_POST["b"], "|", $_GET["q"];`,
	"www/body.php":           `<?php echo $_SERVER["CONTENT_LENGTH"] ?? "none", " ", md5(file_get_contents("php://input"));`,
	"www/upload.php":         `<?php $f = $_FILES["file"]; echo $f["name"], " ", $f["size"], " ", md5_file($f["tmp_name"]), " ", $_POST["text"];`,
	"www/cookies.php":        `<?php setcookie("a", "1"); setcookie("b", "2"); echo $_COOKIE["c"], $_COOKIE["d"];`,
	"www/redirect.php":       `<?php header("Location: /hello.php");`,
	"www/status.php":         `<?php header("HTTP/1.1 404 No Such Thing"); echo "nothing";`,
	"www/nocontent.php":      `<?php http_response_code(204); echo "x";`,
	"www/fatal.php":          `<?php ini_set("display_errors", "0"); nothing();`,
	"www/exit.php":           `<?php echo "before"; exit(3); echo "after";`,
	"www/die.php":            `<?php echo "x"; posix_kill(getmypid(), 9);`,
	"www/dielate.php":        `<?php echo str_repeat("x", 1 << 20); while (ob_get_level()) ob_end_flush(); flush(); posix_kill(getmypid(), 9);`,
	"www/big.php":            `<?php for ($i = 0; $i < 48; $i++) echo str_repeat(chr(97 + $i % 26), 65536);`,
	"www/hop.php":            `<?php header("Connection: close, X-Secret"); header("X-Secret: 1"); header("Keep-Alive: timeout=5"); header("Transfer-Encoding: chunked"); header("X-Kept: 1"); echo "hello";`,
	"www/toolong.php":        `<?php header("Content-Length: 3"); echo "abcdef";`,
	"www/tooshort.php":       `<?php header("Content-Length: 30"); echo "abcdef";`,
	"www/badlength.php":      `<?php header("Content-Length: abc"); echo "abcdef";`,
	"www/messages.php":       `<?php error_log("uh oh\nagain \x1b[31m" . str_repeat("y", 5000)); echo "hello";`,
	"www/hugehead.php":       `<?php for ($i = 0; $i < 300; $i++) header("X-$i: " . str_repeat("v", 1000)); echo "hello";`,
	"www/upload/evil.jpg":    `<?php echo "evil";`,
	"www/upload/x.php.txt":   `<?php echo "evil";`,
	"www/upload/folder.php/": "",
	"www/exact":              `<?php echo "exactly";`,
	"www/pid.php":            `<?php echo getmypid();`,
}

func phpGate(t testing.TB, cfg routes.Pool, more map[string]string) *gate {
	t.Helper()
	files := maps.Clone(phpFiles)
	delete(files, "www/upload/folder.php/")
	maps.Copy(files, more)
	g := newGate(t, cfg, files)
	if err := os.MkdirAll(filepath.Join(g.root, "upload/folder.php"), 0o755); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestPHP(t *testing.T) {
	g := phpGate(t, phpPool(t), nil)
	large := strings.Repeat("0123456789abcde\n", 200<<10/16)
	type fields = map[string]string
	rows := []struct {
		name, method, target string
		body                 string
		header               []string
		status               int
		want                 string
		fields               fields // of the response; "": it must not be there
	}{
		{name: "a script", target: "/hello.php", want: "hello", fields: fields{"Content-Type": "text/html; charset=UTF-8", "Content-Length": "5"}},
		{name: "a query is not an argument", target: "/hello.php?-s", want: "hello"},
		{name: "an encoded query is not an argument", target: "/hello.php?%ADd+allow_url_include%3d1", want: "hello"},
		{name: "a form", method: "POST", target: "/form.php?q=3", body: "a=1&b=2", header: []string{"Content-Type", "application/x-www-form-urlencoded"}, want: "1|2|3"},
		{name: "a body of 200 KiB", method: "PUT", target: "/body.php", body: large, want: fmt.Sprintf("204800 %x", md5.Sum([]byte(large)))},
		{name: "an empty body", method: "POST", target: "/body.php", want: fmt.Sprintf("0 %x", md5.Sum(nil))},
		{name: "no body", target: "/body.php", want: fmt.Sprintf("none %x", md5.Sum(nil))},
		{name: "cookies", target: "/cookies.php", header: []string{"Cookie", "c=3; d=4"}, want: "34"},
		{name: "a redirect", target: "/redirect.php", status: 302, fields: fields{"Location": "/hello.php"}},
		{name: "a status", target: "/status.php", status: 404, want: "nothing"},
		{name: "a status without body", target: "/nocontent.php", status: 204, fields: fields{"Content-Length": ""}},
		{name: "HEAD", method: "HEAD", target: "/hello.php", fields: fields{"Content-Type": "text/html; charset=UTF-8"}},
		{name: "a fatal error", target: "/fatal.php", status: 500},
		{name: "exit in the middle", target: "/exit.php", want: "before"},
		{name: "a response larger than the memory", target: "/big.php", want: bigOutput()},
		{name: "a body longer than announced is cut", target: "/toolong.php", want: "abc", fields: fields{"Content-Length": "3"}},
		{name: "a length that is none is not believed", target: "/badlength.php", want: "abcdef", fields: fields{"Content-Length": "6"}},
		{name: "fields of the connection are dropped", target: "/hop.php", want: "hello", fields: fields{"X-Secret": "", "Keep-Alive": "", "Connection": "", "X-Kept": "1"}},
		{name: "PATH_INFO", target: "/hello.php/a/b", want: "hello"},
		{name: "an exact route names its file", target: "/exact", want: "exactly"},
		{name: "a script that is missing", target: "/none.php", status: 404, want: "404 Not Found\n"},
		{name: "a folder named like a script", target: "/upload/folder.php", status: 404, want: "404 Not Found\n"},
		{name: "an upload is no script", target: "/upload/evil.jpg", status: 404, want: "404 Not Found\n"},
		{name: "an upload with a script's name behind it", target: "/upload/evil.jpg/x.php", status: 404, want: "404 Not Found\n"},
		{name: "a script's name in the middle", target: "/upload/x.php.txt", status: 404, want: "404 Not Found\n"},
		{name: "an encoded NUL", target: "/upload/evil.jpg%00.php", status: 400, want: "400 Bad Request\n"},
		{name: "a suffix in capitals", target: "/hello.PHP", status: 404, want: "404 Not Found\n"},
		{name: "a look-alike of the dot", target: "/upload/evil%EF%B9%92php", status: 404, want: "404 Not Found\n"},
		{name: "a head of 300 KB", target: "/hugehead.php", status: 502, want: "502 Bad Gateway\n"},
		{name: "a script after all that", target: "/hello.php", want: "hello"},
	}
	pid := g.starter.only().cmd.Process.Pid
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			method, status := row.method, row.status
			if method == "" {
				method = "GET"
			}
			if status == 0 {
				status = 200
			}
			resp, got := g.askOK(t, method, row.target, row.body, row.header...)
			if resp.StatusCode != status || got != row.want {
				t.Errorf("%s %s gave %d, %d bytes: %.100q; want %d, %d bytes: %.100q", method, row.target, resp.StatusCode, len(got), got, status, len(row.want), row.want)
			}
			for name, want := range row.fields {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s %s gave %s: %q, want %q", method, row.target, name, got, want)
				}
			}
		})
	}
	if _, got := g.askOK(t, "GET", "/pid.php", ""); got != strconv.Itoa(pid) {
		t.Errorf("the last answer is of child %s, want the first child, %d; log:\n%s", got, pid, g.log.text())
	}
}

func md5Of(s string) [md5.Size]byte { return md5.Sum([]byte(s)) }

func bigOutput() string {
	var b strings.Builder
	for i := range 48 {
		b.WriteString(strings.Repeat(string(rune('a'+i%26)), 65536))
	}
	return b.String()
}

func TestPHPEnvironment(t *testing.T) {
	g := phpGate(t, phpPool(t), nil)
	_, got := g.askOK(t, "GET", "/env.php/a%20b/c?q=1&r=%20", "",
		"User-Agent", "curl", "Authorization", "Basic YTpi", "Proxy", "http://192.0.2.9:1", "X_Real_User", "evil", "X-Real-User", "joe",
		"X-Twice", "1", "X-Twice", "2", "Remote-Addr", "6.6.6.6", "Accept-Encoding", "br")
	var have map[string]any
	if err := json.Unmarshal([]byte(got), &have); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"REQUEST_TIME", "REQUEST_TIME_FLOAT", "argv", "argc", "PHP_FCGI_MAX_REQUESTS"} {
		delete(have, name) // PHP's own
	}
	want := map[string]any{
		"GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "gateway", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "legacy.example", "SERVER_PORT": "80",
		"SERVER_ADDR": "192.0.2.1", "REMOTE_ADDR": "198.51.100.7", "REMOTE_PORT": "5000", "REQUEST_METHOD": "GET", "REQUEST_SCHEME": "http",
		"REQUEST_URI": "/env.php/a%20b/c?q=1&r=%20", "QUERY_STRING": "q=1&r=%20", "SCRIPT_NAME": "/env.php", "SCRIPT_FILENAME": g.root + "/env.php",
		"PATH_INFO": "/a b/c", "DOCUMENT_ROOT": g.root, "REDIRECT_STATUS": "200", "HTTP_HOST": "legacy.example:8080", "HTTP_USER_AGENT": "curl",
		"HTTP_AUTHORIZATION": "Basic YTpi", "HTTP_X_REAL_USER": "joe", "HTTP_X_TWICE": "1, 2", "HTTP_REMOTE_ADDR": "6.6.6.6", "HTTP_ACCEPT_ENCODING": "br",
		"PHP_AUTH_USER": "a", "PHP_AUTH_PW": "b", "PHP_SELF": "/env.php/a b/c", "FCGI_ROLE": "RESPONDER", // PHP's own as well
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] != want[name] {
			t.Errorf("%s = %q, want %q", name, have[name], want[name])
		}
		delete(have, name)
	}
	if len(have) > 0 {
		t.Errorf("there are more variables: %q", have)
	}
}

func TestPHPUpload(t *testing.T) {
	g := phpGate(t, phpPool(t), nil)
	content := bytes.Repeat([]byte("upload\n"), 3<<20/7)
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	part, err := m.CreateFormFile("file", "a b.bin")
	if err != nil {
		t.Fatal(err)
	}
	_, err = part.Write(content)
	if err := errors.Join(err, m.WriteField("text", "hello"), m.Close()); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("a b.bin %d %x hello", len(content), md5.Sum(content))
	if _, got := g.askOK(t, "POST", "/upload.php", body.String(), "Content-Type", m.FormDataContentType()); got != want {
		t.Errorf("the upload gave %q, want %q", got, want)
	}
}

func TestPHPFailures(t *testing.T) {
	g := phpGate(t, phpPool(t), nil)
	rows := []struct {
		name, target string
		status       int    // 0: the response is cut
		logged       string // the reason
	}{
		{"a child that kills itself", "/die.php", 502, "signal 9 (killed)"},
		{"a child that dies in the middle of its response", "/dielate.php", 0, "signal 9 (killed)"},
		{"a body that is shorter than announced", "/tooshort.php", 502, "that its Content-Length announces"},
		{"a head of 300 KB", "/hugehead.php", 502, "malformed response head"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			resp, got, err := g.ask(t, "GET", row.target, "")
			switch {
			case row.status == 0 && err == nil:
				t.Errorf("GET %s gave %d, %d bytes, and a clean end", row.target, resp.StatusCode, len(got))
			case row.status != 0 && (err != nil || resp.StatusCode != row.status):
				t.Errorf("GET %s gave %v, %v; want %d", row.target, resp, err, row.status)
			}
			g.log.wait(row.target, row.logged)
			if _, got := g.askOK(t, "GET", "/hello.php", ""); got != "hello" {
				t.Errorf("the next request gave %q", got)
			}
		})
	}
}

func TestIdleChildKilled(t *testing.T) {
	for name, before := range map[string]int{"a child that was never asked": 0, "a child with a kept connection": 1} {
		t.Run(name, func(t *testing.T) {
			g := phpGate(t, phpPool(t), nil)
			for range before {
				g.askOK(t, "GET", "/hello.php", "")
			}
			g.starter.mu.Lock()
			g.starter.quiet = true // the pool does not know
			g.starter.mu.Unlock()
			g.waitReady()
			child := g.starter.only()
			_ = child.cmd.Process.Kill()
			<-child.gone
			for _, method := range []string{"GET", "POST"} {
				if resp, got := g.askOK(t, method, "/hello.php", "a=b"); resp.StatusCode != 200 || got != "hello" {
					t.Errorf("%s gave %d %q, want 200; log:\n%s", method, resp.StatusCode, got, g.log.text())
				}
			}
		})
	}
}

// waitReady returns when the pool has a child without a request.
func (g *gate) waitReady() {
	slot, err := g.pool.Acquire(context.Background())
	if err != nil {
		g.starter.t.Fatal(err)
	}
	slot.Release(mpm.Done)
}

func TestRequestTimeout(t *testing.T) {
	t.Parallel()
	cfg := phpPool(t)
	cfg.RequestTimeout = soon
	g := phpGate(t, cfg, map[string]string{
		"www/sleep.php": `<?php sleep(60);`,
		"www/late.php":  `<?php echo str_repeat("x", 1 << 20); while (ob_get_level()) ob_end_flush(); flush(); sleep(60);`,
	})
	if resp, _ := g.askOK(t, "GET", "/sleep.php", ""); resp.StatusCode != 504 {
		t.Errorf("a script that sleeps gave %d, want 504", resp.StatusCode)
	}
	g.log.wait("request ran too long", "/sleep.php")
	if resp, got, err := g.ask(t, "GET", "/late.php", ""); err == nil {
		t.Errorf("a script that sleeps in the middle of its response gave %d, %d bytes, and a clean end", resp.StatusCode, len(got))
	}
	if _, got := g.askOK(t, "GET", "/hello.php", ""); got != "hello" {
		t.Errorf("the next request gave %q", got)
	}
}

func TestQueueFull(t *testing.T) {
	cfg := phpPool(t)
	cfg.Queue = routes.Queue{Length: 0, Timeout: 30 * time.Second}
	g := phpGate(t, cfg, map[string]string{"www/wait.php": waitPHP})
	started, goOn := g.fifo(t, "started"), g.fifo(t, "go")
	g.waitChild()
	answered := make(chan string)
	go func() {
		_, got, err := g.ask(t, "GET", "/wait.php", "")
		answered <- fmt.Sprint(got, err)
	}()
	readFile(t, started)
	resp, _ := g.askOK(t, "GET", "/hello.php", "")
	if after := resp.Header.Get("Retry-After"); resp.StatusCode != 503 || after != "3" {
		t.Errorf("with the only child busy a request gave %d, Retry-After %q; want 503 and 3", resp.StatusCode, after)
	}
	writeFile(t, goOn)
	if got := <-answered; got != "done<nil>" {
		t.Errorf("the first request gave %q", got)
	}
}

// waitChild returns when the first child is ready; with a queue of length 0 nobody can wait for it.
func (g *gate) waitChild() {
	for {
		slot, err := g.pool.Acquire(context.Background())
		if err == nil {
			slot.Release(mpm.Done)
			return
		}
	}
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func writeFile(t testing.TB, name string) {
	t.Helper()
	if err := os.WriteFile(name, []byte("go"), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestClientGone(t *testing.T) {
	g := phpGate(t, phpPool(t), map[string]string{"www/wait.php": waitPHP})
	started, goOn := g.fifo(t, "started"), g.fifo(t, "go")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r, err := http.NewRequestWithContext(ctx, "GET", g.URL+"/wait.php", nil)
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
	pid := readFile(t, started)
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	answered := make(chan string)
	go func() {
		_, got, err := g.ask(t, "GET", "/pid.php", "") // waits for the only child
		answered <- fmt.Sprint(got, err)
	}()
	writeFile(t, goOn)
	if got := <-answered; got != pid+"<nil>" {
		t.Errorf("after its client had gone child %s was to serve the next request, which gave %q", pid, got)
	}
}

func TestBodies(t *testing.T) {
	g := phpGate(t, phpPool(t), nil)
	for _, size := range []int{1, spoolMemory - 1, spoolMemory, spoolMemory + 1, 3 << 20} {
		body := strings.Repeat("x", size)
		for name, reader := range map[string]io.Reader{"length": strings.NewReader(body), "chunked": io.MultiReader(strings.NewReader(body))} {
			resp, err := g.Client().Post(g.URL+"/body.php", "application/octet-stream", reader)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := fmt.Sprintf("%d %x", size, md5.Sum([]byte(body))); string(got) != want {
				t.Errorf("a body of %d bytes (%s) gave %q, want %q", size, name, got, want)
			}
		}
	}
	large := strings.Repeat("x", 8<<20+1)
	for name, reader := range map[string]io.Reader{"length": strings.NewReader(large), "chunked": io.MultiReader(strings.NewReader(large))} {
		resp, err := g.Client().Post(g.URL+"/body.php", "application/octet-stream", reader)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("a body above the limit (%s) gave %d, want 413", name, resp.StatusCode)
		}
	}
}

func TestStreaming(t *testing.T) {
	g := phpGate(t, phpPool(t), map[string]string{
		"www/stream.php": `<?php header("X-Accel-Buffering: no"); echo "first"; while (ob_get_level()) ob_end_flush(); flush(); file_get_contents("go"); echo "last";`,
	})
	goOn := g.fifo(t, "go")
	resp, err := g.Client().Get(g.URL + "/stream.php")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("the beginning is %q, %v", first, err)
	}
	if got := resp.Header.Get("X-Accel-Buffering"); got != "" {
		t.Errorf("the client got X-Accel-Buffering: %s", got)
	}
	writeFile(t, goOn)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "last" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

// TestEventStreamsOutliveTheDeadline: the length of a stream says nothing of the program.
func TestEventStreamsOutliveTheDeadline(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, path string
		gate       func() *gate
	}{
		{"PHP", "/events.php", func() *gate {
			cfg := phpPool(t)
			cfg.RequestTimeout = soon
			return phpGate(t, cfg, map[string]string{"www/events.php": `<?php header("Content-Type: text/event-stream"); echo "data: first\n\n";
				while (ob_get_level()) ob_end_flush(); flush(); sleep(3); echo "data: last\n\n";`})
		}},
		{"WSGI, on a worker pool", "/events", func() *gate {
			cfg := worker(1)
			cfg.RequestTimeout = soon
			return wsgiGate(t, cfg)
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			g := row.gate()
			_, got := g.askOK(t, "GET", row.path, "")
			if want := "data: first\n\ndata: last\n\n"; got != want {
				t.Errorf("the stream is %q, want %q; log:\n%s", got, want, g.log.text())
			}
			if s := g.pool.Status(); s.Exits[mpm.ExitDeadline] != 0 || s.Requests.Failed != 0 {
				t.Errorf("exits are %v, requests %+v", s.Exits, s.Requests)
			}
		})
	}
}

// TestForbiddenScript: a script that is there and can't be reached is not "not found", and the log says what to do.
func TestForbiddenScript(t *testing.T) {
	g := phpGate(t, phpPool(t), nil)
	if err := os.Symlink("/etc/passwd", filepath.Join(g.root, "out.php")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if resp, _, err := g.ask(t, "GET", "/out.php", ""); err != nil || resp.StatusCode != 403 {
			t.Errorf("a link out of the root gave %v, %v; want 403", resp, err)
		}
	}
	g.log.wait("warn script can't be reached", "leads out of the root")
	if n := strings.Count(g.log.text(), "script can't be reached"); n != 1 {
		t.Errorf("the log says it %d times in a moment, want once", n)
	}
}

func TestProgramMessages(t *testing.T) {
	g := phpGate(t, phpPool(t), nil)
	g.askOK(t, "GET", "/messages.php", "")
	g.log.wait("warn program wrote to its error stream", "pid "+strconv.Itoa(g.starter.only().cmd.Process.Pid), "uri /messages.php", "uh oh")
	g.log.wait(`again \x1b[31my`)
	for _, line := range strings.Split(g.log.text(), "\n") {
		if len(line) > maxStderrLine+200 {
			t.Errorf("a log line has %d bytes", len(line))
		}
	}
}

func TestQueueHeader(t *testing.T) {
	cfg := phpPool(t)
	cfg.Queue = routes.Queue{Length: 10, Timeout: time.Minute, Header: true}
	g := phpGate(t, cfg, nil)
	resp, _ := g.askOK(t, "GET", "/hello.php", "")
	if seconds, err := strconv.ParseFloat(resp.Header.Get("X-Queue-Time"), 64); err != nil || seconds < 0 {
		t.Errorf("X-Queue-Time is %q", resp.Header.Get("X-Queue-Time"))
	}
}
