// Package event is the engine of the event pools: epoll loops, parked connections, deadlines.
//
// A connection without a request in progress is parked: it is an entry in a table of its loop, with no goroutine and no
// buffer. When bytes arrive the loop reads them and shows them to the [Protocol], which answers in place, asks for more, or
// takes the connection into a goroutine of its own, where it is a [Conn], blocking like any net.Conn, until it is parked again.
package event

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol is what the engine calls when a connection has something to say. Methods are called from several goroutines.
type Protocol interface {
	// Data sees all unread bytes of a parked connection, on its loop: it must not block, and must not keep data or t.
	Data(t *Turn, data []byte) Verdict
	// Expired is called, on the loop, when the deadline of a parked connection has passed with an incomplete request
	// waiting. What it writes to t is sent before the connection is closed.
	Expired(t *Turn, data []byte)
	// Serve owns the connection, in a goroutine of its own, until it returns. It must end with [Conn.Park], [Conn.Linger]
	// or [Conn.Close].
	Serve(c *Conn)
}

// Verdict is what the protocol wants done with a parked connection.
type Verdict uint8

// The verdicts.
const (
	Wait   Verdict = iota // stay parked; unread bytes are kept for the next call
	Detach                // call Serve with the unread bytes
	Finish                // send what was written, then close when the client has had time to read it
	End                   // the same, for a client that has said it sends no more: there is nothing to wait for
	Hold                  // wait for the server that [Turn.Ask] has asked
)

// Options are the bounds of an engine. The zero value is ready to use.
type Options struct {
	Loops       int           // 0: one per processor
	MaxConns    int           // connections at once; then the oldest idle ones are closed and accepting pauses. 0: no bound
	HeadTimeout time.Duration // from accept to the end of the first request head; 0: 20 s
	// Paused is called when accepting pauses for want of descriptors, at most once an episode. It may be nil.
	Paused func(err error)
	// Shed is called when connections that have idled for longest are to be closed, which the engine does with those that are parked:
	// about once a second while accepting has to pause. It must not block, and may be nil.
	Shed func()
}

// Engine accepts connections and runs the loops. Its methods are safe for concurrent use.
type Engine struct {
	loops     []*loop
	listeners atomic.Pointer[[]*Listener] // by index; replaced under mu when one is added
	mu        sync.Mutex
	next      int // the loop whose turn it is to get a connection; accepting loop only
	start     time.Time
	max       int64 // connections
	head      time.Duration
	paused    func(error)
	shed      func()

	draining atomic.Bool
	open     atomic.Int64 // connections
	active   atomic.Int64 // of these, owned by a goroutine
	accepted atomic.Uint64
	done     sync.WaitGroup // loops and owners
}

// Listener is one listening socket of an engine.
type Listener struct {
	Protocol Protocol
	// Raw: a connection with a session is not read on the loop, for TLS reads for itself; before that it is, until the protocol
	// detaches it.
	Raw     bool
	Address string // for the protocol and for messages
	// HeadTimeout replaces that of the engine. On a raw listener it is the time, from accept, for everything up to the first
	// [Conn.SetTimeout]; what the client sends does not extend it.
	HeadTimeout time.Duration
	file        *os.File // keeps the descriptor open
	fd          int
	index       uint16
	closed      bool // the first loop's
}

func (p *Listener) close() error {
	p.closed = true
	return p.file.Close()
}

// New starts the loops. Close ends them.
func New(o Options) (*Engine, error) {
	if o.Loops <= 0 {
		o.Loops = runtime.GOMAXPROCS(0)
	}
	if o.HeadTimeout <= 0 {
		o.HeadTimeout = 20 * time.Second
	}
	if o.MaxConns <= 0 {
		o.MaxConns = 1 << 30
	}
	e := &Engine{start: time.Now(), max: int64(o.MaxConns), head: o.HeadTimeout, paused: o.Paused, shed: o.Shed}
	e.listeners.Store(new([]*Listener))
	for i := range o.Loops {
		l, err := newLoop(e, i)
		if err != nil {
			e.Close()
			return nil, err
		}
		e.loops = append(e.loops, l)
	}
	for _, l := range e.loops {
		e.done.Add(1)
		go l.run() // ends when Close closes the epoll descriptor
	}
	return e, nil
}

// Listen accepts connections from a non-blocking listening socket and gives them to l.Protocol. The engine owns file from now on.
func (e *Engine) Listen(file *os.File, l Listener) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	rc, err := file.SyscallConn()
	if err != nil {
		return err
	}
	// Control instead of Fd: Fd would make the socket blocking.
	if err := rc.Control(func(fd uintptr) { l.fd = int(fd) }); err != nil {
		return err
	}
	if err := unix.SetNonblock(l.fd, true); err != nil {
		return fmt.Errorf("listen on %s: %w", l.Address, err)
	}
	if l.HeadTimeout <= 0 {
		l.HeadTimeout = e.head
	}
	listeners := slices.Clone(*e.listeners.Load())
	l.file, l.index = file, uint16(len(listeners))
	listeners = append(listeners, &l)
	e.listeners.Store(&listeners)
	return e.loops[0].listen(&l)
}

// Drain closes the listening sockets and the connections that wait for a request, and lets the others finish. It returns when
// none is left, or with the cause of ctx.
func (e *Engine) Drain(ctx context.Context) error {
	e.draining.Store(true)
	for _, l := range e.loops {
		l.wake()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for e.open.Load() > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

// Close ends the loops and closes every connection at once, then waits for the goroutines that own one.
func (e *Engine) Close() error {
	e.draining.Store(true)
	var errs []error
	for _, l := range e.loops {
		errs = append(errs, l.close())
	}
	e.done.Wait()
	for _, p := range *e.listeners.Load() {
		if !p.closed {
			errs = append(errs, p.close())
		}
	}
	return errors.Join(errs...)
}

// lead is how many connections more than another a loop may have before it gets no more of them.
const lead = 16

// deal returns the loop for a new connection: each in turn, so that short connections are shared out like lasting ones, but
// not one that has clearly more than the emptiest. Accepting loop only.
func (e *Engine) deal() *loop {
	least := e.loops[0]
	for _, l := range e.loops[1:] {
		if l.open.Load() < least.open.Load() {
			least = l
		}
	}
	e.next = (e.next + 1) % len(e.loops)
	if l := e.loops[e.next]; l.open.Load() < least.open.Load()+lead {
		return l
	}
	return least
}

// Stats are counts at one instant.
type Stats struct {
	Open     int64 // connections
	Parked   int64 // of these, without a request in progress
	Active   int64 // of these, with one
	Accepted uint64
}

// Stats returns the counts of now.
func (e *Engine) Stats() Stats {
	s := Stats{Open: e.open.Load(), Active: e.active.Load(), Accepted: e.accepted.Load()}
	s.Parked = max(s.Open-s.Active, 0)
	return s
}

// Draining reports whether connections are to be closed rather than parked.
func (e *Engine) Draining() bool { return e.draining.Load() }

// now is the engine's clock: whole seconds since its start, one ahead so that 0 can mean "no deadline".
func (e *Engine) now() uint32 { return uint32(time.Since(e.start)/time.Second) + 1 }

// after is the deadline d from now, rounded up.
func (e *Engine) after(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32((time.Since(e.start)+d+time.Second-1)/time.Second) + 1
}
