package proxy

import (
	"bytes"
	"context"
	"errors"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sync/semaphore"

	"gateway/internal/quiet"
	"gateway/mpm/event"
	"gateway/proxy/http1"
)

//lint:file-ignore SA1019 http2.Server is deprecated in favour of that of net/http, which takes no connections but those it accepted itself.

const (
	maxStreams   = 128            // requests at once of one connection
	maxRefusals  = 2 * maxStreams // answers at once to requests for which there is no place
	streamWindow = 1 << 20        // bytes that a client may send of a body before they are read
	// minIdle is how long a connection may idle at least. A new one costs a handshake, and browsers count on keeping theirs.
	minIdle = 30 * time.Second
	// streamStall is how long a write waits for a client that lets nothing of its response through, see [streamResponse.watch].
	streamStall = 60 * time.Second
	// firstRequest is how long a connection without one is safe from making room for others.
	firstRequest = 3 * time.Second
	// lastWords is how long an answer that says that there is none may take, see [streamResponse.interrupt].
	lastWords = 5 * time.Second
)

// HTTP2 serves the connections of a front that speak HTTP/2 (RFC 9113). Frames, header compression and flow control are those of
// golang.org/x/net; what requests and responses may be, and how long they may take, is decided here as for HTTP/1.1. It is safe
// for concurrent use.
type HTTP2 struct {
	log    Logger
	server *http2.Server
	base   *http.Server  // it never listens; it is what x/net takes settings from, and its Shutdown reaches all connections
	stall  time.Duration // streamStall

	requests  *shares       // places of requests in progress
	refusals  *shares       // of answers to those that got none
	nRefused  atomic.Uint64 // requests that got none
	draining  atomic.Bool
	floods    quiet.Limiter // of warnings about them
	crowdings quiet.Limiter // likewise
	buffers   sync.Pool     // of *[firstBuffer]byte: what sessions read into

	mu       sync.Mutex // guards sessions
	sessions map[*session]struct{}
}

// NewHTTP2 returns what serves HTTP/2. idle is how long a connection without a request is kept; less than half a minute counts as
// that. requests is how many may be in progress on all connections; one with a large head counts as several.
func NewHTTP2(idle time.Duration, requests int, log Logger) *HTTP2 {
	h := &HTTP2{
		log: log, stall: streamStall, sessions: make(map[*session]struct{}),
		requests: newShares(requests), refusals: newShares(maxRefusals),
	}
	h.base = &http.Server{
		MaxHeaderBytes: http1.MaxHeadBytes,
		WriteTimeout:   2 * h.stall, // each response puts it off, see [streamResponse.watch]
		ErrorLog:       stdlog.New(debugLog{log}, "", 0),
		ConnState: func(c net.Conn, state http.ConnState) {
			if s, ok := c.(*session); ok {
				s.turned(state)
			}
		},
	}
	h.server = &http2.Server{
		MaxConcurrentStreams: maxStreams,
		MaxReadFrameSize:     16 << 10, // the smallest there is
		IdleTimeout:          max(idle, minIdle),

		MaxUploadBufferPerStream: streamWindow,
	}
	_ = http2.ConfigureServer(h.base, h.server) // it fails for cipher suites only, and knows none
	return h
}

// debugLog takes what x/net has to say, which is about clients that break the protocol.
type debugLog struct{ Logger }

func (l debugLog) Write(p []byte) (int, error) {
	l.Debugw("HTTP/2 connection failed", "error", strings.TrimSpace(string(p)))
	return len(p), nil
}

// Drain tells all clients to send no more requests (GOAWAY, RFC 9113 §6.8), those that come later, too. Connections end when those
// in progress are answered.
func (h *HTTP2) Drain() {
	h.draining.Store(true) // before: a session that x/net does not know yet looks at it once it does, see [session.Read]
	h.sayGoAway()
}

// sayGoAway tells all clients that were not told yet.
func (h *HTTP2) sayGoAway() {
	_ = h.base.Shutdown(context.Background()) // it has no listener to fail at, and no connection to wait for
}

