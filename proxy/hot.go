package proxy

import (
	"bytes"
	"hash/maphash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/proxy/http1"
	"gateway/routes"
)

const (
	hotFileBytes = 64 << 10 // larger files are kept open instead, and sent by the kernel
	hotOpen      = 512      // of these at most
	hotSets      = 4096
	hotWays      = 4
	// hotCheck is how old an answer may be before one request looks at the file again. The others are answered from memory
	// meanwhile, until hotAge: a change is seen within that time.
	hotCheck = 500 * time.Millisecond
	hotAge   = time.Second
)

// hotCache holds small files together with the heads of their answers, so that a request for one needs neither a handler nor
// the file system. It is a table of sets that a lookup reads without a lock; a set that is full gives up its oldest file.
// Safe for concurrent use.
type hotCache struct {
	seed  maphash.Seed
	limit int64        // bytes of content
	bytes atomic.Int64 // of these, in use
	open  atomic.Int64 // files that are kept open
	sets  [hotSets][hotWays]atomic.Pointer[hotFile]
}

func newHotCache(limit int64) *hotCache { return &hotCache{seed: maphash.MakeSeed(), limit: limit} }

// hotFile is the answer to requests for one path of one site. All but its marks is immutable.
type hotFile struct {
	hash     uint64
	site     *routes.Site
	path     string // as clients send it: what it leads to was found out by routing it
	identity fileIdentity
	head     []byte // the fields of a 200, from Content-Type to Content-Length
	fields   []byte // those of a 304
	body     []byte
	file     *os.File // instead of body
	tag      string
	modified string

	holders atomic.Int32 // of file: the cache, and whoever sends it; at 0 it is closed
	checked atomic.Int64 // when the file was last looked at, Unix nanoseconds
	looking atomic.Bool  // somebody does it now
}

// fileIdentity changes whenever the content of a path does, as far as the file system tells.
type fileIdentity struct {
	device, inode  uint64
	size           int64
	mtime, changed int64 // nanoseconds
}

