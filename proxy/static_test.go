package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/routes"
)

const digits = "0123456789"

// fileTime is the mtime of every file of the tree.
var fileTime = time.Date(2024, 5, 1, 12, 0, 0, 123456789, time.UTC)

// tree makes a folder with everything that a static root may hold, and a secret beside it.
func tree(t testing.TB) string {
	t.Helper()
	base := t.TempDir()
	root := filepath.Join(base, "www")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"dir", "dir/sub", "php", "empty", "both", ".git", ".well-known", "d ir?#%\\"} {
		must(os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for _, name := range []string{
		"a.txt", "page.html", "data.bin", "noext", "dir/index.html", "php/index.php", "both/index.html", "both/index.php", ".env",
		".git/config", ".well-known/security.txt", ".well-known/.hidden", "info.php.bak", "info.PHTML~", "shot.php.jpg", "zero.txt", "future.txt",
	} {
		must(os.WriteFile(filepath.Join(root, name), []byte(digits), 0o644))
		must(os.Chtimes(filepath.Join(root, name), fileTime, fileTime))
	}
	must(os.WriteFile(filepath.Join(root, "empty.txt"), nil, 0o644))
	must(os.Chtimes(filepath.Join(root, "zero.txt"), time.Unix(1, 0), time.Unix(1, 0)))
	must(os.Chtimes(filepath.Join(root, "future.txt"), time.Now().Add(time.Hour), time.Now().Add(time.Hour)))
	must(os.WriteFile(filepath.Join(base, "secret.txt"), []byte("SECRET"), 0o644))
	for name, target := range map[string]string{
		"link-in": "dir/index.html", "link-back": "dir/../a.txt", "link-dir": "dir", "link-out": "../secret.txt", "link-out-dir": "..",
		"link-abs": "/etc/passwd", "loop": "loop", "dangling": "nothing", "proc": "/proc/self/root",
	} {
		must(os.Symlink(target, filepath.Join(root, name)))
	}
	must(unix.Mkfifo(filepath.Join(root, "fifo"), 0o666))
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(err)
	must(unix.Bind(socket, &unix.SockaddrUnix{Name: filepath.Join(root, "socket")}))
	must(unix.Close(socket))
	must(os.WriteFile(filepath.Join(root, "unreadable"), []byte("SECRET"), 0))
	return root
}

func newFiles(t testing.TB, root string) *Files {
	t.Helper()
	f, err := NewFiles(root, "")
	if err != nil {
		t.Fatalf("NewFiles(%q): %v", root, err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// fallbackFiles is what NewFiles returns where the kernel has no openat2.
func fallbackFiles(t testing.TB, root string) *Files {
	t.Helper()
	f := newFiles(t, root)
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	f.current.Load().root = r
	return f
}

func TestFilesFollowTheNameOfTheirFolder(t *testing.T) {
	parent := t.TempDir()
	current := filepath.Join(parent, "current")
	for _, release := range []string{"1", "2"} {
		dir := filepath.Join(parent, release)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte(release), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := NewFiles(current, "")
	t.Cleanup(func() { f.Close() })
	if err == nil {
		t.Error("a folder that is not there was opened")
	}
	for _, release := range []string{"1", "2"} {
		next := current + ".next"
		if err := errors.Join(os.Symlink(release, next), os.Rename(next, current)); err != nil {
			t.Fatal(err)
		}
		f.checked.Store(0) // a second later
		file, _, err := f.Open("/f")
		if err != nil {
			t.Fatalf("release %s: %v", release, err)
		}
		got, _ := io.ReadAll(file)
		file.Close()
		if string(got) != release {
			t.Errorf("release %s: content %q", release, got)
		}
	}
}

func TestFilesOpen(t *testing.T) {
	root := tree(t)
	long := strings.Repeat("x", 256)
	rows := []struct {
		name, path string
		want       error // nil: a file
	}{
		{"a file", "/a.txt", nil},
		{"a file in a folder", "/dir/index.html", nil},
		{"a link that stays below the root", "/link-in", nil},
		{"a link with dots that stays below the root", "/link-back", nil},
		{"a linked folder", "/link-dir/index.html", nil},
		{"dots that stay below the root", "/dir/../a.txt", nil},
		{"the root", "/", ErrDirectory},
		{"the root without a slash", "", ErrDirectory},
		{"a folder", "/dir", ErrDirectory},
		{"a folder with a slash", "/dir/", ErrDirectory},
		{"nothing", "/nothing", fs.ErrNotExist},
		{"a file taken for a folder", "/a.txt/", fs.ErrNotExist},
		{"something below a file", "/a.txt/b", fs.ErrNotExist},
		{"a name of 256 bytes", "/" + long, fs.ErrNotExist},
		{"a path of 5000 bytes", strings.Repeat("/a", 2500), fs.ErrNotExist},
		{"a NUL", "/a.txt\x00.jpg", fs.ErrNotExist},
		{"a link to itself", "/loop", fs.ErrNotExist},
		{"a folder that is a link to itself", "/loop/loop/x", fs.ErrNotExist},
		{"a link to nothing", "/dangling", fs.ErrNotExist},
		{"a link out of the root", "/link-out", fs.ErrPermission},
		{"a linked folder out of the root", "/link-out-dir/secret.txt", fs.ErrPermission},
		{"an absolute link", "/link-abs", fs.ErrPermission},
		{"a link through /proc", "/proc/etc/passwd", fs.ErrPermission},
		{"dots that lead out", "/../secret.txt", fs.ErrPermission},
		{"dots that lead out from below", "/dir/../../secret.txt", fs.ErrPermission},
		{"two slashes", "//etc/passwd", fs.ErrPermission},
		{"a pipe", "/fifo", fs.ErrPermission},
		{"a socket", "/socket", fs.ErrPermission},
	}
	for kind, f := range map[string]opener{"openat2": newFiles(t, root), "os.Root": fallbackFiles(t, root), "a deputy": newGuarded(t, root)} {
		for _, row := range rows {
			t.Run(kind+": "+row.name, func(t *testing.T) {
				file, info, err := f.Open(row.path)
				if !errors.Is(err, row.want) {
					t.Errorf("Open(%.40q) = %v, want %v", row.path, err, row.want)
				}
				if got := f.IsFile(row.path); got != (row.want == nil) {
					t.Errorf("IsFile(%.40q) = %v, want %v", row.path, got, row.want == nil)
				}
				if err != nil {
					return
				}
				defer file.Close()
				if data, err := io.ReadAll(file); string(data) != digits || err != nil || info.Size() != int64(len(digits)) {
					t.Errorf("Open(%q) has %q, %v, size %d, want %q", row.path, data, err, info.Size(), digits)
				}
			})
		}
	}
}

func TestFilesStat(t *testing.T) {
	root := tree(t)
	rows := []struct {
		name, path string
		file, dir  bool
		err        error
	}{
		{"a file", "/a.txt", true, false, nil},
		{"a file that nobody may read", "/unreadable", true, false, nil},
		{"a folder", "/dir", false, true, nil},
		{"the root", "/", false, true, nil},
		{"a pipe", "/fifo", false, false, nil},
		{"a link out of the root", "/link-out", false, false, fs.ErrPermission},
		{"nothing", "/nothing", false, false, fs.ErrNotExist},
	}
	for kind, f := range map[string]opener{"openat2": newFiles(t, root), "os.Root": fallbackFiles(t, root), "a deputy": newGuarded(t, root)} {
		for _, row := range rows {
			t.Run(kind+": "+row.name, func(t *testing.T) {
				mode, err := f.Stat(row.path)
				if !errors.Is(err, row.err) || err == nil && (mode.IsRegular() != row.file || mode.IsDir() != row.dir) {
					t.Errorf("Stat(%q) = %v, %v, want file %v, folder %v, %v", row.path, mode, err, row.file, row.dir, row.err)
				}
			})
		}
	}
}

func TestOpenWithoutTheRightToRead(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	root := tree(t)
	dir := filepath.Join(root, "dir")
	if err := os.Chmod(dir, 0o311); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o755) }) // or the tree can't be removed
	f := newFiles(t, root)
	if _, _, err := f.Open("/unreadable"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf(`Open("/unreadable") = %v, want %v`, err, fs.ErrPermission)
	}
	if _, _, err := f.Open("/dir"); !errors.Is(err, ErrDirectory) {
		t.Errorf(`Open("/dir") = %v, want %v, as it may be entered`, err, ErrDirectory)
	}
}

func TestNewFilesRefusesWhatIsNoFolder(t *testing.T) {
	root := tree(t)
	for _, path := range []string{filepath.Join(root, "nothing"), filepath.Join(root, "a.txt")} {
		if f, err := NewFiles(path, ""); err == nil {
			f.Close()
			t.Errorf("NewFiles(%q) = nil error", path)
		}
	}
}

func TestAfterCloseNothingOpens(t *testing.T) {
	root := tree(t)
	for kind, f := range map[string]*Files{"openat2": newFiles(t, root), "os.Root": fallbackFiles(t, root)} {
		if err := f.Close(); err != nil {
			t.Errorf("%s: Close = %v", kind, err)
		}
		if _, _, err := f.Open("/a.txt"); err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: Open after Close = %v, want an error that is the server's", kind, err)
		}
	}
}

// staticServer serves f with net/http. An internal redirect is shown as a header.
func staticServer(t *testing.T, f opener, opt *routes.Static) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		redirect, err := (&shelf{files: f, config: opt}).serve(w, r, nil, r.URL.Path)
		if err != nil && !strings.Contains(err.Error(), "may not read it") && !errors.Is(err, errOutside) {
			t.Errorf("serve(%s %s) = %v", r.Method, r.URL, err)
		}
		if redirect != "" {
			w.Header().Set("X-Redirect", redirect)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// ask sends one request and returns the answer with its body. The target is sent as it is.
func ask(t *testing.T, s *httptest.Server, method, target string, fields ...string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	head := method + " " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	for _, field := range fields {
		head += field + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", method, target, err)
	}
	return res, string(body)
}

func TestServeStatic(t *testing.T) {
	root, opt := tree(t), &routes.Static{Index: []string{"index.php", "index.html"}}
	servers := map[string]*httptest.Server{"the front": staticServer(t, newFiles(t, root), opt), "a deputy": staticServer(t, newGuarded(t, root), opt)}
	rows := []struct {
		name, method, target string
		status               int
		field, want          string // of the answer; field "": the body
	}{
		{"a file", "GET", "/a.txt", 200, "", digits},
		{"its type", "GET", "/a.txt", 200, "Content-Type", "text/plain; charset=utf-8"},
		{"its length", "GET", "/a.txt", 200, "Content-Length", "10"},
		{"HTML", "GET", "/page.html", 200, "Content-Type", "text/html; charset=utf-8"},
		{"an unknown extension is not sniffed", "GET", "/data.bin", 200, "Content-Type", "application/octet-stream"},
		{"no extension is not sniffed", "GET", "/noext", 200, "Content-Type", "application/octet-stream"},
		{"no cache control unless asked", "GET", "/a.txt", 200, "Cache-Control", ""},
		{"an empty file", "GET", "/empty.txt", 200, "Content-Length", "0"},
		{"HEAD has the length", "HEAD", "/a.txt", 200, "Content-Length", "10"},
		{"HEAD has no body", "HEAD", "/a.txt", 200, "", ""},
		{"OPTIONS", "OPTIONS", "/a.txt", 204, "Allow", "GET, HEAD, OPTIONS"},
		{"POST to a file", "POST", "/a.txt", 405, "Allow", "GET, HEAD, OPTIONS"},
		{"DELETE of a file", "DELETE", "/a.txt", 405, "Allow", "GET, HEAD, OPTIONS"},
		{"POST to nothing", "POST", "/nothing", 404, "", "404 Not Found\n"},
		{"nothing", "GET", "/nothing", 404, "Content-Type", "text/plain; charset=utf-8"},
		{"a folder without its slash", "GET", "/dir", 301, "Location", "/dir/"},
		{"a folder without its slash, with a query", "GET", "/dir?a=1&b=%2f", 301, "Location", "/dir/?a=1&b=%2f"},
		{"a folder whose name needs encoding", "GET", "/d%20ir%3f%23%25%5c", 301, "Location", "/d%20ir%3F%23%25%5C/"},
		{"another host in the path", "GET", "//evil.example/..", 404, "Location", ""},
		{"an index file", "GET", "/dir/", 200, "X-Redirect", "/dir/index.html"},
		{"an index script", "GET", "/php/", 200, "X-Redirect", "/php/index.php"},
		{"the first of two index files", "GET", "/both/", 200, "X-Redirect", "/both/index.php"},
		{"POST to an index script", "POST", "/php/", 200, "X-Redirect", "/php/index.php"},
		{"a folder without index", "GET", "/empty/", 403, "", "403 Forbidden\n"},
		{"a dot file", "GET", "/.env", 404, "", "404 Not Found\n"},
		{"a file in a dot folder", "GET", "/.git/config", 404, "", "404 Not Found\n"},
		{"a dot folder", "GET", "/.git", 404, "Location", ""},
		{"a well-known file", "GET", "/.well-known/security.txt", 200, "", digits},
		{"a dot file among the well-known", "GET", "/.well-known/.hidden", 404, "", "404 Not Found\n"},
		{"a script is not shown", "GET", "/php/index.php", 404, "", "404 Not Found\n"},
		{"a copy of a script", "GET", "/info.php.bak", 404, "", "404 Not Found\n"},
		{"an editor's copy of a script", "GET", "/info.PHTML~", 404, "", "404 Not Found\n"},
		{"an image with a strange name", "GET", "/shot.php.jpg", 200, "Content-Type", "image/jpeg"},
		{"a link out of the root", "GET", "/link-out", 403, "", "403 Forbidden\n"},
		{"a pipe", "GET", "/fifo", 403, "", "403 Forbidden\n"},
		{"a socket", "GET", "/socket", 403, "", "403 Forbidden\n"},
		{"a link to itself", "GET", "/loop", 404, "", "404 Not Found\n"},
		{"a name of 256 bytes", "GET", "/" + strings.Repeat("a", 256), 404, "", "404 Not Found\n"},
	}
	for kind, s := range servers {
		for _, row := range rows {
			t.Run(kind+": "+row.name, func(t *testing.T) {
				res, body := ask(t, s, row.method, row.target)
				got := body
				if row.field != "" {
					got = res.Header.Get(row.field)
				}
				if res.StatusCode != row.status || got != row.want {
					t.Errorf("%s %.60s = %d, %s %q, want %d, %q", row.method, row.target, res.StatusCode, row.field, got, row.status, row.want)
				}
			})
		}
	}
}

func TestServeStaticOptions(t *testing.T) {
	s := staticServer(t, newFiles(t, tree(t)), &routes.Static{DotFiles: true, CacheControl: "public, max-age=60"})
	for _, target := range []string{"/.env", "/.git/config", "/.well-known/.hidden"} {
		if res, body := ask(t, s, "GET", target); res.StatusCode != 200 || body != digits {
			t.Errorf("GET %s with dot files = %d %q, want 200", target, res.StatusCode, body)
		}
	}
	res, _ := ask(t, s, "GET", "/a.txt")
	again, _ := ask(t, s, "GET", "/a.txt", "If-None-Match: "+res.Header.Get("ETag"))
	for _, res := range []*http.Response{res, again} {
		if got := res.Header.Get("Cache-Control"); got != "public, max-age=60" {
			t.Errorf("Cache-Control with status %d = %q", res.StatusCode, got)
		}
	}
	missing, _ := ask(t, s, "GET", "/nothing")
	if got := missing.Header.Get("Cache-Control"); got != "" {
		t.Errorf("Cache-Control of a 404 = %q, want none", got)
	}
}

func TestConditionalRequests(t *testing.T) {
	s := staticServer(t, newFiles(t, tree(t)), &routes.Static{})
	tag := fmt.Sprintf(`"%x-a"`, fileTime.UnixNano())
	date := fileTime.Format(http.TimeFormat)
	before := fileTime.Add(-time.Hour).Format(http.TimeFormat)
	rows := []struct {
		name   string
		fields []string
		status int
		body   string
	}{
		{"the same tag", []string{"If-None-Match: " + tag}, 304, ""},
		{"the same tag, weak", []string{"If-None-Match: W/" + tag}, 304, ""},
		{"the same tag in a list", []string{`If-None-Match: "x", ` + tag}, 304, ""},
		{"any tag", []string{"If-None-Match: *"}, 304, ""},
		{"another tag", []string{`If-None-Match: "x"`}, 200, digits},
		{"another tag counts more than the date", []string{`If-None-Match: "x"`, "If-Modified-Since: " + date}, 200, digits},
		{"not modified since", []string{"If-Modified-Since: " + date}, 304, ""},
		{"modified since", []string{"If-Modified-Since: " + before}, 200, digits},
		{"a date that is none", []string{"If-Modified-Since: yesterday"}, 200, digits},
		{"the tag as a condition", []string{"If-Match: " + tag}, 200, digits},
		{"another tag as a condition", []string{`If-Match: "x"`}, 412, ""},
		{"unmodified since", []string{"If-Unmodified-Since: " + date}, 200, digits},
		{"modified since a condition", []string{"If-Unmodified-Since: " + before}, 412, ""},
		{"a range of the same version by tag", []string{"Range: bytes=0-1", "If-Range: " + tag}, 206, "01"},
		{"a range of another version by tag", []string{"Range: bytes=0-1", `If-Range: "x"`}, 200, digits},
		{"a range of the same version by date", []string{"Range: bytes=0-1", "If-Range: " + date}, 206, "01"},
		{"a range of another version by date", []string{"Range: bytes=0-1", "If-Range: " + before}, 200, digits},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			res, body := ask(t, s, "GET", "/a.txt", row.fields...)
			if res.StatusCode != row.status || body != row.body {
				t.Errorf("GET /a.txt with %q = %d %q, want %d %q", row.fields, res.StatusCode, body, row.status, row.body)
			}
			if got := res.Header.Get("ETag"); got != tag {
				t.Errorf("ETag of a %d = %s, want %s", res.StatusCode, got, tag)
			}
		})
	}
	if res, _ := ask(t, s, "GET", "/a.txt"); res.Header.Get("Last-Modified") != date {
		t.Errorf("Last-Modified = %q, want %q", res.Header.Get("Last-Modified"), date)
	}
	if res, _ := ask(t, s, "GET", "/zero.txt"); res.Header.Get("Last-Modified")+res.Header.Get("ETag") != "" {
		t.Errorf("a file of a reproducible build has %v, want no validators", res.Header)
	}
	res, _ := ask(t, s, "GET", "/future.txt")
	if modified, err := http.ParseTime(res.Header.Get("Last-Modified")); err != nil || time.Until(modified) > 0 {
		t.Errorf("Last-Modified of a file from the future = %v, %v, want now", modified, err)
	}
}

