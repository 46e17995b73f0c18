package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gateway/internal/gatewaytest"
)

// stress is a gateway under several stress tests, one after the other.
type stress struct {
	*gatewaytest.Gateway
	url   string
	marks string // a folder: programs that hold a request wait for a file in it
	http  *http.Client
	rest  figures // of the gateway when it had served and nobody wanted anything
}

// TestStress does to gateways with real children what makes servers fail. After each test nothing may be left: no process, no
// zombie, no descriptor, no goroutine.
func TestStress(t *testing.T) {
	if testing.Short() {
		t.Skip("stress takes its time")
	}
	if err := gatewaytest.Missing("python3"); err != nil {
		t.Skip(err)
	}
	dir := buildStress(t)
	type test struct {
		name string
		run  func(*stress, *testing.T)
	}
	// Each group has a gateway of its own, so that the long ones take their time side by side.
	for name, tests := range map[string][]test{
		"manners": {
			{"bad manners cost only their request", (*stress).badManners},
			{"a child that ignores SIGTERM is killed", (*stress).ignoredSIGTERM},
			{"a child that closes its socket is replaced", (*stress).closedSocket},
			{"a grandchild that keeps the connection delays nobody", (*stress).grandchild},
			{"ten children killed a second fail no GET that may be retried", (*stress).massacre},
			{"a pool that was full goes back to its spare children", (*stress).spare},
			{"two hundred children serve two hundred requests at once", (*stress).crowd},
			{"thousands of scripts leave nothing in the child that ran them", (*stress).scripts},
		},
		"saturation": {
			{"requests that wait are served when their turn comes", (*stress).queued},
			{"a pool that is saturated for a minute does not slow the others", (*stress).saturated},
		},
		"turnover": {
			{"ten thousand children serve one request each", (*stress).once},
			{"hundreds of php-cgi children serve one request each", (*stress).oncePHP},
		},
		"soak": {
			{"clients that come and go leave nothing", (*stress).soak},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startStress(t, dir, name)
			for _, test := range tests {
				if !t.Run(test.name, func(t *testing.T) { test.run(s, t) }) {
					t.Fatalf("the rest is left out, after:\n%s", s.Log())
				}
				s.http.CloseIdleConnections()
				s.awaitRest(t)
				s.awaitFigures(t, test.name)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// buildStress brings testdata/stress and the programs into a folder, which all users can run.
func buildStress(t *testing.T) string {
	dir, err := os.MkdirTemp("", "gw") // not t.TempDir: the children's user must get in, and socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "stress")))); err != nil {
		t.Fatal(err)
	}
	if _, err := gatewaytest.Build(dir); err != nil {
		t.Fatal(err)
	}
	// Without the race detector, with which it would take long to start.
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "quick.bin"), "./testdata/stress/quick").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// startStress starts a gateway and has its pools serve, so that the figures at rest are those of one that has served.
func startStress(t *testing.T, dir, name string) *stress {
	own := filepath.Join(dir, name)
	marks := filepath.Join(own, "marks")
	if err := errors.Join(os.MkdirAll(marks, 0o755), os.Chmod(marks, 0o777)); err != nil {
		t.Fatal(err)
	}
	address, err := gatewaytest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	g, err := gatewaytest.Start(gatewaytest.Command{
		Binary: filepath.Join(dir, "gateway"), Config: filepath.Join(dir, "site.hcl"), Socket: filepath.Join(own, "run", "admin.sock"), Dir: dir,
		// The system's own interpreter: one of the test's user may be out of reach for the children's.
		Env: []string{
			"PATH=/usr/bin:/bin", "ADDR=" + address, "RUNTIME=" + filepath.Join(own, "run"), "MARKS=" + marks,
			"QUICK=" + filepath.Join(dir, "quick.bin"),
		},
		Log: filepath.Join(own, "gateway.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Sane()); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{MaxIdleConnsPerHost: 200}
	s := &stress{Gateway: g, url: "http://" + address, marks: marks, http: &http.Client{Timeout: 2 * gatewaytest.Patience, Transport: transport}}
	for _, pool := range []string{"rude", "stubborn", "killed", "small", "other", "crowd", "once"} {
		s.want(t, "/"+pool+"/pid", http.StatusOK)
	}
	s.want(t, "/hello.txt", http.StatusOK)
	s.want(t, "/cgi-bin/hello", http.StatusOK)
	err = gatewaytest.Wait(func() (bool, error) { // more than once if a third child has come, and one that had served has left
		s.spread(t, "spare", atRest("spare"))
		s.http.CloseIdleConnections()
		s.awaitRest(t)
		return s.haveServed(t, "spare"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.rest = s.figures(t)
	t.Logf("at rest: %+v", s.rest)
	return s
}

// get returns the status and the body of an answer; a failure is status 0 with its text.
func (s *stress) get(path string) (int, string) {
	resp, err := s.http.Get(s.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

func (s *stress) want(t *testing.T, path string, status int) string {
	t.Helper()
	got, body := s.get(path)
	if got != status {
		t.Fatalf("GET %s: %d %q, want %d\n%s", path, got, body, status, s.Log())
	}
	return body
}

// mark lets the requests go on that wait for it, until unmark.
func (s *stress) mark(t *testing.T, name string) (unmark func()) {
	path := filepath.Join(s.marks, name)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return func() { os.Remove(path) }
}

// tally counts answers by what they were.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *tally) add(status int, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	if status != 0 {
		text = strconv.Itoa(status)
	}
	c.counts[text]++
}

func (c *tally) String() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(c.counts)) {
		parts = append(parts, fmt.Sprintf("%d x %s", c.counts[what], what))
	}
	return strings.Join(parts, ", ")
}

// ask sends n requests from several clients at once and returns what became of them.
func (s *stress) ask(path string, clients, n int) *tally {
	var answers tally
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for range share(n, clients, i) {
				answers.add(s.get(path))
			}
		})
	}
	all.Wait()
	return &answers
}

// awaitRest waits until the pools have no child that they don't keep, and nothing waits for its parent.
func (s *stress) awaitRest(t *testing.T) {
	t.Helper()
	var status gatewaytest.Status
	err := gatewaytest.Wait(func() (bool, error) {
		var err error
		if status, err = s.Status(); err != nil {
			return false, err
		}
		zombies, err := gatewaytest.Zombies(s.PID())
		busy := slices.ContainsFunc(status.Pools, func(p gatewaytest.Pool) bool {
			return p.Processes.Total > p.Processes.Idle || p.Processes.Total != atRest(p.Name)
		})
		return !busy && len(zombies) == 0, err
	})
	if err != nil {
		t.Fatalf("children are left: %v: %+v", err, status)
	}
}

// atRest is how many children a pool has that nobody uses.
func atRest(pool string) int {
	switch pool {
	case "spare":
		return 2
	case "scripts":
		return 1
	}
	return 0
}

// figures are what the processes can leak.
type figures struct{ frontDescriptors, frontGoroutines, supervisorDescriptors, childDescriptors int }

func (s *stress) figures(t *testing.T) figures {
	t.Helper()
	status, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	open := func(pid int) int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	now := figures{status.FrontDescriptors, status.FrontGoroutines, open(s.PID()), 0}
	for _, p := range status.Pools {
		for _, c := range p.Children {
			now.childDescriptors += open(c.PID)
		}
	}
	return now
}

// awaitFigures waits until there is no more than when the gateway was at rest: closing follows the answer.
func (s *stress) awaitFigures(t *testing.T, after string) {
	t.Helper()
	executors := 64 * runtime.GOMAXPROCS(0) // goroutines that may wait for the next requests
	var now figures
	err := gatewaytest.Wait(func() (bool, error) {
		now = s.figures(t)
		return now.frontDescriptors <= s.rest.frontDescriptors && now.frontGoroutines <= s.rest.frontGoroutines+executors &&
			now.supervisorDescriptors <= s.rest.supervisorDescriptors && now.childDescriptors <= s.rest.childDescriptors, nil
	})
	if err != nil {
		t.Errorf("after %q: %+v, at rest %+v", after, now, s.rest)
	}
}

func (s *stress) badManners(t *testing.T) {
	for _, manner := range []string{"garbage", "half", "early", "stranger"} {
		for range 5 {
			// A response of which a part was sent can only be cut.
			if status, body := s.get("/rude/" + manner); status != http.StatusBadGateway && status != 0 {
				t.Errorf("GET /rude/%s: %d %q, want 502 or a cut answer", manner, status, body)
			}
			s.want(t, "/rude/pid", http.StatusOK)
		}
	}
}

func (s *stress) ignoredSIGTERM(t *testing.T) {
	for range 3 {
		s.want(t, "/stubborn/stubborn", http.StatusGatewayTimeout)
		s.want(t, "/stubborn/pid", http.StatusOK)
	}
}

func (s *stress) closedSocket(t *testing.T) {
	for range 3 {
		s.want(t, "/rude/deaf", http.StatusBadGateway)
		s.want(t, "/rude/pid", http.StatusOK)
	}
}

// grandchild: the processes that were forked keep the connections open until the end of the test, so who waits for the end of a
// connection waits in vain.
func (s *stress) grandchild(t *testing.T) {
	defer func() { _ = s.mark(t, "grandchild") }() // which stays
	for range 3 {
		s.want(t, "/rude/fork", http.StatusBadGateway)
		s.want(t, "/rude/pid", http.StatusOK)
	}
}

// massacre kills a hundred children, ten a second, while clients ask.
func (s *stress) massacre(t *testing.T) {
	s.want(t, "/killed/die-once", http.StatusOK)
	const kills, clients = 100, 4
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var answers tally
	var all sync.WaitGroup
	finished := make([]atomic.Int64, clients) // requests of each client
	for i := range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				answers.add(s.get("/killed/pid"))
				finished[i].Add(1)
			}
		})
	}
	began := time.Now()
	s.killChildren(t, "killed", kills, finished)
	t.Logf("%d children killed in %v", kills, time.Since(began).Round(time.Second))
	cancel()
	all.Wait()
	if len(answers.counts) != 1 || answers.counts["200"] == 0 {
		t.Errorf("%d children killed: %v, want only 200", kills, &answers)
	}
}

