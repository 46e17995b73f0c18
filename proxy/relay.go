package proxy

import (
	"bytes"
	"errors"
	"net/http"
	"net/netip"
	"net/textproto"
	"runtime"
	"slices"
	"strings"
	"time"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
)

const (
	// relayPatience is the shortest time limit of a route with which the loop asks: a goroutine, which watches limits, goes on in time.
	relayPatience = 3 * time.Second
	// maxRelayPieces is in how many pieces an answer may come to the loop, which reads it from its beginning with each.
	maxRelayPieces = 8
	// maxRelayDoubt is how many requests in a row are left to goroutines after answers that the loop could not pass on.
	maxRelayDoubt = 63
	// challengePath begins the paths that a handler before the server may answer itself (RFC 8555 §8.3).
	challengePath = "/.well-known/acme-challenge"
)

// relayRoute is a route whose requests the loop passes on: nothing that is configured for it has to look at them.
type relayRoute struct {
	pool    pool
	servers *upstreams
}

// newRelayRoute returns nil for a route that always needs a goroutine.
func (s *Server) newRelayRoute(site *routes.Site, r *routes.Route) *relayRoute {
	p := s.pools[r.Pool]
	switch {
	case r.Proxy == nil, p.config.MPM != routes.Event, p.config.SessionLimit != nil, p.config.Queue.Header:
		return nil
	case varies(site, r), len(site.Headers)+len(site.ErrorPages)+len(r.ErrorPages)+len(r.RequestHeaders) > 0, len(r.TryFiles) > 0, r.Compress != nil, r.SendFile != nil, r.Unbuffered, r.Internal, r.Cut() != "":
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

// relayRouteOf returns the route of a request that the loop may pass on; nil: it may not, because of the route or of the request.
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
	files := false
	m, _ := site.Match(alias(head.Method), path, func(*routes.Route, string) bool {
		files = true
		return false
	})
	if files {
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

// loopRelays are the connections of one loop to a server that wait for a request. Only the loop uses them.
type loopRelays struct {
	idle  []*relay // the one that was used last is the last
	doubt int      // answers in a row that the loop could not pass on, doubled each time
	skip  int      // so many requests are left to goroutines
	_     [64]byte // keeps those of two loops out of one cache line
}

func newLoopRelays() []loopRelays { return make([]loopRelays, runtime.GOMAXPROCS(0)) }

// relay is a connection of a loop to a server, and the request that it carries. It implements [event.Asker], and belongs to the loop, until
// a goroutine goes on with the request.
type relay struct {
	server *upstream   // immutable
	home   *loopRelays // likewise
	conn   *event.Upstream
	head   http1.Answer

	// Of the request.
	http   *HTTP // nil: there is none
	site   *routes.Site
	pool   pool
	slot   *mpm.Slot
	began  time.Time
	isHead bool
	last   bool // the client has said so
	length int  // of the request
	pieces int  // of the answer so far

	asked *serverConn // conn, when a goroutine goes on with the request; nil: nobody was asked
}

// relay passes a request on, n bytes, whose head is in s, and holds its client until the answer has come. What can't be done at once, or not
// in the ordinary way, is left to a goroutine.
func (h *HTTP) relay(t *event.Turn, s *scratch, n int, site *routes.Site, now time.Time) event.Verdict {
	route := h.Server.relayRouteOf(site, &s.head)
	if route == nil || len(t.Buffer()) > 0 || !t.Remote().IsValid() {
		return event.Detach
	}
	slot := route.pool.TryAcquire()
	if slot == nil {
		return event.Detach
	}
	server := route.servers.next(nil, nil)
	if server == nil {
		slot.Release(mpm.NotSent)
		return event.Detach
	}
	r := server.relay(t)
	r.http, r.site, r.pool, r.slot, r.began, r.length = h, site, route.pool, slot, now, n
	r.isHead, r.last, r.pieces = isHead(&s.head), !s.head.KeepAlive, 0
	if r.conn != nil {
		s.out = r.appendRequest(s.out[:0], &s.head, t.Remote())
		if t.Ask(r.conn, s.out) {
			return event.Hold
		}
	}
	t.Pass(r)
	return event.Detach
}

// relay returns a connection of this loop that waits for a request, or one that a goroutine has left. It has no conn if there is none, or if the
// answers of late were not for the loop.
func (s *upstream) relay(t *event.Turn) *relay {
	if t.Loop() >= len(s.loops) {
		return &relay{server: s}
	}
	home := &s.loops[t.Loop()]
	if home.skip > 0 {
		home.skip--
		return &relay{server: s}
	}
	if last := len(home.idle) - 1; last >= 0 {
		r := home.idle[last]
		home.idle[last], home.idle = nil, home.idle[:last]
		s.idleOnLoops.Add(-1)
		return r
	}
	r := &relay{server: s, home: home}
	k := s.take()
	if k == nil {
		return r
	}
	channel, ok := k.wire.(*event.Channel)
	if !ok {
		s.put(k)
		return r
	}
	var err error
	if r.conn, err = t.Adopt(channel, r); err != nil {
		s.log.Debugw("connection to a server could not be given to a loop", "server", s.Address, "error", err)
	}
	return r
}

// appendRequest appends the head of the request as the server gets it, like [call.appendRequest].
func (r *relay) appendRequest(b []byte, head *http1.Head, remote netip.AddrPort) []byte {
	host := head.Host
	if r.server.Host != "" {
		host = []byte(r.server.Host)
	}
	b = append(append(append(b, head.Method...), ' '), head.Target...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), host...), "\r\n"...)
	for _, f := range head.Fields {
		if name := textproto.CanonicalMIMEHeaderKey(alias(f.Name)); name != "Host" && !isKept(name) {
			b = append(append(append(append(b, name...), ": "...), f.Value...), "\r\n"...)
		}
	}
	b = remote.Addr().Unmap().AppendTo(append(b, "X-Forwarded-For: "...))
	b = append(append(b, "\r\nX-Forwarded-Host: "...), head.Host...)
	return append(b, "\r\nX-Forwarded-Proto: http\r\n\r\n"...)
}

// Answered implements [event.Asker].
func (r *relay) Answered(t *event.Turn, data []byte, ended bool) event.Verdict {
	r.head.Reset()
	n, err := r.head.Parse(data)
	if err != nil {
		return r.doubt()
	}
	if r.pieces++; n == 0 {
		return r.await(ended)
	}
	if !r.isSimple() {
		return r.doubt()
	}
	body := data[n:]
	switch length, used, err := r.measure(body, event.MaxAnswer-n); {
	case err != nil, used >= 0 && used < len(body): // the server says more than its answer
		return r.doubt()
	case used < 0:
		return r.await(ended)
	default:
		return r.answer(t, body, length, ended)
	}
}

// await waits for more of an answer. The goroutine finds out what is wrong with one that has ended.
func (r *relay) await(ended bool) event.Verdict {
	if ended || r.pieces > maxRelayPieces {
		return r.doubt()
	}
	return event.Hold
}

// doubt has a goroutine go on, and perhaps with the next requests as well.
func (r *relay) doubt() event.Verdict {
	r.home.doubt = min(2*r.home.doubt+1, maxRelayDoubt)
	r.home.skip = r.home.doubt
	return event.Detach
}

// isSimple reports whether an answer is one that goes to the client as it is, but for what concerns the connections.
func (r *relay) isSimple() bool {
	if r.head.Status < 200 || r.head.Status > 599 || r.head.Status == http.StatusResetContent || r.head.NamesFields { // 205: content goes no further
		return false
	}
	for _, f := range r.head.Fields {
		switch name := textproto.CanonicalMIMEHeaderKey(alias(f.Name)); name {
		case "Te", "Trailer", "Upgrade", "X-Accel-Buffering", "Location", "Content-Location":
			return false
		case "Content-Type":
			if bytes.HasPrefix(f.Value, []byte("text/event-stream")) || bytes.HasPrefix(f.Value, []byte("application/grpc")) {
				return false
			}
		case "Set-Cookie":
			if bytes.Contains(bytes.ToLower(f.Value), []byte("domain")) {
				return false
			}
		}
	}
	return true
}

var errNotForLoop = errors.New("answer is for a goroutine")

// measure returns how long the body of an answer is, and how much of data, with which it begins: -1 if not all of it has come. It fails if the loop can't
// pass the answer on, for which it has so much room.
func (r *relay) measure(data []byte, room int) (length, used int, err error) {
	m := &r.head.Framing
	switch {
	case r.hasNoBody():
		return 0, 0, nil
	case m.Chunked:
		return r.measureChunks(data)
	case m.ContentLength < 0, m.ContentLength >= int64(room): // the first ends with the connection
		return 0, 0, errNotForLoop
	case m.ContentLength > int64(len(data)):
		return 0, -1, nil
	}
	return int(m.ContentLength), int(m.ContentLength), nil
}

// measureChunks is measure for a chunked body. What comes behind it is for a goroutine.
func (r *relay) measureChunks(data []byte) (length, used int, err error) {
	chunks := http1.ChunkReader{KeepTrailer: true}
	for used < len(data) {
		piece, n, done, err := chunks.Next(data[used:])
		switch {
		case err != nil:
			return 0, 0, err
		case done && len(chunks.Trailer) > 0:
			return 0, 0, errNotForLoop
		}
		if length, used = length+len(piece), used+n; done {
			return length, used, nil
		}
	}
	return 0, -1, nil
}

// appendBody appends the body of an answer that was measured.
func (r *relay) appendBody(b, data []byte) []byte {
	if !r.head.Chunked || r.hasNoBody() {
		return append(b, data...)
	}
	var chunks http1.ChunkReader
	for done, err := false, error(nil); !done && err == nil; { // there is none
		var piece []byte
		var n int
		piece, n, done, err = chunks.Next(data)
		b, data = append(b, piece...), data[n:]
	}
	return b
}

func (r *relay) hasNoBody() bool {
	return r.isHead || r.head.Status == http.StatusNoContent || r.head.Status == http.StatusNotModified
}

// answer sends the answer of the server to the client, like [response.begin], and is ready for another request. The body is so long, without
// its chunks.
func (r *relay) answer(t *event.Turn, body []byte, length int, ended bool) event.Verdict {
	h := r.http
	last := r.last || t.Draining() || exhausted(r.site, t.Requests())
	b := r.appendHead(t.Buffer(), length)
	if last {
		b = append(b, "Connection: close\r\n"...)
	}
	t.SetBuffer(r.appendBody(append(b, "\r\n"...), body))
	t.Keep(r.site.KeepAliveTimeout)
	t.Consume(r.length)
	h.logRelay(t, r, length)
	r.home.doubt = 0
	r.server.succeeded()
	r.server.relayed.Add(1)
	r.leave(mpm.Done)
	if ended || !r.head.KeepAlive || !r.server.keeps(time.Now()) {
		t.CloseUpstream(r.conn)
	} else {
		r.home.idle = append(r.home.idle, r)
		r.server.idleOnLoops.Add(1)
		t.KeepUpstream(r.conn, r.server.patience())
	}
	switch {
	case r.last:
		return event.End
	case last:
		return event.Finish
	}
	return event.Wait
}

// appendHead appends the head of the answer, up to what it says of the client's connection.
func (r *relay) appendHead(b []byte, length int) []byte {
	b = http1.AppendStatusLine(b, r.head.Status)
	server, date := false, false
	for _, f := range r.head.Fields {
		name := textproto.CanonicalMIMEHeaderKey(alias(f.Name))
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Content-Length":
			continue
		case "Server":
			server = true
		case "Date":
			date = true
		}
		b = append(append(append(append(b, name...), ": "...), f.Value...), "\r\n"...)
	}
	if !server {
		b = append(b, "Server: "+serverName+"\r\n"...)
	}
	if !date {
		b = r.http.date.AppendField(b, time.Now())
	}
	switch {
	case !r.hasNoBody():
		return http1.AppendContentLength(b, int64(length))
	case r.isHead && r.head.ContentLength > 0 && r.head.Status != http.StatusNoContent && r.head.Status != http.StatusNotModified:
		return http1.AppendContentLength(b, r.head.ContentLength)
	}
	return b
}

