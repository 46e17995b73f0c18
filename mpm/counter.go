package mpm

import "sync/atomic"

// counter counts what several goroutines do often and somebody asks for rarely. Each event loop has a cell, alone on its cache line.
type counter [16]struct {
	changed, unchanged atomic.Uint64
	_                  [48]byte
}

func (c *counter) sum() (all, unchanged uint64) {
	for i := range c {
		n := c[i].unchanged.Load()
		all, unchanged = all+n+c[i].changed.Load(), unchanged+n
	}
	return all, unchanged
}

// CountAnswered counts a request of the pool that an event loop has answered from memory, without a slot. unchanged says that the
// answer had no content, for the client has it.
func (p *Pool) CountAnswered(loop int, unchanged bool) {
	cell := &p.answered[loop%len(p.answered)]
	if unchanged {
		cell.unchanged.Add(1)
	} else {
		cell.changed.Add(1)
	}
}

// Answered is how many requests [Pool.CountAnswered] has counted, and how many of them were unchanged.
func (p *Pool) Answered() (all, unchanged uint64) { return p.answered.sum() }
