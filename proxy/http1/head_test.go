package http1

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// get builds a request around some field lines, each with its CRLF.
func get(fields ...string) string {
	return "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Join(fields, "") + "\r\n"
}

// served is the status of a head that is accepted.
const served = 200

// incomplete is the status of a head that lacks bytes and has no fault so far.
const incomplete = 100

func statusOf(t *testing.T, n int, err error) int {
	t.Helper()
	var e *Error
	switch {
	case errors.As(err, &e):
		if n != 0 {
			t.Errorf("error %v with n = %d, want 0", err, n)
		}
		return e.Status
	case err != nil:
		t.Fatalf("error %v is not an *Error", err)
	case n == 0:
		return incomplete
	}
	return served
}

// checkStatus parses in all at once and in pieces.
func checkStatus(t *testing.T, in string, want int) {
	t.Helper()
	var h Head
	n, err := h.Parse([]byte(in))
	if got := statusOf(t, n, err); got != want {
		t.Errorf("Parse(%.300q) = %d, %v; want status %d", in, n, err, want)
	}
	n, err = parseInPieces(&h, []byte(in), 1+len(in)/1024)
	if got := statusOf(t, n, err); got != want {
		t.Errorf("Resume(%.300q), in pieces = %d, %v; want status %d", in, n, err, want)
	}
}

// parseInPieces gives h size more bytes at a time.
func parseInPieces(h *Head, in []byte, size int) (n int, err error) {
	h.Reset()
	for end := 0; end < len(in) && n == 0 && err == nil; {
		end = min(end+size, len(in))
		n, err = h.Resume(in[:end])
	}
	return n, err
}

