package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/mpm"
	"gateway/proxy/http1"
)

const (
	// maxAnswerHead bounds the head of a response of an HTTP application, in bytes.
	maxAnswerHead = 256 << 10

	// firstPause and longestPause are between looks at a socket that takes no connection yet.
	firstPause   = 2 * time.Millisecond
	longestPause = 100 * time.Millisecond
)

// How a request to an HTTP application fails; each wraps its cause. They mean what their counterparts in fcgi do.
var (
	errUnreachable = errors.New("the application takes no connection")
	errNoAnswer    = errors.New("the application gave no HTTP response")
	errAnswerCut   = errors.New("the application closed the connection in the middle of its response")
)

// probeHTTP waits until the program of a child takes connections.
//
// The socket that it inherited takes one as soon as the child exists, and no second one until the first was accepted: so the
// second tells whether the program uses it.
func probeHTTP(ctx context.Context, child mpm.Child) error {
	var first net.Conn
	defer func() {
		if first != nil {
			_ = first.Close() // it was only asked
		}
	}()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		nc, own, err := dialSocket(ctx, child)
		switch {
		case err == nil && (own || first != nil):
			return nc.Close()
		case err == nil:
			first = nc
		case ctx.Err() != nil:
			return fmt.Errorf("it does not listen: it is to do so at $GATEWAY_SOCKET, or to use descriptor 3 (%w)", context.Cause(ctx))
		case !isNotYet(err):
			return err
		}
		sleep(ctx, pause)
	}
}

// isNotYet reports what passes when a program has come to its loop, or to this client.
func isNotYet(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES)
}

// sleep ends early with ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// dialHTTP connects to a child that is ready. A program with a full backlog is waited for.
func dialHTTP(ctx context.Context, child mpm.Child) (net.Conn, error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		nc, _, err := dialSocket(ctx, child)
		if err == nil || ctx.Err() != nil || !errors.Is(err, unix.EAGAIN) {
			return nc, err
		}
		sleep(ctx, pause)
	}
}

// dialSocket connects to the socket that the program has made, own, or without one to the socket that it inherited.
func dialSocket(ctx context.Context, child mpm.Child) (nc net.Conn, own bool, err error) {
	var d net.Dialer
	nc, err = d.DialContext(ctx, "unix", ctl.OwnSocket(child.Socket))
	if errors.Is(err, unix.ENOENT) {
		nc, err = d.DialContext(ctx, "unix", child.Socket)
		return nc, false, err
	}
	if err != nil {
		return nil, true, err
	}
	if err := checkPeer(nc, child.PID); err != nil {
		_ = nc.Close() // nothing was written
		return nil, true, err
	}
	return nc, true, nil
}

// checkPeer makes sure that who listens runs as the child's user: what lies at the path is the program's choice, and could be
// a link to a socket that the front may use and the program may not.
func checkPeer(nc net.Conn, pid int) error {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var got error
	err = raw.Control(func(fd uintptr) { peer, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, got); err != nil {
		return err
	}
	uid, err := userOf(pid)
	if err != nil {
		return err
	}
	if peer.Uid != uid {
		return fmt.Errorf("its socket belongs to user %d, and the child runs as user %d", peer.Uid, uid)
	}
	return nil
}

// userOf is the effective user of a process.
func userOf(pid int) (uint32, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/status"
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(ids); len(f) == 4 { // real, effective, saved, of the file system
				uid, err := strconv.ParseUint(f[1], 10, 32)
				return uint32(uid), err
			}
		}
	}
	return 0, fmt.Errorf("%s: no user", name)
}

// httpLink is the channel of an HTTP application: a client for one request at a time, which keeps its connection and opens
// another when the application has closed that between requests.
type httpLink struct {
	child     mpm.Child
	transport http.Transport
	closed    atomic.Bool
	mu        sync.Mutex
	nc        net.Conn // the last one that was opened; guarded by mu
}

func newHTTPLink(child mpm.Child) *httpLink {
	l := &httpLink{child: child}
	l.transport = http.Transport{DialContext: l.dial, DisableCompression: true, MaxIdleConns: 1, MaxResponseHeaderBytes: maxAnswerHead}
	return l
}

