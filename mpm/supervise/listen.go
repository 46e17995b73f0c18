package supervise

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// backlog is how many connections wait while a front is replaced. The kernel lowers it to net.core.somaxconn.
const backlog = 4096

// unixListenerMode lets the front's user and its group connect, which is how another web server is let in.
const unixListenerMode = 0o660

// socket is a listening socket of the plan. It stays open as long as the supervisor lives.
type socket struct {
	address string
	file    *os.File // non-blocking, but not in the runtime's poller: or every connection would wake the supervisor
}

// listen binds l. A unix socket will belong to o.
func listen(l Listener, o owner) (*os.File, error) {
	var fd int
	var err error
	switch l.Network {
	case "tcp":
		fd, err = listenTCP(l.Address)
	case "unix":
		fd, err = listenUnix(l.Address, o)
	default:
		err = fmt.Errorf("unknown network %q", l.Network)
	}
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", l.Address, err)
	}
	f := os.NewFile(uintptr(fd), "listener "+l.Address) // blocking still: this is what keeps it out of the poller
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("listen %s: %w", l.Address, err), f.Close())
	}
	return f, nil
}

func listenTCP(address string) (int, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return -1, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return -1, fmt.Errorf("port %q is not a number from 0 to 65535", portText)
	}
	if host == "" {
		return listenAll(int(port))
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return -1, fmt.Errorf("%q is not an IP address", host)
	}
	if ip.Is4() {
		return tcpSocket(unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: ip.As4()}, false)
	}
	return tcpSocket(unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: ip.As16()}, true)
}

// listenAll listens on all addresses of both families, or of IPv4 where the machine has no IPv6.
func listenAll(port int) (int, error) {
	fd, err := tcpSocket(unix.AF_INET6, &unix.SockaddrInet6{Port: port}, false)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return tcpSocket(unix.AF_INET, &unix.SockaddrInet4{Port: port}, false)
	}
	return fd, err
}

func tcpSocket(family int, address unix.Sockaddr, onlyIPv6 bool) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	type option struct{ level, name, value int }
	options := []option{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, // accepted connections inherit it
		// Clients speak first: the kernel keeps a connection until its first bytes are there, or a second has passed (tcp(7)).
		{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1},
	}
	if family == unix.AF_INET6 {
		only := 0
		if onlyIPv6 {
			only = 1
		}
		options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only})
	}
	for _, o := range options {
		if err == nil {
			err = unix.SetsockoptInt(fd, o.level, o.name, o.value)
		}
	}
	if err == nil {
		err = unix.Bind(fd, address)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%w: a port below 1024 needs root or CAP_NET_BIND_SERVICE", err)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func listenUnix(path string, o owner) (int, error) {
	if len(path) > ctl.MaxSocketBytes {
		return -1, fmt.Errorf("%d bytes: the path of a socket has at most %d", len(path), ctl.MaxSocketBytes)
	}
	if err := removeStale(path); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = bindUnix(fd, path, unixListenerMode)
	if err == nil {
		err = giveSocket(path, o)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// giveSocket changes the owner of a socket that we just bound. It does so by descriptor, after a look at what it got: somebody who
// may write to the folder could have put a link there.
func giveSocket(path string, o owner) error {
	if o == ownerOf(nil) {
		return nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // O_PATH
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		return errors.New("replaced by somebody while it was made")
	}
	return unix.Fchownat(fd, "", o.uid, o.gid, unix.AT_EMPTY_PATH)
}

// removeStale removes a socket file on which nobody listens any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return errors.New("exists and is not a socket")
	}
	if live, _ := listenerOf(path); live {
		return unix.EADDRINUSE
	}
	return os.Remove(path)
}

// listenerOf reports whether somebody listens on the socket at path, and the pid of who made it (0: unknown).
func listenerOf(path string) (live bool, pid int) {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		gone := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
		return !gone, 0
	}
	defer c.Close() //nolint:errcheck // nothing was written
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return true, 0
	}
	cred, err := peerOf(uc)
	if err != nil {
		return true, 0
	}
	return true, int(cred.Pid)
}

// peerOf tells who is at the other end, as the kernel noted it at connect or listen.
func peerOf(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var got error
	err = raw.Control(func(fd uintptr) { cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(err, got)
}

// closeSocket stops listening, and removes the file of a unix socket.
func closeSocket(s socket) {
	s.file.Close() //nolint:errcheck // nothing was written
	if strings.HasPrefix(s.address, "/") {
		os.Remove(s.address) //nolint:errcheck // the next start removes it
	}
}

// listenPrivately listens on a unix socket of our own user. The runtime's poller has it, and closing it removes the file.
func listenPrivately(path string) (*net.UnixListener, error) {
	old := unix.Umask(0o777 &^ adminMode)
	defer unix.Umask(old)
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}
