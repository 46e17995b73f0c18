package mpm

import "sync/atomic"

// counter counts what several goroutines do often and somebody asks for rarely. Each event loop has a cell, alone on its cache line.
type counter [16]struct {
	n atomic.Uint64
	_ [56]byte
}

func (c *counter) add(loop int) { c[loop%len(c)].n.Add(1) }

func (c *counter) sum() (n uint64) {
	for i := range c {
		n += c[i].n.Load()
	}
	return n
}

// CountAnswered counts a request of the pool that an event loop has answered from memory, without a slot.
func (p *Pool) CountAnswered(loop int) { p.answered.add(loop) }

// Answered is how many requests [Pool.CountAnswered] has counted.
func (p *Pool) Answered() uint64 { return p.answered.sum() }
