package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gateway/mpm/supervise"
	"gateway/proxy/wsgi"
	"gateway/routes"
)

// planPool says how the children of a pool are started.
func planPool(p *routes.Pool, frontUser string) (supervise.Pool, error) {
	name := p.User
	if name == "" {
		name = frontUser
	}
	credential, err := lookup(name)
	if err == nil {
		credential, err = withGroup(credential, p.Group)
	}
	if err != nil {
		return supervise.Pool{}, fmt.Errorf("pool %q: %w", p.Name, err)
	}
	plan := supervise.Pool{
		Name: p.Name, Credential: credential, Slots: places(p), KillAfter: p.KillAfter,
		Limits: limits(p), Cgroup: cgroup(p.Cgroup),
	}
	planProgram(&plan, p)
	return plan, nil
}

// places is how many children a pool can have at once.
func places(p *routes.Pool) int {
	if p.MPM == routes.Worker {
		return p.ServerLimit
	}
	return p.MaxRequestWorkers
}

// planProgram says what the children of a pool run.
func planProgram(plan *supervise.Pool, p *routes.Pool) {
	plan.Dir = p.Dir
	switch {
	case p.PHP != nil && p.PHP.ShareOPcache:
		plan.Path, plan.Args, plan.FPM = executable(p.PHP.Command[0]), fpmArgs(p.PHP), true
		plan.Env = childEnv(p.EnvPass, p.PHP.Env)
		if n := routes.FPMFiles(plan.Slots); p.Rlimit.NoFile == nil && n > usualFiles {
			plan.Limits.Rlimits = append(plan.Limits.Rlimits, supervise.Rlimit{Name: "nofile", Resource: unix.RLIMIT_NOFILE, Value: uint64(n)}) //nolint:gosec // positive
		}
	case p.PHP != nil:
		plan.Path, plan.Args = executable(p.PHP.Command[0]), phpArgs(p.PHP)
		// The gateway recycles children itself; php-cgi's own count would race with the next request.
		plan.Env = childEnv(p.EnvPass, p.PHP.Env, "PHP_FCGI_MAX_REQUESTS=0", "PHP_FCGI_CHILDREN=0")
	case p.FastCGI != nil:
		plan.Path, plan.Args, plan.Dir = executable(p.FastCGI.Command[0]), p.FastCGI.Command, p.FastCGI.Dir
		plan.Env = childEnv(p.EnvPass, p.FastCGI.Env)
	case p.WSGI != nil:
		// By its path an interpreter finds the packages of its virtual environment.
		plan.Path, plan.Dir = executable(p.WSGI.Python), p.WSGI.Dir
		args, env := wsgi.Command(plan.Path, p.WSGI.Module, p.ThreadsPerChild)
		plan.Args, plan.Env = args, childEnv(p.EnvPass, p.WSGI.Env, env...)
	case p.HTTP != nil:
		plan.Path, plan.Args, plan.Dir = executable(p.HTTP.Command[0]), p.HTTP.Command, p.HTTP.Dir
		plan.Env, plan.OwnSocket = childEnv(p.EnvPass, p.HTTP.Env), true
	default:
		plan.Path, plan.Args = supervise.Self, []string{"gateway: child " + p.Name, childRole} // its duties follow
		// It waits for others most of the time, and with one request at a time a second processor only costs wake-ups.
		plan.Env = childEnv(p.EnvPass, nil, "GOMAXPROCS="+strconv.Itoa(min(max(p.ThreadsPerChild, 1), 2)))
	}
}

// usualFiles is the limit of open files that processes start with.
const usualFiles = 1024

// fpmArgs are those of php-fpm. What PHP logs goes to its error stream alone: it would to both, as php-fpm hands that on.
func fpmArgs(p *routes.PHP) []string {
	quiet := *p
	quiet.Command = append(slices.Clone(p.Command), "-d", "fastcgi.logging=0")
	return phpArgs(&quiet)
}

func phpArgs(p *routes.PHP) []string {
	args := slices.Clone(p.Command)
	// The gateway has split PATH_INFO against existing files and sends nothing else, so there is nothing for PHP to guess; but
	// only with this setting, PHP's own default, is PHP_SELF the script's name and the PATH_INFO, as under Apache.
	args = append(args, "-d", "cgi.fix_pathinfo=1")
	for _, name := range slices.Sorted(maps.Keys(p.INI)) {
		args = append(args, "-d", name+"="+p.INI[name])
	}
	return args
}

// executable is the absolute path of a command. One that can't be run is kept: its pool is then quarantined, and that path with
// the kernel's error is the reason.
func executable(command string) string {
	path, err := routes.LookPath(command)
	switch {
	case err == nil:
	case strings.Contains(command, "/"):
		path = command
	default:
		path = "/not-in-PATH/" + command
	}
	if path, err = filepath.Abs(path); err != nil {
		return command
	}
	return path
}

// childEnv is the whole environment of a child: nothing is inherited but PATH, the time zone, the language, and what the pool
// passes on. What is set for it comes last and so counts, before what the gateway needs.
func childEnv(passed []string, own map[string]string, fixed ...string) []string {
	env := baseEnv()
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = setVariable(env, name, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		env = setVariable(env, name, own[name])
	}
	return append(env, fixed...)
}

// setVariable sets a variable in place of one of the same name: which of two counts depends on the program.
func setVariable(env []string, name, value string) []string {
	env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	return append(env, name+"="+value)
}

// baseEnv is what every process of the gateway has.
func baseEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"TZ", "LANG", "TMPDIR", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
