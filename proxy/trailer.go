package proxy

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// announce names the trailer fields that are known to come (RFC 9110 §6.6.2). The body must not have been read from.
func (rp *reply) announce() {
	if rp.trailer == nil {
		return
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(*rp.trailer)), func(name string) bool { return !mayTrail(name) })
	if len(names) > 0 {
		rp.header.Set("Trailer", strings.Join(names, ", "))
	}
}

// trail puts the trailer fields into the header of a response whose body was sent.
func (rp *reply) trail(header http.Header) {
	if rp.trailer == nil {
		return
	}
	for name, values := range *rp.trailer {
		if mayTrail(name) {
			header[http.TrailerPrefix+name] = values
		}
	}
}

// mayTrail reports whether a field may come behind a body: not one that says how to read the message or where it goes, that
// changes what a request asks for or how it is answered, or that tells who somebody is (RFC 9110 §6.5.1).
func mayTrail(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Content-Encoding", "Content-Location", "Content-Range", "Content-Type", "Host",
		"Age", "Cache-Control", "Date", "Expect", "Expires", "Location", "Max-Forwards", "Pragma", "Range", "Retry-After", "Vary", "Warning",
		"Authorization", "Cookie", "Proxy-Authenticate", "Proxy-Authorization", "Set-Cookie", "Www-Authenticate":
		return false
	}
	return !strings.HasPrefix(name, "If-")
}
