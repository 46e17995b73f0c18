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

// relation is where a process stands among others.
type relation struct{ parent, session int }

// footprints is the memory of each session of processes by its leader's pid, and of each branch of a session by the pid of the process
// from which that descends, a child of the leader. What a child of a pool has started counts with it in both cases: it leads a session,
// or was forked by the process that does.
func footprints() (map[int]int64, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	table := make(map[int]relation, len(paths))
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if stat, err := os.ReadFile(path); err == nil { // else it has ended
			table[pid] = relationOf(stat)
		}
	}
	sizes := make(map[int]int64)
	for pid, r := range table {
		if r.session == 0 {
			continue
		}
		size := footprint(filepath.Join("/proc", strconv.Itoa(pid)))
		sizes[r.session] += size
		if top := branchOf(table, pid); top != 0 {
			sizes[top] += size
		}
	}
	return sizes, nil
}

// branchOf finds the ancestor of a process, or itself, that is a child of its session's leader; 0 if there is none.
func branchOf(table map[int]relation, pid int) int {
	session := table[pid].session
	for range len(table) { // which was not read at one moment
		r := table[pid]
		switch {
		case r.session != session || pid == session || session == 0:
			return 0
		case r.parent == session:
			return pid
		}
		pid = r.parent
	}
	return 0
}

// relationOf reads /proc/PID/stat (proc_pid_stat(5)); zero if the text is not one.
func relationOf(stat []byte) relation {
	const parent, session = 1, 3 // counted from the state, behind the name, which may hold anything
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	if end < 0 || len(fields) <= session {
		return relation{}
	}
	p, err := strconv.Atoi(string(fields[parent]))
	if err != nil {
		return relation{}
	}
	n, err := strconv.Atoi(string(fields[session]))
	if err != nil {
		return relation{}
	}
	return relation{p, n}
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
