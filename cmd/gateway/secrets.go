package main

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxFile is in bytes, and far more than certificates, keys and passwords take.
const maxFile = 1 << 20

var (
	errNotRegular = errors.New("not a regular file")
	errFileSize   = errors.New("more than a megabyte: not what belongs here")
)

// readFile reads a certificate, a key or a password. Certificates are replaced while the gateway runs, perhaps by something else: a
// pipe would have the supervisor wait for a writer, and an endless file would take its memory.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = &fs.PathError{Op: "read", Path: path, Err: errFileSize}
	}
	return content, err
}
