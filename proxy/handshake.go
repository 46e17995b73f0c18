package proxy

import (
	"container/list"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"gateway/internal/quiet"
)

// HandshakeTimeout is what a client has from accept to the end of its TLS handshake: the HeadTimeout of TLS listeners.
const HandshakeTimeout = 10 * time.Second

const (
	// maxHalfOpen is how many handshakes of a front wait for their clients, about 30 KB each. Every honest one waits for a
	// round trip.
	maxHalfOpen = 1000
	// computingFactor is how many handshakes of a front compute at once, for each processor. The others queue: they must not
	// stand between the loops and their next turn.
	computingFactor = 2
	warnInterval    = time.Minute
	refusalInterval = 10 * time.Second // between messages of clients that were refused
)

// Handshakes bounds the TLS handshakes of a front. It is shared by its listeners, and safe for concurrent use.
type Handshakes struct {
	log       Logger
	computing chan struct{} // a place for each that does not wait for its client

	mu      sync.Mutex // guards what follows
	waiting list.List  // of *handshake, the one that has waited longest first
	limit   int        // of waiting
	shed    uint64     // given up because of the limit
	warned  time.Time  // of that

	done, failed atomic.Uint64
	refusals     quiet.Limiter // of messages about clients' certificates
}

// NewHandshakes returns the bounds for a front.
func NewHandshakes(log Logger) *Handshakes {
	return &Handshakes{log: log, computing: make(chan struct{}, computingFactor*runtime.GOMAXPROCS(0)), limit: maxHalfOpen}
}

// logFailure logs the end of a handshake. Who asks clients for certificates wants to know whom that keeps out.
func (h *Handshakes) logFailure(remote netip.AddrPort, err error) {
	var refused interface{ ClientRefused() bool }
	if !errors.As(err, &refused) || !refused.ClientRefused() {
		h.log.Debugw("TLS handshake failed", "remote", remote, "error", err)
		return
	}
	if held, ok := h.refusals.Pass(time.Now(), refusalInterval); ok {
		h.log.Infow("TLS client has no certificate that the site asks for", "remote", remote, "error", err, "not_logged", held)
	}
}

// HandshakeStatus is `handshakes` in `gateway status -json`: TLS handshakes that are over. A client that says nothing begins none.
type HandshakeStatus struct {
	Done   uint64 `json:"done"`
	Failed uint64 `json:"failed"`
	Shed   uint64 `json:"shed"` // of the failed, those given up because too many clients kept theirs waiting
}

// Status counts the handshakes that are over.
func (h *Handshakes) Status() HandshakeStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return HandshakeStatus{Done: h.done.Load(), Failed: h.failed.Load(), Shed: h.shed}
}

// handshake is a TLS handshake on its goroutine. It implements [event.Watcher].
type handshake struct {
	all   *Handshakes
	conn  *under
	place *list.Element // in all.waiting; nil: it computes
}

// run calls f, which reads and writes c, when there is a place to compute.
func (h *Handshakes) run(c *under, f func() error) error {
	h.computing <- struct{}{}
	defer func() { <-h.computing }()
	c.computing = h.computing
	c.Watch(&handshake{all: h, conn: c})
	defer c.Watch(nil)
	err := f()
	if err != nil {
		h.failed.Add(1)
	} else {
		h.done.Add(1)
	}
	return err
}

// Waits sends what the client waits for, gives the place to compute to another one, and makes room among those that wait.
func (s *handshake) Waits() {
	_ = s.conn.flush() // a client that has gone shows at the read that waits
	<-s.all.computing
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.place = s.all.waiting.PushBack(s)
	if s.all.waiting.Len() > s.all.limit {
		s.all.giveUp(s.all.waiting.Front().Value.(*handshake))
	}
}

// Idle calls f, which waits for something that is not the client's: a certificate that is made on demand. Another handshake
// computes meanwhile. It is called in the handshake only.
func (u *under) Idle(f func()) {
	<-u.computing
	defer func() { u.computing <- struct{}{} }()
	f()
}

// Runs waits for a place to compute.
func (s *handshake) Runs() {
	s.all.mu.Lock()
	s.leave()
	s.all.mu.Unlock()
	s.all.computing <- struct{}{}
}

// leave takes the handshake from those that wait, if it is still among them. The mutex is held.
func (s *handshake) leave() {
	if s.place != nil {
		s.all.waiting.Remove(s.place)
		s.place = nil
	}
}

// giveUp ends a handshake that waits: its read fails. The mutex is held, so that it can't end meanwhile and its connection
// belong to somebody else.
func (h *Handshakes) giveUp(s *handshake) {
	s.leave()
	_ = s.conn.SetDeadline(time.Unix(1, 0)) // it never fails
	h.shed++
	if now := time.Now(); now.Sub(h.warned) >= warnInterval {
		h.warned = now
		h.log.Warnw("too many clients begin a TLS handshake and don't go on: those that wait longest are given up; block their addresses if this is an attack",
			"limit", h.limit, "given_up", h.shed, "remote", s.conn.Remote())
	}
}
