package examples_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"gateway/internal/gatewaytest"
	"gateway/routes"
)

// examples has a test for each folder.
var examples = []struct {
	folder string
	test   func(*testing.T, *example)
}{
	{"adminer", testAdminer},
	{"automatic-tls", testAutomaticTLS},
	{"awstats", testAWStats},
	{"cgi", testCGI},
	{"cgit", testCgit},
	{"dokuwiki", testDokuWiki},
	{"front-controller", testFrontController},
	{"gitweb", testGitweb},
	{"legacy-php", testLegacyPHP},
	{"mediawiki", testMediaWiki},
	{"proxy", testProxy},
	{"roundcube", testRoundcube},
	{"static-tls", testStaticTLS},
	{"wordpress", testWordPress},
}

func TestExamples(t *testing.T) {
	binary, err := gatewaytest.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		t.Run(e.folder, func(t *testing.T) { e.test(t, prepare(t, binary, e.folder)) })
	}
}

func TestEveryExampleIsTested(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var folders, tested []string
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, e.Name())
		}
	}
	for _, e := range examples {
		tested = append(tested, e.folder)
	}
	if !slices.Equal(folders, tested) {
		t.Errorf("folders %q, tests for %q", folders, tested)
	}
}

// The first configuration that a newcomer copies has no error and no warning.
func TestConfigurationOfReadme(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte("```hcl\n"))
	source, _, ok := bytes.Cut(rest, []byte("```"))
	if !ok {
		t.Fatal("README.md has no block of HCL")
	}
	_, diags := routes.Parse("README.md", source)
	if n := diags.Errors() + diags.Warnings(); n > 0 {
		var b strings.Builder
		check(t, diags.Write(&b, 0, false))
		t.Errorf("%d faults:\n%s", n, b.String())
	}
}

// example is a copy of an example in a folder of its own, and the gateway that runs it.
type example struct {
	t          *testing.T
	binary     string
	folder     string // everybody may enter it
	config     string // the copy
	address    string
	base       string // of URLs: scheme and address
	tlsAddress string
	env        []string
	gateway    *gatewaytest.Gateway
	client     *http.Client
}

// settings go into the gateway block of an example.
const settings = `gateway {
  runtime_dir = env("RUNTIME")
  state_dir   = env("STATE")
`

// settle keeps the gateway of an example in the test's folder. An example that has no gateway block gets one in a file beside its site.hcl, as the folder is the configuration.
func (e *example) settle() {
	e.t.Helper()
	site, err := os.ReadFile(filepath.Join(e.config, "site.hcl"))
	check(e.t, err)
	if before, after, found := strings.Cut(string(site), "gateway {\n"); found {
		check(e.t, os.WriteFile(filepath.Join(e.config, "site.hcl"), []byte(before+settings+after), 0o644))
		return
	}
	check(e.t, os.WriteFile(filepath.Join(e.config, "gateway.hcl"), []byte(settings+"}\n"), 0o644))
}

func prepare(t *testing.T, binary, name string) *example {
	t.Helper()
	// Not t.TempDir, which only its owner may enter.
	folder, err := os.MkdirTemp("", "gw")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	check(t, os.Chmod(folder, 0o755))
	e := &example{t: t, binary: binary, folder: folder, config: filepath.Join(folder, "config")}
	check(t, os.CopyFS(e.config, os.DirFS(name)))
	e.settle()
	e.address, err = gatewaytest.FreeAddress()
	check(t, err)
	e.base = "http://" + e.address
	jar, err := cookiejar.New(nil)
	check(t, err)
	e.client = &http.Client{Jar: jar, Timeout: gatewaytest.Patience}
	e.setenv("LISTEN", e.address)
	e.setenv("RUNTIME", e.path("run"))
	e.setenv("STATE", e.path("state"))
	return e
}

func (e *example) path(name string) string { return filepath.Join(e.folder, name) }

func (e *example) setenv(name, value string) { e.env = append(e.env, name+"="+value) }

