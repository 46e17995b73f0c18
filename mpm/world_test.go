package mpm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"gateway/routes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// world is a supervisor with children that start at once, unless manual, and leave when told to.
type world struct {
	t    testing.TB
	pool *Pool

	mu      sync.Mutex
	events  []string // what happened, in order
	lastPID int
	manual  bool   // nothing is answered: the test does
	broken  string // why no child can start
	stuck   bool   // children don't leave when told to
	busy    map[int]bool
	idle    *sync.Cond // signals changes of busy
	logged  []string
}

func prefork(children int) routes.Pool {
	return routes.Pool{
		Name: "php", MPM: routes.Prefork, StartServers: children, MinSpareServers: 0, MaxSpareServers: children, MaxRequestWorkers: children,
		Queue: routes.Queue{Length: 10, Timeout: 10 * time.Second},
	}
}

// threaded is a worker pool that wants no spare threads.
func threaded(children, threads int) routes.Pool {
	return routes.Pool{
		Name: "app", MPM: routes.Worker, StartServers: children, ServerLimit: children, ThreadsPerChild: threads,
		MaxRequestWorkers: children * threads, MaxSpareThreads: children * threads,
		Queue: routes.Queue{Length: 10, Timeout: 10 * time.Second},
	}
}

// newWorld makes a pool that isn't open yet.
func newWorld(t testing.TB, cfg routes.Pool, opts ...Option) *world {
	w := &world{t: t, lastPID: 100, busy: map[int]bool{}}
	w.idle = sync.NewCond(&w.mu)
	w.pool = NewPool(cfg, w, append([]Option{WithLogger(w), WithProbe(w.probe), WithGeneration(3)}, opts...)...)
	t.Cleanup(w.pool.Close)
	return w
}

// openWorld opens the pool and waits for its first children.
func openWorld(t testing.TB, cfg routes.Pool, opts ...Option) *world {
	w := newWorld(t, cfg, opts...)
	w.pool.Open()
	synctest.Wait()
	w.forget()
	return w
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf(format, args...))
}

// forget returns what happened since the last call.
func (w *world) forget() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	return events
}

func (w *world) Start(_ string, slot int) {
	w.note("start %d", slot)
	w.mu.Lock()
	manual, broken := w.manual, w.broken
	w.lastPID++
	pid := w.lastPID
	w.mu.Unlock()
	switch {
	case manual:
	case broken != "":
		w.pool.StartFailed(slot, broken)
	default:
		w.pool.Started(slot, pid, fmt.Sprintf("/run/%d.sock", pid), 0)
	}
}

func (w *world) Retire(_ string, slot, pid int) {
	w.note("retire %d", pid)
	w.checkUnused(slot, pid)
	w.leave(slot, pid, 0)
}

// checkUnused holds that no child is asked to leave while it has requests.
func (w *world) checkUnused(slot, pid int) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	if c := w.pool.byPID[pid]; c != nil && w.pool.board[slot].Busy > 0 {
		w.t.Errorf("child %d was asked to leave with %d requests", pid, w.pool.board[slot].Busy)
	}
}

func (w *world) Kill(_ string, slot, pid int) {
	w.note("kill %d", pid)
	w.leave(slot, pid, 9)
}

func (w *world) leave(slot, pid, status int) {
	w.mu.Lock()
	silent := w.manual || w.stuck
	w.mu.Unlock()
	if !silent {
		w.pool.Exited(slot, pid, status, false)
	}
}

var errProbeEnded = errors.New("probe ended")

// probe answers once the child isn't busy.
func (w *world) probe(ctx context.Context, c Child) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.idle.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy[c.PID] {
		if ctx.Err() != nil {
			return errProbeEnded
		}
		w.idle.Wait()
	}
	return nil
}

func (w *world) setBusy(pid int, busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy[pid] = busy
	w.idle.Broadcast()
}

func (w *world) log(level, msg string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logged = append(w.logged, level+" "+msg)
}
func (w *world) Infow(msg string, _ ...any)      { w.log("info", msg) }
func (w *world) Warnw(msg string, _ ...any)      { w.log("warn", msg) }
func (w *world) Errorw(msg string, facts ...any) { w.log("error", msg+fmt.Sprintf(" %v", facts)) }

func (w *world) logs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logged
}

// channel is a kept connection.
type channel struct {
	w    *world
	name string
}

func (c channel) Close() error {
	c.w.note("close %s", c.name)
	return nil
}

// acquire gets a slot that must be free.
// contextOf is a context that ends as the work of a slot does.
func contextOf(parent context.Context, s *Slot) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(parent)
	s.OnEnd(end)
	return ctx, func() { end(nil) }
}

func (w *world) acquire() *Slot {
	w.t.Helper()
	s, err := w.pool.Acquire(w.t.Context())
	if err != nil {
		w.t.Fatalf("Acquire() = %v", err)
	}
	return s
}

// request is an Acquire in a goroutine.
type request struct {
	slot   *Slot
	err    error
	ended  bool
	cancel context.CancelCauseFunc
}

// queue begins an Acquire that is expected to wait.
func (w *world) queue() *request { return w.queueFor(Claim{}) }

func (w *world) queueFor(claim Claim) *request {
	w.t.Helper()
	ctx, cancel := context.WithCancelCause(w.t.Context())
	r := &request{cancel: cancel}
	go func() {
		r.slot, r.err = w.pool.AcquireFor(ctx, claim)
		r.ended = true
	}()
	synctest.Wait()
	return r
}
