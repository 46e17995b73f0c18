package examples_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"gateway/internal/gatewaytest"
)

const (
	mailUser     = "ada"
	mailPassword = "correct-horse"
)

func testRoundcube(t *testing.T, e *example) {
	needs(t, "php-cgi")
	root := packaged(t, "roundcube-core", "usr/share/roundcube")
	picture := noise(t)
	putMessage(t, e.path("mail/"+mailUser+"/Maildir"), "Grüße aus Köln", picture)
	installRoundcube(t, e, root, startDovecot(t, e))
	e.offerTLS()
	e.start()

	first := e.get("/").want(t, 200, "Roundcube Webmail", `name="_pass"`)
	e.useTLS()
	if first.url != e.url("/") {
		t.Errorf("/ led to %s", first.url)
	}
	e.load(first)
	roundcubeFiles(t, e)

	// What nobody may see.
	for _, path := range []string{"/config/config.inc.php", "/../config/", "/logs/", "/SQL/sqlite.initial.sql", "/program/include/iniset.php", "/skins/elastic/meta.json",
		"/plugins/jqueryui/jqueryui.php", "/plugins/jqueryui/config.inc.php", "/.htaccess"} {
		if got := e.get(path); got.status != 404 && got.status != 400 {
			t.Errorf("%s: status %d\n%s", path, got.status, got.body)
		}
	}

	r := roundcubeLogin(t, e)
	r.ask("list", url.Values{"_mbox": {"INBOX"}}).want(t, 200, `Grüße aus Köln`, "add_message_row")
	shown := e.get("/?_task=mail&_action=show&_mbox=INBOX&_uid=1").want(t, 200, "Grüße aus Köln", "Schöne Grüße &amp; &lt;b&gt;", "Wolke.png")
	e.load(shown)
	if got := shown.header.Get("X-Robots-Tag"); got != "noindex, nofollow" {
		t.Errorf("X-Robots-Tag %q", got)
	}
	e.get("/?_task=mail&_action=get&_mbox=INBOX&_uid=1&_part=2&_download=1").want(t, 200, `"server_error":403`) // it lacks the token
	r.wantAttachment("INBOX", picture)
	r.ask("search", url.Values{"_mbox": {"INBOX"}, "_q": {"Köln"}, "_headers": {"subject"}}).want(t, 200, "Grüße aus Köln")

	r.draft("A draft: äöü", "Mit Anhang", picture)
	r.ask("list", url.Values{"_mbox": {"Drafts"}}).want(t, 200, "A draft: äöü")
	e.get("/?_task=mail&_action=show&_mbox=Drafts&_uid=1").want(t, 200, "Mit Anhang")
	r.wantAttachment("Drafts", picture)

	e.get("/?_task=logout&_token="+r.token).want(t, 200, `name="_pass"`)
	e.get("/?_task=mail&_action=show&_mbox=INBOX&_uid=1").want(t, 200, `name="_pass"`)
}

// installRoundcube puts the package's links below the test's folder, with a configuration that names a database and the IMAP server.
func installRoundcube(t *testing.T, e *example, root, imap string) {
	t.Helper()
	check(t, os.CopyFS(e.path("roundcube"), os.DirFS(filepath.Join(root, "var/lib/roundcube"))))
	check(t, os.CopyFS(e.path("conf"), os.DirFS(filepath.Join(root, "etc/roundcube"))))
	check(t, os.WriteFile(e.path("conf/config.inc.php"), fmt.Appendf(nil, `<?php
$config = [
  'db_dsnw' => 'sqlite:///%[1]s/db/roundcube.sqlite?mode=0640',
  'imap_host' => '%[2]s',
  'log_driver' => 'stdout',
  'temp_dir' => '%[1]s/roundcube/temp',
  'des_key' => '0123456789abcdefghijklmn',
  'plugins' => ['jqueryui'],
  'drafts_mbox' => 'Drafts',
];
`, e.folder, imap), 0o644))
	check(t, os.Mkdir(e.path("db"), 0o755))
	e.give(e.path("db"))
	e.give(e.path("roundcube/temp"))
	e.setenv("ROUNDCUBE", e.path("roundcube/public_html"))
	e.setenv("ROUNDCUBE_CONFIG", e.path("conf"))
}

