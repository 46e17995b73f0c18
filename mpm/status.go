package mpm

import (
	"strings"
	"time"

	"gateway/routes"
)

// PoolStatus is one entry of `pools` in `gateway status -json`. Counters never go backwards during a pool's life.
type PoolStatus struct {
	Name           string                `json:"name"`
	MPM            string                `json:"mpm"`
	State          string                `json:"state"`                       // one of PoolStates
	Trouble        string                `json:"trouble,omitempty"`           // in quarantine, or while no child is ready: how the last child failed
	Said           []string              `json:"said,omitempty"`              // with Trouble: the first and last lines of the child that failed last
	NextTrySeconds float64               `json:"next_try_seconds,omitempty"`  // in quarantine: until a child is started again
	Board          string                `json:"board"`                       // Apache's letters, one per thread of each place
	Threads        int                   `json:"threads_per_child,omitempty"` // of a worker pool
	Processes      ProcessStatus         `json:"processes"`
	Slots          SlotStatus            `json:"slots"`
	Queue          QueueStatus           `json:"queue"`
	Waits          Histogram             `json:"waits"` // in the queue, since the pool was made
	Requests       RequestStatus         `json:"requests"`
	Exits          map[ExitReason]uint64 `json:"exits"` // every reason
	Children       []ChildStatus         `json:"children"`
}

// ProcessStatus counts children by state.
type ProcessStatus struct {
	Total    int `json:"total"`
	Starting int `json:"starting"`
	Idle     int `json:"idle"`
	Busy     int `json:"busy"`
	Draining int `json:"draining"`
}

// SlotStatus counts slots: those of children that are ready, those in use, and how many there can be.
type SlotStatus struct {
	Total int `json:"total"`
	Busy  int `json:"busy"`
	Limit int `json:"limit"`
}

// QueueStatus is the queue now, what became of requests that waited, and how long those of the last minute did, the ones that
// got a slot at once and those that timed out included: half of them at most P50Seconds (to a quarter), 99 % at most P99Seconds.
type QueueStatus struct {
	Waiting    int     `json:"waiting"`
	Held       int     `json:"held_by_session,omitempty"` // of the waiting, those that session_limit keeps
	Length     int     `json:"length"`
	Rejected   uint64  `json:"rejected"`
	TimedOut   uint64  `json:"timed_out"`
	Abandoned  uint64  `json:"abandoned"`
	P50Seconds float64 `json:"wait_p50_seconds"`
	P99Seconds float64 `json:"wait_p99_seconds"`
	MaxSeconds float64 `json:"wait_max_seconds"`
}

// Histogram is how long something took, each time since the beginning.
type Histogram struct {
	Count   uint64   `json:"count"`
	Seconds float64  `json:"seconds"` // all together
	Buckets []Bucket `json:"buckets"` // by UpTo
}

// Bucket counts what took UpTo seconds or less, that of the buckets before it included.
type Bucket struct {
	UpTo  float64 `json:"up_to"`
	Count uint64  `json:"count"`
}

// RequestStatus counts requests that are over. Failed ones lost their child, its connection or their time, or got no proper response; hot ones were answered from
// memory and needed no slot.
type RequestStatus struct {
	Total  uint64 `json:"total"`
	Failed uint64 `json:"failed"`
	Hot    uint64 `json:"hot"`
}

// ChildStatus is one child.
type ChildStatus struct {
	Slot       int            `json:"slot"`
	PID        int            `json:"pid"`
	Generation int            `json:"generation"`
	State      string         `json:"state"`
	Requests   uint64         `json:"requests"`
	RSSBytes   int64          `json:"rss_bytes"` // 0: unknown
	AgeSeconds float64        `json:"age_seconds"`
	Leaving    ExitReason     `json:"leaving,omitempty"` // of a draining child: why
	Request    *ActiveRequest `json:"request,omitempty"` // of a child with requests: the oldest
	Threads    []ThreadStatus `json:"threads,omitempty"` // of a child of a worker pool: those with a request
}

// ActiveRequest is what a thread does now.
type ActiveRequest struct {
	Method  string  `json:"method"`
	URI     string  `json:"uri"`
	Seconds float64 `json:"seconds"`
}

// ThreadStatus is a busy thread.
type ThreadStatus struct {
	Thread  int           `json:"thread"`
	Request ActiveRequest `json:"request"`
}

// The states of a pool.
const (
	stateReady       = "ready"
	stateStarting    = "starting"    // no child is ready yet
	stateFull        = "full"        // every slot is in use
	stateFailing     = "failing"     // the last start failed, and no child is ready
	stateQuarantined = "quarantined" // children keep failing
	stateDraining    = "draining"
)

// PoolStates lists all values of [PoolStatus.State].
func PoolStates() []string {
	return []string{stateReady, stateStarting, stateFull, stateFailing, stateQuarantined, stateDraining}
}

// Failing reports whether the pool can't have the children that it should.
func (st *PoolStatus) Failing() bool { return st.State == stateFailing || st.State == stateQuarantined }

