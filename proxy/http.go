package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
)

const (
	headTimeout = 20 * time.Second // from the first byte of a request head to its last
	headRate    = 500              // bytes a second
	// probeDelay is how long a half-closed client is taken for one that only has nothing more to say, see response.probe.
	probeDelay  = 500 * time.Millisecond
	firstBuffer = 4 << 10
	serverName  = "gateway"
)

var errPlainHTTP = &http1.Error{Status: http.StatusBadRequest, Reason: "this port speaks HTTPS: begin the URL with https://"}

var errNoHTTP2 = &http1.Error{Status: http.StatusHTTPVersionNotSupported, Reason: "this port speaks HTTP/1.1 only, and HTTP/2 with TLS"}

var errSlowHead = &http1.Error{Status: http.StatusRequestTimeout, Reason: "request head took too long"}

// Logger takes a constant text and facts in pairs; *zap.SugaredLogger is one.
type Logger interface {
	Debugw(msg string, keysAndValues ...any)
	Infow(msg string, keysAndValues ...any)
	Warnw(msg string, keysAndValues ...any)
	Errorw(msg string, keysAndValues ...any)
}

// Secure is a TLS session on a connection. Another room makes it: this one does not know TLS.
type Secure interface {
	net.Conn
	Handshake(context.Context) error
	Describe(*http.Request) // sets what handlers see of the session
	CloseWrite() error
	Rest()            // before it is parked: gives back the buffers
	Protocol() string // chosen by ALPN
	Version() string
	Cipher() string
	Client() map[string]string                      // what programs are told of the client's certificate, by variable; nil: nothing
	Serves(site *routes.Site, hostname string) bool // whether requests for that host, which is the site's, may come this way
}

// HTTP speaks HTTP on the connections of an engine: it implements [event.Protocol]. Its fields are set before it is used.
type HTTP struct {
	Handler    http.Handler
	Server     *Server       // whose hot files are answered without the handler; nil: none
	Address    string        // the listener's, a routes.Listen's Key
	Trust      *routes.Trust // whose connections begin with the PROXY protocol; nil: nobody's
	Log        Logger
	Access     *AccessLog                    // nil: none
	Secure     func(*event.Conn) *SecureConn // TLS listeners only, as are the next two
	Hello      func([]byte) bool             // whether bytes are enough to begin a handshake with; what they are then is its business
	Handshakes *Handshakes
	Local      func(*event.Conn) netip.AddrPort // the address the client connected to
	HTTP2      *HTTP2                           // nil: HTTP/1.1 only. TLS listeners offer it; without TLS clients must know of it

	date        http1.DateCache
	conns       sync.Pool // of *conn
	scratches   sync.Pool // of *scratch
	transcripts sync.Pool // of *transcript
}

// What the loop answers of one connection before others have their turn.
const (
	maxTurn      = 32 // requests
	maxTurnBytes = 256 << 10
)

// scratch is the memory for a turn of a loop.
type scratch struct {
	head  http1.Head
	entry LogEntry
	out   []byte // a request for a server
}

func (h *HTTP) scratch() *scratch {
	if s, ok := h.scratches.Get().(*scratch); ok {
		return s
	}
	return new(scratch)
}

// Data answers requests for hot files on the loop, and passes simple ones on to servers. Every other request is served by a goroutine.
func (h *HTTP) Data(t *event.Turn, data []byte) event.Verdict {
	if h.Trust != nil && !t.Named() {
		n, verdict := h.introduce(t, data)
		if data = data[n:]; verdict != event.Wait || len(data) == 0 || n == 0 {
			return verdict
		}
	}
	if h.Secure != nil {
		return h.hello(data)
	}
	if t.First() {
		if verdict, ok := h.beginsHTTP2(t, data); ok {
			return verdict
		}
	}
	s := h.scratch()
	defer h.scratches.Put(s)
	head := &s.head
	now := time.Now()
	for range maxTurn {
		n, err := head.Parse(data)
		switch {
		case err != nil:
			h.refuse(t, t.Remote(), data, err)
			return event.Finish
		case n == 0 && len(data) > firstBuffer:
			return event.Detach // to one who does not begin anew at each byte that comes
		case n == 0:
			return event.Wait
		}
		verdict := h.answer(t, s, n, now)
		data = data[n:]
		if verdict != event.Wait || len(data) == 0 {
			return verdict
		}
		if len(t.Buffer()) > maxTurnBytes {
			break
		}
	}
	return event.Detach
}

