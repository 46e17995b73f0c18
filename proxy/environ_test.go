package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"gateway/routes"
)

// variables asks for the variables of a request as a map; twice is a name that came twice.
func variables(e environment) (vars map[string]string, twice string) {
	vars = map[string]string{}
	for _, p := range e {
		if _, ok := vars[p.Name]; ok {
			twice = p.Name
		}
		vars[p.Name] = p.Value
	}
	return vars, twice
}

func environmentOf(r *http.Request, x *exchange, p program, bodyLen int64) (e environment) {
	e.fill(r, x, p, bodyLen)
	return e
}

func TestEnviron(t *testing.T) {
	absent := "\x00"
	exchangeOn := func(change func(*exchange)) *exchange {
		x := &exchange{
			local: netip.MustParseAddrPort("[::ffff:192.0.2.1]:8080"), remote: netip.MustParseAddrPort("[2001:db8::1]:5000"),
			site: &routes.Site{Names: []string{"*.example.com"}}, routeState: routeState{route: &routes.Route{Root: "/srv/www"}},
		}
		change(x)
		return x
	}
	same := func(*exchange) {}
	rows := []struct {
		name    string
		request func(*http.Request)
		change  func(*exchange)
		program program
		bodyLen int64
		want    map[string]string
	}{
		{"a plain request", func(*http.Request) {}, same, program{name: "/a.php", file: "/srv/www/a.php"}, 0, map[string]string{
			"SCRIPT_NAME": "/a.php", "SCRIPT_FILENAME": "/srv/www/a.php", "DOCUMENT_ROOT": "/srv/www", "PATH_INFO": absent, "PATH_TRANSLATED": absent,
			"QUERY_STRING": "", "CONTENT_LENGTH": absent, "CONTENT_TYPE": absent, "HTTPS": absent, "SSL_PROTOCOL": absent, "SERVER_PORT": "8080",
			"SERVER_ADDR": "192.0.2.1", "REMOTE_ADDR": "2001:db8::1", "REMOTE_PORT": "5000", "SERVER_NAME": "h.example", "HTTP_HOST": "h.example",
			"REDIRECT_STATUS": "200", "REDIRECT_URL": absent,
		}},
		{"PATH_INFO of a CGI script", func(*http.Request) {}, same, program{info: "/i", translated: "/srv/www/i"}, 0,
			map[string]string{"PATH_INFO": "/i", "PATH_TRANSLATED": "/srv/www/i"}},
		{"a request that was rewritten", func(r *http.Request) { r.URL.RawQuery = "page=1" }, func(x *exchange) { x.internal, x.came = true, "/a b" }, program{}, 0,
			map[string]string{"REDIRECT_STATUS": "200", "REDIRECT_URL": "/a b", "REDIRECT_QUERY_STRING": "page=1", "REDIRECT_REQUEST_METHOD": absent}},
		{"likewise with a PATH_INFO, which PHP would give up", func(*http.Request) {}, func(x *exchange) { x.internal, x.came = true, "/a" }, program{info: "/a"}, 0,
			map[string]string{"REDIRECT_STATUS": "200", "REDIRECT_URL": absent, "PATH_INFO": "/a"}},
		{"the page for an error", func(*http.Request) {}, func(x *exchange) {
			x.internal, x.failed, x.failure = true, 404, &http.Request{Method: "POST", URL: &url.URL{Path: "/a b", RawQuery: "x=1"}}
		}, program{}, 0, map[string]string{"REDIRECT_STATUS": "404", "REDIRECT_URL": "/a b", "REDIRECT_QUERY_STRING": "x=1", "REDIRECT_REQUEST_METHOD": "POST"}},
		{"likewise with a PATH_INFO", func(*http.Request) {}, func(x *exchange) {
			x.internal, x.failed, x.failure = true, 403, &http.Request{Method: "GET", URL: &url.URL{Path: "/a"}}
		}, program{info: "/error/403"}, 0, map[string]string{"REDIRECT_STATUS": "403", "REDIRECT_URL": absent, "PATH_INFO": "/error/403"}},
		{"variables of the route win", func(*http.Request) {}, same, program{env: map[string]string{"SERVER_SOFTWARE": "x", "A": "b"}}, 0,
			map[string]string{"SERVER_SOFTWARE": "x", "A": "b"}},
		{"TLS", func(*http.Request) {}, func(x *exchange) {
			x.secure, x.https, x.tls = true, true, tlsFacts{protocol: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256"}
		}, program{}, 0,
			map[string]string{"HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": "TLS_AES_128_GCM_SHA256", "REQUEST_SCHEME": "https"}},
		{"a client's certificate", func(r *http.Request) {
			r.Header["Ssl-Client-Verify"], r.Header["SSL_CLIENT_VERIFY"] = []string{"SUCCESS"}, []string{"SUCCESS"}
		}, func(x *exchange) {
			x.secure, x.tls = true, tlsFacts{client: map[string]string{"SSL_CLIENT_VERIFY": "NONE", "SSL_CLIENT_CERT": "a\nb\n"}}
		}, program{}, 0, map[string]string{"SSL_CLIENT_VERIFY": "NONE", "SSL_CLIENT_CERT": "a\nb\n", "HTTP_SSL_CLIENT_VERIFY": "SUCCESS"}},
		{"a header cannot speak for a certificate", func(r *http.Request) { r.Header["Ssl-Client-Verify"] = []string{"SUCCESS"} }, same, program{}, 0,
			map[string]string{"SSL_CLIENT_VERIFY": absent, "HTTP_SSL_CLIENT_VERIFY": "SUCCESS"}},
		{"a unix socket", func(*http.Request) {}, func(x *exchange) { x.local, x.remote = netip.AddrPort{}, netip.AddrPort{} }, program{}, 0,
			map[string]string{"SERVER_ADDR": absent, "REMOTE_ADDR": "unix:", "REMOTE_PORT": absent, "SERVER_PORT": "80"}},
		{"a client of a trusted proxy", func(*http.Request) {}, func(x *exchange) { x.https, x.remote = true, netip.MustParseAddrPort("192.0.2.1:0") }, program{}, 0,
			map[string]string{"HTTPS": "on", "REQUEST_SCHEME": "https", "REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": absent, "SSL_PROTOCOL": absent}},
		{"a unix socket with TLS", func(*http.Request) {}, func(x *exchange) { x.secure, x.https, x.local = true, true, netip.AddrPort{} }, program{}, 0,
			map[string]string{"SERVER_PORT": "443"}},
		{"no Host", func(r *http.Request) { r.Host = "" }, same, program{}, 0, map[string]string{"SERVER_NAME": "example.com", "HTTP_HOST": absent}},
		{"a Host with a port", func(r *http.Request) { r.Host = "h:81" }, same, program{}, 0, map[string]string{"SERVER_NAME": "h", "HTTP_HOST": "h:81", "SERVER_PORT": "8080"}},
		{"an IPv6 Host", func(r *http.Request) { r.Host = "[::1]:81" }, same, program{}, 0, map[string]string{"SERVER_NAME": "[::1]"}},
		{"a target with dots", func(r *http.Request) { r.RequestURI = "/x/../p" }, func(x *exchange) { x.resolved = "/p" }, program{}, 0, map[string]string{"REQUEST_URI": "/p"}},
		{"an absolute target", func(r *http.Request) { r.RequestURI = "http://h.example/p?q" }, same, program{}, 0, map[string]string{"REQUEST_URI": "/p?q"}},
		{"a body", func(r *http.Request) { r.Header.Set("Content-Type", "a/b") }, same, program{}, 7, map[string]string{
			"CONTENT_LENGTH": "7", "CONTENT_TYPE": "a/b", "HTTP_CONTENT_TYPE": absent, "HTTP_CONTENT_LENGTH": absent}},
		{"an empty chunked body", func(r *http.Request) { r.ContentLength = -1 }, same, program{}, 0, map[string]string{"CONTENT_LENGTH": "0"}},
		{"fields that come twice", func(r *http.Request) {
			r.Header["X-A"], r.Header["Cookie"] = []string{"1", "2"}, []string{"a=1", "b=2"}
		}, same, program{}, 0, map[string]string{"HTTP_X_A": "1, 2", "HTTP_COOKIE": "a=1; b=2"}},
		{"names that collide", func(r *http.Request) {
			r.Header["X_Real_User"], r.Header["X.Real.User"], r.Header["x-real-user"], r.Header["X-Real-User"] = []string{"u"}, []string{"d"}, []string{"l"}, []string{"right"}
		}, same, program{}, 0, map[string]string{"HTTP_X_REAL_USER": "right"}},
		{"httpoxy", func(r *http.Request) { r.Header["Proxy"] = []string{"http://192.0.2.9"} }, same, program{}, 0, map[string]string{"HTTP_PROXY": absent}},
		{"variables as fields", func(r *http.Request) {
			r.Header["Remote-Addr"], r.Header["Https"] = []string{"6.6.6.6"}, []string{"on"}
		}, same, program{}, 0, map[string]string{"REMOTE_ADDR": "2001:db8::1", "HTTP_REMOTE_ADDR": "6.6.6.6", "HTTPS": absent, "HTTP_HTTPS": "on"}},
		{"credentials", func(r *http.Request) { r.Header.Set("Authorization", "Basic x") }, same, program{}, 0, map[string]string{"HTTP_AUTHORIZATION": "Basic x"}},
		{"fields of the connection", func(r *http.Request) {
			r.Header.Set("Connection", "close")
			r.Header.Set("Transfer-Encoding", "chunked")
		}, same, program{}, 0, map[string]string{"HTTP_CONNECTION": "close", "HTTP_TRANSFER_ENCODING": absent}},
		{"bytes that end a variable", func(r *http.Request) {
			r.Header["X-A"], r.Header["X-B"], r.Header["X-C"] = []string{"a\nB=c"}, []string{"a\x00"}, []string{"a", "b\r"}
		}, same, program{}, 0, map[string]string{"HTTP_X_A": absent, "HTTP_X_B": absent, "HTTP_X_C": absent}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "http://h.example/p?", nil)
			r.RequestURI = "/p?"
			row.request(r)
			got, twice := variables(environmentOf(r, exchangeOn(row.change), row.program, row.bodyLen))
			if twice != "" {
				t.Errorf("%s came twice", twice)
			}
			for name, want := range row.want {
				value, ok := got[name]
				if want == absent && ok {
					t.Errorf("%s = %q, want none", name, value)
				}
				if want != absent && (!ok || value != want) {
					t.Errorf("%s = %q, %t; want %q", name, value, ok, want)
				}
			}
		})
	}
}

