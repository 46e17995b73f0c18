package examples_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func testAdminer(t *testing.T, e *example) {
	needsPHP(t, "mysqli")
	installAdminer(t, e, packaged(t, "adminer", "usr/share/adminer/adminer.php"))
	socket := startMariaDB(t, e)
	e.offerTLS()
	e.start()

	first := e.get("/").want(t, 200, "Login - Adminer", `name="auth[username]"`)
	e.useTLS()
	if first.url != e.url("/adminer/") {
		t.Errorf("/ led to %s", first.url)
	}
	e.load(first)
	for _, path := range []string{"/adminer/passwd", "/adminer/../passwd", "/passwd", "/etc/passwd", "/adminer/conf.php/x", "/adminer/conf.php~"} {
		e.get(path).want(t, 404)
	}

	a := adminerLogin(t, e, socket)
	picture := noise(t)
	a.makeTable("shop", "goods")
	a.insert("shop", "goods", "Äpfel & <b>", picture)
	a.command("shop", "INSERT INTO goods (name) SELECT CONCAT('number ', seq, REPEAT('-', 60)) FROM seq_1_to_20000").want(t, 200, "20,000 rows affected")
	e.load(e.get(a.path("shop", "&select=goods")).want(t, 200, "Äpfel &amp; &lt;b&gt;"))
	a.wantPicture("shop", picture)

	plain := withoutTime(a.export("shop", "goods", "file"))
	if !strings.Contains(plain, "CREATE TABLE `goods`") || !strings.Contains(plain, "number 20000") {
		t.Errorf("an export of %d bytes lacks the table or its end", len(plain))
	}
	unzip, err := gzip.NewReader(strings.NewReader(a.export("shop", "goods", "gz")))
	check(t, err)
	unzipped, err := io.ReadAll(unzip)
	check(t, err)
	if got := withoutTime(string(unzipped)); got != plain {
		t.Errorf("the export is of %d bytes, and of %d when it was compressed", len(plain), len(got))
	}

	a.makeDatabase("again")
	a.load("again", plain).want(t, 200, "OK.")
	a.command("again", "SELECT CONCAT(COUNT(*), ' goods') FROM goods").want(t, 200, "20001 goods")
	a.wantPicture("again", picture)

	form := hidden(t, e.get(a.path("shop", "")), "logout")
	form.Set("logout", "Logout")
	e.postForm(a.path("shop", ""), form).want(t, 200, "Logout successful", `name="auth[username]"`)
	e.get(a.path("shop", "")).want(t, 403, `name="auth[username]"`)
}

// needsPHP skips the test when php-cgi lacks an extension.
func needsPHP(t *testing.T, extensions ...string) {
	t.Helper()
	needs(t, "php-cgi")
	out, err := exec.Command("php-cgi", "-m").Output()
	check(t, err)
	for _, extension := range extensions {
		if !strings.Contains(string(out), "\n"+extension+"\n") {
			t.Skipf("PHP's extension %s is not installed", extension)
		}
	}
}

// installAdminer makes a configuration of the package's, with the place of the package.
func installAdminer(t *testing.T, e *example, root string) {
	t.Helper()
	conf, err := os.ReadFile(filepath.Join(root, "etc/adminer/conf.php"))
	check(t, err)
	conf = bytes.ReplaceAll(conf, []byte("/usr/share/adminer"), []byte(filepath.Join(root, "usr/share/adminer")))
	for _, folder := range []string{"etc/adminer", "tmp"} {
		check(t, os.MkdirAll(e.path(folder), 0o755))
	}
	check(t, os.WriteFile(e.path("etc/adminer/conf.php"), conf, 0o644))
	check(t, os.WriteFile(e.path("etc/passwd"), []byte("root:x:0:0\n"), 0o644))
	e.give(e.path("tmp"))
	e.setenv("ADMINER_ETC", e.path("etc"))
	e.setenv("TMPDIR", e.path("tmp")) // where Adminer counts wrong passwords
}

// adminer is somebody who has logged in.
type adminer struct {
	t      *testing.T
	e      *example
	server string
}

