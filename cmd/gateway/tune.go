package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gateway/mpm"
	"gateway/routes"
)

const (
	trialChildren = 3                // of each pool, when none run yet
	trialRequests = 30               // for each URL
	trialTimeout  = 30 * time.Second // for the children to get ready, and for each request
	reservePart   = 10               // one part in so many stays free
)

func tune(args []string) error {
	fs := flag.NewFlagSet("tune", flag.ContinueOnError)
	socket := fs.String("socket", "", "`path` of the admin socket of the gateway whose children are measured (default: admin.sock in runtime_dir)")
	var urls []string
	fs.Func("get", "start children for it and send this `URL` to them first; may be repeated", func(u string) error {
		urls = append(urls, u)
		return nil
	})
	files, err := parse(fs, args, "FILE")
	if err != nil {
		return err
	}
	c, err := load(files[0])
	if err != nil {
		return err
	}
	if *socket == "" {
		*socket = filepath.Join(c.Gateway.RuntimeDir, adminName)
	}
	before, err := readMachine()
	if err != nil {
		return err
	}
	m, err := measure(c, *socket, urls)
	if err != nil {
		return err
	}
	m.machine = before
	return m.print(os.Stdout, c)
}

// measurement is what the children of each pool take.
type measurement struct {
	machine
	live  bool // they are those of a gateway that serves, and so are missing in machine.available
	pools map[string]*sample
}

// sample is what the children of one pool take, in bytes.
type sample struct {
	children int
	requests uint64 // that they have served
	sum      int64
	largest  int64
	trouble  string // why there is none
}

func (s *sample) mean() int64 { return s.sum / int64(max(s.children, 1)) }

// measure looks at the children of the gateway that runs, or at some that it starts for that.
func measure(c *routes.Config, socket string, urls []string) (*measurement, error) {
	if len(urls) > 0 {
		return trial(c, urls)
	}
	st, err := askStatus(socket)
	if err != nil {
		return trial(c, nil)
	}
	pools, err := sampleChildren(st)
	return &measurement{live: true, pools: pools}, err
}

// sampleChildren reads the memory of the children that a status names.
func sampleChildren(st *statusReport) (map[string]*sample, error) {
	sizes, err := footprints()
	if err != nil {
		return nil, err
	}
	pools := make(map[string]*sample)
	for i := range st.Pools {
		p := &st.Pools[i]
		s := &sample{trouble: p.Trouble}
		pools[p.Name] = s
		for _, child := range p.Children {
			if size := sizes[child.PID]; size > 0 && child.State != mpm.Starting.String() {
				s.children++
				s.requests += child.Requests
				s.sum += size
				s.largest = max(s.largest, size)
			}
		}
	}
	return pools, nil
}

// trial runs the pools with a few children, beside any other gateway and out of reach for clients, and measures them.
func trial(c *routes.Config, urls []string) (*measurement, error) {
	dir, err := os.MkdirTemp("", "gateway-tune-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)                      //nolint:errcheck // there is nothing in it
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the front's user must get through
		return nil, err
	}
	t := &trialRun{config: trialConfig(c, dir), urls: urls, listener: filepath.Join(dir, "http.sock")}
	t.socket = filepath.Join(t.config.Gateway.RuntimeDir, adminName)
	done := make(chan *measurement, 1)
	err = serve(t.config, "", func() {
		go func() { // ends after at most a few trialTimeouts, and serve with it
			m, err := t.measure()
			if err != nil {
				fmt.Fprintf(os.Stderr, "gateway: tune: %v\n", err)
			}
			done <- m
			_, _ = ask(t.socket, "stop", 0) // it fails if somebody else has stopped it
		}()
	})
	if err != nil {
		return nil, err
	}
	select {
	case m := <-done:
		if m != nil {
			return m, nil
		}
	default:
	}
	return nil, errors.New("tune: nothing was measured")
}

type trialRun struct {
	config   *routes.Config
	urls     []string
	socket   string // of the admin
	listener string // of all sites
}

