package migrate_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"go.uber.org/zap"

	"gateway/proxy"
	"gateway/routes"
	"gateway/routes/migrate"
)

// TestApplications asks configurations that were imported from .htaccess files, as applications bring them, for what Apache has been
// asked for. Each line "TARGET | FIELD: VALUE => OUTCOME" of "asks" has Apache's answer: the script with PATH_INFO and query that ran,
// "200" for a file, or a status and where it leads to. A method other than GET stands in place of a field.
func TestApplications(t *testing.T) {
	names, err := filepath.Glob("testdata/apps/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no applications: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) { testApplication(t, name) })
	}
}

func testApplication(t *testing.T, name string) {
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	var sources []string
	var asks, passwords string
	for _, f := range archive.Files {
		switch f.Name {
		case "asks":
			asks = string(f.Data)
		case "files":
			for _, path := range strings.Fields(string(f.Data)) {
				write(t, root+path, path)
			}
		case "passwords":
			passwords = string(f.Data)
		default:
			sources = append(sources, filepath.Join(root, f.Name))
			write(t, filepath.Join(root, f.Name), strings.ReplaceAll(string(f.Data), "@ROOT@", root))
		}
	}
	doc, err := migrate.Import(migrate.Options{Root: root}, sources...)
	if err != nil {
		t.Fatal(err)
	}
	config, diags := routes.Parse(filepath.Join(root, "imported.hcl"), doc.Bytes())
	if diags.HasErrors() {
		t.Fatalf("the result does not load:\n%s", doc.Bytes())
	}
	s := proxy.NewServer(config, nil, zap.NewNop().Sugar())
	defer s.Close()
	if passwords != "" {
		if _, err := s.SetPasswords(filepath.Join(root, "passwords"), []byte(passwords)); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(asks) {
		question, want, _ := strings.Cut(strings.TrimSpace(line), " => ")
		if got := answer(t, s, config, question); got != want {
			t.Errorf("%s = %s, want %s", question, got, want)
		}
	}
	if t.Failed() {
		t.Logf("%s", doc.Bytes())
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// answer is what becomes of a request, in the words of the test.
func answer(t *testing.T, s *proxy.Server, config *routes.Config, question string) string {
	t.Helper()
	parts := strings.Split(question, " | ")
	q := proxy.Question{Method: http.MethodGet, Header: http.Header{}, Remote: netip.MustParseAddr("127.0.0.1")}
	host := "example.com"
	for _, part := range parts[1:] {
		name, value, isField := strings.Cut(part, ": ")
		switch {
		case !isField:
			q.Method = part
		case name == "Host":
			host = value
		default:
			q.Header.Set(name, value)
		}
	}
	var err error
	if q.URL, err = url.Parse("http://" + host + parts[0]); err != nil {
		t.Fatal(err)
	}
	facts := map[string]string{}
	if err := s.Explain(config, q, func(text string) {
		for _, mark := range []string{"SCRIPT_NAME=", "PATH_INFO=", "QUERY_STRING=", "answer: ", "Location: ", "error page for "} {
			if value, ok := strings.CutPrefix(strings.TrimSpace(text), mark); ok {
				facts[mark] = value
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if script := facts["SCRIPT_NAME="]; script != "" {
		script += facts["PATH_INFO="]
		if query := facts["QUERY_STRING="]; query != "" {
			script += "?" + query
		}
		if status, _, failed := strings.Cut(facts["error page for "], ":"); failed {
			script = status + " " + script
		}
		return script
	}
	status, _, _ := strings.Cut(facts["answer: "], " ")
	return strings.TrimSpace(status + " " + strings.TrimPrefix(facts["Location: "], "http://"+host))
}
