package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"gateway/internal/gatewaytest"
)

// pathClass is one way to ask for what is not to be had.
type pathClass struct {
	name    string
	targets []string
}

// pathClasses lists request targets, most of which stand for a published attack.
func pathClasses() []pathClass {
	return []pathClass{
		{"CVE-2021-41773 and CVE-2021-42013: no spelling of two dots leads out of a folder", upwards()},
		{"CVE-2024-38474: nothing behind a script's name, a question mark or NUL, has its source sent", disguised()},
		{"GHSA-3g8v-8r37-cgjm and GHSA-v4h7-cj44-8fc8: an upload does not run, by PATH_INFO, NUL or letters that look like .php", uploads()},
		{"CVE-2012-1823 and CVE-2024-4577: a query is no argument, with a soft hyphen neither", arguments()},
		{"CVE-2019-11043: a line feed or a long query moves no PATH_INFO", []string{
			"/info.php/PHP%0Ais_the_shittiest_lang.php?" + strings.Repeat("Q", 1754), "/info.php/%0aPHP_VALUE", "/info.php/%ff%fe", "/info.php/" + strings.Repeat("a", 4000),
		}},
		{"a route's folder is not left by what only begins like it", []string{"/static../secret.txt", "/static..%2fsecret.txt", "/staticsecret.txt", "/static/../../secret.txt"}},
		{"files with a dot and copies of scripts are not shown", hidden()},
		// They are answered at once, or this test hangs.
		{"pipes, loops and names without end hold nobody", []string{
			"/fifo", "/link-out.txt", "/loop", "/loop/loop/x", "/unreadable.txt", "/" + strings.Repeat("a", 256), "/" + strings.Repeat("a/", 1000),
		}},
	}
}

// upwards spells two dots in every way that was ever decoded twice, late, or by another rule.
func upwards() (targets []string) {
	for _, up := range []string{
		"../", "%2e%2e/", "..%2f", "%2e%2e%2f", ".%2e/", "%2e./", "%252e%252e/", "..%252f", "%%32%65%%32%65/", ".%%32%65/",
		"..%c0%af", "%c0%ae%c0%ae/", "..%e0%80%af", "%uff0e%uff0e/", "..\\", "..%5c", "%2e%2e%5c", "..;/", "..%00/", "..%0d/", "..%09/",
		".../", "....//", "..././", "..%2f%2f", "/../", "//../", "%2e%2e//", "..%ef%bc%8f", "..%u2215", "..%3b/", "..%20/", "%20../", "..?/", "..#/",
	} {
		for _, base := range []string{"/", "/cgi-bin/", "/static/", "/info.php/"} {
			targets = append(targets, base+strings.Repeat(up, 12)+"etc/passwd", base+up+"secret.txt")
		}
	}
	return targets
}

func disguised() []string {
	targets := []string{"/INFO.php", "/info.PHP", "/info.ph%70", "/info%2ephp", "/.info.php.swp", "/CGI-BIN/env.cgi", "/cgi-bin/", "/cgi-bin"}
	for _, name := range []string{"info.php", "cgi-bin/env.cgi"} {
		for _, tail := range []string{"%00", "%20", ".", "%2e", "::$DATA", "/", "%2f", "~", ".bak", ";x", "%3fx", "%0a", "%5c", "/.", "%00.html", "%09", "%c0%80"} {
			targets = append(targets, "/"+name+tail, "/%2e/"+name+tail, "//"+name+tail, "/x/../"+name+tail)
		}
	}
	return targets
}

func uploads() (targets []string) {
	for _, name := range []string{"evil.jpg", "evil.php.jpg", "shell%EF%B9%92php", "shell.%EF%BD%90hp", "shell.%E2%93%9Fhp", "shell.%C5%BFhp", "%C8%BA%C8%BA%C8%BA%C8%BAshell.php.txt"} {
		for _, tail := range []string{"", "/x.php", "%00.php", "/.php", "%2fx.php", ";.php", "%0a.php", "/x.php/y.php", "%20/x.php", "/%2e/x.php", ".php"} {
			targets = append(targets, "/upload/"+name+tail)
		}
	}
	return targets
}

func arguments() (targets []string) {
	for _, query := range []string{"-s", "-h", "--version", "%2ds", "-d+allow_url_include%3d1+-d+auto_prepend_file%3d/etc/passwd", "%ADd+allow_url_include%3d1+%ADd+auto_prepend_file%3d/etc/passwd", "-T+100", "-n", "-c+/tmp"} {
		targets = append(targets, "/info.php?"+query, "/cgi-bin/env.cgi?"+query)
	}
	return targets
}

func hidden() (targets []string) {
	for _, name := range []string{
		".env", ".htpasswd", ".git/config", "%2egit/config", ".%67it/config", "x/../.env", "/.env", "./.env", ".env%20", ".env/", ".env%00.html",
		"wp-config.php.save", "info.php~", "info.php.gz",
	} {
		targets = append(targets, "/"+name)
	}
	return targets
}

// forbidden is what no answer may hold, whatever was asked.
var forbidden = []string{"root:x:0:", "OUTSIDE-ROOT", "SECRET-DOTFILE", "EVIL EXECUTED", "#!/bin/sh", "uid=", "Usage: php", "argc=1", "argc=2", "ARGS=1", "ARGS=2"}

func testPathAttacks(t *testing.T, address string) {
	for _, honest := range []string{"/info.php", "/cgi-bin/env.cgi", "/upload/evil.jpg"} {
		if got := string(attack(t, address, honest)); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Fatalf("the site does not work: %s: %.200q", honest, got)
		}
	}
	for _, class := range pathClasses() {
		t.Run(class.name, func(t *testing.T) {
			for _, target := range class.targets {
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
		})
	}
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
