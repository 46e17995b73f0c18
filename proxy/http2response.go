package proxy

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// streamResponse is the http.ResponseWriter of a request that came over HTTP/2: also Flusher. What it writes goes to that of x/net, which
// frames it.
type streamResponse struct {
	session  *session
	exchange *exchange
	request  *http.Request
	to       http.ResponseWriter
	control  *http.ResponseController // of to
	count    int                      // the how many-th of the connection it is
	status   int                      // 0: not decided yet
	length   int64                    // declared; -1: not
	written  int64                    // bytes of body that the handler wrote
	begun    bool                     // to has the status
	writes   atomic.Uint64            // odd: one is in progress

	mu    sync.Mutex // guards what follows
	over  bool       // the handler has returned: to must not be used
	timer *time.Timer
	last  uint64 // writes, when watch looked

	interrupted bool // the deadline of its writes stays
}

// open makes the zero value the response to r, which goes out through to.
func (w *streamResponse) open(s *session, x *exchange, to http.ResponseWriter, r *http.Request, count int) {
	w.session, w.exchange, w.request, w.count, w.length = s, x, r, count, -1
	w.to, w.control = to, http.NewResponseController(to)
	w.mu.Lock() // the timer is set before it fires
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(s.http.HTTP2.stall, w.watch)
}

// Header implements http.ResponseWriter.
func (w *streamResponse) Header() http.Header { return w.to.Header() }

// WriteHeader implements http.ResponseWriter. Informational responses are sent at once.
func (w *streamResponse) WriteHeader(status int) {
	switch {
	case w.status != 0 || w.over:
	case status >= 100 && status < 200:
		w.to.WriteHeader(status)
	default:
		w.status, w.length = status, declaredLength(w.Header())
	}
}

// begin passes the status on, and what belongs to every response.
func (w *streamResponse) begin() {
	w.WriteHeader(http.StatusOK)
	if w.begun {
		return
	}
	w.begun = true
	w.session.complete(w.Header(), w.exchange.site, w.count)
	w.to.WriteHeader(w.status)
}

func (w *streamResponse) bodyless() bool { return isBodyless(w.request.Method, w.status) }

// Write implements http.ResponseWriter.
func (w *streamResponse) Write(p []byte) (int, error) {
	if w.over {
		return 0, errOver
	}
	w.begin()
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		return 0, http.ErrContentLength
	}
	w.writes.Add(1)
	n, err := w.to.Write(p)
	w.writes.Add(1)
	w.written += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (w *streamResponse) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *streamResponse) FlushError() error {
	if w.over {
		return errOver
	}
	w.begin()
	w.writes.Add(1)
	defer w.writes.Add(1)
	return w.control.Flush()
}

// SetReadDeadline is what http.ResponseController calls, to end the reading of the request body. It may come at any time.
func (w *streamResponse) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return errOver
	}
	return w.control.SetReadDeadline(t)
}

// interrupt ends what waits for the client now. That of a response that has begun resets the stream; one that has not, and says why
// it never will, has a moment to reach the client.
func (w *streamResponse) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.interrupted = true
	limit := time.Now().Add(lastWords)
	if w.writes.Load() > 0 {
		limit = time.Unix(1, 0)
	}
	// Those of x/net never fail.
	_ = w.control.SetReadDeadline(time.Unix(1, 0))
	_ = w.control.SetWriteDeadline(limit)
}

// watch looks, each time a stall has passed, whether one write has lasted for all of it: then the client has closed its flow
// control window, and the stream is reset. If not, x/net is told to wait on: it resets the stream once it has not been told for
// twice as long, as with a client that lets through all but what is written last.
func (w *streamResponse) watch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.interrupted {
		return
	}
	stall, writes := w.session.http.HTTP2.stall, w.writes.Load()
	if writes%2 == 1 && writes == w.last {
		_ = w.control.SetWriteDeadline(time.Unix(1, 0)) // x/net's never fails
		return
	}
	w.last = writes
	w.timer.Reset(stall)
	_ = w.control.SetWriteDeadline(time.Now().Add(2 * stall))
}

// finish has x/net send the rest of the response once the handler returns. After an error the stream has to be reset.
func (w *streamResponse) finish() error {
	w.begin()
	if w.length > w.written && !w.bodyless() {
		return errTruncated
	}
	return nil
}

// end makes later uses fail.
func (w *streamResponse) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// fail answers 500 instead of a response that has not begun. It reports whether that was possible.
func (w *streamResponse) fail() bool {
	if w.begun {
		return false
	}
	clear(w.Header())
	w.status, w.length = 0, -1
	writeStatus(w, http.StatusInternalServerError)
	return true
}

// abandon gives the response up: what was sent of it stays incomplete.
func (w *streamResponse) abandon() {}
