package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"gateway/mpm/event"
	"gateway/routes"
)

// Encrypt puts TLS on a connection to a server of a proxy block, and makes sure that it is that one: it is package tls that may speak
// TLS. When ctx ends, nc is closed; after any other error it is of no use.
type Encrypt func(ctx context.Context, p *routes.Proxy, to *routes.Upstream, nc net.Conn) (net.Conn, error)

func noTLS(context.Context, *routes.Proxy, *routes.Upstream, net.Conn) (net.Conn, error) {
	return nil, errors.New("TLS is not spoken to servers here")
}

// encrypted is a connection to a server with TLS. It is used as an event.Channel is.
type encrypted struct {
	net.Conn // speaks TLS
	below    *underlay
}

// underlay is the connection below TLS, which Read may be told not to wait for.
type underlay struct {
	*event.Channel
	hasty bool // of who reads
}

// errNothing is temporary, as [SecureConn]'s is: TLS can be read from afterwards.
var errNothing = &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}

// Read implements net.Conn.
func (u *underlay) Read(p []byte) (int, error) {
	if u.hasty && u.Quiet() {
		return 0, errNothing
	}
	return u.Channel.Read(p)
}

// encrypt puts TLS on a connection, behind a header. After an error it is closed.
func (s *upstream) encrypt(ctx context.Context, nc net.Conn, header []byte) (net.Conn, error) {
	channel, err := event.Wrap(nc)
	if err != nil {
		return nil, err
	}
	below := &underlay{Channel: channel}
	_, err = channel.Write(header) // a new connection takes so little at once
	var above net.Conn
	if err == nil {
		above, err = s.secure(ctx, s.proxy, &s.Upstream, below)
	}
	if err != nil {
		_ = channel.Close() // perhaps once more
		return nil, err
	}
	return &encrypted{above, below}, nil
}

// Ask is that of an event.Channel. What TLS says for itself is no word of the server's.
func (e *encrypted) Ask(request, p []byte) (sent, n int, err error) {
	if err := e.quiet(); err != nil {
		return 0, 0, err
	}
	if sent, err = e.Conn.Write(request); err == nil && len(p) > 0 {
		n, err = e.Conn.Read(p)
	}
	return sent, n, err
}

// quiet fails if the server has said what was not read: session tickets it may have sent, but no alert.
func (e *encrypted) quiet() error {
	var b [1]byte
	e.below.hasty = true
	n, err := e.Conn.Read(b[:])
	e.below.hasty = false
	switch {
	case n == 0 && errors.Is(err, errNothing):
		return nil
	case err == nil:
		return event.ErrNotQuiet
	}
	return fmt.Errorf("%w: %w", event.ErrNotQuiet, err)
}

// CloseWrite says that no more is to come.
func (e *encrypted) CloseWrite() error {
	closeWrite(e.Conn)
	return nil
}

// Close closes the connection below, without a word: its end says as much, and words could have to be waited for.
func (e *encrypted) Close() error { return e.below.Close() }
