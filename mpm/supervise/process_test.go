package supervise

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gateway/internal/ctl"
	"gateway/internal/gatewaytest"
)

const (
	idle     = "echo up; exec sleep 600"
	stubborn = "trap '' TERM; echo up; exec sleep 600"
)

// freePort finds an address for a plan.
func freePort(t *testing.T) string {
	t.Helper()
	address, err := gatewaytest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// served connects to address and returns the pid of the front that answers.
func served(t *testing.T, network, address string) int {
	t.Helper()
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(c, "who?") // clients speak first
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatalf("%s answered %q", address, b)
	}
	return pid
}

func TestAKilledFrontIsReplacedOnTheSameSockets(t *testing.T) {
	r := newRig(t, shell("p", idle))
	tcp, unixPath := freePort(t), filepath.Join(r.dir, "site.sock")
	r.set.Plan.Listeners = []Listener{{"tcp", tcp}, {"unix", unixPath}}
	first := r.start()
	child := first.startChild("p", 2)
	if got := served(t, "tcp", tcp); got != first.pid {
		t.Fatalf("served by %d, want the front %d", got, first.pid)
	}

	if err := syscall.Kill(first.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var second *session
	select {
	case second = <-r.sessions:
	case <-time.After(patience):
		t.Fatal("no second front")
	}
	// One connect is enough: it waits in the backlog while nobody accepts.
	if got := served(t, "tcp", tcp); got != second.pid {
		t.Errorf("served by %d, want the second front %d", got, second.pid)
	}
	eventually(t, "the log tells that it came without a pause", func() bool {
		return strings.Contains(r.log.String(), fmt.Sprintf("front exited: starting another pid %d reason signal: killed delay 0s", first.pid))
	})
	if got := served(t, "unix", unixPath); got != second.pid {
		t.Errorf("unix socket served by %d, want %d", got, second.pid)
	}
	again := second.expect(ctl.Child)
	if again.Seconds <= 0 {
		t.Errorf("age of a child that lives = %v, want more than 0", again.Seconds)
	}
	again.Seconds, child.Seconds = 0, 0
	if again != child {
		t.Errorf("the second front was told of %+v, want %+v", again, child)
	}
	second.output("the setup")
	second.send(about(ctl.Kill, child))
	if e := second.expect(ctl.Exited); e.PID != child.PID {
		t.Errorf("exited: %d, want %d", e.PID, child.PID)
	}
}

func TestAFrontThatExitsByItselfIsReplaced(t *testing.T) {
	r := newRig(t)
	code := 7
	r.start().order(order{Exit: &code})
	r.next()
	if !strings.Contains(r.log.String(), "exit status 7") {
		t.Error("the log does not say why the front ended")
	}
}

func TestAFrontThatSendsNonsenseIsReplaced(t *testing.T) {
	for _, raw := range []string{"hello", `{"kind":"start","pool":"p","generation":1,"command":"sh"}`, `{"kind":"drain"}`} {
		t.Run(raw, func(t *testing.T) {
			r := newRig(t, shell("p", idle))
			s := r.start()
			s.order(order{Raw: raw})
			r.next()
			if !gone(s.pid) {
				t.Errorf("front %d lives on", s.pid)
			}
		})
	}
}

func TestAFrontThatReadsNothingIsReplaced(t *testing.T) {
	r := newRig(t)
	r.mode("deaf")
	s := r.start()
	killed := make(chan struct{})
	go func() { // ends with the front: each order makes the supervisor answer
		defer close(killed)
		for s.out.Encode(order{Send: &ctl.Message{Kind: ctl.Start, Pool: "x", Generation: 1}}) == nil {
		}
	}()
	r.next()
	<-killed
	if !gone(s.pid) {
		t.Errorf("front %d lives on", s.pid)
	}
}

func TestAKilledSupervisorLeavesNothingAndIsSucceeded(t *testing.T) {
	r := newRig(t, shell("p", stubborn))
	address, unixPath := freePort(t), filepath.Join(r.dir, "site.sock")
	r.set.Plan.Listeners = []Listener{{"tcp", address}, {"unix", unixPath}}
	s := r.start()
	child := s.startChild("p", 0)
	s.output("up")
	r.signal(syscall.SIGKILL)
	<-r.exited
	for _, pid := range []int{s.pid, child.PID} {
		eventually(t, fmt.Sprintf("%d gone", pid), func() bool { return gone(pid) })
	}
	// Its sockets are still in the file system; the next one takes them over.
	if _, err := os.Stat(child.Socket); err != nil {
		t.Fatalf("a killed supervisor removed its sockets? %v", err)
	}
	next := r.start()
	if _, err := os.Stat(child.Socket); err == nil {
		t.Error("the socket of a dead child was left")
	}
	if got := served(t, "tcp", address); got != next.pid {
		t.Errorf("served by %d, want %d", got, next.pid)
	}
	if got := served(t, "unix", unixPath); got != next.pid {
		t.Errorf("served by %d, want %d", got, next.pid)
	}
}

func TestASecondSupervisorRefusesToStart(t *testing.T) {
	r := newRig(t)
	s := r.start()
	second := newRig(t)
	second.set.Plan.RuntimeDir = r.set.Plan.RuntimeDir
	second.set.Plan.AdminSocket = r.set.Plan.AdminSocket
	second.launch()
	want := fmt.Sprintf("another gateway runs here: pid %d", r.cmd.Process.Pid)
	if code := second.wait(); code != 1 || !strings.Contains(second.log.String(), want) {
		t.Errorf("exit %d, log %q; want 1 and %q", code, second.log, want)
	}

	third := newRig(t)
	third.set.Plan.RuntimeDir = r.set.Plan.RuntimeDir // with an admin socket of its own
	third.set.Plan.AdminSocket = filepath.Join(third.dir, "admin.sock")
	third.launch()
	if code := third.wait(); code != 1 || !strings.Contains(third.log.String(), "in use by another gateway") {
		t.Errorf("exit %d, log %q; want 1 and a word on the runtime_dir", code, third.log)
	}
	if gone(s.pid) || r.ask("pid\n") != fmt.Sprintf("%d\n", r.cmd.Process.Pid) {
		t.Error("the first supervisor was disturbed")
	}
}

func TestAFirstFrontThatFailsFailsTheStart(t *testing.T) {
	for _, tt := range []struct {
		name, mode string
		timeout    time.Duration
		want       string
	}{
		{"it exits", "exit 2", patience, "error: front: exited before ready: exit status 2"},
		{"it is never ready", "never ready", 300 * time.Millisecond, "error: front: not ready after 300ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.set.ReadyTimeout = tt.timeout
			r.mode(tt.mode)
			r.launch()
			if code := r.wait(); code != 1 || !strings.Contains(r.log.String(), tt.want) {
				t.Errorf("exit %d, log %q; want 1 and %q", code, r.log, tt.want)
			}
			if _, err := os.Stat(r.set.Plan.AdminSocket); err == nil {
				t.Error("the admin socket was left")
			}
		})
	}
}

