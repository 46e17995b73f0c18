package supervise

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// The test binary is also the supervisor and the front of these tests: real processes, as they are in production.
const (
	roleVariable  = "SUPERVISE_TEST_ROLE"
	planVariable  = "SUPERVISE_TEST_PLAN"
	relayVariable = "SUPERVISE_TEST_RELAY" // where the front finds the test
	modeVariable  = "SUPERVISE_TEST_MODE"
)

// launchRole is the argument that makes the test binary a launcher.
const launchRole = "launch"

// patience bounds every wait of a test. No test waits for so long unless it fails.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "supervisor":
		os.Exit(supervisorRole())
	case "front":
		os.Exit(frontRole())
	}
	if len(os.Args) == 3 && os.Args[1] == "listener" {
		os.Exit(listenerRole(os.Args[2]))
	}
	if len(os.Args) == 3 && os.Args[1] == launchRole { // its environment is empty
		descriptor, err := strconv.Atoi(os.Args[2])
		if err == nil {
			err = Launch(descriptor)
		}
		fmt.Fprintln(os.Stderr, "launcher:", err)
		os.Exit(127)
	}
	if len(os.Args) == 2 && os.Args[1] == wardenRole {
		if _, err := Watch(0); err != nil {
			fmt.Fprintln(os.Stderr, "warden:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == jobRole {
		os.Exit(leaveJob(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// setting is a plan with what the tests change beside it.
type setting struct {
	Plan         Plan
	ReadyTimeout time.Duration
	Heartbeat    time.Duration
	FPMIdle      time.Duration
	ForkTimeout  time.Duration
	Changed      []string        // what looks at files find, one after the other
	Ladder       []time.Duration // the TERMs, then the KILL; nil: as in production
}

// supervisorRole runs the plan in the environment.
func supervisorRole() int {
	var set setting
	if err := json.Unmarshal([]byte(os.Getenv(planVariable)), &set); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	s := newSupervisor(set.Plan, stderrLogger{})
	if set.ReadyTimeout > 0 {
		s.readyTimeout = set.ReadyTimeout
	}
	if set.Heartbeat > 0 {
		s.heartbeat = set.Heartbeat
	}
	if set.FPMIdle > 0 {
		s.fpmIdle = set.FPMIdle
	}
	if set.ForkTimeout > 0 {
		s.forkTimeout = set.ForkTimeout
	}
	if set.Changed != nil {
		s.filesPeriod = time.Millisecond
		s.plan.Changed = func() []byte {
			if len(set.Changed) == 0 {
				return nil
			}
			next := set.Changed[0]
			set.Changed = set.Changed[1:]
			return []byte(next)
		}
	}
	if set.Ladder != nil {
		s.stopLadder = func() []rung { return shortLadder(set.Ladder) }
	}
	if err := s.run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 4
	}
	return 0
}

func shortLadder(times []time.Duration) []rung {
	var rungs []rung
	for _, t := range times {
		rungs = append(rungs, rung{after: t, signal: syscall.SIGTERM})
	}
	rungs[len(rungs)-1].signal, rungs[len(rungs)-1].group = syscall.SIGKILL, true
	return rungs
}

type stderrLogger struct{}

func (stderrLogger) line(level, msg string, kv []any) {
	fmt.Fprintln(os.Stderr, append([]any{level, msg}, kv...)...)
}
func (l stderrLogger) Infow(msg string, kv ...any)  { l.line("info", msg, kv) }
func (l stderrLogger) Warnw(msg string, kv ...any)  { l.line("warn", msg, kv) }
func (l stderrLogger) Errorw(msg string, kv ...any) { l.line("error", msg, kv) }

// said is a line from a front to the test.
type said struct {
	Message *ctl.Message `json:",omitempty"` // what the supervisor sent
	Files   []string     `json:",omitempty"` // at its start: what its descriptors are
	PID     int          `json:",omitempty"` // the front at its start; a child with Output or EOF
	Output  string       `json:",omitempty"` // a line that a child wrote
	EOF     bool         `json:",omitempty"` // the end of a child's output
	Error   string       `json:",omitempty"`
}

// order is a line from the test to a front.
type order struct {
	Send *ctl.Message `json:",omitempty"`
	Raw  string       `json:",omitempty"` // bytes to send as they are
	Dial string       `json:",omitempty"` // a socket to connect to
	Pong bool         `json:",omitempty"` // answer pings from now on
	Exit *int         `json:",omitempty"`
}

// relay is the front of the tests: it passes on what it hears in both directions.
type relay struct {
	conn    *ctl.Conn
	control *os.File
	mode    string
	answers atomic.Bool // a mode that answers no Ping was told to
	writing sync.Mutex
	out     *json.Encoder
}

// frontRole is a front that does what the test says.
func frontRole() int {
	mode := os.Getenv(modeVariable)
	if mode == "exit 2" {
		return 2
	}
	files := descriptors(os.Getpid())
	if mode == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	test, err := net.Dial("unix", os.Getenv(relayVariable))
	if err != nil {
		fmt.Fprintln(os.Stderr, "front:", err)
		return 5
	}
	control := os.NewFile(3, "control")
	dup, err := unix.Dup(3)
	if err != nil {
		return 5
	}
	r := &relay{control: os.NewFile(uintptr(dup), "raw control"), mode: mode, out: json.NewEncoder(test)}
	if r.conn, err = ctl.FromFile(control); err != nil {
		fmt.Fprintln(os.Stderr, "front:", err)
		return 5
	}
	r.say(said{PID: os.Getpid(), Files: files})
	if mode == "busy" {
		go func() { // ends with the process
			for n := 0; ; n++ {
				_ = n
			}
		}()
	}
	go r.obey(test)
	return r.listen()
}

func (r *relay) say(s said) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.out.Encode(s)
}

func (r *relay) obey(test io.Reader) {
	for d := json.NewDecoder(test); ; {
		var o order
		if d.Decode(&o) != nil {
			return
		}
		var err error
		switch {
		case o.Send != nil:
			err = r.conn.Send(*o.Send)
		case o.Raw != "":
			_, err = r.control.Write([]byte(o.Raw))
		case o.Pong:
			r.answers.Store(true)
			err = r.conn.Send(ctl.Message{Kind: ctl.Pong})
		case o.Dial != "":
			var c net.Conn
			if c, err = net.Dial("unix", o.Dial); err == nil {
				c.Close()
			}
			r.say(said{Error: fmt.Sprint(err)})
			continue
		case o.Exit != nil:
			os.Exit(*o.Exit)
		}
		if err != nil {
			r.say(said{Error: err.Error()})
		}
	}
}

// listen passes on what the supervisor sends, and does the least that a front must.
func (r *relay) listen() int {
	for {
		m, files, err := r.conn.Recv()
		if err != nil {
			return 0
		}
		r.say(said{Message: &m})
		switch m.Kind {
		case ctl.Ping:
			if r.mode != "silent" && r.mode != "busy" || r.answers.Load() {
				r.conn.Send(ctl.Message{Kind: ctl.Pong})
			}
		case ctl.Listener:
			go r.serve(files[0])
		case ctl.Child, ctl.Parent:
			go r.follow(m.PID, files[0])
		case ctl.Status:
			fmt.Fprintf(files[0], "{\"front_pid\":%d}\n", os.Getpid())
			files[0].Close()
		case ctl.Files:
			b, err := ctl.ReadBlob(files[0], 1<<20)
			r.say(said{Output: fmt.Sprintf("files %s %v", b, err)})
		case ctl.Setup:
			if r.mode != "never ready" {
				r.conn.Send(ctl.Message{Kind: ctl.Ready})
			}
			b, err := ctl.ReadBlob(files[0], 1<<20)
			if err != nil {
				r.say(said{Error: err.Error()})
			}
			r.say(said{Output: string(b)})
			if r.mode == "deaf" {
				select {}
			}
		}
		if m.Kind == ctl.Drain && r.mode != "stubborn" {
			return 0
		}
	}
}

// serve answers every connection with the front's pid.
func (r *relay) serve(f *os.File) {
	l, err := net.FileListener(f)
	if err != nil {
		r.say(said{Error: err.Error()})
		return
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Read(make([]byte, len("who?\n"))) // unread bytes would reset the connection
		fmt.Fprintf(c, "%d\n", os.Getpid())
		c.Close()
	}
}

func (r *relay) follow(pid int, output *os.File) {
	for s := bufio.NewScanner(output); s.Scan(); {
		r.say(said{PID: pid, Output: s.Text()})
	}
	r.say(said{PID: pid, EOF: true})
}

// rig is one supervisor under test.
type rig struct {
	t        *testing.T
	dir      string
	set      setting
	cmd      *exec.Cmd
	log      *logBuffer
	exited   chan struct{}
	relay    *net.UnixListener
	sessions chan *session
}

// logBuffer keeps what the supervisor writes.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// session is a front as the test sees it.
type session struct {
	rig   *rig
	pid   int
	files []string
	out   *json.Encoder
	in    chan said
}

// shell is a pool whose children run a script.
func shell(name, script string) Pool {
	return Pool{Name: name, Path: "/bin/sh", Args: []string{"sh", "-c", script}, Slots: 4, KillAfter: 100 * time.Millisecond}
}

// newRig prepares a plan with a short folder: the path of a unix socket has little room.
func newRig(t *testing.T, pools ...Pool) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // a front of another user passes
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, log: new(logBuffer), sessions: make(chan *session, 100)}
	path := filepath.Join(dir, "relay")
	r.relay, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	r.set.Plan = Plan{
		Version:    "test",
		Generation: 1,
		Front: Program{Args: []string{"front"}, Env: []string{
			roleVariable + "=front", relayVariable + "=" + path,
		}},
		Launcher:    []string{"launcher", launchRole},
		Warden:      Program{Args: []string{"warden", wardenRole}},
		Setup:       []byte("the setup"),
		Pools:       pools,
		RuntimeDir:  filepath.Join(dir, "run"),
		StateDir:    filepath.Join(dir, "state"),
		AdminSocket: filepath.Join(dir, "run", "admin.sock"),
		GracePeriod: patience,
	}
	go r.accept()
	t.Cleanup(r.end)
	return r
}

func (r *rig) mode(m string) {
	r.set.Plan.Front.Env = append(r.set.Plan.Front.Env, modeVariable+"="+m)
}

func (r *rig) end() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		<-r.exited
	}
	r.relay.Close()
	os.RemoveAll(r.dir)
	if r.t.Failed() {
		r.t.Logf("log of the supervisor:\n%s", r.log)
	}
}

