package migrate

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// unitListener is a site in the making: the addresses from which requests take one way.
type unitListener struct {
	from    Origin
	pass    *jsonValue
	listen  []string
	plain   bool // some addresses have no TLS
	bundles []*jsonValue
}

// unitStep is one step of a route: what it takes, and what it does.
type unitStep struct {
	from   Origin
	match  *jsonValue // nil: every request
	action *jsonValue
	hosts  []string // empty: all
}

// listeners makes the sites. Addresses from which requests take the same way are addresses of one site.
func (u *unitReader) listeners() {
	var list []*unitListener
	for address, v := range u.config.get("listeners").each() {
		u.leaveRest(&u.Block, v, map[string]string{
			"client_ip": "trusted_proxies in the gateway block names the proxies that are believed",
			"backlog":   "it is as long as the kernel lets it be",
			"threads":   "the front has as many as there are processors",
		}, "pass", "tls", "forwarded")
		u.trust(v.get("forwarded"))
		pass := v.get("pass")
		at := slices.IndexFunc(list, func(l *unitListener) bool { return l.pass.text() == pass.text() })
		if at < 0 {
			at = len(list)
			list = append(list, &unitListener{from: v.from, pass: pass})
		}
		u.address(list[at], address, v)
	}
	for _, l := range list {
		if len(l.listen) > 0 && l.pass != nil {
			u.sites(l)
		}
	}
}

// address adds an address of Unit to a site. Port 443 is always TLS here.
func (u *unitReader) address(l *unitListener, address string, v *jsonValue) {
	address = strings.TrimPrefix(address, "*")
	tls, secure := v.get("tls"), strings.HasSuffix(address, ":443")
	switch {
	case tls == nil && secure:
		u.Leave(v.from, "port 443 is always TLS here")
		return
	case tls == nil:
		l.plain = true
	case !secure:
		address += " tls"
	}
	if tls != nil {
		l.bundles = append(l.bundles, tls)
	}
	l.listen = append(l.listen, address)
}

// trust reads which proxies are believed what they say of their clients.
func (u *unitReader) trust(forwarded *jsonValue) {
	sources, ok := forwarded.get("source").texts()
	if forwarded == nil {
		return
	}
	if field := forwarded.get("client_ip").text(); !ok || len(sources) == 0 || field != "" && field != "X-Forwarded-For" {
		u.Leave(forwarded.from, "clients are known by X-Forwarded-For, of those that trusted_proxies in the gateway block names")
		return
	}
	u.Need(forwarded.from, "gateway").Set(forwarded.get("source").from, "trusted_proxies", sources)
}

