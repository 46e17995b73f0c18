package supervise

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

const (
	wardenRole = "warden" // the argument that makes the test binary a warden
	jobRole    = "job"    // and a child that leaves a job in the background
)

// leaveJob starts a job, prints its pid and waits, or ends if the job is to be left "in peace".
func leaveJob(kind string) int {
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: kind == "group", Setsid: kind == "session"}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(cmd.Process.Pid)
	if kind == "in peace" {
		return 0
	}
	cmd.Wait()
	return 0
}

// jobber is a pool whose children leave a job of that kind.
func jobber(t *testing.T, kind string) Pool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Pool{Name: "p", Path: self, Args: []string{"job", jobRole, kind}, Env: []string{"PATH=/bin:/usr/bin"}, Slots: 4}
}

// job starts a child and returns the pid of the job that it left. Whatever becomes of the test, the job ends with it.
func (s *session) job() (child ctl.Message, job int) {
	s.rig.t.Helper()
	child = s.startChild("p", 0)
	line := s.until("the job's pid", func(l said) bool { return l.PID == child.PID && l.Output != "" })
	job, err := strconv.Atoi(line.Output)
	if err != nil {
		s.rig.t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(job, 0)
	if err != nil {
		s.rig.t.Fatal(err)
	}
	s.rig.t.Cleanup(func() {
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		unix.Close(fd)
	})
	s.rig.settle()
	return child, job
}

// settle returns when the supervisor has told its warden all that happened: it does so before it turns to the next question.
func (r *rig) settle() {
	r.t.Helper()
	r.ask("pid\n")
}

// wardenOf finds the warden of a supervisor; 0: it has none now.
func wardenOf(t *testing.T, r *rig) int {
	t.Helper()
	for _, pid := range childrenOf(t, r.cmd.Process.Pid) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && string(b) == "warden\x00"+wardenRole+"\x00" {
			return pid
		}
	}
	return 0
}

func TestAKilledSupervisorLeavesNoJobs(t *testing.T) {
	for _, tt := range []struct {
		name     string
		kind     string
		survives bool
	}{
		{"a job in the background", "plain", false},
		{"a job with a process group of its own", "group", false},
		{"a job that its child left when it ended in peace", "in peace", false},
		{"a daemon, which made a session of its own", "session", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, jobber(t, tt.kind))
			s := r.start()
			child, job := s.job()
			if tt.kind == "in peace" {
				eventually(t, "the child is reaped", func() bool { return statusField(child.PID, "State") == "" })
				r.settle()
			}
			warden := wardenOf(t, r)
			r.signal(syscall.SIGKILL)
			<-r.exited
			eventually(t, "the warden and the child are gone", func() bool { return gone(warden) && gone(child.PID) })
			if gone(job) == tt.survives {
				t.Errorf("the job survived: %v, want %v", !gone(job), tt.survives)
			}
		})
	}
}

func TestAStopLeavesNoWarden(t *testing.T) {
	r := newRig(t)
	r.start()
	warden := wardenOf(t, r)
	r.signal(syscall.SIGTERM)
	if code := r.wait(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if statusField(warden, "State") != "" {
		t.Errorf("the warden %d lives, or was not reaped", warden)
	}
	if strings.Contains(r.log.String(), "warden") {
		t.Error("a stop has something to say about the warden")
	}
}

func TestAKilledWardenIsReplacedByOneThatKnowsAll(t *testing.T) {
	r := newRig(t, jobber(t, "group"))
	s := r.start()
	child, job := s.job()
	for range 2 { // the second one dies young: there is a pause
		first := wardenOf(t, r)
		if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another warden", func() bool { w := wardenOf(t, r); return w != 0 && w != first })
	}
	r.settle()
	if gone(s.pid) || gone(child.PID) || gone(job) {
		t.Error("the end of the warden was that of others")
	}
	r.signal(syscall.SIGKILL)
	<-r.exited
	eventually(t, "the job is gone", func() bool { return gone(job) })
}

func TestAWardenOutlivesTheSignalsOfATerminal(t *testing.T) {
	r := newRig(t, jobber(t, "plain"))
	_, job := r.start().job()
	warden := wardenOf(t, r)
	eventually(t, "the warden ignores signals", func() bool {
		mask, err := strconv.ParseUint(statusField(warden, "SigIgn"), 16, 64)
		return err == nil && mask>>(syscall.SIGTERM-1)&1 == 1
	})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(warden, sig); err != nil {
			t.Fatal(err)
		}
	}
	r.signal(syscall.SIGKILL)
	<-r.exited
	eventually(t, "the job is gone", func() bool { return gone(job) })
}

