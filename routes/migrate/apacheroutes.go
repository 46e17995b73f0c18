package migrate

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// addresses are where a virtual host listens: "*:80", "192.0.2.1:8443", "_default_:443", "[::1]:80", or those of the server for "*".
func (s *apacheSite) addresses(words []string) {
	for _, word := range words {
		host, port := word, ""
		if i := strings.LastIndexByte(word, ':'); i >= 0 && !strings.HasSuffix(word, "]") {
			host, port = word[:i], word[i+1:]
		} else if _, ok := natural(word); ok {
			host, port = "", word
		}
		if host == "*" || host == "_default_" || host == "0.0.0.0" || host == "[::]" {
			host = ""
		}
		switch n, ok := natural(port); {
		case ok && n > 0 && n < 1<<16:
			s.listen = append(s.listen, host+":"+strconv.Itoa(n))
		case host == "" && word == "*" && len(s.apacheReader.listen) > 0:
			s.addresses(s.apacheReader.listen)
		default:
			s.listen = append(s.listen, host+":80")
		}
	}
	if s.listen == nil {
		s.listen = []string{":80"}
	}
	for i, address := range s.listen {
		switch is443 := strings.HasSuffix(address, ":443"); {
		case s.secure && !is443:
			s.listen[i] += " tls"
		case !s.secure && is443:
			s.rest.Leave(s.from, "SSLEngine is not on, and port 443 is TLS here")
		}
	}
	slices.Sort(s.listen)
	s.listen = slices.Compact(s.listen)
}

// write adds the site to the document.
func (s *apacheSite) write() {
	root := s.scopes[0]
	s.names = distinct(s.names)
	if s.names == nil {
		s.names = []string{"localhost"}
	}
	b := s.Add(s.from, "site", s.names...)
	b.Set(s.from, "listen", s.listen)
	if s.root != "" {
		b.Set(s.from, "root", s.root)
	}
	if links := root.set["symlinks"]; links != "" && s.root != "" {
		b.Set(root.from, "symlinks", links)
	}
	if root.index == nil && s.php && s.root != "" {
		root.index = []string{"index.php", "index.html"}
	}
	if root.index != nil {
		b.Set(root.from, "index", root.index)
	}
	b.inner = append(b.inner, s.settings.inner...)
	outer := root.access.verdict()
	shut := s.refusals()
	excepted := len(shut) > 0 && shut[0].label == "" // a rewrite shuts the site, but for some files and folders
	if !excepted || outer.fault != "" {
		root.access.write(b, outer, verdict{})
	}
	if s.secure || len(s.tls.inner) > 0 {
		s.writeTLS(b)
	}
	s.intercept()
	s.checkReverses()
	b.inner = append(b.inner, s.rest.inner...)
	b.inner = append(b.inner, root.block.inner...)
	s.writeRewrites(b, shut)
	s.writeRoutes(b)
}

