package proxy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gateway/mpm/event"
	"gateway/proxy/http1"
)

const (
	// inlineBody is up to which length a body goes out in one write with its head. A server that answers before it reads finds
	// room for so much: who writes it does not wait.
	inlineBody = 16 << 10

	// bodyGrace is how long a response that is here as a whole waits for the news that the body has been sent: they come from
	// another goroutine.
	bodyGrace = 10 * time.Millisecond

	// keptRequest is the capacity above which the memory for requests is not kept for the next one, in bytes.
	keptRequest = 16 << 10
)

// serverConn is a connection to an HTTP server, which carries one request after the other. It belongs to whoever serves the
// request; Close, Usable and hangUp may be called by others.
type serverConn struct {
	wire
	broken  atomic.Bool
	carried bool      // responses: the server may end it just when the next request comes
	since   time.Time // it has been idle; only while it is
	once    bool      // it carries one request only
	preface []byte    // goes before that
	asked   bool      // by who relays, see relay.asked
	said    []byte    // what has come since then
	until   time.Time // reads fail from then on; zero: they don't

	out  []byte             // the head of the request, and a short body
	buf  *[spoolMemory]byte // what came; nil: it is idle
	r, w int                // of buf: what was not taken yet
	head http1.Answer

	sent     bool          // some of the request
	received bool          // some of the response
	sending  chan struct{} // closed when the body was sent; nil: it went out with the head
	sendErr  error         // why it was not; the sender's until then
}

// wire is a connection as an event.Channel is one.
type wire interface {
	net.Conn
	Ask(request, p []byte) (sent, n int, err error)
	CloseWrite() error
}

// newServerConn takes a connection over that has just been opened.
func newServerConn(nc net.Conn) (*serverConn, error) {
	if w, ok := nc.(*encrypted); ok {
		return &serverConn{wire: w}, nil
	}
	channel, err := event.Wrap(nc)
	if err != nil {
		return nil, err
	}
	return &serverConn{wire: channel}, nil
}

// Usable implements channel.
func (k *serverConn) Usable() bool { return !k.broken.Load() }

// Close implements channel. What is being read or written fails.
func (k *serverConn) Close() error {
	k.broken.Store(true)
	return k.wire.Close()
}

// hangUp implements channel: servers take the end of what they read for the end of the client.
func (k *serverConn) hangUp() {
	k.broken.Store(true)
	closeWrite(k.wire)
}

// ask sends the request of c, and returns the head of the response. early gets informational responses.
func (k *serverConn) ask(c *call, early *earlyAnswers) (*serverAnswer, error) {
	k.unlimited()
	k.sent, k.received, k.sending, k.sendErr = false, false, nil, nil
	k.r, k.w, k.buf = 0, 0, c.spool.buffer()
	if k.asked {
		k.w = copy(k.buf[:], k.said)
		k.asked, k.said, k.sent, k.received = false, nil, true, k.w > 0
	} else if err := k.send(c); err != nil {
		return nil, err
	}
	for {
		if err := k.readHead(); err != nil {
			return nil, k.explain(err)
		}
		if s := k.head.Status; s < 100 || s > 199 || s == http.StatusSwitchingProtocols {
			c.watch.stop()
			return newServerAnswer(c, k), nil
		}
		if err := early.pass(k.head.Status, headerOf(k.head.Fields)); err != nil {
			return nil, err
		}
	}
}

// send sends the head and a short body, and has a longer one sent. A server that has hung up may have said why before.
func (k *serverConn) send(c *call) (err error) {
	if k.out, err = c.appendRequest(append(k.out[:0], k.preface...)); err != nil {
		return err
	}
	inline := c.body.length <= inlineBody && c.body.stream == nil
	if inline {
		k.out = c.body.appendTo(k.out)
	}
	p := k.buf[:]
	if !inline {
		p = nil
	}
	n, got, err := k.Ask(k.out, p)
	k.sent, k.w, k.received = n > 0, got, got > 0
	if err == nil && n < len(k.out) {
		if _, err = k.wire.Write(k.out[n:]); isHungUp(err) {
			k.broken.Store(true)
			err = nil
		}
	}
	if cap(k.out) > keptRequest {
		k.out = nil
	}
	if err == nil && !inline {
		k.sending = make(chan struct{})
		go k.sendBody(c, c.countedReader()) // ends with the body, or with the connection
	}
	return err
}

