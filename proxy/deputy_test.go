package proxy

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/proxy/fcgi"
	"gateway/routes"
)

// filesRoute serves the files of a folder; empty: those of the gate.
func filesRoute(root string) routes.Route {
	return routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/"}, Root: root, Static: &routes.Static{Index: []string{"index.html"}}}
}

// newGuarded returns a folder whose files a real child opens.
func newGuarded(t testing.TB, root string) opener {
	t.Helper()
	g := newGate(t, routes.Pool{}, nil, filesRoute(root))
	x := &exchange{site: &routes.Site{}}
	t.Cleanup(x.dismiss)
	return g.handler.filesOf(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), x, &routes.Route{Pool: "app"}, root)
}

func TestFilesOfAPoolWithChildren(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	for _, cfg := range []routes.Pool{{MPM: routes.Prefork}, {MPM: routes.Worker, ThreadsPerChild: 2, MaxRequestWorkers: 2, ServerLimit: 1}} {
		t.Run(string(cfg.MPM), func(t *testing.T) {
			g := newGate(t, cfg, map[string]string{"www/a.txt": digits, "www/dir/index.html": "index", "www/large": string(large), "www/x.php": "source"}, filesRoute(""))
			rows := []struct {
				name, method, target, field, value string
				status                             int
				want                               string
			}{
				{name: "a file", method: "GET", target: "/a.txt", status: 200, want: digits},
				{name: "a range", method: "GET", target: "/a.txt", field: "Range", value: "bytes=2-4", status: 206, want: "234"},
				{name: "a condition", method: "GET", target: "/a.txt", field: "If-Modified-Since", value: time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), status: 304},
				{name: "HEAD", method: "HEAD", target: "/a.txt", status: 200},
				{name: "10 MB", method: "GET", target: "/large", status: 200, want: string(large)},
				{name: "a folder without its slash", method: "GET", target: "/dir", status: 301, want: "301 Moved Permanently\n"},
				{name: "an index file", method: "GET", target: "/dir/", status: 200, want: "index"},
				{name: "nothing", method: "GET", target: "/nothing", status: 404, want: "404 Not Found\n"},
				{name: "the source of a script", method: "GET", target: "/x.php", status: 404, want: "404 Not Found\n"},
				{name: "a path out of the root", method: "GET", target: "/..%2f..%2fetc%2fpasswd", status: 404, want: "404 Not Found\n"},
				{name: "another method", method: "POST", target: "/a.txt", status: 405, want: "405 Method Not Allowed\n"},
			}
			for _, row := range rows {
				var fields []string
				if row.field != "" {
					fields = []string{row.field, row.value}
				}
				resp, got := g.askOK(t, row.method, row.target, "", fields...)
				if resp.StatusCode != row.status || got != row.want {
					t.Errorf("%s: %s %s gave %d, %d bytes, md5 %x; want %d, %d bytes", row.name, row.method, row.target, resp.StatusCode, len(got), md5.Sum([]byte(got)), row.status, len(row.want))
				}
			}
			if total := g.pool.Status().Requests.Total; total == 0 {
				t.Error("no request was counted in the pool")
			}
		})
	}
}

// TestNoDescriptorStays: neither here nor in the child, whatever becomes of the requests.
func TestNoDescriptorStays(t *testing.T) {
	g := newGate(t, routes.Pool{}, map[string]string{"www/a.txt": digits, "www/large": strings.Repeat("x", 4<<20)}, filesRoute(""))
	g.askOK(t, "GET", "/a.txt", "")
	g.Client().CloseIdleConnections()
	child := g.starter.only().cmd.Process.Pid
	before := [2]int{settled(t, os.Getpid()), settled(t, child)}
	for i := range 200 {
		g.askOK(t, "GET", "/a.txt", "")
		g.askOK(t, "GET", "/nothing", "")
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", g.URL+"/large", nil)
		time.AfterFunc(time.Duration(i)*10*time.Microsecond, cancel)
		if resp, err := g.Client().Do(r); err == nil {
			_ = resp.Body.Close()
		}
		cancel()
	}
	g.askOK(t, "GET", "/a.txt", "")
	g.Client().CloseIdleConnections()
	if after := [2]int{settled(t, os.Getpid()), settled(t, child)}; after != before {
		t.Errorf("open descriptors of the front and the child: %v, before: %v", after, before)
	}
}

