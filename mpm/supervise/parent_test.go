package supervise

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// fpm is a pool whose children one php-fpm forks.
func fpm(t *testing.T, slots int) Pool {
	t.Helper()
	found, err := filepath.Glob("/usr/sbin/php-fpm[0-9]*")
	if err != nil || len(found) == 0 {
		t.Skip("php-fpm (Debian's package of that name) is not installed")
	}
	return Pool{Name: "php", Path: found[0], Args: []string{"php-fpm"}, Env: []string{"PATH=" + os.Getenv("PATH")}, Slots: slots, FPM: true, KillAfter: time.Second}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestAParentForksTheChildrenThatAreAskedFor(t *testing.T) {
	s := newRig(t, fpm(t, 3)).start()
	first := s.startChild("php", 0)
	second := s.startChild("php", 2)
	if first.Socket == second.Socket {
		t.Errorf("both children listen on %s", first.Socket)
	}
	if a, b := parentOf(first.PID), parentOf(second.PID); a != b || a == s.rig.cmd.Process.Pid {
		t.Errorf("the children were forked by %d and %d, want one php-fpm", a, b)
	}
	if n := len(forkedBy(parentOf(first.PID))); n != 2 {
		t.Errorf("%d children, want the two that were asked for", n)
	}
	s.send(ctl.Message{Kind: ctl.Start, Pool: "php", Slot: 0, Generation: 1})
	if m := s.expect(ctl.Failed); !strings.Contains(m.Text, "taken") {
		t.Errorf("a Start of a place that is taken: %q", m.Text)
	}
}

func TestTheEndOfAForkedChildIsToldWithWhatIsKnown(t *testing.T) {
	s := newRig(t, fpm(t, 1)).start()
	for name, row := range map[string]struct {
		end  func(ctl.Message)
		want int
	}{
		"one that was asked to leave has done so":    {func(c ctl.Message) { s.send(about(ctl.Retire, c)) }, 0},
		"one that was killed ended by that":          {func(c ctl.Message) { s.send(about(ctl.Kill, c)) }, int(syscall.SIGTERM)},
		"of one that crashed only its parent knows":  {func(c ctl.Message) { syscall.Kill(c.PID, syscall.SIGSEGV) }, ctl.Unseen},
		"of one that was shot only its parent knows": {func(c ctl.Message) { syscall.Kill(c.PID, syscall.SIGKILL) }, ctl.Unseen},
	} {
		c := s.startChild("php", 0)
		row.end(c)
		if e := s.expect(ctl.Exited); e.PID != c.PID || e.Status != row.want || e.OOM {
			t.Errorf("%s: exited %+v, want status %#x of %d", name, e, row.want, c.PID)
		}
	}
}

func TestAForkedChildThatDoesNotLeaveIsKilled(t *testing.T) {
	r := newRig(t, fpm(t, 1))
	r.set.Ladder = []time.Duration{0, 100 * time.Millisecond}
	s := r.start()
	c := s.startChild("php", 0)
	before := len(descriptors(c.PID))
	conn, err := net.Dial("unix", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{1}); err != nil { // the rest of the record never comes
		t.Fatal(err)
	}
	eventually(t, "the child has taken the connection", func() bool { return len(descriptors(c.PID)) > before })
	s.send(about(ctl.Retire, c))
	if e := s.expect(ctl.Exited); e.PID != c.PID || e.Status != int(syscall.SIGKILL) {
		t.Errorf("exited %+v, want signal 9 of %d", e, c.PID)
	}
}

func TestACrashOfAForkedChildIsNamedByItsParent(t *testing.T) {
	s := newRig(t, fpm(t, 1)).start()
	c := s.startChild("php", 0)
	if err := syscall.Kill(c.PID, syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	s.until("a line about the crash", func(l said) bool {
		return strings.Contains(l.Output, fmt.Sprintf("child %d exited on signal 11", c.PID))
	})
}

func TestAParentThatDiesTakesItsChildrenAlong(t *testing.T) {
	s := newRig(t, fpm(t, 3)).start()
	children := map[int]bool{}
	var parent int
	for slot := range 3 {
		c := s.startChild("php", slot)
		children[c.PID], parent = true, parentOf(c.PID)
	}
	kill(t, parent)
	var statuses []int
	for range 3 {
		e := s.expect(ctl.Exited)
		if !children[e.PID] || !gone(e.PID) {
			t.Errorf("exited: %d, want one of %v that is gone", e.PID, children)
		}
		statuses = append(statuses, e.Status)
	}
	slices.Sort(statuses)
	if want := []int{ctl.Unseen, ctl.Orphaned, ctl.Orphaned}; !slices.Equal(statuses, want) {
		t.Errorf("statuses %#x, want %#x: one failure counts as one", statuses, want)
	}
	again := s.startChild("php", 1)
	if p := parentOf(again.PID); p == parent || p == s.rig.cmd.Process.Pid {
		t.Errorf("the next child was forked by %d, want another php-fpm", p)
	}
}

func TestAParentThatCannotStartIsToldForEveryPlace(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*Pool)
		want   string
	}{
		"a program that is not there":           {func(p *Pool) { p.Path = "/nowhere/php-fpm" }, "no such file"},
		"php-fpm does not know an option":       {func(p *Pool) { p.Args = append(p.Args, "--nonsense") }, "exit status"},
		"with a launcher it is the same":        {func(p *Pool) { p.Path, p.Limits.Nice = "/nowhere/php-fpm", new(1) }, "no such file"},
		"a limit that leaves it no descriptors": {func(p *Pool) { p.Limits.Rlimits = []Rlimit{{"nofile", unix.RLIMIT_NOFILE, 4}} }, "exit status"},
	} {
		t.Run(name, func(t *testing.T) {
			p := fpm(t, 2)
			row.change(&p)
			s := newRig(t, p).start()
			for slot := range 2 {
				s.send(ctl.Message{Kind: ctl.Start, Pool: "php", Slot: slot, Generation: 1})
			}
			for range 2 {
				if m := s.expect(ctl.Failed); !strings.Contains(m.Text, row.want) {
					t.Errorf("failed: %q, want %q in it", m.Text, row.want)
				}
			}
		})
	}
}

