package proxy

import (
	"bytes"
	"context"
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
