package migrate

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// comparison is what a RewriteCond becomes.
type comparison struct {
	term
	not    bool
	always bool // it holds for every request
	never  bool
	first  bool
}

// choice is one way for the conditions of a rule to hold.
type choice struct {
	when [][]term
	not  []term
}

// rewriteCondition is a RewriteCond.
type rewriteCondition struct {
	directive
	test, pattern string
	not           bool
	flags         map[string]string
}

// groupOfCondition is %1.
var groupOfCondition = regexp.MustCompile(`%[0-9]`)

// alternatives turns conditions, in which OR binds stronger than AND, into rewrites of which one is enough.
func (w *rewriter) alternatives(r rewriteRule, conds []rewriteCondition, n *rewrite) (list []choice, reason string) {
	captures := groupOfCondition.MatchString(r.target)
	ways := [][]comparison{nil}
	for i := 0; i < len(conds); i++ {
		end := i
		for end < len(conds)-1 && conds[end].isOr() {
			end++
		}
		var group []comparison
		for _, c := range conds[i : end+1] {
			k, reason := w.compare(c, r, captures && end == lastPositive(conds))
			if reason != "" {
				return nil, c.Text + ": " + reason
			}
			n.firstRound = n.firstRound || k.first
			group = append(group, k)
		}
		if ways = multiply(ways, group); len(ways) > maxChoices {
			return nil, "it has too many alternatives"
		}
		i = end
	}
	for _, way := range ways {
		c, reason := merge(way)
		if reason != "" {
			return nil, reason
		}
		if c != nil {
			list = append(list, *c)
		}
	}
	return unite(list), ""
}

func (c *rewriteCondition) isOr() bool { _, ok := c.flags["OR"]; return ok }

// lastPositive is the condition whose groups %1 means: the last one that matches.
func lastPositive(conds []rewriteCondition) int {
	for i := len(conds) - 1; i >= 0; i-- {
		if !conds[i].not && !strings.HasPrefix(conds[i].pattern, "-") {
			for i < len(conds)-1 && conds[i].isOr() {
				i++
			}
			return i
		}
	}
	return -1
}

func multiply(ways [][]comparison, group []comparison) (list [][]comparison) {
	for _, way := range ways {
		for _, k := range group {
			if k.always {
				return ways // one of the alternatives holds in any case
			}
			list = append(list, append(slices.Clone(way), k))
		}
	}
	return list
}

// merge joins what must hold together. It is nil if that can't be.
func merge(way []comparison) (c *choice, reason string) {
	c = new(choice)
	var all []term
	for _, k := range way {
		switch {
		case k.never:
			return nil, ""
		case k.not:
			c.not = append(c.not, k.term)
			continue
		}
		if slices.ContainsFunc(all, func(t term) bool { return t.attr == k.term.attr && t.key == k.term.key }) {
			return nil, "two conditions for one " + k.term.attr + " can't be said here"
		}
		all = append(all, k.term)
	}
	if all != nil {
		c.when = [][]term{all}
	}
	return c, ""
}

// unite makes one of the choices that differ in what must hold only.
func unite(list []choice) (united []choice) {
	same := func(a, b term) bool {
		return a.attr == b.attr && a.key == b.key && a.value == b.value && slices.Equal(a.list, b.list)
	}
	for _, c := range list {
		i := slices.IndexFunc(united, func(u choice) bool {
			return u.when != nil && c.when != nil && slices.EqualFunc(u.not, c.not, same)
		})
		if i < 0 {
			united = append(united, c)
			continue
		}
		united[i].when = append(united[i].when, c.when...)
	}
	return united
}

// compare translates a condition. Its groups get names if the rule uses them.
func (w *rewriter) compare(c rewriteCondition, r rewriteRule, captures bool) (k comparison, reason string) {
	if k, reason = w.compareOne(c, r); reason == "" && captures && !k.not && k.list == nil && !k.always && k.attr != "scheme" && k.attr != "file" && k.attr != "folder" {
		k.value = nameGroups(k.value)
	}
	return k, reason
}

