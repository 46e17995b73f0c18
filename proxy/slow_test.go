package proxy

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/mpm"
	"gateway/routes"
)

var slowFiles = map[string]string{
	// Random bytes, whose digest comes first, so that nothing lost, doubled or out of order goes unseen.
	"www/random.php": `<?php
		$size = (int)$_GET["size"];
		$block = random_bytes(1 << 16);
		$hash = hash_init("sha256");
		for ($i = 0; $i < $size >> 16; $i++) hash_update($hash, pack("N", $i) . substr($block, 4));
		header("X-Sum: " . hash_final($hash));
		if (isset($_GET["length"])) header("Content-Length: " . ($size >> 16 << 16) + (int)$_GET["length"]);
		for ($i = 0; $i < $size >> 16; $i++) echo pack("N", $i), substr($block, 4);
		if (isset($_GET["die"])) { while (ob_get_level()) ob_end_flush(); flush(); posix_kill(getmypid(), 9); }`,
	"www/early.php": `<?php echo "first"; while (ob_get_level()) ob_end_flush(); flush(); file_get_contents("go"); echo "last";`,
	"www/events.php": `<?php header("Content-Type: text/event-stream"); while (ob_get_level()) ob_end_flush();
		for ($i = 0; $i < 3; $i++) { echo "data: $i\n\n"; flush(); file_get_contents("go"); }`,
	"www/sum.php":  `<?php $in = fopen("php://input", "r"); $h = hash_init("sha256"); hash_update_stream($h, $in); echo hash_final($h);`,
	"www/half.php": `<?php file_put_contents("started", getmypid()); echo strlen(file_get_contents("php://input"));`,
}

// fronts are the two kinds of response writers: the engine's, which can be written to without waiting, and another one.
func (g *gate) fronts(t testing.TB) map[string]string {
	return map[string]string{"the engine": g.front(t), "net/http": g.Listener.Addr().String()}
}

// reader is a client that reads no more than it is asked to. The kernel takes up to 4 MB for it meanwhile.
type reader struct {
	net.Conn
	br *bufio.Reader
}

func newReader(t testing.TB, addr, target string) *reader {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if _, err := fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: legacy.example\r\n\r\n", target); err != nil {
		t.Fatal(err)
	}
	return &reader{nc, bufio.NewReader(nc)}
}

// rest reads the response to its end, see restOf.
func (c *reader) rest(t testing.TB) (status int, n int64, err error) {
	t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: "GET"})
	if err != nil {
		t.Fatal(err)
	}
	return restOf(resp)
}

// restOf reads a response to its end. It reports whether that was a clean one, with the body that X-Sum announces.
func restOf(resp *http.Response) (status int, n int64, err error) {
	defer resp.Body.Close()
	hash := sha256.New()
	n, err = io.Copy(hash, resp.Body)
	if sum := fmt.Sprintf("%x", hash.Sum(nil)); err == nil && sum != resp.Header.Get("X-Sum") {
		err = errors.New("the body is not what was sent")
	}
	return resp.StatusCode, n, err
}

// idle returns when the only child has no request.
func (g *gate) idle(t testing.TB) {
	t.Helper()
	slot, err := g.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slot.Release(mpm.Done)
}

// released returns when no response waits for its client any more.
func (g *gate) released(t testing.TB) {
	t.Helper()
	for g.handler.spool.used.Load() != 0 {
		runtime.Gosched()
	}
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range files {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, g.handler.spool.dir) {
			t.Errorf("descriptor %s is still open: %s", fd, to)
		}
	}
}

