package proxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"gateway/mpm"
	"gateway/routes"
)

// routed makes a server of sites whose text has {root} for a folder with files, and whose routes run on the pool "edge".
func routed(t testing.TB, sites string, files map[string]string) *Server {
	s, _ := routedFolder(t, sites, files)
	return s
}

// routedFolder also returns the folder.
func routedFolder(t testing.TB, sites string, files map[string]string) (s *Server, root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := "pool \"edge\" {\n mpm = \"event\"\n}\n" + strings.ReplaceAll(sites, "{root}", root)
	c, diags := routes.Parse("test.hcl", []byte(text))
	if diags.HasErrors() {
		diags.Write(os.Stderr, 0, false)
		t.Fatal("the test's configuration is wrong")
	}
	pools := map[string]*mpm.Pool{}
	for _, p := range c.Pools {
		pools[p.Name] = mpm.NewPool(p, nil)
		pools[p.Name].Open()
		t.Cleanup(pools[p.Name].Close)
	}
	s = NewServer(c, pools, zap.NewNop().Sugar())
	t.Cleanup(func() { s.Close() })
	return s, root
}

// visit sends a request to a server, as if it came in on a listener.
func visit(s *Server, listener, method, target, host, body string) *http.Response {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	path, query, _ := strings.Cut(target, "?")
	r.URL.Path, r.URL.RawQuery, r.RequestURI, r.Host = path, query, target, host
	x := &exchange{listener: listener, secure: strings.HasSuffix(listener, "443"), tls: tlsFacts{session: sessionFor{}}}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r.WithContext(context.WithValue(context.Background(), exchangeKey{}, x)))
	return w.Result()
}

// sessionFor is a TLS session for all hosts but one.
type sessionFor struct{ Secure }

func (sessionFor) Serves(_ *routes.Site, host string) bool { return host != "elsewhere.example" }

