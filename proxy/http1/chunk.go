package http1

// Limits of the framing of a chunked body. Beyond them the answer is 400.
const (
	MaxChunkLineBytes = 4 << 10 // the line with the size and the extensions, CRLF included
	MaxTrailerBytes   = 8 << 10 // all lines behind the last chunk, without the empty one
	MaxTrailers       = 100
)

const (
	// maxSizeDigits keeps every size below 2^60, so that sums of sizes can't overflow.
	maxSizeDigits = 15
	// A client may spend freeOverhead bytes and twice the chunk's data on each chunk line. What it spends beyond that, in
	// extensions nobody reads, sums up to at most maxOverheadBytes (CVE-2023-39326; the figures are those of net/http).
	freeOverhead     = 16
	maxOverheadBytes = 16 << 10
)

// ChunkReader decodes a chunked body (RFC 9112 §7.1). The zero value is at the start of a body.
//
// Extensions and trailers are checked, counted and dropped: a trailer of a request never becomes a field.
type ChunkReader struct {
	KeepTrailer bool   // set before the first byte: what comes behind the last chunk is kept
	Trailer     []byte // for [ParseTrailer]

	state        chunkState
	err          error
	left         int64 // bytes of the chunk that are still to come
	digits       int
	line         int // bytes of the current line so far
	overhead     int64
	trailers     int
	trailerBytes int
}

// chunkState says what the next byte belongs to.
type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkLineLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerStart // of a trailer's name, or the CR that ends the body
	trailerName
	trailerValue
	trailerLF
	chunkEndLF
	chunkDone
)

// Next reads from src, the next bytes of the body, and says how many it took, n. The caller hands it the rest of src, then
// the bytes that follow, until done. It takes whatever it is given, except behind the end of the body: the rest of src is then
// the next request.
//
// data is the next piece of content, aliases src and is often empty. An error is an [*Error] and stays.
func (c *ChunkReader) Next(src []byte) (data []byte, n int, done bool, err error) {
	for n < len(src) && c.state != chunkDone && c.err == nil {
		if c.state == chunkData {
			data = c.take(src[n:])
			return data, n + len(data), false, nil
		}
		c.err = c.step(src[n])
		n++
	}
	return nil, n, c.state == chunkDone, c.err
}

// take returns what src holds of the current chunk.
func (c *ChunkReader) take(src []byte) []byte {
	if int64(len(src)) >= c.left {
		src = src[:c.left]
		c.state = chunkDataCR
	}
	c.left -= int64(len(src))
	return src
}

// step takes one byte of framing.
func (c *ChunkReader) step(b byte) error {
	switch c.state {
	case chunkSize, chunkExtension:
		return c.stepLine(b)
	case chunkLineLF:
		return c.stepLineLF(b)
	case chunkDataCR:
		return c.expect('\r', b, chunkDataLF)
	case chunkDataLF:
		c.digits, c.line = 0, 0
		return c.expect('\n', b, chunkSize)
	case chunkEndLF:
		return c.expect('\n', b, chunkDone)
	default:
		return c.stepTrailer(b)
	}
}

func (c *ChunkReader) expect(want, got byte, next chunkState) error {
	if got != want {
		return bad("chunk, or a line of its framing, without CRLF behind it")
	}
	c.state = next
	return nil
}

// stepLine takes a byte of 1*HEXDIG [ ";" extensions ] CR. White space before the ";" is not served.
func (c *ChunkReader) stepLine(b byte) error {
	if c.line++; c.line > MaxChunkLineBytes-len("\n") {
		return bad("chunk line too long")
	}
	if c.state == chunkSize && isClass(b, classHex) {
		return c.stepDigit(b)
	}
	switch {
	case c.digits == 0:
		return bad("chunk size without digits")
	case b == '\r':
		c.state = chunkLineLF
	case b == ';':
		c.state = chunkExtension
	case c.state == chunkSize:
		return bad("bad chunk size")
	case !isClass(b, classValue):
		return bad("control character or bare LF in a chunk extension")
	}
	return nil
}

func (c *ChunkReader) stepDigit(b byte) error {
	if c.digits++; c.digits > maxSizeDigits {
		return bad("chunk size too large")
	}
	digit := b - '0'
	if b >= 'A' {
		digit = lower(b) - 'a' + 10
	}
	c.left = c.left<<4 | int64(digit)
	return nil
}

// stepLineLF takes the LF behind a chunk's size.
func (c *ChunkReader) stepLineLF(b byte) error {
	if err := c.expect('\n', b, chunkData); err != nil {
		return err
	}
	// c.line counts the CR but not the LF; the CRLF behind the data weighs two.
	c.overhead = max(0, c.overhead+int64(c.line)+1-freeOverhead-2*c.left)
	if c.overhead > maxOverheadBytes {
		return bad("too much chunk framing for the data in it")
	}
	if c.left == 0 {
		c.state = trailerStart
	}
	return nil
}

// stepTrailer takes a byte behind the last chunk: field lines like those of a head, then an empty line.
func (c *ChunkReader) stepTrailer(b byte) error {
	if c.state == trailerStart && b == '\r' {
		c.state = chunkEndLF
		return nil
	}
	if c.trailerBytes++; c.trailerBytes > MaxTrailerBytes {
		return bad("trailers too large")
	}
	if c.KeepTrailer {
		c.Trailer = append(c.Trailer, b)
	}
	switch c.state {
	case trailerStart, trailerName:
		return c.stepTrailerName(b)
	case trailerValue:
		if b == '\r' {
			c.state = trailerLF
		} else if !isClass(b, classValue) {
			return bad("control character or bare LF in a trailer")
		}
		return nil
	default: // trailerLF
		return c.expect('\n', b, trailerStart)
	}
}

func (c *ChunkReader) stepTrailerName(b byte) error {
	switch {
	case c.state == trailerName && b == ':':
		c.state = trailerValue
	case !isClass(b, classToken):
		return bad("trailer name is not a token with a colon behind it")
	case c.state == trailerStart:
		if c.trailers++; c.trailers > MaxTrailers {
			return bad("too many trailers")
		}
		c.state = trailerName
	}
	return nil
}
