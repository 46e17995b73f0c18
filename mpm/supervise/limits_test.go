package supervise

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// asOther makes a plan of a front and of pools that run as two users, and skips the test where that needs root.
func (r *rig) asOther(front, pools uint32) {
	r.t.Helper()
	if os.Geteuid() != 0 {
		r.t.Skip("needs root")
	}
	r.set.Plan.Front.Credential = &Credential{UID: front, GID: front, Groups: []uint32{front}}
	for i := range r.set.Plan.Pools {
		r.set.Plan.Pools[i].Credential = &Credential{UID: pools, GID: pools + 1, Groups: []uint32{pools + 1, pools + 2}}
	}
}

func TestAChildHasItsPoolsLimits(t *testing.T) {
	p := shell("p", "umask; nice; ulimit -n; ulimit -c; ulimit -t; ulimit -v; echo $A; echo done; exec sleep 600")
	p.Env = []string{"A=b", "PATH=/usr/bin:/bin"}
	p.Limits = Limits{
		Umask: new(0o027), Nice: new(7),
		Rlimits: []Rlimit{
			{"nofile", unix.RLIMIT_NOFILE, 77}, {"core", unix.RLIMIT_CORE, 0}, {"cpu", unix.RLIMIT_CPU, 99}, {"as", unix.RLIMIT_AS, 64 << 20},
		},
	}
	r := newRig(t, p)
	s := r.start()
	c := s.startChild("p", 0)
	for _, want := range []string{"0027", "7", "77", "0", "99", strconv.Itoa(64 << 10), "b", "done"} {
		if got := s.until("a line", func(l said) bool { return l.PID == c.PID }).Output; got != want {
			t.Errorf("the child says %q, want %q", got, want)
		}
	}
	for _, want := range []struct{ field, value string }{{"NoNewPrivs", "0"}, {"Name", "sleep"}} {
		eventually(t, want.field, func() bool { return statusField(c.PID, want.field) == want.value })
	}
	if sid, err := unix.Getsid(c.PID); err != nil || sid != c.PID {
		t.Errorf("session %d, %v; want the child's own, %d", sid, err, c.PID)
	}
	if files := descriptors(c.PID); len(files) != 3 {
		t.Errorf("the child has %q, want three descriptors", files)
	}
	r.signal(syscall.SIGKILL) // the parent-death signal survived the launcher
	eventually(t, "the child died with the supervisor", func() bool { return gone(c.PID) })
}

// capable returns an error unless this process has the capability.
func capable(number int) error {
	set, err := strconv.ParseUint(statusField(os.Getpid(), "CapEff"), 16, 64)
	if err == nil && set&(1<<number) == 0 {
		err = unix.EPERM
	}
	return err
}

func TestChildrenYieldToTheFront(t *testing.T) {
	own := policyOf(t, os.Getpid())
	if own != unix.SCHED_NORMAL {
		t.Skipf("these tests run with scheduling policy %d, which stays", own)
	}
	limited := shell("limited", idle)
	limited.Limits.Nice = new(5) // the launcher keeps the policy
	r := newRig(t, shell("plain", idle), limited)
	s := r.start()
	for _, pool := range []string{"plain", "limited"} {
		if got := policyOf(t, s.startChild(pool, 0).PID); got != unix.SCHED_BATCH {
			t.Errorf("pool %s: scheduling policy %d, want SCHED_BATCH", pool, got)
		}
	}
	if got := policyOf(t, s.pid); got != unix.SCHED_NORMAL {
		t.Errorf("the front: scheduling policy %d, want SCHED_NORMAL", got)
	}
}

func TestOnlyOurOwnRoleHasCoarseTimers(t *testing.T) {
	own := shell("own", idle)
	own.Path, own.Args = Self, []string{"own", "listener", filepath.Join(t.TempDir(), "s")}
	r := newRig(t, shell("foreign", idle), own)
	s := r.start()
	slack := func(pid int) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	usual := slack(os.Getpid())
	for pool, want := range map[string]string{"foreign": usual, "own": "5000000"} {
		if got := slack(s.startChild(pool, 0).PID); got != want {
			t.Errorf("pool %s: timer slack %s ns, want %s", pool, got, want)
		}
	}
}

func policyOf(t *testing.T, pid int) uint32 {
	t.Helper()
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return attr.Policy
}

