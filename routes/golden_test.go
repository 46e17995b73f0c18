package routes

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden loads every wrong or doubtful file below testdata and compares what a person would read.
func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/*.hcl")
	if err != nil || len(names) < 38 {
		t.Fatalf("testdata holds %d files, want at least 38; error %v", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".hcl"), func(t *testing.T) {
			config, diags := Load(name)
			wantErrors := !strings.HasPrefix(filepath.Base(name), "warning-")
			if diags.HasErrors() != wantErrors || (config == nil) != wantErrors {
				t.Errorf("Load(%q): errors %t, config %t; want errors %t and a config only without", name, diags.HasErrors(), config != nil, wantErrors)
			}
			if diags.Errors()+diags.Warnings() == 0 {
				t.Errorf("Load(%q) found nothing", name)
			}
			compareGolden(t, strings.TrimSuffix(name, ".hcl")+".golden", render(t, diags))
		})
	}
}

func render(t *testing.T, diags Diagnostics) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := diags.Write(&out, 100, false); err != nil {
		t.Fatalf("Write: %v", err)
	}
	return out.Bytes()
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("diagnostics differ from %s\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}
