package gatewaytest

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestAProcessIsFoundBelowItsParentUntilItEnds(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	is := func(p Process) bool { return p.PID == cmd.Process.Pid }
	below, err := Descendants(os.Getpid())
	if err != nil || !slices.ContainsFunc(below, is) {
		t.Errorf("Descendants: %v, %v, want %d among them", below, err, cmd.Process.Pid)
	}
	p, ok := Find(cmd.Process.Pid)
	if !ok || !p.Alive() || p.Parent != os.Getpid() {
		t.Errorf("Find(%d): %+v, %v, want it alive below %d", cmd.Process.Pid, p, ok, os.Getpid())
	}

	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	// Nobody has waited for it yet, so that its pid still is its own.
	err = Wait(func() (bool, error) {
		zombies, err := Zombies(os.Getpid())
		return slices.ContainsFunc(zombies, is), err
	})
	if err != nil {
		t.Fatalf("no zombie: %v", err)
	}
	if p.Alive() {
		t.Error("a zombie is alive")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, ok := Find(cmd.Process.Pid); ok {
		t.Error("Find finds a process that was reaped")
	}
}
