package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"gateway/mpm"
	"gateway/proxy/fcgi"
)

// cutError is why a response ended after its head was sent.
type cutError struct{ cause error }

func (e *cutError) Error() string { return e.cause.Error() }
func (e *cutError) Unwrap() error { return e.cause }

// reply is the head of a program's response, as the client is to get it.
type reply struct {
	status int
	header http.Header
	length int64  // Content-Length; -1: not announced
	stream bool   // the program wants each piece to be sent at once
	local  string // where a local redirect leads; empty: it is none

	// What comes behind the body, filled when that was read; nil: nothing can.
	trailer *http.Header

	untyped bool // the program has not said of what type its body is
}

// answer reads the response of a child and sends it to the client, and gives the slot back as early as it can.
func (c *call) answer(h *hold, resp *fcgi.Response, br *bufio.Reader) (next string, err error) {
	status, header, err := c.readHead(br)
	if err != nil {
		return "", h.refuse(resp, err)
	}
	rp := newReply(status, header)
	if rp.stream {
		h.unlimited()
		c.x.endless.Store(true)
	}
	if rp.local != "" {
		return rp.local, h.skip(resp, br)
	}
	return "", c.pass(h, rp, resp, br)
}

// readHead reads the head of a response, and passes on the early hints that come before it.
func (c *call) readHead(br *bufio.Reader) (status int, header http.Header, err error) {
	early := earlyAnswers{w: c.w}
	for {
		status, header, err = fcgi.ParseHeader(br)
		if err != nil || status != http.StatusEarlyHints {
			return status, header, err
		}
		if err := early.pass(status, header); err != nil {
			return 0, nil, fmt.Errorf("%w: %w", fcgi.ErrHead, err)
		}
	}
}

// source is a response whose head was read: a [serverAnswer] or a fcgi.Response.
type source interface {
	io.WriterTo
	io.Closer      // ends the use of the response
	Arrived() bool // as a whole: reading it waits for nobody
}

// pass sends a response whose head is known to the client. What is left of resp is to be read from rest.
func (c *call) pass(h *hold, rp *reply, resp source, rest io.WriterTo) error {
	if name := c.handsOver(rp); name != "" {
		return c.handOver(h, rp, name, resp, rest)
	}
	if c.intercept(rp) {
		_ = h.skip(resp, rest) // the page comes whatever becomes of the rest
		return nil
	}
	var out outlet
	if w, ok := c.w.(*response); ok && !rp.stream && c.x.route.Compress == nil && isShort(resp) {
		c.begin(rp)
		out = short{w}
	} else if rp.stream || c.x.route.Unbuffered {
		out = c.compressed(rp, stream{c.w}, true, false)
		c.begin(rp)
		if rp.length != 0 { // else the head is the end as well
			_ = flush(c.w) // its error comes again with the first piece
		}
	} else {
		d := newDelivery(c.spool, c.w, func() { c.begin(rp) })
		defer d.close()
		d.whole = resp.Arrived()
		out = c.compressed(rp, d, false, d.whole)
	}
	return c.send(h, rp, resp, rest, out)
}

// skip gives back the slot of a response that is not for the client.
func (h *hold) skip(resp source, rest io.WriterTo) error {
	left := skipped(responseMemory)
	_, err := rest.WriteTo(&left)
	switch {
	case errors.Is(err, errSkipped):
		h.forgo(resp)
	case err != nil:
		return h.lost(err)
	default:
		_ = resp.Close() // always nil
		h.release(mpm.Done)
	}
	return nil
}

// skipped is how many bytes more of a response that nobody wants are read for the sake of its connection.
type skipped int

var errSkipped = errors.New("enough of the response was read")

// Write implements io.Writer.
func (s *skipped) Write(p []byte) (int, error) {
	if *s -= skipped(len(p)); *s < 0 {
		return 0, errSkipped
	}
	return len(p), nil
}

// refused reports whether a child of the gateway's own answered with an error instead of a script that failed.
func (h *hold) refused(resp source) bool {
	end, ok := resp.(*fcgi.Response)
	return ok && h.ours && end.AppStatus() >= http.StatusInternalServerError
}

// outlet takes the body of a response: a [delivery], or a stream.
type outlet interface {
	io.Writer
	stop(whole bool) (held int64, begun bool) // there is no more to come, and nothing lacks; begun: the head is on its way, else that is how much would follow it
	finish() error                            // waits until the client has it all
}

// send passes the body of a response on. When the child has written its last byte, or died, its slot is given back, and then
// the client is waited for.
func (c *call) send(h *hold, rp *reply, resp source, rest io.WriterTo, out outlet) error {
	body := &replyBody{to: out, left: rp.length, silent: !rp.hasBody(c.r.Method)}
	_, err := rest.WriteTo(body)
	c.putReader()
	switch {
	case body.err != nil: // the client has gone, or the spool is full
		h.forgo(resp)
	case err != nil:
		err = h.lost(err)
	default:
		_ = resp.Close() // always nil
		h.slot.Failed = h.refused(resp)
		h.release(mpm.Done)
		err = body.missing(rp.length)
	}
	held, begun := out.stop(err == nil)
	switch {
	case !begun && err != nil:
		return err
	case !begun && !body.silent && !rp.hasTrailer():
		rp.header.Set("Content-Length", strconv.FormatInt(held, 10))
	}
	if gone := out.finish(); gone != nil {
		err = gone
	}
	if err == nil && rp.hasTrailer() {
		err = c.trail(rp)
	}
	if err != nil {
		return &cutError{err}
	}
	return nil
}

