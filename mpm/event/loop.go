package event

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize    = 64 << 10 // what one read takes at most
	partialSize = 64 << 10 // what is kept of an incomplete request at most: the protocol refuses longer ones before
	acceptBatch = 64
	lingerTime  = 2 * time.Second
	lingerBytes = 256 << 10
	// freshTime is how long a connection without a first request is safe from making room for others.
	freshTime = 3 * time.Second
	// freshDrain is how many seconds a connection without a first request has for it when the engine drains.
	freshDrain = 2
	// listenerBit marks the index in an epoll event as that of a listener.
	listenerBit = 1 << 30
	// upstreamBit likewise that of an Upstream.
	upstreamBit = 1 << 29
	// headRate is the pace, in bytes a second, at which an incomplete head earns itself more time, up to twice the timeout.
	headRate = 500
)

// loop is one epoll instance and the goroutine that waits for it. Everything is owned by that goroutine, except where noted.
type loop struct {
	engine  *Engine
	number  int
	epfd    int
	file    *os.File // epfd in Go's poller: an idle loop is a parked goroutine, which holds no thread
	raw     syscall.RawConn
	poll    func(fd uintptr) bool
	ready   int // events of the last poll
	events  [256]unix.EpollEvent
	buf     []byte
	turn    Turn
	paused  []*Listener
	starved bool      // accepting has paused, and the table is not much emptier since
	conns   sync.Pool // of *Conn; got by this loop only, see Conn.wake
	executors
	upstreams upstreams

	shedding atomic.Bool // the next tick is to close some idle connections

	mu      sync.Mutex   // guards what follows; of the table the free list and growth of the table
	open    atomic.Int32 // connections; the accepting loop reads it without mu
	ticking bool         // a tick is set. A later one must not replace it: connections that come and go would put it off for ever
	woken   bool         // a tick is wanted that has not begun
	table   table
}

func newLoop(e *Engine, number int) (*loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		return nil, errors.Join(err, unix.Close(epfd))
	}
	l := &loop{engine: e, number: number, epfd: epfd, buf: make([]byte, partialSize+readSize), conns: sync.Pool{New: newConn}, executors: newExecutors()}
	l.file = os.NewFile(uintptr(epfd), "epoll")
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	l.poll = func(fd uintptr) bool {
		l.ready = epollPoll(int(fd), l.events[:])
		return l.ready > 0
	}
	return l, nil
}

// run waits and dispatches until close.
func (l *loop) run() {
	defer l.engine.done.Done()
	for {
		l.ready = 0
		switch err := l.raw.Read(l.poll); {
		case err == nil:
			for i := range l.ready {
				l.dispatch(&l.events[i])
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.tick()
		default:
			l.abandon()
			close(l.jobs)
			return
		}
	}
}

// wake makes the loop tick now, or once more if it does so already. Safe from any goroutine.
func (l *loop) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ticking, l.woken = true, true
	l.setTick(time.Now())
}

func (l *loop) setTick(t time.Time) {
	// It fails only when the loop is closed, and then nothing ticks.
	_ = l.file.SetReadDeadline(t)
}

func (l *loop) close() error { return l.file.Close() }

func (l *loop) dispatch(ev *unix.EpollEvent) {
	if ev.Fd&listenerBit != 0 {
		l.accept(l.listener(uint16(ev.Fd &^ listenerBit)))
		return
	}
	if ev.Fd&upstreamBit != 0 {
		l.heard(ev)
		return
	}
	index := uint32(ev.Fd)
	en := l.table.entry(index)
	state := en.state.Load() & stateMask
	// After the state: the place may get its next connection at any moment, and that one has another gen.
	if en.gen.Load() != uint32(ev.Pad) {
		return
	}
	if en.flag(seen(ev.Events)) {
		l.notify(index)
		return
	}
	if state == stateOwned {
		state = en.state.Load() & stateMask // parked, or ended, meanwhile
		if en.gen.Load() != uint32(ev.Pad) {
			return
		}
	}
	switch state {
	case stateParked:
		if ev.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			l.release(index, en)
		} else if ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP) != 0 {
			l.readable(index, en, seen(ev.Events)&^flagWritable)
		}
	case stateHeld:
		l.noteHeld(index, en, seen(ev.Events)&^flagWritable)
	case stateLinger:
		l.discard(index, en)
	}
}

func seen(events uint32) (flags uint32) {
	if events&unix.EPOLLIN != 0 {
		flags |= flagReadable
	}
	if events&unix.EPOLLOUT != 0 {
		flags |= flagWritable
	}
	if events&unix.EPOLLRDHUP != 0 {
		flags |= flagHalf | flagReadable
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		flags |= flagGone
	}
	return flags
}

