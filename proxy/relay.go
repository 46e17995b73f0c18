package proxy

import (
	"bytes"
	"cmp"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
)

// relayPatience is the shortest time limit of a route whose requests are relayed: who watches limits goes on in time.
const relayPatience = 3 * time.Second

// challengePath begins the paths that a handler before the server may answer itself (RFC 8555 §8.3).
const challengePath = "/.well-known/acme-challenge"

// relayRoute is a route whose requests are relayed: nothing that is configured for it has to look at them.
type relayRoute struct {
	pool    pool
	servers *upstreams
}

// newRelayRoute returns nil for a route whose requests never are.
func (s *Server) newRelayRoute(site *routes.Site, r *routes.Route) *relayRoute {
	p := s.pools[r.Pool]
	switch {
	case r.Proxy == nil, p.config.MPM != routes.Event, p.config.SessionLimit != nil, p.config.Queue.Header:
		return nil
	case varies(site, r), len(r.RequestHeaders)+len(r.TryFiles) > 0, r.Cut() != "", r.Internal:
		return nil
	case len(site.Headers)+len(site.ErrorPages)+len(r.ErrorPages) > 0, r.Compress != nil, r.SendFile != nil, r.Unbuffered:
		return nil
	case r.Proxy.Balance == routes.Hash, r.Proxy.ProxyProtocol != "":
		return nil
	case slices.ContainsFunc(r.Proxy.To, func(u routes.Upstream) bool { return u.TLS || u.HTTP2 || u.Base != "" }):
		return nil
	}
	response, idle := limitsOf(r, p.config)
	if response > 0 && response < relayPatience || idle > 0 && idle < relayPatience {
		return nil
	}
	return &relayRoute{p, s.upstreams[r.Proxy]}
}

// relayRouteOf returns the route of a request that may be relayed; nil: it may not, because of the route or of the request.
func (s *Server) relayRouteOf(site *routes.Site, head *http1.Head) *relayRoute {
	candidates := s.relayRoutes[site]
	if candidates == nil || !isSimpleRequest(head) {
		return nil
	}
	// The strings alias the request: they are only compared.
	path := alias(head.Path)
	if clean, err := site.CleanPath(path); err != nil || clean != path {
		return nil
	}
	looks := false // for a file, which may wait for the disk
	m, _ := site.Match(alias(head.Method), path, func(*routes.Route, string) bool {
		looks = true
		return false
	})
	if looks {
		return nil
	}
	return candidates[m.Route]
}

// isSimpleRequest reports whether a request, GET or HEAD, is one of those that most are.
func isSimpleRequest(head *http1.Head) bool {
	return head.Minor > 0 && len(head.Host) > 0 && head.Target[0] == '/' && isPlainPath(head.Path) && !bytes.HasPrefix(head.Path, []byte(challengePath)) &&
		!head.HasBody() && !head.NamesFields && head.Get("Te") == nil
}

// isPlainPath reports whether a path consists of what nobody spells in another way: pchars without escapes, and slashes (RFC 3986 §3.3).
func isPlainPath(path []byte) bool {
	for _, c := range path {
		if c < '0' || c > 'z' || c > '9' && c < 'A' || c > 'Z' && c < 'a' {
			if strings.IndexByte("/-_.~!$&'()*+,;=:@", c) < 0 {
				return false
			}
		}
	}
	return true
}

// maxRelayBackoff is how many requests in a row are passed on in the ordinary way, at most, after answers that could not be relayed.
const maxRelayBackoff = 63

// relayBackoff keeps from trying to relay what can't be.
type relayBackoff struct {
	last int // how many requests were not relayed after the last answer that could not be; 0: it could
	skip int // how many of these are still to come
}

// skips reports whether the next request is not to be relayed.
func (b *relayBackoff) skips() bool {
	if b.skip == 0 {
		return false
	}
	b.skip--
	return true
}

func (b *relayBackoff) increase() {
	b.last = min(2*b.last+1, maxRelayBackoff)
	b.skip = b.last
}

func (b *relayBackoff) reset() { b.last, b.skip = 0, 0 }

// loopRelays are the connections of one loop to a server that wait for a request. Only the loop uses them.
type loopRelays struct {
	idle    []*relay // the one that was used last is the last
	backoff relayBackoff
	_       [64]byte // keeps those of two loops out of one cache line
}

// relay is a request that is passed on with its head as it is. On a loop it is the connection to the server as well, with one request after
// the other: it implements [event.Asker], and belongs to the loop until a goroutine goes on.
type relay struct {
	server *upstream   // immutable
	home   *loopRelays // likewise; nil: of a goroutine
	conn   *event.Upstream
	head   http1.Answer
	since  time.Time // it has been idle; only while it is

	// Of the request.
	http   *HTTP // nil: there is none
	site   *routes.Site
	pool   string
	slot   *mpm.Slot
	began  time.Time
	method string
	secure bool
	last   bool // the client has said so
	length int  // of the request
	pieces int  // of the answer so far

	asked *serverConn // the connection over which the ordinary way is to go on; nil: nobody was asked
}

// relay passes a request on, n bytes, whose head is in s, and holds its client until the answer has come. What can't be done at once, or not
// in the ordinary way, is left to a goroutine.
func (h *HTTP) relay(t *event.Turn, s *scratch, n int, site *routes.Site, now time.Time) event.Verdict {
	route := h.Server.relayRouteOf(site, &s.head)
	if route == nil || !t.Remote().IsValid() || len(t.Buffer()) > 0 { // earlier answers of the turn do not wait for a server
		return event.Detach
	}
	slot, server := route.choose()
	if slot == nil {
		return event.Detach
	}
	r := server.relayOn(t, now)
	r.begin(h, site, route, slot, &s.head, now)
	r.length = n
	if r.conn != nil {
		s.out = r.appendRequest(s.out[:0], &s.head, t.Remote())
		if t.Ask(r.conn, s.out) {
			return event.Hold
		}
	}
	t.Pass(r)
	return event.Detach
}

