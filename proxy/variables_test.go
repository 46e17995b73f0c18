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

// literal is a template without variables.
func literal(text string) routes.Template { return routes.Template{{Text: text}} }

// hostile is a request whose every part says what it should not.
func hostile() *facts {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = "Shop.example:8080"
	r.RequestURI = "/a%3fb&c%22?q=1&r=//x"
	r.URL = &url.URL{Path: "/a%3fb&c%22", RawQuery: "q=1&r=//x"}
	r.Header.Set("X-Up", "../../etc")
	r.Header.Set("X-Markup", `<b a="1">&`)
	r.Header.Set("X-User", "@evil.example")
	r.Header.Set("Cookie", "name=..; id=7")
	x := &exchange{remote: netip.MustParseAddrPort("[::ffff:192.0.2.7]:1234")}
	return &facts{r: r, x: x, path: `/a?b&c"`, groups: groups{"1": {`x/y?z&"`, true}, "name": {"h/../i", false}, "slash": {"/evil.example", true}, "tail": {".evil.example", true}, "login": {"@evil.example/x", true}}}
}

func written(parts ...string) (t routes.Template) {
	for _, p := range parts {
		name, found := strings.CutPrefix(p, "$")
		switch key, isHeader := strings.CutPrefix(name, "header."); {
		case !found:
			t = append(t, routes.Part{Text: p})
		case isHeader:
			t = append(t, routes.Part{Name: "header", Key: key})
		case strings.HasPrefix(name, "cookie."):
			t = append(t, routes.Part{Name: "cookie", Key: name[len("cookie."):]})
		default:
			t = append(t, routes.Part{Name: name})
		}
	}
	return t
}

// What a client sends is never more than a value of what it stands in.
func TestVariablesKeepTheirPlace(t *testing.T) {
	v := hostile()
	location := v.location
	internal := func(t routes.Template) string {
		path, err := v.internalPath(t)
		if err != nil {
			return "error"
		}
		return path
	}
	rows := []struct{ name, got, want string }{
		{"a path in a URL is escaped", location(written("https://x", "$path"), nil), "https://x/a%3Fb&c%22"},
		{"a group in a URL is escaped", location(written("/", "$1"), nil), "/x/y%3Fz&%22"},
		{"a header in a URL is one segment", location(written("/", "$header.X-Up"), nil), "/..%2F..%2Fetc"},
		{"a group makes no other host", location(written("/", "$slash"), nil), "/evil.example"},
		{"a group behind a host begins its path, and no other host", location(written("https://new.example", "$tail", "/x"), nil), "https://new.example/.evil.example/x"},
		{"a group behind a host makes no user of it", location(written("https://new.example:80", "$login"), nil), "https://new.example:80/@evil.example/x"},
		{"nor does a header", location(written("https://", "$host", "$header.X-User"), nil), "https://Shop.example:8080/@evil.example"},
		{"a group that begins with a slash needs no other", location(written("https://new.example", "$slash"), nil), "https://new.example/evil.example"},
		{"a group within a host does not end it", location(written("https://a-", "$login", ".example/", "$tail"), nil), "https://a-%40evil.example%2Fx.example/.evil.example"},
		{"nor does one that begins it", location(written("https://", "$slash", ".example/"), nil), "https://%2Fevil.example.example/"},
		{"the host keeps its port in a URL", location(written("https://", "$host", "/"), nil), "https://Shop.example:8080/"},
		{"the target of a request stays as it was", location(written("https://x", "$uri"), nil), "https://x/a%3fb&c%22?q=1&r=//x"},
		{"a path in a query is one value", location(literal("/"), written("p=", "$path", "&x")), "/?p=/a%3Fb%26c%22&x"},
		{"the query in a query stays a list", location(literal("/"), written("$query", "&x=1")), "/?q=1&r=//x&x=1"},
		{"the query as a value is one value", location(literal("/"), written("q=", "$query")), "/?q=q%3D1%26r%3D//x"},
		{"the target as a value is one value", location(literal("/login"), written("to=", "$uri")), "/login?to=/a%253fb%26c%2522%3Fq%3D1%26r%3D//x"},
		{"a question mark in a path begins no query", internal(written("/new", "$path")), `/new/a?b&c"`},
		{"a group may lead into folders", internal(written("/d/", "$1")), `/d/x/y?z&"`},
		{"a host in a path has small letters and no port", internal(written("/sites/", "$host")), "/sites/shop.example"},
		{"a header with a slash is refused in a path", internal(written("/d/", "$header.X-Up")), "error"},
		{"a cookie that leads upwards is refused in a path", internal(written("/d/", "$cookie.name", "/x")), "error"},
		{"a cookie may be a name in a path", internal(written("/d/", "$cookie.id")), "/d/7"},
		{"a group of a header is refused with a slash", internal(written("/d/", "$name")), "error"},
		{"pieces that become dots are refused", internal(written("/d/.", "$slash")), "/d/./evil.example refused"},
		{"markup in an HTML body is text", v.body(written("<p>", "$header.X-Markup"), "text/html"), "<p>&lt;b a=&#34;1&#34;&gt;&amp;"},
		{"a quote in a JSON body is escaped", v.body(written(`{"p":"`, "$path", `"}`), "application/json"), `{"p":"/a?b\u0026c\""}`},
		{"a plain body has the value itself", v.body(written("$header.X-Markup"), "text/plain; charset=utf-8"), `<b a="1">&`},
		{"a path in a header ends no quoted string", v.field(written(`n="`, "$path", `"`)), `n="/a%3Fb&c%22"`},
		{"a mapped address is an IPv4 address", v.field(written("$remote_ip")), "192.0.2.7"},
		{"a group that did not match is empty", v.field(written("a", "$9")), "a"},
	}
	for _, row := range rows {
		want := row.want
		if strings.HasSuffix(want, "refused") {
			want = "error"
		}
		if row.got != want {
			t.Errorf("%s: got %q, want %q", row.name, row.got, want)
		}
	}
}

