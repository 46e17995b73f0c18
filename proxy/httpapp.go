package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/mpm"
	"gateway/proxy/http1"
)

const (
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
		case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded): // which a dial may find before the context ends
			return fmt.Errorf("it does not listen: it is to do so at $GATEWAY_SOCKET, or to use descriptor 3 (%w)", cmp.Or(context.Cause(ctx), context.DeadlineExceeded))
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
	return dialPatiently(ctx, func() (net.Conn, error) {
		nc, _, err := dialSocket(ctx, child)
		return nc, err
	})
}

// dialPatiently calls dial until the backlog of the socket is not full.
func dialPatiently(ctx context.Context, dial func() (net.Conn, error)) (net.Conn, error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		nc, err := dial()
		if !errors.Is(err, unix.EAGAIN) || ctx.Err() != nil {
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

// tryHTTP has the child of a slot answer, and gives the slot back.
func (c *call) tryHTTP(slot *mpm.Slot) error {
	h := c.newHold(slot)
	kept, _ := slot.Channel.(*serverConn)
	a, err := c.ask(h, func() (*serverConn, error) {
		if k := kept; k != nil {
			kept = nil
			return k, nil
		}
		return connectHTTP(h, slot.Child)
	})
	if err != nil {
		return h.lost(err)
	}
	return c.answerHTTP(h, a)
}

// connectHTTP opens a connection to a child.
func connectHTTP(ctx context.Context, child mpm.Child) (*serverConn, error) {
	nc, err := dialHTTP(ctx, child)
	if err != nil {
		return nil, notConnected(err)
	}
	return newServerConn(nc)
}

// notConnected says what an error of a dial means.
func notConnected(err error) error {
	if lacksRoom(err) {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return fmt.Errorf("%w: %w", errUnreachable, err)
}

// countedReader is a request body that is read in another goroutine, which calls end.
type countedReader struct {
	io.Reader
	call *call
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.call.watch.start()
	return n, err
}

func (c *call) countedReader() *countedReader {
	c.open.Add(1)
	c.reading.Add(1)
	return &countedReader{c.body.reader(), c}
}

func (r *countedReader) end() {
	r.call.open.Add(-1)
	r.call.reading.Done()
}

// endReading returns when nobody reads the body any more. A server may have answered without it.
func (c *call) endReading() {
	if c.open.Load() > 0 {
		c.body.interrupt()
	}
	c.reading.Wait()
}

// isTreacherous reports that a field must not reach an application: as a variable "X_User" and "X.User" would be those of "X-User",
// which it may trust; Proxy is what "httpoxy" abuses (CVE-2016-5385); and Http2-Settings is of the upgrade to h2c.
func isTreacherous(name string) bool {
	return name == "Proxy" || name == "Http2-Settings" || isMapping(name) || strings.ContainsAny(name, "_.")
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
	if !listNames(header["Connection"], "upgrade") {
		return ""
	}
	return header.Get("Upgrade")
}

// answerHTTP sends the response of an application to the client, and gives the slot back.
func (c *call) answerHTTP(h *hold, a *serverAnswer) error {
	if a.status == http.StatusSwitchingProtocols {
		return c.switchProtocols(h, a)
	}
	if a.status < 200 || a.status > 599 {
		h.slot.Failed = true
		if a.conn != nil {
			_ = a.conn.Close() // who knows where its next answer begins
		}
		h.forgo(a)
		return fmt.Errorf("the application answers with status %03d, which HTTP does not have", a.status)
	}
	if c.server != nil || c.x.route.Cut() != "" {
		c.reverse(a.header)
	}
	rp := &reply{status: a.status, header: a.header, length: a.length}
	if isEndless(rp.header) {
		h.unlimited()
		c.x.endless.Store(true)
	}
	rp.stream = h.endless
	if a.trailer != nil && rp.hasBody(c.r.Method) && c.r.ProtoAtLeast(1, 1) {
		rp.trailer = &a.trailer
	}
	delete(rp.header, "X-Accel-Buffering")
	stripHopByHop(rp.header)
	rp.announce() // now: whoever reads the body writes to rp.trailer
	if !rp.hasBody("") {
		rp.length = -1
	}
	if rp.length < 0 || rp.length == 0 && !rp.hasBody(c.r.Method) {
		delete(rp.header, "Content-Length")
	}
	return c.pass(h, rp, a, a)
}

// isEndless reports a response that is to be passed on piece by piece, for as long as its client listens.
func isEndless(header http.Header) bool {
	return strings.EqualFold(first(header, "X-Accel-Buffering"), "no") || isGRPC(header) || strings.HasPrefix(first(header, "Content-Type"), "text/event-stream")
}

// switchProtocols carries what client and application say to each other from now on, until one of them has enough. It is
// still one request.
func (c *call) switchProtocols(h *hold, a *serverAnswer) error {
	application, protocol := a.conn, upgradeOf(a.header)
	if protocol == "" || !strings.EqualFold(protocol, c.proposed()) {
		_ = application.Close() // nobody can use it
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
	carry(client, application, switchHead(a.header, protocol))
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
func switchHead(header http.Header, protocol string) []byte {
	stripHopByHop(header)
	b := http1.AppendStatusLine(nil, http.StatusSwitchingProtocols)
	b = http1.AppendHeader(b, header)
	b = http1.AppendField(b, "Connection", "Upgrade")
	b = http1.AppendField(b, "Upgrade", protocol)
	return append(b, "\r\n"...)
}

// carry returns when the application has ended the conversation, or the client takes no more. A client that only says that it will
// say no more is still listened for.
func carry(client, application net.Conn, head []byte) {
	if _, err := client.Write(head); err != nil {
		return
	}
	var asking sync.WaitGroup
	asking.Go(func() {
		_, _ = io.Copy(application, client) // either way there is no more to come
		closeWrite(application)
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
