package mpm

import (
	"hash/maphash"
	"time"
)

// session is what the requests of one browser share when a pool limits them: an application that locks its session runs them
// one after another anyway, and those that wait for the lock would hold children that others could use. Guarded by Pool.mu.
//
// It lives as long as one of its requests, so that there are never more of them than requests.
type session struct {
	key     uint64
	inside  int   // requests that have a thread or an executor, or wait for one in the pool's queue
	waiting queue // those that are not let in yet
}

// sessionSeed is for this process: nobody outside can make a name that shares another's limit.
var sessionSeed = maphash.MakeSeed()

// sessionOf returns the session of that name; nil: it has none, or the pool does not limit them.
func (p *Pool) sessionOf(name string) *session {
	if name == "" || p.cfg.SessionLimit == nil {
		return nil
	}
	key := maphash.String(sessionSeed, name)
	s := p.sessions[key]
	if s == nil {
		if p.sessions == nil {
			p.sessions = map[uint64]*session{}
		}
		s = &session{key: key}
		p.sessions[key] = s
	}
	return s
}

// isFull reports whether the next request of the session has to wait for one of its others.
func (p *Pool) isFull(s *session) bool { return s != nil && s.inside >= p.cfg.SessionLimit.Max }

// forgetUnused gives up a session without requests.
func (p *Pool) forgetUnused(s *session) {
	if s != nil && s.inside == 0 && s.waiting.length == 0 {
		delete(p.sessions, s.key)
	}
}

// leaveSession is called when a request of s is over, or leaves the pool's queue without having run. The one of the session that has
// waited longest may go on: in the pool's queue it gets the place that it would have had.
func (p *Pool) leaveSession(s *session, now time.Time) {
	if s == nil {
		return
	}
	s.inside--
	w := s.waiting.pop()
	if w == nil {
		p.forgetUnused(s)
		return
	}
	s.inside++
	p.held--
	p.queue.insert(w)
	p.serve(now)
	p.demand(now, p.queue.length)
}
