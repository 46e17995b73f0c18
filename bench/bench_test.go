package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheListHasEveryBenchmark(t *testing.T) {
	var want, got []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Benchmark") {
				pkg, _ := filepath.Rel("..", filepath.Dir(path))
				want = append(want, pkg+" "+f.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range benchmarks() {
		got = append(got, b.pkg+" Benchmark"+b.name)
	}
	for _, b := range want {
		if !slices.Contains(got, b) {
			t.Errorf("%s is not in benchmarks: say there what it measures", b)
		}
	}
	for i, b := range got {
		if !slices.Contains(want, b) {
			t.Errorf("%s is in benchmarks, but there is none", b)
		}
		if slices.Contains(got[:i], b) {
			t.Errorf("%s is in benchmarks twice", b)
		}
	}
}

func TestResults(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		procs      int
		want       []result
	}{
		{"a benchmark", "BenchmarkPark-2   100   408.1 ns/op   0 B/op   1 allocs/op", 2, []result{{"mpm", "Park", "", "408.1", "0", "1"}}},
		{"on one processor", "BenchmarkPark   100   408.1 ns/op", 1, []result{{"mpm", "Park", "", "408.1", "", ""}}},
		{"a sub-benchmark", "BenchmarkSlot/children=1/threads=2-2  1  5 ns/op", 2, []result{{"mpm", "Slot", "children=1/threads=2", "5", "", ""}}},
		{"a name that ends like the processors", "BenchmarkSlot/on-2  1  5 ns/op", 1, []result{{"mpm", "Slot", "on-2", "5", "", ""}}},
		{"units of its own", "BenchmarkSeal-2  1  5 ns/op  506.01 MB/s  7 child-µs/op  3 B/op", 2, []result{{"mpm", "Seal", "", "5", "3", ""}}},
		{"one that was skipped", "--- SKIP: BenchmarkPHP", 2, nil},
		{"what a benchmark has printed", "BenchmarkPHP says hello", 2, nil},
		{"the end", "ok  \tgateway/mpm\t1.100s", 2, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseResults(strings.NewReader("goos: linux\npkg: gateway/mpm\n"+tt.line+"\n"), tt.procs)
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("parseResults(%q, %d) = %+v, %v, want %+v", tt.line, tt.procs, got, err, tt.want)
			}
		})
	}
}

func TestReportsOfLoaders(t *testing.T) {
	for _, tt := range []struct {
		name, report string
		requests     int
		took         time.Duration
		fails        bool
	}{
		{"wrk's", "Running 1s test\n  Latency 1.00ms\n  17121 requests in 1.10s, 20.33MB read\nRequests/sec:  15564.54\n", 17121, 1100 * time.Millisecond, false},
		{"wrk's after a minute", "  5 requests in 1.00m, 1B read\n", 5, time.Minute, false},
		{"the own one's", "12 requests in 500.5ms\n", 12, 500500 * time.Microsecond, false},
		{"wrong answers", "  5 requests in 1.00s, 1B read\n  Non-2xx or 3xx responses: 5\n", 0, 0, true},
		{"no answer", "  0 requests in 1.00s, 0B read\n", 0, time.Second, true},
		{"nobody there", "unable to connect to 127.0.0.1:1 Connection refused\n", 0, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests, took, err := parseLoad([]byte(tt.report))
			if requests != tt.requests || took != tt.took || (err != nil) != tt.fails {
				t.Errorf("parseLoad(%q) = %d, %v, %v, want %d, %v, failure %v", tt.report, requests, took, err, tt.requests, tt.took, tt.fails)
			}
		})
	}
}

func TestTheOwnLoaderCountsWhatWasAnswered(t *testing.T) {
	var connections, requests atomic.Int64
	var enough atomic.Pointer[context.CancelFunc]
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) >= 20 && connections.Load() >= 2 {
			(*enough.Load())()
		}
		switch r.URL.Path {
		case "/chunked":
			w.(http.Flusher).Flush()
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
		}
		w.Write([]byte("hello"))
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	for _, tt := range []struct {
		name, path string
		close      bool
		fails      bool
	}{
		{"on kept connections", "/", false, false},
		{"with bodies of unknown length", "/chunked", false, false},
		{"on a connection each", "/", true, false},
		{"not what is no 200", "/missing", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			connections.Store(0)
			requests.Store(0)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			enough.Store(&cancel)
			l := load{url: s.URL + tt.path, close: tt.close, connections: 2, duration: time.Minute}
			n, err := l.run(ctx)
			want, wantConnections := requests.Load(), int64(2)
			if tt.close {
				wantConnections = want
			}
			if tt.fails {
				if err == nil {
					t.Errorf("run = %d, want an error", n)
				}
				return
			}
			if err != nil || n == 0 || n != want || connections.Load() != wantConnections {
				t.Errorf("run = %d, %v on %d connections, want %d on %d", n, err, connections.Load(), want, wantConnections)
			}
		})
	}
}

