// Package gatewaytest builds and runs the real program for the tests of the whole system.
package gatewaytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Patience bounds every wait. It is far above what anything takes, so that a loaded machine fails no test.
const Patience = 30 * time.Second

// pollInterval is how often a condition is looked at that nobody announces.
const pollInterval = 5 * time.Millisecond

// Build compiles the program into folder and returns its path. It has the race detector when the test has it.
func Build(folder string) (string, error) {
	binary := filepath.Join(folder, "gateway")
	args := []string{"build", "-o", binary}
	if RaceDetector() {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "gateway/cmd/gateway")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// RaceDetector reports whether the test has it, and so the program that Build makes.
func RaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// FreeAddress returns an address of the loopback interface on which nobody listens. A connection that has ended there keeps the
// kernel from giving the port to others who ask for any, for a minute; servers that set SO_REUSEADDR can have it.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return "", err
	}
	defer client.Close() // the server's end, closed first, has the TIME_WAIT
	server, err := l.Accept()
	if err != nil {
		return "", err
	}
	return l.Addr().String(), server.Close()
}

// Command says how to start a gateway.
type Command struct {
	Binary string
	Config string   // the file or folder
	Socket string   // the admin socket
	Dir    string   // working directory
	Env    []string // as of os/exec
	Log    string   // the file that standard output and error go to
}

// Gateway is one `gateway run`.
type Gateway struct {
	command Command
	process Process
	exited  chan struct{} // closed once the supervisor was reaped
	err     error         // of the supervisor's end; read after exited
}

// Start runs the gateway and returns when its front serves. When that fails the error tells what it said.
func Start(c Command) (*Gateway, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(c.Binary, "run", "-socket", c.Socket, c.Config)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal ends the test, which then ends this
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &Gateway{command: c, process: Process{PID: cmd.Process.Pid}, exited: make(chan struct{})}
	if p, ok := Find(cmd.Process.Pid); ok {
		g.process = p
	}
	go func() { // ends with the process
		g.err = cmd.Wait()
		close(g.exited)
	}()
	if err := g.waitReady(); err != nil {
		return nil, errors.Join(fmt.Errorf("gateway run: %w\n%s", err, g.Log()), g.Kill())
	}
	return g, nil
}

func (g *Gateway) waitReady() error {
	return Wait(func() (bool, error) {
		select {
		case <-g.exited:
			return false, fmt.Errorf("ended at once: %w", g.err)
		default:
		}
		status, err := g.Status()
		return err == nil && status.FrontPID != 0, nil
	})
}

// Status is the part of `gateway status -json` that tests look at.
type Status struct {
	SupervisorPID    int `json:"supervisor_pid"`
	FrontPID         int `json:"front_pid"`
	FrontGoroutines  int `json:"front_goroutines"`
	FrontDescriptors int `json:"front_descriptors"`
	Pools            []Pool
	Connections      struct {
		HTTP2Refused int `json:"http2_refused"`
	}
}

// Pool is one pool of a [Status].
type Pool struct {
	Name      string
	State     string
	Processes struct{ Total, Idle, Busy int }
	Queue     struct{ Waiting, Abandoned int }
	Exits     map[string]int
	Children  []Child
}

// Child is one child of a [Pool].
type Child struct {
	PID      int
	State    string
	Requests int                  // it has served
	Request  struct{ URI string } // zero when it has none
}

// Status asks the running gateway at its admin socket, as `gateway status -json` does, at a hundredth of the cost.
func (g *Gateway) Status() (Status, error) {
	conn, err := net.Dial("unix", g.command.Socket)
	if err != nil {
		return Status{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return Status{}, err
	}
	if _, err := io.WriteString(conn, "status\n"); err != nil {
		return Status{}, err
	}
	var s Status
	err = json.NewDecoder(conn).Decode(&s)
	return s, err
}

// PID is the supervisor's.
func (g *Gateway) PID() int { return g.process.PID }

// Processes lists the supervisor and all that runs below it.
func (g *Gateway) Processes() ([]Process, error) {
	below, err := Descendants(g.process.PID)
	return append([]Process{g.process}, below...), err
}

// Signal sends a signal to the supervisor.
func (g *Gateway) Signal(s syscall.Signal) error { return syscall.Kill(g.process.PID, s) }

// Stop asks the gateway to end, and reports when it did not end well: within [Patience], with code 0, and alone.
func (g *Gateway) Stop() error {
	all, err := g.Processes()
	if err != nil {
		return err
	}
	if err := g.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := g.Wait(); err != nil {
		return errors.Join(err, g.Kill())
	}
	// A clean end leaves nothing: there is no waiting here.
	if left := living(all); left != nil {
		return fmt.Errorf("left behind: %v", left)
	}
	return g.Sane()
}

// Wait returns how the supervisor ended, within [Patience].
func (g *Gateway) Wait() error {
	select {
	case <-g.exited:
		return g.err
	case <-time.After(Patience):
		return fmt.Errorf("supervisor %d does not end", g.process.PID)
	}
}

// Kill ends the gateway and everything below it by SIGKILL, if something of it lives: for cleaning up.
func (g *Gateway) Kill() error {
	all, err := g.Processes()
	if err != nil {
		return err
	}
	for _, p := range living(all) {
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	<-g.exited
	return nil
}

func living(all []Process) []Process {
	var left []Process
	for _, p := range all {
		if p.Alive() {
			left = append(left, p)
		}
	}
	return left
}

// Log is what the gateway has printed until now.
func (g *Gateway) Log() string {
	text, err := os.ReadFile(g.command.Log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Sane reports traces of programming errors in the log.
func (g *Gateway) Sane() error {
	log := g.Log()
	for _, trace := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if i := strings.Index(log, trace); i >= 0 {
			return fmt.Errorf("the log has a %q:\n%s", trace, log)
		}
	}
	return nil
}

// Wait looks at a condition again and again until it holds, it fails, or [Patience] is at its end.
func Wait(holds func() (bool, error)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); ; <-tick.C {
		ok, err := holds()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v in vain", Patience)
		}
	}
}

// Missing names the programs that are not in PATH.
func Missing(programs ...string) error {
	var missing bytes.Buffer
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			fmt.Fprintf(&missing, " %s", p)
		}
	}
	if missing.Len() > 0 {
		return fmt.Errorf("not installed:%s", missing.String())
	}
	return nil
}
