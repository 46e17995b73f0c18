package mpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"gateway/internal/ctl"
)

// child is one process. Guarded by Pool.mu, except Child, which never changes.
type child struct {
	Child
	born      time.Time
	ready     bool            // was
	said      said            // before it was ready
	unready   error           // why its first probe failed, for which it is killed
	quota     uint64          // requests it serves; 0: no limit
	maxMemory int64           // bytes; 0: no limit
	measured  time.Time       // when its memory was read
	read      uint64          // how many requests it had finished then
	leaving   ExitReason      // empty: it serves
	rude      bool            // it is killed when it has finished its requests, not asked to leave
	told      bool            // the starter was asked for its end
	threads   []thread        // in a prefork pool one
	idle      []*thread       // those without a request; the one that was busy last is at the end
	alive     context.Context // of its probes; nil: there was none
	end       context.CancelFunc

	shelf        int    // notShelved: takes no request
	above, below *child // on its shelf
}

// thread is what serves one request at a time in a child: a connection to it. Guarded by Pool.mu.
type thread struct {
	child   *child    // immutable
	number  int       // immutable
	at      int       // its place in child.idle
	busy    bool      // has a request, or is not known to have finished an abandoned one
	session *session  // of that request; nil: it is not limited
	channel io.Closer // the kept connection, while it is idle
	timer   *time.Timer
	armed   bool      // the timer runs
	fires   time.Time // when it does, at the latest

	// Of the request.
	holder      *Slot // nil: none, or it was abandoned
	granted     time.Time
	deadline    time.Time
	method, uri string
	ended       error // why it lost its child, before its Release
	onEnd       func(cause error)
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
	now := p.now()
	adopted := p.board[slot].State == Empty
	if adopted {
		p.set(slot, Starting, now)
	}
	c := p.newChild(Child{Slot: slot, PID: pid, Socket: socket}, now.Add(-age))
	switch {
	case p.draining:
		p.retire(c, ExitShutdown, now)
	case p.probe == nil:
		p.becameReady(c, now)
	case adopted: // it may have to finish a request of the earlier front first
		p.probeStarted(c, max(p.startTimeout, p.cfg.RequestTimeout))
	default:
		p.probeStarted(c, p.startTimeout)
	}
}

// newChild enters a child in the books.
func (p *Pool) newChild(name Child, born time.Time) *child {
	c := &child{
		Child: name, born: born, shelf: notShelved, said: p.claimWords(name.PID),
		quota:     uint64(jitter(max(0, int64(p.cfg.MaxRequestsPerChild)))),
		maxMemory: jitter(max(0, p.cfg.MaxChildMemory)),
		threads:   make([]thread, p.settings.Threads),
		idle:      make([]*thread, p.settings.Threads),
	}
	for i := range c.threads {
		// The first thread is taken first.
		at := len(c.threads) - 1 - i
		c.threads[i] = thread{child: c, number: i, at: at}
		c.idle[at] = &c.threads[i]
	}
	if age := p.cfg.MaxChildAge; age > 0 {
		p.board[c.Slot].Expires = born.Add(time.Duration(jitter(int64(age))))
	}
	p.children[c.Slot] = c
	p.byPID[c.PID] = c
	return c
}

// jitter lowers a limit of a child by up to a tenth, by chance, so that children that started together don't leave together.
func jitter(limit int64) int64 { return limit - rand.Int64N(limit/10+1) }

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
	now := p.now()
	p.set(slot, Empty, now)
	if p.stray.pid != 0 {
		p.said, p.stray = p.stray, said{}
	}
	p.charge(now, false, "child can't be started", reason)
	p.signalGone()
}

// Exited reports that a child was reaped; oom says that the kernel killed it for want of memory. A report about a child that
// is not the one in this place is stale and ignored.
func (p *Pool) Exited(slot, pid, waitStatus int, oom bool) {
	p.mu.Lock()
	defer p.unlock()
	if slot < 0 || slot >= len(p.children) || p.children[slot] == nil || p.children[slot].PID != pid {
		return
	}
	c, now, status := p.children[slot], p.now(), syscall.WaitStatus(waitStatus)
	atOnce := true
	if !c.told || c.unready != nil {
		atOnce = p.lost(c, now, status, oom)
	}
	p.exits[c.leaving]++
	p.bury(c, now, &ChildExit{PID: pid, Status: status, Reason: c.leaving})
	if atOnce && c.ready { // one that failed before it was ready waits for the tick
		p.replace(now)
	}
	p.signalGone()
}

