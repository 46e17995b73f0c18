package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"gateway/mpm/supervise"
	"gateway/routes"
	"gateway/tls"
)

// findings are what is wrong with a configuration on this machine that only a start would show: rights of the front's user, and
// certificates that can't be used.
func findings(c *routes.Config) []string {
	return slices.Concat(unreachable(c), lockedOut(c), badCertificates(c))
}

// lockedOut lists the pools whose user can't get to what its children are to run, as with an interpreter in somebody's home.
func lockedOut(c *routes.Config) []string {
	var found []string
	for i := range c.Pools {
		if c.Pools[i].MPM == routes.Event {
			continue
		}
		plan, err := planPool(&c.Pools[i], c.Gateway.User)
		if err != nil || plan.Credential == nil {
			continue // an unknown user is reported elsewhere; the caller's rights were tried
		}
		for _, path := range []string{plan.Path, plan.Dir} {
			if path == supervise.Self {
				continue // the kernel has it open
			}
			if at := obstacle(path, plan.Credential); at != "" {
				found = append(found, fmt.Sprintf("pool %q: its user can't enter %s, and so can't use %s: run chmod o+x %s, or name another one", plan.Name, at, path, at))
			}
		}
	}
	return found
}

// unreachable lists the folders that the front's user can't enter.
func unreachable(c *routes.Config) []string {
	credential, err := lookup(c.Gateway.User)
	if credential == nil || err != nil {
		return nil // the front runs as the caller, whose rights were tried; an unknown user is reported elsewhere
	}
	var found, folders []string
	for i := range c.Sites {
		for j := range c.Sites[i].Routes {
			r := &c.Sites[i].Routes[j]
			folders = append(folders, r.Root)
			if r.CGI != nil {
				folders = append(folders, r.CGI.Root)
			}
		}
	}
	if log := c.Gateway.AccessLog; log != nil && log.Path != "-" {
		folders = append(folders, filepath.Dir(log.Path))
	}
	slices.Sort(folders)
	for _, folder := range slices.Compact(folders) {
		if at := obstacle(folder, credential); at != "" {
			found = append(found, fmt.Sprintf("user %q, as which the front runs, can't enter %s, and so can't use %s: run chmod o+x %s, or choose another folder",
				c.Gateway.User, at, folder, at))
		}
	}
	return found
}

// obstacle is the first folder on the way to a path that its mode bits keep a user from entering; empty: none, or the path is
// not there at all.
func obstacle(path string, user *supervise.Credential) string {
	if path == "" {
		return ""
	}
	if parent := filepath.Dir(path); parent != path {
		if at := obstacle(parent, user); at != "" {
			return at
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || mayEnter(st, user) {
		return ""
	}
	return path
}

func mayEnter(st *syscall.Stat_t, user *supervise.Credential) bool {
	switch {
	case user.UID == 0:
		return true
	case st.Uid == user.UID:
		return st.Mode&0o100 != 0
	case st.Gid == user.GID, slices.Contains(user.Groups, st.Gid):
		return st.Mode&0o010 != 0
	}
	return st.Mode&0o001 != 0
}

// badCertificates lists the given certificates that no handshake could use. One that can't be read is reported elsewhere.
func badCertificates(c *routes.Config) []string {
	var found []string
	for i := range c.Sites {
		s := &c.Sites[i]
		if a := s.TLS.ACME; a != nil {
			found = append(found, badACME(s.Names[0], a)...)
		}
		if s.TLS.Mode != "manual" {
			continue
		}
		certificate, err := os.ReadFile(s.TLS.Certificate)
		if err != nil {
			continue
		}
		key, err := os.ReadFile(s.TLS.Key)
		if err != nil {
			continue
		}
		if err := tls.Check(certificate, key); err != nil {
			found = append(found, fmt.Sprintf("site %q: %v (%s, %s)", s.Names[0], err, s.TLS.Certificate, s.TLS.Key))
		}
	}
	return found
}

// badACME lists what no certificate could be got with. A file that can't be read is reported elsewhere.
func badACME(site string, a *routes.ACME) []string {
	var found []string
	if a.DNS != nil {
		if err := tls.CheckDNS(a.DNS); err != nil {
			found = append(found, fmt.Sprintf("site %q: %v", site, err))
		}
	}
	if roots, err := os.ReadFile(a.CARoot); err == nil && !tls.HasCertificates(roots) {
		found = append(found, fmt.Sprintf("site %q: ca_root: no certificate in %s", site, a.CARoot))
	}
	return found
}
