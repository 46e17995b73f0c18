package supervise

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process is a process that we started and did not reap yet. Only such a one may be signalled by its pid: until then the
// kernel keeps that, and that of its group, for it.
type process struct {
	pid     int
	started time.Time
	climb   climb
	killed  bool // we have sent SIGKILL
	quits   bool // it is php-fpm, which finishes what it does at SIGQUIT, and at SIGTERM nothing

	held *held // how one is held that is not our own child; nil: it is
}

func (p *process) signal(r rung) {
	if p.quits && r.signal == syscall.SIGTERM && !r.group {
		r.signal = syscall.SIGQUIT
	}
	if r.signal == syscall.SIGKILL {
		p.killed = true
	}
	if p.held != nil {
		p.held.signal(r)
		return
	}
	target := p.pid
	if r.group {
		target = -p.pid
	}
	unix.Kill(target, r.signal) //nolint:errcheck // ESRCH: it is a zombie already; EPERM can't be: it is a child
}

// reap buries everybody who died, the orphans that we inherited too.
func (s *supervisor) reap(now time.Time) {
	for z, ok := nextZombie(); ok; z, ok = nextZombie() {
		c, par := s.children[z.pid], s.parents[z.pid]
		f := s.front
		switch {
		case par != nil:
			par.endGroup()
			s.buryParent(par, wait(z.pid))
		case c != nil && c.held == nil:
			if z.endGroup(&c.process) && c.group != nil {
				c.group.kill()
			}
			s.buryChild(c, wait(z.pid), now)
		case f != nil && f.pid == z.pid:
			z.endGroup(&f.process)
			s.buryFront(wait(z.pid), now)
		case s.warden.pid == z.pid:
			s.buryWarden(wait(z.pid), now)
		default:
			wait(z.pid)
			s.groups.sweep() // what kept a group busy may have been this one
		}
	}
	s.reapForked(now)
}

// zombie is a process that died and still holds its pid.
type zombie struct {
	pid     int
	crashed bool // ended by a signal, ours or its own
}

// endGroup kills what a process left behind that did not end in peace: a grandchild would keep its connections and
// its output open. One that ended in peace may leave something running on purpose, as PHP's exec("job &") does. It
// reports whether it did.
func (z zombie) endGroup(p *process) bool {
	if !z.crashed && p.climb.force < killing {
		return false
	}
	unix.Kill(-p.pid, syscall.SIGKILL) //nolint:errcheck // ESRCH: nobody is left
	return true
}

// siginfo is siginfo_t as waitid fills it. The union behind the first three is aligned like a pointer.
type siginfo struct {
	signo, errno, code int32
	child              struct {
		_   [0]uintptr
		pid int32
	}
	_ [128]byte // more than the rest
}

// nextZombie finds a dead child without reaping it.
func nextZombie() (zombie, bool) {
	var info siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || info.child.pid == 0 { // no child at all, or none is dead
			return zombie{}, false
		}
		const exited = 1 // CLD_EXITED
		return zombie{int(info.child.pid), info.code != exited}, true
	}
}

// wait reaps a zombie.
func wait(pid int) unix.WaitStatus {
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); !errors.Is(err, unix.EINTR) {
			return status
		}
	}
}

// describe says in words how a process ended.
func describe(status unix.WaitStatus) string {
	switch {
	case status.Exited():
		return fmt.Sprintf("exit status %d", status.ExitStatus())
	case status.CoreDump():
		return fmt.Sprintf("signal: %s (core dumped)", status.Signal())
	default:
		return fmt.Sprintf("signal: %s", status.Signal())
	}
}

// killOrphans kills every child of ours that we did not start, and reports whether there was one. As subreaper we inherit what
// our children leave behind.
func (s *supervisor) killOrphans() bool {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	found := false
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil || s.runs(pid) || parentOf(pid) != os.Getpid() {
			continue
		}
		found = true
		unix.Kill(pid, unix.SIGKILL) //nolint:errcheck // it is a child that only we reap: the pid is its own
	}
	return found
}

// runs reports whether a process is one of those that we know by name.
func (s *supervisor) runs(pid int) bool {
	return s.children[pid] != nil || s.parents[pid] != nil || pid == s.warden.pid || s.front != nil && pid == s.front.pid
}

// strays lists what we inherited: who has lost the process of ours that has started it.
func (s *supervisor) strays() []int { return slices.DeleteFunc(forkedBy(os.Getpid()), s.runs) }

// parentOf reads the parent of a process; 0 when there is none.
func parentOf(pid int) int {
	fields := statFields(pid)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1]) // 0 when it is no number
	return parent
}

// statFields reads what the kernel says of a process, from its state on; nil when there is no such process.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	// pid (name) state ppid …: the name may hold anything.
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}