// settled is how many descriptors a process has when nothing is being closed any more.
func settled(t testing.TB, pid int) int {
	last := -1
	for range 100 {
		n := descriptors(t, pid)
		if n == last {
			return n
		}
		last = n
		time.Sleep(20 * time.Millisecond)
	}
	return last
}

func TestErrandsGoToAnotherChild(t *testing.T) {
	g := newGate(t, routes.Pool{}, map[string]string{"www/a.txt": digits}, filesRoute(""))
	for range 3 {
		g.askOK(t, "GET", "/a.txt", "")
		p := g.starter.only()
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.gone
		if resp, got := g.askOK(t, "GET", "/a.txt", ""); resp.StatusCode != 200 || got != digits {
			t.Errorf("after its child was killed a request gave %d %q", resp.StatusCode, got)
		}
	}
}

// stopped is a gate whose only child does nothing any more.
func stopped(t *testing.T, cfg routes.Pool) *gate {
	g := newGate(t, cfg, map[string]string{"www/a.txt": digits}, filesRoute(""))
	g.halt(t)
	return g
}

// halt stops the only child, once it serves, and returns when none of its threads runs.
func (g *gate) halt(t testing.TB) {
	t.Helper()
	for { // the queue may have no patience for its start
		if resp, _ := g.askOK(t, "GET", "/a.txt", ""); resp.StatusCode == 200 {
			break
		}
	}
	pid := g.starter.only().cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	running := func(thread string) bool {
		b, _ := os.ReadFile(filepath.Join(thread, "stat"))
		return len(b) > 0 && !bytes.Contains(b, []byte(") T "))
	}
	for {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(threads, running) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	g.unused(t)
}

// unused returns once no request holds a slot: the last response may have been read before its slot was released.
func (g *gate) unused(t testing.TB) {
	t.Helper()
	eventually(t, "no slot is busy", func() bool { return g.pool.Status().Slots.Busy == 0 })
}

func TestErrandPastItsDeadline(t *testing.T) {
	t.Parallel()
	g := stopped(t, routes.Pool{RequestTimeout: soon})
	if resp, _ := g.askOK(t, "GET", "/a.txt", ""); resp.StatusCode != 504 {
		t.Errorf("a child that does not answer gave %d, want 504", resp.StatusCode)
	}
	if resp, got := g.askOK(t, "GET", "/a.txt", ""); resp.StatusCode != 200 || got != digits {
		t.Errorf("the next request gave %d %q", resp.StatusCode, got)
	}
}

func TestErrandsWaitInTheQueue(t *testing.T) {
	g := stopped(t, routes.Pool{Queue: routes.Queue{Length: 1, Timeout: 50 * time.Millisecond, Header: true}})
	child := g.starter.only().cmd.Process
	first := make(chan int)
	go func() {
		resp, _ := g.askOK(t, "GET", "/a.txt", "")
		first <- resp.StatusCode
	}()
	for g.pool.Status().Slots.Busy == 0 {
		time.Sleep(time.Millisecond)
	}
	if resp, _ := g.askOK(t, "GET", "/a.txt", ""); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("with the only child busy a request gave %d, %v; want 503 and Retry-After", resp.StatusCode, resp.Header)
	}
	if err := child.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if status := <-first; status != 200 {
		t.Errorf("the request before it gave %d, want 200", status)
	}
	g.unused(t)
	if resp, _ := g.askOK(t, "GET", "/a.txt", ""); resp.Header.Get("X-Queue-Time") == "" {
		t.Errorf("the response has no X-Queue-Time: %v", resp.Header)
	}
}

// TestClientOfAnErrandGone: its slot is free again.
func TestClientOfAnErrandGone(t *testing.T) {
	g := stopped(t, routes.Pool{})
	child := g.starter.only().cmd.Process
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", g.URL+"/a.txt", nil)
	ended := make(chan error)
	go func() {
		_, err := g.Client().Do(r)
		ended <- err
	}()
	for g.pool.Status().Slots.Busy == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the request gave %v", err)
	}
	if err := child.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if resp, got := g.askOK(t, "GET", "/a.txt", ""); resp.StatusCode != 200 || got != digits {
		t.Errorf("the next request gave %d %q", resp.StatusCode, got)
	}
}