// roundcubeFiles asks for what the pages bring with them, through links within the package and to others.
func roundcubeFiles(t *testing.T, e *example) {
	t.Helper()
	for path, text := range map[string]string{
		"/skins/elastic/styles/styles.min.css":          "body",
		"/skins/elastic/deps/bootstrap.min.css":         "Bootstrap",
		"/program/js/jquery.min.js":                     "jQuery",
		"/plugins/jqueryui/js/jquery-ui.min.js":         "jQuery UI",
		"/skins/elastic/images/logo.svg":                "<svg",
		"/program/resources/blocked.gif":                "GIF89a",
		"/skins/elastic/fonts/roboto-v29-regular.woff2": "wOF2",
	} {
		p := e.get(path).want(t, 200, text)
		if got := p.header.Get("Cache-Control"); got != "public, max-age=2592000" {
			t.Errorf("%s: Cache-Control %q: it did not come from the event pool", path, got)
		}
	}
	e.get("/favicon.ico").want(t, 200)
}

// roundcubeSession is what the script of the page in a browser keeps.
type roundcubeSession struct {
	t     *testing.T
	e     *example
	token string
}

var (
	requestToken = regexp.MustCompile(`"request_token":"([^"]+)"`)
	jsonEscape   = regexp.MustCompile(`\\u00[0-9a-f]{2}`)
)

func roundcubeLogin(t *testing.T, e *example) *roundcubeSession {
	t.Helper()
	form := hidden(t, e.get("/").want(t, 200), "_pass")
	form.Set("_user", mailUser)
	form.Set("_pass", "wrong")
	form = hidden(t, e.postForm("/?_task=login", form).want(t, 401, "Login failed"), "_pass")
	form.Set("_user", mailUser)
	form.Set("_pass", mailPassword)
	inbox := e.postForm("/?_task=login", form).want(t, 200, "messagelist")
	e.load(inbox)
	token := requestToken.FindStringSubmatch(inbox.body)
	if token == nil {
		t.Fatalf("%s: no token in\n%s", inbox.url, inbox.body)
	}
	return &roundcubeSession{t, e, token[1]}
}

// ask sends what the script in the browser sends.
func (s *roundcubeSession) ask(action string, query url.Values) page {
	s.t.Helper()
	query.Set("_task", "mail")
	query.Set("_action", action)
	query.Set("_remote", "1")
	r, err := http.NewRequest(http.MethodGet, s.e.url("/?"+query.Encode()), nil)
	check(s.t, err)
	r.Header.Set("X-Requested-With", "XMLHttpRequest")
	r.Header.Set("X-Roundcube-Request", s.token)
	return unescapeJSON(s.e.do(r))
}

// wantAttachment downloads the picture of a folder's first message.
func (s *roundcubeSession) wantAttachment(folder string, picture []byte) {
	s.t.Helper()
	p := s.e.get("/?_task=mail&_action=get&_mbox="+folder+"&_uid=1&_part=2&_download=1&_token="+s.token).want(s.t, 200)
	if p.body != string(picture) || p.header.Get("Content-Type") != "image/png" || !strings.Contains(p.header.Get("Content-Disposition"), "Wolke.png") {
		s.t.Errorf("%s: %d bytes came back of a picture of %d, with %v", p.url, len(p.body), len(picture), p.header)
	}
}

// draft writes a message with an attachment, and saves it as a draft.
func (s *roundcubeSession) draft(subject, text string, picture []byte) {
	s.t.Helper()
	compose := s.e.get("/?_task=mail&_action=compose").want(s.t, 200, `name="_subject"`)
	form := hidden(s.t, compose, "_subject")
	id := form.Get("_id")
	s.e.upload("/?_task=mail&_action=upload&_id="+id+"&_uploadid=upload1&_remote=1", "_attachments[]", "Wolke.png", picture, map[string]string{"_token": s.token}).
		want(s.t, 200, "Wolke.png", "add2attachment_list")
	form.Set("_subject", subject)
	form.Set("_message", text)
	form.Set("_to", "grace@localhost")
	form.Set("_from", "1")
	form.Set("_draft", "1")
	s.e.postForm("/?_task=mail&_action=send", form).want(s.t, 200, "Message saved to Drafts")
}

