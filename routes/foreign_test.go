package routes

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestSnakeCase(t *testing.T) {
	for given, want := range map[string]string{
		"StartServers":      "start_servers",
		"AssignUserID":      "assign_user_id",
		"RLimitCPU":         "r_limit_cpu",
		"FcgidIOTimeout":    "fcgid_io_timeout",
		"queue-timeout":     "queue_timeout",
		"max_spare_servers": "max_spare_servers",
		"":                  "",
	} {
		if got := snakeCase(given); got != want {
			t.Errorf("snakeCase(%q) = %q, want %q", given, got, want)
		}
	}
}

func TestTLSWordsOfOtherServers(t *testing.T) {
	tlsOfSite, _ := siteSchema.block("tls")
	for given, want := range map[string]string{
		"SSLCertificateFile":   "certificate in the tls block",
		"SSLCACertificateFile": "client_auth { ca }",
		"SSLVerifyClient":      "client_auth { mode }",
		"SSLCipherSuite":       "nothing: only forward secret suites",
		"MDContactEmail":       "email in the tls block",
		"ssl_certificate_key":  "key in the tls block",
		"ssl_protocols":        "min_version",
		"http2":                "nothing: every address with TLS speaks it",
	} {
		if got := instead(given, tlsOfSite); !strings.Contains(got, want) {
			t.Errorf("instead(%q) = %q, want %q in it", given, got, want)
		}
	}
}

func TestWordsOfRoutes(t *testing.T) {
	for given, want := range map[string]string{
		"alias": "strip_prefix in the route", "Alias": "strip_prefix in the route", "proxy_pass": "proxy { to }", "ProxyPass": "strip_prefix", "ScriptAlias": "cgi { root }",
	} {
		if got := instead(given, routeSchema); !strings.Contains(got, want) {
			t.Errorf("instead(%q) = %q, want %q in it", given, got, want)
		}
	}
}

// TestWordsOfOtherServers walks the tables of docs/mpm.md: where they have exactly one word for another server's, whoever writes that in
// a pool is told it.
func TestWordsOfOtherServers(t *testing.T) {
	source, err := os.ReadFile("../docs/mpm.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`\"?([A-Za-z][A-Za-z_.-]*)\"?(?:\\[…\\])?`")
	one := regexp.MustCompile("^`(?:[a-z]+ \\{ )?([a-z_]+)(?: \\})?`$")
	checked := 0
	_, tables, _ := strings.Cut(string(source), "## From Apache")
	for line := range strings.Lines(tables) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) < 2 {
			continue
		}
		here := one.FindStringSubmatch(cells[1])
		if here == nil {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[0], -1) {
			given := strings.TrimPrefix(strings.ReplaceAll(strings.TrimPrefix(m[1], "pm."), ".", "_"), "_")
			if _, ok := poolSchema.attr(given); ok {
				continue
			}
			checked++
			if text := instead(given, poolSchema); !strings.Contains(text, here[1]) {
				t.Errorf("%s is %q here by docs/mpm.md, but instead(%q) = %q", m[1], here[1], given, text)
			}
		}
	}
	if checked < 10 {
		t.Errorf("docs/mpm.md has %d words of other servers with one here, want at least 10", checked)
	}
}
