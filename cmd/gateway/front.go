package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy"
	"gateway/routes"
	"gateway/tls"
)

// frontRole is the hidden command of the front.
const frontRole = "front"

// controlDescriptor is where the front finds its end of the channel to the supervisor.
const controlDescriptor = 3

// front accepts, terminates TLS, speaks HTTP, routes, and grants slots. Its fields are set by newFront and then immutable.
type front struct {
	setup  *setup
	log    *zap.SugaredLogger
	ctl    *ctl.Conn
	pools  map[string]*mpm.Pool
	server *proxy.Server
	access *proxy.AccessLog // nil: none
	certs  *tls.Certificates
	engine *event.Engine

	handshakes *proxy.Handshakes
	http2      *proxy.HTTP2

	began  time.Time
	pauses atomic.Uint64 // of accepting
}

func frontMain() int {
	// The front holds the keys of its sites: no other process of its user may look into it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "gateway front: %v\n", err)
		return exitFailed
	}
	conn, err := ctl.FromFile(os.NewFile(controlDescriptor, "control"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "gateway front: it is started by `gateway run`: %v\n", err)
		return exitUsage
	}
	h, err := receive(conn)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gateway front: %v\n", err)
		return exitFailed
	}
	f, err := newFront(conn, h)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gateway front: %v\n", err)
		return exitUsage
	}
	return f.run()
}

// handover is what the supervisor sends before a front begins.
type handover struct {
	setup     *setup
	newer     newFiles // instead of those in setup
	listeners []listener
	parents   []child // of the pools' children: only what they write concerns the front
	children  []child
}

type listener struct {
	address string
	file    *os.File
}

type child struct {
	ctl.Message
	output *os.File // the read end of its standard error
}

// receive takes the handover, up to the setup that ends it.
func receive(conn *ctl.Conn) (*handover, error) {
	h := new(handover)
	for {
		m, files, err := conn.Recv()
		if err != nil {
			return nil, err
		}
		switch m.Kind {
		case ctl.Listener:
			h.listeners = append(h.listeners, listener{m.Address, files[0]})
		case ctl.Parent:
			h.parents = append(h.parents, child{m, files[0]})
		case ctl.Child:
			h.children = append(h.children, child{m, files[0]})
		case ctl.Files:
			if h.newer, err = decodeFiles(files[0]); err != nil {
				return nil, err
			}
		case ctl.Setup:
			h.setup, err = decodeSetup(files[0])
			return h, errors.Join(err, files[0].Close())
		}
	}
}

func newFront(conn *ctl.Conn, h *handover) (*front, error) {
	c := h.setup.Config
	f := &front{setup: h.setup, log: newLogger(c.Gateway.Log, "front"), ctl: conn, pools: map[string]*mpm.Pool{}, began: time.Now()}
	for i := range c.Pools {
		f.pools[c.Pools[i].Name] = f.newPool(c.Pools[i])
	}
	// What net/http says of servers is for those who look for faults: servers can have it say a lot.
	if _, err := zap.RedirectStdLogAt(f.log.Desugar(), zap.DebugLevel); err != nil {
		return nil, err
	}
	encrypt, err := encryptTo(c, h.setup.Servers)
	if err != nil {
		return nil, err
	}
	f.server = proxy.NewServer(c, f.pools, f.log, proxy.WithEncrypt(encrypt))
	f.takePasswords(h.setup.Passwords)
	f.takePasswords(h.newer.Passwords)
	f.handshakes = proxy.NewHandshakes(f.log)
	f.http2 = proxy.NewHTTP2(idleTimeout(c), c.Gateway.MaxHTTP2Requests, f.log)
	if c.Gateway.AccessLog != nil {
		if f.access, err = proxy.NewAccessLog(*c.Gateway.AccessLog, proxy.WithAccessLogWarning(f.log.Warnw)); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				err = errors.New(cantLog(c))
			}
			return nil, err
		}
	}
	if err := f.openCertificates(); err != nil {
		return nil, err
	}
	f.replaceCertificates(h.newer.Certificates)
	paused := func(err error) {
		f.pauses.Add(1)
		f.log.Warnw("accepting pauses for a second: raise the limit of open files (ulimit -n, LimitNOFILE)", "error", err)
	}
	shed := func() { go f.http2.Shed() } // ends when they are closed: a client that takes nothing costs a second
	if f.engine, err = event.New(event.Options{Paused: paused, Shed: shed, MaxConns: maxConns(c)}); err != nil {
		return nil, err
	}
	for _, parent := range h.parents {
		f.hear(parent)
	}
	for _, ch := range h.children {
		f.adopt(ch)
	}
	for _, p := range f.pools {
		p.Open()
	}
	return f, f.listen(h.listeners)
}

