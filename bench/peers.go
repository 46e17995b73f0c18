package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// work is a kind of request that is measured.
type work struct {
	name        string
	needs       kind
	path        string
	close       bool // a new connection for each
	connections int
}

func works() []work {
	return []work{
		{"static-1k", static, "/1k.html", false, 64},
		{"static-10k", static, "/10k.css", false, 64},
		{"static-100k", static, "/100k.jpg", false, 64},
		{"static-close", static, "/1k.html", true, 64},
		{"tls-1k", overTLS, "/1k.html", false, 64},
		{"tls-new", overTLS, "/1k.html", true, 16},
		{"proxy-1k", proxied, "/proxied/1k.html", false, 64},
		{"proxy-tls", overTLS, "/proxied/1k.html", false, 64},
		{"php-hello", php, "/hello.php", false, 16},
		{"php-100k", php, "/100k.php", false, 16},
		{"gzip-100k", gzipped, "/page.php", false, 16},
		{"cgi-hello", cgi, "/cgi-bin/hello", false, 16},
		{"wsgi-hello", wsgi, "/wsgi/", false, 16},
	}
}

// want is the body of a right answer.
func (w work) want(l *lab) (string, error) {
	name := w.path
	switch w.needs {
	case cgi, wsgi:
		return hello, nil
	case php, gzipped:
		if w.path == "/hello.php" {
			return hello, nil
		}
		name = "/100k.txt"
	case static, overTLS, proxied:
	}
	b, err := os.ReadFile(l.path("www" + name))
	return string(b), err
}

func (w work) url(s *server) string {
	if w.needs == overTLS {
		return "https://" + s.tls + w.path
	}
	return "http://" + s.plain + w.path
}

// figure is what one request has cost a server.
type figure struct {
	time time.Duration // of the processor, all processes of the server together
	rate float64       // requests a second
}

// campaign is one run of works against all servers.
type campaign struct {
	lab     *lab
	loadCPU int
	rounds  int
	length  time.Duration
	works   []work
	servers []*server
	figures map[string]map[string]figure // by work and server
}

