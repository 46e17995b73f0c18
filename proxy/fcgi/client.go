package fcgi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
)

// How a request fails, told by errors.Is. Each wraps its cause as well: a request whose deadline passed is also an
// os.ErrDeadlineExceeded. After every one of them but [ErrParamTooLarge] ask [Conn.Usable].
var (
	// ErrNotSent means that the application read nothing of the request: another one may have it.
	ErrNotSent = errors.New("fcgi: request not sent")
	// ErrNoResponse means that the connection ended after the application may have read some of the request and before the
	// first byte of its response.
	ErrNoResponse = errors.New("fcgi: connection ended before the response")
	// ErrTruncated means that the connection ended in the middle of the response.
	ErrTruncated = errors.New("fcgi: connection ended in the middle of the response")
	// ErrRefused means that the application ended the request with another status than FCGI_REQUEST_COMPLETE.
	ErrRefused = errors.New("fcgi: request refused")
	// ErrBody means that the request body failed or was shorter than announced.
	ErrBody = errors.New("fcgi: request body")

	errBusy   = errors.New("fcgi: the previous response is not finished")
	errClosed = errors.New("fcgi: read after Close")
)

const (
	requestID = 1 // there is only one request at a time

	// inlineRequest is what one write hands over without waiting for the application to read: the buffer of a unix socket
	// takes 208 KiB, of which the kernel counts some for itself. Larger requests are written beside the reading, because an
	// application may answer first and read later.
	inlineRequest = 64 << 10
	// stdinChunk is the content of a STDIN record, and nearly the size of a write, of larger requests.
	stdinChunk = 64<<10 - 8
	// keptBuffer is the capacity above which the write buffer is not kept for the next request.
	keptBuffer = 256 << 10
)

// Conn is a connection to an application, used for one request after the other and kept open by both sides (FCGI_KEEP_CONN).
//
// Only Close and Usable may be called from several goroutines. Deadlines are those of the net.Conn.
type Conn struct {
	nc     net.Conn
	in     reader
	out    []byte    // belongs to the current response's sender until that is done
	resp   *Response // of the last request; nil: none was made
	broken atomic.Bool
}

// NewConn returns a Conn on a connection that has just been opened.
func NewConn(nc net.Conn) *Conn {
	return &Conn{nc: nc, in: newReader(nc)}
}

// Close closes the connection. A call of Do or Read in progress fails.
func (c *Conn) Close() error {
	c.broken.Store(true)
	return c.nc.Close()
}

// Usable reports whether the connection can take another request, as far as is known without asking the application.
func (c *Conn) Usable() bool { return !c.broken.Load() }

// Do sends a request with exactly bodyLen bytes of body, and returns when the first byte of the response has arrived or the
// request has ended without one. CONTENT_LENGTH is the caller's to put into params. body may be nil when bodyLen is 0.
//
// stderr is called with each piece that the application writes to its error stream, from within Do, Read and WriteTo; the
// bytes are only valid during the call. nil drops them.
//
// When Do fails, body is no longer used. So if reading body can block for long, see that it ends when the connection does.
func (c *Conn) Do(params []Param, body io.Reader, bodyLen int64, stderr func([]byte)) (*Response, error) {
	if err := c.ready(); err != nil {
		return nil, err
	}
	if bodyLen < 0 || bodyLen > 0 && body == nil {
		return nil, fmt.Errorf("%w: length %d, and no such body", ErrBody, bodyLen)
	}
	out := appendBegin(c.out[:0], requestID, roleResponder, flagKeepConn)
	out, err := appendParams(out, requestID, params)
	c.out = out
	if err != nil {
		return nil, err
	}
	r := &Response{conn: c, stderr: stderr}
	c.resp = r
	r.start(body, bodyLen)
	if err := r.await(); err != nil {
		return nil, err
	}
	return r, nil
}