func distinct(names []string) (list []string) {
	for _, name := range names {
		if name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

func (s *apacheSite) writeTLS(b *Block) {
	t := b.Add(s.from, "tls")
	t.inner = s.tls.inner
	if auth := t.Find("client_auth"); auth != nil && s.clientCA != nil {
		auth.Set(s.clientCA.Origin, "ca", s.clientCA.arg(0))
	}
}

// inherited is what a folder says of access, with what it leaves to the folders around it.
func (s *apacheSite) inherited(c *scope) access {
	a := c.access
	for _, outer := range s.around(c) {
		a = a.inherit(outer.access)
	}
	return a
}

// around are the parts of the site in which a part is, the innermost first.
func (s *apacheSite) around(c *scope) (list []*scope) {
	for _, o := range s.scopes {
		if o != c && strings.HasPrefix(c.path, o.path) {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b *scope) int { return cmp.Compare(len(b.path), len(a.path)) })
	return list
}

// refusals are the rewrites that answer 403: for folders that are shut, and for names.
func (s *apacheSite) refusals() (list []*rewrite) {
	for _, c := range s.scopes {
		a := s.inherited(c)
		v := a.verdict()
		open := c.opened(a)
		for _, o := range s.scopes { // a folder in it that is open again
			if inner := s.inherited(o); o != c && strings.HasPrefix(o.path, c.path) && !inner.verdict().nobody {
				open = append(open, term{attr: "path", value: below(o.path)})
			}
		}
		if v.nobody && (c.path != "/" || open != nil) && c.access.says() {
			if v.fault != "" {
				s.rest.Leave(a.from, "%s", v.fault)
			}
			list = append(list, &rewrite{from: a.from, label: below(c.path), status: 403, not: open})
		}
		if m := s.mountOf(c.path); m != nil && m.cuts && m.label != c.path+"*" && s.restricts(c) {
			s.rest.Leave(a.from, "a part of a folder that is cut off, for scripts or for a server, has no access of its own: nobody may come in until this is decided")
			list = append(list, &rewrite{from: a.from, label: below(c.path), status: 403})
		}
		if !v.nobody {
			list = append(list, s.refusedNames(c)...)
		}
	}
	return list
}

// restricts reports whether not everybody may come into a part of the site, but somebody.
func (s *apacheSite) restricts(c *scope) bool {
	a := s.inherited(c)
	v := a.verdict()
	return c.path != "/" && c.access.says() && !v.isOpen() && !v.nobody
}

// mountOf is the mount that has the paths of a folder; nil: they are those of the site's files.
func (s *apacheSite) mountOf(folder string) (found *mount) {
	for i, m := range s.mounts {
		if prefix, ok := strings.CutSuffix(m.label, "*"); ok && strings.HasPrefix(folder, prefix) && (found == nil || len(m.label) > len(found.label)) {
			found = &s.mounts[i]
		}
	}
	return found
}

// writeRewrites writes them in the order in which Apache asks: what is shut, what leads elsewhere, the rules of folders, the inner ones
// in place of the outer ones.
func (s *apacheSite) writeRewrites(b *Block, shut []*rewrite) {
	var all, folders []*rewrite
	for _, c := range s.scopes {
		folders = append(folders, c.rules.list...)
	}
	all = append(all, s.outer.before(s.leads, folders)...) // a server's rules come before its redirects
	all = append(all, s.leads...)
	scopes := slices.SortedStableFunc(slices.Values(s.scopes), func(a, b *scope) int { return cmp.Compare(len(b.path), len(a.path)) })
	if elsewhere := s.elsewhere(); elsewhere != nil && slices.ContainsFunc(scopes, func(c *scope) bool { return len(c.rules.list) > 0 }) {
		all = append(all, elsewhere)
	}
	for i, c := range scopes {
		c.rules.settle(shut)
		if c.rules.catchesFolders() {
			all = append(all, c.rules.slash(c.from))
		}
		all = append(all, c.rules.list...)
		outer := slices.ContainsFunc(scopes[i+1:], func(o *scope) bool { return strings.HasPrefix(c.path, o.path) && len(o.rules.list) > 0 })
		if c.rules.on && outer && c.path != "/" {
			all = append(all, &rewrite{from: c.from, label: "^" + quotePath(c.path), then: "last"})
		}
	}
	for _, n := range shut {
		b.Append(n.block())
	}
	s.guard(b, all)
	for _, n := range all {
		if n.reason != "" {
			b.Leave(n.from, "%s", n.reason)
			continue
		}
		b.Append(n.block())
	}
}

// guard leaves the rewrites for those parts of the site to their routes where not everybody may come in: rewrites of a site are asked
// before access, and would lead around it.
func (s *apacheSite) guard(b *Block, all []*rewrite) {
	for _, c := range s.scopes {
		if len(all) == 0 || !s.restricts(c) {
			continue
		}
		guard := rewrite{from: c.access.from, label: below(c.path), then: "last"}
		b.Append(guard.block())
		for _, n := range all {
			if n.reason == "" && n.concerns(c.path) {
				c.guarded = append(c.guarded, n.block())
			}
		}
	}
}

// elsewhere keeps the rules of folders from paths that lead to none of them; nil: there are no such paths.
func (s *apacheSite) elsewhere() *rewrite {
	var names []string
	n := &rewrite{then: "last"}
	for _, m := range s.mounts {
		if folder := strings.Trim(m.label, "/*"); !m.within && !slices.Contains(names, quotePath(folder)) {
			n.from, names = m.from, append(names, quotePath(folder))
		}
	}
	switch {
	case names == nil:
		return nil
	case len(names) == 1:
		n.label = "^/" + names[0] + "(/|$)"
	default:
		n.label = "^/(" + strings.Join(names, "|") + ")(/|$)"
	}
	if slices.Contains(names, "") {
		n.label = ""
	}
	return n
}

// writeRoutes writes the routes, those for less before those for more.
func (s *apacheSite) writeRoutes(b *Block) {
	s.scripts, s.cgi = distinct(s.scripts), distinct(s.cgi)
	if s.php && s.scripts == nil {
		s.scripts = []string{".php"}
	}
	root := s.scopes[0]
	for _, n := range root.names {
		a := n.access.inherit(root.access)
		if v := a.verdict(); v.user && n.access.says() && n.exact != "" {
			route := b.Add(n.from, "route", "/"+n.exact)
			a.write(route, v, root.access.verdict())
			s.handle(route, root, endsIn("/"+n.exact, s.scripts), "")
		}
	}
	byLength := func(x, y string) int { return cmp.Compare(len(y), len(x)) }
	slices.SortStableFunc(s.mounts, func(x, y mount) int { return byLength(x.label, y.label) })
	scopes := slices.SortedStableFunc(slices.Values(s.scopes[1:]), func(x, y *scope) int { return byLength(x.path, y.path) })
	for _, m := range s.mounts {
		for len(scopes) > 0 && len(scopes[0].path) >= len(m.label) {
			s.writeScope(b, scopes[0])
			scopes = scopes[1:]
		}
		if m.label != "/*" {
			s.writeMount(b, m)
		}
	}
	for _, c := range scopes {
		s.writeScope(b, c)
	}
	if i := slices.IndexFunc(s.mounts, func(m mount) bool { return m.label == "/*" }); i >= 0 {
		s.writeMount(b, s.mounts[i])
		return
	}
	if s.root == "" { // there are no files: the rewrites answer, or the mounts
		s.respond(b, "/*", 404)
		return
	}
	s.writeFiles(b, root, nil)
}

func endsIn(name string, endings []string) bool {
	return slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(name, e) })
}

