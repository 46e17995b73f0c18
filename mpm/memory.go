package mpm

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"strconv"
	"time"
)

// measureEvery is how often the memory of one child is read at most.
const measureEvery = time.Second

// measureLater reads the memory of a child that has finished a request, in a goroutine that ends with that.
func (p *Pool) measureLater(c *child, now time.Time) {
	if c.maxMemory == 0 || c.leaving != "" || now.Sub(c.measured) < measureEvery {
		return
	}
	c.measured, c.read = now, p.board[c.Slot].Requests
	p.workers.Go(func() { p.measured(c, p.footprint(c.PID)) })
}

// measureIdle reads the memory of the children whose last request came too soon after a reading.
func (p *Pool) measureIdle(now time.Time) {
	if p.cfg.MaxChildMemory == 0 {
		return
	}
	for _, c := range p.children {
		if c != nil && p.board[c.Slot].State == Idle && p.board[c.Slot].Requests != c.read {
			p.measureLater(c, now)
		}
	}
}

// measured has a child replaced that has grown too large; its requests are finished first.
func (p *Pool) measured(c *child, size int64) {
	p.mu.Lock()
	defer p.unlock()
	if size <= c.maxMemory || p.closed || p.children[c.Slot] != c || c.leaving != "" {
		return
	}
	p.recycle(c, ExitMemory, p.now())
}

// footprint reads what a process takes: its proportional share (PSS), in which memory that children share counts once, or, where
// the kernel doesn't let the front see that because the child belongs to another user, its resident memory. 0 if it has gone.
func footprint(pid int) int64 {
	resident, _ := statmBytes(pid)
	return cmp.Or(pssOf(pid), resident)
}

// forkedFootprint is footprint for a child that has an OPcache in common with others: where its share can't be seen, none of it counts,
// nor anything else that can be shared.
func forkedFootprint(pid int) int64 {
	resident, shared := statmBytes(pid)
	return cmp.Or(pssOf(pid), resident-shared)
}

// pssOf reads a process's proportional share; 0 if it has gone or may not be seen.
func pssOf(pid int) int64 {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	return pssBytes(rollup)
}

// pssBytes finds the line "Pss: 1234 kB" (proc_pid_smaps(5)).
func pssBytes(rollup []byte) int64 {
	for line := range bytes.Lines(rollup) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "Pss:" {
			continue
		}
		kib, err := strconv.ParseInt(string(fields[1]), 10, 54) // the rest is for the factor
		if err != nil {
			return 0
		}
		return kib << 10
	}
	return 0
}

// rssBytes reads a process's resident memory; 0 if it has gone.
func rssBytes(pid int) int64 {
	resident, _ := statmBytes(pid)
	return resident
}

// statmBytes reads a process's resident memory, and how much of that is of files or shared; 0 if it has gone.
func statmBytes(pid int) (resident, shared int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0
	}
	var size int64
	if _, err := fmt.Fscan(bytes.NewReader(text), &size, &resident, &shared); err != nil {
		return 0, 0
	}
	page := int64(os.Getpagesize())
	return resident * page, shared * page
}