// logRelay is [HTTP.logRequest] for a request that the loop has passed on.
func (h *HTTP) logRelay(t *event.Turn, r *relay, length int) {
	took := time.Since(r.began)
	if c := h.Server.count(r.pool.config.Name, r.head.Status); c != nil {
		c.time(took)
	}
	if h.Access == nil {
		return
	}
	s := h.scratch()
	defer h.scratches.Put(s)
	if n, err := s.head.Parse(r.conn.Request()); n == 0 || err != nil {
		return // it has been parsed before
	}
	s.entry.set(t.Remote(), &s.head, r.began)
	s.entry.Status, s.entry.Bytes, s.entry.Duration, s.entry.Pool = r.head.Status, int64(length), took, r.pool.config.Name
	h.Access.Log(&s.entry)
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

// dropRelay ends what the loop has begun, if nobody went on with it: it must not meet another request.
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

// relayed is what the loop has begun of the request; nil: nothing.
func (c *call) relayed() *relay {
	if c.x.conn == nil || c.x.route.Proxy == nil {
		return nil
	}
	return c.x.conn.relay
}

// takeRelay goes on with what the loop has begun of the request: with the server that it has chosen, and the connection over which that was asked;
// nil: it was not, or nothing was begun.
func (c *call) takeRelay() (*upstream, *serverConn) {
	r := c.relayed()
	if r == nil {
		return nil, nil
	}
	c.x.conn.relay = nil
	return r.server, r.asked
}
