package fcgi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rec is a record as bytes, with padding.
func rec(k kind, id uint16, content string, pad int) string {
	b := appendHeader(nil, k, id, len(content), pad)
	return string(b) + content + strings.Repeat("\xff", pad)
}

// describe reads everything and writes down what the reader saw.
func describe(src io.Reader) (string, error) {
	in := newReader(src)
	var out strings.Builder
	for {
		h, err := in.next()
		if err != nil {
			return out.String(), err
		}
		b, err := in.appendContent(nil)
		fmt.Fprintf(&out, "%d/%d:%s ", h.kind, h.id, b)
		if err != nil {
			return out.String(), err
		}
	}
}

func TestReader(t *testing.T) {
	tests := []struct {
		name  string
		input string
		want  string
		err   error
	}{
		{"nothing is a clean end", "", "", io.EOF},
		{"a record and a clean end", rec(kindStdout, 1, "abc", 0), "6/1:abc ", io.EOF},
		{"padding is dropped", rec(kindStdout, 1, "abc", 5) + rec(kindEnd, 1, "12345678", 255), "6/1:abc 3/1:12345678 ", io.EOF},
		{"an empty record", rec(kindStdin, 7, "", 0), "5/7: ", io.EOF},
		{"an identifier of two bytes", rec(kindStdin, 0x1234, "x", 0), "5/4660:x ", io.EOF},
		{"a header cut off", rec(kindStdout, 1, "", 0)[:5], "", io.ErrUnexpectedEOF},
		{"content cut off", rec(kindStdout, 1, "abc", 0)[:10], "6/1:ab ", io.ErrUnexpectedEOF},
		{"padding cut off", rec(kindStdout, 1, "abc", 4)[:13], "6/1:abc ", io.ErrUnexpectedEOF},
		{"another version", "\x02" + rec(kindStdout, 1, "abc", 0)[1:], "", ErrProtocol},
		{"HTTP", "HTTP/1.1 200 OK\r\n\r\n", "", ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, src := range map[string]io.Reader{
				"at once":     strings.NewReader(tt.input),
				"by byte":     iotest.OneByteReader(strings.NewReader(tt.input)),
				"with an EOF": iotest.DataErrReader(strings.NewReader(tt.input)),
			} {
				got, err := describe(src)
				if got != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("reading %q %s = %q, %v; want %q, %v", tt.input, name, got, err, tt.want, tt.err)
				}
			}
		})
	}
}

func TestParams(t *testing.T) {
	big := strings.Repeat("v", 70_000)
	tests := []struct {
		name    string
		params  []Param
		records int // with content
		err     error
	}{
		{"none", nil, 0, nil},
		{"one", []Param{{"A", "b"}}, 1, nil},
		{"an empty value", []Param{{"A", ""}, {"B", "c"}}, 1, nil},
		{"the largest short length", []Param{{big[:127], big[:127]}}, 1, nil},
		{"the smallest long length", []Param{{big[:128], big[:128]}}, 1, nil},
		{"a pair that fills a record", []Param{{"A", big[:maxContent-6]}}, 1, nil},
		{"a pair of one byte more", []Param{{"A", big[:maxContent-5]}}, 0, ErrParamTooLarge},
		{"two that fill a record", []Param{{"A", big[:1000]}, {"B", big[:maxContent-1006-6]}}, 1, nil},
		{"two that do not fit one record", []Param{{"A", big[:1000]}, {"B", big[:maxContent-1006-5]}}, 2, nil},
		{"one after a full record", []Param{{"A", big[:maxContent-6]}, {"B", ""}, {"C", "d"}}, 2, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := appendParams([]byte("before"), 1, tt.params)
			if !errors.Is(err, tt.err) {
				t.Fatalf("appendParams() = %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			got, records := readParams(t, strings.TrimPrefix(string(out), "before"))
			if records != tt.records || fmt.Sprint(got) != fmt.Sprint(Params(tt.params)) {
				t.Errorf("appendParams(%.100v) gave %d records with %.100v, want %d with the same", tt.params, records, got, tt.records)
			}
		})
	}
}

// readParams decodes record by record: it fails when a pair is split.
func readParams(t *testing.T, stream string) (got Params, records int) {
	t.Helper()
	in := newReader(strings.NewReader(stream))
	for {
		h, err := in.next()
		if err != nil || h.kind != kindParams || h.id != 1 {
			t.Fatalf("next() = %+v, %v before the empty record", h, err)
		}
		if h.length == 0 {
			if in.buffered() != 0 {
				t.Fatalf("%d bytes after the empty record", in.buffered())
			}
			return got, records
		}
		b, err := in.appendContent(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := decodeParams(b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p...)
		records++
	}
}

func TestDecodeParamsRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"a name length alone":              "\x01",
		"a long name length cut off":       "\x80\x00\x00",
		"a long value length cut off":      "\x01\x80\x00",
		"a name longer than the rest":      "\x05\x00abc",
		"a value longer than the rest":     "\x01\x05abc",
		"lengths whose sum would overflow": "\xff\xff\xff\xff\xff\xff\xff\xffabc",
	} {
		if got, err := decodeParams([]byte(raw)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: decodeParams(%q) = %v, %v; want ErrProtocol", name, raw, got, err)
		}
	}
}

func TestParamsLookUp(t *testing.T) {
	p := Params{{"A", "1"}, {"B", "2"}, {"A", "3"}}
	got, ok := p.Get("A")
	if _, other := p.Get("C"); got != "3" || !ok || other {
		t.Errorf("Get(A) = %q, %t, Get(C) found: %t; want the last A and no C", got, ok, other)
	}
	if m := p.Map(); len(m) != 2 || m["A"] != "3" || m["B"] != "2" {
		t.Errorf("Map() = %v", m)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(rec(kindStdout, 1, "abc", 5)+rec(kindEnd, 1, "12345678", 0)), 3)
	f.Add([]byte(rec(kindGetValues, 0, "\x01\x00A", 0)), 1)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		whole, err := describe(bytes.NewReader(data))
		pieces, err2 := describe(&pieceReader{data: data, size: size})
		if whole != pieces || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Errorf("reading %q at once: %q, %v; in pieces: %q, %v", data, whole, err, pieces, err2)
		}
	})
}

// pieceReader gives size bytes a read.
type pieceReader struct {
	data []byte
	size int
}

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+r.size&0xff)], r.data)
	r.data = r.data[n:]
	return n, nil
}

func FuzzDecodeParams(f *testing.F) {
	f.Add([]byte("\x01\x01ab\x80\x00\x00\x01\x00c"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		params, err := decodeParams(raw)
		if err != nil {
			return
		}
		out, err := appendParams(nil, 1, params)
		if errors.Is(err, ErrParamTooLarge) {
			return
		}
		if got, _ := readParams(t, string(out)); fmt.Sprint(got) != fmt.Sprint(params) {
			t.Errorf("decodeParams(%q) = %q, after encoding it: %q", raw, params, got)
		}
	})
}
