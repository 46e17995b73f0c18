package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// spoolMemory is how much of a request body is kept in memory, in bytes.
const spoolMemory = 64 << 10

// errSpool means that a request body could not be written down. It wraps its cause.
var errSpool = errors.New("request body not spooled")

// spool keeps the bodies of requests until a child has read them, so that a slow client holds no child: the small ones in
// memory, the others in files without a name. Safe for concurrent use.
type spool struct {
	dir     string
	buffers sync.Pool // of *[spoolMemory]byte
}

func newSpool(dir string) *spool {
	return &spool{dir: dir, buffers: sync.Pool{New: func() any { return new([spoolMemory]byte) }}}
}

// spooled is a complete request body.
type spooled struct {
	spool  *spool
	buffer *[spoolMemory]byte // nil: it is empty or in file
	file   *os.File
	length int64
}

// read takes all of body, whose length is as announced; -1: unknown. The caller must close the result.
//
// An error of body comes back as it is. io.ErrUnexpectedEOF: it was shorter than announced.
func (s *spool) read(body io.Reader, length int64) (*spooled, error) {
	b := &spooled{spool: s}
	if body == nil || body == http.NoBody || length == 0 {
		return b, nil
	}
	if err := b.fill(body, length); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *spooled) fill(body io.Reader, announced int64) error {
	b.buffer, _ = b.spool.buffers.Get().(*[spoolMemory]byte)
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
	if b.file, err = tempFile(b.spool.dir); err != nil {
		return fmt.Errorf("%w: %w", errSpool, err)
	}
	chunk := b.buffer[:]
	defer b.releaseBuffer()
	for n := len(chunk); ; {
		if _, err := b.file.Write(chunk[:n]); err != nil {
			return fmt.Errorf("%w: %w", errSpool, err)
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
	case b.file != nil:
		return io.NewSectionReader(b.file, 0, b.length)
	case b.buffer != nil:
		return bytes.NewReader(b.buffer[:b.length])
	}
	return http.NoBody
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
	case errors.Is(err, errSpool):
		return http.StatusInternalServerError
	default: // malformed, cut short, or its sender has gone
		return http.StatusBadRequest
	}
}
