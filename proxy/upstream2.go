package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"gateway/proxy/http1"
)

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
	resp, err := k.RoundTrip(r)
	if err != nil {
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

// connect2 returns a connection with room for a request, an old one or a new one.
func (s *upstream) connect2(h *hold, l *link) (*http.ClientConn, error) {
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
func (s *upstream) take2() *http.ClientConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http2 = slices.DeleteFunc(s.http2, func(k *http.ClientConn) bool { return k.Err() != nil })
	for _, k := range s.http2 {
		if k.Reserve() == nil {
			return k
		}
	}
	return nil
}

// speakHTTP2 begins HTTP/2 on a connection, which closes itself when it has been idle for so long.
func speakHTTP2(ctx context.Context, nc net.Conn, idle time.Duration) (*http.ClientConn, error) {
	t := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true, IdleConnTimeout: idle, MaxResponseHeaderBytes: http1.MaxAnswerBytes,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return nc, nil },
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t.NewClientConn(ctx, "http", "server:80") // the dialer looks at none
}

// request2 is the request that HTTP/1.1 would have, without what concerns its connection.
func (c *call) request2(h *hold) (*http.Request, error) {
	head, err := c.appendRequest(nil)
	if err != nil {
		return nil, err
	}
	_, lines, _ := bytes.Cut(head, []byte("\r\n"))
	header := headerOf(http1.ParseTrailer(lines))
	for _, name := range [...]string{"Connection", "Upgrade", "Content-Length"} {
		delete(header, name)
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // not Go's
	}
	r := (&http.Request{
		Method: c.r.Method, URL: &url.URL{Scheme: c.server.scheme(), Host: c.host(), Opaque: c.target(c.below())}, Host: c.host(),
		Proto: protocol2, ProtoMajor: 2, Header: header, Body: http.NoBody, ContentLength: c.body.length,
	}).WithContext(h)
	if c.body.length > 0 {
		body := c.countedReader()
		r.Body = &requestBody{countedReader: body, close: sync.OnceFunc(body.end)}
	}
	return r, nil
}

// requestBody is a countedReader that ends when it is closed.
type requestBody struct {
	*countedReader
	close func()
}

// Close implements io.Closer. It always returns nil.
func (b *requestBody) Close() error {
	b.close()
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
