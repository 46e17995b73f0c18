package migrate

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// pattern is a regular expression of Apache's (PCRE) as one of this gateway's (RE2), for whole paths.
type pattern struct {
	text string
	not  []string // what must not match: its negative lookaheads
}

// subject is what an expression of Apache's is compared with.
type subject struct {
	folder string // the path behind this folder, which ends in a slash; empty: the whole path, or no path
	name   bool   // the last name of the path alone
	fold   bool   // letters of both cases are the same
}

// translate returns the patterns of which one must match, or why there are none. There is more than one if a lookahead concerns only
// some of the alternatives.
func (s subject) translate(text string) (patterns []pattern, reason string) {
	var plain []string
	var special []pattern
	for _, alternative := range splitAlternatives(text) {
		p, reason := s.alternative(alternative)
		if reason != "" {
			return nil, reason
		}
		if len(p.not) > 0 {
			special = append(special, p)
		} else {
			plain = append(plain, p.text)
		}
	}
	if len(plain) > 0 {
		patterns = append(patterns, pattern{text: strings.Join(plain, "|")})
	}
	patterns = append(patterns, special...)
	for i := range patterns {
		p := &patterns[i]
		for _, re := range append([]*string{&p.text}, pointers(p.not)...) {
			if _, err := regexp.Compile(*re); err != nil {
				return nil, "regular expressions here are RE2's: " + err.Error()
			}
			if s.fold && strings.ToLower(*re) != strings.ToUpper(*re) {
				*re = "(?i)" + *re
			}
		}
	}
	return patterns, ""
}

func pointers(list []string) (all []*string) {
	for i := range list {
		all = append(all, &list[i])
	}
	return all
}

// alternative translates a pattern without alternatives at its top.
func (s subject) alternative(text string) (p pattern, reason string) {
	text, ahead, reason := cutLookaheads(text)
	if reason != "" {
		return p, reason
	}
	for _, re := range ahead {
		p.not = append(p.not, s.anchor(re))
	}
	p.text = s.anchor(text)
	return p, ""
}

// token is a piece of a regular expression: a character, an escape, a class, or the beginning or end of a group.
type token struct {
	text  string
	depth int // of groups around it
}

// tokens splits a regular expression. One that is broken gives something that does not compile either.
func tokens(text string) (list []token) {
	depth := 0
	for i := 0; i < len(text); {
		n := 1
		switch text[i] {
		case '\\':
			n = min(2, len(text)-i)
		case '[':
			n = classLength(text[i:])
		case '(':
			depth++
			for _, opening := range []string{"(?:", "(?!", "(?=", "(?<!", "(?<=", "(?>"} {
				if strings.HasPrefix(text[i:], opening) {
					n = len(opening)
				}
			}
		}
		list = append(list, token{text[i : i+n], depth})
		if text[i] == ')' {
			depth--
		}
		i += n
	}
	return list
}

// classLength is the length of a bracket expression. A bracket stands for itself at its beginning.
func classLength(text string) int {
	i := 1
	if i < len(text) && text[i] == '^' {
		i++
	}
	if i < len(text) && text[i] == ']' {
		i++
	}
	for ; i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case strings.HasPrefix(text[i:], "[:"):
			if end := strings.Index(text[i:], ":]"); end > 0 {
				i += end + 1
			}
		case text[i] == ']':
			return i + 1
		}
	}
	return len(text)
}

func join(list []token) string {
	var b strings.Builder
	for _, t := range list {
		b.WriteString(t.text)
	}
	return b.String()
}

func splitAlternatives(text string) (list []string) {
	all := tokens(text)
	begin := 0
	for i, t := range all {
		if t.text == "|" && t.depth == 0 {
			list, begin = append(list, join(all[begin:i])), i+1
		}
	}
	return append(list, join(all[begin:]))
}

// cutLookaheads takes the negative lookaheads out of a pattern. Each becomes an expression of its own: what leads to it, and what may
// not follow there.
func cutLookaheads(text string) (rest string, ahead []string, reason string) {
	all := tokens(text)
	var kept []token
	begins := []int{0} // in kept: of the alternative, by depth
	for i := 0; i < len(all); i++ {
		t := all[i]
		switch {
		case t.text == "(?!":
			end := i + 1
			for end < len(all) && (all[end].text != ")" || all[end].depth != t.depth) {
				end++
			}
			if end == len(all) {
				return text, nil, ""
			}
			leading := ""
			for level := range begins {
				to := len(kept)
				if level+1 < len(begins) {
					to = begins[level+1] - 1
				}
				leading += join(kept[begins[level]:to])
			}
			what := join(all[i+1 : end])
			if len(splitAlternatives(what)) > 1 {
				what = "(?:" + what + ")"
			}
			ahead = append(ahead, leading+what)
			i = end
			continue
		case strings.HasPrefix(t.text, "(?=") || strings.HasPrefix(t.text, "(?<"):
			return "", nil, "regular expressions here are RE2's, which has no " + t.text
		case t.text[0] == '(':
			begins = append(begins, len(kept)+1)
		case t.text == ")" && len(begins) > 1:
			begins = begins[:len(begins)-1]
		case t.text == "|":
			begins[len(begins)-1] = len(kept) + 1
		}
		kept = append(kept, t)
	}
	return join(kept), ahead, ""
}

