package event

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// writeStall is how long a write waits for a client that takes nothing.
const writeStall = 60 * time.Second

// sendSlice is how much of a file is sent before other connections have their turn.
const sendSlice = 1 << 20

// Errors of a connection.
var (
	// ErrGone says that the client has reset or fully closed the connection.
	ErrGone = errors.New("client has gone")
	// ErrWouldBlock is what Read returns in [Conn.SetNonblock] mode when no bytes are there. It is a temporary net.Error,
	// which leaves a TLS session usable.
	ErrWouldBlock net.Error = wouldBlock{}
)

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "no bytes are there yet" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// Turn is a parked connection during one call of the protocol, on the loop.
type Turn struct {
	loop     *loop
	entry    *entry
	listener *Listener
	out      []byte
	consumed int
	keep     time.Duration
	then     func(*Conn) bool
	asked    *Upstream // see Ask
	passed   any       // see Pass
}

// Write appends to what is sent when the call returns.
func (t *Turn) Write(p []byte) (int, error) {
	t.out = append(t.out, p...)
	return len(p), nil
}

// Buffer is what was written so far, to be appended to and given to SetBuffer.
func (t *Turn) Buffer() []byte { return t.out }

// SetBuffer replaces what was written.
func (t *Turn) SetBuffer(b []byte) { t.out = b }

// SendFile sends what was written so far and then n bytes of a file from offset. It returns how many of these the socket took;
// [Turn.Then] is for the rest. The file should be in memory: the loop waits for the disk otherwise.
func (t *Turn) SendFile(fd int, offset, n int64) (sent int64) {
	k, _ := send(int(t.entry.fd), t.out, unix.MSG_NOSIGNAL|unix.MSG_MORE) // an error comes again when the rest is sent
	t.out = append(t.out[:0], t.out[k:]...)
	for len(t.out) == 0 && sent < n {
		k := sendfile(int(t.entry.fd), fd, &offset, n-sent)
		if k == 0 {
			break
		}
		sent += k
	}
	return sent
}

// Then has f called with the connection, once, by the goroutine that gets it with the verdict Detach. Serve is called after
// that if f returns true; else the connection is closed.
func (t *Turn) Then(f func(*Conn) bool) { t.then = f }

// Pass gives v to the goroutine that gets the connection with the verdict Detach, see [Conn.TakePassed].
func (t *Turn) Pass(v any) { t.passed = v }

// Loop is the number of the loop that calls.
func (t *Turn) Loop() int { return t.loop.number }

// Keep sets how long the connection may idle after this call. Without it the deadline stays.
func (t *Turn) Keep(d time.Duration) { t.keep = d }

// Requests counts the calls of it: the requests of the connection.
func (t *Turn) Requests() int { return t.entry.count() }

// First reports whether Requests was never called: nothing but these bytes has come yet.
func (t *Turn) First() bool { return t.entry.requests == 0 }

// Draining reports whether the connection is to be closed after its request.
func (t *Turn) Draining() bool { return t.loop.engine.Draining() }

// Consume says that the first n unread bytes are dealt with.
func (t *Turn) Consume(n int) { t.consumed += n }

// Remote is the client's address; zero for a unix socket.
func (t *Turn) Remote() netip.AddrPort { return t.entry.peer() }

// Name says who the client is, when another one has connected for it; a peer that is not valid says nothing. To be called once.
func (t *Turn) Name(peer netip.AddrPort) {
	t.entry.named = true
	if peer.IsValid() {
		t.entry.name(peer)
	}
}

// Named reports whether Name was called.
func (t *Turn) Named() bool { return t.entry.named }

// Listener is where the connection came in.
func (t *Turn) Listener() *Listener { return t.listener }

// Conn is a connection while a goroutine owns it. It implements net.Conn. One goroutine may read while another writes; the
// deadline is one for both, and counts in whole seconds.
//
// After Park, Linger or Close the connection belongs to somebody else and must not be used.
type Conn struct {
	loop     *loop
	entry    *entry
	index    uint32
	listener *Listener
	in       []byte           // bytes the loop had read
	pending  []byte           // bytes the loop could not send
	finish   bool             // close after pending
	then     func(*Conn) bool // see [Turn.Then]
	passed   any              // see TakePassed
	upstream *Upstream        // that has been asked on the loop; nil: none
	nonblock bool
	keeping  bool   // see KeepUnsent
	unsent   []byte // what was kept; capacity is used again
	ended    bool
	rwait    chan struct{} // capacity 1: flags have changed
	wwait    chan struct{}
	onGone   atomic.Pointer[func(half bool)]
	watcher  Watcher // see Watch

	due        sync.Mutex // guards what follows, in engine seconds; 0: none
	own, stall uint32     // deadlines: of the owner, and of a write that waits for the client
}