func TestAnAddressInUseIsNamed(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := l.Addr().String()
	r.set.Plan.Listeners = []Listener{{"tcp", address}}
	r.launch()
	want := "error: listen " + address + ": address already in use\n"
	if code := r.wait(); code != 1 || !strings.Contains(r.log.String(), want) {
		t.Errorf("exit %d, log %q; want 1 and %q", code, r.log, want)
	}
}

func TestAChildThatIgnoresTERMIsKilledAfterItsTime(t *testing.T) {
	r := newRig(t, shell("p", stubborn))
	s := r.start()
	c := s.startChild("p", 0)
	s.output("up")
	s.send(about(ctl.Kill, c))
	e := s.expect(ctl.Exited)
	want := about(ctl.Exited, c)
	want.Status = int(syscall.SIGKILL)
	if e != want {
		t.Errorf("exited = %+v, want %+v", e, want)
	}
	if _, err := os.Stat(c.Socket); err == nil {
		t.Error("its socket was left")
	}
}

func TestARetiredChildClimbsTheLadder(t *testing.T) {
	for _, tt := range []struct {
		pool, script string
		kill         time.Duration // the last rung; one who follows SIGTERM must not be overtaken by it
		want         syscall.Signal
	}{{"soft", idle, patience, syscall.SIGTERM}, {"hard", stubborn, 100 * time.Millisecond, syscall.SIGKILL}} {
		r := newRig(t, shell(tt.pool, tt.script))
		r.set.Ladder = []time.Duration{0, 20 * time.Millisecond, tt.kill}
		s := r.start()
		c := s.startChild(tt.pool, 0)
		s.output("up")
		s.send(about(ctl.Retire, c))
		if e := s.expect(ctl.Exited); e.PID != c.PID || e.Status != int(tt.want) {
			t.Errorf("retired child of %q: exited = %+v, want status %d", tt.pool, e, tt.want)
		}
	}
}

