package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A warden gets records of four bytes, little-endian and signed: n for "process n leads a session", -n for "it was reaped".
const recordBytes = 4

const (
	// reviewPeriod is how soon a session that lost its leader and has no other process is forgotten. It is far less than the
	// kernel needs to come round to the same pid.
	reviewPeriod = 10 * time.Second

	// endTimeout is how long the warden tries to end what was left. endPause is between two looks.
	endTimeout = 2 * time.Second
	endPause   = 20 * time.Millisecond
)

// Watch makes this process the warden of the supervisor that started it: it reads from the pipe who lives and, when the pipe ends
// because the supervisor did, kills what was left. It returns how many processes these were. It takes the process's signals.
//
// The kernel ends the children of a killed supervisor by itself (the parent-death signal), but not what those have started.
// Each child leads a session, which its descendants can leave only for one of their own, as daemons do: those are not found.
func Watch(pipe int) (killed int, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(pipe, &st); err != nil {
		return 0, fmt.Errorf("descriptor %d: %w", pipe, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return 0, fmt.Errorf("descriptor %d is not a pipe", pipe)
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	w := newWatch()
	if err := w.follow(pipe); err != nil {
		return 0, err
	}
	return w.end(), nil
}

// watch is what a warden knows.
type watch struct {
	// sessions are those that may hold processes of the gateway. The value says whether the leader was not reaped yet; while it
	// wasn't, and while a process is left in it, the kernel gives the session's number to nobody else.
	sessions map[int]bool
	review   time.Time // of those without leader; zero: there are none
}

func newWatch() *watch { return &watch{sessions: map[int]bool{}} }

// follow reads until the pipe ends.
func (w *watch) follow(pipe int) error {
	buf := make([]byte, 1024*recordBytes) // whole records: they are written as such, and never in part
	for {
		fds := []unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		ready, err := unix.Poll(fds, w.timeout(time.Now()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		if ready > 0 {
			n, err := unix.Read(pipe, buf)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			if n == 0 {
				return nil
			}
			w.take(buf[:n])
		}
		w.advance(time.Now(), census)
	}
}

// take reads records. What can't be a session of a child is no record.
func (w *watch) take(b []byte) {
	for ; len(b) >= recordBytes; b = b[recordBytes:] {
		n := int(int32(binary.LittleEndian.Uint32(b))) //nolint:gosec // with its sign
		if n > 1 {
			w.sessions[n] = true
		} else if w.sessions[-n] {
			w.sessions[-n] = false
		}
	}
}

// timeout is what poll may wait, in milliseconds; -1: for ever.
func (w *watch) timeout(now time.Time) int {
	if w.review.IsZero() {
		return -1
	}
	return int(max(w.review.Sub(now), 0)/time.Millisecond) + 1
}

// advance forgets the sessions that ended, from time to time as long as there may be one.
func (w *watch) advance(now time.Time, table func() []member) {
	if !w.orphaned() {
		w.review = time.Time{}
		return
	}
	if w.review.IsZero() {
		w.review = now.Add(reviewPeriod)
	}
	if now.Before(w.review) {
		return
	}
	w.forget(table())
	w.review = now.Add(reviewPeriod)
}

// orphaned reports whether there is a session without leader.
func (w *watch) orphaned() bool {
	for _, led := range w.sessions {
		if !led {
			return true
		}
	}
	return false
}

// forget drops the sessions without leader in which nothing is left.
func (w *watch) forget(table []member) {
	inhabited := map[int]bool{}
	for _, m := range w.members(table) {
		inhabited[m.session] = true
	}
	for session, led := range w.sessions {
		if !led && !inhabited[session] {
			delete(w.sessions, session)
		}
	}
}

// member is a process and its session.
type member struct{ pid, session int }

// census lists all processes, zombies too.
func census() []member {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	table := make([]member, 0, len(names))
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		if session, err := unix.Getsid(pid); err == nil {
			table = append(table, member{pid, session})
		}
	}
	return table
}

// members picks the processes of the gateway. A session whose leader was reaped and which has one all the same is a stranger's.
func (w *watch) members(table []member) []member {
	leaders := map[int]bool{}
	for _, m := range table {
		if m.pid == m.session {
			leaders[m.pid] = true
		}
	}
	var found []member
	for _, m := range table {
		if led, known := w.sessions[m.session]; known && (led || !leaders[m.session]) {
			found = append(found, m)
		}
	}
	return found
}

// end kills until two looks in a row find nobody: a process that is just being forked may escape one.
func (w *watch) end() (killed int) {
	seen := map[int]bool{}
	quiet := 0
	for deadline := time.Now().Add(endTimeout); quiet < 2 && time.Now().Before(deadline); time.Sleep(endPause) {
		quiet++
		for _, m := range w.members(census()) {
			if m.send(unix.SIGKILL) {
				seen[m.pid], quiet = true, 0
			}
		}
	}
	return len(seen)
}

// send reports whether there was somebody to signal. The descriptor makes sure that it is still the one that was looked at.
func (m member) send(sig syscall.Signal) bool {
	fields := statFields(m.pid)
	if len(fields) == 0 || fields[0] == "Z" || fields[0] == "X" {
		return false
	}
	fd, err := unix.PidfdOpen(m.pid, 0)
	if errors.Is(err, unix.ENOSYS) { // Linux before 5.3
		return unix.Kill(m.pid, sig) == nil
	}
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // a pidfd
	if session, err := unix.Getsid(m.pid); err != nil || session != m.session {
		return false
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0) == nil
}
