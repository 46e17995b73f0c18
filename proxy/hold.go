package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy/fcgi"
	"gateway/routes"
)

const (
	// firstLook and settleTime are between the looks at a child that php-fpm has forked, until it reads again. Most have finished
	// before the end of their response is read here.
	firstLook  = 50 * time.Microsecond
	settleTime = 10 * time.Millisecond

	// exitGrace is how long a broken connection waits for the news that its child has ended: they come another way, and tell
	// why.
	exitGrace = 100 * time.Millisecond
)

// errNoRoom says that the front has no descriptor or memory left for a connection to a child.
var errNoRoom = errors.New("no descriptor is free: raise the limit of open files (ulimit -n, LimitNOFILE)")

// channel is the connection to a slot, kept from one request to the next.
type channel interface {
	Close() error
	Usable() bool // for another request
	hangUp()      // says that nobody listens any more; what still comes can be read, but the channel is of no further use
}

// link is the channel of a program that speaks FastCGI.
type link struct {
	*fcgi.Conn
	nc    net.Conn
	files *receiver // of a child that runs errands; nil: of another one
}

func (l *link) hangUp() { closeWrite(l.nc) }

// isRead reports whether the program has read all that it was sent. PHP reads the record that ends a request's body when it looks
// for the next request, and not before.
func (l *link) isRead() bool {
	channel, ok := l.nc.(*event.Channel)
	return !ok || channel.Unread() == 0
}

// hold is a slot in use, and the context of the work with its child. That ends with the child or its deadline; if the child is not
// awaited, with the client too. Exactly one of the methods release, lost and forgo is to be called.
type hold struct {
	ending
	slot     *mpm.Slot
	conn     channel         // nil: none could be had
	client   context.Context // of the request
	body     *spooled        // likewise
	ours     bool            // the child is the gateway itself or the WSGI shim, who end the connection when what they run fails
	shared   bool            // the child is one of php-fpm, where a script can go on after its response
	remote   bool            // who answers is no child
	upstream *upstream       // a remote one, which keeps conn; nil: none was asked yet
	watch    watch           // of a remote one
	deputy   *hold           // the child that connected to a remote one, and has the slot; nil: the pool has no children

	closing hook // of itself: closes conn
	dialing hook // of itself: ends the errand of a deputy
	leaving hook // of the client: ends the hold, or hangs conn up
	deaf    hook // of the client: closes the conn of an endless response
	freeing hook // of itself, of a remote one: interrupts whoever waits for the client

	interrupting sync.WaitGroup // until freeing has done that

	// The response is a conversation or a stream. It ends with its client.
	endless bool

	// A response is read to its end even if nobody wants it: a child with several threads, or one that need not notice
	// what becomes of a connection, can't be asked whether the one of this slot is free.
	awaited bool
}

func (c *call) newHold(slot *mpm.Slot) *hold {
	h := &hold{slot: slot, client: c.r.Context(), body: c.body, ours: !c.pool.config.HasApplication() || c.pool.config.WSGI != nil}
	h.shared = c.pool.config.PHP != nil && c.pool.config.PHP.ShareOPcache
	h.awaited = c.pool.config.MPM == routes.Worker || c.pool.config.HTTP != nil
	if !h.awaited {
		h.leaving.on(h.client, h.clientLeft)
	}
	slot.OnEnd(h.end)
	return h
}

// Value implements context.Context.
func (h *hold) Value(any) any { return nil }

func (h *hold) clientLeft() { h.end(context.Cause(h.client)) }

// holdFastCGI connects to the child of a slot, unless there is a connection.
func (c *call) holdFastCGI(slot *mpm.Slot) (*link, *hold, error) {
	h := c.newHold(slot)
	l, ok := slot.Channel.(*link)
	if !ok {
		nc, err := c.connect(slot.Child)
		switch {
		case lacksRoom(err):
			return nil, h, fmt.Errorf("%w: %w", errNoRoom, err) // the child is well
		case err != nil:
			return nil, h, fmt.Errorf("%w: %w", fcgi.ErrNotSent, err)
		}
		files, _ := nc.(*receiver)
		l = &link{Conn: fcgi.NewConn(nc), nc: nc, files: files}
	}
	h.hook(l)
	return l, h, nil
}

// connect opens the channel to a child. One of the gateway's own can pass descriptors over it.
func (c *call) connect(child mpm.Child) (net.Conn, error) {
	channel, err := event.Dial(child.Socket)
	if err != nil {
		return nil, err
	}
	if c.pool.config.HasApplication() {
		return channel, nil
	}
	return newReceiver(channel), nil
}