// trail sends what comes behind the body.
func (c *call) trail(rp *reply) error {
	if err := flush(c.w); err != nil { // a response that is still held back would get a length
		return err
	}
	rp.trail(c.w.Header())
	return nil
}

// hasTrailer reports whether fields come behind the body, which has been read.
func (rp *reply) hasTrailer() bool { return rp.trailer != nil && len(*rp.trailer) > 0 }

// begin decides on the head of the response.
func (c *call) begin(rp *reply) {
	if w, ok := c.w.(*response); ok && len(w.header) == 0 {
		w.header = rp.header // which is not used any more
	} else {
		maps.Copy(c.w.Header(), rp.header)
	}
	c.showQueueTime()
	c.w.WriteHeader(rp.status)
}

// showQueueTime tells the client how long it has waited, where the pool does.
func (c *call) showQueueTime() {
	if c.pool.config.Queue.Header {
		c.w.Header().Set("X-Queue-Time", strconv.FormatFloat(c.x.queueWait.Seconds(), 'f', 6, 64))
	}
}

// refuse gives back the slot of a response whose head could not be read. The child is sound if it has finished, and also if
// it still writes, until it notices that nobody listens.
func (h *hold) refuse(resp *fcgi.Response, err error) error {
	if !errors.Is(err, fcgi.ErrHead) {
		return h.lost(err)
	}
	h.slot.Failed = true
	if h.awaited {
		h.forgo(resp)
		return err
	}
	_ = resp.Close() // always nil
	if h.conn.Usable() {
		h.release(mpm.Done)
	} else {
		h.release(mpm.Abandoned)
	}
	return err
}

// newReply applies RFC 3875 §6.2 to a head: which kind of response it is, and which fields concern the client.
func newReply(status int, header http.Header) *reply {
	rp := &reply{status: status, header: header}
	location := first(header, "Location")
	switch {
	case status != 0:
	case location == "":
		rp.status = http.StatusOK
	case len(header) == 1 && isLocalPath(location):
		rp.local = location
	default:
		rp.status = http.StatusFound
	}
	rp.stream = isEndless(header)
	delete(header, "X-Accel-Buffering")
	stripHopByHop(header)
	rp.length = takeLength(header)
	if rp.status == http.StatusNoContent {
		rp.length = -1
	}
	if rp.length >= 0 {
		header.Set("Content-Length", strconv.FormatInt(rp.length, 10))
	}
	if _, ok := header["Content-Type"]; !ok && rp.hasBody("") {
		// RFC 3875 §6.3.1 demands one. Nobody shall find out by looking at the body, which may be of another's making.
		rp.untyped = true
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("X-Content-Type-Options", "nosniff")
	}
	return rp
}

// first is header.Get for a name that is canonical.
func first(header http.Header, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// isLocalPath tells "/path" from a URL, also from one without scheme ("//host/path").
func isLocalPath(location string) bool {
	return strings.HasPrefix(location, "/") && !strings.HasPrefix(location, "//")
}

// hasBody: RFC 9110 §6.4.1.
func (rp *reply) hasBody(method string) bool {
	return method != http.MethodHead && rp.status != http.StatusNoContent && rp.status != http.StatusResetContent && rp.status != http.StatusNotModified
}

// takeLength takes the Content-Length out of a header. One that is malformed, or one of several, counts as none.
func takeLength(header http.Header) int64 {
	values := header["Content-Length"]
	delete(header, "Content-Length")
	if len(values) != 1 || !isNumber(values[0]) {
		return -1
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// stripHopByHop removes the fields that a program has no say in, because they concern the connection to the client: the
// fixed list and whatever Connection names (RFC 9110 §7.6.1).
func stripHopByHop(header http.Header) {
	for _, value := range header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = trimSpace(name); !strings.EqualFold(name, "keep-alive") && !strings.EqualFold(name, "close") {
				header.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

var hopByHop = [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// replyBody passes the body of a response on, no further than its announced length, and lets the rest vanish so that the child
// can finish.
type replyBody struct {
	to     io.Writer
	sent   int64
	left   int64 // what may still be sent; below 0: all
	silent bool  // the response has no body
	err    error // why the client can't be written to
}

// Write implements io.Writer.
func (b *replyBody) Write(p []byte) (int, error) {
	send := p
	if b.left >= 0 {
		send = p[:min(int64(len(p)), b.left)]
		b.left -= int64(len(send))
	}
	if b.silent || len(send) == 0 {
		return len(p), nil
	}
	if _, b.err = b.to.Write(send); b.err != nil {
		return 0, b.err
	}
	b.sent += int64(len(send))
	return len(p), nil
}

// missing is the error of a body that is shorter than announced.
func (b *replyBody) missing(announced int64) error {
	if b.left <= 0 || b.silent {
		return nil
	}
	return fmt.Errorf("response ends after %d of the %d bytes that its Content-Length announces", b.sent, announced)
}

// isShort reports whether a response is here for certain and fits what [response] holds back, so that neither is waited for.
func isShort(resp source) bool {
	a, ok := resp.(*serverAnswer)
	return ok && a.Arrived() && a.err == nil && a.left <= responseBuffer
}

// short is a response that goes out in one piece when its slot has been given back.
type short struct{ *response }

func (s short) stop(bool) (held int64, begun bool) { return 0, true }
func (s short) finish() error                      { return nil }

// stream sends each piece of a response at once. The child waits for the client.
type stream struct{ http.ResponseWriter }

// Write implements io.Writer.
func (s stream) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p)
	if err == nil {
		err = flush(s.ResponseWriter)
	}
	return n, err
}

func (s stream) stop(bool) (held int64, begun bool) { return 0, true }
func (s stream) finish() error                      { return nil }

func flush(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }
