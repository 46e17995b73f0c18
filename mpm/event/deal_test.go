package event

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// TestConnectionsAreSharedOutEvenly opens connections, closes those of one loop, and opens as many again.
func TestConnectionsAreSharedOutEvenly(t *testing.T) {
	const loops, conns = 4, 200
	e, addr := start(t, &lines{keep: time.Minute}, Options{Loops: loops})
	open := func(n int) (clients []net.Conn) {
		for range n {
			c := dial(t, addr)
			talk(t, c, "hi\n", "hi yourself\n")
			clients = append(clients, c)
		}
		return clients
	}
	balanced := func(when string, total int) {
		t.Helper()
		for _, l := range e.loops {
			if n := int(l.open.Load()); n < total/loops-lead || n > total/loops+lead {
				t.Errorf("%s: loop %d has %d of %d connections, want %d, give or take %d", when, l.number, n, total, total/loops, lead)
			}
		}
	}
	clients := open(conns)
	balanced("at first", conns)
	// Each in turn: every fourth connection is one loop's.
	left := 0
	for i, c := range clients {
		if i%loops == 1 {
			c.Close()
		} else {
			left++
		}
	}
	eventually(t, "the connections are closed", func() bool { return e.Stats().Open == int64(left) })
	open(conns - left)
	balanced("after one loop has lost all of its own", conns)
}

// TestShortConnectionsAreSharedOut holds that a loop with a few lasting connections less does not get all the short ones.
func TestShortConnectionsAreSharedOut(t *testing.T) {
	e, _ := start(t, &lines{}, Options{Loops: 2})
	e.loops[0].open.Add(lead / 2)
	defer e.loops[0].open.Add(-lead / 2)
	var dealt [2]int
	for range 100 {
		dealt[e.deal().number]++
	}
	if dealt != [2]int{50, 50} {
		t.Errorf("100 short connections went to the loops as %v, want [50 50]", dealt)
	}
}

// TestRequestThatComesWithItsConnection holds that what is there at accept is served, whatever becomes of the connection.
func TestRequestThatComesWithItsConnection(t *testing.T) {
	tests := []struct{ name, say, want string }{
		{"answered in place, and kept", "hi\n", "hi yourself\n"},
		{"answered in place, and ended", "end\n", "end\n"},
		{"answered in place, and closed", "bye\nrest", "bye\n"},
		{"answered by a goroutine", "other\n", "echo other\n"},
		{"in two parts", "h", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, addr := start(t, &lines{keep: time.Minute}, Options{Loops: 1})
			// While the only loop is busy here, the connection and its request arrive together.
			var c *net.TCPConn
			l := e.loops[0]
			l.mu.Lock()
			c = dial(t, addr)
			io.WriteString(c, tt.say)
			l.mu.Unlock()
			talk(t, c, "", tt.want)
			switch tt.say {
			case "end\n", "bye\nrest":
				if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
					t.Errorf("then came %q, %v, want the end", rest, err)
				}
			case "h":
				talk(t, c, "i\n", "hi yourself\n")
			default:
				talk(t, c, "hi\n", "hi yourself\n")
			}
		})
	}
}

// BenchmarkClose is a connection with one request, from connect to close.
func BenchmarkClose(b *testing.B) {
	e, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		b.Fatal(err)
	}
	if err := e.Listen(f, Listener{Protocol: &lines{}, Address: "bench"}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprint(c, "end\n")
		if answer, err := io.ReadAll(c); err != nil || !bytes.Equal(answer, []byte("end\n")) {
			b.Fatalf("answer %q, %v", answer, err)
		}
		c.Close()
	}
}
