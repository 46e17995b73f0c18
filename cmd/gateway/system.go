package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"gateway/mpm/supervise"
	"gateway/proxy"
	"gateway/routes"
	"gateway/tls"
)

// missingRights are those that the front's and the pools' users lack on this machine, which only a start would show.
func missingRights(c *routes.Config) []string {
	return slices.Concat(unreachable(c), lockedOut(c), mutedLog(c))
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
		for _, needed := range []struct{ what, path string }{{"program", plan.Path}, {"folder", plan.Dir}} {
			if needed.path == supervise.Self {
				continue // the kernel has it open
			}
			if at := obstacle(needed.path, plan.Credential); at != "" {
				found = append(found, fmt.Sprintf("pool %q: its user can't enter %s, and so can't use %s: name another %s, one that everybody may use, or run chmod o+x %s",
					plan.Name, at, needed.path, needed.what, at))
			}
		}
	}
	return found
}

// unreachable lists the folders that those who are to use them can't enter: the front, and the children of each pool.
func unreachable(c *routes.Config) []string {
	credential, err := lookup(c.Gateway.User)
	if credential == nil || err != nil {
		return nil // all run as the caller, whose rights were tried; an unknown user is reported elsewhere
	}
	found := fences(fmt.Sprintf("user %q, as which the front runs,", c.Gateway.User), credential, frontFolders(c))
	for i := range c.Pools {
		p := &c.Pools[i]
		plan, err := planPool(p, c.Gateway.User)
		if p.MPM == routes.Event || err != nil {
			continue
		}
		who := fmt.Sprintf("user %q, as which the children of pool %q run,", cmp.Or(p.User, c.Gateway.User), p.Name)
		found = append(found, fences(who, plan.Credential, poolFolders(c, p))...)
	}
	return found
}

// fences says which of the folders a user can't enter.
func fences(who string, credential *supervise.Credential, folders []string) (found []string) {
	slices.Sort(folders)
	for _, folder := range slices.Compact(folders) {
		if at := obstacle(folder, credential); at != "" {
			found = append(found, fmt.Sprintf("%s can't enter %s, and so can't use %s: run chmod o+x %s, or choose another folder", who, at, folder, at))
		}
	}
	return found
}

// frontFolders are those in which the front looks itself: of routes on event pools, and of scripts, which it looks for before a child
// gets the request. The children of other pools look for it.
func frontFolders(c *routes.Config) (folders []string) {
	for i := range c.Pools {
		if p := &c.Pools[i]; p.MPM == routes.Event || p.HasApplication() {
			folders = append(folders, roots(c, p)...)
		}
	}
	return folders
}

// poolFolders are those in which the children of a pool look: for files and scripts, or for the scripts that PHP is told to run.
func poolFolders(c *routes.Config, p *routes.Pool) []string {
	switch {
	case !p.HasApplication():
		d := proxy.DutiesOf(c, p)
		return slices.Concat(d.Open, d.Look, d.Run)
	case p.PHP != nil:
		return roots(c, p)
	}
	return nil
}

// roots are the folders of a pool's routes, and those from which it sends files for applications.
func roots(c *routes.Config, p *routes.Pool) (folders []string) {
	for i := range c.Sites {
		for j := range c.Sites[i].Routes {
			r := &c.Sites[i].Routes[j]
			if r.Pool == p.Name {
				folders = append(folders, r.Root)
			}
			if r.SendFile != nil && r.SendFile.Pool == p.Name {
				folders = append(folders, r.SendFile.Folders()...)
			}
		}
	}
	return folders
}

