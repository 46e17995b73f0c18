package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"gateway/internal/quiet"
	"gateway/mpm"
	"gateway/routes"
)

// maxRedirects bounds how often a request starts over inside the server: try_files, index files, local redirects of scripts.
const maxRedirects = 10

// hstsField tells browsers to come with TLS only; never on a connection without (RFC 6797 §7.2).
const hstsField = "Strict-Transport-Security"

// hotBytes bounds what is kept of small files in memory.
const hotBytes = 64 << 20

// Server takes requests through the routes of one configuration. It is an http.Handler, immutable and safe for concurrent use.
type Server struct {
	applications
	table       *routes.Table
	trust       *routes.Trust
	pools       map[string]pool
	files       map[folderName]*Files
	upstreams   map[*routes.Proxy]*upstreams
	proxies     []*upstreams                                   // the same in the order of the configuration
	dresses     map[*routes.Site]bool                          // see [Server.dress]
	relayRoutes map[*routes.Site]map[*routes.Route]*relayRoute // nil for a site: it has none
	passwords   *passwords
	limiters    map[*routes.RateLimit]*limiter
	limited     []limitPlace          // the same in the order of the configuration
	responses   map[string]*responses // by pool; "": of requests that came to none
	hot         *hotCache
	encoders    map[*routes.Compress]*encoders
	refusals    quiet.Limiter // of warnings about files
	encrypt     Encrypt
	log         Logger
}

// Option changes how a [Server] works.
type Option func(*Server)

// WithEncrypt says how TLS is spoken to servers. Without it, with none.
func WithEncrypt(e Encrypt) Option { return func(s *Server) { s.encrypt = e } }

// pool is a pool and what its children run.
type pool struct {
	*mpm.Pool
	config *routes.Pool
}

// NewServer opens the folders of a configuration. pools has a pool for each of its names. The caller must call Close.
func NewServer(c *routes.Config, pools map[string]*mpm.Pool, log Logger, options ...Option) *Server {
	s := &Server{
		table: routes.NewTable(c), trust: &c.Gateway.Trust, pools: map[string]pool{}, files: map[folderName]*Files{}, upstreams: map[*routes.Proxy]*upstreams{},
		encoders: map[*routes.Compress]*encoders{}, dresses: map[*routes.Site]bool{}, relayRoutes: map[*routes.Site]map[*routes.Route]*relayRoute{}, limiters: map[*routes.RateLimit]*limiter{},
		passwords: newPasswords(), responses: map[string]*responses{"": new(responses)}, encrypt: noTLS, log: log,
	}
	for _, option := range options {
		option(s)
	}
	for i := range c.Pools {
		s.pools[c.Pools[i].Name] = pool{pools[c.Pools[i].Name], &c.Pools[i]}
		s.responses[c.Pools[i].Name] = new(responses)
	}
	s.hot = newHotCache(hotBytes, s.pools)
	s.applications = newApplications(c, log)
	s.spool.try()
	for i := range c.Sites {
		site := &c.Sites[i]
		s.dresses[site] = dresses(site)
		s.addLimiters(site, "", site.RateLimits)
		if len(site.Rewrites) > 0 {
			s.open(site.Rewrites[0].Line, site.Root, site.Symlinks, false)
		}
		for j := range site.Routes {
			s.addRoute(site, &site.Routes[j])
		}
	}
	return s
}

// addRoute makes what a route needs at work.
func (s *Server) addRoute(site *routes.Site, r *routes.Route) {
	s.addLimiters(site, r.Line, r.RateLimits)
	if r.Access != nil && r.Access.Auth != nil {
		s.passwords.files[r.Access.Auth.File] = new(atomic.Pointer[users])
	}
	p := s.pools[r.Pool]
	s.open(r.Line, r.Root, r.Symlinks, p.hasDeputies())
	if r.CGI != nil {
		s.open(r.Line, r.CGI.Root, r.Symlinks, p.hasDeputies())
	}
	if r.Compress != nil && s.encoders[r.Compress] == nil {
		s.encoders[r.Compress] = newEncoders(r.Compress)
	}
	if r.SendFile != nil {
		its := s.pools[r.SendFile.Pool]
		for _, folder := range r.SendFile.Folders() {
			s.open(r.Line, folder, r.Symlinks, its.hasDeputies())
		}
	}
	if r.Proxy != nil {
		u := newUpstreams(r, s.encrypt, s.log)
		s.upstreams[r.Proxy], s.proxies = u, append(s.proxies, u)
		if relayed := s.newRelayRoute(site, r); relayed != nil {
			if s.relayRoutes[site] == nil {
				s.relayRoutes[site] = map[*routes.Route]*relayRoute{}
			}
			s.relayRoutes[site][r] = relayed
		}
	}
}

