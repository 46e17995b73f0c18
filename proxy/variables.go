package proxy

import (
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"gateway/routes"
)

// facts are what the variables of the configuration stand for in one request.
type facts struct {
	r      *http.Request
	x      *exchange
	path   string // decoded and clean
	groups groups // of the regular expressions that matched; nil: none
}

// groups are what the groups of regular expressions matched, by number and name.
type groups map[string]group

type group struct {
	text   string
	inPath bool // it is a piece of the decoded path
}

// origin is who has chosen the value of a variable, and so what it can hold.
type origin uint8

const (
	trusted   origin = iota // a name or an address that was checked: it means the same everywhere
	unescaped               // a piece of the decoded path
	escaped                 // a piece of the target as the client sent it
	foreign                 // any text without control characters
)

// facts are those of a request at its present path.
func (x *exchange) facts(r *http.Request) *facts {
	return &facts{r: r, x: x, path: x.path}
}

// look returns the value of a variable.
func (v *facts) look(p routes.Part) (string, origin) {
	switch p.Name {
	case "host":
		return v.r.Host, trusted
	case "path":
		return v.path, unescaped
	case "query":
		return v.r.URL.RawQuery, escaped
	case "uri":
		return v.x.requestURI(v.r), escaped
	case "method":
		return v.r.Method, trusted
	case "scheme":
		return v.x.scheme(), trusted
	case "remote_ip":
		return v.x.remoteIP(), trusted
	case "user":
		return v.x.user, foreign
	case "status":
		return strconv.Itoa(v.x.failed), trusted
	case "header":
		return strings.Join(v.r.Header[p.Key], ", "), foreign
	case "cookie":
		return cookieOf(v.r, p.Key), foreign
	}
	g := v.groups[p.Name]
	if g.inPath {
		return g.text, unescaped
	}
	return g.text, foreign
}

// cookieOf is the first cookie of that name; empty: there is none.
func cookieOf(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// scheme is how the client has come.
func (x *exchange) scheme() string {
	if x.https {
		return "https"
	}
	return "http"
}

// fill replaces the variables of a template by what write makes of them.
func (v *facts) fill(t routes.Template, write func(name, value string, s origin) string) string {
	if len(t) == 1 && t[0].Name == "" {
		return t[0].Text
	}
	var b strings.Builder
	for _, p := range t {
		if p.Name == "" {
			b.WriteString(p.Text)
			continue
		}
		value, from := v.look(p)
		b.WriteString(write(p.Name, value, from))
	}
	return b.String()
}

// field is the template as the value of a header field.
func (v *facts) field(t routes.Template) string {
	return v.fill(t, func(_, value string, s origin) string {
		if s == unescaped {
			return escapePath(value) // a quote in it would end a quoted string
		}
		return value
	})
}

// errPath says that a client tried to choose more of a path than one name.
var errPath = errors.New("a value from the request does not fit into a path")

// internalPath is the template as a path of this site, decoded and clean. A value that comes from elsewhere than the path is one
// name in it, and leads to no other folder.
func (v *facts) internalPath(t routes.Template) (string, error) {
	var err error
	path := v.fill(t, func(name, value string, s origin) string {
		if name == "host" {
			value = siteName(value)
		}
		if s != unescaped && (strings.ContainsAny(value, `/\`) || value == "." || value == "..") {
			err = errPath
		}
		return value
	})
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if hasDotSegment(path) { // of pieces that have none themselves
		return "", errPath
	}
	return routes.CleanPath(escapePath(path))
}

// query is the template as the query of a URL: a value is no more than one value in it.
func (v *facts) query(t routes.Template) string {
	if len(t) == 1 && t[0].Name == "query" {
		return v.r.URL.RawQuery
	}
	before := ""
	var b strings.Builder
	for _, p := range t {
		value := p.Text
		if p.Name != "" {
			value, _ = v.look(p)
			if p.Name != "query" || strings.HasSuffix(before, "=") { // else it is a list of values
				value = escapeQuery(value)
			}
		}
		b.WriteString(value)
		before = value
	}
	return b.String()
}

// escapeQuery escapes all that could end a value. Slashes can't, and stay to be read.
func escapeQuery(value string) string {
	return strings.ReplaceAll(url.QueryEscape(value), "%2F", "/")
}

// location is where a redirect leads. The literal text alone says to which host.
func (v *facts) location(path, query routes.Template) string {
	to := ""
	for i, p := range path {
		value, from := p.Text, trusted
		if p.Name != "" {
			value, from = v.look(p)
		}
		switch atHost := endsInHost(to); {
		case from == trusted:
		case atHost && isOfHost(path, i):
			value = url.QueryEscape(value)
		default:
			value = escapeAs(from, value)
			if atHost && !strings.HasPrefix(value, "/") { // ".evil.example" and "@evil.example" would be another host
				value = "/" + value
			}
		}
		to += value
	}
	if strings.HasPrefix(to, "/") {
		to = "/" + strings.TrimLeft(to, "/") // "//host/" would be another site
	}
	if q := v.query(query); q != "" {
		to += "?" + q
	}
	return to
}

// endsInHost reports whether what follows the beginning of a URL belongs to its host, unless a slash comes first.
func endsInHost(to string) bool {
	_, host, found := strings.Cut(to, "://")
	return found && !strings.ContainsAny(host, "/#")
}

// isOfHost reports whether a variable is a part of a host because the text around it is: "https://{1}.example.com/".
func isOfHost(t routes.Template, i int) bool {
	before := t[i-1].Text
	goesOn := before != "" && strings.IndexByte("/.-_:@", before[len(before)-1]) >= 0
	return goesOn || i+1 < len(t) && t[i+1].Text != "" && strings.IndexByte("/#", t[i+1].Text[0]) < 0
}

// escapeAs escapes a value for the path of a URL.
func escapeAs(from origin, value string) string {
	switch from {
	case unescaped:
		return escapePath(value)
	case foreign:
		return url.PathEscape(value)
	default:
		return value
	}
}

// body is the template as text of a content type: no value becomes markup.
func (v *facts) body(t routes.Template, contentType string) string {
	return v.fill(t, func(_, value string, _ origin) string {
		switch {
		case strings.HasPrefix(contentType, "text/plain"):
			return value
		case strings.Contains(contentType, "json"):
			quoted, _ := json.Marshal(value) // a text always can be
			return string(quoted[1 : len(quoted)-1])
		}
		return html.EscapeString(value)
	})
}