func newConn() any { return &Conn{rwait: make(chan struct{}, 1), wwait: make(chan struct{}, 1)} }

// detach gives a parked connection to a goroutine.
func (l *loop) detach(index uint32, en *entry, p *Listener, rest []byte, flags uint32) {
	c := l.own(index, en, p, rest)
	en.flag(flags)
	l.executors.run(c)
}

// detachPending gives a connection with unsent output to a goroutine.
func (l *loop) detachPending(index uint32, en *entry, out, rest []byte, v Verdict, flags uint32) {
	c := l.own(index, en, l.listener(en.listener), rest)
	c.pending, c.finish = append([]byte(nil), out...), v == Finish || v == End
	en.flag(flags)
	l.executors.run(c)
}

func (l *loop) own(index uint32, en *entry, p *Listener, rest []byte) *Conn {
	c := l.conns.Get().(*Conn)
	c.loop, c.entry, c.index, c.listener = l, en, index, p
	c.in = append(c.in[:0], rest...)
	c.pending, c.finish, c.nonblock, c.ended = nil, false, false, false
	c.then, l.turn.then = l.turn.then, nil
	c.passed, l.turn.passed = l.turn.passed, nil
	c.keeping, c.unsent, c.watcher, c.upstream = false, nil, nil, nil
	c.onGone.Store(nil)
	ch, i := l.table.chunk(index), index%chunkSize
	if ch.partial[i] == nil {
		en.begun = l.engine.now()
	}
	ch.partial[i] = nil
	ch.owner[i].Store(c)
	if !p.Raw || ch.session[i] != nil {
		en.deadline.Store(0)
	}
	c.own, c.stall = en.deadline.Load(), 0
	en.set(stateOwned, flagPark|flagWritable)
	if l.watch(index, en) != nil {
		en.flag(flagGone) // nothing would ever wake its owner
	}
	l.engine.active.Add(1)
	l.engine.done.Add(1)
	return c
}

func (c *Conn) serve() {
	l := c.loop
	defer l.engine.done.Done()
	defer func() {
		if !c.ended {
			c.Close()
		}
		l.engine.active.Add(-1)
		c.onGone.Store(nil)
		c.then, c.watcher, c.passed = nil, nil, nil
		l.conns.Put(c)
	}()
	_, err := c.Write(c.pending)
	c.pending = nil
	if err != nil {
		c.Abort()
	}
	if c.then != nil && !c.then(c) || err != nil {
		return
	}
	if c.finish {
		c.Linger()
		return
	}
	c.listener.Protocol.Serve(c)
}

