package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
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

	// resolveAge is how long the addresses of a name are good.
	resolveAge = 30 * time.Second
)

var (
	// errTooSlow means that a server let its time pass without a word.
	errTooSlow = errors.New("the server took longer than request_timeout, or the timeouts of proxy, allow")

	// errNoServer means that no server was asked.
	errNoServer = errors.New("every server is ill or has its max_connections")
)

// upstreams are the servers of a route. They are safe for concurrent use.
type upstreams struct {
	proxy    *routes.Proxy // immutable
	line     string        // of the route, likewise
	servers  []*upstream   // likewise
	balancer balancer

	stop     context.CancelFunc // ends the checks
	checking sync.WaitGroup
}

func newUpstreams(r *routes.Route, secure Encrypt, log Logger) *upstreams {
	p := r.Proxy
	u := &upstreams{proxy: p, line: r.Line, balancer: balancer{kind: p.Balance, key: p.Key}}
	var ctx context.Context
	ctx, u.stop = context.WithCancel(context.Background())
	for _, to := range p.To {
		s := &upstream{Upstream: to, proxy: p, log: log, weight: max(to.Weight, 1), base: (&url.URL{Path: to.Base}).EscapedPath(), lookup: net.DefaultResolver.LookupNetIP, secure: secure, loops: make([]loopRelays, runtime.GOMAXPROCS(0))}
		u.servers = append(u.servers, s)
		if p.Health != nil {
			u.checking.Go(func() { s.watchHealth(ctx, p.Health) }) // ends with stop
		}
	}
	return u
}

// close closes the connections that wait for a request, and those that would.
func (u *upstreams) close() {
	u.stop()
	u.checking.Wait()
	for _, s := range u.servers {
		s.close()
	}
}

// upstream is a server, how it is, and the connections to it that wait for a request.
type upstream struct {
	routes.Upstream
	proxy  *routes.Proxy // immutable
	log    Logger        // likewise
	weight int           // likewise, at least 1
	base   string        // likewise: what the target of a request begins with, escaped
	secure Encrypt       // likewise
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	credit int // see balancer.turn; guarded by its mutex

	active   atomic.Int64  // requests
	requests atomic.Uint64 // all there were
	failures atomic.Uint64 // of them
	relayed  atomic.Uint64 // likewise
	ill      atomic.Bool   // its last health check failed
	failing  atomic.Bool   // its last request failed

	loops       []loopRelays // by their number
	idleOnLoops atomic.Int64 // connections

	mu      sync.Mutex
	idle    []*serverConn // the one that was used last is the last
	timer   *time.Timer   // for the first of idle; nil: there never was one
	closed  bool
	backoff relayBackoff  // of the goroutines that relay
	fails   int           // since it was well, in the last FailTimeout
	since   time.Time     // the first of them
	until   time.Time     // it is passed over
	http2   []*sharedConn // those that take requests
	addrs   []netip.Addr
	expires time.Time // of addrs
	first   int       // of addrs: where the next connection is tried first
}

// scheme is what the server's URL begins with.
func (s *upstream) scheme() string {
	if s.TLS {
		return "https"
	}
	return "http"
}

// enter counts a request, if there is room for it.
func (s *upstream) enter() bool {
	if n := s.active.Add(1); s.MaxConnections > 0 && n > int64(s.MaxConnections) {
		s.active.Add(-1)
		return false
	}
	s.requests.Add(1)
	return true
}

func (s *upstream) leave() { s.active.Add(-1) }

// isWell reports whether there is no reason to pass the server over.
func (s *upstream) isWell() bool {
	if s.ill.Load() {
		return false
	}
	if !s.failing.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !time.Now().Before(s.until)
}

// succeeded notes that a server has answered.
func (s *upstream) succeeded() {
	if !s.failing.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing.Swap(false) {
		s.fails, s.until = 0, time.Time{}
		s.log.Infow("server answers again", "server", s.Address)
	}
}

// failed notes that a server took no connection or gave no answer.
func (s *upstream) failed(err error, pool string) {
	s.failures.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.since) > s.proxy.FailTimeout {
		s.fails, s.since = 0, now
	}
	if s.fails++; s.proxy.MaxFails > 0 && s.fails >= s.proxy.MaxFails {
		s.until = now.Add(s.proxy.FailTimeout)
	}
	if !s.failing.Swap(true) {
		s.log.Warnw("server fails and is passed over while another one does not", "pool", pool, "server", s.Address, "error", err)
	}
}

