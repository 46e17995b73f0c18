package routes

import (
	"bytes"
	"net/http"
	"strings"
)

// PathError tells why a path is refused.
type PathError struct {
	Status int    // of the answer
	Reason string // for the log
}

func (e *PathError) Error() string { return "path: " + e.Reason }

// CleanPath is the one place where a request's path is decoded. raw is the path part of the request target as it was sent,
// without the query. Percent escapes are decoded exactly once; then ".", ".." and repeated slashes are resolved, so that route,
// file, script and log see the same path. The result begins with "/", ends with one when raw named a folder ("/a/", "/a/."),
// and is raw itself, not a copy, when there was nothing to do.
//
// An error is a *[PathError]: 400 for what is malformed, holds a control character, a backslash or dots with a parameter ("..;"), or
// leaves the root; 404 for an encoded slash, which would be a separator in a file name and not in the URL.
func CleanPath(raw string) (string, error) { return cleanPath(raw, false) }

// CleanPath is [CleanPath] for the path that a client has sent to the site. With EncodedSlashes an encoded slash is a slash, so that it leads past no route.
// Nothing is resolved in such a path, because a server behind the gateway may take the slash for a part of a name, and so understand another path: that is 404.
func (s *Site) CleanPath(raw string) (string, error) { return cleanPath(raw, s.EncodedSlashes) }

func cleanPath(raw string, encodedSlashes bool) (string, error) {
	if raw == "" || raw[0] != '/' {
		return "", badPath("does not begin with a slash")
	}
	decoded, slash, err := unescape(raw)
	if err != nil {
		return "", err
	}
	if slash && !encodedSlashes {
		return "", &PathError{http.StatusNotFound, "holds an encoded slash"}
	}
	if i := strings.IndexFunc(decoded, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }); i >= 0 {
		if decoded[i] == '\\' {
			return "", badPath("holds a backslash")
		}
		return "", badPath("holds a control character")
	}
	if !strings.Contains(decoded, "//") && !strings.Contains(decoded, "/.") {
		return decoded, nil
	}
	clean, err := resolve(decoded)
	if err == nil && slash && clean != decoded {
		return "", &PathError{http.StatusNotFound, "holds an encoded slash, and dots or slashes to resolve"}
	}
	return clean, err
}

func badPath(reason string) *PathError { return &PathError{http.StatusBadRequest, reason} }

// unescape decodes percent escapes once (RFC 3986 §2.1), and reports whether one of them was a slash.
func unescape(raw string) (decoded string, slash bool, err error) {
	first := strings.IndexByte(raw, '%')
	if first < 0 {
		return raw, false, nil
	}
	b := make([]byte, first, len(raw))
	copy(b, raw)
	for i := first; i < len(raw); i++ {
		if raw[i] != '%' {
			b = append(b, raw[i])
			continue
		}
		if i+2 >= len(raw) || unhex(raw[i+1]) < 0 || unhex(raw[i+2]) < 0 {
			return "", false, badPath("holds a malformed percent escape")
		}
		c := byte(unhex(raw[i+1])<<4 | unhex(raw[i+2]))
		slash = slash || c == '/'
		b = append(b, c)
		i += 2
	}
	return string(b), slash, nil
}

// unhex is the value of a hexadecimal digit, or -1.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// resolve removes empty and dot segments (RFC 3986 §5.2.4), but does not let ".." above the root pass.
func resolve(path string) (string, error) {
	b := make([]byte, 0, len(path))
	folder := true // whether the result ends in a slash: the last segment was empty or dots
	for segment := range strings.SplitSeq(path[1:], "/") {
		folder = true
		switch segment {
		case "", ".":
		case "..":
			up := bytes.LastIndexByte(b, '/')
			if up < 0 {
				return "", badPath("leaves the root")
			}
			b = b[:up]
		default:
			if strings.HasPrefix(segment, ".;") || strings.HasPrefix(segment, "..;") { // servlet containers cut what begins with ";", and then obey the dots
				return "", badPath("holds dots with a parameter")
			}
			b = append(append(b, '/'), segment...)
			folder = false
		}
	}
	if folder {
		b = append(b, '/')
	}
	return string(b), nil
}
