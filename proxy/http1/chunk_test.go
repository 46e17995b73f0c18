package http1

import (
	"errors"
	"strings"
	"testing"
)

// readChunked feeds pieces of at most size bytes and returns the content and the length of the body's framing.
func readChunked(in []byte, size int) (content []byte, length int, done bool, err error) {
	var c ChunkReader
	for length < len(in) && !done && err == nil {
		for src := in[length:min(length+size, len(in))]; len(src) > 0 && !done && err == nil; {
			var data []byte
			var n int
			data, n, done, err = c.Next(src)
			content = append(content, data...)
			src = src[n:]
			length += n
		}
	}
	return content, length, done, err
}

func TestChunkReader(t *testing.T) {
	longExtension := ";" + strings.Repeat("x", MaxChunkLineBytes-len("5;\r\n"))
	for _, tt := range []struct {
		name    string
		in      string // what follows "|" is the next request
		want    string
		refused bool
	}{
		{"one chunk", "5\r\nhello\r\n0\r\n\r\n|", "hello", false},
		{"two chunks, then a request", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n|GET / HTTP/1.1\r\n", "hello!", false},
		{"no content", "0\r\n\r\n|x", "", false},
		{"a size in hex of both cases", "a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n|", "01234567890123456789a", false},
		{"leading zeros", "0005\r\nhello\r\n000\r\n\r\n|", "hello", false},
		{"an extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n|", "hello", false},
		{"an extension with tab and quotes", "5;a=\"b\t;c\"\r\nhello\r\n0\r\n\r\n|", "hello", false},
		{"content that looks like framing", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n|", "\r\n0\r\n\r\n", false},
		{"trailers", "0\r\nA: b\r\nContent-Length: 5\r\n\r\n|x", "", false},
		{"a trailer without value", "0\r\nA:\r\n\r\n|", "", false},
		{"a chunk line of 4 KiB", "5" + longExtension + "\r\nhello\r\n0\r\n\r\n|", "hello", false},
		{"100 trailers", "0\r\n" + strings.Repeat("A: b\r\n", MaxTrailers) + "\r\n|", "", false},
		{"trailers of 8 KiB", "0\r\nA:" + strings.Repeat("b", MaxTrailerBytes-4) + "\r\n\r\n|", "", false},

		{"a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size with plus", "+5\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size with minus", "-5\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size with underscore", "5_\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size behind a space", " 5\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size before a space", "5 \r\nhello\r\n0\r\n\r\n", "", true},
		{"a size before a space and an extension", "5 ;a\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size before a tab", "5\t\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size of other letters", "g\r\n", "", true},
		{"no size", "\r\nhello\r\n", "", true},
		{"no size before an extension", ";a\r\nhello\r\n", "", true},
		{"a size of 16 digits", "8000000000000000\r\n", "", true},
		{"a size of 2^64+5", "10000000000000005\r\nhello\r\n0\r\n\r\n", "", true},
		{"a size without end", strings.Repeat("0", 100), "", true},
		{"a size that ends in LF", "5\nhello\r\n0\r\n\r\n", "", true},
		{"a size that ends in CR", "5\rhello\r\n0\r\n\r\n", "", true},
		{"an extension with LF", "5;\nX\r\nhello\r\n0\r\n\r\n", "", true},
		{"an extension with CR", "5;a\rX\r\nhello\r\n0\r\n\r\n", "", true},
		{"an extension with NUL", "5;a\x00\r\nhello\r\n0\r\n\r\n", "", true},
		{"an extension with DEL", "5;a\x7f\r\nhello\r\n0\r\n\r\n", "", true},
		{"a chunk line of 4 KiB and a byte", "5" + longExtension + "x\r\nhello\r\n0\r\n\r\n", "", true},
		{"an extension of 64 KiB", "5;" + strings.Repeat("x", 64<<10) + "\r\nhello\r\n0\r\n\r\n", "", true},
		{"extensions that add up", strings.Repeat("1;"+strings.Repeat("x", 4000)+"\r\na\r\n", 5), "aaaa", true},
		{"content that is too long", "5\r\nhello!\r\n0\r\n\r\n", "hello", true},
		{"content that is too short", "5\r\nhell\r\n0\r\n\r\n", "hell\r", true},
		{"content that ends in LF", "5\r\nhello\n0\r\n\r\n", "hello", true},
		{"content that ends in CR", "5\r\nhello\r0\r\n\r\n", "hello", true},
		{"content spilled over the last chunk", "0\r\nhello\r\n\r\n", "", true},
		{"a last line that ends in LF", "0\r\n\n", "", true},
		{"a last line that ends in CR", "0\r\n\rX", "", true},
		{"a last chunk that ends in LF", "0\n\r\n", "", true},
		{"a trailer that ends in LF", "0\r\nA: b\n\r\n", "", true},
		{"a trailer that ends in CR", "0\r\nA: b\rX: y\r\n\r\n", "", true},
		{"a trailer with NUL", "0\r\nA: \x00\r\n\r\n", "", true},
		{"a trailer without colon", "0\r\nA\r\n\r\n", "", true},
		{"a trailer without name", "0\r\n: b\r\n\r\n", "", true},
		{"a trailer with a space before the colon", "0\r\nA : b\r\n\r\n", "", true},
		{"a folded trailer", "0\r\nA: b\r\n c\r\n\r\n", "", true},
		{"a space before the first trailer", "0\r\n A: b\r\n\r\n", "", true},
		{"101 trailers", "0\r\n" + strings.Repeat("A: b\r\n", MaxTrailers+1) + "\r\n", "", true},
		{"2000 trailers", "0\r\n" + strings.Repeat("A: b\r\n", 2000) + "\r\n", "", true},
		{"trailers of 8 KiB and a byte", "0\r\nA:" + strings.Repeat("b", MaxTrailerBytes-3) + "\r\n\r\n", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := strings.Replace(tt.in, "|", "", 1)
			wantLength := strings.Index(tt.in, "|")
			for _, size := range []int{1, 2, 3, len(in)} {
				content, length, done, err := readChunked([]byte(in), size)
				var refusal *Error
				if errors.As(err, &refusal) != tt.refused || refusal != nil && refusal.Status != 400 || done == tt.refused {
					t.Errorf("in pieces of %d: done %v, error %v; want refused %v", size, done, err, tt.refused)
				}
				if string(content) != tt.want {
					t.Errorf("in pieces of %d: content %q, want %q", size, content, tt.want)
				}
				if !tt.refused && length != wantLength {
					t.Errorf("in pieces of %d: length %d, want %d", size, length, wantLength)
				}
			}
		})
	}
}

func TestChunkReaderWaits(t *testing.T) {
	const body = "5;x\r\nhello\r\n0\r\nA: b\r\n\r\n"
	for i := range body {
		_, length, done, err := readChunked([]byte(body[:i]), i+1)
		if done || err != nil || length != i {
			t.Errorf("Next(%q) took %d, done %v, error %v; want all of it and more", body[:i], length, done, err)
		}
	}
}

func TestChunkReaderStaysAtItsEnd(t *testing.T) {
	for _, in := range []string{"0\r\n\r\n", "x"} {
		var c ChunkReader
		_, _, wantDone, wantErr := c.Next([]byte(in))
		data, n, done, err := c.Next([]byte("5\r\nhello"))
		if len(data) > 0 || n != 0 || done != wantDone || !errors.Is(err, wantErr) {
			t.Errorf("Next behind %q = %q, %d, %v, %v; want nothing, 0, %v, %v", in, data, n, done, err, wantDone, wantErr)
		}
	}
}

func TestChunkReaderDoesNotAllocate(t *testing.T) {
	body := []byte("5;x\r\nhello\r\n0\r\nA: b\r\n\r\n")
	n := testing.AllocsPerRun(100, func() {
		var c ChunkReader
		for src := body; len(src) > 0; {
			_, n, _, _ := c.Next(src)
			src = src[n:]
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