// TestRefusals has one group for each line of the table of what a server must refuse.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		in     string
		status int
	}{
		// Line ends.
		{"bare LF ends the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
		{"bare LF ends a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
		{"bare LF ends the head", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		{"bare LF everywhere", "GET / HTTP/1.1\nHost: a\n\n", 400},
		{"bare CR ends the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n", 400},
		{"bare CR ends a field", "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400},
		{"bare CR at the end of the head", "GET / HTTP/1.1\r\nHost: a\r\n\rX", 400},
		{"CR CR LF ends a field", get("X: b\r\r\n"), 400},
		{"CR CR LF ends the request line", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400},

		// Empty lines before the request line.
		{"one empty line first is skipped", "\r\n" + get(), served},
		{"two empty lines first", "\r\n\r\n" + get(), 400},
		{"a bare LF first", "\n" + get(), 400},
		{"a bare CR first", "\r" + get(), 400},

		// Request line.
		{"two spaces behind the method", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"two spaces behind the target", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"tab behind the method", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"tab behind the target", "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"trailing space", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
		{"trailing tab", "GET / HTTP/1.1\t\r\nHost: a\r\n\r\n", 400},
		{"leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"empty target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"control in the target", "GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"DEL in the target", "GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"NUL in the target", "GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"byte 0x80 in the target", "GET /a\x80b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"byte 0xff in the target", "GET /a\xffb HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"fragment in the target", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"escape without digits", "GET /% HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"escape with one digit", "GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"escape with other letters", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"escape of an escape", "GET /%%32%65 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"bad escape in the query", "GET /?c=%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"escaped NUL", "GET /a%00.php HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"escaped NUL in the query", "GET /?%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"escape of another byte", "GET /%2e%C3%a9?%0a HTTP/1.1\r\nHost: a\r\n\r\n", served},

		// Version.
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", served},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", served},
		{"HTTP/1.9 needs Host like 1.1", "GET / HTTP/1.9\r\n\r\n", 400},
		{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
		{"HTTP/9.9", "GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505},
		{"HTTP/0.9", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400},
		{"HTTP/0.9 without a version", "GET /\r\n", 400},
		{"HTTP/1", "GET / HTTP/1\r\nHost: a\r\n\r\n", 400},
		{"HTTP/1.", "GET / HTTP/1.\r\nHost: a\r\n\r\n", 400},
		{"HTTP/1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
		{"HTTP/01.1", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400},
		{"HTTP/+1.1", "GET / HTTP/+1.1\r\nHost: a\r\n\r\n", 400},
		{"HTTP 1.1", "GET / HTTP 1.1\r\nHost: a\r\n\r\n", 400},
		{"http/1.1", "GET / http/1.1\r\nHost: a\r\n\r\n", 400},
		{"ICAP/1.1", "GET / ICAP/1.1\r\nHost: a\r\n\r\n", 400},

		// Method.
		{"a method nobody knows", "BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 501},
		{"a method in lower case", "get / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
		{"a method with a known beginning", "GETX / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
		{"a method without end", strings.Repeat("A", 100), 501},
		{"TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405},
		{"CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405},
		{"no method", " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"a method that is not a token", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"a method with NUL", "GET\x00 / HTTP/1.1\r\nHost: a\r\n\r\n", 400},

		// Forms of the target.
		{"absolute-form with http", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", served},
		{"absolute-form with https and port", "GET HTTPS://a:443/ HTTP/1.1\r\nHost: A:443\r\n\r\n", served},
		{"absolute-form with another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"absolute-form with a scheme that begins well", "GET httpx://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"absolute-form with another host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"absolute-form with another port", "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"absolute-form without host", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"absolute-form with userinfo", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"absolute-form without Host", "GET http://a/ HTTP/1.1\r\n\r\n", 400},
		{"absolute-form without Host in 1.0", "GET http://a/ HTTP/1.0\r\n\r\n", served},
		{"absolute-form cut short", "GET http HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"authority-form", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"a target with userinfo only", "GET @192.0.2.1/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"a target without slash", "GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"* with OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", served},
		{"* with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"* with something behind", "OPTIONS */a HTTP/1.1\r\nHost: a\r\n\r\n", 400},

		// Host.
		{"no Host in 1.1", "GET / HTTP/1.1\r\n\r\n", 400},
		{"two Hosts", get("Host: b\r\n"), 400},
		{"two equal Hosts", get("Host: a\r\n"), 400},
		{"two Hosts in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n", 400},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
		{"empty Host in 1.0", "GET / HTTP/1.0\r\nHost: \r\n\r\n", 400},
		{"NUL in Host", "GET / HTTP/1.1\r\nHost: a\x00.evil\r\n\r\n", 400},
		{"a space before the colon of Host", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},

		// Field syntax.
		{"space before the colon", get("X : b\r\n"), 400},
		{"tab before the colon", get("X\t: b\r\n"), 400},
		{"name with a space", get("X Y: b\r\n"), 400},
		{"name with a byte 0xff", get("X\xff: b\r\n"), 400},
		{"name with NUL", get("X\x00: b\r\n"), 400},
		{"name with a parenthesis", get("X(: b\r\n"), 400},
		{"no colon", get("X\r\n"), 400},
		{"no name", get(": b\r\n"), 400},
		{"space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
		{"tab before the first field", "GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", 400},
		{"folded line with a space", get("X: b\r\n c\r\n"), 400},
		{"folded line with a tab", get("X: b\r\n\tc\r\n"), 400},
		{"folded line of white space only", get("X: b\r\n \r\n"), 400},
		{"value with NUL", get("X: a\x00b\r\n"), 400},
		{"value with CR", get("X: a\rTransfer-Encoding: chunked\r\n"), 400},
		{"value with LF", get("X: a\nTransfer-Encoding: chunked\r\n"), 400},
		{"value with a vertical tab", get("X: a\x0bb\r\n"), 400},
		{"value with DEL", get("X: a\x7fb\r\n"), 400},
		{"value with a control behind eight bytes", get("X: 0123456789\x1fb\r\n"), 400},
		{"value with a tab", get("X: a\tb\r\n"), served},
		{"value with bytes from 0x80 to 0xff", get("X: \x80\xc3\xa9\xff\r\n"), served},
		{"empty value", get("X:\r\n"), served},
		{"name with all token characters", get("!#$%&'*+-.^_`|~09azAZ: b\r\n"), served},

		// Content-Length.
		{"Content-Length", get("Content-Length: 5\r\n"), served},
		{"Content-Length with leading zeros", get("Content-Length: 0000000000000000000005\r\n"), served},
		{"Content-Length of 2^63-1", get("Content-Length: 9223372036854775807\r\n"), served},
		{"Content-Length with plus", get("Content-Length: +5\r\n"), 400},
		{"Content-Length with minus", get("Content-Length: -1\r\n"), 400},
		{"Content-Length in hex", get("Content-Length: 0x5\r\n"), 400},
		{"Content-Length with underscore", get("Content-Length: 1_0\r\n"), 400},
		{"Content-Length with space", get("Content-Length: 1 0\r\n"), 400},
		{"Content-Length with point", get("Content-Length: 5.0\r\n"), 400},
		{"Content-Length with exponent", get("Content-Length: 1e1\r\n"), 400},
		{"Content-Length in other digits", get("Content-Length: \xd9\xa5\r\n"), 400},
		{"Content-Length empty", get("Content-Length:\r\n"), 400},
		{"Content-Length list", get("Content-Length: 5,6\r\n"), 400},
		{"Content-Length list of equals", get("Content-Length: 5, 5\r\n"), 400},
		{"two Content-Lengths", get("Content-Length: 5\r\nContent-Length: 6\r\n"), 400},
		{"two equal Content-Lengths", get("Content-Length: 5\r\ncontent-length: 5\r\n"), 400},
		{"two Content-Lengths of zero", get("Content-Length: 0\r\nContent-Length: 0\r\n"), 400},
		{"Content-Length of 2^63", get("Content-Length: 9223372036854775808\r\n"), 400},
		{"Content-Length of 2^64", get("Content-Length: 18446744073709551616\r\n"), 400},
		{"Content-Length of 2^64+5", get("Content-Length: 18446744073709551621\r\n"), 400},
		{"Content-Length of 100 digits", get("Content-Length: " + strings.Repeat("9", 100) + "\r\n"), 400},
		{"Content-Length with a space before the colon", get("Content-Length : 5\r\n"), 400},

		// Transfer-Encoding and Content-Length.
		{"chunked", get("Transfer-Encoding: chunked\r\n"), served},
		{"Chunked in any case", get("TRANSFER-ENCODING: \tCHUNKed \r\n"), served},
		{"Content-Length, then chunked", get("Content-Length: 44\r\nTransfer-Encoding: chunked\r\n"), 400},
		{"chunked, then Content-Length", get("Transfer-Encoding: chunked\r\nContent-Length: 44\r\n"), 400},
		{"chunked with Content-Length: 0", get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400},
		{"an unknown coding with Content-Length", get("Content-Length: 4\r\nTransfer-Encoding: x\r\n"), 400},
		{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"chunked twice", get("Transfer-Encoding: chunked, chunked\r\n"), 400},
		{"chunked twice in two fields", get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400},
		{"chunked, then identity", get("Transfer-Encoding: chunked, identity\r\n"), 400},
		{"chunked, then identity in two fields", get("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400},
		{"chunked, then gzip", get("Transfer-Encoding: chunked, gzip\r\n"), 400},
		{"chunked with parameter", get("Transfer-Encoding: chunked;q=1\r\n"), 400},
		{"chunked with spaced parameter", get("Transfer-Encoding: chunked ; q=1\r\n"), 400},
		{"chunked with empty parameter", get("Transfer-Encoding: chunked;\r\n"), 400},

		// Transfer-Encoding in disguise.
		{"a coding with VT before", get("Transfer-Encoding: \x0bchunked\r\n"), 400},
		{"a coding with FF behind", get("Transfer-Encoding: chunked\x0c\r\n"), 400},
		{"a coding with NUL behind", get("Transfer-Encoding: chunked\x00\r\n"), 400},
		{"a coding with CR before", get("Transfer-Encoding: \rchunked\r\n"), 400},
		{"a coding with LF before", get("Transfer-Encoding:\nchunked\r\n"), 400},
		{"a coding with 0xff behind", get("Transfer-Encoding: chunked\xff\r\n"), 400},
		{"a coding with 0xa0 before", get("Transfer-Encoding: \xa0chunked\r\n"), 400},
		{"an empty element before", get("Transfer-Encoding: ,chunked\r\n"), 400},
		{"an empty element behind", get("Transfer-Encoding: chunked,\r\n"), 400},
		{"no coding", get("Transfer-Encoding:\r\n"), 400},
		{"no coding, then chunked", get("Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n"), 400},
		{"quoted", get("Transfer-Encoding: \"chunked\"\r\n"), 400},
		{"single-quoted", get("Transfer-Encoding: 'chunked'\r\n"), 501},
		{"cut by a space", get("Transfer-Encoding: chun ked\r\n"), 400},
		{"two words", get("Transfer-Encoding: x chunked\r\n"), 400},
		{"separated by a semicolon", get("Transfer-Encoding: identity;chunked\r\n"), 501},
		{"folded", get("Transfer-Encoding:\r\n chunked\r\n"), 400},
		{"folded with a tab", get("Transfer-Encoding: x\r\n\tchunked\r\n"), 501},
		{"folded behind", get("Transfer-Encoding: chunked\r\n , x\r\n"), 400},
		{"name with space behind", get("Transfer-Encoding : chunked\r\n"), 400},
		{"name with tab behind", get("Transfer-Encoding\t: chunked\r\n"), 400},
		{"name with 0xff behind", get("Transfer-Encoding\xff: chunked\r\n"), 400},
		{"name with NUL behind", get("Transfer-Encoding\x00: chunked\r\n"), 400},
		{"name with CR behind", get("Transfer-Encoding\r: chunked\r\n"), 400},
		{"name with space before", get(" Transfer-Encoding: chunked\r\n"), 400},
		{"name with VT before", get("\x0bTransfer-Encoding: chunked\r\n"), 400},
		{"name without colon", get("Transfer-Encoding chunked\r\n"), 400},
		{"name with a newline in", get("Transfer\r\n-Encoding: chunked\r\n"), 400},
		{"hidden behind bare LF", get("X: y\nTransfer-Encoding: chunked\r\n"), 400},
		{"hidden behind bare CR", get("X: y\rTransfer-Encoding: chunked\r\n"), 400},

		// Other codings.
		{"identity", get("Transfer-Encoding: identity\r\n"), 501},
		{"gzip", get("Transfer-Encoding: gzip\r\n"), 501},
		{"gzip, then chunked", get("Transfer-Encoding: gzip, chunked\r\n"), 501},
		{"identity, then chunked in two fields", get("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"), 501},
		{"xchunked", get("Transfer-Encoding: xchunked\r\n"), 501},
		{"chunkedx", get("Transfer-Encoding: chunkedx\r\n"), 501},
		{"chunk", get("Transfer-Encoding: chunk\r\n"), 501},

		// Limits.
		{"a target of 8000 bytes", "GET /" + strings.Repeat("a", 7999) + " HTTP/1.1\r\nHost: a\r\n\r\n", served},
		{"a target of 8 KiB", "GET /" + strings.Repeat("a", MaxTargetBytes-1) + " HTTP/1.1\r\nHost: a\r\n\r\n", served},
		{"a target of 8 KiB and a byte", "GET /" + strings.Repeat("a", MaxTargetBytes) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
		{"a field of 8 KiB", get("X: " + strings.Repeat("a", MaxFieldBytes-3) + "\r\n"), served},
		{"a field of 8 KiB and a byte", get("X: " + strings.Repeat("a", MaxFieldBytes-2) + "\r\n"), 431},
		{"a field of 8 KiB and two bytes", get("X: " + strings.Repeat("a", MaxFieldBytes-1) + "\r\n"), 431},
		{"a field name of 8 KiB", get(strings.Repeat("a", MaxFieldBytes+2) + ": b\r\n"), 431},
		{"100 fields", get(strings.Repeat("X: b\r\n", MaxFields-1)), served},
		{"101 fields", get(strings.Repeat("X: b\r\n", MaxFields)), 431},
		{"a head of 64 KiB", headOf(MaxHeadBytes), served},
		{"a head of 64 KiB and a byte", headOf(MaxHeadBytes + 1), 431},
		{"a head of 70 KiB", headOf(70 << 10), 431},

		// Expect.
		{"100-continue", get("Expect: 100-Continue\r\n"), served},
		{"another expectation", get("Expect: x\r\n"), 417},
		{"two expectations", get("Expect: 100-continue, x\r\n"), 417},
		{"no expectation", get("Expect:\r\n"), 417},

		// TLS.
		{"a TLS hello", "\x16\x03\x01\x02\x00\x01", 0},
		{"the first byte of a TLS hello", "\x16", 0},
		{"a TLS hello behind an empty line", "\r\n\x16\x03\x01", 400},
	} {
		t.Run(tt.name, func(t *testing.T) { checkStatus(t, tt.in, tt.status) })
	}
}

// headOf returns a valid head of n bytes.
func headOf(n int) string {
	var b strings.Builder
	b.WriteString("GET / HTTP/1.1\r\nHost: a\r\n")
	for n -= len("\r\n"); b.Len() < n; {
		left := n - b.Len()
		value := min(left, 8000) - len("X: \r\n")
		if left > 8000 && left < 8100 {
			value -= 100 // leaves room for another line
		}
		b.WriteString("X: " + strings.Repeat("a", value) + "\r\n")
	}
	return b.String() + "\r\n"
}

func TestRefusesBeforeTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		in     string
		status int
	}{
		{"nothing yet", "", incomplete},
		{"a CR may begin an empty line", "\r", incomplete},
		{"a space can't begin a request", " ", 400},
		{"a NUL can't begin a method", "\x00", 400},
		{"a method may become a known one", "GE", incomplete},
		{"an unknown method is unknown at its space", "FOO ", 501},
		{"a target must begin like one", "GET x", 400},
		{"a target may become absolute", "GET h", incomplete},
		{"a control ends the patience with a target", "GET /\x01", 400},
		{"a bad escape shows at the end of the target", "GET /%zz ", 400},
		{"a target beyond the limit needs no end", "GET /" + strings.Repeat("a", MaxTargetBytes), 414},
		{"a target at the limit may end", "GET /" + strings.Repeat("a", MaxTargetBytes-1), incomplete},
		{"a version must begin like one", "GET / h", 400},
		{"a major version shows with the line", "GET / HTTP/3.0\r\n", 505},
		{"a version may get its LF", "GET / HTTP/1.1\r", incomplete},
		{"a field name ends at a bad byte", "GET / HTTP/1.1\r\nHo st", 400},
		{"a field may get its LF", "GET / HTTP/1.1\r\nHost: a\r", incomplete},
		{"a control in a value needs no line end", "GET / HTTP/1.1\r\nHost: a\x00", 400},
		{"a bad length needs no end of the head", "GET / HTTP/1.1\r\nContent-Length: x\r\n", 400},
		{"a fold shows with its first byte", "GET / HTTP/1.1\r\nX: a\r\n ", 400},
		{"a field beyond the limit needs no end", "GET / HTTP/1.1\r\nX:" + strings.Repeat("a", MaxFieldBytes), 431},
		{"the 101st field needs one byte", "GET / HTTP/1.1\r\n" + strings.Repeat("X: b\r\n", MaxFields) + "X", 431},
		{"a full buffer can't become a head", headOf(MaxHeadBytes + 1)[:MaxHeadBytes], 431},
		{"a buffer with room may", headOf(MaxHeadBytes)[:MaxHeadBytes-1], incomplete},
	} {
		t.Run(tt.name, func(t *testing.T) { checkStatus(t, tt.in, tt.status) })
	}
}

func TestKnownMethods(t *testing.T) {
	for _, method := range strings.Fields("GET HEAD POST PUT PATCH DELETE OPTIONS PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK" +
		" VERSION-CONTROL REPORT CHECKOUT CHECKIN UNCHECKOUT MKWORKSPACE UPDATE LABEL MERGE BASELINE-CONTROL MKACTIVITY" +
		" ACL SEARCH ORDERPATCH BIND UNBIND REBIND MKCALENDAR") {
		t.Run(method, func(t *testing.T) { checkStatus(t, method+" / HTTP/1.1\r\nHost: a\r\n\r\n", served) })
	}
	for method := range strings.SplitSeq(Allow, ", ") {
		if err := checkMethod([]byte(method)); err != nil {
			t.Errorf("checkMethod(%q) = %v, but Allow names it", method, err)
		}
	}
}

// want is a Head with strings, "-" for nil.
type want struct {
	method, target, path, query, host string
	fields                            []string
}

func gotHead(h *Head) want {
	text := func(b []byte) string {
		if b == nil {
			return "-"
		}
		return string(b)
	}
	w := want{text(h.Method), text(h.Target), text(h.Path), text(h.Query), text(h.Host), nil}
	for _, f := range h.Fields {
		w.fields = append(w.fields, string(f.Name)+"="+string(f.Value))
	}
	return w
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   string
		want want
	}{
		{"origin-form", "GET /a/b HTTP/1.1\r\nHost: a\r\n\r\n",
			want{"GET", "/a/b", "/a/b", "-", "a", []string{"Host=a"}}},
		{"a query", "GET /a?b=1?c HTTP/1.1\r\nHost: a\r\n\r\n",
			want{"GET", "/a?b=1?c", "/a", "b=1?c", "a", []string{"Host=a"}}},
		{"an empty query", "GET /a? HTTP/1.1\r\nHost: a\r\n\r\n",
			want{"GET", "/a?", "/a", "", "a", []string{"Host=a"}}},
		{"two slashes are a path, not a host", "GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n",
			want{"GET", "//b/c", "//b/c", "-", "a", []string{"Host=a"}}},
		{"absolute-form wins over Host", "GET http://A:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n",
			want{"GET", "http://A:80/x?y", "/x", "y", "A:80", []string{"Host=a:80"}}},
		{"absolute-form without path", "GET https://a HTTP/1.1\r\nHost: a\r\n\r\n",
			want{"GET", "https://a", "/", "-", "a", []string{"Host=a"}}},
		{"absolute-form without path, with query", "GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
			want{"GET", "http://a?x", "/", "x", "a", []string{"Host=a"}}},
		{"asterisk-form", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
			want{"OPTIONS", "*", "*", "-", "a", []string{"Host=a"}}},
		{"1.0 without Host", "GET / HTTP/1.0\r\n\r\n", want{"GET", "/", "/", "-", "-", nil}},
		{"white space around values", get("A:b\r\nB: \t b\tc \t\r\nC: \r\n"),
			want{"GET", "/", "/", "-", "a", []string{"Host=a", "A=b", "B=b\tc", "C="}}},
		{"an empty line first", "\r\n" + get(), want{"GET", "/", "/", "-", "a", []string{"Host=a"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h Head
			n, err := h.Parse([]byte(tt.in + "GET /next"))
			if n != len(tt.in) || err != nil {
				t.Fatalf("Parse(%q) = %d, %v; want %d", tt.in, n, err, len(tt.in))
			}
			if got := gotHead(&h); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Parse(%q):\n got %q\nwant %q", tt.in, got, tt.want)
			}
			if h.HasQuery != (tt.want.query != "-") {
				t.Errorf("HasQuery = %v", h.HasQuery)
			}
		})
	}
}

func TestConclusions(t *testing.T) {
	type conclusions struct {
		Minor                                           int
		ContentLength                                   int64
		Chunked, HasBody, KeepAlive, Expect100, Upgrade bool
	}
	for _, tt := range []struct {
		name string
		in   string
		want conclusions
	}{
		{"1.1 stays", get(), conclusions{1, -1, false, false, true, false, false}},
		{"1.7 is 1.1", "GET / HTTP/1.7\r\nHost: a\r\n\r\n", conclusions{1, -1, false, false, true, false, false}},
		{"1.1 closes when asked", get("Connection: x, CLOSE\r\n"), conclusions{1, -1, false, false, false, false, false}},
		{"close beats keep-alive", get("Connection: close\r\nConnection: keep-alive\r\n"), conclusions{1, -1, false, false, false, false, false}},
		{"an option that contains close is another one", get("Connection: disclose\r\n"), conclusions{1, -1, false, false, true, false, false}},
		{"1.0 closes", "GET / HTTP/1.0\r\n\r\n", conclusions{0, -1, false, false, false, false, false}},
		{"1.0 stays when asked", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", conclusions{0, -1, false, false, true, false, false}},
		{"1.0 with both closes", "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", conclusions{0, -1, false, false, false, false, false}},
		{"a body with length", get("Content-Length: 12\r\n"), conclusions{1, 12, false, true, true, false, false}},
		{"an empty body", get("Content-Length: 0\r\n"), conclusions{1, 0, false, false, true, false, false}},
		{"a chunked body", get("Transfer-Encoding: chunked\r\n"), conclusions{1, -1, true, true, true, false, false}},
		{"expectation with a body", get("Content-Length: 12\r\nExpect: 100-continue\r\n"), conclusions{1, 12, false, true, true, true, false}},
		{"expectation before the length", get("Expect: 100-continue\r\nContent-Length: 12\r\n"), conclusions{1, 12, false, true, true, true, false}},
		{"expectation without a body", get("Expect: 100-continue\r\n"), conclusions{1, -1, false, false, true, false, false}},
		{"expectation in 1.0", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", conclusions{0, 1, false, true, false, false, false}},
		{"upgrade", get("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"), conclusions{1, -1, false, false, true, false, true}},
		{"upgrade that Connection does not name", get("Upgrade: websocket\r\n"), conclusions{1, -1, false, false, true, false, false}},
		{"upgrade without the field", get("Connection: upgrade\r\n"), conclusions{1, -1, false, false, true, false, false}},
		{"upgrade in 1.0", "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", conclusions{0, -1, false, false, false, false, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h Head
			if n, err := h.Parse([]byte(tt.in)); n != len(tt.in) || err != nil {
				t.Fatalf("Parse(%q) = %d, %v; want %d", tt.in, n, err, len(tt.in))
			}
			got := conclusions{h.Minor, h.ContentLength, h.Chunked, h.HasBody(), h.KeepAlive, h.Expect100, h.Upgrade}
			if got != tt.want {
				t.Errorf("Parse(%q):\n got %+v\nwant %+v", tt.in, got, tt.want)
			}
		})
	}
}

func TestConditionalFields(t *testing.T) {
	var h Head
	mustParse(t, &h, get("if-match: 1\r\nIF-NONE-MATCH: 2\r\nIf-Modified-Since: 3\r\nIf-Unmodified-Since: 4\r\nRange: 5\r\nIf-Range: 6\r\n",
		"If-None-Match: again\r\n"))
	got := fmt.Sprintf("%s %s %s %s %s %s", h.IfMatch, h.IfNoneMatch, h.IfModifiedSince, h.IfUnmodifiedSince, h.Range, h.IfRange)
	if want := "1 2 3 4 5 6"; got != want {
		t.Errorf("conditional fields %q, want %q", got, want)
	}
	mustParse(t, &h, get("Range:\r\n"))
	if h.Range == nil || len(h.Range) > 0 || h.IfRange != nil || h.IfMatch != nil {
		t.Errorf("Range = %q, want empty but not nil; IfRange = %q, IfMatch = %q, want nil", h.Range, h.IfRange, h.IfMatch)
	}
}

func mustParse(t testing.TB, h *Head, in string) {
	t.Helper()
	if n, err := h.Parse([]byte(in)); n != len(in) || err != nil {
		t.Fatalf("Parse(%q) = %d, %v; want %d", in, n, err, len(in))
	}
}

func TestGet(t *testing.T) {
	var h Head
	mustParse(t, &h, get("X-A: 1\r\nx-a: 2\r\nX-B:\r\n"))
	for name, want := range map[string]string{"x-A": "1", "X-B": "", "HOST": "a"} {
		if got := h.Get(name); got == nil || string(got) != want {
			t.Errorf("Get(%q) = %q, want %q", name, got, want)
		}
	}
	if got := h.Get("X"); got != nil {
		t.Errorf("Get of an absent field = %q, want nil", got)
	}
}

// TestNothingIsLeft parses a small head after a rich one.
func TestNothingIsLeft(t *testing.T) {
	var used, fresh Head
	mustParse(t, &used, "POST http://a/?q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n"+
		"Connection: close, keep-alive, upgrade\r\nUpgrade: x\r\nRange: y\r\nIf-Range: z\r\nIf-None-Match: u\r\n\r\n")
	small := []byte("GET / HTTP/1.0\r\n\r\n")
	for _, h := range []*Head{&used, &fresh} {
		if n, err := h.Parse(small); n != len(small) || err != nil {
			t.Fatalf("Parse = %d, %v", n, err)
		}
		h.Fields = nil
	}
	if !reflect.DeepEqual(used, fresh) {
		t.Errorf("used head:\n got %+v\nwant %+v", used, fresh)
	}
}

func TestResume(t *testing.T) {
	in := []byte(get("Content-Length: 5\r\n", "X: y\r\n") + "hello")
	length := len(in) - len("hello")

	t.Run("goes on where lines were complete", func(t *testing.T) {
		var h Head
		buf := append([]byte(nil), in...)
		if n, err := h.Parse(buf[:length-3]); n != 0 || err != nil {
			t.Fatalf("Parse of a part = %d, %v", n, err)
		}
		copy(buf, "XXXX") // a line that is not read again
		if n, err := h.Resume(buf); n != length || err != nil {
			t.Errorf("Resume = %d, %v; want %d", n, err, length)
		}
	})
	t.Run("begins afresh in another buffer", func(t *testing.T) {
		var h Head
		for i := range in {
			buf := append(make([]byte, 0, len(in)), in[:i]...)
			n, err := h.Resume(buf)
			if want := i >= length; err != nil || (n > 0) != want {
				t.Fatalf("Resume of %d bytes = %d, %v", i, n, err)
			}
			if n > 0 {
				break
			}
		}
		if h.ContentLength != 5 || len(h.Fields) != 3 {
			t.Errorf("ContentLength %d, %d fields; want 5, 3", h.ContentLength, len(h.Fields))
		}
	})
	t.Run("begins afresh behind a result", func(t *testing.T) {
		var h Head
		mustParse(t, &h, string(in[:length]))
		for range 2 {
			if n, err := h.Resume(in); n != length || err != nil || len(h.Fields) != 3 {
				t.Errorf("Resume = %d, %v with %d fields; want %d with 3", n, err, len(h.Fields), length)
			}
		}
	})
}

func TestPipelined(t *testing.T) {
	buf := []byte(strings.Repeat(get(), 3))
	var h Head
	count := 0
	for len(buf) > 0 {
		n, err := h.Parse(buf)
		if n == 0 || err != nil {
			t.Fatalf("Parse(%q) = %d, %v", buf, n, err)
		}
		buf = buf[n:]
		count++
	}
	if count != 3 {
		t.Errorf("%d requests, want 3", count)
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	buf := []byte(browserHead)
	var h Head
	mustParse(t, &h, browserHead)
	if n := testing.AllocsPerRun(100, func() { _, _ = h.Parse(buf) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestErrorText(t *testing.T) {
	for status, want := range map[int]string{
		0:   "connection refused: why",
		431: "request refused with 431: why",
	} {
		if got := refuse(status, "why").Error(); got != want {
			t.Errorf("Error() = %q, want %q", got, want)
		}
	}
}

func TestClasses(t *testing.T) {
	const alnum = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for i := range 256 {
		c := byte(i)
		in := func(set string) bool { return strings.IndexByte(set, c) >= 0 }
		for _, tt := range []struct {
			name  string
			class byte
			want  bool
		}{
			{"token", classToken, in("!#$%&'*+-.^_`|~" + alnum)},
			{"target", classTarget, c > ' ' && c < 0x7f && c != '#'},
			{"name", className, in("-._" + alnum)},
			{"hex", classHex, in("0123456789abcdefABCDEF")},
			{"value", classValue, c == '\t' || c >= ' ' && c != 0x7f},
		} {
			if got := isClass(c, tt.class); got != tt.want {
				t.Errorf("byte %#x in class %s: %v, want %v", c, tt.name, got, tt.want)
			}
		}
	}
}

// TestValueEnd puts every byte at every place of the eight that are looked at together, beside all neighbours that could borrow.
func TestValueEnd(t *testing.T) {
	for i := range 256 {
		for place := range 19 {
			for _, fill := range []byte{'\t', ' ', 'a', 0x7e, 0x80, 0xa0, 0xff} {
				b := bytes.Repeat([]byte{fill}, 19)
				b[place] = byte(i)
				want := len(b)
				if !isClass(byte(i), classValue) {
					want = place
				}
				if got := valueEnd(b, 0); got != want {
					t.Fatalf("valueEnd(%q) = %d, want %d", b, got, want)
				}
			}
		}
	}
}

func TestHosts(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   string
		want bool
	}{
		{"a name", "example.com", true},
		{"a name with port", "example.com:8080", true},
		{"a name with underscore", "a_b.example", true},
		{"a name in Punycode", "xn--bcher-kva.example", true},
		{"a name with the root's point", "example.com.", true},
		{"an IPv4 address", "127.0.0.1:80", true},
		{"an IPv6 address", "[::1]", true},
		{"an IPv6 address with port", "[2001:db8::1]:443", true},
		{"the last port", "a:65535", true},
		{"nothing", "", false},
		{"a port only", ":80", false},
		{"an empty port", "a:", false},
		{"port 0", "a:0", false},
		{"port 65536", "a:65536", false},
		{"a port of six digits", "a:000080", false},
		{"a port with letters", "a:8o", false},
		{"a port with sign", "a:+80", false},
		{"two ports", "a:80:80", false},
		{"userinfo", "a@b", false},
		{"userinfo with password", "u:p@b", false},
		{"a path", "a/b", false},
		{"a path upwards", "a/../b", false},
		{"two points", "..", false},
		{"a point", ".", false},
		{"a leading point", ".a", false},
		{"an empty label", "a..b", false},
		{"a backslash", "a\\b", false},
		{"a space", "a b", false},
		{"a tab", "a\tb", false},
		{"two hosts with comma", "a,b", false},
		{"two hosts with comma and space", "a, b", false},
		{"a query", "a?b", false},
		{"a fragment", "a#b", false},
		{"an escape", "a%2eb", false},
		{"a scheme", "http://a", false},
		{"a quote", "a\"", false},
		{"a dollar and braces", "${a}", false},
		{"a byte 0xff", "a\xff", false},
		{"UTF-8", "b\xc3\xbccher.example", false},
		{"a name of 255 bytes", strings.Repeat("a", 255), true},
		{"a name of 256 bytes", strings.Repeat("a", 256), false},
		{"an IPv6 address without brackets", "::1", false},
		{"an IPv6 address without end", "[::1", false},
		{"an IPv6 address with a zone", "[fe80::1%25eth0]", false},
		{"an address of the future", "[v1.a]", false},
		{"empty brackets", "[]", false},
		{"a name in brackets", "[a.b]", false},
		{"something behind the brackets", "[::1]a", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := validHost([]byte(tt.in)); got != tt.want {
				t.Errorf("validHost(%q) = %v, want %v", tt.in, got, tt.want)
			}
		})
	}
}

func TestHasToken(t *testing.T) {
	for _, tt := range []struct {
		value, token string
		want         bool
	}{
		{"close", "close", true},
		{"Close", "cLOSE", true},
		{" a ,\tclose\t", "close", true},
		{"a,,close,", "close", true},
		{"", "close", false},
		{",", "close", false},
		{"close d", "close", false},
		{"enclose", "close", false},
		{"\xe2\x84\xaaeep-alive", "keep-alive", false}, // KELVIN SIGN folds to k in Unicode
	} {
		if got := HasToken([]byte(tt.value), tt.token); got != tt.want {
			t.Errorf("HasToken(%q, %q) = %v, want %v", tt.value, tt.token, got, tt.want)
		}
	}
}

func TestParseContentLength(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0", 0, true},
		{"007", 7, true},
		{strconv.Itoa(1<<63 - 1), 1<<63 - 1, true},
		{"9223372036854775808", 0, false},
		{"", 0, false},
		{" 1", 0, false},
		{"1a", 0, false},
		{"-1", 0, false},
		{"/", 0, false},
		{":", 0, false},
	} {
		if got, ok := ParseContentLength([]byte(tt.in)); got != tt.want || ok != tt.ok {
			t.Errorf("ParseContentLength(%q) = %d, %v; want %d, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}