// notify tells the owner that its flags have changed.
func (l *loop) notify(index uint32) {
	if c := l.table.chunk(index).owner[index%chunkSize].Load(); c != nil {
		c.wake()
	}
}

func (l *loop) listener(i uint16) *Listener { return (*l.engine.listeners.Load())[i] }

func (l *loop) listen(p *Listener) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: listenerBit | int32(p.index)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, p.fd, &ev); err != nil {
		return fmt.Errorf("listen on %s: %w", p.Address, err)
	}
	return nil
}

// unlisten stops waiting for a listener. Its connections stay in the kernel's backlog.
func (l *loop) unlisten(p *Listener) {
	// It fails only when the listener was removed before.
	_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, p.fd, nil)
}

// accept takes waiting connections and deals them to the loops. Only the first loop accepts.
func (l *loop) accept(p *Listener) (more bool) {
	for range acceptBatch {
		if l.engine.open.Load() >= l.engine.max {
			l.pause(p, errFull)
			return false
		}
		var rsa unix.RawSockaddrAny
		fd, errno := accept4(p.fd, &rsa)
		switch errno {
		case 0:
			to := l.engine.deal()
			if index, en := to.add(fd, p, &rsa); to == l && !p.Raw {
				l.welcome(index, en)
			} else if to.register(index, en) != nil {
				to.release(index, en)
			}
		case unix.EAGAIN:
			return false
		case unix.EINTR, unix.ECONNABORTED:
		default:
			l.pause(p, errno)
			return false
		}
	}
	return true
}

var errFull = errors.New("as many connections as there are descriptors for")

// pause leaves a listener alone for a moment, when there is no descriptor or memory for a connection, and has the loops close
// the connections that have idled for longest.
func (l *loop) pause(p *Listener, err error) {
	if !l.starved && l.engine.paused != nil {
		l.engine.paused(err)
	}
	l.starved = true
	l.unlisten(p)
	l.paused = append(l.paused, p)
	l.makeRoom()
	for _, other := range l.engine.loops {
		other.wake()
	}
}

// makeRoom has connections that have idled for longest closed, with the next tick of each loop.
func (l *loop) makeRoom() {
	for _, other := range l.engine.loops {
		other.shedding.Store(true)
	}
	if l.engine.shed != nil {
		l.engine.shed()
	}
}

// shed closes the idle connections that would be closed next. Those that have never sent a request come last, and only after
// they had some time for it.
func (l *loop) shed() {
	oldest := ^uint32(0)
	fresh := l.engine.now() - min(l.engine.now(), uint32(freshTime/time.Second))
	l.parked(func(_ uint32, en *entry) {
		if en.requests > 0 {
			oldest = min(oldest, en.deadline.Load())
		}
	})
	l.parked(func(index uint32, en *entry) {
		d := en.deadline.Load()
		if en.requests > 0 && d <= oldest || en.requests == 0 && oldest == ^uint32(0) && en.born <= fresh {
			l.release(index, en)
		}
	})
}

// parked visits the connections that wait for a request and have sent nothing of it.
func (l *loop) parked(visit func(index uint32, en *entry)) {
	l.table.each(func(index uint32, en *entry) {
		if en.state.Load()&stateMask == stateParked && l.table.chunk(index).partial[index%chunkSize] == nil {
			visit(index, en)
		}
	})
}

// add makes a new connection an entry of this loop, which is to register it next. It is called from the accepting loop.
func (l *loop) add(fd int, p *Listener, rsa *unix.RawSockaddrAny) (index uint32, en *entry) {
	l.mu.Lock()
	if len(l.table.free) == 0 {
		l.table.grow()
	}
	index = l.table.free[len(l.table.free)-1]
	l.table.free = l.table.free[:len(l.table.free)-1]
	l.open.Add(1)
	if !l.ticking {
		l.ticking = true
		l.setTick(time.Now().Add(time.Second))
	}
	l.mu.Unlock()
	l.engine.open.Add(1)
	l.engine.accepted.Add(1)

	en = l.table.entry(index)
	en.fd, en.listener, en.watched, en.named, en.requests, en.drained, en.born = int32(fd), p.index, true, false, 0, 0, l.engine.now()
	en.setPeer(rsa)
	en.deadline.Store(l.engine.after(p.HeadTimeout))
	en.state.Store(stateParked)
	return index, en
}

// welcome looks at once for the request of a new connection of the accepting loop: one that ends with its answer is never put
// into epoll.
func (l *loop) welcome(index uint32, en *entry) {
	gen := en.gen.Load()
	en.watched = false
	l.readable(index, en, 0)
	if en.gen.Load() == gen && en.state.Load()&stateMask == stateParked && l.watch(index, en) != nil {
		l.release(index, en)
	}
}

