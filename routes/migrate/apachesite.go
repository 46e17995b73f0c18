package migrate

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
)

// apacheSite is a virtual host, or the site of .htaccess files, as far as it was read.
type apacheSite struct {
	*apacheReader
	from       Origin
	names      []string
	listen     []string
	root       string
	secure     bool       // SSLEngine on
	scopes     []*scope   // the whole site first
	outer      *rewriter  // of the server, before those of folders
	leads      []*rewrite // of Redirect and the like
	mounts     []mount    // other handlers than that of files
	settings   *Block     // attributes of the site
	rest       *Block     // its blocks, and what was left out
	tls        *Block     // not yet in the site
	clientCA   *directive
	compressed []string // media types
	balanced   map[string][]string
	servers    servers
	php        bool
	scripts    []string          // endings of what PHP runs
	fastcgi    string            // the server that runs PHP; empty: a pool does
	cgi        []string          // endings of CGI scripts
	ini, env   map[string]string // of PHP
	envFrom    Origin
}

// mount is a part of the site that another handler has, or files from elsewhere.
type mount struct {
	from   Origin
	label  string
	folder string                       // of files, from which the path is looked for
	strip  bool                         // without the folder of the label
	add    func(route *Block, c *scope) // c is the part of the site that the route is in
	within bool                         // its files are those of the site
	cuts   bool                         // what the route's pattern matches is cut off the path
	bare   bool                         // the path of the folder without a slash behind it is the mount's, too
}

// mount adds a mount, in place of one for the same paths: that of the server, where a virtual host has its own.
func (s *apacheSite) mount(m mount) {
	s.mounts = slices.DeleteFunc(s.mounts, func(old mount) bool { return old.label == m.label })
	s.mounts = append(s.mounts, m)
}

// urlOf is the path that leads to a folder through the mount.
func (m *mount) urlOf(folder string) (url string, ok bool) {
	below, ok := strings.CutPrefix(folder+"/", strings.TrimSuffix(m.folder, "/")+"/")
	if m.strip {
		return m.top() + below, ok && m.folder != ""
	}
	return "/" + below, ok && m.folder != "" && strings.HasPrefix("/"+below, m.top())
}

// top is the folder of the label.
func (m *mount) top() string { return strings.TrimSuffix(m.label, "*") }

// rootOf is the folder in which the files of a part of the mount are looked for.
func (m *mount) rootOf(at string) string {
	if rest, ok := strings.CutPrefix(at, m.top()); ok && m.strip {
		return path.Join(m.folder, rest)
	}
	return m.folder
}

// place says where the files of a part of the mount are.
func (m *mount) place(route *Block, from Origin, at string) {
	if route.Set(from, "root", m.rootOf(at)); m.strip {
		route.Set(from, "strip_prefix", true)
	}
}

// scope is a folder of a site, or a part of its paths, for which something was said.
type scope struct {
	path     string // ends in a slash
	rules    *rewriter
	access   access
	block    *Block            // what goes into its routes: headers, error pages
	set      map[string]string // symlinks
	index    []string
	listing  *bool
	noPHP    bool
	expires  expiry
	guarded  []*Block // rewrites that are asked behind the access, see apacheSite.guard
	types    map[string]string
	names    []*namedFiles
	from     Origin
	anything bool // it needs routes of its own
	bare     bool // the path without a slash behind it leads to the folder, and nothing else does

	preservesHost, overrides, sends *directive // ProxyPreserveHost, ProxyErrorOverride, XSendFile; nil: as around it
	sendRoots                       []string
}

func (r *apacheReader) newSite(from Origin) *apacheSite {
	s := &apacheSite{
		apacheReader: r, from: from, settings: &Block{}, rest: &Block{}, tls: &Block{}, balanced: map[string][]string{},
		servers: servers{hosts: map[string]bool{}}, ini: map[string]string{}, env: map[string]string{}, outer: newRewriter("", ""),
	}
	s.scope("/", from)
	return s
}

func newRewriter(folder, root string) *rewriter {
	return &rewriter{folder: folder, root: root, known: map[string]string{}}
}

// scope returns the part of the site below a path, which ends in a slash.
func (s *apacheSite) scope(at string, from Origin) *scope {
	for _, c := range s.scopes {
		if c.path == at {
			return c
		}
	}
	c := &scope{path: at, rules: newRewriter(at, s.root), block: &Block{}, set: map[string]string{}, types: map[string]string{}, from: from}
	s.scopes = append(s.scopes, c)
	return c
}

// leave notes what has no counterpart, once for all sites.
func (s *apacheSite) leave(d directive, reason string) {
	if !s.told[d.Origin] {
		s.told[d.Origin] = true
		s.rest.Leave(d.Origin, "%s", reason)
	}
}

// read takes the directives of a section that concerns a part of the site.
func (s *apacheSite) read(c *scope, list []directive) {
	for _, d := range list {
		reason := s.directive(c, d)
		if reason != "" && restricts(d) {
			c.access.shut, c.access.from, c.anything = true, d.Origin, true
			reason += ": nobody may come in until this is decided"
		}
		if reason != "" {
			s.leave(d, reason)
		}
	}
}