// wake is called by the loop when flags have changed. The loop may have found c just before its owner ended, and c may serve
// another connection of the same loop by now: then it does no harm, for it looks at the flags of that one.
func (c *Conn) wake() {
	for _, ch := range [...]chan struct{}{c.rwait, c.wwait} {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	if state := c.entry.state.Load(); state&(flagGone|flagHalf) != 0 {
		if f := c.onGone.Load(); f != nil {
			go (*f)(state&flagGone == 0) // ends when the callback does
		}
	}
}

// OnGone has f called, in a goroutine of its own, when the client has closed its writing side (half) or the whole
// connection. It may be called more than once. nil: nobody wants to know.
func (c *Conn) OnGone(f func(half bool)) {
	if f == nil {
		c.onGone.Store(nil)
		return
	}
	c.onGone.Store(&f)
	if s := c.entry.state.Load(); s&(flagGone|flagHalf) != 0 {
		go f(s&flagGone == 0) // ends when the callback does
	}
}

// wait blocks until one of the flags is set, and takes it.
func (c *Conn) wait(ch chan struct{}, flags uint32) error {
	for {
		s := c.entry.state.Load()
		switch {
		case s&flagExpired != 0:
			return os.ErrDeadlineExceeded
		case s&(flags|flagGone) != 0:
			c.entry.take(flags &^ flagHalf)
			return nil
		}
		if c.watcher == nil {
			<-ch
			continue
		}
		c.watcher.Waits()
		<-ch
		c.watcher.Runs()
	}
}

// Watcher is told when the goroutine that owns a connection begins to wait for the client, and when it goes on.
type Watcher interface {
	Waits()
	Runs() // may wait for something else
}

// Watch has w told from now on; nil: nobody.
func (c *Conn) Watch(w Watcher) { c.watcher = w }

// Read reads what the client has sent. It waits until there is something, at most until the deadline.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.in) > 0 {
		n := copy(p, c.in)
		if c.in = c.in[n:]; len(c.in) == 0 {
			c.in = nil // a connection may stay for long
		}
		return n, nil
	}
	if len(p) == 0 {
		return 0, nil
	}
	// Without a flag nothing has come since a read that left nothing: there is no need to ask the kernel.
	for empty := c.entry.state.Load()&flagPark == 0; ; empty = false {
		if !empty {
			if n, err := c.receive(p); n > 0 || err != nil {
				return n, err
			}
		}
		if c.nonblock {
			return 0, ErrWouldBlock
		}
		if err := c.wait(c.rwait, flagReadable|flagHalf); err != nil {
			return 0, err
		}
	}
}

// receive reads what is there. It returns 0 and no error when that is nothing.
func (c *Conn) receive(p []byte) (int, error) {
	// Taken before the read: an edge that comes after it is seen by wait.
	c.entry.take(flagReadable)
	n, errno := read(int(c.entry.fd), p)
	switch {
	case n > 0:
		if n == len(p) {
			c.entry.flag(flagReadable)
		}
		return n, nil
	case errno == 0:
		return 0, io.EOF
	case errno != unix.EAGAIN:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: errno}
	case c.entry.state.Load()&flagGone != 0:
		return 0, ErrGone
	}
	return 0, nil
}

// SetNonblock makes Read return [ErrWouldBlock] instead of waiting.
func (c *Conn) SetNonblock(on bool) { c.nonblock = on }

// Await returns when a Read would not have to wait.
func (c *Conn) Await() error {
	if len(c.in) > 0 {
		return nil
	}
	err := c.wait(c.rwait, flagReadable|flagHalf)
	if err == nil {
		c.entry.flag(flagReadable) // for that Read
	}
	return err
}

// Unread are the bytes that the loop had read. They are valid until the next Read.
func (c *Conn) Unread() []byte { return c.in }

// Write sends all of p. A client that takes nothing for a minute is given up.
func (c *Conn) Write(p []byte) (int, error) { return c.Write2(p, nil) }

// WriteMore is Write for bytes that others follow at once.
func (c *Conn) WriteMore(p []byte) (int, error) {
	return c.sendAll(len(p), func(done int) (int, unix.Errno) {
		return send(int(c.entry.fd), p[done:], unix.MSG_NOSIGNAL|unix.MSG_MORE)
	})
}

// Write2 sends a and b, in one call where the socket takes both.
func (c *Conn) Write2(a, b []byte) (int, error) {
	if c.keeping && len(c.unsent) > 0 {
		return c.keep(0, a, b), nil
	}
	done, err := c.sendAll(len(a)+len(b), func(done int) (int, unix.Errno) {
		switch {
		case done >= len(a):
			return write(int(c.entry.fd), b[done-len(a):])
		case len(b) == 0:
			return write(int(c.entry.fd), a[done:])
		}
		return writev(int(c.entry.fd), a[done:], b)
	})
	if err == nil && c.keeping {
		done = c.keep(done, a, b)
	}
	return done, err
}

// KeepUnsent has Write and Write2 not wait for the client: what the socket does not take is kept, and goes out before whatever
// is written once they wait again. The other ways to write must not be used meanwhile.
func (c *Conn) KeepUnsent(on bool) { c.keeping = on }

// Unsent reports whether something is kept. Somebody has to write again then, perhaps nothing, to have it sent.
func (c *Conn) Unsent() bool { return len(c.unsent) > 0 }

// keep takes what is left of a and b after the first done bytes, and returns the length of both.
func (c *Conn) keep(done int, a, b []byte) int {
	skipped := min(done, len(a))
	c.unsent = append(append(c.unsent, a[skipped:]...), b[done-skipped:]...)
	return len(a) + len(b)
}