func TestALimitIsRaisedBeforeTheUserChanges(t *testing.T) {
	p := shell("p", "ulimit -Hn; nice; id -u; id -g; id -G; echo done; exec sleep 600")
	p.Env = []string{"PATH=/usr/bin:/bin"}
	limit := uint64(2000)
	if capable(unix.CAP_SYS_RESOURCE) != nil {
		limit = 500 // as in most containers: nothing can be raised
	}
	p.Limits = Limits{Nice: new(-3), Rlimits: []Rlimit{{"nofile", unix.RLIMIT_NOFILE, limit}, {"nproc", unix.RLIMIT_NPROC, 500}}}
	r := newRig(t, p)
	r.asOther(33, 4001)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// The supervisor inherits less than the pool asks for.
	if limit > 1000 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1000, Max: 1000}); err != nil {
			t.Fatal(err)
		}
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	}
	s := r.start()
	c := s.startChild("p", 0)
	for _, want := range []string{strconv.FormatUint(limit, 10), "-3", "4001", "4002", "4002 4003", "done"} {
		if got := s.until("a line", func(l said) bool { return l.PID == c.PID }).Output; got != want {
			t.Errorf("the child says %q, want %q", got, want)
		}
	}
	if got := statusField(c.PID, "CapEff"); strings.Trim(got, "0") != "" {
		t.Errorf("capabilities of the child: %s, want none", got)
	}
	r.signal(syscall.SIGKILL) // a change of user takes the parent-death signal away
	eventually(t, "the child died with the supervisor", func() bool { return gone(c.PID) })
}

func TestALauncherThatFailsSaysWhy(t *testing.T) {
	absent := shell("absent", "")
	absent.Path = "/nonexistent/app"
	text := shell("text", "")
	text.Path = "/etc/passwd"
	folder := shell("folder", idle)
	folder.Dir = "/nonexistent"
	for i, p := range []*Pool{&absent, &text, &folder} {
		p.Limits.Umask = new(i)
	}
	r := newRig(t, absent, text, folder)
	s := r.start()
	s.send(ctl.Message{Kind: ctl.Start, Pool: "absent", Generation: 1})
	if m := s.expect(ctl.Failed); !strings.Contains(m.Text, "/nonexistent/app: no such file") {
		t.Errorf("failed: %q, want the program named", m.Text)
	}
	for pool, want := range map[string]string{"text": "exec /etc/passwd: permission denied", "folder": "chdir /nonexistent: no such file"} {
		c := s.startChild(pool, 0)
		if e := s.ended(c, want); e.Status == 0 || e.OOM {
			t.Errorf("pool %s: exited with %d, out of memory %t; want a failure", pool, e.Status, e.OOM)
		}
	}
}

func TestAChildGoesFirstWhenMemoryIsShort(t *testing.T) {
	r := newRig(t, shell("p", idle))
	s := r.start()
	score := func(pid int) int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	c := s.startChild("p", 0)
	if got, want := score(c.PID), min(score(r.cmd.Process.Pid)+oomScore, maxOOMScore); got != want {
		t.Errorf("oom_score_adj of the child = %d, want %d", got, want)
	}
}

// TestAnHTTPApplicationFindsASocketEitherWay looks at what the program of such a pool gets, as the program and as the front.
func TestAnHTTPApplicationFindsASocketEitherWay(t *testing.T) {
	for _, users := range []string{"one user", "two users"} {
		t.Run(users, func(t *testing.T) {
			p := shell("p", `echo "$1"; echo $GATEWAY_SOCKET; echo $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && echo mine; echo done; exec "$0" "$1"`)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			p.Args = append(p.Args, "/proc/self/exe", SocketPlaceholder)
			p.OwnSocket = true
			// What the shell becomes: this test as a program that listens.
			p.Args[2] = strings.Replace(p.Args[2], `exec "$0" "$1"`, fmt.Sprintf(`exec %s listener "$1"`, self), 1)
			r := newRig(t, p)
			if users == "two users" {
				r.asOther(33, 4001)
				copyOf := filepath.Join(r.dir, "listener") // where the other user may run it
				if err := os.Link(self, copyOf); err != nil {
					copyFile(t, self, copyOf)
				}
				if err := os.Chmod(copyOf, 0o755); err != nil {
					t.Fatal(err)
				}
				r.set.Plan.Pools[0].Args[2] = strings.Replace(r.set.Plan.Pools[0].Args[2], self, copyOf, 1)
			}
			s := r.start()
			c := s.startChild("p", 1)
			own := ctl.OwnSocket(c.Socket)
			bound := own
			if folder, err := os.Readlink(filepath.Dir(own)); err == nil {
				bound = filepath.Join(folder, filepath.Base(own))
			}
			for _, want := range []string{bound, bound, "1 http", "mine", "done"} {
				if got := s.until("a line", func(l said) bool { return l.PID == c.PID }).Output; got != want {
					t.Errorf("the child says %q, want %q", got, want)
				}
			}
			s.output("listening")
			for _, path := range []string{own, c.Socket} {
				s.order(order{Dial: path})
				if e := s.until("dialled", func(l said) bool { return l.Error != "" }).Error; e != "<nil>" {
					t.Errorf("the front can't connect to %s: %s", path, e)
				}
			}
			s.send(about(ctl.Kill, c))
			s.ended(c)
			assertAbsent(t, c.Socket, own, filepath.Dir(own), filepath.Dir(bound))

			// A supervisor that is killed leaves the folders, and the next one removes them.
			second := s.startChild("p", 1)
			left := bound
			if folder, err := os.Readlink(filepath.Dir(ctl.OwnSocket(second.Socket))); err == nil {
				left = folder
			}
			r.signal(syscall.SIGKILL)
			<-r.exited
			r.start()
			assertAbsent(t, left, second.Socket)
			r.signal(syscall.SIGTERM)
			if code := r.wait(); code != 0 {
				t.Errorf("exit %d, want 0", code)
			}
			if users == "two users" {
				assertAbsent(t, filepath.Dir(filepath.Dir(bound)))
			}
		})
	}
}