// trialConfig is a configuration with a few children in each pool that stay, for clients that know one socket.
func trialConfig(c *routes.Config, dir string) *routes.Config {
	t := *c
	t.Gateway.RuntimeDir, t.Gateway.StateDir = filepath.Join(dir, "run"), ""
	t.Gateway.AccessLog = nil
	t.Gateway.Log.Level = "error"
	t.Pools = slices.Clone(c.Pools)
	for i := range t.Pools {
		p := &t.Pools[i]
		if p.MPM == routes.Event {
			continue
		}
		n := min(trialChildren, servingChildren(p))
		p.Spawn, p.StartServers, p.ServerLimit, p.MaxRequestWorkers = routes.SpawnStatic, n, n, n*max(p.ThreadsPerChild, 1)
		p.MaxRequestsPerChild, p.MaxChildMemory, p.MaxChildAge, p.Cgroup = 0, 0, 0, nil
	}
	t.Sites = slices.Clone(c.Sites)
	for i := range t.Sites {
		t.Sites[i].Listen = []routes.Listen{{Network: "unix", Address: filepath.Join(dir, "http.sock")}}
		t.Sites[i].TLS = routes.TLS{Mode: "off"}
	}
	return &t
}

func (t *trialRun) measure() (*measurement, error) {
	if err := t.awaitChildren(); err != nil {
		return nil, err
	}
	for _, u := range t.urls {
		if err := t.get(u); err != nil {
			return nil, err
		}
	}
	st, err := askStatus(t.socket)
	if err != nil {
		return nil, err
	}
	pools, err := sampleChildren(st)
	return &measurement{pools: pools}, err
}

// awaitChildren waits until every pool has its children, or doesn't get them.
func (t *trialRun) awaitChildren() error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(trialTimeout); ; <-ticker.C {
		st, err := askStatus(t.socket)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(st.Pools, coming) || time.Now().After(deadline) {
			return nil
		}
	}
}

// coming reports whether children of a pool are still to be expected.
func coming(p mpm.PoolStatus) bool {
	return p.MPM != string(routes.Event) && p.State != "quarantined" && p.Slots.Total < p.Slots.Limit
}

// get sends a request some times, as the sites' clients would.
func (t *trialRun) get(url string) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", t.listener)
	}
	transport := &http.Transport{DialContext: dial, DialTLSContext: dial} // the trial's socket speaks plain HTTP whatever the URL says
	defer transport.CloseIdleConnections()
	client := http.Client{
		Transport: transport, Timeout: trialTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for range trialRequests {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
		if resp.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("%s: answered %s: what is measured must be a request that works", url, resp.Status)
		}
	}
	return nil
}

// forChildren is the memory that children may take together, those that were measured included.
func (m *measurement) forChildren() int64 {
	return max(0, m.available+m.counted()-m.total/reservePart)
}

// counted is what the measured children take of the machine's memory already.
func (m *measurement) counted() (sum int64) {
	if !m.live {
		return 0
	}
	for _, s := range m.pools {
		sum += s.sum
	}
	return sum
}

// size is how many children a pool gets.
type size struct {
	pool     *routes.Pool
	sample   *sample
	share    int64 // bytes
	children int
}

// doubt says why no size is proposed for the pool; empty: one is.
func (s *size) doubt() string {
	switch {
	case !s.pool.HasApplication():
		return "no size is proposed: its children are the gateway itself, whose memory says nothing of the scripts that they start"
	case s.sample.requests < uint64(s.sample.children):
		return "no size is proposed: its children have served next to nothing, and grow when they do. Measure while the gateway serves, or with -get URL"
	}
	return ""
}

// processors warns of pools that easily have more children than the machine can run.
func (s *size) processors() string {
	reason := ""
	switch {
	case s.pool.Spawn == routes.SpawnStatic:
		reason = `spawn = "static" starts all of them at first`
	case s.pool.WSGI != nil, s.pool.HTTP != nil:
		reason = "such applications take long to start and keep what they have loaded"
	default:
		return ""
	}
	n := runtime.NumCPU()
	return fmt.Sprintf("the size is what fits the memory, but %s. There are %d processors: %d to %d children are enough unless requests mostly wait for others", reason, n, n, 2*n)
}

