package routes

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// maxSocketPath is the longest path of a unix socket: sun_path without its final NUL (unix(7)).
const maxSocketPath = 107

// socketFault says why no unix socket can be at an absolute path.
func socketFault(path string) string {
	if len(path) > maxSocketPath {
		return fmt.Sprintf("%q is too long for a socket: at most %d bytes.", path, maxSocketPath)
	}
	return ""
}

// parseListen reads ":80", "127.0.0.1:8080", "[::1]:8080" or "unix:/path", each perhaps followed by " tls" or " h2c", and
// " proxy_protocol". The reason is empty when it is one.
func parseListen(text string) (l Listen, reason string) {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return Listen{}, `The address is empty: write ":80" or "127.0.0.1:8080".`
	}
	for _, word := range fields[1:] {
		switch word {
		case "tls":
			l.TLS = true
		case "h2c":
			l.H2C = true
		case "proxy_protocol":
			l.Proxied = true
		default:
			return Listen{}, fmt.Sprintf(`%q: only the words "tls" or "h2c", and "proxy_protocol", may follow an address.`, text)
		}
	}
	if l.TLS && l.H2C {
		return Listen{}, fmt.Sprintf(`%q: only one of the words "tls" and "h2c" may follow an address.`, text)
	}
	if path, ok := strings.CutPrefix(fields[0], "unix:"); ok {
		l.Network, l.Address = "unix", path
		if path == "" {
			return Listen{}, `A path belongs behind "unix:".`
		}
		return l, ""
	}
	l.Network = "tcp"
	address, port, reason := tcpAddress(fields[0])
	l.Address = address
	if port == 443 && l.H2C {
		return Listen{}, fmt.Sprintf(`%q: port 443 is TLS, with which clients choose HTTP/2 by themselves. Remove "h2c".`, text)
	}
	l.TLS = l.TLS || port == 443
	return l, reason
}

// tcpAddress brings an address into the form in which equal ones are equal texts.
func tcpAddress(text string) (address string, port uint16, reason string) {
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		if _, err := strconv.ParseUint(text, 10, 16); err == nil {
			return "", 0, fmt.Sprintf(`%q: a port is written with a colon: ":%s".`, text, text)
		}
		return "", 0, fmt.Sprintf(`%q is not an address and a port: write ":80", "127.0.0.1:8080", "[::1]:8080" or "unix:/path".`, text)
	}
	port, ok := parsePort(portText)
	if !ok {
		return "", 0, fmt.Sprintf("%q: the port must be a number from 1 to 65535.", text)
	}
	if host == "" {
		return ":" + strconv.Itoa(int(port)), port, ""
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", 0, fmt.Sprintf("%q: names are not looked up, an IP address is needed%s.", text, addressHint(host, portText))
	}
	return netip.AddrPortFrom(ip.Unmap(), port).String(), port, ""
}

// parsePort reads a port that can be listened on and connected to.
func parsePort(text string) (port uint16, ok bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}

func addressHint(host, port string) string {
	switch host {
	case "*":
		return fmt.Sprintf(`: for all addresses write ":%s"`, port)
	case "localhost":
		return fmt.Sprintf(`: write "127.0.0.1:%s"`, port)
	}
	return ""
}

// listenAt is parseListen for an address that was written there.
func (r *reader) listenAt(text string, at hcl.Range) (l Listen, reason string) {
	l, reason = parseListen(text)
	if l.Network == "unix" {
		l.Address = r.path(l.Address, at)
		reason = cmp.Or(socketFault(l.Address), reason)
	}
	return l, reason
}

// placedListen is a listening address and where it was written.
type placedListen struct {
	Listen
	at      hcl.Range
	metrics bool // else it is a site's
}

// listenSet holds the addresses of all sites and of the metrics, which must fit together: each is bound once.
type listenSet struct {
	seen []placedListen
}

// add reports what keeps the address from being bound beside those before it.
func (s *listenSet) add(r *reader, l placedListen) {
	for _, other := range s.seen {
		switch {
		case other.Key() == l.Key() && other.metrics:
			r.errorf(l.at, "Address of the metrics", "%s is where the metrics are told (%s line %d). Give them, or the site, another one.", l.Address, other.at.Filename, other.at.Start.Line)
			return
		case other.Key() == l.Key() && other.TLS != l.TLS:
			r.errorf(l.at, "TLS and plain on one address", "%s is listened on with TLS and without (%s line %d). Write the same in both, or use two ports.", l.Address, other.at.Filename, other.at.Start.Line)
			return
		case other.Key() == l.Key() && other.H2C != l.H2C:
			r.errorf(l.at, "With and without h2c on one address", "%s is listened on with the word h2c and without (%s line %d). Write the same in both.", l.Address, other.at.Filename, other.at.Start.Line)
			return
		case other.Key() == l.Key() && other.Proxied != l.Proxied:
			r.errorf(l.at, "PROXY protocol and none on one address", "%s is listened on with the word proxy_protocol and without (%s line %d). Write the same in both, or use two ports.", l.Address, other.at.Filename, other.at.Start.Line)
			return
		case other.Key() == l.Key():
			return
		case overlap(other.Listen, l.Listen):
			r.errorf(l.at, "Overlapping addresses", "%s and %s (%s line %d) can't both be bound, for one holds the other. Use the same address in both.", l.Address, other.Address, other.at.Filename, other.at.Start.Line)
			return
		}
	}
	s.seen = append(s.seen, l)
}

// overlap reports whether one of two different addresses holds the other.
func overlap(a, b Listen) bool {
	if a.Network != "tcp" || b.Network != "tcp" {
		return false
	}
	hostA, portA := splitAddress(a.Address)
	hostB, portB := splitAddress(b.Address)
	return portA == portB && (holds(hostA, hostB) || holds(hostB, hostA))
}

// isLocal reports whether only processes of this machine reach the address.
func (l Listen) isLocal() bool {
	a, err := netip.ParseAddrPort(l.Address)
	return l.Network == "unix" || err == nil && a.Addr().IsLoopback()
}

// splitAddress splits what tcpAddress made.
func splitAddress(address string) (host, port string) {
	i := strings.LastIndexByte(address, ':')
	return strings.Trim(address[:i], "[]"), address[i+1:]
}

// holds reports whether listening on the first host takes the connections of the second. An empty host is all addresses.
func holds(host, other string) bool {
	is6 := strings.Contains(other, ":")
	switch host {
	case "":
		return true
	case "0.0.0.0":
		return other != "" && !is6
	case "::":
		return is6
	}
	return false
}