// maxConns is how many clients can be connected at once: what the limit of open files leaves beside the connections to the
// children, their error streams, and files; 0: any number.
func maxConns(c *routes.Config) int {
	have := proxy.OpenFiles()
	reserve := 128 + proxy.KeptFiles()
	for i := range c.Pools {
		if c.Pools[i].MPM != routes.Event {
			reserve += 2 * c.Pools[i].MaxRequestWorkers
		}
	}
	return have - min(max(reserve, have/16), have/2)
}

func (f *front) newPool(c routes.Pool) *mpm.Pool {
	return mpm.NewPool(c, starter{f.ctl, f.setup.Generation}, mpm.WithLogger(f.log),
		mpm.WithGeneration(f.setup.Generation), mpm.WithProbe(proxy.ProbeOf(&c)))
}

// starter asks the supervisor for what a pool wants done. A failed send means that the supervisor is gone: run ends then.
type starter struct {
	conn       *ctl.Conn
	generation int
}

func (s starter) Start(pool string, slot int) {
	_ = s.conn.Send(ctl.Message{Kind: ctl.Start, Pool: pool, Slot: slot, Generation: s.generation})
}

func (s starter) Retire(pool string, slot, pid int) {
	_ = s.conn.Send(ctl.Message{Kind: ctl.Retire, Pool: pool, Slot: slot, PID: pid, Generation: s.generation})
}

func (s starter) Kill(pool string, slot, pid int) {
	_ = s.conn.Send(ctl.Message{Kind: ctl.Kill, Pool: pool, Slot: slot, PID: pid, Generation: s.generation})
}

func (f *front) openCertificates() error {
	var sites []tls.Site
	for i := range f.setup.Config.Sites {
		s := &f.setup.Config.Sites[i]
		if s.TLS.Mode == "off" {
			continue
		}
		files := &f.setup.Certificates[i]
		site := tls.Site{
			Of: s, Names: s.Names, Mode: s.TLS.Mode, Pairs: files.Pairs, ACME: s.TLS.ACME, CARootsPEM: files.CARoots,
			MinVersion: s.TLS.MinVersion, ClientAuth: s.TLS.ClientAuth, ClientCAPEM: files.ClientCAs,
		}
		for _, l := range s.Listen {
			if l.TLS {
				site.Addresses = append(site.Addresses, l.Key())
			}
		}
		sites = append(sites, site)
	}
	var err error
	g := &f.setup.Config.Gateway
	f.certs, err = tls.New(g.StateDir, sites, f.logTLS, tls.WithStorage(g.Storage, f.setup.Storage))
	return err
}

// replaceCertificates takes the certificates that sites name as they are now. It does nothing with nil.
func (f *front) replaceCertificates(newer []certificate) {
	for i := range min(len(newer), len(f.setup.Config.Sites)) {
		site, files := &f.setup.Config.Sites[i], &newer[i]
		f.certs.Replace(site, files.Pairs, files.Trouble)
		f.certs.ReplaceClientCA(site, files.ClientCAs, files.ClientTrouble)
	}
}

func (f *front) logTLS(level, msg string, kv ...any) {
	switch level {
	case "error":
		f.log.Errorw(msg, kv...)
	case "warn":
		f.log.Warnw(msg, kv...)
	case "info":
		f.log.Infow(msg, kv...)
	default:
		f.log.Debugw(msg, kv...)
	}
}

// listen gives the listening sockets to the engine.
func (f *front) listen(sockets []listener) error {
	known := listeners(f.setup.Config)
	for _, s := range sockets {
		if m := f.setup.Config.Gateway.Metrics; m != nil && m.Address == s.address {
			if err := f.serveMetrics(s.file); err != nil {
				return err
			}
			continue
		}
		i := slices.IndexFunc(known, func(l routes.Listen) bool { return l.Address == s.address })
		if i < 0 {
			return fmt.Errorf("listener %s is not in the configuration", s.address)
		}
		l := event.Listener{Protocol: f.protocol(known[i]), Raw: known[i].TLS, Address: known[i].Key()}
		if l.Raw {
			l.HeadTimeout = proxy.HandshakeTimeout
		}
		if err := f.engine.Listen(s.file, l); err != nil {
			return err
		}
	}
	return nil
}

