package proxy

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sync/semaphore"

	"gateway/mpm/event"
)

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
