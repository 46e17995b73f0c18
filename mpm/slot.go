package mpm

import (
	"io"
	"time"
)

// Child names a child process of a pool.
type Child struct {
	Slot   int    // its place on the board
	PID    int    // 0 in an event pool, which has no children
	Socket string // path of its private listening socket
}

// SlotID names a slot of a pool during the life of its child. The zero SlotID names none.
type SlotID struct{ place, pid, thread int }

// Outcome is how a request left its slot.
type Outcome uint8

// The outcomes. What "ends its child" says: the one child of a prefork slot is killed and replaced. A child of several threads
// has other requests: it takes nothing new, finishes those, and is killed then.
const (
	Done      Outcome = iota // the child has finished its response and can take the next request
	Broken                   // the connection or the protocol failed: this ends its child
	NotSent                  // the child read nothing: the request will be tried on another slot and isn't counted here. Ends its child, or with several threads only the connection
	Abandoned                // the program may still be busy, because its client went away or it goes on after its response: the thread serves again once the child's probe says that it has finished
)

// Slot is the right to have one request in flight. It belongs to whoever got it from [Pool.Acquire], until Release.
type Slot struct {
	Child     Child
	Channel   io.Closer     // the connection to the thread, kept from request to request by its holder; nil: none yet. The pool closes it with the child
	QueueWait time.Duration // how long Acquire waited
	Failed    bool          // the request got no proper response, though its child is well: it counts as failed

	pool     *Pool    // immutable
	thread   *thread  // immutable; nil in an event pool. What it knows of the request is this slot's until Release
	session  *session // of an executor, whose thread can't have it; guarded by pool.mu
	released bool     // likewise
}

// Thread is the number of the slot among those of its child.
func (s *Slot) Thread() int {
	if s.thread == nil {
		return 0
	}
	return s.thread.number
}

// ID names the slot for [Claim]. It is zero in an event pool.
func (s *Slot) ID() SlotID {
	if s.thread == nil {
		return SlotID{}
	}
	return SlotID{s.Child.Slot, s.Child.PID, s.thread.number}
}

// OnEnd has f called when the work with the child must end before its Release: with [ErrDeadline] when the pool's
// request_timeout has passed, and with a [*ChildExit] as soon as the child was reaped: the connection may outlive it in the
// hands of a grandchild, so its end of file is not to be waited for. f is called once, perhaps before OnEnd returns and perhaps
// just after Release; it must not block. To be called at most once. The work in an event pool has no such end.
func (s *Slot) OnEnd(f func(cause error)) {
	if s.thread == nil {
		return
	}
	s.pool.mu.Lock()
	defer s.pool.unlock()
	t := s.thread
	if t.holder != s {
		return
	}
	t.onEnd = f
	if cause := t.ended; cause != nil {
		s.pool.after(func() { f(cause) })
	}
}

// maxURIBytes is how much of a target the status shows.
const maxURIBytes = 256