// sites writes a site for each host that the steps name, and before them one for all other hosts, which an address's first site has.
func (u *unitReader) sites(l *unitListener) {
	steps := u.resolve(l.pass, 0)
	var hosts []string
	for _, s := range steps {
		for _, host := range s.hosts {
			if host = strings.ToLower(host); !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	others := "localhost"
	if slices.Contains(hosts, others) {
		others = "others.localhost"
	}
	for _, host := range append([]string{others}, hosts...) {
		site := u.Add(l.from, "site", host)
		if host == others && len(hosts) > 0 {
			site.Comment("For all hosts that no other site has.")
		}
		site.Set(l.from, "listen", l.listen)
		u.tls(site, l)
		u.steps(site, slices.DeleteFunc(slices.Clone(steps), func(s unitStep) bool { return !s.takes(host, others) }))
		if len(site.Blocks("route")) == 0 {
			u.respond(site, "/*", 404)
		}
		if u.exceeds(site.size()) {
			return
		}
	}
}

// takes reports whether the step is for requests of a site; those for hosts are not for the site of the others.
func (s unitStep) takes(host, others string) bool {
	return len(s.hosts) == 0 || host != others && slices.ContainsFunc(s.hosts, func(h string) bool {
		h = strings.ToLower(h)
		return h == host || strings.HasPrefix(h, "*.") && strings.HasSuffix(host, h[1:])
	})
}

func (u *unitReader) tls(site *Block, l *unitListener) {
	if len(l.bundles) == 0 {
		return
	}
	tls := site.Add(l.from, "tls")
	tls.Set(l.from, "mode", "internal")
	if l.plain {
		tls.Set(l.from, "redirect", false)
	}
	for _, bundle := range l.bundles {
		tls.Leave(bundle.from, "Unit keeps the certificates itself: write their files, certificate and key, or mode = \"auto\". Until then the gateway's own authority makes some")
	}
}

// maxUnitRoutes is how deep routes may lead to others.
const maxUnitRoutes = 8

// resolve lists the steps to which a pass leads. What leads nowhere is a step that passes there.
func (u *unitReader) resolve(pass *jsonValue, depth int) (steps []unitStep) {
	list := u.config.get("routes")
	path := strings.Split(pass.text(), "/")
	if path[0] != "routes" {
		action := &jsonValue{keys: []string{"pass"}, members: map[string]*jsonValue{"pass": pass}, from: pass.from}
		return []unitStep{{from: pass.from, action: action}}
	}
	if len(path) > 1 {
		list = list.get(strings.Join(path[1:], "/"))
	}
	if list == nil || depth == maxUnitRoutes {
		u.Leave(pass.from, "there are no such routes")
		return nil
	}
	for _, item := range list.items {
		s := unitStep{from: item.from, match: item.get("match"), action: item.get("action")}
		hosts, ok := s.match.get("host").texts()
		if s.hosts = hosts; !ok || slices.ContainsFunc(hosts, isUnitPattern) {
			u.Leave(s.from, "a site's names are exact, or begin with \"*.\"")
			continue
		}
		inner := s.action.get("pass")
		if strings.HasPrefix(inner.text()+"/", "routes/") {
			steps = append(steps, u.nested(s, u.resolve(inner, depth+1))...)
			if u.exceeds(len(steps)) {
				return nil
			}
			continue
		}
		steps = append(steps, s)
	}
	return steps
}

func isUnitPattern(host string) bool {
	return strings.ContainsAny(strings.TrimPrefix(host, "*."), "*!~")
}

// nested are the steps of routes to which a step leads, with its hosts.
func (u *unitReader) nested(outer unitStep, inner []unitStep) []unitStep {
	if outer.match != nil && slices.ContainsFunc(outer.match.keys, func(key string) bool { return key != "host" }) {
		u.Leave(outer.from, "routes within routes can be carried over for hosts only")
		return nil
	}
	for i, s := range inner {
		if len(outer.hosts) == 0 {
			break
		}
		if len(s.hosts) > 0 {
			u.Leave(s.from, "routes within routes can be carried over only if one of them names hosts")
			return nil
		}
		inner[i].hosts = outer.hosts
	}
	return inner
}

func (u *unitReader) steps(site *Block, steps []unitStep) {
	for i, s := range steps {
		if s.action == nil {
			site.Leave(s.from, "it does nothing")
			continue
		}
		u.step(site, s, i == len(steps)-1)
	}
}

// step writes one step as routes, one for each pattern; what patterns can't say, as a rewrite if it only answers.
func (u *unitReader) step(site *Block, s unitStep, last bool) {
	patterns, not, ok := unitPatterns(s.match.get("uri"))
	if !ok || !onlyHas(s.match, "host", "uri", "method") || len(not) > 0 && !last {
		u.rewrite(site, s)
		return
	}
	for _, pattern := range not {
		if script := u.script(s.action); script != pattern {
			u.respond(site, pattern, 404)
		}
	}
	for _, pattern := range patterns {
		u.route(site, pattern, s)
	}
}

func onlyHas(v *jsonValue, keys ...string) bool {
	return v == nil || !slices.ContainsFunc(v.keys, func(key string) bool { return !slices.Contains(keys, key) })
}

// unitPatterns are the patterns of routes for the paths that uri takes, and for those that it takes out.
func unitPatterns(uri *jsonValue) (patterns, not []string, ok bool) {
	list, ok := uri.texts()
	for _, text := range list {
		positive := strings.TrimPrefix(text, "!")
		pattern, fits := unitPattern(positive)
		ok = ok && fits
		switch {
		case positive != text:
			not = append(not, pattern)
		case !slices.Contains(patterns, pattern):
			patterns = append(patterns, pattern)
		}
	}
	if len(patterns) == 0 {
		patterns = []string{"/*"}
	}
	return patterns, not, ok
}

var (
	unitPath   = regexp.MustCompile(`^/[^*~]*(/\*)?$|^/\*$`)
	unitSuffix = regexp.MustCompile(`^\*(\.[^*/~]+)$`)
	unitScript = regexp.MustCompile(`^\*(\.[^*/~]+)/\*$`) // the path behind a script
)

func unitPattern(text string) (pattern string, ok bool) {
	switch m := unitScript.FindStringSubmatch(text); {
	case text == "*":
		return "/*", true
	case m != nil:
		return "*" + m[1], true
	}
	return text, unitPath.MatchString(text) || unitSuffix.MatchString(text)
}

// script is the script that an action runs for every path, at first or at last.
func (u *unitReader) script(action *jsonValue) string {
	if fallback := action.get("fallback"); fallback != nil {
		return u.script(fallback)
	}
	return u.targets[action.get("pass").text()].script
}

// unitActions are members of actions that have no counterpart.
var unitActions = map[string]string{
	"traverse_mounts": "what is mounted below the root belongs to it",
}

func (u *unitReader) route(site *Block, pattern string, s unitStep) {
	action := s.action
	methods, ok := unitMethods(s.match.get("method"))
	switch {
	case !ok:
		site.Leave(s.from, "methods are named one by one")
		return
	case action.get("rewrite") != nil:
		site.Leave(s.from, "a rewrite of a route looks for the new path from the site's first route on: see docs/config.md")
		return
	}
	route := NewBlock(s.from, "route", pattern)
	read := []string{"pass", "proxy", "response_headers"}
	switch pass := action.get("pass"); {
	case action.get("return") != nil:
		read = []string{"return", "location", "response_headers"}
		if !u.answer(site, route, action) {
			return
		}
	case action.get("share") != nil:
		read = []string{"share", "index", "fallback", "follow_symlinks", "chroot", "response_headers"}
		if !u.share(site, route, action) {
			return
		}
	case action.get("proxy") != nil:
		route.Set(s.from, "pool", u.edge())
		route.Add(s.from, "proxy").Set(action.get("proxy").from, "to", []string{unitServer(action.get("proxy").text())})
	case strings.HasPrefix(pass.text(), "upstreams/"):
		u.upstream(route, pass)
	default:
		target, ok := u.targets[pass.text()]
		if !ok {
			site.Leave(pass.originOr(s.from), "there is no such application here")
			return
		}
		u.run(site, route, target)
	}
	u.leaveRest(route, action, unitActions, read...)
	if methods != nil {
		route.Set(s.match.get("method").from, "methods", methods)
	}
	u.fields(route, action.get("response_headers"))
	site.Append(route)
}

func (v *jsonValue) originOr(from Origin) Origin {
	if v == nil {
		return from
	}
	return v.from
}

// unitMethods are the methods that a step takes; without any it takes all.
func unitMethods(methods *jsonValue) (list []string, ok bool) {
	list, ok = methods.texts()
	for i, m := range list {
		ok = ok && !strings.ContainsAny(m, "!*~")
		list[i] = strings.ToUpper(m)
	}
	return list, ok
}

// run has an application answer. A script that runs for every path is a path to try, and has a route of its own.
func (u *unitReader) run(site, route *Block, t unitTarget) {
	route.Set(route.from, "pool", t.pool)
	if !t.php {
		return
	}
	if t.root != "" {
		route.Set(route.from, "root", t.root)
	}
	pattern := route.Labels()[0]
	switch {
	case t.script != "" && pattern != t.script:
		u.scripts(site, route.from, t)
		route.Set(route.from, "try_files", []string{t.script})
	case t.script == "" && strings.HasSuffix(pattern, "/*"):
		u.scripts(site, route.from, t)
		route.Set(route.from, "try_files", []string{"{path}" + t.index, "=404"})
	case t.script == "" && strings.HasSuffix(pattern, "/"):
		u.scripts(site, route.from, t)
		route.Set(route.from, "try_files", []string{"{path}" + t.index})
	}
}

// scripts sees that the site runs the scripts of an application, before its other routes.
func (u *unitReader) scripts(site *Block, from Origin, t unitTarget) {
	pattern := t.script
	if pattern == "" {
		pattern = "*.php"
	}
	if site.Find("route", pattern) != nil || site.Find("route", "*.php") != nil {
		return
	}
	route := NewBlock(from, "route", pattern)
	route.Set(from, "pool", t.pool)
	if t.root != "" {
		route.Set(from, "root", t.root)
	}
	at := slices.IndexFunc(site.inner, (*Block).isRoute)
	if at < 0 {
		at = len(site.inner)
	}
	site.inner = slices.Insert(site.inner, at, route)
}

// share serves files, and reports whether it can.
func (u *unitReader) share(site, route *Block, action *jsonValue) bool {
	list, _ := action.get("share").texts()
	if len(list) == 0 {
		site.Leave(action.from, "it names no files")
		return false
	}
	root, ok := strings.CutSuffix(list[0], "$uri")
	if !ok || strings.Contains(root, "$") {
		site.Leave(action.get("share").from, "a root is one folder, below which the whole path is looked for")
		return false
	}
	if len(list) > 1 {
		route.Leave(action.get("share").from, "a route has one root, %s", root)
	}
	if types := action.get("types"); types != nil {
		site.Leave(types.from, "a route serves all files below its root, and not only those of some types: make routes of their endings")
		return false
	}
	from := action.get("share").from
	route.Set(from, "pool", u.edge())
	route.Set(from, "root", cleanRoot(root))
	if links := action.get("follow_symlinks"); links != nil && !links.isTrue() {
		route.Set(links.from, "symlinks", "none")
	}
	if chroot := action.get("chroot"); chroot != nil {
		route.Spare(chroot.from, "files are opened below the route's root, always")
	}
	static := NewBlock(from, "static")
	if index := action.get("index"); index.text() != "" {
		static.Set(index.from, "index", []string{index.text()})
	}
	if fallback := action.get("fallback"); fallback != nil {
		u.fallback(site, route, fallback)
	}
	route.Append(static)
	return true
}

// fallback says what becomes of paths at which there is no file.
func (u *unitReader) fallback(site, route *Block, fallback *jsonValue) {
	t := u.targets[fallback.get("pass").text()]
	code, _ := fallback.get("return").number()
	switch {
	case t.script != "":
		u.scripts(site, route.from, t)
		route.Set(fallback.from, "try_files", []string{"{path}", t.script})
	case t.php:
		u.scripts(site, route.from, t)
		route.Set(fallback.from, "try_files", []string{"{path}", "{path}" + t.index, "=404"})
	case code == 404:
	default:
		route.Leave(fallback.from, "only a script of PHP can stand in for files that are missing: make routes of the paths that are files")
	}
}

func (u *unitReader) upstream(route *Block, pass *jsonValue) {
	servers := u.config.get("upstreams").get(strings.TrimPrefix(pass.text(), "upstreams/")).get("servers")
	weighted := slices.ContainsFunc(servers.values(), func(v *jsonValue) bool { return v.get("weight") != nil })
	var to []string
	for address, v := range servers.each() {
		server := unitServer("http://" + address)
		if weighted {
			weight := unitWeight(v.get("weight"))
			if weight == 0 {
				route.Leave(v.from, "a server without weight gets no requests")
				continue
			}
			server += " weight=" + strconv.Itoa(weight)
		}
		to = append(to, server)
	}
	route.Set(route.from, "pool", u.edge())
	if len(to) > 0 {
		route.Add(route.from, "proxy").Set(servers.from, "to", to)
	}
}

// unitWeight is a server's share in hundredths, for Unit's have fractions. Without one it is 1.
func unitWeight(v *jsonValue) int {
	if v == nil {
		return 100
	}
	n, _ := v.value.(json.Number)
	f, err := n.Float64()
	if err != nil || f < 0 {
		return 0
	}
	return int(math.Round(min(f, 10000) * 100))
}

// unitServer is a server of Unit as a route's proxy has it.
func unitServer(text string) string {
	return strings.Replace(text, "http://unix:", "unix:", 1)
}

// answer has the gateway itself answer, and reports whether it can.
func (u *unitReader) answer(site, route *Block, action *jsonValue) bool {
	status, _ := action.get("return").number()
	route.Set(route.from, "pool", u.edge())
	if location := action.get("location"); location != nil && status >= 300 && status < 400 {
		to, ok := unitTemplate(location.text())
		if !ok {
			site.Leave(location.from, "one of its variables is not known here")
			return false
		}
		redirect := route.Add(route.from, "redirect")
		redirect.Set(location.from, "to", to)
		redirect.Set(action.get("return").from, "status", status)
		return true
	}
	route.Add(route.from, "respond").Set(action.get("return").from, "status", status)
	return true
}

// fields changes the header of responses; a value that is null takes a field away.
func (u *unitReader) fields(b *Block, fields *jsonValue) {
	var removed []string
	for name, value := range fields.each() {
		text, ok := unitTemplate(value.text())
		switch {
		case value.value == nil:
			removed = append(removed, name)
		case !ok:
			b.Leave(value.from, "one of its variables is not known here")
		default:
			b.Need(fields.from, "header").Put(value.from, "set", name, text)
		}
	}
	if removed != nil {
		b.Need(fields.from, "header").Set(fields.from, "remove", removed)
	}
}

// unitVariable is a variable in a text of Unit; unitBraces what would be one here.
var (
	unitVariable = regexp.MustCompile(`\$(?:\{([a-z0-9_]+)\}|([a-z0-9_]+))`)
	unitBraces   = regexp.MustCompile(`\{[A-Za-z0-9_.-]+\}`)
)

var unitVariables = map[string]string{"host": "{host}", "uri": "{path}", "request_uri": "{uri}", "method": "{method}", "remote_addr": "{remote_ip}"}

// unitTemplate writes the variables of a text as they are written here. The report is false if there is one that is not known.
func unitTemplate(text string) (template string, ok bool) {
	var b strings.Builder
	end := 0
	for _, m := range unitVariable.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(unitBraces.ReplaceAllString(text[end:m[0]], "{$0"))
		name := strings.Trim(text[m[0]:m[1]], "${}")
		here, known := unitVariables[name]
		if field, isField := strings.CutPrefix(name, "header_"); isField {
			here, known = "{header."+strings.ReplaceAll(field, "_", "-")+"}", true
		} else if cookie, isCookie := strings.CutPrefix(name, "cookie_"); isCookie {
			here, known = "{cookie."+cookie+"}", true
		}
		if !known {
			return "", false
		}
		b.WriteString(here)
		end = m[1]
	}
	b.WriteString(unitBraces.ReplaceAllString(text[end:], "{$0"))
	return b.String(), true
}
