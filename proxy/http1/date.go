package http1

import (
	"sync/atomic"
	"time"
)

const dateForm = "Mon, 02 Jan 2006 15:04:05 GMT" // IMF-fixdate, RFC 9110 §5.6.7

// AppendDate appends t as an HTTP date.
func AppendDate(dst []byte, t time.Time) []byte { return t.UTC().AppendFormat(dst, dateForm) }

// DateCache writes the Date field and formats the time only once a second, which is also the only time it allocates.
// The zero value is ready for use. Safe for concurrent use.
type DateCache struct {
	last atomic.Pointer[dateLine]
}

// dateLine is immutable.
type dateLine struct {
	second int64 // Unix time
	line   []byte
}

// AppendField appends "Date: …" CRLF for the second of now.
func (c *DateCache) AppendField(dst []byte, now time.Time) []byte {
	second := now.Unix()
	d := c.last.Load()
	if d == nil || d.second != second {
		line := append(AppendDate([]byte("Date: "), now), "\r\n"...)
		d = &dateLine{second: second, line: line}
		c.last.Store(d)
	}
	return append(dst, d.line...)
}
