package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// maxEarly and maxEarlyBytes bound the informational responses to one request, and the fields of all of them together.
	maxEarly      = 16
	maxEarlyBytes = 64 << 10
)

var errEarly = errors.New("too many informational responses")

// ask has an HTTP server answer the request, below the URL to. The response comes on nc.
//
// A connection that was kept may end just when the request comes, so it is perhaps asked again. The Transport never does that
// by itself: it would run a request anew that ends the server, see [call.httpRequest].
func (c *call) ask(ctx context.Context, t *http.Transport, to *url.URL) (resp *http.Response, nc net.Conn, err error) {
	for sent := false; ; {
		a := attempt{early: earlyAnswers{w: c.w}}
		resp, err = a.run(t, c.httpRequest(ctx, to))
		again := ctx.Err() == nil && c.mayAskAgain(&a, err, sent)
		sent = sent || a.sent() > 0
		switch {
		case err == nil, errors.Is(err, errNoRoom), errors.Is(err, errUnreachable) && !sent:
			return resp, a.conn, err
		case !again:
			return nil, nil, fmt.Errorf("%w: %w", errNoAnswer, unmarked(err))
		}
	}
}

// mayAskAgain reports whether a request that failed with err can go over another connection: of course if nothing was written.
// If all that came was the end, a server may have ended an idle connection, or because of what it was asked: once, and only if a
// method has no effects (RFC 9112 §9.3.1). A child's unix socket tells: it is reset if something was left unread. The end of a
// child that has read it all is for retry, see [call.mayRepeat].
func (c *call) mayAskAgain(a *attempt, err error, sentBefore bool) bool {
	switch {
	case !a.reused || a.received() > 0 || !c.body.again():
		return false
	case a.sent() == 0:
		return true
	case sentBefore:
		return false
	case c.x.route.Proxy == nil:
		return errors.Is(err, unix.ECONNRESET) && c.body.length == 0
	}
	return isSafe(c.r.Method)
}

// isSafe: RFC 9110 §9.2.1.
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// unmarked is an error that is not taken for errUnreachable: the application had read the request before it took no more.
func unmarked(err error) error {
	if errors.Is(err, errUnreachable) {
		return errors.New(err.Error())
	}
	return err
}

// attempt is one try to have a server answer.
type attempt struct {
	early  earlyAnswers
	conn   *metered // nil: none could be had
	reused bool     // conn has carried other requests

	sentBefore, receivedBefore int64 // these requests, in bytes
}

func (a *attempt) run(t *http.Transport, r *http.Request) (*http.Response, error) {
	defer a.early.end()
	trace := &httptrace.ClientTrace{GotConn: a.use, Got1xxResponse: a.early.pass}
	return t.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
}

// use is called while RoundTrip runs.
func (a *attempt) use(i httptrace.GotConnInfo) {
	a.conn, _ = i.Conn.(*metered) // it is one
	a.reused, a.sentBefore, a.receivedBefore = i.Reused, a.conn.sent.Load(), a.conn.received.Load()
}

func (a *attempt) sent() int64 {
	if a.conn == nil {
		return 0
	}
	return a.conn.sent.Load() - a.sentBefore
}

func (a *attempt) received() int64 {
	if a.conn == nil {
		return 0
	}
	return a.conn.received.Load() - a.receivedBefore
}

// metered is a connection to a server that counts the bytes it carries: only they tell whether a request can have been read.
type metered struct {
	net.Conn
	sent, received atomic.Int64
}

// Write implements net.Conn.
func (m *metered) Write(p []byte) (int, error) {
	m.sent.Add(int64(len(p))) // before a server can have read it
	n, err := m.Conn.Write(p)
	m.sent.Add(int64(n - len(p)))
	return n, err
}

// Read implements net.Conn.
func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.received.Add(int64(n))
	return n, err
}

// CloseWrite is for [closeWrite]. It always returns nil.
func (m *metered) CloseWrite() error {
	closeWrite(m.Conn)
	return nil
}

// earlyAnswers passes informational responses on (RFC 9110 §15.2), until the final one is there: they come on another goroutine.
type earlyAnswers struct {
	w     http.ResponseWriter
	mu    sync.Mutex
	over  bool
	count int
	bytes int
}

// pass is for [httptrace.ClientTrace.Got1xxResponse]. Its error ends the request.
func (e *earlyAnswers) pass(status int, fields textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return nil
	}
	e.count++
	e.bytes += fieldBytes(http.Header(fields))
	if e.count > maxEarly || e.bytes > maxEarlyBytes {
		return errEarly
	}
	stripHopByHop(http.Header(fields))
	header := e.w.Header()
	final := maps.Clone(header) // what the gateway itself has put there
	clear(header)
	maps.Copy(header, fields)
	e.w.WriteHeader(status)
	clear(header)
	maps.Copy(header, final)
	return nil
}

func (e *earlyAnswers) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
}

// fieldBytes is how many bytes names and values have.
func fieldBytes(header http.Header) (n int) {
	for name, values := range header {
		for _, value := range values {
			n += len(name) + len(value)
		}
	}
	return n
}