// introduce reads the header of the PROXY protocol, n bytes. Only who is trusted may send one, and then every connection has one:
// nothing else tells a client that has found the port from a load balancer.
func (h *HTTP) introduce(t *event.Turn, data []byte) (n int, v event.Verdict) {
	var p peers
	err := errNotTrusted
	if h.Trust.Covers(t.Remote().Addr()) {
		p, n, err = parseProxyHeader(data)
	}
	switch {
	case err != nil:
		h.Log.Debugw("connection refused", "remote", t.Remote(), "reason", err.Error())
		return 0, event.Finish
	case n == 0:
		return 0, event.Wait
	}
	t.Name(p.client)
	t.Consume(n)
	return n, event.Wait
}

// answer answers the request whose head is in s, n bytes, if it is for a hot file, or passes it on.
func (h *HTTP) answer(t *event.Turn, s *scratch, n int, now time.Time) event.Verdict {
	head := &s.head
	site := h.site(head, nil, t.Remote())
	if site == nil {
		return event.Detach
	}
	a, ok := h.hotOf(site, head, nil, now)
	if !ok {
		return h.relay(t, s, n, site, now)
	}
	if a.fromDisk() && (!a.onLoop(now) || !a.file.unchanged() || !a.file.hold()) {
		return event.Detach
	}
	last := !head.KeepAlive || t.Draining() || exhausted(site, t.Requests())
	t.SetBuffer(a.append(t.Buffer(), last, &h.date, now))
	t.Consume(n)
	t.Keep(site.KeepAliveTimeout)
	a.file.pool.CountAnswered(t.Loop(), a.unchanged())
	if a.fromDisk() {
		if sent := t.SendFile(a.file.fd, a.start, a.length); sent < a.length {
			h.sendRest(t, head, a, sent, last, now)
			return event.Detach
		}
		a.file.wasSent(&a, now)
		a.file.drop()
	}
	if h.Access != nil {
		s.entry.setHot(t.Remote(), head, &a, now)
		h.Access.Log(&s.entry)
	}
	return afterAnswer(!head.KeepAlive, last)
}

// afterAnswer is what becomes of a connection with an answer: ends says that the client sends no more, last that this is told to it.
func afterAnswer(ends, last bool) event.Verdict {
	switch {
	case ends:
		return event.End
	case last:
		return event.Finish
	}
	return event.Wait
}

// hello waits until a TLS handshake can begin: a client that dribbles costs no goroutine.
func (h *HTTP) hello(data []byte) event.Verdict {
	if h.Hello(data) {
		return event.Detach
	}
	return event.Wait
}

// sendRest has a goroutine send what the socket did not take of a file, which it holds until then.
func (h *HTTP) sendRest(t *event.Turn, head *http1.Head, a hotAnswer, sent int64, last bool, now time.Time) {
	var entry LogEntry
	entry.setHot(t.Remote(), head, &a, now)
	entry.own()
	t.Then(func(c *event.Conn) bool {
		defer a.file.drop()
		offset := a.start + sent
		more, err := c.SendFile(a.file.file, &offset, a.length-sent)
		entry.Bytes, entry.Duration = sent+more, time.Since(now)
		if h.Access != nil {
			h.Access.Log(&entry)
		}
		whole := err == nil && entry.Bytes == a.length
		if whole && last {
			c.Linger()
		}
		return whole && !last
	})
}