// Idle counts the connections without a request in progress.
func (h *HTTP2) Idle() int { return len(h.idle()) }

// idle has them, each with the time since when it idles.
func (h *HTTP2) idle() map[*session]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[*session]time.Time)
	for s := range h.sessions {
		if since, ok := s.idleSince(); ok {
			all[s] = since
		}
	}
	return all
}

// Shed closes the connections that have idled for longest, all those of one second, as the engine does with parked ones.
func (h *HTTP2) Shed() {
	idle, oldest := h.idle(), time.Now()
	for _, since := range idle {
		if since.Before(oldest) {
			oldest = since
		}
	}
	for s, since := range idle {
		if since.Sub(oldest) < time.Second && s.dismiss() {
			_ = s.Close() // it never fails
		}
	}
}

func (h *HTTP2) add(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[s] = struct{}{}
}

func (h *HTTP2) remove(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
}

// flooded warns, now and then, of a client whose connection was ended for a flood of frames.
func (h *HTTP2) flooded(remote netip.AddrPort) {
	if held, ok := h.floods.Pass(time.Now(), warnInterval); ok {
		h.log.Warnw("client floods an HTTP/2 connection with frames that ask for nothing, or resets what it asks for: its connection is closed; block its address if this is an attack",
			"remote", remote, "not_logged", held)
	}
}

// Refused counts the requests that were refused because too many were in progress.
func (h *HTTP2) Refused() uint64 { return h.nRefused.Load() }

// refused counts a request, and warns now and then.
func (h *HTTP2) refused(remote netip.AddrPort) {
	h.nRefused.Add(1)
	if held, ok := h.crowdings.Pass(time.Now(), warnInterval); ok {
		h.log.Warnw("too many HTTP/2 requests are in progress, of one client or of all: more are refused; raise max_http2_requests, or block the address if this is an attack",
			"remote", remote, "not_logged", held)
	}
}

// preface begins every HTTP/2 connection (RFC 9113 §3.4).
const preface = http2.ClientPreface

// beginsHTTP2 looks at the first bytes of a connection without TLS. ok says that they are the preface, or may become it.
func (h *HTTP) beginsHTTP2(t *event.Turn, data []byte) (v event.Verdict, ok bool) {
	switch {
	case len(data) < len(preface):
		return event.Wait, strings.HasPrefix(preface, alias(data))
	case !strings.HasPrefix(alias(data), preface):
		return event.Wait, false
	case h.HTTP2 == nil:
		h.refuse(t, t.Remote(), data, errNoHTTP2)
		return event.Finish, true
	}
	return event.Detach, true
}

// speaksHTTP2 reports what the client has chosen: by ALPN, or by prior knowledge.
func (k *conn) speaksHTTP2() bool {
	switch {
	case k.http.HTTP2 == nil:
		return false
	case k.secure != nil:
		return k.secure.http2
	}
	return k.raw.First() && bytes.HasPrefix(k.raw.Unread(), []byte(preface))
}

// serveHTTP2 serves a connection until it ends; before its first bytes it is parked.
func (k *conn) serveHTTP2() {
	if k.secure != nil && k.park() {
		return
	}
	s := &session{http: k.http, conn: k, heads: semaphore.NewWeighted(maxHeads), begins: make(chan struct{}, maxBegins)}
	s.seen.left, s.given.left = uint32(len(preface)), uint32(len(preface))
	s.patience.left, s.patience.at = maxPatience, time.Now()
	_ = s.look(k.buf[k.r:k.w]) // a flood does not end here
	if k.secure != nil {
		k.secure.release()
		s.tls = factsOf(k.secure.Secure)
		k.secure.Describe(&s.template)
	}
	h := k.http.HTTP2
	h.add(s)
	defer func() {
		if v := recover(); v != nil {
			k.http.Log.Errorw("HTTP/2 connection panicked; its requests failed", "panic", v, "stack", string(debug.Stack()))
			_ = s.Close()
		}
		h.remove(s)
		s.wait()
	}()
	h.server.ServeConn(s, &http2.ServeConnOpts{BaseConfig: h.base, Handler: s})
}

