package routes

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// proxy reads where a route's requests go.
func (r *siteReader) proxy(s *section) *Proxy {
	proxy := &Proxy{}
	for i, text := range get[[]string](s, "to", nil) {
		at := s.elementAt("to", i)
		u, reason := parseUpstream(text)
		if u.Network == "unix" {
			u.Address = r.path(u.Address, at)
			if len(u.Address) > maxSocketPath {
				reason = fmt.Sprintf("%q is too long for a socket: at most %d bytes.", u.Address, maxSocketPath)
			}
		}
		if reason != "" {
			r.errorf(at, "Wrong server", "%s", reason)
			continue
		}
		proxy.To = append(proxy.To, u)
	}
	return proxy
}

// parseUpstream reads "http://host:port/base" or "unix:/path". The reason is empty when it is one.
func parseUpstream(text string) (u Upstream, reason string) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if path == "" {
			return Upstream{}, "The path of the socket is missing: write \"unix:/run/app.sock\"."
		}
		return Upstream{Network: "unix", Address: path}, ""
	}
	scheme, rest, ok := strings.Cut(text, "://")
	switch {
	case !ok:
		return Upstream{}, fmt.Sprintf("%q: a server is \"http://host:port\", or \"unix:/path\" for a socket.", text)
	case strings.EqualFold(scheme, "https"):
		return Upstream{}, fmt.Sprintf("%q: TLS to servers is not yet part of this version. Write \"http://%s\" for one in a network that you trust.", text, rest)
	case !strings.EqualFold(scheme, "http"):
		return Upstream{}, fmt.Sprintf("%q: the gateway does not speak %q. A server is \"http://host:port\", or \"unix:/path\" for a socket.", text, scheme)
	case strings.ContainsAny(text, "?#"):
		return Upstream{}, fmt.Sprintf("%q: each request brings its own query. Remove it here.", text)
	}
	p, err := url.Parse(text)
	switch {
	case err != nil:
		return Upstream{}, fmt.Sprintf("%q is no URL such as \"http://127.0.0.1:9000\".", text)
	case p.User != nil:
		return Upstream{}, fmt.Sprintf("The URL names a user, whom the gateway can't log in: write \"http://%s\".", p.Host)
	case p.Hostname() == "":
		return Upstream{}, fmt.Sprintf("%q: the host is missing.", text)
	}
	port := p.Port()
	if port == "" {
		port = "80"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Upstream{}, fmt.Sprintf("%q: a port is a number from 1 to 65535.", text)
	}
	base := strings.TrimSuffix(p.Path, "/")
	if clean, err := CleanPath(p.EscapedPath()); base != "" && (err != nil || strings.TrimSuffix(clean, "/") != base) {
		return Upstream{}, fmt.Sprintf("%q: the path holds \".\", \"..\", a double slash or a wrong escape.", text)
	}
	return Upstream{Network: "tcp", Address: net.JoinHostPort(p.Hostname(), port), Base: base}, ""
}
