package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gateway/proxy/fcgi"
	"gateway/routes"
)

// An errand is what needs the rights of a pool's user: the front asks a child of the gateway's own for it. It goes over the
// child's channel like a request of a script, told from one by variables whose names no script's variable can have.
//
// The answer is an exit status, which is an errno and 0 for success. The descriptor that was asked for comes with its end. It has
// output only when EIO stands for an error without errno, and that is the error's text.
const (
	errandName    = "gateway.errand"  // one of the errands
	errandRoot    = "gateway.root"    // a folder
	errandLinks   = "gateway.links"   // a routes.Symlinks
	errandPath    = "gateway.path"    // below it
	errandAddress = "gateway.address" // as in Duties.Dial
	errandTimeout = "gateway.timeout" // of a dial, as time.Duration writes it
)

// The errands.
const (
	errandOpen = "open" // a regular file for reading
	errandStat = "stat" // 0 is a regular file, EISDIR a folder, ENXIO something else
	errandList = "list" // what is in a folder, as a file in memory
	errandDial = "dial" // a connected socket
)

// maxErrandText bounds the text of an error, in bytes.
const maxErrandText = 256

// Duties is all that a child of the gateway's own does, whatever the front asks it for: a front that was taken over gets at
// nothing else that the pool's user may read or reach.
type Duties struct {
	Threads int      // requests at once
	Open    []string // folders below which it opens files
	Look    []string // folders below which it says what is there, beside those in Open
	Links   []string // of these folders, those where it follows other links than the ones that stay inside: "all /srv/www"
	Run     []string // folders of scripts, and single scripts
	Dial    []string // addresses: "tcp 127.0.0.1:9000", "unix /run/app.sock"
}

// DutiesOf lists what the routes of a pool need.
func DutiesOf(c *routes.Config, p *routes.Pool) Duties {
	d := Duties{Threads: p.ThreadsPerChild}
	for i := range c.Sites {
		for j := range c.Sites[i].Routes {
			r := &c.Sites[i].Routes[j]
			if r.Pool == p.Name {
				d.add(r)
			}
			if r.SendFile != nil && r.SendFile.Pool == p.Name {
				for _, folder := range r.SendFile.Folders() {
					d.add(fileRoute(r, folder))
				}
			}
		}
	}
	return d
}

func (d *Duties) add(r *routes.Route) {
	if links := nameFolder("", r.Symlinks).links; links != routes.LinksInside {
		d.Links = include(d.Links, string(links)+" "+r.Root)
		if r.CGI != nil {
			d.Links = include(d.Links, string(links)+" "+r.CGI.Root)
		}
	}
	switch {
	case r.Static != nil:
		d.Open = include(d.Open, r.Root)
	case len(r.TryFiles) > 0, r.Pattern.Kind == routes.Suffix && r.CGI == nil:
		d.Look = include(d.Look, r.Root)
	}
	if r.Proxy != nil {
		for _, to := range r.Proxy.To {
			d.Dial = include(d.Dial, to.Network+" "+to.Address)
		}
	}
	if r.CGI != nil {
		d.Look = include(d.Look, r.CGI.Root)
		d.Run = include(include(d.Run, r.CGI.Root), r.CGI.Script)
	}
}

