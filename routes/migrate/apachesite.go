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
	folder string // of files, from which the path is looked for
	add    func(route *Block)
	within bool // its files are those of the site
	cuts   bool // what the route's pattern matches is cut off the path
}

// mount adds a mount, in place of one for the same paths: that of the server, where a virtual host has its own.
func (s *apacheSite) mount(m mount) {
	s.mounts = slices.DeleteFunc(s.mounts, func(old mount) bool { return old.label == m.label })
	s.mounts = append(s.mounts, m)
}

// urlOf is the path that leads to a folder through the mount.
func (m *mount) urlOf(folder string) (url string, ok bool) {
	below, ok := strings.CutPrefix(folder+"/", strings.TrimSuffix(m.folder, "/")+"/")
	return "/" + below, ok && m.folder != "" && strings.HasPrefix("/"+below, strings.TrimSuffix(m.label, "*"))
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
}

// namedFiles are the files of a folder with certain names.
type namedFiles struct {
	from    Origin
	text    string   // the expression for their paths
	endings []string // of their names, if that is all
	exact   string   // the one name
	not     []string
	access  access
	block   *Block
	cache   string // Cache-Control
}

func (r *apacheReader) newSite(from Origin) *apacheSite {
	s := &apacheSite{
		apacheReader: r, from: from, settings: &Block{}, rest: &Block{}, tls: &Block{}, balanced: map[string][]string{},
		ini: map[string]string{}, env: map[string]string{}, outer: newRewriter("", ""),
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
	case strings.HasPrefix(d.name, "ssl"):
		return s.ssl(d)
	case strings.HasPrefix(d.name, "proxy"), d.name == "balancermember":
		return s.proxy(c, d)
	case strings.HasPrefix(d.name, "expires"):
		return c.expires.directive(d)
	case needless[d.name]:
		return ""
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
			} else if inner.name != "proxyset" && !needless[inner.name] && inner.name != "require" {
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

// namesOf is the expression for the files of a section.
func (s *apacheSite) namesOf(d directive) (n *namedFiles, reason string) {
	words := d.words()
	n = &namedFiles{from: d.Origin, block: &Block{}}
	if d.name == "<files" && len(words) == 1 {
		n.text = globPattern(words[0])
		switch {
		case !strings.ContainsAny(words[0], "*?["):
			n.exact = words[0]
		case strings.HasPrefix(words[0], "*.") && !strings.ContainsAny(words[0][1:], "*?[/"):
			n.endings = []string{words[0][1:]}
		}
		return n, ""
	}
	if len(words) == 0 {
		return nil, "it names no files"
	}
	expression := words[len(words)-1]
	patterns, reason := subject{name: true}.translate(expression)
	if reason != "" {
		return nil, reason
	}
	var texts []string
	for _, p := range patterns {
		texts, n.not = append(texts, p.text), append(n.not, p.not...)
	}
	n.text, n.endings = strings.Join(texts, "|"), endings(expression)
	return n, ""
}

// files reads <Files> and <FilesMatch>.
func (s *apacheSite) files(c *scope, d directive) (reason string) {
	n, reason := s.namesOf(d)
	if reason != "" {
		return reason + ": what it holds is left, too"
	}
	for _, inner := range d.inner {
		if reason := s.named(c, n, inner); reason != "" {
			n.access.shut = n.access.shut || restricts(inner)
			s.leave(inner, reason)
		}
	}
	c.names = append(c.names, n)
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

// named takes a directive about files with certain names.
func (s *apacheSite) named(c *scope, n *namedFiles, d directive) (reason string) {
	s.php = s.php || strings.Contains(strings.ToLower(d.Text), "php")
	handler, isFCGI := strings.CutPrefix(d.arg(0), "proxy:")
	switch {
	case d.fault != "":
		return d.fault
	case n.access.directive(d), needless[d.name], d.name == "fallbackresource" && d.arg(0) == "disabled":
		return ""
	case d.name == "expiresactive" && strings.EqualFold(d.arg(0), "off") && slices.Contains(n.endings, ".php"):
		return "" // applications say it themselves
	case d.name == "sethandler" && isFCGI && n.endings != nil:
		address, ok := fcgiAddress(handler)
		if !ok {
			return "it is no address of a FastCGI server"
		}
		s.fastcgi, s.scripts = address, append(s.scripts, n.endings...)
		return ""
	case d.name == "sethandler" && n.endings != nil && isPHP(d.arg(0)):
		s.scripts = append(s.scripts, n.endings...)
		return ""
	case d.name == "sethandler" && strings.HasSuffix(d.arg(0), "-source"):
		return "" // sources of PHP are never sent
	case d.name == "sethandler" && n.endings != nil && d.arg(0) == "cgi-script":
		s.cgi = append(s.cgi, n.endings...)
		return ""
	case d.name == "header" && n.endings != nil:
		words := d.words()
		if len(words) == 3 && strings.EqualFold(words[0], "set") && strings.EqualFold(words[1], "Cache-Control") && !strings.Contains(words[2], "%") {
			n.cache = words[2]
			return ""
		}
		return header(n.block, d, "header")
	case d.name == "header" || d.name == "requestheader" || strings.HasPrefix(d.name, "expires"):
		return "only for files with certain endings headers can be said here"
	case d.name == "forcetype" && n.endings != nil:
		for _, e := range n.endings {
			c.types[e] = d.arg(0)
		}
		c.anything = true
		return ""
	case d.name == "fileetag", d.name == "setenv":
		return "only for a part of the paths it can't be said here"
	}
	return "it has no counterpart for files with certain names"
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

// rewriting takes the directives of mod_rewrite.
func (s *apacheSite) rewriting(c *scope, d directive) (reason string) {
	w := c.rules
	if s.ofServer {
		w = s.outer
		w.root = s.root
	}
	switch d.name {
	case "rewriteengine":
		w.on = strings.EqualFold(d.arg(0), "on")
	case "rewritebase":
		w.base = strings.TrimSuffix(d.arg(0), "/") + "/"
	case "rewritecond":
		w.condition(d)
	case "rewriterule":
		if w.on {
			w.rule(d)
		}
	case "rewriteoptions":
		return "rules are inherited as they stand here"
	default:
		return "it has no counterpart"
	}
	return ""
}

// redirect takes those of mod_alias.
func (s *apacheSite) redirect(c *scope, d directive) (reason string) {
	words := d.words()
	status := 302
	switch d.name {
	case "redirectpermanent":
		status = 301
	case "redirect", "redirectmatch":
		if len(words) > 0 && statusOf(words[0]) != 0 && !strings.HasPrefix(words[0], "/") && (len(words) > 1) {
			status, words = statusOf(words[0]), words[1:]
		}
	}
	if len(words) == 1 && status < 400 {
		words = []string{strings.TrimSuffix(c.path, "/"), words[0]} // in a <Location>
	}
	if len(words) == 0 || status < 400 && len(words) < 2 {
		return "it leads nowhere"
	}
	from, to := words[0], ""
	if status < 400 {
		to = words[1]
	}
	if d.name != "redirectmatch" {
		rest := "(/.*)?$"
		if strings.HasSuffix(from, "/") || from == "" {
			rest = "(.*)$"
		}
		if status < 400 {
			if strings.Count(to, "/") == 2 && strings.HasSuffix(from, "/") {
				to += "/" // what follows would become a part of the host
			}
			to = escapeBraces(to) + "{1}"
		}
		s.leads = append(s.leads, &rewrite{from: d.Origin, label: "^" + quotePath(from) + rest, to: to, status: status})
		return ""
	}
	patterns, reason := subject{}.translate(from)
	if reason != "" {
		return reason
	}
	filled, reason := s.outer.fill(to)
	if reason != "" {
		return reason
	}
	for _, p := range patterns {
		n := p.rewrite(d.Origin, status)
		n.to = filled
		s.leads = append(s.leads, n)
	}
	return ""
}

// escapeBraces keeps a text that is no template from being one.
func escapeBraces(text string) string { return bracedWord.ReplaceAllString(text, "{$0") }

// phpSetting takes a setting of mod_php, which is one of the pool.
func (s *apacheSite) phpSetting(c *scope, d directive) (reason string) {
	name, value := d.arg(0), d.arg(1)
	switch {
	case name == "":
		return "it names no setting"
	case name == "engine" && !strings.EqualFold(value, "on") && value != "1":
		c.noPHP, c.anything = true, true
		return ""
	case name == "engine":
		return ""
	case c.path != "/":
		return "settings of PHP are those of a pool: a folder with its own needs a pool of its own"
	case value == "none":
		value = ""
	}
	s.ini[name], s.envFrom = value, d.Origin
	return ""
}

// natural reads a whole number.
func natural(text string) (n int, ok bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0
}
