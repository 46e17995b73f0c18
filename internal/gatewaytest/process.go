package gatewaytest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Process is one process for as long as it lives: a pid alone may become another one's.
type Process struct {
	PID    int
	Parent int
	Name   string
	start  string // when it began, in clock ticks since boot
	state  byte
}

// Find returns the living process with that pid. A zombie is one no more.
func Find(pid int) (Process, bool) {
	p, err := readProcess(pid)
	return p, err == nil && p.state != 'Z'
}

// Alive reports whether the process, and not another one of the same pid, lives.
func (p Process) Alive() bool {
	now, ok := Find(p.PID)
	return ok && now.start == p.start
}

func (p Process) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Name) }

// Descendants lists all living processes below pid, in no order of meaning.
func Descendants(pid int) ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	below := descend(all, pid)
	return slices.DeleteFunc(below, func(p Process) bool { return p.state == 'Z' }), nil
}

// Zombies lists the descendants of pid that ended and that nobody has reaped.
func Zombies(pid int) ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	below := descend(all, pid)
	return slices.DeleteFunc(below, func(p Process) bool { return p.state != 'Z' }), nil
}

func descend(all []Process, pid int) []Process {
	var below []Process
	for _, p := range all {
		if p.Parent == pid {
			below = append(below, p)
			below = append(below, descend(all, p.PID)...)
		}
	}
	return below
}

func processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readProcess(pid)
		if err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// Fields of /proc/PID/stat behind the name, counted from the state (proc(5)).
const (
	statParent = 1
	statStart  = 19
)

func readProcess(pid int) (Process, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Process{}, err
	}
	// The name stands in parentheses and may hold anything, parentheses too.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, errors.New("malformed stat")
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= statStart {
		return Process{}, errors.New("short stat")
	}
	parent, err := strconv.Atoi(fields[statParent])
	if err != nil {
		return Process{}, err
	}
	return Process{
		PID: pid, Parent: parent, Name: string(stat[open+1 : end]), start: fields[statStart], state: fields[0][0],
	}, nil
}
