package proxy

import (
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gateway/routes"
)

// rewriter takes one request through a list of rewrites.
type rewriter struct {
	*Server
	w     http.ResponseWriter
	r     *http.Request // with the query as it is now
	x     *exchange
	files opener // of the root; nil: there is none
	path  string
}

// verdict is what becomes of a request after a list of rewrites.
type verdict uint8

const (
	proceed  verdict = iota // it goes on behind them
	restart                 // it meets them again
	answered                // the client has its answer
)

// run applies the rewrites in order.
func (w *rewriter) run(rules []routes.Rewrite) verdict {
	for i := range rules {
		rule := &rules[i]
		groups, ok := w.meets(rule)
		if !ok {
			continue
		}
		if w.x.notes != nil && (rule.Status != 0 || rule.To == nil) { // else the new path is told
			w.x.note("rewrite %s: %q matches %s%s", rule.Line, rule.Match, w.path, outcome(rule))
		}
		switch {
		case rule.Status >= http.StatusBadRequest:
			w.fail(w.w, w.x, rule.Status, nil)
			return answered
		case rule.Status != 0:
			w.redirect(rule, groups)
			return answered
		}
		before := w.path
		if err := w.substitute(rule, groups); err != nil {
			w.failPath(w.w, w.x, err)
			return answered
		}
		switch rule.Then {
		case routes.ThenRestart:
			if w.path == before {
				return proceed
			}
			return restart
		case routes.ThenEnd:
			w.x.rewritten = true
			return proceed
		case routes.ThenLast:
			return proceed
		case routes.ThenNext:
		}
	}
	return proceed
}

// outcome is what [Server.Explain] tells of a rewrite beside its new path.
func outcome(rule *routes.Rewrite) string {
	switch {
	case rule.Status != 0:
		return fmt.Sprintf(", status = %d", rule.Status)
	case rule.Then != routes.ThenNext:
		return fmt.Sprintf(", then = %q", rule.Then)
	}
	return ""
}

// facts are those of the request as it is now.
func (w *rewriter) facts(g groups) *facts { return &facts{r: w.r, x: w.x, path: w.path, groups: g} }

func (w *rewriter) redirect(rule *routes.Rewrite, g groups) {
	to, fragment, hasFragment := strings.Cut(w.facts(g).location(rule.To, rule.Query), "#")
	old := w.r.URL.RawQuery
	switch {
	case old == "" || rule.To.Uses("uri") || rule.HasQuery && !rule.AppendQuery:
	case strings.Contains(to, "?"):
		to += "&" + old
	default:
		to += "?" + old
	}
	if hasFragment {
		to += "#" + fragment
	}
	w.w.Header().Set("Location", to)
	writeStatus(w.w, rule.Status)
}

// substitute gives the request the path and the query that a rewrite makes.
func (w *rewriter) substitute(rule *routes.Rewrite, g groups) error {
	if rule.To == nil {
		return nil
	}
	f, query := w.facts(g), w.r.URL.RawQuery
	path, err := f.internalPath(rule.To)
	if err != nil {
		return err
	}
	if rule.HasQuery {
		old := query
		if query = f.query(rule.Query); rule.AppendQuery && old != "" {
			query = strings.TrimPrefix(query+"&"+old, "&")
		}
	}
	w.x.internal = w.x.internal || path != w.path
	w.path, w.r = path, redirected(w.r, w.x, path, query, true)
	if w.x.notes != nil {
		w.x.note("rewrite %s: %s", rule.Line, strings.TrimSuffix(w.target(), "?"))
	}
	return nil
}

// target is the path and query where the request has come to, as [Server.step] returns them.
func (w *rewriter) target() string { return escapePath(w.path) + "?" + w.r.URL.RawQuery }

// meets reports whether a rewrite concerns the request, and what its groups matched.
func (w *rewriter) meets(rule *routes.Rewrite) (groups, bool) {
	m := rule.Match.FindStringSubmatch(w.path)
	if m == nil {
		if w.x.notes != nil {
			w.x.note("rewrite %s: %q does not match %s", rule.Line, rule.Match, w.path)
		}
		return nil, false
	}
	g := groups{}
	g.add(rule.Match, m, true)
	for i := range m {
		g[strconv.Itoa(i)] = group{m[i], true}
	}
	c := comparison{rewriter: w, rule: rule, groups: g}
	switch {
	case slices.ContainsFunc(rule.Not, func(k routes.Condition) bool { return c.any(&k) }):
		return nil, false
	case len(rule.When) > 0 && !slices.ContainsFunc(rule.When, func(k routes.Condition) bool { return c.all(&k) }):
		return nil, false
	}
	return g, true
}

// add takes the named groups of a match.
func (g groups) add(re *regexp.Regexp, match []string, inPath bool) {
	for i, name := range re.SubexpNames() {
		if name != "" {
			g[name] = group{match[i], inPath}
		}
	}
}

// comparison holds the conditions of a rewrite against the request.
type comparison struct {
	*rewriter
	rule   *routes.Rewrite
	groups groups
}

