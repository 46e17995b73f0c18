package proxy

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"gateway/proxy/http1"
	"gateway/routes"
)

const (
	hotFileBytes = 64 << 10 // larger files are kept open instead, and sent by the kernel
	hotOpen      = 512      // of these at most, and an eighth of what the process may open
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
	pools map[string]pool // immutable
	limit int64           // bytes of what is held in memory
	kept  int64           // files that are kept open at most
	bytes atomic.Int64    // of these, in use
	open  atomic.Int64    // files that are kept open
	sets  [hotSets][hotWays]atomic.Pointer[hotFile]
	made  singleflight.Group // of what is compressed now

	entries, misses, evictions atomic.Int64
}

func newHotCache(limit int64, pools map[string]pool) *hotCache {
	return &hotCache{seed: maphash.MakeSeed(), limit: limit, kept: int64(KeptFiles()), pools: pools}
}

// OpenFiles is how many descriptors the process may have; 0: nobody knows.
func OpenFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<30)) //nolint:gosec // small
}

// KeptFiles is how many of them a [Server] holds at most for files that nobody asks for at the moment.
func KeptFiles() int { return min(OpenFiles()/8, hotOpen) }

// CacheStatus is `cache` in `gateway status -json`: the files that are answered from memory.
type CacheStatus struct {
	Hits      uint64 `json:"hits"`       // requests that were
	Misses    int64  `json:"misses"`     // requests that found no such file, or another version, and had it read
	Entries   int64  `json:"entries"`    // files
	Bytes     int64  `json:"bytes"`      // of those in memory, with their paths and heads
	OpenFiles int64  `json:"open_files"` // of the files, the large ones: they are kept open instead
	Evictions int64  `json:"evictions"`  // files that had to make room
}

// Cache tells how the cache of files is doing.
func (s *Server) Cache() CacheStatus {
	c := s.hot
	st := CacheStatus{Misses: c.misses.Load(), Entries: c.entries.Load(), Bytes: c.bytes.Load(), OpenFiles: c.open.Load(), Evictions: c.evictions.Load()}
	for _, p := range s.pools {
		hits, _ := p.Answered()
		st.Hits += hits
	}
	return st
}

