package fcgi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Why the context of a request ended, as context.Cause gives it.
var (
	// ErrPeerGone means that the peer closed the connection, or that it could not be written to.
	ErrPeerGone = errors.New("fcgi: peer closed the connection")
	// ErrAborted means that the peer sent FCGI_ABORT_REQUEST.
	ErrAborted = errors.New("fcgi: request aborted")
)

// maxParams bounds the PARAMS stream of a request, in bytes.
const maxParams = 1 << 20

// Server is the application's side of FastCGI: it runs a handler for one request at a time on each connection.
type Server struct {
	// Handler answers a request. Its context ends when the peer closes the connection (closing only its sending side counts),
	// aborts the request, or when Shutdown lost patience. Handler is set before the first call of Serve or ServeConn.
	Handler func(context.Context, *Request)
	// Gone reports whether the peer of a connection has closed it, without reading. It is asked each second while a body that
	// the handler does not read hides the end of the connection. nil: nobody knows; then the next write shows it.
	Gone func(net.Conn) bool

	mu        sync.Mutex
	closing   bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	calls     int           // of Serve and ServeConn in progress
	over      chan struct{} // closed when closing and calls is 0; nil before Shutdown
}

// Serve accepts connections from l and serves them one after the other, each until its peer closes it: like php-cgi, it
// leaves the others waiting in the backlog. Several calls, on one listener or more, make as many requests run at once.
//
// It returns nil after Shutdown, and otherwise why accepting failed. It closes l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.enter(l) {
		return nil
	}
	defer s.leave(l)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			s.serve(nc)
		case s.stopping():
			return nil
		default:
			return fmt.Errorf("fcgi: accept: %w", err)
		}
	}
}

// ServeConn serves the requests of one connection until the peer or Shutdown closes it.
func (s *Server) ServeConn(nc net.Conn) {
	if !s.enter(nil) {
		_ = nc.Close()
		return
	}
	defer s.leave(nil)
	s.serve(nc)
}

// Shutdown closes the listeners and the connections without a request, and waits for the requests in progress and the calls
// of Serve and ServeConn. When ctx is done it closes the remaining connections, which ends the contexts of their requests, and
// returns ctx's cause without waiting for them.
func (s *Server) Shutdown(ctx context.Context) error {
	select {
	case <-s.stop():
		return nil
	case <-ctx.Done():
		s.cut()
		return context.Cause(ctx)
	}
}

// stop begins a shutdown and returns the channel that is closed at its end.
func (s *Server) stop() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.over == nil {
		s.over = make(chan struct{})
		if s.calls == 0 {
			close(s.over)
		}
	}
	for l := range s.listeners {
		_ = l.Close() // wakes Accept
	}
	for c := range s.conns {
		if !c.active {
			_ = c.nc.Close() // wakes its reader
		}
	}
	return s.over
}

func (s *Server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.nc.Close()
	}
}

func (s *Server) enter(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.calls++
	if l != nil {
		if s.listeners == nil {
			s.listeners = make(map[net.Listener]struct{})
		}
		s.listeners[l] = struct{}{}
	}
	return true
}

func (s *Server) leave(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
	if s.calls--; s.calls == 0 && s.over != nil {
		close(s.over)
	}
}

func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// serve is the life of a connection. The caller's goroutine reads; each request has another one for its handler, so that
// the end of the connection is seen while it runs. No handler outlives serve.
func (s *Server) serve(nc net.Conn) {
	c := &conn{server: s, nc: nc, in: newReader(nc)}
	if s.add(c) {
		err := c.read()
		if r := c.req; r != nil {
			r.cancel(err)
			r.endBody(io.ErrUnexpectedEOF)
			if r.done != nil {
				<-r.done
			}
		}
		s.remove(c)
	}
	_ = nc.Close()
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	if s.conns == nil {
		s.conns = make(map[*conn]struct{})
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// conn is one connection of a Server. Its reading goroutine owns the fields without another remark.
type conn struct {
	server *Server
	nc     net.Conn
	in     reader
	req    *Request // the last one begun; nil: none, or its records are to be ignored

	active bool // a request is being read or runs; guarded by server.mu

	wmu sync.Mutex // held for each write, from any goroutine
	out []byte     // STDOUT that was not written yet, behind room for its header; guarded by wmu
}

// activate marks the begin of a request. It fails when the server is shutting down.
func (c *conn) activate() bool {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.active = !c.server.closing
	return c.active
}

// rest marks the end of a request, and closes the connection if there is to be no other.
func (c *conn) rest(keep bool) {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.active = false
	if !keep || c.server.closing {
		_ = c.nc.Close() // wakes the reader
	}
}

func (c *conn) write(b []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_, err := c.nc.Write(b)
	return err
}

// read takes records until the connection ends and says why it did.
func (c *conn) read() error {
	for {
		h, err := c.in.next()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPeerGone, err)
		}
		if err := c.record(h); err != nil {
			return err
		}
	}
}

func (c *conn) record(h header) error {
	switch {
	case h.id == 0:
		return c.management(h)
	case h.kind == kindBegin:
		return c.begin(h)
	case c.req == nil || h.id != c.req.id:
		return nil // of a request that was refused or has ended (§3.3)
	}
	switch h.kind {
	case kindParams:
		return c.params()
	case kindStdin:
		return c.stdin()
	case kindAbort:
		c.abort()
		return nil
	default:
		return fmt.Errorf("%w: record type %d in a request", ErrProtocol, h.kind)
	}
}

