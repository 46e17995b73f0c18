package proxy

import (
	"bytes"
	"errors"
	"os"
	"time"

	"gateway/mpm/event"
	"gateway/routes"
)

// relayTime is how long a goroutine waits for an answer that it relays, and up to twice as long. Then it goes on in the ordinary way, which notices
// when its client hangs up.
const relayTime = time.Second

// serveRelayed is [HTTP.relay] for a connection that a goroutine serves, above all one with TLS, for which the ordinary way is as dear. more says that
// another request may follow. If it was not served, the ordinary way goes on with k.relay, where something was begun.
func (k *conn) serveRelayed(site *routes.Site, now time.Time) (served, more bool) {
	route := k.http.Server.relayRouteOf(site, &k.head)
	if route == nil || !k.remote.IsValid() {
		return false, false
	}
	slot, server := route.choose()
	if slot == nil {
		return false, false
	}
	r := &relay{server: server, secure: k.secure != nil}
	r.begin(k.http, site, route, slot, &k.head, now)
	k.relay = r
	c := server.takeToRelay()
	if c == nil {
		return false, false
	}
	buf := k.http.Server.spool.buffer()
	k.out = r.appendRequest(k.out[:0], &k.head, k.remote)
	body, length, ok := r.ask(c, k.out, buf)
	switch {
	case ok:
		server.noteRelayed(true)
		more = k.takeRelayed(r, c, body, length)
	case r.asked != nil: // else the server was not asked, and what it answers may be relayed
		server.noteRelayed(false)
	}
	k.http.Server.spool.buffers.Put(buf) // now, and not when a slow client has the answer
	if !ok {
		return false, false
	}
	return true, k.sendRelayed(more)
}

// ask sends a request and reads the answer, which it examines. ok says that it is whole: the body is so long, without its chunks. If not, r.asked is what the
// ordinary way goes on with; it is nil if the server has not got the request.
func (r *relay) ask(c *serverConn, request []byte, buf *[spoolMemory]byte) (body []byte, length int, ok bool) {
	c.limit()
	sent, got, err := c.Ask(request, buf[:])
	if sent < len(request) {
		_ = c.Close() // it has said something unasked, hung up, or takes nothing
		return nil, 0, false
	}
	for {
		late := errors.Is(err, os.ErrDeadlineExceeded)
		verdict, body, length := r.examine(buf[:got], err != nil && !late)
		switch {
		case verdict == event.Wait:
			c.broken.CompareAndSwap(false, err != nil || !r.head.KeepAlive)
			return body, length, true
		case verdict == event.Detach, late, got == len(buf):
			c.asked, c.said, r.asked = true, bytes.Clone(buf[:got]), c
			return nil, 0, false
		}
		n := 0
		n, err = c.wire.Read(buf[got:])
		got += n
	}
}

// takeRelayed puts the answer in k.out and ends the request, but for its client. It reports whether another request may follow.
func (k *conn) takeRelayed(r *relay, c *serverConn, body []byte, length int) (more bool) {
	last := r.last || k.raw.Draining() || exhausted(r.site, k.raw.Requests())
	k.out = r.appendAnswer(k.out[:0], body, length, last)
	if k.http.Access != nil {
		k.entry.set(k.remote, &k.head, r.began)
		if k.secure != nil {
			k.entry.TLSProtocol = k.secure.Version()
		}
		r.log(&k.entry, length)
	}
	k.keep, k.relay = r.site.KeepAliveTimeout, nil
	if c.Usable() {
		r.server.put(c) // before the server counts one request less, or the next one could find no connection and open another
	} else {
		_ = c.Close() // it has nothing more to say
	}
	r.finish()
	return !last
}

// sendRelayed sends what is in k.out. It reports whether another request may follow: none of a client that has gone, though it may have come already.
func (k *conn) sendRelayed(more bool) bool {
	if _, err := k.stream.Write(k.out); err != nil {
		k.raw.Close()
		return false
	}
	if !more {
		k.close()
	}
	return more
}

// limit has reads fail after relayTime, and up to twice that: so the deadline is set once in a while, and not for each request.
func (k *serverConn) limit() {
	now := time.Now()
	if k.until.Sub(now) >= relayTime {
		return
	}
	k.until = now.Add(2 * relayTime)
	_ = k.wire.SetReadDeadline(k.until) // it fails when the connection is closed, and so do reads then
}

// unlimited has them wait for as long as it takes.
func (k *serverConn) unlimited() {
	if !k.until.IsZero() {
		k.until = time.Time{}
		_ = k.wire.SetReadDeadline(k.until) // likewise
	}
}