// take returns the connection that was used last and waits for a request; nil: there is none.
func (s *upstream) take() *serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLast()
}

// takeLast is take with the mutex held.
func (s *upstream) takeLast() *serverConn {
	last := len(s.idle) - 1
	if last < 0 {
		return nil
	}
	k := s.idle[last]
	s.idle[last], s.idle = nil, s.idle[:last]
	return k
}

// takeToRelay is take for a goroutine that relays; nil, too: its request is for the ordinary way.
func (s *upstream) takeToRelay() *serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backoff.skips() {
		return nil
	}
	return s.takeLast()
}

// noteRelayed notes whether such a goroutine could relay the answer.
func (s *upstream) noteRelayed(ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		s.backoff.reset()
	} else {
		s.backoff.increase()
	}
}

// put keeps a connection for another request.
func (s *upstream) put(k *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.hasRoom(now) {
		_ = k.Close() // nothing is being written
		return
	}
	k.since = now
	s.idle = append(s.idle, k)
	switch {
	case s.timer == nil:
		s.timer = time.AfterFunc(s.patience(), s.sweep)
	case len(s.idle) == 1:
		s.timer.Reset(s.patience())
	}
}

// hasRoom reports whether another connection may wait for a request. One to a name ends when its addresses are to be looked up again: the name
// may have moved, and as long as there are connections nobody asks. The mutex is held.
func (s *upstream) hasRoom(now time.Time) bool {
	expired := s.expires.Before(now) && !s.expires.IsZero()
	return !s.closed && !expired && len(s.idle)+int(s.idleOnLoops.Load()) < cmp.Or(s.proxy.KeepAlive, maxIdleServer)
}

// keeps reports whether a connection of a loop may wait for another request.
func (s *upstream) keeps(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasRoom(now)
}

// patience is how long a connection waits for a request.
func (s *upstream) patience() time.Duration { return cmp.Or(s.proxy.KeepAliveTimeout, idleTimeout) }

// sweep closes the connections that nobody has needed for that long.
func (s *upstream) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, n := time.Now(), 0
	for ; n < len(s.idle) && now.Sub(s.idle[n].since) >= s.patience(); n++ {
		_ = s.idle[n].Close() // nothing is being written
	}
	s.idle = slices.Delete(s.idle, 0, n)
	if len(s.idle) > 0 {
		s.timer.Reset(s.patience() - now.Sub(s.idle[0].since))
	}
}

func (s *upstream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, k := range s.idle {
		_ = k.Close() // nothing is being written
	}
	for _, k := range s.http2 {
		if k.InFlight() == 0 { // else it closes itself when it is idle
			_ = k.Close()
		}
	}
	s.idle, s.http2 = nil, nil
	if s.timer != nil {
		s.timer.Stop()
	}
}

// connect opens a connection for the request of c, with the rights of the pool's user if a child is there for that.
func (s *upstream) connect(c *call, h *hold, l *link) (*serverConn, error) {
	var header []byte
	if s.proxy.ProxyProtocol != "" {
		header = appendProxyHeader(nil, s.proxy.ProxyProtocol, peers{c.x.remote, c.x.local})
	}
	nc, err := s.dial(h, l, header)
	if err != nil {
		return nil, err
	}
	k, err := newServerConn(nc)
	if err != nil {
		return nil, err
	}
	if k.once = header != nil; !s.TLS {
		k.preface = header
	}
	return k, nil
}

// dial opens a connection, with TLS behind a header if the server speaks it. Its error tells whether the server has failed or the child
// that was to connect to it.
func (s *upstream) dial(h *hold, l *link, header []byte) (nc net.Conn, err error) {
	timeout := cmp.Or(s.proxy.ConnectTimeout, connectTimeout)
	ctx, cancel := context.WithTimeout(h, timeout)
	defer cancel()
	if l != nil {
		nc, err = s.dialBy(h, l, timeout)
	} else {
		nc, err = s.open(ctx)
	}
	if err == nil && s.TLS {
		nc, err = s.encrypt(ctx, nc, header)
	}
	if err != nil && !childFailed(err) {
		err = notConnected(err)
	}
	return nc, err
}

// dialBy has a child connect.
func (s *upstream) dialBy(h *hold, l *link, timeout time.Duration) (net.Conn, error) {
	h.dialing.wait(&h.ending, func() { _ = l.Close() })
	defer h.dialing.stop()
	return l.dial(timeout, s.Network, s.Address)
}

