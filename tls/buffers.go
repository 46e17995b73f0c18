package tls

import (
	"bytes"
	stdtls "crypto/tls"
	"reflect"
	"unsafe"
)

// keptBuffer is the largest buffer that is kept for other connections: two records of the largest size.
const keptBuffer = 40 << 10

// Where crypto/tls keeps what it has read: rawInput in records, hand in handshake messages. It never lets go of these buffers,
// and they are half of what an idle connection costs. There is no other way to them, so they are taken by their offsets, as
// long as crypto/tls has them under these names.
var (
	rawInput, hasRawInput = bufferIn("rawInput")
	hand, hasHand         = bufferIn("hand")
)

func bufferIn(name string) (offset uintptr, ok bool) {
	f, ok := reflect.TypeFor[stdtls.Conn]().FieldByName(name)
	return f.Offset, ok && f.Type == reflect.TypeFor[bytes.Buffer]()
}

// buffer is one of the two of c, which must not be in use.
func buffer(c *stdtls.Conn, offset uintptr) *bytes.Buffer {
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), offset))
}

// borrow gives the connection a buffer to read into if it has none.
func (c *Conn) borrow() {
	if !hasRawInput || c.lent != nil {
		return
	}
	c.lent, _ = c.buffers.Get().(*bytes.Buffer)
	if c.lent == nil {
		c.lent = new(bytes.Buffer)
	}
	*buffer(c.Conn, rawInput) = *c.lent
}

// giveBack takes the buffers of the connection that hold nothing.
func (c *Conn) giveBack() {
	if hasHand && buffer(c.Conn, hand).Len() == 0 {
		*buffer(c.Conn, hand) = bytes.Buffer{}
	}
	if c.lent == nil || buffer(c.Conn, rawInput).Len() > 0 {
		return
	}
	*c.lent, *buffer(c.Conn, rawInput) = *buffer(c.Conn, rawInput), bytes.Buffer{}
	if c.lent.Cap() <= keptBuffer {
		c.lent.Reset()
		c.buffers.Put(c.lent)
	}
	c.lent = nil
}