func TestRanges(t *testing.T) {
	s := staticServer(t, newFiles(t, tree(t)), &routes.Static{})
	many := func(n int, spec string) string {
		return "bytes=" + strings.TrimSuffix(strings.Repeat(spec+",", n), ",")
	}
	rows := []struct {
		name, method, target string
		fields               []string
		status               int
		contentRange, body   string
	}{
		{"the first bytes", "GET", "/a.txt", []string{"Range: bytes=0-2"}, 206, "bytes 0-2/10", "012"},
		{"from a byte on", "GET", "/a.txt", []string{"Range: bytes=7-"}, 206, "bytes 7-9/10", "789"},
		{"the last bytes", "GET", "/a.txt", []string{"Range: bytes=-2"}, 206, "bytes 8-9/10", "89"},
		{"beyond the end", "GET", "/a.txt", []string{"Range: bytes=8-99"}, 206, "bytes 8-9/10", "89"},
		{"more last bytes than there are", "GET", "/a.txt", []string{"Range: bytes=-99"}, 206, "bytes 0-9/10", digits},
		{"behind the end", "GET", "/a.txt", []string{"Range: bytes=10-"}, 416, "bytes */10", "invalid range: failed to overlap\n"},
		{"of an empty file", "GET", "/empty.txt", []string{"Range: bytes=0-1"}, 200, "", ""},
		{"no last bytes", "GET", "/a.txt", []string{"Range: bytes=-0"}, 200, "", digits},
		{"backwards", "GET", "/a.txt", []string{"Range: bytes=5-2"}, 416, "", "invalid range\n"},
		{"another unit", "GET", "/a.txt", []string{"Range: items=0-1"}, 200, "", digits},
		{"no numbers", "GET", "/a.txt", []string{"Range: bytes=-"}, 200, "", digits},
		{"signs", "GET", "/a.txt", []string{"Range: bytes=+0-+1"}, 200, "", digits},
		{"a number that overflows", "GET", "/a.txt", []string{"Range: bytes=0-99999999999999999999"}, 200, "", digits},
		{"a negative number that overflows", "GET", "/a.txt", []string{"Range: bytes=-9223372036854775808,0-1"}, 200, "", digits},
		{"two fields", "GET", "/a.txt", []string{"Range: bytes=0-1", "Range: bytes=2-3"}, 200, "", digits},
		{"with HEAD", "HEAD", "/a.txt", []string{"Range: bytes=0-1"}, 200, "", ""},
		{"1300 times the whole file", "GET", "/a.txt", []string{"Range: " + many(1300, "0-")}, 200, "", digits},
		{"more in total than the file", "GET", "/a.txt", []string{"Range: " + many(3, "0-5")}, 200, "", digits},
		{"too many small ones", "GET", "/a.txt", []string{"Range: " + many(201, "-0001")}, 200, "", digits},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			res, body := ask(t, s, row.method, row.target, row.fields...)
			if got := res.Header.Get("Content-Range"); res.StatusCode != row.status || got != row.contentRange || body != row.body {
				t.Errorf("%s %s with %.60q = %d, %q, %q, want %d, %q, %q",
					row.method, row.target, row.fields, res.StatusCode, got, body, row.status, row.contentRange, row.body)
			}
		})
	}
}

