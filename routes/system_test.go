package routes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckSystem(t *testing.T) {
	folder := t.TempDir()
	for name, mode := range map[string]os.FileMode{"run": 0o700, "data": 0o600, "c.pem": 0o600} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"www/sent", "www/protected"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const good = `gateway {
  spool_dir = "www"
  user      = "0"
  access_log {
    path = "www/access.log"
  }
}
pool "php" {
  mpm = "prefork"
  php {
    command = ["./run"]
  }
}
pool "fcgi" {
  mpm = "prefork"
  fastcgi {
    command = ["sh"]
    dir     = "www"
  }
}
pool "scripts" {
  mpm = "prefork"
}
site "localhost" {
  listen = ["127.0.0.1:8443 tls"]
  root   = "www"
  tls {
    certificate = "c.pem"
    key         = "c.pem"
  }
  route "/f/*" {
    pool = "fcgi"
  }
  route "/c/*" {
    pool = "scripts"
    cgi {
      root = "www"
    }
  }
  route "/s" {
    pool = "scripts"
    cgi {
      script = "run"
    }
  }
  route "/*" {
    pool = "php"
    root = "www/"
    send_file {
      pool     = "scripts"
      roots    = ["www/sent"]
      internal = { "/protected/" = "www/protected" }
    }
  }
}
`
	rows := []struct {
		name     string
		old, new string // what is changed in the good configuration
		want     string // of the diagnostics; empty: none
	}{
		{"nothing is missing", "", "", ""},
		{"php is not installed", `"./run"`, `"php-cgi-none"`, `"php-cgi-none" is not installed in a folder of PATH.`},
		{"php's path does not exist", `"./run"`, `"./none"`, `none" is not installed. Install it`},
		{"php's path is not executable", `"./run"`, `"./data"`, "Command not executable"},
		{"a pool's group is unknown", `pool "scripts" {`, "pool \"scripts\" {\ngroup = \"no-such-group\"", `There is no group "no-such-group"`},
		{"a group may be a number", `pool "scripts" {`, "pool \"scripts\" {\ngroup = \"4711\"", ""},
		{"a pool's folder is missing", `pool "scripts" {`, "pool \"scripts\" {\ndir = \"none\"", "Folder not found"},
		{"python is not installed", "fastcgi {\n    command = [\"sh\"]", "wsgi {\nmodule = \"a:b\"\npython = \"python-none\"", `"python-none" is not installed`},
		{"an HTTP application is not installed", "fastcgi {\n    command = [\"sh\"]", "http {\n    command = [\"sh-none\"]", `"sh-none" is not installed`},
		{"a FastCGI program is not installed", `["sh"]`, `["sh-none"]`, `"sh-none" is not installed`},
		{"its folder is missing", `dir     = "www"`, `dir = "none"`, "Folder not found"},
		{"the root is missing", `root   = "www"`, `root = "none"`, "none: no such file or directory."},
		{"the root is a file", `root   = "www"`, `root = "data"`, "data is not a folder."},
		{"a route's root is missing", `root = "www/"`, `root = "none"`, "Folder not found"},
		{"the CGI folder is missing", `      root = "www"`, `      root = "none"`, "Folder not found"},
		{"the CGI script is not executable", `script = "run"`, `script = "data"`, "Command not executable"},
		{"a folder of X-Sendfile is missing", `"www/sent"`, `"none"`, "none: no such file or directory."},
		{"a folder of X-Accel-Redirect is missing", `"www/protected"`, `"none"`, "none: no such file or directory."},
		{"the user is unknown", `"0"`, `"nobody-of-that-name"`, `There is no user "nobody-of-that-name"`},
		{"the key is missing", `key         = "c.pem"`, `key = "none"`, "File not readable"},
		{"the certificate is a folder", `certificate = "c.pem"`, `certificate = "www"`, "www is not a regular file."},
		{"the log's folder is missing", `"www/access.log"`, `"none/access.log"`, "none: no such file or directory."},
		{"the spool folder is missing", `spool_dir = "www"`, `spool_dir = "none"`, "Folder not found"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			name := filepath.Join(folder, "site.hcl")
			c, diags := Parse(name, []byte(strings.Replace(good, row.old, row.new, 1)))
			if diags.Errors()+diags.Warnings() > 0 {
				t.Fatalf("Parse:\n%s", render(t, diags))
			}
			found := c.CheckSystem()
			out := string(render(t, found))
			flat := strings.Join(strings.Fields(out), " ")
			if row.want == "" && out != "" || !strings.Contains(flat, row.want) {
				t.Errorf("CheckSystem found, want %q:\n%s", row.want, out)
			}
			if row.want != "" && (!strings.Contains(out, "site.hcl line") || found.Errors() != 1) {
				t.Errorf("CheckSystem found %d errors, want 1 with its place:\n%s", found.Errors(), out)
			}
		})
	}
}

