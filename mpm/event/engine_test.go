package event

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is a protocol of lines: "hi" is answered in place, "bye" in place with a close, everything else by a goroutine.
type lines struct {
	keep  time.Duration
	serve func(c *Conn, line string) // replaces the echo
}

func (p *lines) Data(t *Turn, data []byte) Verdict {
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return Wait
		}
		switch string(data[:i]) {
		case "hi":
			fmt.Fprintln(t, "hi yourself")
			t.Consume(i + 1)
			data = data[i+1:]
		case "bye":
			fmt.Fprintln(t, "bye")
			return Finish
		case "end":
			fmt.Fprintln(t, "end")
			t.Consume(i + 1)
			return End
		default:
			return Detach
		}
	}
}

func (p *lines) Expired(t *Turn, data []byte) { fmt.Fprintf(t, "too slow: %s\n", data) }

func (p *lines) Serve(c *Conn) {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			c.Close()
			return
		}
		line = strings.TrimSuffix(line, "\n")
		c.Requests()
		if p.serve != nil {
			p.serve(c, line)
			return
		}
		if line == "last" {
			c.Write([]byte("last\n"))
			c.Linger()
			return
		}
		if line == "hi" {
			line = "hi yourself" // whoever answers it
		} else {
			line = "echo " + line
		}
		c.Write([]byte(line + "\n"))
		rest, _ := r.Peek(r.Buffered())
		if bytes.IndexByte(rest, '\n') < 0 && c.Park(p.keep, rest) {
			return
		}
	}
}

func start(t *testing.T, p Protocol, o Options) (*Engine, string) {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Listen(f, Listener{Protocol: p, Address: ln.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	return e, ln.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// talk writes text and reads until want has come.
func talk(t *testing.T, c net.Conn, text, want string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("talk(%q) = %q, %v, want %q", text, got[:n], err, want)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestConversations(t *testing.T) {
	tests := []struct {
		name, send, want string
	}{
		{"a line answered on the loop", "hi\n", "hi yourself\n"},
		{"a line answered by a goroutine", "x\n", "echo x\n"},
		{"several lines at once are all answered in order", "hi\nx\nhi\n", "hi yourself\necho x\nhi yourself\n"},
		{"after a goroutine has parked it, the loop answers again", "x\n", "echo x\n"},
	}
	e, addr := start(t, &lines{keep: time.Minute}, Options{Loops: 2})
	c := dial(t, addr)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { talk(t, c, tt.send, tt.want) })
	}
	eventually(t, "the connection is parked", func() bool { s := e.Stats(); return s.Parked == 1 && s.Active == 0 })
	c.Close()
	eventually(t, "the closed connection is forgotten", func() bool { return e.Stats().Open == 0 })
}

func TestARequestInPiecesIsPutTogether(t *testing.T) {
	_, addr := start(t, &lines{keep: time.Minute}, Options{})
	c := dial(t, addr)
	for _, b := range "hello" {
		io.WriteString(c, string(b))
		time.Sleep(time.Millisecond) // so that the loop sees them one by one
	}
	talk(t, c, "\n", "echo hello\n")
}

func TestFinishSendsTheAnswerBeforeClosing(t *testing.T) {
	_, addr := start(t, &lines{}, Options{})
	for _, text := range []string{"bye\nunread", "last\nunread", "end\n", "end\nunread"} {
		c := dial(t, addr)
		io.WriteString(c, text)
		got, err := io.ReadAll(c)
		if err != nil || string(got) != text[:strings.IndexByte(text, '\n')+1] {
			t.Errorf("answer to %q: %q, %v", text, got, err)
		}
	}
}

func TestSlowHeadIsAnsweredAndClosed(t *testing.T) {
	_, addr := start(t, &lines{}, Options{HeadTimeout: time.Second})
	c := dial(t, addr)
	io.WriteString(c, "never end")
	got, err := io.ReadAll(c)
	if want := "too slow: never end\n"; err != nil || string(got) != want {
		t.Errorf("answer to an incomplete request = %q, %v, want %q", got, err, want)
	}
	silent := dial(t, addr)
	if got, err := io.ReadAll(silent); err != nil || len(got) > 0 {
		t.Errorf("a silent client got %q, %v, want a close", got, err)
	}
}

func TestKeepAliveEnds(t *testing.T) {
	_, addr := start(t, &lines{keep: time.Second}, Options{})
	c := dial(t, addr)
	talk(t, c, "x\n", "echo x\n")
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("after keep-alive: %q, %v, want a close", got, err)
	}
}

func TestALargeAnswerReachesASlowReader(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	f.Write(big)
	p := &lines{serve: func(c *Conn, line string) {
		switch line {
		case "write":
			c.Write(big)
		case "file":
			f.Seek(0, io.SeekStart)
			if n, err := c.SendFile(f, nil, int64(len(big))); n != int64(len(big)) || err != nil {
				t.Errorf("SendFile = %d, %v", n, err)
			}
		case "two":
			c.Write2(big[:10], big[10:])
		}
		c.Linger()
	}}
	_, addr := start(t, p, Options{})
	for _, how := range []string{"write", "file", "two"} {
		c := dial(t, addr)
		io.WriteString(c, how+"\n")
		time.Sleep(20 * time.Millisecond) // the socket fills up, the writer has to wait
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("%s: %d bytes, %v, want %d", how, len(got), err, len(big))
		}
	}
}

