package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// owner is whom a file shall belong to.
type owner struct{ uid, gid int }

func ownerOf(c *Credential) owner {
	if c == nil {
		return owner{os.Geteuid(), os.Getegid()}
	}
	return owner{int(c.UID), int(c.GID)}
}

// ownFolder opens the folder at path, made when missing, and sees to it that it belongs to o and nobody else may enter it.
//
// A folder that is not ours to take is refused, not taken: a slip in the configuration must not give /var to www-data.
func ownFolder(path string, o owner) (f *os.File, made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, false, err
	}
	err = os.Mkdir(path, 0o700)
	made = err == nil
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, false, err
	}
	f, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, false, fmt.Errorf("%w (a symbolic link is not followed here)", err)
	}
	if err := takeFolder(f, o); err != nil {
		return nil, false, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, made, nil
}

func takeFolder(f *os.File, o owner) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	owned, private := int(st.Uid) == o.uid, st.Mode&0o077 == 0
	if owned && private {
		return nil
	}
	if _, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		if !owned {
			return fmt.Errorf("is not empty and belongs to user %d, not to user %d: name a folder of the gateway's own, such as a new one in it", st.Uid, o.uid)
		}
		return fmt.Errorf("is not empty, and its mode %04o lets others in: name a folder of the gateway's own, or run chmod 700 on it if it is that", st.Mode&0o777)
	}
	if int(st.Uid) != os.Geteuid() && !owned {
		return fmt.Errorf("belongs to user %d, not to user %d", st.Uid, o.uid)
	}
	if !owned {
		if err := f.Chown(o.uid, o.gid); err != nil {
			return err
		}
	}
	return f.Chmod(0o700)
}

const (
	socketFolderName = "c"
	maxSocketName    = "zzzzzzzz.sock" // 36^8 children ago the first one is long gone
)

func socketPath(runtimeDir, name string) string {
	return filepath.Join(runtimeDir, socketFolderName, name)
}

// socketFolder holds the children's private listening sockets.
//
// It lies in the runtime folder, which belongs to the front's user, but itself belongs to the supervisor and is used by
// descriptor only: whatever the front does to the path, the supervisor never touches a file elsewhere.
type socketFolder struct {
	dir     *os.File
	runtime *os.File
	path    string
	owner   owner  // of the sockets: the front's user
	outside string // folder of the folders of programs of other users; empty: there are none
	count   uint64
}

// openSocketFolder makes the folder and removes what a killed supervisor left in it.
func openSocketFolder(runtime *os.File, o owner) (*socketFolder, error) {
	at := int(runtime.Fd())
	// The front only passes through.
	if err := unix.Mkdirat(at, socketFolderName, 0o711); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("mkdir %s/%s: %w", runtime.Name(), socketFolderName, err)
	}
	path := filepath.Join(runtime.Name(), socketFolderName)
	fd, err := unix.Openat(at, socketFolderName, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w: remove it", path, err)
	}
	d := &socketFolder{dir: os.NewFile(uintptr(fd), path), runtime: runtime, path: path, owner: o}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", path, err), d.dir.Close())
	}
	if int(st.Uid) != os.Geteuid() {
		return nil, errors.Join(fmt.Errorf("%s: belongs to user %d: remove it", path, st.Uid), d.dir.Close())
	}
	// The lock lives as long as the descriptor: nobody else empties the folder while we use it.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: in use by another gateway: give this one a runtime_dir of its own, or stop that one", path), d.dir.Close())
	}
	if err := d.empty(); err != nil {
		return nil, errors.Join(err, d.dir.Close())
	}
	return d, nil
}

func (d *socketFolder) empty() error {
	if err := d.discardOutside(); err != nil {
		return err
	}
	names, err := d.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.discard(name); err != nil {
			return fmt.Errorf("remove %s: %w", filepath.Join(d.path, name), err)
		}
	}
	return d.dir.Chmod(0o711) // it may be older than this program
}

// discard removes a socket or the folder of one, whatever a program has put there. Nothing outside is touched.
func (d *socketFolder) discard(name string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", d.dir.Fd()))
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(name), root.Close())
}

// listen makes a private listening socket for one child. The descriptor is blocking: php-cgi ends when accept says EAGAIN.
//
// For a program that may make a socket itself there is a folder beside it in which its user can.
func (d *socketFolder) listen(p *pool) (fd int, name string, err error) {
	d.count++
	name = strconv.FormatUint(d.count, 36) + ".sock"
	if len(name) > len(maxSocketName) {
		return -1, "", errors.New("socket: out of names")
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, "", fmt.Errorf("socket: %w", err)
	}
	waiting := childBacklog
	if p.OwnSocket {
		waiting = ownBacklog
	}
	if err := d.bind(fd, name, waiting); err != nil {
		return -1, "", errors.Join(err, unix.Close(fd))
	}
	if p.OwnSocket {
		if err := d.makeOwn(name, ownerOf(p.Credential)); err != nil {
			d.removeOwn(name, ownerOf(p.Credential)) //nolint:errcheck // as far as it was made
			return -1, "", errors.Join(err, unix.Close(fd), d.remove(name))
		}
	}
	return fd, name, nil
}

const (
	// childBacklog is for the front alone, which opens one connection for each thread.
	childBacklog = 4096

	// ownBacklog has room for one connection. So the front can find out whether a program that may listen elsewhere uses this
	// socket: only then does a second connection get through, because the first was accepted or the program has called listen.
	ownBacklog = 0
)

