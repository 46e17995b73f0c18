package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"gateway/mpm/event"
	"gateway/proxy/http1"
)

const (
	// bodyTimeout and bodyRate bound a slow body: it must have come after bodyTimeout, and a second more for every bodyRate
	// bytes (Apache's RequestReadTimeout).
	bodyTimeout = 20 * time.Second
	bodyRate    = 500
	// drainBytes is how much of a body that nobody wanted is read to save the connection.
	drainBytes = 256 << 10
)

// exchangeKey is the context key of a request's *exchange.
type exchangeKey struct{}

// exchangeOf returns what the connection knows of a request; a zero exchange for a request that came another way.
func exchangeOf(r *http.Request) *exchange {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{began: time.Now()}
}

// round is all that a connection knows of one request, in one piece: it costs one allocation.
type round struct {
	exchange exchange
	response response
	body     body
	url      url.URL
}

// request serves the request whose head was parsed, and which began at that time. It reports whether the connection can take
// another one.
func (k *conn) request(began time.Time) bool {
	o := &round{
		exchange: exchange{conn: k, began: began, local: k.local, remote: k.remote, secure: k.secure != nil, listener: k.http.Address},
		body:     k.newBody(),
		response: response{conn: k, length: -1, held: k.held[:0], close: !k.head.KeepAlive, minor: k.head.Minor, count: k.raw.Requests()},
	}
	x, w, b := &o.exchange, &o.response, &o.body
	defer x.end(context.Canceled)
	r := k.newRequest(o)
	w.request, w.exchange, w.body, b.response = r, x, b, w
	k.raw.OnGone(func(half bool) {
		if !half || x.endless.Load() {
			x.end(event.ErrGone)
			return
		}
		time.AfterFunc(probeDelay, w.probe)
	})
	ok := k.http.handle(w, r)
	k.raw.OnGone(nil)
	if ok {
		ok = w.finish() == nil
	}
	w.end()
	b.close()
	k.held = w.held[:0]
	k.http.logRequest(x, r, w.status, w.written, b.count)
	switch {
	case !ok && w.endsWithConnection():
		k.raw.Reset()
		return false
	case !ok:
		k.raw.Close()
		return false
	case !b.drain():
		k.close()
		return false
	case w.close && k.head.KeepAlive, w.close && k.r < k.w, w.close && k.secure != nil:
		k.close()
		return false
	case w.close:
		k.raw.Close() // the client has said that it sends no more
		return false
	}
	k.keep = headTimeout
	if x.site != nil {
		k.keep = x.site.KeepAliveTimeout
	}
	k.raw.SetTimeout(0)
	return true
}

// answer is a response that a connection sends.
type answer interface {
	http.ResponseWriter
	fail() bool
	abandon()
}

// handle calls the handler. It returns false when the response must end without a word.
func (h *HTTP) handle(w answer, r *http.Request) (ok bool) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			w.abandon()
			ok = false
		default:
			h.Log.Errorw("handler panicked; its request failed", "method", r.Method, "uri", r.RequestURI, "panic", v, "stack", string(debug.Stack()))
			ok = w.fail()
		}
	}()
	h.Handler.ServeHTTP(w, r)
	return true
}

// newRequest makes the request that handlers see.
func (k *conn) newRequest(o *round) *http.Request {
	h := &k.head
	r := newRequest(&o.exchange, h, &o.url)
	r.Body, r.ContentLength = &o.body, max(h.ContentLength, 0)
	if h.Chunked {
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	}
	if !h.HasBody() {
		r.Body = http.NoBody
	}
	if k.secure != nil {
		k.secure.Describe(r)
		o.exchange.tls = factsOf(k.secure.Secure)
	}
	return r
}

// newRequest makes a request of its head, and u its URL. The path of that is as the client sent it, still escaped: the router
// decodes it.
func newRequest(x *exchange, h *http1.Head, u *url.URL) *http.Request {
	target := string(h.Target)
	*u = url.URL{Path: target, ForceQuery: h.HasQuery && len(h.Query) == 0}
	if len(h.Path) < len(target) {
		u.Path, u.RawQuery = string(h.Path), string(h.Query)
	}
	return (&http.Request{
		Method:     method(h.Method),
		URL:        u,
		Proto:      protocols[h.Minor],
		ProtoMajor: 1,
		ProtoMinor: h.Minor,
		Header:     headerOf(h.Fields),
		Host:       string(h.Host),
		RequestURI: target,
		Close:      !h.KeepAlive,
	}).WithContext(x)
}

// headerOf is the fields of a head as handlers see them, without those that net/http has elsewhere. All values share one array, and
// with the names one string: the fields lie in one buffer, so their capacities tell where.
func headerOf(fields []http1.Field) http.Header {
	header := make(http.Header, len(fields))
	if len(fields) == 0 {
		return header
	}
	begin, end := fields[0].Name, fields[len(fields)-1].Value
	text := string(begin[:cap(begin)-cap(end)+len(end)])
	part := func(b []byte) string {
		at := cap(begin) - cap(b)
		return text[at : at+len(b)]
	}
	values := make([]string, len(fields))
	for i, f := range fields {
		name := textproto.CanonicalMIMEHeaderKey(part(f.Name))
		if name == "Host" || name == "Transfer-Encoding" {
			continue
		}
		values[i] = part(f.Value)
		if have, ok := header[name]; ok {
			header[name] = append(have, values[i])
			continue
		}
		header[name] = values[i : i+1 : i+1]
	}
	return header
}

