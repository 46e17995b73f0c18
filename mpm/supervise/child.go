package supervise

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// pool is a pool of the plan with the children that it has. Owned by the loop.
type pool struct {
	Pool
	slots   map[int]*child
	refusal limiter
}

// child is one process of a pool. Owned by the loop.
type child struct {
	process
	pool       *pool
	slot       int
	generation int
	socket     string   // name in the socket folder
	output     *os.File // read end of its standard output and error: for the fronts, never read here
}

// message tells a front of c.
func (c *child) message(d *socketFolder, now time.Time) ctl.Message {
	return ctl.Message{
		Kind: ctl.Child, Pool: c.pool.Name, Slot: c.slot, PID: c.pid, Generation: c.generation,
		Socket: socketPath(d.runtime.Name(), c.socket), Seconds: max(now.Sub(c.started).Seconds(), 0),
	}
}

// childOf finds the child that m means, if it is still the one in its place: a message may be older than what happened since.
func (s *supervisor) childOf(m ctl.Message) *child {
	c := s.children[m.PID]
	if c == nil || c.pool.Name != m.Pool || c.slot != m.Slot || c.generation != m.Generation {
		return nil
	}
	return c
}

// startChild does what a Start asks, and answers with Child or Failed.
func (s *supervisor) startChild(m ctl.Message, now time.Time) {
	p, err := s.admit(m)
	if err != nil {
		s.refuse(m, err, now)
		return
	}
	c, err := s.forkChild(p, m.Slot, now)
	if err != nil {
		s.send(failed(m, err), nil, nil)
		return
	}
	p.slots[c.slot] = c
	s.children[c.pid] = c
	s.send(c.message(s.folder, now), c.output, nil)
}

// admit checks a Start against the plan and what runs.
func (s *supervisor) admit(m ctl.Message) (*pool, error) {
	p := s.pools[m.Pool]
	switch {
	case p == nil:
		return nil, errors.New("unknown pool")
	case m.Generation != s.plan.Generation:
		return nil, fmt.Errorf("generation %d is not the current one, %d", m.Generation, s.plan.Generation)
	case m.Slot >= p.Slots:
		return nil, fmt.Errorf("slot %d: the pool has %d", m.Slot, p.Slots)
	case p.slots[m.Slot] != nil:
		return nil, fmt.Errorf("slot %d is taken by pid %d", m.Slot, p.slots[m.Slot].pid)
	case s.stop.phase > draining:
		return nil, errors.New("stopping")
	}
	return p, nil
}

// refuse answers a Start that an honest front would not send.
func (s *supervisor) refuse(m ctl.Message, reason error, now time.Time) {
	l := &s.refusal
	if p := s.pools[m.Pool]; p != nil {
		l = &p.refusal
	}
	if suppressed, ok := l.allow(now); ok {
		s.log.Warnw("refused to start a child", "pool", m.Pool, "slot", m.Slot, "reason", reason, "suppressed", suppressed)
	}
	s.send(failed(m, reason), nil, nil)
}

func failed(m ctl.Message, reason error) ctl.Message {
	text := reason.Error()
	return ctl.Message{
		Kind: ctl.Failed, Pool: m.Pool, Slot: m.Slot, Generation: m.Generation, Text: text[:min(len(text), ctl.MaxTextBytes)],
	}
}

// forkChild starts a process of p: descriptor 0 is its private listening socket, 1 and 2 its output, and there is no other.
func (s *supervisor) forkChild(p *pool, slot int, now time.Time) (*child, error) {
	listener, name, err := s.folder.listen()
	if err != nil {
		return nil, err
	}
	defer unix.Close(listener) //nolint:errcheck // the child has it
	pid, output, err := s.forkWithOutput(p, listener)
	if err != nil {
		return nil, errors.Join(err, s.folder.remove(name))
	}
	return &child{
		process: process{pid: pid, started: now}, pool: p, slot: slot,
		generation: s.plan.Generation, socket: name, output: output,
	}, nil
}

func (s *supervisor) forkWithOutput(p *pool, listener int) (pid int, output *os.File, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, nil, fmt.Errorf("pipe: %w", err)
	}
	defer unix.Close(pipe[1])                                  //nolint:errcheck // the child has it
	output = os.NewFile(uintptr(pipe[0]), "output of a child") // blocking still: so the runtime's poller does not get it
	err = unix.SetNonblock(pipe[0], true)                      // for the front's poller; the child's end stays blocking
	if err == nil {
		pid, err = s.childForker.start(image{
			path: p.Path, args: p.Args, env: p.Env, dir: p.Dir, credential: p.Credential,
			files: []uintptr{uintptr(listener), uintptr(pipe[1]), uintptr(pipe[1])},
		})
	}
	if err != nil {
		return 0, nil, errors.Join(err, output.Close())
	}
	return pid, output, nil
}

// buryChild forgets a child that was reaped and tells the front.
func (s *supervisor) buryChild(c *child, status unix.WaitStatus) {
	delete(s.children, c.pid)
	delete(c.pool.slots, c.slot)
	if err := s.folder.remove(c.socket); err != nil && !errors.Is(err, unix.ENOENT) {
		s.log.Warnw("socket of a child not removed", "socket", c.socket, "error", err)
	}
	s.send(ctl.Message{
		Kind: ctl.Exited, Pool: c.pool.Name, Slot: c.slot, PID: c.pid, Generation: c.generation, Status: int(status),
	}, nil, c.output)
}

// limiter lets a repeated log message through once in a while and counts the rest.
type limiter struct {
	last       time.Time
	suppressed int
}

const limiterPeriod = 10 * time.Second

func (l *limiter) allow(now time.Time) (suppressed int, ok bool) {
	if !l.last.IsZero() && now.Sub(l.last) < limiterPeriod {
		l.suppressed++
		return 0, false
	}
	suppressed = l.suppressed
	*l = limiter{last: now}
	return suppressed, true
}
