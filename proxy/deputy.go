package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/mpm"
	"gateway/proxy/fcgi"
	"gateway/routes"
)

// Why an errand was not done, beside what its child says.
var (
	// errDeputy means that no child could do it: see [deputy.excuse].
	errDeputy = errors.New("no child did the errand")
	errNoSlot = errors.New("no slot")
)

// deputy is a child of the request's pool, as the one who does what needs the rights of the pool's user. It takes a slot with its
// first errand, like every request of the pool, and keeps it until release.
type deputy struct {
	call
	hold *hold // nil: it has no slot
	link *link // of hold
	err  error // why no errand can be done any more
}

// deputize returns the deputy of a request in a pool. A request has one at a time, and so one slot at most: it waits for none
// while it keeps one that others wait for. One that has failed stays, for its excuse.
func (s *Server) deputize(w http.ResponseWriter, r *http.Request, x *exchange, p pool) *deputy {
	if d := x.deputy; d != nil && (d.pool == p || d.err != nil) {
		return d
	}
	x.deputy.release()
	x.deputy = &deputy{call: call{Server: s, w: w, r: r, x: x, pool: p, body: new(spooled)}}
	return x.deputy
}

// hasDeputies reports whether the children of a pool do errands: those that are the gateway itself do.
func (p *pool) hasDeputies() bool { return p.config.MPM != routes.Event && !p.config.HasApplication() }

// open opens a regular file below a folder.
func (d *deputy) open(in folderName, path string) (file *os.File, info fs.FileInfo, err error) {
	file, err = d.run(placeErrand(errandOpen, in, path), func(file *os.File) error {
		if file == nil {
			return errors.New("no file came")
		}
		if info, err = file.Stat(); err == nil && !info.Mode().IsRegular() {
			err = errors.New("what came is no regular file")
		}
		return err
	})
	return file, info, err
}

// stat returns the type bits of what is at a path.
func (d *deputy) stat(in folderName, path string) (fs.FileMode, error) {
	_, err := d.run(placeErrand(errandStat, in, path), func(file *os.File) error {
		if file != nil {
			return errors.New("a file came")
		}
		return nil
	})
	switch {
	case errors.Is(err, ErrDirectory):
		return fs.ModeDir, nil
	case errors.Is(err, unix.ENXIO):
		return fs.ModeIrregular, nil
	}
	return 0, err
}

// list returns a file with what is in a folder.
func (d *deputy) list(in folderName, path string) (*os.File, error) {
	return d.run(placeErrand(errandList, in, path), func(file *os.File) error {
		if file == nil {
			return errors.New("no listing came")
		}
		return nil
	})
}

func placeErrand(name string, in folderName, path string) []fcgi.Param {
	return []fcgi.Param{
		{Name: errandName, Value: name}, {Name: errandRoot, Value: in.name}, {Name: errandLinks, Value: string(in.links)}, {Name: errandPath, Value: path},
	}
}

// run has a child do an errand, and another one when that dies over it. The error is the child's, or errDeputy.
func (d *deputy) run(errand []fcgi.Param, accept func(*os.File) error) (*os.File, error) {
	for try := 1; d.err == nil; try++ {
		file, refusal, err := d.try(errand, accept)
		if err == nil {
			return file, refusal
		}
		if try == maxTries || !mayPass(err) {
			d.err = err
		}
	}
	return nil, fmt.Errorf("%w: %w", errDeputy, d.err)
}

// mayPass reports whether another child can do the errand of one that is lost. Doing it twice does no harm.
func mayPass(err error) bool {
	return wasNotSent(err) || hadNoResponse(err) || errors.Is(err, fcgi.ErrTruncated)
}

// try has one child do an errand. With a failure its slot is lost.
func (d *deputy) try(errand []fcgi.Param, accept func(*os.File) error) (file *os.File, refusal, failure error) {
	if d.hold == nil {
		slot, err := d.occupy()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errNoSlot, err)
		}
		d.showQueueTime()
		d.link, d.hold, failure = d.holdFastCGI(slot)
		d.hold.ours = false // what fails now is the child's own doing
	}
	if failure == nil {
		file, refusal, failure = d.link.errand(errand, accept)
	}
	if failure != nil {
		failure = d.hold.lost(failure)
		d.hold, d.link = nil, nil
	}
	return file, refusal, failure
}

// excuse answers a request whose errand failed, perhaps while its route was looked for. It reports whether there was one.
func (d *deputy) excuse() bool {
	if d == nil || d.err == nil {
		return false
	}
	d.x.pool = d.pool.config.Name
	if errors.Is(d.err, errNoSlot) {
		d.failAcquire(d.w, d.r, d.x)
	} else {
		d.conclude(d.err)
	}
	return true
}

// release gives the slot back. Another errand would take one again.
func (d *deputy) release() {
	if d != nil && d.hold != nil {
		d.hold.release(mpm.Done)
		d.hold, d.link = nil, nil
	}
}

// guarded are the files of a route on a pool with deputies, who open them.
//
// What is at a path is a fact, whoever looks: the front does where it may, and only where it may not a deputy.
type guarded struct {
	*Files
	deputy *deputy
	in     folderName
}

func (g *guarded) Open(path string) (*os.File, fs.FileInfo, error) {
	return g.deputy.open(g.in, path)
}

func (g *guarded) Stat(path string) (fs.FileMode, error) {
	mode, err := g.Files.Stat(path)
	if errors.Is(err, fs.ErrPermission) {
		return g.deputy.stat(g.in, path)
	}
	return mode, err
}

