package mpm

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"time"
)

// child is one process. Guarded by Pool.mu, except Child, which never changes.
type child struct {
	Child
	born     time.Time
	ready    bool       // was
	quota    uint64     // requests it serves; 0: no limit
	leaving  ExitReason // empty: nobody asked it to leave
	holder   *Slot      // nil: idle, or busy with an abandoned request
	channel  io.Closer  // the kept connection, while it is idle
	deadline time.Time  // of its request
	timer    *time.Timer
	armed    bool // the timer runs, perhaps for an earlier deadline

	stopProbe    context.CancelFunc // nil: no probe runs
	above, below *child             // in the idle stack
}

// Started reports a child that runs: one that Start asked for, or one that an earlier front has left.
func (p *Pool) Started(slot, pid int, socket string, age time.Duration) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed {
		return
	}
	if slot < 0 || slot >= len(p.children) || p.children[slot] != nil {
		p.refuse(slot, pid)
		return
	}
	now := time.Now()
	adopted := p.board[slot].State == Empty
	if adopted {
		p.set(slot, Starting, now)
	}
	c := &child{Child: Child{Slot: slot, PID: pid, Socket: socket}, born: now.Add(-age), quota: quota(p.cfg.MaxRequestsPerChild)}
	p.children[slot] = c
	switch {
	case p.draining:
		p.retire(c, ExitShutdown)
	case p.probe == nil:
		p.becameReady(c, now)
	case adopted: // it may have to finish a request of the earlier front first
		p.startProbe(c, max(p.startTimeout, p.cfg.RequestTimeout))
	default:
		p.startProbe(c, p.startTimeout)
	}
}

// refuse sends a child away that has no place in this pool, as after the pool was made smaller.
func (p *Pool) refuse(slot, pid int) {
	if slot >= 0 && slot < len(p.children) && p.children[slot].PID == pid {
		return // known already
	}
	p.after(func() {
		p.log.Warnw("child has no place in its pool and is sent away", "pool", p.cfg.Name, "slot", slot, "pid", pid)
		if p.starter != nil {
			p.starter.Retire(p.cfg.Name, slot, pid)
		}
	})
}

// StartFailed reports that the child asked for could not be started. It is tried again at the next tick.
func (p *Pool) StartFailed(slot int, reason string) {
	p.mu.Lock()
	defer p.unlock()
	if slot < 0 || slot >= len(p.board) || p.board[slot].State != Starting || p.children[slot] != nil {
		return
	}
	now := time.Now()
	p.set(slot, Empty, now)
	p.charge(now, false, "child can't be started", reason)
	p.signalGone()
}

// Exited reports that a child was reaped. A report about a child that is not the one in this place is stale and ignored.
func (p *Pool) Exited(slot, pid, waitStatus int) {
	p.mu.Lock()
	defer p.unlock()
	if slot < 0 || slot >= len(p.children) || p.children[slot] == nil || p.children[slot].PID != pid {
		return
	}
	c, now, status := p.children[slot], time.Now(), syscall.WaitStatus(waitStatus)
	if c.leaving == "" {
		c.leaving = ExitCrash
		p.blame(c, now, exitText(status))
	}
	p.exits[c.leaving]++
	p.bury(c, now)
	if c.holder != nil {
		c.holder.end(&ChildExit{PID: pid, Status: status, Reason: c.leaving})
	}
	if c.ready || c.leaving != ExitCrash { // one that failed before it was ready waits for the tick
		p.replace(now)
	}
	p.signalGone()
}

// bury empties the place of a child that has ended.
func (p *Pool) bury(c *child, now time.Time) {
	p.disarm(c)
	p.set(c.Slot, Empty, now)
	p.children[c.Slot] = nil
	p.closeLater(c.channel)
	c.channel = nil
}

// blame puts a child's failure into the score, before the child is told to leave.
func (p *Pool) blame(c *child, now time.Time, reason string) {
	when := "between requests"
	switch {
	case !c.ready:
		when = "before ready"
	case p.board[c.Slot].State == Busy:
		when = "during a request"
	}
	p.charge(now, c.ready, "child failed", fmt.Sprintf("child %d: %s: %s", c.PID, when, reason))
}

// charge puts a failure into the score and logs it, and when the pool gets into quarantine that.
func (p *Pool) charge(now time.Time, wasReady bool, msg, reason string) {
	p.trouble = reason
	p.memory.Score = p.memory.Score.Died(now, wasReady)
	if held, ok := p.failureLimit.pass(now, time.Second); ok {
		p.after(func() { p.log.Warnw(msg, "pool", p.cfg.Name, "reason", reason, "not_logged", held) })
	}
	if p.quarantined || !p.memory.Score.Quarantined(now) {
		return
	}
	p.quarantined = true
	nextTry := p.memory.Score.NextTry(now)
	p.after(func() {
		p.log.Errorw("pool is in quarantine, its children keep failing: repair its command, its configuration or the application",
			"pool", p.cfg.Name, "reason", reason, "next_try", nextTry)
	})
}

// startProbe asks in a goroutine whether c is idle; it ends with the probe, at the latest after timeout (0: the request's
// deadline), with the child, or with Close.
func (p *Pool) startProbe(c *child, timeout time.Duration) {
	ctx, cancel := p.probeContext(timeout)
	c.stopProbe = cancel
	p.workers.Go(func() {
		defer cancel()
		p.probed(c, p.probe(ctx, c.Child))
	})
}

