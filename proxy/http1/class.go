package http1

import (
	"encoding/binary"
	"math/bits"
)

// The classes of bytes, bits of an entry of classes.
const (
	classToken  = 1 << iota // tchar, RFC 9110 §5.6.2
	classTarget             // a request target: visible ASCII without '#', RFC 9112 §3.2; Parse looks at the escapes itself
	className               // a host name: letters, digits, "-", "." and, because they exist, "_"
	classHex                // HEXDIG
	classValue              // a field value: TAB, SP, visible ASCII and 0x80 to 0xff, RFC 9110 §5.5
)

// classes holds the classes of each byte. It is a string so that nothing can write it.
const classes = "" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00" + // 0x00
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + // 0x10
	"\x10\x13\x12\x11\x13\x13\x13\x13\x12\x12\x13\x13\x12\x17\x17\x12" + // 0x20
	"\x1f\x1f\x1f\x1f\x1f\x1f\x1f\x1f\x1f\x1f\x12\x12\x12\x12\x12\x12" + // 0x30
	"\x12\x1f\x1f\x1f\x1f\x1f\x1f\x17\x17\x17\x17\x17\x17\x17\x17\x17" + // 0x40
	"\x17\x17\x17\x17\x17\x17\x17\x17\x17\x17\x17\x12\x12\x12\x13\x17" + // 0x50
	"\x13\x1f\x1f\x1f\x1f\x1f\x1f\x17\x17\x17\x17\x17\x17\x17\x17\x17" + // 0x60
	"\x17\x17\x17\x17\x17\x17\x17\x17\x17\x17\x17\x12\x13\x12\x13\x00" + // 0x70
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" + // 0x80
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" + // 0x90
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" + // 0xa0
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" + // 0xb0
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" + // 0xc0
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" + // 0xd0
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" + // 0xe0
	"\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10" // 0xf0

func isClass(c byte, class byte) bool { return classes[c]&class != 0 }

// all reports whether b consists of bytes of the class. An empty b does.
func all[T string | []byte](b T, class byte) bool {
	for i := 0; i < len(b); i++ {
		if !isClass(b[i], class) {
			return false
		}
	}
	return true
}

func isToken[T string | []byte](b T) bool { return len(b) > 0 && all(b, classToken) }

// valueEnd returns the index of the first byte of b, from i on, that can't stand in a field value, or len(b).
//
// It looks at eight bytes at a time. A subtraction borrows only from a byte that is itself a hit, so bits above the lowest
// hit may be wrong, the lowest is not.
func valueEnd(b []byte, i int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	for len(b)-i >= 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		del := x ^ 0x7f*ones
		hits := ((x-0x20*ones)&^x | (del-ones)&^del) & highs
		if hits == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(hits) / 8
		if b[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(b) && isClass(b[i], classValue) {
		i++
	}
	return i
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// trimSpace removes optional white space (OWS, RFC 9110 §5.6.3) from both ends.
func trimSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// equalFold compares ASCII without regard to case. Other bytes have to be equal: no Unicode folding crosses a trust line.
func equalFold[A, B string | []byte](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}
