package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gateway/routes"
)

// sendingGate runs PHP, whose answers name files below a folder that is not the site's.
func sendingGate(t *testing.T) (g *gate, files string) {
	t.Helper()
	files = filepath.Join(t.TempDir(), "files")
	if err := os.MkdirAll(filepath.Join(files, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.txt", "a b%.txt", ".dot", "x.php", "../secret.txt", "../files-of-others.txt"} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(digits), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(files, "large.bin"), make([]byte, 20<<20), 0o644), os.Symlink("../secret.txt", filepath.Join(files, "out"))); err != nil {
		t.Fatal(err)
	}
	send := &routes.SendFile{Pool: "edge", Roots: []string{files}, Internal: []routes.Internal{{Prefix: "/protected/", Folder: files}, {Prefix: "/protected/deep/", Folder: filepath.Join(files, "sub")}}}
	g = newGate(t, phpPool(t), map[string]string{"www/send.php": `<?php foreach ($_GET["h"] as $h) header($h, false); echo "the body of the program";`, "www/hello.php": `<?php echo "hello";`},
		routes.Route{Pattern: routes.Pattern{Kind: routes.Suffix, Text: ".php"}, SendFile: send},
		routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/"}})
	return g, files
}

func TestSendFile(t *testing.T) {
	g, files := sendingGate(t)
	const body = "the body of the program"
	rows := []struct {
		name, method string
		headers      []string // of the program
		fields       []string // of the client
		status       int
		want         string
		log          string
		has          map[string]string
	}{
		{name: "X-Sendfile", headers: []string{"X-Sendfile: " + files + "/a.txt"}, status: 200, want: digits},
		{name: "X-LIGHTTPD-send-file", headers: []string{"X-LIGHTTPD-send-file: " + files + "/a.txt"}, status: 200, want: digits},
		{name: "X-Accel-Redirect", headers: []string{"X-Accel-Redirect: /protected/a.txt"}, status: 200, want: digits},
		{name: "a name with a space and a percent sign", headers: []string{"X-Sendfile: " + files + "/a b%.txt"}, status: 200, want: digits},
		{name: "the same, escaped", headers: []string{"X-Accel-Redirect: /protected/a%20b%25.txt"}, status: 200, want: digits},
		{name: "a longer prefix wins", headers: []string{"X-Accel-Redirect: /protected/deep/a.txt"}, status: 404, want: "404 Not Found\n"},
		{name: "what is hidden from others", headers: []string{"X-Sendfile: " + files + "/.dot"}, status: 200, want: digits},
		{name: "a source", headers: []string{"X-Sendfile: " + files + "/x.php"}, status: 200, want: digits},
		{name: "a range", headers: []string{"X-Sendfile: " + files + "/a.txt"}, fields: []string{"Range", "bytes=2-4"}, status: 206, want: "234"},
		{name: "two ranges too many", headers: []string{"X-Sendfile: " + files + "/a.txt"}, fields: []string{"Range", "bytes=70-"}, status: 416, want: "invalid range: failed to overlap\n"},
		{name: "a condition", headers: []string{"X-Sendfile: " + files + "/a.txt"}, fields: []string{"If-None-Match", "*"}, status: 304},
		{name: "HEAD", method: "HEAD", headers: []string{"X-Sendfile: " + files + "/a.txt"}, status: 200, has: map[string]string{"Content-Length": "10"}},
		{name: "POST", method: "POST", headers: []string{"X-Sendfile: " + files + "/a.txt"}, fields: []string{"Range", "bytes=2-4"}, status: 200, want: digits},
		{
			name: "the program's own words", status: 200, want: digits,
			headers: []string{"X-Sendfile: " + files + "/a.txt", "Content-Type: application/pdf", "Content-Disposition: attachment; filename=x.pdf", "Cache-Control: private", "ETag: \"theirs\"", "Content-Length: 3"},
			has:     map[string]string{"Content-Type": "application/pdf", "Content-Disposition": "attachment; filename=x.pdf", "Cache-Control": "private", "X-Sendfile": "", "Content-Length": "10", "Accept-Ranges": "bytes"},
		},
		{name: "nothing of that name", headers: []string{"X-Sendfile: " + files + "/none"}, status: 404, want: "404 Not Found\n"},
		{name: "a folder", headers: []string{"X-Sendfile: " + files + "/sub"}, status: 404, want: "404 Not Found\n"},
		{name: "another page than success", headers: []string{"Status: 403", "X-Sendfile: " + files + "/a.txt"}, status: 403, want: body},
		{name: "a link that leads out", headers: []string{"X-Sendfile: " + files + "/out"}, status: 403, want: "403 Forbidden\n", log: "leads out of the root"},
		{name: "a file elsewhere", headers: []string{"X-Sendfile: /etc/passwd"}, status: 502, want: "502 Bad Gateway\n", log: "below none of the folders"},
		{name: "dots", headers: []string{"X-Sendfile: " + files + "/sub/../../secret.txt"}, status: 502, want: "502 Bad Gateway\n", log: "below none of the folders"},
		{name: "a folder whose name begins the same", headers: []string{"X-Sendfile: " + files + "-of-others.txt"}, status: 502, want: "502 Bad Gateway\n"},
		{name: "no absolute path", headers: []string{"X-Sendfile: a.txt"}, status: 502, want: "502 Bad Gateway\n"},
		{name: "dots that are escaped", headers: []string{"X-Accel-Redirect: /protected/%2e%2e/secret.txt"}, status: 502, want: "502 Bad Gateway\n"},
		{name: "dots that lead below another prefix", headers: []string{"X-Accel-Redirect: /protected/a/../deep/a.txt"}, status: 502, want: "502 Bad Gateway\n", log: "has a part that is"},
		{name: "another internal path", headers: []string{"X-Accel-Redirect: /hello.php"}, status: 502, want: "502 Bad Gateway\n"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			query := url.Values{"h[]": append(row.headers, "Set-Cookie: a=1", "Set-Cookie: b=2")}
			method := row.method
			if method == "" {
				method = "GET"
			}
			resp, got := g.askOK(t, method, "/send.php?"+query.Encode(), "", row.fields...)
			if resp.StatusCode != row.status || got != row.want {
				t.Errorf("%d %q, want %d %q; log:\n%s", resp.StatusCode, got, row.status, row.want, g.log.text())
			}
			if cookies := resp.Header["Set-Cookie"]; row.status < 400 && !slices.Equal(cookies, []string{"a=1", "b=2"}) {
				t.Errorf("cookies %q", cookies)
			}
			for name, want := range row.has {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if row.log != "" && !strings.Contains(g.log.text(), row.log) {
				t.Errorf("the log has no %q:\n%s", row.log, g.log.text())
			}
		})
	}
	if resp, got := g.askOK(t, "GET", "/hello.php", ""); resp.StatusCode != 200 || got != "hello" {
		t.Errorf("afterwards: %d %q", resp.StatusCode, got)
	}
	g.idle(t)
}

// TestSendFileFreesTheChild: the only child answers others while a client takes its time with a file.
func TestSendFileFreesTheChild(t *testing.T) {
	g, files := sendingGate(t)
	addr := g.front(t)
	slow := newReader(t, addr, "/send.php?"+url.Values{"h[]": {"X-Sendfile: " + files + "/large.bin"}}.Encode())
	first, err := http.ReadResponse(slow.br, nil)
	if err != nil || first.ContentLength != 20<<20 {
		t.Fatalf("%v, %v", first, err)
	}
	for range 3 {
		if _, got := g.askOK(t, "GET", "/hello.php", ""); got != "hello" {
			t.Errorf("got %q", got)
		}
		resp, _ := g.askOK(t, "GET", "/send.php?"+url.Values{"h[]": {"X-Sendfile: " + files + "/a.txt"}}.Encode(), "")
		if resp.StatusCode != 200 {
			t.Errorf("the next file gave %d", resp.StatusCode)
		}
	}
	if n, err := io.Copy(io.Discard, first.Body); n != 20<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestSendFileByAChild: the pool that opens the file may have a user of its own.
func TestSendFileByAChild(t *testing.T) {
	files := filepath.Join(t.TempDir(), "files")
	if err := errors.Join(os.Mkdir(files, 0o755), os.WriteFile(filepath.Join(files, "a.txt"), []byte(digits), 0o644)); err != nil {
		t.Fatal(err)
	}
	route := routes.Route{
		Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/"}, CGI: &routes.CGI{},
		SendFile: &routes.SendFile{Pool: "app", Roots: []string{files}},
	}
	cgi := filepath.Join(t.TempDir(), "send")
	if err := os.WriteFile(cgi, []byte("#!/bin/sh\nprintf 'X-Sendfile: "+files+"/a.txt\\n\\n'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	route.CGI.Script = cgi
	g := newGate(t, routes.Pool{}, nil, route)
	for range 3 {
		resp, got := g.askOK(t, "GET", "/", "")
		if resp.StatusCode != 200 || got != digits || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%d %q, %v; log:\n%s", resp.StatusCode, got, resp.Header, g.log.text())
		}
	}
}

// TestEarlyHintsOfScripts: a script that knows what its page will need says so before it works on that.
func TestEarlyHintsOfScripts(t *testing.T) {
	rows := []struct {
		name, script string
		hints        int // 0: the script fails
	}{
		{"one", "Status: 103 Early Hints\\nLink: </a.css>; rel=preload\\n\\n", 1},
		{"two", "Status: 103\\nLink: </a.css>\\n\\nStatus: 103\\nLink: </b.css>\\n\\n", 2},
		{"too many", strings.Repeat("Status: 103\\nLink: </a.css>\\n\\n", maxEarly+1), 0},
		{"another informational status", "Status: 102\\nLink: </a.css>\\n\\n", 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			g := newGate(t, routes.Pool{}, map[string]string{"cgi-bin/hints": "#!/bin/sh\nprintf '" + row.script + "Content-Type: text/plain\\n\\nhello'\n"})
			nc, br := dialText(t, g.front(t), "GET /cgi-bin/hints HTTP/1.1\r\nHost: legacy.example\r\nConnection: close\r\n\r\n")
			defer nc.Close()
			all, err := io.ReadAll(br)
			if err != nil {
				t.Fatal(err)
			}
			text := string(all)
			if row.hints == 0 {
				if !strings.Contains(text, "HTTP/1.1 502 ") {
					t.Errorf("got %s, want 502 at last", text)
				}
				return
			}
			if got := strings.Count(text, "HTTP/1.1 103 Early Hints\r\n"); got != row.hints || !strings.HasSuffix(text, "\r\n\r\nhello") || strings.Count(text, "Link: ") != row.hints {
				t.Errorf("got %s, want %d hints and the answer", text, row.hints)
			}
		})
	}
}

func FuzzFindHandover(f *testing.F) {
	for _, s := range []string{"/srv/files/a", "/srv/files/../x", "/srv/files//etc", "/p/%2e%2e/x", "/p/a?b", "/p/", "/srv/filesx"} {
		f.Add(s)
	}
	r := &routes.Route{SendFile: &routes.SendFile{Roots: []string{"/srv/files"}, Internal: []routes.Internal{{Prefix: "/p/", Folder: "/srv/p"}}, Routes: true}}
	f.Fuzz(func(t *testing.T, value string) {
		for _, field := range []string{fieldAccel, fieldSendfile} {
			found, err := findHandover(r, field, value)
			if err != nil {
				continue
			}
			if found.next != "" {
				target, _, _ := strings.Cut(found.next, "?")
				path, err := routes.CleanPath(target)
				if err != nil || field != fieldAccel || strings.HasPrefix(path, "/p/") || strings.Contains(target, "/../") {
					t.Errorf("%s", fmt.Sprintf("findHandover(%s, %q) leads to %q", field, value, path))
				}
				continue
			}
			place := filepath.Join(found.route.Root, found.path)
			if !strings.HasPrefix(place+"/", found.route.Root+"/") || found.path[0] != '/' {
				t.Errorf("%s", fmt.Sprintf("findHandover(%s, %q) = %q below %q", field, value, found.path, found.route.Root))
			}
		}
	})
}

// TestSendFileForServers: an HTTP server names files as a program does.
func TestSendFileForServers(t *testing.T) {
	files := filepath.Join(t.TempDir(), "files")
	if err := errors.Join(os.Mkdir(files, 0o755), os.WriteFile(filepath.Join(files, "a.txt"), []byte(digits), 0o644)); err != nil {
		t.Fatal(err)
	}
	asked := make(chan http.Header, 3)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header
		w.Header().Set("X-Accel-Redirect", "/protected/a.txt")
		w.Header().Set("Content-Type", "application/x-thing")
		w.Header().Set("Etag", `"theirs"`)
		io.WriteString(w, "the body of the server")
	}))
	t.Cleanup(server.Close)
	g := newGate(t, routes.Pool{}, nil, routes.Route{
		Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/"}, Proxy: &routes.Proxy{To: []routes.Upstream{serverOf(server)}},
		SendFile: &routes.SendFile{Pool: "edge", Internal: []routes.Internal{{Prefix: "/protected/", Folder: files}}},
	})
	for range 3 {
		resp, got := g.askOK(t, "GET", "/", "", "X-Accel-Mapping", "/=/etc/", "X-Sendfile-Type", "X-Accel-Redirect")
		if h := resp.Header; resp.StatusCode != 200 || got != digits || h.Get("Content-Type") != "application/x-thing" || h.Get("Etag") == `"theirs"` || h.Get("X-Accel-Redirect") != "" {
			t.Errorf("%d %q, %v; log:\n%s", resp.StatusCode, got, h, g.log.text())
		}
		if h := <-asked; h.Get("X-Accel-Mapping")+h.Get("X-Sendfile-Type") != "" {
			t.Errorf("the server got the client's mapping: %v", h)
		}
	}
}

