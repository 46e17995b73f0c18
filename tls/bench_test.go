package tls

import (
	"context"
	stdtls "crypto/tls"
	"fmt"
	"net"
	"testing"
)

// connect returns the server's side of a session in memory, and the connection below it.
func connect(b *testing.B, c *Certificates) (server *Conn, raw *mutable) {
	near, far := net.Pipe()
	raw = &mutable{Conn: far}
	server = c.Server("tcp :443", raw)
	client := make(chan error, 1)
	go func() { client <- stdtls.Client(near, &stdtls.Config{InsecureSkipVerify: true}).Handshake() }() // ends with the handshake
	if err := server.Handshake(context.Background()); err != nil {
		b.Fatal(err)
	}
	if err := <-client; err != nil {
		b.Fatal(err)
	}
	return server, raw
}

// mutable is a connection that can be told to lose what is written.
type mutable struct {
	net.Conn
	mute bool
}

func (m *mutable) Write(p []byte) (int, error) {
	if m.mute {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// Claim: a response is sealed without an allocation.
func BenchmarkSeal(b *testing.B) {
	c, err := New(b.TempDir(), []Site{internalSite("tcp :443", "a.example")}, func(string, string, ...any) {})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for _, n := range []int{1 << 10, 16 << 10} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			server, raw := connect(b, c)
			defer raw.Close()
			raw.mute = true
			text := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := server.Write(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
