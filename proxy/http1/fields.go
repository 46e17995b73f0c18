package http1

import (
	"bytes"
	"math"
)

// note keeps what a field says about framing, persistence and conditions. It looks at the name's length first: most fields
// concern the application only.
func (h *Head) note(name, value []byte) error {
	switch len(name) {
	case len("Host"):
		if equalFold(name, "host") {
			return h.noteHost(value)
		}
	case len("Range"):
		if equalFold(name, "range") {
			keepFirst(&h.Range, value)
		}
	case len("Expect"):
		if equalFold(name, "expect") {
			return h.noteExpect(value)
		}
	case len("Upgrade"):
		if equalFold(name, "upgrade") {
			h.hasUpgrade = true
		}
	case len("If-Match"): // and If-Range
		if equalFold(name, "if-match") {
			keepFirst(&h.IfMatch, value)
		} else if equalFold(name, "if-range") {
			keepFirst(&h.IfRange, value)
		}
	case len("Connection"):
		if equalFold(name, "connection") {
			h.noteConnection(value)
		}
	case len("If-None-Match"):
		if equalFold(name, "if-none-match") {
			keepFirst(&h.IfNoneMatch, value)
		}
	case len("Content-Length"):
		if equalFold(name, "content-length") {
			return h.noteContentLength(value)
		}
	case len("Transfer-Encoding"): // and If-Modified-Since
		if equalFold(name, "transfer-encoding") {
			return h.noteTransferEncoding(value)
		} else if equalFold(name, "if-modified-since") {
			keepFirst(&h.IfModifiedSince, value)
		}
	case len("If-Unmodified-Since"):
		if equalFold(name, "if-unmodified-since") {
			keepFirst(&h.IfUnmodifiedSince, value)
		}
	}
	return nil
}

func keepFirst(dst *[]byte, value []byte) {
	if *dst == nil {
		*dst = value
	}
}

func (h *Head) noteHost(value []byte) error {
	if h.hasHost {
		return bad("more than one Host")
	}
	if !validHost(value) {
		return bad("bad Host")
	}
	h.Host, h.hasHost = value, true
	return nil
}

// noteExpect knows the one expectation there is (RFC 9110 §10.1.1).
func (h *Head) noteExpect(value []byte) error {
	if !equalFold(value, "100-continue") {
		return refuse(417, "unknown expectation")
	}
	h.expect100 = true
	return nil
}

// ParseContentLength reads the value of a Content-Length field: digits and nothing else, at most 2^63-1.
func ParseContentLength(value []byte) (n int64, ok bool) { return decimal(value) }

func decimal(b []byte) (n int64, ok bool) {
	for _, c := range b {
		digit := int64(c) - '0'
		if digit < 0 || digit > 9 || n > (math.MaxInt64-digit)/10 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, len(b) > 0
}

// HasToken reports whether a comma-separated list has token as an element, in any case.
func HasToken(value []byte, token string) bool {
	for len(value) > 0 {
		var element []byte
		if element, value = cutElement(value); equalFold(element, token) {
			return true
		}
	}
	return false
}

// cutElement returns the first element of a comma-separated list, trimmed, and what follows its comma.
func cutElement(list []byte) (element, rest []byte) {
	i := bytes.IndexByte(list, ',')
	if i < 0 {
		return trimSpace(list), nil
	}
	return trimSpace(list[:i]), list[i+1:]
}