// session is a connection that speaks HTTP/2. x/net has it as the net.Conn below and as the http.Handler above. It reads in one
// goroutine and writes in another, at most, and may close in a third.
type session struct {
	http     *HTTP
	conn     *conn // whoever uses it holds reading or writing, and has looked at closed; requests use what never changes
	tls      tlsFacts
	template http.Request // what Describe has said
	closing  sync.Once
	closed   atomic.Bool // or about to be
	patience patience
	heads    *semaphore.Weighted // bytes of them, see maxHeads
	begins   chan struct{}       // a token for each request that is about to begin, see pace

	reading sync.Mutex // guards what follows, and what conn has read
	known   bool       // x/net has it among its connections
	seen    frameScanner
	given   frameScanner // of these, what x/net has read
	latest  uint32       // the newest stream in that
	newest  uint32       // the newest stream of the client

	writing sync.Mutex // guards what follows
	sent    frameScanner
	ended   endedStreams // as far as the client was told

	mu        sync.Mutex // guards what follows, except running
	requests  int        // that have come
	answers   int        // of them, those that were answered or reset
	idle      time.Time  // since when none is in progress; zero: one is, or the preface has not come
	over      bool       // none is taken any more
	dismissed bool       // see dismiss
	running   sync.WaitGroup
}

// LocalAddr implements net.Conn.
func (s *session) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.conn.local) }

// RemoteAddr implements net.Conn.
func (s *session) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.conn.remote) }

// SetDeadline, SetReadDeadline and SetWriteDeadline implement net.Conn. The engine has one deadline for both directions, which is
// for stalled writes.
func (s *session) SetDeadline(time.Time) error      { return nil }
func (s *session) SetReadDeadline(time.Time) error  { return nil }
func (s *session) SetWriteDeadline(time.Time) error { return nil }

// Read implements net.Conn.
func (s *session) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	if h := s.http.HTTP2; !s.known && h.draining.Load() {
		h.sayGoAway() // it has come too late for that of Drain
	}
	s.known = true
	k := s.conn
	for k.r == k.w {
		n, err := s.receive(p)
		if n > 0 || err != nil {
			s.pace(p[:n])
			return n, err
		}
	}
	n := copy(p, k.buf[k.r:k.w])
	k.r += n
	s.pace(p[:n])
	return n, nil
}

const (
	// maxBegins is how many requests of a connection may be about to begin, each with all the memory that x/net gives it.
	maxBegins = 4
	// beginTime is after which time a head has become a request, or never does.
	beginTime = 100 * time.Millisecond
)

// pace waits, before x/net has the head of another request, until those before it have begun or are refused. So the first ones of a
// burst that is too large are refused before there is memory for the last.
func (s *session) pace(p []byte) {
	for {
		h, rest, ok := s.given.next(p)
		if !ok {
			return
		}
		if p = rest; h.kind == http2.FrameHeaders && h.stream > s.latest { // else they are trailers
			s.latest = h.stream
			s.expectBegin()
		}
	}
}

func (s *session) expectBegin() {
	select {
	case s.begins <- struct{}{}:
		return
	default:
	}
	late := time.NewTimer(beginTime)
	defer late.Stop()
	select {
	case s.begins <- struct{}{}:
	case <-late.C:
		for range maxBegins {
			s.noteBegin()
		}
	}
}

// noteBegin takes what expectBegin has left.
func (s *session) noteBegin() {
	select {
	case <-s.begins:
	default:
	}
}

// receive reads what is there, into p if that is large and else into the buffer, and has a look at it. It returns 0 when the bytes
// are in the buffer, or none were there and it has waited for some.
func (s *session) receive(p []byte) (int, error) {
	k := s.conn
	direct := len(p) >= firstBuffer
	if !direct {
		p = s.buffer()
	}
	k.raw.SetNonblock(true)
	n, err := k.stream.Read(p)
	k.raw.SetNonblock(false)
	switch {
	case n > 0 && direct:
		return n, s.look(p[:n])
	case n > 0:
		k.r, k.w = 0, n
		return 0, s.look(p[:n])
	case errors.Is(err, event.ErrWouldBlock):
		return 0, s.await()
	}
	return 0, err
}

