package examples_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gateway/internal/gatewaytest"
)

const (
	blogger         = "ada"
	bloggerPassword = "correct horse battery"
)

func testWordPress(t *testing.T, e *example) {
	needsPHP(t, "mysqli", "gd")
	root := packaged(t, "wordpress", "usr/share/wordpress")
	socket := startMariaDB(t, e, "wordpress")
	installWordPress(t, e, root, socket)
	e.start()

	first := e.get("/").want(t, 200, "Username", "weblog_title")
	if first.url != e.url("/wp-admin/install.php") {
		t.Errorf("/ led to %s", first.url)
	}
	e.load(first)
	e.postForm("/wp-admin/install.php?step=2", url.Values{
		"weblog_title": {"Zebra & Löwe"}, "user_name": {blogger}, "admin_password": {bloggerPassword}, "admin_password2": {bloggerPassword}, "admin_email": {"ada@localhost.test"},
	}).want(t, 200, "WordPress has been installed")

	e.load(e.get("/").want(t, 200, "Zebra &amp; Löwe", "Hello world!"))
	wordpressHidden(t, e)
	b := wordpressLogin(t, e)
	b.write()
	b.upload(noise(t))
	b.broadcast()
	b.rename()
	wordpressVisitor(t, e)
}

// installWordPress makes the program and its content below the test's folder, with a configuration there in place of /etc.
func installWordPress(t *testing.T, e *example, root, socket string) {
	t.Helper()
	for _, folder := range []string{"usr/share/wordpress", "usr/share/php/getid3", "usr/share/javascript/cropper", "usr/share/javascript/underscore", "var/lib/wordpress"} {
		check(t, os.CopyFS(e.path(folder), os.DirFS(filepath.Join(root, folder))))
	}
	program, content := e.path("usr/share/wordpress"), e.path("var/lib/wordpress/wp-content")
	relink(t, filepath.Join(program, "wp-content/themes/twentytwentythree"), filepath.Join(content, "themes/twentytwentythree"))
	config, err := os.ReadFile(filepath.Join(program, "wp-config.php"))
	check(t, err)
	config = bytes.ReplaceAll(config, []byte("/etc/wordpress/"), []byte(e.path("etc")+"/"))
	check(t, os.WriteFile(filepath.Join(program, "wp-config.php"), config, 0o644))
	check(t, os.Mkdir(e.path("etc"), 0o755))
	// Its own server is the only one that it may ask.
	php := `<?php
define('DB_NAME', 'wordpress');
define('DB_USER', '` + databaseUser + `');
define('DB_PASSWORD', '` + databasePassword + `');
define('DB_HOST', 'localhost:` + socket + `');
define('WP_CONTENT_DIR', '` + content + `');
define('AUTH_KEY', 'a');
define('LOGGED_IN_KEY', 'b');
define('NONCE_KEY', 'c');
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('WP_ACCESSIBLE_HOSTS', '127.0.0.1');
`
	check(t, os.WriteFile(e.path("etc/config-default.php"), []byte(php), 0o644))
	e.give(filepath.Join(content, "uploads"))
	e.setenv("WORDPRESS", program)
	e.setenv("WORDPRESS_LIB", e.path("var/lib/wordpress"))
}

// wordpressHidden asks for what nobody may see.
func wordpressHidden(t *testing.T, e *example) {
	t.Helper()
	check(t, os.WriteFile(e.path("var/lib/wordpress/wp-content/uploads/evil.php"), []byte("<?php echo 'evil';"), 0o644))
	for path, status := range map[string]int{
		"/wp-content/uploads/evil.php": 404, "/wp-content/uploads/evil.php/x.css": 404, "/wp-content/uploads//%65vil.php": 404,
		"/wp-config.php": 403, "/xmlrpc.php": 403, "/wp-includes/version.php": 403, "/wp-includes//version.php": 403, "/wp-admin/includes/file.php": 403,
		"/wp-content/themes/twentytwentythree/patterns/hidden-404.php": 404, "/.htaccess": 404, "/wp-content/plugins/": 403, "/wp-config.php/x": 403, "/%77p-config.php": 403,
	} {
		if got := e.get(path); got.status != status {
			t.Errorf("%s: status %d, want %d", path, got.status, status)
		}
	}
	e.get("/none/such/page").want(t, 404, "<title>Page not found") // WordPress's own
	e.get("/wp-admin").want(t, 200, "user_login")
}

