package supervise

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// held is how a process is held that another one of ours has forked: by a pidfd, because the other one reaps it, and then the pid may
// be a stranger's.
type held struct {
	pid    int
	handle *os.File // non-blocking, in the runtime's poller
	family family
}

// hold takes hold of the child of a parent in a place. The error is ESRCH when it is not there any more.
func (s *supervisor) hold(par *parent, slot, pid int) (*held, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("child %d: pidfd: %w", pid, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd) //nolint:errcheck // a pidfd
		return nil, fmt.Errorf("child %d: pidfd: %w", pid, err)
	}
	f := &held{pid: pid, handle: os.NewFile(uintptr(fd), "child")}
	f.family = family{
		strays: s.strays, since: startOf(pid), mark: par.pool.mark(slot), socket: socketLink(par.places[slot].listener),
		known: map[int]uint64{},
	}
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

func readable(fd int) bool { return poll(fd) != 0 }

// poll tells without waiting what a descriptor is ready for, of unix.POLLIN and unix.POLLHUP.
func poll(fd int) int16 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	if _, err := unix.Poll(fds, 0); err != nil {
		return 0
	}
	return fds[0].Revents
}

func (f *held) signal(r rung) {
	if r.group { // before the child: when it has ended, nobody can tell that they were below it
		if pids := below(f.pid); !f.ended() { // or the pid may be a stranger's
			f.family.note(pids)
		}
	}
	if fd, err := ctl.Descriptor(f.handle); err == nil {
		unix.PidfdSendSignal(fd, r.signal, nil, 0) //nolint:errcheck // ESRCH: it has ended
	}
	if r.group {
		f.family.signal(r.signal)
	}
}

// family is what a child has started that its parent has forked: all children of a parent are of one session and process group. It
// is who was below the child when that got its first signal; and of what is an orphan now, who has the child's mark, which it can
// only lower, or the listening socket of its place, which php-fpm leaves to whatever a script executes. What the child's
// predecessors in its place have left behind is older.
type family struct {
	strays func() []int // the orphans
	mark   uint64       // see [Pool.mark]
	socket string       // see [socketLink]
	since  uint64       // when the child started, in the kernel's ticks
	known  map[int]uint64
}

// familyLooks is how often a family is looked at: a process that is just being forked may escape a look.
const familyLooks = 3

// signal reaches everybody but the child itself. It reports whether the last look found nobody new.
func (f family) signal(sig syscall.Signal) (all bool) {
	seen := map[int]bool{}
	for range familyLooks {
		f.look()
		all = true
		for pid, start := range f.known {
			if !seen[pid] && (kin{pid, start}).send(sig) {
				seen[pid], all = true, false
			}
		}
		if all {
			break
		}
	}
	return all
}

// look finds the orphans of the family, and who is below anybody of it.
func (f family) look() {
	f.note(slices.DeleteFunc(f.strays(), func(pid int) bool { return !f.has(pid) }))
	var roots []int
	for pid, start := range f.known {
		if startOf(pid) == start {
			roots = append(roots, pid)
		}
	}
	f.note(below(roots...))
}

// note remembers processes, each with its start: the kernel may give the pid to a stranger.
func (f family) note(pids []int) {
	for _, pid := range pids {
		if start := startOf(pid); start >= f.since {
			f.known[pid] = start
		}
	}
}

// has tells of an orphan whether it is of the family.
func (f family) has(pid int) bool {
	return startOf(pid) >= f.since && (coreLimitOf(pid) == f.mark || slices.Contains(linksOf(pid), f.socket))
}

// kin is a process of a family: which, and when it started.
type kin struct {
	pid   int
	start uint64
}

// send reports whether there was somebody to signal. The descriptor makes sure that it is still the one that was looked at.
func (k kin) send(sig syscall.Signal) bool {
	fd, err := unix.PidfdOpen(k.pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // a pidfd
	return !readable(fd) && startOf(k.pid) == k.start && unix.PidfdSendSignal(fd, sig, nil, 0) == nil
}

// below lists the descendants of processes. It looks at each once: a pid may come again, as another process.
func below(todo ...int) (pids []int) {
	for seen := map[int]bool{}; len(todo) > 0; todo = todo[1:] {
		if pid := todo[0]; !seen[pid] {
			seen[pid] = true
			children := forkedBy(pid)
			pids, todo = append(pids, children...), append(todo, children...)
		}
	}
	return pids
}

// socketLink is what /proc says of a descriptor of this socket, in whichever process.
func socketLink(fd int) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("socket:[%d]", st.Ino)
}

// linksOf tells what the descriptors of a process are, as far as we may know.
func linksOf(pid int) (links []string) {
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(folder, e.Name())); err == nil {
			links = append(links, link)
		}
	}
	return links
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
