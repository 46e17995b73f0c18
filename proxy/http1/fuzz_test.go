package http1

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// FuzzHead holds Parse to two promises. However the bytes are split, the result is the same. And a head that is accepted is
// accepted by net/http, which reads the same method, target, host, fields, framing and persistence.
//
// net/http differs on purpose in this: it skips no empty line; it adds Cache-Control to Pragma: no-cache; it moves Host and
// Transfer-Encoding out of the fields; with chunks it checks Trailer, which the gateway drops with all trailers.
func FuzzHead(f *testing.F) {
	for _, seed := range []string{
		wrkHead,
		browserHead,
		get(),
		"\r\n" + get("Content-Length: 5\r\n") + "hello",
		get("Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n") + "0\r\n\r\n",
		get("Connection: Upgrade, keep-alive\r\n", "Upgrade: websocket\r\n"),
		get("Pragma: no-cache\r\n", "A: 1\r\na: 2\r\nB:\r\nC: \t\x80 \r\n"),
		"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"GET http://[::1]:80?a=%20 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
		"GET HTTPS://A.b/c:d//e;f?g=h+i&%41 HTTP/1.2\r\nHost: a.B\r\n\r\n",
		"GET //a/../b?? HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\x16\x03\x01",
	} {
		f.Add([]byte(seed), uint16(len(seed)/2))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		var h Head
		n, err := h.Parse(in)
		checkSplits(t, in, min(int(cut), len(in)), &h, n, err)
		if n > 0 {
			checkAgainstNetHTTP(t, bytes.TrimPrefix(in[:n], []byte("\r\n")), &h)
		}
	})
}

func checkSplits(t *testing.T, in []byte, cut int, want *Head, wantN int, wantErr error) {
	t.Helper()
	var cutOnce, byBytes Head
	n, err := cutOnce.Parse(in[:cut])
	if n == 0 && err == nil {
		n, err = cutOnce.Resume(in)
	}
	checkSame(t, "cut once", &cutOnce, n, err, want, wantN, wantErr)
	n, err = parseInPieces(&byBytes, in, 1)
	checkSame(t, "byte by byte", &byBytes, n, err, want, wantN, wantErr)
}

func checkSame(t *testing.T, how string, got *Head, gotN int, gotErr error, want *Head, wantN int, wantErr error) {
	t.Helper()
	if gotN != wantN || !reflect.DeepEqual(gotErr, wantErr) {
		t.Fatalf("%s: %d, %v; at once: %d, %v", how, gotN, gotErr, wantN, wantErr)
	}
	if gotN > 0 && !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: %+v; at once: %+v", how, got, want)
	}
}

func checkAgainstNetHTTP(t *testing.T, head []byte, h *Head) {
	t.Helper()
	trailerWithChunks := h.Chunked && h.Get("Trailer") != nil
	r, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(head), MaxHeadBytes))
	if err != nil {
		if trailerWithChunks {
			return
		}
		t.Fatalf("net/http refuses what was accepted: %v", err)
	}
	if r.Method != string(h.Method) || r.RequestURI != string(h.Target) || r.Host != string(h.Host) {
		t.Errorf("net/http reads %q %q %q, got %q %q %q", r.Method, r.RequestURI, r.Host, h.Method, h.Target, h.Host)
	}
	checkURL(t, r.URL, h)
	checkFraming(t, r, h)
	if !trailerWithChunks {
		checkFields(t, r.Header, h)
	}
}

func checkURL(t *testing.T, u *url.URL, h *Head) {
	t.Helper()
	path, err := url.PathUnescape(string(h.Path))
	if u.Path == "" && h.authority != nil {
		u.Path = "/"
	}
	if err != nil || u.Path != path {
		t.Errorf("net/http reads path %q, got %q, %v", u.Path, path, err)
	}
	if u.RawQuery != string(h.Query) || (u.ForceQuery || u.RawQuery != "") != h.HasQuery {
		t.Errorf("net/http reads query %q, got %q, %v", u.RawQuery, h.Query, h.HasQuery)
	}
}

func checkFraming(t *testing.T, r *http.Request, h *Head) {
	t.Helper()
	length := max(h.ContentLength, 0)
	if h.Chunked {
		length = -1
	}
	if r.ContentLength != length || (len(r.TransferEncoding) > 0) != h.Chunked || (r.Body != http.NoBody) != h.HasBody() {
		t.Errorf("net/http reads length %d, codings %q; got %d, chunked %v", r.ContentLength, r.TransferEncoding, h.ContentLength, h.Chunked)
	}
	if r.Close == h.KeepAlive {
		t.Errorf("net/http reads close %v, got keep-alive %v", r.Close, h.KeepAlive)
	}
}

func checkFields(t *testing.T, theirs http.Header, h *Head) {
	t.Helper()
	ours := http.Header{}
	for _, f := range h.Fields {
		ours[textproto.CanonicalMIMEHeaderKey(string(f.Name))] = append(ours[textproto.CanonicalMIMEHeaderKey(string(f.Name))], string(f.Value))
	}
	delete(ours, "Host")
	delete(ours, "Transfer-Encoding")
	if p := ours["Pragma"]; len(p) > 0 && p[0] == "no-cache" && ours["Cache-Control"] == nil {
		delete(theirs, "Cache-Control")
	}
	if !reflect.DeepEqual(theirs, ours) {
		t.Errorf("net/http reads fields %q, got %q", theirs, ours)
	}
}