func (f *front) protocol(l routes.Listen) *proxy.HTTP {
	h := &proxy.HTTP{Handler: f.server, Server: f.server, Address: l.Key(), Log: f.log, Access: f.access, Local: localAddress(l)}
	if l.Proxied {
		h.Trust = &f.setup.Config.Gateway.Trust
	}
	if l.TLS {
		server := func(raw net.Conn) proxy.Secure { return f.certs.Server(l.Key(), raw) }
		h.Secure = func(c *event.Conn) *proxy.SecureConn { return proxy.NewSecureConn(c, server) }
		h.Hello, h.Handshakes = tls.Hello, f.handshakes
	} else {
		h.Handler = f.certs.AnswerChallenges(h.Handler)
	}
	if l.TLS || l.H2C {
		h.HTTP2 = f.http2
	}
	return h
}

// idleTimeout is how long an HTTP/2 connection may idle: it is not one site's.
func idleTimeout(c *routes.Config) (longest time.Duration) {
	for i := range c.Sites {
		longest = max(longest, c.Sites[i].KeepAliveTimeout)
	}
	return longest
}

// localAddress tells the address that clients of a listener connect to: a system call each only where there are several.
func localAddress(l routes.Listen) func(*event.Conn) netip.AddrPort {
	if l.Network == "unix" {
		return func(*event.Conn) netip.AddrPort { return netip.AddrPort{} }
	}
	if a, err := netip.ParseAddrPort(l.Address); err == nil && !a.Addr().IsUnspecified() {
		return func(*event.Conn) netip.AddrPort { return a }
	}
	return func(c *event.Conn) netip.AddrPort {
		if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
			return a.AddrPort()
		}
		return netip.AddrPort{}
	}
}

// listenURL is how a client would begin to name a listener.
func listenURL(l routes.Listen) string {
	switch {
	case l.Network == "unix":
		return "unix:" + l.Address
	case l.TLS:
		return "https://" + l.Address
	}
	return "http://" + l.Address
}

// run serves until the supervisor says otherwise, or is gone.
func (f *front) run() int {
	if err := f.ctl.Send(ctl.Message{Kind: ctl.Ready}); err != nil {
		return exitFailed
	}
	var addresses []string
	for _, l := range listeners(f.setup.Config) {
		addresses = append(addresses, listenURL(l))
	}
	f.log.Infow("serving", "listen", addresses)
	go thrift() // ends with the process
	for {
		m, files, err := f.ctl.Recv()
		if errors.Is(err, ctl.ErrNoRoom) {
			f.log.Errorw("message of the supervisor came without its files: raise the limit of open files (ulimit -n, LimitNOFILE)", "message", m.Kind, "error", err)
			if !f.doWithout(m) {
				return exitFailed
			}
			continue
		}
		if err != nil {
			// Without a supervisor nobody may serve; what the kernel holds of us goes with the process.
			return exitFailed
		}
		switch m.Kind {
		case ctl.Parent:
			f.hear(child{m, files[0]})
		case ctl.Child:
			f.adopt(child{m, files[0]})
		case ctl.Failed:
			f.pools[m.Pool].StartFailed(m.Slot, m.Text)
		case ctl.Exited:
			f.pools[m.Pool].Exited(m.Slot, m.PID, m.Status, m.OOM)
		case ctl.Files:
			newer, err := decodeFiles(files[0])
			if err != nil {
				f.log.Errorw("changed files can't be read", "error", err)
			}
			f.replaceCertificates(newer.Certificates)
			f.takePasswords(newer.Passwords)
		case ctl.Status:
			go f.answerStatus(files[0]) // ends with its write deadline at the latest
		case ctl.Reopen:
			f.reopen()
		case ctl.Ping:
			_ = f.ctl.Send(ctl.Message{Kind: ctl.Pong}) // a failed send means that the supervisor is gone: Recv says so
		case ctl.Drain:
			go f.drain() // ends the process
		}
	}
}

// adopt takes a child that runs, new or left by an earlier front.
func (f *front) adopt(c child) {
	go func() { // ends when the child and all that inherited its standard error have closed it
		defer c.output.Close()
		proxy.LogOutput(f.log, c.Pool, c.PID, c.output, f.pools[c.Pool].Said)
	}()
	f.pools[c.Pool].Started(c.Slot, c.PID, c.Socket, time.Duration(c.Seconds*float64(time.Second)))
}