func TestAMessageAboutAnEarlierChildDoesNothing(t *testing.T) {
	r := newRig(t, shell("p", idle), shell("q", idle))
	s := r.start()
	c := s.startChild("p", 0)
	for name, change := range map[string]func(*ctl.Message){
		"another pid":        func(m *ctl.Message) { m.PID = os.Getpid() },
		"another pool":       func(m *ctl.Message) { m.Pool = "q" },
		"another slot":       func(m *ctl.Message) { m.Slot = 1 },
		"another generation": func(m *ctl.Message) { m.Generation = 2 },
	} {
		m := about(ctl.Kill, c)
		change(&m)
		s.send(m)
		// Messages are handled in order: when this child is gone, the kill before it did what it does.
		other := s.startChild("q", 0)
		s.send(about(ctl.Kill, other))
		if e := s.expect(ctl.Exited); e.PID != other.PID || gone(c.PID) {
			t.Fatalf("%s: %d was killed", name, e.PID)
		}
	}
}

func TestAStartThatThePlanDoesNotAllowIsRefused(t *testing.T) {
	r := newRig(t, shell("p", idle))
	s := r.start()
	s.startChild("p", 0)
	for _, tt := range []struct {
		name string
		m    ctl.Message
		want string
	}{
		{"an unknown pool", ctl.Message{Pool: "x", Generation: 1}, "unknown pool"},
		{"a generation to come", ctl.Message{Pool: "p", Slot: 1, Generation: 2}, "generation 2 is not the current one, 1"},
		{"a slot beyond the limit", ctl.Message{Pool: "p", Slot: 4, Generation: 1}, "slot 4: the pool has 4"},
		{"a slot that is taken", ctl.Message{Pool: "p", Slot: 0, Generation: 1}, "slot 0 is taken by pid"},
	} {
		tt.m.Kind = ctl.Start
		s.send(tt.m)
		if f := s.expect(ctl.Failed); !strings.Contains(f.Text, tt.want) {
			t.Errorf("%s: failed with %q, want %q", tt.name, f.Text, tt.want)
		}
	}
	if n := len(childrenOf(t, r.cmd.Process.Pid)); n != 3 {
		t.Errorf("the supervisor has %d processes, want 3: the warden, the front and one child", n)
	}
}

func TestAProgramThatCannotRunIsNamed(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	here := shell("folder", idle)
	here.Dir = "/no/such/folder"
	program := func(name, path string) Pool { return Pool{Name: name, Path: path, Args: []string{name}, Slots: 1} }
	r := newRig(t, program("missing", "/usr/bin/no-such-php-cgi"), program("folder as program", "/tmp"),
		program("interpreter", script), here)
	s := r.start()
	for pool, want := range map[string]string{
		"missing":           "fork/exec /usr/bin/no-such-php-cgi: no such file or directory",
		"folder as program": "fork/exec /tmp: permission denied",
		"interpreter":       "fork/exec " + script + ": no such file or directory (the interpreter or loader that it names)",
		"folder":            "chdir /no/such/folder: no such file or directory",
	} {
		s.send(ctl.Message{Kind: ctl.Start, Pool: pool, Generation: 1})
		if f := s.expect(ctl.Failed); f.Text != want || f.Pool != pool {
			t.Errorf("pool %q: failed with %q, want %q", f.Pool, f.Text, want)
		}
	}
	if names, err := os.ReadDir(filepath.Join(r.set.Plan.RuntimeDir, "c")); err != nil || len(names) != 0 {
		t.Errorf("sockets left: %v, %v", names, err)
	}
}

