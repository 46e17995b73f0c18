package proxy

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/mpm"
	"gateway/routes"
)

// httpProgram is an HTTP server with a thread for each connection. It listens at $GATEWAY_SOCKET, or with an argument uses
// descriptor 3.
const httpProgram = `
import base64, hashlib, http.server, json, os, signal, socket, socketserver, sys, threading

meeting = threading.Barrier(3)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self):
        name = self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if name == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "/die-once" and not os.path.exists("died"):
            open("died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "/end":
            with open("ended", "a") as f:
                f.write("x")
            self.close_connection = True
            return
        if name == "/echo":
            return self.upgrade()
        if name == "/websocket":
            return self.websocket()
        if name == "/stream":
            return self.stream()
        if name == "/events":
            return self.events()
        if name == "/early":
            return self.early()
        if name == "/hang":
            threading.Event().wait()
        if name == "/cut":
            self.start(100000)
            self.wfile.write(b"x" * 70000)
            self.close_connection = True
            return
        if name == "/switch":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "surprise")
            self.end_headers()
            return
        if name == "/meet":
            meeting.wait()
        answer = json.dumps({
            "method": self.command, "path": self.path, "pid": os.getpid(), "bytes": len(body), "md5": hashlib.md5(body).hexdigest(),
            "peer": id(self.connection), "headers": {k.lower(): v for k, v in self.headers.items()},
        }).encode()
        if name == "/big":
            answer = b"x" * 3000000
        self.start(len(answer))
        if self.command != "HEAD":
            self.wfile.write(answer)
        if name == "/close":
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def start(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "X-Secret, close" if self.path == "/close" else "X-Secret")
        self.send_header("X-Secret", "1")
        self.send_header("X-Kept", "1")
        self.end_headers()

    def stream(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"first", b"last"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if piece == b"first":
                open("go").read()
        self.wfile.write(b"0\r\n\r\n")

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        while True:
            event = open("go").read()
            self.wfile.write(b"data: %s\n\n" % event.encode())
            if event == "last":
                break
        self.close_connection = True

    def early(self):
        self.send_response_only(103)
        self.send_header("Link", "</style.css>; rel=preload")
        self.end_headers()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "X-Sum")
        self.end_headers()
        self.wfile.write(b"3\r\nabc\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=b\r\n\r\n")

    # RFC 6455 §4.2.2, §5.2: frames of less than 126 bytes, which are sent back.
    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        while head := self.rfile.read(2):
            mask = self.rfile.read(4)
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(bytes([head[0], len(text)]) + text)
        self.close_connection = True

    def upgrade(self):
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", self.headers["Upgrade"])
        self.end_headers()
        self.wfile.write(b"welcome\n")
        for line in self.rfile:
            self.wfile.write(line.upper())
            if line == b"bye\n":
                break
        self.close_connection = True

    def address_string(self):
        return "front"

    def log_message(self, *args):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self):
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        connection, _ = self.socket.accept()
        return connection, ("front", 0)

path = os.environ["GATEWAY_SOCKET"]
os.chdir(sys.argv[1])
if len(sys.argv) > 2:
    listener = socket.socket(fileno=3)
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
server = Server(("", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = listener
if len(sys.argv) == 2:
    server.server_activate()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server.serve_forever()
`

// python returns the interpreter.
func python(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	return path
}