// TestOnlyTheChildMayLook: what the front may not see the child looks for, before there is a script or a file to serve. The pool
// has one slot, so a request that kept it and asked for another would wait for ever.
func TestOnlyTheChildMayLook(t *testing.T) {
	www, scripts := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		www + "/a.txt": digits, www + "/fallback.html": "fallback", www + "/dir/index.html": "index",
		scripts + "/sub/where": cgiFiles["cgi-bin/sub/where"], scripts + "/a.cgi": cgiFiles["cgi-bin/a.cgi"],
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	files, said := filesRoute(www), routes.Route{Pattern: routes.Pattern{Kind: routes.Exact, Text: "/said"}, Root: www}
	files.TryFiles = []routes.TryFile{{Path: routes.Template{{Name: "path"}}}, {Path: literal("/fallback.html")}}
	said.TryFiles, said.Respond = []routes.TryFile{{Path: literal("/none")}, {Status: 404}}, &routes.Respond{Status: 200, Body: literal("said")}
	cgi := &routes.CGI{Root: scripts}
	g := newGate(t, routes.Pool{}, nil,
		routes.Route{Pattern: routes.Pattern{Kind: routes.Suffix, Text: ".cgi"}, CGI: cgi},
		routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/cgi-bin/"}, CGI: cgi}, said, files)
	blind(t, g, www, "a.txt", "dir", "none", "fallback.html", "said")
	blind(t, g, scripts, "sub", "a.cgi", "none.cgi")
	for target, want := range map[string]string{
		"/a.txt": digits, "/none": "fallback", "/dir/": "index", "/said": "404 Not Found\n",
		"/cgi-bin/sub/where/x": scripts + "/sub /cgi-bin/sub/where /x", "/a.cgi/b": "/a.cgi /b", "/none.cgi/b": "fallback",
	} {
		if resp, got := g.askOK(t, "GET", target, ""); got != want {
			t.Errorf("GET %s gave %d %q, want %q", target, resp.StatusCode, got, want)
		}
	}
	g.unused(t)
}

// TestErrandsBeforeTheRouteIsKnown: one that fails is told as such. It does not make a file one that is not there.
func TestErrandsBeforeTheRouteIsKnown(t *testing.T) {
	t.Parallel()
	scripts := t.TempDir()
	g := newGate(t, routes.Pool{RequestTimeout: soon, Queue: routes.Queue{Timeout: time.Millisecond}}, map[string]string{"www/a.txt": digits},
		routes.Route{Pattern: routes.Pattern{Kind: routes.Suffix, Text: ".cgi"}, CGI: &routes.CGI{Root: scripts}}, filesRoute(""))
	blind(t, g, scripts, "a.cgi")
	g.halt(t)
	first := make(chan int)
	go func() {
		resp, _ := g.askOK(t, "GET", "/a.cgi/b", "")
		first <- resp.StatusCode
	}()
	for g.pool.Status().Slots.Busy == 0 {
		time.Sleep(time.Millisecond)
	}
	if resp, _ := g.askOK(t, "GET", "/a.cgi/b", ""); resp.StatusCode != 503 {
		t.Errorf("without a slot to look with a request gave %d, want 503", resp.StatusCode)
	}
	if status := <-first; status != 504 {
		t.Errorf("a child that does not say what is there gave %d, want 504", status)
	}
}

// blind gives the front a view of a folder in which it may not look at some names.
func blind(t testing.TB, g *gate, root string, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Symlink("/", filepath.Join(dir, name)); err != nil { // leads out: not permitted
			t.Fatal(err)
		}
	}
	name := nameFolder(root, "")
	_ = g.handler.files[name].Close()
	g.handler.files[name] = newFiles(t, dir)
}

func TestFixedAnswersTakeASlot(t *testing.T) {
	g := newGate(t, routes.Pool{}, nil,
		routes.Route{Pattern: routes.Pattern{Kind: routes.Exact, Text: "/moved"}, Redirect: &routes.Redirect{To: literal("/x"), Status: 301}},
		routes.Route{Pattern: routes.Pattern{Kind: routes.Exact, Text: "/said"}, Respond: &routes.Respond{Status: 200, Body: literal("said"), ContentType: "text/plain"}})
	if resp, _ := g.askOK(t, "GET", "/moved", ""); resp.StatusCode != 301 {
		t.Errorf("a redirect gave %d", resp.StatusCode)
	}
	if _, got := g.askOK(t, "GET", "/said", ""); got != "said" {
		t.Errorf("a fixed answer gave %q", got)
	}
	g.unused(t)
	if total := g.pool.Status().Requests.Total; total != 2 {
		t.Errorf("the pool counts %d requests, want 2", total)
	}
}