// FuzzChunked: however the bytes are split, the result is the same; and a body that is accepted is accepted by net/http, which
// reads the same content and finds the next request at the same place.
func FuzzChunked(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n",
		"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
		"5;a=\"b\"\r\nhello\r\nA\r\n0123456789\r\n00\r\nA: b\r\nC:\r\n\r\nx",
		"5;" + strings.Repeat("x", 4000) + "\r\nhello\r\n0\r\n\r\n",
		"5\nhello\r\n0\r\n\r\n",
		"10000000000000005\r\nhello\r\n0\r\n\r\n",
		"0\r\nA: b\r\n c\r\n\r\n",
	} {
		f.Add([]byte(seed), uint16(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint16) {
		content, n, done, err := readChunked(in, len(in)+1)
		for _, size := range []int{1, int(size) + 1} {
			c, m, d, e := readChunked(in, size)
			if !bytes.Equal(c, content) || m != n || d != done || !reflect.DeepEqual(e, err) {
				t.Fatalf("in pieces of %d: %q, %d, %v, %v; at once: %q, %d, %v, %v", size, c, m, d, e, content, n, done, err)
			}
		}
		if done {
			checkChunkedAgainstNetHTTP(t, in, content, n)
		}
	})
}

func checkChunkedAgainstNetHTTP(t *testing.T, in, content []byte, n int) {
	t.Helper()
	message := append([]byte(get("Transfer-Encoding: chunked\r\n")), in...)
	br := bufio.NewReaderSize(bytes.NewReader(message), len(message)+MaxChunkLineBytes)
	r, err := http.ReadRequest(br)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Equal(theirs, content) {
		t.Errorf("net/http reads %q, %v; got %q", theirs, err, content)
	}
	rest, err := io.ReadAll(br)
	if err != nil || !bytes.Equal(rest, in[n:]) {
		t.Errorf("behind the body net/http finds %q, %v; got %q", rest, err, in[n:])
	}
}

// FuzzHost: an address in brackets is one for net/netip, too, and the other way round.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{
		"::", "::1", "1::", "1::2", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2:3:4:5:6::8:9", "1:2:3:4:5:6:7:8:9",
		"1:2:3", ":", ":::", "1:::2", "1::2::3", "12345::", "::g", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4",
		"::1.2.3", "::1.2.3.4.5", "::1.2.3.256", "::01.2.3.4", "::1.2.3.4:5", "1.2.3.4", "fe80::1%eth0", "1:", "::1:", "", "::ffff:0.0.0.0",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		addr, err := netip.ParseAddr(string(in))
		want := err == nil && addr.Is6() && addr.Zone() == ""
		if got := validIPv6(in); got != want {
			t.Errorf("validIPv6(%q) = %v, net/netip says %v, %v", in, got, addr, err)
		}
	})
}

// FuzzField: what AppendField writes is one field, read back as it was but for white space around the value.
func FuzzField(f *testing.F) {
	f.Add("A", "b")
	f.Add("A", "b\r\nC: d")
	f.Add("\r\n", " b\x00")
	f.Fuzz(func(t *testing.T, name, value string) {
		name = "X-" + name // a name without a meaning
		line := AppendField(nil, name, value)
		if len(line) == 0 || len(line) > MaxFieldBytes {
			return
		}
		var h Head
		n, err := h.Parse(append(append([]byte("GET / HTTP/1.0\r\n"), line...), "\r\n"...))
		if n == 0 || err != nil || len(h.Fields) != 1 {
			t.Fatalf("AppendField(%q, %q) wrote %q: read back %d, %v, %d fields", name, value, line, n, err, len(h.Fields))
		}
		if string(h.Fields[0].Name) != name || string(h.Fields[0].Value) != strings.Trim(value, " \t") {
			t.Errorf("AppendField(%q, %q) read back as %q", name, value, h.Fields)
		}
	})
}

// TestAssembledHeads does what FuzzHead does with heads put together from pieces that matter, more of which are valid.
func TestAssembledHeads(t *testing.T) {
	lines := []string{"GET / HTTP/1.1", "POST /a?b HTTP/1.0", "PUT http://a:80/x HTTP/1.1", "OPTIONS * HTTP/1.1", "GET https://a?%41 HTTP/1.3",
		"GET /%2f:;@[]{}|\\^`\"<>? HTTP/1.1", "HEAD //u@a:b/c HTTP/1.1"}
	names := []string{"Host", "host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "Pragma", "Trailer", "X", "Te", "_"}
	values := []string{"a", "A:80", "[::1]", "5", "0", "chunked", "CHUNKED", "close", "keep-alive, x", "Upgrade", "100-continue", "no-cache", "", " \t", "a, b", "\xff"}
	separators := []string{":", ": ", ":\t", " : "}
	ends := []string{"\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "}

	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[rng.IntN(len(from))] }
	accepted := 0
	for range 20_000 {
		in := []byte(pick(lines) + "\r\nHost: a" + pick(ends))
		for range rng.IntN(4) {
			in = append(in, pick(names)+pick(separators)+pick(values)+pick(ends)...)
		}
		in = append(in, "\r\n"...)
		var h Head
		n, err := h.Parse(in)
		checkSplits(t, in, rng.IntN(len(in)), &h, n, err)
		if n > 0 {
			accepted++
			checkAgainstNetHTTP(t, in[:n], &h)
		}
		if t.Failed() {
			t.Fatalf("for %q", in)
		}
	}
	if accepted < 1000 {
		t.Errorf("%d heads accepted: too few to say anything", accepted)
	}
}
