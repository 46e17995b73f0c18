package proxy

import (
	"net/netip"
	"slices"
)

// remoteIP is the client's address; "unix:" for one that has none.
func (x *exchange) remoteIP() string { return textOf(x.remoteAddr()) }

// client is what the client counts as for a limit.
func (x *exchange) client() string { return textOf(clientOf(x.remoteAddr())) }

// remoteAddr is the address of the client for comparisons; zero for one that has none.
func (x *exchange) remoteAddr() netip.Addr { return x.remote.Addr().Unmap() }

func textOf(a netip.Addr) string {
	if !a.IsValid() {
		return "unix:"
	}
	return a.String()
}

// clientOf is what counts as one client: an address, of IPv6 the first of all that a subscriber is given at least (RFC 6177 §2), and
// zero for all who come through unix sockets.
func clientOf(remote netip.Addr) netip.Addr {
	remote = remote.Unmap().WithZone("")
	if !remote.Is6() {
		return remote
	}
	network, _ := remote.Prefix(64) // 64 bits, which an address of IPv6 has
	return network.Addr()
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
}
