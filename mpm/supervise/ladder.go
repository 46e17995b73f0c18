package supervise

import (
	"syscall"
	"time"
)

// rung is one step of a ladder: a signal to a process, or to its whole group.
type rung struct {
	after  time.Duration // since the first step
	signal syscall.Signal
	group  bool
}

// stopLadder is Apache's: a process that may finish what it does gets three reminders.
func stopLadder() []rung {
	return []rung{
		{after: 0, signal: syscall.SIGTERM},
		{after: 3 * time.Second, signal: syscall.SIGTERM},
		{after: 5 * time.Second, signal: syscall.SIGTERM},
		{after: 7 * time.Second, signal: syscall.SIGTERM},
		{after: 9 * time.Second, signal: syscall.SIGKILL, group: true},
	}
}

// killLadder is for a process that overran its time. What it started must go with it.
func killLadder(after time.Duration) []rung {
	return []rung{
		{after: 0, signal: syscall.SIGTERM, group: true},
		{after: after, signal: syscall.SIGKILL, group: true},
	}
}

// killAfter leaves a process some time to end by itself.
func killAfter(after time.Duration) []rung {
	return []rung{{after: after, signal: syscall.SIGKILL, group: true}}
}

// force says how hard a process is being ended. A ladder replaces only one of less force.
type force int

const (
	none     force = iota
	stopping       // it may finish
	killing        // its time is over
	atOnce         // so is ours
)

// climb is the way of one process along a ladder. Its zero value is a process that nobody wants to end.
type climb struct {
	force force
	begun time.Time
	left  []rung // in order of time
}

// begin puts the process on a ladder, unless it is on one of the same force or more. A SIGKILL that was
// already due by the old ladder does not come later by the new one.
func (c *climb) begin(now time.Time, f force, rungs []rung) {
	if f <= c.force {
		return
	}
	if n := len(c.left); n > 0 {
		due := max(c.begun.Add(c.left[n-1].after).Sub(now), 0)
		last := &rungs[len(rungs)-1]
		last.after = min(last.after, due)
	}
	*c = climb{force: f, begun: now, left: rungs}
}

// due takes the steps whose time has come.
func (c *climb) due(now time.Time) []rung {
	n := 0
	for n < len(c.left) && !now.Before(c.begun.Add(c.left[n].after)) {
		n++
	}
	steps := c.left[:n]
	c.left = c.left[n:]
	return steps
}

// next is the time of the next step; zero: there is none.
func (c *climb) next() time.Time {
	if len(c.left) == 0 {
		return time.Time{}
	}
	return c.begun.Add(c.left[0].after)
}

// soonest gathers the earliest of several times. Zero times don't count.
type soonest struct{ time.Time }

func (s *soonest) add(t time.Time) {
	if !t.IsZero() && (s.IsZero() || t.Before(s.Time)) {
		s.Time = t
	}
}
