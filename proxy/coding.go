package proxy

import (
	"strings"

	"gateway/routes"
)

// coding is a content coding (RFC 9110 §8.4.1) that the gateway sends.
type coding uint8

const (
	identity coding = iota
	gzipCoding
	brotliCoding
	zstdCoding
	codings // how many there are
)

// codingNames has a coding's name as it stands in fields, codingSuffixes the end of a file's name that has it.
var (
	codingNames    = [codings]string{gzipCoding: routes.Gzip, brotliCoding: routes.Brotli, zstdCoding: routes.Zstd}
	codingSuffixes = [codings]string{gzipCoding: ".gz", brotliCoding: ".br", zstdCoding: ".zst"}
)

// codingOf is the coding of that name; identity: there is none.
func codingOf(name string) coding {
	for c := identity + 1; c < codings; c++ {
		if codingNames[c] == name {
			return c
		}
	}
	return identity
}

// choice is a form in which a response can be had. The zero choice is the response as it is.
type choice struct {
	coding coding
	made   bool // by the gateway, from the response as it is: there is no range of it
}

// offer is the choices that there are beside the response as it is, the best one first. It can be compared.
type offer struct {
	choices [codings - 1]choice
	n       uint8
}

// add puts a choice behind the others, unless there is a better way to the same coding.
func (o *offer) add(c choice) {
	for _, have := range o.choices[:o.n] {
		if have.coding == c.coding {
			return
		}
	}
	o.choices[o.n] = c
	o.n++
}

// choose returns what a client gets whose Accept-Encoding field is accept: what it likes best, and of that the best one (RFC 9110
// §12.5.3). ranged says that it asks for ranges.
func (o *offer) choose(accept string, ranged bool) (best choice) {
	liking := 0
	for _, c := range o.choices[:o.n] {
		if q, _ := acceptance(accept, codingNames[c.coding]); q > liking && !(c.made && ranged) {
			best, liking = c, q
		}
	}
	if q, named := acceptance(accept, "identity"); named && q > liking {
		return choice{}
	}
	return best
}

// acceptance is how much the client likes a coding, in thousandths; 0: not at all. named says that the list has it, and not only "*".
func acceptance(accept, name string) (q int, named bool) {
	for rest := accept; rest != ""; {
		var element string
		element, rest, _ = strings.Cut(rest, ",")
		token, parameters, _ := strings.Cut(element, ";")
		switch token = trimSpace(token); {
		case strings.EqualFold(token, name), name == routes.Gzip && strings.EqualFold(token, "x-gzip"):
			return weight(parameters), true
		case token == "*":
			q = weight(parameters)
		}
	}
	return q, false
}

// weight reads "q=0.5" (RFC 9110 §12.4.2) as 500. What is malformed is not wanted.
func weight(parameters string) int {
	value := trimSpace(parameters)
	if value == "" {
		return 1000
	}
	if len(value) < 3 || value[0]|0x20 != 'q' || value[1] != '=' {
		return 0
	}
	whole, fraction := value[2], value[3:]
	if whole != '0' && whole != '1' || fraction != "" && (fraction[0] != '.' || len(fraction) > 4) {
		return 0
	}
	q, place := 1000*int(whole-'0'), 100
	for _, c := range []byte(strings.TrimPrefix(fraction, ".")) {
		if c < '0' || c > '9' {
			return 0
		}
		q += place * int(c-'0')
		place /= 10
	}
	return min(q, 1000)
}

func trimSpace(s string) string { return strings.Trim(s, " \t") }

// isCompressible reports whether a media type is one of those that stand in a compress block. An event stream must be named: "text/*"
// does not mean it.
func isCompressible(types []string, contentType string) bool {
	name, _, _ := strings.Cut(contentType, ";")
	name = lowerASCII(trimSpace(name))
	kind, _, isType := strings.Cut(name, "/")
	_, syntax, hasSyntax := strings.Cut(name, "+")
	for _, t := range types {
		rest, bySyntax := strings.CutPrefix(t, "*+")
		family, byKind := strings.CutSuffix(t, "/*")
		switch {
		case t == name, bySyntax && hasSyntax && rest == syntax:
			return true
		case byKind && isType && family == kind && name != "text/event-stream":
			return true
		}
	}
	return false
}

// mayTransform reports whether a response may be sent in another form than its maker has given it (RFC 9111 §5.2.2.6).
func mayTransform(cacheControl []string) bool { return !listNames(cacheControl, "no-transform") }
