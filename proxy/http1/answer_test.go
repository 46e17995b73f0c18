package http1

import (
	"bufio"
	"bytes"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestAnswer(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, row := range []struct {
		name, head string
		want       string // the reason why it is refused
	}{
		{"an ordinary one", ok + "Content-Length: 5\r\nConnection: keep-alive\r\n\r\n", ""},
		{"no reason", "HTTP/1.1 200 \r\n\r\n", ""},
		{"no space behind the status", "HTTP/1.0 404\r\n\r\n", ""},
		{"a reason in Latin-1", "HTTP/1.1 404 Non trouv\xe9\r\n\r\n", ""},
		{"chunks", ok + "Transfer-Encoding: chunked\r\n\r\n", ""},
		{"another protocol", "SSH-2.0-OpenSSH\r\n", "not HTTP/1.d"},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", "not HTTP/1.d"},
		{"a status of two digits", "HTTP/1.1 20 OK\r\n\r\n", "not HTTP/1.d"},
		{"a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", "three digits"},
		{"a status that is no number", "HTTP/1.1 2x0 OK\r\n\r\n", "not HTTP/1.d"},
		{"bare LF behind the status", "HTTP/1.1 200 OK\n\r\n", "bare LF"},
		{"bare LF behind a field", ok + "A: b\nC: d\r\n\r\n", "bare LF"},
		{"bare CR in a field", ok + "A: b\rSet-Cookie: e=1\r\n\r\n", "CR without LF"},
		{"bare CR at the end", ok + "A: b\r\n\rX", "CR without LF"},
		{"NUL in a field", ok + "A: b\x00\r\n\r\n", "control character"},
		{"NUL in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "control character"},
		{"a folded line", ok + "A: b\r\n c\r\n\r\n", "white space before a field"},
		{"a space before the colon", ok + "Content-Length : 5\r\n\r\n", "not a token"},
		{"a line without colon", ok + "hello\r\n\r\n", "not a token"},
		{"two lengths", ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "more than one Content-Length"},
		{"the same length twice", ok + "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", "more than one Content-Length"},
		{"a list of lengths", ok + "Content-Length: 5, 5\r\n\r\n", "bad Content-Length"},
		{"a signed length", ok + "Content-Length: +5\r\n\r\n", "bad Content-Length"},
		{"a length too large", ok + "Content-Length: 9223372036854775808\r\n\r\n", "bad Content-Length"},
		{"a length and chunks", ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "Content-Length with Transfer-Encoding"},
		{"chunks and a length", ok + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "Content-Length with Transfer-Encoding"},
		{"chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0"},
		{"another coding", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding unknown"},
		{"a coding that is none", ok + "Transfer-Encoding: \x0bchunked\r\n\r\n", "control character"},
		{"chunks that are not last", ok + "Transfer-Encoding: chunked, gzip\r\n\r\n", "not the last"},
		{"too many fields", ok + strings.Repeat("A: b\r\n", maxAnswerFields+1) + "\r\n", "too many fields"},
		{"too large", ok + "A: " + strings.Repeat("b", MaxAnswerBytes) + "\r\n\r\n", "too large"},
	} {
		var a Answer
		a.Reset()
		n, err := a.Parse([]byte(row.head))
		switch {
		case row.want == "" && (n != len(row.head) || err != nil):
			t.Errorf("%s: Parse = %d, %v; want %d", row.name, n, err, len(row.head))
		case row.want != "" && (n != 0 || err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: Parse = %d, %v; want an error with %q", row.name, n, err, row.want)
		}
	}
}

// TestAnswerKeepAlive: RFC 9112 §9.3.
func TestAnswerKeepAlive(t *testing.T) {
	for head, want := range map[string]bool{
		"HTTP/1.1 200 OK\r\n\r\n":                                  true,
		"HTTP/1.1 200 OK\r\nConnection: X, close\r\n\r\n":          false,
		"HTTP/1.0 200 OK\r\n\r\n":                                  false,
		"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n":        true,
		"HTTP/1.0 200 OK\r\nConnection: close, keep-alive\r\n\r\n": false,
	} {
		var a Answer
		a.Reset()
		if _, err := a.Parse([]byte(head)); err != nil || a.KeepAlive != want {
			t.Errorf("%q: KeepAlive = %t, %v; want %t", head, a.KeepAlive, err, want)
		}
	}
}

// TestNamesFields: what Connection says beside close and keep-alive, in a request and in an answer (RFC 9110 §7.6.1).
func TestNamesFields(t *testing.T) {
	for lines, want := range map[string]bool{
		"":                                              false,
		"Connection: close\r\n":                         false,
		"Connection:\r\n":                               false,
		"Keep-Alive: timeout=5\r\n":                     false,
		"Connection: Keep-Alive, CLOSE,\r\n":            false,
		"Connection: Upgrade\r\n":                       true,
		"Connection: close, X-A\r\n":                    true,
		"Connection: close\r\nConnection: X-A\r\n":      true,
		"Connection: X-A\r\nConnection: keep-alive\r\n": true,
		"Connection: \u212aeep-alive\r\n":               true, // a Kelvin sign is no k
	} {
		var h Head
		mustParse(t, &h, get(lines))
		var a Answer
		a.Reset()
		if _, err := a.Parse([]byte("HTTP/1.1 200 OK\r\n" + lines + "\r\n")); err != nil || a.NamesFields != want || h.NamesFields != want {
			t.Errorf("%q: NamesFields = %t in a request, %t in an answer, %v; want %t", lines, h.NamesFields, a.NamesFields, err, want)
		}
	}
}

// FuzzAnswer holds Parse to what FuzzHead holds that of a request to: pieces make no difference, and what is accepted is read the same
// way by net/http.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: \t b \r\na:\r\n\r\nhello",
		"HTTP/1.0 404\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var whole, pieces Answer
		whole.Reset()
		n, err := whole.Parse(in)
		pieces.Reset()
		m, pieceErr := 0, error(nil)
		for end := 0; end < len(in) && m == 0 && pieceErr == nil; {
			end++
			m, pieceErr = pieces.Parse(in[:end])
		}
		if m != n || !reflect.DeepEqual(pieceErr, err) || n > 0 && !reflect.DeepEqual(whole, pieces) {
			t.Fatalf("at once %d, %v, %+v; byte by byte %d, %v, %+v", n, err, whole, m, pieceErr, pieces)
		}
		if n == 0 || whole.Status < 100 {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), nil)
		if err != nil {
			if whole.Chunked { // net/http looks at Trailer as well
				return
			}
			t.Fatalf("net/http refuses what was accepted: %v", err)
		}
		if resp.StatusCode != whole.Status || resp.ProtoMinor != int(in[7]-'0') {
			t.Errorf("net/http reads %s %d, got %d", resp.Proto, resp.StatusCode, whole.Status)
		}
		if length := resp.ContentLength; resp.Body != http.NoBody && length != whole.ContentLength {
			t.Errorf("net/http reads length %d, got %d", length, whole.ContentLength)
		}
	})
}