func (r *rig) accept() {
	for {
		c, err := r.relay.Accept()
		if err != nil {
			return
		}
		d := json.NewDecoder(c)
		var hello said
		if d.Decode(&hello) != nil {
			c.Close()
			continue
		}
		s := &session{rig: r, pid: hello.PID, files: hello.Files, out: json.NewEncoder(c), in: make(chan said, 10_000)}
		r.sessions <- s
		go func() { // ends with the front
			defer close(s.in)
			defer c.Close()
			for {
				var line said
				if d.Decode(&line) != nil {
					return
				}
				s.in <- line
			}
		}()
	}
}

// launch starts the supervisor without waiting for its front.
func (r *rig) launch() {
	r.t.Helper()
	plan, err := json.Marshal(r.set)
	if err != nil {
		r.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.cmd = exec.Command(self)
	r.cmd.Env = append(os.Environ(), roleVariable+"=supervisor", planVariable+"="+string(plan))
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	r.cmd.ExtraFiles = []*os.File{os.Stdin} // whoever starts the gateway may leave it descriptors that are nobody's business
	// A child that outlives the supervisor by mistake would keep the pipe of the log open.
	r.cmd.WaitDelay = patience
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) { // ends with the supervisor
		defer close(exited)
		cmd.Wait()
	}(r.cmd, r.exited)
}

