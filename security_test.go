package gateway_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecurityDocs holds that docs/security.md names tests that exist, with their rows, and every number that rows of attacks have.
func TestSecurityDocs(t *testing.T) {
	text, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testSources(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)(?:/([^`]+))?`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 100 {
		t.Errorf("docs/security.md names %d tests, want at least 100", len(named))
	}
	for _, m := range named {
		folder, ok := tests.folders[m[1]]
		if !ok {
			t.Errorf("there is no %s", m[1])
			continue
		}
		_, err := os.Stat(filepath.Join(folder, "testdata", "script", m[2]+".txtar"))
		if m[2] != "" && err != nil && !strings.Contains(tests.sources[folder], `"`+m[2]+`"`) {
			t.Errorf("%s has no row %q", m[1], m[2])
		}
	}
	attacks, err := filepath.Glob("cmd/gateway/attack*_test.go")
	if err != nil || len(attacks) == 0 {
		t.Fatalf("no attacks: %v", err)
	}
	for _, name := range attacks {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, number := range regexp.MustCompile(`CVE-\d+-\d+|GHSA(-\w{4}){3}`).FindAllString(string(source), -1) {
			if !strings.Contains(string(text), number) {
				t.Errorf("docs/security.md lacks %s, which is in %s", number, name)
			}
		}
	}
}

// sources are the tests of the module.
type sources struct {
	folders map[string]string // of each test
	sources map[string]string // of each folder
}

func testSources(t *testing.T) sources {
	t.Helper()
	s := sources{map[string]string{}, map[string]string{}}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		folder := filepath.Dir(path)
		s.sources[folder] += string(source)
		for _, m := range function.FindAllSubmatch(source, -1) {
			s.folders[string(m[1])] = folder
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
