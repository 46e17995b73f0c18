package proxy

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gateway/proxy/http1"
)

// hotAnswer is what one request gets of a hot file. It is valid as long as the request's head is.
type hotAnswer struct {
	file   *hotFile
	status int    // 200, 206 or 304
	ranges string // of a 206 with several parts: as the client asked for them
	start  int64  // of the file's bytes that are the body
	length int64  // of them; 0 with a HEAD, a 304 or several parts
	isHead bool
	old    bool   // HTTP/1.0
	hsts   string // the value of Strict-Transport-Security; empty: none
}

// unchanged reports whether the client is told that it has the content.
func (a *hotAnswer) unchanged() bool { return a.status == http.StatusNotModified }

// answer says how a request is answered from f. Rare conditions, and ranges that call for an error, are left to the long way.
func (f *hotFile) answer(h *http1.Head) (a hotAnswer, ok bool) {
	if h.IfMatch != nil || h.IfUnmodifiedSince != nil || h.HasBody() || len(f.body) > hotFileBytes {
		return a, false
	}
	a = hotAnswer{file: f, status: http.StatusOK, isHead: isHead(h), old: h.Minor == 0}
	has, ok := f.clientHas(h)
	switch {
	case !ok:
		return a, false
	case has:
		a.status = http.StatusNotModified
		return a, true
	case a.isHead:
		return a, true
	case h.Range != nil && f.wantsRange(h):
		return a, a.narrow(alias(h.Range))
	}
	a.length = f.size
	return a, true
}

// clientHas reports whether the client's copy of the file is the current one (RFC 9110 §13.1.2, §13.1.3).
func (f *hotFile) clientHas(h *http1.Head) (has, ok bool) {
	switch {
	case len(h.IfNoneMatch) > 0:
		return listsTag(h.IfNoneMatch, f.tag), true
	case h.IfModifiedSince == nil || f.modified == "":
		return false, true
	case string(h.IfModifiedSince) == f.modified:
		return true, true
	}
	t, err := time.Parse(http.TimeFormat, alias(h.IfModifiedSince))
	return t.Unix() >= f.modifiedUnix, err == nil
}

// listsTag reports whether a list of entity tags holds tag, strong or weak, or "*".
func listsTag(list []byte, tag string) bool {
	for {
		list = bytes.TrimLeft(list, " \t,")
		if len(list) > 0 && list[0] == '*' {
			return true
		}
		opaque := bytes.TrimPrefix(list, []byte("W/"))
		if len(opaque) == 0 || opaque[0] != '"' {
			return false
		}
		end := bytes.IndexByte(opaque[1:], '"')
		if end < 0 {
			return false
		}
		if string(opaque[:end+2]) == tag {
			return true
		}
		list = opaque[end+2:]
	}
}

// wantsRange reports whether a Range field is to be obeyed: it stands alone and is well formed (see withUsableRange), and If-Range
// names this very version (RFC 9110 §13.1.5).
func (f *hotFile) wantsRange(h *http1.Head) bool {
	fields := 0
	for i := range h.Fields {
		if strings.EqualFold(alias(h.Fields[i].Name), "Range") {
			fields++
		}
	}
	if fields != 1 || !isByteRange(alias(h.Range)) {
		return false
	}
	condition := string(h.IfRange)
	return condition == "" || condition == f.tag || condition == f.modified
}

// narrow makes a an answer with the ranges of a value that isByteRange has passed, or with all of the file if they amount to more
// than that. It returns false for a range that calls for an error, and where several parts can't come from memory.
func (a *hotAnswer) narrow(value string) bool {
	list := strings.TrimPrefix(value, "bytes=")
	size := a.file.size
	parts, total := 0, int64(0)
	for rest := list; rest != ""; {
		var start, length int64
		if start, length, rest = nextRange(rest, size); length < 0 {
			return false
		} else if length > 0 {
			a.start, a.length = start, length
			parts++
			total += length
		}
	}
	switch {
	case parts == 0:
		return false
	case total > size:
		a.start, a.length = 0, size
		return true
	case parts > 1:
		a.ranges, a.start, a.length = list, 0, 0
	}
	a.status = http.StatusPartialContent
	return parts == 1 || a.file.file == nil
}

// nextRange takes one range off a list. Its length is 0 if it lies behind the end of the file, and negative if it ends before it
// begins.
func nextRange(list string, size int64) (start, length int64, rest string) {
	spec, rest, _ := strings.Cut(list, ",")
	first, last, _ := strings.Cut(trimSpace(spec), "-")
	from, to := decimal(first), decimal(last)
	switch {
	case first == "":
		length = min(to, size)
		return size - length, length, rest
	case from >= size:
		return 0, 0, rest
	case last == "" || to >= size:
		to = size - 1
	case to < from:
		return 0, -1, rest
	}
	return from, to - from + 1, rest
}