// doWithout deals with a message that came without its files. Whoever writes what nobody reads stands still one day: a child ends
// for that, and for the parent of a pool's children the front, as the next one gets its output anew. It reports whether to go on.
func (f *front) doWithout(m ctl.Message) bool {
	if m.Kind == ctl.Child {
		f.pools[m.Pool].Started(m.Slot, m.PID, m.Socket, time.Duration(m.Seconds*float64(time.Second)))
		starter{f.ctl, f.setup.Generation}.Kill(m.Pool, m.Slot, m.PID)
	}
	return m.Kind != ctl.Parent
}

// hear logs what the parent of a pool's children and these write.
func (f *front) hear(parent child) {
	go func() { // ends when all that inherited it have closed it
		defer parent.output.Close()
		proxy.LogParent(f.log, parent.Pool, parent.PID, parent.output, f.pools[parent.Pool].Said)
	}()
}

func (f *front) reopen() {
	if f.access == nil {
		return
	}
	if err := f.access.Reopen(); err != nil {
		f.log.Errorw("access log can't be reopened; it goes on in the old file", "error", err)
	}
}

// descriptors counts what this process has open: 0 if that can't be seen.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries) - 1 // the folder itself
}

// status is what the front knows now. The supervisor answers in its place while there is none.
func (f *front) status() *statusReport {
	s := &statusReport{
		Version: f.setup.Version, Generation: f.setup.Generation, UptimeSeconds: time.Since(f.setup.Started).Seconds(),
		SupervisorPID: f.setup.SupervisorPID, FrontPID: os.Getpid(), Goroutines: runtime.NumGoroutine(), Descriptors: descriptors(),
		FrontSeconds: time.Since(f.began).Seconds(), Pools: []mpm.PoolStatus{}, Handshakes: f.handshakes.Status(),
		Spool: f.server.Spool(), Responses: f.server.Responses(), RateLimits: f.server.RateLimits(), Upstreams: f.server.Upstreams(), Certificates: f.certs.Status(), Storage: f.certs.StorageStatus(), InternalRoot: string(f.certs.RootPEM()),
	}
	e := f.engine.Stats()
	idle := min(int64(f.http2.Idle()), e.Active)
	s.Connections = connectionCounts{Open: e.Open, Parked: e.Parked, Idle: idle, Active: e.Active - idle, Accepted: e.Accepted, Pauses: f.pauses.Load(), Refused: f.http2.Refused()}
	s.Cache = f.server.Cache()
	if f.access != nil {
		s.AccessLog.Dropped = f.access.Dropped()
	}
	for i := range f.setup.Config.Pools {
		s.Pools = append(s.Pools, f.pools[f.setup.Config.Pools[i].Name].Status())
	}
	return s
}

func (f *front) answerStatus(conn *os.File) {
	defer conn.Close()
	c, err := net.FileConn(conn)
	if err != nil {
		f.log.Warnw("status can't be sent", "error", err)
		return
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return
	}
	// Whoever asked may have left.
	_ = json.NewEncoder(c).Encode(f.status())
}

// drain finishes the requests in progress and ends the process. The supervisor sees to it that this does not take for ever.
func (f *front) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), f.setup.Config.Gateway.GracePeriod)
	defer cancel()
	left := f.leaveStorage()
	f.http2.Drain()
	if err := f.engine.Drain(ctx); err != nil {
		f.log.Warnw("grace_period is over: requests in progress are cut off", "connections", f.engine.Stats().Open)
	}
	for _, p := range f.pools {
		p.Close()
	}
	if f.access != nil {
		if err := f.access.Close(); err != nil {
			f.log.Errorw("access log", "error", err)
		}
	}
	<-left
	os.Exit(exitOK)
}

// leaveTime is how long a stop waits for the storage to be left: a CA or a DNS command may not let go sooner.
const leaveTime = 2 * time.Second

// leaveStorage ends the work on certificates: other gateways need not wait until this one's locks expire. The channel is closed
// when that is done, or has lasted for leaveTime.
func (f *front) leaveStorage() <-chan struct{} {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	go func() { // ends with the process at the latest
		f.certs.Close()
		cancel()
	}()
	return ctx.Done()
}
