package mpm

import (
	"context"
	"time"
)

// waiter is one request in the queue. Guarded by Pool.mu, except since and done, which never change.
type waiter struct {
	since time.Time
	done  chan struct{} // closed when slot or err was set

	slot          *Slot
	err           error
	session       *session // nil: it is not limited
	in            *queue   // nil: none
	ahead, behind *waiter
}

// queue is first come, first served; the links are in the waiters so that one whose client has gone leaves in constant time.
type queue struct {
	first, last *waiter
	length      int
}

func (q *queue) push(w *waiter) {
	q.putBehind(q.last, w)
}

// insert puts w before those that came after it.
func (q *queue) insert(w *waiter) {
	ahead := q.last
	for ahead != nil && ahead.since.After(w.since) {
		ahead = ahead.ahead
	}
	q.putBehind(ahead, w)
}

// putBehind puts w behind another one; nil: before all.
func (q *queue) putBehind(ahead, w *waiter) {
	next := &q.first
	if ahead != nil {
		next = &ahead.behind
	}
	w.in, w.ahead, w.behind = q, ahead, *next
	*next = w
	if w.behind == nil {
		q.last = w
	} else {
		w.behind.ahead = w
	}
	q.length++
}

// pop takes the one that has waited longest out, or returns nil.
func (q *queue) pop() *waiter {
	w := q.first
	if w != nil {
		q.remove(w)
	}
	return w
}

func (q *queue) remove(w *waiter) {
	if w.ahead == nil {
		q.first = w.behind
	} else {
		w.ahead.behind = w.behind
	}
	if w.behind == nil {
		q.last = w.ahead
	} else {
		w.behind.ahead = w.ahead
	}
	w.in, w.ahead, w.behind = nil, nil, nil
	q.length--
}

// settle ends the wait of w, granted or not. Called with Pool.mu held.
func (w *waiter) settle(s *Slot, err error) {
	w.slot, w.err = s, err
	close(w.done)
}

// Acquire grants a slot, first come first served, and starts a child when none is free. The caller must call
// [Slot.Release] exactly once.
//
// It fails with [ErrQueueFull] when the queue already holds its length, with [ErrQueueTimeout] after the queue's timeout
// (0: nobody waits), with [ErrDraining] once the pool is being retired, or with context.Cause(ctx): a request whose client
// has gone leaves the queue and never runs. Safe for concurrent use.
func (p *Pool) Acquire(ctx context.Context) (*Slot, error) { return p.AcquireFor(ctx, Claim{}) }

// TryAcquire grants a slot if one is free; nil: none is, or the pool is being retired. It neither waits nor starts a child. Safe for concurrent
// use.
func (p *Pool) TryAcquire() *Slot {
	p.mu.Lock()
	defer p.unlock()
	if p.draining || !p.hasFree() {
		return nil
	}
	return p.take(SlotID{}, 0)
}

// Claim is what is known of who wants a slot. The zero Claim says nothing.
type Claim struct {
	// Near is granted if it is free: the next request of a connection goes to the thread that had its last one. Nobody waits for it.
	Near SlotID

	// Session is the browser's, where the pool limits how many of its requests run at once: the others wait, in their order and as
	// long as in the queue, of whose length they are, and those of other sessions pass them.
	Session string
}

// AcquireFor is [Pool.Acquire] for a known claimant.
func (p *Pool) AcquireFor(ctx context.Context, claim Claim) (*Slot, error) {
	s, w, err := p.enter(ctx, claim)
	if w == nil {
		return s, err
	}
	timeout := time.NewTimer(p.cfg.Queue.Timeout)
	defer timeout.Stop()
	select {
	case <-w.done:
	case <-ctx.Done():
	case <-timeout.C:
	}
	return p.leave(ctx, w)
}

// enter grants a slot at once, or returns a queued waiter.
func (p *Pool) enter(ctx context.Context, claim Claim) (*Slot, *waiter, error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.unlock()
	if p.draining {
		return nil, nil, ErrDraining
	}
	session := p.sessionOf(claim.Session)
	held := p.isFull(session)
	if !held && p.hasFree() {
		s := p.take(claim.Near, 0)
		s.join(session)
		return s, nil, nil
	}
	now := p.now()
	if !held {
		p.demand(now, p.queue.length+1)
	}
	if p.waiting() >= p.cfg.Queue.Length {
		p.rejected++
		p.forgetUnused(session)
		p.warnQueue(now, "queue is full: raise max_request_workers or queue length, or make the application faster")
		return nil, nil, ErrQueueFull
	}
	w := &waiter{since: now, done: make(chan struct{}), session: session}
	p.line(w, held)
	return nil, w, nil
}

// line has w wait: held for its own session, else in the pool's queue.
func (p *Pool) line(w *waiter, held bool) {
	if held {
		p.held++
		w.session.waiting.push(w)
		return
	}
	if w.session != nil {
		w.session.inside++
	}
	p.queue.push(w)
}

// waiting is how many requests wait, for whatever.
func (p *Pool) waiting() int { return p.queue.length + p.held }

// take grants something free to one who has waited so long. There must be something free.
func (p *Pool) take(near SlotID, wait time.Duration) *Slot {
	if p.event {
		p.executing++
		return p.newSlot(wait)
	}
	t := p.threadNear(near)
	if t == nil {
		t = p.free.first().nextThread()
	}
	return p.grant(t, p.now(), wait)
}

// threadNear returns the thread that near names, or nil if it is not free or belonged to a child that has left.
func (p *Pool) threadNear(near SlotID) *thread {
	if near == (SlotID{}) || near.place < 0 || near.place >= len(p.children) {
		return nil
	}
	c := p.children[near.place]
	if c == nil || c.PID != near.pid || c.shelf == notShelved || near.thread >= len(c.threads) || c.threads[near.thread].busy {
		return nil
	}
	return &c.threads[near.thread]
}

// leave ends the wait of w, whatever woke it: more than one thing may have happened meanwhile.
func (p *Pool) leave(ctx context.Context, w *waiter) (*Slot, error) {
	p.mu.Lock()
	defer p.unlock()
	p.step(w)
	switch {
	case w.err != nil:
		return nil, w.err
	case ctx.Err() != nil:
		p.abandoned++
		if w.slot != nil {
			p.giveBack(w.slot)
		}
		return nil, context.Cause(ctx)
	case w.slot != nil:
		return w.slot, nil
	default:
		now := p.now()
		p.timedOut++
		p.waits.add(now.Sub(w.since))
		p.warnQueue(now, "request waited too long: raise max_request_workers or queue timeout, or make the application faster")
		return nil, ErrQueueTimeout
	}
}

// step takes w out of the line that it stands in, if it still does.
func (p *Pool) step(w *waiter) {
	switch q := w.in; {
	case q == nil:
	case q == &p.queue:
		q.remove(w)
		p.leaveSession(w.session, p.now())
	default:
		q.remove(w)
		p.held--
		p.forgetUnused(w.session)
	}
}

// failWaiters ends every wait with err.
func (p *Pool) failWaiters(err error) {
	lines := []*queue{&p.queue}
	for _, s := range p.sessions {
		lines = append(lines, &s.waiting)
	}
	for _, line := range lines {
		for w := line.pop(); w != nil; w = line.pop() {
			w.settle(nil, err)
		}
	}
	p.held = 0
}
