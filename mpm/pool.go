// Package mpm runs the pools: it grants slots to requests, first come first served, and decides when child processes
// start and leave. It lives in the front and starts nothing itself: a [Starter] carries its decisions to the supervisor,
// and what became of them comes back as [Pool.Started], [Pool.StartFailed] and [Pool.Exited].
//
// The policy ([Maintain], [Demand], [Replace], [Score]) is pure; [Pool] keeps the board it decides on.
package mpm

import (
	"context"
	"io"
	"sync"
	"time"

	"gateway/routes"
)

// Starter acts on processes. Its methods return at once; what came of them is reported to the pool later.
type Starter interface {
	Start(pool string, slot int)       // a child in this place; answered by Started or StartFailed
	Retire(pool string, slot, pid int) // let an idle child leave; answered by Exited
	Kill(pool string, slot, pid int)   // end a busy child and its process group; answered by Exited
}

// Logger takes a constant text and facts in pairs; *zap.SugaredLogger is one.
type Logger interface {
	Infow(msg string, keysAndValues ...any)
	Warnw(msg string, keysAndValues ...any)
	Errorw(msg string, keysAndValues ...any)
}

type noLog struct{}

func (noLog) Infow(string, ...any)  {}
func (noLog) Warnw(string, ...any)  {}
func (noLog) Errorw(string, ...any) {}

// Option changes a pool before it begins.
type Option func(*Pool)

// WithLogger sets where the pool logs.
func WithLogger(l Logger) Option { return func(p *Pool) { p.log = l } }

// WithGeneration sets the generation of the configuration that the pool belongs to.
func WithGeneration(n int) Option { return func(p *Pool) { p.generation = n } }

// WithProbe sets how to find out that a child is ready and idle: connect, exchange a record that starts no request, close.
// It runs in a goroutine of its own and must return soon after its context ended. Without a probe a child is ready when it
// was started, and one whose request was abandoned is killed.
func WithProbe(probe func(context.Context, Child) error) Option {
	return func(p *Pool) { p.probe = probe }
}

// WithStartTimeout sets how long a child may take from start to ready (default 30 s).
func WithStartTimeout(d time.Duration) Option { return func(p *Pool) { p.startTimeout = d } }

// WithSpawn sets when children start (default [SpawnDemand]).
func WithSpawn(s Spawn) Option { return func(p *Pool) { p.settings.Spawn = s } }

const (
	maintenance  = time.Second      // one tick
	startTimeout = 30 * time.Second // from start to ready
	repeatAfter  = 10 * time.Second // the same warning again
)

// Pool is a named set of slots. Its methods are safe for concurrent use.
//
// Nothing is called out to while mu is held: what a critical section decides is put in todo and done by unlock.
type Pool struct {
	// Immutable after NewPool.
	cfg          routes.Pool
	event        bool // executors in the front instead of children
	settings     Settings
	starter      Starter
	probe        func(context.Context, Child) error
	startTimeout time.Duration
	generation   int
	log          Logger
	gone         chan struct{} // closed once the pool is draining and nothing of it is left

	alive   context.Context // ends with Close
	end     context.CancelFunc
	workers sync.WaitGroup // the ticker and the probes

	// Guarded by mu.
	mu        sync.Mutex
	todo      []func()
	board     Board    // of places; empty in an event pool
	children  []*child // by place; nil: none, or asked for and not yet reported
	tally     tally    // of board
	idle      *child   // top of the stack of idle children: the one that was busy last is taken first, so the others can leave
	executing int      // slots of an event pool in use
	queue     queue
	memory    Memory
	opened    bool
	draining  bool
	closed    bool
	isGone    bool // gone is closed

	served, failed                uint64
	rejected, timedOut, abandoned uint64
	exits                         map[ExitReason]uint64

	trouble      string  // how the last child failed
	quarantined  bool    // said so
	queueLimit   limiter // of warnings about the queue
	failureLimit limiter // of warnings about failing children
}

// NewPool makes a pool. Report the children that live already with [Pool.Started], then call [Pool.Open]. An event pool
// needs no starter. The caller must call [Pool.Close].
func NewPool(cfg routes.Pool, starter Starter, opts ...Option) *Pool {
	p := &Pool{
		cfg:     cfg,
		event:   cfg.MPM == routes.Event,
		starter: starter,
		settings: Settings{
			MinSpare: cfg.MinSpareServers,
			MaxSpare: max(cfg.MaxSpareServers, cfg.MinSpareServers+1),
			Limit:    max(cfg.MaxRequestWorkers, 1),
		},
		startTimeout: startTimeout,
		log:          noLog{},
		gone:         make(chan struct{}),
		exits:        make(map[ExitReason]uint64, len(exitReasons)),
	}
	p.alive, p.end = context.WithCancel(context.Background())
	for _, opt := range opts {
		opt(p)
	}
	if p.event {
		return p
	}
	if cfg.ServerLimit > 0 {
		p.settings.Limit = min(p.settings.Limit, cfg.ServerLimit)
	}
	p.board = make(Board, p.settings.Limit)
	p.children = make([]*child, p.settings.Limit)
	p.tally = p.board.tally()
	return p
}

// Open starts the first children, those that were reported already counted in, and begins the maintenance, which ends with Close.
func (p *Pool) Open() {
	p.mu.Lock()
	defer p.unlock()
	if p.event || p.opened || p.draining {
		return
	}
	p.opened = true
	p.act(starts(p.board, p.cfg.StartServers-p.tally.total()), time.Now())
	p.workers.Go(p.maintain)
}