// mutedLog says why the front could not write its access log.
func mutedLog(c *routes.Config) []string {
	log := c.Gateway.AccessLog
	if log == nil || log.Path == "-" {
		return nil
	}
	credential, err := lookup(c.Gateway.User)
	folder := filepath.Dir(log.Path)
	switch {
	case err != nil:
		return nil // reported elsewhere
	case credential != nil && obstacle(filepath.Dir(folder), credential) != "":
		return fences(fmt.Sprintf("%saccess log: user %q, as which the front runs,", c.PlaceOfAccessLog(), c.Gateway.User), credential, []string{folder})
	case credential != nil && obstacle(folder, credential) != "":
		return []string{cantLog(c)}
	}
	if log.MaxSize == 0 && writable(log.Path, credential) == nil {
		return nil
	}
	if err := writable(folder, credential); !errors.Is(err, fs.ErrPermission) {
		return nil // a folder that is missing is reported elsewhere
	}
	return []string{cantLog(c)}
}

// cantLog tells how to let the front write its access log.
func cantLog(c *routes.Config) string {
	folder, name := filepath.Dir(c.Gateway.AccessLog.Path), c.Gateway.User
	if u, err := user.Current(); err == nil && (os.Geteuid() != 0 || name == "") {
		name = u.Username
	}
	return fmt.Sprintf("%saccess log: user %q, as which the front runs, can't write in %s: name a folder that is the front's (install -d -o %s /var/log/gateway), or run chown %s %s",
		c.PlaceOfAccessLog(), name, folder, name, name, folder)
}

// writable tries whether a user (nil: the caller) may write to a path that is there.
func writable(path string, user *supervise.Credential) error {
	if user == nil {
		return unix.Access(path, unix.W_OK)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && !permits(st, user, unix.W_OK) {
		return fs.ErrPermission
	}
	return nil
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
	if !ok || permits(st, user, unix.X_OK) {
		return ""
	}
	return path
}

// permits reports whether the mode bits give a user all rights of a mask: unix.X_OK lets a folder be entered.
func permits(st *syscall.Stat_t, user *supervise.Credential, mask uint32) bool {
	switch {
	case user.UID == 0:
		return true
	case st.Uid == user.UID:
		return st.Mode>>6&mask == mask
	case st.Gid == user.GID, slices.Contains(user.Groups, st.Gid):
		return st.Mode>>3&mask == mask
	}
	return st.Mode&mask == mask
}

// badCertificates lists the given certificates that no handshake could use. One that can't be read is reported elsewhere.
func badCertificates(c *routes.Config) []string {
	found := badServers(c)
	for i := range c.Sites {
		s := &c.Sites[i]
		if s.TLS.ACME != nil {
			found = append(found, badACME(c, i)...)
		}
		if a := s.TLS.ClientAuth; a != nil {
			if cas, err := readFile(a.CA); err == nil && !tls.HasCertificates(cas) {
				found = append(found, fmt.Sprintf("%ssite %q: client_auth: ca: no certificate in %s", c.PlaceOf(i, "client_auth.ca"), s.Names[0], a.CA))
			}
		}
		for j, files := range s.TLS.Certificates {
			pair, err := readPair(files)
			if err != nil {
				continue
			}
			if err := tls.Check(pair); err != nil {
				found = append(found, fmt.Sprintf("%ssite %q: %v (%s, %s)", c.PlaceOfCertificate(i, j, "certificate"), s.Names[0], err, files.Certificate, files.Key))
			}
		}
	}
	return found
}

// badACME lists what no certificate could be got with. A file that can't be read is reported elsewhere.
func badACME(c *routes.Config, site int) []string {
	name, a := c.Sites[site].Names[0], c.Sites[site].TLS.ACME
	var found []string
	if a.DNS != nil {
		if err := tls.CheckDNS(a.DNS); err != nil {
			found = append(found, fmt.Sprintf("%ssite %q: %v", c.PlaceOf(site, "dns"), name, err))
		}
	}
	if roots, err := readFile(a.CARoot); err == nil && !tls.HasCertificates(roots) {
		found = append(found, fmt.Sprintf("%ssite %q: ca_root: no certificate in %s", c.PlaceOf(site, "ca_root"), name, a.CARoot))
	}
	return found
}
