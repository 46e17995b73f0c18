package fcgi

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrParamTooLarge means that the name and value of one parameter do not fit a record. The request was not sent.
var ErrParamTooLarge = errors.New("fcgi: parameter too large")

// Param is one CGI variable.
type Param struct {
	Name, Value string
}

// Params are the variables of a request in the order in which they were sent. The last one of a name counts.
type Params []Param

// Get returns the value of a variable, and whether there is one.
func (p Params) Get(name string) (string, bool) {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].Name == name {
			return p[i].Value, true
		}
	}
	return "", false
}

// Map returns the variables by name.
func (p Params) Map() map[string]string {
	m := make(map[string]string, len(p))
	for _, v := range p {
		m[v.Name] = v.Value
	}
	return m
}

// appendParams appends PARAMS records and the empty one that ends them.
//
// No pair is split between two records, as §3.3 would allow: php-cgi resets the connection then.
func appendParams(dst []byte, id uint16, params []Param) ([]byte, error) {
	start, size := 0, 0 // of the record being filled; size 0: none is
	for _, p := range params {
		n := pairSize(p)
		if n > maxContent {
			return dst, fmt.Errorf("%w: %.64q takes %d bytes of at most %d", ErrParamTooLarge, p.Name, n, maxContent)
		}
		if size+n > maxContent {
			putHeader(dst[start:], kindParams, id, size, 0)
			size = 0
		}
		if size == 0 {
			start = len(dst)
			dst = appendHeader(dst, kindParams, id, 0, 0)
		}
		dst = appendPair(dst, p)
		size += n
	}
	if size > 0 {
		putHeader(dst[start:], kindParams, id, size, 0)
	}
	return appendHeader(dst, kindParams, id, 0, 0), nil
}

func pairSize(p Param) int {
	return lengthSize(len(p.Name)) + lengthSize(len(p.Value)) + len(p.Name) + len(p.Value)
}

func lengthSize(n int) int {
	if n < 0x80 {
		return 1
	}
	return 4
}

func appendPair(dst []byte, p Param) []byte {
	dst = appendLength(dst, len(p.Name))
	dst = appendLength(dst, len(p.Value))
	dst = append(dst, p.Name...)
	return append(dst, p.Value...)
}

// appendLength writes a length as §3.4 says: one byte below 128, else four with the top bit set.
func appendLength(dst []byte, n int) []byte {
	if lengthSize(n) == 1 {
		return append(dst, byte(n))
	}
	return binary.BigEndian.AppendUint32(dst, uint32(n)|1<<31)
}

// decodeParams takes the joined content of a PARAMS stream apart. The strings share one copy of it.
func decodeParams(raw []byte) (Params, error) {
	var params Params
	for s := string(raw); s != ""; {
		name, rest, ok := cutLength(s)
		if !ok {
			return nil, fmt.Errorf("%w: parameter lengths are cut off", ErrProtocol)
		}
		value, rest, ok := cutLength(rest)
		if !ok {
			return nil, fmt.Errorf("%w: parameter lengths are cut off", ErrProtocol)
		}
		if name > len(rest) || value > len(rest)-name {
			return nil, fmt.Errorf("%w: a parameter of %d+%d bytes in the last %d", ErrProtocol, name, value, len(rest))
		}
		if params == nil {
			params = make(Params, 0, 32) // about what a request has
		}
		params = append(params, Param{Name: rest[:name], Value: rest[name : name+value]})
		s = rest[name+value:]
	}
	return params, nil
}

func cutLength(s string) (n int, rest string, ok bool) {
	if s == "" {
		return 0, "", false
	}
	if s[0] < 0x80 {
		return int(s[0]), s[1:], true
	}
	if len(s) < 4 {
		return 0, "", false
	}
	return int(s[0]&0x7f)<<24 | int(s[1])<<16 | int(s[2])<<8 | int(s[3]), s[4:], true
}
