package examples_test

import (
	"fmt"
	"image/png"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"gateway/internal/gatewaytest"
)

const (
	editor         = "Ada"
	editorPassword = "correct horse battery"
)

func testMediaWiki(t *testing.T, e *example) {
	needs(t, "php")
	if found, _ := filepath.Glob("/usr/sbin/php-fpm*"); found == nil {
		t.Skip("php-fpm (Debian's package of that name) is not installed")
	}
	installMediaWiki(t, e, packaged(t, "mediawiki", "usr/share/mediawiki"))
	e.offerTLS()
	e.start()

	for _, path := range []string{"/", "/mediawiki", "/mediawiki/", "/mediawiki/index.php"} {
		if first := e.get(path).want(t, 200, "<title>Test Wiki</title>"); first.url != e.url("/wiki/Main_Page") {
			t.Errorf("%s led to %s", path, first.url)
		}
	}
	e.load(e.get("/wiki/Main_Page"))
	mediaWikiFiles(t, e)

	// What nobody may see.
	for _, path := range []string{"/includes/Setup.php", "/maintenance/install.php", "/mw-config/index.php", "/cache/", "/vendor/autoload.php", "/extensions/Cite/Cite.php"} {
		e.get("/mediawiki"+path).want(t, 403)
	}
	e.get("/mediawiki/images/.htaccess").want(t, 404)
	e.get("/html/index.html").want(t, 404)

	mediaWikiEditor(t, e, "plain")
	e.useTLS()
	mediaWikiEditor(t, e, "secure")
}

// mediaWikiEditor does what an editor does all day. The word is in all that it makes.
func mediaWikiEditor(t *testing.T, e *example, word string) {
	t.Helper()
	mediaWikiLogin(t, e)
	mediaWikiPages(t, e, word)
	mediaWikiPicture(t, e, word)
	e.get("/wiki/Special:Log").want(t, 200, "uploaded")
}

// installMediaWiki puts the package's links below the test's folder, and runs its installer.
func installMediaWiki(t *testing.T, e *example, root string) {
	t.Helper()
	wiki := e.path("lib/mediawiki")
	check(t, os.CopyFS(wiki, os.DirFS(filepath.Join(root, "var/lib/mediawiki"))))
	for _, folder := range []string{"db", "conf"} {
		check(t, os.Mkdir(e.path(folder), 0o755))
	}
	install := exec.Command("php", "maintenance/install.php", "--dbtype", "sqlite", "--dbpath", e.path("db"), "--dbname", "wiki",
		"--server", "http://localhost", "--scriptpath", "/mediawiki", "--confpath", e.path("conf"), "--pass", editorPassword, "Test Wiki", editor)
	install.Dir = wiki
	install.Env = append(os.Environ(), "MW_INSTALL_PATH="+wiki)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("install.php: %v\n%s", err, out)
	}
	made, err := os.ReadFile(e.path("conf/LocalSettings.php"))
	check(t, err)
	check(t, os.Remove(filepath.Join(wiki, "LocalSettings.php"))) // a link of the package
	check(t, os.WriteFile(filepath.Join(wiki, "LocalSettings.php"), append(made, fmt.Sprintf(`
$wgServer = WebRequest::detectServer();
$wgArticlePath = '/wiki/$1';
$wgEnableUploads = true;
$wgUploadDirectory = '%[1]s/images';
$wgCacheDirectory = '%[1]s/cache';
$wgUseImageMagick = false;
$wgGenerateThumbnailOnParse = false;
`, wiki)...), 0o644))
	e.give(e.path("db"))
	e.give(filepath.Join(wiki, "images"))
	e.give(filepath.Join(wiki, "cache"))
	e.setenv("MEDIAWIKI_LIB", e.path("lib"))
}

// mediaWikiFiles asks for what pages bring with them: files through the package's links, and what load.php makes of others.
func mediaWikiFiles(t *testing.T, e *example) {
	t.Helper()
	logo := e.get("/mediawiki/resources/assets/change-your-logo.svg").want(t, 200, "<svg")
	if got := logo.header.Get("Cache-Control"); got != "public, max-age=86400" {
		t.Errorf("the logo: Cache-Control %q: it did not come from the event pool", got)
	}
	e.get("/mediawiki/load.php?lang=en&modules=startup&only=scripts&raw=1&skin=vector").want(t, 200, "mw.loader")
	style := "/mediawiki/load.php?lang=en&modules=skins.vector.styles.legacy&only=styles&skin=vector"
	e.get(style).want(t, 200, ".mw-body") // the first time it finds out what the style is made of, which is in the tag of the next
	tag := e.get(style).want(t, 200, ".mw-body").header.Get("ETag")
	r, err := http.NewRequest(http.MethodGet, e.url(style), nil)
	check(t, err)
	r.Header.Set("If-None-Match", tag)
	e.do(r).want(t, 304)
}

