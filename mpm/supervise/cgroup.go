package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The tree below the control group in which the supervisor was started:
//
//	gateway-PID/            of this supervisor
//	gateway-PID/self/       itself and the front, when a controller is used: a group with groups below it may not hold processes
//	gateway-PID/pool-NAME/  with the limits of the pool
//	gateway-PID/pool-NAME/N one for each child and what it starts
const (
	groupPrefix     = "gateway-"
	selfGroup       = "self"
	poolGroupPrefix = "pool-"
)

// groups are the control groups of the pools that have some. Owned by the loop; made by prepare.
type groups struct {
	outer   string           // the group that the supervisor was started in
	root    string           // gateway-PID; empty: there are no groups
	moved   bool             // the supervisor is in self
	enabled []string         // controllers that outer has for our sake
	missing map[string]error // controllers that can't be had
	count   uint64           // children ever
	left    []string         // groups of dead children in which something still runs
}

// ownGroup finds the folder of the control group (version 2) that this process is in.
func ownGroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		mount, root, err := unifiedMount()
		if err != nil {
			return "", err
		}
		below, err := filepath.Rel(root, path)
		if err != nil || !filepath.IsLocal(below) {
			return "", fmt.Errorf("%s is outside what is mounted at %s", path, mount)
		}
		return filepath.Join(mount, below), nil
	}
	return "", errors.New("the kernel has no control groups of version 2")
}

// unifiedMount finds where the hierarchy of version 2 is mounted, and which part of it.
func unifiedMount() (mount, root string, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(b)) {
		// id parent device root mount options … - type source options
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4], fields[3], nil
		}
	}
	return "", "", errors.New("control groups of version 2 are not mounted")
}

// openGroups makes the groups of the pools that ask for them. What can't be had is said once for each pool: its children run
// without.
func (s *supervisor) openGroups() error {
	var pools []*pool
	for _, p := range s.plan.Pools {
		if p.Cgroup != nil {
			pools = append(pools, s.pools[p.Name])
		}
	}
	if len(pools) == 0 {
		return nil
	}
	s.undo = append(s.undo, s.groups.close)
	err := s.groups.open(controllers(pools))
	for _, p := range pools {
		failed := err
		if err == nil {
			failed = s.groups.openGroup(p)
		}
		if failed != nil {
			s.log.Warnw("limits of the pool's cgroup don't hold: run the gateway as a systemd unit with Delegate=yes, or in a container with a control group of its own",
				"pool", p.Name, "error", failed)
		}
	}
	return nil
}

