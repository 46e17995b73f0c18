package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// access is what a section says of who may come in.
type access struct {
	from              Origin // of the last of its directives
	kind, realm, file string // of passwords
	provider          string
	required          []directive // Require and its sections; nil: nothing was said
	order             string      // of Allow and Deny, in small letters
	allow, deny       []string
	ordered           bool // one of Order, Allow and Deny was said
	any               bool
	passOn            bool
	shut              bool // what was said can't be said here, and has its note already
}

// verdict is who may come in.
type verdict struct {
	nobody      bool
	allow, deny []string // networks; with allow: nobody else
	denyFirst   bool     // deny decides about what is in both
	user        bool     // with a password
	either      bool     // one of network and password is enough
	fault       string   // why nobody may: something can't be said here
}

func (v verdict) isOpen() bool { return !v.nobody && v.allow == nil && v.deny == nil && !v.user }

// nobodyFor is for what can't be said here: a door stays shut until somebody has decided.
func nobodyFor(format string, args ...any) verdict {
	return verdict{nobody: true, fault: fmt.Sprintf(format, args...) + ": nobody may come in until this is decided"}
}

// directive takes what concerns access, and reports whether it does.
func (a *access) directive(d directive) bool {
	value := d.arg(0)
	switch d.name {
	case "authtype":
		a.kind = strings.ToLower(value)
	case "authname":
		a.realm = strings.NewReplacer(`"`, "'", `\`, "").Replace(value)
	case "authuserfile":
		a.file = value
	case "authbasicprovider":
		a.provider = strings.ToLower(value)
	case "require", "<requireall", "<requireany", "<requirenone":
		a.required = append(a.required, d)
	case "order":
		a.order, a.ordered = strings.ReplaceAll(strings.ToLower(d.raw), " ", ""), true
	case "allow", "deny":
		words := d.words()
		if len(words) > 0 && strings.EqualFold(words[0], "from") {
			words = words[1:]
		}
		if a.ordered = true; d.name == "allow" {
			a.allow = append(a.allow, words...)
		} else {
			a.deny = append(a.deny, words...)
		}
	case "satisfy":
		a.any = strings.EqualFold(value, "any")
	case "cgipassauth":
		a.passOn = d.isOn()
	default:
		return false
	}
	a.from = d.Origin
	return true
}

func (a *access) says() bool { return a.required != nil || a.ordered || a.shut }

// inherit takes from an outer section what this one leaves open.
func (a access) inherit(outer access) access {
	if !a.says() {
		a.required, a.order, a.allow, a.deny, a.ordered, a.from = outer.required, outer.order, outer.allow, outer.deny, outer.ordered, outer.from
		a.shut = outer.shut
	}
	if a.kind == "" {
		a.kind, a.provider = outer.kind, outer.provider
	}
	if a.realm == "" {
		a.realm = outer.realm
	}
	if a.file == "" {
		a.file = outer.file
	}
	a.any, a.passOn = a.any || outer.any, a.passOn || outer.passOn
	return a
}

// verdict says what all this comes to.
func (a *access) verdict() verdict {
	if a.shut {
		return verdict{nobody: true}
	}
	required, ordered := requirements(a.required, false), a.orders()
	v := required
	switch {
	case required.fault != "":
	case ordered.fault != "", required.isOpen(), ordered.nobody && !a.any:
		v = ordered
	case ordered.isOpen() && !a.any, !a.ordered:
	case ordered.isOpen(): // and that is enough
		v = ordered
	case required.user && required.allow == nil && required.deny == nil:
		v = ordered
		v.nobody, v.user, v.either = false, true, a.any
		if ordered.nobody {
			v.either = false // only the password is left
		}
	default:
		v = nobodyFor("Require and Allow or Deny are mixed")
	}
	if !v.nobody && v.user && (a.kind != "basic" || a.file == "" || a.provider != "" && a.provider != "file") {
		return nobodyFor("passwords are taken from an AuthUserFile with AuthType Basic only")
	}
	return v
}

// requirements evaluates Require lines, of which one is enough, or all are needed.
func requirements(list []directive, all bool) (v verdict) {
	switch len(list) {
	case 0:
		return v
	case 1:
		return requirement(list[0])
	}
	granted, denied := false, false
	for _, d := range list {
		part := requirement(d)
		switch {
		case part.fault != "":
			return part
		case part.isOpen():
			granted = true
		case part.nobody:
			denied = true
		case part.user && v.user, part.allow != nil && v.allow != nil && all, part.either && (all || v.user || v.allow != nil), v.either && all,
			!all && (part.deny != nil || part.user && part.allow != nil && !part.either):
			return nobodyFor("%s can't be joined with the others here", d.Text)
		default:
			v.allow, v.deny, v.user, v.either = append(v.allow, part.allow...), append(v.deny, part.deny...), v.user || part.user, v.either || part.either
		}
	}
	switch {
	case !all && granted:
		return verdict{}
	case all && denied, denied && v.isOpen():
		return verdict{nobody: true}
	case !all && v.user && v.allow != nil:
		v.either = true
	}
	v.denyFirst = v.deny != nil
	return v
}

// requirement evaluates one line, or a section of them.
func requirement(d directive) (v verdict) {
	words := d.words()
	switch d.name {
	case "<requireall":
		return requirements(d.inner, true)
	case "<requireany":
		return requirements(d.inner, false)
	case "<requirenone":
		inner := requirements(d.inner, false)
		if inner.fault != "" || inner.deny != nil || inner.user || inner.isOpen() {
			return nobodyFor("%s holds more than addresses", d.Text)
		}
		return verdict{deny: inner.allow}
	}
	not := len(words) > 0 && strings.EqualFold(words[0], "not")
	if not {
		words = words[1:]
	}
	if len(words) == 0 {
		return nobodyFor("%s is not understood", d.Text)
	}
	rest := words[1:]
	switch kind := strings.ToLower(words[0]); {
	case kind == "all" && len(rest) == 1 && strings.EqualFold(rest[0], "granted") != not:
	case kind == "all":
		v.nobody = true
	case kind == "local":
		v.allow = []string{"127.0.0.0/8", "::1"}
	case kind == "ip" && len(rest) > 0:
		for _, text := range rest {
			network := networkOf(text)
			if network == "" {
				return nobodyFor("%s is no network", text)
			}
			v.allow = append(v.allow, network)
		}
	case kind == "valid-user" && !not:
		v.user = true
	default:
		return nobodyFor("Require %s has no counterpart", strings.Join(words, " "))
	}
	if not {
		v.allow, v.deny = nil, v.allow
	}
	return v
}

// orders evaluates Order, Allow and Deny.
func (a *access) orders() (v verdict) {
	if !a.ordered {
		return v
	}
	allow, allAllowed, fault := networksOf(a.allow)
	deny, allDenied, fault2 := networksOf(a.deny)
	if fault += fault2; fault != "" {
		return nobodyFor("Allow and Deny take addresses only, and %q is none", fault)
	}
	if a.order == "allow,deny" || a.order == "mutual-failure" { // nobody, those allowed, but not those denied
		switch {
		case allDenied, !allAllowed && allow == nil:
			v.nobody = true
		case allAllowed:
			v.deny = deny
		default:
			v.allow, v.deny, v.denyFirst = allow, deny, true
		}
		return v
	}
	switch { // everybody, but not those denied, unless they are allowed
	case allAllowed, !allDenied && deny == nil:
	case allDenied && allow == nil:
		v.nobody = true
	case allDenied:
		v.allow = allow
	case allow == nil:
		v.deny = deny
	default:
		return nobodyFor("who is denied is allowed in part")
	}
	return v
}

// networksOf reads the addresses of Allow or Deny; fault is one that is none.
func networksOf(words []string) (list []string, all bool, fault string) {
	for _, word := range words {
		network := networkOf(word)
		switch {
		case strings.EqualFold(word, "all"):
			all = true
		case network == "":
			return nil, false, word
		default:
			list = append(list, network)
		}
	}
	return list, all, ""
}

// networkOf is an address, a network, or the beginning of an IPv4 address ("10.1") as it is written here; empty: it is none.
func networkOf(text string) string {
	address, mask, hasMask := strings.Cut(text, "/")
	a, err := netip.ParseAddr(address)
	if err != nil && !hasMask {
		return networkOfPart(strings.TrimSuffix(address, "."))
	}
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return ""
	}
	if !hasMask {
		return a.String()
	}
	bits, err := strconv.Atoi(mask)
	if m, err2 := netip.ParseAddr(mask); err2 == nil && m.Is4() {
		bits, err = maskBits(m), nil
	}
	p := netip.PrefixFrom(a, bits)
	if err != nil || !p.IsValid() {
		return ""
	}
	return p.Masked().String()
}

// maskBits is the length of a mask such as 255.255.0.0; -1: it has holes.
func maskBits(mask netip.Addr) (bits int) {
	text := ""
	for _, b := range mask.AsSlice() {
		text += fmt.Sprintf("%08b", b)
	}
	if strings.Contains(text, "01") {
		return -1
	}
	return strings.Count(text, "1")
}

func networkOfPart(text string) string {
	parts := strings.Split(text, ".")
	if len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { _, err := strconv.ParseUint(p, 10, 8); return err != nil }) {
		return ""
	}
	bits := 8 * len(parts)
	for len(parts) < 4 {
		parts = append(parts, "0")
	}
	return strings.Join(parts, ".") + "/" + strconv.Itoa(bits)
}

// write says in a site or a route who may come in. inherited is what holds without it.
func (a *access) write(b *Block, v, inherited verdict) {
	if inherited.user && !v.user && !v.isOpen() && !v.nobody {
		v = nobodyFor("a password of the site can't be exchanged for addresses")
	}
	if v.fault != "" {
		b.Leave(a.from, "%s", v.fault)
	}
	switch {
	case v.nobody:
		b.Set(a.from, "deny", "all")
		if inherited.either {
			b.Set(a.from, "satisfy", "all")
		}
		return
	case v.denyFirst && v.deny != nil:
		b.Set(a.from, "deny", v.deny)
		if v.allow != nil {
			b.Set(a.from, "allow", v.allow)
		}
	case v.allow != nil:
		b.Set(a.from, "allow", v.allow)
	case v.deny != nil:
		b.Set(a.from, "deny", v.deny)
	case !inherited.isOpen():
		b.Set(a.from, "allow", "all")
	}
	if v.user && v.either != inherited.either || inherited.user && !v.user {
		b.Set(a.from, "satisfy", map[bool]string{true: "any", false: "all"}[v.either || !v.user])
	}
	if v.user {
		auth := b.Add(a.from, "auth_basic")
		if a.realm != "" {
			auth.Set(a.from, "realm", a.realm)
		}
		auth.Set(a.from, "file", a.file)
		if a.passOn {
			auth.Set(a.from, "pass_on", true)
		}
	}
}