func mediaWikiLogin(t *testing.T, e *example) {
	t.Helper()
	form := hidden(t, e.get("/wiki/Special:UserLogin").want(t, 200), "wpPassword")
	form.Set("wpName", editor)
	form.Set("wpPassword", "wrong")
	form.Set("wploginattempt", "Log in")
	e.postForm("/wiki/Special:UserLogin", form).want(t, 200, "Incorrect username or password")
	form.Set("wpPassword", editorPassword)
	e.postForm("/wiki/Special:UserLogin", form).want(t, 200, "Special:UserLogout", ">"+editor+"<")
}

// mediaWikiPages writes pages whose names a server can get wrong, and finds them again.
func mediaWikiPages(t *testing.T, e *example, word string) {
	t.Helper()
	for _, title := range []string{"Plain", "Notes/First", "C++ & Ärger?", "100% sure", "A;b:c=d", "Page.php", "Page.php/More"} {
		title += " " + word
		form := hidden(t, e.get("/mediawiki/index.php?action=edit&title="+url.QueryEscape(title)).want(t, 200), "wpTextbox1")
		form.Set("wpTextbox1", "== Zebra ==\n'''bold''' äöü <nowiki><b></nowiki> "+word)
		form.Set("wpSummary", "written by a test")
		form.Set("wpSave", "Save changes")
		saved := e.postForm("/mediawiki/index.php?action=submit&title="+url.QueryEscape(title), form)
		saved.want(t, 200, `id="Zebra"`, "<b>bold</b>", "äöü &lt;b&gt;")
		short := "/wiki/" + wikiEscape(title)
		if saved.url != e.url(short) {
			t.Errorf("%q was saved, and then shown at %s, want %s", title, saved.url, short)
		}
		e.get(short+"?action=history").want(t, 200, "written by a test", html.EscapeString(title))
		e.get("/mediawiki/rest.php/v1/page/"+url.PathEscape(title)+"/bare").want(t, 200, `"title":"`+title)
	}
	e.get("/wiki/No_such_page").want(t, 404, "There is currently no text")

	// Pages are indexed when their answer has been sent.
	check(t, gatewaytest.Wait(func() (bool, error) {
		found := e.get("/mediawiki/index.php?fulltext=1&search=zebra+"+word).want(t, 200)
		return strings.Contains(found.body, "Notes/First "+word), nil
	}))
	e.get("/mediawiki/api.php?action=query&list=search&format=json&srwhat=text&srsearch=zebra+"+word).want(t, 200, `"title":"Notes/First `+word)
}

// wikiEscape writes a title as MediaWiki has it in addresses (wfUrlencode).
func wikiEscape(title string) string {
	s := url.QueryEscape(strings.ReplaceAll(title, " ", "_"))
	return strings.NewReplacer("%3B", ";", "%2F", "/", "%3A", ":").Replace(s)
}

func mediaWikiPicture(t *testing.T, e *example, word string) {
	t.Helper()
	picture := noise(t)
	form := hidden(t, e.get("/wiki/Special:Upload").want(t, 200), "wpUploadFile")
	fields := map[string]string{"wpDestFile": "Große Wolke " + word + ".png", "wpUploadDescription": "a cloud", "wpIgnoreWarning": "1", "wpUpload": "Upload file"}
	for name := range form {
		if fields[name] == "" {
			fields[name] = form.Get(name)
		}
	}
	shown := e.upload("/wiki/Special:Upload", "wpUploadFile", "cloud.png", picture, fields).want(t, 200, "a cloud", "320 × 320 pixels")

	e.load(shown)
	original, _, _ := strings.Cut(imageOf(t, shown), "?")
	back := e.get(original).want(t, 200)
	if back.body != string(picture) || back.header.Get("Content-Type") != "image/png" {
		t.Errorf("%d bytes of %q came back of a picture of %d", len(back.body), back.header.Get("Content-Type"), len(picture))
	}

	// The first to ask has the thumbnail made, the second gets the file.
	name := original[strings.LastIndex(original, "/")+1:]
	thumb := strings.Replace(original, "/images/", "/images/thumb/", 1) + "/100px-" + name
	for range 2 {
		small, err := png.Decode(strings.NewReader(e.get(thumb).want(t, 200).body))
		check(t, err)
		if got := small.Bounds().Dx(); got != 100 {
			t.Errorf("%s has a width of %d", thumb, got)
		}
	}
	if got := e.get(thumb).header.Get("Cache-Control"); got != "public, max-age=3600" {
		t.Errorf("the thumbnail: Cache-Control %q: it did not come from the event pool", got)
	}
	e.get(strings.Replace(thumb, "/100px-", "/nonsense-", 1)).want(t, 400, "thumbnail parameters are not recognized")
}

// imageOf returns the address of the picture that a File: page shows.
func imageOf(t *testing.T, p page) string {
	t.Helper()
	document, err := html.Parse(strings.NewReader(p.body))
	check(t, err)
	for img := range elements(document, atom.Img) {
		if src := attribute(img, "src"); strings.HasPrefix(src, "/mediawiki/images/") {
			return src
		}
	}
	t.Fatalf("%s: no picture in\n%s", p.url, p.body)
	return ""
}