func TestAKilledChildTakesItsChildrenAlong(t *testing.T) {
	// The grandchild holds the child's output and its listening socket, as PHP's exec("job &") does.
	r := newRig(t, shell("p", "sleep 600 & echo $!; trap '' TERM; while :; do wait; done"))
	s := r.start()
	c := s.startChild("p", 0)
	line := s.until("the grandchild's pid", func(l said) bool { return l.PID == c.PID && l.Output != "" })
	grandchild, err := strconv.Atoi(line.Output)
	if err != nil {
		t.Fatal(err)
	}
	s.send(about(ctl.Kill, c))
	s.ended(c)
	eventually(t, "grandchild gone", func() bool { return gone(grandchild) })
}

func TestACrashedChildTakesItsChildrenAlong(t *testing.T) {
	r := newRig(t, shell("p", "sleep 600 & kill -SEGV $$"))
	s := r.start()
	c := s.startChild("p", 0)
	if e := s.ended(c); syscall.WaitStatus(e.Status).Signal() != syscall.SIGSEGV {
		t.Errorf("exited = %+v, want SIGSEGV", e)
	}
}

func TestAChildThatEndsInPeaceLeavesItsJobsRunning(t *testing.T) {
	r := newRig(t, shell("p", "sleep 600 >/dev/null 2>&1 & echo $!"))
	s := r.start()
	s.startChild("p", 0)
	line := s.until("the job's pid", func(l said) bool { return l.Output != "" })
	job, err := strconv.Atoi(line.Output)
	if err != nil {
		t.Fatal(err)
	}
	s.until("exited", func(l said) bool { return l.EOF })
	eventually(t, "the job is the supervisor's", func() bool { return parentOf(job) == r.cmd.Process.Pid })
	if gone(job) {
		t.Error("the job was killed")
	}
	// A stop leaves nothing at all.
	r.signal(syscall.SIGTERM)
	if code := r.wait(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if !gone(job) {
		t.Error("the job survived the stop")
	}
}

func TestProcessesInheritOnlyTheirDescriptors(t *testing.T) {
	r := newRig(t, shell("p", idle))
	r.set.Plan.Listeners = []Listener{{"tcp", freePort(t)}}
	s := r.start()
	s.startChild("p", 0)
	s.output("up")
	c := s.startChild("p", 1) // a second one could inherit from the first
	s.output("up")
	want := []string{"0 socket", "1 pipe", "2 pipe"}
	eventually(t, "the child has read its libraries, and has nothing but its input and output", func() bool {
		var names []string
		for _, d := range descriptors(c.PID) {
			names = append(names, d[:strings.IndexAny(d, ":/")])
		}
		return slices.Equal(names, want)
	})
	// The front's runtime adds its poller and the limits of its cgroup, the test the folder that it reads them from.
	for _, d := range s.files {
		own := strings.Contains(d, "anon_inode:[event") || strings.Contains(d, "/proc/") || strings.Contains(d, "/sys/fs/cgroup/")
		if !own && !slices.Contains([]string{"0", "1", "2", "3"}, d[:strings.Index(d, " ")]) {
			t.Errorf("the front inherited %q", d)
		}
	}
	if !slices.Contains(s.files, "0 /dev/null") {
		t.Errorf("descriptor 0 of the front is not /dev/null: %q", s.files)
	}
}

func TestOnlyTheFrontHasNoNewPrivs(t *testing.T) {
	r := newRig(t, shell("p", idle))
	s := r.start()
	c := s.startChild("p", 0)
	if got := statusField(s.pid, "NoNewPrivs"); got != "1" {
		t.Errorf("NoNewPrivs of the front = %q, want 1", got)
	}
	if got := statusField(c.PID, "NoNewPrivs"); got != "0" {
		t.Errorf("NoNewPrivs of a child = %q, want 0", got)
	}
}

func TestEnvironmentFolderAndMaskAreThePlans(t *testing.T) {
	p := Pool{Name: "p", Path: "/usr/bin/env", Args: []string{"env"}, Dir: "/usr", Env: []string{"A=b c"}, Slots: 1}
	q := shell("q", "pwd; umask")
	q.Dir = "/usr"
	r := newRig(t, p, q)
	s := r.start()
	s.startChild("p", 0)
	if l := s.until("its environment", func(l said) bool { return l.PID != 0 }); l.Output != "A=b c" {
		t.Errorf("environment begins with %q, want A=b c", l.Output)
	}
	if l := s.until("its end", func(l said) bool { return l.PID != 0 }); !l.EOF {
		t.Errorf("environment has %q too", l.Output)
	}
	s.startChild("q", 0)
	s.output("/usr")
	s.output("0022")
}

// lookup finds a user of the machine as a credential.
func lookup(t *testing.T, name string, groups ...uint32) *Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Skipf("no user %s here", name)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return &Credential{UID: uint32(uid), GID: uint32(gid), Groups: append(groups, uint32(gid))}
}

