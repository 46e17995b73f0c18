package supervise

import (
	"strconv"
	"time"

	"gateway/internal/ctl"
)

const (
	heartbeatPeriod = 10 * time.Second

	// hungBeats is after how many beats without an answer a front is taken for hung, if it used no processor time meanwhile.
	hungBeats = 3

	// lostBeats is after how many it is, whatever it does: a front that is merely busy answers long before that, because the Go
	// runtime lets every goroutine have its turn.
	lostBeats = 12
)

// pulse is what the supervisor knows of a front's health. Its zero value is a front that answered all.
type pulse struct {
	next   time.Time // of the next beat
	asked  bool      // a Ping is not answered yet
	missed int       // beats since that Ping
	cpu    uint64    // processor time, in ticks, when the first of them was missed
}

// verdict is what a beat says of the front.
type verdict int

const (
	healthy verdict = iota
	late            // it did not answer yet
	busy            // it did not answer for long, but works: told once
	hung            // it has to be replaced
)

// beat judges the front, at one beat. held says that the supervisor itself was late: then nobody can blame the front.
func (p *pulse) beat(cpu uint64, held bool) verdict {
	if !p.asked {
		p.missed = 0
		return healthy
	}
	if held {
		p.missed = 0
		return late
	}
	p.missed++
	switch {
	case p.missed == 1:
		p.cpu = cpu
		return late
	case p.missed < hungBeats:
		return late
	case cpu == p.cpu || p.missed >= lostBeats:
		return hung
	case p.missed == hungBeats:
		return busy
	default:
		return late
	}
}

// heartbeatDue asks a front that serves whether it lives, once in a period. Only one question is on its way at a time.
func (s *supervisor) heartbeatDue(now time.Time, next *soonest) {
	f := s.front
	if f == nil || !f.ready || f.climb.force != none {
		return
	}
	if f.pulse.next.IsZero() {
		f.pulse.next = now.Add(s.heartbeat)
	}
	if !now.Before(f.pulse.next) {
		s.beat(now)
	}
	next.add(f.pulse.next)
}

func (s *supervisor) beat(now time.Time) {
	s.ooms.look(now)
	f := s.front
	held := now.Sub(f.pulse.next) > s.heartbeat/2
	f.pulse.next = now.Add(s.heartbeat)
	switch f.pulse.beat(cpuTime(f.pid), held) {
	case healthy:
		f.pulse.asked = true
		s.send(ctl.Message{Kind: ctl.Ping}, nil, nil)
	case late:
	case busy:
		s.log.Warnw("front is slow to answer: it is busy, or has too little processor time", "pid", f.pid, "seconds", hungBeats*s.heartbeat.Seconds())
	case hung:
		s.log.Errorw("front does not answer: killing it", "pid", f.pid, "beats", f.pulse.missed, "period", s.heartbeat)
		f.climb.begin(now, atOnce, killAfter(0))
	}
}

// cpuTime is the processor time that a process has used, in ticks of the kernel; 0 when there is no such process.
func cpuTime(pid int) uint64 {
	const user, system = 11, 12 // behind the state, which is field 0
	fields := statFields(pid)
	if len(fields) <= system {
		return 0
	}
	u, _ := strconv.ParseUint(fields[user], 10, 64)   // 0 when it is no number
	k, _ := strconv.ParseUint(fields[system], 10, 64) // see above
	return u + k
}