// unescapeJSON has the letters of Latin-1 in a page of JSON as they are.
func unescapeJSON(p page) page {
	p.body = jsonEscape.ReplaceAllStringFunc(p.body, func(s string) string {
		var r rune
		fmt.Sscanf(s[2:], "%x", &r)
		return string(r)
	})
	return p
}

// putMessage delivers a message with a picture to a Maildir.
func putMessage(t *testing.T, maildir, subject string, picture []byte) {
	t.Helper()
	for _, folder := range []string{"cur", "new", "tmp"} {
		check(t, os.MkdirAll(filepath.Join(maildir, folder), 0o755))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: Grace <grace@localhost>\nTo: Ada <ada@localhost>\nSubject: =?utf-8?b?%s?=\nDate: Mon, 5 Jan 2026 10:00:00 +0100\nMessage-ID: <1@localhost>\n",
		base64.StdEncoding.EncodeToString([]byte(subject)))
	fmt.Fprint(&b, "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=part\n\n--part\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nSchöne Grüße & <b>\n\n")
	fmt.Fprint(&b, "--part\nContent-Type: image/png; name=Wolke.png\nContent-Disposition: attachment; filename=Wolke.png\nContent-Transfer-Encoding: base64\n\n")
	lines := base64.StdEncoding.EncodeToString(picture)
	for len(lines) > 76 {
		fmt.Fprintln(&b, lines[:76])
		lines = lines[76:]
	}
	fmt.Fprintf(&b, "%s\n--part--\n", lines)
	check(t, os.WriteFile(filepath.Join(maildir, "new/1.message"), b.Bytes(), 0o644))
}

const dovecot = "/usr/sbin/dovecot"

// dovecotSettings are those of Dovecot 2.3: version 2.4 writes them in other words.
const dovecotSettings = `
base_dir = %[1]s/dovecot/run
state_dir = %[1]s/dovecot
log_path = %[1]s/dovecot/log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_failure_delay = 0
default_internal_user = %[2]s
default_internal_group = %[3]s
default_login_user = %[2]s
first_valid_uid = 1
mail_location = maildir:~/Maildir
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  chroot =
  inet_listener imap {
    port = %[4]s
  }
  inet_listener imaps {
    port = 0
  }
}
passdb {
  driver = static
  args = password=%[5]s
}
userdb {
  driver = static
  args = uid=%[2]s gid=%[3]s home=%[1]s/mail/%%n
}
namespace inbox {
  inbox = yes
  mailbox Drafts {
    auto = subscribe
    special_use = \Drafts
  }
}
`

// startDovecot runs an IMAP server for the mail folder below the test's until the test ends, and returns its address.
func startDovecot(t *testing.T, e *example) (address string) {
	t.Helper()
	out, err := exec.Command(dovecot, "--version").CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("2.3.")) {
		t.Skipf("Dovecot 2.3 (Debian's package dovecot-imapd) is not installed: %s %v", out, err)
	}
	address, err = gatewaytest.FreeAddress()
	check(t, err)
	_, port, _ := strings.Cut(address, ":")
	owner := childUser(t)
	group, err := user.LookupGroupId(owner.Gid)
	check(t, err)
	e.give(e.path("mail"))
	check(t, os.Mkdir(e.path("dovecot"), 0o755))
	conf := e.path("dovecot.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, dovecotSettings, e.folder, owner.Username, group.Name, port, mailPassword), 0o644))

	server := exec.Command(dovecot, "-F", "-c", conf)
	server.Stdout, server.Stderr = os.Stderr, os.Stderr
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal ends the test, which then ends this
	check(t, server.Start())
	t.Cleanup(func() {
		check(t, server.Process.Signal(syscall.SIGTERM))
		if err := server.Wait(); err != nil {
			t.Errorf("dovecot: %v", err)
		}
		if log, err := os.ReadFile(e.path("dovecot/log")); t.Failed() {
			t.Logf("dovecot's log: %s %v", log, err)
		}
	})
	check(t, gatewaytest.Wait(func() (bool, error) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false, nil // not yet
		}
		defer conn.Close()
		greeting := make([]byte, 4)
		_, err = io.ReadFull(conn, greeting)
		return string(greeting) == "* OK", err
	}))
	return address
}
