package routes

import (
	"reflect"
	"testing"
)

func TestTableSite(t *testing.T) {
	c := mustParse(t, `pool "e" {
  mpm = "event"
}
`+respondSite(`"first.example"`, `[":80", "unix:/s"]`)+
		respondSite(`"www.example.com" "::1"`, `[":80"]`)+
		respondSite(`"*.example.com"`, `[":80"]`)+
		respondSite(`"*.b.example.com"`, `[":80"]`)+
		respondSite(`"other.example"`, `[":81"]`))
	table := NewTable(c)
	rows := []struct {
		name    string
		address string
		host    string
		want    int // of c.Sites; -1: none
	}{
		{"an exact name", "tcp :80", "www.example.com", 1},
		{"in any case, with a final dot", "tcp :80", "WWW.Example.COM.", 1},
		{"an address in brackets", "tcp :80", "[::1]", 1},
		{"an address without brackets", "tcp :80", "::1", 1},
		{"a wildcard takes one label", "tcp :80", "x.example.com", 2},
		{"a wildcard takes several labels", "tcp :80", "x.y.example.com", 2},
		{"the longest wildcard wins", "tcp :80", "x.b.example.com", 3},
		{"a wildcard of a wildcard's own name", "tcp :80", "b.example.com", 2},
		{"a wildcard needs a label", "tcp :80", "example.com", 0},
		{"an empty label is none", "tcp :80", ".example.com", 0},
		{"an unknown host gets the first site", "tcp :80", "nobody", 0},
		{"no host gets the first site", "tcp :80", "", 0},
		{"a site of another address is not seen", "tcp :80", "other.example", 0},
		{"the other address has its own first site", "tcp :81", "www.example.com", 4},
		{"a unix socket", "unix /s", "x", 0},
		{"the Kelvin sign is no k", "tcp :80", "www.example.\u212aom", 0},
		{"an unknown address has no site", "tcp :82", "www.example.com", -1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var want *Site
			if row.want >= 0 {
				want = &c.Sites[row.want]
			}
			if got := table.Site(row.address, row.host); got != want {
				t.Errorf("Site(%q, %q) = %+v, want site %d", row.address, row.host, got, row.want)
			}
		})
	}
}

func respondSite(names, listen string) string {
	return "site " + names + " {\n  listen = " + listen + "\n  route \"/*\" {\n    pool = \"e\"\n    respond {}\n  }\n}\n"
}

// matchSite is a site whose routes are these patterns, in order. A pattern's methods stand behind it.
func matchSite(t *testing.T, routes ...[]string) *Site {
	t.Helper()
	var s Site
	for _, r := range routes {
		p, reason := parsePattern(r[0])
		if reason != "" {
			t.Fatalf("parsePattern(%q): %s", r[0], reason)
		}
		s.Routes = append(s.Routes, Route{Pattern: p, Methods: r[1:]})
	}
	return &s
}

