package mpm

import "time"

// State is what a place of the scoreboard holds.
type State uint8

// The states of a child, in the order of its life.
const (
	Empty    State = iota // no child, none asked for
	Starting              // asked for, or running and not yet ready
	Idle                  // ready, without a request
	Busy                  // has a request, or is not known to have finished an abandoned one
	Draining              // told to leave, not yet reaped
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
	Since    time.Time // when it entered State
	Requests uint64    // that its child has finished
}

// Board is what was known at one instant: Board[i] is the place of child i.
type Board []Cell

// tally counts the places of a board by state.
type tally [len(states)]int

func (t *tally) total() int { return t[Starting] + t[Idle] + t[Busy] + t[Draining] }

func (b Board) tally() (t tally) {
	for i := range b {
		t[b[i].State]++
	}
	return t
}

// oldestIdle returns the place that has been idle longest, or -1.
func (b Board) oldestIdle() int {
	oldest := -1
	for i := range b {
		if b[i].State == Idle && (oldest < 0 || b[i].Since.Before(b[oldest].Since)) {
			oldest = i
		}
	}
	return oldest
}

// Spawn says when a pool starts children.
type Spawn uint8

// The ways to start children.
const (
	SpawnDemand Spawn = iota // by need: one per waiting request at once, and the spare children that are missing
	SpawnApache              // by tick only, and as many as the rate says
)

// Settings are the numbers of a prefork pool that the policy needs. They never change during a pool's life.
type Settings struct {
	Spawn    Spawn
	MinSpare int
	MaxSpare int // above MinSpare
	Limit    int // children at most, draining ones included: each holds memory
}

// maxRate is the most children that one tick starts (MAX_SPAWN_RATE of Apache's prefork.c).
const maxRate = 32

// Memory is what the policy carries from one decision to the next.
type Memory struct {
	Rate  int   // children the next tick may start; doubles while it is not enough; 0 means 1
	Calm  int   // ticks after a reload that don't double the rate
	Full  bool  // children were wanted, there was no place for one and none was free; until enough are spare again
	Score Score // of failing children
}

// ActionKind is what is to be done with a child.
type ActionKind uint8

// The kinds of action.
const (
	StartChild ActionKind = iota
	RetireChild
)

// Action is one decision of the policy.
type Action struct {
	Kind ActionKind
	Slot int
}

// Maintain is the idle maintenance of a prefork pool, due once a second (perform_idle_server_maintenance of Apache's
// prefork.c). Starting children count as spare, or slow starters would cause a storm. It retires at most one child a
// tick, always an idle one, and never lets the board grow above the limit.
func Maintain(b Board, s Settings, m Memory, now time.Time, waiting int) ([]Action, Memory) {
	t := b.tally()
	spare := s.spare(t, waiting)
	switch {
	case spare > s.MaxSpare:
		m.Rate, m.Full = 1, false
		if oldest := b.oldestIdle(); oldest >= 0 {
			return []Action{{RetireChild, oldest}}, m
		}
		return nil, m
	case spare < s.MinSpare:
		return m.grow(b, s, t, now, s.MinSpare-spare)
	default:
		m.Rate, m.Full = 1, false
		return nil, m
	}
}

// spare is how many children are there for requests that have not come yet. A waiting request has a claim on one; Apache
// can't know, its requests wait in the kernel.
func (s Settings) spare(t tally, waiting int) int {
	spare := t[Starting] + t[Idle]
	if s.Spawn == SpawnDemand {
		spare -= waiting
	}
	return spare
}

// free is how many children may be added to board b.
func (s Settings) free(b Board, t tally) int { return max(0, min(s.Limit, len(b))-t.total()) }

// grow starts children because deficit are missing, and lets the next tick start twice as many.
func (m Memory) grow(b Board, s Settings, t tally, now time.Time, deficit int) ([]Action, Memory) {
	rate := max(m.Rate, 1)
	free := s.free(b, t)
	if free == 0 {
		m.Rate, m.Full = 1, m.Full || t[Starting]+t[Idle] == 0
		return nil, m
	}
	m.Full = false
	n := min(rate, free)
	if s.Spawn == SpawnDemand {
		n = min(n, deficit)
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

// Demand starts children for requests that wait now: one each, except that never more than the rate are starting at the
// same time. As one gets ready the next may start, so the rate only slows programs that start slowly.
func Demand(b Board, s Settings, m Memory, now time.Time, waiting int) []Action {
	if s.Spawn != SpawnDemand {
		return nil
	}
	t := b.tally()
	n := min(waiting-t[Starting], max(m.Rate, 1)-t[Starting], s.free(b, t))
	return starts(b, m.Score.Allow(now, t[Starting], n))
}

// Replace starts at most one child, because one leaves or has left and the spare ones are too few. It doesn't wait for the tick.
func Replace(b Board, s Settings, m Memory, now time.Time, waiting int) []Action {
	t := b.tally()
	if s.spare(t, waiting) >= s.MinSpare {
		return nil
	}
	return starts(b, m.Score.Allow(now, t[Starting], min(1, s.free(b, t))))
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