// buffer is that of conn, which has none after await.
func (s *session) buffer() []byte {
	k := s.conn
	if k.buf == nil {
		b, ok := s.http.HTTP2.buffers.Get().(*[firstBuffer]byte)
		if !ok {
			b = new([firstBuffer]byte)
		}
		k.buf = b[:]
	}
	return k.buf
}

// await waits for the client. Neither conn nor the TLS session has a buffer meanwhile.
func (s *session) await() error {
	k := s.conn
	if k.secure != nil {
		k.secure.Rest()
	}
	if len(k.buf) == firstBuffer {
		s.http.HTTP2.buffers.Put((*[firstBuffer]byte)(k.buf))
	}
	k.buf, k.r, k.w = nil, 0, 0
	return k.raw.Await()
}

// Write implements net.Conn.
func (s *session) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	if err := s.note(p); err != nil {
		return 0, err
	}
	k := s.conn
	n, err := k.stream.Write(p)
	if len(k.records) == 0 {
		k.records = nil // what it held of the handshake went out with the first write
	}
	return n, err
}

// noteEnd counts a stream that was answered or reset. When there are more of them than requests, x/net has answered a head itself,
// and none begins.
func (s *session) noteEnd() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == s.requests {
		s.noteBegin()
		return
	}
	s.answers++
}

// Close implements net.Conn. After it, nothing of the session touches the connection: whoever comes second waits for the first.
func (s *session) Close() error {
	s.closing.Do(s.close)
	return nil
}

func (s *session) close() {
	s.closed.Store(true)
	flooded := s.patience.lost()
	if flooded {
		s.http.HTTP2.flooded(s.conn.remote)
	}
	raw := s.conn.raw
	stalled := !s.writing.TryLock()
	if stalled {
		raw.Abort()
	}
	_ = raw.SetDeadline(time.Unix(1, 0)) // who waits for the client waits no more; it never fails
	if stalled {
		s.writing.Lock()
	}
	defer s.writing.Unlock()
	s.reading.Lock()
	defer s.reading.Unlock()
	if stalled {
		_ = raw.Close() // it never fails
		return
	}
	switch {
	case flooded:
		s.goAway(http2.ErrCodeEnhanceYourCalm)
	case s.wasDismissed():
		s.goAway(http2.ErrCodeNo)
	}
	s.conn.close()
}

// goAway says why the connection ends (RFC 9113 §6.8), unless that would land in the middle of a frame.
func (s *session) goAway(code http2.ErrCode) {
	if !s.sent.between() {
		return
	}
	if s.conn.secure != nil {
		s.conn.secure.hold() // for the closing alert
	}
	// A client that has gone does not miss it.
	_, _ = s.conn.stream.Write(appendGoAway(nil, s.newest, code))
}

// begin counts a request and returns how many there were. ok is false once the connection has ended.
func (s *session) begin() (count int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, false
	}
	s.requests++
	s.running.Add(1)
	return s.requests, true
}

// turned is told by x/net of the first stream and of the end of the last one, whose response has been written then.
func (s *session) turned(state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = time.Time{}
	if state == http.StateIdle {
		s.idle = time.Now()
	}
}

// idleSince reports false while a request is in progress, or the first one may be on its way.
func (s *session) idleSince() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle, !s.idle.IsZero() && (s.requests > 0 || time.Since(s.idle) >= firstRequest)
}

// dismiss takes no more requests, unless one has come meanwhile. It reports whether the connection is to be closed.
func (s *session) dismiss() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle.IsZero() {
		return false
	}
	s.over, s.dismissed = true, true
	return true
}

func (s *session) wasDismissed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dismissed
}

// wait takes no more requests, and waits for those in progress. They have been told that their client has gone.
func (s *session) wait() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.running.Wait()
}