func (w *rewriter) compareOne(c rewriteCondition, r rewriteRule) (k comparison, reason string) {
	k.not = c.not
	name := strings.TrimSuffix(strings.TrimPrefix(c.test, "%{"), "}")
	field := fieldOfTest(name)
	switch {
	case strings.HasPrefix(c.pattern, "-"):
		return w.compareFile(c, k)
	case strings.HasPrefix(c.pattern, "<"), strings.HasPrefix(c.pattern, ">"), c.test == "expr":
		return k, "it has no counterpart"
	case name == "HTTPS":
		return k.between(c, "on", "off")
	case name == "SERVER_PORT":
		return k.between(c, "443", "80")
	case name == "REQUEST_SCHEME":
		return k.between(c, "https", "http")
	case name == "ENV:REDIRECT_STATUS":
		k.first, k.always, k.never = true, matchesText(c, ""), !matchesText(c, "")
		return k, ""
	case name == "REQUEST_METHOD":
		return k.methods(c)
	case name == "REMOTE_ADDR":
		return k.addresses(c)
	case name == "THE_REQUEST":
		k.first = true
		path, ok := pathOfRequest(c.pattern)
		if !ok {
			return k, "of the request line only the path can be compared"
		}
		return k.regexp(c, "path", "", path, subject{})
	case name == "REQUEST_URI":
		return k.regexp(c, "path", "", c.pattern, subject{})
	case name == "REQUEST_FILENAME", name == "SCRIPT_FILENAME":
		if strings.Contains(c.pattern, "^") {
			return k, "it compares names of files"
		}
		return k.regexp(c, "path", "", c.pattern, subject{})
	case c.test == "$1" && slices.Contains([]string{"^(.*)$", "(.*)", "^(.*)", "^(.+)$", "(.+)", "^(.+)"}, r.pattern):
		return k.regexp(c, "path", "", c.pattern, subject{folder: cmp.Or(w.folder, "/")})
	}
	attr := map[string]string{"HTTP_HOST": "host", "SERVER_NAME": "host", "QUERY_STRING": "query"}[name]
	if attr == "" && field != "" {
		attr = "header"
	}
	if attr == "" || "%{"+name+"}" != c.test {
		return k, c.test + " has no counterpart"
	}
	if k, reason = k.regexp(c, attr, field, c.pattern, subject{}); reason != "" {
		return k, reason
	}
	if text, ok := strings.CutPrefix(k.value, "(?i)"); ok && attr == "host" && strings.ToLower(text) == text {
		k.value = text // a host is in small letters
	}
	return k, ""
}

// fieldOfTest is the header field that a variable stands for.
func fieldOfTest(name string) string {
	if field, ok := strings.CutPrefix(name, "HTTP:"); ok {
		return field
	}
	return map[string]string{
		"HTTP_USER_AGENT": "User-Agent", "HTTP_REFERER": "Referer", "HTTP_COOKIE": "Cookie", "HTTP_ACCEPT": "Accept", "HTTP_FORWARDED": "Forwarded",
		"HTTP_ACCEPT_LANGUAGE": "Accept-Language", "HTTP_ACCEPT_ENCODING": "Accept-Encoding", "HTTP_X_FORWARDED_PROTO": "X-Forwarded-Proto",
		"HTTP_X_FORWARDED_FOR": "X-Forwarded-For", "HTTP_X_REQUESTED_WITH": "X-Requested-With",
	}[name]
}

// matchesText reports whether a condition's pattern matches a text; that of "!" is not inverted.
func matchesText(c rewriteCondition, text string) bool {
	if want, ok := strings.CutPrefix(c.pattern, "="); ok {
		return (strings.Trim(want, `"`) == text) != c.not
	}
	_, fold := c.flags["NC"]
	patterns, reason := subject{fold: fold}.translate(c.pattern)
	if reason != "" {
		return false
	}
	re, err := regexp.Compile(patterns[0].text)
	return err == nil && re.MatchString(text) != c.not
}

// between compares what has two values.
func (k comparison) between(c rewriteCondition, https, http string) (comparison, string) {
	k.not, k.attr = false, "scheme"
	switch yes, no := matchesText(c, https), matchesText(c, http); {
	case yes && no:
		k.always = true
	case yes:
		k.value = "https"
	case no:
		k.value = "http"
	default:
		return k, "it is compared with neither " + https + " nor " + http
	}
	return k, ""
}

func (k comparison) methods(c rewriteCondition) (comparison, string) {
	k.attr = "methods"
	c.not = false
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "TRACK", "PROPFIND", "DEBUG", "CONNECT"} {
		if matchesText(c, method) {
			k.list = append(k.list, method)
		}
	}
	if k.list == nil {
		return k, "it matches no method"
	}
	return k, ""
}

