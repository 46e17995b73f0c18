package migrate

import (
	"slices"
	"strings"
)

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

// opened are the names that everybody may have in a folder that is shut.
func (c *scope) opened(outer access) (terms []term) {
	for _, n := range c.names {
		if a := n.access.inherit(outer); n.access.says() && n.not == nil && !a.verdict().nobody {
			terms = append(terms, term{attr: "path", value: n.in(c.path)})
		}
	}
	return terms
}

// in is the expression for the files in a folder.
func (n *namedFiles) in(folder string) string {
	if folder == "/" {
		return n.text
	}
	return "^" + quotePath(strings.TrimSuffix(folder, "/")) + "(/.*)?(" + n.text + ")"
}

// refusedNames are those of files that nobody may have, or only who comes from certain addresses.
func (s *apacheSite) refusedNames(c *scope) (list []*rewrite) {
	for _, n := range c.names {
		a := n.access.inherit(c.access)
		v := a.verdict()
		r := pattern{n.in(c.path), n.not}.rewrite(n.from, 403)
		switch {
		case !n.access.says() || v.isOpen() || n.isHidden():
			continue
		case v.user && v.fault == "" && n.exact != "" && c.path == "/": // its route asks; for no other place there is one
			name := quotePath(n.exact)
			r.label = "^/.+/" + name + "(/|$)"
		case v.user || v.deny != nil && v.allow != nil:
			v = nobodyFor("only files that are named and shut, or open to addresses, can be told here")
			s.rest.Leave(n.from, "%s", v.fault)
		case v.fault != "":
			s.rest.Leave(n.from, "%s", v.fault)
		case v.allow != nil:
			r.not = append(r.not, term{attr: "remote_ip", list: v.allow})
		case v.deny != nil:
			r.when = [][]term{{{attr: "remote_ip", list: v.deny}}}
		}
		list = append(list, r)
	}
	return list
}

// isHidden reports names that are never served: those that begin with a dot, such as .htaccess, and sources of PHP.
func (n *namedFiles) isHidden() bool {
	plain := !slices.ContainsFunc(splitAlternatives(n.text), func(text string) bool { return !strings.HasPrefix(text, "/[.]") })
	return plain && !matches(n.text, "/.well-known/x") || slices.Equal(n.endings, []string{".phps"})
}