// TestSlowReaderHoldsNoChild: the child is free when it has written everything, and the client has taken nearly nothing.
func TestSlowReaderHoldsNoChild(t *testing.T) {
	g := phpGate(t, phpPool(t), slowFiles)
	for kind, addr := range g.fronts(t) {
		for _, row := range []struct {
			name, query string
			cut         bool
			lost        int64 // bytes that the child has written and nobody reads any more
		}{
			{"of unknown length", "", false, 0},
			{"of known length", "&length=0", false, 0},
			{"that ends early", "&length=1", true, 0},
			{"whose child dies", "&die", true, 1 << 20},
		} {
			t.Run(kind+", a response "+row.name, func(t *testing.T) {
				const size = 30 << 20
				c := newReader(t, addr, fmt.Sprintf("/random.php?size=%d%s", size, row.query))
				if _, err := c.br.Peek(1); err != nil {
					t.Fatal(err)
				}
				g.idle(t)
				if used := g.handler.spool.used.Load(); used < size/2 {
					t.Errorf("the child is free and only %d bytes are in files: who took the others?", used)
				}
				if _, got := g.askOK(t, "GET", "/hello.php", ""); got != "hello" {
					t.Errorf("the next request gave %q", got)
				}
				status, n, err := c.rest(t)
				if status != 200 || n < size-row.lost || n > size || (err != nil) != row.cut {
					t.Errorf("the client got %d, %d bytes, %v; want %d bytes and cut: %t", status, n, err, size, row.cut)
				}
				g.released(t)
			})
		}
	}
}

func TestManySlowReaders(t *testing.T) {
	cfg := phpPool(t)
	cfg.MaxRequestWorkers, cfg.Queue = 2, routes.Queue{Length: 1000, Timeout: time.Minute}
	g := phpGate(t, cfg, slowFiles)
	addr := g.front(t)
	const readers = 50
	var clients [readers]*reader
	for i := range clients {
		clients[i] = newReader(t, addr, "/random.php?size=4194304")
	}
	for range 10 {
		if _, got := g.askOK(t, "GET", "/hello.php", ""); got != "hello" {
			t.Fatalf("a request among slow readers gave %q", got)
		}
	}
	for i, c := range clients {
		if i%2 == 0 {
			c.Close() // it has had enough
			continue
		}
		if status, n, err := c.rest(t); status != 200 || n != 4<<20 || err != nil {
			t.Errorf("a slow reader got %d, %d bytes, %v", status, n, err)
		}
	}
	g.released(t)
}

// TestEarlyBytes: a client gets what a child that takes its time has written, without any sign from the application.
func TestEarlyBytes(t *testing.T) {
	g := phpGate(t, phpPool(t), slowFiles)
	goOn := g.fifo(t, "go")
	for kind, addr := range g.fronts(t) {
		t.Run(kind, func(t *testing.T) {
			c := newReader(t, addr, "/early.php")
			resp, err := http.ReadResponse(c.br, nil)
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
		})
	}
}

// TestFullSpool: a full spool costs the response that does not fit, and nothing else.
func TestFullSpool(t *testing.T) {
	g := phpGate(t, phpPool(t), slowFiles)
	g.handler.spool.limit = 1 << 20
	c := newReader(t, g.front(t), "/random.php?size=31457280")
	if _, err := c.br.Peek(1); err != nil {
		t.Fatal(err)
	}
	g.idle(t)
	if _, _, err := c.rest(t); err == nil {
		t.Error("a response larger than the spool has a clean end")
	}
	if resp, _, err := g.ask(t, "POST", "/body.php", strings.Repeat("x", 2<<20)); err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a request larger than the spool gave %v, %v; want 503 with Retry-After", resp, err)
	}
	if _, got := g.askOK(t, "GET", "/hello.php", ""); got != "hello" {
		t.Errorf("the next request gave %q", got)
	}
	g.released(t)
	if lines := strings.Count(g.log.text(), "spool takes no more"); lines != 1 {
		t.Errorf("the log has %d lines, want 1:\n%s", lines, g.log.text())
	}
}

// unbuffered is a gate whose routes have buffer = false.
func unbuffered(t testing.TB) *gate {
	t.Helper()
	g := phpGate(t, phpPool(t), slowFiles)
	for _, site := range g.config.Sites {
		for i := range site.Routes {
			site.Routes[i].Unbuffered = true
		}
	}
	g.handler.table = routes.NewTable(g.config)
	return g
}

