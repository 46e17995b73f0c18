package mpm

import (
	"context"
	"io"
	"time"
)

// Child names a child process of a pool.
type Child struct {
	Slot   int    // its place on the board
	PID    int    // 0 in an event pool, which has no children
	Socket string // path of its private listening socket
}

// Outcome is how a request left its slot.
type Outcome uint8

// The outcomes.
const (
	Done      Outcome = iota // the child has finished its response and can take the next request
	Broken                   // the connection or the protocol failed: the child is killed and replaced
	NotSent                  // like Broken, but the child read nothing: the request will be tried on another slot and isn't counted here
	Abandoned                // the client went away: the child serves again once its probe says that it has finished
)

// Slot is the right to have one request in flight. It belongs to whoever got it from [Pool.Acquire], until Release.
type Slot struct {
	Child     Child
	Channel   io.Closer     // the connection to the child, kept from request to request by its holder; nil: none yet. The pool closes it with the child
	QueueWait time.Duration // how long Acquire waited

	pool    *Pool  // immutable
	child   *child // immutable; nil in an event pool
	granted time.Time

	// Guarded by pool.mu.
	released    bool
	ended       error // why the request lost its child, before its Release
	cancel      context.CancelCauseFunc
	method, uri string
}

// Context returns a context for the work with the child. It ends with cause [ErrDeadline] when the pool's request_timeout
// has passed, and with a [*ChildExit] as soon as the child was reaped: the connection may outlive it in the hands of a
// grandchild, so its end of file is not to be waited for. To be called at most once; the caller must call cancel.
func (s *Slot) Context(parent context.Context) (ctx context.Context, cancel context.CancelFunc) {
	if s.child == nil {
		if d := s.pool.cfg.RequestTimeout; d > 0 {
			return context.WithTimeoutCause(parent, d, ErrDeadline)
		}
		return context.WithCancel(parent)
	}
	ctx, stop := context.WithCancelCause(parent)
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if s.ended != nil {
		stop(s.ended)
	}
	s.cancel = stop
	return ctx, func() { stop(nil) }
}

// maxURIBytes is how much of a target the status shows.
const maxURIBytes = 256

// Describe says what the slot is used for, for the status and the log.
func (s *Slot) Describe(method, uri string) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.method, s.uri = method, uri[:min(len(uri), maxURIBytes)]
}

// Release gives the slot back. The slot must not be used afterwards: a second Release is a mistake of the caller that is
// logged and otherwise without effect, because a Slot is never granted twice.
func (s *Slot) Release(o Outcome) {
	p := s.pool
	p.mu.Lock()
	defer p.unlock()
	if s.released {
		p.after(func() { p.log.Errorw("slot was released twice", "pool", p.cfg.Name, "pid", s.Child.PID) })
		return
	}
	s.released = true
	if o != NotSent {
		p.served++
		if o == Broken || s.ended != nil {
			p.failed++
		}
	}
	if s.child == nil {
		p.releaseExecutor()
		return
	}
	p.releaseChild(s, o)
}

// end tells the holder that its child is lost. Called with pool.mu held.
func (s *Slot) end(cause error) {
	if s.ended != nil {
		return
	}
	s.ended = cause
	if cancel := s.cancel; cancel != nil {
		s.pool.after(func() { cancel(cause) })
	}
}

// giveBack takes back a slot whose request never ran.
func (p *Pool) giveBack(s *Slot) {
	s.released = true
	if s.child == nil {
		p.releaseExecutor()
		return
	}
	if !p.detach(s) {
		p.finish(s.child, time.Now())
	}
}

// releaseExecutor hands an executor of an event pool to who waits longest.
func (p *Pool) releaseExecutor() {
	if w := p.queue.pop(); w != nil {
		w.settle(&Slot{pool: p, QueueWait: time.Since(w.since)}, nil)
		return
	}
	p.executing--
	p.signalGone()
}

func (p *Pool) releaseChild(s *Slot, o Outcome) {
	if p.detach(s) {
		return
	}
	c, now := s.child, time.Now()
	if o != NotSent {
		p.board[c.Slot].Requests++
	}
	switch o {
	case Done:
		if p.board[c.Slot].Requests == 1 {
			p.memory.Score = p.memory.Score.Served(now)
		}
		p.finish(c, now)
	case Abandoned:
		p.abandon(c, now)
	case Broken, NotSent:
		p.blame(c, now, "broken connection or protocol")
		p.kill(c, ExitCrash)
		p.replace(now)
	}
}

// detach moves the connection from slot to child. It reports true, and closes the connection, if the child has no
// further use for it: it has left, is leaving, or the pool is closed.
func (p *Pool) detach(s *Slot) (lost bool) {
	c := s.child
	c.holder = nil
	channel := s.Channel
	s.Channel = nil
	if p.children[c.Slot] != c || p.board[c.Slot].State == Draining || p.closed {
		p.closeLater(channel)
		return true
	}
	c.channel = channel
	return false
}

// abandon keeps a child out of service until it has finished what nobody waits for; the request's deadline still holds.
func (p *Pool) abandon(c *child, now time.Time) {
	p.closeLater(c.channel)
	c.channel = nil
	if p.probe == nil {
		p.kill(c, ExitDeadline) // nothing could tell when it is free
		p.replace(now)
		return
	}
	p.startProbe(c, 0)
}
