package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"gateway/routes"
)

func TestReverseURL(t *testing.T) {
	plain, based := routes.Upstream{Network: "tcp", Address: "10.0.0.5:80"}, routes.Upstream{Network: "tcp", Address: "app.internal:8443", Base: "/shop", TLS: true}
	named := routes.Upstream{Network: "unix", Address: "/run/app.sock", Host: "app.internal"}
	for _, row := range []struct {
		name     string
		to       routes.Upstream
		https    bool
		location string
		want     string
	}{
		{"a path stays", plain, false, "/login?next=/a", "/login?next=/a"},
		{"so does a relative one", plain, false, "login", "login"},
		{"of a query alone", plain, false, "?page=2", "?page=2"},
		{"of a fragment alone", plain, false, "#top", "#top"},
		{"the server's own URL becomes the client's", plain, false, "http://10.0.0.5/login?a#b", "http://legacy.example/login?a#b"},
		{"also with its port", plain, false, "http://10.0.0.5:80/login", "http://legacy.example/login"},
		{"and without a path", plain, false, "http://10.0.0.5", "http://legacy.example/"},
		{"by the client's scheme", plain, true, "HTTP://10.0.0.5/login", "https://legacy.example/login"},
		{"of no scheme", plain, true, "//10.0.0.5/login", "https://legacy.example/login"},
		{"another port is another server", plain, false, "http://10.0.0.5:81/", "http://10.0.0.5:81/"},
		{"so is another scheme", plain, false, "https://10.0.0.5/", "https://10.0.0.5/"},
		{"and another host", plain, false, "https://login.example/", "https://login.example/"},
		{"that only begins like it", plain, false, "http://10.0.0.5.evil.example/", "http://10.0.0.5.evil.example/"},
		{"or has it as a user", plain, false, "http://10.0.0.5@evil.example/", "http://10.0.0.5@evil.example/"},
		{"the base is cut off a path", based, false, "/shop/cart?a", "/cart?a"},
		{"of which nothing may be left", based, false, "/shop", "/"},
		{"but a query", based, false, "/shop?a", "/?a"},
		{"a path that only begins like it stays", based, false, "/shopping", "/shopping"},
		{"so does one elsewhere", based, false, "/login", "/login"},
		{"the base is cut off the server's own URL", based, false, "https://app.internal:8443/shop/cart", "http://legacy.example/cart"},
		{"the server's own URL elsewhere stays", based, false, "https://app.internal:8443/login", "https://app.internal:8443/login"},
		{"the base is cut off the URL that the client knows", based, false, "https://legacy.example/shop/cart", "https://legacy.example/cart"},
		{"what is left names no other host", based, false, "/shop//evil.example/", "http://legacy.example//evil.example/"},
		{"in the words of browsers neither", based, false, `/shop/\evil.example/`, `http://legacy.example/\evil.example/`},
		{"what the server was asked for becomes the client's", named, true, "http://app.internal/login", "https://legacy.example/login"},
		{"a server behind a socket may call itself localhost", routes.Upstream{Network: "unix", Address: "/run/app.sock"}, false, "http://localhost/login", "http://legacy.example/login"},
		{"what is no URL of HTTP stays", named, true, "mailto:app.internal", "mailto:app.internal"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := reversing(row.to, row.https)
			if got := c.reverseURL(row.location); got != row.want {
				t.Errorf("reverseURL(%q) = %q, want %q", row.location, got, row.want)
			}
		})
	}
}

func reversing(to routes.Upstream, https bool) *call {
	r := httptest.NewRequest("GET", "http://legacy.example/", nil)
	return &call{r: r, x: &exchange{https: https}, server: &upstream{Upstream: to, base: to.Base}}
}

func TestReverseCookie(t *testing.T) {
	to := routes.Upstream{Network: "tcp", Address: "app.internal:80", Base: "/shop"}
	for _, row := range []struct{ name, cookie, want string }{
		{"a cookie without attributes stays", "a=b", "a=b"},
		{"one of everything below the server's path", "a=b; Path=/shop; HttpOnly", "a=b; Path=/; HttpOnly"},
		{"one of a part of it", "a=b;path=/shop/cart;Secure", "a=b; Path=/cart;Secure"},
		{"one of elsewhere", "a=b; Path=/; Secure", "a=b; Path=/; Secure"},
		{"the server's domain is not the client's", "a=b; Domain=.APP.internal; Secure", "a=b; Secure"},
		{"others' domains stay", "a=b; domain=legacy.example", "a=b; domain=legacy.example"},
		{"the value is nothing to read", `a="Path=/shop"; Expires=Thu, 01 Jan 1970 00:00:00 GMT`, `a="Path=/shop"; Expires=Thu, 01 Jan 1970 00:00:00 GMT`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := reversing(to, false).reverseCookie(row.cookie); got != row.want {
				t.Errorf("reverseCookie(%q) = %q, want %q", row.cookie, got, row.want)
			}
		})
	}
}

// TestProxyHost: which host a server is asked for, and that its answers lead back.
func TestProxyHost(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/login")
		w.Header().Set("Set-Cookie", "a=b; Domain="+hostname(r.Host))
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, r.Host)
	}))
	defer server.Close()
	for _, row := range []struct{ host, want, cookie string }{
		{"", "legacy.example", "a=b; Domain=legacy.example"},
		{"app.internal:8080", "app.internal:8080", "a=b"},
	} {
		to := serverOf(server)
		to.Host = row.host
		g := newProxyGate(t, routes.Pool{}, to)
		r := g.request(t, "GET", "/", nil)
		r.Host = "legacy.example"
		resp, body, err := g.ask(t, r)
		if err != nil || body != row.want || resp.Header.Get("Location") != "http://legacy.example/login" || resp.Header.Get("Set-Cookie") != row.cookie {
			t.Errorf("with host %q: asked for %q, %v, and the client gets %q", row.host, body, err, resp.Header)
		}
	}
}

// TestHostOfNobody: of a client that names no host the server hears the site's, and no star.
func TestHostOfNobody(t *testing.T) {
	for _, row := range []struct{ name, host, want string }{
		{"example.com", "", "example.com"},
		{"*.example.com", "", "example.com"},
		{"*.example.com", "a.example.com:8080", "a.example.com:8080"},
	} {
		c := asked()
		c.r.Host, c.x.site = row.host, &routes.Site{Names: []string{row.name}}
		if got := c.host(); got != row.want {
			t.Errorf("a request for %q at the site %s: the host is %q, want %q", row.host, row.name, got, row.want)
		}
	}
}