// ready makes sure that the previous request is over.
func (c *Conn) ready() error {
	if r := c.resp; r != nil {
		if r.err == nil {
			return errBusy
		}
		r.wait()
	}
	if !c.Usable() {
		return fmt.Errorf("%w: %w", ErrNotSent, net.ErrClosed)
	}
	if cap(c.out) > keptBuffer {
		c.out = nil
	}
	return nil
}

// Response is the output of a request: an io.Reader of its STDOUT stream that ends with io.EOF when the application has said
// that the request is complete, and only then. After io.EOF the Conn takes the next request.
type Response struct {
	conn   *Conn
	stderr func([]byte)
	err    error // sticky; io.EOF: complete
	began  bool  // a byte of STDOUT has arrived
	status uint32

	// The sender. The goroutine that closes done owns the other two until then; nil done: nobody but the caller of Do.
	done    chan struct{}
	sent    int64
	sendErr error
}

// AppStatus is the exit status that the application gave, valid after io.EOF. php-cgi's says nothing of use.
func (r *Response) AppStatus() uint32 { return r.status }

// Arrived reports whether all that is left of the response is here, so that reading it waits for nobody.
func (r *Response) Arrived() bool { return r.err != nil || r.conn.in.holds(kindEnd) }

// start sends the request, in one write when it is small.
func (r *Response) start(body io.Reader, bodyLen int64) {
	if bodyLen <= inlineRequest-int64(len(r.conn.out)) {
		r.send(body, bodyLen)
		return
	}
	r.done = make(chan struct{})
	go func() { // ends with the body, or with the connection
		defer close(r.done)
		r.send(body, bodyLen)
	}()
}

// send writes what stands in conn.out, then the body as STDIN records. A body that ends short is not finished with the empty
// record that means its end: php-cgi would wait for the rest for ever, and take the next request for it.
func (r *Response) send(body io.Reader, left int64) {
	beside := r.done != nil   // a body that is written beside the reading, as it comes
	if beside && !r.write() { // php-cgi waits only 5 s for the first byte
		return
	}
	c := r.conn
	for left > 0 {
		n, err := 0, error(nil)
		if c.out, n, err = appendStdin(c.out, body, left); err != nil {
			r.sendErr = fmt.Errorf("%w: %w", ErrBody, err)
			if beside {
				_ = c.Close() // wakes the reader
			}
			return
		}
		left -= int64(n)
		if beside && left > 0 && !r.write() {
			return
		}
	}
	c.out = appendHeader(c.out, kindStdin, requestID, 0, 0)
	r.write()
}

// write sends what stands in conn.out. It reports whether that was possible.
func (r *Response) write() bool {
	c := r.conn
	n, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	r.sent += int64(n)
	if err != nil {
		r.sendErr = err
		r.writeFailed(err)
	}
	return err == nil
}

// writeFailed ends the use of the connection. If the application hung up, what it said before can still be read.
func (r *Response) writeFailed(err error) {
	r.conn.broken.Store(true)
	hungUp := errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
	if !hungUp || r.sent == 0 {
		_ = r.conn.Close() // wakes the reader
	}
}

// appendStdin appends one record of the body, of which left bytes are to come: as much as there is without waiting for more.
func appendStdin(dst []byte, body io.Reader, left int64) (out []byte, n int, err error) {
	size := int(min(left, stdinChunk))
	dst = slices.Grow(dst, 2*headerSize+size)
	begin := len(dst) + headerSize
	if n, err = io.ReadAtLeast(body, dst[begin:begin+size], 1); err != nil {
		return dst, 0, unexpected(err)
	}
	dst = appendHeader(dst, kindStdin, requestID, n, 0)
	return dst[:len(dst)+n], n, nil
}

// await waits for the first byte, unless the request already failed in a way that no answer can follow.
func (r *Response) await() error {
	if r.done == nil && r.sendErr != nil && r.sent == 0 {
		return r.fail(r.sendErr)
	}
	if _, err := r.next(); err != nil && err != io.EOF {
		return err
	}
	return nil
}

