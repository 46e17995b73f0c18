package migrate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files are the files that an importer can see.
type files map[string]string

// read imports the files of the names, which may include the others.
func (f files) read(kind Kind, names ...string) (*Document, error) {
	im := newImporter(Options{Root: "/srv/www"})
	im.load = func(name string) (source, error) {
		text, ok := f[name]
		if !ok {
			return source{}, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return source{name, text}, nil
	}
	im.glob = func(pattern string) (found []string, err error) {
		for name := range f {
			ok, wrong := filepath.Match(pattern, name)
			if err = errors.Join(err, wrong); ok {
				found = append(found, name)
			}
		}
		slices.Sort(found)
		return found, err
	}
	var sources []source
	for _, name := range names {
		s, err := im.load(name)
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	return im.run(kind, sources)
}

// flat is a text with single spaces, so that alignment does not matter.
func flat(text string) string { return strings.Join(strings.Fields(text), " ") }

func TestImport(t *testing.T) {
	tests := []struct {
		says string
		text string
		want string // in the result
		left int
	}{
		{"a dynamic pool has spare children", "[a]\npm = dynamic\npm.max_children = 9\npm.min_spare_servers = 2", `spawn = "demand" max_request_workers = 9 min_spare_servers = 2`, 0},
		{"spare numbers say nothing of a static pool", "[a]\npm.start_servers = 3\npm = static", `a:2: pm.start_servers = 3: it means something with pm = dynamic only`, 0},
		{"a number without unit is seconds", "[a]\nrequest_terminate_timeout = 90", `request_timeout = "90s"`, 0},
		{"days are hours", "[a]\nrequest_terminate_timeout = 2d", `request_timeout = "48h"`, 0},
		{"no limit stays none", "[a]\nrequest_terminate_timeout = 0", `request_timeout = "0s"`, 0},
		{"a comment behind a value is none of it", "[a]\nuser = web ; the user", `user = "web"`, 0},
		{"quotes keep a semicolon", "[a]\nenv[A] = \"b;c\" ; no", `env = { A = "b;c" }`, 0},
		{"quotes keep escaped quotes", `[a]` + "\n" + `env[A] = "b \"c\" \d"`, `env = { A = "b \"c\" \\d" }`, 0},
		{"a template of HCL is text", "[a]\nenv[A] = '%{if}'", `env = { A = "%%{if}" }`, 0},
		{"the last one of two values counts", "[a]\nuser = b\nuser = c", `mpm = "prefork" user = "c" php`, 0},
		{"a section may come twice", "[a]\nuser = b\n[b]\n[a]\ngroup = c", `mpm = "prefork" user = "b" group = "c" php`, 0},
		{"the name of a pool becomes one that is possible", "[my pool!]\nuser = a", `pool "my_pool_"`, 0},
		{"a pool may be called edge", "[edge]\nuser = a", `pool "edge2" { mpm = "event" }`, 0},
		{"a flag is on or off", "[a]\nphp_flag[x] = 1\nphp_admin_flag[y] = no", `ini = { x = "on" y = "off" }`, 0},
		{"a variable may come from outside", "[a]\nenv[A] = $B", `env = { A = env("B", "") }`, 0},
		{"endings of scripts are routes", "[a]\nsecurity.limit_extensions = .php .phtml", `route "*.phtml" { pool = "a" }`, 0},
		{"a reserved variable is told by the gateway", "[a]\nenv[PHP_FCGI_CHILDREN] = 4\nenv[B] = c", `Reserved variable: The gateway sets PHP_FCGI_CHILDREN itself`, 1},
		{"a value out of bounds is told by the gateway", "[a]\nprocess.priority = 99", `# a:2: process.priority = 99: `, 1},
		{"what is not UTF-8 is left", "[a]\nuser = caf\uFFFD", `it is not UTF-8`, 1},
		{"a misspelt word is left", "[a]\npm.max_child = 4", `php-fpm has no such setting for a pool`, 1},
		{"a word of a pool in the global section is left", "[global]\nuser = a\n[a]\npm = static", `php-fpm has no such setting for the whole`, 1},

		{"a path behind a script is the script's", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"match": {"uri": ["*.php", "*.php/*"]}, "action": {"pass": "applications/a"}}], "applications": {"a": {"type": "php", "root": "/srv/a"}}}`,
			`listen = [":80"] route "*.php" { pool = "a" root = "/srv/a" } }`, 0},
		{"an address with an application is a route for all paths", `{"listeners": {"*:80": {"pass": "applications/a"}}, "applications": {"a": {"type": "php", "root": "/srv/a"}}}`,
			`route "/*" { pool = "a" root = "/srv/a" try_files = ["{path}index.php", "=404"] }`, 0},
		{"TLS on another port has its word", `{"listeners": {"*:8443": {"pass": "applications/a", "tls": {}}}, "applications": {"a": {"type": "php", "root": "/srv/a"}}}`,
			`listen = [":8443 tls"]`, 1},
		{"a host that no site can have takes its step away", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"match": {"host": "www.*"}, "action": {"return": 200}}]}`,
			`a site's names are exact`, 1},
		{"a host is one of those that a star stands for, too", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"match": {"host": "*.b", "uri": "/x"}, "action": {"return": 204}}, {"match": {"host": "a.b"}, "action": {"return": 200}}]}`,
			`site "a.b" { listen = [":80"] route "/x" {`, 0},
		{"a host named localhost is not all hosts", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"match": {"host": "localhost"}, "action": {"return": 200}}]}`,
			`site "others.localhost" { # For all hosts that no other site has. listen = [":80"] route "/*" { pool = "edge" respond { status = 404 } } }`, 0},
		{"a method that can't be named takes its step away", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"match": {"method": "!GET"}, "action": {"share": "/srv$uri"}}]}`,
			`methods are named one by one route "/*" { pool = "edge" respond { status = 404 } }`, 1},
		{"variables of a location are those here", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"action": {"return": 308, "location": "https://$host$request_uri"}}]}`,
			`redirect { to = "https://{host}{uri}" status = 308 }`, 0},
		{"a rewrite behind a route is left", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"match": {"uri": "/a"}, "action": {"return": 200}}, {"match": {"scheme": "http"}, "action": {"return": 404}}]}`,
			`this step comes behind some`, 1},
		{"shares of servers become whole numbers", `{"listeners": {"*:80": {"pass": "upstreams/a"}}, "upstreams": {"a": {"servers": {"127.0.0.1:1": {"weight": 0.5}, "127.0.0.1:2": {}}}}}`,
			`to = ["http://127.0.0.1:1 weight=50", "http://127.0.0.1:2 weight=100"]`, 0},
		{"an expression that is none here takes the whole rewrite away", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"match": {"uri": "~^/(?=a)"}, "action": {"return": 404}}]}`,
			`# rewrite "^/(?=a)" {`, 1},
		{"routes that lead to themselves end", `{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"action": {"pass": "routes"}}]}`,
			`there are no such routes`, 1},
		{"nothing that serves is a site that serves nothing", `{}`, `Nothing that was imported says what is served.`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			doc, err := files{"a": tt.text}.read("", "a")
			if err != nil {
				t.Fatalf("importing %q: %v", tt.text, err)
			}
			loads(t, doc.Bytes())
			if got := flat(string(doc.Bytes())); !strings.Contains(got, tt.want) || len(doc.Notes()) != tt.left {
				t.Errorf("importing %q left %d, want %d, and wrote\n%s\nwant in it\n%s", tt.text, len(doc.Notes()), tt.left, doc.Bytes(), tt.want)
			}
		})
	}
}

