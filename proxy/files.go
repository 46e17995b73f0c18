package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/routes"
)

// ErrDirectory is what [Files.Open] returns for a directory.
var ErrDirectory = errors.New("is a directory")

// openTries bounds how often a path is resolved again because something was renamed meanwhile (openat2's EAGAIN).
const openTries = 32

// folderCheck is how old the knowledge may be of which folder a name leads to.
const folderCheck = time.Second

// opener is a folder as handlers see it: [Files], with the rights of the front, or guarded, with those of a pool's user.
type opener interface {
	Open(path string) (*os.File, fs.FileInfo, error)
	Stat(path string) (fs.FileMode, error)
	IsFile(path string) bool
	WasFile(path string) (bool, error)
	List(path string) (listing, error)
}

// Files opens what lies below one folder, and nothing else: neither "..", nor a race with someone who changes the tree leads out
// of it, nor a symbolic link unless the folder's owner wants that ([routes.Symlinks]). Safe for concurrent use.
//
// When another folder takes the name, as deployments do it, that one is used within a second.
//
// Paths are those of requests, decoded and cleaned: "/a/b". Errors are fs.ErrNotExist, fs.ErrPermission (also for what
// leads out of the folder, and for devices, pipes and sockets), or one that says why the system could not tell.
type Files struct {
	folderName
	current atomic.Pointer[folder]
	checked atomic.Int64 // when the name was last looked up, Unix nanoseconds
	mu      sync.Mutex   // held while it is
	closed  bool         // under mu
	recent  recentFiles
}

// folderName tells Files apart.
type folderName struct {
	name  string
	links routes.Symlinks // [routes.LinksInside] in place of ""
}

func nameFolder(name string, links routes.Symlinks) folderName {
	if links == "" {
		links = routes.LinksInside
	}
	return folderName{name, links}
}

// NewFiles makes Files of a folder. One that can't be opened now is an error, and is tried again with every request.
// The caller must call [Files.Close] in any case.
func NewFiles(name string, links routes.Symlinks) (*Files, error) {
	f := &Files{folderName: nameFolder(name, links)}
	_, err := f.look(time.Now())
	return f, err
}

// folder returns the folder that the name leads to.
func (f *Files) folder() (*folder, error) {
	now := time.Now()
	if d := f.current.Load(); d != nil && now.UnixNano()-f.checked.Load() < int64(folderCheck) {
		return d, nil
	}
	d, err := f.look(now)
	return d, classify(err)
}

func (f *Files) look(now time.Time) (*folder, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, os.ErrClosed
	}
	old := f.current.Load()
	if old != nil && old.is(f.name) {
		f.checked.Store(now.UnixNano())
		return old, nil
	}
	d, err := openFolder(f.folderName)
	if err != nil {
		return nil, err
	}
	// The old one may be in use; the garbage collector closes it.
	f.current.Store(d)
	f.checked.Store(now.UnixNano())
	return d, nil
}

// Close gives the folder back. Files that are open stay open.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if d := f.current.Swap(nil); d != nil {
		return d.close()
	}
	return nil
}

// Open opens a regular file for reading. It never waits for the other end of a pipe or for a device.
func (f *Files) Open(path string) (*os.File, fs.FileInfo, error) {
	d, err := f.folder()
	if err != nil {
		return nil, nil, err
	}
	return d.openFile(path)
}

// Stat returns the type bits of what is at path, without opening it. It needs no right to read it.
func (f *Files) Stat(path string) (fs.FileMode, error) {
	d, err := f.folder()
	if err != nil {
		return 0, err
	}
	return d.stat(path)
}

// IsFile reports whether a regular file is at path.
func (f *Files) IsFile(path string) bool {
	mode, err := f.Stat(path)
	return err == nil && mode.IsRegular()
}

// WasFile is IsFile, or was within the last second: it is for what will be opened by somebody else later, who may find it gone
// in any case.
func (f *Files) WasFile(path string) (bool, error) {
	if f.recent.has(path) {
		return true, nil
	}
	mode, err := f.Stat(path)
	if err != nil || !mode.IsRegular() {
		return false, err
	}
	f.recent.add(path)
	return true, nil
}

