package wsgi

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gateway/proxy/fcgi"
)

// TestValidator has Python's own judge of WSGI between the shim and an application. It complains by an exception.
func TestValidator(t *testing.T) {
	c := start(t, "validated", 2).dial(t)
	large := bytes.Repeat([]byte("0123456789abcde\n"), 1<<20/16)
	for _, tt := range []struct {
		method, path string
		body         []byte
		status       int
		want         string
	}{
		{"GET", "/", nil, 200, ",,,"},
		{"HEAD", "/", nil, 200, ""},
		{"GET", "", nil, 200, ",,,"},
		{"POST", "/", []byte("a\nbcdef\ng"), 200, "a\n,bcd,ef\n|g,"},
		{"PUT", "/", large, 200, "0123456789abcde\n,012,3456789abcde\n" + strings.Repeat("|0123456789abcde\n", len(large)/16-2) + ","},
		{"GET", "/write", nil, 200, "written ,,,"},
		{"GET", "/error", nil, 500, ",,,"},
		{"GET", "/none", nil, 204, ""},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			params := request(tt.method, tt.path, tt.body)
			if tt.path == "" { // as the gateway leaves it out
				params = append(params[:4:4], params[5:]...)
			}
			a := ask(c, params, tt.body)
			if a.err != nil || a.status != tt.status || a.body != tt.want || a.stderr != "a line\nlines\n" {
				t.Errorf("%d, %.80q, %v, stderr %.2000s; want %d, %.80q", a.status, a.body, a.err, a.stderr, tt.status, tt.want)
			}
		})
	}
}

func TestFrameworks(t *testing.T) {
	for name, application := range map[string]string{
		"flask": "flaskapp:app", "flask.Flask": "flaskapp:create_app()", "django": "djangoapp",
	} {
		t.Run(name, func(t *testing.T) {
			module, _, _ := strings.Cut(name, ".")
			if err := exec.Command(python(t), "-c", "import "+module).Run(); err != nil { //nolint:gosec // names of this table
				t.Skipf("%s is not installed for %s", module, python(t))
			}
			tryFramework(t, start(t, application, 2).dial(t), module)
		})
	}
}

func tryFramework(t *testing.T, c *fcgi.Conn, name string) {
	t.Helper()
	if a := get(c, "/"); a.status != 200 || !strings.HasPrefix(a.body, "hello from "+name) {
		t.Errorf("/ gave %d, %q, %v", a.status, a.body, a.err)
	}
	file := strings.Repeat("0123456789", 300000)
	body := []byte("--b\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\nvalue\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\r\n" + file + "\r\n--b--\r\n")
	params := append(request("POST", "/upload", body), fcgi.Param{Name: "CONTENT_TYPE", Value: "multipart/form-data; boundary=b"})
	if a := ask(c, params, body); a.body != "a.bin: 3000000 bytes, value" {
		t.Errorf("an upload gave %d, %q, %v, %s", a.status, a.body, a.err, a.stderr)
	}
	if a := get(c, "/stream"); a.body != "0 1 2 " {
		t.Errorf("/stream gave %d, %q, %v", a.status, a.body, a.err)
	}
	if a := get(c, "/fail"); a.status != 500 {
		t.Errorf("/fail gave %d, %q, %v", a.status, a.body, a.err)
	}
	if a := get(c, "/nowhere"); a.status != 404 {
		t.Errorf("/nowhere gave %d, %q, %v", a.status, a.body, a.err)
	}
}

