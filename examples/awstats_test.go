package examples_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gateway/internal/gatewaytest"
)

const (
	analyst         = "ada"
	analystPassword = "correct horse"
	firefox         = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	googlebot       = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
)

func testAWStats(t *testing.T, e *example) {
	needs(t, "perl")
	installAWStats(t, e, packaged(t, "awstats", "usr/lib/cgi-bin/awstats.pl"))
	e.offerTLS()
	e.start()

	lines := visitSite(t, e)
	waitLog(t, e, func(log string) bool { return strings.Count(log, "\n") == lines })
	update := exec.Command(e.path("cgi-bin/awstats.pl"), "-config=awstats", "-update") // as its job for cron does
	asChild(t, update)
	out, err := update.CombinedOutput()
	want := fmt.Sprintf("Parsed lines in file: %d\n Found 0 dropped records,\n Found 0 comments,\n Found 0 blank records,\n Found 0 corrupted records,\n Found 0 old records,\n Found %[1]d new qualified records.", lines)
	if !strings.Contains(string(out), want) {
		t.Errorf("%s: %v\n%s\nwant\n%s", update, err, out, want)
	}

	e.useTLS()
	e.get("/cgi-bin/awstats.pl").want(t, 401)
	awstatsPage(t, e, "").want(t, 200, "<frameset")
	main := awstatsPage(t, e, "&framename=mainright").want(t, 200, "/docs/a%20page.html", "Firefox", "Googlebot", "Not Found", "www.google.com")
	e.load(main)
	awstatsPage(t, e, "&framename=mainright&output=errors404").want(t, 200, "/none.html", "/a%22b")
	visit(t, e, "/docs/later.html", firefox, "").want(t, 200)
	waitLog(t, e, func(log string) bool { return strings.Contains(log, "/docs/later.html") })
	awstatsPage(t, e, "&framename=mainright&output=urldetail&update=1").want(t, 200, "/docs/a%20page.html", "/docs/later.html")

	e.get("/awstats-icon/other/hx.png").want(t, 200, "PNG")
	e.get("/cgi-bin/").want(t, 404)
	if log := e.gateway.Log(); strings.Contains(log, "wrote to its error stream") {
		t.Errorf("AWStats complained:\n%s", log)
	}
}

// installAWStats makes the folders of the package's program, which looks beside itself for its configuration.
func installAWStats(t *testing.T, e *example, root string) {
	t.Helper()
	for _, folder := range []string{"cgi-bin", "data", "logs", "documents/docs"} {
		check(t, os.MkdirAll(e.path(folder), 0o755))
	}
	program, err := os.ReadFile(filepath.Join(root, "usr/lib/cgi-bin/awstats.pl"))
	check(t, err)
	check(t, os.WriteFile(e.path("cgi-bin/awstats.pl"), program, 0o755))
	share := filepath.Join(root, "usr/share/awstats")
	for _, folder := range []string{"lib", "plugins"} {
		check(t, os.Symlink(filepath.Join(share, folder), e.path("cgi-bin/"+folder)))
	}
	conf, err := os.ReadFile(filepath.Join(root, "etc/awstats/awstats.conf"))
	check(t, err)
	conf = bytes.ReplaceAll(conf, []byte("/etc/awstats/"), []byte(e.path("cgi-bin")+"/"))
	check(t, os.WriteFile(e.path("cgi-bin/awstats.conf"), conf, 0o644))
	local := fmt.Appendf(nil, "LogFile=%q\nLogFormat=1\nSiteDomain=\"localhost\"\nDirData=%q\nDirLang=%q\nAllowToUpdateStatsFromBrowser=1\nDNSLookup=0\n",
		e.path("logs/access.log"), e.path("data"), filepath.Join(share, "lang"))
	check(t, os.WriteFile(e.path("cgi-bin/awstats.conf.local"), local, 0o644))
	for _, name := range []string{"index.html", "docs/a page.html", "docs/later.html"} {
		check(t, os.WriteFile(e.path("documents/"+name), []byte("<p>"+name+"</p>\n"), 0o644))
	}
	writePasswords(t, e.path("statistics.htpasswd"), analyst, analystPassword)
	e.give(e.path("data"))
	e.give(e.path("logs"))
	e.setenv("ACCESS_LOG", e.path("logs/access.log"))
	e.setenv("DOCUMENTS", e.path("documents"))
	e.setenv("AWSTATS", e.path("cgi-bin/awstats.pl"))
	e.setenv("AWSTATS_ICONS", filepath.Join(root, "usr/share/awstats/icon"))
	e.setenv("PASSWORDS", e.path("statistics.htpasswd"))
}

func waitLog(t *testing.T, e *example, has func(log string) bool) {
	t.Helper()
	check(t, gatewaytest.Wait(func() (bool, error) {
		log, err := os.ReadFile(e.path("logs/access.log"))
		return has(string(log)), err
	}))
}

// visitSite asks for what a log can go wrong with, and returns how often it asked.
func visitSite(t *testing.T, e *example) int {
	t.Helper()
	visits := []struct {
		path, agent, referer string
		status               int
	}{
		{"/", firefox, "", 200},
		{"/index.html", firefox, "https://www.google.com/search?q=gateway+\"quoted\"", 200},
		{"/docs/a%20page.html", firefox, "http://127.0.0.1/", 200},
		{"/docs/a%20page.html?q=%22x%22&y=[z]", "", "-", 200},
		{"/index.html", googlebot, "", 200},
		{"/index.html", `a "quoted" \agent\ with [brackets] - and 'more'`, "", 200},
		{"/index.html", "Größe\tund \xff Bytes", "", 200},
		{"/none.html", firefox, "", 404},
		{"/a%22b", firefox, "", 404},
		{"/%E4%BD%A0%0Aend", firefox, "", 400},
		{"/../../etc/passwd", firefox, "", 400},
	}
	for _, v := range visits {
		visit(t, e, v.path, v.agent, v.referer).want(t, v.status)
	}
	for _, request := range rawRequests {
		conn, err := net.Dial("tcp", e.address)
		check(t, err)
		_, err = io.WriteString(conn, request)
		check(t, err)
		_, err = bufio.NewReader(conn).ReadString('\n')
		check(t, err)
		check(t, conn.Close())
	}
	return len(visits) + len(rawRequests)
}

func visit(t *testing.T, e *example, path, agent, referer string) page {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, e.url(path), nil)
	check(t, err)
	r.Header.Set("User-Agent", agent)
	if referer != "" {
		r.Header.Set("Referer", referer)
	}
	return e.do(r)
}

// rawRequests are such as no browser sends.
var rawRequests = []string{
	"GET /index.html?\"raw\" HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"PUT /index.html HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"GET /index.html HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-3\r\n\r\n",
	"GET http://localhost/index.html HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"GET /index.html HTTP/1.0\r\n\r\n",
	"GET /index.html HTTP/1.1\r\n\r\n",
	"GET / index.html HTTP/1.1\r\nHost: localhost\r\n\r\n",
}

// awstatsPage asks with the password.
func awstatsPage(t *testing.T, e *example, query string) page {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, e.url("/cgi-bin/awstats.pl?lang=en"+query), nil)
	check(t, err)
	r.SetBasicAuth(analyst, analystPassword)
	return e.do(r)
}
