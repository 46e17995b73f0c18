package proxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// askedFor is a request for visitAs.
type askedFor struct {
	method, target, host string
	header               http.Header
	remote               string // an address; empty: 192.0.2.1
	listener             string // empty: "tcp :80"
	body                 string
}

// visitAs sends a request to a server.
func visitAs(s *Server, a askedFor) *http.Response {
	if a.method == "" {
		a.method = "GET"
	}
	if a.host == "" {
		a.host = "a.example"
	}
	if a.remote == "" {
		a.remote = "192.0.2.1"
	}
	if a.listener == "" {
		a.listener = "tcp :80"
	}
	r := httptest.NewRequest(a.method, "/", strings.NewReader(a.body))
	path, query, _ := strings.Cut(a.target, "?")
	r.URL.Path, r.URL.RawQuery, r.RequestURI, r.Host = path, query, a.target, a.host
	if a.header != nil {
		r.Header = a.header
	}
	x := &exchange{listener: a.listener, secure: strings.HasSuffix(a.listener, "443"), tls: tlsFacts{session: sessionFor{}}, remote: netip.AddrPortFrom(netip.MustParseAddr(a.remote), 5000)}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r.WithContext(context.WithValue(context.Background(), exchangeKey{}, x)))
	return w.Result()
}

// reaction is a request and what is wanted of its answer.
type reaction struct {
	name   string
	asked  askedFor
	status int
	want   string            // the body's beginning
	has    map[string]string // header fields, all values of one joined; "": it is not there
}

// checkAnswers asks for them, each in a test of its own.
func checkAnswers(t *testing.T, s *Server, rows []reaction) {
	t.Helper()
	for _, v := range rows {
		t.Run(v.name, func(t *testing.T) {
			resp := visitAs(s, v.asked)
			resp.Request = &http.Request{Method: v.asked.method}
			if got := bodyOf(t, resp); resp.StatusCode != v.status || !strings.HasPrefix(got, v.want) {
				t.Errorf("%s %s = %d %q, want %d %q", v.asked.method, v.asked.target, resp.StatusCode, got, v.status, v.want)
			}
			for name, want := range v.has {
				if got := strings.Join(resp.Header[name], ", "); got != want {
					t.Errorf("%s %s: %s is %q, want %q", v.asked.method, v.asked.target, name, got, want)
				}
			}
		})
	}
}

func bodyOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(b.String(), "\r\n\r\n")
	return strings.TrimSuffix(body, "\n")
}

// echoing is a site whose last route says what it was asked for at last.
func echoing(words string) string {
	return `
site "a.example" {
  listen = [":80", ":443"]
  root   = "{root}"
  tls {
    mode     = "internal"
    redirect = false
  }
` + words + `
  route "/*" {
    pool = "edge"
    respond { body = "{path}?{query}" }
  }
}
`
}