func TestSeveralRanges(t *testing.T) {
	s := staticServer(t, newFiles(t, tree(t)), &routes.Static{})
	res, body := ask(t, s, "GET", "/a.txt", "Range: bytes=0-1, -2")
	kind, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || res.StatusCode != 206 || kind != "multipart/byteranges" {
		t.Fatalf("status %d, type %q, %v, want 206 multipart/byteranges", res.StatusCode, kind, err)
	}
	if got := res.Header.Get("Content-Length"); got != strconv.Itoa(len(body)) {
		t.Errorf("Content-Length = %s, want %d", got, len(body))
	}
	parts := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for _, want := range []struct{ contentRange, body string }{{"bytes 0-1/10", "01"}, {"bytes 8-9/10", "89"}} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(part)
		if err != nil || string(got) != want.body || part.Header.Get("Content-Range") != want.contentRange ||
			part.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("part = %q, %v, %v, want %q, %q", got, part.Header, err, want.body, want.contentRange)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("after two parts: %v, want %v", err, io.EOF)
	}
}

// fileTaker is a ResponseWriter that notes what its ReadFrom is given.
type fileTaker struct {
	*httptest.ResponseRecorder
	source io.Reader
}

func (w *fileTaker) ReadFrom(r io.Reader) (int64, error) {
	w.source = r
	return io.Copy(w.ResponseRecorder, r)
}