// writeMount writes the routes of a path that leads elsewhere, as the part of the site says that it is in.
func (s *apacheSite) writeMount(b *Block, m mount) {
	c := s.scopes[0]
	for _, o := range s.scopes {
		if strings.HasPrefix(strings.TrimSuffix(m.label, "/*")+"/", o.path) && len(o.path) > len(c.path) {
			c = o
		}
	}
	if m.add == nil {
		folder := &scope{path: m.top(), set: maps.Clone(c.set), block: c.block, from: m.from, listing: c.listing, index: c.index, noPHP: c.noPHP, types: c.types, names: c.names, bare: m.bare}
		if c == s.scopes[0] {
			folder.block = &Block{}
		}
		s.writeFiles(b, folder, &m)
		return
	}
	route := b.Add(m.from, "route", m.label)
	if c != s.scopes[0] {
		s.dress(route, c)
	}
	s.lead(route, c, m)
}

// lead gives the route of a mount its handler.
func (s *apacheSite) lead(route *Block, c *scope, m mount) {
	m.add(route, c)
	if !m.within {
		s.sendFile(route, c)
	}
}

// dress writes what a part of the site says of its routes.
func (s *apacheSite) dress(route *Block, c *scope) {
	a := s.inherited(c)
	around := s.around(c)
	if v := a.verdict(); len(around) > 0 && !(v.nobody && c.opened(a) != nil) { // else a rewrite refuses the others
		outer := s.inherited(around[len(around)-1])
		a.write(route, v, outer.verdict())
	}
	for _, name := range slices.Sorted(maps.Keys(c.set)) {
		route.Set(c.from, name, c.set[name])
	}
	for _, o := range slices.Backward(around) {
		if o.path != "/" {
			route.inner = append(route.inner, o.block.inner...)
		}
	}
	route.inner = append(route.inner, c.block.inner...)
	route.inner = append(route.inner, c.guarded...)
}

