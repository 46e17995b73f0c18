package event

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below never block, for the sockets are non-blocking: they go to the kernel without telling Go's scheduler, which
// would take a call during which another process had the processor for one that blocks, and go on with another thread.

func ptr[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }

func read(fd int, p []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(ptr(unsafe.SliceData(p))), uintptr(len(p)))
		if errno != unix.EINTR {
			return count(n, errno), errno
		}
	}
}

// recvmsg reads, and puts what came beside the bytes into control.
func recvmsg(fd int, p, control []byte) (n, controls, flags int, errno unix.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(p)}
	iov.SetLen(len(p))
	for {
		msg := unix.Msghdr{Iov: &iov, Control: unsafe.SliceData(control)}
		msg.SetIovlen(1)
		msg.SetControllen(len(control))
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(ptr(&msg)), unix.MSG_CMSG_CLOEXEC)
		switch errno {
		case 0:
			return int(n), int(msg.Controllen), int(msg.Flags), 0 //nolint:gosec // lengths
		case unix.EINTR:
		default:
			return 0, 0, 0, errno
		}
	}
}

// peek tells whether there is something to read: EAGAIN says no.
func peek(fd int) unix.Errno {
	var b [1]byte
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(ptr(&b)), 1, unix.MSG_PEEK, 0, 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// write sends p; MSG_NOSIGNAL because a client that has gone is no reason for SIGPIPE.
func write(fd int, p []byte) (int, unix.Errno) { return send(fd, p, unix.MSG_NOSIGNAL) }

func send(fd int, p []byte, flags uintptr) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(ptr(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		if errno != unix.EINTR {
			return count(n, errno), errno
		}
	}
}

// sendfile sends from a file that is in memory: it would wait for a disk. It returns 0 at the end of the file, and when the socket
// takes no more.
func sendfile(fd, file int, offset *int64, n int64) int64 {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDFILE, uintptr(fd), uintptr(file), uintptr(ptr(offset)), uintptr(n), 0, 0)
		if errno != unix.EINTR {
			return int64(count(n, errno))
		}
	}
}

// closeSocket does not linger. Nothing can be done about an error of close(2), and the descriptor is gone in any case.
func closeSocket(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// shutdown ends the sending. It fails when the client has reset the connection: whoever reads next sees that.
func shutdown(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0) }

func epollAdd(epfd, fd int, ev *unix.EpollEvent) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epfd), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(ptr(ev)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// writev sends a and b in one call.
func writev(fd int, a, b []byte) (int, unix.Errno) {
	iov := [2]unix.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	iov[0].SetLen(len(a))
	iov[1].SetLen(len(b))
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(ptr(&iov)), 2)
		if errno != unix.EINTR {
			return count(n, errno), errno
		}
	}
}

func accept4(fd int, rsa *unix.RawSockaddrAny) (int, unix.Errno) {
	size := uint32(unix.SizeofSockaddrAny)
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(ptr(rsa)), uintptr(ptr(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(n), errno
}

// epollPoll returns the events that are there now, without waiting.
func epollPoll(epfd int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(ptr(&events[0])), uintptr(len(events)), 0, 0, 0)
	return count(n, errno)
}

func count(n uintptr, errno unix.Errno) int {
	if errno != 0 {
		return 0
	}
	return int(n)
}
