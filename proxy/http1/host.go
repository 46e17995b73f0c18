package http1

import "bytes"

const (
	maxHostBytes = 255 // a name in DNS has 253 (RFC 1035 §2.3.4); leaves no room for tricks in logs and certificates
	maxPort      = 65535
	ipv6Groups   = 8
)

// validHost reports whether b is a host with an optional port, as in a Host field (RFC 9110 §7.2).
//
// It is narrower than the grammar, which allows any byte sequence as a name: no percent encoding, no sub-delims, no empty
// label but the last, no address of a future version, no zone, no empty port.
func validHost(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	if b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		return end > 0 && validIPv6(b[1:end]) && validPortSuffix(b[end+1:])
	}
	end := bytes.IndexByte(b, ':')
	if end < 0 {
		return validName(b)
	}
	return validName(b[:end]) && validPortSuffix(b[end:])
}

// validName takes names and IPv4 addresses alike.
func validName(b []byte) bool {
	if len(b) == 0 || len(b) > maxHostBytes {
		return false
	}
	prev := byte('.')
	for _, c := range b {
		if !isClass(c, className) || c == '.' && prev == '.' {
			return false
		}
		prev = c
	}
	return true
}

// validPortSuffix takes nothing, or a colon and 1 to 65535.
func validPortSuffix(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if b[0] != ':' || len(b) > len(":65535") {
		return false
	}
	port, ok := decimal(b[1:])
	return ok && 0 < port && port <= maxPort
}

// validIPv6 reports whether b is an address as in RFC 4291 §2.2, without zone.
func validIPv6(b []byte) bool {
	groups, elided := 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		elided, b = true, b[2:]
	}
	for len(b) > 0 {
		n := 0
		for n < len(b) && isClass(b[n], classHex) {
			n++
		}
		if n < len(b) && b[n] == '.' { // the last 32 bits as IPv4
			groups += 2
			return validIPv4(b) && groupsFit(groups, elided)
		}
		if n == 0 || n > 4 {
			return false
		}
		groups++
		if b = b[n:]; len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return false
		}
		if b = b[1:]; b[0] == ':' {
			if elided {
				return false
			}
			elided, b = true, b[1:]
		}
	}
	return groupsFit(groups, elided)
}

// groupsFit: "::" stands for at least one group.
func groupsFit(groups int, elided bool) bool {
	if elided {
		return groups < ipv6Groups
	}
	return groups == ipv6Groups
}

// validIPv4 takes four decimal numbers below 256 without leading zeros, which some read as octal.
func validIPv4(b []byte) bool {
	for part := range 4 {
		end := len(b)
		if part < 3 {
			if end = bytes.IndexByte(b, '.'); end < 0 {
				return false
			}
		}
		n, ok := decimal(b[:end])
		if !ok || n > 255 || end > 1 && b[0] == '0' {
			return false
		}
		b = b[min(end+1, len(b)):]
	}
	return true
}