func TestTheFileItselfReachesReadFrom(t *testing.T) {
	f := newFiles(t, tree(t))
	for name, field := range map[string]string{"whole": "", "range": "bytes=2-4"} {
		w := &fileTaker{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("GET", "/a.txt", nil)
		if field != "" {
			r.Header.Set("Range", field)
		}
		if _, err := (&shelf{files: f, config: &routes.Static{}}).serve(w, r, nil, "/a.txt"); err != nil {
			t.Fatal(err)
		}
		limited, ok := w.source.(*io.LimitedReader)
		if !ok {
			t.Fatalf("%s: ReadFrom was given a %T, want *io.LimitedReader", name, w.source)
		}
		if _, ok := limited.R.(*os.File); !ok {
			t.Errorf("%s: ReadFrom was given a limited %T, want *os.File", name, limited.R)
		}
	}
}

func TestRefuse(t *testing.T) {
	rows := []struct {
		name   string
		err    error
		status int
		retry  string
		logged bool
	}{
		{"it does not exist", fs.ErrNotExist, 404, "", false},
		{"it may not be read", fs.ErrPermission, 403, "", true},
		{"no descriptor is left", syscall.EMFILE, 503, "1", true},
		{"the disk is broken", syscall.EIO, 500, "", true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			err := refuse(w, "/a", row.err)
			if w.Code != row.status || w.Header().Get("Retry-After") != row.retry || (err != nil) != row.logged {
				t.Errorf("refuse(%v) = %v, status %d, Retry-After %q, want %d, %q", row.err, err, w.Code, w.Header().Get("Retry-After"), row.status, row.retry)
			}
		})
	}
}

