package supervise

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

const (
	// MaxForked is how many children one parent has at most: so many sockets it can be told of in one environment variable.
	MaxForked = 1024

	// firstForkTimeout is how long a parent may take to fork its first child, its own start included; forkTimeout is for the others.
	firstForkTimeout = 30 * time.Second
	forkTimeout      = 10 * time.Second

	// forkLook is how often to look for a child that is to come.
	forkLook = 2 * time.Millisecond
)

// parent is the process that forks the children of a pool, so that they share what it has made: php-fpm's master, and the OPcache.
// Each place of the pool has a socket, and the parent forks a child when somebody connects to one that has none. Owned by the loop.
type parent struct {
	process
	pool    *pool
	output  *os.File // read end of what it and its children write: for the fronts, never read here
	group   *childGroup
	places  []place
	coming  map[int]time.Time // places whose child was asked for, and when it is too late for that
	patient time.Duration     // how long one may take to come
	knockAt time.Time
}

// place is where a parent has a child at most.
type place struct {
	socket   string // name in the socket folder
	listener int    // never accepted from here
}

// startForked does what a Start asks: the answer follows when the child is there. One that a front has asked for before it died is
// still to come.
func (s *supervisor) startForked(p *pool, m ctl.Message, now time.Time) {
	if p.parent == nil {
		if err := s.startParent(p, now); err != nil {
			s.send(failed(m, err), nil, nil)
			return
		}
	}
	if _, comes := p.parent.coming[m.Slot]; comes {
		return
	}
	if err := s.folder.knock(p.parent.places[m.Slot].socket); err != nil {
		s.send(failed(m, err), nil, nil)
		if unreachable(err) {
			s.retireParent(p.parent, err, now)
		}
		return
	}
	p.parent.coming[m.Slot] = now.Add(p.parent.patient)
}

// startParent starts the parent of a pool's children, which has none yet.
func (s *supervisor) startParent(p *pool, now time.Time) error {
	par := &parent{
		process: process{started: now, quits: true}, pool: p,
		coming: map[int]time.Time{}, patient: firstForkTimeout, knockAt: now.Add(s.fpmIdle / 3),
	}
	if err := s.forkParent(par); err != nil {
		return errors.Join(err, s.unmakeParent(par))
	}
	p.parent = par
	s.parents[par.pid] = par
	s.warden.guard(par.pid)
	s.introduce(par)
	return nil
}

func (s *supervisor) forkParent(par *parent) error {
	paths, err := s.openPlaces(par)
	if err != nil {
		return err
	}
	if par.group, err = s.groups.newParent(par.pool); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	var end int
	if par.output, end, err = outputPipe(); err != nil {
		return err
	}
	defer unix.Close(end) //nolint:errcheck // the parent has it
	config, err := ctl.NewBlob(fpmConfig(&par.pool.Pool, paths, s.fpmIdle))
	if err != nil {
		return err
	}
	defer closeFile(config)
	i := fpmImage(&par.pool.Pool, paths)
	if i.files, err = s.filesOf(par, end, config); err != nil {
		return err
	}
	par.pid, err = s.spawn(i, par.pool, par.group)
	return err
}

// openPlaces makes the sockets of all places and returns their paths.
func (s *supervisor) openPlaces(par *parent) (paths []string, err error) {
	for range par.pool.Slots {
		listener, name, err := s.folder.listen(par.pool)
		if err != nil {
			return nil, err
		}
		par.places = append(par.places, place{name, listener})
		paths = append(paths, socketPath(s.folder.runtime.Name(), name))
	}
	return paths, nil
}

// filesOf are the descriptors of a parent: an empty input, its output twice, the sockets, the configuration.
func (s *supervisor) filesOf(par *parent, output int, config *os.File) ([]uintptr, error) {
	null, err := ctl.Descriptor(s.null)
	if err != nil {
		return nil, err
	}
	blob, err := ctl.Descriptor(config)
	if err != nil {
		return nil, err
	}
	files := []uintptr{uintptr(null), uintptr(output), uintptr(output)}
	for _, p := range par.places {
		files = append(files, uintptr(p.listener))
	}
	return append(files, uintptr(blob)), nil
}