// FuzzVariables looks for bytes of a client that come out of a path, a header or a target as something else.
func FuzzVariables(f *testing.F) {
	f.Add("/a/b", "x", "a.example")
	f.Add("/%2e%2e/b?c", "../..", "b")
	f.Add("//evil.example", "a\r\nSet-Cookie: x", "c")
	f.Fuzz(func(t *testing.T, raw, header, cookie string) {
		path, err := routes.CleanPath(raw)
		if err != nil {
			t.Skip()
		}
		r := &http.Request{Method: "GET", URL: &url.URL{Path: raw}, RequestURI: raw, Host: "h", Header: http.Header{"X-A": {header}, "Cookie": {"c=" + cookie}}}
		v := &facts{r: r, x: &exchange{}, path: path, groups: groups{"1": {path, true}, "n": {header, false}}}
		all := written("/base/", "$1", "$header.X-A", "/", "$cookie.c", "$n")
		if p, err := v.internalPath(all); err == nil && (!strings.HasPrefix(p, "/base/") || hasDotSegment(p) || strings.ContainsAny(p, "\x00\r\n\\")) {
			t.Errorf("internal path %q", p)
		}
		to := v.location(written("/", "$1", "$header.X-A"), written("a=", "$1", "$header.X-A", "$cookie.c"))
		if u, err := url.Parse(to); err != nil || u.Host != "" || strings.ContainsAny(to, "\x00\r\n \"<>\\") || strings.ContainsAny(u.RawQuery, "&#?") {
			t.Errorf("location %q: %v", to, err)
		}
		for _, host := range []routes.Template{written("https://a.example", "$1"), written("https://a.example", "$header.X-A", "$1"), written("https://a.example:80", "$n")} {
			to := v.location(host, nil)
			if rest := strings.TrimPrefix(strings.TrimPrefix(to, "https://a.example"), ":80"); !strings.HasPrefix(rest, "/") {
				t.Errorf("location %q leads to another host", to)
			}
		}
	})
}