func TestAnotherFrontFindsForkedChildrenAndHearsTheirParent(t *testing.T) {
	r := newRig(t, fpm(t, 2))
	first := r.start()
	c := first.startChild("php", 1)
	kill(t, first.pid)
	second := <-r.sessions
	if m := second.expect(ctl.Parent); m.PID != parentOf(c.PID) {
		t.Errorf("parent %d, want %d", m.PID, parentOf(c.PID))
	}
	if m := second.expect(ctl.Child); m.PID != c.PID || m.Socket != c.Socket || m.Slot != c.Slot {
		t.Errorf("child %+v, want %+v", m, c)
	}
	second.expect(ctl.Setup)
	kill(t, c.PID)
	second.until("a line about the kill", func(l said) bool { return strings.Contains(l.Output, fmt.Sprintf("child %d exited", c.PID)) })
}

func TestForkedChildrenThatNobodyAskedForLeave(t *testing.T) {
	r := newRig(t, fpm(t, 2))
	r.set.FPMIdle = 3 * time.Second // php-fpm counts whole seconds
	s := r.start()
	wanted := s.startChild("php", 0)
	retired := s.startChild("php", 1)
	parent := parentOf(wanted.PID)
	s.send(about(ctl.Retire, retired))
	s.expect(ctl.Exited)
	var unasked int
	eventually(t, "php-fpm forks another one", func() bool {
		for _, pid := range forkedBy(parent) {
			if pid != wanted.PID && pid != retired.PID {
				unasked = pid
			}
		}
		return unasked != 0
	})
	eventually(t, "that one leaves", func() bool { return gone(unasked) })
	if gone(wanted.PID) {
		t.Error("the one that was asked for has left, too")
	}
}

func TestNothingOfAParentSurvives(t *testing.T) {
	for name, end := range map[string]func(*rig){
		"a graceful stop":           func(r *rig) { r.signal(syscall.SIGTERM) },
		"a stop at once":            func(r *rig) { r.signal(syscall.SIGTERM); r.signal(syscall.SIGTERM) },
		"a supervisor that is shot": func(r *rig) { r.signal(syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, fpm(t, 2))
			s := r.start()
			pids := []int{s.startChild("php", 0).PID, s.startChild("php", 1).PID}
			pids = append(pids, parentOf(pids[0]))
			end(r)
			r.wait()
			for _, pid := range pids {
				eventually(t, fmt.Sprintf("%d is gone", pid), func() bool { return gone(pid) })
			}
		})
	}
}

