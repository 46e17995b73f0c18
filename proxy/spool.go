package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/quiet"
)

const (
	// spoolMemory is how much of a body is kept in memory, in bytes.
	spoolMemory = 64 << 10
)

var (
	// errSpool means that a body could not be written down. It wraps its cause.
	errSpool = errors.New("body not spooled")

	errSpoolLimit = errors.New("spool_limit is reached")

	// errBodyCut means that a body that was not collected came to no end. It wraps its cause.
	errBodyCut = errors.New("request body was cut")
)

// spool keeps the bodies of requests until a child has read them, and those of responses until their clients have, so that a
// slow client holds no child: the small ones in memory, the others in files without a name. Safe for concurrent use.
type spool struct {
	dir     string
	limit   int64 // bytes in all files together; 0: none
	log     Logger
	used    atomic.Int64 // of limit
	buffers sync.Pool    // of *[spoolMemory]byte
	empty   spooled      // the body of every request that has none; immutable

	complaints quiet.Limiter
}

func newSpool(dir string, limit int64, log Logger) *spool {
	return &spool{dir: dir, limit: limit, log: log, buffers: sync.Pool{New: func() any { return new([spoolMemory]byte) }}}
}

// SpoolStatus is `spool` in `gateway status -json`.
type SpoolStatus struct {
	Bytes int64 `json:"bytes"` // in files
	Limit int64 `json:"limit"` // of Bytes; 0: none
}

// Spool tells how much of the bodies of requests and responses is in files.
func (s *Server) Spool() SpoolStatus { return SpoolStatus{s.spool.used.Load(), s.spool.limit} }

func (s *spool) buffer() *[spoolMemory]byte {
	b, _ := s.buffers.Get().(*[spoolMemory]byte)
	return b
}

// complain logs why the spool takes no more, limited.
func (s *spool) complain(err error) {
	if held, ok := s.complaints.Pass(time.Now(), complainEvery); ok {
		s.log.Errorw("spool takes no more, large bodies fail: let the front's user write to spool_dir, make room there, or raise spool_limit", "spool_dir", s.dir, "error", err, "not_logged", held)
	}
}

// spoolFile is a file of a spool. Its position, from which it is read, is left alone by Write, which appends.
type spoolFile struct {
	*os.File
	spool *spool
	size  int64 // also what it has taken of the spool's limit
}

func (s *spool) file() (*spoolFile, error) {
	f, err := tempFile(s.dir)
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
		s.complain(err)
		return nil, err
	}
	return &spoolFile{File: f, spool: s}, nil
}

// try has the log say that there can be no files, before a body has to.
func (s *spool) try() {
	if f, err := s.file(); err == nil {
		_ = f.Close() // nothing was written
	}
}

// Write implements io.Writer.
func (f *spoolFile) Write(p []byte) (int, error) {
	n := int64(len(p))
	err := errSpoolLimit
	if used := f.spool.used.Add(n); f.spool.limit == 0 || used <= f.spool.limit {
		_, err = f.WriteAt(p, f.size)
	}
	if err != nil {
		f.spool.used.Add(-n)
		err = fmt.Errorf("%w: %w", errSpool, err)
		f.spool.complain(err)
		return 0, err
	}
	f.size += n
	return len(p), nil
}

// Close gives the file up, and its room.
func (f *spoolFile) Close() error {
	f.spool.used.Add(-f.size)
	return f.File.Close()
}

// spooled is a request body: a complete one, or with buffer = false a large one that is still to come.
type spooled struct {
	spool  *spool
	buffer *[spoolMemory]byte // nil: it is elsewhere, or empty
	file   *spoolFile
	stream *bodyStream // nil: the body is complete
	length int64
}

