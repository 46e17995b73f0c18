package migrate

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strings"
)

// fcgiAddress is the address in "fcgi://127.0.0.1:9000/dir" and "unix:/run/x.sock|fcgi://name", as fastcgi { to } has it.
func fcgiAddress(text string) (address string, ok bool) {
	if socket, rest, found := strings.Cut(text, "|"); found && strings.HasPrefix(rest, "fcgi:") && strings.HasPrefix(socket, "unix:/") {
		return socket, true
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "fcgi" || u.Port() == "" {
		return "", false
	}
	return u.Host, true
}

// servers is what a site says of all servers to which it is a proxy.
type servers struct {
	timeout   string          // ProxyTimeout
	hosts     map[string]bool // of the URLs of servers
	reverses  []directive     // ProxyPassReverse
	verify    *directive      // SSLProxyVerify
	unchecked *directive      // the last that switches a check of certificates off
	tls       Block
}

// proxy takes mod_proxy's directives.
func (s *apacheSite) proxy(c *scope, d directive) (reason string) {
	words := d.words()
	switch d.name {
	case "proxypass":
		if len(words) == 1 || len(words) > 1 && strings.Contains(words[0], "://") { // in a <Location>
			words = append([]string{cmp.Or(strings.TrimSuffix(c.path, "/"), "/")}, words...)
		}
		return s.pass(d, words)
	case "proxypassmatch":
		if len(words) > 1 {
			address, ok := fcgiAddress(strings.ReplaceAll(words[1], "$1", ""))
			if ok && matches(words[0], "/x/y.php") && !matches(words[0], "/x/y.txt") {
				s.fastcgi, s.scripts = address, append(s.scripts, ".php")
				return ""
			}
		}
		return "an expression has no counterpart here: write a route for each path"
	case "proxypassreverse":
		s.servers.reverses = append(s.servers.reverses, d)
	case "proxypreservehost":
		c.preservesHost = &d
	case "proxyerroroverride":
		c.overrides, c.anything = &d, true
	case "proxytimeout":
		s.servers.timeout = secondsOf(d.arg(0))
	default:
		return "it has no counterpart"
	}
	return ""
}

// proxyTLS takes what mod_ssl is told of servers.
func (s *apacheSite) proxyTLS(d directive) (reason string) {
	switch d.name {
	case "sslproxyverify":
		s.servers.verify = &d
	case "sslproxycheckpeername", "sslproxycheckpeercn", "sslproxycheckpeerexpire":
		if !d.isOn() {
			s.servers.unchecked = &d
		}
	case "sslproxycacertificatefile":
		s.servers.tls.Set(d.Origin, "ca", d.arg(0))
	case "sslproxymachinecertificatefile": // it holds both
		s.servers.tls.Set(d.Origin, "certificate", d.arg(0))
		s.servers.tls.Set(d.Origin, "key", d.arg(0))
	case "sslproxycacertificatepath", "sslproxymachinecertificatepath":
		return "certificates are in one file: see tls in the route's proxy block"
	default:
		return "it has no counterpart"
	}
	return ""
}

// writeTLS says whose certificates servers may have. Apache asks for none without SSLProxyVerify; here they are checked then.
func (t *servers) writeTLS(p *Block, from Origin) {
	given := slices.Clone(t.tls.inner)
	without := t.unchecked
	if t.verify != nil {
		without = nil
		if value := strings.ToLower(t.verify.arg(0)); value == "none" || value == "optional_no_ca" {
			without = t.verify
		} else if t.unchecked != nil {
			p.Leave(t.unchecked.Origin, "a certificate is checked as a whole: server_name in tls says what name it has")
		}
	} else if without == nil && !t.tls.Has("ca") {
		p.Spare(from, "Apache takes any certificate without SSLProxyVerify; here an authority of the system has to have issued it, or one in tls { ca }")
	}
	if without != nil {
		given = slices.DeleteFunc(given, func(e *Block) bool { return e.word == "ca" })
		given = append(given, &Block{kind: attribute, word: "verify", text: "false", from: without.Origin})
	}
	if len(given) > 0 {
		p.Add(from, "tls").inner = given
	}
}

// intercept has the pages of ErrorDocument stand in for what servers answer, where ProxyErrorOverride says so.
func (s *apacheSite) intercept() {
	root := s.scopes[0]
	runs := len(s.cgi) > 0 || s.php && s.fastcgi == "" && s.root != "" || slices.ContainsFunc(s.mounts, func(m mount) bool { return m.cuts })
	for _, c := range s.scopes {
		d := c.overrides
		if d == nil || !d.isOn() {
			continue
		}
		pages := c.block.Blocks("error_page")
		if c != root {
			for _, page := range root.block.Blocks("error_page") {
				if c.block.Find(page.word, page.labels...) == nil {
					own := *page
					own.inner = slices.Clone(page.inner)
					pages = append(pages, c.block.Append(&own))
				}
			}
		}
		pages = slices.DeleteFunc(pages, func(page *Block) bool {
			statuses := d.words()[1:]
			return len(statuses) > 0 && !slices.Contains(statuses, page.labels[0])
		})
		switch {
		case len(pages) == 0:
			s.leave(*d, "without a page of ErrorDocument what servers answer is passed on as it is")
		case c == root && runs:
			s.leave(*d, "it would concern what the site's own scripts answer, too: write error_page with intercept in the routes to servers")
		default:
			for _, page := range pages {
				page.Set(d.Origin, "intercept", true)
			}
		}
	}
}

// checkReverses notes what leads to others than the servers: what leads to these finds its way back by itself.
func (s *apacheSite) checkReverses() {
	for _, d := range s.servers.reverses {
		words := d.words()
		if len(words) == 0 {
			continue
		}
		u, err := url.Parse(words[min(1, len(words)-1)])
		if err == nil && u.Host != "" && u.Scheme != "balancer" && !s.servers.hosts[strings.ToLower(u.Host)] && !slices.Contains(s.names, hostOf(u.Host)) {
			s.leave(d, "what leads to another host than the server's, or that of proxy { host }, is passed on as it is")
		}
	}
}

// pass makes a route of a ProxyPass. A server gets the whole path, unless it wants another one in place of the folder.
func (s *apacheSite) pass(d directive, words []string) (reason string) {
	if len(words) < 2 || words[0] == "" || words[0][0] != '/' {
		return "it leads nowhere"
	}
	folder := strings.TrimSuffix(path.Clean(words[0]), "/") + "/"
	if words[1] == "!" {
		s.mountBoth(words[0], mount{from: d.Origin, label: folder + "*", add: s.addFiles, within: true})
		return ""
	}
	servers, base := []string{words[1]}, ""
	if name, ok := strings.CutPrefix(words[1], "balancer://"); ok {
		name, base, _ = strings.Cut(name, "/")
		servers, base = s.balanced["balancer://"+name], "/"+base
		if servers == nil {
			return "the members of its balancer are not known"
		}
	}
	strip := slices.ContainsFunc(servers, func(server string) bool { return !wantsWhole(server, folder, base) })
	var to []string
	host := "" // of the last server
	for _, server := range servers {
		cut := folder
		if strip {
			cut = "/"
		}
		address, name, reason := upstream(server, cut, base)
		if reason != "" {
			return reason
		}
		to, host = append(to, address), name
		s.servers.hosts[name] = true
	}
	timeout, connect := "", ""
	for _, word := range words[2:] {
		switch name, value, _ := strings.Cut(word, "="); strings.ToLower(name) {
		case "timeout":
			timeout = secondsOf(value)
		case "connectiontimeout":
			connect = secondsOf(value)
		}
	}
	add := func(route *Block, c *scope) {
		route.Set(d.Origin, "pool", s.edge())
		if strip {
			route.Set(d.Origin, "strip_prefix", true)
		}
		p := route.Add(d.Origin, "proxy")
		p.Set(d.Origin, "to", to)
		switch on := s.said(c, func(o *scope) *directive { return o.preservesHost }); {
		case on != nil && on.isOn():
		case strings.HasPrefix(to[0], "unix:") && host != "localhost" && host != "":
			p.Set(d.Origin, "host", host)
		default:
			p.Set(d.Origin, "preserve_host", false)
		}
		if connect != "" {
			p.Set(d.Origin, "connect_timeout", connect)
		}
		if t := cmp.Or(timeout, s.servers.timeout, s.timeout); t != "" {
			p.Set(d.Origin, "response_timeout", t)
			p.Set(d.Origin, "idle_timeout", t)
		}
		if slices.ContainsFunc(to, func(server string) bool {
			return strings.HasPrefix(server, "https:") || strings.HasPrefix(server, "h2:")
		}) {
			s.servers.writeTLS(p, d.Origin)
		}
	}
	m := mount{from: d.Origin, label: folder + "*", add: add, cuts: strip}
	if strip { // the path without the slash is the route's, too
		s.mount(m)
		return ""
	}
	s.mountBoth(words[0], m)
	return ""
}

// wantsWhole reports whether a server is asked for the client's own path, at most with another one before it.
func wantsWhole(text, folder, base string) bool {
	words := splitWords(text, false)
	if len(words) == 0 {
		return true
	}
	_, target, isUnix := strings.Cut(words[0], "|")
	if !isUnix {
		target = words[0]
	}
	u, err := url.Parse(target)
	return err != nil || strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(u.Path, "/")+base, "/")+"/", folder)
}