func (g *guarded) IsFile(path string) bool {
	mode, err := g.Stat(path)
	return err == nil && mode.IsRegular()
}

func (g *guarded) WasFile(path string) (bool, error) {
	mode, err := g.Stat(path)
	return err == nil && mode.IsRegular(), err
}

// errand has the child of a channel do an errand. accept judges the descriptor that came with a success; nil: none did. The child
// refuses, or it fails and is not to be asked again.
func (l *link) errand(errand []fcgi.Param, accept func(*os.File) error) (file *os.File, refusal, failure error) {
	l.files.expected = true
	defer func() {
		if f := l.files.take(); f != file {
			_ = f.Close() // nobody wants it
		}
	}()
	resp, err := l.Do(errand, nil, 0, nil)
	if err != nil {
		return nil, nil, err
	}
	var text [maxErrandText + 1]byte
	n, err := io.ReadFull(resp, text[:])
	switch {
	case err == nil:
		return nil, nil, fmt.Errorf("%w: an errand with output", fcgi.ErrProtocol)
	case err != io.EOF && err != io.ErrUnexpectedEOF: // only themselves: fcgi's own wrap it
		return nil, nil, err
	}
	_ = resp.Close() // always nil
	if refusal = errorOf(unix.Errno(resp.AppStatus()), string(text[:n])); refusal != nil {
		return nil, refusal, nil
	}
	if err := accept(l.files.file); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", fcgi.ErrProtocol, err)
	}
	return l.files.file, nil, nil
}

// dialer has the child of a channel connect to the addresses of its duties, with the rights of the pool's user. It is what the
// DialContext of an http.Transport can use, which dials in goroutines of its own and perhaps too late for the request. Whoever
// has the slot makes one, and must call revoke before the slot is given back.
type dialer struct {
	channel *link      // immutable
	mu      sync.Mutex // held during an errand
	link    *link      // channel; nil: it was revoked
}

func newDialer(l *link) *dialer { return &dialer{channel: l, link: l} }

// dial connects on the network "tcp" or "unix". The deadline of ctx bounds it, and so does the end of the channel, but not another
// end of ctx. An error that wraps fcgi's means that the child is lost, another one that it could not connect.
func (d *dialer) dial(ctx context.Context, network, address string) (nc net.Conn, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link == nil {
		return nil, net.ErrClosed
	}
	errand := []fcgi.Param{{Name: errandName, Value: errandDial}, {Name: errandAddress, Value: network + " " + address}}
	if end, ok := ctx.Deadline(); ok {
		errand = append(errand, fcgi.Param{Name: errandTimeout, Value: max(time.Until(end), 1).String()})
	}
	file, refusal, failure := d.link.errand(errand, func(file *os.File) error {
		if file == nil {
			return errors.New("no socket came")
		}
		nc, err = net.FileConn(file)
		return err
	})
	if err := errors.Join(refusal, failure); err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, address, err)
	}
	return nc, file.Close() // nc has a duplicate
}

// revoke makes later dials fail, and ends the one in progress with the channel: nobody needs its connection any more.
func (d *dialer) revoke() {
	if !d.mu.TryLock() {
		_ = d.channel.Close() // wakes who reads
		d.mu.Lock()
	}
	defer d.mu.Unlock()
	d.link = nil
}

// maxFiles is how many descriptors a receiver has room for, to see and to close those that nobody asked for.
const maxFiles = 4

// receiver is the front's end of a channel to a child of the gateway's own. It reads what comes and takes the descriptor that
// comes with it, if one is expected. It belongs to whoever reads.
type receiver struct {
	messenger
	control  []byte
	expected bool
	file     *os.File // that came; nil: none
	err      error    // the child is not to be trusted
}

// messenger is a connection over which descriptors can come: an event.Channel or a net.UnixConn.
type messenger interface {
	net.Conn
	CloseWrite() error
	ReadMsgUnix(p, control []byte) (n, controls, flags int, addr *net.UnixAddr, err error)
}

func newReceiver(socket messenger) *receiver {
	return &receiver{messenger: socket, control: make([]byte, unix.CmsgSpace(maxFiles*4))}
}

// Read implements net.Conn.
func (c *receiver) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, controls, flags, _, err := c.ReadMsgUnix(p, c.control)
	if errors.Is(err, io.EOF) {
		return 0, io.EOF // net wraps it here, and only here
	}
	if controls > 0 || flags&unix.MSG_CTRUNC != 0 {
		c.err = c.collect(c.control[:controls], flags)
		if c.err != nil {
			return 0, c.err
		}
	}
	return n, err
}

// collect takes descriptors from control data.
func (c *receiver) collect(control []byte, flags int) error {
	files, err := ctl.FilesOf(control)
	switch {
	case err != nil:
		return err
	case len(files) == 0 && flags&unix.MSG_CTRUNC != 0:
		return errNoRoom
	case len(files) == 1 && c.expected && c.file == nil && flags&unix.MSG_CTRUNC == 0:
		c.file = files[0]
		return nil
	}
	for _, f := range files {
		_ = f.Close() // nobody asked for it
	}
	return fmt.Errorf("%w: %d descriptors that nobody asked for", fcgi.ErrProtocol, len(files))
}

// take returns the descriptor that came, and expects no more.
func (c *receiver) take() (file *os.File) {
	file, c.file, c.expected = c.file, nil, false
	return file
}