// unmakeParent removes what was made for a parent, when it never ran or was reaped.
func (s *supervisor) unmakeParent(par *parent) error {
	var errs []error
	for _, p := range par.places {
		unix.Close(p.listener)                                              //nolint:errcheck // a socket
		if err := s.folder.remove(p.socket); !errors.Is(err, unix.ENOENT) { // php-fpm removes what it can
			errs = append(errs, err)
		}
	}
	if par.group != nil {
		s.groups.bury(par.group)
	}
	closeFile(par.output)
	return errors.Join(errs...)
}

// introduce gives the front the output of a parent: a duplicate, because the parent may end before the message leaves.
func (s *supervisor) introduce(par *parent) {
	fd, err := ctl.Descriptor(par.output)
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		s.log.Errorw("output of a pool's parent is not logged", "pool", par.pool.Name, "pid", par.pid, "error", err)
		return
	}
	output := os.NewFile(uintptr(fd), par.output.Name())
	s.send(ctl.Message{Kind: ctl.Parent, Pool: par.pool.Name, PID: par.pid}, output, output)
}

// parentDue does what is due for a parent and its children that are to come.
func (s *supervisor) parentDue(par *parent, now time.Time, next *soonest) {
	par.advance(now, next)
	s.welcome(par, now)
	for _, late := range par.coming {
		if !now.Before(late) {
			s.retireParent(par, fmt.Errorf("php-fpm %d: no child after %v", par.pid, par.patient), now)
		}
	}
	if len(par.coming) > 0 {
		next.add(now.Add(forkLook))
	}
	s.knock(par, now, next)
	next.add(par.climb.next()) // it may just have been retired, and its children, whose turn is over, with it
}

// welcome finds the children that were asked for.
func (s *supervisor) welcome(par *parent, now time.Time) {
	if len(par.coming) == 0 {
		return
	}
	for _, pid := range forkedBy(par.pid) {
		if s.children[pid] != nil {
			continue
		}
		slot, ok := placeOf(pid)
		if _, comes := par.coming[slot]; !ok || !comes {
			continue
		}
		c, err := s.adopt(par, slot, pid, now)
		switch {
		case err == nil:
			delete(par.coming, slot)
			par.patient = s.forkTimeout
			s.enter(c, now)
		case !errors.Is(err, unix.ESRCH): // else it has ended already, and its parent forks another one
			s.giveUp(par, slot, err)
		}
	}
}

// adopt makes what a parent has forked a child of the pool.
func (s *supervisor) adopt(par *parent, slot, pid int, now time.Time) (*child, error) {
	f, err := s.hold(par, slot, pid)
	if err != nil {
		return nil, err
	}
	c := &child{
		process: process{pid: pid, started: now, quits: true, held: f},
		pool:    par.pool, parent: par, slot: slot, generation: s.plan.Generation, socket: par.places[slot].socket,
	}
	err = s.openChildGroup(c)
	if err == nil && c.group != nil {
		err = c.group.take(pid)
	}
	if err != nil {
		return nil, errors.Join(err, s.unmakeChild(c))
	}
	exposeToOOM(pid)
	s.readers.Go(func() { f.await(s.deaths) }) // ends with the child, or when f is closed
	return c, nil
}

// giveUp answers for a child that does not come.
func (s *supervisor) giveUp(par *parent, slot int, err error) {
	delete(par.coming, slot)
	s.send(failed(ctl.Message{Pool: par.pool.Name, Slot: slot, Generation: s.plan.Generation}, err), nil, nil)
}

// knock keeps the children that were asked for from being ended by their parent, which ends those to which nobody connects. It also
// finds the places to which nobody can: there the parent forks one child after the other, each of which ends at once.
func (s *supervisor) knock(par *parent, now time.Time, next *soonest) {
	if par.retired() {
		return
	}
	if !now.Before(par.knockAt) {
		par.knockAt = now.Add(s.fpmIdle / 3)
		for slot, p := range par.places {
			var err error
			switch {
			case p.shut():
				err = errShut
			case par.pool.slots[slot] != nil && !readable(p.listener): // else one waits already
				err = s.folder.knock(p.socket)
			}
			if unreachable(err) {
				s.retireParent(par, err, now)
				return
			}
		}
	}
	next.add(par.knockAt)
}

// errShut is of a place whose socket somebody has shut down: what a script executes inherits it. Nothing opens that again.
var errShut = errors.New("a listening socket was shut down, perhaps by a program that a script has started")

func (p place) shut() bool { return poll(p.listener)&unix.POLLHUP != 0 }

