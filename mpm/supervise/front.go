package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

const (
	// readyTimeout is how long a front may take from its start to Ready.
	readyTimeout = 30 * time.Second

	// leaveTimeout is how long a front may live after it closed its end of the socketpair.
	leaveTimeout = time.Second

	// spareMessages is how many messages may wait for the front beside those of its start.
	spareMessages = 1024
)

// front is the one front process.
type front struct {
	process
	conn    *ctl.Conn
	out     chan outgoing // read by the writer, closed by the loop
	ready   bool
	readyBy time.Time
	pulse   pulse
}

// outgoing is a message on its way to the front.
type outgoing struct {
	message ctl.Message
	file    *os.File // nil: none
	release *os.File // closed once the message left, or can't any more; nil: none
}

// event is what a goroutine of a front tells the loop: a message, or why there will be no more.
type event struct {
	front   *front
	message ctl.Message
	err     error
}

// startFront starts a front and queues all that it has to know.
func (s *supervisor) startFront(now time.Time) error {
	conn, other, err := ctl.Pair()
	if err != nil {
		return err
	}
	pid, err := s.forkFront(other)
	if err = errors.Join(err, other.Close()); err != nil {
		return errors.Join(fmt.Errorf("front: %w", err), conn.Close())
	}
	s.front = &front{
		process: process{pid: pid, started: now},
		conn:    conn,
		out:     make(chan outgoing, len(s.sockets)+len(s.children)+spareMessages),
		readyBy: now.Add(s.readyTimeout),
	}
	f := s.front
	s.warden.guard(pid)
	s.readers.Go(func() { f.write(s.events, s.done) }) // ends when out is closed
	s.readers.Go(func() { f.read(s.events, s.done) })  // ends when conn is closed
	s.log.Infow("front started", "pid", pid)
	s.handOver(now)
	return nil
}

func (s *supervisor) forkFront(control *os.File) (pid int, err error) {
	fd, err := ctl.Descriptor(control)
	if err != nil {
		return 0, err
	}
	null, err := ctl.Descriptor(s.null)
	if err != nil {
		return 0, err
	}
	p := s.plan.Front
	return s.frontForker.start(image{
		path:       Self,
		args:       p.Args,
		env:        p.Env,
		credential: p.Credential,
		files:      []uintptr{uintptr(null), 1, 2, uintptr(fd)},
	})
}

// handOver sends a new front what lives already: sockets first, then children, then what to do with them.
func (s *supervisor) handOver(now time.Time) {
	for _, l := range s.sockets {
		s.send(ctl.Message{Kind: ctl.Listener, Address: l.address}, l.file, nil)
	}
	for _, p := range s.parents {
		s.introduce(p)
	}
	for _, c := range s.children {
		s.announce(c, now)
	}
	s.passFiles()
	s.send(ctl.Message{Kind: ctl.Setup, Generation: s.plan.Generation}, s.setup, nil)
}

// send queues m for the front, if there is one. A front that lets the queue fill is hung: it is killed.
//
// The file must stay open until the message left. That holds for files that live as long as the supervisor, for release,
// and for a child's output, because it is the release of the child's last message.
func (s *supervisor) send(m ctl.Message, file, release *os.File) {
	if s.front == nil {
		closeFile(release)
		return
	}
	select {
	case s.front.out <- outgoing{m, file, release}:
	default:
		closeFile(release)
		s.log.Warnw("front does not read its messages: killing it", "pid", s.front.pid)
		s.front.climb.begin(s.clock(), atOnce, killAfter(0))
	}
}

// write sends what is queued. After an error it only releases.
func (f *front) write(events chan<- event, done <-chan struct{}) {
	var failed bool
	for o := range f.out {
		if !failed {
			if err := f.sendOne(o); err != nil {
				failed = true
				report(event{front: f, err: err}, events, done)
			}
		}
		closeFile(o.release)
	}
}

func (f *front) sendOne(o outgoing) error {
	if o.file == nil {
		return f.conn.Send(o.message)
	}
	return f.conn.Send(o.message, o.file)
}

// read passes on what the front says, until its first error.
func (f *front) read(events chan<- event, done <-chan struct{}) {
	for {
		m, _, err := f.conn.Recv() // no kind of the front's has a file
		report(event{f, m, err}, events, done)
		if err != nil {
			return
		}
	}
}