func peers(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	gateway := flags.String("gateway", "", "the program to measure; default: it is built")
	only := flags.String("only", "", "works, separated by commas; default: all")
	rounds := flags.Int("rounds", 3, "how often each server gets each work; the medians count")
	seconds := flags.Int("seconds", 2, "how long each time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	serverCPU, loadCPU, err := processors()
	if err != nil {
		return err
	}
	l, err := newLab(serverCPU)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	c := &campaign{
		lab: l, loadCPU: loadCPU, rounds: max(*rounds, 1), length: time.Duration(max(*seconds, 1)) * time.Second,
		works: chosen(*only), figures: map[string]map[string]figure{},
	}
	if *gateway == "" {
		*gateway = l.path("gateway")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", *gateway, "gateway/cmd/gateway").CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	if *gateway, err = filepath.Abs(*gateway); err != nil { // it is started in another folder
		return err
	}
	if err := c.run(ctx, *gateway); err != nil {
		return err
	}
	fmt.Println(c.conditions(ctx, *gateway))
	return c.table().write(os.Stdout)
}

// chosen are the works that a list names; all if it is empty.
func chosen(list string) []work {
	return slices.DeleteFunc(works(), func(w work) bool { return list != "" && !slices.Contains(strings.Split(list, ","), w.name) })
}

// run measures all works.
func (c *campaign) run(ctx context.Context, gateway string) error {
	if len(c.works) == 0 {
		return errors.New("-only names none of the works")
	}
	if err := c.lab.startUpstream(gateway, c.loadCPU); err != nil {
		return err
	}
	if err := c.start(rivals(gateway)); err != nil {
		return err
	}
	for _, w := range c.works {
		if err := c.measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// start starts all servers. Peers that can't be are named and left out.
func (c *campaign) start(all []rival) error {
	for i, r := range all {
		s, err := r.run(c.lab)
		switch {
		case err == nil:
			c.servers = append(c.servers, s)
		case i == 0:
			return err
		default:
			fmt.Fprintf(os.Stderr, "left out: %s: %v\n", r.name, err)
		}
	}
	return nil
}

// measure gives a work to each server that answers it rightly, one after another and that several times, so that what else the
// machine does hits all alike.
func (c *campaign) measure(ctx context.Context, w work) error {
	able, err := c.able(ctx, w)
	if err != nil {
		return err
	}
	samples := map[string][]figure{}
	for range c.rounds {
		for _, s := range able {
			f, err := c.sample(ctx, w, s)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return fmt.Errorf("%s of %s: %w", w.name, s.name, err)
			}
			samples[s.name] = append(samples[s.name], f)
		}
	}
	c.figures[w.name] = map[string]figure{}
	for name, list := range samples {
		f := median(list)
		c.figures[w.name][name] = f
		fmt.Fprintf(os.Stderr, "%s %s: %s\n", w.name, name, f)
	}
	return nil
}

// able returns the servers that answer a work as they should.
func (c *campaign) able(ctx context.Context, w work) (list []*server, err error) {
	if w.needs == overTLS && find("wrk") == "" {
		fmt.Fprintf(os.Stderr, "left out: %s: wrk is not installed\n", w.name)
		return nil, nil
	}
	want, err := w.want(c.lab)
	if err != nil {
		return nil, err
	}
	for _, s := range c.servers {
		switch {
		case !s.able[w.needs]:
		case answers(ctx, w.url(s), want):
			list = append(list, s)
		default:
			fmt.Fprintf(os.Stderr, "left out: %s of %s: no right answer\n", w.name, s.name)
		}
	}
	return list, context.Cause(ctx)
}

// answers reports whether a URL gives what is wanted, after some time if need be.
func answers(ctx context.Context, url, want string) bool {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		got, err := exec.CommandContext(ctx, "curl", "--silent", "--compressed", "--fail", "--insecure", "--noproxy", "*", "--max-time", "5", url).Output()
		if err == nil && string(got) == want {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return false
}

// sample measures once.
func (c *campaign) sample(ctx context.Context, w work, s *server) (figure, error) {
	argv, err := load{url: w.url(s), close: w.close, gzip: w.needs == gzipped, connections: w.connections, duration: c.length}.command()
	if err != nil {
		return figure{}, err
	}
	before, err := used(s.roots)
	if err != nil {
		return figure{}, err
	}
	var report bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &report, &report
	if err := pinned(c.loadCPU, cmd.Start); err != nil {
		return figure{}, err
	}
	if err := cmd.Wait(); err != nil {
		return figure{}, fmt.Errorf("%w\n%s", err, report.Bytes())
	}
	after, err := used(s.roots)
	if err != nil {
		return figure{}, err
	}
	n, took, err := parseLoad(report.Bytes())
	if err != nil {
		return figure{}, err
	}
	return figure{time: (after - before) / time.Duration(n), rate: float64(n) / took.Seconds()}, nil
}

// median takes each of the two for itself.
func median(list []figure) figure {
	times := slices.SortedFunc(slices.Values(list), func(a, b figure) int { return cmp.Compare(a.time, b.time) })
	rates := slices.SortedFunc(slices.Values(list), func(a, b figure) int { return cmp.Compare(a.rate, b.rate) })
	return figure{time: times[len(times)/2].time, rate: rates[len(rates)/2].rate}
}

func (f figure) String() string {
	digits := 1
	if f.time >= 100*time.Microsecond {
		digits = 0
	}
	return fmt.Sprintf("%.*f µs (%.0f/s)", digits, float64(f.time)/float64(time.Microsecond), f.rate)
}

// table has a row for each work and a column for each server, and how the gateway compares with the best peer: above 1 it is better.
func (c *campaign) table() table {
	header := []string{"work"}
	for _, s := range c.servers {
		header = append(header, s.name)
	}
	t := table{append(header, "gateway beside the best peer")}
	for _, w := range c.works {
		figures := c.figures[w.name]
		row := []string{w.name}
		for _, s := range c.servers {
			if f, ok := figures[s.name]; ok {
				row = append(row, f.String())
			} else {
				row = append(row, "-")
			}
		}
		t = append(t, append(row, compare(figures)))
	}
	return t
}

// compare says how many times less processor time the gateway uses than the peer that uses least, and how many times more requests
// it answers than the peer that answers most.
func compare(figures map[string]figure) string {
	own, ok := figures["gateway"]
	var best figure
	for name, f := range figures {
		if name == "gateway" {
			continue
		}
		if best.time == 0 || f.time < best.time {
			best.time = f.time
		}
		best.rate = max(best.rate, f.rate)
	}
	if !ok || best.rate == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f)", float64(best.time)/float64(own.time), own.rate/best.rate)
}