func TestRouting(t *testing.T) {
	s := routed(t, `
site "one.example" "*.one.example" {
  listen = [":80"]
  root   = "{root}"
  route "/exact" {
    pool = "edge"
    respond {
      status = 200
      body   = "exact"
    }
  }
  route "/old/*" {
    pool = "edge"
    redirect {
      to     = "https://{host}/new{path}?{query}"
      status = 301
    }
  }
  route "/small" {
    pool             = "edge"
    max_request_body = 4
    respond { body = "small" }
  }
  route "/front/*" {
    pool      = "edge"
    try_files = ["{path}", "{path}.html", "/index.html?from={path}"]
    static {}
  }
  route "/strict/*" {
    pool      = "edge"
    try_files = ["{path}", "=404"]
    static {}
  }
  route "/loop/*" {
    pool      = "edge"
    try_files = ["/none", "/loop/x{path}"]
    static {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "two.example" {
  listen = [":80"]
  root   = "{root}/two"
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "post.example" {
  listen = [":80"]
  route "/*" {
    pool    = "edge"
    methods = ["POST"]
    respond { body = "posted" }
  }
}
site "slashes.example" {
  listen          = [":80"]
  root            = "{root}"
  encoded_slashes = true
  route "/two/*" {
    pool = "edge"
    static {}
  }
}
site "secure.example" {
  listen = [":80", ":443", "127.0.0.1:81"]
  root   = "{root}"
  tls {
    mode = "internal"
    hsts {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`, map[string]string{
		"index.html": "home", "a b.html": "spaced", "front/page.html": "page", "front/dir/index.html": "dir", "strict/x": "x",
		"two/index.html": "second site", ".env": "secret", "info.php": "<?php secret",
	})
	tests := []struct {
		name                         string
		method, target, host, listen string
		status                       int
		body, location               string
	}{
		{"the exact route wins over a later one", "GET", "/exact", "one.example", ":80", 200, "exact", ""},
		{"a path is matched after it was decoded", "GET", "/%65xact", "one.example", ":80", 200, "exact", ""},
		{"dot segments are resolved before matching", "GET", "/x/../exact", "one.example", ":80", 200, "exact", ""},
		{"a folder serves its index", "GET", "/", "one.example", ":80", 200, "home", ""},
		{"an escaped name finds its file", "GET", "/a%20b.html", "one.example", ":80", 200, "spaced", ""},
		{"a host in capitals and with a port finds its site", "GET", "/", "TWO.example:80", ":80", 200, "second site", ""},
		{"an unknown host gets the first site", "GET", "/exact", "unknown.example", ":80", 200, "exact", ""},
		{"a wildcard name finds its site", "GET", "/exact", "www.one.example", ":80", 200, "exact", ""},
		{"a redirect keeps path and query", "GET", "/old/a%20b?x=1", "one.example", ":80", 301, "", "https://one.example/new/old/a%20b?x=1"},
		{"a method that no route takes is 405", "GET", "/", "post.example", ":80", 405, "", ""},
		{"a body above the route's limit is 413", "POST", "/small", "one.example", ":80", 413, "", ""},
		{"try_files finds the file itself", "GET", "/front/page.html", "one.example", ":80", 200, "page", ""},
		{"try_files finds a longer name", "GET", "/front/page", "one.example", ":80", 200, "page", ""},
		{"try_files finds a folder by its index", "GET", "/front/dir/", "one.example", ":80", 200, "dir", ""},
		{"try_files falls back to its last entry", "GET", "/front/none", "one.example", ":80", 200, "home", ""},
		{"try_files ends with a status", "GET", "/strict/none", "one.example", ":80", 404, "", ""},
		{"try_files that goes in circles is 500", "GET", "/loop/a", "one.example", ":80", 500, "", ""},
		{"a bad escape is 400", "GET", "/%zz", "one.example", ":80", 400, "", ""},
		{"an encoded slash is 404", "GET", "/two%2findex.html", "one.example", ":80", 404, "", ""},
		{"an encoded slash is one for routes and files where the site says so", "GET", "/two%2findex.html", "slashes.example", ":80", 200, "second site", ""},
		{"it hides no file better than a slash does", "GET", "/two%2f..%2f.env", "slashes.example", ":80", 404, "", ""},
		{"above the root is 400", "GET", "/../x", "one.example", ":80", 400, "", ""},
		{"a dot file is not there", "GET", "/.env", "one.example", ":80", 404, "", ""},
		{"a script's source is not there", "GET", "/info.php", "one.example", ":80", 404, "", ""},
		{"a plain listener of a site with TLS redirects", "GET", "/a?b=c", "secure.example", ":80", 307, "", "https://secure.example/a?b=c"},
		{"the redirect names no foreign host", "GET", "//evil.example/..", "secure.example", ":80", 307, "", "https://secure.example//evil.example/.."},
		{"its TLS listener serves", "GET", "/", "secure.example", ":443", 200, "home", ""},
		{"an address that only this machine reaches serves without TLS", "GET", "/", "secure.example", "127.0.0.1:81", 200, "home", ""},
		{"a host that the session is not for is 421", "GET", "/", "elsewhere.example", ":443", 421, "", ""},
		{"OPTIONS * says what is allowed", "OPTIONS", "*", "one.example", ":80", 204, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := ""
			if tt.method == "POST" {
				body = "a long body"
			}
			resp := visit(s, "tcp "+tt.listen, tt.method, tt.target, tt.host, body)
			var got strings.Builder
			resp.Write(&got)
			if resp.StatusCode != tt.status || !strings.HasSuffix(got.String(), tt.body) || resp.Header.Get("Location") != tt.location && tt.location != "" {
				t.Errorf("%s %s of %s: %s, want %d, body %q, location %q", tt.method, tt.target, tt.host, got.String(), tt.status, tt.body, tt.location)
			}
			if strings.Contains(got.String(), "secret") {
				t.Errorf("%s shows what it must not: %s", tt.target, got.String())
			}
			if hsts := resp.Header.Get(hstsField); (hsts == "max-age=31536000") != (tt.listen == ":443" && tt.status == 200) {
				t.Errorf("%s of %s: %s = %q", tt.target, tt.listen, hstsField, hsts)
			}
			if tt.status == 405 && resp.Header.Get("Allow") != "POST" {
				t.Errorf("405 allows %q, want POST", resp.Header.Get("Allow"))
			}
		})
	}
}

func TestMissingFolderConcernsItsRouteOnly(t *testing.T) {
	s := routed(t, `
site "a" {
  listen = [":80"]
  root   = "{root}"
  route "/gone/*" {
    pool = "edge"
    root = "/nonexistent/folder"
    static {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`, map[string]string{"index.html": "home"})
	for path, want := range map[string]int{"/gone/x": 404, "/": 200} {
		if got := visit(s, "tcp :80", "GET", path, "a", "").StatusCode; got != want {
			t.Errorf("GET %s = %d, want %d", path, got, want)
		}
	}
}
