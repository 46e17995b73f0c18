package migrate

import (
	"net/netip"
	"regexp"
	"strings"
)

// rewrite writes a step that only answers as a rewrite of the site, whose conditions say more than the patterns of routes. Those come
// before all routes, so it is possible as long as there are none.
func (u *unitReader) rewrite(site *Block, s unitStep) {
	status, ok := s.action.get("return").number()
	switch {
	case !ok || status < 300:
		site.Leave(s.from, "routes go by path, host and method; what else a step asks for can be carried over only if it redirects or answers with an error")
		return
	case len(site.Blocks("route")) > 0:
		site.Leave(s.from, "what can be asked for by a rewrite only comes before all routes, and this step comes behind some")
		return
	}
	path, not, ok := unitRegexps(s.match.get("uri"))
	rewrite := NewBlock(s.from, "rewrite", path)
	ok = ok && unitConditions(rewrite, s)
	if not != "" {
		rewrite.Add(s.from, "not").Set(s.from, "path", not)
	}
	if location := s.action.get("location"); location != nil {
		to, known := unitTemplate(location.text())
		ok = ok && known
		rewrite.Set(location.from, "to", to)
	}
	if !ok {
		site.Leave(s.from, "one of its conditions, or of its variables, is not known here")
		return
	}
	rewrite.Set(s.action.get("return").from, "status", status)
	u.leaveRest(site, s.action, nil, "return", "location")
	site.Append(rewrite)
}

// unitConditions writes what a step asks for beside its path.
func unitConditions(rewrite *Block, s unitStep) bool {
	when := NewBlock(s.from, "when")
	for key, v := range s.match.each() {
		ok := true
		switch key {
		case "host", "uri":
		case "method":
			var methods []string
			methods, ok = unitMethods(v)
			when.Set(v.from, "methods", methods)
		case "scheme":
			when.Set(v.from, "scheme", v.text())
		case "source":
			ok = unitSources(when, v)
		case "query":
			ok = v.text() != ""
			when.Set(v.from, "query", unitRegexp(v.text()))
		case "headers", "cookies":
			ok = unitFields(when, strings.TrimSuffix(key, "s"), v)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	if len(when.inner) > 0 {
		rewrite.Append(when)
	}
	return true
}

// unitSources reads addresses and networks, without ports.
func unitSources(when *Block, v *jsonValue) bool {
	sources, ok := v.texts()
	for _, source := range sources {
		_, noNetwork := netip.ParsePrefix(source)
		_, noAddress := netip.ParseAddr(source)
		ok = ok && (noNetwork == nil || noAddress == nil)
	}
	when.Set(v.from, "remote_ip", sources)
	return ok
}

// unitFields reads an object of header fields or cookies, each with one pattern.
func unitFields(when *Block, name string, v *jsonValue) bool {
	for field, pattern := range v.each() {
		if pattern.text() == "" || strings.HasPrefix(pattern.text(), "!") {
			return false
		}
		when.Put(pattern.from, name, field, unitRegexp(pattern.text()))
	}
	return v.isObject()
}

// unitRegexps are one expression for the paths that uri takes, and one for those that it takes out (empty: none).
func unitRegexps(uri *jsonValue) (path, not string, ok bool) {
	list, ok := uri.texts()
	var takes, out []string
	for _, text := range list {
		if negative, is := strings.CutPrefix(text, "!"); is {
			out = append(out, unitRegexp(negative))
		} else {
			takes = append(takes, unitRegexp(text))
		}
	}
	return strings.Join(takes, "|"), strings.Join(out, "|"), ok
}

// unitRegexp is a pattern of Unit as a regular expression: one behind a tilde, or a text in which stars stand for anything.
func unitRegexp(pattern string) string {
	if expression, ok := strings.CutPrefix(pattern, "~"); ok {
		return expression
	}
	return "^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$"
}
