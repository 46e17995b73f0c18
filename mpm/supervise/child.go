package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/internal/quiet"
)

// pool is a pool of the plan with the children that it has. Owned by the loop.
type pool struct {
	Pool
	slots   map[int]*child
	parent  *parent // of the children; nil: none runs
	refusal quiet.Limiter
	group   string // folder of its control group; empty: none
}

// child is one process of a pool. Owned by the loop.
type child struct {
	process
	pool       *pool
	parent     *parent // that has forked it; nil: we have
	slot       int
	generation int
	socket     string      // name in the socket folder
	group      *childGroup // nil: none
	output     *os.File    // read end of its standard output and error: for the fronts, never read here; nil: its parent has it

	bereaved unix.WaitStatus // what is told of its end, since its parent has ended; 0: that has not
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
	if p.FPM {
		s.startForked(p, m, now)
		return
	}
	c, err := s.forkChild(p, m.Slot, now)
	if err != nil {
		s.send(failed(m, err), nil, nil)
		return
	}
	s.warden.guard(c.pid)
	s.enter(c, now)
}

// enter puts a child that runs into the books and tells the front.
func (s *supervisor) enter(c *child, now time.Time) {
	c.pool.slots[c.slot] = c
	s.children[c.pid] = c
	s.announce(c, now)
}

// announce tells the front of a child.
func (s *supervisor) announce(c *child, now time.Time) {
	output := c.output
	if output == nil {
		output = s.null
	}
	s.send(c.message(s.folder, now), output, nil)
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
	if suppressed, ok := l.Pass(now, limiterPeriod); ok {
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

// forkChild starts a process of p: descriptor 0 is its private listening socket, 1 and 2 its output, and there is no other. A
// program that may make its own socket has the private one as descriptor 3.
func (s *supervisor) forkChild(p *pool, slot int, now time.Time) (*child, error) {
	c := &child{process: process{started: now}, pool: p, slot: slot, generation: s.plan.Generation}
	listener, name, err := s.folder.listen(p)
	if err != nil {
		return nil, err
	}
	defer unix.Close(listener) //nolint:errcheck // the child has it
	c.socket = name
	if err := s.openChildGroup(c); err != nil {
		return nil, errors.Join(err, s.unmakeChild(c))
	}
	if err := s.forkWithOutput(c, listener); err != nil {
		return nil, errors.Join(err, s.unmakeChild(c))
	}
	exposeToOOM(c.pid)
	return c, nil
}

// openChildGroup makes the control group of c, if its pool has some.
func (s *supervisor) openChildGroup(c *child) error {
	group, err := s.groups.newChild(c.pool)
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	c.group = group
	return nil
}

// unmakeChild removes what was made for a child, when it never ran or was reaped.
func (s *supervisor) unmakeChild(c *child) error {
	if c.group != nil {
		s.groups.bury(c.group)
	}
	if c.held != nil { // its socket is that of the place
		c.held.close()
		return nil
	}
	var err error
	if c.pool.OwnSocket {
		err = s.folder.removeOwn(c.socket, ownerOf(c.pool.Credential))
	}
	return errors.Join(err, s.folder.remove(c.socket))
}

func (s *supervisor) forkWithOutput(c *child, listener int) error {
	output, end, err := outputPipe()
	if err != nil {
		return err
	}
	defer unix.Close(end) //nolint:errcheck // the child has it
	c.output = output
	if c.pid, err = s.start(c, uintptr(listener), uintptr(end)); err != nil {
		return errors.Join(err, output.Close())
	}
	return nil
}

// outputPipe makes the pipe of a process's output: our end, and the process's.
func outputPipe() (output *os.File, end int, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("pipe: %w", err)
	}
	output = os.NewFile(uintptr(pipe[0]), "output of a child") // blocking still: so the runtime's poller does not get it
	if err := unix.SetNonblock(pipe[0], true); err != nil {    // for the front's poller; the process's end stays blocking
		return nil, -1, errors.Join(fmt.Errorf("pipe: %w", err), output.Close(), unix.Close(pipe[1]))
	}
	return output, pipe[1], nil
}

// start forks c.
func (s *supervisor) start(c *child, listener, output uintptr) (pid int, err error) {
	p := c.pool
	i := image{
		path: p.Path, args: p.Args, env: p.Env, dir: p.Dir, credential: p.Credential, files: []uintptr{listener, output, output},
	}
	if p.OwnSocket {
		null, err := ctl.Descriptor(s.null)
		if err != nil {
			return 0, err
		}
		i.files = []uintptr{uintptr(null), output, output, listener}
		folder := s.folder.ownFolderOf(c.socket, ownerOf(p.Credential))
		i.args, i.env = withSocket(p, filepath.Join(folder, filepath.Base(ctl.OwnSocket(c.socket))))
	}
	return s.spawn(i, p, c.group)
}

// spawn starts an image for a pool, in a control group unless that is nil, and by way of a launcher if the pool needs one.
func (s *supervisor) spawn(i image, p *pool, group *childGroup) (pid int, err error) {
	if group != nil {
		i.cgroup = group.folder
		defer closeFile(group.folder)
	}
	i.coarse = p.Path == Self
	if p.launched() {
		var order *os.File
		if i, order, err = s.launcher(i, p); err != nil {
			return 0, err
		}
		defer closeFile(order)
	}
	return s.childForker.start(i)
}

// withSocket tells a program where it may listen.
func withSocket(p *pool, path string) (args, env []string) {
	args = append(args, p.Args[0])
	for _, a := range p.Args[1:] {
		args = append(args, strings.ReplaceAll(a, SocketPlaceholder, path))
	}
	return args, append(slices.Clone(p.Env), "GATEWAY_SOCKET="+path)
}

// buryChild forgets a child that was reaped and tells the front.
func (s *supervisor) buryChild(c *child, status unix.WaitStatus, now time.Time) {
	if s.children[c.pid] == c {
		delete(s.children, c.pid)
	}
	delete(c.pool.slots, c.slot)
	if c.held == nil {
		s.warden.release(c.pid)
	}
	oom := s.endedByOOM(c, status, now)
	if err := s.unmakeChild(c); err != nil && !errors.Is(err, unix.ENOENT) {
		s.log.Warnw("socket of a child not removed", "socket", c.socket, "error", err)
	}
	s.send(ctl.Message{
		Kind: ctl.Exited, Pool: c.pool.Name, Slot: c.slot, PID: c.pid, Generation: c.generation, Status: int(status), OOM: oom,
	}, nil, c.output)
}

// limiterPeriod is how often at most the log says what an honest front does not cause.
const limiterPeriod = 10 * time.Second