func TestWrongInput(t *testing.T) {
	tests := []struct {
		says string
		from files
		want string
	}{
		{"a text of no kind", files{"a": "hello"}, "a: can't tell whose configuration this is: say it with -from (php-fpm, unit, apache, htaccess)"},
		{"an empty text", files{"a": "; nothing\n"}, "a: can't tell whose configuration this is: say it with -from (php-fpm, unit, apache, htaccess)"},
		{"a section that does not end", files{"a": "[a]\n\n[b"}, `a:3: "[b" is no section: write [name]`},
		{"a line without equals sign", files{"a": "[a]\nuser"}, `a:2: "user" is no setting: write key = value`},
		{"an open quote", files{"a": "[a]\nuser = \"b"}, "a:2: a quote is not closed, or something follows it"},
		{"an open bracket", files{"a": "[a]\nenv[A = b"}, "a:2: a bracket is not closed"},
		{"files that include each other", files{"a": "[global]\ninclude = /b", "/b": "include = /b"}, "/b:1: files include each other more than 4 deep"},
		{"files that are included without end", files{"a": "[global]\n" + strings.Repeat("include = /b\n", maxIncluded+1), "/b": ""}, "a:1002: more than 1000 files are included"},
		{"files that are included with bytes without end", files{"a": "[global]\n" + strings.Repeat("include = /b\n", 20), "/b": strings.Repeat(";", 1<<20)}, "a:18: the files that are included have more than 16777216 bytes"},
		{"a pattern that is none", files{"a": "[global]\ninclude = /[b"}, "a:2: syntax error in pattern"},
		{"an included file that is wrong", files{"a": "[global]\ninclude = /*.conf", "/b.conf": "[b]\nx"}, `/b.conf:2: "x" is no setting: write key = value`},
		{"JSON that ends", files{"a": "{\n\"a\": ["}, "a:2: no JSON: the text ends too early"},
		{"JSON with a comma too much", files{"a": "{\n\"a\": 1,\n}"}, "a:3: no JSON: the name of a member is missing"},
		{"JSON and more", files{"a": "{}\n{}"}, "a:2: no JSON: something follows the configuration"},
		{"JSON that is too deep", files{"a": `{"a":` + strings.Repeat("[", 100)}, "a:1: no JSON: it is nested more than 64 deep"},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			if _, err := tt.from.read("", "a"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("importing %q: error %v, want %q", tt.from, err, tt.want)
			}
		})
	}
}

