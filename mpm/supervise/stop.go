package supervise

import (
	"slices"
	"syscall"
	"time"

	"gateway/internal/ctl"
)

// phase is how far the supervisor is on its way out.
type phase int

const (
	running  phase = iota
	draining       // the front finishes what it does
	ending         // the front is gone, the children leave
	sweeping       // the children are gone, what they left behind is killed
	finished
)

const (
	// killPatience is how long the kernel may take to end a process after SIGKILL: one that waits for a dead disk never ends.
	killPatience = 5 * time.Second

	sweepTimeout = 2 * time.Second
)

// stop is the state of the stop. Owned by the loop.
type stop struct {
	phase    phase
	now      bool      // nobody waits for anybody any more
	graceEnd time.Time // draining: then the front gets the ladder
	giveUp   time.Time // the phase ends then, whatever still lives
}

// stopGracefully lets the front finish its requests, then ends everything.
func (s *supervisor) stopGracefully(now time.Time, cause string) {
	if s.stop.phase != running {
		return
	}
	s.log.Infow("stopping", "cause", cause, "grace_period", s.plan.GracePeriod)
	s.stop = stop{phase: draining, graceEnd: now, giveUp: now.Add(s.patience())}
	if s.front != nil && s.front.ready {
		s.stop.graceEnd = now.Add(s.plan.GracePeriod)
		s.stop.giveUp = s.stop.graceEnd.Add(s.patience())
		s.send(ctl.Message{Kind: ctl.Drain}, nil, nil)
	}
	s.closeSockets() // or the kernel would go on to take connections that nobody serves
}

// patience is the time in which a ladder ends a process that can be ended.
func (s *supervisor) patience() time.Duration {
	ladder := s.stopLadder()
	return ladder[len(ladder)-1].after + killPatience
}

// stopNow kills everything.
func (s *supervisor) stopNow(now time.Time) {
	if s.stop.phase == running {
		s.stop.phase = draining
		s.closeSockets()
	}
	s.stop.now, s.stop.graceEnd, s.stop.giveUp = true, now, now.Add(killPatience)
	s.endAll(now, atOnce)
}

// fail gives up the start.
func (s *supervisor) fail(err error, now time.Time) {
	s.failure = err
	s.stopNow(now)
}

// endAll puts every process on a ladder.
func (s *supervisor) endAll(now time.Time, f force) {
	ladder := s.stopLadder
	if f == atOnce {
		ladder = func() []rung { return killAfter(0) }
	}
	if s.front != nil {
		s.front.climb.begin(now, f, ladder())
	}
	for _, c := range s.children {
		c.climb.begin(now, f, ladder())
	}
	for _, p := range s.parents {
		p.climb.begin(now, f, ladder())
	}
}

// stopDue goes on with the stop as far as it can.
func (s *supervisor) stopDue(now time.Time, next *soonest) {
	if s.stop.phase == draining {
		s.drainDue(now, next)
	}
	if s.stop.phase == ending {
		s.endDue(now, next)
	}
	if s.stop.phase == sweeping {
		s.sweepDue(now, next)
	}
}

func (s *supervisor) drainDue(now time.Time, next *soonest) {
	switch {
	case s.front == nil || !now.Before(s.stop.giveUp):
		if s.front != nil {
			s.log.Errorw("front does not end after SIGKILL: leaving it", "pid", s.front.pid)
		}
		s.stop.phase, s.stop.giveUp = ending, now.Add(s.patience())
		s.endAll(now, s.lastForce())
	case !now.Before(s.stop.graceEnd):
		if s.front.climb.force == none {
			s.log.Warnw("front is not done: ending it; a longer grace_period lets it finish", "pid", s.front.pid)
		}
		s.front.climb.begin(now, s.lastForce(), s.stopLadder())
		next.add(s.stop.giveUp)
	default:
		next.add(s.stop.graceEnd)
	}
}

func (s *supervisor) lastForce() force {
	if s.stop.now {
		return atOnce
	}
	return stopping
}

func (s *supervisor) endDue(now time.Time, next *soonest) {
	if len(s.children)+len(s.parents) > 0 && now.Before(s.stop.giveUp) {
		next.add(s.stop.giveUp)
		return
	}
	for pid, c := range s.children {
		s.log.Errorw("child does not end after SIGKILL: leaving it", "pool", c.pool.Name, "pid", pid)
	}
	for pid, p := range s.parents {
		s.log.Errorw("parent of a pool's children does not end after SIGKILL: leaving it", "pool", p.pool.Name, "pid", pid)
	}
	s.stop.phase, s.stop.giveUp = sweeping, now.Add(sweepTimeout)
}

// sweepDue runs again with each SIGCHLD: an orphan that dies passes its own children on to us.
func (s *supervisor) sweepDue(now time.Time, next *soonest) {
	s.reap(now)
	if s.killOrphans() && now.Before(s.stop.giveUp) {
		next.add(s.stop.giveUp)
		return
	}
	s.stop.phase = finished
}

// signal acts on a signal to the supervisor.
func (s *supervisor) signal(sig syscall.Signal, now time.Time) {
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT:
		if s.stop.phase == running {
			s.stopGracefully(now, sig.String())
			return
		}
		s.log.Warnw("stopping at once", "cause", sig.String())
		s.stopNow(now)
	case syscall.SIGUSR1:
		s.reopen()
	case syscall.SIGHUP:
		s.log.Warnw("reload is not supported yet: restart")
	case syscall.SIGUSR2:
		s.log.Warnw("upgrade is not supported yet: restart")
	}
}

func (s *supervisor) reopen() {
	if s.plan.Reopen != nil {
		if err := s.plan.Reopen(); err != nil {
			s.log.Errorw("log not reopened", "error", err)
		}
	}
	s.send(ctl.Message{Kind: ctl.Reopen}, nil, nil)
}

// closeSockets stops listening.
func (s *supervisor) closeSockets() {
	for _, l := range slices.Backward(s.sockets) {
		closeSocket(l)
	}
	s.sockets = nil
}
