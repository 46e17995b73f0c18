// Command gateway is a web server for legacy PHP and CGI applications: see README.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // wrong words on the command line, or a wrong configuration
)

// version is set by the linker in a release build.
var version string

// verbs are the commands a user types, in the order of the help text.
var verbs = []struct {
	name, args, text string
	run              func(args []string) error
}{
	{"run", "FILE", "serve the sites of a configuration file, or of a folder of *.hcl files", run},
	{"check", "FILE", "say what is wrong with a configuration; exit with 2 if anything is", check},
	{"tune", "FILE", "measure the children of the pools and propose sizes that fit this machine", tune},
	{"demo", "", "serve an example that needs no file, on 127.0.0.1", demo},
	{"status", "[-json]", "show what a running gateway does; exit with 1 if none answers or a pool can't have children", status},
	{"metrics", "", "print the metrics of a running gateway, as Prometheus reads them", printMetrics},
	{"certs", "[-json]", "list the certificates of a running gateway; exit with 1 if one is missing, has expired or can't be renewed", certs},
	{"trust", "[-install]", "print the root of a running gateway's internal authority, or have this machine trust it", trust},
	{"stop", "", "stop a running gateway after its requests in progress", stop},
	{"reload", "", "not yet: load the configuration again without losing a request", reload},
	{"import", "FILE...", "turn a configuration of another server into one for this; exit with 1 if something has no counterpart here", importFiles},
	{"explain", "FILE URL", "tell step by step what would become of a request, without sending it", explain},
	{"version", "", "print the version", printVersion},
}

// usageError is a command line that can't be understood.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

// errReported says that the user has been told already.
var errReported = errors.New("reported")

func main() { os.Exit(command(os.Args[1:])) }

func command(args []string) int {
	if len(args) == 0 {
		usage(os.Stderr)
		return exitUsage
	}
	switch args[0] {
	case frontRole:
		return frontMain()
	case childRole:
		return childMain(args[1:])
	case launchRole:
		return launchMain(args[1:])
	case wardenRole:
		return wardenMain()
	case "help", "-h", "-help", "--help":
		usage(os.Stdout)
		return exitOK
	}
	for _, v := range verbs {
		if v.name == args[0] {
			return exitCode(v.run(args[1:]))
		}
	}
	fmt.Fprintf(os.Stderr, "gateway: unknown command %q\n\n", args[0])
	usage(os.Stderr)
	return exitUsage
}

func exitCode(err error) int {
	var wrong usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errReported):
		return exitUsage
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "gateway: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(os.Stderr, "gateway: %v\n", err)
	return exitFailed
}

func usage(w io.Writer) {
	fmt.Fprint(w, "gateway serves legacy PHP and CGI applications, each route with its own process model.\n\nusage:\n")
	for _, v := range verbs {
		fmt.Fprintf(w, "  gateway %-18s %s\n", v.name+" "+v.args, v.text)
	}
	fmt.Fprint(w, "\nstatus, metrics, certs, trust, stop and reload talk to the gateway of -socket PATH (default: admin.sock in the default runtime_dir).\n")
}

// parse reads the flags of a verb, which may stand before and behind its arguments, and returns those. Of the last one there may be
// several if its name ends in dots.
func parse(fs *flag.FlagSet, args []string, names ...string) ([]string, error) {
	fs.SetOutput(io.Discard)
	var found []string
	for {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(os.Stdout)
			fmt.Printf("usage: gateway %s [flags]", fs.Name())
			for _, n := range names {
				fmt.Printf(" %s", n)
			}
			fmt.Println()
			fs.PrintDefaults()
			return nil, err
		} else if err != nil {
			return nil, usageError{fmt.Sprintf("%s: %v", fs.Name(), err)}
		}
		if fs.NArg() == 0 {
			break
		}
		found, args = append(found, fs.Arg(0)), fs.Args()[1:]
	}
	if len(found) < len(names) {
		return nil, usageError{fmt.Sprintf("%s: %s is missing", fs.Name(), names[len(found)])}
	}
	if several := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "..."); len(found) > len(names) && !several {
		return nil, usageError{fmt.Sprintf("%s: unexpected argument %q", fs.Name(), found[len(names)])}
	}
	return found, nil
}

func printVersion(args []string) error {
	if _, err := parse(flag.NewFlagSet("version", flag.ContinueOnError), args); err != nil {
		return err
	}
	fmt.Println("gateway", buildVersion())
	return nil
}

// buildVersion is the release, or what Go knows of the source.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func reload(args []string) error {
	if _, err := parse(flag.NewFlagSet("reload", flag.ContinueOnError), args); err != nil {
		return err
	}
	return errors.New("reload is not supported yet: stop the gateway and run it again")
}