// addresses compares with the beginning of an IPv4 address, or with a whole one.
func (k comparison) addresses(c rewriteCondition) (comparison, string) {
	k.attr = "remote_ip"
	text, whole := strings.CutPrefix(c.pattern, "=")
	list := []string{text}
	if !whole {
		text, anchored := strings.CutPrefix(c.pattern, "^")
		if !anchored {
			return k, "write the networks"
		}
		if text, whole = strings.CutSuffix(text, "$"); strings.HasPrefix(text, "(") && strings.HasSuffix(text, ")") {
			text = text[1 : len(text)-1]
		}
		list = strings.Split(strings.NewReplacer(`\.`, ".", "[.]", ".").Replace(text), "|")
	}
	for _, text := range list {
		network := networkOf(text)
		if network == "" || whole && strings.Contains(network, "/") {
			return k, "write the networks"
		}
		k.list = append(k.list, network)
	}
	return k, ""
}

// regexp compares with a regular expression, or with a text behind an equals sign.
func (k comparison) regexp(c rewriteCondition, attr, key, text string, s subject) (comparison, string) {
	k.attr, k.key = attr, key
	if want, ok := strings.CutPrefix(text, "="); ok {
		text = "^" + regexp.QuoteMeta(strings.Trim(want, `"`)) + "$"
	}
	_, s.fold = c.flags["NC"]
	patterns, reason := s.translate(strings.Trim(text, `"`))
	if reason != "" {
		return k, reason
	}
	if len(patterns) > 1 || len(patterns[0].not) > 1 || len(patterns[0].not) > 0 && (k.not || !slices.Contains(append(everything, "^/"), patterns[0].text)) {
		return k, "regular expressions here are RE2's, which has no lookahead"
	}
	if k.value = patterns[0].text; len(patterns[0].not) > 0 {
		k.not, k.value = true, patterns[0].not[0] // ^(?!…): all but that
	}
	return k, ""
}

// compareFile translates -f, -d and the like.
func (w *rewriter) compareFile(c rewriteCondition, k comparison) (comparison, string) {
	switch c.pattern {
	case "-f", "-s", "-F":
		k.attr = "file"
	case "-d":
		k.attr = "folder"
	case "-l", "-L", "-h":
		if !k.not {
			return k, "links are not told from what they lead to"
		}
		k.always = true
		return k, ""
	default:
		return k, c.pattern + " has no counterpart"
	}
	test := strings.TrimPrefix(c.test, "%{DOCUMENT_ROOT}%{DOCUMENT_ROOT}")
	test = strings.TrimPrefix(test, "%{DOCUMENT_ROOT}")
	if w.root != "" {
		test = strings.TrimPrefix(test, w.root)
	}
	path, reason := w.fill(test)
	switch {
	case reason != "":
		return k, reason
	case strings.Contains(path, "{c"):
		return k, "groups of conditions can't stand in the path of a file"
	case !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "{path}"):
		return k, "it is no path below the root"
	}
	k.value = strings.Replace(path, "/{path}", "{path}", 1)
	return k, ""
}

// requestPath and requestEnd take expressions for the request line apart.
var (
	requestPath = regexp.MustCompile(`^\^?(?:\[A-Z\](?:\{[0-9,]+\}|\+)|[A-Z]+|\([A-Z|]+\)|\\S\+|\.\*)?` + requestBlank + `(/.*)$`)
	requestEnd  = regexp.MustCompile(requestBlank + `(?:HTTP.*)?$`)
)

// requestBlank is a space, as it is written there.
const requestBlank = `(?:\\ |\\s|\[ \]|\s)\+?`

// pathOfRequest is the part of an expression for the request line that concerns the path.
func pathOfRequest(text string) (path string, ok bool) {
	m := requestPath.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	path = m[1]
	if end := requestEnd.FindStringIndex(path); end != nil {
		path = path[:end[0]] + "$"
	}
	if strings.ContainsAny(path, " ?") || strings.Contains(path, `\s`) {
		return "", false
	}
	return "^" + strings.TrimPrefix(path, "/+"), true
}

// nameGroups gives the groups of an expression the names c1, c2, and c0 to the whole.
func nameGroups(text string) string {
	n := 0
	list := tokens(text)
	for i, t := range list {
		if t.text == "(" {
			n++
			list[i].text = "(?<c" + strconv.Itoa(n) + ">"
		}
	}
	if n == 0 {
		return "(?<c0>" + text + ")"
	}
	return join(list)
}