// sendBody sends the body beside the reading, because a server may answer first and read later.
func (k *serverConn) sendBody(c *call, body *countedReader) {
	defer body.end()
	b := c.spool.buffer()
	defer c.spool.buffers.Put(b)
	for left := c.body.length; left > 0 && k.sendErr == nil; {
		n, err := io.ReadAtLeast(body, b[:min(left, int64(len(b)))], 1)
		if err == nil {
			_, err = k.wire.Write(b[:n])
		}
		left -= int64(n)
		k.sendErr = err
	}
	hungUp := isHungUp(k.sendErr) // what the server said before can still be read
	k.broken.CompareAndSwap(false, k.sendErr != nil)
	failed := k.sendErr != nil && !hungUp
	close(k.sending)
	if failed {
		_ = k.Close() // wakes the reader
	}
}

// isHungUp reports that the other side has closed the connection.
func isHungUp(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }

// explain is why a connection was closed while it was read from.
func (k *serverConn) explain(err error) error {
	if !errors.Is(err, net.ErrClosed) || k.sending == nil {
		return err
	}
	select {
	case <-k.sending:
		if k.sendErr != nil {
			return fmt.Errorf("request body: %w", k.sendErr)
		}
	default:
	}
	return err
}

// isBodySent reports whether the server has taken the whole request, when its response is here as a whole.
func (k *serverConn) isBodySent() bool {
	if k.sending == nil {
		return true
	}
	t := time.NewTimer(bodyGrace)
	defer t.Stop()
	select {
	case <-k.sending:
		return k.sendErr == nil
	case <-t.C:
		return false
	}
}

