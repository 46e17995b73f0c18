package routes

import (
	"slices"
	"strings"
)

// Table finds the site of a request. It is immutable and safe for concurrent use.
type Table struct {
	listeners map[string]*listener // by Listen.Key
}

// listener holds the sites of one address.
type listener struct {
	first    *Site
	exact    map[string]*Site
	wildcard map[string]*Site // "*.example.com" under ".example.com"
}

// NewTable makes the table of a configuration, whose sites it keeps.
func NewTable(c *Config) *Table {
	t := &Table{listeners: map[string]*listener{}}
	for i := range c.Sites {
		site := &c.Sites[i]
		for _, l := range site.Listen {
			t.add(l.Key(), site)
		}
	}
	return t
}

func (t *Table) add(key string, site *Site) {
	l, ok := t.listeners[key]
	if !ok {
		l = &listener{first: site, exact: map[string]*Site{}, wildcard: map[string]*Site{}}
		t.listeners[key] = l
	}
	for _, name := range site.Names {
		names := l.exact
		if rest, ok := strings.CutPrefix(name, "*"); ok {
			names, name = l.wildcard, rest
		}
		if _, taken := names[name]; !taken {
			names[name] = site
		}
	}
}

// Site returns the site that answers for host on a listening address ([Listen.Key]). The host is the Host field without its
// port, in any case, with or without a final dot; an IPv6 address may stand in brackets. An exact name wins over a wildcard, and
// the longest wildcard over others; an unknown host gets the address's first site. Only an unknown address gets nil.
func (t *Table) Site(address, host string) *Site {
	l, ok := t.listeners[address]
	if !ok {
		return nil
	}
	host = normalHost(host)
	if site, ok := l.exact[host]; ok {
		return site
	}
	for i := 1; i < len(host); i++ {
		if host[i] != '.' {
			continue
		}
		if site, ok := l.wildcard[host[i:]]; ok {
			return site
		}
	}
	return l.first
}

// normalHost brings a host into the form that is compared. Only ASCII letters are folded: Unicode folding maps other hosts onto
// this one. It allocates only for a host with upper-case letters.
func normalHost(host string) string {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		if c := host[i]; c >= 'A' && c <= 'Z' {
			return lowerASCII(host)
		}
	}
	return host
}

func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// String is the pattern as it is written.
func (p Pattern) String() string {
	switch p.Kind {
	case Prefix:
		return p.Text + "*"
	case Suffix:
		return p.Top + "*" + p.Text
	default:
		return p.Text
	}
}

// Match is the outcome of [Site.Match].
type Match struct {
	Route    *Route
	Script   string   // the path up to PathInfo
	PathInfo string   // what follows the script's name; only of suffix routes, and of exact ones for a script
	Allow    []string // without a route: the methods that routes for this path take, for a 405
}

// maxSplits bounds how many prefixes of one path are looked up as files.
const maxSplits = 16

// Match returns the first route, in file order, that takes the method and the path. The path is one that [CleanPath] made.
//
// isFile reports whether a path names a regular file below the route's root, or the folder of its CGI scripts; it decides where PATH_INFO
// begins ("/x.php/y") and is asked only for paths that hold a suffix route's ending, or an exact route's path, before a slash. A nil
// isFile means that there are no files.
//
// Without a route it returns false; Allow is then nil (404) or holds the methods to name in a 405.
func (s *Site) Match(method, path string, isFile func(r *Route, path string) bool) (Match, bool) {
	var allow []string
	for i := range s.Routes {
		r := &s.Routes[i]
		script, ok := r.match(path, isFile)
		if !ok {
			continue
		}
		if r.takes(method) {
			if e := s.ofScript(i, method, path, script, isFile); e != nil {
				r, script = e, len(e.Pattern.Text)
			}
			return Match{Route: r, Script: path[:script], PathInfo: path[script:]}, true
		}
		if !r.Internal { // else a client would be told of it
			allow = union(allow, r.Methods)
		}
	}
	return Match{Allow: allow}, false
}

func (r *Route) takes(method string) bool {
	return len(r.Methods) == 0 || slices.Contains(r.Methods, method)
}

// ofScript returns the route that is for the script alone which the i-th one would run with PATH_INFO, and stands before it; nil: there
// is none. So who refuses "/admin.php" has refused "/admin.php/x". A redirect, from "/index.php" to "/", is for that path alone.
func (s *Site) ofScript(i int, method, path string, script int, isFile func(*Route, string) bool) *Route {
	r := &s.Routes[i]
	for j := range i {
		e := &s.Routes[j]
		name := e.Pattern.Text
		if e.Pattern.Kind != Exact || e.Redirect != nil || !e.takes(method) || len(name) >= len(path) || path[len(name)] != '/' || path[:len(name)] != name {
			continue
		}
		if r.Pattern.Kind == Suffix && script == len(name) || r.isScript(name, isFile) {
			return e
		}
	}
	return nil
}

// isScript reports whether a path is that of a CGI script below the route's prefix.
func (r *Route) isScript(path string, isFile func(*Route, string) bool) bool {
	return r.CGI != nil && r.CGI.Root != "" && r.Pattern.Kind == Prefix && isFile != nil &&
		len(path) >= len(r.Pattern.Text) && isFile(r, path[len(r.Pattern.Text)-1:])
}

// match reports whether the path fits, and how much of it is the script.
func (r *Route) match(path string, isFile func(*Route, string) bool) (script int, ok bool) {
	switch p := r.Pattern; p.Kind {
	case Exact:
		return len(path), path == p.Text
	case Prefix:
		return len(path), strings.HasPrefix(path, p.Text) || r.IsFolder(path)
	case Suffix:
		if !strings.HasPrefix(path, p.Top) {
			return 0, false
		}
		if i := r.split(path, isFile); i > 0 {
			return i, true
		}
		return len(path), strings.HasSuffix(path, p.Text)
	default:
		return 0, false
	}
}

// split finds the shortest prefix that ends in the suffix, is followed by a slash and names a file. It comes before the look at
// the end of the path, so that a file "/a.php" gets "/a.php/b.php" as PATH_INFO, as in Apache. It returns 0 when there is none.
func (r *Route) split(path string, isFile func(*Route, string) bool) int {
	if isFile == nil {
		return 0
	}
	end, asked := len(r.Pattern.Top), 0
	for asked < maxSplits {
		i := strings.Index(path[end:], r.Pattern.Text)
		if i < 0 {
			return 0
		}
		end += i + len(r.Pattern.Text)
		if end == len(path) || path[end] != '/' {
			continue
		}
		if isFile(r, path[:end]) {
			return end
		}
		asked++
	}
	return 0
}

// union adds what is missing, in order, without writing to the routes' own lists.
func union(all, more []string) []string {
	for _, m := range more {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}
