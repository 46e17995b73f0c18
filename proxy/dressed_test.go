package proxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHeaders(t *testing.T) {
	s := routed(t, `
site "a.example" {
  listen = [":80"]
  root   = "{root}"
  header {
    set = { X-Frame-Options = "DENY", X-Path = "{path}", X-Asked = "{header.X-Ask}" }
  }
  header {
    set    = { X-Always = "1" }
    remove = ["server"]
    always = true
  }
  route "/r/*" {
    pool = "edge"
    header {
      set    = { X-Frame-Options = "SAMEORIGIN" }
      add    = { Set-Cookie = "b=2" }
      remove = ["Content-Type"]
    }
    respond { body = "x" }
  }
  route "/f/*" {
    pool = "edge"
    static { cache_control = "no-store" }
  }
  route "/app" {
    pool = "edge"
    proxy { to = ["`+naming(t)+`"] }
  }
}
`, map[string]string{"f/a.txt": "file"})
	rows := []struct {
		name, target string
		status       int
		want         map[string]string // "": it is not there
	}{
		{"a site's fields are on a response", "/f/a.txt", 200, map[string]string{"X-Frame-Options": "DENY", "X-Always": "1", "Server": "", "X-Path": "/f/a.txt", "Cache-Control": "no-store"}},
		{"a route's come behind", "/r/a", 200, map[string]string{"X-Frame-Options": "SAMEORIGIN", "Set-Cookie": "b=2", "Content-Type": ""}},
		{"an error has what is set always", "/f/none", 404, map[string]string{"X-Frame-Options": "", "X-Always": "1"}},
		{"what an application answers is changed, errors, too", "/app?h=Status:+404", 404, map[string]string{"X-Frame-Options": "DENY", "X-Always": "1"}},
		{"so has a request for which there is no route", "/none", 404, map[string]string{"X-Always": "1"}},
		{"a path's quote stays within", "/r/a%22b", 200, map[string]string{"X-Path": "/r/a%22b"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			resp := visitAs(s, askedFor{target: row.target})
			if resp.StatusCode != row.status {
				t.Errorf("GET %s = %d, want %d", row.target, resp.StatusCode, row.status)
			}
			for name, want := range row.want {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("GET %s: %s is %q, want %q", row.target, name, got, want)
				}
			}
		})
	}
}

// TestInterceptedErrors: a page may stand in place of what an application says of an error.
func TestInterceptedErrors(t *testing.T) {
	s := routed(t, strings.ReplaceAll(`
site "a.example" {
  listen = [":80"]
  root   = "{root}"
  error_page "4xx" "5xx" {
    path      = "/page.html"
    intercept = true
  }
  error_page "409" {
    path = "/page.html"
  }
  error_page "502" {
    path      = "/app?h=Status:+{status}"
    intercept = true
  }
  error_page "504" {
    path      = "/down/"
    intercept = true
  }
  route "/app" {
    pool = "edge"
    proxy { to = ["{server}"] }
  }
  route "/down/*" {
    pool = "edge"
    error_page "502" {
      path      = "/down/again"
      intercept = true
    }
    proxy { to = ["http://127.0.0.1:1"] }
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`, "{server}", naming(t)), map[string]string{"page.html": "page"})
	checkAnswers(t, s, []reaction{
		{"success is the application's", askedFor{target: "/app?h=Status:+201"}, 201, "GET /app", nil},
		{"an error has the page, with its status", askedFor{target: "/app?h=Status:+404&h=Content-Type:+a/b&h=X-Other:+1&h=Set-Cookie:+a=1"}, 404, "page", map[string]string{"Content-Type": "text/html; charset=utf-8", "X-Other": "", "Set-Cookie": "a=1"}},
		{"how to go on is kept", askedFor{target: "/app?h=Status:+401&h=Www-Authenticate:+Basic"}, 401, "page", map[string]string{"Www-Authenticate": "Basic"}},
		{"a POST, too", askedFor{method: "POST", body: "x", target: "/app?h=Status:+500"}, 500, "page", nil},
		{"HEAD has the page's head", askedFor{method: "HEAD", target: "/app?h=Status:+500"}, 500, "", map[string]string{"Content-Length": "4"}},
		{"a page without the word leaves the application's", askedFor{target: "/app?h=Status:+409"}, 409, "GET /app", nil},
		{"a page that is an error itself is the last one", askedFor{target: "/app?h=Status:+502"}, 502, "GET /app?h=Status:+502", nil},
		{"a page of servers that are down leaves a text", askedFor{target: "/down/x"}, 502, "502 Bad Gateway", nil},
		{"so does one for an application's error", askedFor{target: "/app?h=Status:+504"}, 504, "504 Gateway Timeout", nil},
	})
}