func (l *httpLink) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	nc, err := dialHTTP(ctx, l.child)
	switch {
	case lacksRoom(err):
		return nil, fmt.Errorf("%w: %w", errNoRoom, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nc = &metered{Conn: nc}
	return l.nc, nil
}

// Close ends the connection, and with it a request in progress.
func (l *httpLink) Close() error {
	l.closed.Store(true)
	l.transport.CloseIdleConnections()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nc != nil {
		_ = l.nc.Close() // perhaps once more
	}
	return nil
}

// Usable implements channel.
func (l *httpLink) Usable() bool { return !l.closed.Load() }

// hangUp implements channel: servers take the end of what they read for the end of the client.
func (l *httpLink) hangUp() {
	l.closed.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	closeWrite(l.nc)
}

// tryHTTP has the child of a slot answer, and gives the slot back.
func (c *call) tryHTTP(slot *mpm.Slot) error {
	h := c.newHold(slot)
	l, ok := slot.Channel.(*httpLink)
	if !ok {
		l = newHTTPLink(slot.Child)
	}
	h.hook(l)
	resp, nc, err := c.ask(h.context(), &l.transport, &url.URL{Scheme: "http", Host: "application"})
	if err != nil {
		return h.lost(err)
	}
	return c.answerHTTP(h, resp, nc)
}

// httpRequest is the request as a server gets it, below the URL to. The reader of its body is counted until it is closed.
//
// It is one that the Transport does not repeat. For that a method without effects needs a body of unknown length, here of no
// length and without framing; the others must not have an Idempotency-Key that the Transport sees, see forwardedHeader.
func (c *call) httpRequest(ctx context.Context, to *url.URL) *http.Request {
	host := c.r.Host
	if host == "" { // HTTP/1.0
		host = c.x.site.Names[0]
	}
	// The path is the clean one, in the client's spelling if that is the same.
	u := &url.URL{
		Scheme: to.Scheme, Host: to.Host, Path: to.Path + c.x.path, RawPath: to.EscapedPath() + c.x.asked,
		RawQuery: c.r.URL.RawQuery, ForceQuery: c.r.URL.ForceQuery,
	}
	r := (&http.Request{
		Method: c.r.Method, URL: u, Host: host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: c.forwardedHeader(), Body: http.NoBody, ContentLength: c.body.length,
	}).WithContext(ctx)
	switch {
	case c.body.length > 0:
		r.Body = c.countedReader()
	case isSafe(r.Method):
		r.Body, r.TransferEncoding = io.NopCloser(strings.NewReader("")), []string{"identity"}
	}
	return r
}

// countedReader is a request body that says when it is no longer read.
type countedReader struct {
	io.Reader
	watch *watch
	done  func()
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.watch.start()
	return n, err
}

func (c *call) countedReader() *countedReader {
	c.open.Add(1)
	c.reading.Add(1)
	return &countedReader{Reader: c.body.reader(), watch: c.watch, done: sync.OnceFunc(func() {
		c.open.Add(-1)
		c.reading.Done()
	})}
}

// endReading returns when nobody reads the body any more. A server may have answered without it.
func (c *call) endReading() {
	if c.open.Load() > 0 {
		c.body.interrupt()
	}
	c.reading.Wait()
}

func (r *countedReader) Close() error {
	r.done()
	return nil
}

// forwardedHeader is the client's header without what concerns its connection, and with what the application can't know
// itself. What a client says of its own address is believed only if it came through a unix socket, as from a web server in front.
func (c *call) forwardedHeader() http.Header {
	upgrade := c.proposed()
	header := c.r.Header.Clone()
	trailers := http1.HasToken([]byte(strings.Join(header["Te"], ",")), "trailers")
	stripHopByHop(header)
	maps.DeleteFunc(header, func(name string, _ []string) bool { return isTreacherous(name) })
	delete(header, "Expect") // the body is here
	if trailers && c.r.ProtoAtLeast(1, 1) {
		header.Set("Te", "trailers")
	}
	if upgrade != "" {
		header.Set("Connection", "Upgrade")
		header.Set("Upgrade", upgrade)
	}
	if _, ok := header["User-Agent"]; !ok {
		header.Set("User-Agent", "") // not Go's
	}
	scheme := "http"
	if c.x.secure {
		scheme = "https"
	}
	facts := map[string]string{"X-Forwarded-Host": c.r.Host, "X-Forwarded-Proto": scheme}
	if c.x.remote.IsValid() {
		facts["X-Forwarded-For"] = c.x.remote.Addr().Unmap().String()
		delete(header, "Forwarded")
	}
	for name, value := range facts {
		if c.x.remote.IsValid() || header.Get(name) == "" {
			header.Set(name, value)
		}
	}
	hideKeys(header)
	return header
}

// isTreacherous reports that a field must not reach an application: as a variable "X_User" and "X.User" would be those of "X-User",
// which it may trust; Proxy is what "httpoxy" abuses (CVE-2016-5385); and Http2-Settings is of the upgrade to h2c.
func isTreacherous(name string) bool {
	return name == "Proxy" || name == "Http2-Settings" || isMapping(name) || strings.ContainsAny(name, "_.")
}

// hideKeys keeps from the Transport what it takes for leave to repeat a request. On the wire the case of a name says nothing.
func hideKeys(header http.Header) {
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := header[name]; ok {
			delete(header, name)
			header[strings.ToLower(name)] = values
		}
	}
}

// proposed is the protocol that the client would like to go on in, if it may; empty: none. In h2c it could ask for what no route
// has seen.
func (c *call) proposed() string {
	protocol := upgradeOf(c.r.Header)
	if !c.r.ProtoAtLeast(1, 1) || c.body.length != 0 || http1.HasToken([]byte(protocol), "h2c") {
		return ""
	}
	return protocol
}