// site is the site of a request that may be answered without the handler; nil: it may not. session is nil without TLS.
func (h *HTTP) site(head *http1.Head, session Secure, remote netip.AddrPort) *routes.Site {
	if h.Server == nil || h.Server.speaksForOthers(remote) || len(head.Path) == 0 || !isHead(head) && string(head.Method) != http.MethodGet {
		return nil
	}
	// The strings alias the request: the table only compares them.
	host := hostname(alias(head.Host))
	site := h.Server.table.Site(h.Address, host)
	if site == nil || session == nil && slices.Contains(site.TLS.Redirect, h.Address) || session != nil && !session.Serves(site, host) {
		return nil
	}
	return site
}

// hot looks for a file that answers a request as it is. session is nil without TLS.
func (h *HTTP) hot(head *http1.Head, session Secure, remote netip.AddrPort, now time.Time) (a hotAnswer, ok bool) {
	site := h.site(head, session, remote)
	if site == nil {
		return a, false
	}
	return h.hotOf(site, head, session, now)
}

// hotOf is hot for a site.
func (h *HTTP) hotOf(site *routes.Site, head *http1.Head, session Secure, now time.Time) (a hotAnswer, ok bool) {
	file := h.Server.hot.find(site, head.Path, head, now)
	if file == nil {
		return a, false
	}
	a, ok = file.answer(head)
	if session != nil {
		a.hsts = site.TLS.HSTS
	}
	return a, ok
}

func isHead(head *http1.Head) bool { return string(head.Method) == http.MethodHead }

// exhausted reports whether a connection has had all the requests that its site grants.
func exhausted(site *routes.Site, requests int) bool {
	return site.MaxKeepAlive > 0 && requests >= site.MaxKeepAlive
}

func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// setHot makes e the entry of a request for a hot file. Its texts alias the head.
func (e *LogEntry) setHot(remote netip.AddrPort, head *http1.Head, a *hotAnswer, began time.Time) {
	e.set(remote, head, began)
	e.Status, e.Bytes, e.Duration, e.Pool = a.status, a.length, time.Since(began), a.file.pool.config.Name
}

// set makes e the entry of a request that no handler saw. Its texts alias the head.
func (e *LogEntry) set(remote netip.AddrPort, head *http1.Head, began time.Time) {
	*e = LogEntry{
		Remote: remote.Addr(), Time: began, Method: alias(head.Method), URI: alias(head.Target), Proto: protocols[head.Minor],
		Referer: alias(head.Get("Referer")), UserAgent: alias(head.Get("User-Agent")), Host: alias(head.Host),
	}
}

// Expired answers a client whose request head did not come in time.
func (h *HTTP) Expired(t *event.Turn, partial []byte) {
	if h.Secure != nil {
		return // in the middle of a hello, for which TLS has no such answer
	}
	h.refuse(t, t.Remote(), partial, errSlowHead)
}

// refuse answers bytes that are no request, of which some were seen. w takes all of the answer at once.
func (h *HTTP) refuse(w io.Writer, remote netip.AddrPort, seen []byte, err error) {
	status, reason := refusal(err)
	h.Log.Debugw("request refused", "remote", remote, "status", status, "reason", reason)
	if status == 0 {
		return
	}
	h.Server.count("", status)
	body := []byte(reason + "\n")
	if h.Access != nil {
		entry := LogEntry{Remote: remote.Addr(), Time: time.Now(), Status: status, Bytes: int64(len(body))}
		entry.setRefused(seen)
		h.Access.Log(&entry)
	}
	b := http1.AppendStatusLine(nil, status)
	b = http1.AppendField(b, "Server", serverName)
	b = h.date.AppendField(b, time.Now())
	if status == http.StatusMethodNotAllowed {
		b = http1.AppendField(b, "Allow", http1.Allow)
	}
	b = http1.AppendField(b, "Content-Type", "text/plain; charset=utf-8")
	b = http1.AppendContentLength(b, int64(len(body)))
	b = append(b, "Connection: close\r\n\r\n"...)
	// A client that has gone does not miss it.
	_, _ = w.Write(append(b, body...))
}

