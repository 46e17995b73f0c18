package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
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
	access, err := NewAccessLog(routes.AccessLog{Path: os.DevNull, Format: "combined"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { access.Close() })
	return loggedSite(t, files, access)
}

// loggedSite is hotSite with an access log of the caller's.
func loggedSite(t testing.TB, files map[string]string, access *AccessLog) (addr, root string, s *Server) {
	t.Helper()
	return engineSite(t, `
  route "/*" {
    pool = "edge"
    static { cache_control = "max-age=60" }
  }
`, files, access)
}

// engineSite is loggedSite with routes of the caller's.
func engineSite(t testing.TB, routes string, files map[string]string, access *AccessLog) (addr, root string, s *Server) {
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
`+routes+`
}
`, files)
	t.Cleanup(func() { e.Close() }) // before the server's folders close
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	h := &HTTP{Handler: s, Server: s, Address: "tcp " + addr, Log: zap.NewNop().Sugar(), Access: access, Local: func(*event.Conn) netip.AddrPort { return netip.AddrPort{} }}
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
	addr, root, s := hotSite(t, map[string]string{
		"a.html": "hello", "index.html": "home", "empty.txt": "", "big.bin": strings.Repeat("0123456789", 20_000), "undated.txt": "hello",
	})
	if err := os.Chtimes(filepath.Join(root, "undated.txt"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	age(t)
	plain := func(fields string) func(*http.Response) string { return func(*http.Response) string { return fields } }
	tag := func(before, after string) func(*http.Response) string {
		return func(first *http.Response) string { return before + first.Header.Get("ETag") + after }
	}
	date := func(before, after string) func(*http.Response) string {
		return func(first *http.Response) string { return before + first.Header.Get("Last-Modified") + after }
	}
	const long = true // not answered from memory
	tests := []struct {
		name, method, path string
		field              func(first *http.Response) string
		status             int
		long               bool
	}{
		{"a plain request", "GET", "/a.html", nil, 200, false},
		{"HEAD", "HEAD", "/a.html", nil, 200, false},
		{"with a query", "GET", "/a.html?x=1", nil, 200, false},
		{"a folder's index", "GET", "/", nil, 200, false},
		{"an odd spelling of the path", "GET", "/x/../%61.html", nil, 200, false},
		{"a large file", "GET", "/big.bin", nil, 200, false},
		{"HEAD of a large file", "HEAD", "/big.bin", nil, 200, false},
		{"a range of a large file", "GET", "/big.bin", plain("Range: bytes=100000-100009"), 206, false},
		{"several ranges of a large file", "GET", "/big.bin", plain("Range: bytes=0-1,100000-100009"), 206, long},
		{"a large file that the client has", "GET", "/big.bin", plain("If-None-Match: *"), 304, false},
		{"an empty file", "GET", "/empty.txt", nil, 200, false},
		{"a range of an empty file", "GET", "/empty.txt", plain("Range: bytes=0-"), 200, long},
		{"a file without a date", "GET", "/undated.txt", plain("If-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT"), 200, false},
		{"the same ETag", "GET", "/a.html", tag("If-None-Match: ", ""), 304, false},
		{"the same ETag in a list", "GET", "/a.html", tag(`If-None-Match: "x", `, ""), 304, false},
		{"the same ETag, first in a list", "GET", "/a.html", tag("If-None-Match: ", ` , "x"`), 304, false},
		{"the same ETag, weak", "GET", "/a.html", tag("If-None-Match: W/", ""), 304, false},
		{"the same ETag without quotes", "GET", "/a.html", plain("If-None-Match: x"), 200, false},
		{"any ETag", "GET", "/a.html", plain("If-None-Match: *"), 304, false},
		{"another ETag", "GET", "/a.html", plain(`If-None-Match: "other"`), 200, false},
		{"another ETag wins over the same date", "GET", "/a.html", date("If-None-Match: \"other\"\r\nIf-Modified-Since: ", ""), 200, false},
		{"the same ETag with HEAD", "HEAD", "/a.html", tag("If-None-Match: ", ""), 304, false},
		{"an ETag that must match", "GET", "/a.html", plain(`If-Match: "other"`), 412, long},
		{"not modified since", "GET", "/a.html", date("If-Modified-Since: ", ""), 304, false},
		{"not modified since a later time", "GET", "/a.html", plain("If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT"), 304, false},
		{"modified since", "GET", "/a.html", plain("If-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT"), 200, false},
		{"modified since a time in an old format", "GET", "/a.html", plain("If-Modified-Since: Monday, 02-Jan-06 15:04:05 GMT"), 200, long},
		{"a range", "GET", "/a.html", plain("Range: bytes=1-2"), 206, false},
		{"a range that is all of it", "GET", "/a.html", plain("Range: bytes=0-4"), 206, false},
		{"a range to the end", "GET", "/a.html", plain("Range: bytes=2-"), 206, false},
		{"a range past the end", "GET", "/a.html", plain("Range: bytes=3-100"), 206, false},
		{"the last bytes", "GET", "/a.html", plain("Range: bytes=-2"), 206, false},
		{"more last bytes than there are", "GET", "/a.html", plain("Range: bytes=-200"), 206, false},
		{"two ranges", "GET", "/a.html", plain("Range: bytes=0-1, -2"), 206, false},
		{"two ranges, one behind the end", "GET", "/a.html", plain("Range: bytes=1-2,70-80"), 206, false},
		{"ranges that overlap to more than the file", "GET", "/a.html", plain("Range: bytes=0-3,1-4"), 200, false},
		{"a range behind the end", "GET", "/a.html", plain("Range: bytes=100-"), 416, long},
		{"a range backwards", "GET", "/a.html", plain("Range: bytes=3-1"), 416, long},
		{"a range of another unit", "GET", "/a.html", plain("Range: lines=1-2"), 200, false},
		{"a malformed range", "GET", "/a.html", plain("Range: bytes=1-2,x"), 200, false},
		{"two Range fields", "GET", "/a.html", plain("Range: bytes=0-1\r\nRange: bytes=2-3"), 200, false},
		{"a range with HEAD", "HEAD", "/a.html", plain("Range: bytes=1-2"), 200, false},
		{"a range of a version by ETag", "GET", "/a.html", tag("Range: bytes=1-2\r\nIf-Range: ", ""), 206, false},
		{"a range of a version by date", "GET", "/a.html", date("Range: bytes=1-2\r\nIf-Range: ", ""), 206, false},
		{"a range of another version", "GET", "/a.html", plain("Range: bytes=1-2\r\nIf-Range: \"other\""), 200, false},
		{"a range of a version by weak ETag", "GET", "/a.html", tag("Range: bytes=1-2\r\nIf-Range: W/", ""), 200, false},
		{"a range of a file without a date, by date", "GET", "/undated.txt", plain("Range: bytes=1-2\r\nIf-Range: Mon, 02 Jan 2006 15:04:05 GMT"), 200, false},
		{"another method", "POST", "/a.html", plain("Content-Length: 0"), 405, long},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReader(c)
			var fields []string
			if tt.field != nil {
				first, _ := get(t, c, r, "GET", "/a.html")
				fields = append(fields, tt.field(first)+"\r\n")
			}
			s.hot.clear()
			cold := ""
			var looked time.Time // at the file: not before that
			for round := range 3 {
				before, asked := s.Cache().Hits, time.Now()
				resp, body := get(t, c, r, tt.method, tt.path, fields...)
				got := describe(t, resp, body)
				if round == 0 {
					cold = got
				}
				if resp.StatusCode != tt.status || got != cold {
					t.Errorf("answer %d = %s\nfirst was %s\nwant status %d", round, got, cold, tt.status)
				}
				hot := s.Cache().Hits > before
				if !hot && time.Since(looked) >= hotCheck {
					looked = asked // for the first time, or again on a machine so slow that it was due
				} else if round > 0 && hot == tt.long {
					t.Errorf("answer %d from memory = %v, want %v", round, hot, !tt.long)
				}
			}
		})
	}
}

// describe tells all of a response but what differs each time.
func describe(t *testing.T, resp *http.Response, body string) string {
	t.Helper()
	resp.Header.Del("Date")
	if _, parameters, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && parameters["boundary"] != "" {
		boundary := parameters["boundary"]
		resp.Header.Set("Content-Type", strings.ReplaceAll(resp.Header.Get("Content-Type"), boundary, "B"))
		resp.ContentLength -= int64(strings.Count(body, boundary) * len(boundary))
		resp.Header.Del("Content-Length")
		body = strings.ReplaceAll(body, boundary, "B")
	}
	return fmt.Sprint(resp.StatusCode, resp.Header, resp.ContentLength, body)
}

func TestHotFilesAreKept(t *testing.T) {
	addr, _, s := hotSite(t, map[string]string{"a.html": "hello"})
	age(t)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asked := time.Now()
	get(t, c, bufio.NewReader(c), "GET", "/a.html")
	site := s.table.Site("tcp "+addr, "localhost")
	f := s.hot.find(site, []byte("/a.html"), nil, asked)
	if f == nil || string(f.body) != "hello" {
		t.Fatalf("find = %+v, want the file", f)
	}
	checked := time.Unix(0, f.checked.Load())
	if f := s.hot.find(site, []byte("/b.html"), nil, time.Now()); f != nil {
		t.Errorf("find of another path = %+v", f)
	}
	late := checked.Add(hotCheck)
	if f := s.hot.find(site, []byte("/a.html"), nil, late); f != nil {
		t.Error("nobody was sent to look at the file again")
	}
	if f := s.hot.find(site, []byte("/a.html"), nil, late); f == nil {
		t.Error("the others were sent as well")
	}
	if f := s.hot.find(site, []byte("/a.html"), nil, checked.Add(hotAge)); f != nil {
		t.Error("a file was served that nobody has looked at for too long")
	}
}

// TestChangesAreSeenAndNeverMixed changes files in every way while clients ask for them. Each version is of one letter, and so is
// an answer.
func TestChangesAreSeenAndNeverMixed(t *testing.T) {
	addr, root, _ := hotSite(t, map[string]string{"small": strings.Repeat("a", 1000), "large": strings.Repeat("a", 200_000)})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, path := range []string{"/small", "/small", "/large"} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				body, whole := fetch(t, addr, path, 20)
				if whole && len(body) > 0 && strings.Trim(body, body[:1]) != "" {
					t.Errorf("mixed body of %s: %.20q … %q", path, body, body[max(0, len(body)-20):])
					return
				}
			}
		})
	}
	replace := func(path string, content []byte) {
		os.WriteFile(path+".new", content, 0o644)
		os.Rename(path+".new", path)
	}
	changes := []struct {
		how   string
		small bool // what is done to a large file in place shows in the pages that wait to be sent
		do    func(path string, content []byte)
	}{
		{"a rename over it", false, replace},
		{"its removal and a new one", false, func(path string, content []byte) {
			os.Remove(path)
			time.Sleep(10 * time.Millisecond)
			replace(path, content)
		}},
		{"writing to it in place", true, func(path string, content []byte) { os.WriteFile(path, content, 0o644) }},
		{"cutting it off, and a new one", true, func(path string, content []byte) {
			os.Truncate(path, 10)
			time.Sleep(10 * time.Millisecond)
			replace(path, content)
		}},
	}
	for i := range 16 {
		change, letter := changes[i%len(changes)], string(rune('b'+i))
		for path, size := range map[string]int{"/small": 500 + 100*rand.IntN(10), "/large": 150_000 + 1000*rand.IntN(50)} {
			if path == "/large" && change.small {
				continue
			}
			change.do(filepath.Join(root, path), []byte(strings.Repeat(letter, size)))
			began := time.Now()
			for seen := false; !seen; {
				if time.Since(began) > 20*time.Second {
					t.Fatalf("%s by %s was never seen", path, change.how)
				}
				body, _ := fetch(t, addr, path, 1)
				seen = strings.HasPrefix(body, letter)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// fetch asks for a path n times on one connection. It returns the last body and whether it is whole.
func fetch(t *testing.T, addr, path string, n int) (body string, whole bool) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return "", false
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for range n {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return "", false
		}
		b, err := io.ReadAll(resp.Body)
		body, whole = string(b), err == nil && resp.StatusCode == http.StatusOK
		if err != nil || whole && len(body) > 0 && strings.Trim(body, body[:1]) != "" {
			return body, whole
		}
	}
	return body, whole
}

// TestEveryRequestHasItsLine renames and reopens the log under load, as logrotate with SIGUSR1 does: hot files, large ones,
// and what goes the long way.
func TestEveryRequestHasItsLine(t *testing.T) {
	const clients, rounds = 4, 60
	path := filepath.Join(t.TempDir(), "access.log")
	access, err := NewAccessLog(routes.AccessLog{Path: path, Format: "%r %>s %b %{pool}x"})
	if err != nil {
		t.Fatal(err)
	}
	addr, _, s := loggedSite(t, map[string]string{"a.html": "hhhhh", "large.bin": strings.Repeat("x", 300_000)}, access)
	age(t)
	targets := map[string]string{"/a.html": "200 5", "/large.bin": "200 300000", "/none": "404 14"}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for target := range targets {
				fetch(t, addr, target, rounds)
			}
		})
	}
	for i := range 10 {
		os.Rename(path, fmt.Sprint(path, ".", i))
		if err := access.Reopen(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	var lines map[string]int
	eventually(t, "as many lines as requests are logged", func() bool {
		if err := access.Reopen(); err != nil { // it writes what waits
			t.Error(err)
		}
		var n int
		lines, n = countLines(t, path+"*")
		return n >= clients*rounds*len(targets)
	})
	if got := s.pools["edge"].Status().Requests.Total; got != uint64(clients*rounds*len(targets)) {
		t.Errorf("the pool counts %d requests, want %d", got, clients*rounds*len(targets))
	}
	if err := access.Close(); err != nil {
		t.Error(err)
	}
	for target, what := range targets {
		line := "GET " + target + " HTTP/1.1 " + what + " edge\n"
		if lines[line] != clients*rounds {
			t.Errorf("%d lines %q, want %d", lines[line], line, clients*rounds)
		}
	}
	if len(lines) != len(targets) || access.Dropped() > 0 {
		t.Errorf("lines: %v, %d dropped", lines, access.Dropped())
	}
}

// countLines counts the lines of all files that a pattern matches.
func countLines(t *testing.T, pattern string) (lines map[string]int, total int) {
	t.Helper()
	lines = map[string]int{}
	names, _ := filepath.Glob(pattern)
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(b)) {
			lines[line]++
			total++
		}
	}
	return lines, total
}

func TestLongHeadInManyPieces(t *testing.T) {
	addr, _, _ := hotSite(t, map[string]string{"a.html": "hello"})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	head := "GET /a.html HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X-Long: "+strings.Repeat("x", 900)+"\r\n", 30) + "\r\n"
	for range 2 {
		for rest := head; rest != ""; {
			n := min(len(rest), 7)
			if _, err := io.WriteString(c, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "hello" || err != nil {
			t.Errorf("answer %d %q, %v, want the file", resp.StatusCode, body, err)
		}
	}
}

func TestHotCacheIsBounded(t *testing.T) {
	rows := []struct {
		name string
		path func(i int) string
		body int
	}{
		{"many files", func(i int) string { return fmt.Sprint("/", i) }, 1000},
		{"one short file by many long paths", func(i int) string { return fmt.Sprintf("/%s%d/../a", strings.Repeat("./", 500), i) }, 1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := newHotCache(100_000, nil)
			site := new(routes.Site)
			for i := range 5000 {
				f := &hotFile{site: site, path: row.path(i), body: bytes.Repeat([]byte("x"), row.body)}
				f.checked.Store(int64(i))
				c.put(f)
				if got := c.bytes.Load(); got > 100_000 || got < 0 {
					t.Fatalf("after %d files: %d bytes, want at most 100000", i+1, got)
				}
			}
			total, files := int64(0), int64(0)
			for i := range c.sets {
				for j := range c.sets[i] {
					if f := c.sets[i][j].Load(); f != nil {
						total += int64(len(f.path) + len(f.body))
						files++
					}
				}
			}
			if c.entries.Load() != files || c.evictions.Load() == 0 || c.evictions.Load() > 5000-files {
				t.Errorf("of 5000 files %d are there, %d are counted, and %d were evicted", files, c.entries.Load(), c.evictions.Load())
			}
			if total != c.bytes.Load() {
				t.Errorf("the cache holds %d bytes and counts %d", total, c.bytes.Load())
			}
			if total < 50_000 {
				t.Errorf("the cache holds %d bytes of 100000: it gives up too much", total)
			}
		})
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

// hotRequests are those that are to cost no memory, for files of hotSite.
var hotRequests = []struct{ name, request string }{
	{"GET", "GET /a.html HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	{"HEAD", "HEAD /a.html HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	{"HTTP/1.0", "GET /a.html HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"},
	{"a browser's GET", "GET /a.html?v=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\nReferer: http://localhost/\r\nCookie: a=b\r\n\r\n"},
	{"If-None-Match", "GET /a.html HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"x\", W/\"y\"\r\n\r\n"},
	{"304", "GET /a.html HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\n\r\n"},
	{"If-Modified-Since", "GET /a.html HTTP/1.1\r\nHost: localhost\r\nIf-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\n"},
	{"a range", "GET /a.html HTTP/1.1\r\nHost: localhost\r\nRange: bytes=10-20\r\nIf-Range: \"x\"\r\n\r\n"},
	{"several ranges", "GET /a.html HTTP/1.1\r\nHost: localhost\r\nRange: bytes=1-2, 10-20, -5\r\n\r\n"},
	{"a large file", "GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	{"a range of a large file", "GET /large.bin HTTP/1.1\r\nHost: localhost\r\nRange: bytes=90000-\r\n\r\n"},
}

// TestHotRequestsCostNoMemory counts what the whole process allocates, from the event of a request to its log line.
func TestHotRequestsCostNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	for _, tt := range hotRequests {
		t.Run(tt.name, func(t *testing.T) {
			talk := hotClient(t, tt.request)
			if n := testing.AllocsPerRun(200, talk); n != 0 {
				t.Errorf("%s: %v allocations for each request, want 0", tt.name, n)
			}
		})
	}
}

// BenchmarkHotRequest is a request over a socket and back, on one connection, with its log line: 0 allocs/op.
func BenchmarkHotRequest(b *testing.B) {
	for _, tt := range hotRequests {
		b.Run(tt.name, func(b *testing.B) {
			talk := hotClient(b, tt.request)
			b.ReportAllocs()
			for b.Loop() {
				talk()
			}
		})
	}
}

// hotClient returns a function that sends a request and reads the answer, and allocates nothing.
func hotClient(t testing.TB, request string) func() {
	addr, _, s := hotSite(t, map[string]string{"a.html": strings.Repeat("x", 1024), "large.bin": strings.Repeat("x", 100_000)})
	age(t)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := bufio.NewReader(c)
	for range 2 { // one to find the file, one to send it from where it is kept
		get(t, c, r, "GET", "/a.html")
		get(t, c, r, "GET", "/large.bin")
	}
	hits := s.Cache().Hits
	var answer bytes.Buffer
	r.Reset(io.TeeReader(c, &answer))
	io.WriteString(c, request)
	resp, err := http.ReadResponse(r, &http.Request{Method: request[:strings.IndexByte(request, ' ')]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if s.Cache().Hits == hits {
		t.Fatal("the request was not answered from memory")
	}
	asked, buffer := []byte(request), make([]byte, answer.Len()) // the next answers are as long
	return func() {
		if _, err := c.Write(asked); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buffer); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHotCacheKeepsFewFilesOpen(t *testing.T) {
	c := newHotCache(100_000, nil)
	c.kept = 32
	before := descriptors(t, os.Getpid())
	for i := range 500 {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		f := &hotFile{site: new(routes.Site), path: fmt.Sprint("/", i), file: file, hash: uint64(i)}
		f.holders.Store(1)
		c.put(f)
	}
	if kept := descriptors(t, os.Getpid()) - before; kept > 32 || kept == 0 {
		t.Errorf("%d files stay open, want 1 to 32", kept)
	}
	c.clear()
	if left := descriptors(t, os.Getpid()) - before; left != 0 {
		t.Errorf("%d files stay open after clear", left)
	}
}