func TestIncludes(t *testing.T) {
	from := files{
		"/etc/php/8.2/fpm/php-fpm.conf":   "[global]\ninclude=/etc/php/8.2/fpm/pool.d/*.conf\n",
		"/etc/php/8.2/fpm/pool.d/a.conf":  "[a]\nuser = a\n",
		"/etc/php/8.2/fpm/pool.d/b.conf":  "[b]\nuser = b\ninclude = ../c.inc",
		"/etc/php/8.2/fpm/c.inc":          "[c]\nuser = c\n",
		"/etc/php/8.2/fpm/pool.d/b.conf~": "[none]\nuser = none\n",
	}
	doc, err := from.read("", "/etc/php/8.2/fpm/php-fpm.conf")
	if err != nil {
		t.Fatal(err)
	}
	var pools []string
	for _, p := range doc.Blocks("pool") {
		pools = append(pools, p.Labels()...)
	}
	if want := []string{"a", "b", "c", "edge"}; !slices.Equal(pools, want) {
		t.Errorf("pools %q, want %q", pools, want)
	}
	if want := `command = ["/usr/sbin/php-fpm8.2"]`; !strings.Contains(flat(string(doc.Bytes())), want) {
		t.Errorf("the result lacks %s:\n%s", want, doc.Bytes())
	}
}

// A restriction that is not valid here must not be gone while what it restricted is served.
func TestWithdrawnRestrictionsClose(t *testing.T) {
	im := newImporter(Options{})
	from := Origin{"a", 7, "Require ip all of them"}
	site := im.Add(from, "site", "localhost")
	site.Set(from, "listen", []string{":80"})
	site.Set(from, "root", "/srv")
	for _, pattern := range []string{"/admin/*", "/*"} {
		route := site.Add(from, "route", pattern)
		route.Set(from, "pool", im.edge())
		route.Add(from, "static")
	}
	site.Blocks("route")[0].Set(from, "allow", []string{"all of them"})
	if err := im.settle(); err != nil {
		t.Fatal(err)
	}
	got := flat(string(im.Bytes()))
	if want := `route "/admin/*" { pool = "edge" respond { status = 403 } } route "/*" { pool = "edge" static {} }`; !strings.Contains(got, want) {
		t.Errorf("the result is\n%s\nwant in it\n%s", im.Bytes(), want)
	}
}

