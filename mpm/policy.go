package mpm

import (
	"time"

	"gateway/routes"
)

// State is what a place of the scoreboard holds.
type State uint8

// The states of a child, in the order of its life.
const (
	Empty    State = iota // no child, none asked for
	Starting              // asked for, or running and not yet ready
	Idle                  // ready, without a request
	Busy                  // has a request, or is not known to have finished an abandoned one
	Draining              // takes nothing new: it finishes its requests and leaves, or is being killed; not yet reaped
)

// states is the one list of names and of Apache's scoreboard letters.
var states = [...]struct {
	name   string
	letter byte
}{
	Empty:    {"empty", '.'},
	Starting: {"starting", 'S'},
	Idle:     {"idle", '_'},
	Busy:     {"busy", 'W'},
	Draining: {"draining", 'G'},
}

func (s State) String() string { return states[s].name }

// Letter is the state's letter in Apache's scoreboard.
func (s State) Letter() byte { return states[s].letter }

// Cell is one place of a [Board].
type Cell struct {
	State    State
	Busy     int       // threads with a request
	Since    time.Time // when it entered State
	Expires  time.Time // when its child is to be replaced because of its age; zero: never
	Requests uint64    // that its child has finished
}

// Board is what was known at one instant: Board[i] is the place of child i.
type Board []Cell

// tally counts the places of a board by state.
type tally [len(states)]int

func (t *tally) total() int { return t.serving() + t[Draining] }

// serving counts the children that have not been told to leave.
func (t *tally) serving() int { return t[Starting] + t[Idle] + t[Busy] }

func (b Board) tally() (t tally) {
	for i := range b {
		t[b[i].State]++
	}
	return t
}

// idleThreads counts the threads that are free, or will be once their child is ready. Starting children count, as in Apache,
// or slow starters would cause a storm.
func (b Board) idleThreads(perChild int) (n int) {
	for i := range b {
		switch b[i].State {
		case Starting, Idle, Busy:
			n += perChild - b[i].Busy
		case Empty, Draining:
		}
	}
	return n
}

// leastBusy returns the place of the ready child with the fewest requests, of several the one that is so longest. It returns
// -1 if all threads of all ready children are busy.
func (b Board) leastBusy(perChild int) int {
	best := -1
	for i := range b {
		c := &b[i]
		if c.State != Idle && c.State != Busy || c.Busy >= perChild {
			continue
		}
		if best < 0 || c.Busy < b[best].Busy || c.Busy == b[best].Busy && c.Since.Before(b[best].Since) {
			best = i
		}
	}
	return best
}

// Settings are the numbers of a pool that the policy needs. They never change during a pool's life.
type Settings struct {
	Spawn       routes.Spawn
	Threads     int           // of a child; 1 in a prefork pool
	MinSpare    int           // idle threads
	MaxSpare    int           // idle threads, at least MinSpare + Threads
	Limit       int           // children that serve or start. All, those that drain included, are limited by the board
	IdleTimeout time.Duration // of SpawnOnDemand
}

// maxRate is the most children that one tick starts (MAX_SPAWN_RATE of Apache's prefork.c and event.c).
const maxRate = 32

// maxReplaced is how many lost children of a worker pool are replaced at once before the tick is waited for, as in Apache's event.c.
const maxReplaced = 3

// Memory is what the policy carries from one decision to the next.
type Memory struct {
	Rate  int   // children the next tick may start; doubles while it is not enough; 0 means 1
	Calm  int   // ticks after a reload that don't double the rate
	Full  bool  // children were wanted, there was no place for one and none was free; until enough are spare again
	Lost  int   // children that nobody asked to leave, in a row without a quiet tick between them
	Loud  bool  // one was lost since the last tick
	Score Score // of failing children
}

// ActionKind is what is to be done with a child.
type ActionKind uint8

// The kinds of action.
const (
	StartChild   ActionKind = iota
	RetireChild             // it is not needed
	ReplaceChild            // it is too old
)

// Action is one decision of the policy. A child that is retired or replaced finishes its requests first.
type Action struct {
	Kind ActionKind
	Slot int
}

// Open decides what a new pool starts, given the children that are there already.
func Open(b Board, s Settings, startServers int) []Action {
	t := b.tally()
	switch s.Spawn {
	case routes.SpawnOnDemand:
		return nil
	case routes.SpawnStatic:
		startServers = s.Limit
	case routes.SpawnDemand, routes.SpawnApache:
	}
	return starts(b, min(startServers-t.total(), s.free(b, t)))
}

// Maintain is the idle maintenance, due once a second (perform_idle_server_maintenance of Apache's prefork.c and event.c).
// It retires at most one spare child a tick, and never lets the board grow above its limits.
func Maintain(b Board, s Settings, m Memory, now time.Time, waiting int) ([]Action, Memory) {
	if !m.Loud {
		m.Lost = 0
	}
	m.Loud = false
	t := b.tally()
	missing := s.missing(b, t, waiting)
	if missing > 0 {
		return m.grow(b, s, t, now, missing)
	}
	m.Rate, m.Full = 1, false
	switch s.Spawn {
	case routes.SpawnStatic:
		return nil, m
	case routes.SpawnOnDemand:
		return b.idleSince(now.Add(-s.IdleTimeout)), m
	default:
		return s.shrink(b, t, waiting), m
	}
}