func TestRewrite(t *testing.T) {
	files := map[string]string{"there.txt": "there", "dir/x": "x"}
	rows := []struct {
		name, words string
		askedFor    askedFor
		status      int
		want        string // the body, or the location
	}{
		{"groups are variables", "rewrite \"^/blog/([0-9]+)/(.*)$\" {\n to = \"/index.php?id={1}&t={2}\"\n}", askedFor{target: "/blog/7/a%26b"}, 200, "/index.php?id=7&t=a%26b"},
		{"named groups are variables", "rewrite \"^/(?<lang>[a-z]{2})/\" {\n to = \"/l/{lang}\"\n}", askedFor{target: "/de/x"}, 200, "/l/de?"},
		{"a path that does not match stays", "rewrite \"^/a$\" {\n to = \"/b\"\n}", askedFor{target: "/aa?x=1"}, 200, "/aa?x=1"},
		{"the query stays", "rewrite \"^/a$\" {\n to = \"/b\"\n}", askedFor{target: "/a?x=1"}, 200, "/b?x=1"},
		{"a new query replaces the old one", "rewrite \"^/a$\" {\n to = \"/b?y=2\"\n}", askedFor{target: "/a?x=1"}, 200, "/b?y=2"},
		{"a query can be dropped", "rewrite \"^/a$\" {\n to = \"/b?\"\n}", askedFor{target: "/a?x=1"}, 200, "/b?"},
		{"a query can be appended", "rewrite \"^/a$\" {\n to = \"/b?y=2\"\n append_query = true\n}", askedFor{target: "/a?x=1"}, 200, "/b?y=2&x=1"},
		{"rewrites follow each other", "rewrite \"^/a$\" {\n to = \"/b\"\n}\nrewrite \"^/b$\" {\n to = \"/c\"\n}", askedFor{target: "/a"}, 200, "/c?"},
		{"last leaves the others out", "rewrite \"^/a$\" {\n to = \"/b\"\n then = \"last\"\n}\nrewrite \"^/b$\" {\n to = \"/c\"\n}", askedFor{target: "/a"}, 200, "/b?"},
		{"restart begins anew", "rewrite \"^(.*)_(.*)$\" {\n to = \"{1}-{2}\"\n then = \"restart\"\n}", askedFor{target: "/a_b_c"}, 200, "/a-b-c?"},
		{"restart ends where the path stays", "rewrite \"^/(.*)$\" {\n to = \"/x?q={1}\"\n then = \"restart\"\n}", askedFor{target: "/a"}, 200, "/x?q=x"},
		{"a circle is 500", "rewrite \"^/\" {\n to = \"/x{path}\"\n then = \"restart\"\n}", askedFor{target: "/a"}, 500, "500 Internal Server Error"},
		{"a circle of a route is 500", "route \"/r/*\" {\n pool = \"edge\"\n rewrite \"^/r\" {\n to = \"/r/x{path}\"\n }\n respond {}\n}", askedFor{target: "/r/a"}, 500, "500 Internal Server Error"},
		{"a route's rewrite leads to another route", "route \"/r/*\" {\n pool = \"edge\"\n rewrite \"^/r(.*)\" {\n to = \"{1}?r=1\"\n }\n respond {}\n}", askedFor{target: "/r/a"}, 200, "/a?r=1"},
		{"a route may change the query only", "route \"/r/*\" {\n pool = \"edge\"\n rewrite \"\" {\n to = \"{path}?n=1\"\n append_query = true\n }\n respond { body = \"{query}\" }\n}", askedFor{target: "/r/a?b"}, 200, "n=1&b"},
		{"end is the end", "rewrite \"^/a$\" {\n to = \"/r/b\"\n then = \"end\"\n}\nroute \"/r/*\" {\n pool = \"edge\"\n rewrite \"^/r(.*)\" {\n to = \"{1}\"\n }\n respond { body = \"{path}\" }\n}", askedFor{target: "/a"}, 200, "/r/b"},
		{"a redirect has the query", "rewrite \"^/a/(.*)\" {\n to = \"https://b.example/{1}\"\n status = 301\n}", askedFor{target: "/a/b%20c?x=1"}, 301, "https://b.example/b%20c?x=1"},
		{"a redirect with {uri} has it once", "rewrite \"^\" {\n to = \"https://{host}{uri}\"\n status = 308\n}", askedFor{target: "/a?x=1"}, 308, "https://a.example/a?x=1"},
		{"a redirect's query comes before its fragment", "rewrite \"^/a\" {\n to = \"/b#c\"\n status = 302\n}", askedFor{target: "/a?x=1"}, 302, "/b?x=1#c"},
		{"a redirect can drop the query", "rewrite \"^/a\" {\n to = \"/b?\"\n status = 302\n}", askedFor{target: "/a?x=1"}, 302, "/b"},
		{"a redirect may be written as it is read", "rewrite \"^/a\" {\n to = \"/é b%20c?d e\"\n status = 302\n}", askedFor{target: "/a"}, 302, "/%C3%A9%20b%20c?d%20e"},
		{"a redirect leads to no other host", "rewrite \"^/a(.*)\" {\n to = \"/{1}\"\n status = 302\n}", askedFor{target: "/a/evil.example"}, 302, "/evil.example"},
		{"an encoded line break stays encoded", "rewrite \"^/a(.*)\" {\n to = \"/b{1}\"\n status = 302\n}", askedFor{target: "/a%0d%0aX:1"}, 400, "400 Bad Request"},
		{"forbidden", "rewrite \"[.]bak$\" {\n status = 403\n}", askedFor{target: "/x.bak"}, 403, "403 Forbidden"},
		{"gone", "rewrite \"^/old\" {\n status = 410\n}", askedFor{target: "/old/x"}, 410, "410 Gone"},
		{"letters of both cases with (?i)", "rewrite \"(?i)^/Old\" {\n status = 410\n}", askedFor{target: "/oLD"}, 410, "410 Gone"},
		{"a file that is there stays", "rewrite \"\" {\n to = \"/front\"\n not {\n file = \"{path}\"\n folder = \"{path}\"\n }\n}", askedFor{target: "/there.txt"}, 200, "/there.txt?"},
		{"a script with PATH_INFO is a file", "rewrite \"\" {\n to = \"/front\"\n not {\n file = \"{path}\"\n folder = \"{path}\"\n }\n}", askedFor{target: "/dir/x/info"}, 200, "/dir/x/info?"},
		{"another path of a file is the whole", "rewrite \"\" {\n to = \"/front\"\n not {\n file = \"/dir{path}\"\n }\n}", askedFor{target: "/x/info"}, 200, "/front?"},
		{"groups stand in the path of a file", "rewrite \"^/(.*)[.]html$\" {\n to = \"/{1}.txt\"\n when {\n file = \"/{1}.txt\"\n }\n}", askedFor{target: "/there.html"}, 200, "/there.txt?"},
		{"a folder that is there stays", "rewrite \"\" {\n to = \"/front\"\n not {\n file = \"{path}\"\n folder = \"{path}\"\n }\n}", askedFor{target: "/dir/"}, 200, "/dir/?"},
		{"what is not there goes to the front controller", "rewrite \"\" {\n to = \"/front?p={path}\"\n not {\n file = \"{path}\"\n folder = \"{path}\"\n }\n}", askedFor{target: "/none/a"}, 200, "/front?p=/none/a"},
		{"a folder is no file", "rewrite \"\" {\n to = \"/front\"\n when {\n file = \"{path}\"\n }\n}", askedFor{target: "/dir"}, 200, "/dir?"},
		{"the host is compared in small letters", "rewrite \"\" {\n to = \"https://{domain}{uri}\"\n status = 301\n when {\n host = \"^www\\\\.(?<domain>.+)$\"\n }\n}", askedFor{target: "/x?y", host: "WWW.a.example:80"}, 301, "https://a.example/x?y"},
		{"the query is compared", "rewrite \"^/p$\" {\n to = \"/page/{id}?\"\n when {\n query = \"(?:^|&)id=(?<id>[0-9]+)\"\n }\n}", askedFor{target: "/p?a=1&id=7"}, 200, "/page/7?"},
		{"the method is compared", "rewrite \"\" {\n to = \"/w\"\n when {\n methods = \"POST\"\n }\n}", askedFor{method: "POST", target: "/x"}, 200, "/w?"},
		{"whoever says GET says HEAD", "rewrite \"\" {\n status = 410\n when {\n methods = [\"GET\"]\n }\n}", askedFor{method: "HEAD", target: "/x"}, 410, "410 Gone"},
		{"a host with a final dot is the same", "rewrite \"\" {\n status = 403\n when {\n host = \"^a.example$\"\n }\n}", askedFor{target: "/x", host: "A.example.:80"}, 403, "403 Forbidden"},
		{"the scheme is compared", "rewrite \"\" {\n to = \"https://{host}{uri}\"\n status = 301\n not {\n scheme = \"https\"\n }\n}", askedFor{target: "/x"}, 301, "https://a.example/x"},
		{"a scheme that is right stays", "rewrite \"\" {\n to = \"https://{host}{uri}\"\n status = 301\n not {\n scheme = \"https\"\n }\n}", askedFor{target: "/x", listener: "tcp :443"}, 200, "/x?"},
		{"the address is compared", "rewrite \"\" {\n status = 403\n not {\n remote_ip = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n }\n}", askedFor{target: "/x", remote: "2001:db8::7"}, 200, "/x?"},
		{"a mapped address is an IPv4 address", "rewrite \"\" {\n status = 403\n when {\n remote_ip = \"10.0.0.0/8\"\n }\n}", askedFor{target: "/x", remote: "::ffff:10.1.2.3"}, 403, "403 Forbidden"},
		{"a header is compared", "rewrite \"\" {\n to = \"/m\"\n when {\n header = { user-agent = \"Mobile\" }\n }\n}", askedFor{target: "/x", header: http.Header{"User-Agent": {"X Mobile"}}}, 200, "/m?"},
		{"a header that is missing is empty", "rewrite \"\" {\n to = \"/m\"\n when {\n header = { Referer = \"^$\" }\n }\n}", askedFor{target: "/x"}, 200, "/m?"},
		{"a cookie is compared", "rewrite \"\" {\n to = \"/c\"\n when {\n cookie = { beta = \"^1$\" }\n }\n}", askedFor{target: "/x", header: http.Header{"Cookie": {"a=2; beta=1"}}}, 200, "/c?"},
		{"all of a when must hold", "rewrite \"\" {\n to = \"/m\"\n when {\n scheme = \"http\"\n methods = \"POST\"\n }\n}", askedFor{target: "/x"}, 200, "/x?"},
		{"one of several whens is enough", "rewrite \"\" {\n to = \"/m\"\n when {\n methods = \"POST\"\n }\n when {\n scheme = \"http\"\n }\n}", askedFor{target: "/x"}, 200, "/m?"},
		{"one of a not is enough", "rewrite \"\" {\n to = \"/m\"\n not {\n methods = \"POST\"\n scheme = \"http\"\n }\n}", askedFor{target: "/x"}, 200, "/x?"},
		{"an encoded question mark begins no query", "rewrite \"^/user/(.+)$\" {\n to = \"/var/{1}.php\"\n}", askedFor{target: "/user/x.php%3Fa"}, 200, "/var/x.php?a.php?"},
		{"dots that a rewrite puts together are refused", "rewrite \"^/d/(.*)$\" {\n to = \"/e/.{1}\"\n}", askedFor{target: "/d/./.x"}, 200, "/e/..x?"},
		{"a header leads out of no folder", "rewrite \"\" {\n to = \"/e/{header.X}/f\"\n}", askedFor{target: "/d", header: http.Header{"X": {"../.."}}}, 400, "400 Bad Request"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			resp := visitAs(routed(t, echoing(row.words), files), row.askedFor)
			got := bodyOf(t, resp)
			if to := resp.Header.Get("Location"); to != "" {
				got = to
			}
			if resp.StatusCode != row.status || got != row.want {
				t.Errorf("%s %s = %d %q, want %d %q", row.askedFor.method, row.askedFor.target, resp.StatusCode, got, row.status, row.want)
			}
		})
	}
}