// start starts the supervisor and returns its front, which is ready.
func (r *rig) start() *session {
	r.t.Helper()
	r.launch()
	return r.next()
}

// next waits for another front.
func (r *rig) next() *session {
	r.t.Helper()
	select {
	case s := <-r.sessions:
		s.expect(ctl.Setup)
		if !slices.Contains(r.set.Plan.Front.Env, modeVariable+"=never ready") {
			eventually(r.t, "the supervisor knows that its front is ready", func() bool {
				return strings.Contains(r.log.String(), fmt.Sprintf("front ready pid %d ", s.pid))
			})
		}
		return s
	case <-r.exited:
		r.t.Fatal("the supervisor is gone")
	case <-time.After(patience):
		r.t.Fatal("no front came")
	}
	return nil
}

// wait waits for the supervisor's end and returns its exit code.
func (r *rig) wait() int {
	r.t.Helper()
	select {
	case <-r.exited:
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		r.t.Fatal("the supervisor does not end")
		return 0
	}
}

func (r *rig) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// ask sends a line to the admin socket and returns all that comes back.
func (r *rig) ask(line string) string {
	r.t.Helper()
	answer, err := r.tryAsk(line)
	if err != nil {
		r.t.Fatalf("ask %q: %v", line, err)
	}
	return answer
}

