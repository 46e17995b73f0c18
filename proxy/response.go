package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"gateway/mpm/event"
	"gateway/proxy/http1"
)

// responseBuffer is how much of a body is held back, so that a short answer gets a length and goes out in one write.
const responseBuffer = 16 << 10

// response is the http.ResponseWriter of a connection: also Flusher, io.ReaderFrom and io.StringWriter.
type response struct {
	conn     *conn
	request  *http.Request
	exchange *exchange
	body     *body
	header   http.Header // nil: nothing is in it
	status   int         // 0: not decided yet
	length   int64       // declared; -1: not
	written  int64       // bytes of body that the handler wrote
	held     []byte      // of these, those not sent yet
	minor    int
	chunked  bool
	close    bool // the connection ends with this response
	count    int  // the how many-th of the connection it is
	err      error

	mu   sync.Mutex // guards sent and ended against probe
	sent bool       // the head is on its way
	over bool       // the handler has returned
}

// Errors of a handler's writes.
var (
	errOver      = errors.New("response written after its handler returned")
	errTruncated = errors.New("response is shorter than its Content-Length")
)

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header, 8)
	}
	return w.header
}

// WriteHeader implements http.ResponseWriter. Informational responses are sent at once.
func (w *response) WriteHeader(status int) {
	if w.status != 0 || w.over {
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		w.inform(status)
		return
	}
	w.status, w.length = status, declaredLength(w.header)
}

// declaredLength is the Content-Length that a handler has set; -1: none. One that is no length is removed.
func declaredLength(h http.Header) int64 {
	v := first(h, "Content-Length")
	if v == "" {
		return -1
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		h.Del("Content-Length")
		return -1
	}
	return n
}

// inform sends an informational response, but not to a client that is behind: nobody shall wait for it with that.
func (w *response) inform(status int) {
	if w.minor == 0 || w.err != nil {
		return // HTTP/1.0 knows none (RFC 9110 §15.2)
	}
	b := http1.AppendStatusLine(nil, status)
	b = http1.AppendHeader(b, w.header)
	w.mu.Lock() // a probe writes as well
	defer w.mu.Unlock()
	if w.conn.raw.Unsent() {
		return
	}
	w.conn.raw.KeepUnsent(true)
	defer w.conn.raw.KeepUnsent(false)
	_, w.err = w.conn.stream.Write(append(b, "\r\n"...))
}

func (w *response) bodyless() bool { return isBodyless(w.request.Method, w.status) }

// isBodyless reports whether a final response has no body whatever its head says (RFC 9112 §6.3).
func isBodyless(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.over {
		return 0, errOver
	}
	w.WriteHeader(http.StatusOK)
	if w.err != nil {
		return 0, w.err
	}
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		return 0, http.ErrContentLength
	}
	w.written += int64(len(p))
	if w.request.Method == http.MethodHead {
		return len(p), nil
	}
	if len(w.held)+len(p) <= responseBuffer {
		w.held = append(w.held, p...)
		return len(p), nil
	}
	if err := w.send(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (w *response) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *response) FlushError() error {
	if w.over {
		return errOver
	}
	w.WriteHeader(http.StatusOK)
	return w.send(nil)
}

// SetReadDeadline is what http.ResponseController calls, to end the reading of the request body. It may come at any time.
func (w *response) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return errOver // the connection may be another client's
	}
	return w.conn.raw.SetReadDeadline(t)
}

// interrupt ends what waits for the client now. It may come at any time.
func (w *response) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		_ = w.conn.raw.SetDeadline(time.Unix(1, 0)) // it never fails
	}
}

// offer is Write and Flush for one who must not wait for the client: what the socket does not take at once is kept by the
// connection. It reports whether that is so: then settle is to be called before anything else.
func (w *response) offer(p []byte) (kept bool, err error) {
	w.keepUnsent(true)
	defer w.keepUnsent(false)
	if _, err = w.Write(p); err == nil && len(w.held) > 0 {
		err = w.FlushError()
	}
	return w.conn.raw.Unsent(), err
}

func (w *response) keepUnsent(on bool) {
	w.mu.Lock() // a probe writes as well
	defer w.mu.Unlock()
	w.conn.raw.KeepUnsent(on)
}

// settle waits until the client has taken what offer has left.
func (w *response) settle() error {
	_, w.err = w.conn.raw.Write(nil)
	return w.err
}

// ReadFrom implements io.ReaderFrom: a piece of a file of known length goes from the kernel to the socket.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	f, n := fileOf(src)
	if f == nil || w.conn.secure != nil || w.over || w.err != nil || w.length >= 0 && n > w.length-w.written {
		return io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, 32<<10))
	}
	w.WriteHeader(http.StatusOK)
	if w.bodyless() {
		return 0, nil
	}
	if n <= responseBuffer-firstBuffer {
		// Cheaper than a second call for the head.
		return io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, n+1))
	}
	sent, err := w.sendFile(f, n)
	w.written += sent
	w.err = err
	return sent, err
}

// sendFile sends the head if it is still to be sent, what is held back, and n bytes of a file.
func (w *response) sendFile(f *os.File, n int64) (int64, error) {
	b := w.begin(false)
	if w.chunked {
		b = http1.AppendChunkHeader(b, len(w.held)+int(n))
	}
	if _, err := w.conn.raw.WriteMore(append(b, w.held...)); err != nil {
		return 0, err
	}
	w.held = w.held[:0]
	sent, err := w.conn.raw.SendFile(f, nil, n)
	if err != nil || !w.chunked {
		return sent, err
	}
	if sent < n {
		return sent, errTruncated // in the middle of a chunk
	}
	_, err = w.conn.raw.Write([]byte(http1.ChunkEnd))
	return sent, err
}

