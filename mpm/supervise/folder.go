package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
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
			return fmt.Errorf("belongs to user %d: run chown -R %d on it, or name another folder", st.Uid, o.uid)
		}
		return fmt.Errorf("mode %04o lets others in: run chmod 700 on it, or name another folder", st.Mode&0o777)
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
	owner   owner // of the sockets: the front's user
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
		return nil, errors.Join(fmt.Errorf("%s: in use by another gateway: %w", path, err), d.dir.Close())
	}
	if err := d.empty(); err != nil {
		return nil, errors.Join(err, d.dir.Close())
	}
	return d, nil
}

func (d *socketFolder) empty() error {
	names, err := d.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.remove(name); err != nil {
			return fmt.Errorf("remove %s: %w", filepath.Join(d.path, name), err)
		}
	}
	return d.dir.Chmod(0o711) // it may be older than this program
}

// listen makes a private listening socket for one child. The descriptor is blocking: php-cgi ends when accept says EAGAIN.
func (d *socketFolder) listen() (fd int, name string, err error) {
	d.count++
	name = strconv.FormatUint(d.count, 36) + ".sock"
	if len(name) > len(maxSocketName) {
		return -1, "", errors.New("socket: out of names")
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, "", fmt.Errorf("socket: %w", err)
	}
	if err := d.bind(fd, name); err != nil {
		return -1, "", errors.Join(err, unix.Close(fd))
	}
	return fd, name, nil
}

// childBacklog is for the front alone, which opens one connection at a time.
const childBacklog = 8

func (d *socketFolder) bind(fd int, name string) error {
	at := int(d.dir.Fd())
	err := bindUnix(fd, fmt.Sprintf("/proc/self/fd/%d/%s", at, name), 0o600)
	if err != nil {
		return fmt.Errorf("bind %s: %w", filepath.Join(d.path, name), err)
	}
	// Nobody can connect before listen, so the owner is right from the first moment that counts.
	err = unix.Fchownat(at, name, d.owner.uid, d.owner.gid, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = unix.Listen(fd, childBacklog)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("listen %s: %w", filepath.Join(d.path, name), err), d.remove(name))
	}
	return nil
}

// remove removes one socket.
func (d *socketFolder) remove(name string) error { return unix.Unlinkat(int(d.dir.Fd()), name, 0) }

// close removes the folder too, when it is empty.
func (d *socketFolder) close() {
	unix.Unlinkat(int(d.runtime.Fd()), socketFolderName, unix.AT_REMOVEDIR) //nolint:errcheck // the next start empties it
	d.dir.Close()                                                           //nolint:errcheck // a folder
}

// bindUnix binds fd to path with exactly this mode from the first moment. The mask belongs to the process: only the loop, which
// is also what forks, may call it.
func bindUnix(fd int, path string, mode int) error {
	old := unix.Umask(0o777 &^ mode)
	defer unix.Umask(old)
	return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}