func TestUnbufferedEvents(t *testing.T) {
	g := unbuffered(t)
	goOn := g.fifo(t, "go")
	for kind, addr := range g.fronts(t) {
		t.Run(kind, func(t *testing.T) {
			c := newReader(t, addr, "/events.php")
			resp, err := http.ReadResponse(c.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				want := fmt.Sprintf("data: %d\n", i)
				if got, err := lines.ReadString('\n'); got != want || err != nil {
					t.Fatalf("event %d is %q, %v", i, got, err)
				}
				if _, err := lines.Discard(1); err != nil {
					t.Fatal(err)
				}
				writeFile(t, goOn)
			}
		})
	}
}

func TestUnbufferedBodies(t *testing.T) {
	g := unbuffered(t)
	started := g.fifo(t, "started")
	for kind, addr := range g.fronts(t) {
		t.Run("a whole body, "+kind, func(t *testing.T) {
			for _, size := range []int{1, spoolMemory, spoolMemory + 1, 3 << 20} {
				body := pattern(size)
				resp, err := http.Post("http://"+addr+"/sum.php", "application/octet-stream", strings.NewReader(string(body)))
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := fmt.Sprintf("%x", sha256.Sum256(body)); string(got) != want {
					t.Errorf("a body of %d bytes gave %q, want %q", size, got, want)
				}
			}
			http.DefaultClient.CloseIdleConnections()
		})
		t.Run("the script runs before the body is there, "+kind, func(t *testing.T) {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			fmt.Fprintf(nc, "PUT /half.php HTTP/1.1\r\nHost: legacy.example\r\nContent-Length: 200000\r\n\r\n")
			readFile(t, started)
			if _, err := nc.Write(make([]byte, 200000)); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); string(got) != "200000" || err != nil {
				t.Errorf("the script got %s bytes, %v", got, err)
			}
		})
		t.Run("a client that leaves in the middle, "+kind, func(t *testing.T) {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(nc, "PUT /half.php HTTP/1.1\r\nHost: legacy.example\r\nContent-Length: 200000\r\n\r\n%s", make([]byte, 100000))
			readFile(t, started)
			nc.Close()
			if _, got := g.askOK(t, "GET", "/hello.php", ""); got != "hello" {
				t.Errorf("the next request gave %q", got)
			}
		})
		if kind == "net/http" {
			continue // it takes the end of reading for the end of its client
		}
		t.Run("a child that dies in the middle, "+kind, func(t *testing.T) {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			fmt.Fprintf(nc, "PUT /half.php HTTP/1.1\r\nHost: legacy.example\r\nContent-Length: 2000000\r\n\r\n%s", make([]byte, 100000))
			readFile(t, started)
			_ = g.starter.only().cmd.Process.Kill()
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 502 || !resp.Close {
				t.Errorf("the client got %d, close: %t; want 502 and the end of the connection", resp.StatusCode, resp.Close)
			}
		})
	}
}

// TestResponseOffers: what a socket does not take is kept, and nothing of it is lost or out of order.
func TestResponseOffers(t *testing.T) {
	const pieces, size = 40, 64 << 10
	var once sync.Once
	kept := make(chan struct{})
	dir := t.TempDir()
	addr := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		d := newDelivery(newSpool(dir, 0, newTestLog()), w, func() {})
		defer d.close()
		for range pieces {
			_, _ = d.Write(pattern(size))
		}
		once.Do(func() { close(kept) })
		d.stop(true)
		if err := d.finish(); err != nil {
			t.Error(err)
		}
	})
	c := newReader(t, addr, "/")
	<-kept // the handler has written everything, and the client read nothing
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if want := strings.Repeat(string(pattern(size)), pieces); err != nil || string(got) != want {
		t.Errorf("the client got %d bytes, %v; want %d", len(got), err, len(want))
	}
}
