package routes

import (
	"reflect"
	"testing"
)

func TestParseTemplate(t *testing.T) {
	rows := []struct {
		name    string
		text    string
		want    Template
		unknown []string
	}{
		{"no text is no template", "", nil, nil},
		{"a text stays", "/a b", Template{{Text: "/a b"}}, nil},
		{"a variable stands between texts", "/x{path}.html", Template{{Text: "/x"}, {Name: "path"}, {Text: ".html"}}, nil},
		{"variables follow each other", "{scheme}{1}", Template{{Name: "scheme"}, {Name: "1"}}, nil},
		{"a header's name is canonical", "{header.x-API-key}", Template{{Name: "header", Key: "X-Api-Key"}}, nil},
		{"a cookie's name keeps its case", "{cookie.PHPSESSID}", Template{{Name: "cookie", Key: "PHPSESSID"}}, nil},
		{"a header needs a name", "{header}", Template{{Name: "header"}}, []string{"header"}},
		{"a path takes no name", "{path.x}", Template{{Name: "path", Key: "x"}}, []string{"path.x"}},
		{"another word is unknown", "/{pth}", Template{{Text: "/"}, {Name: "pth"}}, []string{"pth"}},
		{"a group that there is not is unknown", "{2}", Template{{Name: "2"}}, []string{"2"}},
		{"the braces of JSON are text", `{"a":{"b":1}}`, Template{{Text: `{"a":{"b":1}}`}}, nil},
		{"the braces of CSS are text", "a { color: red }", Template{{Text: "a { color: red }"}}, nil},
		{"two braces are one", "a{{path}b{path}", Template{{Text: "a{path}b"}, {Name: "path"}}, nil},
		{"a brace that is left open is text", "a{path", Template{{Text: "a{path"}}, nil},
	}
	known := append([]string{"1"}, Variables()...)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, unknown := parseTemplate(row.text, known)
			if !reflect.DeepEqual(got, row.want) || !reflect.DeepEqual(unknown, row.unknown) {
				t.Errorf("parseTemplate(%q) = %+v, unknown %q; want %+v, %q", row.text, got, unknown, row.want, row.unknown)
			}
		})
	}
}

func TestSplitQuery(t *testing.T) {
	rows := []struct{ name, text, path, query string }{
		{"a question mark begins the query", "/a?b={path}", "/a", "b={path}"},
		{"it may stand behind a variable", "{path}?b", "{path}", "b"},
		{"the first one counts", "/a?b?c", "/a", "b?c"},
		{"a query may be empty", "/a?", "/a", ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			template, _ := parseTemplate(row.text, Variables())
			path, query, found := template.splitQuery()
			if path.String() != row.path || query.String() != row.query || !found {
				t.Errorf("%q is split into %q and %q (%t), want %q and %q", row.text, path, query, found, row.path, row.query)
			}
		})
	}
	if _, _, found := (Template{{Name: "uri"}}).splitQuery(); found {
		t.Error("{uri} is split at a question mark of the client")
	}
}
