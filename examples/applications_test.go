package examples_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"image"
	"image/png"
	"iter"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// md5Hex is what md5(1) prints: DokuWiki's package keeps the first password so.
func md5Hex(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

const (
	wikiUser     = "ada"
	wikiPassword = "correct horse"
)

func testDokuWiki(t *testing.T, e *example) {
	needs(t, "php-cgi")
	installWiki(t, e, packaged(t, "dokuwiki", "usr/share/dokuwiki"))
	e.start()

	// The first page, its style, a picture of its template.
	e.load(e.get("/").want(t, 200, "Test Wiki", "do=login"))
	e.get("/lib/exe/css.php?t=dokuwiki").want(t, 200, ".dokuwiki")
	e.get("/lib/exe/js.php?t=dokuwiki").want(t, 200, "DOKU_BASE")
	e.get("/lib/tpl/dokuwiki/images/logo.png").want(t, 200, "PNG")
	e.get("/lib/images/toolbar/bold.png").want(t, 200, "PNG")

	// What nobody may see.
	for _, path := range []string{"/conf/local.php", "/data/pages/", "/inc/init.php", "/bin/dwpage.php", "/install.php", "/vendor/autoload.php"} {
		e.get(path).want(t, 403)
	}
	e.get("/.htaccess").want(t, 404)
	e.get("/doku.php?id=notes:first&do=edit").want(t, 200, "Permission Denied")

	wikiLogin(t, e)
	wikiWrite(t, e, "notes:first", "====== A heading ======\n\nThis is **bold**, and a list:\n\n  * äöü & <b>\n")
	e.get("/doku.php?id=notes:first").want(t, 200, "A heading</h1>", "<strong>bold</strong>", "äöü &amp; &lt;b&gt;")
	e.get("/doku.php?do=search&q=bold").want(t, 200, "notes:first")
	e.get("/doku.php?id=notes:first&do=revisions").want(t, 200, wikiUser)

	picture := noise(t)
	wikiUpload(t, e, "notes", "picture.png", picture)
	back := e.get("/lib/exe/fetch.php?media=notes:picture.png").want(t, 200)
	if back.body != string(picture) {
		t.Errorf("%d bytes came back of a picture of %d", len(back.body), len(picture))
	}
	if got := back.header.Get("Content-Type"); got != "image/png" {
		t.Errorf("the picture is %q", got)
	}
}

// installWiki puts the unmodified files of the package below the test's folder, and does what its installer asks for: a
// title, an access list, an administrator.
func installWiki(t *testing.T, e *example, root string) {
	t.Helper()
	for from, to := range map[string]string{"usr/share/dokuwiki": "wiki", "var/lib/dokuwiki": "wiki-state", "etc/dokuwiki": "conf"} {
		check(t, os.CopyFS(e.path(to), os.DirFS(filepath.Join(root, from))))
	}
	for _, link := range []string{"lib/plugins", "lib/tpl"} {
		relink(t, filepath.Join(e.path("wiki-state"), link), filepath.Join(e.path("wiki"), link))
	}
	relink(t, filepath.Join(e.path("wiki"), "inc"), e.path("wiki-state/inc"))
	local := fmt.Sprintf("<?php\n$conf['title'] = 'Test Wiki';\n$conf['savedir'] = '%s';\n$conf['useacl'] = 1;\n$conf['superuser'] = '@admin';\n",
		e.path("wiki-state/data"))
	files := map[string]string{
		"conf/local.php":      local,
		"conf/acl.auth.php":   "# <?php exit()?>\n*  @ALL  1\n*  @user  8\n",
		"conf/users.auth.php": fmt.Sprintf("# <?php exit()?>\n%s:%s:Ada:ada@localhost:admin,user\n", wikiUser, md5Hex([]byte(wikiPassword))),
		"prepend.php":         fmt.Sprintf("<?php\ndefine('DOKU_CONF', '%s/');\ndefine('DOKU_MAIN_CONF', DOKU_CONF);\n", e.path("conf")),
	}
	for name, text := range files {
		os.Remove(e.path(name)) // a link of the package
		check(t, os.WriteFile(e.path(name), []byte(text), 0o644))
	}
	e.give(e.path("wiki-state"))
	e.give(e.path("conf"))
	e.setenv("DOKUWIKI", e.path("wiki"))
	e.setenv("DOKUWIKI_STATE", e.path("wiki-state"))
	e.setenv("DOKUWIKI_PREPEND", e.path("prepend.php"))
}

// relink lets a link of the package lead to the copy.
func relink(t *testing.T, to, link string) {
	t.Helper()
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	check(t, os.Symlink(to, link))
}

func wikiLogin(t *testing.T, e *example) {
	t.Helper()
	form := hidden(t, e.get("/doku.php?id=start&do=login").want(t, 200), "p")
	form.Set("u", wikiUser)
	form.Set("p", "wrong")
	e.postForm("/doku.php?id=start", form).want(t, 403, "username or password was wrong")
	form.Set("p", wikiPassword)
	e.postForm("/doku.php?id=start", form).want(t, 200, "do=logout")
}

func wikiWrite(t *testing.T, e *example, id, text string) {
	t.Helper()
	form := hidden(t, e.get("/doku.php?id="+id+"&do=edit").want(t, 200), "wikitext")
	form.Set("wikitext", text)
	form.Set("summary", "written by a test")
	form.Set("do[save]", "1")
	e.postForm("/doku.php?id="+id, form).want(t, 200, "<strong>bold</strong>")
}

func wikiUpload(t *testing.T, e *example, namespace, name string, content []byte) {
	t.Helper()
	form := hidden(t, e.get("/lib/exe/mediamanager.php?ns="+namespace).want(t, 200), "upload")
	fields := map[string]string{"sectok": form.Get("sectok"), "ns": namespace, "mediaid": name}
	e.upload("/lib/exe/mediamanager.php", "upload", name, content, fields).want(t, 200, "successful")
}

// hidden reads the hidden fields of the form that has a field of that name, as a browser sends them back.
func hidden(t *testing.T, p page, field string) url.Values {
	t.Helper()
	document, err := html.Parse(strings.NewReader(p.body))
	check(t, err)
	for form := range elements(document, atom.Form) {
		values, found := url.Values{}, false
		for n := range form.Descendants() {
			found = found || attribute(n, "name") == field
			if n.DataAtom == atom.Input && attribute(n, "type") == "hidden" {
				values.Set(attribute(n, "name"), attribute(n, "value"))
			}
		}
		if found {
			return values
		}
	}
	t.Fatalf("%s: no form with %q in\n%s", p.url, field, p.body)
	return nil
}

// load gets what a browser gets with a page: styles, scripts and pictures, all at once.
func (e *example) load(p page) {
	e.t.Helper()
	base, err := url.Parse(p.url)
	check(e.t, err)
	document, err := html.Parse(strings.NewReader(p.body))
	check(e.t, err)
	var parts []string
	for n := range document.Descendants() {
		reference := attribute(n, "src")
		if attribute(n, "rel") == "stylesheet" {
			reference = attribute(n, "href")
		}
		part, err := base.Parse(reference)
		check(e.t, err)
		if reference != "" && part.Host == base.Host && !slices.Contains(parts, part.String()) {
			parts = append(parts, part.String())
		}
	}
	if len(parts) == 0 {
		e.t.Errorf("%s: nothing is loaded with it", p.url)
	}
	for _, part := range e.getAll(parts) {
		if part.status/100 != 2 {
			e.t.Errorf("%s loads %s: status %d", p.url, part.url, part.status)
		}
	}
}

func elements(n *html.Node, tag atom.Atom) iter.Seq[*html.Node] {
	return func(yield func(*html.Node) bool) {
		for d := range n.Descendants() {
			if d.DataAtom == tag && !yield(d) {
				return
			}
		}
	}
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// noise is a picture that no compression makes small.
func noise(t *testing.T) []byte {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	picture := image.NewNRGBA(image.Rect(0, 0, 320, 320))
	for i := range picture.Pix {
		picture.Pix[i] = byte(random.Uint32())
	}
	var b bytes.Buffer
	check(t, png.Encode(&b, picture))
	return b.Bytes()
}

func testGitweb(t *testing.T, e *example) {
	needs(t, "git", "perl")
	if err := exec.Command("perl", "-MCGI", "-e", "1").Run(); err != nil {
		t.Skip("perl's CGI module (Debian's libcgi-pm-perl) is not installed")
	}
	root := packaged(t, "gitweb", "usr/share/gitweb/gitweb.cgi")
	commit := makeRepository(t, e)
	conf := fmt.Sprintf("our $projectroot = '%s';\n", e.path("git"))
	check(t, os.WriteFile(e.path("gitweb.conf"), []byte(conf), 0o644))
	e.setenv("GITWEB", filepath.Join(root, "usr/share/gitweb"))
	e.setenv("GITWEB_CONFIG", e.path("gitweb.conf"))
	e.start()

	e.get("/").want(t, 200, "sample.git", "A repository for the test")
	e.get("/?p=sample.git;a=summary").want(t, 200, "the second commit", "Ada Tester")
	e.get("/?p=sample.git;a=tree").want(t, 200, "hello.txt", "folder")
	e.get("/?p=sample.git;a=blob;f=folder/hello%20again.txt").want(t, 200, "&lt;again&gt;")
	e.get("/?p=sample.git;a=blob_plain;f=hello.txt").want(t, 200, "hello from git\n")
	e.get("/?p=sample.git;a=log").want(t, 200, "the first commit", "the second commit")
	e.get("/?p=sample.git;a=commitdiff;h="+commit).want(t, 200, "folder/hello again.txt")
	e.get("/?p=sample.git;a=snapshot;h="+commit+";sf=tgz").want(t, 200, "\x1f\x8b")
	e.get("/?p=none.git;a=summary").want(t, 404)

	css := e.get("/static/gitweb.css").want(t, 200, "body")
	if got := css.header.Get("Cache-Control"); got != "public, max-age=3600" {
		t.Errorf("gitweb.css: Cache-Control %q: it did not come from the event pool", got)
	}
}

// makeRepository makes a bare repository with two commits and returns the last one's name.
func makeRepository(t *testing.T, e *example) string {
	t.Helper()
	work, bare := e.path("work"), e.path("git/sample.git")
	check(t, os.MkdirAll(filepath.Join(work, "folder"), 0o755))
	check(t, os.WriteFile(filepath.Join(work, "hello.txt"), []byte("hello from git\n"), 0o644))
	git(t, e, "init", "-q", work)
	git(t, e, "-C", work, "add", ".")
	git(t, e, "-C", work, "commit", "-q", "-m", "the first commit")
	check(t, os.WriteFile(filepath.Join(work, "folder", "hello again.txt"), []byte("hello <again>\n"), 0o644))
	git(t, e, "-C", work, "add", ".")
	git(t, e, "-C", work, "commit", "-q", "-m", "the second commit")
	git(t, e, "clone", "-q", "--bare", work, bare)
	check(t, os.WriteFile(filepath.Join(bare, "description"), []byte("A repository for the test\n"), 0o644))
	e.give(e.path("git"))
	return git(t, e, "-C", work, "rev-parse", "HEAD")
}

// git runs without the settings of the machine and the user.
func git(t *testing.T, e *example, args ...string) string {
	t.Helper()
	out, err := tryGit(e, args...)
	check(t, err)
	return out
}

// tryGit may fail; then the error tells what git said.
func tryGit(e *example, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + e.folder, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_TRACE_CURL=" + e.path("git.trace"),
		"GIT_AUTHOR_NAME=Ada Tester", "GIT_AUTHOR_EMAIL=ada@localhost", "GIT_COMMITTER_NAME=Ada Tester", "GIT_COMMITTER_EMAIL=ada@localhost",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}