// upgradeOf returns the protocol that a head proposes or accepts; empty: none (RFC 9110 §7.8).
func upgradeOf(header http.Header) string {
	for _, value := range header["Connection"] {
		if http1.HasToken([]byte(value), "upgrade") {
			return header.Get("Upgrade")
		}
	}
	return ""
}

// answerHTTP sends the response of an application, which comes on nc, to the client, and gives the slot back.
func (c *call) answerHTTP(h *hold, resp *http.Response, nc net.Conn) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return c.switchProtocols(h, resp, nc)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 599 {
		h.slot.Failed = true
		h.forgo(resp.Body)
		return fmt.Errorf("the application answers with status %03d, which HTTP does not have", resp.StatusCode)
	}
	rp := &reply{status: resp.StatusCode, header: resp.Header, length: resp.ContentLength}
	if isEndless(rp.header) {
		h.unlimited()
		c.x.endless.Store(true)
	}
	rp.stream = h.endless
	if rp.length < 0 && rp.hasBody(c.r.Method) && c.r.ProtoAtLeast(1, 1) {
		rp.trailer = &resp.Trailer
	}
	delete(rp.header, "X-Accel-Buffering")
	stripHopByHop(rp.header)
	rp.announce() // now: whoever reads the body writes to rp.trailer
	delete(rp.header, "Content-Length")
	if !rp.hasBody("") && rp.status != http.StatusNotModified {
		rp.length = -1
	}
	if rp.length > 0 || rp.length == 0 && rp.hasBody(c.r.Method) {
		rp.header.Set("Content-Length", strconv.FormatInt(rp.length, 10))
	}
	body := &answerBody{ReadCloser: &watched{resp.Body, h.watch}}
	defer c.putReader()
	_, err := c.pass(h, rp, body, c.reader(body))
	return err
}

// isEndless reports a response that is to be passed on piece by piece, for as long as its client listens.
func isEndless(header http.Header) bool {
	return strings.EqualFold(first(header, "X-Accel-Buffering"), "no") || strings.HasPrefix(first(header, "Content-Type"), "text/event-stream")
}

// answerBody is the body of a response, whose errors say what they mean.
type answerBody struct {
	io.ReadCloser
	whole bool // its end was read, which stays true when it is closed
}

func (b *answerBody) Read(p []byte) (int, error) {
	if b.whole {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF: // only itself: an unexpected one is another error
		b.whole = true
	case err != nil:
		err = fmt.Errorf("%w: %w", errAnswerCut, err)
	}
	return n, err
}

// Close ends the use of the response. It always returns nil.
func (b *answerBody) Close() error {
	_ = b.ReadCloser.Close() // what the application still says is of no interest
	return nil
}

// switchProtocols carries what client and application say to each other from now on, until one of them has enough. It is
// still one request.
func (c *call) switchProtocols(h *hold, resp *http.Response, nc net.Conn) error {
	application, ok := resp.Body.(io.ReadWriteCloser)
	protocol := upgradeOf(resp.Header)
	if !ok || protocol == "" || !strings.EqualFold(protocol, c.proposed()) {
		_ = resp.Body.Close() // nobody can use it
		h.release(mpm.Broken)
		return fmt.Errorf("the application switches to protocol %q, which the client has not asked for", protocol)
	}
	client, _, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		_ = application.Close() // it has said nothing yet
		h.release(mpm.Done)
		return err
	}
	defer client.Close() // what it tells is known
	h.unlimited()
	stop := context.AfterFunc(h.client, func() { _ = application.Close() })
	carry(client, application, nc, switchHead(resp, protocol))
	stop()
	cause := h.Err()
	_ = application.Close() // perhaps once more
	if cause != nil && h.client.Err() == nil {
		h.release(mpm.Broken)
		return &cutError{cause}
	}
	h.release(mpm.Done)
	return nil
}

// switchHead is the response that tells the client of the new protocol.
func switchHead(resp *http.Response, protocol string) []byte {
	stripHopByHop(resp.Header)
	b := http1.AppendStatusLine(nil, http.StatusSwitchingProtocols)
	b = http1.AppendHeader(b, resp.Header)
	b = http1.AppendField(b, "Connection", "Upgrade")
	b = http1.AppendField(b, "Upgrade", protocol)
	return append(b, "\r\n"...)
}

// carry returns when the application, which nc leads to, has ended the conversation, or the client takes no more. A client that
// only says that it will say no more is still listened for.
func carry(client net.Conn, application io.ReadWriteCloser, nc net.Conn, head []byte) {
	if _, err := client.Write(head); err != nil {
		return
	}
	var asking sync.WaitGroup
	asking.Go(func() {
		_, _ = io.Copy(application, client) // either way there is no more to come
		closeWrite(nc)
	})
	_, _ = io.Copy(client, application) // likewise
	_ = application.Close()             // wakes a writer to it
	_ = client.SetReadDeadline(time.Unix(1, 0))
	asking.Wait()
}

// closeWrite says that there is no more to come.
func closeWrite(nc net.Conn) {
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // it fails when the other side has closed the connection
	}
}
