package event

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Upstream is a connection to a server that a loop has: requests go over it and answers come back without a goroutine. What takes longer,
// or is not simple, a goroutine goes on with, in the middle of it.
//
// It belongs to its loop, until [Conn.TakePassed] gives it to the goroutine of its request.
type Upstream struct {
	asker Asker
	fd    int
	place uint32 // in the loop's list
	gen   uint32 // of the place: an event of an earlier connection is dropped
	until uint32 // engine seconds: it is closed then, if it is idle

	asked   bool   // an answer is to come
	client  uint32 // who waits for it: the place in the loop's table
	request []byte // what the client has sent, and nobody has consumed
	in      []byte // the answer so far
}

// Asker is who asks a server over an Upstream, and knows what for. Its methods are called on the loop.
type Asker interface {
	// Answered sees all that has come of an answer, and says what becomes of the client who waits for it: Hold, if there is more to come;
	// Detach, if a goroutine is to go on; else t has the answer, and the Upstream was given to KeepUpstream or CloseUpstream. ended says that the server
	// sends no more. data is good during the call only.
	Answered(t *Turn, data []byte, ended bool) Verdict
	// Gone tells of the end of an Upstream that nobody has closed: it was idle for too long, the server has hung up or spoken unasked, or
	// the engine is being closed, perhaps in the middle of a request.
	Gone()
}

// MaxAnswer is how much of an answer a loop reads at most, in bytes: what is longer is for a goroutine.
const MaxAnswer = partialSize

// holdTime is how long a client is held without a goroutine, and up to two seconds more: the clock and the ticks count whole ones.
const holdTime = time.Second

// upstreams are the connections of a loop to servers.
type upstreams struct {
	places []upstreamPlace
	unused []uint32
}

type upstreamPlace struct {
	gen      uint32
	upstream *Upstream // nil: unused
}

// Adopt makes an Upstream of a connection to a server that has been quiet since its last answer, and takes it over. After an error it is closed.
func (t *Turn) Adopt(c *Channel, a Asker) (*Upstream, error) {
	fd, err := -1, error(nil)
	closed := c.raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(closed, os.NewSyscallError("dup", err), c.Close()); err != nil {
		if fd >= 0 {
			closeSocket(fd)
		}
		return nil, err
	}
	l := t.loop
	u := &Upstream{asker: a, fd: fd}
	l.upstreams.add(u)
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: upstreamBit | int32(u.place), Pad: int32(u.gen)}
	if err := epollAdd(l.epfd, fd, &ev); err != nil {
		l.closeUpstream(u)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return u, nil
}

func (s *upstreams) add(u *Upstream) {
	if len(s.unused) == 0 {
		s.unused = append(s.unused, uint32(len(s.places)))
		s.places = append(s.places, upstreamPlace{})
	}
	last := len(s.unused) - 1
	u.place = s.unused[last]
	s.unused = s.unused[:last]
	p := &s.places[u.place]
	p.upstream, u.gen = u, p.gen
}

// forget drops what epoll still has to say of u.
func (s *upstreams) forget(u *Upstream) {
	s.places[u.place] = upstreamPlace{gen: u.gen + 1}
	s.unused = append(s.unused, u.place)
}

// used is how many there are.
func (s *upstreams) used() int { return len(s.places) - len(s.unused) }

func (s *upstreams) each(visit func(*Upstream)) {
	for i := range s.places {
		if u := s.places[i].upstream; u != nil {
			visit(u)
		}
	}
}

// closeUpstream ends an Upstream of which its asker knows.
func (l *loop) closeUpstream(u *Upstream) {
	l.upstreams.forget(u)
	closeSocket(u.fd)
}

// Ask sends a request over an idle Upstream, to a server that is quiet. If it returns true the verdict of this call is to be Hold: Answered
// tells of the answer. If not, the server has not got all of it, and the Upstream was closed.
func (t *Turn) Ask(u *Upstream, request []byte) bool {
	n := 0
	if peek(u.fd) == unix.EAGAIN {
		n, _ = write(u.fd, request) // its error shows in n
	}
	if n < len(request) {
		t.loop.closeUpstream(u)
		return false
	}
	u.asked, t.asked = true, u
	return true
}

// KeepUpstream leaves u idle, whose answer has come: it is closed, and [Asker.Gone] called, when nobody asks for d, in whole seconds.
func (t *Turn) KeepUpstream(u *Upstream, d time.Duration) { u.until = t.loop.engine.after(d) }

// CloseUpstream ends u, which is idle, or whose answer has come.
func (t *Turn) CloseUpstream(u *Upstream) { t.loop.closeUpstream(u) }

// Request is what the client that waits for u has sent, and nobody has consumed. It is good during a call of the asker.
func (u *Upstream) Request() []byte { return u.request }

