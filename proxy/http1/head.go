// Package http1 reads and writes HTTP/1.1 messages (RFC 9112) in memory. It does no I/O, starts no goroutine and allocates nothing
// for a message that it accepts, once a [Head] has grown its list of fields.
//
// The parser is strict: what two readers could understand differently is refused, so that nothing can be smuggled past it to
// a program behind. Whatever it accepts, net/http reads the same way; FuzzHead and FuzzChunked hold it to that.
package http1

import "bytes"

// Limits of a request head. Beyond MaxTargetBytes the answer is 414, beyond the others 431.
const (
	MaxTargetBytes = 8 << 10
	MaxFieldBytes  = 8 << 10  // one field line without its CRLF
	MaxHeadBytes   = 64 << 10 // all of the head, an empty line before it and the one that ends it included
	MaxFields      = 100
)

// Field is one field line. Name is as the client wrote it; Value has no white space around it and may be empty.
type Field struct {
	Name, Value []byte
}

// Head is the head of a request. Every slice in it aliases the buffer that was parsed and is good only as long as that is.
//
// The zero value is ready for use, and a used one for the next request: Parse resets it, and keeps the memory of Fields.
// It belongs to one goroutine at a time.
type Head struct {
	Method []byte
	Target []byte // as sent
	Path   []byte // of Target, still escaped: begins with "/", or is "*" in OPTIONS *
	Query  []byte // of Target, behind the first "?"
	Host   []byte // host and optional port. In absolute-form the one of Target; nil only in HTTP/1.0
	Fields []Field

	// The first field of its name, nil when absent; empty but not nil when the value is empty.
	IfMatch, IfNoneMatch               []byte
	IfModifiedSince, IfUnmodifiedSince []byte
	Range, IfRange                     []byte

	Framing
	HasQuery  bool // there is a "?"
	Expect100 bool // the client waits for 100 (Continue) before it sends the body
	Upgrade   bool // there is an Upgrade field and Connection names it

	// Gathered while the fields pass.
	authority  []byte // of a target in absolute-form
	hasHost    bool
	hasUpgrade bool
	expect100  bool

	// Where Resume goes on: base is the first byte of the buffer, pos the offset of the first line that was not complete.
	base *byte
	pos  int
}

// Reset empties h and keeps the memory of Fields.
func (h *Head) Reset() {
	*h = Head{Fields: h.Fields[:0], Framing: Framing{ContentLength: -1}}
}

// Parse reads a request head from the start of buf and returns its length. The body, or the next request, follows there.
//
// n == 0 without an error means that buf holds only a part of a head, in which nothing is wrong so far: try again with more
// bytes, through Parse, which begins afresh, or through [Head.Resume]. That answer is never given to MaxHeadBytes or more, so
// a buffer of that size is always enough. An error is an [*Error], found as early as the bytes show it. How a head arrives
// in pieces makes no difference to its result.
func (h *Head) Parse(buf []byte) (n int, err error) {
	h.Reset()
	return h.more(buf)
}

// Resume is Parse for a head of which h has seen a part: buf must hold the bytes of the last call, and may hold more. Lines that
// were complete are not read again: a call reads one incomplete line (8 KiB at most) and what is new.
//
// If the buffer has moved since, h begins afresh: let it grow by factors. After a result or an error, too. Between two
// connections or requests the caller must use Parse or Reset: Resume can't see that the same memory holds another request.
func (h *Head) Resume(buf []byte) (n int, err error) {
	if len(buf) > 0 && h.base != &buf[0] {
		h.Reset()
	}
	return h.more(buf)
}

func (h *Head) more(buf []byte) (n int, err error) {
	if len(buf) == 0 {
		return 0, nil
	}
	h.base = &buf[0]
	if len(buf) > MaxHeadBytes {
		buf = buf[:MaxHeadBytes]
	}
	n, err = h.parse(buf)
	if n == 0 && err == nil && len(buf) == MaxHeadBytes {
		err = refuse(431, "head too large")
	}
	if n > 0 || err != nil {
		h.base = nil
	}
	return n, err
}

func (h *Head) parse(buf []byte) (n int, err error) {
	if h.Method == nil {
		n, err := h.requestLine(buf)
		if n == 0 || err != nil {
			return 0, err
		}
		h.pos = n
	}
	for h.pos < len(buf) {
		if buf[h.pos] == '\r' {
			return h.end(buf)
		}
		n, err := h.field(buf[h.pos:])
		if n == 0 || err != nil {
			return 0, err
		}
		h.pos += n
	}
	return 0, nil
}