// Describe says what the slot is used for, for the status and the log.
func (s *Slot) Describe(method, uri string) {
	t := s.thread
	if t == nil {
		return
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if t.holder == s {
		t.method, t.uri = method, uri[:min(len(uri), maxURIBytes)]
	}
}

// join counts a slot that was just granted in with a session. Called with Pool.mu held.
func (s *Slot) join(session *session) {
	if session != nil {
		session.inside++
	}
	s.belong(session)
}

// belong notes whose slot it is; the session has counted it in.
func (s *Slot) belong(session *session) {
	if s.thread != nil {
		s.thread.session = session
		return
	}
	s.session = session
}

// freshSlots is how many slots are made at once: 4 KiB of them.
const freshSlots = 46

func (p *Pool) newSlot(wait time.Duration) *Slot {
	if len(p.fresh) == 0 {
		p.fresh = make([]Slot, freshSlots)
	}
	s := &p.fresh[0]
	p.fresh = p.fresh[1:]
	s.pool, s.QueueWait = p, wait
	p.waits.add(wait)
	return s
}

// grant gives a free thread to a new holder.
func (p *Pool) grant(t *thread, now time.Time, wait time.Duration) *Slot {
	p.occupy(t, now)
	c, s := t.child, p.newSlot(wait)
	s.Child, s.Channel, s.thread = c.Child, t.channel, t
	t.channel, t.holder, t.granted = nil, s, now
	if len(c.idle) > 0 && c.spent(&p.board[c.Slot]) {
		p.recycle(c, ExitMaxRequests, now) // this was its last one, and its idle threads are of no use
	}
	if timeout := p.cfg.RequestTimeout; timeout > 0 {
		t.deadline = now.Add(timeout)
		t.arm(p, timeout)
	}
	return s
}

// forget clears what a thread knew of its request, whose deadline stays.
func (t *thread) forget() {
	t.holder, t.ended, t.onEnd, t.method, t.uri = nil, nil, nil, "", ""
}

// Unlimited lifts the deadline of the request: it has become a conversation or a stream, whose length says nothing of its child.
// Nothing of the pool ends it any more, but the end of the child, until it is abandoned: at a shutdown its caller must do that when grace_period is
// over.
func (s *Slot) Unlimited() {
	t := s.thread
	if t == nil {
		return
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if t.holder == s {
		t.deadline = time.Time{}
	}
}

// Limit gives the request another time from now on than the pool's request_timeout.
func (s *Slot) Limit(d time.Duration) {
	t := s.thread
	if t == nil {
		return
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if t.holder != s {
		return
	}
	t.deadline = s.pool.now().Add(d)
	t.arm(s.pool, d)
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
		if o == Broken || s.Failed || s.thread != nil && s.thread.ended != nil {
			p.failed++
		}
	}
	if s.thread == nil {
		p.releaseExecutor(s)
		return
	}
	p.releaseThread(s, o)
}

// giveBack takes back a slot whose request never ran.
func (p *Pool) giveBack(s *Slot) {
	s.released = true
	if s.thread == nil {
		p.releaseExecutor(s)
		return
	}
	if p.detach(s) {
		p.finish(s.thread, p.now())
	}
}

// releaseExecutor hands an executor of an event pool to who waits longest.
func (p *Pool) releaseExecutor(s *Slot) {
	p.executing--
	if session := s.session; session != nil {
		s.session = nil
		p.leaveSession(session, p.now())
	}
	if p.queue.length > 0 {
		p.serve(p.now())
	}
	p.signalGone()
}

func (p *Pool) releaseThread(s *Slot, o Outcome) {
	if !p.detach(s) {
		return
	}
	t, now := s.thread, p.now()
	requests := &p.board[t.child.Slot].Requests
	if o != NotSent {
		*requests++
	}
	switch o {
	case Done:
		if p.memory.Score.points > 0 {
			p.memory.Score = p.memory.Score.Served(now)
		}
		p.finish(t, now)
		p.measureLater(t.child, now)
	case Abandoned:
		p.reset(t, now)
	case NotSent:
		if p.settings.Threads > 1 {
			p.reset(t, now)
			return
		}
		p.breakOff(t, now)
	case Broken:
		p.breakOff(t, now)
	}
}

// detach moves the connection from slot to thread. It reports false, and closes the connection, if nothing is left to be done:
// the child has left, is being killed, or the pool is closed.
func (p *Pool) detach(s *Slot) (serves bool) {
	t := s.thread
	c, channel := t.child, s.Channel
	s.Channel = nil
	t.forget()
	if p.children[c.Slot] != c || c.told || p.closed {
		p.closeLater(channel)
		return false
	}
	if c.leaving != "" {
		p.closeLater(channel)
		return true
	}
	t.channel = channel
	return true
}

// reset closes the connection of a thread and keeps it out of service until it has finished what nobody waits for; the
// request's deadline still holds, or an unlimited one gets one now. With several threads the probe may be answered by another one that is free; then the child
// has one thread less than connections until this one has finished.
func (p *Pool) reset(t *thread, now time.Time) {
	p.closeLater(t.channel)
	t.channel = nil
	if p.probe == nil {
		p.kill(t.child, ExitDeadline, now) // nothing could tell when it is free
		p.replace(now)
		return
	}
	if timeout := p.cfg.RequestTimeout; timeout > 0 && t.deadline.IsZero() {
		t.deadline = now.Add(timeout)
		t.arm(p, timeout)
	}
	p.startProbe(t.child, 0, func(err error) { p.resetDone(t, err) })
}

// resetDone takes the answer of a probe, unless the child is lost meanwhile.
func (p *Pool) resetDone(t *thread, err error) {
	p.mu.Lock()
	defer p.unlock()
	c := t.child
	if p.closed || p.children[c.Slot] != c || c.told {
		return
	}
	now := p.now()
	if err == nil {
		p.finish(t, now)
		p.measureLater(c, now)
		return
	}
	p.blame(c, now, err.Error())
	p.kill(c, ExitCrash, now)
	p.replace(now)
}

// breakOff ends a child that failed a request, once it has finished those of its other threads.
func (p *Pool) breakOff(t *thread, now time.Time) {
	c := t.child
	p.closeLater(t.channel)
	t.channel = nil
	c.rude = true
	if c.leaving != "" {
		p.vacate(t, now)
		p.farewell(c)
		return
	}
	p.blame(c, now, "broken connection or protocol")
	p.vacate(t, now)
	p.retire(c, ExitCrash, now)
	p.replace(now)
}