func TestSiteMatch(t *testing.T) {
	legacy := [][]string{{"/exact"}, {"/assets/*"}, {"*.php"}, {"/post", "POST"}, {"/post", "PUT", "POST"}, {"/read/*", "GET", "HEAD"}}
	scripts := [][]string{{"/a.php", "GET"}, {"/d/a.php"}, {"/nothing.php"}, {"*.php"}, {"/info.php"}}
	all := append(legacy[:len(legacy):len(legacy)], []string{"/*"})
	below := [][]string{{"/d/*.php"}, {"*.php"}}
	files := map[string]bool{"/info.php": true, "/a.php": true, "/d/a.php": true}
	rows := []struct {
		name         string
		routes       [][]string
		method, path string
		want         int // route; -1: none
		script, info string
		allow        []string
	}{
		{"an exact path", legacy, "GET", "/exact", 0, "/exact", "", nil},
		{"an exact path and no more", legacy, "GET", "/exact/", -1, "", "", nil},
		{"a prefix's own folder", legacy, "GET", "/assets/", 1, "/assets/", "", nil},
		{"below a prefix", legacy, "GET", "/assets/a/b.css", 1, "/assets/a/b.css", "", nil},
		{"a prefix without its slash", legacy, "GET", "/assets", -1, "", "", nil},
		{"a prefix is not its neighbour", legacy, "GET", "/assetsx", -1, "", "", nil},
		{"the earlier route wins", legacy, "GET", "/assets/x.php", 1, "/assets/x.php", "", nil},
		{"a suffix", legacy, "GET", "/nowhere/x.php", 2, "/nowhere/x.php", "", nil},
		{"a suffix with PATH_INFO", legacy, "GET", "/info.php/a/b", 2, "/info.php", "/a/b", nil},
		{"a suffix with a slash behind", legacy, "GET", "/info.php/", 2, "/info.php", "/", nil},
		{"PATH_INFO begins behind the first file", legacy, "GET", "/a.php/d/a.php", 2, "/a.php", "/d/a.php", nil},
		{"a folder that is named like a script", legacy, "GET", "/x.php/info.php", 2, "/x.php/info.php", "", nil},
		{"PATH_INFO without a file is no match", legacy, "GET", "/none.php/a", -1, "", "", nil},
		{"the ending must be followed by a slash", legacy, "GET", "/info.phpx/a", -1, "", "", nil},
		{"an ending is compared bytewise", legacy, "GET", "/info.PHP", -1, "", "", nil},
		{"a fullwidth stop is no dot", legacy, "GET", "/info\uff0ephp", -1, "", "", nil},
		{"an uploaded picture is not split", legacy, "GET", "/evil.jpg/x", -1, "", "", nil},
		{"a query sign in the path is a byte", legacy, "GET", "/info.php?ooo", -1, "", "", nil},
		{"the second route takes another method", legacy, "PUT", "/post", 4, "/post", "", nil},
		{"no route takes the method", legacy, "GET", "/post", -1, "", "", []string{"POST", "PUT"}},
		{"HEAD goes with GET", legacy, "HEAD", "/read/x", 5, "/read/x", "", nil},
		{"a later route without limits takes the rest", all, "DELETE", "/read/x", 6, "/read/x", "", nil},
		{"PATH_INFO of a script that has a route of its own", scripts, "GET", "/a.php/x", 0, "/a.php", "/x", nil},
		{"a slash behind such a script", scripts, "GET", "/d/a.php/", 1, "/d/a.php", "/", nil},
		{"PATH_INFO that names another script", scripts, "GET", "/a.php/d/a.php", 0, "/a.php", "/d/a.php", nil},
		{"such a route takes its methods", scripts, "POST", "/a.php/x", 3, "/a.php", "/x", nil},
		{"such a route that comes later", scripts, "GET", "/info.php/x", 3, "/info.php", "/x", nil},
		{"a folder that is named like such a route", scripts, "GET", "/nothing.php/x.php", 3, "/nothing.php/x.php", "", nil},
		{"everything", all, "GET", "/", 6, "/", "", nil},
		{"a suffix below a prefix", below, "GET", "/d/x/y.php", 0, "/d/x/y.php", "", nil},
		{"a suffix below a prefix with PATH_INFO", below, "GET", "/d/a.php/x", 0, "/d/a.php", "/x", nil},
		{"a suffix is not below a prefix", below, "GET", "/dx/y.php", 1, "/dx/y.php", "", nil},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := matchSite(t, row.routes...)
			got, ok := s.Match(row.method, row.path, func(_ *Route, p string) bool { return files[p] })
			want := Match{Script: row.script, PathInfo: row.info, Allow: row.allow}
			if row.want >= 0 {
				want.Route = &s.Routes[row.want]
			}
			if ok != (row.want >= 0) || !reflect.DeepEqual(got, want) || got.Route != want.Route {
				t.Errorf("Match(%q, %q) = %+v, %t; want %+v", row.method, row.path, got, ok, want)
			}
		})
	}
}