// decimal is the number that isByteRange has seen to be one; 0 for an empty text, of which strconv would make an error.
func decimal(s string) (n int64) {
	for _, c := range []byte(s) {
		n = 10*n + int64(c-'0')
	}
	return n
}

const (
	hotOK          = "HTTP/1.1 200 OK\r\nServer: " + serverName + "\r\n"
	hotPartial     = "HTTP/1.1 206 Partial Content\r\nServer: " + serverName + "\r\n"
	hotNotModified = "HTTP/1.1 304 Not Modified\r\nServer: " + serverName + "\r\n"
)

// append appends the head, and the body if that is in memory. last says that the connection ends with it.
func (a *hotAnswer) append(b []byte, last bool, date *http1.DateCache, now time.Time) []byte {
	f := a.file
	switch a.status {
	case http.StatusNotModified:
		b = append(date.AppendField(append(b, hotNotModified...), now), f.fields...)
	case http.StatusPartialContent:
		b = append(date.AppendField(append(b, hotPartial...), now), f.common...)
	default:
		b = append(date.AppendField(append(b, hotOK...), now), f.head...)
	}
	if a.hsts != "" {
		b = http1.AppendField(b, hstsField, a.hsts)
	}
	switch {
	case last:
		b = append(b, "Connection: close\r\n"...)
	case a.old:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	if a.ranges != "" {
		return a.appendParts(b)
	}
	if a.status == http.StatusPartialContent {
		b = http1.AppendField(b, "Content-Type", f.contentType)
		b = appendContentRange(b, a.start, a.length, f.size)
		b = http1.AppendContentLength(b, a.length)
	}
	b = append(b, "\r\n"...)
	if f.file != nil {
		return b // fromDisk
	}
	return append(b, f.body[a.start:a.start+a.length]...)
}

func appendContentRange(b []byte, start, length, size int64) []byte {
	b = append(b, "Content-Range: bytes "...)
	b = strconv.AppendInt(b, start, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, start+length-1, 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, size, 10)
	return append(b, "\r\n"...)
}

// appendParts appends the end of the head and a body of several parts (RFC 9110 §14.6). The boundary can't be foreseen by who
// has written the file. a.length becomes the length of the body.
func (a *hotAnswer) appendParts(b []byte) []byte {
	var boundary [32]byte
	for i := 0; i < len(boundary); i += 16 {
		n := rand.Uint64()
		for j := range 16 {
			boundary[i+j] = lowerHex[n>>(4*j)&15]
		}
	}
	b = append(b, "Content-Type: multipart/byteranges; boundary="...)
	b = append(append(b, boundary[:]...), "\r\n"...)
	mark := len(b)
	a.length = int64(len(a.appendEachPart(b, boundary[:])) - mark)
	b = http1.AppendContentLength(b, a.length)
	return a.appendEachPart(append(b, "\r\n"...), boundary[:])
}

func (a *hotAnswer) appendEachPart(b, boundary []byte) []byte {
	f := a.file
	between := "--"
	for rest := a.ranges; rest != ""; {
		var start, length int64
		if start, length, rest = nextRange(rest, f.size); length == 0 {
			continue
		}
		b = append(append(append(b, between...), boundary...), "\r\n"...)
		b = appendContentRange(b, start, length, f.size)
		b = append(http1.AppendField(b, "Content-Type", f.contentType), "\r\n"...)
		b = append(b, f.body[start:start+length]...)
		between = "\r\n--"
	}
	return append(append(append(b, between...), boundary...), "--\r\n"...)
}

// hotLoopBytes is how much of a file the loop itself sends.
const hotLoopBytes = 256 << 10

// fromDisk reports whether the body is sent by the kernel, from a file that has to be held meanwhile.
func (a *hotAnswer) fromDisk() bool { return a.file.file != nil && a.length > 0 }

// onLoop reports whether the body is to be sent by the loop, which must not wait for a disk: a file that was sent a moment ago is in
// the kernel's memory.
func (a *hotAnswer) onLoop(now time.Time) bool {
	return a.length <= hotLoopBytes && now.UnixNano()-a.file.sent.Load() < int64(hotAge)
}

// unchanged reports whether an open file is still the one whose head was made. What changes in place later is seen by the client
// as well: only a file that is replaced by renaming is always sent as one version.
func (f *hotFile) unchanged() bool {
	var st unix.Stat_t
	same := unix.Fstat(f.fd, &st) == nil && st.Size == f.identity.size && st.Mtim.Nano() == f.identity.mtime
	if !same {
		f.checked.Store(0) // the next request looks at the path
	}
	return same
}

// wasSent notes that all of the file has been read.
func (f *hotFile) wasSent(a *hotAnswer, now time.Time) {
	// Not each time: it is in the cache of every processor.
	if at := now.UnixNano(); a.length == f.size && at-f.sent.Load() > int64(hotAge/4) {
		f.sent.Store(at)
	}
}
