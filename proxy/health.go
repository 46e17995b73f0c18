package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"gateway/proxy/http1"
	"gateway/routes"
)

// watchHealth asks a server how it is, until ctx ends. Until the first answer it is taken for well.
func (s *upstream) watchHealth(ctx context.Context, h *routes.Health) {
	t := time.NewTicker(h.Interval)
	defer t.Stop()
	for {
		err := s.check(ctx, h)
		if ctx.Err() != nil {
			return
		}
		switch was := s.ill.Swap(err != nil); {
		case err != nil && !was:
			s.log.Warnw("server is ill and gets no requests until it answers health checks again", "server", s.Address, "uri", h.URI, "error", err)
		case err == nil && was:
			s.log.Infow("server is well again", "server", s.Address)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// check asks once, over a connection of its own: a server that takes no new ones is not well.
func (s *upstream) check(ctx context.Context, h *routes.Health) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	header := appendProxyHeader(nil, s.proxy.ProxyProtocol, peers{})
	nc, err := s.open(ctx)
	if err == nil && s.TLS {
		nc, err = s.encrypt(ctx, nc, header)
		header = nil
	}
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer func() {
		stop()
		_ = nc.Close() // the body is of no interest
	}()
	ask := s.askHealth
	if s.HTTP2 {
		ask = s.askHealth2
	}
	status, err := ask(nc, header, s.base+h.URI)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case h.Status != 0 && status != h.Status, h.Status == 0 && (status < 200 || status > 399):
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// healthHost is the host that a server is asked for.
func (s *upstream) healthHost() string { return cmp.Or(s.Host, s.Authority()) }

// askHealth returns the status with which a server answers a request behind a header.
func (s *upstream) askHealth(nc net.Conn, header []byte, target string) (status int, err error) {
	request := append(append(append(header, "GET "...), target...), " HTTP/1.1\r\nConnection: close\r\n"...)
	request = append(http1.AppendField(request, "Host", s.healthHost()), "\r\n"...)
	if _, err := nc.Write(request); err != nil {
		return 0, err
	}
	var head http1.Answer
	head.Reset()
	buf := make([]byte, http1.MaxAnswerBytes)
	for end := 0; ; {
		n, err := nc.Read(buf[end:])
		end += n
		if n > 0 {
			done, bad := head.Parse(buf[:end])
			if done > 0 || bad != nil {
				return head.Status, bad
			}
		}
		if err != nil {
			return 0, err
		}
	}
}

// askHealth2 is askHealth of a server that speaks HTTP/2, with which no PROXY protocol goes.
func (s *upstream) askHealth2(nc net.Conn, _ []byte, target string) (status int, err error) {
	k, err := speakHTTP2(context.Background(), nc, 0)
	if err != nil {
		return 0, err
	}
	resp, err := k.RoundTrip(&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: s.scheme(), Host: s.healthHost(), Opaque: target}, Header: http.Header{}})
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
