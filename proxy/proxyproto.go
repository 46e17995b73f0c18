package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol (HAProxy, doc/proxy-protocol.txt): before its first byte a connection tells whose it is.
const (
	proxyV1        = "PROXY "
	proxyV2        = "\r\n\r\n\x00\r\nQUIT\n"
	maxProxyV1     = 107 // bytes, CRLF included
	maxProxyV2     = 2 << 10
	proxyV2Header  = len(proxyV2) + 4
	proxyV2Local   = 0x20
	proxyV2Proxy   = 0x21
	proxyV2Stream4 = 0x11
	proxyV2Stream6 = 0x21
)

// peers are the two ends of a client's connection. They are zero when they have no addresses, as those of a unix socket.
type peers struct{ client, server netip.AddrPort }

// appendProxyHeader appends the header of a version, "v1" or "v2"; nothing for "".
func appendProxyHeader(b []byte, version string, p peers) []byte {
	client, server := p.client.Addr().Unmap(), p.server.Addr().Unmap()
	known := client.IsValid() && server.IsValid()
	if known && client.Is4() != server.Is4() { // a trusted proxy has spoken of the client
		client, server = netip.AddrFrom16(client.As16()), netip.AddrFrom16(server.As16())
	}
	switch {
	case version == "v1" && known:
		return appendProxyV1(b, client, server, p)
	case version == "v1":
		return append(b, proxyV1+"UNKNOWN\r\n"...)
	case version == "v2" && known:
		return appendProxyV2(b, client, server, p)
	case version == "v2":
		return append(append(b, proxyV2...), proxyV2Local, 0, 0, 0)
	}
	return b
}

func appendProxyV1(b []byte, client, server netip.Addr, p peers) []byte {
	family := "TCP6 "
	if client.Is4() {
		family = "TCP4 "
	}
	b = append(append(b, proxyV1...), family...)
	b = append(proxyV1Addr(b, client), ' ')
	b = append(proxyV1Addr(b, server), ' ')
	b = append(strconv.AppendUint(b, uint64(p.client.Port()), 10), ' ')
	return append(strconv.AppendUint(b, uint64(p.server.Port()), 10), "\r\n"...)
}

// proxyV1Addr appends an address. One of IPv4 among those of IPv6 has only hexadecimal digits there.
func proxyV1Addr(b []byte, a netip.Addr) []byte {
	if a.Is4In6() {
		v4 := a.Unmap().As4()
		return fmt.Appendf(b, "::ffff:%x:%x", binary.BigEndian.Uint16(v4[:2]), binary.BigEndian.Uint16(v4[2:]))
	}
	return a.WithZone("").AppendTo(b)
}

func appendProxyV2(b []byte, client, server netip.Addr, p peers) []byte {
	family, size := byte(proxyV2Stream6), 2*16
	if client.Is4() {
		family, size = proxyV2Stream4, 2*4
	}
	b = append(append(b, proxyV2...), proxyV2Proxy, family)
	b = binary.BigEndian.AppendUint16(b, uint16(size+4))
	b = append(append(b, client.AsSlice()...), server.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, p.client.Port())
	return binary.BigEndian.AppendUint16(b, p.server.Port())
}

var errProxyHeader = errors.New("no PROXY protocol header, or a malformed one")

// parseProxyHeader reads a header of either version from the start of b and returns its length; 0 without an error: it is not
// complete. Zero peers mean that the connection speaks for itself: a health check of a load balancer, or a client that is none of TCP.
// It never needs more than maxProxyV2 bytes.
func parseProxyHeader(b []byte) (p peers, n int, err error) {
	switch {
	case hasPrefixOf(b, proxyV2):
		return parseProxyV2(b)
	case hasPrefixOf(b, proxyV1):
		return parseProxyV1(b)
	}
	return peers{}, 0, errProxyHeader
}

// hasPrefixOf reports whether b begins with s, or is a beginning of it.
func hasPrefixOf(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

func parseProxyV1(b []byte) (p peers, n int, err error) {
	end := bytes.Index(b[:min(len(b), maxProxyV1)], []byte("\r\n"))
	switch {
	case end < 0 && len(b) >= maxProxyV1:
		return peers{}, 0, errProxyHeader
	case end < 0:
		return peers{}, 0, nil
	}
	words := strings.Split(string(b[len(proxyV1):end]), " ")
	n = end + len("\r\n")
	if words[0] == "UNKNOWN" {
		return peers{}, n, nil
	}
	if len(words) != 5 || words[0] != "TCP4" && words[0] != "TCP6" {
		return peers{}, 0, errProxyHeader
	}
	var err1, err2 error
	p.client, err1 = proxyV1Peer(words[0], words[1], words[3])
	p.server, err2 = proxyV1Peer(words[0], words[2], words[4])
	if err := errors.Join(err1, err2); err != nil {
		return peers{}, 0, errProxyHeader
	}
	return p, n, nil
}

func proxyV1Peer(family, host, port string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(host)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || addr.Zone() != "" || addr.Is4() != (family == "TCP4") || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, errProxyHeader
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

func parseProxyV2(b []byte) (p peers, n int, err error) {
	if len(b) < proxyV2Header {
		return peers{}, 0, nil
	}
	command, family := b[len(proxyV2)], b[len(proxyV2)+1]
	n = proxyV2Header + int(binary.BigEndian.Uint16(b[proxyV2Header-2:]))
	switch {
	case n > maxProxyV2, command != proxyV2Local && command != proxyV2Proxy:
		return peers{}, 0, errProxyHeader
	case len(b) < n:
		return peers{}, 0, nil
	case command == proxyV2Local:
		return peers{}, n, nil
	}
	size := map[byte]int{proxyV2Stream4: 4, proxyV2Stream6: 16}[family]
	rest := b[proxyV2Header:n]
	switch {
	case size == 0:
		return peers{}, n, nil // neither TCP over IPv4 nor over IPv6
	case len(rest) < 2*size+4:
		return peers{}, 0, errProxyHeader
	}
	client, _ := netip.AddrFromSlice(rest[:size])
	server, _ := netip.AddrFromSlice(rest[size : 2*size])
	ports := rest[2*size:]
	return peers{
		netip.AddrPortFrom(client.Unmap(), binary.BigEndian.Uint16(ports)), netip.AddrPortFrom(server.Unmap(), binary.BigEndian.Uint16(ports[2:])),
	}, n, nil
}