// httpGate has the test's HTTP server run in a pool.
func httpGate(t testing.TB, cfg routes.Pool, more ...string) *gate {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "server.py")
	if err := os.WriteFile(program, []byte(httpProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.HTTP = &routes.HTTPApp{Command: append([]string{python(t), program, dir}, more...)}
	g := newGate(t, cfg, nil)
	g.root = dir
	return g
}

// worker is a worker pool of at most so many children with four threads each.
func worker(children int) routes.Pool {
	return routes.Pool{MPM: routes.Worker, ThreadsPerChild: 4, ServerLimit: children, MaxRequestWorkers: 4 * children}
}

type httpAnswer struct {
	Method, Path string
	PID, Bytes   int
	Peer         int64
	MD5          string
	Headers      map[string]string
}

func (g *gate) askHTTP(t testing.TB, method, target, body string, fields ...string) httpAnswer {
	t.Helper()
	resp, got := g.askOK(t, method, target, body, fields...)
	var a httpAnswer
	if err := json.Unmarshal([]byte(got), &a); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s %s gave %d, %.200q", method, target, resp.StatusCode, got)
	}
	return a
}

func TestHTTPApplication(t *testing.T) {
	for name, more := range map[string][]string{"on a socket of its own": nil, "on the inherited socket": {"inherited"}} {
		t.Run(name, func(t *testing.T) {
			g := httpGate(t, worker(1), more...)
			large := strings.Repeat("0123456789abcde\n", 200<<10/16)
			a := g.askHTTP(t, "POST", "/a%20b/./c?q=1&r", large, "X-Forwarded-For", "6.6.6.6", "Forwarded", "for=6.6.6.6", "Connection", "X-Private", "X-Private", "1", "Te", "trailers")
			if a.Method != "POST" || a.Path != "/a%20b/c?q=1&r" || a.Bytes != len(large) || a.MD5 != fmt.Sprintf("%x", md5.Sum([]byte(large))) {
				t.Errorf("the application got %+v", a)
			}
			want := map[string]string{
				"host": "legacy.example:8080", "x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "http", "x-forwarded-host": "legacy.example:8080",
				"forwarded": "", "x-private": "", "te": "trailers",
			}
			for name, want := range want {
				if got := a.Headers[name]; got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			b := g.askHTTP(t, "GET", "/again", "")
			if b.Peer != a.Peer || b.PID != a.PID {
				t.Errorf("the second request came on another connection")
			}
		})
	}
}

func TestHTTPApplicationResponses(t *testing.T) {
	g := httpGate(t, worker(1))
	resp, got := g.askOK(t, "HEAD", "/head", "")
	if got != "" || resp.Header.Get("X-Kept") != "1" || resp.Header.Get("X-Secret") != "" || resp.ContentLength <= 0 {
		t.Errorf("HEAD gave %q, length %d, %v", got, resp.ContentLength, resp.Header)
	}
	if _, got := g.askOK(t, "GET", "/big", ""); len(got) != 3000000 {
		t.Errorf("a large response has %d bytes", len(got))
	}
	for range 3 { // the application closes its connection each time
		g.askHTTP(t, "POST", "/close", "body")
	}
	if resp, _, err := g.ask(t, "GET", "/cut", ""); err == nil {
		t.Errorf("a response that ends early gave %d and a clean end", resp.StatusCode)
	}
	if resp, _ := g.askOK(t, "GET", "/switch", ""); resp.StatusCode != 502 {
		t.Errorf("a protocol that nobody asked for gave %d, want 502", resp.StatusCode)
	}
	g.log.wait("has not asked for")
}

func TestHTTPApplicationThreads(t *testing.T) {
	g := httpGate(t, worker(1))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { g.askOK(t, "GET", "/meet", "") }) // they wait for each other
	}
	wg.Wait()
}