func TestPlacesOfTLSWords(t *testing.T) {
	c, diags := Parse("site.hcl", []byte(`tls {
  ca_root = "root.pem"
  dns {
    command = ["/hook"]
  }
}
pool "edge" {
  mpm = "event"
}
site "a.example" {
  listen = [":443"]
  tls {
    ca_root = "other.pem"
    client_auth {
      ca = "clients.pem"
    }
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "b.example" {
  listen = [":443"]
  tls {
    certificate = ["a.pem",
      "b.pem"]
    key = ["a.key", "b.key"]
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
`))
	if diags.Errors()+diags.Warnings() > 0 {
		t.Fatalf("Parse:\n%s", render(t, diags))
	}
	rows := []struct{ name, got, want string }{
		{"what the site says stands there", c.PlaceOf(0, "ca_root"), "site.hcl:13: "},
		{"what it does not say stands in the tls block of all", c.PlaceOf(0, "dns"), "site.hcl:3: "},
		{"a word of a nested block", c.PlaceOf(0, "client_auth.ca"), "site.hcl:15: "},
		{"the second of a list", c.PlaceOfCertificate(1, 1, "certificate"), "site.hcl:27: "},
		{"what nobody says has no place", c.PlaceOf(1, "dns"), ""},
		{"a literal has no places", new(Config).PlaceOf(0, "dns"), ""},
	}
	for _, row := range rows {
		if row.got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, row.got, row.want)
		}
	}
}

func TestCheckSystemOfALiteral(t *testing.T) {
	c := &Config{Sites: []Site{{Root: "/no/such/folder"}}}
	if found := c.CheckSystem(); found.Errors() != 1 || strings.Contains(string(render(t, found)), " line ") {
		t.Errorf("CheckSystem of a literal:\n%s\nwant one error without a place", render(t, found))
	}
}

func TestPHPFPMIsFoundByItsVersion(t *testing.T) {
	for name, row := range map[string]struct {
		installed []string // a dash before those that can't be run
		command   string
		want      string // empty: not found here
	}{
		"the plain name comes first":     {[]string{"php-fpm", "php-fpm8.2"}, "php-fpm", "php-fpm"},
		"of several it is the newest":    {[]string{"php-fpm8.9", "php-fpm8.10", "php-fpm7.4"}, "php-fpm", "php-fpm8.10"},
		"one that can't be run is not":   {[]string{"php-fpm8.2", "-php-fpm8.3"}, "php-fpm", "php-fpm8.2"},
		"a tool for it is not one":       {[]string{"php-fpm-healthcheck"}, "php-fpm", ""},
		"others have no version":         {[]string{"php-cgi8.2"}, "php-cgi", ""},
		"a version that is named counts": {[]string{"php-fpm8.2", "php-fpm8.3"}, "php-fpm8.2", "php-fpm8.2"},
	} {
		folder := t.TempDir()
		t.Setenv("PATH", folder)
		for _, program := range row.installed {
			program, broken := strings.CutPrefix(program, "-")
			mode := os.FileMode(0o755)
			if broken {
				mode = 0o644
			}
			if err := os.WriteFile(filepath.Join(folder, program), nil, mode); err != nil {
				t.Fatal(err)
			}
		}
		got, err := LookPath(row.command)
		if filepath.Dir(got) != folder { // it is of this machine
			got = ""
		}
		if want := filepath.Join(folder, row.want); row.want != "" && got != want || row.want == "" && got != "" {
			t.Errorf("%s: LookPath(%q) = %q, %v; want %q", name, row.command, got, err, row.want)
		}
	}
}

func TestErrorPagesThatAreNotThere(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "there.html"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, diags := Parse(filepath.Join(folder, "site.hcl"), []byte(`pool "edge" { mpm = "event" }
site "localhost" {
  listen = [":80"]
  root   = "."
  error_page "404" { path = "/there.html" }
  error_page "403" { path = "/none.html" }
  error_page "5xx" { path = "/{status}.html" }
  error_page "410" { path = "/fixed" }
  route "/fixed" {
    pool = "edge"
    respond {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`))
	if diags.Errors()+diags.Warnings() > 0 {
		t.Fatalf("Parse:\n%s", render(t, diags))
	}
	found := c.CheckSystem()
	out := string(render(t, found))
	if found.Errors() != 0 || found.Warnings() != 1 || !strings.Contains(out, "Error page not found") || !strings.Contains(out, "site.hcl line 6,") {
		t.Errorf("CheckSystem found, want one warning of /none.html in line 6:\n%s", out)
	}
}
