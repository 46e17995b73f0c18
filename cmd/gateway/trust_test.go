package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstallATrustedRoot(t *testing.T) {
	const root = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"
	dir := t.TempDir()
	takes, fails := filepath.Join(dir, "takes"), filepath.Join(dir, "fails")
	for path, text := range map[string]string{takes: "#!/bin/sh\n", fails: "#!/bin/sh\necho broken\nexit 3\n"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rows := []struct {
		name  string
		store trustStore
		root  string
		fails string // "": it is installed
	}{
		{"into a folder that is not there yet", trustStore{filepath.Join(dir, "new"), takes}, root, ""},
		{"once more", trustStore{filepath.Join(dir, "new"), takes}, root, ""},
		{"on a machine without the command", trustStore{dir, filepath.Join(dir, "none")}, root, "none is not here (Debian's package is ca-certificates)"},
		{"with a command that fails", trustStore{dir, fails}, root, "exit status 3: broken"},
		{"something that is no certificate", trustStore{dir, takes}, "x", "not a certificate"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			file, err := row.store.install([]byte(row.root))
			if row.fails != "" {
				if err == nil || !strings.Contains(err.Error(), row.fails) {
					t.Errorf("install = %v, want an error with %q", err, row.fails)
				}
				return
			}
			got, readErr := os.ReadFile(file)
			if err != nil || readErr != nil || !bytes.Equal(got, []byte(row.root)) || !strings.HasSuffix(file, ".crt") {
				t.Errorf("install = %q, %v; it holds %q, %v", file, err, got, readErr)
			}
		})
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "new", "*")); len(files) != 1 {
		t.Errorf("installed twice: %q, want one file", files)
	}
}
