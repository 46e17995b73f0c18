package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"gateway/routes"
)

// listed makes a folder with all that a listing may meet.
func listed(t *testing.T) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "www")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sub", "b dir", ".git", "with-index"} {
		must(os.MkdirAll(filepath.Join(root, name), 0o755))
	}
	for i, name := range []string{"a.txt", "B.txt", `<b>&"'.txt`, "javascript:alert(1)", "50%.txt", "a?b#c.txt", ".env", "x.php", "old.bak", "large.bin", "with-index/index.html"} {
		must(os.WriteFile(filepath.Join(root, name), []byte(strings.Repeat("x", 1+i*i*200)), 0o644))
		at := time.Date(2024, 5, 1, 12, 0, 20-i, 0, time.UTC)
		must(os.Chtimes(filepath.Join(root, name), at, at))
	}
	must(os.Symlink("a.txt", filepath.Join(root, "link")))
	must(os.Symlink("sub", filepath.Join(root, "linked-dir")))
	must(os.Symlink("../..", filepath.Join(root, "out")))
	must(os.Symlink("nothing", filepath.Join(root, "dangling")))
	return root
}

func TestListing(t *testing.T) {
	root := listed(t)
	config := &routes.Static{Index: []string{"index.html"}, Listing: true, Hide: []string{"*.bak"}}
	byName := []string{"b dir", "linked-dir", "sub", "with-index", "50%.txt", `<b>&"'.txt`, "B.txt", "a.txt", "a?b#c.txt", "javascript:alert(1)", "large.bin", "link"}
	rows := []struct {
		name, target string
		want         []string // the first names
	}{
		{"by name", "/", byName},
		{"by name, the last first", "/?sort=name&order=desc", []string{"with-index", "sub", "linked-dir", "b dir", "link", "large.bin"}},
		{"by size", "/?sort=size", []string{"b dir", "linked-dir", "sub", "with-index", "a.txt", "link", "B.txt"}},
		{"by size, the largest first", "/?sort=size&order=desc", []string{"with-index", "sub", "linked-dir", "b dir", "large.bin", "a?b#c.txt"}},
		{"by time, the newest first", "/?sort=modified&order=desc", nil},
		{"by something else", "/?sort=owner&order=up", byName},
	}
	g := newGate(t, routes.Pool{}, nil, routes.Route{Pattern: routes.Pattern{Kind: routes.Prefix, Text: "/"}, Root: root, Static: config})
	x := &exchange{site: &routes.Site{}}
	t.Cleanup(x.dismiss)
	deputed := g.handler.filesOf(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), x, &routes.Route{Pool: "app"}, root)
	for kind, f := range map[string]opener{"openat2": newFiles(t, root), "os.Root": fallbackFiles(t, root), "a deputy": deputed} {
		s := &shelf{files: f, config: config}
		for _, row := range rows {
			t.Run(kind+": "+row.name, func(t *testing.T) {
				ask := func(method, accept string) *httptest.ResponseRecorder {
					r := httptest.NewRequest(method, row.target, nil)
					r.Header.Set("Accept", accept)
					w := httptest.NewRecorder()
					if redirect, err := s.serve(w, r, x, r.URL.Path); err != nil || redirect != "" || w.Code != 200 {
						t.Fatalf("%s %s: %d, redirect %q, %v", method, row.target, w.Code, redirect, err)
					}
					return w
				}
				var l listing
				if err := json.Unmarshal(ask("GET", "application/json").Body.Bytes(), &l); err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, e := range l.Entries {
					names = append(names, e.Name)
				}
				if len(names) != len(byName) || !slices.Equal(names[:len(row.want)], row.want) {
					t.Errorf("names %q, want %q", names, row.want)
				}
				w := ask("GET", "text/html,application/json;q=0.9")
				if shown := shownNames(t, w.Body.String()); !slices.Equal(shown, names) {
					t.Errorf("the page shows %q, want %q", shown, names)
				}
				if h := w.Header(); h.Get("Content-Type") != "text/html; charset=utf-8" || h.Get("Vary") != "Accept" || h.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("header %v", h)
				}
			})
		}
	}
}

// shownNames are the names in a page's table, whose links must lead to them.
func shownNames(t *testing.T, page string) (names []string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode || n.Data != "a" || n.Parent.Data != "td" {
			continue
		}
		var text strings.Builder
		for c := range n.Descendants() {
			if c.Type == html.ElementNode {
				t.Errorf("a name became an element: <%s>", c.Data)
			}
			text.WriteString(c.Data)
		}
		name := strings.TrimSuffix(text.String(), "/")
		names = append(names, name)
		r := httptest.NewRequest("GET", "/", nil)
		to, err := r.URL.Parse(n.Attr[0].Val)
		if err != nil || strings.TrimSuffix(to.Path, "/") != "/"+name || to.Host != r.URL.Host || to.RawQuery != "" || to.Fragment != "" {
			t.Errorf("the link of %q leads to %v, %v", name, to, err)
		}
	}
	return names
}

func TestListingRequests(t *testing.T) {
	root := listed(t)
	s := &shelf{files: newFiles(t, root), config: &routes.Static{Index: []string{"index.html"}, Listing: true}, encoders: newEncoders(compressAll)}
	rows := []struct {
		name, method, target string
		status               int
		redirect             string
		fields               map[string]string // of the response
	}{
		{name: "GET", method: "GET", target: "/sub/", status: 200},
		{name: "HEAD", method: "HEAD", target: "/sub/", status: 200},
		{name: "JSON by its name", method: "GET", target: "/?format=json", status: 200, fields: map[string]string{"Content-Type": "application/json"}},
		{name: "another format", method: "GET", target: "/?format=x", status: 200, fields: map[string]string{"Content-Type": "text/html; charset=utf-8"}},
		{name: "POST", method: "POST", target: "/sub/", status: 405, fields: map[string]string{"Allow": staticMethods}},
		{name: "an index file wins", method: "GET", target: "/with-index/", status: 200, redirect: "/with-index/index.html"},
		{name: "without its slash", method: "GET", target: "/sub", status: 301, fields: map[string]string{"Location": "/sub/"}},
		{name: "a hidden folder", method: "GET", target: "/.git/", status: 404},
		{name: "a folder that is not there", method: "GET", target: "/none/", status: 404},
		{name: "compressed", method: "GET", target: "/?gzip", status: 200, fields: map[string]string{"Content-Encoding": "gzip"}},
	}
	for _, row := range rows {
		r := httptest.NewRequest(row.method, row.target, nil)
		if r.URL.RawQuery == "gzip" {
			r.Header.Set("Accept-Encoding", "gzip")
		}
		w := httptest.NewRecorder()
		redirect, err := s.serve(w, r, nil, r.URL.Path)
		if err != nil || redirect != row.redirect || w.Code != row.status {
			t.Errorf("%s: %d, redirect %q, %v; want %d, %q", row.name, w.Code, redirect, err, row.status, row.redirect)
		}
		for name, want := range row.fields {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", row.name, name, got, want)
			}
		}
	}
}

func TestListingOfAHugeFolder(t *testing.T) {
	root := t.TempDir()
	for i := range maxListed + 10 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := &shelf{files: newFiles(t, root), config: &routes.Static{Listing: true}}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/?format=json", nil)
	var l listing
	if _, err := s.serve(w, r, nil, "/"); err != nil || json.Unmarshal(w.Body.Bytes(), &l) != nil || len(l.Entries) != maxListed || !l.More {
		t.Errorf("%d entries, more %v, %v", len(l.Entries), l.More, err)
	}
}
