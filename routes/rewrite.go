package routes

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Rewrite changes the path of a request, or answers it, before it is routed (in a site) or served (in a route).
type Rewrite struct {
	Match       *regexp.Regexp // of the decoded path
	When        []Condition    // one of them holds, unless there is none
	Not         []Condition    // nothing of any of them holds
	To          Template       // a path, or where a redirect leads; nil: the path stays
	Query       Template       // behind "?"
	HasQuery    bool           // else the query stays
	AppendQuery bool           // the old query follows the new one
	Status      int            // of the answer; 0: none, the request goes on
	Then        Then
	Line        string // "site.hcl:12", for messages
}

// Then is what comes after a rewrite that was applied.
type Then string

// The ways to go on.
const (
	ThenNext    Then = "next"    // with the next rewrite
	ThenLast    Then = "last"    // behind the last one of the list
	ThenEnd     Then = "end"     // likewise, and the request meets no rewrite any more
	ThenRestart Then = "restart" // with the first one, if the path is another one now; else as ThenLast
)

// Condition compares a request. What is not set says nothing.
type Condition struct {
	File     Template // a path at which a regular file is, below the root; {path} alone may go on behind it with PATH_INFO
	Folder   Template // a path at which a folder is, likewise
	Path     *regexp.Regexp
	Host     *regexp.Regexp // in small letters, without port
	Query    *regexp.Regexp
	Methods  []string
	Scheme   string
	RemoteIP []netip.Prefix
	Header   []FieldMatch
	Cookie   []FieldMatch
}

// FieldMatch compares a header field or a cookie; one that is missing is empty.
type FieldMatch struct {
	Name  string
	Match *regexp.Regexp
}

var conditionAttrs = []attr{
	{name: "file", kind: text},
	{name: "folder", kind: text},
	{name: "path", kind: text},
	{name: "host", kind: text},
	{name: "query", kind: text},
	{name: "methods", kind: texts, single: true},
	{name: "scheme", kind: text, values: []string{"http", "https"}},
	{name: "remote_ip", kind: texts, single: true},
	{name: "header", kind: table},
	{name: "cookie", kind: table},
}

var rewriteSchema = &block{
	name:  "rewrite",
	label: &labels{meaning: "regular expression for the path", example: "^/old/(.*)$"},
	many:  true,
	attrs: []attr{
		{name: "to", kind: text},
		{name: "append_query", kind: boolean},
		{name: "status", kind: number},
		{name: "then", kind: text, values: []string{string(ThenNext), string(ThenLast), string(ThenEnd), string(ThenRestart)}},
	},
	blocks: []*block{
		{name: "when", many: true, attrs: conditionAttrs},
		{name: "not", many: true, attrs: conditionAttrs},
	},
}

// rewrites reads the rewrites of a site or route with that root.
func (r *siteReader) rewrites(s *section, root string) (rewrites []Rewrite) {
	for _, block := range s.blocks["rewrite"] {
		rewrites = append(rewrites, r.rewrite(block, root))
	}
	return rewrites
}

func (r *siteReader) rewrite(s *section, root string) Rewrite {
	l := s.label()
	w := Rewrite{
		Match: r.regexp(l.at, l.text), Status: get(s, "status", 0), AppendQuery: get(s, "append_query", false),
		Then: Then(get(s, "then", string(ThenNext))), Line: lineOf(l.at),
	}
	if neverMatches.MatchString(l.text) {
		r.warnf(l.at, "Rewrite never matches", "Every path begins with a slash, also where Apache's .htaccess leaves it out: write %q.", "^/"+l.text[1:])
	}
	var groups []string
	if w.Match != nil {
		for i, name := range w.Match.SubexpNames() {
			groups = append(groups, strconv.Itoa(i))
			if name != "" {
				groups = append(groups, name)
			}
		}
	}
	known := slices.Concat(groups, Variables())
	for _, block := range s.blocks["when"] {
		c := r.condition(block, root, known)
		w.When, groups = append(w.When, c), append(groups, c.groups()...)
	}
	for _, block := range s.blocks["not"] {
		w.Not = append(w.Not, r.condition(block, root, known))
	}
	for _, name := range groups {
		if slices.Contains(append(Variables(), "status", "header", "cookie"), name) {
			r.errorf(l.at, "Name taken", "A group can't be named %q, because {%[1]s} means something already.", name)
		}
	}
	r.outcome(s, &w, groups)
	return w
}

// neverMatches knows those expressions that for certain match no path, because they begin as in an .htaccess file.
var neverMatches = regexp.MustCompile(`^\^[A-Za-z0-9_-]+(?:$|[^A-Za-z0-9_?*{|-][^|]*$)`)

