package proxy

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gateway/routes"
)

// aliasSite has the same folder below one path with strip_prefix, and below another one without it.
const aliasSite = `
site "one.example" {
  listen = [":80"]
  root   = "{root}/www"
  error_page "404" {
    path = "/lost.html"
  }
  route "/img/guarded/*" {
    pool         = "edge"
    root         = "{root}/guarded"
    strip_prefix = true
    deny         = ["all"]
    static {}
  }
  route "/img/*" {
    pool         = "edge"
    root         = "{root}/pictures"
    strip_prefix = true
    static {
      index         = ["index.html"]
      listing       = true
      precompressed = ["gzip"]
      hide          = ["*.bak"]
    }
  }
  route "/try/*" {
    pool         = "edge"
    root         = "{root}/pictures"
    strip_prefix = true
    try_files    = ["{path}", "{path}.html", "/try/deep/{path}", "/lost.html", "/fallback.html"]
    static {}
  }
  route "/when/*" {
    pool         = "edge"
    root         = "{root}/pictures"
    strip_prefix = true
    rewrite "^/when/(.*)$" {
      to   = "/img/{1}"
      then = "last"
      when { file = "{path}" }
    }
    rewrite "" {
      to = "/none"
      not { folder = "{path}" }
    }
    static {}
  }
  route "/*" {
    pool = "edge"
    static { index = ["index.html"] }
  }
}
`

func aliasFiles() map[string]string {
	return map[string]string{
		"www/lost.html": "lost", "www/fallback.html": "fallback", "www/none": "none", "www/a.txt": "of the site", "www/index.html": "home",
		"pictures/a.txt": "picture", "pictures/b.txt": "plain", "pictures/b.txt.gz": "packed", "pictures/page.html": "page", "pictures/index.html": "index",
		"pictures/deep/c.txt": "deep", "pictures/.hidden": "secret", "pictures/x.php": "<?php", "pictures/a.bak": "old", "pictures/img/a.txt": "the same name again",
		"guarded/a.txt": "guarded", "secret.txt": "outside",
	}
}