func report(e event, events chan<- event, done <-chan struct{}) {
	select {
	case events <- e:
	case <-done:
	}
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close() //nolint:errcheck // a socket or the read end of a pipe
	}
}

// frontEvent acts on what the front says. What an earlier front said is stale.
func (s *supervisor) frontEvent(e event, now time.Time) {
	if e.front != s.front {
		return
	}
	if e.err != nil {
		s.frontCutOff(e.err, now)
		return
	}
	switch m := e.message; m.Kind {
	case ctl.Ready:
		s.frontReady(now)
	case ctl.Pong:
		s.front.pulse.asked = false
	case ctl.Start:
		s.startChild(m, now)
	case ctl.Retire:
		if c := s.childOf(m); c != nil {
			c.climb.begin(now, stopping, s.stopLadder())
		}
	case ctl.Kill:
		if c := s.childOf(m); c != nil {
			c.climb.begin(now, killing, killLadder(c.pool.KillAfter))
		}
	}
}

func (s *supervisor) frontReady(now time.Time) {
	if s.front.ready {
		return
	}
	if !s.everReady && s.plan.Ready != nil {
		s.plan.Ready()
	}
	s.front.ready, s.everReady = true, true
	s.log.Infow("front ready", "pid", s.front.pid, "seconds", now.Sub(s.front.started).Seconds())
}

// frontCutOff ends a front that can't be talked to. When it closed its end it is leaving by itself; what it
// does at the end of a drain is bounded by the grace period.
func (s *supervisor) frontCutOff(err error, now time.Time) {
	switch {
	case !errors.Is(err, io.EOF):
		s.log.Warnw("front sent or took no proper message: killing it", "pid", s.front.pid, "error", err)
		s.front.climb.begin(now, atOnce, killAfter(0))
	case s.stop.phase == running:
		s.front.climb.begin(now, killing, killAfter(leaveTimeout))
	}
}

// frontDue starts a front whose time has come, and ends one that does not get ready.
func (s *supervisor) frontDue(now time.Time, next *soonest) {
	if s.stop.phase != running {
		return
	}
	if s.front == nil && !now.Before(s.restartAt) {
		if err := s.startFront(now); err != nil {
			s.frontNotStarted(err, now)
		}
	}
	s.heartbeatDue(now, next)
	switch f := s.front; {
	case f == nil:
		next.add(s.restartAt)
	case f.ready || f.climb.force != none:
	case now.Before(f.readyBy):
		next.add(f.readyBy)
	default:
		s.frontLate(now)
	}
}

func (s *supervisor) frontLate(now time.Time) {
	if !s.everReady {
		s.fail(fmt.Errorf("front: not ready after %v", s.readyTimeout), now)
		return
	}
	s.log.Warnw("front not ready in time: killing it", "pid", s.front.pid, "timeout", s.readyTimeout)
	s.front.climb.begin(now, killing, killAfter(0))
}

func (s *supervisor) frontNotStarted(err error, now time.Time) {
	if !s.everReady {
		s.fail(err, now)
		return
	}
	s.log.Errorw("front not started: next try in a second", "error", err)
	s.restartAt = now.Add(time.Second)
}

// buryFront forgets a front that was reaped and decides when the next one comes.
func (s *supervisor) buryFront(status unix.WaitStatus, now time.Time) {
	f := s.front
	s.front = nil
	s.warden.release(f.pid)
	f.conn.Close() //nolint:errcheck // the other end is gone
	close(f.out)
	reason := describe(status)
	switch {
	case s.stop.phase != running:
		s.log.Infow("front exited", "pid", f.pid, "reason", reason)
	case !s.everReady:
		s.fail(fmt.Errorf("front: exited before ready: %s", reason), now)
	default:
		delay := s.restarts.delay(now.Sub(f.started))
		s.restartAt = now.Add(delay)
		s.log.Errorw("front exited: starting another", "pid", f.pid, "reason", reason, "delay", delay)
	}
}

// restarts slows the restarts of a front that dies young again and again.
type restarts struct{ young int }

// delay is the pause after a front that lived so long.
func (r *restarts) delay(lived time.Duration) time.Duration {
	if lived >= 2*time.Second {
		r.young = 0
		return 0
	}
	r.young++
	if r.young == 1 {
		return 0
	}
	return time.Second
}