// refusal is how a message that can't be read is answered.
func refusal(err error) (status int, reason string) {
	var e *http1.Error
	if errors.As(err, &e) {
		return e.Status, e.Reason
	}
	return http.StatusBadRequest, err.Error()
}

// conn is a connection while a goroutine serves it. It is reused for others.
type conn struct {
	http      *HTTP
	raw       *event.Conn
	secure    *SecureConn // nil: plain
	stream    net.Conn    // raw or secure
	buf       []byte
	r, w      int    // buf[r:w] is unread
	out       []byte // for response heads
	held      []byte // for response bodies
	records   []byte // what TLS holds, see under
	head      http1.Head
	relay     *relay        // what was begun of the next request, on the loop or here; nil: nothing
	entry     LogEntry      // of a request for a hot file
	headBegan time.Time     // of the head that is being read
	keep      time.Duration // how long the connection may idle; 0: before its first request
	local     netip.AddrPort
	remote    netip.AddrPort
}

// Serve serves the requests of a connection until it is idle or ends.
func (h *HTTP) Serve(c *event.Conn) {
	k, _ := h.conns.Get().(*conn)
	if k == nil {
		k = &conn{http: h, buf: make([]byte, firstBuffer)}
	}
	k.raw, k.secure, k.stream, k.r, k.w = c, nil, c, 0, 0
	k.remote, k.local, k.keep, k.headBegan = c.Remote(), h.Local(c), 0, c.Began()
	k.head.Reset()
	defer func() {
		k.raw, k.secure, k.stream = nil, nil, nil
		if len(k.buf) != firstBuffer {
			k.buf = make([]byte, firstBuffer)
		}
		if cap(k.out) > 2*responseBuffer {
			k.out = nil
		}
		if k.records = k.records[:0]; cap(k.records) > 2*maxHeld {
			k.records = nil
		}
		h.conns.Put(k)
	}()
	if h.Secure != nil && !k.handshake() {
		return
	}
	if k.speaksHTTP2() {
		k.serveHTTP2()
		return
	}
	k.takeRelay()
	defer k.dropRelay()
	for k.next() {
		if !k.answer() {
			return
		}
	}
}

// answer answers the request whose head was read. It reports whether the connection can take another one.
func (k *conn) answer() bool {
	if k.relay != nil {
		defer k.dropRelay()
		return k.request(k.relay.began)
	}
	now := time.Now()
	site := k.http.site(&k.head, k.session(), k.remote)
	if site != nil {
		if served, more := k.serveHot(site, now); served {
			return more
		}
	}
	if k.secure != nil {
		k.secure.release()
	}
	if site != nil {
		if served, more := k.serveRelayed(site, now); served {
			return more
		}
	}
	defer k.dropRelay()
	return k.request(now)
}

// session is the TLS session; nil: there is none.
func (k *conn) session() Secure {
	if k.secure == nil {
		return nil
	}
	return k.secure.Secure
}

// serveHot answers a request for a hot file, if it is one. more says that another may follow.
func (k *conn) serveHot(site *routes.Site, now time.Time) (served, more bool) {
	a, ok := k.http.hotOf(site, &k.head, k.session(), now)
	if !ok || a.fromDisk() && (k.secure != nil || !a.file.unchanged() || !a.file.hold()) {
		return false, false
	}
	if k.secure != nil {
		k.secure.hold() // parking, closing, or waiting for more sends it
	}
	last := !k.head.KeepAlive || k.raw.Draining() || exhausted(a.file.site, k.raw.Requests())
	a.file.pool.CountAnswered(k.raw.Loop(), a.unchanged())
	k.sendHot(&a, last, now)
	if k.http.Access != nil {
		k.entry.setHot(k.remote, &k.head, &a, now)
		if k.secure != nil {
			k.entry.TLSProtocol = k.secure.Version()
		}
		k.http.Access.Log(&k.entry)
	}
	k.keep = a.file.site.KeepAliveTimeout
	if last {
		k.close()
	}
	return true, !last
}

