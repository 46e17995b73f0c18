package http1

import "strconv"

// Whole pieces of messages that never change.
const (
	Continue  = "HTTP/1.1 100 Continue\r\n\r\n"
	ChunkEnd  = "\r\n" // behind the data of each chunk
	LastChunk = "0\r\n\r\n"
)

// AppendStatusLine appends a status line. A status that has not three digits becomes 500: it can only be a handler's or a
// backend's mistake, and a client would lose its place in the stream.
func AppendStatusLine(dst []byte, status int) []byte {
	if status < 100 || status > 999 {
		status = 500
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, StatusText(status)...)
	return append(dst, "\r\n"...)
}

// AppendField appends a field line, or nothing when [ValidField] refuses it: no name or value splits a response.
func AppendField(dst []byte, name, value string) []byte {
	if !ValidField(name, value) {
		return dst
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

// ValidField reports whether a field may be sent: name is a token, value holds no CR, LF, NUL or other control but TAB
// (RFC 9110 §5.1, §5.5). It is the rule by which Parse refuses fields.
func ValidField(name, value string) bool { return isToken(name) && all(value, classValue) }

// AppendHeader appends the fields of header, those of one name in their order, as AppendField does. It leaves out the fields
// that say where the message ends and whether the connection does: only the caller knows that.
func AppendHeader(dst []byte, header map[string][]string) []byte {
	for name, values := range header {
		if IsFraming(name) {
			continue
		}
		for _, value := range values {
			dst = AppendField(dst, name, value)
		}
	}
	return dst
}

// IsFraming reports whether a field says where the message ends or whether the connection does (RFC 9112 §6, §9), or is what old clients
// made of those.
func IsFraming(name string) bool {
	return equalFold(name, "Connection") || equalFold(name, "Content-Length") || equalFold(name, "Keep-Alive") ||
		equalFold(name, "Proxy-Connection") || equalFold(name, "Transfer-Encoding")
}

// AppendContentLength appends a Content-Length field. A negative n, an unknown length, appends nothing.
func AppendContentLength(dst []byte, n int64) []byte {
	if n < 0 {
		return dst
	}
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

// AppendChunkHeader appends the line before a chunk of n bytes; ChunkEnd goes behind them. It appends nothing for n <= 0: an
// empty chunk would end the body, which only LastChunk does.
func AppendChunkHeader(dst []byte, n int) []byte {
	if n <= 0 {
		return dst
	}
	dst = strconv.AppendInt(dst, int64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendChunk appends data as one chunk, or nothing when it is empty.
func AppendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = AppendChunkHeader(dst, len(data))
	dst = append(dst, data...)
	return append(dst, ChunkEnd...)
}