func assertAbsent(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// listenerRole is a program that makes its own socket and accepts nothing.
func listenerRole(path string) int {
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println(err)
		return 5
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return 5
		}
		c.Close()
	}
}

// TestWhoUsesTheInheritedSocketCanBeSeen shows how the front tells: a second connection gets through only when the first was taken.
func TestWhoUsesTheInheritedSocketCanBeSeen(t *testing.T) {
	dir, _, err := ownFolder(filepath.Join(t.TempDir(), "run"), own())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	d, err := openSocketFolder(dir, own())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	fd, name, err := d.listen(&pool{Pool: Pool{OwnSocket: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	dial := func() error {
		c, err := net.Dial("unix", socketPath(dir.Name(), name))
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	}
	if err := dial(); err != nil {
		t.Fatalf("first connection: %v", err)
	}
	if dial() == nil {
		t.Error("a second connection gets through while nobody accepts")
	}
	taken, _, err := unix.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(taken)
	if err := dial(); err != nil {
		t.Errorf("second connection after the first was accepted: %v", err)
	}
}

func TestAHungFrontIsReplaced(t *testing.T) {
	r := newRig(t, shell("p", idle))
	r.set.Heartbeat = 500 * time.Millisecond // one that waits for its turn of a busy machine is not hung
	first := r.start()
	child := first.startChild("p", 0)
	if err := syscall.Kill(first.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var second *session
	select {
	case second = <-r.sessions:
	case <-time.After(patience):
		t.Fatal("no second front")
	}
	again := second.expect(ctl.Child)
	if !gone(first.pid) {
		t.Error("the hung front lives on")
	}
	eventually(t, "the log says why it was killed", func() bool { return strings.Contains(r.log.String(), "front does not answer") })
	if again.PID != child.PID {
		t.Errorf("the second front was told of child %d, want %d", again.PID, child.PID)
	}
}

func TestABusyFrontIsNotReplaced(t *testing.T) {
	r := newRig(t)
	r.mode("busy")
	r.set.Heartbeat = 250 * time.Millisecond
	s := r.start()
	eventually(t, "the log tells of a slow front", func() bool { return strings.Contains(r.log.String(), "front is slow to answer") })
	s.order(order{Pong: true})
	if got := r.ask("status\n"); !strings.Contains(got, strconv.Itoa(s.pid)) {
		t.Errorf("status = %q, want it from the same front, %d", got, s.pid)
	}
	r.signal(syscall.SIGTERM)
	if code := r.wait(); code != 0 || strings.Contains(r.log.String(), "does not answer") {
		t.Errorf("exit %d; want 0 and no killed front", code)
	}
}

func TestPulse(t *testing.T) {
	type step struct {
		answered bool // before the beat
		cpu      uint64
		held     bool
		want     verdict
	}
	same := func(n int, s step) (list []step) {
		for range n {
			list = append(list, s)
		}
		return list
	}
	for name, steps := range map[string][]step{
		"a front that answers is healthy": {{answered: true}, {answered: true}, {answered: true}},
		"a front that does nothing for three beats is hung": {
			{want: late, cpu: 5}, {want: late, cpu: 5}, {want: hung, cpu: 5},
		},
		"a front that works is busy, and told once": append([]step{
			{want: late, cpu: 5}, {want: late, cpu: 6}, {want: busy, cpu: 7}, {want: late, cpu: 8},
		}, step{answered: true, cpu: 9}),
		"a front that works and never answers is given up in the end": append(append([]step{
			{want: late, cpu: 1}, {want: late, cpu: 2}, {want: busy, cpu: 3},
		}, same(lostBeats-4, step{want: late, cpu: 9})...), step{want: hung, cpu: 9}),
		"a supervisor that was held up blames nobody": {
			{want: late}, {want: late}, {want: late, held: true}, {want: late}, {want: late}, {want: hung},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := pulse{asked: true}
			for i, s := range steps {
				p.asked = !s.answered
				if got := p.beat(s.cpu, s.held); got != s.want {
					t.Errorf("beat %d: %d, want %d", i+1, got, s.want)
				}
			}
		})
	}
}

func TestOOMWatch(t *testing.T) {
	var count uint64
	w := oomWatch{read: func() uint64 { return count }}
	now := time.Unix(1000, 0)
	if w.claim(now) {
		t.Error("claim() without a kill")
	}
	count += 2
	if first, second := w.claim(now), w.claim(now); !first || !second {
		t.Error("two kills are not laid to two children")
	}
	if w.claim(now) {
		t.Error("a third child is laid to two kills")
	}
	count++
	w.look(now)
	if w.claim(now.Add(oomCredit + 1)) {
		t.Error("an old kill is laid to a child")
	}
}

// groupsHere skips a test where this process can't make a control group.
func groupsHere(t *testing.T) string {
	t.Helper()
	own, err := ownGroup()
	if err != nil {
		t.Skip(err)
	}
	probe := filepath.Join(own, fmt.Sprintf("gateway-test-%d", os.Getpid()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		t.Skip(err)
	}
	removeGroup(probe)
	return own
}

func TestAControlGroupEndsWithItsChild(t *testing.T) {
	own := groupsHere(t)
	p := shell("p", "setsid sh -c 'echo $$; exec sleep 600' & wait")
	p.Env = []string{"PATH=/usr/bin:/bin"}
	p.Cgroup = &Cgroup{}
	r := newRig(t, p)
	s := r.start()
	c := s.startChild("p", 0)
	grandchild, err := strconv.Atoi(s.until("a pid", func(l said) bool { return l.PID == c.PID }).Output)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(own, groupPrefix+strconv.Itoa(r.cmd.Process.Pid))
	members := readGroup(filepath.Join(folder, poolGroupPrefix+"p", "1"), "cgroup.procs")
	for _, pid := range []int{c.PID, grandchild} {
		if !strings.Contains(members, strconv.Itoa(pid)) {
			t.Errorf("the child's group holds %q, want %d in it", members, pid)
		}
	}
	s.send(about(ctl.Kill, c))
	if e := s.ended(c); e.OOM {
		t.Error("a child that was killed by order is said to be out of memory")
	}
	eventually(t, "what made a session of its own is gone too", func() bool { return gone(grandchild) })
	eventually(t, "the child's group is removed", func() bool {
		_, err := os.Stat(filepath.Join(folder, poolGroupPrefix+"p", "1"))
		return os.IsNotExist(err)
	})
	r.signal(syscall.SIGTERM)
	if code := r.wait(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", folder, err)
	}
}

func TestLimitsThatAreNotDelegatedAreNamedOncePerPool(t *testing.T) {
	own, err := ownGroup()
	if err == nil && strings.Contains(readGroup(own, "cgroup.controllers"), "memory") {
		t.Skip("the memory controller is delegated here")
	}
	a, b := shell("a", idle), shell("b", idle)
	a.Cgroup, b.Cgroup = &Cgroup{MemoryMax: 1 << 30}, &Cgroup{MemoryMax: 1 << 30, ChildMemoryMax: 1 << 20}
	r := newRig(t, a, b)
	s := r.start()
	for slot := range 2 {
		s.startChild("a", slot)
		s.startChild("b", slot)
	}
	r.signal(syscall.SIGTERM)
	if code := r.wait(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if n := strings.Count(r.log.String(), "limits of the pool's cgroup don't hold"); n != 2 {
		t.Errorf("%d warnings, want one for each of two pools", n)
	}
}
