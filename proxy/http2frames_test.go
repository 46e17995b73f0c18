package proxy

import (
	"bufio"
	"bytes"
	stdtls "crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gateway/routes"
)

// raw2 is a client that sends whatever frames it likes.
type raw2 struct {
	*http2.Framer
	t    testing.TB
	conn net.Conn
	enc  *hpack.Encoder
	buf  bytes.Buffer
}

// raw connects and sends the preface and settings.
func (l *lab2) raw(t testing.TB, settings ...http2.Setting) *raw2 {
	t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	if l.Secure != nil {
		c = stdtls.Client(c, &stdtls.Config{InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"h2"}})
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	r := &raw2{Framer: http2.NewFramer(c, c), t: t, conn: c}
	r.enc = hpack.NewEncoder(&r.buf)
	r.WriteSettings(settings...)
	return r
}

// block encodes fields, of which name and value alternate.
func (c *raw2) block(fields ...string) []byte {
	c.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return c.buf.Bytes()
}

func (c *raw2) request(stream uint32, end bool, fields ...string) error {
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block(fields...), EndHeaders: true, EndStream: end})
}

func (c *raw2) get(stream uint32, path string) error {
	return c.request(stream, true, ":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", path)
}

// settle waits until the server has answered the settings.
func (c *raw2) settle() {
	c.t.Helper()
	for {
		if f := c.until(http2.FrameSettings).(*http2.SettingsFrame); f.IsAck() {
			return
		}
	}
}

// until reads frames up to one of a kind.
func (c *raw2) until(kind http2.FrameType) http2.Frame {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			c.t.Fatalf("no %s comes: %v", kind, err)
		}
		if f.Header().Type == kind {
			return f
		}
	}
}

// leave closes the connection when the server has.
func (c *raw2) leave() {
	io.Copy(io.Discard, c.conn)
	c.conn.Close()
}

// status is that of the next answer, "reset" if there is none, or "closed".
func (c *raw2) status(stream uint32) (status string) {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			return "closed"
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.HeadersFrame:
			hpack.NewDecoder(4096, func(f hpack.HeaderField) {
				if f.Name == ":status" {
					status = f.Value
				}
			}).Write(f.HeaderBlockFragment())
			return status
		}
	}
}

func TestHTTP2HeadsThatCostTheirClientNothingWait(t *testing.T) {
	const requests = 100
	value := strings.Repeat("v", 3900) // fits the table, so that a byte stands for it from the second time on
	fields := []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/"}
	for range 15 {
		fields = append(fields, "x-a", value)
	}
	const atOnce = maxHeads / (15 * 3900) // at most
	var running atomic.Int32
	entered, release := make(chan struct{}, requests), make(chan struct{})
	l := serveHTTP2(t, false, func(http.ResponseWriter, *http.Request) {
		running.Add(1)
		entered <- struct{}{}
		<-release
		running.Add(-1)
	}, nil)
	c := l.raw(t)
	for i := range requests {
		if err := c.request(uint32(2*i+1), true, fields...); err != nil {
			t.Fatal(err)
		}
	}
	for range atOnce - 1 {
		<-entered
	}
	c.WritePing(false, [8]byte{})
	c.until(http2.FramePing)
	if n := running.Load(); n > atOnce {
		t.Errorf("%d requests run, which have %d bytes in their heads, want at most %d", n, n*15*3900, atOnce)
	}
	close(release)
	for range requests {
		if got := c.status(0); got != "200" {
			t.Fatalf("a request that had to wait: %s, want 200", got)
		}
	}
}