// open makes Files of a folder that a line names. One that can't be opened concerns its routes alone. With deputies somebody else
// may perhaps look where the front may not.
func (s *Server) open(line, root string, links routes.Symlinks, deputies bool) {
	name := nameFolder(root, links)
	if root == "" || s.files[name] != nil {
		return
	}
	f, err := NewFiles(root, links)
	if err != nil && !(deputies && errors.Is(err, fs.ErrPermission)) {
		s.log.Errorw("folder can't be opened by the front's user: its routes answer 403 or 404 until it can", "route", line, "folder", root, "error", err)
	}
	s.files[name] = f
}

// Close closes the folders, and the connections to servers that wait for a request.
func (s *Server) Close() error {
	s.hot.clear()
	for _, u := range s.upstreams {
		u.close()
	}
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r)
	x.uri, x.asked = r.RequestURI, r.URL.Path
	s.believe(x, r.Header)
	x.site = s.table.Site(x.listener, hostname(r.Host))
	if x.site == nil {
		s.fail(w, x, http.StatusNotFound, fmt.Errorf("no site listens on %q", x.listener))
		return
	}
	if x.notes != nil {
		x.note("site %s, address %s", strings.Join(x.site.Names, " "), x.listener)
	}
	if x.secure && x.notes == nil && !x.tls.session.Serves(x.site, hostname(r.Host)) {
		s.warn("request for another site than the one that its connection asked for by server name (SNI): a proxy in front must send the host's name there", r.RequestURI, fmt.Errorf("host %q", r.Host))
		s.fail(w, x, http.StatusMisdirectedRequest, nil)
		return
	}
	if x.https && x.site.TLS.HSTS != "" {
		w.Header().Set(hstsField, x.site.TLS.HSTS)
	}
	w = s.dress(w, r, x)
	s.answer(w, r, x)
	if x.failed != 0 {
		s.serveErrorPage(w, r, x)
	}
}

// answer answers a request, or leaves its error to a page.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, x *exchange) {
	if r.URL.Path == "*" {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	path, err := x.site.CleanPath(r.URL.Path)
	if err != nil {
		s.failPath(w, x, err)
		return
	}
	if path != r.URL.Path {
		x.resolved = (&url.URL{Path: path, RawPath: r.URL.Path, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}).RequestURI()
	}
	if !x.https && slices.Contains(x.site.TLS.Redirect, x.listener) {
		status := http.StatusPermanentRedirect
		if x.site.TLS.Mode == "internal" {
			status = http.StatusTemporaryRedirect // browsers remember the other one, for the whole of localhost
		}
		w.Header().Set("Location", secureURL(x.site, r))
		writeStatus(w, status)
		return
	}
	x.path, x.came = path, path
	if s.limit(w, r, x, x.site.RateLimits) {
		s.route(w, r, x, path)
	}
}

// route serves path, and every path that serving it leads to.
func (s *Server) route(w http.ResponseWriter, r *http.Request, x *exchange, path string) {
	trace := []string{path}
	for anew := true; len(trace) <= maxRedirects; anew = x.restart {
		if anew && len(x.site.Rewrites) > 0 {
			if r, path = s.rewriteSite(w, r, x, path, &trace); r == nil {
				return
			}
		}
		next := s.step(w, r, x, path)
		if next == "" {
			return
		}
		target, query, hasQuery := strings.Cut(next, "?")
		var err error
		if path, err = routes.CleanPath(target); err != nil {
			s.failPath(w, x, err)
			return
		}
		r, x.internal = redirected(r, x, path, query, hasQuery), true
		w = s.dress(w, r, x)
		trace = append(trace, path)
	}
	s.failCircle(w, x, trace)
}

