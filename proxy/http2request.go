package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
)

// ServeHTTP implements http.Handler: it serves one request of the session.
func (s *session) ServeHTTP(rw http.ResponseWriter, from *http.Request) {
	count, ok := s.begin()
	if !ok {
		panic(http.ErrAbortHandler) // x/net resets the stream
	}
	defer s.running.Done()
	k := s.conn
	o := &streamRound{exchange: exchange{began: time.Now(), local: k.local, remote: k.remote, secure: k.secure != nil, tls: s.tls, listener: k.http.Address}}
	size := headSize(from)
	h, client, places := k.http.HTTP2, clientOf(k.remote.Addr()), 1+int(size/headPlace)
	if !h.requests.take(client, places) {
		s.turnAway(rw, from, &o.exchange, client)
		return
	}
	defer h.requests.put(client, places)
	s.noteBegin()
	if s.heads.Acquire(from.Context(), size) != nil {
		return // the client has gone
	}
	defer s.heads.Release(size)
	if r := s.read(rw, from, o, count); r != nil {
		from.Header = nil // r has its own, and x/net looks at it no more
		s.serve(rw, from, r, o, count)
	}
}

// headPlace is how many bytes of a head take another place among the requests of all connections.
const headPlace = 8 << 10

// turnAway answers a request for which there is no place: with 503, and when too many such answers wait for their clients, too, with a
// reset, which waits for nobody.
func (s *session) turnAway(rw http.ResponseWriter, from *http.Request, x *exchange, client netip.Addr) {
	defer s.noteBegin() // of the next one, when this one has its answer
	h := s.http.HTTP2
	h.refused(s.conn.remote)
	if !h.refusals.take(client, 1) {
		panic(http.ErrAbortHandler)
	}
	defer h.refusals.put(client, 1)
	rw.Header().Set("Retry-After", "1")
	s.refuse(rw, from, x, errTooManyRequests)
	_ = http.NewResponseController(rw).Flush() // a client that has gone does not miss it
}

// maxHeads is how many bytes the heads of a connection's requests may have that are in progress; the others wait. It is 8 KiB for each
// of them, on average: compressed, they can cost their client next to nothing (HPACK, RFC 7541 §7.3).
const maxHeads = maxStreams * 8 << 10

// headSize is the size of a header list (RFC 9113 §10.5.1), which x/net has bounded.
func headSize(r *http.Request) int64 {
	const perField = 32
	n := len(r.Method) + len(r.RequestURI) + len(r.Host) + perField
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value) + perField
		}
	}
	return min(int64(n), maxHeads)
}

// read makes the request that handlers see. It is nil if the request was answered already.
func (s *session) read(rw http.ResponseWriter, from *http.Request, o *streamRound, count int) *http.Request {
	t, _ := s.http.transcripts.Get().(*transcript)
	if t == nil {
		t = new(transcript)
	}
	defer func() {
		if cap(t.bytes) <= firstBuffer {
			s.http.transcripts.Put(t)
		}
	}()
	if err := t.parse(from); err != nil {
		s.refuse(rw, from, &o.exchange, err)
		return nil
	}
	if s.answerHot(rw, from, t, &o.exchange, count) {
		return nil
	}
	return newRequest(&o.exchange, &t.head, &o.url)
}

// streamRound is what [round] is on HTTP/1.1.
type streamRound struct {
	exchange exchange
	response streamResponse
	body     streamBody
	url      url.URL
}

// serve calls the handler, as [conn.request] does.
func (s *session) serve(rw http.ResponseWriter, from, r *http.Request, o *streamRound, count int) {
	x, w, b := &o.exchange, &o.response, &o.body
	defer x.end(context.Canceled)
	defer context.AfterFunc(from.Context(), func() { x.end(event.ErrGone) })()
	r.Proto, r.ProtoMajor, r.ProtoMinor, r.TLS = protocol2, 2, 0, s.template.TLS
	r.Trailer = from.Trailer
	maps.DeleteFunc(r.Trailer, func(name string, _ []string) bool { return !mayTrail(name) || isTreacherous(name) })
	b.from, b.response = from.Body, w
	if r.Body, r.ContentLength = b, from.ContentLength; r.ContentLength == 0 {
		r.Body = http.NoBody
	}
	w.open(s, x, rw, r, count)
	ok := s.http.handle(w, r) && w.finish() == nil
	w.end()
	s.http.logRequest(x, r, w.status, w.written, b.count.Load())
	if !ok {
		panic(http.ErrAbortHandler) // likewise
	}
}

const protocol2 = "HTTP/2.0"

// transcript is the head of a request as HTTP/1.1 would have it. What the strict parser of HTTP/1.1 refuses is refused here, and nothing
// means more to one who reads the request as HTTP/1.1 later, or as an environment, than it did to us.
type transcript struct {
	head  http1.Head
	bytes []byte
	entry LogEntry // of a request for a hot file
}

