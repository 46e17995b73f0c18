package proxy

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/net/http2"

	"gateway/mpm"
	"gateway/mpm/event"
)

// SecureConn is a TLS session and the connection below it, which is another [event.Conn] each time it was parked.
type SecureConn struct {
	Secure
	under
	lastSlot mpm.SlotID // see conn.lastSlot
	http2    bool       // what the client chose
}

// under is the net.Conn that TLS reads and writes. What it has belongs to the goroutine that serves the connection.
type under struct {
	*event.Conn
	computing chan struct{} // of the [Handshakes], in a handshake
	holding   bool
	held      *[]byte // written while holding: the server's flight, the ticket and the first answer, the answer and the close alert
}

// NewSecureConn starts a TLS session on c: server makes it, on a net.Conn that outlives c.
func NewSecureConn(c *event.Conn, server func(net.Conn) Secure) *SecureConn {
	s := &SecureConn{under: under{Conn: c}}
	s.Secure = server(&s.under)
	return s
}

// maxHeld is when holding ends by itself.
const maxHeld = 64 << 10

// hold keeps what TLS writes until flush, or until the first Write after release: each record is a write of its own otherwise.
func (u *under) hold() { u.holding = len(*u.held) < maxHeld }

// release has the next Write send what is held.
func (u *under) release() { u.holding = false }

// Write implements net.Conn.
func (u *under) Write(p []byte) (int, error) {
	if u.holding {
		*u.held = append(*u.held, p...)
		return len(p), nil
	}
	if len(*u.held) == 0 {
		return u.Conn.Write(p)
	}
	before := *u.held
	*u.held = before[:0]
	n, err := u.Conn.Write2(before, p)
	return max(0, n-len(before)), err
}

// send flushes, and holds no more.
func (u *under) send() error {
	u.release()
	return u.flush()
}

// flush sends what is held.
func (u *under) flush() error {
	p := *u.held
	if len(p) == 0 {
		return nil
	}
	*u.held = p[:0]
	_, err := u.Conn.Write(p)
	return err
}

// handshake takes up the TLS session of the connection, or begins one.
func (k *conn) handshake() bool {
	s, ok := k.raw.Session().(*SecureConn)
	if !ok {
		s = k.http.Secure(k.raw)
	}
	s.under = under{Conn: k.raw, held: &k.records}
	k.secure, k.stream = s, s.Secure
	if ok {
		return true
	}
	s.hold() // until the client's Finished is there, and what follows it is known
	err := k.http.Handshakes.run(&s.under, func() error { return s.Handshake(context.Background()) })
	if err == nil {
		s.http2 = s.Protocol() == http2.NextProtoTLS
		k.raw.SetTimeout(0)
		return true
	}
	k.http.Handshakes.logFailure(k.remote, err)
	var plain interface{ PlainHTTP() bool }
	if errors.As(err, &plain) && plain.PlainHTTP() {
		k.http.refuse(k.raw, k.remote, nil, errPlainHTTP)
	} else {
		_ = s.flush() // the alert that says why; a client that has gone does not miss it
	}
	k.raw.Linger()
	return false
}

// parkSecure is park for a connection with TLS.
func (k *conn) parkSecure(keep time.Duration) bool {
	k.raw.SetNonblock(true)
	n, err := k.stream.Read(k.buf)
	k.raw.SetNonblock(false)
	k.w = n
	switch {
	case n > 0:
		return false
	case !errors.Is(err, event.ErrWouldBlock):
		k.close()
		return true
	}
	if k.secure.send() != nil {
		k.raw.Close()
		return true
	}
	k.secure.Rest()
	k.raw.SetSession(k.secure)
	return k.raw.Park(keep, nil)
}

// closeSecure says that no more comes, in one write with the last answer. It fails when the client has gone.
func (k *conn) closeSecure() {
	k.secure.hold()
	_ = k.secure.CloseWrite()
	_ = k.secure.send()
	k.secure.Rest()
}
