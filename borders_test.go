package gateway_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "gateway"

// rooms is the module's map: every package, and the packages of the module that it may import. Imports point one way,
// cmd -> {proxy, tls, mpm/supervise} -> mpm -> {routes, internal/ctl}; what only tests import does not count.
var rooms = []struct {
	path string
	may  []string
}{
	{"gateway", nil},
	{"gateway/bench", []string{"gateway/internal/gatewaytest"}},
	{"gateway/cmd/gateway", []string{
		"gateway/internal/ctl", "gateway/mpm", "gateway/mpm/event", "gateway/mpm/supervise", "gateway/proxy", "gateway/proxy/fcgi",
		"gateway/proxy/wsgi", "gateway/routes", "gateway/routes/migrate", "gateway/tls",
	}},
	{"gateway/examples", nil},
	{"gateway/internal/ctl", nil},
	{"gateway/internal/gatewaytest", nil},
	{"gateway/internal/quiet", nil},
	{"gateway/mpm", []string{"gateway/internal/ctl", "gateway/internal/quiet", "gateway/routes"}},
	{"gateway/mpm/event", nil},
	{"gateway/mpm/supervise", []string{"gateway/internal/ctl", "gateway/internal/quiet"}},
	{"gateway/proxy", []string{
		"gateway/internal/ctl", "gateway/internal/quiet", "gateway/mpm", "gateway/mpm/event", "gateway/proxy/fcgi", "gateway/proxy/http1",
		"gateway/routes",
	}},
	{"gateway/proxy/fcgi", nil},
	{"gateway/proxy/http1", nil},
	{"gateway/proxy/wsgi", nil},
	{"gateway/routes", nil},
	{"gateway/routes/migrate", []string{"gateway/routes"}},
	{"gateway/tls", []string{"gateway/routes"}},
}

// owned lists what has one importer in the module. A name that ends in "/" stands for everything below it too.
var owned = []struct {
	name  string
	owner string // or a package below it
}{
	{"crypto/tls", "gateway/tls"},
	{"github.com/caddyserver/certmagic/", "gateway/tls"},
	{"github.com/gomodule/redigo/", "gateway/tls"},
	{"github.com/hashicorp/hcl/v2/", "gateway/routes"},
	{"github.com/prometheus/", "gateway/cmd/gateway"},
	{"github.com/zclconf/go-cty/", "gateway/routes"},
}

// barred lists what a package must not even reach through others.
var barred = []struct {
	path string
	name string
	why  string
}{
	{"gateway/mpm/supervise", "net/http", "the privileged half speaks to no client"},
	{"gateway/mpm/supervise", "crypto/tls", "the privileged half speaks to no client"},
	{"gateway/mpm/supervise", "github.com/hashicorp/hcl/v2/", "the privileged half is small enough to read"},
	{"gateway/internal/ctl", "net/http", "the privileged half imports it"},
	{"gateway/proxy/http1", "os", "the message parser does no I/O"},
	{"gateway/proxy/http1", "net", "the message parser does no I/O"},
	{"gateway/proxy/fcgi", "github.com/", "the codec is standard library only"},
	{"gateway/proxy/fcgi", "golang.org/x/", "the codec is standard library only"},
	{"gateway/cmd/gateway", "testing", "tests stay out of the program"},
}

// imports is what each package imports, tests aside.
type imports map[string][]string

func TestImportsPointOneWay(t *testing.T) {
	graph := listImports(t)
	for path := range graph {
		if !inModule(path) {
			continue
		}
		may, ok := allowed(path)
		if !ok {
			t.Errorf("%s has no row in rooms: say there what it may import", path)
			continue
		}
		for _, to := range graph[path] {
			if inModule(to) && !slices.Contains(may, to) {
				t.Errorf("%s imports %s; it may import %q", path, to, may)
			}
		}
	}
}

func TestSomeImportsHaveOneOwner(t *testing.T) {
	for path, list := range listImports(t) {
		if !inModule(path) {
			continue
		}
		for _, o := range owned {
			for _, to := range list {
				if covers(o.name, to) && !covers(o.owner+"/", path) {
					t.Errorf("%s imports %s, which only %s may", path, to, o.owner)
				}
			}
		}
	}
}

func TestSomeImportsAreOutOfReach(t *testing.T) {
	graph := listImports(t)
	for _, b := range barred {
		if _, ok := graph[b.path]; !ok {
			t.Errorf("no package %s", b.path)
		}
		if chain := graph.reach(b.path, b.name); chain != nil {
			t.Errorf("%s reaches %s, but %s: %s", b.path, b.name, b.why, strings.Join(chain, " -> "))
		}
	}
}

func allowed(path string) ([]string, bool) {
	for _, r := range rooms {
		if r.path == path {
			return r.may, true
		}
	}
	return nil, false
}

func inModule(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func covers(name, path string) bool {
	folder, ok := strings.CutSuffix(name, "/")
	return path == folder || ok && strings.HasPrefix(path, name)
}

// reach returns the shortest chain of imports from a package to one that name stands for, or nil.
func (g imports) reach(from, name string) []string {
	seen := map[string]bool{from: true}
	for chains := [][]string{{from}}; len(chains) > 0; chains = chains[1:] {
		chain := chains[0]
		for _, to := range g[chain[len(chain)-1]] {
			if seen[to] {
				continue
			}
			seen[to] = true
			next := append(slices.Clone(chain), to)
			if covers(name, to) {
				return next
			}
			chains = append(chains, next)
		}
	}
	return nil
}

// listImports asks the go command, which reads the import clauses without compiling anything.
func listImports(t *testing.T) imports {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", module+"/...").Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	graph := imports{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return graph
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		graph[p.ImportPath] = p.Imports
	}
}

// TestFilesOfProxy: docs/architecture.md says of each file of the largest room what it is for.
func TestFilesOfProxy(t *testing.T) {
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "\n## Where things are in `proxy`\n")
	list, _, _ = strings.Cut(list, "\n## ")
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z0-9]+[.]go)`").FindAllStringSubmatch(list, -1) {
		told[m[1]] = true
	}
	names, err := filepath.Glob("proxy/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if base := filepath.Base(name); !strings.HasSuffix(base, "_test.go") && !told[base] {
			t.Errorf("docs/architecture.md does not say what %s is for", name)
		} else {
			delete(told, base)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		t.Errorf("docs/architecture.md tells of proxy/%s, which is not there", name)
	}
}
