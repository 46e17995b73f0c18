package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// treacherous runs a server that answers with whatever the path of a request asks for, and with the request itself for any other path.
func treacherous(t *testing.T) (address string) {
	t.Helper()
	answers := map[string]string{
		"/app/split":    "HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: e=1\r\nContent-Length: 0\r\n\r\n",
		"/app/linefeed": "HTTP/1.1 200 OK\r\nX-A: b\nSet-Cookie: e=1\r\nContent-Length: 0\r\n\r\n",
		"/app/switch":   "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n",
		"/app/000":      "HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n",
		"/app/099":      "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
		"/app/1000":     "HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n",
		"/app/abc":      "HTTP/1.1 abc X\r\nContent-Length: 0\r\n\r\n",
		"/app/short":    "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("a", 150_000),
		"/app/cut":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Accel-Buffering: no\r\n\r\n3\r\nabc\r\n",
		"/app/continue": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"/app/header":   "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 2<<20) + "\r\nContent-Length: 0\r\n\r\n",
		"/app/two":      "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		"/app/long":     "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneevil",
	}
	return listening(t, func(c net.Conn) { converse(c, answers) })
}

// treacherous2 is a server that speaks HTTP/2, and answers with fields that the path of a request asks for.
func treacherous2(t *testing.T) (address string) {
	t.Helper()
	ok := []string{":status", "200"}
	answers := map[string][][]string{
		"/two/000":      {{":status", "000"}},
		"/two/099":      {{":status", "099"}},
		"/two/600":      {{":status", "600"}},
		"/two/abc":      {{":status", "abc"}},
		"/two/none":     {{"x-a", "b"}},
		"/two/switch":   {{":status", "101", "connection", "upgrade", "upgrade", "raw"}, ok},
		"/two/split":    {append(ok, "x-a", "b\r\nset-cookie: e=1")},
		"/two/linefeed": {append(ok, "x-a", "b\nset-cookie: e=1")},
		"/two/name":     {append(ok, "x-a: b\r\nset-cookie", "e=1")},
		"/two/hop":      {append(ok, "connection", "close", "transfer-encoding", "chunked")},
		"/two/short":    {append(ok, "content-length", "200000")},
		"/two/header":   {append(ok, "x-a", strings.Repeat("a", 2<<20))},
		"/two/early":    append(slices.Repeat([][]string{{":status", "103", "link", strings.Repeat("a", 1000)}}, 1000), ok),
		"/two/fine":     {ok},
	}
	return listening(t, func(c net.Conn) { converse2(c, answers) })
}

// converse2 answers the requests of a connection, each with several heads if it is asked to.
func converse2(c net.Conn, answers map[string][][]string) {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.WriteSettings()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		request, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		heads := answers[request.PseudoValue("path")]
		for i, fields := range heads {
			writeHead(f, request.StreamID, fields, i+1 == len(heads))
		}
	}
}

// writeHead writes fields, of which name and value alternate, in as many frames as they need, and a short body behind the last head.
func writeHead(f *http2.Framer, stream uint32, fields []string, last bool) {
	const most = 16 << 10 // bytes of a frame
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSize(0)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Next(most), EndHeaders: block.Len() == 0})
	for block.Len() > 0 {
		piece := block.Next(most)
		f.WriteContinuation(stream, block.Len() == 0, piece)
	}
	if last {
		f.WriteData(stream, true, []byte("body"))
	}
}

// listening serves connections, each by a goroutine that ends with it, and returns their address.
func listening(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// converse answers the requests of a connection, as long as it knows where the next one begins.
func converse(c net.Conn, answers map[string]string) {
	for br := bufio.NewReader(c); ; {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		if text, ok := answers[r.URL.Path]; ok {
			io.WriteString(c, text)
			if !strings.HasSuffix(text, "evil") {
				return
			}
			continue
		}
		var echo strings.Builder
		fmt.Fprintf(&echo, "%s %s %s\r\nHost: %s\r\n", r.Method, r.RequestURI, r.Proto, r.Host)
		r.Header.Write(&echo)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", echo.Len(), echo.String())
	}
}

// testConversations are attacks that take more than one request of a connection.
func testConversations(t *testing.T, address string) {
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" }
	last := get("/app/echo") + "Connection: close\r\n\r\n"
	rows := []struct {
		name, sent string
		want       []string // statuses
		never      string
	}{
		{"a second response of a server is nobody's", get("/app/two") + "\r\n" + get("/app/two") + "\r\n" + last, []string{"200", "200", "200"}, "evil"},
		{"what is longer than announced is nobody's", get("/app/long") + "\r\n" + get("/app/long") + "\r\n" + last, []string{"200", "200", "200"}, "evil"},
		{"CVE-2024-24791: a body that was announced and refused is no request",
			"POST /locked/a.txt HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 200\r\n\r\n" + get("/env.php") + "\r\n", []string{"403"}, "RAN"},
		{"a request in the chunks of another is none",
			"POST /app/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nX\r\n" + get("/env.php") + "\r\n0\r\n\r\n", []string{"400"}, "RAN"},
		{"a length beside chunks is refused",
			"POST /app/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get("/env.php") + "\r\n", []string{"400"}, "RAN"},
		{"an upgrade that is refused leaves requests as they are", get("/app/switch") + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + last, []string{"502", "200"}, "RAN"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := dial(t, address)
			if _, err := io.WriteString(c, row.sent); err != nil {
				t.Fatal(err)
			}
			all, _ := io.ReadAll(c) // a connection that is reset has told what it had to
			var statuses []string
			for _, piece := range strings.Split(string(all), "HTTP/1.1 ")[1:] {
				if status, _, _ := strings.Cut(piece, " "); len(status) == 3 {
					statuses = append(statuses, status)
				}
			}
			if strings.Join(statuses, " ") != strings.Join(row.want, " ") || strings.Contains(string(all), row.never) {
				t.Errorf("got %.1000q; want %s, and nothing of %q", all, row.want, row.never)
			}
		})
	}
}