// sendUnsent waits until the client has taken what was kept.
func (c *Conn) sendUnsent() error {
	p := c.unsent
	c.unsent = c.unsent[:0]
	_, err := c.Write(p)
	return err
}

// SendFile sends n bytes of a file without copying them: from *offset, which it moves, or if that is nil from the file's own
// position. It returns how many were sent; fewer than n without an error when the file has become shorter.
func (c *Conn) SendFile(f *os.File, offset *int64, n int64) (int64, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var sent int
	cerr := rc.Control(func(fd uintptr) {
		sent, err = c.sendAll(int(n), func(done int) (int, unix.Errno) {
			// Not raw: it waits for the disk when the file is not in memory.
			if done > 0 {
				runtime.Gosched() // a fast client has its slice, the others theirs
			}
			k, e := unix.Sendfile(int(c.entry.fd), int(fd), offset, min(int(n)-done, sendSlice))
			if errno, ok := e.(unix.Errno); ok {
				return 0, errno
			}
			return k, 0
		})
	})
	return int64(sent), errors.Join(err, cerr)
}

// sendAll calls send until n bytes are gone, it returns 0 without an error, or the socket takes no more and Write keeps the rest.
func (c *Conn) sendAll(n int, send func(done int) (int, unix.Errno)) (done int, err error) {
	if len(c.unsent) > 0 {
		if err := c.sendUnsent(); err != nil {
			return 0, err
		}
	}
	stalled := false
	defer func() {
		if stalled {
			c.setStall(0)
		}
	}()
	for done < n {
		if c.entry.state.Load()&flagGone != 0 {
			return done, ErrGone
		}
		c.entry.take(flagWritable)
		k, errno := send(done)
		done += k
		switch {
		case errno == unix.EAGAIN && c.keeping:
			return done, nil
		case errno == unix.EAGAIN:
			stalled = true
			c.setStall(writeStall)
			if err := c.wait(c.wwait, flagWritable); err != nil {
				return done, err
			}
		case errno == unix.EINTR:
		case errno == unix.EPIPE || errno == unix.ECONNRESET:
			return done, ErrGone
		case errno != 0:
			return done, &net.OpError{Op: "write", Net: "tcp", Err: errno}
		case k == 0:
			return done, nil
		}
	}
	return done, nil
}

// SetTimeout sets the deadline to d from now, rounded up to a second. 0: none. A deadline that has passed is forgotten.
// That of a write that waits for the client holds all the same.
func (c *Conn) SetTimeout(d time.Duration) {
	c.due.Lock()
	defer c.due.Unlock()
	c.own = c.loop.engine.after(d)
	c.applyDue()
}

// setStall sets until when a write waits; 0: none does.
func (c *Conn) setStall(d time.Duration) {
	c.due.Lock()
	defer c.due.Unlock()
	c.stall = c.loop.engine.after(d)
	c.applyDue()
}

// applyDue has the loop watch the earlier of the two. If that has passed the loop says so again.
func (c *Conn) applyDue() {
	at := c.own
	if c.stall != 0 && (at == 0 || c.stall < at) {
		at = c.stall
	}
	c.entry.deadline.Store(at)
	c.entry.take(flagExpired)
}

// SetDeadline implements net.Conn. One deadline serves reads and writes; a time in the past ends what waits now.
func (c *Conn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.SetTimeout(0)
		return nil
	}
	if d := time.Until(t); d > 0 {
		c.SetTimeout(d)
		return nil
	}
	c.due.Lock()
	c.own = 1 // long ago: the loop says so again to one who was about to wait
	if c.stall != 0 {
		c.stall = 1 // whatever a reader sets meanwhile
	}
	c.applyDue()
	c.due.Unlock()
	c.entry.flag(flagExpired)
	c.wake()
	return nil
}

// SetReadDeadline implements net.Conn, see SetDeadline.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

// SetWriteDeadline implements net.Conn, see SetDeadline.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }

