package routes

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

const defaultContentType = "text/plain; charset=utf-8"

// route reads one route; access is what it inherits. The key names it in the table of places.
func (r *siteReader) route(s *section, site *Site, access *Access, key string) Route {
	l := s.label()
	route := Route{
		Pattern:        r.pattern(s),
		Methods:        r.methods(s),
		Pool:           get(s, "pool", ""),
		Root:           site.Root,
		Symlinks:       Symlinks(get(s, "symlinks", string(site.Symlinks))),
		TryFiles:       r.tryFiles(s),
		MaxRequestBody: get(s, "max_request_body", site.MaxRequestBody),
		RequestTimeout: get(s, "request_timeout", time.Duration(0)),
		Unbuffered:     !get(s, "buffer", true),
		Internal:       get(s, "internal", false),
		StripPrefix:    get(s, "strip_prefix", false),
		Line:           lineOf(l.at),
		Compress:       r.compress(s, site.Compress),
	}
	if s.has("root") {
		route.Root = r.pathOf(s, "root", key+"root")
	}
	route.Rewrites = r.rewrites(s, route.Root)
	route.Headers = slices.Concat(site.Headers, r.headers(s, "header"))
	route.RequestHeaders = slices.Concat(site.RequestHeaders, r.headers(s, "request_header"))
	route.RateLimits, route.Access = r.rateLimits(s), r.access(s, access, key)
	route.ErrorPages = slices.Concat(site.ErrorPages, r.errorPages(s))
	if block := s.one("static"); block != nil {
		route.Static = r.static(block, site)
	}
	if block := s.one("send_file"); block != nil {
		route.SendFile = r.sendFile(block, key)
	}
	if block := s.one("cgi"); block != nil {
		route.CGI = r.cgi(block, key)
	}
	if block := s.one("proxy"); block != nil {
		route.Proxy = r.proxy(block, key)
	}
	if block := s.one("fastcgi"); block != nil {
		route.FastCGI = r.fastCGIServer(block, &route)
	}
	if block := s.one("redirect"); block != nil {
		route.Redirect = r.redirect(block)
	}
	if block := s.one("respond"); block != nil {
		route.Respond = r.respond(block)
	}
	r.placement(s, &route)
	return route
}

func lineOf(at hcl.Range) string {
	return fmt.Sprintf("%s:%d", filepath.Base(at.Filename), at.Start.Line)
}

func (r *siteReader) pattern(s *section) Pattern {
	if len(s.labels) == 0 {
		return Pattern{}
	}
	p, reason := parsePattern(s.labels[0].text)
	if reason != "" {
		r.errorf(s.labels[0].at, "Wrong pattern", "%q: %s", s.labels[0].text, reason)
	}
	return p
}

// parsePattern reads "/a", "/a/*", "*.php" or "/a/*.php". The reason is empty when it is one.
func parsePattern(label string) (p Pattern, reason string) {
	switch {
	case label == "":
		return Pattern{}, `the pattern is empty: write "/*" for all paths.`
	case hasControl(label):
		return Pattern{}, "it holds a control character."
	case strings.ContainsAny(label, "?#"):
		return Pattern{}, "a pattern is compared with the path only, which has no query."
	case strings.HasPrefix(label, "*"):
		return parseSuffix(label)
	case !strings.HasPrefix(label, "/"):
		if strings.HasPrefix(label, "^") || strings.HasPrefix(label, "~") {
			return Pattern{}, `a pattern is no regular expression: "/a/*" or "*.php". For those there is "rewrite".`
		}
		return Pattern{}, fmt.Sprintf(`a pattern begins with a slash, or with a star: "/%s" or "*.php".`, label)
	}
	if top, ending, ok := strings.Cut(label, "*."); ok && strings.HasSuffix(top, "/") {
		return parseSuffixBelow(top, "*."+ending)
	}
	text, prefix := strings.CutSuffix(label, "/*")
	if strings.Contains(text, "*") {
		return Pattern{}, `a star stands alone behind the last slash ("/a/*") or before an ending ("*.php", "/a/*.php").`
	}
	kind := Exact
	if prefix {
		kind, text = Prefix, text+"/"
	}
	clean, err := CleanPath(strings.ReplaceAll(text, "%", "%25"))
	switch {
	case err != nil:
		return Pattern{}, fmt.Sprintf("no request has such a path (%v).", err)
	case clean != text:
		return Pattern{}, "paths are compared after \".\", \"..\" and double slashes are resolved, so nothing can match it."
	case hasEscape(text):
		return Pattern{}, "paths are compared decoded: write the character itself in place of its %-escape."
	}
	return Pattern{Kind: kind, Text: text}, ""
}