// all reports whether all parts of a condition hold.
func (c *comparison) all(k *routes.Condition) bool {
	return !slices.ContainsFunc(c.parts(k), func(p part) bool { return !c.holds("when", p) })
}

// any reports whether a part of a condition holds.
func (c *comparison) any(k *routes.Condition) bool {
	return slices.ContainsFunc(c.parts(k), func(p part) bool { return c.holds("not", p) })
}

func (c *comparison) holds(word string, p part) bool {
	ok := p.holds()
	if c.x.notes != nil {
		c.x.note("rewrite %s: %s { %s }: %t", c.rule.Line, word, p.name, ok)
	}
	return ok
}

// part of a condition.
type part struct {
	name  string
	holds func() bool
}

// parts are those of a condition that say something.
func (c *comparison) parts(k *routes.Condition) (parts []part) {
	add := func(set bool, name string, holds func() bool) {
		if set {
			parts = append(parts, part{name, holds})
		}
	}
	add(k.Methods != nil, "methods", func() bool { return slices.Contains(k.Methods, c.r.Method) })
	add(k.Scheme != "", "scheme", func() bool { return c.x.scheme() == k.Scheme })
	add(k.RemoteIP != nil, "remote_ip", func() bool { return contains(k.RemoteIP, c.x.remoteAddr()) })
	add(k.Path != nil, "path", func() bool { return c.matches(k.Path, c.path, true) })
	add(k.Host != nil, "host", func() bool { return c.matches(k.Host, siteName(c.r.Host), false) })
	add(k.Query != nil, "query", func() bool { return c.matches(k.Query, c.r.URL.RawQuery, false) })
	for _, f := range k.Header {
		add(true, "header "+f.Name, func() bool { return c.matches(f.Match, fieldOf(c.r, f.Name), false) })
	}
	for _, f := range k.Cookie {
		add(true, "cookie "+f.Name, func() bool { return c.matches(f.Match, cookieOf(c.r, f.Name), false) })
	}
	add(k.File != nil, "file", func() bool { return c.found(k.File, func(mode fs.FileMode) bool { return mode.IsRegular() }) })
	add(k.Folder != nil, "folder", func() bool { return c.found(k.Folder, func(mode fs.FileMode) bool { return mode.IsDir() }) })
	return parts
}

func (c *comparison) matches(re *regexp.Regexp, text string, inPath bool) bool {
	m := re.FindStringSubmatch(text)
	if m == nil {
		return false
	}
	c.groups.add(re, m, inPath)
	return true
}

// found reports whether something of a kind is at a path below the root.
func (c *comparison) found(t routes.Template, is func(fs.FileMode) bool) bool {
	path, err := c.facts(c.groups).internalPath(t)
	if err != nil || c.files == nil {
		return false
	}
	mode, err := c.files.Stat(path)
	if c.x.notes != nil {
		c.x.note("look at %s: %s", path, lookResult(mode, err))
	}
	if regular := fs.FileMode(0); err != nil && is(regular) && len(t) == 1 && t[0].Name == "path" {
		files, rest := unstrip(c.files, path)
		_, err = firstFile(files, rest) // as Apache's REQUEST_FILENAME, which ends before PATH_INFO
		return err == nil
	}
	return err == nil && is(mode)
}

// fieldOf is a header field, canonical by name, as one text.
func fieldOf(r *http.Request, name string) string {
	if name == "Host" {
		return r.Host
	}
	return strings.Join(r.Header[name], ", ")
}

// rewriteSite takes a request through the rewrites of its site, again and again if they say so. trace gets what it was at the
// beginning of each round. The request is nil when the client has its answer.
func (s *Server) rewriteSite(w http.ResponseWriter, r *http.Request, x *exchange, path string, trace *[]string) (*http.Request, string) {
	rw := &rewriter{Server: s, w: w, r: r, x: x, path: path}
	if f := s.files[nameFolder(x.site.Root, x.site.Symlinks)]; f != nil {
		rw.files = f
	}
	for !x.rewritten {
		switch rw.run(x.site.Rewrites) {
		case answered:
			return nil, ""
		case proceed:
			return rw.r, rw.path
		case restart:
			*trace = append(*trace, rw.target())
		}
		if len(*trace) > maxRedirects {
			s.failCircle(w, x, *trace)
			return nil, ""
		}
	}
	return rw.r, rw.path
}

// rewriteRoute takes a request through the rewrites of its route. It returns it with its new query, or where to go on, or nil
// when the client has its answer.
func (s *Server) rewriteRoute(w http.ResponseWriter, r *http.Request, x *exchange) (_ *http.Request, next string) {
	rw := &rewriter{Server: s, w: w, r: r, x: x, files: x.files, path: x.path}
	v := rw.run(x.route.Rewrites)
	switch {
	case x.deputy.excuse(), v == answered:
		return nil, ""
	case v == restart, rw.path != x.path:
		return nil, rw.target()
	}
	return rw.r, ""
}

// failCircle answers a request that leads to others without end.
func (s *Server) failCircle(w http.ResponseWriter, x *exchange, trace []string) {
	s.fail(w, x, http.StatusInternalServerError, fmt.Errorf("internal redirects go in circles: %s", strings.Join(trace, " -> ")))
}