// mountBoth adds a mount for what is below a path, and one for the path itself if it has no slash behind it.
func (s *apacheSite) mountBoth(at string, m mount) {
	if below := m.label; below != "/*" && !strings.HasSuffix(at, "/") {
		m.label = strings.TrimSuffix(below, "/*")
		s.mount(m)
		m.label = below
	}
	s.mount(m)
}

// upstream is a server as proxy { to } has it, with the words of its BalancerMember. What it is asked for ends with the folder.
func upstream(text, folder, base string) (address, host, reason string) {
	words := splitWords(text, false)
	if len(words) == 0 {
		return "", "", "it names no server"
	}
	socket, target, isUnix := strings.Cut(words[0], "|")
	if !isUnix {
		target = words[0]
	}
	u, err := url.Parse(target)
	switch {
	case err != nil || u.Host == "" && !isUnix:
		return "", "", "it is no URL"
	case u.Scheme == "ws":
		u.Scheme = "http"
	case u.Scheme == "wss":
		u.Scheme = "https"
	}
	switch {
	case isUnix && u.Scheme != "http":
		return "", "", "through a socket only HTTP/1.1 without TLS is spoken here, and not " + u.Scheme
	case !slices.Contains([]string{"http", "https", "h2", "h2c"}, u.Scheme):
		return "", "", "to a server only HTTP is spoken here, and not " + u.Scheme
	}
	whole := strings.TrimSuffix(u.Path, "/") + base
	prefix := strings.TrimSuffix(strings.TrimSuffix(whole, "/")+"/", folder)
	address = u.Scheme + "://" + u.Host + prefix
	switch {
	case isUnix && prefix != "":
		return "", "", "through a socket the path goes as it is, and this server wants " + prefix + " before it: have it serve the path without"
	case isUnix:
		address = socket
	}
	for _, word := range words[1:] {
		switch name, value, _ := strings.Cut(word, "="); strings.ToLower(name) {
		case "loadfactor":
			address += " weight=" + value
		case "max":
			address += " max_connections=" + value
		case "status":
			if strings.EqualFold(value, "+H") {
				address += " backup"
			}
		}
	}
	return address, strings.ToLower(u.Host), ""
}