// lost notes why a child ended that was to serve, and reports whether it may be replaced at once.
func (p *Pool) lost(c *child, now time.Time, status syscall.WaitStatus, oom bool) (atOnce bool) {
	c.leaving = ExitCrash
	reason := lossText(status, c.unready)
	if oom {
		c.leaving, reason = ExitOOM, reason+", out of memory"
	}
	if !c.rude && status != ctl.Orphaned { // or it was blamed already, or another one for it
		p.blame(c, now, reason)
	}
	p.memory, atOnce = p.memory.Lose(p.settings)
	return atOnce
}

// lossText says why a child is no more: how it ended, and how its first probe failed. One whose probe failed was killed after that, so
// the signals of that tell nothing; nor does the probe of one that ended first.
func lossText(status syscall.WaitStatus, unready error) string {
	switch {
	case unready == nil:
		return exitText(status)
	case status.Signaled() && (status.Signal() == syscall.SIGTERM || status.Signal() == syscall.SIGKILL):
		return unready.Error()
	case hungUp(unready) && (status.Exited() || status.Signaled()):
		return exitText(status)
	default:
		return fmt.Sprintf("%s (%v)", exitText(status), unready)
	}
}

// bury empties the place of a child that has ended, and tells those whose requests it had.
func (p *Pool) bury(c *child, now time.Time, exit *ChildExit) {
	p.free.take(c)
	p.disarm(c)
	p.set(c.Slot, Empty, now)
	p.children[c.Slot] = nil
	delete(p.byPID, c.PID)
	p.closeChannels(c)
	for i := range c.threads {
		t := &c.threads[i]
		p.lose(t, exit)
		p.leaveSession(t.session, now)
		t.session = nil
	}
}

// lose tells the holder of a thread, if there is one, that its child is lost. What was said first stays.
func (p *Pool) lose(t *thread, cause error) {
	if t.holder == nil || t.ended != nil {
		return
	}
	t.ended = cause
	if f := t.onEnd; f != nil {
		p.after(func() { f(cause) })
	}
}

// blame puts a child's failure into the score, before the child is told to leave.
func (p *Pool) blame(c *child, now time.Time, reason string) {
	p.said = c.said
	what := func(when string) string { return fmt.Sprintf("child %d: %s: %s", c.PID, when, reason) }
	switch {
	case !c.ready:
		p.charge(now, false, "child failed", what("before ready"))
	case p.board[c.Slot].Busy > 0:
		// It costs that request, and no points: or whoever finds a request that crashes could close the pool for everybody.
		// Its replacement is bounded by the requests.
		p.warnFailure(now, "child failed", what("during a request"))
	default:
		p.charge(now, true, "child failed", what("between requests"))
	}
}

// warnFailure logs a failure, and remembers it as the last one.
func (p *Pool) warnFailure(now time.Time, msg, reason string) {
	p.trouble = reason
	if held, ok := p.failureLimit.Pass(now, time.Second); ok {
		p.after(func() { p.log.Warnw(msg, "pool", p.cfg.Name, "reason", reason, "not_logged", held) })
	}
}

// charge puts a failure into the score and logs it, and when the pool gets into quarantine that.
func (p *Pool) charge(now time.Time, wasReady bool, msg, reason string) {
	p.warnFailure(now, msg, reason)
	p.stillborn = p.stillborn || !wasReady
	p.memory.Score = p.memory.Score.Died(now, wasReady)
	if p.quarantined || !p.memory.Score.Quarantined(now) {
		return
	}
	p.quarantined = true
	nextTry := p.memory.Score.NextTry(now)
	time.AfterFunc(lastWords, func() {
		p.mu.Lock()
		said := p.words()
		p.mu.Unlock()
		p.log.Errorw("pool is in quarantine, its children keep failing: repair its command, its configuration or the application",
			"pool", p.cfg.Name, "reason", reason, "next_try", nextTry, "said", said)
	})
}

