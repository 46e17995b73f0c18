package ctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sendTimeout bounds [Conn.Send]: a peer that does not read for so long, with its socket buffer full, is hung.
	sendTimeout = 5 * time.Second

	// maxFiles is how many descriptors Recv has room for. No kind has more than one; the rest is to see and close what
	// does not belong there.
	maxFiles = 8
)

// Conn is one end of the socketpair between the supervisor and the front. Message borders are kept (SOCK_SEQPACKET).
//
// Send is safe for concurrent use. Recv belongs to one goroutine. Close ends both.
type Conn struct {
	file *os.File // non-blocking, in the runtime's poller: immutable after newConn
	raw  syscall.RawConn
	self side // who holds this end

	closed  atomic.Bool
	sending sync.Mutex    // makes a write deadline and the write it is for one step
	timeout time.Duration // of Send: sendTimeout outside tests

	buf []byte // of Recv: its message
	oob []byte // of Recv: its control data
}

// Pair makes a socketpair. The supervisor keeps sup; other is for descriptor 3 of the front, which gives it to [FromFile].
// Both are closed on exec.
func Pair() (sup *Conn, other *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("ctl: socketpair: %w", err)
	}
	other = os.NewFile(uintptr(fds[1]), "ctl front")
	sup, err = newConn(fds[0], supervisor)
	if err != nil {
		return nil, nil, errors.Join(err, other.Close())
	}
	return sup, other, nil
}

// FromFile makes the front's end from the descriptor that it inherited, and closes f.
func FromFile(f *os.File) (*Conn, error) {
	defer f.Close() //nolint:errcheck // only a duplicate is used from here on
	fd, err := Descriptor(f)
	if err != nil {
		return nil, fmt.Errorf("ctl: %w", err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, fmt.Errorf("ctl: descriptor %d is not a control socket: this role is started by the supervisor only", fd)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, fmt.Errorf("ctl: dup: %w", err)
	}
	return newConn(own, front)
}

// newConn takes fd over.
func newConn(fd int, self side) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("ctl: %w", err), unix.Close(fd))
	}
	c := &Conn{
		file:    os.NewFile(uintptr(fd), "ctl "+string(self)),
		self:    self,
		timeout: sendTimeout,
		buf:     make([]byte, MaxMessageBytes),
		oob:     make([]byte, unix.CmsgSpace(maxFiles*4)),
	}
	var err error
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("ctl: %w", err), c.file.Close())
	}
	return c, nil
}

// Descriptor returns the number of an open file. Unlike [os.File.Fd] it does not make the open file description blocking, which
// other processes may share. The number is good while f is open: keep f.
func Descriptor(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	number := -1
	err = raw.Control(func(fd uintptr) { number = int(fd) })
	return number, err
}

// Close ends the connection; the peer reads io.EOF. A Recv in progress returns [os.ErrClosed].
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.file.Close()
}

// explain gives an error of the poller the name that callers know: the one for a closed file is private to the runtime.
func (c *Conn) explain(err error) error {
	if err != nil && c.closed.Load() {
		return os.ErrClosed
	}
	return err
}

// Send sends m with duplicates of files, which stay open here. It blocks at most five seconds for a peer that does not read.
func (c *Conn) Send(m Message, files ...*os.File) error {
	b, err := encode(m, c.self, len(files))
	if err != nil {
		return err
	}
	rights, err := rightsOf(files)
	if err != nil {
		return fmt.Errorf("ctl: %s: %w", m.Kind, err)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if err := c.file.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return fmt.Errorf("ctl: send %s: %w", m.Kind, c.explain(err))
	}
	var sent error
	err = c.raw.Write(func(fd uintptr) bool {
		sent = retryInterrupted(func() error { return unix.Sendmsg(int(fd), b, rights, nil, unix.MSG_NOSIGNAL) })
		return !errors.Is(sent, unix.EAGAIN)
	})
	runtime.KeepAlive(files)
	if err == nil {
		err = sent
	}
	if err = c.explain(err); err != nil {
		return fmt.Errorf("ctl: send %s: %w", m.Kind, err)
	}
	return nil
}

func rightsOf(files []*os.File) ([]byte, error) {
	if len(files) == 0 {
		return nil, nil
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fd, err := Descriptor(f)
		if err != nil {
			return nil, err
		}
		fds[i] = fd
	}
	return unix.UnixRights(fds...), nil
}

// Recv waits for the next message. The files are the caller's, closed on exec, and exactly as many as the kind has: others that
// came along are closed. The error is io.EOF when the peer is gone; ErrNoRoom comes with the message, and without its files; after
// any other error the peer is not to be trusted.
func (c *Conn) Recv() (Message, []*os.File, error) {
	n, oobn, flags, err := c.read()
	if err != nil {
		return Message{}, nil, err
	}
	files, err := FilesOf(c.oob[:oobn])
	switch {
	case err != nil:
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("ctl: message longer than %d bytes", MaxMessageBytes)
	case n == 0:
		err = io.EOF
	}
	var m Message
	var want int
	if err == nil {
		m, want, err = decode(c.buf[:n], c.self.peer())
	}
	switch {
	case err != nil:
		m = Message{}
	case flags&unix.MSG_CTRUNC != 0:
		err = ErrNoRoom
	case len(files) < want:
		m, err = Message{}, fmt.Errorf("ctl: %s: %d files, want %d", m.Kind, len(files), want)
	}
	if err != nil {
		closeAll(files)
		return m, nil, err
	}
	closeAll(files[want:])
	return m, files[:want:want], nil
}

// read fills buf and oob with one message. A length of 0 is the end.
func (c *Conn) read() (n, oobn, flags int, err error) {
	var got error
	err = c.raw.Read(func(fd uintptr) bool {
		got = retryInterrupted(func() error {
			var e error
			n, oobn, flags, _, e = unix.Recvmsg(int(fd), c.buf, c.oob, unix.MSG_CMSG_CLOEXEC)
			return e
		})
		return !errors.Is(got, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return 0, 0, 0, fmt.Errorf("ctl: receive: %w", c.explain(err))
	case errors.Is(got, unix.ECONNRESET): // the peer left without reading all
		return 0, 0, 0, nil
	case got != nil:
		return 0, 0, 0, fmt.Errorf("ctl: receive: %w", got)
	}
	return n, oobn, flags, nil
}

func (s side) peer() side {
	if s == supervisor {
		return front
	}
	return supervisor
}

// ErrNoRoom says that a message came without its files: no descriptor was free here. The peer is not to blame.
var ErrNoRoom = errors.New("ctl: control data truncated: too many files, or no descriptor free")

// FilesOf returns every descriptor in the control data of a received message. With an error there are none.
func FilesOf(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("ctl: control data: %w", err)
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil { // another type of control message: holds no descriptor
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() //nolint:errcheck // nothing was written to it
	}
}

func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
