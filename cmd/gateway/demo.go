package main

import (
	"bytes"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"

	"gateway/routes"
)

// demoFiles are the configuration, the page and the scripts of the demo.
//
//go:embed demo
var demoFiles embed.FS

// demoSettings are the placeholders of demo/site.hcl.
type demoSettings struct {
	Dir, HTTP, HTTPS string
	PHP              bool // php-cgi is installed
}

func demo(args []string) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	httpAddress := flags.String("http", "127.0.0.1:8080", "plain `address`")
	httpsAddress := flags.String("https", "127.0.0.1:8443", "TLS `address`")
	if _, err := parse(flags, args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gateway-demo-")
	if err != nil {
		return err
	}
	err = runDemo(demoSettings{Dir: dir, HTTP: *httpAddress, HTTPS: *httpsAddress, PHP: hasPHP()})
	return errors.Join(err, os.RemoveAll(dir))
}

func hasPHP() bool {
	_, err := exec.LookPath("php-cgi")
	return err == nil
}

func runDemo(s demoSettings) error {
	source, err := unpackDemo(s)
	if err != nil {
		return err
	}
	c, diags := routes.Parse("demo.hcl", source)
	report(diags)
	if diags.HasErrors() {
		return errReported
	}
	// Beside any other gateway, and nothing of it stays.
	c.Gateway.RuntimeDir, c.Gateway.StateDir = filepath.Join(s.Dir, "run"), filepath.Join(s.Dir, "state")
	settle(c)
	return serve(c, "", s.introduce)
}

// unpackDemo writes the demo's files below s.Dir, where children of another user can read them, and returns its configuration.
func unpackDemo(s demoSettings) ([]byte, error) {
	if err := os.Chmod(s.Dir, 0o755); err != nil { //nolint:gosec // nothing in it is secret
		return nil, err
	}
	text, err := demoFiles.ReadFile("demo/site.hcl")
	if err != nil {
		return nil, err
	}
	t, err := template.New("site.hcl").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var source bytes.Buffer
	if err := t.Execute(&source, s); err != nil {
		return nil, err
	}
	files, err := fs.Sub(demoFiles, "demo")
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(s.Dir, files); err != nil {
		return nil, err
	}
	scripts, err := filepath.Glob(filepath.Join(s.Dir, "cgi-bin", "*"))
	if err != nil {
		return nil, err
	}
	for _, script := range scripts {
		if err := os.Chmod(script, 0o755); err != nil { //nolint:gosec // a script is to be run
			return nil, err
		}
	}
	return source.Bytes(), nil
}

func (s demoSettings) introduce() {
	fmt.Printf("gateway demo: three kinds of process behind one address\n\n")
	fmt.Printf("  open   http://%s/     or   https://%s/   (its certificate is of the gateway's own CA)\n\n", s.HTTP, s.HTTPS)
	fmt.Printf("  try    curl http://%s/\n", s.HTTP)
	fmt.Printf("         curl http://%s/cgi-bin/hello.cgi?name=you     a CGI script on a prefork pool\n", s.HTTP)
	if s.PHP {
		fmt.Printf("         curl http://%s/hello.php                      PHP on a prefork pool\n", s.HTTP)
	}
	fmt.Printf("         curl -k https://%s/\n", s.HTTPS)
	fmt.Printf("         %s status -socket %s/run/%s\n", os.Args[0], s.Dir, adminName)
	fmt.Printf("                                        what each process does; as the user that runs the demo\n\n")
	if !s.PHP {
		fmt.Printf("  php-cgi is not installed: the PHP page is left out (Debian: apt-get install php-cgi)\n\n")
	}
	fmt.Printf("  Ctrl-C ends it.\n\n")
}