// anchor writes a pattern for the whole path, as a person would.
func (s subject) anchor(text string) string {
	var b strings.Builder
	all := tokens(text)
	anchored := false
	for _, t := range all {
		switch {
		case t.text == "^" && s.name:
			anchored = true
			b.WriteString("/")
		case t.text == "^":
			anchored = true
			b.WriteString("^" + quotePath(s.folder))
		case t.text == "$" && s.name:
			b.WriteString("(/|$)") // PATH_INFO may follow a script
		case t.text == "." && s.name:
			b.WriteString("[^/]")
		default:
			b.WriteString(plainEscape(t.text))
		}
	}
	written := b.String()
	switch {
	case anchored, s.folder == "" && !s.name:
		return written
	case s.name && startsFixed(all):
		return written
	case s.name && len(all) > 2 && all[0].text == "." && startsFixed(all[2:]):
		return strings.TrimPrefix(strings.TrimPrefix(written, "[^/]*"), "[^/]+")
	case s.name:
		return "/[^/]*" + written
	case s.folder == "/" && startsFixed(all):
		return written
	case len(all) > 0 && all[0].text == ".", strings.HasPrefix(text, "(.*"), strings.HasPrefix(text, "(.+"):
		return "^" + quotePath(s.folder) + written
	}
	return "^" + quotePath(s.folder) + ".*?" + written
}

// startsFixed reports whether a pattern begins with a character that is no slash.
func startsFixed(all []token) bool {
	if len(all) == 0 || all[0].text != `\.` && strings.ContainsAny(all[0].text, ".(|/$*+?") || strings.HasPrefix(all[0].text, "[^") ||
		slices.Contains([]string{`\D`, `\S`, `\W`}, all[0].text) {
		return false
	}
	return len(all) == 1 || !strings.ContainsAny(all[1].text, "*?{") || all[1].text[0] == '\\'
}

// plainEscape writes an escape without a backslash where that reads better: a text of the configuration doubles them.
func plainEscape(t string) string {
	if t[0] == '[' {
		return strings.NewReplacer(`\\`, `\\`, `\.`, ".", `\/`, "/", `\_`, "_", `\?`, "?", `\+`, "+", `\*`, "*", `\$`, "$", `\(`, "(", `\)`, ")", `\|`, "|", `\ `, " ").Replace(t)
	}
	if len(t) < 2 || t[0] != '\\' {
		return t
	}
	switch {
	case strings.IndexByte(`.?+*$()|{}`, t[1]) >= 0:
		return "[" + t[1:] + "]"
	case strings.IndexByte(`/-_ :;,=&%#@~!"'<>`, t[1]) >= 0:
		return t[1:]
	case t[1] == 'Z':
		return `\z`
	case t[1] == 'h':
		return `[ \t]`
	}
	return t
}

// quotePath writes a path, or a part of it, as a regular expression.
func quotePath(path string) string {
	list := tokens(regexp.QuoteMeta(path))
	for i := range list {
		list[i].text = plainEscape(list[i].text)
	}
	return join(list)
}

// globPattern is the expression for the names that a pattern of the shell matches: those of files, wherever they are.
func globPattern(glob string) string {
	if rest, ok := strings.CutPrefix(glob, "*"); ok && strings.HasPrefix(rest, ".") {
		return quoteGlob(rest) + "(/|$)"
	}
	return "/" + quoteGlob(glob) + "(/|$)"
}

func quoteGlob(glob string) string {
	text := quotePath(glob)
	return strings.NewReplacer("[*]", "[^/]*", "[?]", "[^/]").Replace(text)
}

// maxEndings bounds into how many endings an expression is taken apart.
const maxEndings = 40

// endings are the ends of names that an expression stands for, ".jpg" and ".jpeg" for "\.jpe?g$"; nil: it says more than that.
func endings(text string) []string {
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil
	}
	re = re.Simplify()
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	if len(parts) > 0 && parts[0].Op == syntax.OpBeginText {
		parts = parts[1:]
		if len(parts) == 0 || !isAny(parts[0]) {
			return nil
		}
	}
	for len(parts) > 0 && isAny(parts[0]) {
		parts = parts[1:]
	}
	if len(parts) < 2 || parts[len(parts)-1].Op != syntax.OpEndText {
		return nil
	}
	list := []string{""}
	for _, p := range parts[:len(parts)-1] {
		list = product(list, literals(p))
	}
	for i, ending := range list {
		list[i] = strings.ToLower(ending)
		if len(ending) < 2 || ending[0] != '.' || strings.ContainsAny(ending, "/*\\%?#") {
			return nil
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func isAny(re *syntax.Regexp) bool {
	if re.Op == syntax.OpCapture {
		return isAny(re.Sub[0])
	}
	return (re.Op == syntax.OpStar || re.Op == syntax.OpPlus) && (re.Sub[0].Op == syntax.OpAnyCharNotNL || re.Sub[0].Op == syntax.OpAnyChar)
}

// literals are the texts that an expression matches; nil: too many, or they can't be listed.
func literals(re *syntax.Regexp) (list []string) {
	switch re.Op {
	case syntax.OpLiteral:
		return []string{string(re.Rune)}
	case syntax.OpEmptyMatch:
		return []string{""}
	case syntax.OpCapture:
		return literals(re.Sub[0])
	case syntax.OpQuest:
		if inner := literals(re.Sub[0]); inner != nil {
			return append([]string{""}, inner...)
		}
	case syntax.OpConcat:
		list = []string{""}
		for _, sub := range re.Sub {
			list = product(list, literals(sub))
		}
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			inner := literals(sub)
			if inner == nil {
				return nil
			}
			list = append(list, inner...)
		}
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			for c := re.Rune[i]; c <= re.Rune[i+1]; c++ {
				if list = append(list, string(c)); len(list) > maxEndings {
					return nil
				}
			}
		}
	default:
		return nil
	}
	if len(list) > maxEndings {
		return nil
	}
	return list
}

// product puts each of the second texts behind each of the first; nil: there are too many.
func product(first, second []string) (list []string) {
	if len(first)*len(second) > maxEndings {
		return nil
	}
	for _, a := range first {
		for _, b := range second {
			list = append(list, a+b)
		}
	}
	return list
}
