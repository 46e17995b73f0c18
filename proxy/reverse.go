package proxy

import (
	"net"
	"net/http"
	"strings"
)

// reverse has the client come back by the way it came, in what the server says of where things are: it may know itself by another name
// and below another path.
func (c *call) reverse(header http.Header) {
	for _, name := range [...]string{"Location", "Content-Location"} {
		if to := first(header, name); to != "" {
			header[name] = []string{c.reverseURL(to)}
		}
	}
	for i, cookie := range header["Set-Cookie"] {
		header["Set-Cookie"][i] = c.reverseCookie(cookie)
	}
}

// reverseURL is a reference of the server (RFC 3986 §4.1) as the client can use it. One that leads elsewhere stays.
func (c *call) reverseURL(to string) string {
	scheme, authority, path := splitReference(to)
	own := authority != "" && c.server.isNamed(scheme, authority)
	switch {
	case !own && authority != "" && !strings.EqualFold(authority, c.clientHost()):
		return to
	case authority == "" && (scheme != "" || !strings.HasPrefix(path, "/")): // relative to the client's own URL, or no URL of HTTP
		return to
	}
	rest, leads := c.clientPath(path, own)
	switch {
	case !leads:
		return to
	case own, authority == "" && len(rest) > 1 && strings.IndexByte(`/\`, rest[1]) >= 0: // which browsers would take for an authority
		return c.x.scheme() + "://" + c.clientHost() + rest
	}
	return strings.TrimSuffix(to, path) + rest
}

// clientPath is a path of the server, with its query, as the client knows it. One that leads elsewhere stays, and so does one that has
// what was cut off: the server has made it of X-Forwarded-Prefix. own says that it has not, because it names itself.
func (c *call) clientPath(path string, own bool) (_ string, leads bool) {
	base, cut := c.below(), escapePath(c.x.route.Cut())
	if cut != "" && base == "" && !own {
		if _, already := cutBase(path, cut); already {
			return path, false
		}
	}
	rest, leads := cutBase(path, base)
	return cut + rest, leads
}

// splitReference returns the parts of a reference: the path has the query with it, and begins with a slash, or the reference has none
// of interest. The scheme has its colon.
func splitReference(to string) (scheme, authority, path string) {
	if i := strings.IndexAny(to, ":/?#"); i > 0 && to[i] == ':' {
		scheme, to = to[:i+1], to[i+1:]
	}
	after, ok := strings.CutPrefix(to, "//")
	if !ok {
		return scheme, "", to
	}
	end := strings.IndexAny(after, `/?#\`)
	if end < 0 {
		end = len(after)
	}
	return scheme, after[:end], after[end:]
}

// isNamed reports whether a scheme and an authority are the server's own.
func (s *upstream) isNamed(scheme, authority string) bool {
	if s == nil { // a child of a pool is asked by the client's name for it
		return false
	}
	if s.Host != "" && strings.EqualFold(authority, s.Host) {
		return true
	}
	if scheme != "" && !strings.EqualFold(scheme, s.scheme()+":") {
		return false
	}
	return strings.EqualFold(authority, s.Address) || strings.EqualFold(authority, s.Authority())
}

// cutBase cuts the server's path off the front of another one.
func cutBase(path, base string) (rest string, below bool) {
	rest, below = strings.CutPrefix(path, base)
	switch {
	case !below:
		return path, false
	case rest == "" || rest[0] == '?' || rest[0] == '#':
		return "/" + rest, true
	}
	return rest, rest[0] == '/'
}

// reverseCookie is a Set-Cookie of the server as the client's browser takes it: a path below the server's own, and no domain that is the
// server's.
func (c *call) reverseCookie(cookie string) string {
	pair, attributes, _ := strings.Cut(cookie, ";")
	if attributes == "" {
		return cookie
	}
	b := append(make([]byte, 0, len(cookie)), pair...)
	for attribute := range strings.SplitSeq(attributes, ";") {
		name, value, _ := strings.Cut(attribute, "=")
		switch name = trimSpace(name); {
		case strings.EqualFold(name, "Domain") && c.isForeign(trimSpace(value)):
			continue
		case strings.EqualFold(name, "Path") && (c.below() != "" || c.x.route.Cut() != "") && !isHostCookie(pair):
			if path, leads := c.clientPath(trimSpace(value), false); leads && trimSpace(value) != "" {
				attribute = " Path=" + path
			}
		}
		b = append(append(b, ';'), attribute...)
	}
	return string(b)
}

// isHostCookie reports a cookie that browsers take for the whole host only (RFC 6265bis §4.1.3.2).
func isHostCookie(pair string) bool {
	const prefix = "__Host-"
	pair = trimSpace(pair)
	return len(pair) > len(prefix) && strings.EqualFold(pair[:len(prefix)], prefix)
}

// isForeign reports whether the domain of a cookie is the server's, and not the client's.
func (c *call) isForeign(domain string) bool {
	domain = strings.TrimPrefix(domain, ".")
	if c.server == nil || strings.EqualFold(domain, hostname(c.clientHost())) {
		return false
	}
	host, _, err := net.SplitHostPort(c.server.Address)
	return err == nil && strings.EqualFold(domain, host) || c.server.Host != "" && strings.EqualFold(domain, hostname(c.server.Host))
}
