package main

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"gateway/mpm/supervise"
	"gateway/routes"
)

// launchRole is the hidden command of a launcher, which sets the limits of a child and then becomes its program.
const launchRole = "launch"

// launchMain becomes a child's program. It says on the child's own output why it can't.
func launchMain(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "gateway launch: it is started by `gateway run`")
		return exitUsage
	}
	descriptor, err := strconv.Atoi(args[0])
	if err == nil {
		err = supervise.Launch(descriptor)
	}
	fmt.Fprintf(os.Stderr, "gateway: child can't be started: %v\n", err)
	return exitFailed
}

// limits translates what the configuration says of a pool's children.
func limits(p *routes.Pool) supervise.Limits {
	l := supervise.Limits{Umask: p.Umask, Nice: p.Nice}
	for _, r := range []struct {
		name     string
		resource int
		value    *int64
	}{
		{"nofile", unix.RLIMIT_NOFILE, p.Rlimit.NoFile},
		{"as", unix.RLIMIT_AS, p.Rlimit.AS},
		{"cpu", unix.RLIMIT_CPU, p.Rlimit.CPU},
		{"core", unix.RLIMIT_CORE, p.Rlimit.Core},
		{"nproc", unix.RLIMIT_NPROC, p.Rlimit.NProc},
	} {
		if r.value != nil {
			l.Rlimits = append(l.Rlimits, supervise.Rlimit{Name: r.name, Resource: r.resource, Value: uint64(*r.value)})
		}
	}
	return l
}

func cgroup(c *routes.Cgroup) *supervise.Cgroup {
	if c == nil {
		return nil
	}
	return &supervise.Cgroup{MemoryMax: c.MemoryMax, PIDsMax: c.PIDsMax, CPUWeight: c.CPUWeight, ChildMemoryMax: c.ChildMemoryMax}
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

// withGroup puts another group in place of the user's first one; the user's other groups stay.
func withGroup(c *supervise.Credential, name string) (*supervise.Credential, error) {
	if c == nil || name == "" {
		return c, nil
	}
	id := name
	if g, err := user.LookupGroup(name); err == nil {
		id = g.Gid
	} else if _, err := strconv.ParseUint(name, 10, 32); err != nil {
		return nil, fmt.Errorf("group %q is unknown", name)
	}
	gid, err := parseID(id)
	if err != nil {
		return nil, err
	}
	others := slices.DeleteFunc(slices.Clone(c.Groups), func(g uint32) bool { return g == c.GID || g == gid })
	return &supervise.Credential{UID: c.UID, GID: gid, Groups: append([]uint32{gid}, others...)}, nil
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("id %q is not a number", s)
	}
	return uint32(n), nil
}

// ignoredUsers lists what only root could do of what the configuration asks, for a warning.
func ignoredUsers(c *routes.Config) []string {
	if os.Geteuid() == 0 {
		return nil
	}
	var ignored []string
	if c.Gateway.User != "" {
		ignored = append(ignored, "gateway { user }")
	}
	for i := range c.Pools {
		p := &c.Pools[i]
		if p.User != "" {
			ignored = append(ignored, fmt.Sprintf("pool %q { user }", p.Name))
		}
		if p.Group != "" {
			ignored = append(ignored, fmt.Sprintf("pool %q { group }", p.Name))
		}
	}
	return ignored
}