// sizes divides the memory among the pools in proportion to what they would take as they are configured.
func (m *measurement) sizes(c *routes.Config) []size {
	var all []size
	var sum int64
	for i := range c.Pools {
		p := &c.Pools[i]
		if s := m.pools[p.Name]; p.MPM != routes.Event && s != nil && s.children > 0 {
			wanted := int64(servingChildren(p)) * s.largest
			all = append(all, size{pool: p, sample: s, share: wanted})
			sum += wanted
		}
	}
	for i := range all {
		s := &all[i]
		s.share = int64(float64(m.forChildren()) * (float64(s.share) / float64(sum)))
		s.children = int(max(1, s.share/s.sample.largest))
		if s.pool.PHP != nil && s.pool.PHP.ShareOPcache {
			s.children = min(s.children, routes.MaxForked)
		}
	}
	return all
}

// print shows what was measured, the arithmetic, and what to write.
func (m *measurement) print(w io.Writer, c *routes.Config) error {
	sizes := m.sizes(c)
	if len(sizes) == 0 {
		return errors.New("no pool has children to measure" + m.troubles())
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	m.printMemory(t)
	m.printChildren(t, c)
	printSizes(t, sizes)
	if err := t.Flush(); err != nil {
		return err
	}
	printBlocks(w, sizes)
	m.printAdvice(w, sizes)
	return nil
}

// troubles tells why pools have no children: "; pool "php": child 12: exited".
func (m *measurement) troubles() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.pools)) {
		if s := m.pools[name]; s.children == 0 && s.trouble != "" {
			fmt.Fprintf(&b, "; pool %q: %s", name, plain(s.trouble))
		}
	}
	return b.String()
}

func (m *measurement) printMemory(w io.Writer) {
	fmt.Fprintf(w, "memory available\t%s\tof %s\n", sizeText(m.available), sizeText(m.total))
	if m.live {
		fmt.Fprintf(w, "+ the children measured here\t%s\n", sizeText(m.counted()))
	}
	fmt.Fprintf(w, "- reserve\t%s\t%d %% of all, for peaks, the front and the page cache\n", sizeText(m.total/reservePart), 100/reservePart)
	fmt.Fprintf(w, "= for children\t%s\n\n", sizeText(m.forChildren()))
}

func (m *measurement) printChildren(w io.Writer, c *routes.Config) {
	fmt.Fprintf(w, "pool\tmpm\tmeasured\trequests served\tmean\tlargest\n")
	for i := range c.Pools {
		p := &c.Pools[i]
		s := m.pools[p.Name]
		switch {
		case p.MPM == routes.Event:
		case s == nil || s.children == 0:
			fmt.Fprintf(w, "%s\t%s\tno children\n", p.Name, p.MPM)
		default:
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", p.Name, p.MPM, s.children, s.requests, sizeText(s.mean()), sizeText(s.largest))
		}
	}
	fmt.Fprintln(w)
}

func printSizes(w io.Writer, sizes []size) {
	fmt.Fprintf(w, "pool\tits share\t/ largest child\t= children\tx threads\t= requests at once\tnow\n")
	for _, s := range sizes {
		threads := max(s.pool.ThreadsPerChild, 1)
		fmt.Fprintf(w, "%s\t%s\t/ %s\t= %d\tx %d\t= %d\t%d\n", s.pool.Name, sizeText(s.share), sizeText(s.sample.largest), s.children, threads, s.children*threads, s.pool.MaxRequestWorkers)
	}
	fmt.Fprintln(w)
}

// printBlocks shows the lines to write into the configuration.
func printBlocks(w io.Writer, sizes []size) {
	for _, s := range sizes {
		if s.doubt() != "" {
			continue
		}
		fmt.Fprintf(w, "pool %q {\n", s.pool.Name)
		if s.pool.MPM == routes.Worker {
			fmt.Fprintf(w, "  server_limit        = %d\n  threads_per_child   = %d\n", s.children, s.pool.ThreadsPerChild)
		}
		fmt.Fprintf(w, "  max_request_workers = %d\n}\n\n", s.children*max(s.pool.ThreadsPerChild, 1))
	}
}

func (m *measurement) printAdvice(w io.Writer, sizes []size) {
	for _, s := range sizes {
		if text := cmp.Or(s.doubt(), s.processors()); text != "" {
			fmt.Fprintf(w, "pool %q: %s.\n", s.pool.Name, text)
		}
	}
	if text := m.troubles(); text != "" {
		fmt.Fprintf(w, "Not measured%s.\n", text)
	}
	fmt.Fprintln(w, "These are upper bounds: an application that computes rather than waits is fastest with a few children for each processor.")
}