// childLink returns the front's end of a channel, and the other one for a child that a test plays.
func childLink(t testing.TB) (*link, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		nc, err := net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		ends[i], _ = nc.(*net.UnixConn)
		t.Cleanup(func() { _ = nc.Close() })
	}
	files := newReceiver(ends[0])
	return &link{Conn: fcgi.NewConn(files), nc: files, files: files}, ends[1]
}

// piece is what a child writes at once.
type piece struct {
	data  []byte
	files int // how many descriptors come with it
}

// answerWith has a child answer one errand in pieces, and hang up.
func answerWith(t testing.TB, child *net.UnixConn, file *os.File, pieces []piece) {
	t.Helper()
	fd, err := ctl.Descriptor(file)
	if err != nil {
		t.Error(err)
	}
	for _, p := range pieces {
		var rights []byte
		if p.files > 0 {
			rights = unix.UnixRights(slices.Repeat([]int{fd}, p.files)...)
		}
		if _, _, err := child.WriteMsgUnix(p.data, rights, nil); err != nil {
			break // the front has hung up
		}
	}
	_ = child.CloseWrite()
}

func record(kind byte, content string) []byte {
	return append([]byte{1, kind, 0, 1, byte(len(content) >> 8), byte(len(content)), 0, 0}, content...)
}

func end(status byte) []byte { return record(3, string([]byte{0, 0, 0, status, 0, 0, 0, 0})) }

func acceptRegular(f *os.File) error {
	if f == nil {
		return errors.New("no file")
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.New("no regular file")
	}
	return nil
}

func TestAnswersOfAChildThatIsNotToBeTrusted(t *testing.T) {
	dir := t.TempDir()
	regular, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	rows := []struct {
		name    string
		file    *os.File
		pieces  []piece
		refusal error
		failure error
	}{
		{name: "a file", file: regular, pieces: []piece{{end(0), 1}}},
		{name: "a file that comes early", file: regular, pieces: []piece{{record(6, "")[:1], 1}, {record(6, "")[1:], 0}, {end(0), 0}}},
		{name: "a refusal", file: regular, pieces: []piece{{end(byte(unix.ENOENT)), 0}}, refusal: fs.ErrNotExist},
		{name: "a refusal with a file", file: regular, pieces: []piece{{end(byte(unix.EACCES)), 1}}, refusal: fs.ErrPermission},
		{name: "a refusal in words", file: regular, pieces: []piece{{record(6, "no\x1b"), 0}, {end(byte(unix.EIO)), 0}}, refusal: unix.EIO},
		{name: "success without a file", file: regular, pieces: []piece{{end(0), 0}}, failure: fcgi.ErrProtocol},
		{name: "a folder in place of a file", file: folder, pieces: []piece{{end(0), 1}}, failure: fcgi.ErrProtocol},
		{name: "two files at once", file: regular, pieces: []piece{{end(0), 2}}, failure: fcgi.ErrProtocol},
		{name: "more files than there is room for", file: regular, pieces: []piece{{end(0), 200}}, failure: fcgi.ErrProtocol},
		{name: "two files one after the other", file: regular, pieces: []piece{{record(6, ""), 1}, {end(0), 1}}, failure: fcgi.ErrProtocol},
		{name: "long words", file: regular, pieces: []piece{{record(6, strings.Repeat("x", 257)), 1}, {end(0), 0}}, failure: fcgi.ErrProtocol},
		{name: "no answer", file: regular, failure: fcgi.ErrNoResponse},
		{name: "a file and no answer", file: regular, pieces: []piece{{record(6, ""), 1}}, failure: fcgi.ErrNoResponse},
		{name: "half an answer", file: regular, pieces: []piece{{end(0)[:9], 1}}, failure: fcgi.ErrNoResponse},
		{name: "another language", file: regular, pieces: []piece{{[]byte("HTTP/1.1 200 OK\r\n\r\n"), 1}}, failure: fcgi.ErrProtocol},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			l, child := childLink(t)
			before := descriptors(t, os.Getpid())
			go answerWith(t, child, row.file, row.pieces) // ends with what it writes
			file, refusal, failure := l.errand(placeErrand(errandOpen, nameFolder("/", ""), "/"), acceptRegular)
			if !errors.Is(refusal, row.refusal) || !errors.Is(failure, row.failure) || (file != nil) != (row.refusal == nil && row.failure == nil) {
				t.Errorf("errand() = %v, %v, %v; want refusal %v, failure %v", file, refusal, failure, row.refusal, row.failure)
			}
			if file != nil {
				_ = file.Close()
			}
			_ = l.Close()
			if after := descriptors(t, os.Getpid()); after > before-1 {
				t.Errorf("%d descriptors, want %d", after, before-1)
			}
		})
	}
}

