package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gateway/mpm"
	"gateway/proxy/fcgi"
	"gateway/routes"
)

const (
	// responseMemory is how much of a response is read before the client gets the first byte. The child of a response that
	// fits is free before the client has taken it.
	responseMemory = 64 << 10

	// maxTries is how many children a request is offered to while none has read a byte of it: when somebody kills idle
	// children, the next one may be dead as well.
	maxTries = 3

	// exitGrace is how long a broken connection waits for the news that its child has ended: they come another way, and tell
	// why.
	exitGrace = 100 * time.Millisecond
)

// errNoRoom says that the front has no descriptor or memory left for a connection to a child.
var errNoRoom = errors.New("no descriptor is free: raise the limit of open files (ulimit -n, LimitNOFILE)")

// applications is what a [Server] needs to have programs answer. It is immutable and safe for concurrent use.
type applications struct {
	spool   *spool
	readers *sync.Pool // of *bufio.Reader with responseMemory
	log     Logger
}

func newApplications(c *routes.Config, log Logger) applications {
	return applications{
		spool:   newSpool(c.Gateway.SpoolDir),
		readers: &sync.Pool{New: func() any { return bufio.NewReaderSize(nil, responseMemory) }},
		log:     log,
	}
}

// Probe asks a child whether it is ready for requests. It is for [mpm.WithProbe].
func Probe(ctx context.Context, child mpm.Child) error {
	nc, err := dial(ctx, child)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer func() {
		stop()
		_ = nc.Close() // it was only asked
	}()
	err = fcgi.Probe(nc)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func dial(ctx context.Context, child mpm.Child) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", child.Socket)
}

// call is one request on its way through an application. It belongs to the goroutine that serves the request.
type call struct {
	*Server
	w      http.ResponseWriter
	r      *http.Request
	x      *exchange
	pool   pool
	params environment
	body   *spooled
}

// serveApplication passes a request on to a child of p. It returns where to go on when a script answers with a local
// redirect (RFC 3875 §6.2.2), an escaped path with an optional query; otherwise the client has its answer.
func (s *Server) serveApplication(w http.ResponseWriter, r *http.Request, x *exchange, p pool) (next string) {
	prog, status, err := s.locate(x, p.config)
	if status != 0 {
		s.fail(w, x, status, err)
		return ""
	}
	body, err := s.spool.read(r.Body, r.ContentLength)
	if err != nil {
		s.fail(w, x, bodyStatus(err), err)
		return ""
	}
	defer body.close()
	c := call{Server: s, w: w, r: r, x: x, pool: p, params: environ(r, x, prog, body.length), body: body}
	return c.run()
}

// run offers the request to children until one has read something of it.
func (c *call) run() (next string) {
	for try := 1; ; try++ {
		slot, err := c.pool.Acquire(c.r.Context())
		if err != nil {
			c.failAcquire(c.w, c.r, c.x, err)
			return ""
		}
		c.x.pid = slot.Child.PID
		c.x.queueWait += slot.QueueWait
		slot.Describe(c.r.Method, c.r.RequestURI)
		next, err = c.try(slot)
		if !errors.Is(err, fcgi.ErrNotSent) || try == maxTries {
			c.conclude(err)
			return next
		}
	}
}

// conclude tells the client of an error, unless there is none or its response has begun.
func (c *call) conclude(err error) {
	_, cut := errors.AsType[*cutError](err)
	switch {
	case err == nil:
	case cut:
		c.log.Warnw("response was cut off", "pool", c.x.pool, "pid", c.x.pid, "uri", c.x.uri, "error", err)
		panic(http.ErrAbortHandler) // the only way to say so
	case errors.Is(err, errClientGone):
		c.w.WriteHeader(statusClientGone) // for the access log
	case errors.Is(err, mpm.ErrDeadline):
		c.fail(c.w, c.x, http.StatusGatewayTimeout, nil) // the pool has logged it
	case errors.Is(err, errNoRoom):
		c.w.Header().Set("Retry-After", "1")
		c.fail(c.w, c.x, http.StatusServiceUnavailable, err)
	case errors.Is(err, fcgi.ErrParamTooLarge):
		c.fail(c.w, c.x, http.StatusRequestHeaderFieldsTooLarge, err)
	case errors.Is(err, fcgi.ErrBody): // the spool could not be read
		c.fail(c.w, c.x, http.StatusInternalServerError, err)
	default:
		c.fail(c.w, c.x, http.StatusBadGateway, err)
	}
}

