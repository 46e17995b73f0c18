package routes

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Headers changes header fields: those to remove first, those to add last. Names are canonical.
type Headers struct {
	Remove []string
	Set    []Field
	Add    []Field
	Always bool // of responses: of errors, too
}

// Field is a header field.
type Field struct {
	Name  string
	Value Template
}

// ErrorPage is what clients get in place of an error.
type ErrorPage struct {
	Statuses  []int
	Path      Template // of this site
	Query     Template // behind "?"
	HasQuery  bool
	Intercept bool // also in place of what an application or a server answers with such a status
}

var headerAttrs = []attr{
	{name: "set", kind: table},
	{name: "add", kind: table},
	{name: "remove", kind: texts, single: true},
}

var (
	headerSchema        = &block{name: "header", many: true, attrs: append(slices.Clone(headerAttrs), attr{name: "always", kind: boolean})}
	requestHeaderSchema = &block{name: "request_header", many: true, attrs: headerAttrs}
	errorPageSchema     = &block{
		name: "error_page", many: true,
		label: &labels{meaning: "statuses", example: "404", several: true},
		attrs: []attr{{name: "path", kind: text, required: true}, {name: "intercept", kind: boolean}},
	}
)

// untouchable are the fields that say where a message ends, who is asked, or what only the gateway knows.
var untouchable = []string{"Connection", "Content-Length", "Date", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// untouchableRequest are those of requests, beside these.
var untouchableRequest = []string{"Expect", "Host", "Proxy", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// headers reads the blocks of that name.
func (r *siteReader) headers(s *section, name string) (all []Headers) {
	for _, block := range s.blocks[name] {
		h := Headers{Set: r.fields(block, "set"), Add: r.fields(block, "add"), Always: get(block, "always", false)}
		for i, field := range get[[]string](block, "remove", nil) {
			if reason := fieldFault(block, field); reason != "" {
				r.errorf(block.elementAt("remove", i), "Wrong header field", "%q %s", field, reason)
			}
			h.Remove = append(h.Remove, http.CanonicalHeaderKey(field))
		}
		if len(block.mentioned([]string{"set", "add", "remove"})) == 0 {
			r.errorf(block.head, "Missing attribute", "%s changes nothing: write \"set\", \"add\" or \"remove\".", block.spec.title())
		}
		all = append(all, h)
	}
	return all
}

func (r *siteReader) fields(s *section, name string) (fields []Field) {
	values := get[map[string]string](s, name, nil)
	for _, field := range slices.Sorted(maps.Keys(values)) {
		at, value := s.keyAt(name, field), values[field]
		f := Field{Name: http.CanonicalHeaderKey(field), Value: r.template(at, value, Variables())}
		switch reason := fieldFault(s, field); {
		case reason != "":
			r.errorf(at, "Wrong header field", "%q %s", field, reason)
		case hasControl(value):
			r.errorf(at, "Wrong header field", "The value of %q holds a control character.", field)
		case slices.ContainsFunc(fields, func(o Field) bool { return o.Name == f.Name }):
			r.errorf(at, "Header field given twice", "%q stands in the map already, in other letters.", field)
		}
		fields = append(fields, f)
	}
	return fields
}

// fieldFault says why a block can't touch a field.
func fieldFault(s *section, field string) string {
	name, ofRequest := http.CanonicalHeaderKey(field), s.spec == requestHeaderSchema
	switch {
	case !isToken(field):
		return "is no name of a header field."
	case slices.Contains(untouchable, name), ofRequest && slices.Contains(untouchableRequest, name):
		return "is a field that the gateway writes itself."
	case ofRequest && strings.ContainsAny(field, "_."):
		return "would be the same variable as one with dashes, which an application may trust: write dashes."
	}
	return ""
}

// errorPages reads the pages; of two for a status the later one counts.
func (r *siteReader) errorPages(s *section) (pages []ErrorPage) {
	for _, block := range s.blocks["error_page"] {
		p := ErrorPage{Intercept: get(block, "intercept", false)}
		for _, l := range block.labels {
			statuses := parseStatuses(l.text)
			if statuses == nil {
				r.errorf(l.at, "Wrong status", "%q is no error: write \"400\" to \"599\", or \"4xx\" or \"5xx\" for all.", l.text)
			}
			p.Statuses = append(p.Statuses, statuses...)
		}
		if block.has("path") {
			p.Path, p.Query, p.HasQuery = r.internalPath(block.at("path"), get(block, "path", ""), []string{"status"})
			r.ranges[siteKey(r.number, "error_page."+p.Path.String())] = block.at("path")
		}
		pages = append(pages, p)
	}
	return pages
}

func parseStatuses(text string) (statuses []int) {
	first, last := 0, 0
	switch n, err := strconv.Atoi(text); {
	case err == nil:
		first, last = n, n
	case text == "4xx":
		first, last = 400, 499
	case text == "5xx":
		first, last = 500, 599
	}
	for n := first; n <= last && first >= 400 && last <= 599; n++ {
		statuses = append(statuses, n)
	}
	return statuses
}