// TestScriptsPassNoDescriptors: one that comes with a script's response is closed, and ends the connection.
func TestScriptsPassNoDescriptors(t *testing.T) {
	l, child := childLink(t)
	before := descriptors(t, os.Getpid())
	go answerWith(t, child, os.Stdin, []piece{{record(6, "Status: 200\r\n\r\n"), 1}, {end(0), 0}})
	if _, err := l.Do([]fcgi.Param{{Name: "SCRIPT_FILENAME", Value: "/x"}}, nil, 0, nil); !errors.Is(err, fcgi.ErrProtocol) || l.Usable() {
		t.Errorf("Do() = %v, usable %v; want ErrProtocol", err, l.Usable())
	}
	if after := descriptors(t, os.Getpid()); after != before-1 {
		t.Errorf("%d descriptors, want %d", after, before-1)
	}
}

// FuzzErrandAnswer: whatever a child writes, and however many descriptors come with it, the front ends soon and leaks none.
func FuzzErrandAnswer(f *testing.F) {
	f.Add(end(0), uint8(1), uint8(0), uint8(16))
	f.Add(append(record(6, ""), end(0)...), uint8(1), uint8(1), uint8(8))
	f.Add(append(record(6, "no"), end(5)...), uint8(0), uint8(3), uint8(3))
	f.Add([]byte("HTTP/1.1 200 OK"), uint8(5), uint8(0), uint8(1))
	regular, err := os.Create(filepath.Join(f.TempDir(), "file"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = regular.Close() })
	f.Fuzz(func(t *testing.T, answer []byte, first, second, cut uint8) {
		l, child := childLink(t)
		before := descriptors(t, os.Getpid())
		at := min(int(cut), len(answer))
		pieces := []piece{{answer[:at], int(first % 9)}, {answer[at:], int(second % 9)}}
		pieces = slices.DeleteFunc(pieces, func(p piece) bool { return len(p.data) == 0 })
		done := make(chan struct{})
		go func() {
			defer close(done)
			answerWith(t, child, regular, pieces)
		}()
		file, refusal, failure := l.errand(placeErrand(errandOpen, nameFolder("/", ""), "/"), acceptRegular)
		if (file != nil) == (refusal != nil || failure != nil) {
			t.Errorf("errand() = %v, %v, %v", file, refusal, failure)
		}
		if file != nil {
			_ = file.Close()
		}
		_ = l.Close()
		<-done
		if after := descriptors(t, os.Getpid()); after != before-1 {
			t.Errorf("%d descriptors, want %d", after, before-1)
		}
	})
}