// hold keeps a connection until its upstream has answered.
func (l *loop) hold(index uint32, en *entry, rest []byte, flags uint32) {
	u := l.turn.asked
	ch, i := l.table.chunk(index), index%chunkSize
	u.client, u.request = index, append(u.request[:0], rest...)
	ch.partial[i], ch.session[i] = nil, u
	l.engine.active.Add(1)
	en.deadline.Store(l.engine.after(holdTime))
	en.state.Store(stateHeld)
	if l.watch(index, en) != nil {
		flags |= flagGone // nothing would ever tell of its end
	}
	l.noteHeld(index, en, flags)
}

// noteHeld notes what has become of a client that is held. One that has hung up gets a goroutine, for it is to be known at once to whoever
// answers.
func (l *loop) noteHeld(index uint32, en *entry, flags uint32) {
	en.state.Or(flags)
	if flags&(flagHalf|flagGone) != 0 {
		l.handOver(index, en)
	}
}

// unhold returns the upstream of a connection that is held no more, and what was noted meanwhile.
func (l *loop) unhold(index uint32, en *entry) (u *Upstream, flags uint32) {
	session := &l.table.chunk(index).session[index%chunkSize]
	u, _ = (*session).(*Upstream)
	*session, u.asked = nil, false
	l.engine.active.Add(-1)
	flags = en.state.Load() & flagPark
	en.state.Store(stateParked)
	return u, flags
}

// handOver has a goroutine go on with a request whose answer has not come as a whole.
func (l *loop) handOver(index uint32, en *entry) {
	u, flags := l.unhold(index, en)
	l.upstreams.forget(u)
	// It fails if the descriptor is not there, and then nothing is told of it.
	_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, u.fd, nil)
	l.turn.then, l.turn.passed = nil, u.asker
	c := l.own(index, en, l.listener(en.listener), u.request)
	c.upstream = u
	en.flag(flags)
	l.executors.run(c)
}

// heard reads what a server has said.
func (l *loop) heard(ev *unix.EpollEvent) {
	p := l.upstreams.places[ev.Fd&^upstreamBit]
	u := p.upstream
	if u == nil || p.gen != uint32(ev.Pad) {
		return
	}
	if !u.asked {
		l.closeUpstream(u)
		u.asker.Gone()
		return
	}
	kept := copy(l.buf, u.in)
	room := l.buf[kept:MaxAnswer]
	n, errno := read(u.fd, room)
	if errno == unix.EAGAIN {
		return
	}
	l.answered(u, l.buf[:kept+n], n == 0 || n < len(room) && seen(ev.Events)&(flagHalf|flagGone) != 0)
}

// answered shows an answer to who has asked for it, and sends it on.
func (l *loop) answered(u *Upstream, data []byte, ended bool) {
	index := u.client
	en := l.table.entry(index)
	p := l.listener(en.listener)
	l.turn = Turn{loop: l, entry: en, listener: p, out: l.turn.out[:0]}
	verdict := Detach
	if len(data) < MaxAnswer {
		verdict = u.asker.Answered(&l.turn, data, ended)
	}
	switch verdict {
	case Hold:
		u.in = append(u.in[:0], data...)
		return
	case Detach:
		u.in = append(u.in[:0], data...)
		l.handOver(index, en)
		return
	case Wait, Finish, End:
	}
	_, flags := l.unhold(index, en)
	rest := u.request[min(l.turn.consumed, len(u.request)):]
	u.shrink()
	if !l.sent(index, en, verdict, rest, flags) {
		return
	}
	if verdict == Wait && len(rest) > 0 {
		verdict = Detach // the next request is here already
	}
	if l.settle(index, en, verdict, rest, flags, true) && flags != 0 {
		l.readable(index, en, flags)
	}
}

// maxKeptUpstream is the capacity above which the memory of an Upstream is not kept for its next request, in bytes.
const maxKeptUpstream = 4 << 10

func (u *Upstream) shrink() {
	u.in = u.in[:0]
	if cap(u.in) > maxKeptUpstream {
		u.in = nil
	}
	if cap(u.request) > maxKeptUpstream {
		u.request = nil
	}
}

// sweepUpstreams closes those that have been idle for too long.
func (l *loop) sweepUpstreams(now uint32) {
	l.upstreams.each(func(u *Upstream) {
		if !u.asked && u.until <= now {
			l.closeUpstream(u)
			u.asker.Gone()
		}
	})
}

// abandonUpstreams closes all.
func (l *loop) abandonUpstreams() {
	l.upstreams.each(func(u *Upstream) {
		l.closeUpstream(u)
		u.asker.Gone()
	})
}

// TakePassed takes what the loop has left to the goroutine: the value given to [Turn.Pass], or the [Asker] of an [Upstream] that was asked. nil:
// nothing, or it was taken. Who takes an asker gets the connection to the server, which is to be closed, and what has come of the answer, MaxAnswer
// bytes at most. channel is nil if no server was asked, and also after an error.
func (c *Conn) TakePassed() (passed any, channel *Channel, answer []byte, err error) {
	passed, u := c.passed, c.upstream
	c.passed, c.upstream = nil, nil
	if u == nil {
		return passed, nil, nil, nil
	}
	channel, err = newChannel(os.NewFile(uintptr(u.fd), "upstream"), "upstream")
	return passed, channel, u.in, err
}