func TestTheWardenHasNothingButItsPipe(t *testing.T) {
	r := newRig(t)
	r.set.Plan.Listeners = []Listener{{"tcp", freePort(t)}}
	r.start()
	warden := wardenOf(t, r)
	eventually(t, "the warden has read its libraries, and has nothing but its pipe and output", func() bool {
		return !slices.ContainsFunc(descriptors(warden), func(d string) bool {
			number, target, _ := strings.Cut(d, " ")
			own := strings.HasPrefix(target, "/sys/fs/cgroup/") // of the Go runtime
			return !own && !slices.Contains([]string{"0", "1", "2"}, number)
		})
	})
	if got, err := unix.Getsid(warden); err != nil || got != warden {
		t.Errorf("its session is %d, %v; want its own, %d", got, err, warden)
	}
	if got := statusField(warden, "NoNewPrivs"); got != "1" {
		t.Errorf("NoNewPrivs = %q, want 1", got)
	}
}

func TestWithoutAWardenThereIsNone(t *testing.T) {
	r := newRig(t)
	r.set.Plan.Warden = Program{}
	s := r.start()
	if got := childrenOf(t, r.cmd.Process.Pid); !slices.Equal(got, []int{s.pid}) {
		t.Errorf("processes %v, want the front %d alone", got, s.pid)
	}
}

// wardenPipe is a warden that does not read: the test holds the other end.
func wardenPipe(t *testing.T, w *warden) (reader int) {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pipe[0]); unix.Close(pipe[1]) })
	w.pipe = pipe[1]
	return pipe[0]
}

func TestAFullPipeLosesNoRecord(t *testing.T) {
	var w warden
	w.pid = 1 << 30
	reader := wardenPipe(t, &w)
	now := time.Unix(1_000_000, 0)
	const records = 50_000 // far more than a pipe has room for
	for n := 2; n < records; n++ {
		w.guard(n)
	}
	w.flush(now)
	if len(w.unsent) == 0 || w.fullUntil != now.Add(wardenPatience) {
		t.Fatalf("unsent %d bytes, full until %v; want some, %v", len(w.unsent), w.fullUntil, now.Add(wardenPatience))
	}
	got, buf := newWatch(), make([]byte, 1<<16)
	for len(w.unsent) > 0 {
		n, err := unix.Read(reader, buf)
		if err != nil {
			t.Fatal(err)
		}
		got.take(buf[:n])
		w.flush(now)
	}
	for n, err := unix.Read(reader, buf); n > 0 && err == nil; n, err = unix.Read(reader, buf) {
		got.take(buf[:n])
	}
	if len(got.sessions) != records-2 || !w.fullUntil.IsZero() {
		t.Errorf("%d sessions arrived, full until %v; want %d, zero", len(got.sessions), w.fullUntil, records-2)
	}
}

func TestAWardenThatDoesNotReadIsKilled(t *testing.T) {
	hung := exec.Command("sleep", "600")
	if err := hung.Start(); err != nil {
		t.Fatal(err)
	}
	s := newSupervisor(Plan{Warden: Program{Args: []string{"warden"}}}, stderrLogger{})
	s.warden.pid = hung.Process.Pid
	wardenPipe(t, &s.warden)
	for n := range 50_000 {
		s.warden.guard(n + 2)
	}
	now, next := time.Unix(1_000_000, 0), soonest{}
	s.wardenDue(now, &next)
	if s.warden.killed || next.Time != now.Add(wardenRetry) {
		t.Fatalf("killed %v, next try %v; want false, %v", s.warden.killed, next.Time, now.Add(wardenRetry))
	}
	s.wardenDue(now.Add(wardenPatience), &next)
	if !s.warden.killed {
		t.Fatal("not killed in spite of a pipe that stays full")
	}
	hung.Wait()
	if got := hung.ProcessState.Sys().(syscall.WaitStatus); got.Signal() != syscall.SIGKILL {
		t.Errorf("it ended by %v, want SIGKILL", describe(unix.WaitStatus(got)))
	}
}