// writeScope writes the routes of a part of the site, unless it is shut or nothing was said of it that routes say.
func (s *apacheSite) writeScope(b *Block, c *scope) {
	a, m := s.inherited(c), s.mountOf(c.path)
	v := a.verdict()
	switch {
	case !c.anything, v.nobody && c.opened(a) == nil, m != nil && m.label == c.path+"*": // its routes are the mount's
	case m == nil || m.add == nil:
		s.writeFiles(b, c, m)
	case !m.cuts:
		for _, label := range []string{strings.TrimSuffix(c.path, "/"), c.path + "*"} {
			route := b.Add(c.from, "route", label)
			s.dress(route, c)
			s.lead(route, c, *m)
		}
	}
}

// writeFiles writes the routes for scripts and files of a part of the site, whose files are a mount's; nil: the site's.
func (s *apacheSite) writeFiles(b *Block, c *scope, m *mount) {
	top := c.path
	if top == "/" {
		top = ""
	}
	routes := func(ending string) *Block {
		route := b.Add(c.from, "route", top+"*"+ending)
		if m != nil {
			m.place(route, c.from, c.path)
		}
		if c.path != "/" {
			s.dress(route, c)
		}
		return route
	}
	for _, ending := range s.cgi {
		route := routes(ending)
		route.Set(c.from, "pool", s.scriptPool())
		folder := s.root
		if m != nil {
			folder = m.rootOf(c.path)
		}
		route.Add(c.from, "cgi").Set(c.from, "root", folder)
		s.sendFile(route, c)
	}
	if !c.noPHP {
		for _, ending := range s.scripts {
			s.handle(routes(ending), c, true, ending)
		}
	}
	for _, n := range c.names {
		if len(n.block.inner) == 0 {
			continue
		}
		for _, ending := range n.endings {
			if slices.Contains(s.scripts, ending) {
				continue
			}
			route := routes(ending)
			route.inner = append(route.inner, n.block.inner...)
			s.handle(route, c, false, ending)
		}
	}
	labels := []string{c.path + "*"}
	if (s.restricts(c) || c.bare) && (m == nil || !m.strip) { // which has the path without the slash anyway
		labels = []string{strings.TrimSuffix(c.path, "/"), c.path + "*"}
	}
	for _, label := range labels {
		route := b.Add(c.from, "route", label)
		if m != nil {
			m.place(route, c.from, c.path)
		}
		if c.path != "/" {
			s.dress(route, c)
		}
		s.handle(route, c, false, "")
	}
}

// addFiles is the handler of a path that is no longer a server's.
func (s *apacheSite) addFiles(route *Block, _ *scope) { s.handle(route, s.scopes[0], false, "") }

