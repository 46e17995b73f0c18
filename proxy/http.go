package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
)

const (
	headTimeout      = 20 * time.Second // from the first byte of a request head to its last
	headRate         = 500              // bytes a second
	handshakeTimeout = 10 * time.Second
	// probeDelay is how long a half-closed client is taken for one that only has nothing more to say, see response.probe.
	probeDelay  = 500 * time.Millisecond
	firstBuffer = 4 << 10
	serverName  = "gateway"
)

var errPlainHTTP = &http1.Error{Status: http.StatusBadRequest, Reason: "this port speaks HTTPS: begin the URL with https://"}

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
	Version() string
	Cipher() string
}

// HTTP speaks HTTP/1.1 on the connections of an engine: it implements [event.Protocol]. Its fields are set before it is used.
type HTTP struct {
	Handler http.Handler
	Server  *Server // whose hot files are answered without the handler; nil: none
	Address string  // the listener's, a routes.Listen's Key
	Log     Logger
	Access  *AccessLog                       // nil: none
	Secure  func(*event.Conn) *SecureConn    // TLS listeners only
	Local   func(*event.Conn) netip.AddrPort // the address the client connected to

	date  http1.DateCache
	conns sync.Pool // of *conn
	heads sync.Pool // of *http1.Head
}

// SecureConn is a TLS session and the connection below it, which is another [event.Conn] each time it was parked.
type SecureConn struct {
	Secure
	under
	lastSlot mpm.SlotID // see conn.lastSlot
}

// under is the net.Conn that TLS reads and writes. Its Conn belongs to the goroutine that serves the connection.
type under struct{ *event.Conn }

// NewSecureConn starts a TLS session on c: server makes it, on a net.Conn that outlives c.
func NewSecureConn(c *event.Conn, server func(net.Conn) Secure) *SecureConn {
	s := &SecureConn{under: under{c}}
	s.Secure = server(&s.under)
	return s
}

// maxTurn is how many requests of one connection the loop answers before it turns to the others.
const maxTurn = 32

// Data answers requests for hot files on the loop. Every other request is served by a goroutine.
func (h *HTTP) Data(t *event.Turn, data []byte) event.Verdict {
	head, _ := h.heads.Get().(*http1.Head)
	if head == nil {
		head = new(http1.Head)
	}
	defer h.heads.Put(head)
	now := time.Now()
	for range maxTurn {
		n, err := head.Parse(data)
		switch {
		case err != nil:
			h.refuse(t, t.Remote(), err)
			return event.Finish
		case n == 0:
			return event.Wait
		}
		site, file, status := h.hot(head, now)
		if file == nil || file.file != nil {
			return event.Detach
		}
		last := !head.KeepAlive || t.Draining() || exhausted(site, t.Requests())
		out, bodyBytes := file.append(t.Buffer(), status, isHead(head), last, &h.date, now)
		t.SetBuffer(out)
		t.Consume(n)
		t.Keep(site.KeepAliveTimeout)
		h.logHot(t.Remote(), head, "", status, bodyBytes, now)
		switch {
		case !head.KeepAlive:
			return event.End
		case last:
			return event.Finish
		}
		data = data[n:]
		if len(data) == 0 {
			return event.Wait
		}
	}
	return event.Detach
}

// hot looks for a file that answers a request as it is.
func (h *HTTP) hot(head *http1.Head, now time.Time) (*routes.Site, *hotFile, int) {
	if h.Server == nil || len(head.Path) == 0 || !isHead(head) && string(head.Method) != http.MethodGet {
		return nil, nil, 0
	}
	// The strings alias the request: the table only compares them.
	site := h.Server.table.Site(h.Address, hostname(alias(head.Host)))
	if site == nil || h.Secure == nil && site.TLS.Mode != "off" && site.TLS.Redirect {
		return nil, nil, 0
	}
	file := h.Server.hot.find(site, head.Path, now)
	if file == nil {
		return nil, nil, 0
	}
	status, ok := file.answers(head)
	if !ok {
		return nil, nil, 0
	}
	return site, file, status
}

func isHead(head *http1.Head) bool { return string(head.Method) == http.MethodHead }

// exhausted reports whether a connection has had all the requests that its site grants.
func exhausted(site *routes.Site, requests int) bool {
	return site.MaxKeepAlive > 0 && requests >= site.MaxKeepAlive
}

func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// logHot logs a request that no handler saw.
func (h *HTTP) logHot(remote netip.AddrPort, head *http1.Head, tls string, status, bodyBytes int, began time.Time) {
	if h.Access == nil {
		return
	}
	h.Access.Log(&LogEntry{
		Remote: remote.Addr(), Time: began, Method: alias(head.Method), URI: alias(head.Target), Proto: protocols[head.Minor], Status: status,
		Bytes: int64(bodyBytes), Referer: alias(head.Get("Referer")), UserAgent: alias(head.Get("User-Agent")), Host: alias(head.Host),
		Duration: time.Since(began), TLSProtocol: tls,
	})
}

// Expired answers a client whose request head did not come in time.
func (h *HTTP) Expired(t *event.Turn, _ []byte) {
	h.refuse(t, t.Remote(), errSlowHead)
}