func adminerLogin(t *testing.T, e *example, socket string) adminer {
	t.Helper()
	a := adminer{t, e, "localhost:" + socket}
	form := url.Values{"auth[driver]": {"server"}, "auth[server]": {a.server}, "auth[username]": {databaseUser}, "auth[password]": {"wrong"}, "auth[db]": {""}}
	e.postForm("/adminer/", form).want(t, 403, "Access denied for user")
	form.Set("auth[password]", databasePassword)
	e.load(e.postForm("/adminer/", form).want(t, 200, "Select database", "MariaDB"))
	return a
}

// path is that of a page about a database.
func (a adminer) path(database, query string) string {
	return "/adminer/?server=" + url.QueryEscape(a.server) + "&username=" + databaseUser + "&db=" + database + query
}

// fill sends the form that has a certain field, with others filled in.
func (a adminer) fill(path, field string, values url.Values) page {
	a.t.Helper()
	form := hidden(a.t, a.e.get(path).want(a.t, 200), field)
	maps.Copy(form, values)
	return a.e.postForm(path, form)
}

func (a adminer) makeDatabase(name string) {
	a.t.Helper()
	a.fill(a.path("", "&database="), "name", url.Values{"name": {name}}).want(a.t, 200, "Database has been created")
}

func (a adminer) makeTable(database, name string) {
	a.t.Helper()
	a.makeDatabase(database)
	a.fill(a.path(database, "&create="), "name", url.Values{
		"name": {name}, "auto_increment_col": {"1"},
		"fields[1][field]": {"id"}, "fields[1][type]": {"int"},
		"fields[2][field]": {"name"}, "fields[2][type]": {"varchar"}, "fields[2][length]": {"200"},
		"fields[3][field]": {"picture"}, "fields[3][type]": {"mediumblob"}, "fields[3][null]": {"1"},
	}).want(a.t, 200, "Table has been created", "mediumblob")
}

func (a adminer) insert(database, table, name string, picture []byte) {
	a.t.Helper()
	path := a.path(database, "&edit="+table)
	form := hidden(a.t, a.e.get(path).want(a.t, 200), "fields[name]")
	fields := map[string]string{"fields[id]": "", "fields[name]": name, "save": "1", "token": form.Get("token")}
	a.e.upload(path, "fields-picture", "picture.png", picture, fields).want(a.t, 200, "Item 1 has been inserted")
}

func (a adminer) command(database, text string) page {
	a.t.Helper()
	return a.fill(a.path(database, "&sql="), "query", url.Values{"query": {text}})
}

func (a adminer) wantPicture(database string, picture []byte) {
	a.t.Helper()
	p := a.e.get(a.path(database, "&download=goods&field=picture&where%5Bid%5D=1")).want(a.t, 200)
	if p.body != string(picture) || !strings.HasPrefix(p.header.Get("Content-Disposition"), "attachment;") {
		a.t.Errorf("%s: %d bytes came back of a picture of %d, with %v", p.url, len(p.body), len(picture), p.header)
	}
}

// export downloads a table with its content.
func (a adminer) export(database, table, output string) string {
	a.t.Helper()
	p := a.fill(a.path(database, "&dump="), "output", url.Values{
		"output": {output}, "format": {"sql"}, "db_style": {""}, "table_style": {"DROP+CREATE"}, "data_style": {"INSERT"}, "tables[]": {table}, "data[]": {table},
	}).want(a.t, 200)
	if !strings.HasPrefix(p.header.Get("Content-Disposition"), "attachment; filename="+table) {
		a.t.Errorf("%s: exported with %v", p.url, p.header)
	}
	return p.body
}

// withoutTime is an export without its last line.
func withoutTime(export string) string {
	return export[:max(strings.LastIndex(export, "\n-- "), 0)]
}

// load uploads what was exported.
func (a adminer) load(database, dump string) page {
	a.t.Helper()
	path := a.path(database, "&import=")
	form := hidden(a.t, a.e.get(path).want(a.t, 200), "sql_file[]")
	return a.e.upload(path, "sql_file[]", "dump.sql", []byte(dump), map[string]string{"error_stops": "1", "only_errors": "1", "token": form.Get("token")})
}
