package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gateway/internal/gatewaytest"
)

// stress is one gateway under all the stress tests, one after the other.
type stress struct {
	*gatewaytest.Gateway
	url   string
	marks string // a folder: programs that hold a request wait for a file in it
	http  *http.Client
}

// TestStress does to a gateway with real children what makes servers fail. Between the tests, and at the end, nothing may be left:
// no process, no zombie, no descriptor.
func TestStress(t *testing.T) {
	if testing.Short() {
		t.Skip("stress takes its time")
	}
	s := startStress(t)
	for _, pool := range []string{"rude", "stubborn", "killed", "small", "crowd"} {
		s.want(t, "/"+pool+"/pid", http.StatusOK)
	}
	s.want(t, "/hello.txt", http.StatusOK)
	s.awaitEmpty(t)
	front, supervisor := s.descriptors(t)
	t.Logf("at rest: %d descriptors of the front, %d of the supervisor", front, supervisor)

	for _, test := range []struct {
		name string
		run  func(*stress, *testing.T)
	}{
		{"bad manners cost only their request", (*stress).badManners},
		{"a child that ignores SIGTERM is killed", (*stress).ignoredSIGTERM},
		{"a child that closes its socket is replaced", (*stress).closedSocket},
		{"a grandchild that keeps the connection delays nobody", (*stress).grandchild},
		{"a saturated pool does not slow the others", (*stress).saturated},
		{"ten children killed a second fail no GET that may be retried", (*stress).massacre},
		{"a hundred children serve a hundred requests at once", (*stress).crowd},
		{"thousands of children serve one request each", (*stress).once},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(s, t) }) {
			t.Fatalf("the rest is left out, after:\n%s", s.Log())
		}
		s.http.CloseIdleConnections()
		s.awaitEmpty(t)
		s.awaitDescriptors(t, test.name, front, supervisor)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// startStress serves testdata/stress with a program of its own, which all users can run.