func TestLimitsReachForkedChildren(t *testing.T) {
	p := fpm(t, 2)
	p.Limits = Limits{Nice: new(7), Rlimits: []Rlimit{{"core", unix.RLIMIT_CORE, 1 << 20}, {"nofile", unix.RLIMIT_NOFILE, 200}}}
	c := newRig(t, p).start().startChild("php", 1)
	if got, want := coreLimitOf(c.PID), uint64(1<<20+2+1); got != want {
		t.Errorf("core limit %d, want %d", got, want)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.PID))
	if err != nil {
		t.Fatal(err)
	}
	if line := "Max open files            200                  200"; !strings.Contains(string(limits), line) {
		t.Errorf("no %q in\n%s", line, limits)
	}
	const nice = 16 // counted from the state
	if got := statFields(c.PID)[nice]; got != "7" {
		t.Errorf("nice %s, want 7", got)
	}
}

func TestForkedChildrenHaveControlGroups(t *testing.T) {
	own := groupsHere(t)
	p := fpm(t, 2)
	p.Cgroup = &Cgroup{}
	r := newRig(t, p)
	s := r.start()
	folder := filepath.Join(own, groupPrefix+strconv.Itoa(r.cmd.Process.Pid), poolGroupPrefix+"php")
	first, second := s.startChild("php", 0), s.startChild("php", 1)
	for group, pid := range map[string]int{"1": parentOf(first.PID), "2": first.PID, "3": second.PID} {
		if members := strings.Fields(readGroup(filepath.Join(folder, group), "cgroup.procs")); !slices.Equal(members, []string{strconv.Itoa(pid)}) {
			t.Errorf("group %s holds %q, want %d alone", group, members, pid)
		}
	}
	kill(t, first.PID)
	if e := s.expect(ctl.Exited); e.OOM {
		t.Error("a child that was shot is said to be out of memory")
	}
	if _, err := os.Stat(filepath.Join(folder, "2")); !os.IsNotExist(err) {
		t.Errorf("the group of a dead child: %v", err)
	}
	r.signal(syscall.SIGTERM)
	if code := r.wait(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if _, err := os.Stat(filepath.Dir(folder)); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", filepath.Dir(folder), err)
	}
}

func TestAFamilyIsToldByItsMark(t *testing.T) {
	leader := exec.Command("sh", "-c", "ulimit -c 4; (sleep 600; sleep 601) & wait")
	leader.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	session := leader.Process.Pid
	t.Cleanup(func() {
		syscall.Kill(-session, syscall.SIGKILL)
		leader.Wait()
	})
	var child, grandchild int
	eventually(t, "a grandchild runs", func() bool {
		if pids := forkedBy(session); len(pids) == 1 {
			child = pids[0]
			if pids = forkedBy(child); len(pids) == 1 {
				grandchild = pids[0]
			}
		}
		return grandchild != 0
	})
	own := family{session: session, mark: coreLimitOf(grandchild), since: startOf(child)}
	for name, row := range map[string]struct {
		family family
		pid    int
		want   bool
	}{
		"what a child has started is of its family": {own, grandchild, true},
		"the child itself is not":                   {own, child, false},
		"nor its parent":                            {own, session, false},
		"nor who is in another place":               {family{session, own.mark + 1, own.since}, grandchild, false},
		"nor who is of another parent":              {family{session + 1, own.mark, own.since}, grandchild, false},
		"nor what was there before":                 {family{session, own.mark, startOf(grandchild) + 1}, grandchild, false},
	} {
		if got := row.family.has(member{row.pid, session}); got != row.want {
			t.Errorf("%s: has() = %t", name, got)
		}
	}
	own.signal(syscall.SIGKILL)
	eventually(t, "the grandchild is gone", func() bool { return gone(grandchild) })
	if gone(child) || gone(session) {
		t.Error("others are gone, too")
	}
}
