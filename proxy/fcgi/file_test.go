package fcgi

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// catcher reads from a unix socket and keeps the descriptors that come along.
type catcher struct {
	*net.UnixConn
	fds []int
}

func (c *catcher) Read(p []byte) (int, error) {
	control := make([]byte, 64)
	n, controls, _, _, err := c.ReadMsgUnix(p, control)
	messages, _ := syscall.ParseSocketControlMessage(control[:controls])
	for i := range messages {
		fds, _ := syscall.ParseUnixRights(&messages[i])
		c.fds = append(c.fds, fds...)
	}
	if errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return n, err
}

// TestRequestFile: a descriptor comes with the end of its response, behind output of any size, and the handler's own is closed.
func TestRequestFile(t *testing.T) {
	for name, output := range map[string]string{"no output": "", "some output": "hello", "more output than a buffer has room for": strings.Repeat("x", 3*stdoutBuffer)} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			front, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			app, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			file, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString("content"); err != nil {
				t.Fatal(err)
			}
			server := serveOn(t, app, func(_ context.Context, r *Request) {
				_, _ = io.WriteString(r.Stdout, output)
				r.File = file
			})
			socket, _ := front.(*net.UnixConn)
			caught := &catcher{UnixConn: socket}
			c := NewConn(caught)
			defer c.Close()
			out, _, err := ask(c, nil, "")
			if out != output || err != nil || len(caught.fds) != 1 {
				t.Fatalf("Do() gave %d bytes, %v, descriptors %v; want %d bytes and one", len(out), err, caught.fds, len(output))
			}
			got := os.NewFile(uintptr(caught.fds[0]), "got")
			defer got.Close()
			b := make([]byte, 7)
			if _, err := got.ReadAt(b, 0); string(b) != "content" {
				t.Errorf("the file holds %q, %v", b, err)
			}
			if err := server.Shutdown(t.Context()); err != nil { // the end is sent before the file is closed
				t.Fatal(err)
			}
			if err := file.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Close() of the handler's file = %v, want os.ErrClosed", err)
			}
		})
	}
}

// TestRequestFileNeedsAUnixSocket: elsewhere the response does not end well, and the file is closed all the same.
func TestRequestFileNeedsAUnixSocket(t *testing.T) {
	front, app := net.Pipe()
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, app, func(_ context.Context, r *Request) { r.File = file })
	c := NewConn(front)
	defer c.Close()
	if _, _, err := ask(c, nil, ""); !errors.Is(err, ErrNoResponse) {
		t.Errorf("Do() = %v, want ErrNoResponse", err)
	}
	if err := file.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Close() of the handler's file = %v, want os.ErrClosed", err)
	}
}
