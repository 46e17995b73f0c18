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

// proxy reads where a route's requests go. The key names the route in the table of places.
func (r *siteReader) proxy(s *section, key string) *Proxy {
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
	host := r.upstreamHost(s)
	for i, text := range get[[]string](s, "to", nil) {
		at := s.elementAt("to", i)
		u, reason := parseServer(text)
		if u.Host = host(&u); u.Network == "unix" {
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
	r.proxyTLS(s, proxy, key)
	r.balance(s, proxy)
	if block := s.one("health"); block != nil {
		proxy.Health = r.health(block)
	}
	return proxy
}

// upstreamHost reads what host a server is asked for.
func (r *siteReader) upstreamHost(s *section) func(*Upstream) string {
	host := get(s, "host", "")
	if s.has("host") && (host == "" || strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("/?#@,", c) })) {
		r.errorf(s.at("host"), "Wrong host", "%q is no host, such as \"app.internal\" or \"app.internal:8080\".", host)
	}
	if preserve := get(s, "preserve_host", !s.mentions("host")); preserve && s.mentions("host") {
		r.errorf(s.at("host"), "Contradiction", "With \"preserve_host\" the servers get the client's host. Remove one of the two.")
	} else if !preserve && host == "" {
		return (*Upstream).Authority
	}
	return func(*Upstream) string { return host }
}

// Authority is the host of a server as its URL names it, without the port that goes without saying.
func (u *Upstream) Authority() string {
	switch {
	case u.Network == "unix":
		return "localhost"
	case u.TLS:
		return strings.TrimSuffix(u.Address, ":443")
	}
	return strings.TrimSuffix(u.Address, ":80")
}

// proxyTLS reads how TLS is spoken to the servers.
func (r *siteReader) proxyTLS(s *section, p *Proxy, key string) {
	block := s.one("tls")
	if block == nil {
		return
	}
	p.TLS = r.clientTLS(block, "ca", key+"proxy.tls.")
	p.TLS.Insecure = !get(block, "verify", true)
	switch {
	case len(p.To) > 0 && !p.SpeaksTLS():
		r.errorf(block.head, "No effect", "None of the servers speaks TLS: write \"https://\" for one that does, or remove the block.")
	case p.TLS.Insecure && p.TLS.CARoot != "":
		r.errorf(block.at("verify"), "Contradiction", "A certificate that is not looked at needs no \"ca\". Remove \"verify\": a server with a certificate of that authority is trusted then, and nobody else.")
	case p.TLS.Insecure:
		r.warnf(block.at("verify"), "Unknown servers are trusted", "Whoever gets between the gateway and its servers can read and change all requests: nothing shows that a server is the one that was meant. Name who has issued its certificate, or that certificate itself, in \"ca\", and remove \"verify\".")
	}
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
	f := &FastCGIServer{
		Network: "tcp", Address: get(s, "to", ""), Root: get(s, "root", route.Root), Files: get(s, "files", true), Env: r.variables(s, nil),
		ConnectTimeout: get(s, "connect_timeout", 5*time.Second),
	}
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

// parseUpstream reads "http://host:port/base", the same with another of the schemes, or "unix:/path". The reason is empty when it is one.
func parseUpstream(text string) (u Upstream, reason string) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if path == "" {
			return Upstream{}, "The path of the socket is missing: write \"unix:/run/app.sock\"."
		}
		return Upstream{Network: "unix", Address: path}, ""
	}
	scheme, rest, ok := strings.Cut(text, "://")
	u, known := spoken(scheme)
	switch {
	case !ok:
		return Upstream{}, fmt.Sprintf("%q: a server is \"http://host:port\", \"https://host:port\", or \"unix:/path\" for a socket.", text)
	case strings.EqualFold(scheme, "grpc"):
		return Upstream{}, fmt.Sprintf("%q: gRPC is a use of HTTP/2. Write \"h2c://%s\".", text, rest)
	case strings.EqualFold(scheme, "grpcs"):
		return Upstream{}, fmt.Sprintf("%q: gRPC is a use of HTTP/2. Write \"h2://%s\".", text, rest)
	case !known:
		return Upstream{}, fmt.Sprintf("%q: the gateway does not speak %q. A server is \"http://host:port\", \"https://host:port\", or \"unix:/path\" for a socket.", text, scheme)
	case strings.ContainsAny(text, "?#"):
		return Upstream{}, fmt.Sprintf("%q: each request brings its own query. Remove it here.", text)
	}
	p, err := url.Parse(text)
	switch {
	case err != nil:
		return Upstream{}, fmt.Sprintf("%q is no URL such as \"http://127.0.0.1:9000\".", text)
	case p.User != nil:
		return Upstream{}, fmt.Sprintf("The URL names a user, whom the gateway can't log in: write \"%s://%s\".", scheme, p.Host)
	case p.Hostname() == "":
		return Upstream{}, fmt.Sprintf("%q: the host is missing.", text)
	}
	port := p.Port()
	switch {
	case port == "" && u.TLS:
		port = "443"
	case port == "":
		port = "80"
	}
	if _, ok := parsePort(port); !ok {
		return Upstream{}, fmt.Sprintf("%q: a port is a number from 1 to 65535.", text)
	}
	base := strings.TrimSuffix(p.Path, "/")
	if clean, err := CleanPath(p.EscapedPath()); base != "" && (err != nil || strings.TrimSuffix(clean, "/") != base) {
		return Upstream{}, fmt.Sprintf("%q: the path holds \".\", \"..\", a double slash or a wrong escape.", text)
	}
	u.Network, u.Address, u.Base = "tcp", net.JoinHostPort(p.Hostname(), port), base
	return u, ""
}

// spoken is what a scheme says of a server. Those of HTTP/2 are Apache's.
func spoken(scheme string) (u Upstream, known bool) {
	switch strings.ToLower(scheme) {
	case "http":
	case "https":
		u.TLS = true
	case "h2c":
		u.HTTP2 = true
	case "h2":
		u.TLS, u.HTTP2 = true, true
	default:
		return u, false
	}
	return u, true
}