// lastWords is how long what a child has said may take to come: another way than the news of its end.
const lastWords = 100 * time.Millisecond

// hungUp reports whether a probe failed for the end of the connection, or of the socket, which goes when the child was reaped.
func hungUp(err error) bool {
	ends := []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE, syscall.ENOENT}
	return slices.ContainsFunc(ends, func(e error) bool { return errors.Is(err, e) })
}

// startProbe asks in a goroutine whether c is idle, and gives the answer to probed. It ends with the probe, at the latest after
// timeout (0: the request's deadline), with the child, or with Close.
func (p *Pool) startProbe(c *child, timeout time.Duration, probed func(error)) {
	if c.alive == nil {
		c.alive, c.end = context.WithCancel(p.alive)
	}
	ctx, cancel := probeContext(c.alive, timeout)
	p.workers.Go(func() {
		defer cancel()
		probed(p.probe(ctx, c.Child))
	})
}

func probeContext(parent context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout > 0 {
		return context.WithTimeout(parent, timeout)
	}
	return context.WithCancel(parent)
}

// probeStarted finds out when a child is ready.
func (p *Pool) probeStarted(c *child, timeout time.Duration) {
	p.startProbe(c, timeout, func(err error) { p.started(c, err) })
}

// started takes the answer of the first probe of a child, unless it has lost its place meanwhile.
func (p *Pool) started(c *child, err error) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed || p.children[c.Slot] != c || c.leaving != "" {
		return
	}
	now := p.now()
	if err != nil {
		c.unready = err // its end, which tells more if it came first, is blamed
		p.kill(c, ExitCrash, now)
		return
	}
	p.becameReady(c, now)
}

// becameReady puts a child into service that is there and idle.
func (p *Pool) becameReady(c *child, now time.Time) {
	c.ready, c.said, p.stillborn = true, said{pid: c.PID}, false
	p.memory.Score = p.memory.Score.Ready(now)
	if !p.memory.Score.Quarantined(now) {
		p.trouble, p.said, p.stray = "", said{}, said{}
	}
	p.set(c.Slot, Idle, now)
	p.shelve(c)
	p.serve(now)
	p.demand(now, p.queue.length)
}

// serve gives what is free to those who wait.
func (p *Pool) serve(now time.Time) {
	for p.queue.length > 0 && p.hasFree() {
		w := p.queue.pop()
		s := p.take(SlotID{}, now.Sub(w.since))
		s.belong(w.session)
		w.settle(s, nil)
	}
}

// hasFree reports whether a request could have a slot now.
func (p *Pool) hasFree() bool {
	if p.event {
		return p.executing < p.slots
	}
	return p.free.first() != nil
}

// shelve offers the free threads of c, if it has some and may take requests. It must not be on a shelf.
func (p *Pool) shelve(c *child) {
	if c.leaving == "" && len(c.idle) > 0 {
		p.free.put(c, p.board[c.Slot].Busy)
	}
}

// spent reports whether the requests that c has finished and those that it has are all that it is to serve.
func (c *child) spent(cell *Cell) bool {
	return c.quota > 0 && cell.Requests+uint64(cell.Busy) >= c.quota
}

// nextThread is the idle thread that is to take the next request: the one that was busy last.
func (c *child) nextThread() *thread { return c.idle[len(c.idle)-1] }

// occupy takes an idle thread out of the idle ones.
func (p *Pool) occupy(t *thread, now time.Time) {
	c := t.child
	p.free.take(c)
	top := c.nextThread()
	c.idle[t.at], top.at = top, t.at
	c.idle = c.idle[:len(c.idle)-1]
	t.busy = true
	cell := &p.board[c.Slot]
	cell.Busy++
	if cell.State == Idle {
		p.set(c.Slot, Busy, now)
	}
	p.shelve(c)
}

// vacate puts a thread that has nothing to do back to the idle ones.
func (p *Pool) vacate(t *thread, now time.Time) {
	c := t.child
	p.free.take(c)
	t.busy = false
	t.at = len(c.idle)
	c.idle = append(c.idle, t)
	cell := &p.board[c.Slot]
	cell.Busy--
	if cell.State == Busy && cell.Busy == 0 {
		p.set(c.Slot, Idle, now)
	}
	session := t.session
	t.session = nil
	p.leaveSession(session, now)
}

