package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gateway/mpm"
	"gateway/proxy/fcgi"
	"gateway/routes"
)

const (
	connectTimeout = 5 * time.Second

	// idleTimeout is how long a connection to a server is kept without a request: less than servers keep theirs (Node's 5 s are
	// the shortest in wide use), because a request that meets their end is lost if it can't be repeated.
	idleTimeout = 4 * time.Second

	// maxIdleServer is how many connections without a request are kept for each server.
	maxIdleServer = 1024
)

// errTooSlow means that a server let the pool's request_timeout pass without a word.
var errTooSlow = errors.New("the server took longer than request_timeout")

// upstreams are the servers of a route. They are safe for concurrent use.
type upstreams struct {
	servers   []upstream // immutable
	transport http.Transport
	turn      atomic.Uint32 // of the next request
}

type upstream struct {
	routes.Upstream
	url  *url.URL    // what a request's URL begins with: the host is the number of the server, for dial
	down atomic.Bool // it took no connection when it was asked last
}

func newUpstreams(p *routes.Proxy) *upstreams {
	u := &upstreams{servers: make([]upstream, len(p.To))}
	for i, to := range p.To {
		u.servers[i].Upstream, u.servers[i].url = to, &url.URL{Scheme: "http", Host: strconv.Itoa(i), Path: to.Base}
	}
	u.transport = http.Transport{
		DialContext: u.dial, DisableCompression: true, MaxIdleConnsPerHost: maxIdleServer, IdleConnTimeout: idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHead,
	}
	return u
}

// dialerKey is the context key of the *dialer of a request whose pool has children that connect for it.
type dialerKey struct{}

// dial connects to the server whose number is the host of addr.
func (u *upstreams) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	number, _, _ := net.SplitHostPort(addr)
	i, err := strconv.Atoi(number)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	connect := new(net.Dialer).DialContext
	if d, ok := ctx.Value(dialerKey{}).(*dialer); ok {
		connect = d.dial
	}
	nc, err := connect(ctx, u.servers[i].Network, u.servers[i].Address)
	switch {
	case childFailed(err):
		return nil, err
	case lacksRoom(err):
		return nil, fmt.Errorf("%w: %w", errNoRoom, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	return &metered{Conn: nc}, nil
}

// childFailed reports that not the server but the child that was to connect to it has failed.
func childFailed(err error) bool {
	return errors.Is(err, fcgi.ErrNotSent) || errors.Is(err, fcgi.ErrNoResponse) || errors.Is(err, fcgi.ErrTruncated) || errors.Is(err, fcgi.ErrProtocol)
}

// tryUpstreams has one of the route's servers answer, and gives the slot back.
func (c *call) tryUpstreams(slot *mpm.Slot) error {
	h, ctx, connected, err := c.holdUpstream(slot)
	if err != nil {
		return err
	}
	resp, nc, err := c.askInTurn(ctx, c.upstreams[c.x.route.Proxy])
	connected()
	if err != nil {
		return unmarked(h.lost(err))
	}
	err = c.answerHTTP(h, resp, nc)
	if _, cut := errors.AsType[*cutError](err); cut && errors.Is(h.Err(), errTooSlow) {
		return &cutError{errTooSlow} // and not what that has done to the client
	}
	return err
}

// askInTurn asks the server whose turn it is, and the others while none takes a connection.
func (c *call) askInTurn(ctx context.Context, u *upstreams) (resp *http.Response, nc net.Conn, err error) {
	turn, count := u.turn.Add(1), uint32(len(u.servers))
	for i := range count {
		s := &u.servers[(turn+i)%count]
		resp, nc, err = c.ask(ctx, &u.transport, s.url)
		c.noteDown(s, err)
		if err == nil {
			return resp, nc, nil
		}
		err = fmt.Errorf("server %s: %w", s.Address, err)
		if !errors.Is(err, errUnreachable) || ctx.Err() != nil {
			break
		}
	}
	return nil, nil, err
}

// noteDown logs that a server takes no connections any more, or again.
func (c *call) noteDown(s *upstream, err error) {
	down := errors.Is(err, errUnreachable)
	switch {
	case s.down.Load() == down || c.r.Context().Err() != nil, s.down.Swap(down) == down:
	case down:
		c.log.Warnw("server takes no connection and is passed over while another one does", "pool", c.x.pool, "server", s.Address, "error", err)
	default:
		c.log.Infow("server takes connections again", "pool", c.x.pool, "server", s.Address)
	}
}

// holdUpstream holds a slot for a server that is no child: nothing but the server itself says when it has finished, and what
// it does wrong is not the slot's fault. What connects to it uses ctx, and calls connected when it has, or has given up.
func (c *call) holdUpstream(slot *mpm.Slot) (h *hold, ctx context.Context, connected func(), err error) {
	h = &hold{slot: slot, client: c.r.Context(), body: c.body, remote: true}
	var l *link
	if c.pool.hasDeputies() {
		if l, h.deputy, err = c.holdFastCGI(slot); err != nil {
			return nil, nil, nil, h.deputy.lost(err)
		}
		h.deputy.ours = false // what fails now is the child's own doing
		slot.Unlimited()      // or the deadline of a server would end a child
	}
	h.leaving.on(h.client, h.clientLeft)
	c.watchUpstream(h)
	if l == nil {
		return h, h.context(), func() {}, nil
	}
	d := newDialer(l)
	h.closing.wait(&h.ending, func() { _ = l.Close() }) // ends a dial
	return h, context.WithValue(h.context(), dialerKey{}, d), func() {
		h.closing.stop()
		d.revoke()
	}, nil
}

// watchUpstream has the hold end when the server takes too long. Whoever waits for the client then has to give up as well, but an
// answer that has not begun can still be sent.
func (c *call) watchUpstream(h *hold) {
	c.watch = nil
	if d := cmp.Or(c.x.route.RequestTimeout, c.pool.config.RequestTimeout); d > 0 {
		c.watch = &watch{limit: d, timer: time.AfterFunc(d, func() { h.end(errTooSlow) })}
	}
	h.watch = c.watch
	if w, ok := undressed(c.w).(interface{ interrupt() }); ok {
		h.interrupted = make(chan struct{})
		h.freeing.wait(&h.ending, func() {
			defer close(h.interrupted)
			w.interrupt()
		})
	}
}

// watch ends a request whose server is silent for too long. It runs from the beginning. A nil watch never does. It is safe for
// concurrent use.
type watch struct {
	limit time.Duration
	timer *time.Timer
	mu    sync.Mutex
	over  bool // it does not start any more
}

func (w *watch) start() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) stop() {
	if w != nil {
		w.timer.Stop()
	}
}

func (w *watch) end() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// watched is a response that is watched while it is waited for, and not while the client is.
type watched struct {
	io.ReadCloser
	watch *watch
}

func (r *watched) Read(p []byte) (int, error) {
	r.watch.start()
	defer r.watch.stop()
	return r.ReadCloser.Read(p)
}