func startStress(t *testing.T) *stress {
	if err := gatewaytest.Missing("python3"); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "gw") // not t.TempDir: the children's user must get in, and socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	marks := filepath.Join(dir, "marks")
	err = errors.Join(os.Chmod(dir, 0o755), os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "stress"))), os.Mkdir(marks, 0o755), os.Chmod(marks, 0o777))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := gatewaytest.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	address, err := gatewaytest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	g, err := gatewaytest.Start(gatewaytest.Command{
		Binary: binary, Config: filepath.Join(dir, "site.hcl"), Socket: filepath.Join(dir, "run", "admin.sock"), Dir: dir,
		// The system's own interpreter: one of the test's user may be out of reach for the children's.
		Env: []string{"PATH=/usr/bin:/bin", "ADDR=" + address, "RUNTIME=" + filepath.Join(dir, "run"), "MARKS=" + marks},
		Log: filepath.Join(dir, "gateway.log"),
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
	return &stress{Gateway: g, url: "http://" + address, marks: marks, http: &http.Client{Timeout: gatewaytest.Patience, Transport: transport}}
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

// mark lets the requests go on that wait for it.
func (s *stress) mark(t *testing.T, name string) {
	if err := os.WriteFile(filepath.Join(s.marks, name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
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

// awaitEmpty waits until the pools have no child left, and nothing waits for its parent.
func (s *stress) awaitEmpty(t *testing.T) {
	t.Helper()
	var status gatewaytest.Status
	err := gatewaytest.Wait(func() (bool, error) {
		var err error
		if status, err = s.Status(); err != nil {
			return false, err
		}
		zombies, err := gatewaytest.Zombies(s.PID())
		busy := slices.ContainsFunc(status.Pools, func(p gatewaytest.Pool) bool { return p.Processes.Total > 0 })
		return !busy && len(zombies) == 0, err
	})
	if err != nil {
		t.Fatalf("children are left: %v: %+v", err, status)
	}
}

// descriptors counts those of the front and of the supervisor. The front's, which can't be looked into, only root sees: else 0.
func (s *stress) descriptors(t *testing.T) (front, supervisor int) {
	t.Helper()
	status, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	count := func(pid int) int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil && !errors.Is(err, os.ErrPermission) {
			t.Fatal(err)
		}
		return len(entries)
	}
	return count(status.FrontPID), count(s.PID())
}

// awaitDescriptors waits until no more are open than when the gateway was at rest: closing follows the answer.
func (s *stress) awaitDescriptors(t *testing.T, after string, front, supervisor int) {
	t.Helper()
	var f, p int
	err := gatewaytest.Wait(func() (bool, error) {
		f, p = s.descriptors(t)
		return f <= front && p <= supervisor, nil
	})
	if err != nil {
		t.Errorf("after %q: %d descriptors of the front, at rest %d; %d of the supervisor, at rest %d", after, f, front, p, supervisor)
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
	defer s.mark(t, "grandchild")
	for range 3 {
		s.want(t, "/rude/fork", http.StatusBadGateway)
		s.want(t, "/rude/pid", http.StatusOK)
	}
}

func (s *stress) saturated(t *testing.T) {
	var held tally
	var holders sync.WaitGroup
	for _, step := range []struct{ add, busy, waiting int }{{2, 2, 0}, {20, 2, 20}} { // both children, then the whole queue
		for range step.add {
			holders.Go(func() { held.add(s.get("/small/hold")) })
		}
		err := gatewaytest.Wait(func() (bool, error) {
			p, err := poolOf(s.Gateway, "small")
			return p.Processes.Busy == step.busy && p.Queue.Waiting == step.waiting, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.want(t, "/small/pid", http.StatusServiceUnavailable)
	for path, n := range map[string]int{"/hello.txt": 2000, "/rude/pid": 500} {
		if got := s.ask(path, 4, n); got.counts["200"] != n {
			t.Errorf("%d requests for %s while another pool is full: %v", n, path, got)
		}
	}
	s.mark(t, "small")
	holders.Wait()
	if held.counts["200"] != 22 {
		t.Errorf("22 requests that waited: %v", &held)
	}
}

// massacre kills a child about ten times a second: not so fast that one request, which is tried again once, is hit twice.
func (s *stress) massacre(t *testing.T) {
	s.want(t, "/killed/die-once", http.StatusOK)
	const duration = 8 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var answers tally
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				answers.add(s.get("/killed/pid"))
			}
		})
	}
	kills := s.killChildren(ctx, t, "killed")
	clients.Wait()
	t.Logf("%d children killed, %v", kills, &answers)
	if kills == 0 {
		t.Error("no child was killed")
	}
	if len(answers.counts) != 1 || answers.counts["200"] == 0 {
		t.Errorf("%d children killed in %v: %v, want only 200", kills, duration, &answers)
	}
}

// killChildren kills one child of a pool after the other, until ctx ends.
func (s *stress) killChildren(ctx context.Context, t *testing.T, pool string) (kills int) {
	const pause = 80 * time.Millisecond // asking who is there takes the rest of a tenth
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return kills
		case <-tick.C:
		}
		p, err := poolOf(s.Gateway, pool)
		if err != nil {
			t.Error(err)
			return kills
		}
		i := slices.IndexFunc(p.Children, func(c gatewaytest.Child) bool { return c.State == "busy" || c.State == "idle" })
		if i < 0 {
			continue
		}
		// The pid may be reaped by now, but not yet another one's: pids come round much later.
		if syscall.Kill(p.Children[i].PID, syscall.SIGKILL) == nil {
			kills++
		}
		tick.Reset(pause)
	}
}

func (s *stress) crowd(t *testing.T) {
	const n = 100
	var held tally
	var holders sync.WaitGroup
	for range n {
		holders.Go(func() { held.add(s.get("/crowd/hold")) })
	}
	var busy int
	err := gatewaytest.Wait(func() (bool, error) {
		p, err := poolOf(s.Gateway, "crowd")
		busy = p.Processes.Busy
		return busy == n, err
	})
	if err != nil {
		t.Errorf("%d of %d children busy: %v", busy, n, err)
	}
	s.mark(t, "crowd")
	holders.Wait()
	if held.counts["200"] != n {
		t.Errorf("%d requests at once: %v", n, &held)
	}
}

// once asks for as many children as it can in its time, at most 3,000.
func (s *stress) once(t *testing.T) {
	if err := gatewaytest.Missing("php-cgi"); err != nil {
		t.Skip(err)
	}
	const n, batch, duration = 3000, 60, 15 * time.Second
	done := 0
	for began := time.Now(); done < n && time.Since(began) < duration; done += batch {
		if got := s.ask("/pid.php", 6, batch); got.counts["200"] != batch {
			t.Fatalf("after %d requests, of %d with a child each: %v", done, batch, got)
		}
	}
	t.Logf("%d requests, each by a child of its own", done)
	err := gatewaytest.Wait(func() (bool, error) {
		p, err := poolOf(s.Gateway, "once")
		return p.Exits["max_requests"] == done, err
	})
	if err != nil {
		t.Errorf("not %d children have ended because of max_requests: %v", done, err)
	}
}

// share is how many of n things the i-th of some takes.
func share(n, takers, i int) int { return (n + takers - 1 - i) / takers }
