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

// maxRelayPieces is in how many pieces an answer may come, which is read from its beginning with each.
const maxRelayPieces = 8

// Answered implements [event.Asker].
func (r *relay) Answered(t *event.Turn, data []byte, ended bool) event.Verdict {
	verdict, body, length := r.examine(data, ended)
	switch verdict {
	case event.Wait:
		r.home.backoff.reset()
		return r.answer(t, body, length, ended)
	case event.Detach:
		r.home.backoff.increase()
	}
	return verdict
}

// examine says what to do about an answer of which data has come: Wait, if it can be sent, with a body that is so long without its chunks; Hold, if there
// is more to come; or Detach, if it is for the ordinary way, which also finds out what is wrong with it.
func (r *relay) examine(data []byte, ended bool) (v event.Verdict, body []byte, length int) {
	r.head.Reset()
	n, err := r.head.Parse(data)
	r.pieces++
	more := event.Hold
	if ended || r.pieces > maxRelayPieces {
		more = event.Detach
	}
	switch {
	case err == nil && n == 0:
		return more, nil, 0
	case err != nil, !r.isSimple():
		return event.Detach, nil, 0
	}
	body = data[n:]
	switch length, used, err := r.measure(body, event.MaxAnswer-n); {
	case err != nil, used >= 0 && used < len(body): // the server says more than its answer
		return event.Detach, nil, 0
	case used < 0:
		return more, nil, 0
	default:
		return event.Wait, body, length
	}
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
			if mayNameDomain(f.Value) {
				return false
			}
		}
	}
	return true
}

// mayNameDomain reports whether a cookie can have the attribute Domain, which may have to be changed.
func mayNameDomain(cookie []byte) bool {
	const name = "domain"
	for i := range max(len(cookie)-len(name)+1, 0) {
		if cookie[i]|0x20 == name[0] && bytes.EqualFold(cookie[i:i+len(name)], []byte(name)) {
			return true
		}
	}
	return false
}

var errNotRelayed = errors.New("answer is for the ordinary way")

// measure returns how long the body of an answer is, without its chunks, and how much of data it takes, with which it begins; -1: not all of it has
// come. It fails if it can't be relayed, for which there is so much room.
func (r *relay) measure(data []byte, room int) (length, used int, err error) {
	m := &r.head.Framing
	switch {
	case r.hasNoBody():
		return 0, 0, nil
	case m.Chunked:
		return r.measureChunks(data)
	case m.ContentLength < 0, m.ContentLength >= int64(room): // the first ends with the connection
		return 0, 0, errNotRelayed
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
			return 0, 0, errNotRelayed
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
	t.SetBuffer(r.appendAnswer(t.Buffer(), body, length, last))
	t.Keep(r.site.KeepAliveTimeout)
	t.Consume(r.length)
	if r.http.Access != nil {
		r.logOnLoop(t, length)
	}
	r.finish()
	r.park(t, ended)
	return afterAnswer(r.last, last)
}

// appendAnswer appends the answer of the server as the client gets it; last says that the connection ends with it.
func (r *relay) appendAnswer(b, body []byte, length int, last bool) []byte {
	b = r.appendHead(b, length)
	if last {
		b = append(b, "Connection: close\r\n"...)
	}
	return r.appendBody(append(b, "\r\n"...), body)
}

// finish counts the request, and gives back what it had.
func (r *relay) finish() {
	r.http.Server.countTimed(r.pool, r.head.Status, time.Since(r.began))
	r.server.succeeded()
	r.server.relayed.Add(1)
	r.leave(mpm.Done)
}

// park keeps the connection for another request, or closes it.
func (r *relay) park(t *event.Turn, ended bool) {
	now := time.Now()
	if ended || !r.head.KeepAlive || !r.server.keeps(now) {
		t.CloseUpstream(r.conn)
		return
	}
	r.since = now
	r.home.idle = append(r.home.idle, r)
	r.server.idleOnLoops.Add(1)
	t.KeepUpstream(r.conn, r.server.patience())
}

// appendHead appends the head of the answer, up to what it says of the client's connection.
func (r *relay) appendHead(b []byte, length int) []byte {
	b = http1.AppendStatusLine(b, r.head.Status)
	server, date, hsts := false, false, !r.secure || r.site.TLS.HSTS == ""
	for _, f := range r.head.Fields {
		name := textproto.CanonicalMIMEHeaderKey(alias(f.Name))
		if http1.IsFraming(name) {
			continue
		}
		server, date, hsts = server || name == "Server", date || name == "Date", hsts || name == hstsField
		b = appendParsed(b, name, f.Value)
	}
	if !server {
		b = append(b, "Server: "+serverName+"\r\n"...)
	}
	if !date {
		b = r.http.date.AppendField(b, time.Now())
	}
	if !hsts {
		b = http1.AppendField(b, hstsField, r.site.TLS.HSTS)
	}
	switch {
	case !r.hasNoBody():
		return http1.AppendContentLength(b, int64(length))
	case r.head.ContentLength > 0 && !isBodyless(http.MethodGet, r.head.Status): // the answer to a HEAD
		return http1.AppendContentLength(b, r.head.ContentLength)
	}
	return b
}

// logOnLoop writes the access log.
func (r *relay) logOnLoop(t *event.Turn, length int) {
	s := r.http.scratch()
	defer r.http.scratches.Put(s)
	if n, err := s.head.Parse(r.conn.Request()); n == 0 || err != nil { // anew: the loop has used its memory for others since
		return
	}
	s.entry.set(t.Remote(), &s.head, r.began)
	r.log(&s.entry, length)
}

// log writes the access log; e tells of the request already.
func (r *relay) log(e *LogEntry, length int) {
	e.Status, e.Bytes, e.Duration, e.Pool = r.head.Status, int64(length), time.Since(r.began), r.pool
	r.http.Access.Log(e)
}