// What means more in HTTP/1.1, or in an environment, than in HTTP/2.
func TestHTTP2RefusesWhatIsAmbiguous(t *testing.T) {
	get := []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/"}
	with := func(fields ...string) []string { return append(append([]string(nil), get...), fields...) }
	but := func(name, value string) []string {
		fields := with()
		for i := 0; i < len(fields); i += 2 {
			if fields[i] == name {
				fields[i+1] = value
			}
		}
		return fields
	}
	rows := []struct {
		name   string
		fields []string
		end    bool
		want   string
	}{
		{"a plain request is served", get, true, "200"},
		{"two lengths, even equal ones", with("content-length", "0", "content-length", "0"), true, "400"},
		{"two different lengths", with("content-length", "3", "content-length", "4"), false, "400"},
		{"a length that is none", with("content-length", "+3"), false, "400"},
		{"a length without a body", with("content-length", "3"), true, "400"},
		{"a coding of HTTP/1.1", with("transfer-encoding", "chunked"), false, "400"},
		{"a field of HTTP/1.1 connections", with("connection", "keep-alive"), true, "400"},
		{"an upgrade", with("upgrade", "h2c"), true, "400"},
		{"a TE that is not trailers", with("te", "gzip"), true, "400"},
		{"CR and LF in a value", with("x-a", "b\r\nx-c: d"), true, "reset"},
		{"LF in a value", with("x-a", "b\nc"), true, "reset"},
		{"NUL in a value", with("x-a", "b\x00c"), true, "reset"},
		{"a capital letter in a name", with("X-A", "b"), true, "reset"},
		{"a colon in a name", with("x:a", "b"), true, "reset"},
		{"a space in a name", with("x a", "b"), true, "reset"},
		{"CR and LF in a name", with("x\r\na", "b"), true, "reset"},
		{"a space in the path", but(":path", "/a b"), true, "400"},
		{"a whole request line in the path", but(":path", "/ HTTP/1.1\r\nx: y"), true, "reset"},
		{"a fragment in the path", but(":path", "/a#b"), true, "400"},
		{"an escaped NUL in the path", but(":path", "/a%00"), true, "400"},
		{"a bad escape in the path", but(":path", "/a%zz"), true, "reset"},
		{"a URL as path", but(":path", "http://localhost/"), true, "reset"},
		{"no path", but(":path", ""), true, "reset"},
		{"a whole request line in the method", but(":method", "GET / HTTP/1.1\r\nx: y"), true, "reset"},
		{"a space in the method", but(":method", "GET /x"), true, "400"},
		{"a method that is unknown", but(":method", "JUMP"), true, "501"},
		{"TRACE", but(":method", "TRACE"), true, "405"},
		{"CONNECT with a path", but(":method", "CONNECT"), true, "reset"},
		{"an open proxy", []string{":method", "CONNECT", ":authority", "192.0.2.1:25"}, true, "405"},
		{"a WebSocket over HTTP/2 (RFC 8441)", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "localhost", ":path", "/"}, false, "reset"},
		{"another Host than :authority", with("host", "other"), true, "reset"},
		{"two Hosts", with("host", "localhost", "host", "localhost"), true, "reset"},
		{"the same Host as :authority", with("host", "localhost"), true, "200"},
		{"a Host alone", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "localhost"}, true, "200"},
		{"no host at all", []string{":method", "GET", ":scheme", "http", ":path", "/"}, true, "400"},
		{"a user in the authority", but(":authority", "a@localhost"), true, "reset"},
		{"a path in the authority", but(":authority", "localhost/x"), true, "reset"},
		{"another scheme than http and https", but(":scheme", "ftp"), true, "reset"},
		{"two paths", with(":path", "/b"), true, "reset"},
		{"an unknown expectation", with("expect", "cake"), true, "417"},
		{"more fields than HTTP/1.1 may have", with(strings.Fields(strings.Repeat("x-a b ", 101))...), true, "431"},
		{"a field larger than HTTP/1.1 may have", with("x-a", strings.Repeat("b", 9<<10)), true, "431"},
		{"a target longer than HTTP/1.1 may have", but(":path", "/"+strings.Repeat("b", 9<<10)), true, "414"},
	}
	l := serveHTTP2(t, false, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }, nil)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := l.raw(t)
			c.request(1, row.end, row.fields...)
			if got := c.status(1); got != row.want {
				t.Errorf("request %.200q: %s, want %s", row.fields, got, row.want)
			}
		})
	}
}

func TestHTTP2BodyIsAsLongAsAnnounced(t *testing.T) {
	begun, seen := make(chan struct{}), make(chan error, 1)
	l := serveHTTP2(t, false, func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		_, err := io.Copy(io.Discard, r.Body)
		seen <- err
	}, nil)
	for _, body := range []string{"abcd", "ab"} {
		c := l.raw(t)
		c.request(1, false, ":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/", "content-length", "3")
		<-begun // what is reset before that no handler sees
		c.WriteData(1, true, []byte(body))
		if err := <-seen; err == nil {
			t.Errorf("the handler has read %q as a body of 3 bytes", body)
		}
	}
}