func (d *socketFolder) bind(fd int, name string, waiting int) error {
	at := int(d.dir.Fd())
	err := bindUnix(fd, fmt.Sprintf("/proc/self/fd/%d/%s", at, name), 0o600)
	if err != nil {
		return fmt.Errorf("bind %s: %w", filepath.Join(d.path, name), err)
	}
	// Nobody can connect before listen, so the owner is right from the first moment that counts.
	err = unix.Fchownat(at, name, d.owner.uid, d.owner.gid, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = unix.Listen(fd, waiting)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("listen %s: %w", filepath.Join(d.path, name), err), d.remove(name))
	}
	return nil
}

// knock connects to a socket and hangs up. One with no room for another connection needs no knock.
func (d *socketFolder) knock(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.dir.Fd(), name)})
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return named("connect to", filepath.Join(d.path, name), err)
}

// ownFolderOf names the folder in which the program of user o finds, or makes, the socket beside the one of this name.
func (d *socketFolder) ownFolderOf(name string, o owner) string {
	folder := filepath.Dir(ctl.OwnSocket(name))
	if o == d.owner {
		return filepath.Join(d.runtime.Name(), socketFolderName, folder)
	}
	return filepath.Join(d.outside, folder)
}

// makeOwn makes the folder in which a program of user o can make a socket to which the front may connect. Only the front's user
// may enter the runtime folder; for others it lies outside, with a link to it.
func (d *socketFolder) makeOwn(name string, o owner) error {
	link, path := filepath.Dir(ctl.OwnSocket(name)), d.ownFolderOf(name, o)
	if o == d.owner {
		at := int(d.dir.Fd())
		err := unix.Mkdirat(at, link, 0o700)
		if err == nil {
			err = unix.Fchownat(at, link, o.uid, o.gid, unix.AT_SYMLINK_NOFOLLOW)
		}
		return named("mkdir", path, err)
	}
	if err := os.Mkdir(path, 0o711); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return named("open", path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // a folder
	// A socket that the program makes is one that only its own user may connect to.
	if err := unix.Fsetxattr(fd, "system.posix_acl_default", letIn(uint32(d.owner.uid)), 0); err != nil {
		return fmt.Errorf("%s: let user %d use its sockets: %w (set TMPDIR to a file system with access control lists)", path, d.owner.uid, err)
	}
	if err := unix.Fchown(fd, o.uid, o.gid); err != nil {
		return named("chown", path, err)
	}
	return named("symlink", path, unix.Symlinkat(path, int(d.dir.Fd()), link))
}

// openOutside makes the folder for the sockets of programs that may not enter the runtime folder.
func (d *socketFolder) openOutside() error {
	path, err := os.MkdirTemp("", "gateway-")
	if err != nil {
		return err
	}
	d.outside = path
	if err := os.Chmod(path, 0o711); err != nil { // they only pass through
		return err
	}
	return named("symlink", outsideLink, unix.Symlinkat(path, int(d.dir.Fd()), outsideLink))
}

// outsideLink leads the next supervisor to the outside folder of one that was killed. Nobody but us can have put it there.
const outsideLink = "outside"

// discardOutside removes the outside folder of a supervisor that was killed.
func (d *socketFolder) discardOutside() error {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d/%s", d.dir.Fd(), outsideLink))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

func named(operation, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", operation, path, err)
}

// ownSocketUmask leaves the bits of the group, which bind takes for the most that an access control list may allow.
const ownSocketUmask = 0o002

// letIn is an access control list, as the kernel stores it, that lets the owner and one other user do everything, and nobody
// else anything.
func letIn(uid uint32) []byte {
	const (
		version                        = 2
		owner, user, group, mask, rest = 0x01, 0x02, 0x04, 0x10, 0x20
		all, nothing                   = 7, 0
		nobody                         = 1<<32 - 1
	)
	list := binary.LittleEndian.AppendUint32(nil, version)
	for _, e := range []struct {
		tag, permissions uint16
		id               uint32
	}{{owner, all, nobody}, {user, all, uid}, {group, nothing, nobody}, {mask, all, nobody}, {rest, nothing, nobody}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.permissions)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	return list
}

// remove removes one socket.
func (d *socketFolder) remove(name string) error { return unix.Unlinkat(int(d.dir.Fd()), name, 0) }

// removeOwn removes the folder of a program's own socket. A program that put something else there has it left.
func (d *socketFolder) removeOwn(name string, o owner) error {
	at, folder := int(d.dir.Fd()), filepath.Dir(ctl.OwnSocket(name))
	if o == d.owner {
		unix.Unlinkat(at, ctl.OwnSocket(name), 0) //nolint:errcheck // it may never have been made
		return named("remove", folder, unix.Unlinkat(at, folder, unix.AT_REMOVEDIR))
	}
	path := d.ownFolderOf(name, o)
	unix.Unlink(filepath.Join(path, filepath.Base(ctl.OwnSocket(name)))) //nolint:errcheck // see above
	return errors.Join(unix.Unlinkat(at, folder, 0), named("remove", path, unix.Rmdir(path)))
}

// close removes the folder too, when it is empty.
func (d *socketFolder) close() {
	unix.Unlinkat(int(d.dir.Fd()), outsideLink, 0)                          //nolint:errcheck // it is seldom there
	unix.Unlinkat(int(d.runtime.Fd()), socketFolderName, unix.AT_REMOVEDIR) //nolint:errcheck // the next start empties it
	d.dir.Close()                                                           //nolint:errcheck // a folder
	if d.outside != "" {
		os.RemoveAll(d.outside) //nolint:errcheck // it is of no use to anybody any more
	}
}

// bindUnix binds fd to path with exactly this mode from the first moment. The mask belongs to the process: only the loop, which
// is also what forks, may call it.
func bindUnix(fd int, path string, mode int) error {
	old := unix.Umask(0o777 &^ mode)
	defer unix.Umask(old)
	return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}