func TestReadDeadline(t *testing.T) {
	got := make(chan error, 1)
	p := &lines{serve: func(c *Conn, line string) {
		c.SetTimeout(time.Second)
		_, err := c.Read(make([]byte, 1))
		got <- err
		c.Close()
	}}
	_, addr := start(t, p, Options{})
	talk(t, dial(t, addr), "x\n", "")
	if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read after the deadline: %v", err)
	}
}

func TestOwnerHearsThatTheClientHasGone(t *testing.T) {
	heard := make(chan bool, 4)
	release := make(chan struct{})
	p := &lines{serve: func(c *Conn, line string) {
		c.OnGone(func(half bool) { heard <- half })
		<-release
		c.Close()
	}}
	_, addr := start(t, p, Options{})
	c := dial(t, addr)
	talk(t, c, "x\n", "")
	c.CloseWrite()
	if half := <-heard; !half {
		t.Error("a half-closed connection was reported as gone")
	}
	c.SetLinger(0)
	c.Close()
	if half := <-heard; half {
		t.Error("a reset connection was reported as half closed")
	}
	close(release)
}

func TestNonblockReadIsTemporary(t *testing.T) {
	got := make(chan error, 1)
	p := &lines{serve: func(c *Conn, line string) {
		c.SetNonblock(true)
		_, err := c.Read(make([]byte, 1))
		got <- err
		c.Close()
	}}
	_, addr := start(t, p, Options{})
	talk(t, dial(t, addr), "x\n", "")
	var temporary interface{ Temporary() bool } // what crypto/tls looks for
	if err := <-got; !errors.As(err, &temporary) || !temporary.Temporary() {
		t.Errorf("Read without bytes: %v, want a temporary net.Error", err)
	}
}