func (p *Pool) probeContext(timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout > 0 {
		return context.WithTimeout(p.alive, timeout)
	}
	return context.WithCancel(p.alive)
}

// probed takes the answer of a probe, unless the child has lost its place meanwhile.
func (p *Pool) probed(c *child, err error) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed || p.children[c.Slot] != c || c.leaving != "" {
		return
	}
	c.stopProbe = nil
	now := time.Now()
	switch {
	case err != nil:
		p.blame(c, now, err.Error())
		p.kill(c, ExitCrash)
		if c.ready {
			p.replace(now)
		}
	case c.ready:
		p.finish(c, now)
	default:
		p.becameReady(c, now)
	}
}

func (p *Pool) becameReady(c *child, now time.Time) {
	c.ready = true
	p.memory.Score = p.memory.Score.Ready(now)
	p.finish(c, now)
	p.demand(now, p.queue.length)
}

// finish puts a child that has nothing to do back into service, or lets it leave.
func (p *Pool) finish(c *child, now time.Time) {
	switch {
	case p.draining:
		p.retire(c, ExitShutdown)
	case c.quota > 0 && p.board[c.Slot].Requests >= c.quota:
		p.recycle(c, ExitMaxRequests, now)
	default:
		p.offer(c, now)
	}
}

// offer gives a free child to who waits longest, or puts it on top of the idle stack.
func (p *Pool) offer(c *child, now time.Time) {
	if w := p.queue.pop(); w != nil {
		w.settle(p.grant(c, now, now.Sub(w.since)), nil)
		return
	}
	p.set(c.Slot, Idle, now)
	c.below = p.idle
	if p.idle != nil {
		p.idle.above = c
	}
	p.idle = c
}

// grant makes c busy for a new holder.
func (p *Pool) grant(c *child, now time.Time, wait time.Duration) *Slot {
	p.set(c.Slot, Busy, now)
	s := &Slot{Child: c.Child, Channel: c.channel, QueueWait: wait, pool: p, child: c, granted: now}
	c.channel, c.holder = nil, s
	if p.cfg.RequestTimeout > 0 {
		c.deadline = now.Add(p.cfg.RequestTimeout)
		p.arm(c, p.cfg.RequestTimeout)
	}
	return s
}

// arm lets the timer of c run, unless it does. It isn't stopped when a request ends: expired looks at the deadline, so that
// a request costs no timer operation.
func (p *Pool) arm(c *child, d time.Duration) {
	switch {
	case c.armed:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(d, func() { p.expired(c) })
	default:
		c.timer.Reset(d)
	}
	c.armed = true
}

// disarm stops what runs on behalf of c.
func (p *Pool) disarm(c *child) {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.stopProbe != nil {
		p.after(c.stopProbe)
		c.stopProbe = nil
	}
}

// expired kills c if its request has run too long.
func (p *Pool) expired(c *child) {
	p.mu.Lock()
	defer p.unlock()
	c.armed = false
	if p.closed || p.children[c.Slot] != c || p.board[c.Slot].State != Busy {
		return
	}
	now := time.Now()
	if left := c.deadline.Sub(now); left > 0 {
		p.arm(c, left)
		return
	}
	var method, uri string
	if h := c.holder; h != nil {
		method, uri = h.method, h.uri
		h.end(ErrDeadline)
	}
	p.after(func() {
		p.log.Warnw("request ran too long, its child is killed: raise request_timeout, or make the script faster",
			"pool", p.cfg.Name, "pid", c.PID, "request_timeout", p.cfg.RequestTimeout, "method", method, "uri", uri)
	})
	p.kill(c, ExitDeadline)
	p.replace(now)
}

// dismiss takes c out of service; its kept connection is closed before anything that is put in todo later.
func (p *Pool) dismiss(c *child, why ExitReason) {
	c.leaving = why
	p.disarm(c)
	p.set(c.Slot, Draining, time.Now())
	p.closeLater(c.channel)
	c.channel = nil
}

// retire lets c leave. A child that blocks in reading its connection sees SIGTERM only after the connection was closed, hence the order.
func (p *Pool) retire(c *child, why ExitReason) {
	p.dismiss(c, why)
	p.after(func() { p.starter.Retire(p.cfg.Name, c.Slot, c.PID) })
}

// recycle lets c leave after its replacement, if one is needed and has a place, was asked for.
func (p *Pool) recycle(c *child, why ExitReason, now time.Time) {
	p.dismiss(c, why)
	p.replace(now)
	p.after(func() { p.starter.Retire(p.cfg.Name, c.Slot, c.PID) })
}

// kill ends c whatever it does.
func (p *Pool) kill(c *child, why ExitReason) {
	p.dismiss(c, why)
	p.after(func() { p.starter.Kill(p.cfg.Name, c.Slot, c.PID) })
}

func (p *Pool) unstack(c *child) {
	if c.above == nil {
		p.idle = c.below
	} else {
		c.above.below = c.below
	}
	if c.below != nil {
		c.below.above = c.above
	}
	c.above, c.below = nil, nil
}

// quota is how many requests a child serves: up to a tenth less than maxRequests, by chance, so that children that started
// together don't leave together. 0 is no limit.
func quota(maxRequests int) uint64 {
	if maxRequests <= 0 {
		return 0
	}
	return uint64(maxRequests - rand.IntN(maxRequests/10+1))
}
