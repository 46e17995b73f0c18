package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const module = "gateway/"

// benchmark is a Benchmark function of a package.
type benchmark struct {
	what  string // a sub-benchmark's name is added
	pkg   string // below the module
	name  string // without "Benchmark"
	claim string // may be empty
}

// benchmarks lists those of the module, all of them.
func benchmarks() []benchmark {
	return []benchmark{
		{"parsing a request head, of wrk", "proxy/http1", "ParseWrk", "below 300 ns, no allocation"},
		{"parsing a request head, of a browser", "proxy/http1", "ParseBrowser", "below 700 ns, no allocation"},
		{"a head of 64 KiB that comes byte by byte", "proxy/http1", "ResumeByBytes", "less than the system calls that bring it"},
		{"reading a chunked body of 64 KiB", "proxy/http1", "ChunkReader", ""},
		{"writing a response head", "proxy/http1", "ResponseHead", "no allocation"},
		{"a request for a hot file, between read and write", "proxy", "HotAnswer", "below 2 µs, no allocation"},
		{"a request for a hot file, over a socket and back", "proxy", "HotRequest", "no allocation"},
		{"the same over TLS, with what the client does", "proxy", "HotTLSRequest", ""},
		{"a relayed request and its answer, between reads and writes", "proxy", "Relay", "below 3 µs, no allocation"},
		{"a request for a handler, over a socket and back", "proxy", "HTTPRoundTrip", ""},
		{"a file of 1 KiB by its handler", "proxy", "ServeStatic1K", ""},
		{"compressing a page of 64 KiB, level 5", "proxy", "Compress", "gzip not slower than zlib, which other servers use"},
		{"a line for the access log", "proxy", "AccessLog", "the entry is the one allocation"},
		{"the environment of a script", "proxy", "Environ", ""},
		{"a CGI script, with running its program", "proxy", "CGI", ""},
		{"finding the route of a path", "routes", "Match", "no allocation"},
		{"unparking and parking a connection", "mpm/event", "Park", "below 1 µs, no allocation"},
		{"a line over a socket and back, parked between", "mpm/event", "ParkedRoundTrip", ""},
		{"looking at the deadlines of all connections, once a second", "mpm/event", "Sweep", "below 10 ns for each"},
		{"a connection with one request, from connect to close", "mpm/event", "Close", ""},
		{"sealing a TLS record", "tls", "Seal", "no allocation"},
		{"a TLS connection with one request, with what the client does", "proxy", "Handshake", ""},
		{"granting and releasing a slot, event", "mpm", "EventSlot", "below 100 ns"},
		{"granting and releasing a slot, prefork", "mpm", "PreforkSlot", "below 1 µs, whatever the number of children"},
		{"granting and releasing a slot, worker", "mpm", "WorkerSlot", "below 1 µs, whatever the number of children"},
		{"a slot from hand to hand through the queue", "mpm", "Queue", "below 2 µs, whatever the number of children"},
		{"counting a request that no slot was needed for", "mpm", "CountAnswered", ""},
		{"a FastCGI round trip", "proxy/fcgi", "RoundTrip", "a small request is one write"},
		{"a FastCGI round trip, the front's share", "proxy/fcgi", "Do", ""},
		{"parsing the head of a FastCGI response", "proxy/fcgi", "ParseHeader", ""},
		{"a FastCGI round trip to php-cgi", "proxy/fcgi", "PHP", ""},
		{"a request for a PHP script, over a socket and back", "proxy", "PHPRequest", ""},
		{"a FastCGI round trip to Python", "proxy/wsgi", "Hello", ""},
		{"20 MiB from Python", "proxy/wsgi", "Output", ""},
	}
}

// micro runs the benchmarks, one package after another so that they don't take each other's processors.
func micro(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("micro", flag.ContinueOnError)
	time := flags.String("benchtime", "200ms", "for each benchmark, as of go test")
	if err := flags.Parse(args); err != nil {
		return err
	}
	command := []string{"test", "-p", "1", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", *time, "-timeout", "10m"}
	for _, b := range benchmarks() {
		if p := module + b.pkg; !slices.Contains(command, p) {
			command = append(command, p)
		}
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", command...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stderr), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) } // the tests that the go command runs as well
	failed := cmd.Run()
	results, err := parseResults(&out, runtime.GOMAXPROCS(0))
	if err == nil {
		err = microTable(results).write(os.Stdout)
	}
	for _, b := range benchmarks() {
		if !slices.ContainsFunc(results, func(r result) bool { return b.is(r) }) {
			fmt.Fprintf(os.Stderr, "left out: Benchmark%s of %s has no result\n", b.name, b.pkg)
		}
	}
	return errors.Join(failed, err)
}

// result is a line of go test's output.
type result struct {
	pkg, name, sub    string
	ns, bytes, allocs string
}

func (b *benchmark) is(r result) bool { return b.pkg == r.pkg && b.name == r.name }

// parseResults reads lines such as "BenchmarkSlot/children=1-2  100  123 ns/op  0 B/op  0 allocs/op", and "pkg: …" before those of
// a package. procs is what go test adds to the names, unless it is 1.
func parseResults(r io.Reader, procs int) ([]result, error) {
	var list []result
	pkg, suffix := "", "-"+strconv.Itoa(procs)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if p, ok := strings.CutPrefix(lines.Text(), "pkg: "); ok {
			pkg = strings.TrimPrefix(p, module)
		}
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || len(fields)%2 != 0 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		one := result{pkg: pkg}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if procs > 1 {
			name = strings.TrimSuffix(name, suffix)
		}
		one.name, one.sub, _ = strings.Cut(name, "/")
		for i := 2; i < len(fields); i += 2 {
			switch fields[i+1] {
			case "ns/op":
				one.ns = fields[i]
			case "B/op":
				one.bytes = fields[i]
			case "allocs/op":
				one.allocs = fields[i]
			}
		}
		list = append(list, one)
	}
	return list, lines.Err()
}

// microTable has the results in the order of the list.
func microTable(results []result) table {
	t := table{{"what", "package", "ns/op", "B/op", "allocs/op", "claim"}}
	for _, b := range benchmarks() {
		for _, r := range results {
			if !b.is(r) {
				continue
			}
			what := b.what
			if r.sub != "" {
				what += ": " + strings.ReplaceAll(r.sub, "_", " ")
			}
			t = append(t, []string{what, b.pkg, r.ns, r.bytes, r.allocs, b.claim})
		}
	}
	return t
}
