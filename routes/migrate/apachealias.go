package migrate

import (
	"cmp"
	"path"
	"strings"
)

// alias makes a route of a path that leads elsewhere.
func (s *apacheSite) alias(d directive) (reason string) {
	url, target := d.arg(0), d.arg(1)
	script := strings.HasPrefix(d.name, "script")
	if strings.HasSuffix(d.name, "match") {
		var ok bool
		if url, target, ok = plainAlias(url, target); !ok {
			return "an expression has no counterpart here: write a route for each path"
		}
	}
	if url == "" || target == "" || url[0] != '/' {
		return "it leads nowhere"
	}
	folder := strings.TrimSuffix(path.Clean(url), "/") + "/"
	label := folder + "*"
	if script {
		pool := s.scriptPool()
		m := mount{from: d.Origin, label: label, cuts: true, add: func(route *Block, _ *scope) {
			route.Set(d.Origin, "pool", pool)
			route.Add(d.Origin, "cgi").Set(d.Origin, "root", path.Clean(target))
		}}
		if !strings.HasSuffix(target, "/") && !strings.HasSuffix(url, "/") && strings.Contains(path.Base(target), ".") {
			m.label = path.Clean(url)
			m.add = func(route *Block, _ *scope) {
				route.Set(d.Origin, "pool", pool)
				route.Add(d.Origin, "cgi").Set(d.Origin, "script", target)
			}
			s.mount(m)
			m.label = label
		}
		s.mount(m)
		return ""
	}
	root, whole := strings.CutSuffix(path.Clean(target)+"/", folder)
	root = cmp.Or(root, "/")
	switch {
	case isFile(url) && isFile(target) && whole:
		s.mount(mount{from: d.Origin, label: path.Clean(url), add: func(route *Block, _ *scope) {
			route.Set(d.Origin, "root", root)
			s.handle(route, s.scopes[0], false, "")
		}})
	case isFile(url) && isFile(target):
		return "a single file has its own name here: give it that one (a link is enough), and write root in a route \"" + path.Clean(url) + "\""
	case whole:
		s.mount(mount{from: d.Origin, label: label, folder: root, bare: !strings.HasSuffix(url, "/")})
	case folder == "/":
		return "for all paths the root of the site says where its files are"
	default:
		s.mount(mount{from: d.Origin, label: label, folder: path.Clean(target), strip: true})
	}
	return ""
}

// isFile reports a path whose last name looks like a file's.
func isFile(name string) bool {
	return !strings.HasSuffix(name, "/") && strings.Contains(strings.TrimPrefix(path.Base(name), "."), ".")
}

// plainAlias is what an AliasMatch says that an Alias could: "^/a/(.*)$" and "/b/$1".
func plainAlias(expression, target string) (url, folder string, ok bool) {
	text, anchored := strings.CutPrefix(expression, "^")
	text = strings.TrimSuffix(text, "$")
	folder, hasGroup := strings.CutSuffix(target, "$1")
	for _, rest := range []string{"(/.*)?", "(/.*)", "(.*)"} {
		top, found := strings.CutSuffix(text, rest)
		if !found {
			continue
		}
		slashed := strings.HasSuffix(folder, "/")
		if rest == "(.*)" && !(slashed && strings.HasSuffix(top, "/")) || rest != "(.*)" && slashed { // a group begins in the middle of a name
			return "", "", false
		}
		top = strings.ReplaceAll(top, `\.`, "\x00")
		plain := !strings.ContainsAny(top, `\^$.|?*+()[]{}`) && !strings.Contains(folder, "$")
		return strings.ReplaceAll(top, "\x00", "."), folder, anchored && hasGroup && plain
	}
	return "", "", false
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
