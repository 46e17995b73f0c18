// Package mpm runs the pools: it grants slots to requests, first come first served, and decides when child processes
// start and leave. It lives in the front and starts nothing itself: a [Starter] carries its decisions to the supervisor,
// and what became of them comes back as [Pool.Started], [Pool.StartFailed] and [Pool.Exited].
//
// A slot of a prefork pool is a child that serves one request at a time. A slot of a worker pool is a thread of a child with
// several: what ends the child, such as the deadline of one of its requests, ends the requests of its other threads too, and
// they learn of it as [ChildExit]. A child that is only to be replaced takes nothing new, finishes what it has, and then leaves.
// A slot of an event pool is an executor of the front.
//
// The policy ([Open], [Maintain], [Aged], [Demand], [Replace], [Score]) is pure; [Pool] keeps the board it decides on.
package mpm

import (
	"context"
	"io"
	"sync"
	"time"

	"gateway/internal/quiet"
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
	slots        int // requests at once
	starter      Starter
	probe        func(context.Context, Child) error
	startTimeout time.Duration
	footprint    func(pid int) int64 // a process's memory in bytes
	generation   int
	log          Logger
	epoch        time.Time     // when the pool was made
	answered     *counter      // counts without mu
	gone         chan struct{} // closed once the pool is draining and nothing of it is left

	alive   context.Context // ends with Close
	end     context.CancelFunc
	workers sync.WaitGroup // the ticker, the probes and the readings of memory

	// Guarded by mu.
	mu        sync.Mutex
	todo      []func()
	board     Board    // of places; empty in an event pool
	children  []*child // by place; nil: none, or asked for and not yet reported
	byPID     map[int]*child
	tally     tally   // of board
	free      shelves // children with a free thread
	executing int     // slots of an event pool in use
	fresh     []Slot  // made in advance, because many at once cost little more than one; none is ever granted twice
	queue     queue
	sessions  map[uint64]*session // by key; nil: none has come yet
	held      int                 // requests that wait for their sessions
	memory    Memory
	opened    bool
	draining  bool
	closed    bool
	isGone    bool // gone is closed

	served, failed                uint64
	rejected, timedOut, abandoned uint64
	exits                         map[ExitReason]uint64
	waits                         waits

	trouble      string        // how the last child failed
	stillborn    bool          // the last one that was started never got ready
	said         said          // by the child that failed last, before it was ready
	stray        said          // by the last process to speak that is no child, as the parent of all
	quarantined  bool          // said so
	queueLimit   quiet.Limiter // of warnings about the queue
	failureLimit quiet.Limiter // of warnings about failing children
}

// NewPool makes a pool. Report the children that live already with [Pool.Started], then call [Pool.Open]. An event pool
// needs no starter. The caller must call [Pool.Close].
func NewPool(cfg routes.Pool, starter Starter, opts ...Option) *Pool {
	p := &Pool{
		cfg:          cfg,
		event:        cfg.MPM == routes.Event,
		starter:      starter,
		startTimeout: startTimeout,
		footprint:    footprint,
		log:          noLog{},
		epoch:        time.Now(),
		answered:     new(counter),
		gone:         make(chan struct{}),
		exits:        make(map[ExitReason]uint64, len(exitReasons)),
	}
	if cfg.PHP != nil && cfg.PHP.ShareOPcache {
		p.footprint = forkedFootprint
	}
	p.alive, p.end = context.WithCancel(context.Background())
	for _, opt := range opts {
		opt(p)
	}
	places := 0
	p.settings, places = settings(cfg)
	p.slots = p.settings.Limit * p.settings.Threads
	if p.event {
		return p
	}
	p.board = make(Board, places)
	p.children = make([]*child, places)
	p.byPID = make(map[int]*child)
	p.tally = p.board.tally()
	p.free = newShelves(p.settings.Threads)
	return p
}

// settings takes from a pool's configuration what the policy needs, and how many children there is place for.
func settings(cfg routes.Pool) (s Settings, places int) {
	s = Settings{Spawn: cfg.Spawn, Threads: 1, MinSpare: cfg.MinSpareServers, MaxSpare: cfg.MaxSpareServers, IdleTimeout: cfg.IdleTimeout}
	if cfg.MPM == routes.Worker {
		s.Threads, s.MinSpare, s.MaxSpare = max(cfg.ThreadsPerChild, 1), cfg.MinSpareThreads, cfg.MaxSpareThreads
	}
	if s.Spawn == "" {
		s.Spawn = routes.SpawnDemand
	}
	s.MaxSpare = max(s.MaxSpare, s.MinSpare+s.Threads)
	s.Limit = max(cfg.MaxRequestWorkers/s.Threads, 1)
	if cfg.ServerLimit > 0 {
		s.Limit = min(s.Limit, cfg.ServerLimit)
	}
	if cfg.MPM == routes.Worker {
		return s, max(cfg.ServerLimit, s.Limit) // the rest is for children that finish their last requests
	}
	return s, s.Limit
}