// blogWriter is who has logged in.
type blogWriter struct {
	t     *testing.T
	e     *example
	nonce string // of the REST interface
}

var apiNonce = regexp.MustCompile(`createNonceMiddleware\( "([0-9a-f]+)" \)`)

func wordpressLogin(t *testing.T, e *example) *blogWriter {
	t.Helper()
	form := hidden(t, e.get("/wp-login.php").want(t, 200), "pwd")
	form.Set("log", blogger)
	form.Set("pwd", "wrong")
	e.postForm("/wp-login.php", form).want(t, 200, "is incorrect")
	form.Set("pwd", bloggerPassword)
	board := e.postForm("/wp-login.php", form).want(t, 200, "Dashboard", "wp-admin-bar-logout")
	if board.url != e.url("/wp-admin/") {
		t.Errorf("the login led to %s", board.url)
	}
	e.load(board)
	editor := e.get("/wp-admin/post-new.php").want(t, 200, "block-editor")
	e.load(editor)
	nonce := apiNonce.FindStringSubmatch(editor.body)
	if nonce == nil {
		t.Fatalf("%s: no nonce in\n%s", editor.url, editor.body)
	}
	return &blogWriter{t, e, nonce[1]}
}

// ask sends what the editor in the browser sends, and reads the answer into v.
func (b *blogWriter) ask(method, path string, field http.Header, body []byte, status int, v any) {
	b.t.Helper()
	r, err := http.NewRequest(method, b.e.url(path), bytes.NewReader(body))
	check(b.t, err)
	r.Header = field
	r.Header.Set("X-WP-Nonce", b.nonce)
	p := b.e.do(r).want(b.t, status)
	if err := json.Unmarshal([]byte(p.body), v); err != nil {
		b.t.Fatalf("%s: %v in\n%s", p.url, err, p.body)
	}
}

// post is one as the REST interface tells it.
type post struct {
	ID     int    `json:"id"`
	Link   string `json:"link"`
	Status string `json:"status"`
	Source string `json:"source_url"` // of a picture
	Media  struct {
		Sizes map[string]struct {
			Source string `json:"source_url"`
		} `json:"sizes"`
	} `json:"media_details"`
}

func (b *blogWriter) publish(values map[string]any) (p post) {
	b.t.Helper()
	body, err := json.Marshal(values)
	check(b.t, err)
	b.ask(http.MethodPost, "/wp-json/wp/v2/posts", http.Header{"Content-Type": {"application/json"}}, body, 201, &p)
	return p
}

func (b *blogWriter) write() {
	b.t.Helper()
	p := b.publish(map[string]any{"title": "Äpfel & <b>", "content": "<!-- wp:paragraph --><p>Something about <strong>zebras</strong> &amp; öther</p><!-- /wp:paragraph -->", "status": "publish", "slug": "zebras"})
	if !regexp.MustCompile("^" + b.e.url("/20[0-9]{2}/[0-9]{2}/[0-9]{2}/zebras/$")).MatchString(p.Link) { // its installer has found out that such addresses work
		b.t.Errorf("the post is at %s", p.Link)
	}
	path := strings.TrimPrefix(p.Link, b.e.base)
	b.e.get(path).want(b.t, 200, "<strong>zebras</strong>", "Äpfel")
	if p := b.e.get(strings.TrimSuffix(path, "/")).want(b.t, 200, "<strong>zebras</strong>"); p.url != b.e.url(path) {
		b.t.Errorf("without its last slash it led to %s", p.url)
	}
	b.ask(http.MethodPut, fmt.Sprint("/wp-json/wp/v2/posts/", p.ID), http.Header{"Content-Type": {"application/json"}}, []byte(`{"content":"About <em>horses</em>"}`), 200, &p)
	b.e.get(path).want(b.t, 200, "<em>horses</em>")
}