// parseSuffixBelow reads "/a/*.php" as its two halves. The one below the root itself is every suffix.
func parseSuffixBelow(top, suffix string) (Pattern, string) {
	folder, reason := parsePattern(top + "*")
	if reason != "" {
		return Pattern{}, reason
	}
	p, reason := parseSuffix(suffix)
	if folder.Text != "/" {
		p.Top = folder.Text
	}
	return p, reason
}

func parseSuffix(label string) (Pattern, string) {
	text := label[1:]
	switch {
	case text == "" || text == "/" || text == "/*":
		return Pattern{}, `for all paths write "/*".`
	case text[0] != '.' || len(text) == 1 || strings.ContainsAny(text, "*/"):
		return Pattern{}, `behind the star stands an ending that begins with a dot and holds no slash: "*.php".`
	case strings.Contains(text, "\\") || hasEscape(text):
		return Pattern{}, "no path can end so."
	}
	return Pattern{Kind: Suffix, Text: text}, ""
}

// hasEscape reports a %-escape, which a decoded path seldom holds and a pattern never means.
func hasEscape(s string) bool {
	for i := range len(s) - 2 {
		if s[i] == '%' && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0 {
			return true
		}
	}
	return false
}

// methods reads the method list. Whoever allows GET allows HEAD (RFC 9110 §9.3.2).
func (r *siteReader) methods(s *section) []string {
	var methods []string
	for i, m := range get[[]string](s, "methods", nil) {
		at := s.elementAt("methods", i)
		switch upper := strings.ToUpper(m); {
		case !isToken(m):
			r.errorf(at, "Wrong method", "%q is not a method, such as \"GET\".", m)
		case m != upper && slices.Contains(knownMethods, upper):
			r.errorf(at, "Wrong method", "Methods are case-sensitive: write %q.", upper)
		case slices.Contains(methods, m):
			r.errorf(at, "Method given twice", "%q stands in the list already.", m)
		default:
			methods = append(methods, m)
		}
	}
	if slices.Contains(methods, "GET") && !slices.Contains(methods, "HEAD") {
		methods = append(methods, "HEAD")
	}
	return methods
}

var knownMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// isToken reports an RFC 9110 §5.6.2 token.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// tryFiles reads the candidates. Each is a path with an optional query, which then replaces the request's; the last may be a
// status, "=404".
func (r *siteReader) tryFiles(s *section) (files []TryFile) {
	list := get[[]string](s, "try_files", nil)
	for i, candidate := range list {
		at := s.elementAt("try_files", i)
		var file TryFile
		switch {
		case strings.HasPrefix(candidate, "="):
			n, err := strconv.Atoi(candidate[1:])
			if err != nil || n < 400 || n > 599 || i < len(list)-1 {
				r.errorf(at, "Wrong candidate", "%q: a status is the last candidate, from \"=400\" to \"=599\".", candidate)
			}
			file.Status = n
		case !strings.HasPrefix(candidate, "{path}") && !strings.HasPrefix(candidate, "/"):
			r.errorf(at, "Wrong candidate", "%q: a candidate begins with \"/\" or with \"{path}\", or is a status such as \"=404\".", candidate)
		default:
			file.Path, file.Query, file.HasQuery = r.internalPath(at, candidate, Variables())
		}
		files = append(files, file)
	}
	return files
}

func (r *siteReader) cgi(s *section, key string) *CGI {
	cgi := &CGI{
		Root:   r.pathOf(s, "root", key+"cgi.root"),
		Script: r.pathOf(s, "script", key+"cgi.script"),
		Env:    r.variables(s, nil),
	}
	switch root, script := s.mentions("root"), s.mentions("script"); {
	case root && script:
		r.errorf(s.given["script"], "Contradiction", "\"root\" (scripts below a folder) and \"script\" (one program) exclude each other. Remove one.")
	case !root && !script:
		r.errorf(s.head, "Missing attribute", "\"cgi\" needs \"root\", the folder of the scripts, or \"script\", one program for the whole route.")
	}
	return cgi
}

