package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gateway/proxy/fcgi"
	"gateway/routes"
)

// Question is a request of which [Server.Explain] tells what would become of it.
type Question struct {
	Method string
	URL    *url.URL // with scheme and host
	Header http.Header
	Remote netip.Addr
}

// Explain takes a request through the configuration as if it had come, and tells each step, up to what an application or a server
// would get. It asks nobody but the file system, with the rights of the caller, so the pools may be nil.
func (s *Server) Explain(c *routes.Config, q Question, tell func(text string)) error {
	at, listener, err := listenerFor(c, q.URL)
	if err != nil {
		return err
	}
	x := &exchange{notes: tell, listener: listener.Key(), secure: listener.TLS, local: at, remote: netip.AddrPortFrom(q.Remote, 1024)}
	target := q.URL.EscapedPath()
	if target == "" {
		target = "/"
	}
	r := &http.Request{
		Method: q.Method, URL: &url.URL{Path: target, RawQuery: q.URL.RawQuery}, Host: q.URL.Host, Header: q.Header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody, RequestURI: target,
	}
	if q.URL.RawQuery != "" {
		r.RequestURI += "?" + q.URL.RawQuery
	}
	w := &sketch{header: http.Header{}}
	s.ServeHTTP(w, r.WithContext(context.WithValue(context.Background(), exchangeKey{}, x)))
	if w.status != 0 {
		x.note("answer: %d %s", w.status, http.StatusText(w.status))
		x.noteFields(w.header)
	}
	return nil
}

// listenerFor is the address to which a client of a URL would connect.
func listenerFor(c *routes.Config, u *url.URL) (at netip.AddrPort, _ routes.Listen, err error) {
	secure := u.Scheme == "https"
	port := u.Port()
	switch {
	case u.Host == "" || u.Scheme != "http" && !secure:
		return at, routes.Listen{}, fmt.Errorf("%q is no URL such as http://example.com/path", u)
	case port == "" && secure:
		port = "443"
	case port == "":
		port = "80"
	}
	var others []string
	for i := range c.Sites {
		for _, l := range c.Sites[i].Listen {
			host, its, err := net.SplitHostPort(l.Address)
			if l.Network != "tcp" || err != nil || its != port || l.TLS != secure {
				others = append(others, l.Address)
				continue
			}
			address, err := netip.ParseAddr(host)
			if err != nil || address.IsUnspecified() {
				address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			number, _ := strconv.ParseUint(port, 10, 16) // it is that of an address that was checked
			return netip.AddrPortFrom(address, uint16(number)), l, nil
		}
	}
	slices.Sort(others)
	return at, routes.Listen{}, fmt.Errorf("nobody listens for %s on port %s: the addresses are %s", u.Scheme, port, strings.Join(slices.Compact(others), ", "))
}

// sketch is a response that nobody gets.
type sketch struct {
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (w *sketch) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *sketch) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *sketch) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return len(p), nil
}

func (x *exchange) noteFields(h http.Header) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, value := range h[name] {
			if value != "" {
				x.note("  %s: %s", http.CanonicalHeaderKey(name), value)
			}
		}
	}
}

// explain is serve for a request that only is to be explained.
func (s *Server) explain(w http.ResponseWriter, r *http.Request, x *exchange, p pool) (next string) {
	switch {
	case x.route.Proxy != nil:
		u := s.upstreams[x.route.Proxy]
		var names []string
		for _, server := range u.servers {
			names = append(names, server.Address)
		}
		s.explainHTTP(w, r, x, p, strings.Join(names, " or "), u.servers[0])
	case p.config.HTTP != nil:
		s.explainHTTP(w, r, x, p, "a child of pool "+strconv.Quote(x.pool), nil)
	case x.route.FastCGI != nil:
		s.explainProgram(w, r, x, p, "the server "+x.route.FastCGI.Address)
	case x.route.CGI != nil || p.config.HasApplication():
		s.explainProgram(w, r, x, p, "a child of pool "+strconv.Quote(x.pool))
	default:
		return s.serveHere(w, r, x, nil)
	}
	return ""
}

// explainHTTP tells the request for an HTTP server; nil: a child.
func (s *Server) explainHTTP(w http.ResponseWriter, r *http.Request, x *exchange, p pool, who string, server *upstream) {
	c := call{Server: s, w: w, r: r, x: x, pool: p, body: new(spooled), server: server}
	head, err := c.appendRequest(nil)
	if err != nil {
		x.note("no request: %v", err)
		s.fail(w, x, http.StatusBadRequest, nil)
		return
	}
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	slices.Sort(lines[2:]) // after the request line and Host
	x.note("request to %s:", who)
	for _, line := range lines {
		x.note("  %s", line)
	}
}

func (s *Server) explainProgram(w http.ResponseWriter, r *http.Request, x *exchange, p pool, who string) {
	prog, status, err := s.locate(x, p.config)
	if status != 0 {
		x.note("no script: %v", errors.Join(err, errors.New(http.StatusText(status))))
		s.fail(w, x, status, nil)
		return
	}
	var e environment
	e.fill(r, x, prog, 0)
	x.note("environment for %s:", who)
	for _, v := range slices.SortedFunc(slices.Values(e), func(a, b fcgi.Param) int { return strings.Compare(a.Name, b.Name) }) {
		x.note("  %s=%s", v.Name, v.Value)
	}
}
