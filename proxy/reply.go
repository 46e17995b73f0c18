package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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

// errAnnounced means that a program wrote less than its Content-Length.
var errAnnounced = errors.New("the program announced more than it wrote")

// reply is the head of a program's response, as the client is to get it.
type reply struct {
	status int
	header http.Header
	length int64  // Content-Length; -1: not announced
	stream bool   // the program wants each piece to be sent at once
	local  string // where a local redirect leads; empty: it is none
}

// answer reads the response of a child and sends it to the client, and gives the slot back as early as it can: when the
// whole response is in br, which is where one that is larger could go on to a file.
func (c *call) answer(h *hold, resp *fcgi.Response, br *bufio.Reader) (next string, err error) {
	status, header, err := fcgi.ParseHeader(br)
	if err != nil {
		return "", h.refuse(resp, err)
	}
	return c.pass(h, newReply(status, header), resp, br)
}

// pass sends a response whose head is known to the client.
func (c *call) pass(h *hold, rp *reply, resp io.ReadCloser, br *bufio.Reader) (next string, err error) {
	complete := false
	if !rp.stream {
		_, err := br.Peek(br.Size())
		complete = errors.Is(err, io.EOF)
		if err != nil && !complete {
			return "", h.lost(err)
		}
	}
	if complete && rp.length > int64(br.Buffered()) && rp.hasBody(c.r.Method) {
		_ = resp.Close() // always nil
		h.release(mpm.Done)
		return "", fmt.Errorf("response ends after %d of the %d bytes that its Content-Length announces", br.Buffered(), rp.length)
	}
	switch {
	case complete:
		_ = resp.Close() // always nil
		h.release(mpm.Done)
	case rp.local != "":
		h.forgo(resp)
	}
	if rp.local != "" {
		return rp.local, nil
	}
	if complete && rp.length < 0 && rp.hasBody(c.r.Method) {
		rp.header.Set("Content-Length", strconv.Itoa(br.Buffered()))
	}
	return "", c.send(h, rp, resp, br, complete)
}

// send passes the response on. The slot was given back if the response is complete.
func (c *call) send(h *hold, rp *reply, resp io.ReadCloser, br *bufio.Reader, complete bool) error {
	out := c.begin(rp)
	if rp.stream {
		out.flush()
	}
	_, err := br.WriteTo(out)
	switch {
	case out.err != nil && !complete:
		h.forgo(resp)
		return &cutError{out.err}
	case out.err != nil:
		return &cutError{out.err}
	case err != nil:
		return &cutError{h.lost(err)}
	case !complete:
		_ = resp.Close() // always nil
		h.release(mpm.Done)
	}
	if out.left > 0 && !out.silent {
		return &cutError{fmt.Errorf("%w: %d bytes of %d are missing", errAnnounced, out.left, rp.length)}
	}
	return nil
}

// begin decides on the head of the response.
func (c *call) begin(rp *reply) *replyBody {
	header := c.w.Header()
	for name, values := range rp.header {
		header[name] = values
	}
	if c.pool.config.Queue.Header {
		header.Set("X-Queue-Time", strconv.FormatFloat(c.x.queueWait.Seconds(), 'f', 6, 64))
	}
	c.w.WriteHeader(rp.status)
	return &replyBody{w: c.w, left: rp.length, silent: !rp.hasBody(c.r.Method), stream: rp.stream}
}

// refuse gives back the slot of a response whose head could not be read. The child is sound if it has finished, and also if
// it still writes, until it notices that nobody listens.
func (h *hold) refuse(resp *fcgi.Response, err error) error {
	if !errors.Is(err, fcgi.ErrHead) {
		return h.lost(err)
	}
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
	location := header.Get("Location")
	switch {
	case status != 0:
	case location == "":
		rp.status = http.StatusOK
	case len(header) == 1 && isLocalPath(location):
		rp.local = location
	default:
		rp.status = http.StatusFound
	}
	rp.stream = strings.EqualFold(header.Get("X-Accel-Buffering"), "no")
	header.Del("X-Accel-Buffering")
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
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("X-Content-Type-Options", "nosniff")
	}
	return rp
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
			header.Del(strings.Trim(name, " \t"))
		}
	}
	for _, name := range [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		delete(header, name)
	}
}

// replyBody passes the body of a response on to the client, no further than its announced length, and lets the rest vanish
// so that the child can finish.
type replyBody struct {
	w      http.ResponseWriter
	left   int64 // what may still be sent; below 0: all
	silent bool  // the response has no body
	stream bool  // send each piece at once
	err    error // why the client could not be written to
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
	if _, b.err = b.w.Write(send); b.err != nil {
		return 0, b.err
	}
	if b.stream {
		b.flush()
	}
	return len(p), b.err
}

func (b *replyBody) flush() {
	if err := http.NewResponseController(b.w).Flush(); err != nil && b.err == nil {
		b.err = err
	}
}