// Each flood ends with GOAWAY and ENHANCE_YOUR_CALM, and the server serves on.
func TestHTTP2Floods(t *testing.T) {
	post := []string{":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/"}
	rows := []struct {
		name string
		send func(c *raw2, i uint32) error
	}{
		{"rapid reset (CVE-2023-44487)", func(c *raw2, i uint32) error {
			return errors.Join(c.get(2*i+1, "/"), c.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
		}},
		{"made you reset (CVE-2025-8671) by a window of 0", func(c *raw2, i uint32) error {
			return errors.Join(c.request(2*i+1, false, post...), c.WriteRawFrame(http2.FrameWindowUpdate, 0, 2*i+1, make([]byte, 4)))
		}},
		{"made you reset by a window that overflows", func(c *raw2, i uint32) error {
			return errors.Join(c.request(2*i+1, false, post...), c.WriteWindowUpdate(2*i+1, 1<<31-1))
		}},
		{"made you reset by a dependency on itself", func(c *raw2, i uint32) error {
			return errors.Join(c.request(2*i+1, false, post...), c.WritePriority(2*i+1, http2.PriorityParam{StreamDep: 2*i + 1}))
		}},
		{"made you reset by data behind the end", func(c *raw2, i uint32) error {
			return errors.Join(c.get(2*i+1, "/wait"), c.WriteData(2*i+1, true, []byte("x")))
		}},
		{"made you reset by a wrong length", func(c *raw2, i uint32) error {
			return errors.Join(c.request(2*i+1, false, append(post, "content-length", "1")...), c.WriteData(2*i+1, true, []byte("xx")))
		}},
		{"data behind a reset", func(c *raw2, i uint32) error {
			if i == 0 {
				return c.request(1, false, ":method", "GET")
			}
			return c.WriteData(1, false, []byte("x"))
		}},
		{"malformed requests", func(c *raw2, i uint32) error { return c.request(2*i+1, true, ":method", "GET") }},
		{"settings (CVE-2019-9515)", func(c *raw2, _ uint32) error { return c.WriteSettings() }},
		{"pings (CVE-2019-9512)", func(c *raw2, _ uint32) error { return c.WritePing(false, [8]byte{}) }},
		{"empty data (CVE-2019-9518)", func(c *raw2, i uint32) error {
			if i == 0 {
				return c.request(1, false, post...)
			}
			return c.WriteData(1, false, nil)
		}},
		{"data that is all padding", func(c *raw2, i uint32) error {
			if i == 0 {
				return c.request(1, false, post...)
			}
			return c.WriteDataPadded(1, false, nil, make([]byte, 255))
		}},
		{"empty continuations", func(c *raw2, i uint32) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(post...)})
			}
			return c.WriteContinuation(1, false, nil)
		}},
		{"priorities (CVE-2019-9513)", func(c *raw2, i uint32) error {
			return c.WritePriority(2*i+1, http2.PriorityParam{Weight: uint8(i)})
		}},
		{"windows that open by single bytes (CVE-2019-9511)", func(c *raw2, _ uint32) error { return c.WriteWindowUpdate(0, 1) }},
		{"frames of no kind", func(c *raw2, _ uint32) error { return c.WriteRawFrame(0xf0, 0, 0, nil) }},
	}
	core, logs := observer.New(zap.WarnLevel)
	l := serveHTTP2(t, false, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(h *HTTP) {
		h.HTTP2 = NewHTTP2(0, routes.DefaultHTTP2Requests, zap.New(core).Sugar())
	})
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := l.raw(t)
			sent := make(chan uint32, 1)
			go func() { // ends when the connection does
				var i uint32
				for i < 5000 && row.send(c, i) == nil {
					i++
				}
				sent <- i
			}()
			var end string
			for end == "" {
				switch f, err := c.ReadFrame(); f := f.(type) {
				case *http2.GoAwayFrame:
					end = f.ErrCode.String()
				default:
					if err != nil {
						end = err.Error() // the rest of the flood can overtake the GOAWAY with a reset
					}
				}
			}
			c.conn.Close()
			if end != "ENHANCE_YOUR_CALM" && !strings.Contains(end, "reset") && !strings.Contains(end, "EOF") {
				t.Errorf("after %d rounds the connection ends with %s", <-sent, end)
			}
		})
	}
	if n := logs.Len(); n != 1 {
		t.Errorf("%d warnings, want one a minute", n)
	}
	if held, _ := l.HTTP2.floods.Pass(time.Now().Add(warnInterval), 0); held != len(rows)-1 {
		t.Errorf("%d warnings were held back, want %d", held, len(rows)-1)
	}
}

