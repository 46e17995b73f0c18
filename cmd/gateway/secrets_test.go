package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestOnlyFilesOfSomeSizeAreReadAsCertificates(t *testing.T) {
	path := func(t *testing.T) string { return filepath.Join(t.TempDir(), "x.pem") }
	file := func(t *testing.T, size int64) string {
		name := path(t)
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	rows := []struct {
		name string
		path func(*testing.T) string
		want error
	}{
		{"a small file is read", func(t *testing.T) string { return file(t, 100) }, nil},
		{"so is one of a megabyte", func(t *testing.T) string { return file(t, maxFile) }, nil},
		{"one of a terabyte takes no memory", func(t *testing.T) string { return file(t, 1<<40) }, errFileSize},
		{"a device takes none either", func(*testing.T) string { return "/dev/zero" }, errNotRegular},
		{"a folder is none", func(t *testing.T) string { return t.TempDir() }, errNotRegular},
		{"nobody waits for the writer of a pipe", func(t *testing.T) string {
			name := path(t)
			if err := syscall.Mkfifo(name, 0o600); err != nil {
				t.Fatal(err)
			}
			return name
		}, errNotRegular},
		{"a file that is not there is told as such", path, fs.ErrNotExist},
		{"a link is followed", func(t *testing.T) string {
			name := path(t)
			if err := os.Symlink(file(t, 5), name); err != nil {
				t.Fatal(err)
			}
			return name
		}, nil},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if _, err := readFile(row.path(t)); !errors.Is(err, row.want) {
				t.Errorf("readFile: %v, want %v", err, row.want)
			}
		})
	}
}