// killChildren kills n children of a pool, by chance, one a tenth of a second. A request is retried once, so none may be hit twice:
// the next child is killed when each client has got the answer that it waited for.
func (s *stress) killChildren(t *testing.T, pool string, n int, finished []atomic.Int64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	before := make([]int64, len(finished))
	for i := range before {
		before[i] = -1
	}
	for killed, deadline := 0, time.Now().Add(5*time.Minute); killed < n; <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("%d children killed, want %d: the clients get no answers", killed, n)
			return
		}
		if !allAbove(finished, before) {
			continue
		}
		p, err := poolOf(s.Gateway, pool)
		if err != nil {
			t.Error(err)
			return
		}
		victims := slices.DeleteFunc(p.Children, func(c gatewaytest.Child) bool { return c.State != "busy" && c.State != "idle" })
		if len(victims) == 0 {
			continue
		}
		// The pid may be reaped by now, but not yet another one's: pids come round much later.
		if syscall.Kill(victims[rand.IntN(len(victims))].PID, syscall.SIGKILL) == nil {
			killed++
		}
		for i := range before {
			before[i] = finished[i].Load()
		}
	}
}

// allAbove reports whether each counter has grown since.
func allAbove(counters []atomic.Int64, before []int64) bool {
	for i := range before {
		if counters[i].Load() <= before[i] {
			return false
		}
	}
	return true
}