func identify(info fs.FileInfo) fileIdentity {
	id := fileIdentity{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.device, id.inode, id.changed = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return id
}

// find returns the file to answer with, or nil: then the request goes the long way, at whose end the file is put or refreshed.
func (c *hotCache) find(site *routes.Site, path []byte, now time.Time) *hotFile {
	hash := maphash.Bytes(c.seed, path)
	for i := range hotWays {
		f := c.sets[hash%hotSets][i].Load()
		if f == nil || f.hash != hash || f.site != site || f.path != string(path) {
			continue
		}
		age := time.Duration(now.UnixNano() - f.checked.Load())
		if age < hotCheck || age < hotAge && !f.looking.CompareAndSwap(false, true) {
			return f
		}
		return nil
	}
	return nil
}

// refresh returns the file if what it holds is still what the path leads to.
func (c *hotCache) refresh(site *routes.Site, path string, id fileIdentity, now time.Time) *hotFile {
	hash := maphash.String(c.seed, path)
	for i := range hotWays {
		f := c.sets[hash%hotSets][i].Load()
		if f == nil || f.hash != hash || f.site != site || f.path != path || f.identity != id {
			continue
		}
		f.checked.Store(now.UnixNano())
		f.looking.Store(false)
		return f
	}
	return nil
}

// put adds a file, in the place of an earlier version, of nothing, or of the one that was not looked at for longest.
func (c *hotCache) put(f *hotFile) {
	f.hash = maphash.String(c.seed, f.path)
	set := &c.sets[f.hash%hotSets]
	victim, oldest := 0, int64(1<<63-1)
	for i := range set {
		g := set[i].Load()
		if g == nil {
			victim, oldest = i, -1
			continue
		}
		if g.hash == f.hash && g.site == f.site && g.path == f.path {
			victim = i
			break
		}
		if at := g.checked.Load(); at < oldest {
			victim, oldest = i, at
		}
	}
	c.remove(&set[victim], set[victim].Load())
	if full := !c.admit(f); full || !set[victim].CompareAndSwap(nil, f) {
		c.leave(f)
		if full {
			c.evict(f.hash)
		}
	}
}

// admit counts f in and reports whether there was room for it.
func (c *hotCache) admit(f *hotFile) bool {
	if f.file != nil {
		return c.open.Add(1) <= hotOpen
	}
	return c.bytes.Add(int64(len(f.body))) <= c.limit
}

// leave counts f out, which is in no set any more.
func (c *hotCache) leave(f *hotFile) {
	if f.file != nil {
		c.open.Add(-1)
		f.drop()
		return
	}
	c.bytes.Add(-int64(len(f.body)))
}

func (c *hotCache) remove(place *atomic.Pointer[hotFile], f *hotFile) {
	if f != nil && place.CompareAndSwap(f, nil) {
		c.leave(f)
	}
}

// clear forgets every file.
func (c *hotCache) clear() {
	for i := range c.sets {
		for j := range c.sets[i] {
			c.remove(&c.sets[i][j], c.sets[i][j].Load())
		}
	}
}

// hold keeps the open file open until drop. It returns false when it is closed already.
func (f *hotFile) hold() bool {
	for {
		n := f.holders.Load()
		if n == 0 {
			return false
		}
		if f.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (f *hotFile) drop() {
	if f.holders.Add(-1) == 0 {
		_ = f.file.Close() // it was only read
	}
}

// evict makes some room for the next one, somewhere.
func (c *hotCache) evict(at uint64) {
	for n := range uint64(hotSets) {
		set := &c.sets[(at+n)%hotSets]
		for i := range set {
			c.remove(&set[i], set[i].Load())
			if c.bytes.Load() <= c.limit-c.limit/16 && c.open.Load() <= hotOpen-hotOpen/16 {
				return
			}
		}
	}
}

// load reads a small file for the cache, or finds it there; a large one is opened anew. It returns nil when the file is not
// fit to be kept: it changes at this moment, or can't be read. The long way deals with that.
func (c *hotCache) load(x *exchange, file *os.File, info fs.FileInfo, header http.Header, tag string, modified time.Time) *hotFile {
	if x.asked == "" {
		return nil
	}
	now := time.Now()
	id := identify(info)
	if f := c.refresh(x.site, x.asked, id, now); f != nil {
		return f
	}
	f := &hotFile{site: x.site, path: x.asked, identity: id, tag: tag}
	if !f.fill(file) {
		return nil
	}
	for _, name := range []string{"Cache-Control", "Etag"} {
		if v := header.Get(name); v != "" {
			f.fields = http1.AppendField(f.fields, name, v)
		}
	}
	f.head = http1.AppendField(bytes.Clone(f.fields), "Content-Type", header.Get("Content-Type"))
	if !modified.IsZero() {
		// Not in a 304, which has the ETag (RFC 9110 §15.4.5).
		f.modified = modified.UTC().Format(http.TimeFormat)
		f.head = http1.AppendField(f.head, "Last-Modified", f.modified)
	}
	f.head = http1.AppendField(f.head, "Accept-Ranges", "bytes")
	f.head = http1.AppendContentLength(f.head, info.Size())
	f.checked.Store(now.UnixNano())
	// A file that was written to in this very moment may be so again with the same time stamp.
	if time.Duration(now.UnixNano()-id.changed) > 20*time.Millisecond {
		c.put(f)
	} else if f.file != nil {
		f.drop()
	}
	return f
}

// fill takes the content of a small file, or a large one's descriptor.
func (f *hotFile) fill(file *os.File) bool {
	if f.identity.size > hotFileBytes {
		raw, err := file.SyscallConn()
		if err != nil {
			return false
		}
		fd := -1
		if cerr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil || err != nil {
			return false
		}
		f.file = os.NewFile(uintptr(fd), file.Name())
		f.holders.Store(1)
		return true
	}
	f.body = make([]byte, f.identity.size)
	if _, err := io.ReadFull(file, f.body); err != nil && len(f.body) > 0 {
		return false
	}
	after, err := file.Stat()
	return err == nil && identify(after) == f.identity
}

// answers reports whether a request can be answered with f as it is, and with which status. Ranges and rare conditions can't.
func (f *hotFile) answers(h *http1.Head) (status int, ok bool) {
	if h.Range != nil || h.IfMatch != nil || h.IfUnmodifiedSince != nil || h.HasBody() || h.Minor == 0 || f.modified == "" {
		return 0, false
	}
	switch {
	case h.IfNoneMatch != nil:
		if string(h.IfNoneMatch) == f.tag {
			return http.StatusNotModified, true
		}
		return http.StatusOK, bytes.IndexByte(h.IfNoneMatch, ',') < 0 && !bytes.HasPrefix(h.IfNoneMatch, []byte("W/")) && string(h.IfNoneMatch) != "*"
	case h.IfModifiedSince != nil:
		return http.StatusNotModified, string(h.IfModifiedSince) == f.modified
	}
	return http.StatusOK, true
}

const (
	hotOK          = "HTTP/1.1 200 OK\r\nServer: " + serverName + "\r\n"
	hotNotModified = "HTTP/1.1 304 Not Modified\r\nServer: " + serverName + "\r\n"
)

// append appends the whole answer and returns how many bytes of body are in it.
func (f *hotFile) append(b []byte, status int, isHead, last bool, date *http1.DateCache, now time.Time) ([]byte, int) {
	if status == http.StatusNotModified {
		b = append(b, hotNotModified...)
		b = date.AppendField(b, now)
		b = append(b, f.fields...)
	} else {
		b = append(b, hotOK...)
		b = date.AppendField(b, now)
		b = append(b, f.head...)
	}
	if last {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if isHead || status == http.StatusNotModified {
		return b, 0
	}
	return append(b, f.body...), len(f.body)
}