func (r *siteReader) redirect(s *section) *Redirect {
	d := &Redirect{Status: get(s, "status", 302)}
	if s.has("to") {
		d.To, d.Query, _ = r.target(s.at("to"), get(s, "to", ""), Variables())
	}
	if !isRedirect(d.Status) {
		r.errorf(s.at("status"), "Wrong status", "%d is not a redirect: 301 or 308 is for ever, 302, 303 or 307 for now.", d.Status)
	}
	return d
}

func (r *siteReader) respond(s *section) *Respond {
	p := &Respond{
		Status:      get(s, "status", 200),
		Body:        r.template(s.at("body"), get(s, "body", ""), Variables()),
		ContentType: get(s, "content_type", defaultContentType),
	}
	if p.Body != nil && (p.Status == 204 || p.Status == 304) {
		r.errorf(s.at("body"), "Contradiction", "A response with status %d has no body. Remove it, or write another status.", p.Status)
	}
	return p
}

// placement checks that the route's pool exists and can run what the route names.
func (r *siteReader) placement(s *section, route *Route) {
	found := s.mentioned(handlers)
	for _, second := range found[min(1, len(found)):] {
		r.errorf(s.given[second], "Two handlers", "The route has %q already. A route has one handler; make a second route.", found[0])
	}
	if len(found) > 0 && slices.Contains([]string{"static", "redirect", "respond"}, found[0]) {
		r.without(s, "buffer", strconv.Quote(found[0])+" waits for no application")
		r.without(s, "send_file", strconv.Quote(found[0])+" waits for no application")
	}
	pool := r.namedPool(s)
	r.stripping(s, route, pool)
	switch {
	case pool == nil:
	case pool.application != "" && len(found) > 0:
		r.errorf(s.given[found[0]], "Handler on an application pool", "Pool %q runs %q and answers its requests itself. Remove the block, or name a pool without application.", pool.Name, pool.application)
	case pool.application != "":
		r.needRoot(s, route, pool.application == "php" || route.Pattern.Kind == Suffix)
	case len(found) == 0:
		r.errorf(s.head, "Missing handler", "Pool %q has no application, so the route must say what to do: %s.", pool.Name, alternatives(handlers))
	default:
		r.handlerMPM(s, found[0], &pool.Pool)
		r.needRoot(s, route, found[0] == "static" || route.FastCGI != nil && route.FastCGI.Files)
	}
}

// namedPool is the pool that a block names, which thereby is used. It is nil when there is none.
func (r *siteReader) namedPool(s *section) *readPool {
	if !s.has("pool") {
		return nil
	}
	name := get(s, "pool", "")
	if pool, ok := r.pools.byName[name]; ok {
		pool.used = true
		return pool
	}
	names := r.pools.names()
	wayOut := "There is no pool block at all: write one."
	if len(names) > 0 {
		wayOut = "Write " + alternatives(names) + "."
	}
	r.errorf(s.at("pool"), "Unknown pool", "No pool is named %q.%s %s", name, didYouMean(name, names), wayOut)
	return nil
}

// handlerMPM checks that the gateway's own handler runs on the pool's MPM.
func (r *siteReader) handlerMPM(s *section, handler string, pool *Pool) {
	switch {
	case handler == "fastcgi" && pool.MPM != Event:
		r.errorf(s.at("pool"), "Unsuitable MPM", "The FastCGI server has its own processes, so pool %q (mpm = %q) would have others that do nothing. Name a pool with mpm = \"event\", with as many max_request_workers as the server has children: the others wait in its queue.", pool.Name, pool.MPM)
	case handler == "cgi" && pool.MPM == Event:
		r.errorf(s.at("pool"), "Unsuitable MPM", "CGI needs a process for each request, and pool %q (mpm = \"event\") has none. Name a pool with mpm = \"prefork\" or \"worker\".", pool.Name)
	}
}

// needRoot reports a route that maps paths to files without saying below which folder.
func (r *siteReader) needRoot(s *section, route *Route, files bool) {
	if route.Root == "" && !s.mentions("root") && !r.lostRoot && (files || len(route.TryFiles) > 0) {
		r.errorf(s.head, "Missing root", "The route maps paths to files, but neither it nor its site has a root. Write root = \"/srv/www\" in the site.")
	}
}
