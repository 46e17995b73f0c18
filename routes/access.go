package routes

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Access says who may have a route.
type Access struct {
	Rules []AccessRule // the first that knows the address decides; if none does, it is refused if one of them allows
	Auth  *AuthBasic   // nil: no password is needed
	Any   bool         // the address or the password is enough
}

// AccessRule allows addresses, or refuses them.
type AccessRule struct {
	Allow    bool
	All      bool // every address, that of a unix socket's client included
	Networks []netip.Prefix
}

// AuthBasic asks for a name and a password (RFC 7617).
type AuthBasic struct {
	Realm  string
	File   string // in the format of htpasswd
	PassOn bool   // the application gets the Authorization field
}

// RateLimit bounds how often requests come that have the same key.
type RateLimit struct {
	Key      Template
	Interval time.Duration // between two of them
	Burst    int           // so many may come early
	Delay    bool          // these wait for their time
}

var (
	accessAttrs = []attr{
		{name: "allow", kind: texts, single: true},
		{name: "deny", kind: texts, single: true},
		{name: "satisfy", kind: text, values: []string{"all", "any"}},
	}
	authSchema = &block{name: "auth_basic", attrs: []attr{
		{name: "realm", kind: text},
		{name: "file", kind: text, required: true},
		{name: "pass_on", kind: boolean},
	}}
	rateSchema = &block{name: "rate_limit", many: true, attrs: []attr{
		{name: "rate", kind: text, required: true},
		{name: "burst", kind: number, max: 1 << 20},
		{name: "delay", kind: boolean},
		{name: "key", kind: text},
	}}
)

// access reads who may have a site or route. What is not said is as it was inherited.
func (r *siteReader) access(s *section, inherited *Access, key string) *Access {
	a := new(Access)
	if inherited != nil {
		*a = *inherited
	}
	if words := s.mentioned([]string{"allow", "deny"}); len(words) > 0 {
		a.Rules = nil
		for _, word := range words {
			a.Rules = append(a.Rules, r.accessRule(s, word))
		}
	}
	if block := s.one("auth_basic"); block != nil {
		a.Auth = r.authBasic(block, key)
	}
	if s.has("satisfy") {
		a.Any = get(s, "satisfy", "") == "any"
	}
	if a.Rules == nil && a.Auth == nil {
		a = nil
	}
	if a == nil || a.Rules == nil || a.Auth == nil {
		r.without(s, "satisfy", "it joins \"allow\" and \"deny\" with \"auth_basic\", and one of them is missing")
	}
	return a
}

func (r *siteReader) accessRule(s *section, word string) AccessRule {
	rule := AccessRule{Allow: word == "allow"}
	if list := get[[]string](s, word, nil); slices.Contains(list, "all") {
		rule.All = true
		if len(list) > 1 {
			r.errorf(s.at(word), "Contradiction", "\"all\" stands alone: it is every address.")
		}
		return rule
	}
	rule.Networks = r.networks(s, word)
	return rule
}

func (r *siteReader) authBasic(s *section, key string) *AuthBasic {
	a := &AuthBasic{Realm: get(s, "realm", "Restricted"), File: r.pathOf(s, "file", key+"auth_basic"), PassOn: get(s, "pass_on", false)}
	if strings.ContainsAny(a.Realm, `"\`) {
		r.errorf(s.at("realm"), "Wrong realm", "%q: a realm has neither quotes nor backslashes.", a.Realm)
	}
	return a
}

func (r *siteReader) rateLimits(s *section) (limits []RateLimit) {
	for _, block := range s.blocks["rate_limit"] {
		l := RateLimit{Burst: get(block, "burst", 0), Delay: get(block, "delay", false)}
		l.Key = r.template(block.at("key"), get(block, "key", "{remote_ip}"), slices.DeleteFunc(Variables(), func(v string) bool { return v == "user" }))
		rate, ok := get(block, "rate", ""), false
		if l.Interval, ok = parseRate(rate); !ok && block.has("rate") {
			r.errorf(block.at("rate"), "Wrong rate", "%q: write a number of requests in a second, a minute or an hour: \"10r/s\", \"30r/m\" or \"100r/h\".", rate)
		}
		limits = append(limits, l)
	}
	return limits
}

// parseRate reads "10r/s" as the time between two requests.
func parseRate(text string) (time.Duration, bool) {
	number, unit, _ := strings.Cut(text, "r/")
	n, err := strconv.ParseUint(number, 10, 20)
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}
	if err != nil || n == 0 || units[unit] == 0 {
		return 0, false
	}
	return units[unit] / time.Duration(n), true
}
