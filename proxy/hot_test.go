package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"gateway/mpm/event"
	"gateway/routes"
)

// hotSite serves the files of a folder behind the engine, as the program does.
func hotSite(t testing.TB, files map[string]string) (addr, root string, s *Server) {
	t.Helper()
	e, err := event.New(event.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	s, root = routedFolder(t, `
site "localhost" {
  listen = ["`+addr+`"]
  root   = "{root}"
  max_keep_alive_requests = 1000000
  route "/*" {
    pool = "edge"
    static { cache_control = "max-age=60" }
  }
}
`, files)
	t.Cleanup(func() { e.Close() }) // before the server's folders close
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	h := &HTTP{Handler: s, Server: s, Address: "tcp " + addr, Log: zap.NewNop().Sugar(), Local: func(*event.Conn) netip.AddrPort { return netip.AddrPort{} }}
	if err := e.Listen(f, event.Listener{Protocol: h, Address: addr}); err != nil {
		t.Fatal(err)
	}
	return addr, root, s
}

// age makes files old enough to be kept: one that changes at this moment is not.
func age(t testing.TB, paths ...string) {
	t.Helper()
	time.Sleep(30 * time.Millisecond)
}

// get sends a request on c and returns the response with its body read.
func get(t testing.TB, c net.Conn, r *bufio.Reader, method, path string, fields ...string) (*http.Response, string) {
	t.Helper()
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", method, path, strings.Join(append(fields, ""), "\r\n"))
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestHotAnswersAreThoseOfTheLongWay(t *testing.T) {
	addr, _, s := hotSite(t, map[string]string{"a.html": "hello", "index.html": "home", "empty.txt": "", "big.bin": strings.Repeat("0123456789", 20_000)})
	age(t)
	tests := []struct {
		name, method, path string
		field              func(first *http.Response) string
		status             int
	}{
		{"a plain request", "GET", "/a.html", nil, 200},
		{"HEAD", "HEAD", "/a.html", nil, 200},
		{"with a query", "GET", "/a.html?x=1", nil, 200},
		{"a folder's index", "GET", "/", nil, 200},
		{"an odd spelling of the path", "GET", "/x/../%61.html", nil, 200},
		{"a large file", "GET", "/big.bin", nil, 200},
		{"HEAD of a large file", "HEAD", "/big.bin", nil, 200},
		{"a range of a large file", "GET", "/big.bin", func(*http.Response) string { return "Range: bytes=100000-100009" }, 206},
		{"an empty file", "GET", "/empty.txt", nil, 200},
		{"the same ETag", "GET", "/a.html", func(r *http.Response) string { return "If-None-Match: " + r.Header.Get("ETag") }, 304},
		{"the same ETag in a list", "GET", "/a.html", func(r *http.Response) string { return `If-None-Match: "x", ` + r.Header.Get("ETag") }, 304},
		{"the same ETag, weak", "GET", "/a.html", func(r *http.Response) string { return "If-None-Match: W/" + r.Header.Get("ETag") }, 304},
		{"any ETag", "GET", "/a.html", func(*http.Response) string { return "If-None-Match: *" }, 304},
		{"another ETag", "GET", "/a.html", func(*http.Response) string { return `If-None-Match: "other"` }, 200},
		{"not modified since", "GET", "/a.html", func(r *http.Response) string { return "If-Modified-Since: " + r.Header.Get("Last-Modified") }, 304},
		{"modified since", "GET", "/a.html", func(*http.Response) string { return "If-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT" }, 200},
		{"a range", "GET", "/a.html", func(*http.Response) string { return "Range: bytes=1-2" }, 206},
		{"a range beyond the end", "GET", "/a.html", func(*http.Response) string { return "Range: bytes=100-" }, 416},
		{"another method", "POST", "/a.html", func(*http.Response) string { return "Content-Length: 0" }, 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cold := ""
			s.hot.clear()
			for round := range 3 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				r := bufio.NewReader(c)
				var fields []string
				if tt.field != nil {
					first, _ := get(t, c, r, "GET", "/a.html")
					fields = append(fields, tt.field(first))
				}
				if round == 0 {
					s.hot.clear()
				}
				resp, body := get(t, c, r, tt.method, tt.path, fields...)
				resp.Header.Del("Date")
				got := fmt.Sprint(resp.StatusCode, resp.Header, resp.ContentLength, body)
				if round == 0 {
					cold = got
				}
				if resp.StatusCode != tt.status || got != cold {
					t.Errorf("answer %d = %s\nfirst was %s\nwant status %d", round, got, cold, tt.status)
				}
			}
		})
	}
}