// TestDuties: a child does what its pool's routes need and nothing else, whatever it is asked for.
func TestDuties(t *testing.T) {
	open, look, run := t.TempDir(), t.TempDir(), t.TempDir()
	for _, name := range []string{open + "/f", look + "/f", run + "/f"} {
		if err := os.WriteFile(name, []byte("#!/bin/sh\necho; echo runs\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	here, nobody := "tcp "+l.Addr().String(), "tcp "+dead.Addr().String()
	c, log := inProcessWith(t, Duties{Threads: 1, Open: []string{open}, Look: []string{look}, Run: []string{run}, Dial: []string{here, nobody}})
	rows := []struct {
		name   string
		params []fcgi.Param
		want   error
		logged string
	}{
		{"opens a file", placeErrand(errandOpen, nameFolder(open, ""), "/f"), nil, ""},
		{"tells of what it may open", placeErrand(errandStat, nameFolder(open, ""), "/f"), nil, ""},
		{"tells of a folder", placeErrand(errandStat, nameFolder(open, ""), "/"), ErrDirectory, ""},
		{"opens nothing outside", placeErrand(errandOpen, nameFolder(open, ""), "/../"+filepath.Base(look)+"/f"), fs.ErrPermission, ""},
		{"opens nothing below another folder", placeErrand(errandOpen, nameFolder("/etc", ""), "/passwd"), fs.ErrPermission, `open a file below "/etc"`},
		{"follows no other links than those that stay inside", placeErrand(errandOpen, nameFolder(open, routes.LinksAll), "/f"), fs.ErrPermission, `open a file below "` + open},
		{"opens nothing where it may only look", placeErrand(errandOpen, nameFolder(look, ""), "/f"), fs.ErrPermission, `open a file below "` + look},
		{"looks", placeErrand(errandStat, nameFolder(look, ""), "/f"), nil, ""},
		{"does not look elsewhere", placeErrand(errandStat, nameFolder("/etc", ""), "/passwd"), fs.ErrPermission, `look for a file below "/etc"`},
		{"does not look among its scripts", placeErrand(errandStat, nameFolder(run, ""), "/f"), fs.ErrPermission, `look for a file below "` + run},
		{"connects", []fcgi.Param{{Name: errandName, Value: errandDial}, {Name: errandAddress, Value: here}}, nil, ""},
		{"tells that nobody listens", []fcgi.Param{{Name: errandName, Value: errandDial}, {Name: errandAddress, Value: nobody}}, unix.ECONNREFUSED, ""},
		{"does not connect elsewhere", []fcgi.Param{{Name: errandName, Value: errandDial}, {Name: errandAddress, Value: "tcp 127.0.0.1:22"}}, fs.ErrPermission, `connect to "tcp 127.0.0.1:22"`},
		{"knows no other errand", []fcgi.Param{{Name: errandName, Value: "remove"}}, unix.ENOSYS, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			file, refusal, failure := c.errand(row.params, func(*os.File) error { return nil })
			if !errors.Is(refusal, row.want) || row.want == nil && refusal != nil || failure != nil {
				t.Errorf("%v gave %v, %v; want %v", row.params, refusal, failure, row.want)
			}
			if file != nil {
				_ = file.Close()
			}
			if !strings.Contains(log(), row.logged) {
				t.Errorf("log %q, want %q", log(), row.logged)
			}
		})
	}
	for file, want := range map[string]string{
		run + "/f": "\nruns\n", open + "/f": "Status: 403", run + "/../" + filepath.Base(open) + "/f": "Status: 403", run + "x/f": "Status: 403", "/bin/sh": "Status: 403",
	} {
		resp, err := c.Do([]fcgi.Param{{Name: "SCRIPT_FILENAME", Value: file}}, nil, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp); !strings.HasPrefix(string(got), want) || err != nil {
			t.Errorf("script %s gave %q, %v; want %q", file, got, err, want)
		}
	}
}

// TestDial: a connection that a child made carries bytes.
func TestDial(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")}[network]
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c, _ := inProcessWith(t, Duties{Threads: 1, Dial: []string{network + " " + l.Addr().String()}})
			nc, err := c.dial(time.Minute, network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			peer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if _, err := io.WriteString(peer, "hello"); err != nil {
				t.Fatal(err)
			}
			var b [5]byte
			if _, err := io.ReadFull(nc, b[:]); err != nil || string(b[:]) != "hello" {
				t.Errorf("the connection gave %q, %v", b, err)
			}
		})
	}
}

func TestDutiesOf(t *testing.T) {
	static := routes.Route{Pool: "a", Root: "/www", Static: &routes.Static{}}
	other := static
	other.Pool, other.Root = "b", "/other"
	c := &routes.Config{Sites: []routes.Site{{Routes: []routes.Route{
		static, static, other,
		{Pool: "a", Root: "/tried", TryFiles: []routes.TryFile{{Path: literal("/x")}}, Respond: &routes.Respond{}},
		{Pool: "a", Root: "/www", CGI: &routes.CGI{Root: "/cgi"}},
		{Pool: "a", Root: "/www", CGI: &routes.CGI{Script: "/bin/one"}},
		{Pool: "a", Root: "/unused", Redirect: &routes.Redirect{}},
	}}}}
	got := fmt.Sprint(DutiesOf(c, &routes.Pool{Name: "a", ThreadsPerChild: 3}))
	want := fmt.Sprint(Duties{Threads: 3, Open: []string{"/www"}, Look: []string{"/tried", "/cgi"}, Run: []string{"/cgi", "/bin/one"}})
	if got != want {
		t.Errorf("DutiesOf() = %s, want %s", got, want)
	}
}