// dollarGroup is a group as Apache and nginx write it.
var dollarGroup = regexp.MustCompile(`\$[0-9]`)

// outcome reads what becomes of the request.
func (r *siteReader) outcome(s *section, w *Rewrite, groups []string) {
	to, known := get(s, "to", ""), slices.Concat(groups, Variables())
	if i := dollarGroup.FindStringIndex(to); i != nil {
		r.warnf(within(s.at("to"), to, i[0], i[1]-i[0]), "No group", "%q stands for itself. What a group has matched is {%s}.", to[i[0]:i[1]], to[i[0]+1:i[1]])
	}
	switch {
	case w.Status == 0 && !s.mentions("status"):
		if s.has("to") {
			w.To, w.Query, w.HasQuery = r.internalPath(s.at("to"), to, known)
		}
	case isRedirect(w.Status):
		if s.has("to") {
			w.To, w.Query, w.HasQuery = r.target(s.at("to"), to, known)
		} else if !s.mentions("to") {
			r.errorf(s.head, "Missing attribute", "A redirect needs \"to\", the path or URL where it leads.")
		}
	case w.Status >= 400 && w.Status <= 599:
		r.without(s, "to", fmt.Sprintf("a request that is answered with %d leads nowhere", w.Status))
	case s.has("status"):
		r.errorf(s.at("status"), "Wrong status", "%d is no redirect (301, 302, 303, 307, 308) and no error (400 to 599).", w.Status)
	}
	if w.Status != 0 {
		r.without(s, "then", "nothing comes after an answer")
	}
	if !s.mentions("to") && !s.mentions("status") && !s.mentions("then") {
		r.errorf(s.head, "Missing attribute", "The rewrite does nothing: write \"to\", a path, or \"status\", or \"then\".")
	}
	if w.AppendQuery && !w.HasQuery && s.has("to") {
		r.errorf(s.at("append_query"), "Without effect", "The query stays as it is, because %q has none to which it could be appended.", to)
	}
}

func isRedirect(status int) bool {
	return slices.Contains([]int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect}, status)
}

// condition reads a condition, in whose paths the known variables may stand.
func (r *siteReader) condition(s *section, root string, known []string) Condition {
	c := Condition{
		Path: r.regexpOf(s, "path"), Host: r.regexpOf(s, "host"), Query: r.regexpOf(s, "query"), Scheme: get(s, "scheme", ""),
		Methods: r.methods(s), RemoteIP: r.networks(s, "remote_ip"), Header: r.fieldMatches(s, "header"), Cookie: r.fieldMatches(s, "cookie"),
	}
	for i := range c.Header {
		c.Header[i].Name = http.CanonicalHeaderKey(c.Header[i].Name)
	}
	for name, path := range map[string]*Template{"file": &c.File, "folder": &c.Folder} {
		if !s.has(name) {
			continue
		}
		var hasQuery bool
		if *path, _, hasQuery = r.internalPath(s.at(name), get(s, name, ""), known); hasQuery {
			r.errorf(s.at(name), "Wrong path", "A file has no query: remove what stands behind the question mark.")
		}
		if root == "" && !r.lostRoot {
			r.errorf(s.at(name), "Missing root", "Files are looked for below a root, and there is none. Write root = \"/srv/www\" in the site.")
		}
	}
	if len(s.given) == 0 {
		r.errorf(s.head, "Missing attribute", "%s is empty: it compares nothing.", s.spec.title())
	}
	return c
}

// groups are the named groups of all its regular expressions.
func (c *Condition) groups() (names []string) {
	all := []*regexp.Regexp{c.Path, c.Host, c.Query}
	for _, f := range slices.Concat(c.Header, c.Cookie) {
		all = append(all, f.Match)
	}
	for _, re := range all {
		if re != nil {
			names = append(names, slices.DeleteFunc(slices.Clone(re.SubexpNames()), func(name string) bool { return name == "" })...)
		}
	}
	return names
}

func (r *siteReader) fieldMatches(s *section, name string) (matches []FieldMatch) {
	fields := get[map[string]string](s, name, nil)
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		at := s.keyAt(name, field)
		if !isToken(field) {
			r.errorf(at, "Wrong name", "%q is no name of a header field or a cookie.", field)
		}
		matches = append(matches, FieldMatch{field, r.regexp(at, fields[field])})
	}
	return matches
}

