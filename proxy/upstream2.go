package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"gateway/proxy/http1"
	"gateway/routes"
)

// maxStreamBuffer is how much of a response is taken before its client takes it, in bytes.
const maxStreamBuffer = 256 << 10

const (
	// silence is after which time without a word a server may have gone: until then it may be busy.
	silence = time.Second
	// writeStall is how long a connection that requests share waits for a server that takes nothing.
	writeStall = 60 * time.Second
)

// converses reports whether a server is to get a request as it comes and may answer meanwhile, as gRPC has it: both sides speak HTTP/2.
func (x *exchange) converses(r *http.Request) bool {
	p := x.route.Proxy
	return r.ProtoMajor == 2 && r.ContentLength < 0 && p != nil && (x.route.Unbuffered || isGRPC(r.Header)) &&
		!slices.ContainsFunc(p.To, func(to routes.Upstream) bool { return !to.HTTP2 })
}

// isGRPC: application/grpc, perhaps with how its messages are written ("+proto").
func isGRPC(header http.Header) bool {
	return strings.HasPrefix(first(header, "Content-Type"), "application/grpc")
}

// askHTTP2 has a server answer that speaks HTTP/2. Its requests share connections, each of which takes as many as the server allows.
func (c *call) askHTTP2(h *hold, l *link, s *upstream) (*serverAnswer, error) {
	k, err := s.connect2(h, l)
	if err != nil {
		return nil, err
	}
	r, err := c.request2(h)
	if err != nil {
		return nil, err
	}
	began, heard := time.Now(), k.heard.times.Load()
	resp, err := k.RoundTrip(r) //nolint:bodyclose // the answer's Close does it
	if err != nil {
		if k.heard.times.Load() == heard && time.Since(began) >= silence {
			s.retire(k)
		}
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	c.watch.stop()
	if resp.Trailer == nil {
		resp.Trailer = http.Header{} // what is not announced may come as well
	}
	return &serverAnswer{
		status: resp.StatusCode, header: resp.Header, length: resp.ContentLength, trailer: resp.Trailer, stream: resp,
		watch: c.watch, spool: c.spool, log: c.log,
	}, nil
}

// sharedConn is a connection that speaks HTTP/2, which requests share.
type sharedConn struct {
	*http.ClientConn
	heard *heardConn
}

// heardConn counts how often the server was heard.
type heardConn struct {
	net.Conn
	times atomic.Uint64
}

// Read implements net.Conn.
func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.times.Add(1)
	return n, err
}

// connect2 returns a connection with room for a request, an old one or a new one.
func (s *upstream) connect2(h *hold, l *link) (*sharedConn, error) {
	if k := s.take2(); k != nil {
		return k, nil
	}
	nc, err := s.dial(h, l, nil)
	if err != nil {
		return nil, err
	}
	k, err := speakHTTP2(h, nc, s.patience())
	if err == nil {
		err = k.Reserve()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: no HTTP/2: %w", errNoAnswer, err), nc.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http2 = append(s.http2, k)
	return k, nil
}

// take2 returns a connection with room for a request; nil: there is none.
func (s *upstream) take2() *sharedConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http2 = slices.DeleteFunc(s.http2, func(k *sharedConn) bool { return k.Err() != nil })
	for _, k := range s.http2 {
		if k.Reserve() == nil {
			return k
		}
	}
	return nil
}

// retire has a connection take no more requests. It closes itself after those in progress.
func (s *upstream) retire(k *sharedConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http2 = slices.DeleteFunc(s.http2, func(other *sharedConn) bool { return other == k })
}

// speakHTTP2 begins HTTP/2 on a connection, which closes itself when it has been idle for so long.
func speakHTTP2(ctx context.Context, nc net.Conn, idle time.Duration) (*sharedConn, error) {
	heard := &heardConn{Conn: nc}
	t := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true, IdleConnTimeout: idle, MaxResponseHeaderBytes: http1.MaxAnswerBytes,
		HTTP2:       &http.HTTP2Config{MaxReceiveBufferPerStream: maxStreamBuffer, WriteByteTimeout: writeStall},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return heard, nil },
	}
	t.Protocols.SetUnencryptedHTTP2(true) // if there is TLS, nc has it
	// With that of Go 1.26 a server that overflows a window (RFC 9113 §6.9.1) hangs its request for ever.
	//lint:ignore SA1019 x/net has its own as long as that of net/http is not better
	if err := http2.ConfigureTransport(t); err != nil {
		return nil, err
	}
	k, err := t.NewClientConn(ctx, "http", "server:80") // the dialer looks at none
	return &sharedConn{k, heard}, err
}

// request2 is the request as a server of HTTP/2 gets it.
func (c *call) request2(h *hold) (*http.Request, error) {
	target, err := c.serverTarget()
	if err != nil {
		return nil, err
	}
	header := http.Header{"User-Agent": nil} // not Go's
	c.tell(func(name, value string) {
		if http1.ValidField(name, value) {
			header.Add(name, value)
		}
	})
	if c.takesTrailer() {
		header["Te"] = []string{"trailers"}
	}
	r := (&http.Request{
		Method: c.r.Method, URL: &url.URL{Scheme: c.server.scheme(), Host: c.host(), Opaque: target}, Host: c.host(),
		Proto: protocol2, ProtoMajor: 2, Header: header, Body: http.NoBody, ContentLength: c.body.length,
	}).WithContext(h)
	if c.body.length != 0 {
		r.Body = &requestBody{countedReader: c.countedReader()}
	}
	if c.body.stream != nil {
		r.Trailer = c.r.Trailer // filled when the body has been read
	}
	return r, nil
}

// requestBody is a countedReader that ends when it is closed, which may be while it is read.
type requestBody struct {
	*countedReader
	mu     sync.Mutex // of who reads
	closed bool
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.countedReader.Read(p)
}

// Close implements io.Closer. It always returns nil.
func (b *requestBody) Close() error {
	if !b.mu.TryLock() {
		b.call.body.interrupt()
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.end()
	}
	return nil
}

// writeStreamTo is WriteTo of a response of HTTP/2, behind which its trailer stands.
func (a *serverAnswer) writeStreamTo(w io.Writer) (total int64, err error) {
	b := a.spool.buffer()
	defer a.spool.buffers.Put(b)
	for {
		a.watch.start()
		n, err := a.stream.Body.Read(b[:])
		a.watch.stop()
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		switch {
		case err == io.EOF: // only itself
			a.trailer = a.stream.Trailer
			return total, nil
		case err != nil:
			return total, fmt.Errorf("%w: %w", errAnswerCut, err)
		}
	}
}