// A client whose uploads are refused has more of each on its way, and does no harm.
func TestHTTP2RefusedUploadsAreNoFlood(t *testing.T) {
	l := serveHTTP2(t, false, func(http.ResponseWriter, *http.Request) {}, nil)
	c := l.raw(t)
	for i := range uint32(maxPatience) {
		c.request(2*i+1, false, ":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/")
		c.until(http2.FrameHeaders)
		for range 4 {
			c.WriteData(2*i+1, false, make([]byte, 100))
		}
	}
	c.get(2*maxPatience+1, "/")
	c.until(http2.FrameHeaders)
}

func TestHTTP2ContinuationsAreBounded(t *testing.T) {
	l := serveHTTP2(t, false, echo, nil)
	c := l.raw(t)
	var piece []byte
	for range 4 << 10 {
		piece = append(piece, 0, 1, 'a', 1, 'b') // a literal field that is not indexed
	}
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(":method", "GET")})
	sent := 0
	for err == nil && sent < 20<<20 {
		err = c.WriteContinuation(1, false, piece[:16<<10])
		sent += 16 << 10
	}
	if err == nil {
		t.Errorf("%d bytes of one header were taken", sent)
	}
}

// A stream whose client lets nothing through is reset, while its connection serves others: in a large write, and in what is left
// when the handler has returned.
func TestHTTP2StalledStreams(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 1 << 20} {
		l := serveHTTP2(t, false, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/large" {
				w.Write(make([]byte, size))
			}
		}, func(h *HTTP) {
			h.HTTP2.stall = time.Second
			h.HTTP2.base.WriteTimeout = 2 * h.HTTP2.stall
		})
		c := l.raw(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.settle()
		c.get(1, "/large")
		if f := c.until(http2.FrameRSTStream); f.Header().StreamID != 1 {
			t.Errorf("%d bytes: %v", size, f)
		}
		c.get(3, "/")
		if got := c.status(3); got != "200" {
			t.Errorf("%d bytes: the next request got %s", size, got)
		}
	}
}

// What waits for a client is interrupted: a response that has begun is cut, and another one can still be given.
func TestHTTP2Interrupt(t *testing.T) {
	rows := []struct {
		name  string
		begun bool
		want  http2.FrameType
	}{
		{"a body that does not come, before the response", false, http2.FrameHeaders},
		{"a response that is not taken", true, http2.FrameRSTStream},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			seen := make(chan error, 1)
			l := serveHTTP2(t, false, func(w http.ResponseWriter, r *http.Request) {
				wait := func() error {
					_, err := r.Body.Read(make([]byte, 1))
					return err
				}
				if row.begun {
					w.(*streamResponse).Flush()
					wait = func() error {
						_, err := w.Write(make([]byte, 1<<20))
						return err
					}
				}
				defer time.AfterFunc(10*time.Millisecond, w.(*streamResponse).interrupt).Stop()
				seen <- wait()
				w.WriteHeader(http.StatusGatewayTimeout)
			}, nil)
			c := l.raw(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			c.settle()
			c.request(1, false, ":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/")
			if err := <-seen; err == nil {
				t.Error("the handler waited in vain, and was not told")
			}
			c.until(row.want)
		})
	}
}

func TestHTTP2SlowBody(t *testing.T) {
	seen := make(chan error, 1)
	l := serveHTTP2(t, false, func(_ http.ResponseWriter, r *http.Request) {
		b := r.Body.(*streamBody)
		b.deadline = time.Now().Add(50 * time.Millisecond)
		_, err := io.ReadAll(b)
		seen <- err
	}, nil)
	c := l.raw(t)
	c.request(1, false, ":method", "POST", ":scheme", "http", ":authority", "localhost", ":path", "/")
	if err := <-seen; !errors.Is(err, errBodySlow) {
		t.Errorf("a body that does not come: %v, want %v", err, errBodySlow)
	}
}