func TestRootDropsToTheUsersOfThePlan(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	front, other := lookup(t, "www-data", 12345), lookup(t, "nobody")
	p, q := shell("p", idle), shell("q", idle)
	p.Credential, q.Credential = other, front
	r := newRig(t, p, q)
	r.set.Plan.Front.Credential = front
	unixPath := filepath.Join(r.dir, "site.sock")
	r.set.Plan.Listeners = []Listener{{"unix", unixPath}}
	s := r.start()
	c := s.startChild("p", 0)
	s.output("up")
	for _, tt := range []struct {
		pid int
		c   *Credential
	}{{s.pid, front}, {c.PID, other}, {s.startChild("q", 0).PID, front}} {
		for field, want := range map[string]string{
			"Uid":    strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d ", tt.c.UID), 4)),
			"Gid":    strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d ", tt.c.GID), 4)),
			"CapEff": "0000000000000000",
			"CapPrm": "0000000000000000",
		} {
			if got := statusField(tt.pid, field); got != want {
				t.Errorf("process %d: %s = %q, want %q", tt.pid, field, got, want)
			}
		}
		var groups []string
		for _, g := range slices.Sorted(slices.Values(tt.c.Groups)) {
			groups = append(groups, fmt.Sprint(g))
		}
		if got, want := statusField(tt.pid, "Groups"), strings.Join(groups, " "); got != want {
			t.Errorf("process %d: Groups = %q, want %q", tt.pid, got, want)
		}
	}
	for path, want := range map[string]string{
		r.set.Plan.RuntimeDir:  fmt.Sprintf("drwx------ %d", front.UID),
		r.set.Plan.StateDir:    fmt.Sprintf("drwx------ %d", front.UID),
		filepath.Dir(c.Socket): "drwx--x--x 0",
		c.Socket:               fmt.Sprintf("Srw------- %d", front.UID),
		unixPath:               fmt.Sprintf("Srw-rw---- %d", front.UID),
		r.set.Plan.AdminSocket: "Srw------- 0",
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%v %d", info.Mode(), info.Sys().(*syscall.Stat_t).Uid); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	s.order(order{Dial: c.Socket})
	if l := s.until("an answer", func(l said) bool { return l.Error != "" }); l.Error != "<nil>" {
		t.Errorf("the front can't connect to a child: %s", l.Error)
	}
}

func TestTwoHundredChildrenLeaveNothing(t *testing.T) {
	p := Pool{Name: "p", Path: "/bin/true", Args: []string{"true"}, Slots: 200}
	r := newRig(t, p)
	s := r.start()
	before := len(descriptors(r.cmd.Process.Pid))
	for slot := range p.Slots {
		s.send(ctl.Message{Kind: ctl.Start, Pool: "p", Slot: slot, Generation: 1})
	}
	for range p.Slots {
		s.expect(ctl.Exited)
	}
	eventually(t, "only the front and the warden are left", func() bool {
		return len(childrenOf(t, r.cmd.Process.Pid)) == 2 && !gone(s.pid)
	})
	eventually(t, "the descriptors are closed", func() bool { return len(descriptors(r.cmd.Process.Pid)) <= before })
	if names, err := os.ReadDir(filepath.Join(r.set.Plan.RuntimeDir, "c")); err != nil || len(names) != 0 {
		t.Errorf("sockets left: %v, %v", names, err)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	r := newRig(t, shell("p", "(sleep 0.01 & echo $!) ; exec sleep 600"))
	s := r.start()
	s.startChild("p", 0)
	line := s.until("the orphan's pid", func(l said) bool { return l.Output != "" })
	orphan, err := strconv.Atoi(line.Output)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "no zombie", func() bool { return statusField(orphan, "State") == "" })
}

func TestStopLeavesNothing(t *testing.T) {
	for _, how := range []string{"SIGTERM", "SIGINT", "stop"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, shell("p", idle), shell("q", stubborn))
			r.set.Ladder = []time.Duration{0, 200 * time.Millisecond}
			unixPath := filepath.Join(r.dir, "site.sock")
			r.set.Plan.Listeners = []Listener{{"unix", unixPath}}
			s := r.start()
			pids := []int{s.pid, s.startChild("p", 0).PID, s.startChild("q", 1).PID}
			switch how {
			case "SIGTERM":
				r.signal(syscall.SIGTERM)
			case "SIGINT":
				r.signal(syscall.SIGINT)
			case "stop":
				if got := r.ask("stop\n"); got != "ok\n" {
					t.Errorf("stop = %q, want ok", got)
				}
				for _, pid := range pids {
					if !gone(pid) {
						t.Errorf("%d lives after the answer", pid)
					}
				}
			}
			if code := r.wait(); code != 0 {
				t.Errorf("exit %d, want 0", code)
			}
			for _, pid := range pids {
				if !gone(pid) {
					t.Errorf("%d lives", pid)
				}
			}
			for _, path := range []string{unixPath, r.set.Plan.AdminSocket, r.set.Plan.RuntimeDir} {
				if _, err := os.Lstat(path); err == nil {
					t.Errorf("%s was left", path)
				}
			}
		})
	}
}