// TestEarlyHintsLeaveTheRest: what the gateway itself says with the final answer stands beside no hint, and is not lost by one.
func TestEarlyHintsLeaveTheRest(t *testing.T) {
	var hinted []http.Header
	w := &hintedWriter{ResponseRecorder: httptest.NewRecorder(), hinted: &hinted}
	w.Header().Set(hstsField, "max-age=1")
	early := earlyAnswers{w: w}
	if err := early.pass(103, map[string][]string{"Link": {"</a.css>"}, "Connection": {"close"}}); err != nil {
		t.Fatal(err)
	}
	if len(hinted) != 1 || len(hinted[0]) != 1 || hinted[0].Get("Link") != "</a.css>" {
		t.Errorf("hints %v", hinted)
	}
	if len(w.Header()) != 1 || w.Header().Get(hstsField) != "max-age=1" {
		t.Errorf("the final answer has %v", w.Header())
	}
}

type hintedWriter struct {
	*httptest.ResponseRecorder
	hinted *[]http.Header
}

func (w *hintedWriter) WriteHeader(int) { *w.hinted = append(*w.hinted, w.Header().Clone()) }

// naming is an HTTP server whose answers have the fields that the query tells.
func naming(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		if r.URL.Path == "/circle" {
			w.Header().Set("X-Accel-Redirect", r.URL.Path)
		}
		for _, field := range r.URL.Query()["h"] {
			name, value, _ := strings.Cut(field, ": ")
			if name == "Status" {
				fmt.Sscan(value, &status)
				continue
			}
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.RequestURI, max(r.ContentLength, 0))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestSendFileByRoutes: an application leaves its answer to another route, which clients can't have themselves.
func TestSendFileByRoutes(t *testing.T) {
	s := routed(t, strings.ReplaceAll(`
site "a.example" {
  listen = [":80"]
  root   = "{root}"
  error_page "410" {
    path = "/protected/gone.html"
  }
  rewrite "^/old/(.*)" {
    to = "/protected/{1}"
  }
  rewrite "^/protected/same" {
    to = "{path}?"
  }
  route "/app" {
    pool = "edge"
    send_file { routes = true }
    proxy { to = ["{server}"] }
  }
  route "/circle" {
    pool = "edge"
    send_file { routes = true }
    proxy { to = ["{server}"] }
  }
  route "/distrusted" {
    pool = "edge"
    proxy { to = ["{server}"] }
  }
  route "/protected/*" {
    pool     = "edge"
    internal = true
    static { cache_control = "public" }
  }
  route "/storage/*" {
    pool     = "edge"
    internal = true
    proxy { to = ["{server}/base"] }
  }
  route "/told" {
    pool     = "edge"
    internal = true
    respond { body = "told" }
  }
  route "/locked" {
    pool     = "edge"
    internal = true
    deny     = "all"
    respond {}
  }
  route "/tried" {
    pool      = "edge"
    try_files = ["/protected/a.txt"]
    static {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`, "{server}", naming(t)), map[string]string{"protected/a.txt": digits, "protected/index.html": "index", "protected/gone.html": "gone", "b.css": "b"})
	app := func(fields ...string) string { return "/app?" + url.Values{"h": fields}.Encode() }
	checkAnswers(t, s, []reaction{
		{"clients do not reach an internal route", askedFor{target: "/protected/a.txt"}, 404, "404", nil},
		{"nor in another spelling", askedFor{target: "/x/../%70rotected/./a.txt"}, 404, "404", nil},
		{"nor its folder", askedFor{target: "/protected/"}, 404, "404", nil},
		{"nor by a rewrite that leaves the path as it is", askedFor{target: "/protected/same"}, 404, "404", nil},
		{"a rewrite leads there", askedFor{target: "/old/a.txt"}, 200, digits, nil},
		{"try_files leads there", askedFor{target: "/tried"}, 200, digits, nil},
		{"an application leads to a file", askedFor{target: app("X-Accel-Redirect: /protected/a.txt", "Content-Type: application/pdf")}, 200, digits, map[string]string{"Content-Type": "application/pdf"}},
		{"of which a part may be wanted", askedFor{target: app("X-Accel-Redirect: /protected/a.txt"), header: http.Header{"Range": {"bytes=2-4"}}}, 206, "234", nil},
		{"of which HEAD gets the head", askedFor{method: "HEAD", target: app("X-Accel-Redirect: /protected/a.txt")}, 200, "", map[string]string{"Content-Length": "10"}},
		{"and of which a POST gets all", askedFor{method: "POST", body: "x", target: app("X-Accel-Redirect: /protected/a.txt"), header: http.Header{"Range": {"bytes=2-4"}}}, 200, digits, nil},
		{"it leads to a server, with a query and by GET", askedFor{method: "POST", body: "x", target: app("X-Accel-Redirect: /storage/a%20b?c=d")}, 200, "GET /base/storage/a%20b?c=d 0", nil},
		{"it leads to a fixed answer", askedFor{target: app("X-Accel-Redirect: /told")}, 200, "told", nil},
		{"it leads to a route that clients have, too", askedFor{target: app("X-Accel-Redirect: /b.css")}, 200, "b", nil},
		{"its rewrites count", askedFor{target: app("X-Accel-Redirect: /old/a.txt")}, 200, digits, nil},
		{"a folder shows its index file", askedFor{target: app("X-Accel-Redirect: /protected/")}, 200, "index", nil},
		{
			"what the application says of the answer stays", askedFor{target: app("X-Accel-Redirect: /protected/a.txt", "Cache-Control: private", "Content-Disposition: attachment", "Expires: 0", "Set-Cookie: a=1", "Etag: x", "X-Other: x")}, 200, digits,
			map[string]string{"Cache-Control": "private", "Content-Disposition": "attachment", "Expires": "0", "Set-Cookie": "a=1", "X-Other": "", "X-Accel-Redirect": ""},
		},
		{
			"a server knows its type, and adds its cookies", askedFor{target: app("X-Accel-Redirect: /storage/?h=Content-Type:+a/b&h=Set-Cookie:+b=2&h=Cache-Control:+public", "Content-Type: text/html", "Set-Cookie: a=1", "Cache-Control: private")}, 200, "GET",
			map[string]string{"Content-Type": "a/b", "Cache-Control": "private", "Set-Cookie": "a=1, b=2"},
		},
		{
			"an application may lead to another one", askedFor{target: app("X-Accel-Redirect: /app?h=X-Accel-Redirect:+/protected/a.txt&h=Expires:+1&h=Content-Disposition:+inline", "Content-Disposition: attachment")}, 200, digits,
			map[string]string{"Content-Disposition": "attachment", "Expires": "1"},
		},
		{
			"an error is no file", askedFor{target: app("X-Accel-Redirect: /protected/none", "Content-Type: application/pdf", "Content-Disposition: attachment", "Set-Cookie: a=1")}, 404, "404 Not Found",
			map[string]string{"Content-Type": "text/plain; charset=utf-8", "Content-Disposition": "", "Set-Cookie": "a=1"},
		},
		{"access is asked for", askedFor{target: app("X-Accel-Redirect: /locked")}, 403, "403", nil},
		{"a circle ends", askedFor{target: "/circle"}, 500, "500", nil},
		{"no path", askedFor{target: app("X-Accel-Redirect: @storage")}, 502, "502", nil},
		{"dots", askedFor{target: app("X-Accel-Redirect: /storage/../protected/a.txt")}, 502, "502", nil},
		{"an error of the application is its own answer", askedFor{target: app("X-Accel-Redirect: /protected/a.txt", "Status: 403")}, 403, "GET /app", nil},
		{"without send_file it means nothing", askedFor{target: "/distrusted?h=X-Accel-Redirect:+/protected/a.txt"}, 200, "GET /distrusted", nil},
	})
	if n := s.Cache().Entries; n != 0 {
		t.Errorf("%d files are hot, want none: what an application or a rewrite leads to is not what all get", n)
	}
}