var (
	errTranscript = &http1.Error{Status: http.StatusBadRequest, Reason: "request can't be told in HTTP/1.1"}
	errLength     = &http1.Error{Status: http.StatusBadRequest, Reason: "Content-Length of a request without a body"}

	errTooManyRequests = &http1.Error{Status: http.StatusServiceUnavailable, Reason: "too many requests at once"}
)

// answerHot answers a request for a hot file that is in memory. x/net bounds how long its client may take for so little.
func (s *session) answerHot(rw http.ResponseWriter, from *http.Request, t *transcript, x *exchange, count int) bool {
	a, ok := s.http.hot(&t.head, s.tls.session, x.remote, x.began)
	if !ok || from.ContentLength != 0 || a.fromDisk() || a.status == http.StatusPartialContent {
		return false
	}
	h, fields := rw.Header(), a.file.head
	if a.status == http.StatusNotModified {
		fields = a.file.fields
	}
	for line := range strings.SplitSeq(alias(fields), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h[name] = []string{value}
		}
	}
	if a.hsts != "" {
		h[hstsField] = []string{a.hsts}
	}
	s.complete(h, a.file.site, count)
	rw.WriteHeader(a.status)
	if a.length > 0 {
		// A client that has gone does not miss it.
		_, _ = rw.Write(a.file.body[:a.length])
	}
	a.file.pool.CountAnswered(s.conn.raw.Loop(), a.unchanged())
	if s.http.Access != nil {
		t.entry.setHot(x.remote, &t.head, &a, x.began)
		t.entry.Proto, t.entry.TLSProtocol = protocol2, s.tls.protocol
		s.http.Access.Log(&t.entry)
	}
	return true
}

// complete sets the fields that every response has. site is nil as long as none is known.
func (s *session) complete(h http.Header, site *routes.Site, count int) {
	if _, ok := h["Server"]; !ok {
		h["Server"] = []string{serverName}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or x/net would guess from the body, which may be of anybody's making
	}
	if s.conn.raw.Draining() || site != nil && exhausted(site, count) {
		h.Set("Connection", "close") // x/net makes a GOAWAY of it
	}
}

// parse writes the head of a request down and reads it. x/net has joined the pieces of the Cookie field, compared Host with
// :authority, refused the fields of HTTP/1.1 connections, and taken the one Expect that there is.
func (t *transcript) parse(r *http.Request) error {
	b := append(append(t.bytes[:0], r.Method...), ' ')
	b = append(append(b, r.RequestURI...), " HTTP/1.1\r\n"...)
	b = http1.AppendField(b, "Host", r.Host)
	fields := 1
	for name, values := range r.Header {
		for _, value := range values {
			b = http1.AppendField(b, name, value)
			fields++
		}
	}
	b = append(b, "\r\n"...)
	t.bytes = b
	n, err := t.head.Parse(b)
	switch {
	case err != nil:
		return err
	case n != len(b) || len(t.head.Fields) != fields || string(t.head.Method) != r.Method || string(t.head.Target) != r.RequestURI:
		return errTranscript // something has ended early
	case t.head.ContentLength >= 0 && t.head.ContentLength != r.ContentLength:
		return errLength // x/net compares it with a body only if there is one
	}
	return nil
}

// refuse answers a request that handlers do not see.
func (s *session) refuse(w http.ResponseWriter, r *http.Request, x *exchange, err error) {
	status, reason := refusal(err)
	s.http.Log.Debugw("request refused", "remote", x.remote, "status", status, "reason", reason)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if status == http.StatusMethodNotAllowed {
		h.Set("Allow", http1.Allow)
	}
	s.complete(h, nil, 0)
	w.WriteHeader(status)
	n, _ := io.WriteString(w, reason+"\n") // a client that has gone does not miss it
	s.http.logRequest(x, r, status, int64(n), 0)
}

// streamBody is the body of a request. As on HTTP/1.1 it has to come at a pace.
type streamBody struct {
	from     io.Reader
	response *streamResponse
	count    atomic.Int64 // bytes read
	deadline time.Time
	timer    *time.Timer
}

// Read reads what has come. Its errors stay.
func (b *streamBody) Read(p []byte) (int, error) {
	if b.response.exchange.endless.Load() { // who converses may fall silent
		n, err := b.from.Read(p)
		b.count.Add(int64(n))
		return n, err
	}
	if b.deadline.IsZero() {
		b.deadline = time.Now().Add(bodyTimeout)
	}
	left := time.Until(b.deadline.Add(time.Duration(b.count.Load()) * (time.Second / bodyRate)))
	if b.timer == nil {
		b.timer = time.AfterFunc(left, b.expire)
	} else {
		b.timer.Reset(left)
	}
	n, err := b.from.Read(p)
	b.timer.Stop()
	b.count.Add(int64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errBodySlow
	}
	return n, err
}

// expire ends a Read that waits for the client.
func (b *streamBody) expire() { _ = b.response.SetReadDeadline(time.Unix(1, 0)) }

// Close implements io.Closer for handlers. x/net sees to the rest of the body.
func (b *streamBody) Close() error { return nil }