func TestMimeType(t *testing.T) {
	for name, want := range map[string]string{
		"/a/b.html": "text/html; charset=utf-8", "/A.HTM": "text/html; charset=utf-8", "x.js": "text/javascript; charset=utf-8",
		"x.css": "text/css; charset=utf-8", "x.json": "application/json", "x.svg": "image/svg+xml", "x.JPEG": "image/jpeg",
		"x.woff2": "font/woff2", "x.wasm": "application/wasm", "x.tar.gz": "application/gzip", "x.pdf": "application/pdf",
		"x.xml": "application/xml", "x.mp4": "video/mp4", "/html": "application/octet-stream", "/a.html/b": "application/octet-stream",
		"x.": "application/octet-stream", "": "application/octet-stream", "x.htm\u212a": "application/octet-stream",
	} {
		if got := mimeType(name); got != want {
			t.Errorf("mimeType(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestIsSource(t *testing.T) {
	for path, want := range map[string]bool{
		"/a.php": true, "/a.PHP": true, "/a.phtml": true, "/a.phar": true, "/a.php5": true, "/a.phps": true, "/a.php~": true, "/a.php.bak": true,
		"/wp-config.php.save": true, "/a.php.bak~": true, "/.a.php.swp": true, "/a.php.gz": true, "/a.php.bak.br": true, "/a.phtml.zst": true, "/php": false, "/a.php/": false, "/a.php/b.txt": false,
		"/a.php.jpg": false, "/a.php.tar.gz": false, "/a.txt": false, "/a.bak": false, "/a.\uff50hp": false, "/a~": false, "/": false, "": false,
	} {
		if got := isSource(path); got != want {
			t.Errorf("isSource(%q) = %v, want %v", path, got, want)
		}
	}
}

// FuzzFilesOpen holds that whatever opens lies below the root.
func FuzzFilesOpen(f *testing.F) {
	root := tree(f)
	files := map[string]*Files{"openat2": newFiles(f, root), "os.Root": fallbackFiles(f, root)}
	for _, path := range []string{"/a.txt", "/link-in", "/link-out", "/link-out-dir/secret.txt", "/../secret.txt", "//etc/passwd", "/proc/etc/passwd", "/dir/..", "/fifo", "\x00"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		for kind, files := range files {
			file, _, err := files.Open(path)
			if err != nil {
				continue
			}
			target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
			file.Close()
			if err != nil || !strings.HasPrefix(target, root+"/") {
				t.Errorf("%s: Open(%q) opened %q, %v, which is not below %q", kind, path, target, err, root)
			}
		}
	})
}

// FuzzDirectoryLocation holds that a redirect stays on its site and leads to the folder that was asked for.
func FuzzDirectoryLocation(f *testing.F) {
	for _, path := range []string{"/dir", "//evil.example", "/\\evil.example", "/a:b", "/%2f", "/\r\nX: y", "", "/?#"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := directoryLocation(path, "")
		u, err := url.Parse(got)
		if err != nil || u.Host != "" || u.Scheme != "" || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\r\n\\ ") {
			t.Fatalf("directoryLocation(%q) = %q, %v", path, got, err)
		}
		if want := "/" + strings.TrimLeft(path+"/", "/"); u.Path != want {
			t.Errorf("directoryLocation(%q) = %q, which names %q, want %q", path, got, u.Path, want)
		}
	})
}