func TestEnviron(t *testing.T) {
	c := start(t, "app:application", 2).dial(t)
	params := append(request("GET", "/variables", nil),
		fcgi.Param{Name: "HTTPS", Value: "on"}, fcgi.Param{Name: "HTTP_X", Value: "caf\xc3\xa9 \x80"}, fcgi.Param{Name: "EMPTY"},
		fcgi.Param{Name: "LONG", Value: strings.Repeat("l", 200)})
	a := ask(c, params, nil)
	for _, want := range []string{
		"wsgi.version=(1, 0)", "wsgi.url_scheme='https'", "wsgi.multithread=True", "wsgi.multiprocess=True", "wsgi.run_once=False",
		"wsgi.input_terminated=True", "SCRIPT_NAME='/shop'", "PATH_INFO='/variables'", "QUERY_STRING=''", "EMPTY=''",
		`HTTP_X='caf\xc3\xa9 \x80'`, "LONG='" + strings.Repeat("l", 200) + "'",
	} {
		if !strings.Contains(a.body, want+"\n") {
			t.Errorf("the environ has no %s:\n%s%s", want, a.body, a.stderr)
		}
	}
	if a := get(start(t, "app", 1).dial(t), "/variables"); !strings.Contains(a.body, "wsgi.multithread=False\n") || !strings.Contains(a.body, "wsgi.url_scheme='http'\n") {
		t.Errorf("the environ of one thread without TLS:\n%s%s", a.body, a.stderr)
	}
}

func TestApplicationIsFound(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pkg"), 0o700); err != nil {
		t.Fatal(err)
	}
	source := `
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
class holder:
    app = staticmethod(application)
def factory():
    return application
`
	for _, name := range []string{"pkg/__init__.py", "pkg/wsgi.py", "json.py"} { // the folder comes before the library
		if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"pkg", "pkg.wsgi", "pkg.wsgi:application", "pkg.wsgi:holder.app", "pkg.wsgi:factory()", "pkg.wsgi:holder.app.__call__", "json",
	} {
		t.Run(name, func(t *testing.T) {
			if a := get(startIn(t, python(t), dir, name, 1).dial(t), "/"); a.body != "hello" {
				t.Errorf("%s gave %d, %q, %v", name, a.status, a.body, a.err)
			}
		})
	}
}

func TestImportFails(t *testing.T) {
	for application, want := range map[string]string{
		"absent":                 "ModuleNotFoundError: No module named 'absent'\n",
		"broken:absent":          "has no attribute 'absent'\n",
		"broken":                 "has no attribute 'application'",
		"broken:number":          "TypeError: broken:number is no WSGI application",
		"broken:makes_nothing()": "TypeError: broken:makes_nothing() is no WSGI application",
		"broken:raises()":        "LookupError: no database\n",
		"broken:leaves()":        "SystemExit: 0\n",
		"":                       "ValueError: Empty module name\n",
	} {
		t.Run(application, func(t *testing.T) {
			c := start(t, application, 2)
			if got := c.wait(t); got != ExitImport {
				t.Errorf("exit status %d, want %d", got, ExitImport)
			}
			if said := c.output.String(); !strings.Contains(said, want) ||
				!strings.Contains(said, "the WSGI application "+application+" can't be imported by ") || strings.Contains(said, "gateway wsgi") {
				t.Errorf("it said %q, want %q", said, want)
			}
		})
	}
}

// TestVirtualEnvironment: the packages are those of the interpreter that was named.
func TestVirtualEnvironment(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command(python(t), "-m", "venv", "--without-pip", dir).CombinedOutput(); err != nil {
		t.Skipf("no virtual environment: %v: %s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages"))
	if err != nil || len(found) != 1 {
		t.Fatalf("site-packages of the virtual environment: %v, %v", found, err)
	}
	source := "def application(e, start):\n    start('200 OK', [])\n    return [b'from the environment']\n"
	if err := os.WriteFile(filepath.Join(found[0], "packaged.py"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startIn(t, filepath.Join(dir, "bin", "python"), t.TempDir(), "packaged", 1)
	if a := get(c.dial(t), "/"); a.body != "from the environment" {
		t.Errorf("%d, %q, %v", a.status, a.body, a.err)
	}
}

// TestSourceTravels: the kernel takes 128 KiB for each variable, and Python decodes it by a locale that nobody chose.
func TestSourceTravels(t *testing.T) {
	_, env := Command("python3", "app", 1)
	if len(env) != 1 || len(env[0]) >= 128<<10 {
		t.Fatalf("%d variables, the first of %d bytes", len(env), len(env[0]))
	}
	for i := range len(env[0]) {
		if c := env[0][i]; c == 0 || c >= 0x80 {
			t.Errorf("byte %d of the source is %#x", i, c)
		}
	}
}