// openGroup makes the group of a pool. The pool has it, for the sake of what a child leaves behind, even when a limit fails.
func (g *groups) openGroup(p *pool) error {
	path := filepath.Join(g.root, poolGroupPrefix+p.Name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	p.group = path
	failed := p.Cgroup.apply(path)
	for _, name := range controllers([]*pool{p}) {
		if why := g.missing[name]; why != nil {
			return fmt.Errorf("controller %s: %w", name, why) // which is why the limits failed
		}
	}
	return failed
}

// controllers lists what the limits of the pools need.
func controllers(pools []*pool) []string {
	var list []string
	add := func(name string, needed bool) {
		if needed && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	for _, p := range pools {
		add("memory", p.Cgroup.MemoryMax > 0 || p.Cgroup.ChildMemoryMax > 0)
		add("pids", p.Cgroup.PIDsMax > 0)
		add("cpu", p.Cgroup.CPUWeight > 0)
	}
	return list
}

// apply sets the limits of a pool.
func (c *Cgroup) apply(path string) error {
	var errs []error
	set := func(file string, value int64) {
		if value > 0 {
			errs = append(errs, writeGroup(path, file, strconv.FormatInt(value, 10)))
		}
	}
	set("memory.max", c.MemoryMax)
	set("pids.max", int64(c.PIDsMax))
	set("cpu.weight", int64(c.CPUWeight))
	if c.ChildMemoryMax > 0 {
		errs = append(errs, writeGroup(path, "cgroup.subtree_control", "+memory"))
	}
	return errors.Join(errs...)
}

// open makes our own group and enables the controllers in it, as far as they are there.
func (g *groups) open(controllers []string) error {
	outer, err := ownGroup()
	if err != nil {
		return err
	}
	g.outer = outer
	removeStaleGroups(outer)
	root := filepath.Join(outer, groupPrefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	g.root, g.missing = root, map[string]error{}
	for _, name := range controllers {
		if err := g.enable(name); err != nil {
			g.missing[name] = err
		}
	}
	return nil
}

// enable makes a controller available to the groups of the pools. A group that hands controllers down may hold no process, so
// this one leaves it when need be.
func (g *groups) enable(controller string) error {
	if !slices.Contains(strings.Fields(readGroup(g.outer, "cgroup.controllers")), controller) {
		return errors.New("not delegated to the gateway's control group")
	}
	if !slices.Contains(strings.Fields(readGroup(g.outer, "cgroup.subtree_control")), controller) {
		if err := g.enableBelow(controller); err != nil {
			return err
		}
		g.enabled = append(g.enabled, controller)
	}
	return writeGroup(g.root, "cgroup.subtree_control", "+"+controller)
}

func (g *groups) enableBelow(controller string) error {
	err := writeGroup(g.outer, "cgroup.subtree_control", "+"+controller)
	if !errors.Is(err, unix.EBUSY) || g.moved {
		return err
	}
	self := filepath.Join(g.root, selfGroup)
	if err := os.Mkdir(self, 0o755); err != nil {
		return err
	}
	if err := writeGroup(self, "cgroup.procs", "0"); err != nil { // 0 is whoever writes
		return err
	}
	g.moved = true
	if err := writeGroup(g.outer, "cgroup.subtree_control", "+"+controller); err != nil {
		return fmt.Errorf("%w (other processes live in the gateway's control group)", err)
	}
	return nil
}

// close removes everything, and puts back what was changed in the group that is not ours.
func (g *groups) close() {
	if g.root == "" {
		return
	}
	for _, c := range g.enabled {
		writeGroup(g.root, "cgroup.subtree_control", "-"+c)  //nolint:errcheck // then the group stays as it is
		writeGroup(g.outer, "cgroup.subtree_control", "-"+c) //nolint:errcheck // see above
	}
	if g.moved {
		writeGroup(g.outer, "cgroup.procs", "0") //nolint:errcheck // see above
	}
	removeGroup(g.root)
}

// removeStaleGroups removes the groups of supervisors that were killed.
func removeStaleGroups(outer string) {
	stale, err := filepath.Glob(filepath.Join(outer, groupPrefix+"[0-9]*"))
	if err != nil {
		return
	}
	for _, path := range stale {
		removeGroup(path)
	}
}

// removeGroup removes a group and those below it, as far as nothing runs in them.
func removeGroup(path string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeGroup(filepath.Join(path, e.Name()))
		}
	}
	unix.Rmdir(path) //nolint:errcheck // something runs in it
}

// childGroup is the group of one child and of what it starts.
type childGroup struct {
	path   string
	folder *os.File // for fork: closed after it
}

// newChild makes the group of a child of p; nil when the pool has none.
func (g *groups) newChild(p *pool) (*childGroup, error) {
	if p.group == "" {
		return nil, nil
	}
	return g.newGroup(p, p.Cgroup.ChildMemoryMax)
}

// newParent makes that of the parent of the children of p. What these share is charged to it as well.
func (g *groups) newParent(p *pool) (*childGroup, error) {
	if p.group == "" {
		return nil, nil
	}
	return g.newGroup(p, 0)
}

func (g *groups) newGroup(p *pool, memoryMax int64) (*childGroup, error) {
	g.count++
	path := filepath.Join(p.group, strconv.FormatUint(g.count, 10))
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	if memoryMax > 0 {
		// Where the controller is missing, openGroups has said so.
		writeGroup(path, "memory.max", strconv.FormatInt(memoryMax, 10)) //nolint:errcheck // see above
		writeGroup(path, "memory.oom.group", "1")                        //nolint:errcheck // see above
	}
	folder, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		removeGroup(path)
		return nil, err
	}
	return &childGroup{path, folder}, nil
}

// take moves a process into the group that was forked elsewhere.
func (c *childGroup) take(pid int) error {
	return errors.Join(writeGroup(c.path, "cgroup.procs", strconv.Itoa(pid)), c.folder.Close())
}

// oomKills is how many processes of the group the kernel ended for want of memory.
func (c *childGroup) oomKills() uint64 {
	return countIn(filepath.Join(c.path, "memory.events"), "oom_kill")
}

// kill ends everything in the group, what made a session of its own included (Linux 5.14).
func (c *childGroup) kill() {
	writeGroup(c.path, "cgroup.kill", "1") //nolint:errcheck // an older kernel: the process group was killed
}

// bury removes the group of a dead child. As long as something runs in it, it is tried again.
func (g *groups) bury(c *childGroup) {
	g.left = append(g.left, c.path)
	g.sweep()
}

// sweep removes the groups of dead children in which nothing runs any more.
func (g *groups) sweep() {
	g.left = slices.DeleteFunc(g.left, func(path string) bool {
		removeGroup(path)
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist)
	})
}

// writeGroup writes one value: the kernel takes each write as a whole and never makes a file of it.
func writeGroup(path, file, value string) error {
	f, err := os.OpenFile(filepath.Join(path, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func readGroup(path, file string) string {
	b, err := os.ReadFile(filepath.Join(path, file))
	if err != nil {
		return ""
	}
	return string(b)
}
