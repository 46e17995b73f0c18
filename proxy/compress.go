package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"gateway/routes"
)

const (
	// brotliWindow and zstdWindow bound how far back a compressor looks (the first as a power of 2, the second in bytes), and with that
	// its memory and the browser's.
	brotliWindow = 18
	zstdWindow   = 512 << 10

	// maxMade is the largest file that is compressed, in bytes: it is done as a whole, for the cache. A larger one can be laid beside
	// the file ready-made.
	maxMade = 16 << 20
)

// encoder writes a coding.
type encoder interface {
	io.WriteCloser
	Flush() error // what was written can be decoded from what has come out
	Reset(io.Writer)
}

// encoders are the compressors of one compress block, which are large and are used again. Safe for concurrent use.
type encoders struct {
	config *routes.Compress
	offer  offer
	idle   [codings]sync.Pool // of encoder
}

func newEncoders(c *routes.Compress) *encoders {
	e := &encoders{config: c}
	for _, name := range c.Codings {
		e.offer.add(choice{codingOf(name), true})
	}
	return e
}

// get returns a compressor that writes to w. The caller must call put.
func (e *encoders) get(c coding, w io.Writer) encoder {
	if enc, ok := e.idle[c].Get().(encoder); ok {
		enc.Reset(w)
		return enc
	}
	return newEncoder(c, e.config.Level, w)
}

func (e *encoders) put(c coding, enc encoder) {
	enc.Reset(nil)
	e.idle[c].Put(enc)
}

// newEncoder makes a compressor. One level means about the same effort whatever the coding.
func newEncoder(c coding, level int, w io.Writer) encoder {
	switch c {
	case brotliCoding:
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: level, LGWin: brotliWindow})
	case zstdCoding:
		// It fails for options that it does not have.
		enc, _ := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
		return enc
	default:
		enc, _ := gzip.NewWriterLevel(w, level) // from 1 to 9, as the configuration was checked
		return enc
	}
}

// whole compresses a whole content.
func (e *encoders) whole(c coding, content io.Reader) ([]byte, error) {
	var b bytes.Buffer
	enc := e.get(c, &b)
	_, err := io.Copy(enc, content)
	if closeErr := enc.Close(); err == nil {
		err = closeErr
	}
	e.put(c, enc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", codingNames[c], err)
	}
	return bytes.Clone(b.Bytes()), nil
}

// suits reports whether a response of that type may be compressed at all, and adds what caches must know of it (RFC 9110 §12.5.5).
func (e *encoders) suits(header http.Header) bool {
	if !isCompressible(e.config.Types, first(header, "Content-Type")) || !mayTransform(header["Cache-Control"]) {
		return false
	}
	for _, name := range [...]string{"Content-Encoding", "Content-Range", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest"} {
		if _, ok := header[name]; ok {
			return false
		}
	}
	varyByEncoding(header)
	return true
}

func varyByEncoding(header http.Header) {
	const name = "Accept-Encoding"
	if list := header["Vary"]; !listNames(list, "*") && !listNames(list, name) {
		header["Vary"] = append(list, name)
	}
}

// mark makes a header that of the compressed response. Its length is not known, and an ETag can't promise the same bytes any more.
func mark(header http.Header, c coding) {
	header["Content-Encoding"] = []string{codingNames[c]}
	delete(header, "Content-Length")
	delete(header, "Accept-Ranges")
	if tag := first(header, "Etag"); len(tag) > 0 && tag[0] == '"' {
		header["Etag"] = []string{"W/" + tag}
	}
}

// compression compresses a response on its way to its client. It is an [outlet] before another one.
type compression struct {
	outlet
	encoders *encoders
	coding   coding
	header   http.Header // of the response; it is not used before something was written to the outlet
	eager    bool        // every piece is sent at once
	whole    bool        // all of the response is here: nothing will be waited for

	mu      sync.Mutex
	held    []byte      // the beginning, as long as that may be all: what is too short is not compressed
	enc     encoder     // nil: nothing is compressed yet
	timer   *time.Timer // has what was held back sent in a while
	waiting bool        // something was, and the timer runs
	err     error       // stays
}

// compressed puts a compression before out, if the response is to be compressed. Its header is changed then, or when it begins.
func (c *call) compressed(rp *reply, out outlet, eager, whole bool) outlet {
	e := c.encoders[c.x.route.Compress]
	if e == nil || rp.status == http.StatusPartialContent || !rp.hasBody("") || !e.suits(rp.header) {
		return out
	}
	how := e.offer.choose(first(c.r.Header, "Accept-Encoding"), false)
	if how.coding == identity || rp.length >= 0 && rp.length < e.config.MinSize {
		return out
	}
	if c.r.Method == http.MethodHead {
		if rp.length >= 0 { // else nobody knows whether it would be long enough
			mark(rp.header, how.coding)
		}
		return out
	}
	z := &compression{outlet: out, encoders: e, coding: how.coding, header: rp.header, eager: eager, whole: whole}
	if eager || rp.length >= 0 {
		z.begin()
	}
	return z
}

// begin compresses from now on.
func (z *compression) begin() {
	mark(z.header, z.coding)
	z.enc = z.encoders.get(z.coding, z.outlet)
	if len(z.held) > 0 {
		_, z.err = z.enc.Write(z.held)
		z.held = nil
	}
}

// Write implements io.Writer.
func (z *compression) Write(p []byte) (int, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.err == nil {
		z.take(p)
	}
	switch {
	case z.err != nil:
		return 0, z.err
	case z.eager:
		z.err = z.enc.Flush()
	case !z.whole && !z.waiting:
		z.hurry()
	}
	return len(p), z.err
}

func (z *compression) take(p []byte) {
	if z.enc == nil {
		if int64(len(z.held)+len(p)) < z.encoders.config.MinSize {
			z.held = append(z.held, p...)
			return
		}
		z.begin()
	}
	if z.err == nil {
		_, z.err = z.enc.Write(p)
	}
}

// hurry has the client get what there is in a while, as [delivery] does it: a page that shows how its work goes on must not wait
// until the compressor has enough.
func (z *compression) hurry() {
	z.waiting = true
	if z.timer == nil {
		z.timer = time.AfterFunc(gatherTime, z.overdue)
		return
	}
	z.timer.Reset(gatherTime)
}

func (z *compression) overdue() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !z.waiting || z.err != nil {
		return
	}
	z.waiting = false
	if z.enc == nil {
		z.begin()
	}
	if z.err == nil {
		z.err = z.enc.Flush()
	}
}

// stop implements outlet.
func (z *compression) stop(whole bool) (held int64, begun bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.waiting = false
	if z.timer != nil {
		z.timer.Stop()
	}
	switch {
	case z.err != nil || !whole: // it shall not look complete
	case z.enc != nil:
		z.err = z.enc.Close()
	case len(z.held) > 0:
		_, z.err = z.outlet.Write(z.held)
	}
	if z.enc != nil {
		z.encoders.put(z.coding, z.enc)
		z.enc = nil
	}
	return z.outlet.stop(whole)
}

// finish implements outlet.
func (z *compression) finish() error {
	if err := z.outlet.finish(); err != nil {
		return err
	}
	return z.err
}
