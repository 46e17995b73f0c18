package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/term"

	"gateway/proxy"
	"gateway/routes"
)

func check(args []string) error {
	files, err := parse(flag.NewFlagSet("check", flag.ContinueOnError), args, "FILE")
	if err != nil {
		return err
	}
	c, err := load(files[0])
	if err != nil {
		return err
	}
	warn(slices.Concat(doubts(c), exposedKeys(c), certificateDoubts(c, time.Now())))
	if m, err := readMachine(); err == nil { // else nothing is known of the machine
		if text := overcommitted(c, m.total); text != "" {
			warn([]string{text})
		}
	}
	fmt.Printf("%s: ok: %s, %s\n", files[0], plural(len(c.Sites), "site"), plural(len(c.Pools), "pool"))
	return nil
}

// load reads a configuration and holds it against this machine. What it finds goes to standard error.
func load(path string) (*routes.Config, error) {
	c, err := read(path)
	if err != nil {
		return nil, err
	}
	diags := c.CheckSystem()
	report(diags)
	settle(c)
	found := slices.Concat(missingRights(c), badCertificates(c), badPasswords(c))
	complain(found)
	if diags.HasErrors() || len(found) > 0 {
		return nil, errReported
	}
	return c, nil
}

// read reads a configuration, the format of the access log included, which only who writes that knows. What is wrong goes to standard
// error.
func read(path string) (*routes.Config, error) {
	c, diags := routes.Load(path)
	report(diags)
	if diags.HasErrors() {
		return nil, errReported
	}
	if log := c.Gateway.AccessLog; log != nil {
		if _, err := proxy.ParseLogFormat(log.Format); err != nil {
			report(c.WrongLogFormat(err))
			return nil, errReported
		}
	}
	return c, nil
}

func warn(texts []string) {
	for _, text := range texts {
		fmt.Fprintf(os.Stderr, "Warning: %s\n\n", text)
	}
}

func complain(texts []string) {
	for _, text := range texts {
		fmt.Fprintf(os.Stderr, "Error: %s\n\n", text)
	}
}

func report(diags routes.Diagnostics) {
	width, color := 100, false
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) {
		color = os.Getenv("NO_COLOR") == ""
		if w, _, err := term.GetSize(fd); err == nil {
			width = w
		}
	}
	// There is nobody to tell when standard error is closed.
	_ = diags.Write(os.Stderr, width, color)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