// open connects to one of the server's addresses.
func (s *upstream) open(ctx context.Context) (nc net.Conn, err error) {
	if s.Network == "unix" {
		return new(net.Dialer).DialContext(ctx, s.Network, s.Address)
	}
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return new(net.Dialer).DialContext(ctx, s.Network, s.Address)
	}
	addrs, err := s.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if nc, err = new(net.Dialer).DialContext(ctx, s.Network, net.JoinHostPort(addr.String(), port)); err == nil || ctx.Err() != nil {
			break
		}
	}
	return nc, err
}

// resolve returns the addresses of a name, each time with another one first. Those that were found last are good until others are.
func (s *upstream) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	s.mu.Lock()
	fresh := time.Now().Before(s.expires)
	s.mu.Unlock()
	var found []netip.Addr
	var err error
	if !fresh {
		found, err = s.lookup(ctx, "ip", host)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case fresh:
	case err == nil && len(found) > 0:
		s.addrs = found
	case len(s.addrs) == 0:
		return nil, cmp.Or(err, error(&net.DNSError{Err: "no address", Name: host, IsNotFound: true}))
	default:
		s.log.Warnw("name of a server can't be looked up: its last addresses are used", "server", s.Address, "error", err)
	}
	if !fresh {
		s.expires = time.Now().Add(cmp.Or(s.proxy.Resolve, resolveAge))
	}
	s.first = (s.first + 1) % len(s.addrs)
	return slices.Concat(s.addrs[s.first:], s.addrs[:s.first]), nil
}

// UpstreamStatus is one entry of `upstreams` in `gateway status -json`.
type UpstreamStatus struct {
	Route       string              `json:"route"` // "site.hcl:12"
	Server      string              `json:"server"`
	State       string              `json:"state"` // well, failing (passed over for a while) or ill (its health check fails)
	Backup      bool                `json:"backup,omitempty"`
	Connections UpstreamConnections `json:"connections"`
	Requests    uint64              `json:"requests"`
	Failed      uint64              `json:"failed"`  // of them
	Relayed     uint64              `json:"relayed"` // likewise: those that were passed on as they are, by a loop or the goroutine of a connection
}

// UpstreamStates lists all values of [UpstreamStatus.State].
func UpstreamStates() []string { return []string{"well", "failing", "ill"} }

// UpstreamConnections counts the connections with a request, and those that wait for one.
type UpstreamConnections struct {
	Active int64 `json:"active"`
	Idle   int   `json:"idle"`
}

// Upstreams tells how the servers of all routes are, in the order of the configuration.
func (s *Server) Upstreams() []UpstreamStatus {
	list := []UpstreamStatus{}
	for _, u := range s.proxies {
		for _, server := range u.servers {
			list = append(list, server.status(u.line))
		}
	}
	return list
}

