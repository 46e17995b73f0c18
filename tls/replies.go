package tls

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"net"
)

const (
	maxReply = 64 << 20 // bytes: the names of all files
	maxCount = 1 << 19  // of these
	maxValue = 1 << 20  // bytes of a file
	maxLine  = 4 << 10  // bytes of a piece that does not tell its length before
)

var errReply = errors.New("a reply is not what a Redis server says, or has more in it than is ever stored")

// dialReplies returns how to connect to a server whose replies are bounded. config is nil without TLS.
func dialReplies(config *stdtls.Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, config, network, address)
		if err != nil {
			return nil, err
		}
		return &replies{Conn: c}, nil
	}
}

func dial(ctx context.Context, config *stdtls.Config, network, address string) (net.Conn, error) {
	if config == nil {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return (&stdtls.Dialer{Config: config}).DialContext(ctx, network, address)
}

// replies is a connection to a Redis server. The client library believes what a reply says of its own length, and makes room for
// that, or panics: here it does not get to see what it had better not believe. A bulk string is "$5\r\nvalue\r\n", an array "*2\r\n" and its
// elements; arrays in arrays answer none of our commands. What is neither, or no number, the library refuses.
type replies struct {
	net.Conn
	size  int  // bytes of the reply
	array bool // it has had one
	body  int  // bytes before the next line: of a bulk string, and its end
	line  int  // bytes of the line
	kind  byte // its first
	n     int  // the number in it
}

// Write implements net.Conn. What comes now belongs to the next reply.
func (r *replies) Write(p []byte) (int, error) {
	r.size, r.array = 0, false
	return r.Conn.Write(p)
}

// Read implements net.Conn.
func (r *replies) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.size += n
	if r.size > maxReply || !r.credible(p[:n]) {
		return 0, errReply
	}
	return n, err
}

// credible looks at what has come.
func (r *replies) credible(p []byte) bool {
	for len(p) > 0 {
		if r.body > 0 {
			n := min(r.body, len(p))
			r.body -= n
			p = p[n:]
			continue
		}
		if !r.take(p[0]) {
			return false
		}
		p = p[1:]
	}
	return true
}

// take reads a byte of a line, and reports whether the line may go on.
func (r *replies) take(b byte) bool {
	first := r.line == 0
	r.line++
	switch {
	case b == '\n':
		return r.end()
	case first:
		r.kind, r.n = b, 0
	case b >= '0' && b <= '9' && r.n <= maxReply:
		r.n = 10*r.n + int(b-'0') // more digits would only overflow
	case b == '-' && r.line == 2: // there is no value
		r.kind = '-'
	}
	return r.line <= maxLine
}

// end is the end of a line.
func (r *replies) end() bool {
	kind := r.kind
	r.line, r.kind = 0, 0
	switch kind {
	case '$':
		r.body = r.n + len("\r\n")
		return r.n <= maxValue
	case '*':
		nested := r.array
		r.array = true
		return !nested && r.n <= maxCount
	}
	return true
}