// Read reads from the STDOUT stream. It returns what has arrived, so that a caller can pass it on at once.
func (r *Response) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := r.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, b)
	r.conn.in.consume(n)
	return n, nil
}

// WriteTo writes the rest of the STDOUT stream to w, one Write for each piece as it arrives.
func (r *Response) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		b, err := r.next()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(b)
		n = min(max(n, 0), len(b))
		r.conn.in.consume(n)
		total += int64(n)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
}

// Close ends the use of the response. After io.EOF it waits until the application has taken the rest of the request body and
// leaves the connection open, unless that failed ([Conn.Usable]). Before io.EOF it closes the connection: nothing else stops
// the application. Either way nothing reads the request body afterwards. It always returns nil and may be called twice.
func (r *Response) Close() error {
	if r.err == nil {
		r.err = errClosed
		_ = r.conn.Close()
	}
	r.wait()
	return nil
}

// wait returns when the sender is done.
func (r *Response) wait() {
	if r.done != nil {
		<-r.done
	}
}

// next returns the next piece of STDOUT, at least one byte, valid until the reader is used again.
func (r *Response) next() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	err := r.advance()
	if err == nil {
		var b []byte
		if b, err = r.conn.in.chunk(); err == nil {
			r.began = true
			return b, nil
		}
	}
	if err == io.EOF { // complete
		r.err, r.stderr = err, nil // an idle connection should not keep the caller's things
		return nil, err
	}
	return nil, r.fail(err)
}

// advance goes to a record with STDOUT content. io.EOF means that the request is complete.
func (r *Response) advance() error {
	in := &r.conn.in
	for in.left == 0 {
		h, err := in.next()
		if err != nil {
			return unexpected(err)
		}
		if h.id != requestID {
			return fmt.Errorf("%w: record type %d for request %d", ErrProtocol, h.kind, h.id)
		}
		switch h.kind {
		case kindStdout:
		case kindStderr:
			err = r.readStderr()
		case kindEnd:
			err = r.end(h)
		default:
			err = fmt.Errorf("%w: record type %d in a response", ErrProtocol, h.kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Response) readStderr() error {
	in := &r.conn.in
	for in.left > 0 {
		b, err := in.chunk()
		if err != nil {
			return err
		}
		if r.stderr != nil {
			r.stderr(b)
		}
		in.consume(len(b))
	}
	return nil
}

// end reads END_REQUEST. It returns io.EOF when the request is complete.
func (r *Response) end(h header) error {
	in := &r.conn.in
	b, err := in.body8(h)
	if err != nil {
		return err
	}
	r.status = binary.BigEndian.Uint32(b)
	if s := protocolStatus(b[4]); s != requestComplete {
		return fmt.Errorf("%w: %v", ErrRefused, s)
	}
	if in.buffered() > in.padding {
		// Bytes that belong to no request would be taken for the next response.
		_ = r.conn.Close()
	}
	return io.EOF
}

// fail closes the connection and says what the failure means. It alone decides between the errors above.
func (r *Response) fail(cause error) error {
	r.err, r.stderr = cause, nil
	if r.done != nil || r.sent > 0 || !errors.Is(r.sendErr, ErrBody) { // else the connection was not touched
		_ = r.conn.Close()
	}
	r.wait()
	if r.sendErr != nil && errors.Is(cause, net.ErrClosed) {
		cause = r.sendErr // the sender failed first and closed the connection
	}
	switch {
	case errors.Is(r.sendErr, ErrBody):
		r.err = r.sendErr
	case r.sendErr != nil && r.sent == 0:
		r.err = fmt.Errorf("%w: %w", ErrNotSent, cause)
	case errors.Is(cause, ErrProtocol), errors.Is(cause, ErrRefused):
	case r.began:
		r.err = fmt.Errorf("%w: %w", ErrTruncated, cause)
	default:
		r.err = fmt.Errorf("%w: %w", ErrNoResponse, cause)
	}
	return r.err
}
