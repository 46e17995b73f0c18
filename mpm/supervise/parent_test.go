package supervise

import (
	"fmt"
	"io"
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
	"gateway/proxy/fcgi"
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
	p := fpm(t, 1)
	p.KillAfter = patience // who follows SIGTERM must not be overtaken by SIGKILL
	s := newRig(t, p).start()
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

// run has a child run a PHP script, and returns what that writes.
func run(c ctl.Message, path string) (string, error) {
	nc, err := net.Dial("unix", c.Socket)
	if err != nil {
		return "", err
	}
	conn := fcgi.NewConn(nc)
	defer conn.Close()
	r, err := conn.Do([]fcgi.Param{{Name: "SCRIPT_FILENAME", Value: path}, {Name: "REQUEST_METHOD", Value: "GET"}}, nil, 0, func([]byte) {})
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	_, body, _ := strings.Cut(string(b), "\r\n\r\n")
	return body, err
}

func script(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "script.php")
	if err := os.WriteFile(path, []byte("<?php "+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAParentWhoseSocketWasShutDownIsReplaced(t *testing.T) {
	for name, row := range map[string]struct {
		slot    int
		knocked bool // nobody starts a child: the parent finds it when it knocks
	}{
		"by the script of a child":                     {slot: 0},
		"while nobody has a child in the place":        {slot: 1},
		"and nobody starts one there until the knocks": {slot: 1, knocked: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, fpm(t, 2))
			if row.knocked {
				r.set.FPMIdle = 3 * time.Second
			}
			s := r.start()
			first, second := s.startChild("php", 0), s.startChild("php", 1)
			parent, sum := parentOf(first.PID), script(t, "echo 7*6;")
			socket := placeSocketOf(t, second.PID)
			if row.slot == 0 {
				socket = placeSocketOf(t, first.PID)
			} else {
				s.send(about(ctl.Retire, second))
				s.expect(ctl.Exited)
			}
			if err := unix.Shutdown(socket, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			if row.slot == 1 && !row.knocked {
				s.send(ctl.Message{Kind: ctl.Start, Pool: "php", Slot: 1, Generation: 1})
				if m := s.expect(ctl.Failed); !strings.Contains(m.Text, "refused") {
					t.Errorf("failed: %q", m.Text)
				}
			}
			want := []int{ctl.Orphaned}
			if row.slot == 0 {
				want = []int{ctl.Unseen, ctl.Orphaned}
			}
			for _, status := range want {
				if e := s.expect(ctl.Exited); e.Status != status {
					t.Errorf("exited %+v, want status %#x", e, status)
				}
			}
			for slot := range 2 {
				c := s.startChild("php", slot)
				if answer, err := run(c, sum); parentOf(c.PID) == parent || err != nil || answer != "42" {
					t.Errorf("child %d of place %d, forked by %d, answers %q (%v), want one of another php-fpm that answers 42", c.PID, slot, parentOf(c.PID), answer, err)
				}
			}
			eventually(t, "the old parent is gone", func() bool { return gone(parent) })
		})
	}
}

// placeSocketOf borrows the listening socket that a child of php-fpm, and whatever its scripts execute, has.
func placeSocketOf(t *testing.T, pid int) int {
	t.Helper()
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(handle)
	for _, d := range descriptors(pid) {
		var number int
		if n, _ := fmt.Sscanf(d, "%d socket:", &number); n == 0 || !strings.Contains(d, " socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(handle, number, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	t.Fatalf("child %d has no socket: %q", pid, descriptors(pid))
	return -1
}

func TestAParentThatHangsIsReplaced(t *testing.T) {
	r := newRig(t, fpm(t, 2))
	r.set.ForkTimeout = 2 * time.Second // the next parent forks its second child within that
	r.set.Ladder = []time.Duration{0, 200 * time.Millisecond}
	s := r.start()
	first := s.startChild("php", 0)
	parent := parentOf(first.PID)
	if answer, err := run(first, script(t, "echo posix_kill(posix_getppid(), 19);")); err != nil || answer != "1" {
		t.Fatalf("the script says %q (%v)", answer, err)
	}
	s.send(ctl.Message{Kind: ctl.Start, Pool: "php", Slot: 1, Generation: 1})
	if m := s.expect(ctl.Failed); !strings.Contains(m.Text, "no child after") {
		t.Errorf("failed: %q", m.Text)
	}
	if e := s.expect(ctl.Exited); e.PID != first.PID || e.Status != ctl.Orphaned {
		t.Errorf("exited %+v, want status %#x of %d", e, ctl.Orphaned, first.PID)
	}
	for slot := range 2 {
		if c := s.startChild("php", slot); parentOf(c.PID) == parent {
			t.Errorf("child %d was forked by the parent that hangs", c.PID)
		}
	}
	eventually(t, "the old parent is gone", func() bool { return gone(parent) })
}

func TestWhatAForkedChildStartedEndsWithIt(t *testing.T) {
	const wait = " & echo $! > PID; wait"
	for name, row := range map[string]struct {
		script string
		end    syscall.Signal // of the child; 0: a Kill of the front, as after request_timeout
	}{
		"a program for which it waits":                     {"sleep 3330" + wait, 0},
		"one that has lowered its limit of core files":     {"ulimit -c 0; sleep 3331" + wait, 0},
		"one that also does not heed SIGTERM":              {"ulimit -c 0; trap '' TERM; sleep 3332" + wait, 0},
		"one that has also left the session":               {"ulimit -c 0; trap '' TERM; setsid sleep 3333" + wait, 0},
		"one of a session of its own, when the child dies": {"setsid sleep 3334" + wait, syscall.SIGKILL},
		"one that has the socket and a lower limit":        {"ulimit -c 0; setsid sleep 3335" + wait, syscall.SIGKILL},
		"an orphan that has the mark and no socket":        {"setsid sh -c 'for fd in 3 4 5 6 7 8 9; do eval \"exec $fd>&-\"; done; exec sleep 3336'" + wait, syscall.SIGKILL},
	} {
		t.Run(name, func(t *testing.T) {
			s := newRig(t, fpm(t, 2)).start()
			c, other := s.startChild("php", 0), s.startChild("php", 1)
			note := filepath.Join(t.TempDir(), "pid")
			path := script(t, "exec(<<<'SH'\n"+strings.ReplaceAll(row.script, "PID", note)+"\nSH);")
			go run(c, path) // ends with the child
			var left int
			eventually(t, "the program runs", func() bool {
				b, err := os.ReadFile(note)
				if err == nil {
					left, err = strconv.Atoi(strings.TrimSpace(string(b)))
				}
				return err == nil && strings.Contains(statusField(left, "Name"), "sleep")
			})
			if row.end == 0 {
				s.send(about(ctl.Kill, c))
			} else if err := syscall.Kill(c.PID, row.end); err != nil {
				t.Fatal(err)
			}
			s.expect(ctl.Exited)
			eventually(t, "it is gone", func() bool { return gone(left) })
			if gone(other.PID) {
				t.Error("so is another child")
			}
		})
	}
}

func TestEveryPlaceOfEveryPoolHasAMarkOfItsOwn(t *testing.T) {
	s := newSupervisor(Plan{Pools: []Pool{{Name: "a", FPM: true, Slots: 3}, {Name: "b", Slots: 9}, {Name: "c", FPM: true, Slots: 2}}}, nil)
	seen := map[uint64]string{}
	for _, name := range []string{"a", "c"} {
		p := s.pools[name]
		for slot := range p.Slots + 1 { // the last is the parent's
			m, place := p.mark(slot), fmt.Sprint(name, slot)
			if seen[m] != "" || m < smallestMark {
				t.Errorf("place %s has the mark %d, that of %q, want one of its own", place, m, seen[m])
			}
			seen[m] = place
		}
	}
}

func TestAFamilyIsToldByMarkOrSocket(t *testing.T) {
	orphan := exec.Command("sh", "-c", "ulimit -c 4; sleep 600 & wait")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	orphan.ExtraFiles = []*os.File{w}
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	pid := orphan.Process.Pid
	t.Cleanup(func() {
		orphan.Process.Kill()
		orphan.Wait()
	})
	var grandchild int
	eventually(t, "its child runs", func() bool {
		if pids := forkedBy(pid); len(pids) == 1 {
			grandchild = pids[0]
		}
		return grandchild != 0
	})
	own := family{mark: coreLimitOf(pid), since: startOf(pid), strays: func() []int { return []int{pid} }, known: map[int]uint64{}}
	pipe := slices.DeleteFunc(linksOf(pid), func(l string) bool { return !strings.HasPrefix(l, "pipe:") })
	if len(pipe) == 0 {
		t.Fatalf("no pipe among %q", linksOf(pid))
	}
	for name, row := range map[string]struct {
		family family
		want   bool
	}{
		"an orphan with the mark is of the family":       {own, true},
		"so is one that has the socket, whatever it did": {family{mark: own.mark + 1, since: own.since, socket: pipe[len(pipe)-1]}, true},
		"who is of another place is not":                 {family{mark: own.mark + 1, since: own.since, socket: "socket:[0]"}, false},
		"nor what was there before":                      {family{mark: own.mark, since: own.since + 1, socket: pipe[len(pipe)-1]}, false},
	} {
		if got := row.family.has(pid); got != row.want {
			t.Errorf("%s: has() = %t", name, got)
		}
	}
	if (kin{pid, own.since - 1}).send(syscall.SIGKILL) {
		t.Error("a stranger with the pid got a signal")
	}
	if !own.signal(syscall.SIGKILL) {
		t.Error("signal() says that somebody may be left")
	}
	eventually(t, "both are gone", func() bool { return gone(pid) && gone(grandchild) })
}
