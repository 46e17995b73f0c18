package migrate

import (
	"net/url"
	"path"
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

// proxy takes mod_proxy's directives.
func (s *apacheSite) proxy(c *scope, d directive) (reason string) {
	words := d.words()
	switch d.name {
	case "proxypass":
		if len(words) == 1 || len(words) > 1 && strings.Contains(words[0], "://") { // in a <Location>
			words = append([]string{c.path}, words...)
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
	}
	if needless[d.name] || d.name == "proxyset" {
		return ""
	}
	return "it has no counterpart"
}

// pass makes a route of a ProxyPass. A server gets the whole path.
func (s *apacheSite) pass(d directive, words []string) (reason string) {
	if len(words) < 2 || words[0] == "" || words[0][0] != '/' {
		return "it leads nowhere"
	}
	folder := strings.TrimSuffix(path.Clean(words[0]), "/") + "/"
	if words[1] == "!" {
		s.mount(mount{from: d.Origin, label: folder + "*", add: s.addFiles, within: true})
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
	var to []string
	for _, server := range servers {
		address, reason := upstream(server, folder, base)
		if reason != "" {
			return reason
		}
		to = append(to, address)
	}
	timeout := ""
	for _, word := range words[2:] {
		if name, value, _ := strings.Cut(word, "="); strings.EqualFold(name, "timeout") {
			timeout = secondsOf(value)
		}
	}
	add := func(route *Block) {
		route.Set(d.Origin, "pool", s.edge())
		p := route.Add(d.Origin, "proxy")
		p.Set(d.Origin, "to", to)
		if timeout != "" {
			p.Set(d.Origin, "response_timeout", timeout)
		}
	}
	if folder != "/" && !strings.HasSuffix(words[0], "/") {
		s.mount(mount{from: d.Origin, label: strings.TrimSuffix(folder, "/"), add: add})
	}
	s.mount(mount{from: d.Origin, label: folder + "*", add: add})
	return ""
}

// upstream is a server as proxy { to } has it, with the words of its BalancerMember.
func upstream(text, folder, base string) (address, reason string) {
	words := splitWords(text, false)
	if len(words) == 0 {
		return "", "it names no server"
	}
	socket, target, isUnix := strings.Cut(words[0], "|")
	if !isUnix {
		target = words[0]
	}
	u, err := url.Parse(target)
	switch {
	case err != nil || u.Host == "" && !isUnix:
		return "", "it is no URL"
	case u.Scheme == "ws":
		u.Scheme = "http"
	}
	if u.Scheme != "http" {
		return "", "to a server only HTTP is spoken here, and not " + u.Scheme
	}
	whole := strings.TrimSuffix(u.Path, "/") + base
	prefix, ok := strings.CutSuffix(strings.TrimSuffix(whole, "/")+"/", folder)
	if !ok {
		return "", "a server gets the whole path, and this one wants " + words[0] + " in place of " + folder + ": have it serve that path"
	}
	address = "http://" + u.Host + prefix
	switch {
	case isUnix && prefix != "":
		return "", "through a socket the path goes as it is, and this server wants " + prefix + " before it: have it serve the path without"
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
	return address, ""
}