// read takes all of body, whose length is as announced; -1: unknown. The caller must close the result.
//
// An error of body comes back as it is. io.ErrUnexpectedEOF: it was shorter than announced.
func (s *spool) read(body io.Reader, length int64) (*spooled, error) {
	if body == nil || body == http.NoBody || length == 0 {
		return &s.empty, nil
	}
	b := &spooled{spool: s}
	if err := b.fill(body, length); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *spooled) fill(body io.Reader, announced int64) error {
	b.buffer = b.spool.buffer()
	want := b.buffer[:]
	if announced > 0 && announced < spoolMemory {
		want = want[:announced] // so that no read waits for the end that is known
	}
	n, err := readUpTo(body, want)
	b.length = int64(n)
	if err == nil && b.length != announced {
		err = b.spill(body)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if announced >= 0 && b.length != announced {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// spill moves a full buffer to a file and goes on there. It returns what ended the body, io.EOF if nothing else did.
func (b *spooled) spill(body io.Reader) error {
	var err error
	if b.file, err = b.spool.file(); err != nil {
		return err
	}
	chunk := b.buffer[:]
	defer b.releaseBuffer()
	for n := len(chunk); ; {
		if _, err := b.file.Write(chunk[:n]); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		n, err = readUpTo(body, chunk)
		b.length += int64(n)
	}
}

// readUpTo fills p unless r ends before. Unlike io.ReadFull it lets the caller tell a body that ended from one that was cut.
func readUpTo(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if n == len(p) {
		err = nil // it comes again
	}
	return n, err
}

// tempFile makes a file that nobody else can open and that is gone when it is closed.
func tempFile(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR|os.O_EXCL, 0o600)
	if err == nil || !lacksTmpfile(err) {
		return f, err
	}
	if f, err = os.CreateTemp(dir, "gateway-*"); err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lacksTmpfile reports that the file system (EOPNOTSUPP), or a very old kernel (EISDIR), has no O_TMPFILE.
func lacksTmpfile(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR)
}

// reader returns a reader from the beginning.
func (b *spooled) reader() io.Reader {
	switch {
	case b.stream != nil:
		return b.stream
	case b.file != nil:
		return io.NewSectionReader(b.file, 0, b.length)
	case b.buffer != nil:
		return bytes.NewReader(b.buffer[:b.length])
	}
	return http.NoBody
}

// appendTo appends a body that is in memory.
func (b *spooled) appendTo(dst []byte) []byte {
	if b.buffer == nil {
		return dst
	}
	return append(dst, b.buffer[:b.length]...)
}

// close gives the memory or the file back. No reader may be in use.
func (b *spooled) close() {
	b.releaseBuffer()
	if b.file != nil {
		_ = b.file.Close() // nobody wants what was written
		b.file = nil
	}
}

func (b *spooled) releaseBuffer() {
	if b.buffer != nil {
		b.spool.buffers.Put(b.buffer)
		b.buffer = nil
	}
}

// bodyStream is a request body that a child gets as it comes. It can be read once, by one goroutine.
type bodyStream struct {
	body io.Reader
	wake func() // ends a Read that waits for the client

	// From other goroutines.
	begun atomic.Bool
	cut   atomic.Pointer[error] // why the client has not sent all of it; nil: it has, so far
}

// streamed is a request body that is not collected, but for what fits in memory anyway.
func (s *spool) streamed(w http.ResponseWriter, body io.Reader, length int64) *spooled {
	wake := func() {
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // it has one
	}
	return &spooled{spool: s, stream: &bodyStream{body: body, wake: wake}, length: length}
}

// Read implements io.Reader.
func (b *bodyStream) Read(p []byte) (int, error) {
	b.begun.Store(true)
	n, err := b.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.cut.Store(&err)
	}
	return n, err
}

// again reports whether another child can have the body.
func (b *spooled) again() bool { return b.stream == nil || !b.stream.begun.Load() }

// interrupt ends a Read that waits for the client.
func (b *spooled) interrupt() {
	if b.stream != nil {
		b.stream.wake()
	}
}

// cut is why the client has not sent all of the body; nil: it has, so far.
func (b *spooled) cut() error {
	if b.stream == nil || b.stream.cut.Load() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errBodyCut, *b.stream.cut.Load())
}

// bodyStatus is the answer to a request whose body could not be read.
func bodyStatus(err error) int {
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case tooLarge:
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errBodySlow):
		return http.StatusRequestTimeout
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return http.StatusInsufficientStorage
	case errors.Is(err, errSpoolLimit):
		return http.StatusServiceUnavailable
	case errors.Is(err, errSpool):
		return http.StatusInternalServerError
	default: // malformed, cut short, or its sender has gone
		return http.StatusBadRequest
	}
}
