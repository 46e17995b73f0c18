package migrate

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// term is one comparison of a rewrite: an attribute of a block when or not.
type term struct {
	attr, key string // key: of an attribute that is a map
	value     string
	list      []string // in place of value
}

// rewrite is a block of that name in the making.
type rewrite struct {
	from        Origin
	label       string
	to          string
	appendQuery bool
	status      int
	then        string
	when        [][]term // one of them holds
	not         []term   // none of them holds
	endsRound   bool     // Apache's L: then is "last", or "restart" where the rules of a folder would meet the new path
	firstRound  bool     // it looks at what the client has sent
	reason      string   // why a rule was left out, in whose place this stands
}

// rewriter turns the rewrite directives of one folder, or of a server, into rewrites.
type rewriter struct {
	folder string // the URL path of the folder, which ends in a slash; empty: of a server
	base   string // RewriteBase, which ends in a slash
	root   string // the folder of files
	on     bool
	once   bool               // rules end as soon as one was applied
	tied   int                // so many rules depend on one that was left out
	conds  []rewriteCondition // that wait for their rule
	known  map[string]string  // variables that have one value only
	list   []*rewrite
}

// rewriteRule is a RewriteRule.
type rewriteRule struct {
	directive
	pattern string
	not     bool
	target  string
	flags   map[string]string
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
		w.on = d.isOn()
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

// flags reads "[NC,R=301]". Long names become the short ones.
func flags(text string) map[string]string {
	long := map[string]string{
		"nocase": "NC", "last": "L", "redirect": "R", "forbidden": "F", "gone": "G", "qsappend": "QSA", "qsdiscard": "QSD", "passthrough": "PT",
		"noescape": "NE", "ornext": "OR", "chain": "C", "skip": "S", "env": "E", "cookie": "CO", "next": "N", "proxy": "P", "type": "T",
		"handler": "H", "end": "END", "nosubreq": "NS", "novary": "NV", "discardpath": "DPI", "qslast": "QSL",
	}
	found := map[string]string{}
	for flag := range strings.SplitSeq(strings.Trim(text, "[]"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(flag), "=")
		if short, ok := long[strings.ToLower(name)]; ok {
			name = short
		}
		name = strings.ToUpper(name)
		if old, again := found[name]; again {
			value = old + "," + value
		}
		if name != "" {
			found[name] = value
		}
	}
	return found
}

func (w *rewriter) condition(d directive) {
	words := append(splitWords(d.raw, true), "", "", "") // a broken one matches nothing that is known
	c := rewriteCondition{directive: d, test: words[0], pattern: words[1], flags: flags(words[2])}
	c.pattern, c.not = strings.CutPrefix(c.pattern, "!")
	w.conds = append(w.conds, c)
}

// rule adds what a RewriteRule and its conditions say. The conditions of a rule that is left out go with it.
func (w *rewriter) rule(d directive) {
	conds := w.conds
	w.conds = nil
	words := splitWords(d.raw, true)
	if len(words) < 2 {
		w.leave(d.Origin, "it has no target")
		return
	}
	r := rewriteRule{directive: d, pattern: words[0], target: words[1], flags: map[string]string{}}
	if len(words) > 2 {
		r.flags = flags(words[2])
	}
	r.pattern, r.not = strings.CutPrefix(r.pattern, "!")
	if w.isNeedless(r, conds) {
		return
	}
	list, reason := w.rewrites(r, conds)
	if w.tied > 0 {
		w.tied--
		reason = cmp.Or(reason, "it depends on a rule that was left out")
	}
	w.tied = max(w.tied, dependents(r.flags))
	if reason != "" && len(conds) > 0 {
		var texts []string
		for _, c := range conds {
			texts = append(texts, c.Text)
		}
		reason += "; so these are left, too: " + strings.Join(texts, "; ")
	}
	if reason != "" {
		w.leave(d.Origin, reason)
		return
	}
	w.list = append(w.list, list...)
}

// dependents is the number of rules behind one with [C] or [S] that are asked only if it does, or does not, apply.
func dependents(flags map[string]string) int {
	if _, chained := flags["C"]; chained {
		return 1
	}
	text, skips := flags["S"]
	n, isNumber := natural(text)
	if skips && !isNumber {
		return 1
	}
	return n
}

func (w *rewriter) leave(from Origin, reason string) {
	w.list = append(w.list, &rewrite{from: from, reason: reason})
}

// isNeedless reports whether a rule says what holds here without it: PHP gets the password of a request, the path of the folder is
// known, and a rule is not asked again after it was applied.
func (w *rewriter) isNeedless(r rewriteRule, conds []rewriteCondition) bool {
	name, value, _ := strings.Cut(r.flags["E"], ":")
	_, sets := r.flags["E"]
	switch {
	case r.target != "-":
		return false
	case sets && strings.HasSuffix(strings.ToUpper(name), "HTTP_AUTHORIZATION"):
		return true
	case sets && len(conds) == 1 && strings.HasPrefix(conds[0].test, "%{REQUEST_URI}::$") && strings.HasPrefix(value, "%"):
		w.known[name] = strings.TrimSuffix(w.folder, "/") // Symfony's way to learn it
		return true
	}
	if len(conds) == 1 && conds[0].test == "%{ENV:REDIRECT_STATUS}" && !matchesText(conds[0], "") {
		w.once = true
		return true
	}
	return false
}

// rewrites are those that a rule becomes.
func (w *rewriter) rewrites(r rewriteRule, conds []rewriteCondition) (list []*rewrite, reason string) {
	for _, flag := range []string{"C", "S", "CO", "T", "H", "P"} {
		if _, ok := r.flags[flag]; ok {
			return nil, "[" + flag + "] has no counterpart in a rewrite"
		}
	}
	if e, ok := r.flags["E"]; ok && !strings.HasPrefix(e, "HTTP_AUTHORIZATION:") {
		return nil, "a rewrite sets no variables of the environment: " + e
	}
	model := rewrite{from: r.Origin}
	if reason := w.outcome(r, &model); reason != "" {
		return nil, reason
	}
	_, fold := r.flags["NC"]
	patterns, reason := subject{folder: w.folder, fold: fold}.translate(r.pattern)
	if reason != "" {
		return nil, reason
	}
	if r.not && (len(patterns) > 1 || len(patterns[0].not) > 0) {
		return nil, "a negated expression with a lookahead can't be said here"
	}
	alternatives, reason := w.alternatives(r, conds, &model)
	if reason != "" {
		return nil, reason
	}
	if len(patterns)*len(alternatives) > 1 && !model.isLast() {
		return nil, "it would become several rewrites, of which more than one could apply"
	}
	for _, p := range patterns {
		for _, a := range alternatives {
			n := model
			n.when, n.not = a.when, slices.Clone(a.not)
			n.label = w.label(r, p, conds)
			n.liftPath()
			for _, not := range p.not {
				n.not = append(n.not, term{attr: "path", value: not})
			}
			if r.not {
				n.label = w.label(rewriteRule{pattern: "^"}, pattern{}, nil)
				n.not = append(n.not, term{attr: "path", value: p.text})
			}
			list = append(list, &n)
		}
	}
	if model.to == "" && model.status == 0 && model.then == "" {
		return nil, "" // it only has conditions
	}
	return list, ""
}

// isLast reports whether no other rewrite comes behind it in Apache's round.
func (n *rewrite) isLast() bool { return n.status != 0 || n.endsRound || n.then == "end" }

// liftPath puts a condition for the path in place of a pattern that matches every path.
func (n *rewrite) liftPath() {
	if n.label != "" || len(n.when) != 1 {
		return
	}
	i := slices.IndexFunc(n.when[0], func(t term) bool { return t.attr == "path" })
	if i < 0 {
		return
	}
	n.label = groupName.ReplaceAllString(n.when[0][i].value, "(")
	n.to = groupVariable.ReplaceAllString(n.to, "{$1}")
	if n.when[0] = slices.Delete(slices.Clone(n.when[0]), i, i+1); len(n.when[0]) == 0 {
		n.when = nil
	}
}

// groupName and groupVariable are what nameGroups makes.
var (
	groupName     = regexp.MustCompile(`\(\?<c[0-9]>`)
	groupVariable = regexp.MustCompile(`\{c([0-9])\}`)
)

// everything are patterns that match each path of a folder.
var everything = []string{"^", "$", "", ".*", "^.*$", "^.*", "(.*)", "^(.*)$", "^(.*)", "(.*)$", ".*$"}

// label is the expression behind the word rewrite.
func (w *rewriter) label(r rewriteRule, p pattern, conds []rewriteCondition) string {
	groups := strings.Contains(r.target, "$") || slices.ContainsFunc(conds, func(c rewriteCondition) bool { return strings.Contains(c.test, "$") })
	if !groups && slices.Contains(everything, r.pattern) {
		if w.folder == "" || w.folder == "/" {
			return ""
		}
		return "^" + quotePath(w.folder)
	}
	return p.text
}

// outcome reads what a rule does.
func (w *rewriter) outcome(r rewriteRule, n *rewrite) (reason string) {
	redirect, isRedirect := r.flags["R"]
	_, forbidden := r.flags["F"]
	_, gone := r.flags["G"]
	_, last := r.flags["L"]
	_, end := r.flags["END"]
	_, again := r.flags["N"]
	switch {
	case forbidden:
		n.status = 403
		return ""
	case gone:
		n.status = 410
		return ""
	case isRedirect || strings.Contains(r.target, "://") && !strings.HasPrefix(r.target, "%{"):
		if n.status = statusOf(redirect); n.status == 0 {
			return "R=" + redirect + " is no status"
		}
		if n.status >= 400 {
			return ""
		}
	}
	switch {
	case end:
		n.then = "end"
	case again:
		n.then = "restart"
	case last:
		n.then, n.endsRound = "last", true
	}
	if n.status != 0 {
		n.then, n.endsRound = "", false
	}
	if r.target == "-" {
		return ""
	}
	n.to, reason = w.target(r.target, n.status == 0)
	_, n.appendQuery = r.flags["QSA"]
	n.appendQuery = n.appendQuery && strings.Contains(n.to, "?")
	if _, discard := r.flags["QSD"]; discard && !strings.Contains(n.to, "?") {
		n.to += "?"
	}
	return reason
}

// statusOf reads the status of a redirect; 0: it is none.
func statusOf(text string) int {
	switch strings.ToLower(text) {
	case "", "temp":
		return 302
	case "permanent":
		return 301
	case "seeother":
		return 303
	case "gone":
		return 410
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 300 || n > 599 {
		return 0
	}
	return n
}

// apacheVariable is $1, %1, %{NAME}, or an escaped character.
var apacheVariable = regexp.MustCompile(`\$([0-9])|%([0-9])|%\{([^}]*)\}|\\(.)|(\$\{)`)

// variables are Apache's that have a counterpart in a text.
var variables = map[string]string{
	"HTTP_HOST": "{host}", "SERVER_NAME": "{host}", "REQUEST_URI": "{path}", "QUERY_STRING": "{query}", "REQUEST_METHOD": "{method}",
	"REQUEST_SCHEME": "{scheme}", "REMOTE_ADDR": "{remote_ip}", "REMOTE_USER": "{user}", "DOCUMENT_ROOT": "", "CONTEXT_DOCUMENT_ROOT": "",
	"REQUEST_FILENAME": "{path}", "SCRIPT_FILENAME": "{path}", "SCRIPT_NAME": "{path}", "HTTP_USER_AGENT": "{header.User-Agent}", "HTTP_REFERER": "{header.Referer}",
	"HTTP_COOKIE": "{header.Cookie}", "HTTP_ACCEPT": "{header.Accept}",
}

// fill replaces Apache's variables in a text.
func (w *rewriter) fill(text string) (filled, reason string) {
	filled = apacheVariable.ReplaceAllStringFunc(text, func(found string) string {
		m := apacheVariable.FindStringSubmatch(found)
		switch name := m[3]; {
		case m[1] != "":
			return "{" + m[1] + "}"
		case m[2] != "":
			return "{c" + m[2] + "}"
		case m[4] != "":
			return m[4]
		case m[5] != "":
			reason = "maps have no counterpart"
			return ""
		case strings.HasPrefix(name, "HTTP:"):
			return "{header." + name[5:] + "}"
		case strings.HasPrefix(name, "ENV:"):
			value, ok := w.known[name[4:]]
			if !ok {
				reason = "variables of the environment have no counterpart: " + found
			}
			return value
		default:
			value, ok := variables[name]
			if !ok {
				reason = found + " has no counterpart"
			}
			return value
		}
	})
	return filled, reason
}

// target is the text of "to". Relative ones begin in the folder of the rules.
func (w *rewriter) target(text string, internal bool) (to, reason string) {
	relative := !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "%") && !strings.Contains(text, "://")
	if w.root != "" && strings.HasPrefix(text, w.root+"/") {
		text = strings.TrimPrefix(text, w.root)
	}
	if to, reason = w.fill(text); reason != "" {
		return "", reason
	}
	if relative && !(w.folder == "" && strings.HasPrefix(to, "{")) {
		to = cmp.Or(w.base, w.folder, "/") + strings.TrimPrefix(to, "./")
	}
	if strings.HasPrefix(to, "{c") || strings.HasPrefix(to, "{1}") || strings.HasPrefix(to, "{0}") {
		to = "/" + to // of several slashes one stays
	}
	if internal && strings.Contains(to, "#") {
		return "", "a path has no #"
	}
	if rest, ok := strings.CutPrefix(to, "{path}"); to == "" || ok && rest != "" && !internal && strings.HasPrefix(rest, "{") {
		return "", "it leads nowhere"
	}
	return to, ""
}

// maxChoices bounds them.
const maxChoices = 16

// settle decides what comes after the rules that end a round: Apache asks the rules of a folder again when the path is another one.
func (w *rewriter) settle(refusals []*rewrite) {
	if w.folder == "" || w.once {
		return
	}
	all := append(slices.Clone(refusals), w.list...)
	for i, n := range w.list {
		if n.endsRound && n.to != "" && meetsAgain(all, len(refusals)+i, n.to) {
			n.then = "restart"
		}
	}
}

// before are the rules of a server, whose path goes on to the rules of folders, but not to redirects: where these and what is left of its
// own can't match, "last" is not said.
func (w *rewriter) before(leads, folders []*rewrite) (list []*rewrite) {
	for i, n := range w.list {
		list = append(list, n)
		if !n.endsRound || n.to == "" || !meetsAgain(folders, -1, n.to) {
			continue
		}
		if n.then = ""; meetsAgain(slices.Concat(w.list[i+1:], leads), -1, n.to) {
			n.then = "last"
			list = append(list, &rewrite{from: n.from, reason: "the rules of folders are not asked behind it"})
		}
	}
	return list
}

// catchesFolders reports whether a rule takes folders that are there, whose name Apache completes by a slash before.
func (w *rewriter) catchesFolders() bool {
	return w.folder != "" && slices.ContainsFunc(w.list, func(n *rewrite) bool {
		return n.status == 0 && n.to != "" && n.when == nil && matches(n.label, w.folder+"x1") &&
			!slices.ContainsFunc(n.not, func(t term) bool { return t.attr == "folder" })
	})
}

// slash is the rewrite that completes the name of a folder.
func (w *rewriter) slash(from Origin) *rewrite {
	label := "[^/]$"
	if w.folder != "/" {
		label = "^" + quotePath(w.folder) + ".*[^/]$"
	}
	return &rewrite{from: from, label: label, to: "{path}/", status: 301, when: [][]term{{{attr: "folder", value: "{path}"}}}}
}

// anyVariable is a variable of a text.
var anyVariable = regexp.MustCompile(`\{[^}]*\}`)

// meetsAgain reports whether a path that the rewrite at an index has made could meet one that changes it. A path without variables is
// taken for that of a file.
func meetsAgain(all []*rewrite, at int, to string) bool {
	path, _, _ := strings.Cut(to, "?")
	fixed := !strings.Contains(path, "{")
	sample := anyVariable.ReplaceAllString(path, "x1")
	if strings.HasPrefix(sample, "x1") {
		sample = "/" + sample
	}
	for i, n := range all {
		target, _, _ := strings.Cut(n.to, "?")
		switch {
		case n.firstRound, n.reason != "", i < at && n.status != 0 && n.isForAll(), !matches(n.label, sample), slices.ContainsFunc(n.not, func(t term) bool { return t.excludes(sample, fixed) }),
			n.when != nil && !slices.ContainsFunc(n.when, func(all []term) bool { return mayHold(all, sample) }):
		case n.status == 0 && (n.to == "" || fixed && target == path):
			return false // it ends there
		default:
			return true
		}
	}
	return false
}

// isForAll reports whether a rewrite goes by the path in no way, so that it would have answered before.
func (n *rewrite) isForAll() bool {
	byPath := func(t term) bool { return t.attr == "path" || t.attr == "file" || t.attr == "folder" }
	return slices.Contains([]string{"", "^/(.*)$", "^/(.*)", "^/.*$", "^"}, n.label) && !slices.ContainsFunc(n.not, byPath) &&
		!slices.ContainsFunc(n.when, func(all []term) bool { return slices.ContainsFunc(all, byPath) })
}

func (t term) excludes(path string, file bool) bool {
	return t.attr == "path" && matches(t.value, path) || t.attr == "file" && t.value == "{path}" && file
}

func mayHold(all []term, path string) bool {
	return !slices.ContainsFunc(all, func(t term) bool { return t.attr == "path" && !matches(t.value, path) })
}

func matches(text, path string) bool {
	re, err := regexp.Compile(text)
	return err == nil && re.MatchString(path)
}

// concerns reports whether a rewrite may be meant for paths of a folder: its pattern names no other one.
func (n *rewrite) concerns(folder string) bool {
	literal := strings.TrimSuffix(n.label, "(/|$)")
	if !strings.HasPrefix(literal, "^/") || strings.ContainsAny(literal, "([{*+?.|\\$") {
		return true
	}
	literal = literal[1:]
	return strings.HasPrefix(folder, literal) || strings.HasPrefix(literal, folder)
}

// block writes a rewrite.
func (n *rewrite) block() *Block {
	b := NewBlock(n.from, "rewrite", n.label)
	if n.to != "" {
		b.Set(n.from, "to", n.to)
	}
	if n.appendQuery {
		b.Set(n.from, "append_query", true)
	}
	if n.status != 0 {
		b.Set(n.from, "status", n.status)
	}
	if n.then != "" {
		b.Set(n.from, "then", n.then)
	}
	for _, all := range n.when {
		b.conditions(n.from, "when", all)
	}
	b.conditions(n.from, "not", n.not)
	return b
}

// conditions writes terms into as few blocks as they fit in, which for not is the same as one.
func (b *Block) conditions(from Origin, word string, terms []term) {
	var in *Block
	for _, t := range terms {
		if in == nil || t.key == "" && in.Has(t.attr) || t.key != "" && in.setting(t.attr) != nil && in.setting(t.attr).Has(t.key) {
			in = b.Add(from, word)
		}
		switch {
		case t.key != "":
			in.Put(from, t.attr, t.key, t.value)
		case t.list != nil:
			in.Set(from, t.attr, t.list)
		default:
			in.Set(from, t.attr, t.value)
		}
	}
}
