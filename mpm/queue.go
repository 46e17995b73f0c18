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
	ahead, behind *waiter
	queued        bool
}

// queue is first come, first served; the links are in the waiters so that one whose client has gone leaves in constant time.
type queue struct {
	first, last *waiter
	length      int
}

func (q *queue) push(w *waiter) {
	w.ahead, w.queued = q.last, true
	if q.last == nil {
		q.first = w
	} else {
		q.last.behind = w
	}
	q.last = w
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
	if !w.queued {
		return
	}
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
	w.ahead, w.behind, w.queued = nil, nil, false
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
func (p *Pool) Acquire(ctx context.Context) (*Slot, error) { return p.AcquireNear(ctx, SlotID{}) }

// AcquireNear is [Pool.Acquire], but if the slot that near names is free, it grants that one: the next request of a
// connection goes to the thread that had its last one. It never waits for it.
func (p *Pool) AcquireNear(ctx context.Context, near SlotID) (*Slot, error) {
	s, w, err := p.enter(ctx, near)
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
func (p *Pool) enter(ctx context.Context, near SlotID) (*Slot, *waiter, error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.unlock()
	if p.draining {
		return nil, nil, ErrDraining
	}
	if s := p.take(near); s != nil {
		return s, nil, nil
	}
	now := p.now()
	p.demand(now, p.queue.length+1)
	if p.queue.length >= p.cfg.Queue.Length {
		p.rejected++
		p.warnQueue(now, "queue is full: raise max_request_workers or queue length, or make the application faster")
		return nil, nil, ErrQueueFull
	}
	w := &waiter{since: now, done: make(chan struct{})}
	p.queue.push(w)
	return nil, w, nil
}

// take grants what is free without waiting, or returns nil.
func (p *Pool) take(near SlotID) *Slot {
	if p.event {
		if p.executing >= p.slots {
			return nil
		}
		p.executing++
		return p.newSlot(0)
	}
	t := p.threadNear(near)
	if t == nil {
		c := p.free.first()
		if c == nil {
			return nil
		}
		t = c.nextThread()
	}
	return p.grant(t, p.now(), 0)
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
	p.queue.remove(w)
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

// failWaiters ends every wait with err.
func (p *Pool) failWaiters(err error) {
	for w := p.queue.pop(); w != nil; w = p.queue.pop() {
		w.settle(nil, err)
	}
}
