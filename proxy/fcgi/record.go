// Package fcgi is FastCGI 1.0: the front's side of a connection ([Conn]) and an application's side ([Server]).
//
// A connection carries one request at a time and is kept for the next one. The client side is written for php-cgi, which is
// stricter than the specification in places; the comments name them. Paragraph signs (§) refer to the FastCGI 1.0
// specification unless an RFC is named.
package fcgi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrProtocol means that the peer sent what FastCGI does not allow here. The connection is of no further use.
var ErrProtocol = errors.New("fcgi: protocol error")

const (
	version    = 1
	headerSize = 8
	maxContent = 0xffff // of one record: the length has two bytes
	endSize    = 8      // content of BEGIN_REQUEST, END_REQUEST and UNKNOWN_TYPE

	// readBuffer holds a small response whole, so that it costs one read.
	readBuffer = 32 << 10
)

// kind is the type of a record (§8).
type kind uint8

const (
	kindBegin           kind = 1
	kindAbort           kind = 2
	kindEnd             kind = 3
	kindParams          kind = 4
	kindStdin           kind = 5
	kindStdout          kind = 6
	kindStderr          kind = 7
	kindData            kind = 8
	kindGetValues       kind = 9
	kindGetValuesResult kind = 10
	kindUnknownType     kind = 11
)

const (
	roleResponder = 1
	flagKeepConn  = 1
)

// protocolStatus is how an application ends a request (§5.5).
type protocolStatus uint8

const (
	requestComplete protocolStatus = 0
	cantMultiplex   protocolStatus = 1
	overloaded      protocolStatus = 2
	unknownRole     protocolStatus = 3
)

func (s protocolStatus) String() string {
	switch s {
	case requestComplete:
		return "request complete"
	case cantMultiplex:
		return "the application takes one request at a time"
	case overloaded:
		return "the application is overloaded"
	case unknownRole:
		return "the application does not know the role"
	default:
		return fmt.Sprintf("unknown protocol status %d", uint8(s))
	}
}

// header is what the eight bytes in front of a record say (§3.3).
type header struct {
	kind    kind
	id      uint16 // 0: a management record
	length  int
	padding int
}

func appendHeader(dst []byte, k kind, id uint16, length, padding int) []byte {
	return append(dst, version, byte(k), byte(id>>8), byte(id), byte(length>>8), byte(length), byte(padding), 0)
}

// putHeader is appendHeader into room that was left for it.
func putHeader(dst []byte, k kind, id uint16, length, padding int) {
	appendHeader(dst[:0:headerSize], k, id, length, padding)
}

func appendBegin(dst []byte, id uint16, role uint16, flags byte) []byte {
	dst = appendHeader(dst, kindBegin, id, endSize, 0)
	return append(dst, byte(role>>8), byte(role), flags, 0, 0, 0, 0, 0)
}

func appendEnd(dst []byte, id uint16, appStatus uint32, status protocolStatus) []byte {
	dst = appendHeader(dst, kindEnd, id, endSize, 0)
	dst = binary.BigEndian.AppendUint32(dst, appStatus)
	return append(dst, byte(status), 0, 0, 0)
}

// reader takes records apart. Its user calls next for the header of a record, then reads as much of the content as it wants;
// the following next skips the rest.
type reader struct {
	src     io.Reader
	buf     []byte
	r, w    int // buf[r:w] was read from src and not yet used
	left    int // content bytes of the current record that were not consumed
	padding int // bytes after them that mean nothing
}

func newReader(src io.Reader) reader { return reader{src: src, buf: make([]byte, readBuffer)} }

func (rd *reader) buffered() int { return rd.w - rd.r }

// fill reads until n bytes are buffered, n being at most headerSize. io.EOF means that none are.
func (rd *reader) fill(n int) error {
	if rd.buffered() >= n {
		return nil
	}
	rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
	rd.r = 0
	m, err := io.ReadAtLeast(rd.src, rd.buf[rd.w:], n-rd.w)
	rd.w += m
	if err == nil {
		return nil
	}
	if rd.w > 0 {
		return unexpected(err)
	}
	return err
}

// peek returns the next header without consuming it, provided that it is buffered and no content is before it.
func (rd *reader) peek() (header, bool) {
	if rd.left > 0 || rd.buffered() < rd.padding+headerSize {
		return header{}, false
	}
	h, err := parseHeader(rd.buf[rd.r+rd.padding:])
	return h, err == nil
}

// holds reports whether a whole record of this kind, and all that comes before it, is buffered.
func (rd *reader) holds(k kind) bool {
	for at := rd.r + rd.left + rd.padding; at+headerSize <= rd.w; {
		h, err := parseHeader(rd.buf[at:])
		if err != nil {
			return false
		}
		at += headerSize + h.length + h.padding
		if h.kind == k {
			return at <= rd.w
		}
	}
	return false
}

// next skips what is left of the current record and reads the header of the next one. io.EOF means that the peer closed
// the connection between two records.
func (rd *reader) next() (header, error) {
	if err := rd.skip(); err != nil {
		return header{}, err
	}
	if err := rd.fill(headerSize); err != nil {
		return header{}, err
	}
	h, err := parseHeader(rd.buf[rd.r:])
	if err != nil {
		return header{}, err
	}
	rd.r += headerSize
	rd.left, rd.padding = h.length, h.padding
	return h, nil
}

func parseHeader(b []byte) (header, error) {
	if b[0] != version {
		return header{}, fmt.Errorf("%w: record of version %d", ErrProtocol, b[0])
	}
	return header{
		kind:    kind(b[1]),
		id:      binary.BigEndian.Uint16(b[2:]),
		length:  int(binary.BigEndian.Uint16(b[4:])),
		padding: int(b[6]),
	}, nil
}

func (rd *reader) skip() error {
	for rd.left+rd.padding > 0 {
		if err := rd.fill(1); err != nil {
			return unexpected(err)
		}
		n := min(rd.left, rd.buffered())
		rd.consume(n)
		n = min(rd.padding, rd.buffered())
		rd.r += n
		rd.padding -= n
	}
	return nil
}

// chunk returns what has arrived of the current record's content, at least one byte. It may only be called while left > 0.
// The bytes are valid until the next call of any method but consume.
func (rd *reader) chunk() ([]byte, error) {
	if err := rd.fill(1); err != nil {
		return nil, unexpected(err)
	}
	return rd.buf[rd.r : rd.r+min(rd.left, rd.buffered())], nil
}

func (rd *reader) consume(n int) {
	rd.r += n
	rd.left -= n
}

// body8 returns the content of a record that has exactly eight bytes of it.
func (rd *reader) body8(h header) ([]byte, error) {
	if h.length != endSize {
		return nil, fmt.Errorf("%w: record type %d with %d bytes", ErrProtocol, h.kind, h.length)
	}
	if err := rd.fill(endSize); err != nil {
		return nil, unexpected(err)
	}
	b := rd.buf[rd.r : rd.r+endSize]
	rd.consume(endSize)
	return b, nil
}

// appendContent appends the content of the current record to dst.
func (rd *reader) appendContent(dst []byte) ([]byte, error) {
	for rd.left > 0 {
		b, err := rd.chunk()
		if err != nil {
			return dst, err
		}
		dst = append(dst, b...)
		rd.consume(len(b))
	}
	return dst, nil
}

// unexpected is for an end of file where a record is not over.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