// seen is an HTTP server that tells what it was asked.
func seen(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s\n", r.Method, r.RequestURI)
		r.Header.Write(w)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestRequestHeaders(t *testing.T) {
	s := routed(t, `
site "a.example" {
  listen = [":80"]
  request_header {
    set    = { X-Real-Ip = "{remote_ip}", X-Split = "{header.X-Evil}" }
    add    = { X-List = "2" }
    remove = ["X-Secret"]
  }
  route "/*" {
    pool = "edge"
    proxy { to = ["`+seen(t)+`"] }
  }
}
`, nil)
	header := http.Header{"X-Real-Ip": {"6.6.6.6"}, "X-List": {"1"}, "X-Secret": {"s"}, "X-Evil": {"a"},
		"X-Mine": {"m"}, "Connection": {"keep-alive, x-real-ip", "X-Split,X-Mine"}} // CVE-2022-31813: the gateway's own fields are not the connection's
	got := bodyOf(t, visitAs(s, askedFor{target: "/a?b", header: header}))
	for _, want := range []string{"GET /a?b", "X-Real-Ip: 192.0.2.1\r", "X-List: 1\r\nX-List: 2\r", "X-Split: a\r"} {
		if !strings.Contains(got, want) {
			t.Errorf("the server got %q, which lacks %q", got, want)
		}
	}
	if strings.Contains(got, "Secret") || strings.Contains(got, "X-Mine") || strings.Contains(got, "6.6.6.6") {
		t.Errorf("the server got %q", got)
	}
	if header.Get("X-Real-Ip") != "6.6.6.6" {
		t.Error("the client's header was changed")
	}
}

func TestErrorPages(t *testing.T) {
	s := routed(t, `
site "a.example" {
  listen = [":80"]
  root   = "{root}"
  error_page "4xx" {
    path = "/errors/{status}.html"
  }
  error_page "405" "500" {
    path = "/told?s={status}"
  }
  error_page "410" {
    path = "/gone-too"
  }
  rewrite "^/gone" {
    status = 410
  }
  rewrite "^/turn" {
    to   = "/turn{path}"
    then = "restart"
  }
  route "/small" {
    pool             = "edge"
    max_request_body = 4
    respond {}
  }
  route "/told" {
    pool = "edge"
    proxy { to = ["`+seen(t)+`"] }
  }
  route "/down/*" {
    pool = "edge"
    error_page "502" {
      path = "/errors/404.html"
    }
    proxy { to = ["http://127.0.0.1:1"] }
  }
  route "/own" {
    pool = "edge"
    error_page "418" {
      path = "/errors/404.html"
    }
    respond {
      status = 418
      body   = "own"
    }
  }
  route "/*" {
    pool = "edge"
    static { cache_control = "immutable" }
  }
}
`, map[string]string{"errors/404.html": "not there", "errors/403.html/x": "a folder", "errors/413.html": "too much"})
	rows := []struct {
		name   string
		asked  askedFor
		status int
		want   string // the body's beginning
	}{
		{"a page has the status of the error", askedFor{target: "/none"}, 404, "not there"},
		{"conditions and ranges don't concern it", askedFor{target: "/none", header: http.Header{"Range": {"bytes=0-1"}, "If-None-Match": {"*"}}}, 404, "not there"},
		{"a page is asked for with GET", askedFor{target: "/small", method: "POST", body: "too long"}, 413, "too much"},
		{"a page may be an application's", askedFor{method: "POST", target: "/errors/404.html"}, 405, "GET /told?s=405"},
		{"a page that is not there leaves a text", askedFor{target: "/a%00"}, 400, "400 Bad Request"},
		{"a page that fails otherwise leaves the first status", askedFor{target: "/errors/"}, 403, "403 Forbidden"},
		{"rewrites don't concern a page", askedFor{target: "/gone"}, 410, "410 Gone"},
		{"a circle has a page", askedFor{target: "/turn"}, 500, "GET /told?s=500"},
		{"a route has pages of its own", askedFor{target: "/down/x"}, 502, "not there"},
		{"an answer that is meant is no error", askedFor{target: "/own"}, 418, "own"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			for range 2 {
				resp := visitAs(s, row.asked)
				if got := bodyOf(t, resp); resp.StatusCode != row.status || !strings.HasPrefix(got, row.want) {
					t.Errorf("%s %s = %d %q, want %d %q", row.asked.method, row.asked.target, resp.StatusCode, got, row.status, row.want)
				}
			}
		})
	}
	if h := visitAs(s, askedFor{target: "/none"}).Header; h.Get("Cache-Control")+h.Get("Etag")+h.Get("Last-Modified") != "" {
		t.Errorf("a page can be kept: %v", h)
	}
	if resp := visitAs(s, askedFor{method: "POST", target: "/errors/404.html"}); resp.Header.Get("Allow") != staticMethods {
		t.Errorf("with a page 405 allows %q, want %q", resp.Header.Get("Allow"), staticMethods)
	}
	if n := s.Cache().Entries; n != 0 {
		t.Errorf("%d pages are hot, want none: they would be 200", n)
	}
}