// watch registers a connection if that was not done yet.
func (l *loop) watch(index uint32, en *entry) error {
	if en.watched {
		return nil
	}
	en.watched = true
	return l.register(index, en)
}

// register has epoll tell of a connection, from now until it is closed; what is there already comes as an event, too.
func (l *loop) register(index uint32, en *entry) error {
	ev := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(index), Pad: int32(en.gen.Load()),
	}
	return epollAdd(l.epfd, int(en.fd), &ev)
}

// release closes a connection and frees its place: the one place where a connection's descriptor is closed. The caller owns
// the connection: the loop, or its serving goroutine.
func (l *loop) release(index uint32, en *entry) {
	ch := l.table.chunk(index)
	ch.session[index%chunkSize], ch.partial[index%chunkSize] = nil, nil
	ch.owner[index%chunkSize].Store(nil)
	fd := int(en.fd)
	en.gen.Add(1)
	en.deadline.Store(0)
	en.state.Store(stateFree)
	closeSocket(fd)
	l.mu.Lock()
	l.table.free = append(l.table.free, index)
	l.open.Add(-1)
	l.mu.Unlock()
	l.engine.open.Add(-1)
}

// readable reads what a parked connection has sent and shows it to the protocol. flags are those of the event.
func (l *loop) readable(index uint32, en *entry, flags uint32) {
	p := l.listener(en.listener)
	ch, i := l.table.chunk(index), index%chunkSize
	if p.Raw && ch.session[i] != nil {
		l.detach(index, en, p, nil, flags)
		return
	}
	// An event counts as read once a read was short; not if the client has closed, for then the end of file is still to come.
	flags &^= flagReadable
	for {
		kept := 0
		if part := ch.partial[i]; part != nil {
			kept = copy(l.buf, *part)
		}
		n, errno := read(int(en.fd), l.buf[kept:kept+readSize])
		if errno == unix.EAGAIN {
			return
		}
		if errno != 0 || n == 0 {
			l.release(index, en)
			return
		}
		if n == readSize {
			flags |= flagReadable
		}
		data := l.buf[:kept+n]
		l.turn = Turn{loop: l, entry: en, listener: p, out: l.turn.out[:0]}
		verdict := p.Protocol.Data(&l.turn, data)
		rest := data[min(l.turn.consumed, len(data)):]
		if !l.sent(index, en, verdict, rest, flags) || !l.settle(index, en, verdict, rest, flags, kept == 0) || flags == 0 {
			return
		}
	}
}

// settle does what the protocol wants done with a connection, after all that it wrote was sent. It reports whether the loop still has it,
// for the rest of its request: first says that nothing of that was kept before.
func (l *loop) settle(index uint32, en *entry, v Verdict, rest []byte, flags uint32, first bool) bool {
	switch v {
	case Detach:
		l.detach(index, en, l.listener(en.listener), rest, flags)
		return false
	case Hold:
		l.hold(index, en, rest, flags)
		return false
	case Finish, End:
		if v == End && len(rest) == 0 && flags == 0 {
			l.release(index, en)
		} else {
			l.linger(index, en)
		}
		return false
	case Wait:
	}
	if len(rest) > partialSize {
		l.release(index, en)
		return false
	}
	l.keep(index, en, rest, first)
	return true
}

// sent sends what the protocol wrote in place and reports whether all of it is gone. If not, a goroutine has the connection.
func (l *loop) sent(index uint32, en *entry, v Verdict, rest []byte, flags uint32) bool {
	out := l.turn.out
	if len(out) == 0 {
		return true
	}
	n, errno := write(int(en.fd), out)
	switch {
	case errno != 0 && errno != unix.EAGAIN && l.turn.then == nil:
		l.release(index, en)
		return false
	case n < len(out):
		l.detachPending(index, en, out[n:], rest, v, flags)
		return false
	}
	return true
}

// keep stores the beginning of a request until the rest comes.
func (l *loop) keep(index uint32, en *entry, rest []byte, first bool) {
	ch, i := l.table.chunk(index), index%chunkSize
	if l.turn.keep > 0 {
		en.deadline.Store(l.engine.after(l.turn.keep))
	}
	if len(rest) == 0 {
		ch.partial[i] = nil
		return
	}
	if part := ch.partial[i]; part != nil {
		*part = append((*part)[:0], rest...)
	} else {
		kept := append([]byte(nil), rest...)
		ch.partial[i] = &kept
	}
	if first {
		en.begun = l.engine.now()
	}
	p := l.listener(en.listener)
	if p.Raw {
		return // the deadline of accept holds
	}
	head := uint32(p.HeadTimeout / time.Second)
	// A slow but honest sender gets a second for every headRate bytes, up to one more timeout.
	en.deadline.Store(en.begun + head + min(uint32(len(rest)/headRate), head))
}

