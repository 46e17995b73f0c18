package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// machine is the memory, in bytes, of this machine, or of the control group in which the gateway runs if that has less.
type machine struct {
	total     int64
	available int64 // without swapping, the page cache that can be dropped included
}

// readMachine asks the kernel. A control group counts where it is mounted in the usual place (version 2).
func readMachine() (machine, error) {
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return machine{}, err
	}
	m := machine{total: kibibytes(meminfo, "MemTotal:"), available: kibibytes(meminfo, "MemAvailable:")}
	if m.total == 0 || m.available == 0 {
		return machine{}, errors.New("/proc/meminfo lacks MemTotal or MemAvailable")
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return m, nil // a kernel without control groups
	}
	return m.within("/sys/fs/cgroup", groupPath(groups)), nil
}

// groupPath finds the control group of version 2 in /proc/PID/cgroup: the line "0::/path". Empty: there is none.
func groupPath(text []byte) string {
	for line := range bytes.Lines(text) {
		if path, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); ok {
			return string(path)
		}
	}
	return ""
}

// within lowers m to what a control group and those above it leave.
func (m machine) within(root, group string) machine {
	for path := group; path != ""; path = filepath.Dir(path) {
		limit := groupBytes(filepath.Join(root, path, "memory.max"))
		if limit > 0 {
			m.total = min(m.total, limit)
			m.available = min(m.available, max(0, limit-groupBytes(filepath.Join(root, path, "memory.current"))))
		}
		if path == "/" {
			break
		}
	}
	return m
}

// groupBytes reads a file of a control group. 0: it is not there, or says "max".
func groupBytes(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// kibibytes finds a line such as "Pss: 1234 kB" and returns its value in bytes; 0 if there is none.
func kibibytes(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != name {
			continue
		}
		n, err := strconv.ParseInt(string(fields[1]), 10, 54) // the rest is for the factor
		if err != nil {
			return 0
		}
		return n << 10
	}
	return 0
}

// footprints is the memory of each session of processes by its leader's pid. A child leads a session, so what it has started
// counts with it.
func footprints() (map[int]int64, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	sizes := make(map[int]int64)
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if leader := sessionOf(stat); leader > 0 {
			sizes[leader] += footprint(filepath.Dir(path))
		}
	}
	return sizes, nil
}

// sessionOf finds the session in /proc/PID/stat (proc_pid_stat(5)); 0 if the text is not one.
func sessionOf(stat []byte) int {
	const session = 3 // counted from the state, behind the name, which may hold anything
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	if end < 0 || len(fields) <= session {
		return 0
	}
	n, err := strconv.Atoi(string(fields[session]))
	if err != nil {
		return 0
	}
	return n
}

// footprint is the proportional share (PSS) of a process's memory, in which what several share counts once, or its resident
// memory where the kernel doesn't show that; 0 if it has ended.
func footprint(proc string) int64 {
	if rollup, err := os.ReadFile(filepath.Join(proc, "smaps_rollup")); err == nil {
		if pss := kibibytes(rollup, "Pss:"); pss > 0 {
			return pss
		}
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return 0
	}
	return kibibytes(status, "VmRSS:")
}

// sizeText writes bytes for people.
func sizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}
