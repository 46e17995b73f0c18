package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gateway/routes"
)

// maxLinks is how many links one path may lead through (the kernel's own number).
const maxLinks = 40

var (
	// errOutside is the fs.ErrPermission of a path that leads out of the folder.
	errOutside = fmt.Errorf("%w: a symbolic link leads out of the root; let it stay below, add a route with that root, or set symlinks", fs.ErrPermission)

	// errLink is that of a link which may not be followed wherever it leads.
	errLink = fmt.Errorf("%w: a symbolic link that may not be followed: symlinks is \"none\", or it is \"owner\" and the link's is not its target's", fs.ErrPermission)
)

const jailed = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// resolve opens a path below the folder, following the links that it may.
func (f *folder) resolve(path string, flags uint64) (int, error) {
	if f.links != routes.LinksInside && (hasDotSegment(path) || strings.HasPrefix(path, "//")) {
		return -1, errOutside // nothing else would hold it back
	}
	switch f.links {
	case routes.LinksNone, routes.LinksOwner:
		fd, err := f.openat2(path, flags, jailed|unix.RESOLVE_NO_SYMLINKS)
		if lacksOpenat2(err) || errors.Is(err, unix.ELOOP) {
			return f.walk(path, flags)
		}
		return fd, err
	case routes.LinksAll:
		fd, err := f.openat2(path, flags, unix.RESOLVE_NO_MAGICLINKS)
		if lacksOpenat2(err) {
			err = f.use(func(dir int) (err error) {
				fd, err = unix.Openat(dir, relative(path), int(flags)|unix.O_CLOEXEC, 0)
				return err
			})
		}
		return fd, err
	default:
		fd, err := f.openat2(path, flags, jailed)
		if errors.Is(err, unix.EXDEV) {
			return f.comeBack(path, flags)
		}
		return fd, err
	}
}

// comeBack opens a path that the kernel would not follow, because it leaves the folder on its way: an absolute link does, wherever it
// ends. Where that is is looked up without opening it, and if it is below the folder it is opened by that name, which has no links.
func (f *folder) comeBack(path string, flags uint64) (int, error) {
	target, err := f.openat2(path, unix.O_PATH, unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return -1, unix.EXDEV // what is out there is not told
	}
	defer unix.Close(target)
	name, err := nameOf(target)
	var base string
	if err == nil {
		err = f.use(func(dir int) (err error) {
			base, err = nameOf(dir)
			return err
		})
	}
	rest, inside := strings.CutPrefix(name+"/", strings.TrimSuffix(base, "/")+"/")
	if err != nil || !inside {
		return -1, unix.EXDEV
	}
	return f.openat2(strings.TrimSuffix(rest, "/"), flags, jailed|unix.RESOLVE_NO_SYMLINKS)
}

// nameOf is the absolute path of an open file.
func nameOf(fd int) (string, error) { return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)) }

// walker goes down a path one name at a time. Every name is opened before it is judged, so that nobody can exchange it meanwhile.
type walker struct {
	dir      int       // where the next name is looked for; its own
	names    []string  // to come
	links    []symlink // that were followed, and whose targets are not reached yet
	followed int
}

// symlink is a symbolic link on the way.
type symlink struct {
	owner uint32
	left  int // how many names are to come when its target is reached
}

// walk opens a path that has no link, or with [routes.LinksOwner] such ones only as belong to whom their target belongs to; then it
// may lead anywhere.
func (f *folder) walk(path string, flags uint64) (int, error) {
	w := walker{names: names(path)}
	if err := f.use(func(dir int) (err error) {
		w.dir, _, err = openName(dir, ".", unix.O_PATH)
		return err
	}); err != nil {
		return -1, err
	}
	defer func() { unix.Close(w.dir) }()
	for {
		name := w.names[0]
		w.names = w.names[1:]
		fd, st, err := openName(w.dir, name, unix.O_PATH)
		if err != nil {
			return -1, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			err = errLink
			if f.links == routes.LinksOwner {
				err = w.follow(fd, st.Uid)
			}
			unix.Close(fd)
			if err != nil {
				return -1, err
			}
			continue
		}
		switch arrived := len(w.names) == 0; {
		case !w.owns(st.Uid):
			unix.Close(fd)
			return -1, errLink
		case arrived && flags&unix.O_PATH != 0:
			return fd, nil
		case arrived:
			defer unix.Close(fd)
			return reopen(w.dir, name, flags, st)
		}
		unix.Close(w.dir)
		w.dir = fd
	}
}

// names splits a path. There is always one.
func names(path string) []string {
	found := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	if len(found) == 0 {
		return []string{"."}
	}
	return found
}

// follow puts the target of a link before the names to come.
func (w *walker) follow(fd int, owner uint32) error {
	if w.followed++; w.followed > maxLinks {
		return unix.ELOOP
	}
	var target [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", target[:])
	if err != nil {
		return err
	}
	if target[0] == '/' {
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		unix.Close(w.dir)
		w.dir = root
	}
	w.links = append(w.links, symlink{owner, len(w.names)})
	w.names = append(names(string(target[:n])), w.names...)
	return nil
}

// owns reports whether the links whose target was reached now have its owner, too.
func (w *walker) owns(owner uint32) bool {
	for len(w.links) > 0 {
		last := w.links[len(w.links)-1]
		if last.left < len(w.names) {
			break
		}
		if last.owner != owner {
			return false
		}
		w.links = w.links[:len(w.links)-1]
	}
	return true
}

// openName opens what has that name, be it a link.
func openName(dir int, name string, flags int) (fd int, st unix.Stat_t, err error) {
	fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, err
	}
	if err = unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// reopen opens a name in another way, unless it has become that of something else.
func reopen(dir int, name string, flags uint64, was unix.Stat_t) (int, error) {
	fd, st, err := openName(dir, name, int(flags))
	if err == nil && (st.Dev != was.Dev || st.Ino != was.Ino) {
		unix.Close(fd)
		return -1, unix.ENOENT
	}
	return fd, err
}