// TestVariableNames: the list of common names says the same as the rule.
func TestVariableNames(t *testing.T) {
	for _, name := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Connection", "Cookie", "If-Modified-Since", "If-None-Match",
		"Origin", "Referer", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Upgrade-Insecure-Requests", "User-Agent", "X-Forwarded-For",
		"X-Forwarded-Proto", "X-Requested-With", "X-Other", "A", "X--A", "X-1a", "-",
	} {
		got, ok := variableOf(name)
		want, wantOK := makeVariable(name)
		if got != want || ok != wantOK || !ok {
			t.Errorf("variableOf(%q) = %q, %t; want %q, true", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "x-a", "X-a", "XA", "X_a", "X.a", "X a", "X-É", "X=A", "X\x00"} {
		if got, ok := variableOf(name); ok {
			t.Errorf("variableOf(%q) = %q, true; want false", name, got)
		}
	}
}

func FuzzEnviron(f *testing.F) {
	f.Add("X-Real-User", "a", "x_real_user", "b", "Proxy", "c")
	f.Add("Proxy", "a", "pROXY", "b", "HOST", "c")
	f.Add("Content-Type", "a", "Content_Type", "b", "CONTENT-LENGTH", "9")
	f.Add("X-A", "a\nHTTP_PROXY=b", "X-B", "a\x00b", "-", "")
	f.Add("Cookie", "a=1", "Cookie", "b=2", "Transfer-Encoding", "chunked")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, n3, v3 string) {
		r := httptest.NewRequest("GET", "/", nil)
		for _, h := range [...][2]string{{n1, v1}, {n2, v2}, {n3, v3}} {
			r.Header.Add(h[0], h[1])
			r.Header[h[0]] = append(r.Header[h[0]], h[1]) // as it is
		}
		x := &exchange{site: &routes.Site{Names: []string{"a"}}, routeState: routeState{route: &routes.Route{}}}
		vars, twice := variables(environmentOf(r, x, program{}, 0))
		if twice != "" {
			t.Errorf("%s came twice", twice)
		}
		if value, ok := vars["HTTP_PROXY"]; ok {
			t.Errorf("HTTP_PROXY = %q", value)
		}
		for name, value := range vars {
			if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
				t.Errorf("a variable is named %q", name)
			}
			if strings.ContainsAny(value, "\x00\r\n") {
				t.Errorf("%s = %q", name, value)
			}
		}
	})
}

func BenchmarkEnviron(b *testing.B) {
	r := httptest.NewRequest("GET", "/index.php?a=b", nil)
	for _, name := range []string{"Accept", "Accept-Encoding", "Accept-Language", "Cookie", "User-Agent", "Sec-Fetch-Mode", "Referer"} {
		r.Header.Set(name, "some value of a browser")
	}
	x := &exchange{
		local: netip.MustParseAddrPort("192.0.2.1:80"), remote: netip.MustParseAddrPort("198.51.100.7:5000"),
		site: &routes.Site{Names: []string{"a"}}, routeState: routeState{route: &routes.Route{Root: "/srv/www"}},
	}
	b.ReportAllocs()
	var e environment
	for b.Loop() {
		e = e[:0]
		e.fill(r, x, program{name: "/index.php", file: "/srv/www/index.php"}, 0)
	}
}
