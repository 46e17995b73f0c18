package proxy

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"

	"go.uber.org/zap"

	"gateway/routes"
)

// TestExplainNamesTheRewriteThatDecides: of all rewrites that a request meets, it is told which ones matched and what came of it.
func TestExplainNamesTheRewriteThatDecides(t *testing.T) {
	config, diags := routes.Parse("site.hcl", []byte(`
pool "edge" { mpm = "event" }
site "localhost" {
  listen = ["127.0.0.1:8080"]
  rewrite "^/media/" { then = "last" }
  rewrite "^/gone" { status = 410 }
  rewrite "^/old$" {
    to     = "/new"
    status = 301
  }
  rewrite "^/a$" { to = "/b" }
  route "/*" {
    pool = "edge"
    respond {}
  }
}`))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	s := NewServer(config, nil, zap.NewNop().Sugar())
	defer s.Close()
	for path, want := range map[string][]string{
		"/media/x": {`rewrite site.hcl:5: "^/media/" matches /media/x, then = "last"`},
		"/gone":    {`rewrite site.hcl:6: "^/gone" matches /gone, status = 410`, "answer: 410 Gone"},
		"/old":     {`rewrite site.hcl:7: "^/old$" matches /old, status = 301`, "  Location: /new"},
		"/a":       {"rewrite site.hcl:11: /b"},
	} {
		var told []string
		q := Question{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "localhost:8080", Path: path}, Header: http.Header{}, Remote: netip.MustParseAddr("127.0.0.1")}
		if err := s.Explain(config, q, func(text string) { told = append(told, text) }); err != nil {
			t.Fatal(err)
		}
		for _, line := range want {
			if !slices.Contains(told, line) {
				t.Errorf("%s: %q is not told in %q", path, line, told)
			}
		}
	}
}
