package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"gateway/mpm"
	"gateway/mpm/event"
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
)

// applications is what a [Server] needs to have programs answer. It is immutable and safe for concurrent use.
type applications struct {
	spool        *spool
	readers      *sync.Pool // of *bufio.Reader with responseMemory
	environments *sync.Pool // of *environment
	log          Logger
}

func newApplications(c *routes.Config, log Logger) applications {
	return applications{
		spool:        newSpool(c.Gateway.SpoolDir, c.Gateway.SpoolLimit, log),
		readers:      &sync.Pool{New: func() any { return bufio.NewReaderSize(nil, responseMemory) }},
		environments: &sync.Pool{New: func() any { return new(environment) }},
		log:          log,
	}
}

// ProbeOf returns how to ask a child of a pool whether it is ready for requests. It is for [mpm.WithProbe].
func ProbeOf(c *routes.Pool) func(context.Context, mpm.Child) error {
	if c.HTTP != nil {
		return probeHTTP
	}
	return probeFastCGI
}

func probeFastCGI(ctx context.Context, child mpm.Child) error {
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
	params *environment // of an application that speaks FastCGI
	stderr stderrLog    // of the try, likewise
	body   *spooled
	server *upstream     // that is asked; nil: a child is
	br     *bufio.Reader // before the response; nil: none

	reading sync.WaitGroup // readers of body that others have
	open    atomic.Int32   // how many these are
	watch   *watch         // starts afresh with each piece that they take; nil: there is none
}

// serveApplication passes a request on to a child of p. It returns where to go on when a script answers with a local
// redirect (RFC 3875 §6.2.2), an escaped path with an optional query; otherwise the client has its answer.
func (s *Server) serveApplication(w http.ResponseWriter, r *http.Request, x *exchange, p pool) (next string) {
	var prog program
	speaksHTTP := p.config.HTTP != nil || x.route.Proxy != nil
	if !speaksHTTP { // an HTTP server looks for itself
		var status int
		var err error
		prog, status, err = s.locate(x, p.config)
		switch {
		case x.deputy.excuse():
			return ""
		case status == http.StatusForbidden:
			s.warn("script can't be reached", x.uri, err)
			s.fail(w, x, status, nil)
			return ""
		case status != 0:
			s.fail(w, x, status, err)
			return ""
		}
	}
	x.deputy.release() // or the request would wait for a slot that it has
	body, err := s.takeBody(w, r, x)
	if err != nil {
		s.failBody(w, x, err)
		return ""
	}
	defer body.close()
	c := call{Server: s, w: w, r: r, x: x, pool: p, body: body}
	defer c.endReading()
	if !speaksHTTP {
		c.params, _ = s.environments.Get().(*environment)
		defer c.putParams()
		c.params.fill(r, x, prog, body.length)
	}
	return c.run()
}

// putParams gives the variables back.
func (c *call) putParams() {
	clear(*c.params) // of the request's texts
	*c.params = (*c.params)[:0]
	c.environments.Put(c.params)
}

// takeBody collects the body of a request, or leaves a large one to the child: its length must be known then. That of a conversation
// is left to the server as it comes.
func (s *Server) takeBody(w http.ResponseWriter, r *http.Request, x *exchange) (*spooled, error) {
	if x.converses(r) {
		x.endless.Store(true)
		return s.spool.streamed(w, r.Body, -1), nil
	}
	if x.route.Unbuffered && r.ContentLength > spoolMemory {
		return s.spool.streamed(w, r.Body, r.ContentLength), nil
	}
	return s.spool.read(r.Body, r.ContentLength)
}

// run offers the request to children until one has read something of it, and then perhaps to one more.
func (c *call) run() (next string) {
	retried := false
	for try := 1; ; try++ {
		slot, err := c.occupy()
		if err != nil {
			c.failAcquire(c.w, c.r, c.x)
			return ""
		}
		next, err = c.try(slot)
		switch {
		case wasNotSent(err) && try < maxTries && c.body.again():
		case !retried && c.mayRepeat(err):
			retried = true
			c.log.Infow("request is repeated: its child died before it answered", "pool", c.x.pool, "pid", c.x.pid, "uri", c.x.uri, "error", err)
		default:
			c.conclude(err)
			return next
		}
	}
}

// occupy gets a slot, and notes for the status and the logs who has it.
func (c *call) occupy() (*mpm.Slot, error) {
	slot, err := c.acquire()
	if err != nil {
		return nil, err
	}
	if route := c.x.route; route != nil && route.RequestTimeout > 0 { // a deputy may look for the route
		slot.Limit(route.RequestTimeout)
	}
	c.x.pid = slot.Child.PID
	c.x.queueWait += slot.QueueWait
	slot.Describe(c.r.Method, c.r.RequestURI)
	return slot, nil
}

// acquire gets a slot. On a worker pool that is the one that served the connection's last request, if it is free: what its
// thread knows of the client is warm.
func (c *call) acquire() (*mpm.Slot, error) {
	if r := c.relayed(); r != nil && r.slot != nil {
		slot := r.slot
		r.slot = nil
		return slot, nil
	}
	claim := mpm.Claim{Session: c.session()}
	if c.pool.config.MPM != routes.Worker || c.x.conn == nil {
		return c.pool.AcquireFor(c.r.Context(), claim)
	}
	claim.Near = c.x.conn.lastSlot()
	slot, err := c.pool.AcquireFor(c.r.Context(), claim)
	if err == nil {
		c.x.conn.remember(slot.ID())
	}
	return slot, err
}