// Aged returns the children that have lived long enough. Due with each tick.
func Aged(b Board, now time.Time) (actions []Action) {
	for i := range b {
		c := &b[i]
		if (c.State == Idle || c.State == Busy) && !c.Expires.IsZero() && !now.Before(c.Expires) {
			actions = append(actions, Action{ReplaceChild, i})
		}
	}
	return actions
}

// idleSince returns the children of a pool without spare ones that have been idle since then.
func (b Board) idleSince(then time.Time) (actions []Action) {
	for i := range b {
		if b[i].State == Idle && !b[i].Since.After(then) {
			actions = append(actions, Action{RetireChild, i})
		}
	}
	return actions
}

// shrink retires one child if too many threads are spare. A child of several threads may have requests and take long to
// leave: while one does and there is no place left, no other is retired, or the board would fill with leaving children
// (do_kill of event.c).
func (s Settings) shrink(b Board, t tally, waiting int) []Action {
	if s.spare(b, waiting) <= s.MaxSpare || s.Threads > 1 && t[Draining] > 0 && t.total() >= len(b) {
		return nil
	}
	if i := b.leastBusy(s.Threads); i >= 0 {
		return []Action{{RetireChild, i}}
	}
	return nil
}

// spare is how many threads are there for requests that have not come yet. A waiting request has a claim on one; Apache
// can't know, its requests wait in the kernel.
func (s Settings) spare(b Board, waiting int) int {
	spare := b.idleThreads(s.Threads)
	if s.Spawn != routes.SpawnApache {
		spare -= waiting
	}
	return spare
}

// missing is how many children are too few.
func (s Settings) missing(b Board, t tally, waiting int) int {
	switch s.Spawn {
	case routes.SpawnStatic:
		return s.Limit - t.serving()
	case routes.SpawnOnDemand:
		return s.children(-s.spare(b, waiting))
	default:
		return s.children(s.MinSpare - s.spare(b, waiting))
	}
}

// children is how many children have so many threads.
func (s Settings) children(threads int) int {
	if threads <= 0 {
		return 0
	}
	return (threads + s.Threads - 1) / s.Threads
}

// free is how many children may be added to board b.
func (s Settings) free(b Board, t tally) int {
	return max(0, min(s.Limit-t.serving(), len(b)-t.total()))
}

// grow starts children because some are missing, and lets the next tick start twice as many.
func (m Memory) grow(b Board, s Settings, t tally, now time.Time, missing int) ([]Action, Memory) {
	rate := max(m.Rate, 1)
	free := s.free(b, t)
	if free == 0 {
		m.Rate, m.Full = 1, m.Full || b.idleThreads(s.Threads) == 0
		return nil, m
	}
	m.Full = false
	n := min(rate, free)
	if s.Spawn != routes.SpawnApache {
		n = min(n, missing)
	}
	if m.Score.Quarantined(now) {
		m.Rate = 1
		return starts(b, m.Score.Allow(now, t[Starting], n)), m
	}
	if m.Calm > 0 {
		m.Calm--
	} else {
		rate = min(2*rate, maxRate)
	}
	m.Rate = rate
	return starts(b, n), m
}

// Demand starts children for requests that wait now: enough for all of them, except that never more than the rate are starting
// at the same time. As one gets ready the next may start, so the rate only slows programs that start slowly.
func Demand(b Board, s Settings, m Memory, now time.Time, waiting int) []Action {
	if s.Spawn != routes.SpawnDemand && s.Spawn != routes.SpawnOnDemand {
		return nil
	}
	t := b.tally()
	n := min(s.children(waiting)-t[Starting], max(m.Rate, 1)-t[Starting], s.free(b, t))
	return starts(b, m.Score.Allow(now, t[Starting], n))
}

// Replace starts at most one child, because one leaves or has left and the spare ones are too few. It doesn't wait for the tick.
func Replace(b Board, s Settings, m Memory, now time.Time, waiting int) []Action {
	t := b.tally()
	n := min(1, s.missing(b, t, waiting), s.free(b, t))
	return starts(b, m.Score.Allow(now, t[Starting], n))
}

// Lose notes that a child was lost which nobody asked to leave, and reports whether it may be replaced at once.
func (m Memory) Lose(s Settings) (Memory, bool) {
	m.Lost++
	m.Loud = true
	return m, s.Threads == 1 || m.Lost <= maxReplaced
}

// starts fills the first n empty places.
func starts(b Board, n int) []Action {
	if n <= 0 {
		return nil
	}
	actions := make([]Action, 0, n)
	for i := 0; i < len(b) && len(actions) < n; i++ {
		if b[i].State == Empty {
			actions = append(actions, Action{StartChild, i})
		}
	}
	return actions
}
