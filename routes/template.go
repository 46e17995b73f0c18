package routes

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Template is a text with variables, "/index.php?q={path}", as the parts that follow each other. Nil is no text.
type Template []Part

// Part of a [Template] is a literal text, or a variable.
type Part struct {
	Text string `json:",omitempty"`
	Name string `json:",omitempty"` // of a variable: one of [Variables], a number, or the name of a group; empty: it is Text
	Key  string `json:",omitempty"` // of {header.Key} and {cookie.Key}
}

// Variables are the names that every template knows.
func Variables() []string {
	return []string{"host", "path", "query", "uri", "method", "scheme", "remote_ip", "user", "header.NAME", "cookie.NAME"}
}

// String is the template as it was written.
func (t Template) String() string {
	var b strings.Builder
	for _, p := range t {
		switch {
		case p.Name == "":
			b.WriteString(p.Text)
		case p.Key == "":
			b.WriteString("{" + p.Name + "}")
		default:
			b.WriteString("{" + p.Name + "." + p.Key + "}")
		}
	}
	return b.String()
}

// Uses reports whether a variable stands in the template.
func (t Template) Uses(name string) bool {
	return slices.ContainsFunc(t, func(p Part) bool { return p.Name == name })
}

// variable is what is taken for one. Any other brace is a brace, as in CSS and JSON; {{path} is the text "{path}".
var variable = regexp.MustCompile(`\{?\{([a-z0-9_]+)(?:\.([A-Za-z0-9_-]+))?\}`)

// parseTemplate splits a text. It returns the names that are none of the known ones, too.
func parseTemplate(text string, known []string) (t Template, unknown []string) {
	literal := func(s string) {
		if n := len(t) - 1; n >= 0 && t[n].Name == "" {
			t[n].Text += s
		} else if s != "" {
			t = append(t, Part{Text: s})
		}
	}
	for text != "" {
		m := variable.FindStringSubmatchIndex(text)
		if m == nil {
			break
		}
		found, name, key := text[m[0]:m[1]], text[m[2]:m[3]], ""
		if m[4] >= 0 {
			key = text[m[4]:m[5]]
		}
		literal(text[:m[0]])
		text = text[m[1]:]
		switch {
		case strings.HasPrefix(found, "{{"):
			literal(found[1:])
			continue
		case key == "" && slices.Contains(known, name), key != "" && slices.Contains(known, name+".NAME"):
		default:
			unknown = append(unknown, strings.Trim(found, "{}"))
		}
		if name == "header" {
			key = http.CanonicalHeaderKey(key)
		}
		t = append(t, Part{Name: name, Key: key})
	}
	literal(text)
	return t, unknown
}

// template reads a text with variables.
func (r *reader) template(at hcl.Range, text string, known []string) Template {
	t, unknown := parseTemplate(text, known)
	for _, name := range unknown {
		r.errorf(within(at, text, strings.Index(text, "{"+name+"}"), len(name)+2), "Unknown variable", "{%s} is no variable that is known here.%s There are {%s}. For the text itself write {{%[1]s}.",
			name, didYouMean(name, known), strings.Join(known, "}, {"))
	}
	return t
}

// pathTemplate reads a path or a URL with variables, and splits it where its query begins. A brace can only be the rest of one.
func (r *reader) pathTemplate(at hcl.Range, text string, known []string) (path, query Template, hasQuery bool) {
	t := r.template(at, text, known)
	for _, p := range t {
		if p.Name == "" && strings.ContainsAny(p.Text, "{}") {
			r.errorf(at, "Wrong variable", "%q: a brace stands around the name of a variable only, as in {path}. Write %%7B or %%7D for one in a query.", text)
		}
	}
	return t.splitQuery()
}

// internalPath reads a path below the site, whose first part is text or {path}.
func (r *reader) internalPath(at hcl.Range, text string, known []string) (path, query Template, hasQuery bool) {
	path, query, hasQuery = r.pathTemplate(at, text, known)
	for _, name := range []string{"uri", "query"} {
		if path.Uses(name) {
			r.errorf(at, "Wrong variable", "%q: {%s} is escaped, and holds more than a path: write {path}.", text, name)
		}
	}
	switch {
	case strings.HasPrefix(text, "http://"), strings.HasPrefix(text, "https://"):
		r.errorf(at, "Wrong path", "%q is another server's: only a redirect leads there, which a rewrite is with status = 302.", text)
	case len(path) == 0 || path[0].Name == "" && path[0].Text[0] != '/':
		r.errorf(at, "Wrong path", "%q: a path begins with \"/\" or with a variable.", text)
	case strings.Contains(text, "#"):
		r.errorf(at, "Wrong path", "%q: a path has no \"#\".", text)
	}
	return path, query, hasQuery
}

// splitQuery splits a path, or a URL, with variables where its query begins. What a variable holds never begins one.
func (t Template) splitQuery() (path, query Template, found bool) {
	for i, p := range t {
		before, after, ok := strings.Cut(p.Text, "?")
		if p.Name != "" || !ok {
			continue
		}
		path = slices.Clone(t[:i])
		if before != "" {
			path = append(path, Part{Text: before})
		}
		if after != "" {
			query = append(query, Part{Text: after})
		}
		return path, append(query, t[i+1:]...), true
	}
	return t, nil, false
}

// within is the place of a piece of a text that stands in quotes at a place, or the place itself if that is written otherwise.
func within(at hcl.Range, text string, offset, length int) hcl.Range {
	const quotes = 2
	if offset < 0 || at.Start.Line != at.End.Line || at.End.Byte-at.Start.Byte != len(text)+quotes {
		return at
	}
	forward := func(n int) hcl.Pos {
		return hcl.Pos{Line: at.Start.Line, Column: at.Start.Column + 1 + len([]rune(text[:n])), Byte: at.Start.Byte + 1 + n}
	}
	return hcl.Range{Filename: at.Filename, Start: forward(offset), End: forward(offset + length)}
}

// target reads where a redirect leads to, which must be a path, or a URL whose scheme no client chooses. Its texts may be written as
// people read them.
func (r *reader) target(at hcl.Range, text string, known []string) (path, query Template, hasQuery bool) {
	path, query, hasQuery = r.pathTemplate(at, text, known)
	switch {
	case text == "":
		r.errorf(at, "Wrong target", "The target is empty: write a URL or a path.")
	case len(path) == 0 || path[0].Name == "" && !isTarget(path[0].Text) || path[0].Name != "" && !slices.Contains([]string{"path", "uri", "scheme"}, path[0].Name):
		r.errorf(at, "Wrong target", "%q: a target begins with \"/\", \"http://\" or \"https://\", or with {path}, {uri} or {scheme}, so that no client chooses where it leads.", text)
	}
	return path.escapeTexts(), query.escapeTexts(), hasQuery
}

// escapeTexts escapes in its texts what no URL holds (RFC 3986 §2), and leaves what is escaped already.
func (t Template) escapeTexts() Template {
	t = slices.Clone(t)
	for i := range t {
		var b strings.Builder
		for _, c := range []byte(t[i].Text) {
			if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
		t[i].Text = b.String()
	}
	return t
}

func isTarget(text string) bool {
	return strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "//") || strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://")
}