// session is what the client calls its session; empty: it has none, or the pool does not care.
func (c *call) session() string {
	limit := c.pool.config.SessionLimit
	if limit == nil {
		return ""
	}
	return cookieOf(c.r, limit.Cookie)
}

// wasNotSent reports that no child has read any of the request.
func wasNotSent(err error) bool {
	return errors.Is(err, fcgi.ErrNotSent) || errors.Is(err, errUnreachable)
}

// hadNoResponse reports that a child may have read the request, and that nothing of a response came.
func hadNoResponse(err error) bool {
	return errors.Is(err, fcgi.ErrNoResponse) || errors.Is(err, errNoAnswer)
}

// mayRepeat reports whether a request that got no response can be given to another child. Its body, if it has one, is spooled.
func (c *call) mayRepeat(err error) bool {
	if !c.pool.config.Retry || c.x.route.Proxy != nil || !c.body.again() || !hadNoResponse(err) || errors.Is(err, mpm.ErrDeadline) || c.r.Context().Err() != nil {
		return false
	}
	return isIdempotent(c.r.Method)
}

// conclude tells the client of an error, unless there is none or its response has begun.
func (c *call) conclude(err error) {
	if err == nil {
		return
	}
	_, cut := errors.AsType[*cutError](err)
	switch {
	case cut && (c.r.Context().Err() != nil || errors.Is(err, event.ErrGone)):
		panic(http.ErrAbortHandler) // nobody misses the rest
	case cut && errors.Is(err, errSpool): // the spool has logged it
		panic(http.ErrAbortHandler)
	case cut:
		c.log.Warnw("response was cut off", "pool", c.x.pool, "pid", c.x.pid, "uri", c.x.uri, "error", err)
		panic(http.ErrAbortHandler) // the only way to say so
	case errors.Is(err, errClientGone):
		c.w.WriteHeader(statusClientGone) // for the access log
	case errors.Is(err, mpm.ErrDeadline):
		c.failWith(http.StatusGatewayTimeout, err)
	case errors.Is(err, errTooSlow):
		c.fail(c.w, c.x, http.StatusGatewayTimeout, err)
	case errors.Is(err, errNoRoom), errors.Is(err, errNoServer):
		c.w.Header().Set("Retry-After", "1")
		c.fail(c.w, c.x, http.StatusServiceUnavailable, err)
	case errors.Is(err, fcgi.ErrParamTooLarge):
		c.fail(c.w, c.x, http.StatusRequestHeaderFieldsTooLarge, err)
	case errors.Is(err, errBodyCut):
		c.failBody(c.w, c.x, err)
	case errors.Is(err, fcgi.ErrBody) && c.body.stream == nil: // the spool could not be read
		c.fail(c.w, c.x, http.StatusInternalServerError, err)
	default:
		c.failWith(http.StatusBadGateway, err)
	}
}

// failWith answers for a child that failed, and says why if the pool is to be debugged.
func (c *call) failWith(status int, err error) {
	logged := err
	if status == http.StatusGatewayTimeout {
		logged = nil // the pool has logged it
	}
	if !c.pool.config.DebugErrors {
		c.fail(c.w, c.x, status, logged)
		return
	}
	c.logFailure(c.x, status, logged)
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	writePlain(c.w, status)
	// A client that has gone does not miss it.
	_, _ = fmt.Fprintf(c.w, "\npool %q, child %d: %s\n", c.x.pool, c.x.pid, printable(err.Error()))
}

// try has the child of a slot answer, and gives the slot back.
func (c *call) try(slot *mpm.Slot) (next string, err error) {
	switch {
	case c.x.route.Proxy != nil:
		return "", c.tryUpstreams(slot)
	case c.pool.config.HTTP != nil:
		return "", c.tryHTTP(slot)
	}
	connect := c.holdFastCGI
	if c.x.route.FastCGI != nil {
		connect = c.holdServer
	}
	link, h, err := connect(slot)
	if err != nil {
		if err = h.lost(err); h.remote {
			err = unmarked(err) // it was tried long enough
		}
		return "", err
	}
	c.stderr = stderrLog{log: c.log, pool: c.x.pool, pid: c.x.pid, uri: c.x.uri}
	defer c.stderr.end()
	resp, err := link.Do(*c.params, c.body.reader(), c.body.length, c.stderr.write)
	if err != nil {
		return "", h.lost(err)
	}
	defer c.putReader()
	return c.answer(h, resp, c.reader(resp))
}

// reader returns a buffer before a response. The caller must call putReader.
func (c *call) reader(resp io.Reader) *bufio.Reader {
	c.br, _ = c.readers.Get().(*bufio.Reader)
	c.br.Reset(resp)
	return c.br
}

// putReader gives the buffer before a response back, once.
func (c *call) putReader() {
	if c.br != nil {
		c.br.Reset(nil)
		c.readers.Put(c.br)
		c.br = nil
	}
}
