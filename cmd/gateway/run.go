package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"gateway/mpm/supervise"
	"gateway/proxy"
	"gateway/routes"
)

func run(args []string) error {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	socket := fs.String("socket", "", "`path` of the admin socket (default: admin.sock in runtime_dir)")
	files, err := parse(fs, args, "FILE")
	if err != nil {
		return err
	}
	if *socket != "" {
		if *socket, err = filepath.Abs(*socket); err != nil {
			return err
		}
	}
	c, err := read(files[0])
	if err != nil {
		return err
	}
	// What this machine lacks concerns the pools and sites that need it: the others serve. Only what the front is given must be there.
	diags := c.CheckSystem()
	if diags.Errors() > 0 {
		report(diags)
	}
	settle(c)
	if err := needed(c); err != nil {
		return err
	}
	if diags.Errors() > 0 {
		fmt.Fprintf(os.Stderr, "gateway: starting all the same: what is named above is out of service until it is mended\n\n")
	}
	warn(slices.Concat(missingRights(c), badPasswords(c), doubts(c), exposedKeys(c)))
	return serve(c, *socket, nil)
}

// needed reports why no front could begin with the files that it is given.
func needed(c *routes.Config) error {
	if bad := badCertificates(c); len(bad) > 0 {
		complain(bad)
		return errReported
	}
	_, certificates := readCertificates(c)
	_, storage := readStorage(c.Gateway.Storage)
	_, servers := readServers(c)
	return errors.Join(certificates, storage, servers)
}

// serve runs a settled configuration until it is stopped. It calls ready, if there is one, once requests are answered.
func serve(c *routes.Config, adminSocket string, ready func()) error {
	log := newLogger(c.Gateway.Log, "supervisor")
	files := newFileWatch(c) // before they are read
	plan, err := newPlan(c, adminSocket, files.passwords.files)
	if err != nil {
		return err
	}
	if !files.empty() {
		plan.Changed = files.changed
	}
	if ignored := ignoredUsers(c); len(ignored) > 0 {
		log.Warnw("users and groups are ignored: only root can change them", "ignored", ignored)
	}
	plan.Ready = ready
	return supervise.Run(*plan, log)
}

// keepsKeys reports whether the front stores keys: those of automatic certificates, or the internal CA's.
func keepsKeys(c *routes.Config) bool {
	return slices.ContainsFunc(c.Sites, func(s routes.Site) bool { return s.TLS.Mode == "internal" || s.TLS.Mode == "auto" })
}

// settle fills in what the configuration leaves to the machine: folders, and as root the front's user.
func settle(c *routes.Config) {
	g := &c.Gateway
	if g.RuntimeDir == "" {
		g.RuntimeDir = defaultRuntimeDir()
	}
	if g.StateDir == "" && keepsKeys(c) {
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
func newPlan(c *routes.Config, adminSocket string, passwords []passwordFile) (*supervise.Plan, error) {
	certificates, err := readCertificates(c)
	if err != nil {
		return nil, err
	}
	storage, err := readStorage(c.Gateway.Storage)
	if err != nil {
		return nil, err
	}
	servers, err := readServers(c)
	if err != nil {
		return nil, err
	}
	s := setup{
		Version: buildVersion(), Generation: 1, SupervisorPID: os.Getpid(), Started: time.Now(),
		Config: c, Certificates: certificates, Passwords: passwords, Storage: storage, Servers: servers,
	}
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
		Front:      supervise.Program{Args: []string{"gateway: front", frontRole}, Env: baseEnv(), Credential: credential},
		Launcher:   []string{"gateway: launcher", launchRole},
		Warden:     supervise.Program{Args: []string{"gateway: warden", wardenRole}, Env: append(baseEnv(), "GOMAXPROCS=1")},
		RuntimeDir: c.Gateway.RuntimeDir, StateDir: c.Gateway.StateDir, AdminSocket: adminSocket,
		GracePeriod: c.Gateway.GracePeriod,
	}
	for _, l := range listeners(c) {
		p.Listeners = append(p.Listeners, supervise.Listener{Network: l.Network, Address: l.Address})
	}
	if m := c.Gateway.Metrics; m != nil {
		p.Listeners = append(p.Listeners, supervise.Listener{Network: m.Network, Address: m.Address})
	}
	for i := range c.Pools {
		if c.Pools[i].MPM == routes.Event {
			continue
		}
		pool, err := planPool(&c.Pools[i], c.Gateway.User)
		if err != nil {
			return nil, err
		}
		if !c.Pools[i].HasApplication() {
			pool.Args = append(pool.Args, dutyArgs(proxy.DutiesOf(c, &c.Pools[i]))...)
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
