package event

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Channel is a connection to the private unix socket of a child. It implements net.Conn; its addresses are those of a socket
// without a name. One goroutine may read while another one writes; the other methods may be called from several.
//
// Reads and writes never block, and the runtime is not told of them: it takes a system call that was preempted for one that
// blocks, and a child on the same processor preempts whoever wakes it. That cost a tenth of a short request.
type Channel struct {
	file *os.File // in Go's poller
	raw  syscall.RawConn
	in   transfer // of who reads
	out  transfer // of who writes
}

// transfer is one read or write. The functions that the poller calls are made once for a channel, and not for each of them.
type transfer struct {
	p     []byte
	n     int
	errno unix.Errno
	ready func(fd uintptr) bool // tries it
}

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
	c := &Channel{file: os.NewFile(uintptr(fd), path)}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, c.file.Close())
	}
	c.in.ready = func(fd uintptr) bool {
		c.in.n, c.in.errno = read(int(fd), c.in.p)
		return c.in.errno != unix.EAGAIN
	}
	c.out.ready = func(fd uintptr) bool {
		c.out.n, c.out.errno = write(int(fd), c.out.p)
		return c.out.errno != unix.EAGAIN
	}
	return c, nil
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
func (c *Channel) Close() error { return c.file.Close() }

// LocalAddr implements net.Conn.
func (c *Channel) LocalAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// RemoteAddr implements net.Conn.
func (c *Channel) RemoteAddr() net.Addr { return &net.UnixAddr{Name: c.file.Name(), Net: "unix"} }

// SetDeadline implements net.Conn.
func (c *Channel) SetDeadline(t time.Time) error { return c.file.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Channel) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Channel) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }
