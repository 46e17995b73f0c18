package migrate

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gateway/routes"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden imports every file of testdata alone, has the gateway load the result, and compares it, and what was left out, with
// FILE.golden.
func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".golden") {
			continue
		}
		t.Run(filepath.Base(name), func(t *testing.T) {
			doc, err := Import(Options{Root: "/srv/www"}, name)
			if err != nil {
				t.Fatalf("Import(%q): %v", name, err)
			}
			got := doc.Bytes()
			loads(t, got)
			for _, n := range doc.Notes() {
				got = append(got, "left: "+n.String()+"\n"...)
			}
			compareGolden(t, name+".golden", got)
		})
	}
}

// loads sees that the gateway takes a configuration without errors.
func loads(t *testing.T, text []byte) {
	t.Helper()
	if _, diags := routes.Parse("imported.hcl", text); diags.HasErrors() {
		var out bytes.Buffer
		if err := diags.Write(&out, 100, false); err != nil {
			t.Fatal(err)
		}
		t.Errorf("the result does not load:\n%s\n%s", out.String(), text)
	}
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
		t.Errorf("the result differs from %s\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}