func TestFrameScanner(t *testing.T) {
	var stream bytes.Buffer
	f := http2.NewFramer(&stream, nil)
	f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush})
	f.WriteData(1, true, make([]byte, 300))
	f.WritePing(true, [8]byte{})
	f.WriteData(1<<31-1, false, nil)
	want := []frameHeader{
		{6, http2.FrameSettings, 0, 0},
		{300, http2.FrameData, http2.FlagDataEndStream, 1},
		{8, http2.FramePing, http2.FlagPingAck, 0},
		{0, http2.FrameData, 0, 1<<31 - 1},
	}
	for size := 1; size <= stream.Len(); size++ {
		var s frameScanner
		var got []frameHeader
		for data := stream.Bytes(); len(data) > 0; data = data[min(size, len(data)):] {
			got = append(got, s.scan(data[:min(size, len(data))])...)
		}
		if !slices.Equal(got, want) || !s.between() {
			t.Fatalf("in pieces of %d bytes: %v, between frames %t; want %v", size, got, s.between(), want)
		}
	}
}

func (s *frameScanner) scan(data []byte) (headers []frameHeader) {
	for {
		h, rest, ok := s.next(data)
		if !ok {
			return headers
		}
		headers, data = append(headers, h), rest
	}
}

// However bytes are cut into pieces, the scanner sees the same frames, and those that x/net's reader sees.
func FuzzFrameScanner(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x00\x01\x00\x00\x00\x01x\x00\x00\x00\x04\x00\x00\x00\x00\x00"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		var whole, pieces frameScanner
		want := whole.scan(data)
		var got []frameHeader
		for rest := data; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			got, rest = append(got, pieces.scan(rest[:n])...), rest[n:]
		}
		if !slices.Equal(got, want) || whole != pieces {
			t.Fatalf("%x in pieces of %d: %v, at once %v", data, int(size)+1, got, want)
		}
		for r := bytes.NewReader(data); len(want) > 0; want = want[1:] {
			h, err := http2.ReadFrameHeader(r)
			if err != nil || h.Length != want[0].length || h.Type != want[0].kind || h.Flags != want[0].flags || h.StreamID != want[0].stream {
				t.Fatalf("x/net reads %v, %v; want %v", h, err, want[0])
			}
			r.Seek(int64(h.Length), io.SeekCurrent)
		}
	})
}

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := patience{left: maxPatience, at: time.Now()}
		time.Sleep(time.Hour)
		if !p.spend(maxPatience) {
			t.Fatal("all of it can't be spent")
		}
		if !p.spend(maxPatience) {
			t.Fatal("an hour does not give all of it back")
		}
		time.Sleep(time.Second)
		if !p.spend(patienceRate) {
			t.Fatalf("a second gives less than %d", patienceRate)
		}
		p.earn(2)
		if !p.spend(2) || p.lost() {
			t.Fatal("what was earned can't be spent")
		}
		if p.spend(1) || !p.lost() {
			t.Fatal("it does not end")
		}
		time.Sleep(time.Hour)
		p.earn(5)
		if p.spend(1) {
			t.Fatal("it comes back after it was lost")
		}
	})
}

// What a transcript takes, net/http reads as the same request: nothing of it can be taken for another field, or another request.
func FuzzTranscript(f *testing.F) {
	f.Add("GET", "/a?b", "localhost", "X-A", "b", int64(0))
	f.Add("GET / HTTP/1.1\r\nX: y", "/", "localhost:80", "Content-Length", "3", int64(3))
	f.Add("POST", "/ HTTP/1.1\r\n\r\n", "a\r\nb", "Transfer-Encoding", "chunked", int64(-1))
	f.Fuzz(func(t *testing.T, method, target, host, name, value string, length int64) {
		r := &http.Request{Method: method, RequestURI: target, Host: host, Header: http.Header{name: {value}}, ContentLength: length}
		var s transcript
		if s.parse(r) != nil {
			return
		}
		got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(s.bytes)))
		if err != nil {
			t.Fatalf("net/http does not read %q: %v", s.bytes, err)
		}
		if got.Method != method || got.RequestURI != target || !strings.EqualFold(got.Host, host) || len(got.Header) > 1 {
			t.Fatalf("%q %q %q %q %q is read as %q %q %q %q", method, target, host, name, value, got.Method, got.RequestURI, got.Host, got.Header)
		}
	})
}
