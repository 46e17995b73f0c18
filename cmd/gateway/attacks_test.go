package main_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"

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
pool "wsgi" {
  mpm                 = "prefork"
  start_servers       = 1
  max_request_workers = 1
  wsgi {
    module = "environ"
    dir    = "%[1]s/wsgi"
    python = "/usr/bin/python3"
  }
}
site "localhost" {
  listen = ["%[2]s h2c"]
  root   = "%[1]s/www"
  route "/cgi-bin/locked.cgi" {
    pool = "scripts"
    deny = ["all"]
    cgi { root = "%[1]s/cgi" }
  }
  route "/cgi-bin/*" {
    pool = "scripts"
    cgi { root = "%[1]s/cgi" }
  }
  route "/static/*" {
    pool = "edge"
    static {}
  }
  route "/locked/*" {
    pool = "edge"
    deny = ["all"]
    static {}
  }
  route "/locked.php" {
    pool = "php"
    deny = ["all"]
  }
  route "/inside.php" {
    pool     = "php"
    internal = true
  }
  route "/gone/*" {
    pool = "edge"
    rewrite "" { status = 410 }
    error_page "410" { path = "/cgi-bin/local.cgi" }
    static {}
  }
  route "/page/*" {
    pool = "edge"
    rewrite "^/page/(.*)$" { to = "/env.php?page={1}" }
    static {}
  }
  route "/doc/*" {
    pool = "edge"
    rewrite "^/doc/(.*)$" { to = "/upload/{1}.html" }
    static {}
  }
  route "/raw/*" {
    pool = "edge"
    rewrite "^/raw/(.*)$" { to = "/{1}" }
    static {}
  }
  route "/moved/*" {
    pool = "edge"
    rewrite "^/moved/(.*)$" {
      to     = "https://new.example{1}"
      status = 302
    }
    static {}
  }
  route "/local/*" {
    pool = "edge"
    redirect { to = "/{header.X-To}" }
  }
  route "/app/*" {
    pool = "edge"
    request_header {
      set = { X-Real-Ip = "{remote_ip}" }
    }
    proxy { to = ["http://%[3]s"] }
  }
  route "/two/*" {
    pool = "edge"
    proxy { to = ["h2c://%[4]s"] }
  }
  route "/wsgi/*" { pool = "wsgi" }
  route "*.php" { pool = "php" }
  route "/*" {
    pool = "edge"
    static { listing = true }
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
	"www/upload/note.txt":          "SECRET" + "-NOTE",
	"www/locked.php":               "<?php echo 'LOCKED ', 'RAN';",
	"www/inside.php":               "<?php echo 'LOCKED ', 'RAN';",
	"www/locked/a.php":             "<?php echo 'LOCKED ', 'RAN';",
	"www/locked/a.txt":             "LOCKED" + "-FILE",
	"www/env.php":                  "<?php echo \"RAN\\n\"; foreach ($_SERVER + getenv() as $k => $v) echo \"$k=\", is_array($v) ? 'ARRAY' : $v, \"\\n\";",
	"www/digits.txt":               "0123456789",
	"www/evil.example/a.txt":       "a",
	"wsgi/environ.py":              "def application(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    return [('%s=%s\\n' % i).encode() for i in sorted(environ.items())]\n",
	"cgi/env.cgi":                  "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'; echo \"ARGS=$#\"; env\n",
}

// TestAttacks sends what was published against other servers to the running gateway, with real scripts and servers behind it. The names
// of its rows are those in docs/security.md.
func TestAttacks(t *testing.T) {
	if err := gatewaytest.Missing("php-cgi", "/usr/bin/python3"); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := plant(t, dir, treacherous(t), treacherous2(t))
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
	before, err := g.Status()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("paths", func(t *testing.T) { testPathAttacks(t, address) })
	t.Run("requests", func(t *testing.T) { testRequestAttacks(t, address) })
	t.Run("conversations", func(t *testing.T) { testConversations(t, address) })
	t.Run("CVE-2024-38477: none of this has ended the front", func(t *testing.T) {
		if after, err := g.Status(); err != nil || after.FrontPID != before.FrontPID {
			t.Errorf("the front was %d and is %d, %v", before.FrontPID, after.FrontPID, err)
		}
		if err := g.Sane(); err != nil {
			t.Error(err)
		}
	})
}

// plant makes the site in dir, with two servers behind it, and returns its address.
func plant(t *testing.T, dir, server, server2 string) string {
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
	files := maps.Clone(attackFiles)
	for name, output := range attackOutputs {
		files["cgi/"+name+".cgi"] = "#!/bin/sh\n" + output + "\n"
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		steps = append(steps, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755))
	}
	steps = append(steps,
		os.Symlink("../secret.txt", filepath.Join(www, "link-out.txt")), os.Symlink("loop", filepath.Join(www, "loop")),
		syscall.Mkfifo(filepath.Join(www, "fifo"), 0o644), os.WriteFile(filepath.Join(www, "unreadable.txt"), []byte("x"), 0),
		os.WriteFile(filepath.Join(dir, "site.hcl"), fmt.Appendf(nil, attackSite, dir, address, server, server2), 0o644))
	for _, err := range steps {
		if err != nil {
			t.Fatal(err)
		}
	}
	return address
}