func FuzzFPM(f *testing.F) {
	f.Add("[www]\nuser = a\nphp_value[x] = \"y\" ; z\nenv[A] = $B\npm = static\npm.max_children = 4\ninclude = /x")
	f.Add("[global]\nlog_level = notice\n[a]\nsecurity.limit_extensions = .php /x\naccess.log = %{x}")
	f.Fuzz(func(t *testing.T, text string) { fuzzed(t, FPM, text) })
}

func FuzzUnit(f *testing.F) {
	f.Add(`{"listeners": {"*:80": {"pass": "routes/a", "tls": {}}}, "routes": {"a": [{"match": {"uri": ["!/a", "*.php", "~^x"], "host": "a.b", "scheme": "http"}, "action": {"return": 301, "location": "$uri{a}"}}]}}`)
	f.Add(`{"listeners": {"*:80": {"pass": "routes"}}, "routes": [{"action": {"share": "/a$uri", "index": "b", "fallback": {"pass": "applications/a/t"}}}], "applications": {"a": {"type": "php", "targets": {"t": {"root": "/a/", "script": "b.php"}}}}}`)
	f.Fuzz(func(t *testing.T, text string) { fuzzed(t, Unit, text) })
}

// fuzzed imports a text. What comes of it must load, and be written the same each time.
func fuzzed(t *testing.T, kind Kind, text string) {
	from := files{"a": strings.ToValidUTF8(text, "\uFFFD")}
	doc, err := from.read(kind, "a")
	if err != nil {
		return
	}
	loads(t, doc.Bytes())
	if again, err := from.read(kind, "a"); err != nil || string(again.Bytes()) != string(doc.Bytes()) {
		t.Errorf("importing %q again: error %v, and\n%s\nafter\n%s", text, err, again.Bytes(), doc.Bytes())
	}
}

func TestIncludedFilesAreRegular(t *testing.T) {
	folder := t.TempDir()
	pipe, first := filepath.Join(folder, "pipe.conf"), filepath.Join(folder, "first.conf")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for kind, text := range map[Kind]string{FPM: "[global]\ninclude = pipe.conf\n", Apache: "# Apache\nInclude pipe.conf\n"} {
		if err := os.WriteFile(first, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want := first + ":2: " + pipe + ": it is no regular file"
		if _, err := Import(Options{Kind: kind}, first); err == nil || err.Error() != want {
			t.Errorf("%s that includes a pipe: error %v, want %s", kind, err, want)
		}
	}
}

func TestResultsAreBounded(t *testing.T) {
	var routes strings.Builder
	for i := range 7 {
		step := fmt.Sprintf(`{"action":{"pass":"routes/%d"}}`, i+1)
		fmt.Fprintf(&routes, `"%d":[%s],`, i, strings.TrimSuffix(strings.Repeat(step+",", 12), ","))
	}
	many := func(word string) string {
		var list strings.Builder
		for i := range 600 {
			fmt.Fprintf(&list, `"%s%d",`, word, i)
		}
		return "[" + strings.TrimSuffix(list.String(), ",") + "]"
	}
	for name, text := range map[string]string{
		"routes that lead to routes": `{"listeners":{"*:80":{"pass":"routes/0"}},"routes":{` + routes.String() + `"7":[{"action":{"return":200}}]}}`,
		"paths of many hosts":        `{"listeners":{"*:80":{"pass":"routes"}},"routes":[{"match":{"host":` + many("h") + `,"uri":` + many("/p") + `},"action":{"return":200}}]}`,
	} {
		_, err := files{"a": text}.read(Unit, "a")
		if err == nil || !strings.Contains(err.Error(), "what becomes of it would be bigger than 1048576 bytes") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