// directive takes one. It returns why it has no counterpart.
func (s *apacheSite) directive(c *scope, d directive) (reason string) {
	s.php = s.php || strings.Contains(strings.ToLower(d.Text), "php")
	switch {
	case d.fault != "":
		return d.fault
	case d.name[0] == '<' && !strings.HasPrefix(d.name, "<require"):
		return s.section(c, d)
	case c.access.directive(d):
		c.anything = true
		return ""
	case strings.HasPrefix(d.name, "rewrite"):
		return s.rewriting(c, d)
	case strings.HasPrefix(d.name, "redirect"):
		return s.redirect(c, d)
	case strings.HasPrefix(d.name, "php_"):
		return s.phpSetting(c, d)
	case needless[d.name]:
		return ""
	case strings.HasPrefix(d.name, "sslproxy"):
		return s.proxyTLS(d)
	case strings.HasPrefix(d.name, "ssl"):
		return s.ssl(d)
	case strings.HasPrefix(d.name, "proxy"), d.name == "balancermember":
		return s.proxy(c, d)
	case strings.HasPrefix(d.name, "expires"):
		return c.expires.directive(d)
	}
	if done, reason := s.setting(c, d); done {
		return reason
	}
	return s.content(c, d)
}

// section takes a section that stands in another one.
func (s *apacheSite) section(c *scope, d directive) (reason string) {
	arg := d.arg(0)
	switch d.name {
	case "<files", "<filesmatch":
		return s.files(c, d)
	case "<directory":
		return s.folder(d)
	case "<location":
		if arg == "~" || strings.ContainsAny(arg, "*?[") {
			return "only a path can be told here"
		}
		if slices.ContainsFunc(d.inner, func(inner directive) bool { return inner.name == "sethandler" && isStatus[inner.arg(0)] }) {
			return "" // `gateway status` tells it
		}
		s.read(s.scope(strings.TrimSuffix(path.Clean("/"+arg), "/")+"/", d.Origin), d.inner)
		return ""
	case "<locationmatch":
		return s.match(d)
	case "<limit", "<limitexcept":
		return s.limit(c, d)
	case "<proxy":
		if restricts(d) {
			return "who may reach a server is said for its paths"
		}
		for _, inner := range d.inner {
			if inner.name == "balancermember" {
				s.balanced[arg] = append(s.balanced[arg], inner.raw)
			} else if !needless[inner.name] && inner.name != "require" {
				s.leave(inner, "it has no counterpart")
			}
		}
		return ""
	}
	return "it has no counterpart: what it holds is left, too"
}

// isStatus are the handlers that tell how the server is.
var isStatus = setOf("server-status server-info balancer-manager ldap-status")

// folder reads a <Directory>. Those around the root hold for the whole site, others where a path leads to them.
func (s *apacheSite) folder(d directive) (reason string) {
	arg := d.arg(0)
	if i := strings.IndexAny(arg, "*?["); i >= 0 && !strings.HasPrefix(s.root, arg[:i]) && !strings.HasPrefix(arg[:i], s.root+"/") {
		return "" // nothing leads there
	}
	if arg == "~" || strings.ContainsAny(arg, "*?[") {
		return "only one folder can be told here"
	}
	if arg = path.Clean(arg); s.root == "" {
		return ""
	}
	if s.root == arg || arg == "/" || strings.HasPrefix(s.root, arg+"/") {
		s.read(s.scopes[0], d.inner)
		return ""
	}
	if below, ok := strings.CutPrefix(arg, strings.TrimSuffix(s.root, "/")+"/"); ok {
		s.read(s.scope("/"+below+"/", d.Origin), d.inner)
	}
	for _, m := range s.mounts { // or nothing leads there
		if url, ok := m.urlOf(arg); ok {
			s.read(s.scope(url, d.Origin), d.inner)
		}
	}
	return ""
}

// restricts reports whether a section keeps somebody out.
func restricts(d directive) bool {
	var a access
	for _, inner := range d.inner {
		if !a.directive(inner) && restricts(inner) {
			return true
		}
	}
	v := a.verdict()
	return d.name[0] == '<' && !v.isOpen()
}

// match reads a <LocationMatch> that shuts its paths.
func (s *apacheSite) match(d directive) (reason string) {
	var a access
	patterns, reason := subject{}.translate(d.arg(0))
	for _, inner := range d.inner {
		if !a.directive(inner) {
			reason = cmp.Or(reason, "only access can be said for an expression here")
		}
	}
	if v := a.verdict(); reason == "" && v.nobody {
		for _, p := range patterns {
			s.leads = append(s.leads, p.rewrite(d.Origin, 403))
		}
		return v.fault
	}
	return cmp.Or(reason, "only to refuse the paths of an expression can be said here")
}

func (p pattern) rewrite(from Origin, status int) *rewrite {
	n := &rewrite{from: from, label: p.text, status: status}
	for _, not := range p.not {
		n.not = append(n.not, term{attr: "path", value: not})
	}
	return n
}

// limit reads access for some methods.
func (s *apacheSite) limit(c *scope, d directive) (reason string) {
	var a access
	for _, inner := range d.inner {
		if !a.directive(inner) && !needless[inner.name] {
			return "only access can be said for some methods here"
		}
	}
	v, methods := a.verdict(), d.words()
	t := term{attr: "methods", list: methods}
	n := &rewrite{from: d.Origin, label: below(c.path), status: 403}
	switch {
	case len(methods) == 0:
		return "it names no method"
	case v.isOpen():
		return ""
	case d.name == "<limit" && slices.Contains(methods, "GET") && slices.Contains(methods, "POST"):
		// It was written for all methods, when the others were not known.
		for _, inner := range d.inner {
			c.access.directive(inner)
		}
		c.anything = true
		return ""
	case v.fault != "" || v.user || v.deny != nil || v.allow != nil:
		return "for some methods only to refuse them can be said here"
	case d.name == "<limit":
		n.when = [][]term{{t}}
	default:
		n.not = []term{t}
	}
	s.leads = append(s.leads, n)
	return ""
}

// below is the expression for all paths in a folder.
func below(folder string) string {
	if folder == "/" {
		return ""
	}
	return "^" + quotePath(strings.TrimSuffix(folder, "/")) + "(/|$)"
}

// natural reads a whole number.
func natural(text string) (n int, ok bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0
}