// readHead reads the head of a response, from the beginning of the memory.
func (k *serverConn) readHead() error {
	k.r, k.w = 0, copy(k.buf[:], k.buf[k.r:k.w])
	k.head.Reset()
	for {
		if k.w > 0 {
			n, err := k.head.Parse(k.buf[:k.w])
			if refused, ok := errors.AsType[*http1.Error](err); ok {
				return fmt.Errorf("malformed HTTP response: %s", refused.Reason)
			}
			if n > 0 {
				k.r = n
				return nil
			}
		}
		switch err := k.fill(); {
		case err == io.EOF && k.w > 0:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}

// fill reads what there is, at least a byte. There must be room.
func (k *serverConn) fill() error {
	n, err := k.wire.Read(k.buf[k.w:])
	k.w += n
	k.received = k.received || n > 0
	return err
}

// Read gives what came behind the head before what comes, to one who goes on in another protocol.
func (k *serverConn) Read(p []byte) (int, error) {
	if k.r < k.w {
		n := copy(p, k.buf[k.r:k.w])
		k.r += n
		return n, nil
	}
	return k.wire.Read(p)
}

// serverAnswer is the response of an HTTP server. Its body is read by WriteTo.
type serverAnswer struct {
	status  int
	header  http.Header
	length  int64       // of the body as announced; -1: it is not
	trailer http.Header // what the header announces; when the body was read, what came behind it

	stream *http.Response // one of HTTP/2; nil: it comes on conn
	conn   *serverConn
	watch  *watch
	spool  *spool
	log    Logger
	left   int64              // of the body; -1: up to the end of the connection
	chunks *http1.ChunkReader // nil: it has none
	ended  bool               // the last chunk was read
	err    error              // sticky; io.EOF: the body is whole
}

// newServerAnswer decides on the framing of the body (RFC 9112 §6.3).
func newServerAnswer(c *call, k *serverConn) *serverAnswer {
	m := &k.head.Framing
	a := &serverAnswer{
		status: k.head.Status, header: headerOf(k.head.Fields), length: m.ContentLength,
		conn: k, watch: c.watch, spool: c.spool, log: c.log, left: m.ContentLength,
	}
	switch {
	case isBodyless(c.r.Method, a.status), a.status < 200:
		a.left = 0
	case m.Chunked:
		a.chunks = &http1.ChunkReader{KeepTrailer: true}
		a.trailer = announced(a.header)
	}
	return a
}

// Arrived reports whether the rest of the body is here for certain.
func (a *serverAnswer) Arrived() bool {
	if a.stream != nil {
		return false
	}
	return a.err != nil || a.chunks == nil && a.left >= 0 && int64(a.conn.w-a.conn.r) >= a.left
}

// next returns the next piece of the body, at least one byte, valid until it is called again.
func (a *serverAnswer) next() (b []byte, err error) {
	k := a.conn
	for a.err == nil {
		switch {
		case a.ended, a.chunks == nil && a.left == 0:
			a.finish()
			continue
		case k.r == k.w:
			a.fill()
			continue
		case a.chunks != nil:
			var n int
			b, n, a.ended, err = a.chunks.Next(k.buf[k.r:k.w])
			k.r += n
			if err != nil {
				a.err = fmt.Errorf("%w: %w", errAnswerCut, err)
			}
		default:
			b = k.buf[k.r:k.w]
			if a.left >= 0 {
				b = b[:min(int64(len(b)), a.left)]
				a.left -= int64(len(b))
			}
			k.r += len(b)
		}
		if len(b) > 0 {
			return b, nil
		}
	}
	return nil, a.err
}

// fill waits for more of the body.
func (a *serverAnswer) fill() {
	k := a.conn
	k.r, k.w = 0, 0
	a.watch.start()
	err := k.fill()
	a.watch.stop()
	switch {
	case err == io.EOF && a.chunks == nil && a.left < 0:
		a.err = io.EOF
		k.broken.Store(true)
	case err == io.EOF:
		a.err = fmt.Errorf("%w: %w", errAnswerCut, io.ErrUnexpectedEOF)
	case err != nil:
		a.err = fmt.Errorf("%w: %w", errAnswerCut, k.explain(err))
	}
}

// finish is called at the end of the body. Bytes that belong to no response would be taken for the next one, and so would an answer
// to what is still being sent.
func (a *serverAnswer) finish() {
	a.err = io.EOF
	k := a.conn
	if a.chunks != nil {
		clear(a.trailer)
		maps.Copy(a.trailer, headerOf(http1.ParseTrailer(a.chunks.Trailer)))
	}
	if k.r < k.w {
		a.log.Debugw(notQuiet, "bytes", k.w-k.r)
	}
	if !k.head.KeepAlive || k.once || k.r < k.w || !k.isBodySent() {
		k.broken.Store(true)
	}
	k.carried = true
}

// WriteTo implements io.WriterTo, with one Write for each piece as it comes.
func (a *serverAnswer) WriteTo(w io.Writer) (total int64, err error) {
	if a.stream != nil {
		return a.writeStreamTo(w)
	}
	for {
		b, err := a.next()
		if err == io.EOF {
			return total, nil
		}
		if err == nil {
			_, err = w.Write(b)
			total += int64(len(b))
		}
		if err != nil {
			return total, err
		}
	}
}

// Close ends the use of the response, and of the connection unless the body is whole. It always returns nil.
func (a *serverAnswer) Close() error {
	if a.stream != nil {
		return a.stream.Body.Close() // always nil
	}
	if a.err == nil && (a.ended || a.chunks == nil && a.left == 0) {
		a.finish()
	}
	if a.err != io.EOF {
		_ = a.conn.Close() // what the server still says is of no interest
	}
	if b := a.conn.buf; b != nil {
		a.conn.buf = nil
		a.spool.buffers.Put(b)
	}
	return nil
}