// start runs the gateway until the test ends, which it must do well.
func (e *example) start() {
	e.t.Helper()
	g, err := gatewaytest.Start(gatewaytest.Command{
		Binary: e.binary,
		Config: e.config,
		Socket: e.path("run/admin.sock"),
		Dir:    e.folder,
		Env:    append(slices.Clip(e.env), "PATH="+os.Getenv("PATH")),
		Log:    e.path("log"),
	})
	check(e.t, err)
	e.gateway = g
	e.t.Cleanup(func() {
		if err := g.Stop(); err != nil {
			e.t.Error(err)
		}
		if e.t.Failed() {
			e.t.Logf("the gateway's log:\n%s", g.Log())
		}
	})
}

// offerTLS gives the example a certificate that the client trusts.
func (e *example) offerTLS() {
	e.t.Helper()
	secure, err := gatewaytest.FreeAddress()
	check(e.t, err)
	maker := httptest.NewUnstartedServer(nil)
	maker.StartTLS()
	defer maker.Close()
	pair := maker.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	check(e.t, err)
	check(e.t, os.WriteFile(e.path("tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o644))
	check(e.t, os.WriteFile(e.path("tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	roots := x509.NewCertPool()
	roots.AddCert(maker.Certificate())
	e.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	e.tlsAddress = secure
	e.setenv("LISTEN_TLS", secure)
	e.setenv("CERTIFICATE", e.path("tls.crt"))
	e.setenv("KEY", e.path("tls.key"))
}

// useTLS has the following requests go to the address with TLS.
func (e *example) useTLS() { e.base = "https://" + e.tlsAddress }

// needs skips the test when a program is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	if err := gatewaytest.Missing(programs...); err != nil {
		t.Skip(err)
	}
}

// packaged finds a folder of a Debian package: installed, or unpacked by .ci/packages.
func packaged(t *testing.T, name, folder string) (root string) {
	t.Helper()
	cache := packageFolder(t)
	for _, root := range []string{"/", filepath.Join(cache, name)} {
		if _, err := os.Stat(filepath.Join(root, folder)); err == nil {
			return root
		}
	}
	t.Skipf("Debian's package %s is neither installed nor unpacked in %s", name, cache)
	return ""
}

// packageFolder is where .ci/packages unpacks.
func packageFolder(t *testing.T) string {
	t.Helper()
	if folder := os.Getenv("GATEWAY_TEST_PACKAGES"); folder != "" {
		return folder
	}
	if os.Geteuid() == 0 {
		return "/var/cache/gateway-test"
	}
	user, err := os.UserCacheDir()
	check(t, err)
	return filepath.Join(user, "gateway-test")
}

// give lets the gateway's children write below a path: when the test is root, they run as www-data.
func (e *example) give(path string) {
	e.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	u := childUser(e.t)
	uid, err := strconv.Atoi(u.Uid)
	check(e.t, err)
	gid, err := strconv.Atoi(u.Gid)
	check(e.t, err)
	check(e.t, filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	}))
}

// childUser is who the gateway's children run as.
func childUser(t *testing.T) *user.User {
	t.Helper()
	if os.Geteuid() != 0 {
		u, err := user.Current()
		check(t, err)
		return u
	}
	u, err := user.Lookup("www-data")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	check(t, err)
	return u
}

// page is an answer that was read to its end.
type page struct {
	url    string // after redirects
	status int
	header http.Header
	body   string
}

func (e *example) url(path string) string { return e.base + path }

func (e *example) do(r *http.Request) page {
	e.t.Helper()
	p, err := e.send(r)
	check(e.t, err)
	return p
}

func (e *example) send(r *http.Request) (page, error) {
	resp, err := e.client.Do(r)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return page{}, fmt.Errorf("%s %s: %w", r.Method, r.URL, err)
	}
	return page{resp.Request.URL.String(), resp.StatusCode, resp.Header, string(body)}, nil
}

func (e *example) get(path string) page {
	e.t.Helper()
	r, err := http.NewRequest(http.MethodGet, e.url(path), nil)
	check(e.t, err)
	return e.do(r)
}

// getAll asks for all URLs at once.
func (e *example) getAll(urls []string) []page {
	e.t.Helper()
	pages, errs := make([]page, len(urls)), make([]error, len(urls))
	var all sync.WaitGroup
	for i, u := range urls {
		all.Go(func() {
			var r *http.Request
			if r, errs[i] = http.NewRequest(http.MethodGet, u, nil); errs[i] == nil {
				pages[i], errs[i] = e.send(r)
			}
		})
	}
	all.Wait()
	check(e.t, errors.Join(errs...))
	return pages
}

func (e *example) post(path, contentType string, body io.Reader) page {
	e.t.Helper()
	r, err := http.NewRequest(http.MethodPost, e.url(path), body)
	check(e.t, err)
	r.Header.Set("Content-Type", contentType)
	return e.do(r)
}

func (e *example) postForm(path string, form url.Values) page {
	e.t.Helper()
	return e.post(path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
}

// upload sends a file the way a browser does.
func (e *example) upload(path, field, name string, content []byte, form map[string]string) page {
	e.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for k, v := range form {
		check(e.t, w.WriteField(k, v))
	}
	part, err := w.CreateFormFile(field, name)
	check(e.t, err)
	_, err = part.Write(content)
	check(e.t, err)
	check(e.t, w.Close())
	return e.post(path, w.FormDataContentType(), &body)
}

// want fails when the page has not that status, or lacks one of the texts.
func (p page) want(t *testing.T, status int, texts ...string) page {
	t.Helper()
	if p.status != status {
		t.Fatalf("%s: status %d, want %d\n%s", p.url, p.status, status, p.body)
	}
	for _, text := range texts {
		if !strings.Contains(p.body, text) {
			t.Fatalf("%s: no %q in\n%s", p.url, text, p.body)
		}
	}
	return p
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testAutomaticTLS puts a CA of the test in the place of Let's Encrypt.
func testAutomaticTLS(t *testing.T, e *example) {
	secure, err := gatewaytest.FreeAddress()
	check(t, err)
	ca, err := gatewaytest.StartPebble(t.TempDir(), gatewaytest.PebbleSettings{HTTP: e.address, TLS: secure})
	check(t, err)
	t.Cleanup(func() { check(t, ca.Stop()) })
	roots, err := os.ReadFile(ca.Roots)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(e.config, "ca.crt"), roots, 0o644))
	config, err := os.ReadFile(filepath.Join(e.config, "site.hcl"))
	check(t, err)
	config = bytes.Replace(config, []byte("tls {\n"), []byte("tls {\n  ca_root = \"ca.crt\"\n"), 1)
	check(t, os.WriteFile(filepath.Join(e.config, "site.hcl"), config, 0o644))
	e.setenv("LISTEN_TLS", secure)
	e.setenv("CA", ca.Directory)
	e.start()

	for _, name := range []string{"example.com", "www.example.com"} {
		check(t, gatewaytest.Wait(func() (bool, error) {
			conn, err := tls.Dial("tcp", secure, &tls.Config{ServerName: name, InsecureSkipVerify: true})
			if err != nil {
				return false, nil // there is no certificate yet
			}
			defer conn.Close()
			leaf := conn.ConnectionState().PeerCertificates[0]
			if !strings.Contains(leaf.Issuer.CommonName, "Pebble") {
				return false, fmt.Errorf("%s: issued by %q", name, leaf.Issuer.CommonName)
			}
			return true, leaf.VerifyHostname(name)
		}))
	}
}

func testLegacyPHP(t *testing.T, e *example) {
	needs(t, "php-cgi")
	check(t, os.Mkdir(e.path("data"), 0o755))
	e.give(e.path("data"))
	e.setenv("NOTES", e.path("data/notes.txt"))
	e.start()

	e.get("/").want(t, 200, "<h1>Guest book</h1>", "visit number 1,")
	e.get("/index.php").want(t, 200, "visit number 2,")
	e.get("/nothing/here").want(t, 200, "visit number 3,")

	form := url.Values{"author": {"Ada <a>"}, "text": {"täglich & mehr"}}
	after := e.postForm("/add.php", form).want(t, 200, "Ada &lt;a&gt;", "täglich &amp; mehr")
	if after.url != e.url("/") {
		t.Errorf("after adding at %s, want /", after.url)
	}
	e.get("/note.php/0").want(t, 200, "Ada <a>: täglich & mehr")
	e.get("/note.php/7").want(t, 404, "no such note")
	e.get("/add.php").want(t, 400)

	content := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // 3.2 MB
	e.upload("/upload.php", "file", "big.bin", content, nil).want(t, 200, "big.bin: 3200000 bytes, md5 "+md5Hex(content))

	css := e.get("/assets/style.css").want(t, 200, "font-family")
	if got := css.header.Get("Cache-Control"); got != "public, max-age=3600" {
		t.Errorf("style.css: Cache-Control %q", got)
	}
	e.get("/none.php").want(t, 404)
}

func testFrontController(t *testing.T, e *example) {
	needs(t, "php-cgi")
	e.start()
	e.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	e.get("/").want(t, 200, "page /\nscript /index.php")
	page := e.get("/some/page?a=1").want(t, 200, "page /some/page\nscript /index.php\nquery a=1\nuser -")
	if page.header.Get("X-Content-Type-Options") != "nosniff" || page.header.Get("X-Powered-By") != "" {
		t.Errorf("header %v, want nosniff and no X-Powered-By", page.header)
	}
	e.get("/assets/style.css").want(t, 200, "color: black")
	e.get("/none.php").want(t, 404)
	e.get("/config/settings.ini").want(t, 403, "Not for you")
	e.get("/uploads/evil.php").want(t, 404)
	if to := e.get("/blog/2019/an-old-one").want(t, 301).header.Get("Location"); to != "/posts/an-old-one?year=2019" {
		t.Errorf("an old address leads to %q", to)
	}
	e.get("/admin/x").want(t, 401)
	r, err := http.NewRequest(http.MethodGet, e.url("/admin/x"), nil)
	check(t, err)
	r.SetBasicAuth("admin", "admin")
	e.do(r).want(t, 200, "page /admin/x", "user admin")
	for range 6 {
		e.get("/login").want(t, 200, "page /login")
	}
	if after := e.get("/login").want(t, 429).header.Get("Retry-After"); after == "" {
		t.Error("429 without Retry-After")
	}
}

func testCGI(t *testing.T, e *example) {
	e.start()
	e.get("/").want(t, 200, "Hello, world!", "You asked 127.0.0.1 for /cgi-bin/hello/world")
	echo := e.post("/echo/some/where", "text/x-test", strings.NewReader("back please")).want(t, 200, "back please")
	if got := echo.header.Get("X-Path-Info"); !strings.HasSuffix(got, "some/where") {
		t.Errorf("PATH_INFO %q, want …some/where", got)
	}
	e.get("/echo/x").want(t, 405)
	e.get("/cgi-bin/none").want(t, 404)

	// Twice as many at once as may run: all are served.
	for _, p := range e.getAll(slices.Repeat([]string{e.url("/cgi-bin/slow?1")}, 16)) {
		p.want(t, 200, "done\n")
	}
}

func testStaticTLS(t *testing.T, e *example) {
	secure, err := gatewaytest.FreeAddress()
	check(t, err)
	e.setenv("LISTEN_TLS", secure)
	e.start()

	root, err := os.ReadFile(e.path("state/internal/root.crt"))
	check(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		t.Fatal("root.crt holds no certificate")
	}
	e.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}

	// The plain address leads to the other.
	first := e.get("/").want(t, 200, "This page came over TLS.")
	if want := "https://" + secure + "/"; first.url != want {
		t.Errorf("/ led to %s, want %s", first.url, want)
	}
	if got := first.header.Get("Cache-Control"); got != "public, max-age=60" {
		t.Errorf("Cache-Control %q", got)
	}
	e.get("/health").want(t, 200, "ok\n")
	if old := e.get("/old").want(t, 200); old.url != "https://"+secure+"/" {
		t.Errorf("/old led to %s", old.url)
	}
	e.get("/none").want(t, 404)
}

func testProxy(t *testing.T, e *example) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/live/events" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		fmt.Fprintf(w, "data: %s %s for %s\n\n", r.Method, r.URL, r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(backend.Close)
	e.setenv("BACKEND", backend.URL)
	e.setenv("SPARE", "unix:"+e.path("nobody.sock"))
	e.start()

	e.get("/").want(t, 200, "Files from the gateway")
	for range 4 { // half of them are the spare server's turn
		e.get("/api/x%20y?z").want(t, 200, "GET /api/x%20y?z for 127.0.0.1")
	}
	e.postForm("/api/form", url.Values{"a": {"b"}}).want(t, 200, "POST /api/form")
	e.get("/api/live/events").want(t, 200, "GET /api/live/events")
	if log := e.gateway.Log(); !strings.Contains(log, "is passed over") {
		t.Errorf("the log does not tell of the server that is down:\n%s", log)
	}
}