// sendHot sends the answer; a.length becomes how much of the body was sent. An error shows at the next read.
func (k *conn) sendHot(a *hotAnswer, last bool, now time.Time) {
	k.out = a.append(k.out[:0], last, &k.http.date, now)
	if !a.fromDisk() {
		if _, err := k.stream.Write(k.out); err != nil {
			k.raw.Abort()
		}
		return
	}
	defer a.file.drop()
	offset, done := a.start, int64(0)
	_, err := k.raw.WriteMore(k.out)
	if err == nil {
		done, err = k.raw.SendFile(a.file.file, &offset, a.length)
	}
	if err != nil || done < a.length {
		k.raw.Abort() // the answer is cut off, or the file has become shorter: nothing may follow
		a.length = done
		return
	}
	a.file.wasSent(a, now)
}

// next waits for the head of the next request. It returns false when the connection is parked or closed meanwhile.
func (k *conn) next() bool {
	for {
		n, err := k.head.Resume(k.buf[k.r:k.w])
		if err != nil {
			k.http.refuse(k.stream, k.remote, k.buf[k.r:k.w], err)
			k.close()
			return false
		}
		if n > 0 {
			k.r += n
			k.headBegan = time.Time{}
			k.raw.SetTimeout(0)
			return true
		}
		if k.r == k.w {
			k.r, k.w = 0, 0
		}
		had := k.w
		if k.park() {
			return false
		}
		if k.w == had && !k.fill(k.w > k.r) {
			return false
		}
	}
}

// park gives an idle connection back to its loop, or closes it when there is no more to come. It returns false when there is
// something to read; of a TLS session it may have read some of it then.
func (k *conn) park() bool {
	unread := k.buf[k.r:k.w]
	came := k.secure == nil && len(k.raw.Unread()) > 0 // a request that the loop has left to us
	if len(unread) == 0 && !came && k.raw.Draining() {
		k.close()
		return true
	}
	if len(unread) > firstBuffer {
		return false // the loop would read all of it anew whenever there is more
	}
	keep := k.keep
	if len(unread) > 0 || keep == 0 {
		keep = headTimeout
	}
	if k.secure == nil {
		return k.raw.Park(keep, unread)
	}
	if len(unread) > 0 {
		return false // the session has bytes that the loop could not give back to it
	}
	return k.parkSecure(keep)
}

// fill reads more of a request. It returns false when there is no more.
func (k *conn) fill(begun bool) bool {
	if k.w == len(k.buf) {
		k.grow()
	}
	left := k.headLeft(begun)
	if left <= 0 {
		k.http.refuse(k.stream, k.remote, k.buf[k.r:k.w], errSlowHead)
		k.close()
		return false
	}
	k.raw.SetTimeout(left)
	if k.secure != nil && k.secure.send() != nil {
		k.raw.Close()
		return false
	}
	n, err := k.stream.Read(k.buf[k.w:])
	k.w += n
	if n > 0 {
		return true
	}
	if begun && errors.Is(err, os.ErrDeadlineExceeded) {
		k.http.refuse(k.stream, k.remote, k.buf[k.r:k.w], errSlowHead)
	}
	k.close()
	return false
}

// headLeft is how much time a request head has left. A slow but honest client gets a second more for every headRate bytes, up
// to the same time again.
func (k *conn) headLeft(begun bool) time.Duration {
	if !begun || k.headBegan.IsZero() {
		k.headBegan = time.Now()
	}
	extra := time.Duration(k.w-k.r) * (time.Second / headRate)
	return headTimeout + min(extra, headTimeout) - time.Since(k.headBegan)
}

// grow makes room in the buffer: at its front if there is some, else by doubling it. The parser refuses a head before it
// fills the largest buffer.
func (k *conn) grow() {
	to := k.buf
	if k.r == 0 {
		to = make([]byte, 2*len(k.buf))
	}
	k.w = copy(to, k.buf[k.r:k.w])
	k.buf, k.r = to, 0
}

// close ends the connection so that the last answer reaches the client (RFC 9112 §9.6).
func (k *conn) close() {
	if k.secure != nil {
		k.closeSecure()
	}
	k.raw.Linger()
}
