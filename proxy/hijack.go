package proxy

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"time"
)

var errHijack = errors.New("the connection can't be taken over once its response has begun, or while its request has a body")

// Hijack implements http.Hijacker, for a handler that goes on in another protocol (RFC 9110 §7.8): it writes the whole answer
// itself. The connection is the handler's until it returns, which closes it; one goroutine may read while another writes. The
// access log says 101, and how much was written.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent || w.over || w.status != 0 || !w.body.done {
		return nil, nil, errHijack
	}
	w.sent, w.over, w.close = true, true, true
	w.status = http.StatusSwitchingProtocols
	w.conn.raw.SetTimeout(0)
	c := &hijacked{Conn: w.conn.stream, response: w}
	return c, bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), nil
}

// hijacked is a connection whose request has become something else.
type hijacked struct {
	net.Conn
	response *response
}

// Read begins with what came together with the request.
func (h *hijacked) Read(p []byte) (int, error) {
	if k := h.response.conn; k.r < k.w {
		n := copy(p, k.buf[k.r:k.w])
		k.r += n
		return n, nil
	}
	return h.Conn.Read(p)
}

// Close ends what waits on the connection, which is closed when the handler returns.
func (h *hijacked) Close() error { return h.SetDeadline(time.Unix(1, 0)) }

// Write implements net.Conn.
func (h *hijacked) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	h.response.written += int64(n)
	return n, err
}