// end reads the empty line behind the fields.
func (h *Head) end(buf []byte) (n int, err error) {
	if h.pos+1 == len(buf) {
		return 0, nil
	}
	if buf[h.pos+1] != '\n' {
		return 0, bad("CR without LF")
	}
	if err := h.finish(); err != nil {
		return 0, err
	}
	return h.pos + len("\r\n"), nil
}

// field reads one field line from the start of buf. n == 0: it is not complete.
func (h *Head) field(buf []byte) (n int, err error) {
	if len(h.Fields) == MaxFields {
		return 0, refuse(431, "too many fields")
	}
	f, n, err := fieldLine(buf, MaxFieldBytes)
	if n == 0 || err != nil {
		return 0, err
	}
	h.Fields = append(h.Fields, f)
	return n, h.note(f.Name, f.Value)
}

// fieldLine reads one field line of at most so many bytes (RFC 9112 §5) from the start of buf. n == 0: it is not complete.
func fieldLine(buf []byte, limit int) (f Field, n int, err error) {
	limit += len("\r\n")
	if len(buf) > limit {
		buf = buf[:limit]
	}
	if isSpace(buf[0]) {
		return f, 0, bad("white space before a field: folded lines are obsolete")
	}
	colon := 0
	for colon < len(buf) && isClass(buf[colon], classToken) {
		colon++
	}
	if colon == len(buf) {
		return f, 0, fieldIncomplete(buf, limit)
	}
	if buf[colon] != ':' || colon == 0 {
		return f, 0, bad("field name is not a token with a colon behind it")
	}
	end := valueEnd(buf, colon+1)
	if end == len(buf) {
		return f, 0, fieldIncomplete(buf, limit)
	}
	if buf[end] != '\r' {
		return f, 0, bad("control character or bare LF in a field value")
	}
	if end+1 == len(buf) {
		return f, 0, fieldIncomplete(buf, limit)
	}
	if buf[end+1] != '\n' {
		return f, 0, bad("CR without LF")
	}
	return Field{buf[:colon], trimSpace(buf[colon+1 : end])}, end + len("\r\n"), nil
}

// fieldIncomplete fails when the line is already longer than a field may be.
func fieldIncomplete(line []byte, limit int) error {
	if len(line) == limit {
		return refuse(431, "field too large")
	}
	return nil
}

// finish draws the conclusions that need all fields.
func (h *Head) finish() error {
	if h.Minor > 0 && !h.hasHost {
		return bad("Host missing")
	}
	if h.authority != nil {
		if h.hasHost && !equalFold(h.authority, h.Host) {
			return bad("Host differs from the target's")
		}
		h.Host = h.authority
	}
	h.settle()
	// RFC 9110 §7.8 and §10.1.1: both mean nothing in HTTP/1.0.
	h.Upgrade = h.Minor > 0 && h.hasUpgrade && h.connNamesUpgrade
	h.Expect100 = h.Minor > 0 && h.expect100 && h.HasBody()
	return nil
}

// HasBody reports whether bytes of a body follow the head.
func (h *Head) HasBody() bool { return h.Chunked || h.ContentLength > 0 }

// Get returns the value of the first field of that name, in any case, or nil.
func (h *Head) Get(name string) []byte {
	for i := range h.Fields {
		if equalFold(h.Fields[i].Name, name) {
			return h.Fields[i].Value
		}
	}
	return nil
}

// requestLine reads the request line and one empty line before it (RFC 9112 §2.2, §3). n == 0: it is not complete.
func (h *Head) requestLine(buf []byte) (n int, err error) {
	start, err := skipEmptyLine(buf)
	if err != nil {
		return 0, err
	}
	end, err := methodEnd(buf[start:])
	if end == 0 || err != nil {
		return 0, err
	}
	method := buf[start : start+end]
	start += end + len(" ")

	end, err = targetEnd(buf[start:])
	if end == 0 || err != nil {
		return 0, err
	}
	target := buf[start : start+end]
	start += end + len(" ")

	minor, end, err := version(buf[start:])
	if end == 0 || err != nil {
		return 0, err
	}
	h.Minor = minor
	if err := h.splitTarget(method, target); err != nil {
		return 0, err
	}
	h.Method, h.Target = method, target
	return start + end, nil
}

// skipEmptyLine returns the offset of the request line. Some old clients end the body of a POST with a CRLF too many.
func skipEmptyLine(buf []byte) (int, error) {
	const tlsHandshake = 0x16 // content type of the first record of a TLS connection
	if buf[0] == tlsHandshake {
		return 0, refuse(0, "TLS on a plain port")
	}
	if buf[0] != '\r' {
		return 0, nil
	}
	if len(buf) > 1 && buf[1] != '\n' {
		return 0, bad("CR without LF")
	}
	return min(len(buf), len("\r\n")), nil
}