// fileOf returns the file behind src and how much of it is wanted.
func fileOf(src io.Reader) (*os.File, int64) {
	l, ok := src.(*io.LimitedReader)
	if !ok {
		return nil, 0
	}
	f, ok := l.R.(*os.File)
	if !ok {
		return nil, 0
	}
	return f, l.N
}

// begin returns the head the first time it is called, and nothing later. last says that the body is complete.
func (w *response) begin(last bool) []byte {
	w.mu.Lock()
	sent := w.sent
	w.sent = true
	w.mu.Unlock()
	if sent {
		return w.conn.out[:0]
	}
	k := w.conn
	b := http1.AppendStatusLine(k.out[:0], w.status)
	if _, ok := w.header["Server"]; !ok {
		b = append(b, "Server: "+serverName+"\r\n"...)
	}
	if _, ok := w.header["Date"]; !ok {
		b = k.http.date.AppendField(b, time.Now())
	}
	b = http1.AppendHeader(b, w.header)
	b = w.appendFraming(b, last)
	switch {
	case w.last():
		w.close = true
		b = append(b, "Connection: close\r\n"...)
	case w.minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	b = append(b, "\r\n"...)
	k.out = b
	return b
}

// last reports whether the connection ends with this response.
func (w *response) last() bool {
	if w.close || w.conn.raw.Draining() || w.body.hopeless() || http1.HasToken([]byte(first(w.header, "Connection")), "close") {
		return true
	}
	return w.exchange.site != nil && exhausted(w.exchange.site, w.count)
}

// appendFraming says where the body ends (RFC 9112 §6).
func (w *response) appendFraming(b []byte, last bool) []byte {
	switch {
	case w.status == http.StatusNoContent:
	case w.length >= 0:
		return http1.AppendContentLength(b, w.length)
	case w.status == http.StatusNotModified:
	case w.request.Method == http.MethodHead:
		if last && w.written > 0 {
			return http1.AppendContentLength(b, w.written)
		}
	case last:
		w.length = w.written
		return http1.AppendContentLength(b, w.length)
	case w.minor == 0:
		w.close = true
	default:
		w.chunked = true
		return append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return b
}

// send sends the head if it is still to be sent, what is held back, and p.
func (w *response) send(p []byte) error {
	if w.err != nil {
		return w.err
	}
	b := w.begin(false)
	if n := len(w.held) + len(p); w.chunked && n > 0 {
		b = http1.AppendChunkHeader(b, n)
		b = append(b, w.held...)
		if len(p) <= responseBuffer {
			p = append(append(b, p...), http1.ChunkEnd...)
			b = p
			w.err = w.write(b, nil)
		} else if w.err = w.write(b, p); w.err == nil {
			w.err = w.write([]byte(http1.ChunkEnd), nil)
		}
	} else {
		w.err = w.write(append(b, w.held...), p)
	}
	w.held = w.held[:0]
	return w.err
}

func (w *response) write(a, b []byte) error {
	k := w.conn
	if cap(a) > cap(k.out) && cap(a) <= 2*responseBuffer {
		k.out = a
	}
	var err error
	switch {
	case k.secure == nil:
		_, err = k.raw.Write2(a, b)
	default:
		if _, err = k.stream.Write(a); err == nil && len(b) > 0 {
			_, err = k.stream.Write(b)
		}
	}
	return err
}

// finish sends what is left of the response once its handler has returned. After an error the connection can't be used.
func (w *response) finish() error {
	w.WriteHeader(http.StatusOK)
	if w.err != nil {
		return w.err
	}
	b := w.begin(true)
	if w.chunked {
		b = w.appendLastChunk(http1.AppendChunk(b, w.held))
	} else {
		b = append(b, w.held...)
	}
	if len(b) > 0 {
		if err := w.write(b, nil); err != nil {
			return err
		}
	}
	if w.length > w.written && !w.bodyless() {
		return errTruncated
	}
	return nil
}

// appendLastChunk ends a chunked body, with the trailer fields that the handler has set (RFC 9112 §7.1.2).
func (w *response) appendLastChunk(b []byte) []byte {
	b = append(b, "0\r\n"...)
	for name, values := range w.header {
		if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			for _, value := range values {
				b = http1.AppendField(b, name, value)
			}
		}
	}
	return append(b, "\r\n"...)
}

// end makes later writes fail: they would land in another response.
func (w *response) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over, w.sent = true, true
}

// fail answers 500 instead of a response that has not begun. It reports whether that was possible.
func (w *response) fail() bool {
	if w.sent {
		w.abandon()
		return false
	}
	clear(w.header)
	w.status, w.length, w.written, w.held = 0, -1, 0, w.held[:0]
	writeStatus(w, http.StatusInternalServerError)
	return true
}

// endsWithConnection reports whether nothing but the end of the connection tells the client where the response ends.
func (w *response) endsWithConnection() bool {
	return w.sent && !w.chunked && w.length < 0 && !w.bodyless()
}

// abandon gives the response up: what was sent of it stays incomplete.
func (w *response) abandon() {
	w.close = true
	w.end()
}

// probe finds out whether a half-closed client is still there. TCP tells "I have sent all" and "I am gone" the same way, until
// something is written: 100 (Continue) is a response that every HTTP/1.1 client must be able to skip (RFC 9110 §15.2), and a
// client that is gone resets the connection, of which the engine then tells.
func (w *response) probe() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent || w.minor == 0 {
		return
	}
	if _, err := w.conn.stream.Write([]byte(http1.Continue)); err != nil {
		w.exchange.end(event.ErrGone)
	}
}
