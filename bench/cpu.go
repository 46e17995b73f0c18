package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is what /proc tells of one.
type process struct {
	parent int
	dead   bool          // a zombie
	used   time.Duration // by the process, user and system
	waited time.Duration // by the children that it has waited for, and theirs
}

// processes are all those of the machine. Those that end meanwhile may be missing.
func processes() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		if p, err := parseStat(string(stat)); err == nil {
			p.used = max(p.used, clock(pid))
			all[pid] = p
		}
	}
	return all, nil
}

// parseStat knows proc_pid_stat(5): state and parent are fields 3 and 4, the times 14 to 17. The name, field 2, may contain anything.
func parseStat(stat string) (process, error) {
	const tick = time.Second / 100 // USER_HZ is 100 wherever Go runs
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return process{}, fmt.Errorf("stat %q: too short", stat)
	}
	var n [5]int64
	for i, f := range []string{fields[1], fields[11], fields[12], fields[13], fields[14]} {
		var err error
		if n[i], err = strconv.ParseInt(f, 10, 64); err != nil {
			return process{}, err
		}
	}
	p := process{parent: int(n[0]), dead: fields[0] == "Z"}
	p.used, p.waited = time.Duration(n[1]+n[2])*tick, time.Duration(n[3]+n[4])*tick
	return p, nil
}

// clock reads the processor time of a process in nanoseconds, for in ticks a hundred children that use half a tick each use nothing.
// 0: it has ended.
func clock(pid int) time.Duration {
	const sched = 2 // CPUCLOCK_SCHED, see clock_getcpuclockid(3)
	var t unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|sched), &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// descends reports whether pid is one of roots or was started by one, or by its descendants.
func descends(all map[int]process, pid int, roots []int) bool {
	for ; pid > 0; pid = all[pid].parent {
		for _, r := range roots {
			if pid == r {
				return true
			}
		}
	}
	return false
}

// used is the processor time that processes and their descendants have used so far, also of those that have ended.
func used(roots []int) (sum time.Duration, err error) {
	all, err := processes()
	for pid, p := range all {
		if descends(all, pid, roots) {
			sum += p.used + p.waited
		}
	}
	return sum, err
}

// processors returns one for the servers and one for the load: the same if there is but one.
func processors() (servers, load int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0, err
	}
	servers = -1
	for i := range len(set) * 64 {
		if !set.IsSet(i) {
			continue
		}
		if servers < 0 {
			servers = i
		}
		load = i
	}
	return servers, load, nil
}

// pinned calls f on a thread that stays on one processor, as do the processes that f starts.
func pinned(cpu int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	return errors.Join(f(), unix.SchedSetaffinity(0, &before))
}