// maintain ticks until Close.
func (p *Pool) maintain() {
	ticker := time.NewTicker(maintenance)
	defer ticker.Stop()
	for {
		select {
		case <-p.alive.Done():
			return
		case <-ticker.C:
			p.tick(time.Now())
		}
	}
}

func (p *Pool) tick(now time.Time) {
	p.mu.Lock()
	defer p.unlock()
	if p.draining {
		return
	}
	wasFull := p.memory.Full
	var actions []Action
	actions, p.memory = Maintain(p.board, p.settings, p.memory, now, p.queue.length)
	if p.memory.Full && !wasFull {
		limit, waiting := p.settings.Limit, p.queue.length
		p.after(func() {
			p.log.Warnw("pool is full: raise max_request_workers, or make the application faster",
				"pool", p.cfg.Name, "max_request_workers", limit, "waiting", waiting)
		})
	}
	p.act(actions, now)
	if p.quarantined && !p.memory.Score.Quarantined(now) {
		p.quarantined = false
		p.after(func() { p.log.Infow("pool has left quarantine", "pool", p.cfg.Name) })
	}
}

// demand starts children for requests that found none. It costs nothing on a pool that can't grow.
func (p *Pool) demand(now time.Time, waiting int) {
	if p.event || p.draining || p.tally.total() >= p.settings.Limit || waiting <= p.tally[Starting] {
		return
	}
	p.act(Demand(p.board, p.settings, p.memory, now, waiting), now)
}

// replace starts a child if the spare ones have become too few.
func (p *Pool) replace(now time.Time) {
	if p.draining {
		return
	}
	p.act(Replace(p.board, p.settings, p.memory, now, p.queue.length), now)
}

// act carries out what the policy decided.
func (p *Pool) act(actions []Action, now time.Time) {
	for _, a := range actions {
		switch a.Kind {
		case StartChild:
			p.set(a.Slot, Starting, now)
			p.after(func() { p.starter.Start(p.cfg.Name, a.Slot) })
		case RetireChild:
			p.retire(p.children[a.Slot], ExitIdle)
		}
	}
}

// set changes the state of a place; it is the only writer of State. A child that stops being idle leaves the stack.
func (p *Pool) set(slot int, s State, now time.Time) {
	cell := &p.board[slot]
	if cell.State == Idle {
		p.unstack(p.children[slot])
	}
	p.tally[cell.State]--
	p.tally[s]++
	cell.State, cell.Since = s, now
	if s == Empty || s == Starting {
		cell.Requests = 0
	}
}

// Drain grants nothing more, fails the requests that wait with [ErrDraining], and lets the children leave as they become
// free. It returns nil when none is left, or context.Cause(ctx).
func (p *Pool) Drain(ctx context.Context) error {
	p.drain()
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *Pool) drain() {
	p.mu.Lock()
	defer p.unlock()
	p.draining = true
	p.failWaiters(ErrDraining)
	for _, c := range p.children {
		if c == nil {
			continue
		}
		if s := p.board[c.Slot].State; s == Idle || s == Starting {
			p.retire(c, ExitShutdown)
		}
	}
	p.signalGone()
}

// signalGone ends Drain when nothing is left.
func (p *Pool) signalGone() {
	if p.draining && !p.isGone && p.tally.total() == 0 && p.executing == 0 {
		p.isGone = true
		close(p.gone)
	}
}

// Close stops the pool's goroutines and closes the connections it keeps. It touches no child: the supervisor, or the next
// front, takes care of those. Slots that are still held may be released later.
func (p *Pool) Close() {
	p.close()
	p.workers.Wait()
}

func (p *Pool) close() {
	p.mu.Lock()
	defer p.unlock()
	p.draining, p.closed = true, true
	p.end()
	p.failWaiters(ErrDraining)
	for _, c := range p.children {
		if c == nil {
			continue
		}
		p.disarm(c)
		p.closeLater(c.channel)
		c.channel = nil
	}
}

// after puts f into what unlock does. It is called with mu held.
func (p *Pool) after(f func()) { p.todo = append(p.todo, f) }

func (p *Pool) closeLater(channel io.Closer) {
	if channel != nil {
		p.after(func() { _ = channel.Close() }) // nothing was being written
	}
}

// unlock ends a critical section and then does what it decided, in order.
func (p *Pool) unlock() {
	todo := p.todo
	p.todo = nil
	p.mu.Unlock()
	for _, f := range todo {
		f()
	}
}

// warnQueue logs that the queue sends requests away, limited.
func (p *Pool) warnQueue(now time.Time, msg string) {
	held, ok := p.queueLimit.pass(now, repeatAfter)
	if !ok {
		return
	}
	waiting := p.queue.length
	p.after(func() { p.log.Warnw(msg, "pool", p.cfg.Name, "waiting", waiting, "not_logged", held) })
}

// limiter holds back repeated warnings and counts them.
type limiter struct {
	next time.Time
	held int
}

// pass reports whether a warning may be logged now, and how many were held back since the last.
func (l *limiter) pass(now time.Time, every time.Duration) (held int, ok bool) {
	if now.Before(l.next) {
		l.held++
		return 0, false
	}
	held, l.held = l.held, 0
	l.next = now.Add(every)
	return held, true
}
