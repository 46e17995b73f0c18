package event

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// asker is a protocol of lines that a server answers, line by line, over one Upstream.
type asker struct {
	server   string // its address
	idle     time.Duration
	upstream *Upstream // the loop's, while it is idle; there is one loop
	asked    *Upstream // that was asked last; one client asks after the other
	gone     atomic.Int32
	served   atomic.Int32 // by goroutines
}

func (p *asker) Data(t *Turn, data []byte) Verdict {
	i := bytes.IndexByte(data, '\n')
	if i < 0 {
		return Wait
	}
	if p.upstream == nil {
		nc, err := net.Dial("tcp", p.server) // in a test the loop may wait
		if err != nil {
			return Finish
		}
		channel, err := Wrap(nc)
		if err != nil {
			return Finish
		}
		if p.upstream, err = t.Adopt(channel, p); err != nil {
			return Finish
		}
	}
	u := p.upstream
	p.asked, p.upstream = u, nil
	if !t.Ask(u, data[:i+1]) {
		t.Pass("nobody was asked")
		return Detach
	}
	return Hold
}

func (p *asker) Answered(t *Turn, data []byte, ended bool) Verdict {
	i := bytes.IndexByte(data, '\n')
	switch {
	case ended:
		return Detach
	case i < 0:
		return Hold
	}
	u := p.asked
	_, _ = t.Write(data[:i+1])
	t.Consume(bytes.IndexByte(u.Request(), '\n') + 1)
	t.Keep(time.Minute)
	t.KeepUpstream(u, p.idle)
	p.upstream = u
	return Wait
}

func (p *asker) Gone() {
	p.gone.Add(1)
	p.upstream = nil
}

func (p *asker) Expired(*Turn, []byte) {}

// Serve reads what is left of the answer.
func (p *asker) Serve(c *Conn) {
	defer c.Close()
	p.served.Add(1)
	passed, channel, said, err := c.TakePassed()
	if channel == nil || err != nil {
		fmt.Fprintln(c, passed, err)
		return
	}
	defer channel.Close()
	rest, err := io.ReadAll(channel)
	fmt.Fprintf(c, "a goroutine has %d bytes and then %d, %v\n", len(said), len(rest), err)
}

// answering is a server that answers each line with what answer makes of it; an empty text ends the connection.
func answering(t *testing.T, answer func(nc net.Conn, line string) string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			for br := bufio.NewReader(nc); ; {
				line, err := br.ReadString('\n')
				if err != nil {
					break
				}
				text := answer(nc, strings.TrimSuffix(line, "\n"))
				if text == "" {
					break
				}
				_, _ = io.WriteString(nc, text)
			}
			nc.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String()
}

func TestUpstream(t *testing.T) {
	asked, hold := make(chan struct{}), make(chan struct{})
	p := &asker{idle: time.Minute, server: answering(t, func(nc net.Conn, line string) string {
		switch line {
		case "in pieces":
			_, _ = io.WriteString(nc, "in pi")
			time.Sleep(10 * time.Millisecond) // any time is right
			return "eces\n"
		case "large":
			_, _ = io.WriteString(nc, strings.Repeat("x", 3*MaxAnswer))
			return ""
		case "cut":
			_, _ = io.WriteString(nc, "cu")
			return ""
		case "slow":
			time.Sleep(2500 * time.Millisecond)
			_, _ = io.WriteString(nc, "slow")
			return ""
		case "nothing":
			return ""
		case "held":
			close(asked)
			<-hold
		}
		return line + " it is\n"
	})}
	e, addr := start(t, p, Options{Loops: 1})
	for _, row := range []struct{ name, line, want string }{
		{"an answer", "a", "a it is\n"},
		{"another one", "b", "b it is\n"},
		{"one in pieces", "in pieces", "in pieces\n"},
		{"one after that", "c", "c it is\n"},
		{"more than the loop takes", "large", fmt.Sprintf("a goroutine has %d bytes and then", MaxAnswer)},
		{"one of a new connection", "d", "d it is\n"},
		{"an answer that is cut", "cut", "a goroutine has 2 bytes and then 0, <nil>\n"},
		{"none", "nothing", "a goroutine has 0 bytes and then 0, <nil>\n"},
		{"one that takes its time", "slow", "a goroutine has 0 bytes and then 4, <nil>\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := dial(t, addr)
			fmt.Fprintln(c, row.line)
			got, err := bufio.NewReader(c).ReadString('\n')
			if row.line == "large" && len(got) > len(row.want) { // the rest may have come in two pieces
				got = got[:len(row.want)]
			}
			if got != row.want || err != nil && row.line != "large" {
				t.Errorf("the client got %q, %v", got, err)
			}
		})
	}
	t.Run("a client that is held has a request in progress", func(t *testing.T) {
		c := dial(t, addr)
		fmt.Fprintln(c, "held")
		<-asked
		eventually(t, "a connection with a request", func() bool { return e.Stats().Active == 1 })
		fmt.Fprintln(c, "e") // comes too early, and waits
		close(hold)
		br := bufio.NewReader(c)
		for _, want := range []string{"held it is\n", "e it is\n"} {
			if got, err := br.ReadString('\n'); got != want {
				t.Errorf("the client got %q, %v, want %q", got, err, want)
			}
		}
		eventually(t, "none", func() bool { return e.Stats().Active == 0 })
	})
}

// TestUpstreamGone: what ends an idle one is told of.
func TestUpstreamGone(t *testing.T) {
	speak := make(chan struct{})
	server := func(t *testing.T) string {
		return answering(t, func(nc net.Conn, line string) string {
			switch line {
			case "hangs up":
				_, _ = io.WriteString(nc, "yes\n")
				<-speak
				return ""
			case "speaks":
				_, _ = io.WriteString(nc, "yes\n")
				<-speak
				return "unasked\n"
			}
			return "yes\n"
		})
	}
	for name, row := range map[string]struct {
		line string
		idle time.Duration
		end  func(*Engine)
	}{
		"by the server that hangs up":     {"hangs up", time.Minute, func(*Engine) { speak <- struct{}{} }},
		"by a server that speaks unasked": {"speaks", time.Minute, func(*Engine) { speak <- struct{}{} }},
		"after its time":                  {"waits", time.Second, func(*Engine) {}},
		"with the engine":                 {"waits", time.Minute, func(e *Engine) { e.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			p := &asker{idle: row.idle, server: server(t)}
			e, addr := start(t, p, Options{Loops: 1})
			c := dial(t, addr)
			talk(t, c, row.line+"\n", "yes\n")
			c.Close() // the loop ticks for the sake of its upstreams, too
			eventually(t, "the end of the client's connection", func() bool { return e.Stats().Open == 0 })
			if p.gone.Load() != 0 {
				t.Error("it is gone already")
			}
			row.end(e)
			eventually(t, "its end", func() bool { return p.gone.Load() == 1 })
			if p.served.Load() != 0 {
				t.Error("a goroutine was needed")
			}
		})
	}
}

// TestUpstreamOfClosedEngine: who has asked hears of the end, too.
func TestUpstreamOfClosedEngine(t *testing.T) {
	asked, hold := make(chan struct{}), make(chan struct{})
	p := &asker{server: answering(t, func(net.Conn, string) string {
		close(asked)
		<-hold
		return ""
	})}
	e, addr := start(t, p, Options{Loops: 1})
	c := dial(t, addr)
	fmt.Fprintln(c, "a")
	<-asked
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	close(hold)
	if _, err := c.Read(make([]byte, 1)); err == nil || p.gone.Load() != 1 {
		t.Errorf("the client got %v, and the asker was told %d times", err, p.gone.Load())
	}
}