func TestStripPrefix(t *testing.T) {
	s, root := routedFolder(t, aliasSite, aliasFiles())
	for name, to := range map[string]string{"out": "../secret.txt", "in": "a.txt"} {
		if err := os.Symlink(to, filepath.Join(root, "pictures", name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		name, target string
		status       int
		want         string // the body, or Location
	}{
		{"a file", "/img/a.txt", 200, "picture"},
		{"a file in a folder", "/img/deep/c.txt", 200, "deep"},
		{"the client's spelling", "/im%67/./deep/%63.txt", 200, "deep"},
		{"the same path without the folder is the site's", "/a.txt", 200, "of the site"},
		{"the folder's name again", "/img/img/a.txt", 200, "the same name again"},
		{"a file of the site is none of the folder", "/img/fallback.html", 404, "lost"},
		{"the index", "/img/", 200, "index"},
		{"the folder without its slash", "/img", 301, "/img/"},
		{"with a query", "/img?a=b", 301, "/img/?a=b"},
		{"a folder in it without its slash", "/img/deep?a", 301, "/img/deep/?a"},
		{"a neighbour of the folder", "/imgs", 404, "lost"},
		{"dots lead out of the folder like the path", "/img/../a.txt", 200, "of the site"},
		{"and not out of the root", "/img/%2e%2e/%2e%2e/secret.txt", 400, "400 Bad Request\n"},
		{"an encoded slash", "/img%2fa.txt", 404, "lost"},
		{"a hidden name", "/img/.hidden", 404, "lost"},
		{"a name to hide", "/img/a.bak", 404, "lost"},
		{"a source", "/img/x.php", 404, "lost"},
		{"a link that leads out", "/img/out", 403, "403 Forbidden\n"},
		{"a link that stays", "/img/in", 200, "picture"},
		{"access rules are of the whole path", "/img/guarded/a.txt", 403, "403 Forbidden\n"},
		{"the folder of a route with rules is guarded, too", "/img/guarded", 403, "403 Forbidden\n"},
		{"try_files: the path", "/try/a.txt", 200, "picture"},
		{"try_files: another name", "/try/page", 200, "page"},
		{"try_files: what leads elsewhere is the last", "/try/none", 200, "fallback"},
		{"a rewrite looks below the root", "/when/a.txt", 200, "picture"},
		{"with PATH_INFO behind it", "/when/a.txt/info", 404, "lost"},
		{"a rewrite that finds no file", "/when/none.txt", 200, "none"},
		{"a rewrite that finds a folder", "/when/deep/", 403, "403 Forbidden\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 2 { // the second time from memory
				resp := visit(s, "tcp :80", "GET", row.target, "one.example", "")
				body, err := io.ReadAll(resp.Body)
				got := string(body)
				if row.status == 301 {
					got = resp.Header.Get("Location")
				}
				if err != nil || resp.StatusCode != row.status || got != row.want {
					t.Errorf("GET %s = %d %q, %v; want %d %q", row.target, resp.StatusCode, got, err, row.status, row.want)
				}
			}
		})
	}
	if resp := visit(s, "tcp :80", "POST", "/img", "one.example", "x"); resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "/img/" {
		t.Errorf("POST /img = %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
}

// TestStripPrefixListing: the names in a listing lead to where they are.
func TestStripPrefixListing(t *testing.T) {
	s := routed(t, aliasSite, aliasFiles())
	resp := visit(s, "tcp :80", "GET", "/img/deep/?format=json", "one.example", "")
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || !strings.Contains(string(body), `"c.txt"`) || !strings.Contains(string(body), `/img/deep/`) {
		t.Errorf("listing = %d %s", resp.StatusCode, body)
	}
}

// TestStripPrefixCoding: the compressed file lies beside the other one.
func TestStripPrefixCoding(t *testing.T) {
	s := routed(t, aliasSite, aliasFiles())
	r := httptest.NewRequest("GET", "http://one.example/img/b.txt", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r.WithContext(&exchange{listener: "tcp :80"}))
	if w.Body.String() != "packed" || w.Header().Get("Content-Encoding") != "gzip" {
		t.Errorf("b.txt = %q, %q", w.Body, w.Header())
	}
}

// TestStripPrefixPHP holds what a script sees to what Apache tells it of an alias.
func TestStripPrefixPHP(t *testing.T) {
	files := map[string]string{
		"pma/env.php": "<?php echo json_encode($_SERVER);", "pma/sub/env.php": "<?php echo json_encode($_SERVER);", "www/pma/other.php": "<?php echo 'of the site';",
		"pma/index.html": "not run",
	}
	strips := func(kind routes.PatternKind, text, top string) routes.Route {
		return routes.Route{Pattern: routes.Pattern{Kind: kind, Text: text, Top: top}, StripPrefix: true}
	}
	suffix, prefix := strips(routes.Suffix, ".php", "/pma/"), strips(routes.Prefix, "/all/", "")
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	suffix.Root, prefix.Root = dir+"/pma", dir+"/pma"
	g := newGate(t, phpPool(t), nil, suffix, prefix)
	for _, row := range []struct {
		target string
		status int
		want   map[string]string
	}{
		{"/pma/env.php?a=b", 200, map[string]string{
			"SCRIPT_NAME": "/pma/env.php", "SCRIPT_FILENAME": dir + "/pma/env.php", "REQUEST_URI": "/pma/env.php?a=b", "PHP_SELF": "/pma/env.php",
			"DOCUMENT_ROOT": g.root, "CONTEXT_PREFIX": "/pma", "CONTEXT_DOCUMENT_ROOT": dir + "/pma", "PATH_INFO": "",
		}},
		{"/pma/sub/env.php/x/y", 200, map[string]string{
			"SCRIPT_NAME": "/pma/sub/env.php", "SCRIPT_FILENAME": dir + "/pma/sub/env.php", "PHP_SELF": "/pma/sub/env.php/x/y", "PATH_INFO": "/x/y", "DOCUMENT_ROOT": g.root,
		}},
		{"/all/env.php", 200, map[string]string{"SCRIPT_NAME": "/all/env.php", "SCRIPT_FILENAME": dir + "/pma/env.php", "CONTEXT_PREFIX": "/all"}},
		{"/all/index.html", 404, nil},
		{"/pma/other.php", 404, nil},
		{"/pma/none.php/x", 404, nil},
	} {
		resp, body := g.askOK(t, "GET", row.target, "")
		var have map[string]any
		if resp.StatusCode != row.status || row.want != nil && json.Unmarshal([]byte(body), &have) != nil {
			t.Errorf("GET %s = %d %q, want %d", row.target, resp.StatusCode, body, row.status)
		}
		for name, want := range row.want {
			if got, _ := have[name].(string); got != want {
				t.Errorf("GET %s: %s = %q, want %q", row.target, name, got, want)
			}
		}
	}
}

// TestStripPrefixCGI: scripts by their ending below a folder.
func TestStripPrefixCGI(t *testing.T) {
	route := routes.Route{Pattern: routes.Pattern{Kind: routes.Suffix, Text: ".cgi", Top: "/tools/"}, StripPrefix: true, CGI: &routes.CGI{}}
	dir := t.TempDir()
	script := "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n%s %s %s' \"$SCRIPT_NAME\" \"$SCRIPT_FILENAME\" \"$PATH_INFO\"\n"
	if err := os.WriteFile(dir+"/x.cgi", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	route.CGI.Root = dir
	g := newGate(t, routes.Pool{}, nil, route)
	if resp, body := g.askOK(t, "GET", "/tools/x.cgi/info", ""); resp.StatusCode != 200 || body != "/tools/x.cgi "+dir+"/x.cgi /info" {
		t.Errorf("x.cgi = %d %q", resp.StatusCode, body)
	}
}

// TestStripPrefixDeputy: on a pool with children one of them opens the files.
func TestStripPrefixDeputy(t *testing.T) {
	route := routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/img/"}, StripPrefix: true, Static: &routes.Static{Index: []string{"index.html"}, Listing: true}}
	g := newGate(t, routes.Pool{}, map[string]string{"www/a.txt": "picture", "www/sub/index.html": "index", "www/list/b.txt": "b"}, route)
	for target, want := range map[string]string{"/img/a.txt": "picture", "/img/sub/": "index", "/img/none": "404 Not Found\n", "/a.txt": "404 Not Found\n"} {
		if _, body := g.askOK(t, "GET", target, ""); body != want {
			t.Errorf("GET %s = %q, want %q", target, body, want)
		}
	}
	if _, body := g.askOK(t, "GET", "/img/list/", ""); !strings.Contains(body, `href="b.txt"`) && !strings.Contains(body, "b.txt") {
		t.Errorf("the listing of /img/list/ is %q", body)
	}
}

// TestStripPrefixProxy: what a server is asked for, and how its answers lead back.
func TestStripPrefixProxy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Asked", r.RequestURI+" "+strings.Join(r.Header["X-Forwarded-Prefix"], ";"))
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.Header().Set("Set-Cookie", "a=b; Path="+r.URL.Query().Get("cookie"))
	}))
	defer server.Close()
	for _, row := range []struct {
		name, base, target, asked, location, wantLocation, cookie, wantCookie string
	}{
		{"a path", "", "/app/x", "/x", "/login", "/app/login", "/", "/app/"},
		{"the client's spelling", "", "/a%70p/%78%20", "/%78%20", "/", "/app/", "/c", "/app/c"},
		{"an encoded slash", "", "/app/x%2Fy", "/x%2Fy", "", "", "", ""},
		{"an encoded slash behind the folder", "", "/app%2Fx", "/x", "", "", "", ""},
		{"another path", "/other", "/app/x", "/other/x", "/other/login?a", "/app/login?a", "/other/", "/app/"},
		{"the folder without its slash is the server's path", "/other", "/app", "/other", "/other/", "/app/", "", ""},
		{"which is not all", "/other", "/app/", "/other/", "/elsewhere", "/elsewhere", "/elsewhere", "/elsewhere"},
		{"a server that knows the folder", "", "/app/x", "/x", "/app/login", "/app/login", "/app", "/app"},
		{"a server's path with the folder's name", "/app/v2", "/app/x", "/app/v2/x", "/app/v2/y", "/app/y", "/app/v2", "/app/"},
		{"its own name", "", "/app/x", "/x", server.URL + "/app/y", "http://legacy.example/app/app/y", "", ""},
		{"the client's name", "", "/app/x", "/x", "http://legacy.example/y", "http://legacy.example/app/y", "", ""},
		{"what looks like another host", "", "/app/x", "/x", server.URL + "//evil.example/", "http://legacy.example/app//evil.example/", "", ""},
		{"another host", "", "/app/x", "/x", "//evil.example/", "//evil.example/", "", ""},
		{"a relative reference", "", "/app/x", "/x", "y", "y", "", ""},
		{"only a query", "", "/app/x", "/x", "?y", "?y", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			to := serverOf(server)
			to.Base = row.base
			g := newRouteGate(t, routes.Pool{}, routes.Route{
				Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/app/"}, StripPrefix: true, Proxy: &routes.Proxy{To: []routes.Upstream{to}},
			})
			query := url.Values{"to": {row.location}, "cookie": {row.cookie}}.Encode()
			r := g.request(t, "GET", row.target+"?"+query, nil)
			r.Host = "legacy.example"
			r.Header.Set("X-Forwarded-Prefix", "/evil")
			resp, _, err := g.ask(t, r)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := resp.Header.Get("X-Asked"), row.asked+"?"+query+" /app"; got != want {
				t.Errorf("asked for %q, want %q", got, want)
			}
			if got := resp.Header.Get("Location"); got != row.wantLocation {
				t.Errorf("Location %q = %q, want %q", row.location, got, row.wantLocation)
			}
			if got, want := resp.Header.Get("Set-Cookie"), "a=b; Path="+row.wantCookie; got != want {
				t.Errorf("Set-Cookie of %q = %q, want %q", row.cookie, got, want)
			}
		})
	}
}

