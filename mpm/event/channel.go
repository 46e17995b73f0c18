package event

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Channel is a connection to the private unix socket of a child, or to another server. It implements net.Conn; its addresses are
// those of a socket without a name. One goroutine may read while another one writes; the other methods may be called from several.
//
// Reads and writes never block, and the runtime is not told of them: it takes a system call that was preempted for one that
// blocks, and a child on the same processor preempts whoever wakes it. That cost a tenth of a short request.
type Channel struct {
	socket socket
	name   string
	raw    syscall.RawConn
	in     transfer // of who reads
	out    transfer // of who writes
	asking asking
}

// socket is what has the descriptor in Go's poller: an os.File or a net.Conn.
type socket interface {
	syscall.Conn
	io.Closer
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// transfer is one read or write. The functions that the poller calls are made once for a channel, and not for each of them.
type transfer struct {
	p     []byte
	n     int
	errno unix.Errno
	ready func(fd uintptr) bool // tries it
}

// asking is a call of Ask.
type asking struct {
	request []byte
	p       []byte
	sent, n int
	err     error
	wrote   bool
	ready   func(fd uintptr) bool
}

// ErrNotQuiet means that the other side of a Channel has hung up, or said something unasked.
var ErrNotQuiet = errors.New("the other side has hung up, or speaks unasked")

// take ends a transfer, and keeps nothing of it.
func (t *transfer) take() (n int, errno unix.Errno) {
	t.p = nil
	return t.n, t.errno
}

// Dial connects to the socket at path. It does not wait: a socket whose backlog is full is an error.
func Dial(path string) (*Channel, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	return newChannel(os.NewFile(uintptr(fd), path), path)
}

// Wrap makes a Channel of a stream connection that can be used otherwise: one of package net. It takes it over; after an error it is
// closed.
func Wrap(nc net.Conn) (*Channel, error) {
	s, ok := nc.(socket)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T has no descriptor", nc), nc.Close())
	}
	return newChannel(s, nc.RemoteAddr().String())
}

func newChannel(s socket, name string) (c *Channel, err error) {
	c = &Channel{socket: s, name: name}
	if c.raw, err = s.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	c.in.ready = func(fd uintptr) bool {
		c.in.n, c.in.errno = read(int(fd), c.in.p)
		return c.in.errno != unix.EAGAIN
	}
	c.out.ready = func(fd uintptr) bool {
		c.out.n, c.out.errno = write(int(fd), c.out.p)
		return c.out.errno != unix.EAGAIN
	}
	c.asking.ready = func(fd uintptr) bool { return c.asking.step(int(fd)) }
	return c, nil
}

// Ask writes a request to an other side that has said all it had to say, and reads the first of what it answers: nothing is sent to
// one that is not quiet ([ErrNotQuiet]). If not all of the request is taken at once, n is 0, and the caller goes on with Write and
// Read. With an empty p it reads nothing.
//
// It waits before it reads. So an answer that takes its time costs no read that finds nothing, and one that is there already is not
// missed: who waits in Go's poller is told of what came since the function below was called first.
func (c *Channel) Ask(request, p []byte) (sent, n int, err error) {
	a := &c.asking
	a.request, a.p, a.sent, a.n, a.err, a.wrote = request, p, 0, 0, nil, false
	err = c.raw.Read(a.ready)
	a.request, a.p = nil, nil
	switch {
	case err != nil:
		return a.sent, 0, closedOr(err)
	case a.err == nil && a.n == 0 && a.sent == len(request) && len(p) > 0:
		return a.sent, 0, io.EOF
	}
	return a.sent, a.n, a.err
}

// step does what can be done without waiting. It reports whether nothing is left to be done.
func (a *asking) step(fd int) bool {
	var errno unix.Errno
	if a.wrote {
		if a.n, errno = read(fd, a.p); errno == unix.EAGAIN {
			return false
		}
		a.fail("read", errno)
		return true
	}
	if peek(fd) != unix.EAGAIN {
		a.err = ErrNotQuiet
		return true
	}
	a.wrote = true
	if a.sent, errno = write(fd, a.request); errno != unix.EAGAIN {
		a.fail("write", errno)
	}
	return a.err != nil || a.sent < len(a.request) || len(a.p) == 0
}

func (a *asking) fail(call string, errno unix.Errno) {
	if errno != 0 {
		a.err = os.NewSyscallError(call, errno)
	}
}

// Read implements net.Conn.
func (c *Channel) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in.p = p
	err = c.raw.Read(c.in.ready)
	n, errno := c.in.take()
	switch {
	case err != nil:
		return 0, closedOr(err)
	case errno != 0:
		return 0, os.NewSyscallError("read", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// ReadMsgUnix reads like that of net.UnixConn: descriptors that came with the bytes are in control, to be closed on exec. The
// address is nil.
func (c *Channel) ReadMsgUnix(p, control []byte) (n, controls, flags int, addr *net.UnixAddr, err error) {
	var errno unix.Errno
	err = c.raw.Read(func(fd uintptr) bool {
		n, controls, flags, errno = recvmsg(int(fd), p, control)
		return errno != unix.EAGAIN
	})
	switch {
	case err != nil:
		return 0, 0, 0, nil, closedOr(err)
	case errno != 0:
		return 0, 0, 0, nil, os.NewSyscallError("recvmsg", errno)
	case n == 0 && len(p) > 0:
		return 0, controls, flags, nil, io.EOF
	}
	return n, controls, flags, nil, nil
}

// Write implements net.Conn.
func (c *Channel) Write(p []byte) (n int, err error) {
	for n < len(p) {
		c.out.p = p[n:]
		err := c.raw.Write(c.out.ready)
		sent, errno := c.out.take()
		if err != nil {
			return n, closedOr(err)
		}
		if errno != 0 {
			return n, os.NewSyscallError("write", errno)
		}
		n += sent
	}
	return n, nil
}

// closedOr is what a net.Conn returns for an error of the poller.
func closedOr(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

// Quiet reports whether the other side has said nothing that was not read, its end included.
func (c *Channel) Quiet() bool {
	quiet := false
	_ = c.raw.Control(func(fd uintptr) { quiet = peek(int(fd)) == unix.EAGAIN }) // a closed one is not
	return quiet
}

// Unread is how much memory is taken by what was written and the other side has not read all of; 0: it has read everything.
func (c *Channel) Unread() (n int) {
	_ = c.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) // of a closed one: nothing
	return n
}

// CloseWrite says that no more is to come.
func (c *Channel) CloseWrite() error {
	var err error
	closed := c.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) })
	if closed != nil {
		return net.ErrClosed
	}
	return os.NewSyscallError("shutdown", err)
}

// Close implements net.Conn. Reads and writes in progress fail with net.ErrClosed.
func (c *Channel) Close() error { return c.socket.Close() }

// LocalAddr implements net.Conn.
func (c *Channel) LocalAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// RemoteAddr implements net.Conn.
func (c *Channel) RemoteAddr() net.Addr { return &net.UnixAddr{Name: c.name, Net: "unix"} }

// SetDeadline implements net.Conn.
func (c *Channel) SetDeadline(t time.Time) error { return c.socket.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Channel) SetReadDeadline(t time.Time) error { return c.socket.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Channel) SetWriteDeadline(t time.Time) error { return c.socket.SetWriteDeadline(t) }