// redirected is r for another path, as [routes.CleanPath] made it. What an application leads to is another request: a GET.
func redirected(r *http.Request, x *exchange, path, query string, hasQuery bool) *http.Request {
	c := *r
	c.URL = &url.URL{Path: path, RawQuery: r.URL.RawQuery}
	if x.restart {
		c = *asGet(r)
		c.URL = &url.URL{Path: path}
		c.Body, c.ContentLength, c.TransferEncoding = http.NoBody, 0, nil
		c.Header = withoutBodyFields(c.Header)
	}
	if hasQuery {
		c.URL.RawQuery = query
	}
	return &c
}

// filesOf returns a route's folder as its handlers see it; nil: the route has none.
func (s *Server) filesOf(w http.ResponseWriter, r *http.Request, x *exchange, route *routes.Route, root string) opener {
	name := nameFolder(root, route.Symlinks)
	f, p := s.files[name], s.pools[route.Pool]
	switch {
	case f == nil:
		return nil
	case p.hasDeputies() && x.notes == nil:
		return &guarded{Files: f, deputy: s.deputize(w, r, x, p), in: name}
	}
	return f
}

// isFile returns what reports whether a path is a file that a route can serve.
func (s *Server) isFile(w http.ResponseWriter, r *http.Request, x *exchange) func(*routes.Route, string) bool {
	return func(route *routes.Route, path string) bool {
		root := route.Root
		if route.CGI != nil {
			root = route.CGI.Root
		}
		f := strip(s.filesOf(w, r, x, route, root), route)
		found := f != nil && f.IsFile(path)
		if x.notes != nil {
			x.note("route %s %s: %s is a file: %t", route.Line, route.Pattern, path, found)
		}
		return found
	}
}

// withoutBodyFields is a header for a request that has no body.
func withoutBodyFields(h http.Header) http.Header {
	h = h.Clone()
	h.Del("Content-Length")
	h.Del("Content-Type")
	return h
}

// step matches one path and serves it, or returns the escaped path, with an optional query, to go on with.
func (s *Server) step(w http.ResponseWriter, r *http.Request, x *exchange, path string) (next string) {
	defer x.dismiss()
	x.path = path
	m, ok := x.site.Match(r.Method, path, s.isFile(w, r, x))
	switch {
	case x.deputy.excuse():
		return ""
	case !ok && m.Allow != nil:
		w.Header().Set("Allow", strings.Join(m.Allow, ", "))
		s.fail(w, x, http.StatusMethodNotAllowed, nil)
		return ""
	case !ok:
		s.fail(w, x, http.StatusNotFound, nil)
		return ""
	}
	if m.Route.Internal && !x.internal {
		x.note("route %s %s is internal: clients do not come to it", m.Route.Line, m.Route.Pattern)
		s.fail(w, x, http.StatusNotFound, nil)
		return ""
	}
	previous := x.route
	x.varies = x.varies || varies(x.site, m.Route)
	x.routeState = routeState{route: m.Route, path: path, script: m.Script, pathInfo: m.PathInfo}
	x.pool, x.restart = m.Route.Pool, false
	if x.notes != nil {
		x.note("route %s %s, pool %q (%s): %s", m.Route.Line, m.Route.Pattern, x.pool, s.pools[x.pool].config.MPM, path)
	}
	x.files = strip(s.filesOf(w, r, x, m.Route, m.Route.Root), m.Route)
	if cut := m.Route.Cut(); cut != "" && x.notes != nil {
		below, _ := m.Route.Below(path)
		x.note("strip_prefix: %s is cut off, and leaves %s", cut, below)
	}
	if m.Route.CGI != nil {
		x.scripts = s.filesOf(w, r, x, m.Route, m.Route.CGI.Root)
	}
	if a := m.Route.Access; a != nil && a.Auth != nil && !a.Auth.PassOn {
		x.hidesAuthorization = true // also when it is not looked at, or an application would take it for right
	}
	if !x.welcome && !s.welcome(w, r, x, previous != m.Route) {
		return ""
	}
	if m.Route.IsFolder(path) && !asksBase(m.Route) {
		redirectFolder(w, r, path)
		return ""
	}
	if len(m.Route.Rewrites) > 0 && !x.rewritten {
		if r, next = s.rewriteRoute(w, r, x); r == nil {
			return next
		}
	}
	if found, status := x.tryFiles(r); x.deputy.excuse() {
		return ""
	} else if status != 0 {
		s.fail(w, x, status, nil)
		return ""
	} else if found != "" {
		return found
	}
	if !limitBody(w, r, m.Route.MaxRequestBody) {
		s.fail(w, x, http.StatusRequestEntityTooLarge, nil)
		return ""
	}
	return s.serve(w, x.changeRequest(r), x)
}