// hotFile is the answer to requests for one path of one site. All but its marks is immutable.
type hotFile struct {
	hash     uint64
	site     *routes.Site
	pool     pool
	path     string // as clients send it: what it leads to was found out by routing it
	identity fileIdentity
	choice          // the form that it is
	offer    offer  // of which it was chosen
	size     int64  // of the content, in bytes
	head     []byte // the fields of a 200
	common   []byte // of them, those that a 206 has as well
	fields   []byte // those of a 304
	body     []byte
	file     *os.File // instead of body
	fd       int      // of file
	tag      string   // empty: none

	contentType  string
	modified     string // empty: unknown
	modifiedUnix int64

	holders atomic.Int32 // of file: the cache, and whoever sends it; at 0 it is closed
	checked atomic.Int64 // when the file was last looked at, Unix nanoseconds
	sent    atomic.Int64 // when all of it was last read to be sent, likewise
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
func (c *hotCache) find(site *routes.Site, path []byte, head *http1.Head, now time.Time) *hotFile {
	hash := maphash.Bytes(c.seed, path)
	for i := range hotWays {
		f := c.sets[hash%hotSets][i].Load()
		if f == nil || f.hash != hash || f.site != site || f.path != string(path) || f.offer.n > 0 && !f.isChosen(head) {
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

// isChosen reports whether the client gets the file in this form.
func (f *hotFile) isChosen(head *http1.Head) bool {
	return f.choice == f.offer.choose(alias(head.Get("Accept-Encoding")), head.Range != nil)
}

// refresh returns the file if what it holds is still what the path leads to.
func (c *hotCache) refresh(site *routes.Site, path string, as *form, id fileIdentity, now time.Time) *hotFile {
	hash := maphash.String(c.seed, path)
	for i := range hotWays {
		f := c.sets[hash%hotSets][i].Load()
		if f == nil || f.hash != hash || f.site != site || f.path != path || f.identity != id || f.choice != as.choice || f.offer != as.offer {
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
		if g.hash == f.hash && g.site == f.site && g.path == f.path && g.choice == f.choice {
			victim = i
			break
		}
		if at := g.checked.Load(); at < oldest {
			victim, oldest = i, at
		}
	}
	old := set[victim].Load()
	if old != nil && (old.path != f.path || old.site != f.site) {
		c.evictions.Add(1)
	}
	c.remove(&set[victim], old)
	if full := !c.admit(f); full || !set[victim].CompareAndSwap(nil, f) {
		c.leave(f)
		if full {
			c.evict(f.hash)
		}
	}
}

// admit counts f in and reports whether there was room for it.
func (c *hotCache) admit(f *hotFile) bool {
	c.entries.Add(1)
	if f.file != nil {
		return c.open.Add(1) <= c.kept
	}
	return c.bytes.Add(f.weight()) <= c.limit
}

// weight is how many bytes f costs: a client can ask for the shortest file by thousands of long paths.
func (f *hotFile) weight() int64 {
	return int64(len(f.path) + len(f.head) + len(f.common) + len(f.fields) + len(f.body))
}

// leave counts f out, which is in no set any more.
func (c *hotCache) leave(f *hotFile) {
	c.entries.Add(-1)
	if f.file != nil {
		c.open.Add(-1)
		f.drop()
		return
	}
	c.bytes.Add(-f.weight())
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
			if f := set[i].Load(); f != nil {
				c.evictions.Add(1)
				c.remove(&set[i], f)
			}
			if c.bytes.Load() <= c.limit-c.limit/16 && c.open.Load() <= c.kept-c.kept/16 {
				return
			}
		}
	}
}

// load reads a small file for the cache, or compresses one, or finds it there; a large one is opened anew. It returns nil when the file
// is not fit to be kept: it changes at this moment, or can't be read. The long way deals with that.
func (c *hotCache) load(x *exchange, as *form, header http.Header, e *encoders) *hotFile {
	if x.asked == "" {
		return nil
	}
	now := time.Now()
	id := identify(as.info)
	if f := c.refresh(x.site, x.asked, as, id, now); f != nil {
		return f
	}
	c.misses.Add(1)
	// The path must not hold the head of the request that it is a part of.
	f := &hotFile{site: x.site, pool: c.pools[x.pool], path: strings.Clone(x.asked), identity: id, choice: as.choice, offer: as.offer, size: id.size}
	if filled := as.made && c.make(f, as.file, e) || !as.made && f.fill(as.file); !filled {
		return nil
	}
	f.describe(as, header, now)
	// A file that was written to in this very moment may be so again with the same time stamp.
	if time.Duration(now.UnixNano()-id.changed) > 20*time.Millisecond {
		c.put(f)
	} else if f.file != nil {
		f.drop()
	}
	return f
}

// describe makes the heads of the answers.
func (f *hotFile) describe(as *form, header http.Header, now time.Time) {
	tag, modified := as.validators(now)
	f.tag, f.contentType = strings.TrimPrefix(tag, "W/"), first(header, "Content-Type")
	for _, name := range []string{"Cache-Control", "Vary"} {
		if v := strings.Join(header[name], ", "); v != "" {
			f.fields = http1.AppendField(f.fields, name, v)
		}
	}
	if tag != "" {
		f.fields = http1.AppendField(f.fields, "Etag", tag)
	}
	f.common = bytes.Clone(f.fields)
	if !modified.IsZero() {
		// Not in a 304, which has the ETag (RFC 9110 §15.4.5).
		f.modified, f.modifiedUnix = modified.UTC().Format(http.TimeFormat), modified.Unix()
		f.common = http1.AppendField(f.common, "Last-Modified", f.modified)
	}
	if f.coding != identity {
		f.common = http1.AppendField(f.common, "Content-Encoding", codingNames[f.coding])
	}
	f.common = http1.AppendField(f.common, "Accept-Ranges", "bytes")
	f.head = http1.AppendField(bytes.Clone(f.common), "Content-Type", f.contentType)
	f.head = http1.AppendContentLength(f.head, f.size)
	f.checked.Store(now.UnixNano())
}

// make fills f with the compressed content of a file. Who wants the same meanwhile waits for it.
func (c *hotCache) make(f *hotFile, file *os.File, e *encoders) bool {
	key := fmt.Sprintf("%p %d %v %s", f.site, f.coding, f.identity, f.path)
	body, err, _ := c.made.Do(key, func() (any, error) {
		body, err := e.whole(f.coding, file)
		if after, statErr := file.Stat(); err == nil && (statErr != nil || identify(after) != f.identity) {
			err = fs.ErrInvalid // it has changed
		}
		return body, err
	})
	f.body, _ = body.([]byte)
	f.size = int64(len(f.body))
	return err == nil
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
		f.file, f.fd = os.NewFile(uintptr(fd), file.Name()), fd
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