// A client does not learn from a 405 that there is a route that it can't have.
func TestMatchKeepsInternalRoutes(t *testing.T) {
	s := matchSite(t, []string{"/files/*", "GET"})
	s.Routes[0].Internal = true
	if m, ok := s.Match("POST", "/files/a", nil); ok || m.Allow != nil {
		t.Errorf("Match(POST, /files/a) = %+v, %t; want nothing", m, ok)
	}
}

func TestMatchBoundsFileLookups(t *testing.T) {
	s := matchSite(t, []string{"*.php"})
	path := ""
	for range 1000 {
		path += "/x.php"
	}
	asked := 0
	if _, ok := s.Match("GET", path+"/y", func(*Route, string) bool { asked++; return false }); ok || asked > maxSplits {
		t.Errorf("Match asked for %d files, want at most %d and no match (got %t)", asked, maxSplits, ok)
	}
	if _, ok := s.Match("GET", "/x.php/y", nil); ok {
		t.Errorf("Match without isFile found a PATH_INFO")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	c := mustParse(t, siteWith(`"www.example.com" "*.example.org"`, `[":80"]`, "", staticRoute))
	table := NewTable(c)
	isFile := func(*Route, string) bool { return false }
	allocs := testing.AllocsPerRun(100, func() {
		path, err := CleanPath("/assets/site.css")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := table.Site("tcp :80", "a.example.org").Match("GET", path, isFile); !ok {
			t.Fatal("no match")
		}
	})
	if allocs != 0 {
		t.Errorf("CleanPath, Site and Match allocate %v times, want 0", allocs)
	}
}

func TestARedirectIsForItsPathAlone(t *testing.T) {
	s := matchSite(t, []string{"/index.php"}, []string{"*.php"})
	s.Routes[0].Redirect = &Redirect{}
	if m, _ := s.Match("GET", "/index.php/a", func(*Route, string) bool { return true }); m.Route != &s.Routes[1] {
		t.Errorf("Match(/index.php/a) = %+v, want the second route", m)
	}
}

// FuzzCovers holds the shadow warning to the matcher: what a covered pattern matches, the covering one matches too.
func FuzzCovers(f *testing.F) {
	f.Add("/*", "*.php", "/a.php/b", true)
	f.Add("*.php", "*.inc.php", "/a.inc.php/x", true)
	f.Add("/a/*", "/a/b", "/a/b", false)
	f.Add("*.php", "/a.php", "/a.php", false)
	f.Add("/a", "/a", "/a", false)
	f.Add("/a/*", "/a/b/*.php", "/a/b/c.php", false)
	f.Add("/a/*.php", "/a/b/*.php", "/a/b.php/b/c.php", true)
	f.Fuzz(func(t *testing.T, first, second, path string, file bool) {
		a, reasonA := parsePattern(first)
		b, reasonB := parsePattern(second)
		if reasonA != "" || reasonB != "" || !covers(a, b) {
			return
		}
		isFile := func(*Route, string) bool { return file }
		path, err := CleanPath(path)
		if err != nil {
			return // no request has it
		}
		_, matchesA := (&Route{Pattern: a}).match(path, isFile)
		_, matchesB := (&Route{Pattern: b}).match(path, isFile)
		if matchesB && !matchesA {
			t.Errorf("%q covers %q, but %q matches only the second", first, second, path)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	s := &Site{Routes: []Route{
		{Pattern: Pattern{Kind: Prefix, Text: "/assets/"}}, {Pattern: Pattern{Kind: Prefix, Text: "/cgi-bin/"}}, {Pattern: Pattern{Kind: Suffix, Text: ".php"}}, {Pattern: Pattern{Kind: Prefix, Text: "/"}},
	}}
	isFile := func(*Route, string) bool { return false }
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.Match("GET", "/some/where/index.html", isFile); !ok {
			b.Fatal("no match")
		}
	}
}
