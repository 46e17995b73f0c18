package routes

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// proxy reads where a route's requests go.
func (r *siteReader) proxy(s *section) *Proxy {
	proxy := &Proxy{
		Retry:            get(s, "retry", false),
		MaxFails:         get(s, "max_fails", 1),
		FailTimeout:      get(s, "fail_timeout", 10*time.Second),
		ConnectTimeout:   get(s, "connect_timeout", 5*time.Second),
		ResponseTimeout:  get(s, "response_timeout", time.Duration(0)),
		IdleTimeout:      get(s, "idle_timeout", time.Duration(0)),
		KeepAlive:        get(s, "keep_alive", 1024),
		KeepAliveTimeout: get(s, "keep_alive_timeout", 4*time.Second),
		Resolve:          get(s, "resolve", 30*time.Second),
		ProxyProtocol:    get(s, "proxy_protocol", ""),
	}
	for i, text := range get[[]string](s, "to", nil) {
		at := s.elementAt("to", i)
		u, reason := parseServer(text)
		if u.Network == "unix" {
			u.Address = r.path(u.Address, at)
			reason = cmp.Or(socketFault(u.Address), reason)
		}
		if reason != "" {
			r.errorf(at, "Wrong server", "%s", reason)
			continue
		}
		proxy.To = append(proxy.To, u)
	}
	if len(proxy.To) > 0 && !slices.ContainsFunc(proxy.To, func(u Upstream) bool { return !u.Backup }) {
		r.errorf(s.at("to"), "Wrong server", "All servers are backups, of nothing. Remove the word from one.")
	}
	if proxy.ProxyProtocol != "" && slices.ContainsFunc(proxy.To, func(u Upstream) bool { return u.HTTP2 }) {
		r.errorf(s.at("proxy_protocol"), "Contradiction", "A connection of HTTP/2 carries the requests of many clients, and the PROXY protocol tells of one. Remove \"proxy_protocol\", or write \"http://\" for the server.")
	}
	r.balance(s, proxy)
	if block := s.one("health"); block != nil {
		proxy.Health = r.health(block)
	}
	return proxy
}

// balance reads "round_robin", "least_connections", or "hash:" and the key.
func (r *siteReader) balance(s *section, p *Proxy) {
	text := get(s, "balance", string(RoundRobin))
	if key, ok := strings.CutPrefix(text, string(Hash)+":"); ok {
		kind, name, named := strings.Cut(key, ":")
		if fixed := kind == "remote_ip" || kind == "uri"; fixed && !named || (kind == "header" || kind == "cookie") && isToken(name) {
			p.Balance, p.Key = Hash, key
			return
		}
	}
	p.Balance = Balance(text)
	if p.Balance != RoundRobin && p.Balance != LeastConnections {
		r.errorf(s.at("balance"), "Wrong balance", "%q: write \"round_robin\", \"least_connections\", \"hash:remote_ip\", \"hash:uri\", \"hash:header:NAME\" or \"hash:cookie:NAME\".", text)
	}
}

func (r *siteReader) health(s *section) *Health {
	h := &Health{
		URI:      get(s, "uri", ""),
		Interval: get(s, "interval", 5*time.Second),
		Timeout:  get(s, "timeout", 2*time.Second),
		Status:   get(s, "status", 0),
	}
	if s.has("uri") && (!strings.HasPrefix(h.URI, "/") || strings.ContainsAny(h.URI, " #") || hasControl(h.URI)) {
		r.errorf(s.at("uri"), "Wrong path", "%q: a path with an optional query is needed, such as \"/health\".", h.URI)
	}
	return h
}

// fastCGIServer reads where a route's scripts run.
func (r *siteReader) fastCGIServer(s *section, route *Route) *FastCGIServer {
	f := &FastCGIServer{Network: "tcp", Address: get(s, "to", ""), Root: get(s, "root", route.Root), Files: get(s, "files", true), Env: r.variables(s, nil)}
	if s.has("root") && !filepath.IsAbs(f.Root) {
		r.errorf(s.at("root"), "Wrong path", "%q: the server wants an absolute path, as it sees the folder.", f.Root)
	}
	if path, ok := strings.CutPrefix(f.Address, "unix:"); ok && path != "" {
		f.Network, f.Address = "unix", r.path(path, s.at("to"))
		if reason := socketFault(f.Address); reason != "" {
			r.errorf(s.at("to"), "Wrong server", "%s", reason)
		}
		return f
	}
	host, port, err := net.SplitHostPort(f.Address)
	if _, ok := parsePort(port); s.has("to") && (err != nil || !ok || host == "" || strings.Contains(host, "/")) {
		r.errorf(s.at("to"), "Wrong server", "%q: a FastCGI server is \"unix:/run/php/php-fpm.sock\" or \"127.0.0.1:9000\".", f.Address)
	}
	return f
}

// parseServer reads a server and the words behind it: "weight=3", "max_connections=100", "backup". The reason is empty when it is one.
func parseServer(text string) (u Upstream, reason string) {
	server, words, _ := strings.Cut(text, " ")
	u, reason = parseUpstream(server)
	for _, word := range strings.Fields(words) {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseUint(value, 10, 20)
		switch {
		case word == "backup":
			u.Backup = true
		case name == "weight" && err == nil && n > 0:
			u.Weight = int(n)
		case name == "max_connections" && err == nil && n > 0:
			u.MaxConnections = int(n)
		case reason == "":
			reason = fmt.Sprintf("%q: behind a server stand \"weight=3\", \"max_connections=100\" and \"backup\".", word)
		}
	}
	return u, reason
}

// parseUpstream reads "http://host:port/base", "h2c://host:port/base" or "unix:/path". The reason is empty when it is one.
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
	case !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "h2c"):
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
	if _, ok := parsePort(port); !ok {
		return Upstream{}, fmt.Sprintf("%q: a port is a number from 1 to 65535.", text)
	}
	base := strings.TrimSuffix(p.Path, "/")
	if clean, err := CleanPath(p.EscapedPath()); base != "" && (err != nil || strings.TrimSuffix(clean, "/") != base) {
		return Upstream{}, fmt.Sprintf("%q: the path holds \".\", \"..\", a double slash or a wrong escape.", text)
	}
	return Upstream{Network: "tcp", Address: net.JoinHostPort(p.Hostname(), port), Base: base, HTTP2: strings.EqualFold(scheme, "h2c")}, ""
}