// hold begins n requests that a pool's children hold until release, which returns what became of them.
func (s *stress) hold(t *testing.T, pool string, n int) (release func() *tally) {
	var held tally
	var holders sync.WaitGroup
	for range n {
		holders.Go(func() { held.add(s.get("/" + pool + "/hold")) })
	}
	return func() *tally {
		defer s.mark(t, pool)()
		holders.Wait()
		return &held
	}
}

// awaitLoad waits until so many children of a pool are busy and so many requests wait for one.
func (s *stress) awaitLoad(t *testing.T, pool string, busy, waiting int) {
	t.Helper()
	var p gatewaytest.Pool
	err := gatewaytest.Wait(func() (bool, error) {
		var err error
		p, err = poolOf(s.Gateway, pool)
		return p.Processes.Busy == busy && p.Queue.Waiting == waiting, err
	})
	if err != nil {
		t.Errorf("%d busy and %d waiting, want %d and %d: %v", p.Processes.Busy, p.Queue.Waiting, busy, waiting, err)
	}
}

// haveServed reports whether each child of a pool has: then it has a connection.
func (s *stress) haveServed(t *testing.T, pool string) bool {
	t.Helper()
	status, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	return !slices.ContainsFunc(status.Pools, func(p gatewaytest.Pool) bool {
		return p.Name == pool && slices.ContainsFunc(p.Children, func(c gatewaytest.Child) bool { return c.Requests == 0 })
	})
}

// spread has n children of a pool busy at once.
func (s *stress) spread(t *testing.T, pool string, n int) {
	t.Helper()
	release := s.hold(t, pool, n)
	s.awaitLoad(t, pool, n, 0)
	if held := release(); held.counts["200"] != n {
		t.Errorf("%d requests at once: %v", n, held)
	}
}