// unreachable tells from an error of [socketFolder.knock] that no knock will be heard any more.
func unreachable(err error) bool {
	return errors.Is(err, errShut) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

// retireParent replaces a parent that does not fork any more: the next Start brings another one, with sockets of its own. This one's
// children finish what they do.
func (s *supervisor) retireParent(par *parent, reason error, now time.Time) {
	if par.retired() {
		return
	}
	s.log.Errorw("parent of a pool's children forks no more: ending it, the next child that starts gets another one",
		"pool", par.pool.Name, "pid", par.pid, "error", reason)
	par.pool.parent = nil
	par.climb.begin(now, stopping, s.stopLadder())
	for c := range par.children() {
		c.bereaved = ctl.Orphaned // it is not blamed
		c.climb.begin(now, stopping, s.stopLadder())
	}
	for slot := range par.coming {
		s.giveUp(par, slot, reason)
	}
}

// retired reports whether the pool has another parent, or is to get one.
func (par *parent) retired() bool { return par.pool.parent != par }

// children are those that were asked for.
func (par *parent) children() iter.Seq[*child] {
	return func(yield func(*child) bool) {
		for _, c := range par.pool.slots {
			if c.parent == par && !yield(c) {
				return
			}
		}
	}
}

// forkedBy lists the children of a process.
func forkedBy(pid int) (pids []int) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, t := range threads {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil { // it has ended
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// reapForked buries the children that have ended, which their parents reap.
func (s *supervisor) reapForked(now time.Time) {
	for _, p := range s.pools {
		for _, c := range p.slots { // not by pid: another child may have got that
			if c.held != nil && c.held.ended() {
				s.buryForked(c, now)
			}
		}
	}
}

func (s *supervisor) buryForked(c *child, now time.Time) {
	status := c.fate()
	if status != peaceful {
		if c.group != nil {
			c.group.kill()
		}
		if !c.held.family.signal(syscall.SIGKILL) {
			s.retireParent(c.parent, errOvergrown, now)
		}
	}
	if par := c.parent; !par.retired() && par.places[c.slot].shut() {
		s.retireParent(par, errShut, now)
	}
	s.buryChild(c, status, now)
}

// errOvergrown is of a child that has left behind more than could be killed: they may have the socket of its place.
var errOvergrown = errors.New("what a killed child has started forks faster than it can be killed")

// peaceful is the status of a child that left when it was asked to.
const peaceful unix.WaitStatus = 0

// fate is what is known of the end of a child that somebody else has reaped: what we have done to it.
func (c *child) fate() unix.WaitStatus {
	switch {
	case c.bereaved != 0:
		return c.bereaved
	case c.killed:
		return unix.WaitStatus(syscall.SIGKILL)
	case c.climb.force >= killing:
		return unix.WaitStatus(syscall.SIGTERM)
	case c.climb.force == stopping:
		return peaceful
	}
	return ctl.Unseen
}

// endGroup kills all children of a parent that died, and what they have started.
func (par *parent) endGroup() {
	unix.Kill(-par.pid, syscall.SIGKILL) //nolint:errcheck // ESRCH: nobody is left
}

// buryParent forgets a parent that was reaped. The next Start starts another one.
func (s *supervisor) buryParent(par *parent, status unix.WaitStatus) {
	delete(s.parents, par.pid)
	s.warden.release(par.pid)
	if s.stop.phase == running && !par.retired() {
		s.log.Errorw("parent of a pool's children exited, and they with it: the next one that starts gets another parent",
			"pool", par.pool.Name, "pid", par.pid, "reason", describe(status), "children", len(par.pool.slots))
	}
	if !par.retired() {
		par.pool.parent = nil
	}
	if err := s.unmakeParent(par); err != nil {
		s.log.Warnw("sockets of a pool not removed", "pool", par.pool.Name, "error", err)
	}
	for slot := range par.coming {
		s.giveUp(par, slot, fmt.Errorf("php-fpm %d: %s", par.pid, describe(status)))
	}
	fate := unix.WaitStatus(ctl.Unseen) // of the first: one failure is to count as one
	for c := range par.children() {
		if c.bereaved == 0 {
			c.bereaved = fate
		}
		c.signal(rung{signal: syscall.SIGKILL, group: true}) // endGroup misses one that has made a session of its own
		fate = ctl.Orphaned
	}
}

// abandonForked ends the goroutines of children that could not be ended.
func (s *supervisor) abandonForked() {
	for _, c := range s.children {
		if c.held != nil {
			c.held.close()
		}
	}
}
