package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

func TestSpool(t *testing.T) {
	text := func(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }
	cut := errors.New("cut")
	rows := []struct {
		name   string
		body   io.Reader
		length int64
		want   string
		err    error
		file   bool
	}{
		{"no body", nil, 0, "", nil, false},
		{"an empty body", strings.NewReader(""), -1, "", nil, false},
		{"a small body", strings.NewReader("abc"), 3, "abc", nil, false},
		{"a small body of unknown length", strings.NewReader("abc"), -1, "abc", nil, false},
		{"a body in single bytes", iotest.OneByteReader(strings.NewReader("abc")), 3, "abc", nil, false},
		{"an end that comes with the last byte", iotest.DataErrReader(strings.NewReader("abc")), -1, "abc", nil, false},
		{"as much as the memory takes", strings.NewReader(text(spoolMemory)), spoolMemory, text(spoolMemory), nil, false},
		{"one byte more", strings.NewReader(text(spoolMemory + 1)), spoolMemory + 1, text(spoolMemory + 1), nil, true},
		{"a large body of unknown length", strings.NewReader(text(300 << 10)), -1, text(300 << 10), nil, true},
		{"a large body whose end comes with its last byte", iotest.DataErrReader(strings.NewReader(text(300 << 10))), -1, text(300 << 10), nil, true},
		{"a body shorter than announced", strings.NewReader("abc"), 4, "", io.ErrUnexpectedEOF, false},
		{"a large body shorter than announced", strings.NewReader(text(300 << 10)), 301 << 10, "", io.ErrUnexpectedEOF, false},
		{"an error at once", iotest.ErrReader(cut), 3, "", cut, false},
		{"an error in a small body", io.MultiReader(strings.NewReader("a"), iotest.ErrReader(cut)), 3, "", cut, false},
		{"an error in a large body", io.MultiReader(strings.NewReader(text(100<<10)), iotest.ErrReader(cut)), -1, "", cut, false},
		{"a chunked body that is cut", io.MultiReader(strings.NewReader("a"), iotest.ErrReader(io.ErrUnexpectedEOF)), -1, "", io.ErrUnexpectedEOF, false},
	}
	dir := t.TempDir()
	s := newSpool(dir, 0, newTestLog())
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			b, err := s.read(row.body, row.length)
			if !errors.Is(err, row.err) || err == nil != (row.err == nil) {
				t.Fatalf("read() = %v, want %v", err, row.err)
			}
			if err != nil {
				return
			}
			defer b.close()
			if (b.file != nil) != row.file {
				t.Errorf("in a file: %t, want %t", b.file != nil, row.file)
			}
			for range 2 { // a request may be offered to a second child
				if got, err := io.ReadAll(b.reader()); err != nil || string(got) != row.want || b.length != int64(len(row.want)) {
					t.Errorf("read %d bytes of %d, %v; want %d", len(got), b.length, err, len(row.want))
				}
			}
		})
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("the folder holds %v, %v", names, err)
	}
}

func TestSpoolFolder(t *testing.T) {
	if _, err := newSpool("/no/such/folder", 0, newTestLog()).read(bytes.NewReader(make([]byte, spoolMemory+1)), -1); !errors.Is(err, errSpool) || bodyStatus(err) != 500 {
		t.Errorf("without a folder: %v, status %d; want errSpool, 500", err, bodyStatus(err))
	}
}

func TestBodyStatus(t *testing.T) {
	rows := []struct {
		name string
		err  error
		want int
	}{
		{"larger than allowed", &http.MaxBytesError{Limit: 1}, 413},
		{"too slow", errBodySlow, 408},
		{"shorter than announced", io.ErrUnexpectedEOF, 400},
		{"malformed", errors.New("malformed chunk"), 400},
		{"a full disk", fmt.Errorf("%w: %w", errSpool, &os.PathError{Err: unix.ENOSPC}), 507},
		{"a quota", fmt.Errorf("%w: %w", errSpool, unix.EDQUOT), 507},
		{"another failure of the disk", fmt.Errorf("%w: %w", errSpool, unix.EIO), 500},
	}
	for _, row := range rows {
		if got := bodyStatus(row.err); got != row.want {
			t.Errorf("%s: bodyStatus(%v) = %d, want %d", row.name, row.err, got, row.want)
		}
	}
}