var protocols = [...]string{"HTTP/1.0", "HTTP/1.1"}

// method returns the method as a string, without a copy for the common ones.
func method(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	}
	return string(b)
}

// logRequest counts a response and writes the access log. written and read are the bytes of the two bodies.
func (h *HTTP) logRequest(x *exchange, r *http.Request, status int, written, read int64) {
	took := time.Since(x.began)
	h.Server.countTimed(x.pool, status, took)
	if h.Access == nil {
		return
	}
	h.Access.Log(&LogEntry{
		Remote: x.remote.Addr(), User: x.user, Time: x.began, Method: r.Method, URI: r.RequestURI, Proto: r.Proto,
		Status: status, Bytes: written, Referer: r.Referer(), UserAgent: r.UserAgent(), Host: r.Host,
		Duration: took, QueueWait: x.queueWait, Pool: x.pool, PID: x.pid,
		TLSProtocol: x.tls.protocol, RequestBytes: read,
	})
}

// body reads the body of a request. Handlers may use it until they return.
type body struct {
	conn     *conn
	response *response
	reading  sync.Mutex // see hopeless
	left     int64      // bytes to come, of a body with a length
	count    int64      // bytes read
	chunks   http1.ChunkReader
	chunked  bool
	expect   bool // the client waits for 100 (Continue)
	done     bool
	closed   bool
	deadline time.Time
	err      error
}

// Errors of a body.
var (
	errBodyShort  = errors.New("client closed the connection in the middle of the request body")
	errBodySlow   = errors.New("request body came too slowly")
	errBodyClosed = errors.New("request body read after its handler returned")
)

func (k *conn) newBody() body {
	h := &k.head
	return body{conn: k, left: max(h.ContentLength, 0), chunked: h.Chunked, expect: h.Expect100, done: !h.HasBody()}
}

// Read reads decoded bytes. Its errors stay, and end the connection.
func (b *body) Read(p []byte) (n int, err error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	switch {
	case b.closed:
		return 0, errBodyClosed
	case b.err != nil:
		return 0, b.err
	case b.done:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	for n == 0 && err == nil && !b.done {
		if b.chunked {
			n, err = b.readChunks(p)
		} else {
			n, err = b.readSome(p[:min(int64(len(p)), b.left)])
			b.left -= int64(n)
			b.done = b.left == 0
		}
	}
	b.count += int64(n)
	if err != nil && n == 0 {
		b.err = err
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// readChunks decodes what is buffered, at most len(p) bytes of it, so that all of the content fits p.
func (b *body) readChunks(p []byte) (int, error) {
	k := b.conn
	if k.r == k.w {
		k.r, k.w = 0, 0
		n, err := b.receive(k.buf)
		if err != nil {
			return 0, err
		}
		k.w = n
	}
	data, n, done, err := b.chunks.Next(k.buf[k.r:min(k.w, k.r+len(p))])
	k.r += n
	b.done = done
	return copy(p, data), err
}

// readSome takes what is buffered, or else reads into p itself.
func (b *body) readSome(p []byte) (int, error) {
	k := b.conn
	if k.r < k.w {
		n := copy(p, k.buf[k.r:k.w])
		k.r += n
		return n, nil
	}
	return b.receive(p)
}

// receive reads from the connection, in time.
func (b *body) receive(p []byte) (int, error) {
	k := b.conn
	if b.expect {
		b.expect = false
		if err := b.proceed(); err != nil {
			return 0, err
		}
	}
	if b.deadline.IsZero() {
		b.deadline = time.Now().Add(bodyTimeout)
	}
	left := time.Until(b.deadline.Add(time.Duration(b.count) * (time.Second / bodyRate)))
	if left <= 0 {
		return 0, errBodySlow
	}
	k.raw.SetTimeout(left)
	n, err := k.stream.Read(p)
	if !errors.Is(err, os.ErrDeadlineExceeded) { // that may be an interruption, which concerns whoever writes as well
		k.raw.SetTimeout(0)
	}
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, errBodySlow
	case errors.Is(err, io.EOF):
		return 0, errBodyShort
	}
	return 0, err
}

// proceed tells the client to send the body, unless it has got its response. A probe may write at the same time.
func (b *body) proceed() error {
	b.response.mu.Lock()
	defer b.response.mu.Unlock()
	if b.response.sent {
		return nil
	}
	_, err := b.conn.stream.Write([]byte(http1.Continue))
	return err
}

// Close implements io.Closer for handlers. The connection sees to the rest of the body.
func (b *body) Close() error { return nil }

// close ends what handlers may do with the body.
func (b *body) close() { b.closed = true }

// hopeless reports whether what is left of the body is not worth reading, so that the connection ends with the response. So it
// does if the response comes while somebody still reads.
func (b *body) hopeless() bool {
	if !b.reading.TryLock() {
		return true
	}
	defer b.reading.Unlock()
	return !b.done && (b.err != nil || b.expect || b.left > drainBytes)
}

// drain reads what the handler has left, if that is little and on its way. It reports whether the next request can be read.
func (b *body) drain() bool {
	if b.done {
		return true
	}
	if b.hopeless() {
		return false
	}
	b.closed = false
	defer b.close()
	n, err := io.CopyN(io.Discard, b, drainBytes)
	return n < drainBytes && errors.Is(err, io.EOF)
}