func TestHTTPApplicationStreams(t *testing.T) {
	g := httpGate(t, worker(1))
	goOn := g.fifo(t, "go")
	resp, err := g.Client().Get(g.URL + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("the beginning is %q, %v", first, err)
	}
	writeFile(t, goOn)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "last" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

func TestHTTPApplicationUpgrade(t *testing.T) {
	g := httpGate(t, worker(1))
	nc, err := net.Dial("tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprint(nc, "GET /echo HTTP/1.1\r\nHost: legacy.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shout\r\n\r\n")
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "shout" {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	if got, err := br.ReadString('\n'); got != "welcome\n" {
		t.Fatalf("the application began with %q, %v", got, err)
	}
	fmt.Fprint(nc, "hello\nbye\n")
	if got, err := io.ReadAll(br); err != nil || string(got) != "HELLO\nBYE\n" {
		t.Errorf("the conversation was %q, %v", got, err)
	}
	g.unused(t)
	if s := g.pool.Status(); s.Exits[mpm.ExitCrash] != 0 {
		t.Errorf("after the conversation: exits %v", s.Exits)
	}
}

// front puts our own HTTP side before the gate, in place of net/http.
func (g *gate) front(t testing.TB) (addr string) {
	t.Helper()
	return serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		exchangeOf(r).listener = "tcp :80"
		g.handler.ServeHTTP(w, r)
	})
}

// dialText connects to addr and sends text.
func dialText(t testing.TB, addr, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	return nc, bufio.NewReader(nc)
}

// alone is a worker pool whose children have one thread each, so that a deadline ends one request.
func alone(children int) routes.Pool {
	cfg := worker(children)
	cfg.ThreadsPerChild, cfg.MaxRequestWorkers, cfg.RequestTimeout = 1, children, time.Second
	return cfg
}

// outlive returns when a request that came now has run into request_timeout.
func (g *gate) outlive(t testing.TB) {
	t.Helper()
	if resp, _ := g.askOK(t, "GET", "/hang", ""); resp.StatusCode != 504 {
		t.Errorf("a request that hangs gave %d, want 504", resp.StatusCode)
	}
}

func TestHTTPApplicationWebSocket(t *testing.T) {
	g := httpGate(t, alone(2))
	nc, br := dialText(t, g.front(t), "GET /websocket HTTP/1.1\r\nHost: legacy.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	echo := func() {
		t.Helper()
		fmt.Fprintf(nc, "\x81\x85\x01\x02\x03\x04%s", []byte{'h' ^ 1, 'e' ^ 2, 'l' ^ 3, 'l' ^ 4, 'o' ^ 1})
		got := make([]byte, 7)
		if _, err := io.ReadFull(br, got); err != nil || string(got) != "\x81\x05hello" {
			t.Fatalf("the echo is %q, %v; log:\n%s", got, err, g.log.text())
		}
	}
	echo()
	g.outlive(t)
	echo()
	nc.Close()
	g.takeAll(t, 2)
}

// takeAll returns once no request holds a slot.
func (g *gate) takeAll(t testing.TB, slots int) {
	t.Helper()
	var taken []*mpm.Slot
	for range slots {
		slot, err := g.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, slot)
	}
	for _, slot := range taken {
		slot.Release(mpm.Done)
	}
}

func TestHTTPApplicationEventStream(t *testing.T) {
	g := httpGate(t, alone(2))
	addr, goOn := g.front(t), g.fifo(t, "go")
	_, br := dialText(t, addr, "GET /events HTTP/1.1\r\nHost: legacy.example\r\n\r\n")
	resp, err := http.ReadResponse(br, nil) // before the first event
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	body := bufio.NewReader(resp.Body)
	g.outlive(t)
	for _, event := range []string{"first", "last"} {
		if err := os.WriteFile(goOn, []byte(event), 0); err != nil {
			t.Fatal(err)
		}
		if got, err := body.ReadString('\n'); err != nil || got != "data: "+event+"\n" {
			t.Fatalf("the event is %q, %v; log:\n%s", got, err, g.log.text())
		}
		if _, err := body.Discard(1); err != nil {
			t.Fatal(err)
		}
	}
	if rest, err := io.ReadAll(body); err != nil || len(rest) > 0 {
		t.Errorf("the stream ends with %q, %v", rest, err)
	}
}

