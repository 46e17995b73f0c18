package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gateway/internal/gatewaytest"
)

// attackSite is a site as careless as they come: uploads below the document root, scripts next to secrets.
const attackSite = `
gateway {
  runtime_dir = "%[1]s/run"
  state_dir   = "%[1]s/state"
}
pool "edge" { mpm = "event" }
pool "scripts" {
  mpm                 = "prefork"
  start_servers       = 1
  max_request_workers = 2
}
pool "php" {
  mpm                 = "prefork"
  start_servers       = 1
  max_request_workers = 2
  php {}
}
site "localhost" {
  listen = ["%[2]s"]
  root   = "%[1]s/www"
  route "/cgi-bin/*" {
    pool = "scripts"
    cgi { root = "%[1]s/cgi" }
  }
  route "/static/*" {
    pool = "edge"
    static {}
  }
  route "*.php" { pool = "php" }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`

// The files of the site. What executed or leaked would show is spelled in two parts, so that the source does not hold it.
var attackFiles = map[string]string{
	"secret.txt":                   "OUTSIDE" + "-ROOT",
	"www/index.html":               "<h1>home</h1>",
	"www/info.php":                 `<?php header('Content-Type: text/plain'); echo "INFO\n"; foreach (array_merge(["argc=" . ($_SERVER["argc"] ?? 0)], array_keys($_SERVER)) as $k) echo "$k\n";`,
	"www/.env":                     "SECRET" + "-DOTFILE",
	"www/.htpasswd":                "SECRET" + "-DOTFILE",
	"www/.git/config":              "SECRET" + "-DOTFILE",
	"www/wp-config.php.save":       "<?php SECRET" + "-DOTFILE",
	"www/info.php~":                "<?php SECRET" + "-DOTFILE",
	"www/static/a.css":             "a {}",
	"www/upload/evil.jpg":          `<?php echo "EVIL "."EXECUTED";`,
	"www/upload/evil.php.jpg":      `<?php echo "EVIL "."EXECUTED";`,
	"www/upload/shell\uFE52php":    `<?php echo "EVIL "."EXECUTED";`,
	"www/upload/shell.\uFF50hp":    `<?php echo "EVIL "."EXECUTED";`,
	"www/upload/shell.\u24DFhp":    `<?php echo "EVIL "."EXECUTED";`,
	"www/upload/shell.\u017Fhp":    `<?php echo "EVIL "."EXECUTED";`,
	"www/upload/ȺȺȺȺshell.php.txt": `<?php echo "EVIL "."EXECUTED";`,
	"cgi/env.cgi":                  "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'; echo \"ARGS=$#\"; env\n",
}

// forbidden is what no answer may hold, whatever was asked.
var forbidden = []string{"root:x:0:", "OUTSIDE-ROOT", "SECRET-DOTFILE", "EVIL EXECUTED", "#!/bin/sh", "uid=", "Usage: php", "argc=1", "argc=2", "ARGS=1", "ARGS=2"}