// folder is one open folder. It is immutable.
type folder struct {
	dir    *os.File        // O_PATH: it stays this folder when its name goes to another one
	raw    syscall.RawConn // of dir
	root   *os.Root        // for links that stay inside, without openat2; else nil
	links  routes.Symlinks
	device uint64
	inode  uint64
}

func openFolder(n folderName) (*folder, error) {
	dir, err := os.OpenFile(n.name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir, links: n.links}
	if f.raw, err = dir.SyscallConn(); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	info, err := dir.Stat()
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.device, f.inode = st.Dev, st.Ino
	}
	// Linux before 5.6 has no openat2; the seccomp filter of an old container runtime forbids it.
	err = f.probe()
	if lacksOpenat2(err) && n.links == routes.LinksInside {
		f.root, err = os.OpenRoot(n.name) // which follows links as with "inside", absolute ones excepted
	}
	if err != nil && !lacksOpenat2(err) {
		return nil, errors.Join(fmt.Errorf("folder %q: %w", n.name, err), dir.Close())
	}
	return f, nil
}

func lacksOpenat2(err error) bool { return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) }

// is reports whether name still leads to this folder.
func (f *folder) is(name string) bool {
	var st unix.Stat_t
	return unix.Stat(name, &st) == nil && st.Dev == f.device && st.Ino == f.inode
}

func (f *folder) probe() error {
	fd, err := f.openat2(".", unix.O_PATH, jailed)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (f *folder) close() error {
	err := f.dir.Close()
	if f.root != nil {
		err = errors.Join(err, f.root.Close())
	}
	return err
}

func (f *folder) openFile(path string) (*os.File, fs.FileInfo, error) {
	file, err := f.open(path)
	if err != nil {
		// A directory may be entered without being readable.
		if mode, statErr := f.stat(path); statErr == nil && mode.IsDir() {
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

func (f *folder) open(path string) (*os.File, error) {
	return f.openAs(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
}

func (f *folder) openAs(path string, flags uint64) (*os.File, error) {
	if f.root != nil {
		file, err := f.root.OpenFile(relative(path), int(flags), 0)
		return file, classifyRoot(err)
	}
	fd, err := f.resolve(path, flags)
	if err != nil {
		return nil, classify(err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (f *folder) stat(path string) (fs.FileMode, error) {
	var st unix.Stat_t
	if err := f.statTo(path, &st); err != nil {
		return 0, err
	}
	return fileType(st.Mode), nil
}

func (f *folder) statTo(path string, st *unix.Stat_t) error {
	if f.root != nil {
		info, err := f.root.Stat(relative(path))
		if err != nil {
			return classifyRoot(err)
		}
		if was, ok := info.Sys().(*syscall.Stat_t); ok {
			st.Mode, st.Size, st.Mtim = was.Mode, was.Size, unix.Timespec(was.Mtim)
		}
		return nil
	}
	fd, err := f.resolve(path, unix.O_PATH)
	if err != nil {
		return classify(err)
	}
	defer unix.Close(fd)
	return unix.Fstat(fd, st)
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

func (f *folder) openat2(path string, flags, resolve uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	err = f.use(func(dir int) (err error) {
		for range openTries {
			fd, err = unix.Openat2(dir, relative(path), &how)
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
				break
			}
		}
		return err
	})
	return fd, err
}

// use calls what needs the descriptor of the folder, which stays open meanwhile.
func (f *folder) use(call func(dir int) error) (err error) {
	if closed := f.raw.Control(func(dir uintptr) { err = call(int(dir)) }); closed != nil {
		return closed
	}
	return err
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
	case unix.EXDEV:
		return errOutside
	case unix.EACCES, unix.EPERM, unix.ENXIO, unix.ENODEV: // a socket; a device
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
	return errOutside
}