// try has the child of a slot answer, and gives the slot back.
func (c *call) try(slot *mpm.Slot) (next string, err error) {
	h, err := c.hold(slot)
	if err != nil {
		return "", h.lost(err)
	}
	stderr := stderrLog{log: c.log, pool: c.x.pool, pid: c.x.pid, uri: c.x.uri}
	defer stderr.end()
	resp, err := h.conn.Do(c.params, c.body.reader(), c.body.length, stderr.write)
	if err != nil {
		return "", h.lost(err)
	}
	br, _ := c.readers.Get().(*bufio.Reader)
	br.Reset(resp)
	defer func() {
		br.Reset(nil)
		c.readers.Put(br)
	}()
	return c.answer(h, resp, br)
}

// hold is a slot in use. Exactly one of its methods release and lost is to be called.
type hold struct {
	slot   *mpm.Slot
	conn   *fcgi.Conn      // nil: none could be had
	client context.Context // of the request
	ctx    context.Context // ends with the child, its deadline or the client
	cancel context.CancelFunc
	unhook func() bool
	script bool // the child is the gateway itself, and runs scripts
}

// hold connects to the child of a slot, unless there is a connection. The connection ends with h.ctx: reading from it then
// fails at once, whoever else keeps it open.
func (c *call) hold(slot *mpm.Slot) (*hold, error) {
	h := &hold{slot: slot, client: c.r.Context(), script: !c.pool.config.HasApplication()}
	h.ctx, h.cancel = slot.Context(h.client)
	if kept, ok := slot.Channel.(*fcgi.Conn); ok {
		h.conn = kept
	} else {
		nc, err := dial(h.ctx, slot.Child)
		switch {
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
			return h, fmt.Errorf("%w: %w", errNoRoom, err) // the child is well
		case err != nil:
			return h, fmt.Errorf("%w: %w", fcgi.ErrNotSent, err)
		}
		h.conn = fcgi.NewConn(nc)
	}
	h.unhook = context.AfterFunc(h.ctx, func() { _ = h.conn.Close() })
	return h, nil
}

// release gives the slot back. The connection stays with it if it can be used again.
func (h *hold) release(o mpm.Outcome) {
	h.slot.Channel = nil
	switch {
	case h.conn == nil:
	case h.unhook() && o == mpm.Done && h.conn.Usable():
		h.slot.Channel = h.conn
	default:
		_ = h.conn.Close() // nothing is being written
	}
	h.cancel()
	h.slot.Release(o)
}

// lost gives back a slot whose child failed with err. It returns the reason, where something is known that says more.
func (h *hold) lost(err error) error {
	if errors.Is(err, fcgi.ErrNoResponse) || errors.Is(err, fcgi.ErrTruncated) {
		h.awaitExit()
	}
	cause := context.Cause(h.ctx)
	switch {
	case h.client.Err() != nil:
		h.release(mpm.Abandoned)
		return errClientGone
	case errors.Is(cause, mpm.ErrDeadline):
		h.release(mpm.Broken) // the pool kills it already
		return cause
	case errors.Is(err, errNoRoom):
		h.release(mpm.Done)
		return err
	case errors.Is(err, fcgi.ErrNotSent):
		h.release(mpm.NotSent)
		return err
	case cause != nil:
		h.release(mpm.Broken)
		return fmt.Errorf("%w: %w", err, cause)
	case errors.Is(err, fcgi.ErrParamTooLarge):
		h.release(mpm.Done)
		return err
	case h.script:
		h.release(mpm.Abandoned) // a script failed; the probe tells whether the child did
		return err
	}
	h.release(mpm.Broken)
	return err
}

// awaitExit waits a moment for the end of h.ctx.
func (h *hold) awaitExit() {
	t := time.NewTimer(exitGrace)
	defer t.Stop()
	select {
	case <-h.ctx.Done():
	case <-t.C:
	}
}