func TestAFrontThatDoesNotFinishIsEndedAfterTheGracePeriod(t *testing.T) {
	r := newRig(t)
	r.mode("stubborn")
	r.set.Plan.GracePeriod = 50 * time.Millisecond
	r.set.Ladder = []time.Duration{0, 50 * time.Millisecond}
	s := r.start()
	r.signal(syscall.SIGTERM) // its end may be quicker than what it says of the Drain
	if code := r.wait(); code != 0 || !gone(s.pid) {
		t.Errorf("exit %d, front gone: %v; want 0, true", code, gone(s.pid))
	}
}

func TestASecondSignalStopsAtOnce(t *testing.T) {
	r := newRig(t, shell("p", stubborn))
	r.mode("stubborn")
	r.set.Plan.GracePeriod = time.Hour
	s := r.start()
	c := s.startChild("p", 0)
	r.signal(syscall.SIGTERM)
	s.expect(ctl.Drain)
	r.signal(syscall.SIGTERM)
	if code := r.wait(); code != 0 || !gone(s.pid) || !gone(c.PID) {
		t.Errorf("exit %d, front gone: %v, child gone: %v; want 0, true, true", code, gone(s.pid), gone(c.PID))
	}
}

func TestADrainingFrontStillGetsChildren(t *testing.T) {
	r := newRig(t, shell("p", idle))
	r.mode("stubborn")
	s := r.start()
	r.signal(syscall.SIGTERM)
	s.expect(ctl.Drain)
	s.startChild("p", 0) // a request that waits may need one
	code := 0
	s.order(order{Exit: &code})
	if got := r.wait(); got != 0 {
		t.Errorf("exit %d, want 0", got)
	}
}

