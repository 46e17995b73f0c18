package routes

import (
	"strings"
	"testing"
)

func TestRouteBelow(t *testing.T) {
	rows := []struct {
		name, pattern, path, want string
		ok                        bool
	}{
		{"a file", "/img/*", "/img/a/b.png", "/a/b.png", true},
		{"the folder", "/img/*", "/img/", "/", true},
		{"the folder without its slash", "/img/*", "/img", "/", true},
		{"a neighbour", "/img/*", "/imgs/a", "", false},
		{"a path of elsewhere", "/img/*", "/index.php", "", false},
		{"a folder above", "/a/b/*", "/a/", "", false},
		{"a folder of several names", "/a/b/*", "/a/b/c", "/c", true},
		{"the same name again", "/img/*", "/img/img/a", "/img/a", true},
		{"a suffix below a folder", "/pma/*.php", "/pma/x/y.php", "/x/y.php", true},
		{"a folder with a space", "/a b/*", "/a b/c", "/c", true},
		{"a pattern without a folder", "/*", "/a", "/a", true},
		{"a suffix without a folder", "*.php", "/a.php", "/a.php", true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := Route{Pattern: patternOf(t, row.pattern), StripPrefix: true}
			if got, ok := r.Below(row.path); got != row.want || ok != row.ok {
				t.Errorf("%s: Below(%q) = %q, %t; want %q, %t", row.pattern, row.path, got, ok, row.want, row.ok)
			}
			r.StripPrefix = false
			if got, ok := r.Below(row.path); got != row.path || !ok || r.Cut() != "" {
				t.Errorf("%s, without strip_prefix: Below(%q) = %q, %t", row.pattern, row.path, got, ok)
			}
		})
	}
}

func patternOf(t testing.TB, text string) Pattern {
	t.Helper()
	p, reason := parsePattern(text)
	if reason != "" {
		t.Fatalf("parsePattern(%q): %s", text, reason)
	}
	return p
}

func TestRouteBelowEscaped(t *testing.T) {
	rows := []struct{ name, pattern, escaped, want string }{
		{"the client's spelling stays", "/app/*", "/app/%61%20b", "/%61%20b"},
		{"a folder that is spelled otherwise", "/app/*", "/%61p%70/x", "/x"},
		{"escapes of several bytes", "/ä b/*", "/%C3%A4%20b/x", "/x"},
		{"the folder", "/app/*", "/app/", "/"},
		{"the folder without its slash", "/app/*", "/app", "/"},
		{"an encoded slash behind the folder", "/app/*", "/app%2Fx%2Fy", "/x%2Fy"},
		{"nothing behind it", "/app/*", "/app%2F", "/"},
		{"an encoded slash in the folder", "/a/b/*", "/a%2fb/c", "/c"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := Route{Pattern: patternOf(t, row.pattern), StripPrefix: true}
			if got := r.BelowEscaped(row.escaped); got != row.want {
				t.Errorf("%s: BelowEscaped(%q) = %q, want %q", row.pattern, row.escaped, got, row.want)
			}
		})
	}
}

// FuzzRouteBelow: what is left of a clean path is one, below the root, and both spellings of it are the same path.
func FuzzRouteBelow(f *testing.F) {
	for _, raw := range []string{"/img/a", "/img", "/img//a", "/img/../b", "/img/%2e%2e/b", "/im%67/a%20b", "/img/./a", "/img%2Fa", "/imgx", "/img/..a"} {
		f.Add(raw)
	}
	site := Site{EncodedSlashes: true}
	r := Route{Pattern: Pattern{Kind: Prefix, Text: "/img/"}, StripPrefix: true}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := site.CleanPath(raw)
		if err != nil {
			return
		}
		below, ok := r.Below(path)
		if _, matches := r.match(path, nil); ok != matches {
			t.Errorf("Below(%q) = %q, %t, and the route matches: %t", path, below, ok, matches)
		}
		if !ok {
			if below != "" {
				t.Errorf("Below(%q) = %q for a path that is not below", path, below)
			}
			return
		}
		again, err := CleanPath(strings.ReplaceAll(below, "%", "%25"))
		if err != nil || again != below || path != "/img"+below && path != "/img" {
			t.Errorf("Below(%q) = %q, which is %q, %v when cleaned", path, below, again, err)
		}
		if decoded, _, err := unescape(raw); err != nil || decoded != path {
			return // the server gets the clean path, and not the client's spelling
		}
		escaped := r.BelowEscaped(raw)
		if decoded, err := site.CleanPath(escaped); err != nil || decoded != below || escaped[0] != '/' {
			t.Errorf("BelowEscaped(%q) = %q, which is %q, %v; want %q", raw, escaped, decoded, err, below)
		}
	})
}

func TestMatchOfFolder(t *testing.T) {
	s := matchSite(t, []string{"/img/*"}, []string{"/pma/*.php"}, []string{"/*"})
	s.Routes[0].StripPrefix, s.Routes[1].StripPrefix = true, true
	for path, want := range map[string]int{"/img": 0, "/img/": 0, "/img/a": 0, "/imgs": 2, "/im": 2, "/pma": 2, "/pma/": 2, "/pma/a.php": 1} {
		if m, ok := s.Match("GET", path, nil); !ok || m.Route != &s.Routes[want] {
			t.Errorf("Match(%q) is not of route %d", path, want)
		}
	}
}