// TestHTTPApplicationEventStreamClientGone: the slot is free at once, though the application has not noticed.
func TestHTTPApplicationEventStreamClientGone(t *testing.T) {
	cfg := alone(1)
	cfg.RequestTimeout = 0
	g := httpGate(t, cfg)
	g.fifo(t, "go")
	nc, br := dialText(t, g.front(t), "GET /events HTTP/1.1\r\nHost: legacy.example\r\n\r\n")
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	nc.Close()
	g.askHTTP(t, "GET", "/", "")
	if s := g.pool.Status(); s.Exits[mpm.ExitCrash] != 0 || strings.Contains(g.log.text(), "cut off") {
		t.Errorf("a client that leaves is no failure, but exits are %v; log:\n%s", s.Exits, g.log.text())
	}
}

func TestHTTPApplicationRefusesUpgrade(t *testing.T) {
	g := httpGate(t, worker(1))
	a := g.askHTTP(t, "GET", "/plain", "", "Connection", "Upgrade", "Upgrade", "websocket")
	if a.Headers["upgrade"] != "websocket" {
		t.Errorf("the application was asked for %q", a.Headers["upgrade"])
	}
	g.askHTTP(t, "GET", "/again", "")
}

func TestHTTPApplicationEarlyAnswers(t *testing.T) {
	g := httpGate(t, worker(1))
	addr := g.front(t)
	_, br := dialText(t, addr, "GET /early HTTP/1.1\r\nHost: legacy.example\r\n\r\n")
	early, err := http.ReadResponse(br, nil)
	if err != nil || early.StatusCode != 103 || early.Header.Get("Link") != "</style.css>; rel=preload" {
		t.Fatalf("the early answer is %v, %v", early, err)
	}
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Link") != "" {
		t.Fatalf("the answer is %v, %v", resp, err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "abc" || fmt.Sprint(resp.Trailer) != "map[X-Sum:[7]]" {
		t.Errorf("the body is %q, %v with the trailer %v", body, err, resp.Trailer)
	}
	if old := raw(t, addr, "GET /early HTTP/1.0\r\nHost: legacy.example\r\n\r\n", false); !strings.HasPrefix(old, "HTTP/1.1 200 OK\r\n") || strings.Contains(old, "X-Sum") {
		t.Errorf("an HTTP/1.0 client gets %q", old)
	}
}

// TestAffinity: each connection comes back to the thread of its last request, parked or not.
func TestAffinity(t *testing.T) {
	g := httpGate(t, worker(1))
	addr := g.front(t)
	var clients [3]*bufio.ReadWriter
	for i := range clients {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		clients[i] = bufio.NewReadWriter(bufio.NewReader(nc), bufio.NewWriter(nc))
	}
	ask := func(client *bufio.ReadWriter, path string) (peer int64) {
		fmt.Fprintf(client, "GET %s HTTP/1.1\r\nHost: legacy.example\r\n\r\n", path)
		client.Flush()
		resp, err := http.ReadResponse(client.Reader, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer resp.Body.Close()
		var a httpAnswer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			t.Error(err)
		}
		return a.Peer
	}
	var wg sync.WaitGroup
	var first [3]int64
	for i := range clients {
		wg.Go(func() { first[i] = ask(clients[i], "/meet") }) // on three threads, because they wait for each other
	}
	wg.Wait()
	for round := range 3 {
		for i := range clients {
			if got := ask(clients[i], "/"); got != first[i] {
				t.Errorf("round %d: client %d was served on connection %d, and before on %d", round, i, got, first[i])
			}
		}
	}
}

func TestRetry(t *testing.T) {
	for _, row := range []struct {
		name, method string
		retry        bool
		status       int
	}{
		{"a GET is repeated", "GET", true, 200},
		{"a PUT with a body is repeated", "PUT", true, 200},
		{"a POST is not", "POST", true, 502},
		{"nothing is by default", "GET", false, 502},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := worker(3)
			cfg.Retry, cfg.DebugErrors = row.retry, true
			g := httpGate(t, cfg)
			resp, got := g.askOK(t, row.method, "/die-once", "body")
			if resp.StatusCode != row.status {
				t.Errorf("%s gave %d %q, want %d; log:\n%s", row.method, resp.StatusCode, got, row.status, g.log.text())
			}
			if row.status == 502 && !strings.Contains(got, "signal 9 (killed)") {
				t.Errorf("the page does not tell the reason: %q", got)
			}
		})
	}
	cfg := worker(3)
	cfg.Retry = true
	g := httpGate(t, cfg)
	if resp, _ := g.askOK(t, "GET", "/die", ""); resp.StatusCode != 502 {
		t.Errorf("a request that kills every child gave %d, want 502", resp.StatusCode)
	}
}