// management answers the records that belong to no request (§4). Unlike php-cgi it keeps the connection.
func (c *conn) management(h header) error {
	switch {
	case h.kind == kindGetValues:
		raw, err := c.in.appendContent(nil)
		if err != nil {
			return err
		}
		asked, err := decodeParams(raw)
		if err != nil {
			return err
		}
		return c.write(appendValues(nil, asked))
	case h.kind >= kindBegin && h.kind <= kindData:
		return fmt.Errorf("%w: record type %d without a request", ErrProtocol, h.kind)
	default:
		answer := appendHeader(nil, kindUnknownType, 0, endSize, 0)
		return c.write(append(answer, byte(h.kind), 0, 0, 0, 0, 0, 0, 0))
	}
}

// appendValues answers GET_VALUES: what was asked for and is known, once each.
func appendValues(dst []byte, asked Params) []byte {
	start := len(dst)
	dst = appendHeader(dst, kindGetValuesResult, 0, 0, 0)
	for _, p := range []Param{{maxConns, "1"}, {maxReqs, "1"}, {mpxsConns, "0"}} {
		if _, ok := asked.Get(p.Name); ok {
			dst = appendPair(dst, p)
		}
	}
	putHeader(dst[start:], kindGetValuesResult, 0, len(dst)-start-headerSize, 0)
	return dst
}

// begin starts a request. One that comes while another runs waits for it when that one has been read, and is refused
// otherwise: the records of two requests never mix.
func (c *conn) begin(h header) error {
	b, err := c.in.body8(h)
	if err != nil {
		return err
	}
	role, keep := uint16(b[0])<<8|uint16(b[1]), b[2]&flagKeepConn != 0
	if c.req != nil && !c.req.read {
		if c.req.id == h.id {
			return fmt.Errorf("%w: request %d begins twice", ErrProtocol, h.id)
		}
		return c.write(appendEnd(nil, h.id, 0, cantMultiplex))
	}
	if c.req != nil {
		<-c.req.done
		c.req = nil
	}
	if role != roleResponder {
		return c.refuse(h.id, keep)
	}
	if !c.activate() {
		return net.ErrClosed
	}
	c.req = newRequest(c, h.id, keep)
	return nil
}

// refuse answers a request for a role that is not the responder's. What follows of it is ignored.
func (c *conn) refuse(id uint16, keep bool) error {
	if err := c.write(appendEnd(nil, id, 0, unknownRole)); err != nil {
		return err
	}
	if !keep {
		return net.ErrClosed
	}
	return nil
}

// params collects the variables; the empty record starts the handler.
func (c *conn) params() error {
	r := c.req
	if r.done != nil {
		return fmt.Errorf("%w: parameters after their end", ErrProtocol)
	}
	if c.in.left > 0 {
		if len(r.raw)+c.in.left > maxParams {
			return fmt.Errorf("%w: more than %d bytes of parameters", ErrProtocol, maxParams)
		}
		var err error
		r.raw, err = c.in.appendContent(r.raw)
		return err
	}
	params, err := decodeParams(r.raw)
	if err != nil {
		return err
	}
	r.raw = nil
	r.Params = params
	c.openBody(r)
	r.done = make(chan struct{})
	go r.run() // ends with the handler; serve waits for it
	return nil
}

// openBody gives the request its body: none if the end of STDIN is here already, as with every GET.
func (c *conn) openBody(r *Request) {
	if h, ok := c.in.peek(); ok && h.kind == kindStdin && h.id == r.id && h.length == 0 {
		r.read = true
		return
	}
	r.bodyOut, r.bodyIn = io.Pipe()
	r.Body = r.bodyOut
}

// stdin hands the body to the handler, as fast as that reads it.
func (c *conn) stdin() error {
	r := c.req
	if r.done == nil {
		return fmt.Errorf("%w: a body before the end of the parameters", ErrProtocol)
	}
	if c.in.left == 0 {
		r.read = true
		r.endBody(nil)
		return nil
	}
	if r.read {
		return fmt.Errorf("%w: a body after its end", ErrProtocol)
	}
	defer c.watch(r)()
	for c.in.left > 0 {
		b, err := c.in.chunk()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPeerGone, err)
		}
		if _, err := r.bodyIn.Write(b); err != nil {
			return nil // the handler has returned: the rest is skipped
		}
		c.in.consume(len(b))
	}
	return nil
}

// goneCheck is how often a connection is looked at whose body nobody reads.
const goneCheck = time.Second

// watch looks for the end of the connection until stop is called.
func (c *conn) watch(r *Request) (stop func()) {
	if c.server.Gone == nil {
		return func() {}
	}
	ended := make(chan struct{})
	go func() { // ends with stop, or with the connection
		t := time.NewTicker(goneCheck)
		defer t.Stop()
		for {
			select {
			case <-ended:
				return
			case <-t.C:
				if c.server.Gone(c.nc) {
					r.cancel(ErrPeerGone)
					r.endBody(io.ErrUnexpectedEOF)
					return
				}
			}
		}
	}()
	return func() { close(ended) }
}

// abort cancels a request that runs and ends one that has not begun to.
func (c *conn) abort() {
	r := c.req
	r.cancel(ErrAborted)
	if r.done == nil {
		r.done = make(chan struct{})
		r.read = true
		r.finish()
		c.req = nil
	}
}