// now is the time, read in half the time that time.Now takes.
func (p *Pool) now() time.Time { return p.epoch.Add(time.Since(p.epoch)) }

// Open starts the first children, those that were reported already counted in, and begins the maintenance, which ends with Close.
func (p *Pool) Open() {
	p.mu.Lock()
	defer p.unlock()
	if p.opened || p.draining {
		return
	}
	p.opened = true
	if !p.event {
		p.act(Open(p.board, p.settings, p.cfg.StartServers), p.now())
	}
	p.workers.Go(p.maintain)
}

// maintain ticks until Close.
func (p *Pool) maintain() {
	ticker := time.NewTicker(maintenance)
	defer ticker.Stop()
	for tick := 1; ; tick++ {
		select {
		case <-p.alive.Done():
			return
		case <-ticker.C:
			p.tick(p.now(), tick%ticksPerSlice == 0)
		}
	}
}

// tick is what is due once a second; endSlice ends a slice of the record of waits.
func (p *Pool) tick(now time.Time, endSlice bool) {
	p.mu.Lock()
	defer p.unlock()
	if endSlice {
		p.waits.next()
	}
	if p.draining || p.event {
		return
	}
	wasFull := p.memory.Full
	var actions []Action
	actions, p.memory = Maintain(p.board, p.settings, p.memory, now, p.queue.length)
	if p.memory.Full && !wasFull {
		p.warnFull()
	}
	p.act(actions, now)
	p.act(Aged(p.board, now), now)
	p.measureIdle(now)
	if p.quarantined && !p.memory.Score.Quarantined(now) {
		p.quarantined = false
		p.after(func() { p.log.Infow("pool has left quarantine", "pool", p.cfg.Name) })
	}
}

// warnFull says what the pool has run out of.
func (p *Pool) warnFull() {
	msg := "pool is full: raise max_request_workers, or make the application faster"
	if p.tally.serving() < p.settings.Limit && p.settings.Threads > 1 {
		msg = "pool is full of children that finish their last requests: raise server_limit"
	}
	waiting := p.queue.length
	p.after(func() {
		p.log.Warnw(msg, "pool", p.cfg.Name, "max_request_workers", p.slots, "server_limit", len(p.board), "waiting", waiting)
	})
}

// demand starts children for requests that found none. It costs nothing on a pool that can't grow.
func (p *Pool) demand(now time.Time, waiting int) {
	starting := p.tally[Starting]
	if p.event || p.draining || p.tally.serving() >= p.settings.Limit || waiting <= starting*p.settings.Threads || starting >= max(p.memory.Rate, 1) {
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
			p.retire(p.children[a.Slot], ExitIdle, now)
		case ReplaceChild:
			p.recycle(p.children[a.Slot], ExitAge, now)
		}
	}
}

// set changes the state of a place; it is the only writer of State.
func (p *Pool) set(slot int, s State, now time.Time) {
	cell := &p.board[slot]
	p.tally[cell.State]--
	p.tally[s]++
	cell.State, cell.Since = s, now
	if s == Empty || s == Starting {
		cell.Requests, cell.Busy, cell.Expires = 0, 0, time.Time{}
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
	now := p.now()
	for _, c := range p.children {
		if c != nil && c.leaving == "" {
			p.retire(c, ExitShutdown, now)
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
		if c != nil {
			p.disarm(c)
			p.closeChannels(c)
		}
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
	if len(todo) > 0 { // a write that is not needed costs a request some nanoseconds
		p.todo = nil
	}
	p.mu.Unlock()
	for _, f := range todo {
		f()
	}
}

// warnQueue logs that the queue sends requests away, limited.
func (p *Pool) warnQueue(now time.Time, msg string) {
	held, ok := p.queueLimit.Pass(now, repeatAfter)
	if !ok {
		return
	}
	waiting := p.queue.length
	p.after(func() { p.log.Warnw(msg, "pool", p.cfg.Name, "waiting", waiting, "not_logged", held) })
}
