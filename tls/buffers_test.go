package tls

import (
	"bytes"
	stdtls "crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// When this fails crypto/tls has changed: if it lets go of its buffers by itself now, buffers.go can go.
func TestTheBuffersOfCryptoTLSAreWhereTheyWere(t *testing.T) {
	if !hasRawInput || !hasHand {
		t.Errorf("crypto/tls.Conn has rawInput %v, hand %v as bytes.Buffer, want both", hasRawInput, hasHand)
	}
}

func TestAConnectionRestsWithoutBuffers(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	for _, version := range []uint16{stdtls.VersionTLS12, stdtls.VersionTLS13} {
		rows := []struct {
			name  string
			steps func(record []byte) []step // read before the rest
			after func(record []byte) []byte // and after it
			kept  bool
		}{
			{"between records", func([]byte) []step { return []step{{nil, parkedError{}}} }, func(r []byte) []byte { return r }, false},
			{"in the middle of one", func(r []byte) []step { return []step{{r[:9], nil}, {nil, parkedError{}}} }, func(r []byte) []byte { return r[9:] }, true},
		}
		for _, row := range rows {
			t.Run(row.name+", "+stdtls.VersionName(version), func(t *testing.T) {
				server, raw, record := connectParking(t, c, version)
				buf := make([]byte, 64)
				for range 3 {
					r := record("hello", false)
					raw.steps = row.steps(r)
					if n, err := server.Read(buf); err != error(parkedError{}) {
						t.Fatalf("Read = %q, %v, want the temporary error", buf[:n], err)
					}
					server.Rest()
					if held := buffer(server.Conn, rawInput).Cap() > 0; held != row.kept {
						t.Errorf("at rest it has a buffer of records: %v, want %v", held, row.kept)
					}
					if n := buffer(server.Conn, hand).Cap(); n != 0 {
						t.Errorf("at rest it has %d bytes for handshake messages, want none", n)
					}
					raw.steps = []step{{row.after(r), nil}}
					if n, err := server.Read(buf); err != nil || string(buf[:n]) != "hello" {
						t.Fatalf("Read after the rest = %q, %v, want hello", buf[:n], err)
					}
				}
			})
		}
	}
}

// A buffer goes from one connection to the next: no byte may.
func TestLentBuffersAreEmpty(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	first, raw, record := connectParking(t, c, stdtls.VersionTLS13)
	raw.steps = []step{{record("secret", false), nil}, {nil, parkedError{}}}
	buf := make([]byte, 64)
	for err := error(nil); err == nil; {
		_, err = first.Read(buf)
	}
	first.Rest()
	for range 100 { // the pool may have dropped it, or give another one
		second := c.Server("tcp :443", raw)
		second.borrow()
		if b := buffer(second.Conn, rawInput); b.Len() > 0 {
			t.Fatalf("a new connection begins with %q", b.Bytes())
		}
		second.Rest()
	}
}

func TestHello(t *testing.T) {
	rows := []struct {
		name, data string
		want       bool
	}{
		{"nothing", "", false},
		{"a part of the record header", "\x16\x03\x01\x00", false},
		{"a header without its record", "\x16\x03\x01\x00\x02", false},
		{"a record but for a byte", "\x16\x03\x01\x00\x02x", false},
		{"a whole record", "\x16\x03\x01\x00\x02xx", true},
		{"more than a record", "\x16\x03\x01\x00\x02xxx", true},
		{"plain HTTP", "GET /", true},
		{"plain HTTP that is not there yet", "GET ", false},
		{"a record that is too long to wait for", "\x16\x03\x01\x40\x01", true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if got := Hello([]byte(row.data)); got != row.want {
				t.Errorf("Hello(%q) = %v, want %v", row.data, got, row.want)
			}
		})
	}
}

// FuzzHandshake gives a server anything for a client's bytes.
func FuzzHandshake(f *testing.F) {
	c, err := New(f.TempDir(), []Site{internalSite("tcp :443", "a.example")}, func(string, string, ...any) {})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	var hello bytes.Buffer
	stdtls.Client(&oneWay{to: &hello}, &stdtls.Config{ServerName: "a.example"}).Handshake()
	f.Add(hello.Bytes())
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(append(hello.Bytes(), hello.Bytes()...))
	f.Fuzz(func(t *testing.T, data []byte) {
		Hello(data)
		conn := c.Server("tcp :443", &oneWay{from: bytes.NewReader(data), to: io.Discard})
		if err := conn.Handshake(t.Context()); err == nil {
			t.Errorf("Handshake after %q = nil, but nobody answered", data)
		}
		conn.Rest()
	})
}

// oneWay is a connection whose peer has sent all it will and takes everything.
type oneWay struct {
	net.Conn
	from io.Reader
	to   io.Writer
}

func (c *oneWay) Read(p []byte) (int, error) {
	if c.from == nil {
		return 0, io.EOF
	}
	return c.from.Read(p)
}

func (c *oneWay) Write(p []byte) (int, error) { return c.to.Write(p) }
func (c *oneWay) Close() error                { return nil }
func (c *oneWay) LocalAddr() net.Addr         { return &net.TCPAddr{} }
func (c *oneWay) SetDeadline(time.Time) error { return nil }

func (c *oneWay) SetWriteDeadline(time.Time) error { return nil }