// attackTargets lists request targets, most of which stand for a published attack.
func attackTargets() []string {
	var targets []string
	// Path traversal in every spelling that was ever decoded twice, late, or by another rule (CVE-2021-41773, CVE-2021-42013).
	for _, up := range []string{
		"../", "%2e%2e/", "..%2f", "%2e%2e%2f", ".%2e/", "%2e./", "%252e%252e/", "..%252f", "%%32%65%%32%65/", ".%%32%65/",
		"..%c0%af", "%c0%ae%c0%ae/", "..%e0%80%af", "%uff0e%uff0e/", "..\\", "..%5c", "%2e%2e%5c", "..;/", "..%00/", "..%0d/", "..%09/",
		".../", "....//", "..././", "..%2f%2f", "/../", "//../", "%2e%2e//", "..%ef%bc%8f", "..%u2215", "..%3b/", "..%20/", "%20../", "..?/", "..#/",
	} {
		for _, base := range []string{"/", "/cgi-bin/", "/static/", "/info.php/"} {
			targets = append(targets, base+strings.Repeat(up, 12)+"etc/passwd", base+up+"secret.txt")
		}
	}
	for _, name := range []string{"info.php", "cgi-bin/env.cgi"} { // source disclosure
		for _, tail := range []string{"%00", "%20", ".", "%2e", "::$DATA", "/", "%2f", "~", ".bak", ";x", "%3fx", "%0a", "%5c", "/.", "%00.html", "%09", "%c0%80"} {
			targets = append(targets, "/"+name+tail, "/%2e/"+name+tail, "//"+name+tail, "/x/../"+name+tail)
		}
	}
	targets = append(targets, "/INFO.php", "/info.PHP", "/info.ph%70", "/info%2ephp", "/.info.php.swp", "/CGI-BIN/env.cgi", "/cgi-bin/", "/cgi-bin",
		"/wp-config.php.save", "/info.php~", "/static../secret.txt", "/static..%2fsecret.txt", "/staticsecret.txt", "/static/../../secret.txt")
	// An uploaded picture must not run, whatever stands behind it (PATH_INFO, NUL, Unicode look-alikes).
	for _, name := range []string{"evil.jpg", "evil.php.jpg", "shell%EF%B9%92php", "shell.%EF%BD%90hp", "shell.%E2%93%9Fhp", "shell.%C5%BFhp", "%C8%BA%C8%BA%C8%BA%C8%BAshell.php.txt"} {
		for _, tail := range []string{"", "/x.php", "%00.php", "/.php", "%2fx.php", ";.php", "%0a.php", "/x.php/y.php", "%20/x.php", "/%2e/x.php", ".php"} {
			targets = append(targets, "/upload/"+name+tail)
		}
	}
	// PATH_INFO (CVE-2019-11043) and arguments (CVE-2012-1823, CVE-2024-4577).
	targets = append(targets, "/info.php/PHP%0Ais_the_shittiest_lang.php?"+strings.Repeat("Q", 1754), "/info.php/%0aPHP_VALUE", "/info.php/%ff%fe", "/info.php/"+strings.Repeat("a", 4000))
	for _, query := range []string{"-s", "-h", "--version", "%2ds", "-d+allow_url_include%3d1+-d+auto_prepend_file%3d/etc/passwd", "%ADd+allow_url_include%3d1+%ADd+auto_prepend_file%3d/etc/passwd", "-T+100", "-n", "-c+/tmp"} {
		targets = append(targets, "/info.php?"+query, "/cgi-bin/env.cgi?"+query)
	}
	for _, name := range []string{".env", ".htpasswd", ".git/config", "%2egit/config", ".%67it/config", "x/../.env", "/.env", "./.env", ".env%20", ".env/", ".env%00.html"} {
		targets = append(targets, "/"+name)
	}
	// Special files are answered at once, or this test hangs.
	return append(targets, "/fifo", "/link-out.txt", "/loop", "/loop/loop/x", "/unreadable.txt", "/"+strings.Repeat("a", 256), "/"+strings.Repeat("a/", 1000))
}

func TestPathAttacks(t *testing.T) {
	if err := gatewaytest.Missing("php-cgi"); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := plant(t, dir)
	binary, err := gatewaytest.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gatewaytest.Start(gatewaytest.Command{
		Binary: binary, Config: filepath.Join(dir, "site.hcl"), Socket: filepath.Join(dir, "run", "admin.sock"),
		Dir: dir, Env: os.Environ(), Log: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Kill() })
	for _, honest := range []string{"/info.php", "/cgi-bin/env.cgi", "/upload/evil.jpg"} {
		if got := string(attack(t, address, honest)); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Fatalf("the site does not work: %s: %.200q", honest, got)
		}
	}
	for _, target := range attackTargets() {
		got := attack(t, address, target)
		if !bytes.HasPrefix(got, []byte("HTTP/1.1 ")) || bytes.HasPrefix(got, []byte("HTTP/1.1 5")) {
			t.Errorf("GET %.100s: %.60q, want an answer below 500", target, got)
		}
		for _, word := range forbidden {
			if bytes.Contains(got, []byte(word)) {
				t.Errorf("GET %.100s: the answer holds %q: %.300q", target, word, got)
			}
		}
	}
	if err := g.Sane(); err != nil {
		t.Error(err)
	}
}

// plant makes the site in dir, and returns its address.
func plant(t *testing.T, dir string) string {
	t.Helper()
	address, err := gatewaytest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	www := filepath.Join(dir, "www")
	steps := []error{}
	for name, text := range attackFiles {
		path := filepath.Join(dir, name)
		steps = append(steps, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755))
	}
	steps = append(steps,
		os.Symlink("../secret.txt", filepath.Join(www, "link-out.txt")), os.Symlink("loop", filepath.Join(www, "loop")),
		syscall.Mkfifo(filepath.Join(www, "fifo"), 0o644), os.WriteFile(filepath.Join(www, "unreadable.txt"), []byte("x"), 0),
		os.WriteFile(filepath.Join(dir, "site.hcl"), fmt.Appendf(nil, attackSite, dir, address), 0o644))
	for _, err := range steps {
		if err != nil {
			t.Fatal(err)
		}
	}
	return address
}

// attack sends a target as it stands: no client library has a say in it.
func attack(t *testing.T, address, target string) []byte {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(gatewaytest.Patience))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", target)
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("GET %.100s: %v", target, err)
	}
	return got
}