// choose returns a slot and a server for a request; a nil slot: it would have to wait for one, or there is no server.
func (r *relayRoute) choose() (*mpm.Slot, *upstream) {
	slot := r.pool.TryAcquire()
	if slot == nil {
		return nil, nil
	}
	server := r.servers.next(nil, nil)
	if server == nil {
		slot.Release(mpm.NotSent)
		return nil, nil
	}
	return slot, server
}

// begin takes up a request, whose head is good no longer than this call.
func (r *relay) begin(h *HTTP, site *routes.Site, route *relayRoute, slot *mpm.Slot, head *http1.Head, now time.Time) {
	r.http, r.site, r.pool, r.slot, r.began = h, site, route.pool.config.Name, slot, now
	r.method, r.last, r.pieces = method(head.Method), !head.KeepAlive, 0
}

// relayOn returns a connection of this loop that waits for a request, or one that a goroutine has left. It has no conn if there is none, or if
// the loop leaves the request to a goroutine.
func (s *upstream) relayOn(t *event.Turn, now time.Time) *relay {
	if t.Loop() >= len(s.loops) {
		return &relay{server: s}
	}
	home := &s.loops[t.Loop()]
	last := len(home.idle) - 1
	switch {
	case home.backoff.skips():
		return &relay{server: s}
	case last < 0, now.Sub(home.idle[last].since) >= s.patience(): // the loop counts whole seconds, and closes it later
		r := &relay{server: s, home: home}
		r.adopt(t)
		return r
	}
	r := home.idle[last]
	home.idle[last], home.idle = nil, home.idle[:last]
	s.idleOnLoops.Add(-1)
	return r
}

// adopt takes a connection that a goroutine has left, if there is one that a loop can have.
func (r *relay) adopt(t *event.Turn) {
	k := r.server.take()
	if k == nil {
		return
	}
	channel, ok := k.wire.(*event.Channel)
	if !ok {
		r.server.put(k)
		return
	}
	var err error
	if r.conn, err = t.Adopt(channel, r); err != nil {
		r.server.log.Debugw("connection to a server could not be given to a loop", "server", r.server.Address, "error", err)
	}
}

// appendRequest appends the head of the request as the server gets it, like [call.appendRequest].
func (r *relay) appendRequest(b []byte, head *http1.Head, remote netip.AddrPort) []byte {
	b = append(append(append(b, head.Method...), ' '), head.Target...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), cmp.Or(r.server.Host, alias(head.Host))...), "\r\n"...)
	for _, f := range head.Fields {
		if name := textproto.CanonicalMIMEHeaderKey(alias(f.Name)); name != "Host" && !alwaysEndsHere(name) {
			b = appendParsed(b, name, f.Value)
		}
	}
	b = remote.Addr().Unmap().AppendTo(append(b, "X-Forwarded-For: "...))
	b = append(append(b, "\r\nX-Forwarded-Host: "...), head.Host...)
	b = append(b, "\r\nX-Forwarded-Proto: http"...)
	if r.secure {
		b = append(b, 's')
	}
	return append(b, "\r\n\r\n"...)
}

// appendParsed is [http1.AppendField] for a field that the parser has found right.
func appendParsed(b []byte, name string, value []byte) []byte {
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

// Gone implements [event.Asker].
func (r *relay) Gone() {
	if r.http != nil {
		r.leave(mpm.NotSent)
		return
	}
	if i := slices.Index(r.home.idle, r); i >= 0 {
		r.home.idle = slices.Delete(r.home.idle, i, i+1)
		r.server.idleOnLoops.Add(-1)
	}
}

// leave ends the request.
func (r *relay) leave(o mpm.Outcome) {
	r.server.leave()
	if r.slot != nil {
		r.slot.Release(o)
	}
	r.http, r.site, r.slot = nil, nil, nil
}

// takeRelay takes what the loop has begun of the connection's request.
func (k *conn) takeRelay() {
	passed, channel, said, err := k.raw.TakePassed()
	if k.relay, _ = passed.(*relay); k.relay != nil && channel != nil && err == nil {
		k.relay.asked = &serverConn{wire: channel, carried: true, asked: true, said: said}
	}
}

// dropRelay ends what was begun of a request, if nobody went on with it: it must not meet another request.
func (k *conn) dropRelay() {
	r := k.relay
	if r == nil {
		return
	}
	k.relay = nil
	r.leave(mpm.NotSent)
	if r.asked != nil {
		_ = r.asked.Close() // what the server says is of no interest
	}
}

// relayed is what was begun of the request, on the loop or by its goroutine; nil: nothing.
func (c *call) relayed() *relay {
	if c.x.conn == nil || c.x.route.Proxy == nil {
		return nil
	}
	return c.x.conn.relay
}

// takeRelay goes on with what was begun of the request: with the server that was chosen, and the connection over which that was asked; nil: it was
// not, or nothing was begun.
func (c *call) takeRelay() (*upstream, *serverConn) {
	r := c.relayed()
	if r == nil {
		return nil, nil
	}
	c.x.conn.relay = nil
	return r.server, r.asked
}