// linger half closes a connection and throws away what still comes in, so that a reset does not overtake the answer
// (RFC 9112 §9.6).
func (l *loop) linger(index uint32, en *entry) {
	if l.watch(index, en) != nil {
		l.release(index, en)
		return
	}
	shutdown(int(en.fd))
	en.drained = 0
	en.deadline.Store(l.engine.after(lingerTime))
	en.set(stateLinger, flagPark|flagWritable)
	l.discard(index, en)
}

func (l *loop) discard(index uint32, en *entry) {
	if drain(en, l.buf) {
		l.release(index, en)
	}
}

// drain throws away what has come in and reports whether the connection is at its end.
func drain(en *entry, buf []byte) (end bool) {
	for en.drained < lingerBytes {
		n, errno := read(int(en.fd), buf)
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 || n == 0 {
			return true
		}
		en.drained += int32(n)
	}
	return true
}

// tick closes what is overdue and tries paused listeners again.
func (l *loop) tick() {
	l.mu.Lock()
	l.woken = false
	l.mu.Unlock()
	if l.shedding.Swap(false) {
		l.shed()
	}
	if l.open.Load() > 0 {
		l.sweep()
	}
	l.sweepUpstreams(l.engine.now())
	l.resume()
	if l.engine.Draining() && l == l.engine.loops[0] {
		l.closeListeners()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.woken:
		l.setTick(time.Now())
	case l.open.Load() == 0 && len(l.paused) == 0 && l.upstreams.used() == 0:
		l.ticking = false
		l.setTick(time.Time{})
	default:
		l.setTick(time.Now().Add(time.Second))
	}
}

// resume accepts again when there is room for more than the next few.
func (l *loop) resume() {
	if free := l.engine.max - l.engine.open.Load(); free <= l.engine.max/32 {
		if len(l.paused) > 0 {
			l.makeRoom() // the last time was not enough
		}
		return
	}
	paused := l.paused
	l.paused = nil
	for _, p := range paused {
		if l.listen(p) != nil {
			l.paused = append(l.paused, p)
		}
	}
	l.starved = l.starved && len(paused) > 0 // a tick without a pause ends the episode
}

// closeListeners takes the connections that clients have opened already, and lets the kernel refuse others.
func (l *loop) closeListeners() {
	for _, p := range *l.engine.listeners.Load() {
		if !p.closed {
			l.unlisten(p) // the supervisor has the same socket: closing ours would leave it in epoll
			for l.accept(p) {
			}
			p.close() //nolint:errcheck // a listener has nothing to say
		}
	}
	l.paused = nil
}

// sweep visits every connection once a second. The deadlines stand close together, and looking at one costs less than
// keeping it in a sorted structure would at each request.
func (l *loop) sweep() {
	now, draining := l.engine.now(), l.engine.Draining()
	l.table.each(func(index uint32, en *entry) {
		state := en.state.Load() & stateMask
		if state == stateFree {
			return
		}
		if draining && state == stateParked && l.table.chunk(index).partial[index%chunkSize] == nil {
			l.dismiss(index, en)
			return
		}
		if d := en.deadline.Load(); d != 0 && d <= now {
			l.expire(index, en)
		}
	})
}

// dismiss closes an idle connection of a draining engine, unless a request has just come. One that has not had its first gets
// a moment for it.
func (l *loop) dismiss(index uint32, en *entry) {
	if en.requests == 0 && l.engine.now() <= en.born+freshDrain {
		return
	}
	gen := en.gen.Load()
	l.readable(index, en, 0)
	ch, i := l.table.chunk(index), index%chunkSize
	if en.gen.Load() == gen && en.state.Load()&stateMask == stateParked && ch.partial[i] == nil {
		l.release(index, en)
	}
}

func (l *loop) expire(index uint32, en *entry) {
	if en.flag(flagExpired) {
		l.notify(index)
		return
	}
	ch, i := l.table.chunk(index), index%chunkSize
	if en.state.Load()&stateMask == stateHeld {
		l.handOver(index, en)
		return
	}
	if en.state.Load()&stateMask != stateParked || ch.partial[i] == nil {
		l.release(index, en)
		return
	}
	p := l.listener(en.listener)
	l.turn = Turn{loop: l, entry: en, listener: p, out: l.turn.out[:0]}
	p.Protocol.Expired(&l.turn, *ch.partial[i])
	if l.sent(index, en, Finish, nil, 0) {
		l.linger(index, en)
	}
}

// abandon ends every connection when the loop is closed. Owners learn of it and release theirs.
func (l *loop) abandon() {
	l.abandonUpstreams()
	l.table.each(func(index uint32, en *entry) {
		if en.flag(flagGone) {
			l.notify(index)
		} else if en.state.Load()&stateMask != stateFree {
			l.release(index, en)
		}
	})
}
