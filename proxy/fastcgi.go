package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net"

	"gateway/mpm"
	"gateway/mpm/event"
	"gateway/proxy/fcgi"
)

// holdServer holds a slot for a FastCGI server that is no child, and connects to it. The pool's request_timeout is for the whole
// request.
func (c *call) holdServer(slot *mpm.Slot) (*link, *hold, error) {
	h := &hold{slot: slot, client: c.r.Context(), body: c.body, remote: true}
	h.leaving.on(h.client, h.clientLeft)
	c.watchUpstream(h)
	nc, err := c.dialServer(h)
	if err != nil {
		return nil, h, notConnected(fmt.Errorf("server %s: %w", c.x.route.FastCGI.Address, err))
	}
	l := &link{Conn: fcgi.NewConn(nc), nc: nc}
	h.hook(l)
	return l, h, nil
}

// dialServer connects. A server with a full backlog is waited for.
func (c *call) dialServer(h *hold) (net.Conn, error) {
	f := c.x.route.FastCGI
	ctx, cancel := context.WithTimeout(h, cmp.Or(f.ConnectTimeout, connectTimeout))
	defer cancel()
	return dialPatiently(ctx, func() (net.Conn, error) {
		if f.Network == "unix" {
			return asConn(event.Dial(f.Address))
		}
		nc, err := new(net.Dialer).DialContext(ctx, f.Network, f.Address)
		if err != nil {
			return nil, err
		}
		return asConn(event.Wrap(nc))
	})
}

// asConn keeps a nil channel from becoming a connection.
func asConn(c *event.Channel, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}