// TestStripPrefixProxyFolder: a server without a path of its own can't be asked for the folder without its slash.
func TestStripPrefixProxyFolder(t *testing.T) {
	g := newRouteGate(t, routes.Pool{}, routes.Route{
		Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/app/"}, StripPrefix: true, Proxy: &routes.Proxy{To: []routes.Upstream{{Network: "tcp", Address: "127.0.0.1:1"}}},
	})
	resp, _, err := g.ask(t, g.request(t, "POST", "/app?a=b", strings.NewReader("x")))
	if err != nil || resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "/app/?a=b" {
		t.Errorf("POST /app = %d to %q, %v", resp.StatusCode, resp.Header.Get("Location"), err)
	}
}

// TestStripPrefixHTTPApplication: an application of a pool is asked like a server, and answers by the client's name.
func TestStripPrefixHTTPApplication(t *testing.T) {
	x := &exchange{asked: "/app/a"}
	x.path, x.route = "/app/a", &routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/app/"}, StripPrefix: true}
	r := httptest.NewRequest("GET", "http://legacy.example/app/a?b", nil)
	c := &call{r: r, x: x, body: new(spooled)}
	if got := c.target(c.below()); got != "/a?b" {
		t.Errorf("target = %q", got)
	}
	h := http.Header{"Location": {"http://legacy.example/y"}, "Set-Cookie": {"a=b; Path=/; Domain=legacy.example", "__Host-a=b; Path=/; Secure"}}
	c.reverse(h)
	want := http.Header{"Location": {"http://legacy.example/app/y"}, "Set-Cookie": {"a=b; Path=/app/; Domain=legacy.example", "__Host-a=b; Path=/; Secure"}}
	for name := range want {
		if strings.Join(h[name], "|") != strings.Join(want[name], "|") {
			t.Errorf("%s = %q, want %q", name, h[name], want[name])
		}
	}
}

// TestStripPrefixFastCGI: a FastCGI server may see the root elsewhere; then it is not told of the site's, which it does not see.
func TestStripPrefixFastCGI(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a.php", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := NewFiles(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	for _, row := range []struct{ root, wantRoot string }{{dir, "/srv/site"}, {"/container", "/container"}} {
		route := &routes.Route{Pattern: routes.Pattern{Kind: routes.Suffix, Text: ".php", Top: "/pma/"}, StripPrefix: true, Root: dir, FastCGI: &routes.FastCGIServer{Root: row.root, Files: true}}
		x := &exchange{site: &routes.Site{Root: "/srv/site"}}
		x.routeState = routeState{route: route, path: "/pma/a.php/b", script: "/pma/a.php", pathInfo: "/b", files: strip(files, route)}
		p, err := locateRemote(x)
		if err != nil || p.name != "/pma/a.php" || p.file != row.root+"/a.php" || p.info != "/b" || p.root != row.wantRoot || p.folder != row.root || p.cut != "/pma" {
			t.Errorf("with the root %q: %+v, %v", row.root, p, err)
		}
	}
}
