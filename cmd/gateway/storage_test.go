package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStorageFolder has a storage in which nothing can be written: what is there is served, and the log says what is wrong.
func TestStorageFolder(t *testing.T) {
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil || os.Geteuid() != 0 {
		t.Skipf("this machine gives no mounts of our own: %v", err)
	}
	rows := []struct {
		name  string
		spoil string // of the folder $1, a file system of its own
		want  string // in the log, after the name of a file
	}{
		{"it is full", `dd if=/dev/zero of="$1/fill" bs=1k 2>/dev/null || true`, ": no space left on device - storage is probably misconfigured"},
		{"it can only be read", `mount -o remount,ro "$1"`, ": read-only file system - storage is probably misconfigured"},
		{"it belongs to another user", `chmod 755 "$1"`, ": permission denied - storage is probably misconfigured"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := newFleet(t)
			f.answer("asking")
			f.storage = fmt.Sprintf("storage \"file\" {\n path = %q\n}\n", f.path("storage"))
			// The first gateway gets a certificate, and another one finds it in the storage.
			if err := errors.Join(os.Mkdir(f.path("storage"), 0o700), os.Chmod(f.path("storage"), 0o777)); err != nil {
				t.Fatal(err)
			}
			first := f.start("asking")
			leaf := f.leaf("asking")
			if err := first.Stop(); err != nil {
				t.Error(err)
			}
			f.names = `"a.test" "b.test"`
			f.binary = f.mounted(row.spoil)
			g := f.start("late")
			if !leaf.Equal(f.leaf("late")) || f.get("late") != "welcome\n" {
				t.Errorf("the site is not served")
			}
			f.wait("the log's line", func() bool { return lineWith(g.Log(), row.want) != "" })
			line := lineWith(g.Log(), row.want)
			t.Log(line)
			for _, part := range []string{"error", "certificate could not be got: it is tried again", `"name": "b.test", "again_in": "1m0s", "error": "failed storage check: `} {
				if !strings.Contains(line, part) {
					t.Errorf("the log's line lacks %q: %s", part, line)
				}
			}
			if status := f.status("late"); !strings.Contains(status, "certificate b.test (auto): none yet; the last try to get it failed: failed storage check: ") {
				t.Errorf("the status does not tell why:\n%s", status)
			}
		})
	}
}

func lineWith(log, part string) string {
	for line := range strings.Lines(log) {
		if strings.Contains(line, part) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// mounted is a program that runs the gateway where the storage is a small file system of its own with what was in it, spoilt.
func (f *fleet) mounted(spoil string) string {
	f.t.Helper()
	script := fmt.Sprintf(`#!/bin/sh
[ "$1" = run ] || exec %[1]q "$@"
exec unshare --mount sh -euc '
	program=$2
	cp -r "$1" "$1.before"
	mount -t tmpfs -o size=256k,mode=777 storage "$1"
	cp -r "$1.before/." "$1"
	chmod -R a+rX "$1"
	%[3]s
	shift 2
	exec "$program" "$@"
' sh %[2]q %[1]q "$@"
`, f.binary, f.path("storage"), spoil)
	path := filepath.Join(f.folder, "mounted")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		f.t.Fatal(err)
	}
	return path
}
