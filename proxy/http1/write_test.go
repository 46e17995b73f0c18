package http1

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAppend(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"a status", AppendStatusLine(nil, 404), "HTTP/1.1 404 Not Found\r\n"},
		{"a status without a phrase keeps the space", AppendStatusLine(nil, 299), "HTTP/1.1 299 \r\n"},
		{"status 0 becomes 500", AppendStatusLine(nil, 0), "HTTP/1.1 500 Internal Server Error\r\n"},
		{"status 99 becomes 500", AppendStatusLine(nil, 99), "HTTP/1.1 500 Internal Server Error\r\n"},
		{"status 1000 becomes 500", AppendStatusLine(nil, 1000), "HTTP/1.1 500 Internal Server Error\r\n"},
		{"status -1 becomes 500", AppendStatusLine(nil, -1), "HTTP/1.1 500 Internal Server Error\r\n"},

		{"a field", AppendField(nil, "X-A", "b\t\xc3\xa9"), "X-A: b\t\xc3\xa9\r\n"},
		{"an empty field", AppendField(nil, "X-A", ""), "X-A: \r\n"},
		{"what was there stays", AppendField([]byte("x"), "A", "b"), "xA: b\r\n"},
		{"a value with CR LF is dropped", AppendField(nil, "X-A", "b\r\nSet-Cookie: e=1"), ""},
		{"a value with CR is dropped", AppendField(nil, "X-A", "b\rSet-Cookie: e=1"), ""},
		{"a value with LF is dropped", AppendField(nil, "X-A", "b\nSet-Cookie: e=1"), ""},
		{"a value with NUL is dropped", AppendField(nil, "X-A", "b\x00"), ""},
		{"a value with ESC is dropped", AppendField(nil, "X-A", "b\x1b"), ""},
		{"a name with CR LF is dropped", AppendField(nil, "X\r\nY", "b"), ""},
		{"a name with a colon is dropped", AppendField(nil, "X:Y", "b"), ""},
		{"a name with a space is dropped", AppendField(nil, "X ", "b"), ""},
		{"no name is dropped", AppendField(nil, "", "b"), ""},

		{"a length", AppendContentLength(nil, 1<<40), "Content-Length: 1099511627776\r\n"},
		{"a length of zero", AppendContentLength(nil, 0), "Content-Length: 0\r\n"},
		{"an unknown length", AppendContentLength(nil, -1), ""},
		{"a chunk header", AppendChunkHeader(nil, 255), "ff\r\n"},
		{"no chunk header for nothing", AppendChunkHeader(nil, 0), ""},
		{"a chunk", AppendChunk(nil, []byte("hello")), "5\r\nhello\r\n"},
		{"no chunk for nothing", AppendChunk(nil, nil), ""},
		{"a date in another zone", AppendDate(nil, time.Date(1994, 11, 6, 9, 49, 37, 5, time.FixedZone("", 3600))), "Sun, 06 Nov 1994 08:49:37 GMT"},
	} {
		if string(tt.got) != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestAppendHeader(t *testing.T) {
	got := string(AppendHeader(nil, map[string][]string{
		"Set-Cookie":        {"a=1", "b=2", "c=3\r\nX: y"},
		"Content-Type":      {"text/html"},
		"Connection":        {"close"},
		"content-length":    {"5", "6"},
		"Transfer-Encoding": {"chunked"},
		"Keep-Alive":        {"timeout=5"},
		"Proxy-Connection":  {"close"},
		"Empty":             nil,
	}))
	lines := strings.SplitAfter(got, "\r\n")
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(a[:min(1, len(a))], b[:min(1, len(b))]) })
	if got, want := strings.Join(lines, ""), "Content-Type: text/html\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"; got != want {
		t.Errorf("AppendHeader, sorted: got %q, want %q", got, want)
	}
}

func TestStatusText(t *testing.T) {
	for status := range 1000 {
		if got, want := StatusText(status), http.StatusText(status); got != want {
			t.Errorf("StatusText(%d) = %q, want %q", status, got, want)
		}
	}
}

func TestDateCache(t *testing.T) {
	var c DateCache
	start := time.Date(2025, 12, 31, 23, 59, 58, 0, time.UTC)
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{
		{0, "Date: Wed, 31 Dec 2025 23:59:58 GMT\r\n"},
		{999 * time.Millisecond, "Date: Wed, 31 Dec 2025 23:59:58 GMT\r\n"},
		{2 * time.Second, "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"},
		{time.Second, "Date: Wed, 31 Dec 2025 23:59:59 GMT\r\n"},
	} {
		if got := string(c.AppendField(nil, start.Add(tt.after))); got != tt.want {
			t.Errorf("AppendField after %v = %q, want %q", tt.after, got, tt.want)
		}
	}
}

func TestDateCacheIsSharedByLoops(t *testing.T) {
	var c DateCache
	var loops sync.WaitGroup
	for range 4 {
		loops.Go(func() { // ends with its 1000 dates
			var buf []byte
			for i := range int64(1000) {
				now := time.Unix(i/100, 0)
				buf = c.AppendField(buf[:0], now)
				if want := "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"; string(buf) != want {
					t.Errorf("AppendField = %q, want %q", buf, want)
				}
			}
		})
	}
	loops.Wait()
}

func TestAppendDoesNotAllocate(t *testing.T) {
	var c DateCache
	now := time.Unix(1_750_000_000, 0)
	header := map[string][]string{"Content-Type": {"text/html"}, "Etag": {"\"1\""}}
	dst := c.AppendField(make([]byte, 0, 512), now)
	n := testing.AllocsPerRun(100, func() {
		dst = AppendStatusLine(dst[:0], 200)
		dst = c.AppendField(dst, now)
		dst = AppendHeader(dst, header)
		dst = AppendContentLength(dst, 1<<30)
		dst = AppendDate(dst, now)
		dst = AppendChunk(dst, []byte("hello"))
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