// finish puts a thread that has nothing to do back into service, or lets its child leave.
func (p *Pool) finish(t *thread, now time.Time) {
	c := t.child
	p.vacate(t, now)
	switch {
	case c.leaving != "":
		p.farewell(c)
	case c.spent(&p.board[c.Slot]):
		p.recycle(c, ExitMaxRequests, now)
	default:
		p.shelve(c)
		p.serve(now)
	}
}

// expired kills the child of t if its request has run too long.
func (p *Pool) expired(t *thread) {
	p.mu.Lock()
	defer p.unlock()
	t.armed = false
	c := t.child
	if p.closed || p.children[c.Slot] != c || !t.busy || c.told || t.deadline.IsZero() {
		return
	}
	now := p.now()
	if left := t.deadline.Sub(now); left > 0 {
		t.arm(p, left)
		return
	}
	if p.queue.length < p.cfg.OnlyIfWaiting {
		t.arm(p, maintenance)
		return
	}
	method, uri, limit := t.method, t.uri, t.deadline.Sub(t.granted)
	p.after(func() {
		p.log.Warnw("request ran too long, its child is killed: raise request_timeout, or make the script faster",
			"pool", p.cfg.Name, "pid", c.PID, "request_timeout", limit, "method", method, "uri", uri)
	})
	p.lose(t, ErrDeadline)
	p.kill(c, ExitDeadline, now)
	p.replace(now)
}

// arm lets the timer of t run for d, until the deadline, unless it fires before. It isn't stopped when a request ends: expired looks at the deadline, so that
// a request costs no timer operation.
func (t *thread) arm(p *Pool, d time.Duration) {
	switch {
	case t.armed && !t.fires.After(t.deadline):
		return // it looks at the deadline then
	case t.timer == nil:
		t.timer = time.AfterFunc(d, func() { p.expired(t) })
	default:
		t.timer.Reset(d)
	}
	t.armed, t.fires = true, t.deadline
}

// disarm stops what runs on behalf of c.
func (p *Pool) disarm(c *child) {
	for i := range c.threads {
		if timer := c.threads[i].timer; timer != nil {
			timer.Stop()
		}
	}
	if c.end != nil {
		p.after(c.end)
	}
}

// closeChannels closes the kept connections of c; those of busy threads are with their holders.
func (p *Pool) closeChannels(c *child) {
	for i := range c.threads {
		p.closeLater(c.threads[i].channel)
		c.threads[i].channel = nil
	}
}

// dismiss takes c out of service; its kept connections are closed before anything that is put in todo later.
func (p *Pool) dismiss(c *child, why ExitReason, now time.Time) {
	p.free.take(c)
	c.leaving = why
	p.set(c.Slot, Draining, now)
	p.closeChannels(c)
}

// retire lets c leave when it has finished its requests.
func (p *Pool) retire(c *child, why ExitReason, now time.Time) {
	p.dismiss(c, why, now)
	p.farewell(c)
}

// recycle is retire, but the replacement, if one is needed and has a place, is asked for before c leaves.
func (p *Pool) recycle(c *child, why ExitReason, now time.Time) {
	p.dismiss(c, why, now)
	p.replace(now)
	p.farewell(c)
}

// farewell tells a dismissed child to go, once it has no request. One that blocks in reading a connection sees SIGTERM only
// after that was closed, hence dismiss and release close first.
func (p *Pool) farewell(c *child) {
	if c.told || p.board[c.Slot].Busy > 0 {
		return
	}
	c.told = true
	p.disarm(c)
	end := p.starter.Retire
	if c.rude {
		end = p.starter.Kill
	}
	p.after(func() { end(p.cfg.Name, c.Slot, c.PID) })
}

// kill ends c whatever it does.
func (p *Pool) kill(c *child, why ExitReason, now time.Time) {
	if c.told {
		return
	}
	c.told = true
	p.dismiss(c, why, now)
	p.disarm(c)
	p.after(func() { p.starter.Kill(p.cfg.Name, c.Slot, c.PID) })
}
