package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrDirectory is what [Files.Open] returns for a directory.
var ErrDirectory = errors.New("is a directory")

// openTries bounds how often a path is resolved again because something was renamed meanwhile (openat2's EAGAIN).
const openTries = 32

// Files opens what lies below one folder, and nothing else: neither "..", nor a symbolic link, nor a race with someone who
// changes the tree leads out of it. Links that stay below the folder are followed, absolute ones never are, as they begin
// at the root of the file system. Safe for concurrent use.
//
// Paths are those of requests, decoded and cleaned: "/a/b". Errors are fs.ErrNotExist, fs.ErrPermission (also for what
// leads out of the folder, and for devices, pipes and sockets), or one that says why the system could not tell.
type Files struct {
	dir  *os.File        // O_PATH: it stays this folder when its name goes to another one
	raw  syscall.RawConn // of dir
	root *os.Root        // nil: the kernel has openat2
}

// NewFiles opens the folder root. The caller must call [Files.Close].
func NewFiles(root string) (*Files, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := &Files{dir: dir}
	if f.raw, err = dir.SyscallConn(); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	// Linux before 5.6 has no openat2; the seccomp filter of an old container runtime forbids it.
	err = f.probe()
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		f.root, err = os.OpenRoot(root)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("folder %q: %w", root, err), dir.Close())
	}
	return f, nil
}

func (f *Files) probe() error {
	fd, err := f.openat2(".", unix.O_PATH)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Close gives the folder back. Files that are open stay open.
func (f *Files) Close() error {
	err := f.dir.Close()
	if f.root != nil {
		err = errors.Join(err, f.root.Close())
	}
	return err
}

// Open opens a regular file for reading. It never waits for the other end of a pipe or for a device.
func (f *Files) Open(path string) (*os.File, fs.FileInfo, error) {
	file, err := f.open(path)
	if err != nil {
		// A directory may be entered without being readable.
		if mode, statErr := f.Stat(path); statErr == nil && mode.IsDir() {
			err = ErrDirectory
		}
		return nil, nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case info.Mode().IsRegular():
		return file, info, nil
	case info.IsDir():
		err = ErrDirectory
	default:
		err = fs.ErrPermission
	}
	file.Close()
	return nil, nil, err
}

func (f *Files) open(path string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if f.root != nil {
		file, err := f.root.OpenFile(relative(path), flags, 0)
		return file, classifyRoot(err)
	}
	fd, err := f.openat2(path, flags)
	if err != nil {
		return nil, classify(err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Stat returns the type bits of what is at path, without opening it. It needs no right to read it.
func (f *Files) Stat(path string) (fs.FileMode, error) {
	if f.root != nil {
		info, err := f.root.Stat(relative(path))
		if err != nil {
			return 0, classifyRoot(err)
		}
		return info.Mode().Type(), nil
	}
	fd, err := f.openat2(path, unix.O_PATH)
	if err != nil {
		return 0, classify(err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	if err != nil {
		return 0, err
	}
	return fileType(st.Mode), nil
}

// fileType knows the types that a handler tells apart.
func fileType(mode uint32) fs.FileMode {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return fs.ModeDir
	}
	return fs.ModeIrregular
}

// IsFile reports whether a regular file is at path.
func (f *Files) IsFile(path string) bool {
	mode, err := f.Stat(path)
	return err == nil && mode.IsRegular()
}

func (f *Files) openat2(path string, flags uint64) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	closed := f.raw.Control(func(dir uintptr) {
		for range openTries {
			fd, err = unix.Openat2(int(dir), relative(path), &how)
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
				return
			}
		}
	})
	if closed != nil {
		return -1, closed
	}
	return fd, err
}

// relative cuts one slash: what is still absolute after that is refused by openat2 and by os.Root.
func relative(path string) string {
	path = strings.TrimPrefix(path, "/")
	if path == "" {
		return "."
	}
	return path
}

// classify reduces an errno to what the client is told.
func classify(err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err
	}
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ENAMETOOLONG, unix.ELOOP, unix.EINVAL: // EINVAL: a NUL byte
		return fs.ErrNotExist
	case unix.EACCES, unix.EPERM, unix.EXDEV, unix.ENXIO, unix.ENODEV: // out of the folder; a socket; a device
		return fs.ErrPermission
	}
	return err
}

// classifyRoot does the same for os.Root, whose error for a path that leads out has no errno.
func classifyRoot(err error) error {
	_, ok := errors.AsType[syscall.Errno](err)
	if err == nil || ok || errors.Is(err, os.ErrClosed) {
		return classify(err)
	}
	return fs.ErrPermission
}