// methodEnd returns the length of the method at the start of buf, 0 while its end is not there.
func methodEnd(buf []byte) (int, error) {
	for i, c := range buf {
		switch {
		case c == ' ' && i > 0:
			return i, checkMethod(buf[:i])
		case !isClass(c, classToken):
			return 0, bad("method is not a token with a space behind it")
		case i == maxMethodBytes:
			return 0, refuse(501, "method unknown")
		}
	}
	return 0, nil
}

// targetEnd returns the length of the target at the start of buf, 0 while its end is not there.
func targetEnd(buf []byte) (int, error) {
	if len(buf) > MaxTargetBytes+1 {
		buf = buf[:MaxTargetBytes+1]
	}
	if len(buf) > 0 && !beginsTarget(buf[0]) {
		return 0, bad("target begins neither with a slash nor with a scheme")
	}
	end := 0
	for end < len(buf) && isClass(buf[end], classTarget) {
		end++
	}
	if end == len(buf) {
		if end > MaxTargetBytes {
			return 0, refuse(414, "target too long")
		}
		return 0, nil
	}
	if buf[end] != ' ' {
		return 0, bad("byte in the target that has to be escaped, or no version behind it")
	}
	return end, checkEscapes(buf[:end])
}

// beginsTarget takes the first bytes of origin-form, asterisk-form and "http".
func beginsTarget(c byte) bool { return c == '/' || c == '*' || lower(c) == 'h' }

// checkEscapes fails unless every "%" begins an escape. An escaped NUL ends a string in C, and so in what runs behind.
func checkEscapes(b []byte) error {
	for {
		i := bytes.IndexByte(b, '%')
		if i < 0 {
			return nil
		}
		if len(b) < i+3 || !all(b[i+1:i+3], classHex) {
			return bad("bad escape in the target")
		}
		if b[i+1] == '0' && b[i+2] == '0' {
			return bad("escaped NUL in the target")
		}
		b = b[i+3:]
	}
}

// version reads the version and the end of the line. n == 0: it is not complete.
func version(buf []byte) (minor, n int, err error) {
	const form = "HTTP/d.d\r\n"
	if len(buf) >= len(form) && string(buf[:len(form)]) == "HTTP/1.1\r\n" {
		return 1, len(form), nil
	}
	for i := 0; i < min(len(buf), len(form)); i++ {
		c, want := buf[i], form[i]
		if want == 'd' && (c < '0' || c > '9') || want != 'd' && c != want {
			return 0, 0, bad("version is not HTTP/d.d with CRLF behind it")
		}
	}
	if len(buf) < len(form) {
		return 0, 0, nil
	}
	switch major := buf[5]; {
	case major == '0':
		return 0, 0, bad("HTTP/0 is not served")
	case major > '1':
		return 0, 0, refuse(505, "HTTP version not supported")
	}
	return min(int(buf[7]-'0'), 1), len(form), nil
}

// splitTarget sets Path, Query and authority (RFC 9112 §3.2).
func (h *Head) splitTarget(method, target []byte) error {
	switch {
	case target[0] == '/':
		h.splitPath(target)
		return nil
	case target[0] != '*':
		return h.splitAbsolute(target)
	case len(target) > 1 || string(method) != "OPTIONS":
		return bad("target * without OPTIONS")
	}
	h.Path = target
	return nil
}

func (h *Head) splitPath(b []byte) {
	h.Path = b
	if i := bytes.IndexByte(b, '?'); i >= 0 {
		h.Path, h.Query, h.HasQuery = b[:i], b[i+1:], true
	}
}

// splitAbsolute takes a target that names its host, as sent to a proxy; a server must understand it, too.
func (h *Head) splitAbsolute(target []byte) error {
	scheme := schemeLen(target)
	if scheme == 0 {
		return bad("target is neither a path nor http nor https")
	}
	end := scheme
	for end < len(target) && target[end] != '/' && target[end] != '?' {
		end++
	}
	h.authority = target[scheme:end]
	if !validHost(h.authority) {
		return bad("bad host in the target")
	}
	h.splitPath(target[end:])
	if len(h.Path) == 0 {
		h.Path = target[scheme-1 : scheme] // the path of "http://host" is "/"; this is one
	}
	return nil
}

// schemeLen returns the length of "http://" or "https://" at the start of b, or 0.
func schemeLen(b []byte) int {
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(b) >= len(scheme) && equalFold(b[:len(scheme)], scheme) {
			return len(scheme)
		}
	}
	return 0
}
