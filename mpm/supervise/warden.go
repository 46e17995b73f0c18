package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

const (
	// wardenPatience is how long the warden may leave its pipe full.
	wardenPatience = 2 * time.Second

	// wardenRetry is the pause between tries to write to a full pipe.
	wardenRetry = 100 * time.Millisecond

	// atomicWrite is PIPE_BUF: so much goes into a pipe as a whole or not at all.
	atomicWrite = 4096
)

// warden is the process that outlives us to end what our processes have started: see [Watch]. Owned by the loop.
type warden struct {
	process             // pid 0: none runs
	pipe      int       // the write end; only we have it, so that its end is ours
	unsent    []byte    // whole records
	fullUntil time.Time // when a pipe that stays full has done so for too long; zero: it is not full
	restarts  restarts
	restartAt time.Time
}

// guarded reports whether there is to be a warden. When process 1 of a container ends, the kernel ends everything in it.
func (s *supervisor) guarded() bool { return len(s.plan.Warden.Args) > 0 && os.Getpid() != 1 }

// openWarden starts the first warden, before there is anything to guard.
func (s *supervisor) openWarden() error {
	if !s.guarded() {
		return nil
	}
	s.undo = append(s.undo, s.warden.dismiss)
	return s.startWarden(s.clock())
}

// startWarden starts a warden and queues what lives already. It has our user, no privilege to gain, and a folder that nobody
// wants to unmount.
func (s *supervisor) startWarden(now time.Time) error {
	null, err := ctl.Descriptor(s.null)
	if err != nil {
		return err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("warden: pipe: %w", err)
	}
	defer unix.Close(pipe[0]) //nolint:errcheck // the warden has it
	pid := 0
	if err = unix.SetNonblock(pipe[1], true); err == nil {
		pid, err = s.frontForker.start(image{
			path: Self, args: s.plan.Warden.Args, env: s.plan.Warden.Env, dir: "/",
			files: []uintptr{uintptr(pipe[0]), uintptr(null), 2}, outlives: true,
		})
	}
	if err != nil {
		return errors.Join(fmt.Errorf("warden: %w", err), unix.Close(pipe[1]))
	}
	w := &s.warden
	w.process, w.pipe, w.unsent, w.fullUntil = process{pid: pid, started: now}, pipe[1], nil, time.Time{}
	if s.front != nil {
		w.guard(s.front.pid)
	}
	for pid, c := range s.children {
		if c.held == nil { // else its parent leads the session
			w.guard(pid)
		}
	}
	for pid := range s.parents {
		w.guard(pid)
	}
	return nil
}

// guard has the warden told that pid, which we started, leads a session.
func (w *warden) guard(pid int) { w.tell(pid) }

// release has it told that pid was reaped. What is left of the session stays guarded.
func (w *warden) release(pid int) { w.tell(-pid) }

// tell queues a record. A warden that does not live hears all when it starts.
func (w *warden) tell(record int) {
	if w.pid != 0 {
		w.unsent = binary.LittleEndian.AppendUint32(w.unsent, uint32(int32(record))) //nolint:gosec // a pid
	}
}

// flush writes what the pipe takes without waiting.
func (w *warden) flush(now time.Time) {
	for len(w.unsent) > 0 {
		n, err := unix.Write(w.pipe, w.unsent[:min(len(w.unsent), atomicWrite)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			if w.fullUntil.IsZero() {
				w.fullUntil = now.Add(wardenPatience)
			}
			return
		case err != nil: // it is dead, and about to be reaped
			w.unsent = nil
			return
		}
		w.unsent = w.unsent[n:]
	}
	w.unsent, w.fullUntil = nil, time.Time{}
}

// wardenDue tells the warden what is new, and starts one whose time has come.
func (s *supervisor) wardenDue(now time.Time, next *soonest) {
	w := &s.warden
	if !s.guarded() || s.stop.phase >= sweeping {
		return
	}
	if w.pid == 0 && !now.Before(w.restartAt) {
		if err := s.startWarden(now); err != nil {
			s.log.Errorw("warden not started: next try in a second", "error", err)
			w.restartAt = now.Add(time.Second)
		}
	}
	if w.pid == 0 {
		next.add(w.restartAt)
		return
	}
	w.flush(now)
	if len(w.unsent) == 0 {
		return
	}
	if !now.Before(w.fullUntil) && !w.killed {
		s.log.Warnw("warden does not read its pipe: killing it", "pid", w.pid)
		w.signal(rung{signal: syscall.SIGKILL})
	}
	next.add(now.Add(wardenRetry))
}

// buryWarden forgets a warden that was reaped and decides when the next one comes.
func (s *supervisor) buryWarden(status unix.WaitStatus, now time.Time) {
	w := &s.warden
	pid := w.pid
	w.forget()
	delay := w.restarts.delay(now.Sub(w.started))
	w.restartAt = now.Add(delay)
	if s.stop.phase < sweeping {
		s.log.Warnw("warden exited: starting another", "pid", pid, "reason", describe(status), "delay", delay)
	}
}

// dismiss ends the warden, once there is nothing left to guard. It needs no word of ours for that, so a hung one goes too.
func (w *warden) dismiss() {
	if w.pid == 0 {
		return
	}
	w.signal(rung{signal: syscall.SIGKILL})
	for {
		if _, err := unix.Wait4(w.pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	w.forget()
}

func (w *warden) forget() {
	unix.Close(w.pipe) //nolint:errcheck // nobody reads it
	w.pid, w.unsent = 0, nil
}