// FuzzRange holds that no Range field makes an answer much longer than the file.
func FuzzRange(f *testing.F) {
	files := newFiles(f, tree(f))
	for _, value := range []string{"bytes=0-1", "bytes=-0", "bytes=0-,0-", "bytes=9-1", "bytes=0-0,2-2,4-4", "bytes=,", "bytes=--1"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/a.txt", nil)
		r.Header.Set("Range", value)
		if _, err := (&shelf{files: files, config: &routes.Static{}}).serve(w, r, nil, "/a.txt"); err != nil {
			t.Fatal(err)
		}
		const perPart = 200 // boundary and fields
		if w.Body.Len() > len(digits)*perPart+perPart {
			t.Errorf("Range %q: %d bytes for a file of %d", value, w.Body.Len(), len(digits))
		}
		if w.Code != 200 && w.Code != 206 && w.Code != 416 {
			t.Errorf("Range %q: status %d", value, w.Code)
		}
	})
}

func BenchmarkServeStatic1K(b *testing.B) {
	root := b.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a.html"), make([]byte, 1024), 0o644); err != nil {
		b.Fatal(err)
	}
	f := newFiles(b, root)
	r := httptest.NewRequest("GET", "/a.html", nil)
	opt := &routes.Static{}
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		if _, err := (&shelf{files: f, config: opt}).serve(w, r, nil, "/a.html"); err != nil || w.Code != 200 {
			b.Fatal(err, w.Code)
		}
	}
}