// include adds a name to a list, once.
func include(list []string, name string) []string {
	if name == "" || slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

// mayRun reports whether a file is a script of the routes.
func (d *Duties) mayRun(file string) bool {
	return slices.ContainsFunc(d.Run, func(path string) bool {
		rest, below := strings.CutPrefix(file, strings.TrimSuffix(path, "/"))
		return below && (rest == "" || rest[0] == '/' && !hasDotSegment(rest))
	})
}

// errands runs the errands of a child. Safe for concurrent use.
type errands struct {
	duties Duties
	files  map[folderName]*Files // of the folders that the duties name
	log    func(line string)
}

func newErrands(d Duties, log func(string)) *errands {
	e := &errands{duties: d, files: map[folderName]*Files{}, log: log}
	for _, name := range slices.Concat(d.Open, d.Look) {
		for _, links := range []routes.Symlinks{routes.LinksNone, routes.LinksOwner, routes.LinksInside, routes.LinksAll} {
			if links == routes.LinksInside || slices.Contains(d.Links, string(links)+" "+name) {
				e.open(folderName{name, links})
			}
		}
	}
	return e
}

func (e *errands) open(name folderName) {
	if e.files[name] == nil {
		e.files[name], _ = NewFiles(name.name, name.links) // one that can't be opened is tried again with each errand
	}
}

func (e *errands) close() {
	for _, f := range e.files {
		_ = f.Close() // it was only read
	}
}

// run runs the errand of a request.
func (e *errands) run(ctx context.Context, r *fcgi.Request, name string) {
	var err error
	switch name {
	case errandOpen:
		r.File, err = e.file(r.Params)
	case errandList:
		r.File, err = e.list(r.Params)
	case errandStat:
		err = e.stat(r.Params)
	case errandDial:
		r.File, err = e.dial(ctx, r.Params)
	default:
		err = unix.ENOSYS
	}
	errno := errnoOf(err)
	if errno == unix.EIO {
		text := err.Error()
		_, _ = io.WriteString(r.Stdout, text[:min(len(text), maxErrandText)]) // it fails when the front has hung up
	}
	r.AppStatus = uint32(errno)
}

func (e *errands) file(params fcgi.Params) (*os.File, error) {
	in, path := place(params)
	if e.files[in] == nil || !slices.Contains(e.duties.Open, in.name) {
		return nil, e.decline("open a file below", in.name)
	}
	file, _, err := e.files[in].Open(path)
	return file, err
}

func (e *errands) list(params fcgi.Params) (*os.File, error) {
	in, path := place(params)
	if e.files[in] == nil || !slices.Contains(e.duties.Open, in.name) {
		return nil, e.decline("list a folder below", in.name)
	}
	l, err := e.files[in].List(path)
	if err != nil {
		return nil, err
	}
	return listingFile(l)
}

func (e *errands) stat(params fcgi.Params) error {
	in, path := place(params)
	files := e.files[in]
	if files == nil {
		return e.decline("look for a file below", in.name)
	}
	mode, err := files.Stat(path)
	switch {
	case err != nil || mode.IsRegular():
		return err
	case mode.IsDir():
		return ErrDirectory
	}
	return unix.ENXIO
}

func place(params fcgi.Params) (in folderName, path string) {
	root, _ := params.Get(errandRoot)
	links, _ := params.Get(errandLinks)
	path, _ = params.Get(errandPath)
	return nameFolder(root, routes.Symlinks(links)), path
}

func (e *errands) dial(ctx context.Context, params fcgi.Params) (*os.File, error) {
	target, _ := params.Get(errandAddress)
	if !slices.Contains(e.duties.Dial, target) {
		return nil, e.decline("connect to", target)
	}
	text, _ := params.Get(errandTimeout)
	timeout, _ := time.ParseDuration(text) // 0 without one: the system's
	network, address, _ := strings.Cut(target, " ")
	nc, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer nc.Close() // the file is a duplicate
	socket, ok := nc.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("network %q: no socket", network)
	}
	return socket.File()
}

// decline tells of what only a front that is not our own asks for.
func (e *errands) decline(what, name string) error {
	e.log(fmt.Sprintf("refused to %s %q: no route of this pool names it", what, name))
	return unix.EPERM
}

// errnoOf is how an error is told to the front.
func errnoOf(err error) unix.Errno {
	errno, ok := errors.AsType[unix.Errno](err)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrDirectory):
		return unix.EISDIR
	case ok:
		return errno
	case errors.Is(err, fs.ErrNotExist):
		return unix.ENOENT
	case errors.Is(err, errOutside):
		return unix.EXDEV
	case errors.Is(err, errLink):
		return unix.ELOOP
	case errors.Is(err, fs.ErrPermission):
		return unix.EACCES
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return unix.ETIMEDOUT
	}
	return unix.EIO
}

// errorOf is what an errno of a child says, with the text of an EIO.
func errorOf(errno unix.Errno, text string) error {
	switch errno {
	case 0:
		return nil
	case unix.EISDIR:
		return ErrDirectory
	case unix.ENOENT:
		return fs.ErrNotExist
	case unix.EXDEV:
		return errOutside
	case unix.ELOOP:
		return errLink
	case unix.EACCES, unix.EPERM:
		return fs.ErrPermission
	case unix.EIO:
		return fmt.Errorf("%w: %q", errno, text)
	}
	return errno
}
