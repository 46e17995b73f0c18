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
