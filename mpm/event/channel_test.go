package event_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/mpm/event"
)

// TestChannel talks to a peer that answers with what it got.
func TestChannel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { // ends with the connection
		nc, err := l.Accept()
		if err == nil {
			_, err = io.Copy(nc, nc)
			_ = nc.Close()
		}
		served <- err
	}()
	c, err := event.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // more than the socket takes at once
	go func() {                                              // ends when all is written
		if _, err := c.Write(sent); err != nil {
			t.Errorf("Write: %v", err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("ReadAll = %d bytes, %v; want the %d sent", len(got), err, len(sent))
	}
	if err := errors.Join(<-served, c.Close()); err != nil {
		t.Error(err)
	}
}

// TestChannelEnds holds how reads and writes end that can't go on.
func TestChannelEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if _, err := event.Dial(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Dial where nothing is = %v, want os.ErrNotExist", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, end := range map[string]struct {
		do   func(c *event.Channel) error
		want error
	}{
		"a deadline":      {func(c *event.Channel) error { return c.SetDeadline(time.Now().Add(-time.Second)) }, os.ErrDeadlineExceeded},
		"our own closing": {(*event.Channel).Close, net.ErrClosed},
	} {
		c, err := event.Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() { // ends with the read
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		if err := end.do(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-read; !errors.Is(err, end.want) {
			t.Errorf("Read ended by %s = %v, want %v", name, err, end.want)
		}
		_ = c.Close()
	}
}

// TestChannelAsk: what is asked of whom, and what comes back.
func TestChannelAsk(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, row := range []struct {
		name    string
		before  func(peer net.Conn)
		after   func(peer net.Conn) // when the request has come
		request int
		want    string
		sent    bool
		err     error
	}{
		{"an answer", nil, func(p net.Conn) { _, _ = io.WriteString(p, "yes") }, 3, "yes", true, nil},
		{"the end", nil, func(p net.Conn) { _ = p.Close() }, 3, "", true, io.EOF},
		{"one that speaks unasked", func(p net.Conn) { _, _ = io.WriteString(p, "hello") }, nil, 3, "", false, event.ErrNotQuiet},
		{"one that has hung up", func(p net.Conn) { _ = p.Close() }, nil, 3, "", false, event.ErrNotQuiet},
		{"a request that is not taken at once", nil, nil, 64 << 20, "", true, nil},
	} {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c, err := event.Wrap(nc)
		if err != nil {
			t.Fatal(err)
		}
		if row.before != nil {
			row.before(peer)
			awaitEvent(t, nc)
		}
		done := make(chan struct{})
		go func() { // ends with the request, or the connection
			defer close(done)
			if row.after == nil {
				return
			}
			_, _ = io.ReadFull(peer, make([]byte, row.request))
			row.after(peer)
		}()
		var got [16]byte
		sent, n, err := c.Ask(make([]byte, row.request), got[:])
		if string(got[:n]) != row.want || !errors.Is(err, row.err) || (sent > 0) != row.sent {
			t.Errorf("%s: Ask = %d, %q, %v; want %q, %v", row.name, sent, got[:n], err, row.want, row.err)
		}
		<-done
		_, _ = c.Close(), peer.Close() // perhaps once more
	}
}

// awaitEvent returns when there is something to read, which stays.
func awaitEvent(t *testing.T, nc net.Conn) {
	t.Helper()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
		return !errors.Is(err, unix.EAGAIN)
	}); err != nil {
		t.Fatal(err)
	}
}
