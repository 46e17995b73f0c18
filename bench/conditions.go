package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// versions are commands that tell them, on their first line.
func versions(gateway string) [][]string {
	return [][]string{
		{gateway, "version"},
		{"go", "version"},
		{find("nginx", "/usr/sbin/nginx"), "-v"},
		{find("lighttpd", "/usr/sbin/lighttpd"), "-v"},
		{find("apache2", "/usr/sbin/apache2"), "-v"},
		{find("php-cgi"), "-v"},
		{findPython(), "--version"},
		{find("uwsgi"), "--version"},
		{find("wrk"), "-v"},
	}
}

// conditions is a paragraph about what a table's figures depend on.
func (c *campaign) conditions(ctx context.Context, gateway string) string {
	var b strings.Builder
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		fmt.Fprintf(&b, "Linux %s, ", unix.ByteSliceToString(name.Release[:]))
	}
	fmt.Fprintf(&b, "%d processors", runtime.NumCPU())
	for _, argv := range versions(gateway) {
		if argv[0] == "" {
			continue
		}
		// wrk fails when it has told.
		out, _ := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		for _, noise := range []string{"nginx version: ", "Server version: ", " version", " - a light and fast webserver"} {
			line = strings.ReplaceAll(line, noise, "")
		}
		line, _, _ = strings.Cut(line, " (built")
		line, _, _ = strings.Cut(line, " Copyright")
		if strings.HasSuffix(argv[0], "uwsgi") {
			line = "uWSGI " + line // it says the number only
		}
		b.WriteString("; " + line)
	}
	fmt.Fprintf(&b, ". Medians of %d rounds of %v.\n", c.rounds, c.length)
	return b.String()
}