// upload brings a picture in both ways that WordPress has, of which it makes smaller ones.
func (b *blogWriter) upload(picture []byte) {
	b.t.Helper()
	var p post
	b.ask(http.MethodPost, "/wp-json/wp/v2/media", http.Header{"Content-Type": {"image/png"}, "Content-Disposition": {`attachment; filename="noise.png"`}}, picture, 201, &p)
	b.wantPicture(p.Source, picture)
	small := p.Media.Sizes["thumbnail"].Source
	if got := b.e.get(strings.TrimPrefix(small, b.e.base)).want(b.t, 200, "PNG"); len(got.body) >= len(picture) {
		b.t.Errorf("%s has %d bytes, the whole picture %d", small, len(got.body), len(picture))
	}

	form := b.e.get("/wp-admin/media-new.php").want(b.t, 200)
	fields := map[string]string{"name": "again.png", "action": "upload-attachment", "_wpnonce": uploadNonce(b.t, form)}
	var answer struct {
		Success bool           `json:"success"`
		Data    map[string]any `json:"data"`
	}
	again := b.e.upload("/wp-admin/async-upload.php", "async-upload", "again.png", picture, fields).want(b.t, 200)
	if err := json.Unmarshal([]byte(again.body), &answer); err != nil || !answer.Success {
		b.t.Fatalf("%s: %v in\n%s", again.url, err, again.body)
	}
	b.wantPicture(fmt.Sprint(answer.Data["url"]), picture)
	b.e.load(b.e.get("/wp-admin/upload.php?mode=list").want(b.t, 200, "noise", "again"))
}

func (b *blogWriter) wantPicture(address string, picture []byte) {
	b.t.Helper()
	p := b.e.get(strings.TrimPrefix(address, b.e.base)).want(b.t, 200)
	if p.body != string(picture) || p.header.Get("Content-Type") != "image/png" || p.header.Get("Cache-Control") != "public, max-age=86400" {
		b.t.Errorf("%s: %d bytes came back of a picture of %d, with %v", p.url, len(p.body), len(picture), p.header)
	}
}

func uploadNonce(t *testing.T, p page) string {
	t.Helper()
	found := regexp.MustCompile(`"_wpnonce":"([0-9a-f]+)"`).FindStringSubmatch(p.body)
	if found == nil {
		t.Fatalf("%s: no nonce in\n%s", p.url, p.body)
	}
	return found[1]
}

// rename gives the posts other addresses.
func (b *blogWriter) rename() {
	b.t.Helper()
	form := hidden(b.t, b.e.get("/wp-admin/options-permalink.php").want(b.t, 200), "permalink_structure")
	form.Set("selection", "custom")
	form.Set("permalink_structure", "/%postname%.html")
	form.Set("submit", "Save Changes")
	b.e.postForm("/wp-admin/options-permalink.php", form).want(b.t, 200, "/%postname%.html")
	b.e.get("/zebras.html").want(b.t, 200, "<em>horses</em>")
	if p := b.e.get("/?p=1").want(b.t, 200, "Hello world!"); p.url != b.e.url("/hello-world.html") {
		b.t.Errorf("a post without a name led to %s", p.url)
	}
}

// broadcast publishes a sound. Its length gets into the feed by wp-cron.php, which WordPress asks itself for when there is a visitor, without waiting for an answer.
func (b *blogWriter) broadcast() {
	b.t.Helper()
	sound := "/wp-content/uploads/sound.mp3"
	check(b.t, os.WriteFile(b.e.path("var/lib/wordpress"+sound), make([]byte, 12345), 0o644))
	b.publish(map[string]any{"title": "A sound", "content": `<a href="` + b.e.url(sound) + `">Listen</a>`, "status": "publish"})
	want := `<enclosure url="` + b.e.url(sound) + `" length="12345" type="audio/mpeg" />`
	check(b.t, gatewaytest.Wait(func() (bool, error) {
		return strings.Contains(b.e.get("/feed/").want(b.t, 200, "<rss").body, want), nil
	}))
}

// wordpressVisitor reads, and writes a comment.
func wordpressVisitor(t *testing.T, e *example) {
	t.Helper()
	e.get("/?s=horses").want(t, 200, "Äpfel")
	e.get("/feed/").want(t, 200, "<rss", "horses")
	e.get("/wp-sitemap.xml").want(t, 200, "<sitemapindex")
	e.get("/category/uncategorized/").want(t, 200, "Äpfel")
	e.get("/wp-json/wp/v2/posts?search=horses").want(t, 200, `"slug":"zebras"`)

	hello := e.get("/hello-world.html").want(t, 200, "Hello world!")
	form := hidden(t, hello, "comment")
	form.Set("comment", "A <em>comment</em> & more: äöü")
	after := e.postForm("/wp-comments-post.php", form).want(t, 200, "A <em>comment</em> &amp; more: äöü")
	if !strings.HasPrefix(after.url, hello.url+"#comment-") && after.url != hello.url {
		t.Errorf("the comment is at %s, want %s", after.url, hello.url)
	}
}