// Park gives the connection back to the loop until its next request, or until keep has passed. unread is the beginning of
// that request, if any. It returns false, and the caller keeps the connection, when there is something to read already,
// when unread fills a read, and when the engine is draining.
func (c *Conn) Park(keep time.Duration, unread []byte) bool {
	if c.loop.engine.Draining() || len(unread) >= partialSize || len(c.in) > 0 {
		return false
	}
	ch, i := c.loop.table.chunk(c.index), c.index%chunkSize
	if len(unread) > 0 {
		kept := append([]byte(nil), unread...)
		ch.partial[i] = &kept
		c.entry.begun = c.loop.engine.now()
	}
	c.entry.deadline.Store(c.loop.engine.after(keep))
	ch.owner[i].Store(nil)
	for {
		s := c.entry.state.Load()
		if s&flagPark == flagReadable && c.drained() {
			continue
		}
		if s&flagPark != 0 {
			ch.owner[i].Store(c)
			ch.partial[i] = nil
			return false
		}
		if c.entry.state.CompareAndSwap(s, stateParked) {
			c.ended = true
			return true
		}
	}
}

// drained reports whether nothing is left to read, after a read that took exactly what was there. If so the flag is taken.
func (c *Conn) drained() bool {
	c.entry.take(flagReadable)
	if peek(int(c.entry.fd)) == unix.EAGAIN {
		return true
	}
	c.entry.flag(flagReadable)
	return false
}

// Linger closes the connection after the client has had time to read the answer: half now, the rest when the client closes
// (RFC 9112 §9.6). The loop does the waiting.
func (c *Conn) Linger() {
	shutdown(int(c.entry.fd))
	c.ended = true
	l, en := c.loop, c.entry
	en.drained = 0
	en.deadline.Store(l.engine.after(lingerTime))
	en.take(flagExpired) // crypto/tls lets a write deadline pass to end its own writes
	buf := make([]byte, 4<<10)
	for {
		en.take(flagReadable)
		if drain(en, buf) || en.state.Load()&(flagGone|flagExpired) != 0 {
			l.release(c.index, en)
			return
		}
		// Half was read to its end by drain, or its end-of-file comes with another edge.
		s := en.state.Load()
		if s&(flagReadable|flagGone|flagExpired) == 0 && en.state.CompareAndSwap(s, stateLinger) {
			return
		}
	}
}

// Abort makes every further use of the connection fail, as if the client had gone.
func (c *Conn) Abort() { c.entry.flag(flagGone) }

// Reset closes the connection at once so that the client can't take what it got for all there is.
func (c *Conn) Reset() {
	// It fails for a unix socket, whose clients get the end of file.
	_ = unix.SetsockoptLinger(int(c.entry.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = c.Close()
}

// Close closes the connection at once.
func (c *Conn) Close() error {
	if !c.ended {
		c.ended = true
		c.loop.release(c.index, c.entry)
	}
	return nil
}

// Session returns what SetSession has stored with the connection.
func (c *Conn) Session() any { return c.loop.table.chunk(c.index).session[c.index%chunkSize] }

// SetSession stores something that lives as long as the connection, parked or not.
func (c *Conn) SetSession(v any) { c.loop.table.chunk(c.index).session[c.index%chunkSize] = v }

// Requests counts the calls of it: the requests of the connection.
func (c *Conn) Requests() int {
	return c.entry.count()
}

// First reports whether Requests was never called.
func (c *Conn) First() bool { return c.entry.requests == 0 }

// Loop is the number of the connection's loop.
func (c *Conn) Loop() int { return c.loop.number }

// Began is when the unread bytes that the goroutine has got began to come.
func (c *Conn) Began() time.Time {
	return c.loop.engine.start.Add(time.Duration(c.entry.begun-1) * time.Second)
}

// Draining reports whether the connection is to be closed after its request.
func (c *Conn) Draining() bool { return c.loop.engine.Draining() }

// Listener is where the connection came in.
func (c *Conn) Listener() *Listener { return c.listener }

// Remote is the client's address; zero for a unix socket.
func (c *Conn) Remote() netip.AddrPort { return c.entry.peer() }

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.entry.remote() }

// LocalAddr is the address that the client connected to.
func (c *Conn) LocalAddr() net.Addr {
	sa, err := unix.Getsockname(int(c.entry.fd))
	if err != nil {
		return &net.TCPAddr{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	case *unix.SockaddrInet6:
		if ip4 := net.IP(sa.Addr[:]).To4(); ip4 != nil {
			return &net.TCPAddr{IP: ip4, Port: sa.Port}
		}
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}
	}
	return &net.TCPAddr{}
}
