package routes

import (
	"reflect"
	"strings"
)

// warnBypassed warns of routes with rules of their own for who may come in, past which requests for the same paths get.
func (r *siteReader) warnBypassed(sections []*section, routes []Route) {
	for guard := range routes {
		if !guards(sections[guard], &routes[guard]) {
			continue
		}
		for other := range routes {
			if other == guard || guards(sections[other], &routes[other]) || !routes[guard].Internal && reflect.DeepEqual(routes[other].Access, routes[guard].Access) {
				continue
			}
			if r.warnBypass(sections[guard].label(), sections[other].label(), &routes[guard], &routes[other], other < guard) {
				break
			}
		}
	}
}

func (r *siteReader) warnBypass(at, by label, guard, other *Route, earlier bool) bool {
	const summary = "Access rules with a way around"
	switch {
	case earlier && other.runs() && other.Pattern.Kind == Suffix && guard.Pattern.Kind == Prefix && strings.HasPrefix(guard.Pattern.Text, other.Pattern.Top):
		r.warnf(at.at, summary, "%q in line %d comes first, and takes paths of this route that end so without asking. Move this route above it, or say there who may come in.",
			by.text, by.at.Start.Line)
	case !earlier && len(guard.Methods) > 0 && !coversMethods(guard.Methods, other.Methods) && overlapping(guard.Pattern, other.Pattern):
		r.warnf(at.at, summary, "Methods that this route does not list go to %q in line %d, which does not ask. Remove \"methods\" here, or say there who may come in.",
			by.text, by.at.Start.Line)
	default:
		return false
	}
	return true
}

// guards reports whether a route itself says who may come in, and it is not everybody. Where it is internal, that is nobody.
func guards(s *section, r *Route) bool {
	if r.Internal {
		return true
	}
	if a := r.Access; a == nil || len(a.Rules) == 1 && a.Rules[0].Allow && a.Rules[0].All && (a.Any || a.Auth == nil) {
		return false
	}
	return s.mentions("allow") || s.mentions("deny") || s.one("auth_basic") != nil
}

// runs reports whether an application or a script answers.
func (r *Route) runs() bool { return r.Static == nil && r.Redirect == nil && r.Respond == nil }

// overlapping reports whether a path can match both.
func overlapping(a, b Pattern) bool {
	switch {
	case a.Kind == Exact && b.Kind == Exact:
		return a == b
	case b.Kind == Exact:
		a, b = b, a
	}
	begins, ends := strings.HasPrefix(a.top(), b.top()), true
	if a.Kind != Exact {
		begins = begins || strings.HasPrefix(b.top(), a.top())
	}
	if b.Kind == Suffix && a.Kind != Prefix {
		ends = strings.HasSuffix(a.Text, b.Text) || a.Kind == Suffix && strings.HasSuffix(b.Text, a.Text)
	}
	return begins && ends
}

// top is what every path that matches begins with.
func (p Pattern) top() string {
	if p.Kind == Suffix {
		return p.Top
	}
	return p.Text
}