func (r *rig) tryAsk(line string) (string, error) {
	c, err := net.Dial("unix", r.set.Plan.AdminSocket)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, line); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// send has the front send m.
func (s *session) send(m ctl.Message) {
	s.rig.t.Helper()
	s.order(order{Send: &m})
}

func (s *session) order(o order) {
	s.rig.t.Helper()
	if err := s.out.Encode(o); err != nil {
		s.rig.t.Fatalf("front %d: %v", s.pid, err)
	}
}

// until waits for a line that the test is looking for and returns it. Others are dropped.
func (s *session) until(what string, want func(said) bool) said {
	s.rig.t.Helper()
	late := time.After(patience)
	for {
		select {
		case line, ok := <-s.in:
			if !ok {
				s.rig.t.Fatalf("front %d left before %s", s.pid, what)
			}
			if want(line) {
				return line
			}
		case <-late:
			s.rig.t.Fatalf("front %d: no %s", s.pid, what)
		}
	}
}

// expect waits for a message of this kind.
func (s *session) expect(k ctl.Kind) ctl.Message {
	s.rig.t.Helper()
	return *s.until(string(k), func(l said) bool { return l.Message != nil && l.Message.Kind == k }).Message
}

// output waits for a line of output.
func (s *session) output(want string) {
	s.rig.t.Helper()
	s.until("output "+want, func(l said) bool { return l.Output == want })
}

// startChild starts a child and waits for it.
func (s *session) startChild(pool string, slot int) ctl.Message {
	s.rig.t.Helper()
	s.send(ctl.Message{Kind: ctl.Start, Pool: pool, Slot: slot, Generation: 1})
	return s.expect(ctl.Child)
}

// ended waits for the exit of a child and for the end of its output, which come in any order, and what it says before that.
func (s *session) ended(c ctl.Message, words ...string) (exited ctl.Message) {
	s.rig.t.Helper()
	left := 2
	s.until(fmt.Sprintf("the end of a child, with %q", words), func(l said) bool {
		switch {
		case l.PID == c.PID && l.Output != "":
			words = slices.DeleteFunc(words, func(word string) bool { return strings.Contains(l.Output, word) })
		case l.PID == c.PID && l.EOF:
			left--
		case l.Message != nil && l.Message.Kind == ctl.Exited && l.Message.PID == c.PID:
			exited = *l.Message
			left--
		}
		return left == 0 && len(words) == 0
	})
	return exited
}

// about returns a message about a child.
func about(k ctl.Kind, c ctl.Message) ctl.Message {
	return ctl.Message{Kind: k, Pool: c.Pool, Slot: c.Slot, PID: c.PID, Generation: c.Generation}
}

// eventually polls what can't be waited for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

// gone reports whether a process ended. A zombie did: on the machine of the test nobody may reap what a killed supervisor left.
func gone(pid int) bool {
	state := statusField(pid, "State")
	return state == "" || strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// statusField reads one line of /proc/PID/status; empty when there is no such process.
func statusField(pid int, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return ""
}

// descriptors lists what a process has open, as "0 /dev/null".
func descriptors(pid int) []string {
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(folder, e.Name()))
		if errors.Is(err, os.ErrNotExist) { // the folder itself, closed since
			continue
		}
		list = append(list, e.Name()+" "+target)
	}
	slices.Sort(list)
	return list
}

// childrenOf lists the processes, zombies too, whose parent is pid.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, n := range names {
		var child int
		if _, err := fmt.Sscan(filepath.Base(n), &child); err == nil && parentOf(child) == pid {
			pids = append(pids, child)
		}
	}
	return pids
}