// welcome reports whether the client may have the request's route now. If not, it has its answer. first says that the request has not
// just come from this route.
func (s *Server) welcome(w http.ResponseWriter, r *http.Request, x *exchange, first bool) bool {
	if x.route.Access == nil && len(x.route.RateLimits) == 0 {
		return true
	}
	x.deputy.release() // who waits here holds no child
	return (!first || s.limit(w, r, x, x.route.RateLimits)) && s.admit(w, r, x)
}

// varies reports whether the answers to one target can differ, or have to be counted: then the loop gives none.
func varies(s *routes.Site, r *routes.Route) bool {
	return len(s.Rewrites)+len(s.RateLimits)+len(r.Rewrites)+len(r.RateLimits)+len(r.Headers) > 0 || r.Access != nil
}

// serve calls the handler of the request's route.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, x *exchange) (next string) {
	route := x.route
	pool := s.pools[route.Pool]
	if x.notes != nil {
		return s.explain(w, r, x, pool)
	}
	if route.CGI != nil || route.Proxy != nil || route.FastCGI != nil || pool.config.HasApplication() {
		next = s.serveApplication(w, r, x, pool)
		if x.handover != nil {
			next = s.serveHandover(w, r, x)
		}
		if x.restart = next != ""; x.restart {
			x.asked = ""      // the application's choice, and not what every request for this path gets
			x.welcome = false // nor is it the page for an error any more
		}
		return next
	}
	if route.Static != nil && pool.hasDeputies() {
		return s.serveStatic(w, r, x, nil) // a hot file would be answered without the rights of the pool's user
	}
	if !s.occupy(w, r, x, pool) {
		return ""
	}
	defer x.freeSlot()
	if x.varies {
		return s.serveHere(w, r, x, nil)
	}
	return s.serveHere(w, r, x, s.hot)
}

// serveHere answers with what needs no application.
func (s *Server) serveHere(w http.ResponseWriter, r *http.Request, x *exchange, hot *hotCache) (next string) {
	switch route := x.route; {
	case route.Static != nil:
		return s.serveStatic(w, r, x, hot)
	case route.Redirect != nil:
		d := route.Redirect
		w.Header().Set("Location", x.facts(r).location(d.To, d.Query))
		writeStatus(w, d.Status)
	case route.Respond != nil:
		w.Header().Set("Content-Type", route.Respond.ContentType)
		w.WriteHeader(route.Respond.Status)
		x.freeSlot()
		// A client that has gone does not miss it.
		_, _ = io.WriteString(w, x.facts(r).body(route.Respond.Body, route.Respond.ContentType))
	}
	return ""
}

// occupy gets a slot for what runs in the front; without one the client has its answer.
func (s *Server) occupy(w http.ResponseWriter, r *http.Request, x *exchange, p pool) bool {
	x.freeSlot() // the deputy's; it may be the pool's only one
	slot, err := p.Acquire(r.Context())
	if err != nil {
		s.failAcquire(w, r, x)
		return false
	}
	x.slot, x.queueWait = slot, x.queueWait+slot.QueueWait
	return true
}

// serveStatic answers with a file.
func (s *Server) serveStatic(w http.ResponseWriter, r *http.Request, x *exchange, hot *hotCache) (next string) {
	files := shelf{files: x.files, config: x.route.Static, encoders: s.encoders[x.route.Compress], hot: hot}
	next, err := files.serve(w, r, x, x.path)
	if err != nil && !x.deputy.excuse() {
		s.warn("static file failed", r.RequestURI, err)
	}
	return escapePath(next)
}