func TestHotFilesAreKept(t *testing.T) {
	addr, _, s := hotSite(t, map[string]string{"a.html": "hello"})
	age(t)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	get(t, c, bufio.NewReader(c), "GET", "/a.html")
	site := s.table.Site("tcp "+addr, "localhost")
	if f := s.hot.find(site, []byte("/a.html"), time.Now()); f == nil || string(f.body) != "hello" {
		t.Errorf("find = %+v, want the file", f)
	}
	if f := s.hot.find(site, []byte("/b.html"), time.Now()); f != nil {
		t.Errorf("find of another path = %+v", f)
	}
	late := time.Now().Add(hotCheck)
	if f := s.hot.find(site, []byte("/a.html"), late); f != nil {
		t.Error("nobody was sent to look at the file again")
	}
	if f := s.hot.find(site, []byte("/a.html"), late); f == nil {
		t.Error("the others were sent as well")
	}
	if f := s.hot.find(site, []byte("/a.html"), late.Add(hotAge)); f != nil {
		t.Error("a file was served that nobody has looked at for too long")
	}
}

// TestChangesAreSeenAndNeverMixed rewrites, replaces, truncates and removes a file under load. Each version is of one letter.
func TestChangesAreSeenAndNeverMixed(t *testing.T) {
	addr, root, _ := hotSite(t, map[string]string{"f.txt": strings.Repeat("a", 1000), "big.bin": strings.Repeat("a", 100_000)})
	path := filepath.Join(root, "f.txt")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, body := get(t, c, r, "GET", "/f.txt")
				if resp.StatusCode == 200 && (len(body) == 0 || strings.Trim(body, body[:1]) != "") {
					t.Errorf("mixed body: %.20q … %q", body, body[max(0, len(body)-20):])
					return
				}
			}
		})
	}
	for i := range 12 {
		letter := string(rune('b' + i))
		next := path + ".new"
		os.WriteFile(next, []byte(strings.Repeat(letter, 500+100*rand.IntN(10))), 0o644)
		if i%3 == 2 {
			os.Remove(path)
			time.Sleep(10 * time.Millisecond)
		}
		os.Rename(next, path)
		began := time.Now()
		seen := false
		for !seen && time.Since(began) < 20*time.Second {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_, body := get(t, c, bufio.NewReader(c), "GET", "/f.txt")
			c.Close()
			seen = strings.HasPrefix(body, letter)
			time.Sleep(5 * time.Millisecond)
		}
		if !seen {
			t.Fatalf("version %s was never seen", letter)
		}
	}
	close(stop)
	wg.Wait()
}

func TestHotCacheIsBounded(t *testing.T) {
	c := newHotCache(100_000)
	site := new(routes.Site)
	for i := range 5000 {
		f := &hotFile{site: site, path: fmt.Sprint("/", i), body: bytes.Repeat([]byte("x"), 1000)}
		f.checked.Store(int64(i))
		c.put(f)
		if got := c.bytes.Load(); got > 100_000 || got < 0 {
			t.Fatalf("after %d files: %d bytes, want at most 100000", i+1, got)
		}
	}
	total := int64(0)
	for i := range c.sets {
		for j := range c.sets[i] {
			if f := c.sets[i][j].Load(); f != nil {
				total += int64(len(f.body))
			}
		}
	}
	if total != c.bytes.Load() {
		t.Errorf("the cache holds %d bytes and counts %d", total, c.bytes.Load())
	}
	if total < 50_000 {
		t.Errorf("the cache holds %d bytes of 100000: it gives up too much", total)
	}
}

func TestPipelinedHotRequestsAreAllAnswered(t *testing.T) {
	addr, _, _ := hotSite(t, map[string]string{"a.html": "hello"})
	age(t)
	const n = 3*maxTurn + 5
	one := "GET /a.html HTTP/1.1\r\nHost: localhost\r\n\r\n"
	last := "GET /a.html HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	for range 2 {
		if got := strings.Count(raw(t, addr, strings.Repeat(one, n)+last, false), "\r\n\r\nhello"); got != n+1 {
			t.Errorf("%d answers to %d pipelined requests", got, n+1)
		}
	}
}

func BenchmarkHotAnswer(b *testing.B) {
	_, _, s := hotSite(b, map[string]string{"a.html": strings.Repeat("x", 1024)})
	site := s.table.Site("tcp "+b.Name(), "localhost")
	f := &hotFile{site: site, path: "/a.html", body: make([]byte, 1024), head: []byte("Content-Type: text/html\r\n"), tag: `"x"`, modified: "x"}
	f.checked.Store(time.Now().Add(time.Hour).UnixNano())
	s.hot.put(f)
	h := &HTTP{Server: s, Log: zap.NewNop().Sugar()}
	out := make([]byte, 0, 4096)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		f := s.hot.find(site, []byte("/a.html"), now)
		out, _ = f.append(out[:0], 200, false, false, &h.date, now)
	}
}