func TestDrainFinishesWhatRuns(t *testing.T) {
	running, release := make(chan struct{}), make(chan struct{})
	p := &lines{serve: func(c *Conn, line string) {
		close(running)
		<-release
		c.Write([]byte("done\n"))
		if c.Park(time.Minute, nil) {
			t.Error("a draining engine parked a connection")
			return
		}
		c.Linger()
	}}
	e, addr := start(t, p, Options{})
	idle, busy := dial(t, addr), dial(t, addr)
	talk(t, idle, "hi\n", "hi yourself\n")
	io.WriteString(busy, "x\n")
	<-running
	ended := make(chan error)
	go func() { ended <- e.Drain(context.Background()) }()
	if got, err := io.ReadAll(idle); err != nil || len(got) > 0 {
		t.Errorf("idle connection: %q, %v, want a close", got, err)
	}
	eventually(t, "new connections are refused", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	close(release)
	if got, err := io.ReadAll(busy); err != nil || string(got) != "done\n" {
		t.Errorf("busy connection: %q, %v", got, err)
	}
	busy.Close()
	if err := <-ended; err != nil {
		t.Errorf("Drain: %v", err)
	}
}

func TestDrainGivesUpWithItsContext(t *testing.T) {
	release := make(chan struct{})
	p := &lines{serve: func(c *Conn, line string) { <-release; c.Close() }}
	e, addr := start(t, p, Options{})
	io.WriteString(dial(t, addr), "x\n")
	eventually(t, "the request runs", func() bool { return e.Stats().Active == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := e.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain with a busy connection: %v", err)
	}
	close(release)
}

func TestManyConnections(t *testing.T) {
	e, addr := start(t, &lines{keep: time.Minute}, Options{Loops: 2})
	const clients, rounds = 300, 10
	var wg sync.WaitGroup
	for i := range clients {
		c := dial(t, addr)
		wg.Go(func() {
			for r := range rounds {
				word := fmt.Sprintf("c%d-%d", i, r)
				io.WriteString(c, word+"\nhi\n")
				want := "echo " + word + "\n"
				got := make([]byte, len(want))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
					t.Errorf("client %d: %q, %v", i, got, err)
					return
				}
				second := make([]byte, len("hi yourself\n"))
				if _, err := io.ReadFull(c, second); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if s := e.Stats(); s.Open != clients || s.Accepted != clients {
		t.Errorf("Stats = %+v, want %d open and accepted", s, clients)
	}
}

func BenchmarkParkedRoundTrip(b *testing.B) {
	for _, line := range []string{"hi\n", "x\n"} {
		b.Run(map[string]string{"hi\n": "on-the-loop", "x\n": "by-goroutine"}[line], func(b *testing.B) {
			e, err := New(Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			ln, _ := net.Listen("tcp", "127.0.0.1:0")
			f, _ := ln.(*net.TCPListener).File()
			ln.Close()
			e.Listen(f, Listener{Protocol: &lines{keep: time.Minute}})
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				io.WriteString(c, line)
				c.Read(buf)
			}
		})
	}
}

func TestIdleConnectionsMakeRoom(t *testing.T) {
	var pauses, sheds atomic.Int32
	e, addr := start(t, &lines{keep: time.Minute}, Options{MaxConns: 8, Paused: func(error) { pauses.Add(1) }, Shed: func() { sheds.Add(1) }})
	for i := range 40 {
		c := dial(t, addr)
		talk(t, c, "x\n", "echo x\n")
		if open := e.Stats().Open; open > 8 {
			t.Fatalf("connection %d: %d are open, want at most 8", i, open)
		}
	}
	if n := pauses.Load(); n == 0 {
		t.Error("nobody was told that accepting paused")
	}
	if n := sheds.Load(); n == 0 {
		t.Error("owners of idle connections were not asked for them")
	}
}

func TestSlowHeadIsBoundedWhateverItsSize(t *testing.T) {
	_, addr := start(t, &lines{keep: time.Second}, Options{HeadTimeout: time.Second})
	c := dial(t, addr)
	io.WriteString(c, strings.Repeat("a", 1200)) // earns itself one more timeout, not one with each byte
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.ReadAll(c)
	}()
	for range 100 {
		select {
		case <-ended:
			return
		case <-time.After(100 * time.Millisecond):
			io.WriteString(c, "a")
		}
	}
	t.Error("a head that never ends is still waited for")
}

func TestParkAfterAReadThatTookExactlyWhatWasThere(t *testing.T) {
	serving, parked := make(chan struct{}), make(chan bool, 1)
	p := &lines{serve: func(c *Conn, line string) {
		close(serving)
		io.ReadFull(c, make([]byte, 5))
		c.Write([]byte("ok\n"))
		ok := c.Park(time.Minute, nil)
		parked <- ok
		if !ok {
			c.Close()
		}
	}}
	_, addr := start(t, p, Options{})
	c := dial(t, addr)
	talk(t, c, "x\n", "")
	<-serving
	talk(t, c, "12345", "ok\n")
	if !<-parked {
		t.Error("Park refused, with nothing left to read")
	}
}

func TestDrainServesTheBacklog(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range 3 * acceptBatch {
		c := dial(t, ln.Addr().String())
		io.WriteString(c, "bye\n")
		conns = append(conns, c)
	}
	ln.Close()
	e, err := New(Options{Loops: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	e.draining.Store(true)
	if err := e.Listen(f, Listener{Protocol: &lines{}}); err != nil {
		t.Fatal(err)
	}
	if err := e.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	for i, c := range conns {
		if got, err := io.ReadAll(c); string(got) != "bye\n" || err != nil {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
	}
}

// TestDrainIsNotPutOffByClients: a loop without connections must not set its tick anew for each that comes and goes.
func TestDrainIsNotPutOffByClients(t *testing.T) {
	release := make(chan struct{})
	e, addr := start(t, &lines{serve: func(c *Conn, _ string) { <-release; c.Close() }}, Options{Loops: 2})
	io.WriteString(dial(t, addr), "x\n")
	eventually(t, "a request runs", func() bool { return e.Stats().Active == 1 })
	ended := make(chan error, 1)
	go func() { ended <- e.Drain(context.Background()) }()
	eventually(t, "new connections are refused, however many are tried", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