func TestTimeOfProcessesThatHaveEndedCounts(t *testing.T) {
	cmd := exec.Command("sh", "-c", "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); echo done; read end")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // its subshell has counted, and was waited for
		t.Fatal(err)
	}
	const least = 20 * time.Millisecond // no machine counts that far in less
	spent, err := used([]int{cmd.Process.Pid})
	if err != nil || spent < least {
		t.Errorf("used = %v, %v, want more than %v", spent, err, least)
	}
	if own := clock(cmd.Process.Pid); own == 0 || own > spent/2 {
		t.Errorf("clock = %v of %v, want the little that the shell itself has used", own, spent)
	}
	in.Close()
	_ = cmd.Wait() // read has met the end of the file
}

func TestStatOfANameWithSpaces(t *testing.T) {
	const stat = "42 (a) S (b) S 7 1 1 0 -1 4194560 1 2 3 4 10 20 300 4000 20 0 1 0 5"
	want := process{parent: 7, used: 300 * time.Millisecond, waited: 43 * time.Second}
	if got, err := parseStat(stat); err != nil || got != want {
		t.Errorf("parseStat(%q) = %+v, %v, want %+v", stat, got, err, want)
	}
	if got, err := parseStat("42 (a) S 7"); err == nil {
		t.Errorf("parseStat of half a line = %+v, want an error", got)
	}
}

func TestALabLeavesNothingBehind(t *testing.T) {
	cpu, _, err := processors()
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLab(cpu)
	if err != nil {
		t.Fatal(err)
	}
	// A server that ends in order, and leaves a process in a session of its own that does not.
	pid, err := l.start("sh", "-c", `trap exit TERM; setsid sh -c 'trap "" TERM; echo $$ > orphan.new; mv orphan.new orphan; while :; do sleep 1; done' & while :; do wait; done`)
	if err != nil {
		t.Fatal(err)
	}
	var orphan []byte
	for end := time.Now().Add(20 * time.Second); len(orphan) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the orphan did not start within 20 s")
		}
		orphan, _ = os.ReadFile(l.path("orphan"))
	}
	if err := l.close(); err != nil {
		t.Errorf("close = %v", err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("after close, kill of the server = %v, want %v", err, unix.ESRCH)
	}
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	for pid, p := range all {
		if pid != os.Getpid() && !p.dead && descends(all, pid, []int{os.Getpid()}) {
			t.Errorf("after close, process %d of %+v lives; the orphan was %s", pid, p, bytes.TrimSpace(orphan))
		}
	}
	if _, err := os.Stat(l.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after close, the folder: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestEveryServersConfigurationIsAccepted(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program and starts all servers")
	}
	if find("curl") == "" {
		t.Skip("curl is not installed")
	}
	cpu, _, err := processors()
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLab(cpu)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	gateway := l.path("gateway")
	if out, err := exec.Command("go", "build", "-o", gateway, "gateway/cmd/gateway").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := l.startUpstream(gateway, cpu); err != nil {
		t.Fatal(err)
	}
	c := &campaign{lab: l}
	if err := c.start(rivals(gateway)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, w := range works() {
		want, err := w.want(l)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.servers {
			if s.able[w.needs] && !answers(ctx, w.url(s), want) {
				t.Errorf("%s of %s: no right answer", w.name, s.name)
			}
		}
	}
}

func TestComparison(t *testing.T) {
	a, b := figure{10 * time.Microsecond, 5000}, figure{20 * time.Microsecond, 10000}
	for _, tt := range []struct {
		name    string
		figures map[string]figure
		want    string
	}{
		{"the best of each counts", map[string]figure{"gateway": a, "x": b, "y": {15 * time.Microsecond, 2000}}, "1.50 (0.50)"},
		{"no peer", map[string]figure{"gateway": a}, "-"},
		{"no gateway", map[string]figure{"x": a}, "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := compare(tt.figures); got != tt.want {
				t.Errorf("compare(%v) = %q, want %q", tt.figures, got, tt.want)
			}
		})
	}
}

func TestTablesAreAligned(t *testing.T) {
	var b strings.Builder
	if err := (table{{"what", "µs"}, {"a", "1.5 µs"}}).write(&b); err != nil {
		t.Fatal(err)
	}
	const want = "| what | µs     |\n|------|--------|\n| a    | 1.5 µs |\n"
	if b.String() != want {
		t.Errorf("write =\n%swant\n%s", b.String(), want)
	}
}
