package routes

import (
	"slices"
	"strings"
)

// warnShadowed warns of routes that never get a request, because an earlier one takes all of theirs.
func (r *siteReader) warnShadowed(sections []*section, routes []Route) {
	for later := range routes {
		for earlier := range later {
			if !shadows(&routes[earlier], &routes[later]) {
				continue
			}
			first, second := sections[earlier].label(), sections[later].label()
			r.warnf(second.at, "Route never matches", "%q in line %d comes first and takes every request that %q could. Move this route above it, or remove it.",
				first.text, first.at.Start.Line, second.text)
			break
		}
	}
}

// shadows reports whether the first route takes every request that the second matches.
func shadows(first, second *Route) bool {
	return coversMethods(first.Methods, second.Methods) &&
		(covers(first.Pattern, second.Pattern) || second.Pattern.Kind == Exact && first.IsFolder(second.Pattern.Text))
}

func coversMethods(first, second []string) bool {
	if len(first) == 0 {
		return true
	}
	for _, m := range second {
		if !slices.Contains(first, m) {
			return false
		}
	}
	return len(second) > 0
}

// covers reports whether every path that b matches is one that a matches. A faulty pattern has no kind and covers nothing.
func covers(a, b Pattern) bool {
	switch a.Kind {
	case Exact:
		return a == b
	case Prefix:
		// A path with the ending may stand anywhere, so only the prefix of all paths covers a suffix.
		return b.Kind == Suffix && (a.Text == "/" || b.Top != "" && strings.HasPrefix(b.Top, a.Text)) ||
			(b.Kind == Exact || b.Kind == Prefix) && strings.HasPrefix(b.Text, a.Text)
	case Suffix:
		return b.Kind == Exact && strings.HasPrefix(b.Text, a.Top) && strings.HasSuffix(b.Text[len(a.Top):], a.Text) ||
			b.Kind == Suffix && strings.HasPrefix(b.Top, a.Top) && strings.HasSuffix(b.Text, a.Text)
	default:
		return false
	}
}