func TestOtherSignals(t *testing.T) {
	r := newRig(t)
	s := r.start()
	r.signal(syscall.SIGUSR1)
	s.expect(ctl.Reopen)
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR2, syscall.SIGPIPE} {
		r.signal(sig)
	}
	eventually(t, "a warning each", func() bool {
		return strings.Contains(r.log.String(), "reload is not supported yet") &&
			strings.Contains(r.log.String(), "upgrade is not supported yet")
	})
	if gone(s.pid) || gone(r.cmd.Process.Pid) {
		t.Error("a signal ended the gateway")
	}
}

func TestAdminSocket(t *testing.T) {
	r := newRig(t)
	s := r.start()
	// A client that says nothing holds up nobody.
	stuck, err := net.Dial("unix", r.set.Plan.AdminSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	long := strings.Repeat("x", adminLine+1)
	for _, tt := range []struct{ line, want string }{
		{"pid\n", fmt.Sprintf("%d\n", r.cmd.Process.Pid)},
		{"pid\r\n", fmt.Sprintf("%d\n", r.cmd.Process.Pid)},
		{"status\n", fmt.Sprintf("{\"front_pid\":%d}\n", s.pid)},
		{"format\n", "error: unknown command: use status, stop or pid\n"},
		{"\n", "error: unknown command: use status, stop or pid\n"},
		{long, "error: line too long\n"},
	} {
		if got := r.ask(tt.line); got != tt.want {
			t.Errorf("ask(%.20q) = %q, want %q", tt.line, got, tt.want)
		}
	}
	stuck.SetDeadline(time.Now().Add(patience))
	if b, _ := io.ReadAll(stuck); string(b) != "error: no line within 1s\n" {
		t.Errorf("a silent client got %q", b)
	}
}

func TestStatusWithoutAFrontIsTheSupervisors(t *testing.T) {
	r := newRig(t)
	r.mode("never ready")
	r.start()
	var got struct {
		Version       string
		Generation    int
		SupervisorPID int   `json:"supervisor_pid"`
		FrontPID      *int  `json:"front_pid"`
		Pools         []any `json:"pools"`
	}
	answer := r.ask("status\n")
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatalf("status = %q: %v", answer, err)
	}
	if got.Version != "test" || got.Generation != 1 || got.SupervisorPID != r.cmd.Process.Pid || got.FrontPID == nil || got.Pools == nil {
		t.Errorf("status = %q", answer)
	}
}

func TestPHPTakesItsSocket(t *testing.T) {
	php, err := exec.LookPath("php-cgi")
	if err != nil {
		t.Skip("no php-cgi here")
	}
	r := newRig(t, Pool{Name: "php", Path: php, Args: []string{"php-cgi"}, Slots: 1, KillAfter: patience})
	s := r.start()
	child := s.startChild("php", 0)
	c, err := net.Dial("unix", child.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	// FCGI_GET_VALUES (9) of FCGI_MPXS_CONNS; the answer is FCGI_GET_VALUES_RESULT (10).
	name := "FCGI_MPXS_CONNS"
	record := append([]byte{1, 9, 0, 0, 0, byte(2 + len(name)), 0, 0, byte(len(name)), 0}, name...)
	if _, err := c.Write(record); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 8)
	if _, err := io.ReadFull(c, head); err != nil || head[1] != 10 {
		t.Fatalf("php-cgi answered % x, %v; want a record of type 10", head, err)
	}
	c.Close()
	s.send(about(ctl.Retire, child))
	if e := s.expect(ctl.Exited); e.Status != 0 {
		t.Errorf("php-cgi ended with status %#x, want 0", e.Status)
	}
}