// TestNoRetryOnKeptConnection: a request that ends the connection is not taken for one that came too late.
func TestNoRetryOnKeptConnection(t *testing.T) {
	g := httpGate(t, worker(1))
	g.askHTTP(t, "GET", "/", "")
	if resp, _ := g.askOK(t, "GET", "/end", ""); resp.StatusCode != 502 {
		t.Errorf("the answer is %d, want 502", resp.StatusCode)
	}
	if got := readFile(t, filepath.Join(g.root, "ended")); got != "x" {
		t.Errorf("the application was asked %d times, want once", len(got))
	}
}

// TestProbeHTTP has nobody listen, then somebody.
func TestProbeHTTP(t *testing.T) {
	child := mpm.Child{PID: os.Getpid(), Socket: filepath.Join(t.TempDir(), "x.sock")}
	own := ctl.OwnSocket(child.Socket)
	if err := os.Mkdir(filepath.Dir(own), 0o700); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancelCause(context.Background())
	end(errors.New("out of patience"))
	if err := probeHTTP(ended, child); err == nil || !strings.Contains(err.Error(), "out of patience") {
		t.Errorf("probeHTTP of nobody gave %v", err)
	}
	result := make(chan error)
	go func() { result <- probeHTTP(t.Context(), child) }()
	l, err := net.Listen("unix", own)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-result; err != nil {
		t.Errorf("probeHTTP of somebody gave %v", err)
	}
	child.PID = 1 // another user's, or at least not one that we know to be ours
	if os.Getuid() != 0 {
		if err := probeHTTP(t.Context(), child); err == nil || !strings.Contains(err.Error(), "belongs to user") {
			t.Errorf("probeHTTP of another user's socket gave %v", err)
		}
	}
}

// wsgiProgram waits on a pipe in the site's root, when it is asked to.
const wsgiProgram = `
import os, threading, time
here = os.path.dirname(__file__)

def steps(pause, fails=False):
    yield b"data: first\n\n"
    time.sleep(pause)
    if fails:
        raise ValueError("half way")
    yield b"data: last\n\n"

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path in ("/events", "/steps", "/fails"):
        start_response("200 OK", [("Content-Type", "text/event-stream" if path == "/events" else "text/plain")])
        return steps(3) if path == "/events" else steps(0.9, path == "/fails")
    if path == "/wait":
        with open(here + "/started", "w") as f:
            f.write(str(os.getpid()))
        open(here + "/go").read()
    if path == "/die":
        os.abort()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("%d %s" % (os.getpid(), threading.get_ident())).encode()]
`

func wsgiGate(t testing.TB, cfg routes.Pool) *gate {
	t.Helper()
	cfg.WSGI = &routes.WSGI{Module: "shop", Python: python(t)}
	return newGate(t, cfg, map[string]string{"www/shop.py": wsgiProgram})
}