// A circle is told in the log, with all its rounds.
func TestRewriteCircleIsLogged(t *testing.T) {
	s := routed(t, echoing("rewrite \"^/(a*)$\" {\n to = \"/a{1}\"\n then = \"restart\"\n}"), nil)
	core, logs := observer.New(zapcore.ErrorLevel)
	s.log, s.applications.log = zap.New(core).Sugar(), zap.New(core).Sugar()
	visitAs(s, askedFor{target: "/"})
	if all := logs.All(); len(all) != 1 || !strings.Contains(all[0].ContextMap()["error"].(string), "/ -> /a? -> /aa? -> /aaa?") {
		t.Errorf("logged %+v, want one line with the rounds", all)
	}
}

// What depends on who asks is not kept for those who ask next.
func TestRewrittenFilesAreNotHot(t *testing.T) {
	s := routed(t, `
site "a.example" {
  listen = [":80"]
  root   = "{root}"
  rewrite "^/x.txt" {
    to = "/y.txt"
    when {
      cookie = { beta = "1" }
    }
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`, map[string]string{"x.txt": "old", "y.txt": "new"})
	for range 3 {
		visitAs(s, askedFor{target: "/x.txt"})
		if got := bodyOf(t, visitAs(s, askedFor{target: "/x.txt", header: http.Header{"Cookie": {"beta=1"}}})); got != "new" {
			t.Errorf("with the cookie %q, want %q", got, "new")
		}
	}
	if n := s.Cache().Entries; n != 0 {
		t.Errorf("%d files are hot, want none", n)
	}
}