// networks reads a list of addresses and networks.
func (r *siteReader) networks(s *section, name string) (networks []netip.Prefix) {
	for i, text := range get[[]string](s, name, nil) {
		n, err := parseNetwork(text)
		switch {
		case err != nil:
			r.errorf(s.elementAt(name, i), "Wrong network", "%q is no address, such as \"192.0.2.1\", and no network, such as \"10.0.0.0/8\" or \"2001:db8::/32\".", text)
		case n.Masked() != n:
			r.errorf(s.elementAt(name, i), "Wrong network", "%q has bits behind its mask: write %q.", text, n.Masked())
		}
		networks = append(networks, n)
	}
	return networks
}

// parseNetwork reads an address or a network, perhaps with bits behind its mask.
func parseNetwork(text string) (netip.Prefix, error) {
	n, err := netip.ParsePrefix(text)
	if !strings.Contains(text, "/") {
		var a netip.Addr
		a, err = netip.ParseAddr(text)
		n = netip.PrefixFrom(a, a.BitLen())
	}
	if n.Addr().Is4In6() || strings.Contains(text, "%") { // a zone, which a prefix has not
		return n, errors.New("no address that a client has")
	}
	return n, err
}

func (r *reader) regexpOf(s *section, name string) *regexp.Regexp {
	if !s.has(name) {
		return nil
	}
	return r.regexp(s.at(name), get(s, name, ""))
}

// regexp compiles a regular expression; nil: it is wrong.
func (r *reader) regexp(at hcl.Range, text string) *regexp.Regexp {
	re, err := regexp.Compile(text)
	if err == nil {
		return re
	}
	if c, offset, ok := findForeign(text); ok {
		r.errorf(within(at, text, offset, len(c.text)), "Wrong regular expression", "%q has %s at character %d (%s), which Go's regular expressions (RE2) have not: they always end in time. %s",
			text, c.name, len([]rune(text[:offset]))+1, c.text, c.instead)
		return nil
	}
	reason, offset, length := err.Error(), -1, 0
	var fault *syntax.Error
	if errors.As(err, &fault) {
		reason, offset, length = fault.Code.String()+": "+fault.Expr, strings.Index(text, fault.Expr), len(fault.Expr)
	}
	r.errorf(within(at, text, offset, length), "Wrong regular expression", "%q: %s, at character %d.", text, reason, len([]rune(text[:max(offset, 0)]))+1)
	return nil
}

// construct is a piece of PCRE that RE2 has not.
type construct struct{ text, name, instead string }

var constructs = []construct{
	{"(?!", "a negative lookahead", "Write what must not match as path in a block not { … }."},
	{"(?=", "a lookahead", "Write what must match, too, as path in a block when { … }."},
	{"(?<!", "a negative lookbehind", "Write what must not match as path in a block not { … }."},
	{"(?<=", "a lookbehind", "Write what must match, too, as path in a block when { … }."},
	{"(?>", "an atomic group", "Write (?:…): nothing is tried twice."},
	{"(?(", "a conditional group", "Write two rewrites."},
	{"(?R)", "a recursion", "There is no other way."},
	{"(?#", "a comment", "Write it behind # above the line."},
	{"*+", "a possessive repetition", "Write * alone: nothing is tried twice."},
	{"++", "a possessive repetition", "Write + alone: nothing is tried twice."},
	{"?+", "a possessive repetition", "Write ? alone: nothing is tried twice."},
	{`\K`, "a reset of the match", "Use groups, (…), and {1} in \"to\"."},
	{`\G`, "an anchor", "Write ^."},
	{`\Z`, "an anchor", "Write $ or \\z."},
	{`\R`, "a line break", "A path has none."},
	{`\h`, "a class", "Write [ \\t]."},
	{`\e`, "an escape", "A path has none."},
	{`\g`, "a back-reference", "Write out the alternatives, or compare in the application."},
	{`\k`, "a back-reference", "Write out the alternatives, or compare in the application."},
}

// findForeign returns the first piece of a regular expression that is PCRE's alone.
func findForeign(text string) (c construct, offset int, ok bool) {
	class := false // within […]
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		switch {
		case len(rest) > 1 && rest[0] == '\\' && rest[1] >= '1' && rest[1] <= '9':
			return construct{rest[:2], "a back-reference", "Write out the alternatives, or compare in the application."}, i, true
		case class && rest[0] == ']':
			class = false
		case !class || rest[0] == '\\':
			if n := slices.IndexFunc(constructs, func(c construct) bool { return strings.HasPrefix(rest, c.text) }); n >= 0 {
				return constructs[n], i, true
			}
			class = class || rest[0] == '['
		}
		if rest[0] == '\\' {
			i++
		}
	}
	return construct{}, 0, false
}
