package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gateway/mpm/supervise"
	"gateway/routes"
)

func TestPlannedPrograms(t *testing.T) {
	for name, row := range map[string]struct {
		pool      routes.Pool
		args      []string
		env       []string // some of it
		dir       string
		slots     int
		ownSocket bool
	}{
		"a php pool has a place for each request": {
			pool:  routes.Pool{MPM: routes.Prefork, MaxRequestWorkers: 7, ServerLimit: 9, Dir: "/srv", PHP: &routes.PHP{Command: []string{"sh"}, INI: map[string]string{"a": "b"}}},
			args:  []string{"sh", "-d", "cgi.fix_pathinfo=1", "-d", "a=b"},
			env:   []string{"PHP_FCGI_CHILDREN=0", "PHP_FCGI_MAX_REQUESTS=0"},
			dir:   "/srv",
			slots: 7,
		},
		"a worker pool has a place for each child": {
			pool:  routes.Pool{MPM: routes.Worker, MaxRequestWorkers: 100, ThreadsPerChild: 25, ServerLimit: 16, FastCGI: &routes.FastCGI{Command: []string{"sh", "x"}, Dir: "/tmp"}},
			args:  []string{"sh", "x"},
			dir:   "/tmp",
			slots: 16,
		},
		"an HTTP application may make its socket": {
			pool:      routes.Pool{MPM: routes.Worker, ServerLimit: 1, HTTP: &routes.HTTPApp{Command: []string{"sh", "{socket}"}, Env: map[string]string{"A": "1"}}},
			args:      []string{"sh", "{socket}"},
			env:       []string{"A=1"},
			slots:     1,
			ownSocket: true,
		},
		"without an application the gateway is the program": {
			pool:  routes.Pool{Name: "s", MPM: routes.Worker, ServerLimit: 2, ThreadsPerChild: 8},
			args:  []string{"gateway: child s", childRole},
			env:   []string{"GOMAXPROCS=2"},
			slots: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := planPool(&row.pool, "")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Args, row.args) || got.Dir != row.dir || got.Slots != row.slots || got.OwnSocket != row.ownSocket {
				t.Errorf("planPool() = %q in %q, %d places, own socket %t; want %q in %q, %d, %t",
					got.Args, got.Dir, got.Slots, got.OwnSocket, row.args, row.dir, row.slots, row.ownSocket)
			}
			for _, v := range row.env {
				if !slices.Contains(got.Env, v) {
					t.Errorf("environment %q lacks %s", got.Env, v)
				}
			}
		})
	}
}

func TestAPoolWithOneOPcacheRunsPHPFPM(t *testing.T) {
	if routes.MaxForked != supervise.MaxForked {
		t.Errorf("a configuration may have %d children of one php-fpm, a plan %d", routes.MaxForked, supervise.MaxForked)
	}
	for name, row := range map[string]struct {
		workers int
		rlimit  routes.Rlimit
		nofile  uint64 // 0: none
	}{
		"a usual limit of open files is enough for some": {320, routes.Rlimit{}, 0},
		"many need a higher one":                         {1024, routes.Rlimit{}, 3*1024 + 64},
		"one that is given holds":                        {1024, routes.Rlimit{NoFile: new(int64(5000))}, 5000},
	} {
		p := routes.Pool{MPM: routes.Prefork, MaxRequestWorkers: row.workers, Rlimit: row.rlimit, PHP: &routes.PHP{
			ShareOPcache: true, Command: []string{"sh", "-x"}, INI: map[string]string{"fastcgi.logging": "1"},
		}}
		got, err := planPool(&p, "")
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"sh", "-x", "-d", "fastcgi.logging=0", "-d", "cgi.fix_pathinfo=1", "-d", "fastcgi.logging=1"}; !got.FPM || !slices.Equal(got.Args, want) {
			t.Errorf("%s: planPool() = FPM %t, %q; want %q", name, got.FPM, got.Args, want)
		}
		var nofile uint64
		for _, l := range got.Limits.Rlimits {
			nofile = l.Value
		}
		if nofile != row.nofile || len(got.Limits.Rlimits) > 1 {
			t.Errorf("%s: limits %v, want %d open files", name, got.Limits.Rlimits, row.nofile)
		}
	}
}

func TestAWSGIPoolRunsTheShim(t *testing.T) {
	p := routes.Pool{MPM: routes.Worker, ServerLimit: 1, ThreadsPerChild: 3, WSGI: &routes.WSGI{Python: "sh", Module: "a:b", Dir: "/srv"}}
	got, err := planPool(&p, "")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got.Path, "/") || got.Args[0] != got.Path || !slices.Contains(got.Args, "a:b") || !slices.Contains(got.Args, "3") || got.Dir != "/srv" {
		t.Errorf("planPool() = %s %q in %q, want the interpreter's path, the module and the threads", got.Path, got.Args, got.Dir)
	}
}

func TestChildEnv(t *testing.T) {
	t.Setenv("PASSED", "by the caller")
	t.Setenv("SECRET", "of the caller")
	t.Setenv("BOTH", "by the caller")
	t.Setenv("TZ", "UTC")
	got := childEnv([]string{"PASSED", "BOTH", "NOT_SET"}, map[string]string{"BOTH": "by the pool", "PATH": "/opt", "TZ": "CET"}, "FIXED=1")
	want := []string{"PASSED=by the caller", "BOTH=by the pool", "PATH=/opt", "TZ=CET", "FIXED=1"}
	for _, v := range want {
		if !slices.Contains(got, v) {
			t.Errorf("childEnv() = %q, want %s in it", got, v)
		}
	}
	seen := map[string]bool{}
	for _, v := range got {
		name, _, _ := strings.Cut(v, "=")
		if seen[name] || name == "SECRET" || name == "NOT_SET" {
			t.Errorf("childEnv() = %q: %s is twice there, or nobody's business", got, name)
		}
		seen[name] = true
	}
}

func TestLimits(t *testing.T) {
	p := routes.Pool{Umask: new(7), Nice: new(0), Rlimit: routes.Rlimit{Core: new(int64(0)), NProc: new(int64(9))}}
	want := supervise.Limits{Umask: new(7), Nice: new(0), Rlimits: []supervise.Rlimit{{Name: "core", Resource: unix.RLIMIT_CORE}, {Name: "nproc", Resource: unix.RLIMIT_NPROC, Value: 9}}}
	if got := limits(&p); !reflect.DeepEqual(got, want) {
		t.Errorf("limits() = %+v, want %+v", got, want)
	}
}

func TestWithGroup(t *testing.T) {
	user := &supervise.Credential{UID: 1, GID: 10, Groups: []uint32{10, 20, 30}}
	for name, row := range map[string]struct {
		group string
		want  *supervise.Credential
	}{
		"no group leaves the user's own":             {"", user},
		"a group takes the place of the first one":   {"4711", &supervise.Credential{UID: 1, GID: 4711, Groups: []uint32{4711, 20, 30}}},
		"one of the user's others becomes the first": {"20", &supervise.Credential{UID: 1, GID: 20, Groups: []uint32{20, 30}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := withGroup(user, row.group); err != nil || !reflect.DeepEqual(got, row.want) {
				t.Errorf("withGroup(%q) = %+v, %v; want %+v", row.group, got, err, row.want)
			}
		})
	}
	if _, err := withGroup(user, "no-such-group"); err == nil {
		t.Error("an unknown group is taken")
	}
	if os.Geteuid() != 0 {
		if got, err := withGroup(nil, "4711"); got != nil || err != nil {
			t.Errorf("withGroup(nil) = %+v, %v; want nothing: only root changes groups", got, err)
		}
	}
}