// freeSlot gives the request's slot back, once: an answer that only has to be sent needs none.
func (x *exchange) freeSlot() {
	if x == nil {
		return
	}
	x.deputy.release()
	if x.slot != nil {
		x.slot.Release(mpm.Done)
		x.slot = nil
	}
}

// dismiss ends the work of the deputy: the next step has other routes to look at.
func (x *exchange) dismiss() {
	x.deputy.release()
	x.deputy = nil
}

// tryFiles looks for the first file of the route's list. It returns where to go on, "" for here, or a status to answer with.
func (x *exchange) tryFiles(r *http.Request) (next string, status int) {
	list := x.route.TryFiles
	v := x.facts(r)
	for i, candidate := range list {
		if candidate.Status != 0 {
			return "", candidate.Status
		}
		path, err := v.internalPath(candidate.Path)
		if err != nil {
			continue
		}
		if x.notes != nil {
			x.note("try_files %s: %s", path, lookResult(x.files.Stat(path)))
		}
		if path == x.path && x.exists(path) {
			return "", 0
		}
		if path != x.path && (i == len(list)-1 || x.files.IsFile(path)) {
			next = escapePath(path)
			if candidate.HasQuery {
				next += "?" + v.query(candidate.Query)
			}
			return next, 0
		}
	}
	return "", 0
}

// exists reports whether a static route can serve path: a file, or a folder with one of its index files or a listing.
func (x *exchange) exists(path string) bool {
	mode, err := x.files.Stat(path)
	if err != nil || mode.IsRegular() {
		return err == nil
	}
	if !mode.IsDir() || x.route.Static == nil {
		return false
	}
	if x.route.Static.Listing {
		return true
	}
	for _, index := range x.route.Static.Index {
		if x.files.IsFile(strings.TrimSuffix(path, "/") + "/" + index) {
			return true
		}
	}
	return false
}

// requestURI is what the client asked for, in its own spelling. Dots are resolved: who may have "/public/x" may not say that it lies at
// "/admin/../public/x" to an application that looks at the beginning only.
func (x *exchange) requestURI(r *http.Request) string { return cmp.Or(x.resolved, requestURI(r)) }

// requestURI is the path and query that the client sent, of an absolute-form target too.
func requestURI(r *http.Request) string {
	if i := strings.Index(r.RequestURI, "://"); i > 0 {
		if j := strings.IndexByte(r.RequestURI[i+3:], '/'); j >= 0 {
			return r.RequestURI[i+3+j:]
		}
		return "/"
	}
	return r.RequestURI
}

func escapePath(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// hostname is a Host field without its port.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		return host[:i]
	}
	return host
}

// siteName is a host as sites are named: without its port and a final dot, in small letters.
func siteName(host string) string { return strings.TrimSuffix(lowerASCII(hostname(host)), ".") }

// secureURL is where a site's plain listeners send their clients.
func secureURL(site *routes.Site, r *http.Request) string {
	host := hostname(r.Host)
	if host == "" {
		host = site.Names[0]
	}
	for _, l := range site.Listen {
		if _, port, err := net.SplitHostPort(l.Address); l.TLS && err == nil {
			if port != "443" {
				host += ":" + port
			}
			break
		}
	}
	return "https://" + host + requestURI(r)
}

// limitBody makes reading more than limit bytes of the body fail. It reports false when the client announces more.
func limitBody(w http.ResponseWriter, r *http.Request, limit int64) bool {
	if limit <= 0 || r.Body == http.NoBody || r.Body == nil {
		return true
	}
	if r.ContentLength > limit {
		return false
	}
	if r.ContentLength < 0 {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	return true
}

// failPath answers a path that can't be decoded.
func (s *Server) failPath(w http.ResponseWriter, x *exchange, err error) {
	status := http.StatusBadRequest
	var e *routes.PathError
	if errors.As(err, &e) {
		status = e.Status
	}
	s.fail(w, x, status, nil)
}
