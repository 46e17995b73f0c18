package mpm

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

// PoolStatus is one entry of `pools` in `gateway status -json`. Counters never go backwards during a pool's life.
type PoolStatus struct {
	Name           string                `json:"name"`
	MPM            string                `json:"mpm"`
	State          string                `json:"state"`                      // ready, starting, full, quarantined or draining
	Trouble        string                `json:"trouble,omitempty"`          // in quarantine: how the last child failed
	NextTrySeconds float64               `json:"next_try_seconds,omitempty"` // in quarantine: until a child is started again
	Board          string                `json:"board"`                      // Apache's letters, one per place
	Processes      ProcessStatus         `json:"processes"`
	Slots          SlotStatus            `json:"slots"`
	Queue          QueueStatus           `json:"queue"`
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

// SlotStatus counts slots: those there are now, those in use, and how many there can be.
type SlotStatus struct {
	Total int `json:"total"`
	Busy  int `json:"busy"`
	Limit int `json:"limit"`
}

// QueueStatus is the queue now and what became of requests that waited.
type QueueStatus struct {
	Waiting   int    `json:"waiting"`
	Length    int    `json:"length"`
	Rejected  uint64 `json:"rejected"`
	TimedOut  uint64 `json:"timed_out"`
	Abandoned uint64 `json:"abandoned"`
}

// RequestStatus counts requests that were released; failed ones lost their child, its connection or their time.
type RequestStatus struct {
	Total  uint64 `json:"total"`
	Failed uint64 `json:"failed"`
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
	Request    *ActiveRequest `json:"request,omitempty"` // of a child with a request
}

// ActiveRequest is what a child does now.
type ActiveRequest struct {
	Method  string  `json:"method"`
	URI     string  `json:"uri"`
	Seconds float64 `json:"seconds"`
}

// Status tells what the pool is doing.
func (p *Pool) Status() PoolStatus {
	st := p.snapshot(time.Now())
	for i := range st.Children {
		st.Children[i].RSSBytes = rssBytes(st.Children[i].PID)
	}
	return st
}

func (p *Pool) snapshot(now time.Time) PoolStatus {
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
		Slots: p.slotStatus(),
		Queue: QueueStatus{
			Waiting: p.queue.length, Length: p.cfg.Queue.Length, Rejected: p.rejected, TimedOut: p.timedOut, Abandoned: p.abandoned,
		},
		Requests: RequestStatus{Total: p.served, Failed: p.failed},
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
	if p.memory.Score.Quarantined(now) {
		st.Trouble, st.NextTrySeconds = p.trouble, p.memory.Score.NextTry(now).Seconds()
	}
	return st
}

// stateText is the pool's state in one word: the one that most needs attention.
func (p *Pool) stateText(now time.Time) string {
	slots := p.slotStatus()
	switch {
	case p.draining:
		return "draining"
	case p.memory.Score.Quarantined(now):
		return "quarantined"
	case slots.Busy >= slots.Limit:
		return "full"
	case p.tally[Starting] > 0 && slots.Total == 0:
		return "starting"
	default:
		return "ready"
	}
}

func (p *Pool) slotStatus() SlotStatus {
	if p.event {
		return SlotStatus{Total: p.settings.Limit, Busy: p.executing, Limit: p.settings.Limit}
	}
	return SlotStatus{Total: p.tally[Idle] + p.tally[Busy], Busy: p.tally[Busy], Limit: p.settings.Limit}
}

func (p *Pool) boardText() string {
	if p.event {
		return strings.Repeat(string(Busy.Letter()), p.executing) + strings.Repeat(string(Idle.Letter()), p.settings.Limit-p.executing)
	}
	text := make([]byte, len(p.board))
	for i := range p.board {
		text[i] = p.board[i].State.Letter()
	}
	return string(text)
}

func (p *Pool) childStatus(c *child, now time.Time) ChildStatus {
	cell := p.board[c.Slot]
	st := ChildStatus{
		Slot: c.Slot, PID: c.PID, Generation: p.generation, State: cell.State.String(),
		Requests: cell.Requests, AgeSeconds: now.Sub(c.born).Seconds(),
	}
	if h := c.holder; h != nil {
		st.Request = &ActiveRequest{Method: h.method, URI: h.uri, Seconds: now.Sub(h.granted).Seconds()}
	}
	return st
}

// rssBytes reads a process's resident memory; 0 if it has gone.
func rssBytes(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Fscan(bytes.NewReader(text), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