// records are what a warden reads.
func records(list ...int32) []byte {
	var b []byte
	for _, n := range list {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b
}

func TestWatchTakesRecords(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		want map[int]bool
	}{
		{"nothing", nil, map[int]bool{}},
		{"two children", records(10, 11), map[int]bool{10: true, 11: true}},
		{"one was reaped: its session may still hold a job", records(10, -10), map[int]bool{10: false}},
		{"its pid is a child's again", records(10, -10, 10), map[int]bool{10: true}},
		{"one that was never there was reaped", records(-10), map[int]bool{}},
		{"process 1 and the kernel's are nobody's children", records(0, 1, -1, -1<<31), map[int]bool{}},
		{"half a record says nothing", []byte{10, 0, 0}, map[int]bool{}},
	} {
		w := newWatch()
		w.take(tt.b)
		if !maps.Equal(w.sessions, tt.want) {
			t.Errorf("%s: take(%v): sessions %v, want %v", tt.name, tt.b, w.sessions, tt.want)
		}
	}
}

func TestWatchPicksMembersOfItsSessions(t *testing.T) {
	for _, tt := range []struct {
		name  string
		b     []byte
		table []member
		want  []member
	}{
		{"a child and its job", records(10), []member{{10, 10}, {20, 10}}, []member{{10, 10}, {20, 10}}},
		{"a job whose child is dead but not reaped", records(10), []member{{20, 10}}, []member{{20, 10}}},
		{"a job whose child was reaped", records(10, -10), []member{{20, 10}}, []member{{20, 10}}},
		{"strangers", records(10), []member{{1, 0}, {2, 0}, {30, 30}}, nil},
		{"a daemon of the child", records(10), []member{{10, 10}, {20, 20}}, []member{{10, 10}}},
		{"a stranger that got the pid of a child that was reaped", records(10, -10), []member{{10, 10}, {20, 10}}, nil},
	} {
		w := newWatch()
		w.take(tt.b)
		if got := w.members(tt.table); !slices.Equal(got, tt.want) {
			t.Errorf("%s: members(%v) = %v, want %v", tt.name, tt.table, got, tt.want)
		}
	}
}

func TestWatchForgetsSessionsThatEnded(t *testing.T) {
	w := newWatch()
	now := time.Unix(1_000_000, 0)
	table := []member{{10, 10}, {20, 11}}
	look := func() []member { return table }
	w.take(records(10, 11, 12, -11, -12))
	if got := w.timeout(now); got != -1 {
		t.Errorf("before the first review is set, timeout = %d, want -1", got)
	}
	for _, tt := range []struct {
		name  string
		after time.Duration
		table []member
		want  map[int]bool
	}{
		{"not at once", 0, table, map[int]bool{10: true, 11: false, 12: false}},
		{"not yet", reviewPeriod - 1, table, map[int]bool{10: true, 11: false, 12: false}},
		{"the one without processes", reviewPeriod, table, map[int]bool{10: true, 11: false}},
		{"the other one while its job runs", 2 * reviewPeriod, table, map[int]bool{10: true, 11: false}},
		{"and when that ended; a session with a leader stays in any case", 3 * reviewPeriod, nil, map[int]bool{10: true}},
	} {
		table = tt.table
		w.advance(now.Add(tt.after), look)
		if !maps.Equal(w.sessions, tt.want) {
			t.Errorf("%s: after %v: sessions %v, want %v", tt.name, tt.after, w.sessions, tt.want)
		}
	}
	w.advance(now.Add(3*reviewPeriod), look)
	if got := w.timeout(now); got != -1 {
		t.Errorf("with nothing to review, timeout = %d, want -1", got)
	}
}

func TestWatchRefusesWhatIsNoPipe(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Watch(int(f.Fd())); err == nil || !strings.Contains(err.Error(), "is not a pipe") {
		t.Errorf("Watch(/dev/null) = %v, want a word on pipes", err)
	}
}

func FuzzWatchTakes(f *testing.F) {
	f.Add(records(10, -10, 0, 1, -1, -1<<31, 1<<31-1))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWatch()
		w.take(b)
		for session := range w.sessions {
			if session < 2 {
				t.Errorf("take(%v) guards session %d, which is no child's", b, session)
			}
		}
	})
}