func (s *upstream) status(line string) UpstreamStatus {
	st := UpstreamStatus{Route: line, Server: s.Address, State: "well", Backup: s.Backup, Requests: s.requests.Load(), Failed: s.failures.Load(), Relayed: s.relayed.Load()}
	switch {
	case s.ill.Load():
		st.State = "ill"
	case !s.isWell():
		st.State = "failing"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Connections = UpstreamConnections{Active: s.active.Load(), Idle: len(s.idle) + int(s.idleOnLoops.Load())}
	return st
}

// childFailed reports that not the server but the child that was to connect to it has failed.
func childFailed(err error) bool {
	return errors.Is(err, fcgi.ErrNotSent) || errors.Is(err, fcgi.ErrNoResponse) || errors.Is(err, fcgi.ErrTruncated) || errors.Is(err, fcgi.ErrProtocol)
}

// tryUpstreams has one of the route's servers answer, and gives the slot back.
func (c *call) tryUpstreams(slot *mpm.Slot) error {
	h, l, err := c.holdUpstream(slot)
	if err != nil {
		return err
	}
	a, err := c.askInTurn(h, l, c.upstreams[c.x.route.Proxy])
	if err != nil {
		return unmarked(h.lost(err))
	}
	err = c.answerHTTP(h, a)
	if _, cut := errors.AsType[*cutError](err); cut && errors.Is(h.Err(), errTooSlow) {
		return &cutError{errTooSlow} // and not what that has done to the client
	}
	return err
}

// askInTurn asks the server that is to have the request, and then others while they may have it as well. l is the channel to the
// child that connects; nil: the front does.
func (c *call) askInTurn(h *hold, l *link, u *upstreams) (*serverAnswer, error) {
	var tried []*upstream
	err := errNoServer
	for {
		s, asked := c.takeRelay()
		if s == nil {
			s = u.next(c, tried)
		}
		if s == nil {
			return nil, err
		}
		h.upstream, c.server = s, s
		var a *serverAnswer
		if s.HTTP2 {
			a, err = c.askHTTP2(h, l, s)
		} else {
			a, err = c.ask(h, func() (*serverConn, error) {
				if k := asked; k != nil {
					asked = nil
					return k, nil
				}
				if k := s.take(); k != nil {
					return k, nil
				}
				return s.connect(c, h, l)
			})
		}
		if err == nil {
			s.succeeded()
			return a, nil
		}
		if (hadNoResponse(err) || errors.Is(err, errUnreachable)) && h.client.Err() == nil && c.body.cut() == nil {
			s.failed(err, c.x.pool)
		}
		err = fmt.Errorf("server %s: %w", s.Address, err)
		if !c.mayAskOther(h, err) || !h.drop() {
			return nil, err
		}
		s.leave()
		h.upstream = nil
		tried = append(tried, s)
	}
}

// mayAskOther reports whether a request that a server failed with err may go to another one: nobody has read any of it, or it does no
// harm and is wanted so.
func (c *call) mayAskOther(h *hold, err error) bool {
	if h.Err() != nil {
		return false
	}
	return errors.Is(err, errUnreachable) || c.x.route.Proxy.Retry && hadNoResponse(err) && isIdempotent(c.r.Method) && c.body.again()
}

// holdUpstream holds a slot for a server that is no child: nothing but the server itself says when it has finished, and what
// it does wrong is not the slot's fault. l is the channel to a child that connects; nil: the front does.
func (c *call) holdUpstream(slot *mpm.Slot) (h *hold, l *link, err error) {
	h = &hold{slot: slot, client: c.r.Context(), body: c.body, remote: true}
	if c.pool.hasDeputies() {
		if l, h.deputy, err = c.holdFastCGI(slot); err != nil {
			return nil, nil, h.deputy.lost(err)
		}
		h.deputy.ours = false // what fails now is the child's own doing
		slot.Unlimited()      // or the deadline of a server would end a child
	}
	h.leaving.on(h.client, h.clientLeft)
	c.watchUpstream(h)
	return h, l, nil
}

// limitsOf is how long a server may take to answer, and from one piece of its answer to the next; 0: any time.
func limitsOf(r *routes.Route, pool *routes.Pool) (response, idle time.Duration) {
	response = cmp.Or(r.RequestTimeout, pool.RequestTimeout)
	if idle = response; r.Proxy != nil {
		response, idle = cmp.Or(r.Proxy.ResponseTimeout, response), cmp.Or(r.Proxy.IdleTimeout, idle)
	}
	return response, idle
}

// watchUpstream has the hold end when the server takes too long. Whoever waits for the client then has to give up as well, but an
// answer that has not begun can still be sent.
func (c *call) watchUpstream(h *hold) {
	response, idle := limitsOf(c.x.route, c.pool.config)
	c.watch = nil
	if c.relayed() != nil && response > 0 { // some of it has passed on the loop
		response = max(response-time.Since(c.x.began), 1)
	}
	if response > 0 || idle > 0 {
		c.watch = &h.watch
		h.watch.limit = idle
		h.watch.timer = time.AfterFunc(cmp.Or(response, math.MaxInt64), func() { h.end(errTooSlow) })
	}
	if w, ok := undressed(c.w).(interface{ interrupt() }); ok {
		h.interrupting.Add(1)
		h.freeing.wait(&h.ending, func() {
			defer h.interrupting.Done()
			w.interrupt()
		})
	}
}

// watch ends a request whose server is silent for too long. It runs from the beginning, and then with the limit. A nil watch never
// does. It is safe for concurrent use.
type watch struct {
	limit time.Duration // 0: none
	timer *time.Timer   // nil: the server may take its time, and nobody calls start or stop
	mu    sync.Mutex
	over  bool // it does not start any more
}

func (w *watch) start() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && w.limit > 0 {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) stop() {
	if w != nil {
		w.timer.Stop()
	}
}

func (w *watch) end() {
	if w.timer == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}
