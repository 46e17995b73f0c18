package supervise

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// held is how a process is held that another one of ours has forked: by a pidfd, because the other one reaps it, and then the pid may
// be a stranger's.
type held struct {
	handle *os.File // non-blocking, in the runtime's poller
	family family
}

// hold takes hold of the child of a parent in a place. The error is ESRCH when it is not there any more.
func hold(par *parent, slot, pid int) (*held, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("child %d: pidfd: %w", pid, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd) //nolint:errcheck // a pidfd
		return nil, fmt.Errorf("child %d: pidfd: %w", pid, err)
	}
	f := &held{handle: os.NewFile(uintptr(fd), "child"), family: family{session: par.pid, since: startOf(pid), mark: par.pool.mark(slot)}}
	// What was read above and here is of the process that the handle holds if that has not ended since.
	if at, ok := placeOf(pid); !ok || at != slot || parentOf(pid) != par.pid || f.ended() {
		f.close()
		return nil, fmt.Errorf("child %d: %w", pid, unix.ESRCH)
	}
	return f, nil
}

func (f *held) close() { closeFile(f.handle) }

// await tells deaths when the process has ended. It ends with that, or when f is closed.
func (f *held) await(deaths chan<- os.Signal) {
	raw, err := f.handle.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool { return readable(int(fd)) })
	}
	if err != nil { // closed
		return
	}
	select {
	case deaths <- syscall.SIGCHLD:
	default: // there is one already
	}
}

func (f *held) ended() bool {
	fd, err := ctl.Descriptor(f.handle)
	return err == nil && readable(fd)
}

func readable(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

func (f *held) signal(r rung) {
	if fd, err := ctl.Descriptor(f.handle); err == nil {
		unix.PidfdSendSignal(fd, r.signal, nil, 0) //nolint:errcheck // ESRCH: it has ended
	}
	if r.group {
		f.family.signal(r.signal)
	}
}

// family is what a child has started that its parent has forked: all children of a parent are of one session and process group, so
// these are told by their mark. Those that the child's predecessors in its place have left behind are older.
type family struct {
	session int    // the parent's pid
	mark    uint64 // see [Pool.mark]
	since   uint64 // when the child started, in the kernel's ticks
}

// familyLooks is how often a family is looked at: a process that is just being forked may escape a look.
const familyLooks = 3

// signal reaches everybody but the child itself, and its successor.
func (f family) signal(sig syscall.Signal) {
	seen := map[int]bool{}
	for range familyLooks {
		found := false
		for _, m := range census() {
			if f.has(m) && !seen[m.pid] && m.send(sig) {
				seen[m.pid], found = true, true
			}
		}
		if !found {
			return
		}
	}
}

func (f family) has(m member) bool {
	return m.session == f.session && m.pid != f.session && parentOf(m.pid) != f.session && startOf(m.pid) >= f.since && coreLimitOf(m.pid) == f.mark
}

// startOf is when a process started, in ticks since the machine did; 0 when there is none.
func startOf(pid int) uint64 {
	const start = 19 // counted from the state
	fields := statFields(pid)
	if len(fields) <= start {
		return 0
	}
	n, _ := strconv.ParseUint(fields[start], 10, 64) // 0 when it is no number
	return n
}

// coreLimitOf is the hard limit of a process's core files; 0 when it has none, or that can't be seen.
func coreLimitOf(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		// Max core file size        soft        hard        bytes
		if rest, ok := strings.CutPrefix(string(line), "Max core file size"); ok {
			if fields := strings.Fields(rest); len(fields) > 1 {
				n, _ := strconv.ParseUint(fields[1], 10, 64) // 0 when it is unlimited
				return n
			}
		}
	}
	return 0
}