// spare: that two of the eight are left is for awaitRest to see.
func (s *stress) spare(t *testing.T) { s.spread(t, "spare", 8) }

func (s *stress) crowd(t *testing.T) { s.spread(t, "crowd", 200) }

func (s *stress) scripts(t *testing.T) {
	const n = 2000
	if got := s.ask("/cgi-bin/hello", 4, n); got.counts["200"] != n {
		t.Errorf("%d scripts: %v", n, got)
	}
}

func (s *stress) queued(t *testing.T) {
	first := s.hold(t, "small", 2)
	s.awaitLoad(t, "small", 2, 0)
	others := s.hold(t, "small", 20)
	s.awaitLoad(t, "small", 2, 20) // both children, and the whole queue
	s.want(t, "/small/pid", http.StatusServiceUnavailable)
	if held := first(); held.counts["200"] != 2 {
		t.Errorf("2 requests that held the children: %v", held)
	}
	if held := others(); held.counts["200"] != 20 {
		t.Errorf("20 requests that waited: %v", held)
	}
}

// saturated compares how long others take while a pool has more than it can do with how long they take before and after. The machine
// may be busy with other things, so only what is ten times slower counts, and never what takes less than 20 ms: who had to wait like
// the requests of that pool would take half a second.
func (s *stress) saturated(t *testing.T) {
	const duration, limit, noise = time.Minute, 10, 2 * time.Millisecond
	paths := []string{"/hello.txt", "/other/pid"}
	before := s.medians(t, paths, 5*time.Second)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var answers tally
	var clients sync.WaitGroup
	for range 40 { // two are served, 20 wait, the others are refused and come again
		clients.Go(func() {
			for ctx.Err() == nil {
				status, body := s.get("/small/nap")
				answers.add(status, body)
				if status == http.StatusServiceUnavailable {
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	during := s.medians(t, paths, duration)
	cancel()
	clients.Wait()
	after := s.medians(t, paths, 5*time.Second)

	t.Logf("medians before %v, during %v, after %v; the saturated pool: %v", before, during, after, &answers)
	for i, path := range paths {
		if alone := max(before[i], after[i], noise); during[i] > limit*alone {
			t.Errorf("GET %s: median %v while another pool is saturated, else %v", path, during[i], alone)
		}
	}
	if len(answers.counts) != 2 || answers.counts["200"] == 0 || answers.counts["503"] == 0 {
		t.Errorf("the saturated pool: %v, want 200 and 503", &answers)
	}
}

// medians asks for each path in turn, for so long, and returns how long half of the answers took at most. All must be 200.
func (s *stress) medians(t *testing.T, paths []string, duration time.Duration) []time.Duration {
	t.Helper()
	took := make([][]time.Duration, len(paths))
	for began := time.Now(); time.Since(began) < duration; {
		for i, path := range paths {
			sent := time.Now()
			s.want(t, path, http.StatusOK)
			took[i] = append(took[i], time.Since(sent))
		}
	}
	medians := make([]time.Duration, len(paths))
	for i := range took {
		slices.Sort(took[i])
		medians[i] = took[i][len(took[i])/2]
	}
	return medians
}

func (s *stress) once(t *testing.T) { s.turnover(t, "once", "/once/pid", 10_000) }

func (s *stress) oncePHP(t *testing.T) {
	if err := gatewaytest.Missing("php-cgi"); err != nil {
		t.Skip(err)
	}
	s.turnover(t, "php", "/pid.php", 300)
}

// turnover asks a pool whose children serve one request each for so many.
func (s *stress) turnover(t *testing.T, pool, path string, n int) {
	ended := func() int {
		p, err := poolOf(s.Gateway, pool)
		if err != nil {
			t.Fatal(err)
		}
		return p.Exits["max_requests"]
	}
	before := ended()
	began := time.Now()
	if got := s.ask(path, 6, n); got.counts["200"] != n {
		t.Errorf("%d requests, each with a child of its own: %v", n, got)
	}
	t.Logf("%d children in %v", n, time.Since(began).Round(time.Second))
	if err := gatewaytest.Wait(func() (bool, error) { return ended() == before+n, nil }); err != nil {
		t.Errorf("%d children have ended because of max_requests, want %d: %v", ended()-before, n, err)
	}
}

// share is how many of n things the i-th of some takes.
func share(n, takers, i int) int { return (n + takers - 1 - i) / takers }