func lacksRoom(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// hook has the connection end with the hold: reading from it then fails at once, whoever else keeps it open. The client's end
// is told to a child that is awaited.
func (h *hold) hook(conn channel) {
	h.conn = conn
	h.closing.wait(&h.ending, h.closeConn)
	if h.awaited {
		h.leaving.on(h.client, conn.hangUp)
	}
}

// drop gives a connection up before the request goes over another one. It reports whether the hold is still there.
func (h *hold) drop() bool {
	alive := h.closing.stop()
	if h.awaited {
		alive = h.leaving.stop() && alive
	}
	if alive && h.conn != nil { // else another goroutine closes it
		_ = h.conn.Close()
		h.conn = nil
	}
	return alive
}

func (h *hold) closeConn() {
	_ = h.conn.Close()
	h.body.interrupt()
}

// unhook leaves the connection alone. It reports whether it was neither closed nor hung up.
func (h *hold) unhook() bool {
	alive, here, heard := h.closing.stop(), h.leaving.stop(), h.deaf.stop()
	return alive && here && heard
}

// over says that there is no more work.
func (h *hold) over() {
	h.watch.end()
	if !h.freeing.stop() {
		h.interrupting.Wait() // or it would cut off an answer that begins now and says why
	}
	h.end(context.Canceled)
}

// unlimited says that the response is a conversation or a stream, whose length says nothing of the application.
func (h *hold) unlimited() {
	h.endless = true
	h.slot.Unlimited()
	h.watch.end()
	if h.conn == nil {
		return // h ends with the client
	}
	h.deaf.on(h.client, func() { _ = h.conn.Close() })
}

// release gives the slot back. The connection stays with it if it can be used again.
func (h *hold) release(o mpm.Outcome) {
	keep := h.unhook() && o == mpm.Done && h.conn != nil && h.conn.Usable()
	if h.remote && h.upstream == nil {
		keep = false // a FastCGI server: php-fpm has a child wait for each connection
	}
	if h.conn != nil && !keep {
		_ = h.conn.Close() // nothing is being written
	}
	if h.upstream != nil {
		if k, ok := h.conn.(*serverConn); ok && keep {
			h.upstream.put(k)
		}
		h.upstream.leave()
		keep = false
	}
	if h.deputy != nil {
		h.over()
		h.deputy.release(h.deputy.outcome())
		return
	}
	if h.slot.Channel = nil; keep {
		h.slot.Channel = h.conn
	}
	h.over()
	if l, ok := h.slot.Channel.(*link); ok && h.shared && !l.isRead() {
		go h.settle(l) // ends after settleTime at the latest
		return
	}
	h.slot.Release(o)
}

// settle gives back the slot of a child of php-fpm that does not read yet. After fastcgi_finish_request its response has ended and
// its script has not.
func (h *hold) settle(l *link) {
	for pause := firstLook; pause < settleTime; pause *= 2 {
		time.Sleep(pause)
		if l.isRead() {
			h.slot.Release(mpm.Done)
			return
		}
	}
	h.slot.Release(mpm.Abandoned)
}

// outcome is how a deputy leaves its slot, whatever was asked for: its connection ended only if it was in the middle of an errand,
// or a client has gone.
func (h *hold) outcome() mpm.Outcome {
	if h.conn.Usable() {
		return mpm.Done
	}
	return mpm.Abandoned
}

// forgo gives back the slot of a response that nobody wants to have the rest of.
func (h *hold) forgo(resp source) {
	if h.remote {
		_ = resp.Close() // always nil
		h.release(mpm.Done)
		return
	}
	if !h.awaited || h.endless {
		_ = resp.Close() // ends the connection: the program sees that nobody listens
		h.release(h.left())
		return
	}
	h.conn.hangUp()
	_, err := resp.WriteTo(io.Discard)
	_ = resp.Close()   // always nil
	_ = h.conn.Close() // it was hung up
	if err != nil && h.Err() != nil {
		h.release(mpm.Broken)
		return
	}
	h.release(mpm.Done) // the child has answered, or has hung up as well: either way its thread is free
}

// left is how a slot is left whose response nobody waits for: an HTTP server sees at once that its connection has ended, a FastCGI
// program when it writes.
func (h *hold) left() mpm.Outcome {
	if _, ok := h.conn.(*serverConn); ok {
		return mpm.Done
	}
	return mpm.Abandoned
}

// lost gives back a slot whose child failed with err. It returns the reason, where something is known that says more.
func (h *hold) lost(err error) error {
	if h.remote {
		return h.lostRemote(err)
	}
	switch {
	case h.awaited && wasNotSent(err):
		h.awaitExit() // or the next try may go to another thread of a child that is dead
	case !h.endless && (hadNoResponse(err) || errors.Is(err, fcgi.ErrTruncated) || errors.Is(err, errAnswerCut)):
		h.awaitExit()
	}
	cause := h.Err()
	gone := h.client.Err() != nil
	switch {
	case gone && (!h.awaited || h.endless):
		h.release(h.left())
		return errClientGone
	case errors.Is(cause, mpm.ErrDeadline):
		h.release(mpm.Broken) // the pool kills it already
		return cause
	case errors.Is(err, errNoRoom):
		h.release(mpm.Done)
		return err
	case wasNotSent(err) && !gone:
		h.release(mpm.NotSent)
		return err
	case cause != nil:
		h.release(mpm.Broken)
		return fmt.Errorf("%w: %w", err, cause)
	case gone:
		h.release(mpm.Done) // the child hung up as we did
		return errClientGone
	case h.body.cut() != nil && h.awaited:
		h.release(mpm.Done) // likewise
		return h.body.cut()
	case h.body.cut() != nil:
		h.release(mpm.Abandoned)
		return h.body.cut()
	case errors.Is(err, fcgi.ErrParamTooLarge):
		h.release(mpm.Done)
		return err
	case h.ours:
		h.slot.Failed = true
		h.release(mpm.Abandoned) // a script or the application failed; the probe tells whether the child did
		return err
	}
	h.release(mpm.Broken)
	return err
}

// lostRemote is lost for one who is no child.
func (h *hold) lostRemote(err error) error {
	cause := h.Err()
	switch {
	case h.deputy != nil && childFailed(err) && cause == nil && h.client.Err() == nil:
		h.unhook()
		h.over()
		return h.deputy.lost(err)
	case h.client.Err() != nil:
		h.release(mpm.Abandoned)
		return errClientGone
	case errors.Is(cause, errTooSlow):
		err = cause
	case h.body.cut() != nil:
		err = h.body.cut()
	}
	h.release(mpm.Broken)
	return err
}

// awaitExit waits a moment for the end of the hold.
func (h *hold) awaitExit() {
	t := time.NewTimer(exitGrace)
	defer t.Stop()
	select {
	case <-h.Done():
	case <-t.C:
	}
}