// handle gives a route its pool and, for files, their handler; ending is that of all its files, if there is one.
func (s *apacheSite) handle(route *Block, c *scope, script bool, ending string) {
	if script {
		s.sendFile(route, c)
	}
	for _, p := range s.fpms {
		if script && s.fastcgi != "" && p.listen == s.fastcgi {
			route.Set(s.from, "pool", p.name())
			return
		}
	}
	switch {
	case script && s.fastcgi != "":
		route.Set(s.from, "pool", s.fpmPool())
		f := route.Add(s.from, "fastcgi")
		f.Set(s.from, "to", s.fastcgi)
		if len(s.env) > 0 {
			f.Set(s.envFrom, "env", s.env)
		}
		return
	case script:
		route.Set(s.from, "pool", s.phpPool())
		return
	}
	route.Set(s.from, "pool", s.edge())
	static := route.Add(c.from, "static")
	if c.index != nil && c.path != "/" {
		static.Set(c.from, "index", c.index)
	}
	if c.listing != nil && *c.listing {
		static.Set(c.from, "listing", true)
	}
	e := c.expires
	if c.path != "/" && e.base == "" && e.byType == nil {
		e = s.scopes[0].expires
	}
	base := e.base
	cache := map[string]string{}
	if !e.off {
		maps.Copy(cache, e.byType)
	}
	for _, o := range slices.Backward(append([]*scope{c}, s.around(c)...)) { // the nearest has the last word
		for _, n := range o.names {
			for _, ending := range n.endings {
				if n.cache != "" {
					cache[ending] = n.cache
				}
			}
		}
		if len(o.types) > 0 {
			static.Set(o.from, "types", o.types)
		}
	}
	if value, ok := cache[ending]; ok {
		base = value
	}
	if base != "" && !e.off {
		static.Set(c.from, "cache_control", base)
	}
	if len(cache) > 0 && ending == "" {
		static.Set(c.from, "cache_by_suffix", cache)
	}
}

// said is what the part of the site says of something, or the innermost one around it that does; nil: none.
func (s *apacheSite) said(c *scope, of func(*scope) *directive) *directive {
	for _, o := range append([]*scope{c}, s.around(c)...) {
		if d := of(o); d != nil {
			return d
		}
	}
	return nil
}

// sendFile lets an application name files, as mod_xsendfile does: of the paths it was given, and of the site.
func (s *apacheSite) sendFile(route *Block, c *scope) {
	on := s.said(c, func(o *scope) *directive { return o.sends })
	if on == nil || !on.isOn() {
		return
	}
	roots := []string{s.root}
	for _, o := range append([]*scope{c}, s.around(c)...) {
		roots = append(roots, o.sendRoots...)
	}
	f := route.Add(on.Origin, "send_file")
	f.Set(on.Origin, "pool", s.edge())
	f.Set(on.Origin, "roots", distinct(roots))
}

// phpPool is the pool for the scripts of the site, one for all sites with the same settings.
func (s *apacheSite) phpPool() string {
	key := literalMap(s.ini) + literalMap(s.env)
	if name, ok := s.pools[key]; ok {
		return name
	}
	name := s.free("php")
	s.pools[key] = name
	pool := s.Add(s.from, "pool", name)
	pool.Set(s.from, "mpm", "prefork")
	if s.timeout != "" {
		pool.Set(s.from, "request_timeout", s.timeout)
	}
	php := pool.Add(s.from, "php")
	if len(s.ini) > 0 {
		php.Set(s.envFrom, "ini", s.ini)
	}
	if len(s.env) > 0 {
		php.Set(s.envFrom, "env", s.env)
	}
	return name
}

func literalMap(m map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		b.WriteString(literal(key) + literal(m[key]))
	}
	return b.String() + ";"
}

// fpmPool is the queue for a FastCGI server.
func (r *apacheReader) fpmPool() string {
	const name = "fpm"
	r.Need(Origin{}, "pool", name).Set(Origin{}, "mpm", "event")
	return name
}

// scriptPool runs CGI scripts.
func (r *apacheReader) scriptPool() string {
	const name = "scripts"
	r.Need(Origin{}, "pool", name).Set(Origin{}, "mpm", "prefork")
	return name
}
