package main

import (
	"strings"
	"testing"

	"gateway/routes"
)

func TestOvercommitted(t *testing.T) {
	const gib = 1 << 30
	php := func(workers int, limit string) routes.Pool {
		return routes.Pool{Name: "php", MPM: routes.Prefork, MaxRequestWorkers: workers, ThreadsPerChild: 1, PHP: &routes.PHP{INI: map[string]string{"memory_limit": limit}}}
	}
	for name, row := range map[string]struct {
		pools []routes.Pool
		want  []string // of the warning; none: there is no warning
	}{
		"what fits is not spoken of":               {[]routes.Pool{php(8, "128M")}, nil},
		"memory_limit counts for each child":       {[]routes.Pool{php(9, "128M")}, []string{"1.1 GiB together", "1.0 GiB of memory", `pool "php": 9 x 128.0 MiB (memory_limit)`}},
		"the sum over the pools counts":            {[]routes.Pool{php(5, "128M"), {Name: "b", MPM: routes.Prefork, MaxRequestWorkers: 5, ThreadsPerChild: 1, MaxChildMemory: 128 << 20}}, []string{`"php"`, `pool "b": 5 x 128.0 MiB (max_child_memory)`}},
		"an event pool has no children":            {[]routes.Pool{{Name: "e", MPM: routes.Event, MaxRequestWorkers: 100000}}, nil},
		"a worker pool counts children":            {[]routes.Pool{{Name: "w", MPM: routes.Worker, MaxRequestWorkers: 400, ThreadsPerChild: 25, MaxChildMemory: 64 << 20}}, nil},
		"the lowest limit of a child counts":       {[]routes.Pool{{Name: "w", MPM: routes.Prefork, MaxRequestWorkers: 8, ThreadsPerChild: 1, MaxChildMemory: gib, Cgroup: &routes.Cgroup{ChildMemoryMax: 128 << 20}}}, nil},
		"a pool's control group bounds it":         {[]routes.Pool{{Name: "w", MPM: routes.Prefork, MaxRequestWorkers: 100, ThreadsPerChild: 1, MaxChildMemory: gib, Cgroup: &routes.Cgroup{MemoryMax: gib}}}, nil},
		"without a limit a little is assumed":      {[]routes.Pool{php(64, "")}, nil},
		"and too much of a little is too much":     {[]routes.Pool{php(65, "-1")}, []string{"65 x 16.0 MiB (assumed"}},
		"no limit of PHP is not a limit of -1":     {[]routes.Pool{php(2, "-1")}, nil},
		"two control groups can be too large both": {[]routes.Pool{{Name: "a", MPM: routes.Prefork, MaxRequestWorkers: 100, Cgroup: &routes.Cgroup{MemoryMax: gib}}, php(1, "1G")}, []string{`pool "a": 1.0 GiB (cgroup memory_max)`, "2.0 GiB together"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := overcommitted(&routes.Config{Pools: row.pools}, gib)
			if (got == "") != (row.want == nil) {
				t.Fatalf("overcommitted() = %q, want %q in it", got, row.want)
			}
			for _, w := range row.want {
				if !strings.Contains(got, w) {
					t.Errorf("overcommitted() = %q, want %q in it", got, w)
				}
			}
		})
	}
}

func TestPHPBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"128M": 128 << 20, "1g": 1 << 30, "512k": 512 << 10, "1048576": 1 << 20, " 2 M ": 2 << 20,
		"-1": 0, "": 0, "M": 0, "lots": 0, "9223372036854775807G": 0, "0": 0,
	} {
		if got := phpBytes(text); got != want {
			t.Errorf("phpBytes(%q) = %d, want %d", text, got, want)
		}
	}
}