// refuse answers bytes that are no request. w takes all of it at once.
func (h *HTTP) refuse(w io.Writer, remote netip.AddrPort, err error) {
	status, reason := http.StatusBadRequest, err.Error()
	var e *http1.Error
	if errors.As(err, &e) {
		status, reason = e.Status, e.Reason
	}
	h.Log.Debugw("request refused", "remote", remote, "status", status, "reason", reason)
	if status == 0 {
		return
	}
	body := []byte(reason + "\n")
	if h.Access != nil {
		h.Access.Log(&LogEntry{Remote: remote.Addr(), Time: time.Now(), Status: status, Bytes: int64(len(body))})
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
	head      http1.Head
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
	k.remote, k.local, k.keep, k.headBegan = c.Remote(), h.Local(c), 0, time.Time{}
	k.head.Reset()
	defer func() {
		k.raw, k.secure, k.stream = nil, nil, nil
		if len(k.buf) > firstBuffer {
			k.buf = make([]byte, firstBuffer)
		}
		h.conns.Put(k)
	}()
	if h.Secure != nil && !k.handshake() {
		return
	}
	for k.next() {
		if !k.serveHot() && !k.request() {
			return
		}
	}
}

// serveHot answers a request for a hot file, if it is one. Errors show at the next read.
func (k *conn) serveHot() bool {
	now := time.Now()
	site, file, status := k.http.hot(&k.head, now)
	if file == nil || !k.head.KeepAlive || k.raw.Draining() || site.MaxKeepAlive > 0 {
		return false
	}
	n, sent := k.sendHot(file, status, now)
	if !sent {
		return false
	}
	k.keep = site.KeepAliveTimeout
	var version string
	if k.secure != nil {
		version = k.secure.Version()
	}
	k.http.logHot(k.remote, &k.head, version, status, n, now)
	return true
}

// sendHot sends the answer and returns how many bytes of body were in it. It returns false when nothing was sent.
func (k *conn) sendHot(file *hotFile, status int, now time.Time) (n int, sent bool) {
	isHead := isHead(&k.head)
	if file.file == nil || isHead || status != http.StatusOK {
		k.out, n = file.append(k.out[:0], status, isHead, false, &k.http.date, now)
		if _, err := k.stream.Write(k.out); err != nil {
			k.raw.Abort()
		}
		return n, true
	}
	if k.secure != nil || !file.hold() {
		return 0, false
	}
	defer file.drop()
	k.out, _ = file.append(k.out[:0], status, true, false, &k.http.date, now)
	size, offset := file.identity.size, int64(0)
	_, err := k.raw.WriteMore(k.out)
	var done int64
	if err == nil {
		done, err = k.raw.SendFile(file.file, &offset, size)
	}
	if err != nil || done < size {
		k.raw.Abort() // the answer is cut off, or the file has become shorter: nothing may follow
	}
	return int(done), true
}

// handshake takes up the TLS session of the connection, or begins one.
func (k *conn) handshake() bool {
	if s, ok := k.raw.Session().(*SecureConn); ok {
		s.under.Conn = k.raw
		k.secure, k.stream = s, s.Secure
		return true
	}
	k.secure = k.http.Secure(k.raw)
	k.stream = k.secure.Secure
	k.raw.SetTimeout(handshakeTimeout)
	if err := k.secure.Handshake(context.Background()); err != nil {
		k.http.Log.Debugw("TLS handshake failed", "remote", k.remote, "error", err)
		var plain interface{ PlainHTTP() bool }
		if errors.As(err, &plain) && plain.PlainHTTP() {
			k.http.refuse(k.raw, k.remote, errPlainHTTP)
		}
		k.raw.Linger()
		return false
	}
	k.raw.SetTimeout(0)
	return true
}

// next waits for the head of the next request. It returns false when the connection is parked or closed meanwhile.
func (k *conn) next() bool {
	for {
		n, err := k.head.Resume(k.buf[k.r:k.w])
		if err != nil {
			k.http.refuse(k.stream, k.remote, err)
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
	if len(unread) == 0 && k.raw.Draining() {
		k.close()
		return true
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
	k.raw.SetNonblock(true)
	n, err := k.stream.Read(k.buf)
	k.raw.SetNonblock(false)
	k.w = n
	switch {
	case n > 0:
		return false
	case !errors.Is(err, event.ErrWouldBlock):
		k.close()
		return true
	}
	k.raw.SetSession(k.secure)
	return k.raw.Park(keep, nil)
}

// fill reads more of a request. It returns false when there is no more.
func (k *conn) fill(begun bool) bool {
	if k.w == len(k.buf) {
		k.grow()
	}
	left := k.headLeft(begun)
	if left <= 0 {
		k.http.refuse(k.stream, k.remote, errSlowHead)
		k.close()
		return false
	}
	k.raw.SetTimeout(left)
	n, err := k.stream.Read(k.buf[k.w:])
	k.w += n
	if n > 0 {
		return true
	}
	if begun && errors.Is(err, os.ErrDeadlineExceeded) {
		k.http.refuse(k.stream, k.remote, errSlowHead)
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
		// It fails when the client has gone.
		_ = k.secure.CloseWrite()
	}
	k.raw.Linger()
}