// TestWSGIBlocks: a block that was yielded does not wait for the next one, and an application that fails half way does not cost
// its process.
func TestWSGIBlocks(t *testing.T) {
	for _, unbuffered := range []bool{true, false} {
		t.Run(fmt.Sprintf("unbuffered %t", unbuffered), func(t *testing.T) {
			cfg := worker(1)
			cfg.WSGI = &routes.WSGI{Module: "shop", Python: python(t)}
			g := newGate(t, cfg, map[string]string{"www/shop.py": wsgiProgram}, routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/"}, Unbuffered: unbuffered})
			for path, whole := range map[string]bool{"/steps": true, "/fails": false} {
				resp, err := g.Client().Get(g.URL + path)
				if err != nil {
					t.Fatal(err)
				}
				first := make([]byte, 100)
				n, err := resp.Body.Read(first)
				if got := string(first[:n]); err != nil || got != "data: first\n\n" {
					t.Errorf("the first piece of %s is %q, %v", path, got, err)
				}
				if _, err := io.ReadAll(resp.Body); (err == nil) != whole {
					t.Errorf("%s ended with %v", path, err)
				}
				resp.Body.Close()
			}
			g.askOK(t, "GET", "/", "")
			g.unused(t)
			if s := g.pool.Status(); s.Exits[mpm.ExitCrash] != 0 || s.Processes.Total != 1 || s.Requests.Failed != 1 {
				t.Errorf("exits are %v, processes %+v, requests %+v", s.Exits, s.Processes, s.Requests)
			}
		})
	}
}

// TestWorkerClientGone: the thread of a client that has gone finishes, while the others serve.
func TestWorkerClientGone(t *testing.T) {
	g := wsgiGate(t, worker(1))
	started, goOn := g.fifo(t, "started"), g.fifo(t, "go")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r, err := http.NewRequestWithContext(ctx, "GET", g.URL+"/wait", nil)
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
	if _, got := g.askOK(t, "GET", "/", ""); !strings.HasPrefix(got, pid+" ") {
		t.Errorf("another thread was to answer, but got %q", got)
	}
	eventually(t, "only the slot that nobody waits for is busy", func() bool { return g.pool.Status().Slots.Busy == 1 })
	writeFile(t, goOn)
	var slots []*mpm.Slot
	for range 4 { // all of them
		slot, err := g.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, slot)
	}
	for _, slot := range slots {
		slot.Release(mpm.Done)
	}
	if s := g.pool.Status(); s.Exits[mpm.ExitCrash] != 0 || s.Processes.Total != 1 {
		t.Errorf("the child did not live on: %+v", s)
	}
}

func TestWorkerScripts(t *testing.T) {
	g := newGate(t, worker(1), map[string]string{
		"cgi-bin/meet":  "#!/bin/sh\ncd \"$(dirname \"$0\")\"\nread x < fifo\nprintf 'Content-Type: text/plain\\n\\n%s' \"$x\"\n",
		"cgi-bin/greet": "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho hi > fifo\nprintf 'Content-Type: text/plain\\n\\ndone'\n",
	})
	if out, err := exec.Command("mkfifo", filepath.Join(g.cgi, "fifo")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	answered := make(chan string)
	go func() {
		_, got, err := g.ask(t, "GET", "/cgi-bin/meet", "")
		answered <- fmt.Sprint(got, err)
	}()
	if _, got := g.askOK(t, "GET", "/cgi-bin/greet", ""); got != "done" { // it waits for the other one
		t.Errorf("the second script gave %q", got)
	}
	if got := <-answered; got != "hi<nil>" {
		t.Errorf("the first script gave %q", got)
	}
	g.starter.only()
}

// lateContext has a deadline after which it does not end yet.
type lateContext struct {
	context.Context
	at time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.at, true }

// TestProbeHTTPAtDeadline: whoever finds first that the time is over, the reason is the same.
func TestProbeHTTPAtDeadline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	err = probeHTTP(lateContext{t.Context(), time.Now().Add(20 * time.Millisecond)}, mpm.Child{PID: os.Getpid(), Socket: path})
	if err == nil || !strings.HasPrefix(err.Error(), "it does not listen: ") {
		t.Errorf("probeHTTP() = %v", err)
	}
}
