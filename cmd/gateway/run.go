package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"gateway/mpm/supervise"
	"gateway/routes"
)

func run(args []string) error {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	socket := fs.String("socket", "", "`path` of the admin socket (default: admin.sock in runtime_dir)")
	files, err := parse(fs, args, "FILE")
	if err != nil {
		return err
	}
	c, diags := routes.Load(files[0])
	report(diags)
	if diags.HasErrors() {
		return errReported
	}
	// What this machine lacks concerns the pools and sites that need it: the others serve.
	report(c.CheckSystem())
	return serve(c, *socket)
}

// serve runs a configuration until it is stopped.
func serve(c *routes.Config, adminSocket string) error {
	settle(c)
	log := newLogger(c.Gateway.Log, "supervisor")
	plan, err := newPlan(c, adminSocket)
	if err != nil {
		return err
	}
	if c.Gateway.User != "" && os.Geteuid() != 0 {
		log.Warnw("gateway { user } is ignored: only root can change users", "user", c.Gateway.User)
	}
	return supervise.Run(*plan, log)
}

// settle fills in what the configuration leaves to the machine: folders, and as root the front's user.
func settle(c *routes.Config) {
	g := &c.Gateway
	if g.RuntimeDir == "" {
		g.RuntimeDir = defaultRuntimeDir()
	}
	if g.StateDir == "" {
		g.StateDir = defaultStateDir()
	}
	if os.Geteuid() == 0 && g.User == "" {
		g.User = "nobody"
		if _, err := user.Lookup("www-data"); err == nil {
			g.User = "www-data"
		}
	}
}

// defaultRuntimeDir is where the sockets are when the configuration does not say it.
func defaultRuntimeDir() string {
	if os.Geteuid() == 0 {
		return "/run/gateway"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "gateway")
	}
	return filepath.Join(os.TempDir(), "gateway-"+strconv.Itoa(os.Geteuid()))
}

func defaultStateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/gateway"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "gateway")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "gateway")
	}
	return filepath.Join(defaultRuntimeDir(), "state")
}

// newPlan says what the supervisor may do for a configuration.
func newPlan(c *routes.Config, adminSocket string) (*supervise.Plan, error) {
	certificates, err := readCertificates(c)
	if err != nil {
		return nil, err
	}
	s := setup{Version: buildVersion(), Generation: 1, SupervisorPID: os.Getpid(), Started: time.Now(), Config: c, Certificates: certificates}
	blob, err := s.encode()
	if err != nil {
		return nil, err
	}
	credential, err := lookup(c.Gateway.User)
	if err != nil {
		return nil, err
	}
	if adminSocket == "" {
		adminSocket = filepath.Join(c.Gateway.RuntimeDir, adminName)
	}
	p := &supervise.Plan{
		Version: s.Version, Generation: s.Generation, Setup: blob,
		Front:      supervise.Program{Args: []string{"gateway: front", frontRole}, Env: frontEnv(), Credential: credential},
		RuntimeDir: c.Gateway.RuntimeDir, StateDir: c.Gateway.StateDir, AdminSocket: adminSocket,
		GracePeriod: c.Gateway.GracePeriod,
	}
	for _, l := range listeners(c) {
		p.Listeners = append(p.Listeners, supervise.Listener{Network: l.Network, Address: l.Address})
	}
	for i := range c.Pools {
		if c.Pools[i].MPM == routes.Event {
			continue
		}
		pool, err := planPool(&c.Pools[i], c.Gateway.User)
		if err != nil {
			return nil, err
		}
		p.Pools = append(p.Pools, pool)
	}
	return p, nil
}

// listeners lists every address once.
func listeners(c *routes.Config) []routes.Listen {
	var all []routes.Listen
	for i := range c.Sites {
		for _, l := range c.Sites[i].Listen {
			if !slices.ContainsFunc(all, func(o routes.Listen) bool { return o.Key() == l.Key() }) {
				all = append(all, l)
			}
		}
	}
	return all
}

// planPool says how the children of a pool are started.
func planPool(p *routes.Pool, frontUser string) (supervise.Pool, error) {
	name := p.User
	if name == "" {
		name = frontUser
	}
	credential, err := lookup(name)
	if err != nil {
		return supervise.Pool{}, fmt.Errorf("pool %q: %w", p.Name, err)
	}
	plan := supervise.Pool{Name: p.Name, Credential: credential, Slots: p.MaxRequestWorkers, KillAfter: p.KillAfter}
	switch {
	case p.PHP != nil:
		plan.Path, plan.Args = executable(p.PHP.Command), phpArgs(p.PHP)
		// The gateway recycles children itself; php-cgi's own count would race with the next request.
		plan.Env = childEnv(p.PHP.Env, "PHP_FCGI_MAX_REQUESTS=0", "PHP_FCGI_CHILDREN=0")
	case p.FastCGI != nil:
		plan.Path, plan.Args, plan.Dir = executable(p.FastCGI.Command), p.FastCGI.Command, p.FastCGI.Dir
		plan.Env = childEnv(p.FastCGI.Env)
	default:
		plan.Path, plan.Args = supervise.Self, []string{"gateway: child " + p.Name, childRole}
		plan.Env = childEnv(nil, "GOMAXPROCS=2") // one script at a time, and its supervision
	}
	return plan, nil
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

// executable is the absolute path of a command. One that is not found is kept: its pool is then quarantined with the reason.
func executable(command []string) string {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return "/nonexistent/" + filepath.Base(command[0])
	}
	if path, err = filepath.Abs(path); err != nil {
		return command[0]
	}
	return path
}

// childEnv is the whole environment of a child: nothing is inherited but PATH, the time zone and the language.
func childEnv(own map[string]string, fixed ...string) []string {
	env := frontEnv()
	for _, name := range slices.Sorted(maps.Keys(own)) {
		env = append(env, name+"="+own[name])
	}
	return append(env, fixed...)
}

func frontEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"TZ", "LANG", "TMPDIR", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// lookup finds the ids of a user. Not root: everything runs as the caller, and there is nothing to look up.
func lookup(name string) (*supervise.Credential, error) {
	if os.Geteuid() != 0 || name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("user %q is unknown", name)
		}
	}
	c := new(supervise.Credential)
	if c.UID, err = parseID(u.Uid); err != nil {
		return nil, err
	}
	if c.GID, err = parseID(u.Gid); err != nil {
		return nil, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %q: %w", name, err)
	}
	for _, g := range groups {
		id, err := parseID(g)
		if err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, id)
	}
	return c, nil
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("id %q is not a number", s)
	}
	return uint32(n), nil
}
