package fcgi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

// stdoutBuffer is how much STDOUT is gathered into one record, and one write.
const stdoutBuffer = 32 << 10

var (
	errFinished = errors.New("fcgi: write after the handler returned")
	errNotUnix  = errors.New("fcgi: only a unix socket passes a descriptor")
)

// Request is one request as the handler of a [Server] sees it. Nothing of it may be used after the handler has returned.
type Request struct {
	Params Params
	// Body is the STDIN stream. It ends with io.ErrUnexpectedEOF when the connection does before it. What the handler leaves
	// is skipped.
	Body   io.Reader
	Stdout *Stdout
	Stderr io.Writer // each Write is sent at once
	// AppStatus is the exit status to give. The handler sets it before it returns.
	AppStatus uint32
	// File is a descriptor that the peer gets with the end of the response (SCM_RIGHTS), on a unix socket; nil: none. The handler
	// sets it before it returns. It is closed then.
	File *os.File

	conn    *conn
	id      uint16
	keep    bool
	ctx     context.Context
	cancel  context.CancelCauseFunc
	raw     []byte        // the PARAMS stream so far
	read    bool          // to the end of STDIN; owned by the reading goroutine
	done    chan struct{} // closed after the end was sent; nil: the handler was not started
	bodyOut *io.PipeReader
	bodyIn  *io.PipeWriter // nil: there is no body
	err     error          // why nothing can be written any more; guarded by conn.wmu
}

func newRequest(c *conn, id uint16, keep bool) *Request {
	r := &Request{conn: c, id: id, keep: keep, Body: http.NoBody}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.Stdout = &Stdout{req: r}
	r.Stderr = stderrWriter{req: r}
	return r
}

// Abort closes the connection, so that the front sees that the response is not complete. The handler should return then.
func (r *Request) Abort() {
	_ = r.conn.nc.Close()
}

func (r *Request) run() {
	r.conn.server.Handler(r.ctx, r)
	r.finish()
}

// finish sends the end of the response together with what was buffered of it.
func (r *Request) finish() {
	if r.bodyOut != nil {
		_ = r.bodyOut.CloseWithError(errFinished)
	}
	complete := r.end()
	r.cancel(nil)
	r.conn.rest(r.keep && complete)
	close(r.done)
}

// end reports whether the whole response was sent.
func (r *Request) end() bool {
	c := r.conn
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if r.err == nil {
		c.out = appendHeader(sealStdout(c.out, r.id), kindStdout, r.id, 0, 0)
		c.out = appendEnd(c.out, r.id, r.AppStatus, requestComplete)
		n, err := r.passFile(c.out)
		if n < len(c.out) && err == nil {
			_, err = c.nc.Write(c.out[n:])
		}
		c.out = c.out[:0]
		_ = r.wrote(err) // sets r.err
	}
	if r.File != nil {
		_ = r.File.Close() // the peer has another one
	}
	complete := r.err == nil
	r.err = errFinished
	return complete
}

// endBody makes the body end with err; nil is io.EOF.
func (r *Request) endBody(err error) {
	if r.bodyIn != nil {
		_ = r.bodyIn.CloseWithError(err)
	}
}

// passFile sends r.File beside b, of which the kernel may take a part only. Without a File it does nothing.
func (r *Request) passFile(b []byte) (n int, err error) {
	if r.File == nil {
		return 0, nil
	}
	socket, ok := r.conn.nc.(*net.UnixConn)
	if !ok {
		return 0, errNotUnix
	}
	file, err := r.File.SyscallConn() // File.Fd would make the open file blocking, for the peer too
	if err != nil {
		return 0, err
	}
	var sent error
	err = file.Control(func(fd uintptr) { n, _, sent = socket.WriteMsgUnix(b, syscall.UnixRights(int(fd)), nil) })
	return n, errors.Join(err, sent)
}

// writeOut writes conn.out. The caller holds conn.wmu.
func (r *Request) writeOut() error {
	c := r.conn
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return r.wrote(err)
}

// wrote notes the result of a write. The caller holds conn.wmu.
func (r *Request) wrote(err error) error {
	if err != nil {
		r.err = err
		r.cancel(ErrPeerGone)
	}
	return err
}

// Stdout gathers the response of a request into records. It is safe for concurrent use.
type Stdout struct {
	req *Request
}

// Write buffers p, and sends the buffer whenever it is full.
func (o *Stdout) Write(p []byte) (int, error) {
	r, c := o.req, o.req.conn
	c.wmu.Lock()
	defer c.wmu.Unlock()
	n := 0
	for n < len(p) && r.err == nil {
		if len(c.out) == 0 {
			c.out = append(c.out, make([]byte, headerSize)...) // room for the header
		}
		m := min(len(p)-n, headerSize+stdoutBuffer-len(c.out))
		c.out = append(c.out, p[n:n+m]...)
		n += m
		if len(c.out) == headerSize+stdoutBuffer {
			_ = o.flush() // sets r.err
		}
	}
	return n, r.err
}

// Flush sends what is buffered.
func (o *Stdout) Flush() error {
	c := o.req.conn
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return o.flush()
}

func (o *Stdout) flush() error {
	r, c := o.req, o.req.conn
	if r.err != nil || len(c.out) == 0 {
		return r.err
	}
	c.out = sealStdout(c.out, r.id)
	return r.writeOut()
}

// sealStdout turns buffered output into a record.
func sealStdout(out []byte, id uint16) []byte {
	if len(out) == 0 {
		return out
	}
	n := len(out) - headerSize
	pad := paddingFor(n)
	putHeader(out, kindStdout, id, n, pad)
	return append(out, make([]byte, pad)...)
}

// paddingFor keeps the records aligned to eight bytes, as §3.3 recommends.
func paddingFor(n int) int { return -n & 7 }

type stderrWriter struct {
	req *Request
}

// Write sends p as records of its own, in one write each.
func (w stderrWriter) Write(p []byte) (int, error) {
	r, c := w.req, w.req.conn
	c.wmu.Lock()
	defer c.wmu.Unlock()
	n := 0
	for n < len(p) && r.err == nil {
		m := min(len(p)-n, stdoutBuffer)
		pad := paddingFor(m)
		rec := make([]byte, 0, headerSize+m+pad)
		rec = appendHeader(rec, kindStderr, r.id, m, pad)
		rec = append(rec, p[n:n+m]...)
		rec = append(rec, make([]byte, pad)...)
		if _, err := c.nc.Write(rec); r.wrote(err) == nil {
			n += m
		}
	}
	return n, r.err
}