// Status tells what the pool is doing.
func (p *Pool) Status() PoolStatus {
	st := p.snapshot(p.now())
	for i := range st.Children {
		st.Children[i].RSSBytes = rssBytes(st.Children[i].PID)
	}
	return st
}

func (p *Pool) snapshot(now time.Time) PoolStatus {
	hot, _ := p.Answered()
	p.mu.Lock()
	defer p.mu.Unlock()
	st := PoolStatus{
		Name:  p.cfg.Name,
		MPM:   string(p.cfg.MPM),
		State: p.stateText(now),
		Board: p.boardText(),
		Processes: ProcessStatus{
			Total: p.tally.total(), Starting: p.tally[Starting], Idle: p.tally[Idle], Busy: p.tally[Busy], Draining: p.tally[Draining],
		},
		Slots:    p.slotStatus(),
		Queue:    p.queueStatus(),
		Waits:    p.waits.histogram(),
		Requests: RequestStatus{Total: p.served + hot, Failed: p.failed, Hot: hot},
		Exits:    make(map[ExitReason]uint64, len(exitReasons)),
		Children: make([]ChildStatus, 0, p.tally.total()),
	}
	for _, why := range exitReasons {
		st.Exits[why] = p.exits[why]
	}
	for _, c := range p.children {
		if c != nil {
			st.Children = append(st.Children, p.childStatus(c, now))
		}
	}
	if p.event {
		return st
	}
	if p.cfg.MPM == routes.Worker {
		st.Threads = p.settings.Threads
	}
	quarantined := p.memory.Score.Quarantined(now)
	if quarantined {
		st.NextTrySeconds = p.memory.Score.NextTry(now).Seconds()
	}
	if quarantined || p.tally[Idle]+p.tally[Busy] == 0 {
		st.Trouble, st.Said = p.trouble, p.words()
	}
	return st
}

func (p *Pool) queueStatus() QueueStatus {
	p50, p99, longest := p.waits.summary()
	return QueueStatus{
		Waiting: p.waiting(), Held: p.held, Length: p.cfg.Queue.Length, Rejected: p.rejected, TimedOut: p.timedOut, Abandoned: p.abandoned,
		P50Seconds: p50.Seconds(), P99Seconds: p99.Seconds(), MaxSeconds: longest.Seconds(),
	}
}

// stateText is the pool's state in one word: the one that most needs attention.
func (p *Pool) stateText(now time.Time) string {
	slots := p.slotStatus()
	switch {
	case p.draining:
		return stateDraining
	case p.memory.Score.Quarantined(now):
		return stateQuarantined
	case p.stillborn && slots.Total == 0:
		return stateFailing
	case slots.Busy >= slots.Limit:
		return stateFull
	case p.tally[Starting] > 0 && slots.Total == 0:
		return stateStarting
	default:
		return stateReady
	}
}

func (p *Pool) slotStatus() SlotStatus {
	if p.event {
		return SlotStatus{Total: p.slots, Busy: p.executing, Limit: p.slots}
	}
	busy := 0
	for i := range p.board {
		busy += p.board[i].Busy
	}
	return SlotStatus{Total: (p.tally[Idle] + p.tally[Busy]) * p.settings.Threads, Busy: busy, Limit: p.slots}
}

// boardText has a letter for each thread of each place. A busy child has idle threads, too; those of a draining child are all draining.
func (p *Pool) boardText() string {
	if p.event {
		return strings.Repeat(string(Busy.Letter()), p.executing) + strings.Repeat(string(Idle.Letter()), p.slots-p.executing)
	}
	text := make([]byte, 0, len(p.board)*p.settings.Threads)
	for i := range p.board {
		for t := range p.settings.Threads {
			text = append(text, p.letter(i, t))
		}
	}
	return string(text)
}

func (p *Pool) letter(place, thread int) byte {
	state := p.board[place].State
	if state == Busy && !p.children[place].threads[thread].busy {
		state = Idle
	}
	return state.Letter()
}

func (p *Pool) childStatus(c *child, now time.Time) ChildStatus {
	cell := p.board[c.Slot]
	st := ChildStatus{
		Slot: c.Slot, PID: c.PID, Generation: p.generation, State: cell.State.String(),
		Requests: cell.Requests, AgeSeconds: now.Sub(c.born).Seconds(), Leaving: c.leaving,
	}
	var oldest *thread
	for i := range c.threads {
		t := &c.threads[i]
		if t.holder == nil {
			continue
		}
		if oldest == nil || t.granted.Before(oldest.granted) {
			oldest = t
		}
		if p.cfg.MPM == routes.Worker {
			st.Threads = append(st.Threads, ThreadStatus{t.number, t.request(now)})
		}
	}
	if oldest != nil {
		r := oldest.request(now)
		st.Request = &r
	}
	return st
}

func (t *thread) request(now time.Time) ActiveRequest {
	return ActiveRequest{Method: t.method, URI: t.uri, Seconds: now.Sub(t.granted).Seconds()}
}
