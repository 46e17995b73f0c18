package proxy

import (
	"bytes"
	"errors"
	"net/http"
	"net/textproto"
	"time"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy/http1"
)

const (
	// maxRelayPieces is in how many pieces an answer may come to the loop, which reads it from its beginning with each.
	maxRelayPieces = 8
	// maxRelayBackoff is how many requests in a row are left to goroutines, at most, after answers that the loop could not pass on.
	maxRelayBackoff = 63
)

// Answered implements [event.Asker].
func (r *relay) Answered(t *event.Turn, data []byte, ended bool) event.Verdict {
	r.head.Reset()
	n, err := r.head.Parse(data)
	if err != nil {
		return r.decline()
	}
	if r.pieces++; n == 0 {
		return r.await(ended)
	}
	if !r.isSimple() {
		return r.decline()
	}
	body := data[n:]
	switch length, used, err := r.measure(body, event.MaxAnswer-n); {
	case err != nil, used >= 0 && used < len(body): // the server says more than its answer
		return r.decline()
	case used < 0:
		return r.await(ended)
	default:
		return r.answer(t, body, length, ended)
	}
}

// await waits for more of an answer. The goroutine finds out what is wrong with one that has ended.
func (r *relay) await(ended bool) event.Verdict {
	if ended || r.pieces > maxRelayPieces {
		return r.decline()
	}
	return event.Hold
}

// decline has a goroutine go on, and answer some of the next requests from the start.
func (r *relay) decline() event.Verdict {
	r.home.backoff = min(2*r.home.backoff+1, maxRelayBackoff)
	r.home.skip = r.home.backoff
	return event.Detach
}

// isSimple reports whether an answer is one that goes to the client as it is, but for what concerns the connections.
func (r *relay) isSimple() bool {
	if r.head.Status < 200 || r.head.Status > 599 || r.head.Status == http.StatusResetContent || r.head.NamesFields { // 205: content goes no further
		return false
	}
	for _, f := range r.head.Fields {
		switch textproto.CanonicalMIMEHeaderKey(alias(f.Name)) {
		case "Te", "Trailer", "Upgrade", "X-Accel-Buffering", "Location", "Content-Location":
			return false
		case "Content-Type":
			if bytes.HasPrefix(f.Value, []byte("text/event-stream")) || bytes.HasPrefix(f.Value, []byte("application/grpc")) {
				return false
			}
		case "Set-Cookie":
			if bytes.Contains(bytes.ToLower(f.Value), []byte("domain")) {
				return false
			}
		}
	}
	return true
}

var errNotForLoop = errors.New("answer is for a goroutine")

// measure returns how long the body of an answer is, without its chunks, and how much of data it takes, with which it begins; -1: not all of it has
// come. It fails if the loop, which has so much room for it, can't pass it on.
func (r *relay) measure(data []byte, room int) (length, used int, err error) {
	m := &r.head.Framing
	switch {
	case r.hasNoBody():
		return 0, 0, nil
	case m.Chunked:
		return r.measureChunks(data)
	case m.ContentLength < 0, m.ContentLength >= int64(room): // the first ends with the connection
		return 0, 0, errNotForLoop
	case m.ContentLength > int64(len(data)):
		return 0, -1, nil
	}
	return int(m.ContentLength), int(m.ContentLength), nil
}

// measureChunks is measure for a chunked body. What comes behind it is for a goroutine.
func (r *relay) measureChunks(data []byte) (length, used int, err error) {
	chunks := http1.ChunkReader{KeepTrailer: true}
	for used < len(data) {
		piece, n, done, err := chunks.Next(data[used:])
		switch {
		case err != nil:
			return 0, 0, err
		case done && len(chunks.Trailer) > 0:
			return 0, 0, errNotForLoop
		}
		if length, used = length+len(piece), used+n; done {
			return length, used, nil
		}
	}
	return 0, -1, nil
}

// appendBody appends the body of an answer that was measured.
func (r *relay) appendBody(b, data []byte) []byte {
	if !r.head.Chunked || r.hasNoBody() {
		return append(b, data...)
	}
	var chunks http1.ChunkReader
	for done, err := false, error(nil); !done && err == nil; { // there is none
		var piece []byte
		var n int
		piece, n, done, err = chunks.Next(data)
		b, data = append(b, piece...), data[n:]
	}
	return b
}

func (r *relay) hasNoBody() bool { return isBodyless(r.method, r.head.Status) }

// answer sends the answer of the server to the client, like [response.begin], and is ready for another request. The body is so long, without
// its chunks.
func (r *relay) answer(t *event.Turn, body []byte, length int, ended bool) event.Verdict {
	last := r.last || t.Draining() || exhausted(r.site, t.Requests())
	b := r.appendHead(t.Buffer(), length)
	if last {
		b = append(b, "Connection: close\r\n"...)
	}
	t.SetBuffer(r.appendBody(append(b, "\r\n"...), body))
	t.Keep(r.site.KeepAliveTimeout)
	t.Consume(r.length)
	r.http.logRelay(t, r, length)
	r.home.backoff = 0
	r.server.succeeded()
	r.server.relayed.Add(1)
	r.leave(mpm.Done)
	r.park(t, ended)
	return afterAnswer(r.last, last)
}

// park keeps the connection for another request, or closes it.
func (r *relay) park(t *event.Turn, ended bool) {
	if ended || !r.head.KeepAlive || !r.server.keeps(time.Now()) {
		t.CloseUpstream(r.conn)
		return
	}
	r.home.idle = append(r.home.idle, r)
	r.server.idleOnLoops.Add(1)
	t.KeepUpstream(r.conn, r.server.patience())
}

// appendHead appends the head of the answer, up to what it says of the client's connection.
func (r *relay) appendHead(b []byte, length int) []byte {
	b = http1.AppendStatusLine(b, r.head.Status)
	server, date := false, false
	for _, f := range r.head.Fields {
		name := textproto.CanonicalMIMEHeaderKey(alias(f.Name))
		if http1.IsFraming(name) {
			continue
		}
		server, date = server || name == "Server", date || name == "Date"
		b = appendParsed(b, name, f.Value)
	}
	if !server {
		b = append(b, "Server: "+serverName+"\r\n"...)
	}
	if !date {
		b = r.http.date.AppendField(b, time.Now())
	}
	switch {
	case !r.hasNoBody():
		return http1.AppendContentLength(b, int64(length))
	case r.head.ContentLength > 0 && !isBodyless(http.MethodGet, r.head.Status): // the answer to a HEAD
		return http1.AppendContentLength(b, r.head.ContentLength)
	}
	return b
}

// logRelay is [HTTP.logRequest] for a request that the loop has passed on.
func (h *HTTP) logRelay(t *event.Turn, r *relay, length int) {
	took := time.Since(r.began)
	h.Server.countTimed(r.pool, r.head.Status, took)
	if h.Access == nil {
		return
	}
	s := h.scratch()
	defer h.scratches.Put(s)
	if n, err := s.head.Parse(r.conn.Request()); n == 0 || err != nil { // anew: the loop has used its memory for others since
		return
	}
	s.entry.set(t.Remote(), &s.head, r.began)
	s.entry.Status, s.entry.Bytes, s.entry.Duration, s.entry.Pool = r.head.Status, int64(length), took, r.pool
	h.Access.Log(&s.entry)
}
