package routes

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// The keys of the table of places, one for each value that CheckSystem looks at.
func gatewayKey(attribute string) string        { return "gateway." + attribute }
func poolKey(pool, attribute string) string     { return "pool." + pool + "." + attribute }
func tlsKey(word string) string                 { return "tls." + word }
func siteKey(site int, attribute string) string { return fmt.Sprintf("site.%d.%s", site, attribute) }
func certificateKey(site, number int, attribute string) string {
	return siteKey(site, fmt.Sprintf("%s.%d", attribute, number))
}
func routeKey(site, route int) string { return fmt.Sprintf("site.%d.route.%d.", site, route) }

// folderKey is the place of a folder in the send_file block of a route.
func folderKey(route, folder string) string { return route + "send_file." + folder }

// inspector compares a configuration with the machine.
type inspector struct {
	source source
	diags  hcl.Diagnostics
	looked map[string]bool // places that several routes have
}

// CheckSystem reports what the machine lacks for the configuration: commands, folders, users, certificates. Load does not look at
// the machine, so that a configuration can be checked elsewhere. Most findings concern one pool or site and don't keep the others
// from being served; what this user may not look at is a warning.
func (c *Config) CheckSystem() Diagnostics {
	i := &inspector{source: c.source, looked: map[string]bool{}}
	i.user(gatewayKey("user"), c.Gateway.User)
	i.folder(gatewayKey("spool_dir"), c.Gateway.SpoolDir)
	if log := c.Gateway.AccessLog; log != nil && log.Path != "-" {
		i.folder(gatewayKey("access_log"), filepath.Dir(log.Path))
	}
	i.storage(c.Gateway.Storage)
	for n := range c.Pools {
		i.pool(&c.Pools[n])
	}
	for n := range c.Sites {
		i.site(n, &c.Sites[n])
	}
	return Diagnostics{list: sorted(i.diags), files: c.source.files}
}

// PlaceOf is where a word of a site's tls block was written, as "site.hcl:7: "; empty where that is not known. A word of a nested block
// has its name before it, as "client_auth.ca".
func (c *Config) PlaceOf(site int, word string) string { return c.source.place(siteKey(site, word)) }

// PlaceOfCertificate is PlaceOf for one of a site's certificates or keys, by its number in the list.
func (c *Config) PlaceOfCertificate(site, number int, word string) string {
	return c.source.place(certificateKey(site, number, word))
}

// PlaceOfServers is PlaceOf for a word in the tls block of a route's proxy.
func (c *Config) PlaceOfServers(site, route int, word string) string {
	return c.source.place(routeKey(site, route) + "proxy.tls." + word)
}

// PlaceOfAccessLog is PlaceOf for the path of the access log.
func (c *Config) PlaceOfAccessLog() string { return c.source.place(gatewayKey("access_log")) }

// WrongLogFormat says at its place why the access log can't be written in its format.
func (c *Config) WrongLogFormat(err error) Diagnostics {
	i := &inspector{source: c.source}
	for fault := range strings.Lines(err.Error()) {
		i.report(hcl.DiagError, gatewayKey("access_log.format"), "Wrong log format", "%s.", strings.TrimSpace(fault))
	}
	return Diagnostics{list: i.diags, files: c.source.files}
}

func (i *inspector) storage(s Storage) {
	i.folder(gatewayKey("storage.path"), s.Path)
	if s.Redis == nil {
		return
	}
	i.readable(gatewayKey("storage.password_file"), s.Redis.PasswordFile)
	if t := s.Redis.TLS; t != nil {
		i.readable(gatewayKey("storage.tls.ca_root"), t.CARoot)
		i.readable(gatewayKey("storage.tls.certificate"), t.Certificate)
		i.readable(gatewayKey("storage.tls.key"), t.Key)
	}
}

func (i *inspector) pool(p *Pool) {
	i.user(poolKey(p.Name, "user"), p.User)
	i.group(poolKey(p.Name, "group"), p.Group)
	command, dir := p.program()
	i.command(poolKey(p.Name, "command"), command)
	i.folder(poolKey(p.Name, "dir"), dir)
}

// program is what the pool's children run, and where. The command is nil when they are the gateway itself.
func (p *Pool) program() (command []string, dir string) {
	switch {
	case p.PHP != nil:
		return p.PHP.Command, p.Dir
	case p.FastCGI != nil:
		return p.FastCGI.Command, p.FastCGI.Dir
	case p.WSGI != nil:
		return []string{p.WSGI.Python}, p.WSGI.Dir
	case p.HTTP != nil:
		return p.HTTP.Command, p.HTTP.Dir
	default:
		return nil, p.Dir
	}
}

func (i *inspector) site(n int, s *Site) {
	i.folder(siteKey(n, "root"), s.Root)
	for j, f := range s.TLS.Certificates {
		i.readable(certificateKey(n, j, "certificate"), f.Certificate)
		i.readable(certificateKey(n, j, "key"), f.Key)
	}
	if a := s.TLS.ClientAuth; a != nil {
		i.readable(siteKey(n, "client_auth.ca"), a.CA)
	}
	if a := s.TLS.ACME; a != nil {
		i.readable(siteKey(n, "ca_root"), a.CARoot)
		if a.DNS != nil {
			i.command(siteKey(n, "dns"), a.DNS.Command)
		}
	}
	i.errorPages(n, s)
	for j := range s.Routes {
		route, key := &s.Routes[j], routeKey(n, j)
		i.passwords(n, key, route.Access)
		if route.Root != s.Root {
			i.folder(key+"root", route.Root)
		}
		if f := route.SendFile; f != nil {
			i.sendFile(key, f)
		}
		if p := route.Proxy; p != nil {
			i.readable(key+"proxy.tls.ca", p.TLS.CARoot)
			i.readable(key+"proxy.tls.certificate", p.TLS.Certificate)
			i.readable(key+"proxy.tls.key", p.TLS.Key)
		}
		if route.CGI == nil {
			continue
		}
		i.folder(key+"cgi.root", route.CGI.Root)
		if route.CGI.Script != "" {
			i.command(key+"cgi.script", []string{route.CGI.Script})
		}
	}
}

// errorPages looks for the error pages that are files.
func (i *inspector) errorPages(n int, s *Site) {
	looked := map[string]bool{}
	for j := range s.Routes {
		for _, page := range s.Routes[j].ErrorPages {
			path := page.Path.String()
			if looked[path] || len(page.Path) != 1 || page.Path[0].Name != "" || strings.ContainsAny(path, "%{") {
				continue
			}
			looked[path] = true
			m, ok := s.Match(http.MethodGet, path, nil)
			if !ok || m.Route.Static == nil || len(m.Route.TryFiles) > 0 || len(m.Route.Rewrites) > 0 || strings.HasSuffix(path, "/") {
				continue
			}
			if _, err := os.Stat(filepath.Join(m.Route.Root, path)); errors.Is(err, fs.ErrNotExist) {
				i.report(hcl.DiagWarning, siteKey(n, "error_page."+path), "Error page not found",
					"There is no file %s: clients get a plain text in place of the page.", filepath.Join(m.Route.Root, path))
			}
		}
	}
}

// sendFile looks for the folders whose files an application may name.
func (i *inspector) sendFile(key string, f *SendFile) {
	for _, root := range f.Roots {
		i.folder(folderKey(key, root), root)
	}
	for _, n := range f.Internal {
		i.folder(folderKey(key, n.Folder), n.Folder)
	}
}

// passwords looks at a route's file of passwords, at the place that names it: the site's or its own.
func (i *inspector) passwords(site int, key string, a *Access) {
	if a == nil || a.Auth == nil {
		return
	}
	own := key + "auth_basic"
	if _, ok := i.source.ranges[own]; !ok {
		own = siteKey(site, "auth_basic")
		if i.looked[own] {
			return
		}
		i.looked[own] = true
	}
	i.readable(own, a.Auth.File)
}

func (i *inspector) report(severity hcl.DiagnosticSeverity, key, summary, format string, args ...any) {
	i.diags = append(i.diags, newDiagnostic(severity, i.source.ranges[key], summary, format, args...))
}

// user looks a name or a number up.
func (i *inspector) user(key, name string) {
	if name == "" {
		return
	}
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return // a number needs no entry
	}
	if _, err := user.Lookup(name); err != nil {
		i.report(hcl.DiagError, key, "Unknown user", "There is no user %q on this machine. Create it or name another.", name)
	}
}

// group looks a name or a number up.
func (i *inspector) group(key, name string) {
	if name == "" {
		return
	}
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return // a number needs no entry
	}
	if _, err := user.LookupGroup(name); err != nil {
		i.report(hcl.DiagError, key, "Unknown group", "There is no group %q on this machine. Create it or name another.", name)
	}
}

func (i *inspector) command(key string, command []string) {
	if len(command) == 0 {
		return
	}
	_, err := LookPath(command[0])
	switch {
	case err == nil:
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		i.report(hcl.DiagError, key, "Command not found", "%q is not installed%s. Install it or write its path.", command[0], where(command[0]))
	default:
		i.report(hcl.DiagError, key, "Command not executable", "%q can't be run: %v.", command[0], cause(err))
	}
}

// LookPath is exec.LookPath, but finds php-fpm also where distributions put it: in a folder for administrators, and with its version
// behind the name. Of several it is the newest.
func LookPath(command string) (string, error) {
	path, err := exec.LookPath(command)
	if err == nil || command != phpFPM {
		return path, err
	}
	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin") {
		found, globErr := filepath.Glob(filepath.Join(folder, phpFPM+"[0-9]*"))
		if globErr != nil {
			continue // a folder whose name is a pattern
		}
		slices.SortFunc(found, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(b, a)) }) // 8.10 is above 8.9
		for _, f := range append([]string{filepath.Join(folder, phpFPM)}, found...) {
			if p, err := exec.LookPath(f); err == nil {
				return p, nil
			}
		}
	}
	return "", err
}

// where says where a command was looked for.
func where(command string) string {
	if command == phpFPM {
		return " in a folder of PATH or in /usr/sbin; Debian's package is named php-fpm"
	}
	if filepath.Base(command) == command {
		return " in a folder of PATH"
	}
	return ""
}

func (i *inspector) folder(key, path string) {
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		i.report(severity(err), key, "Folder not found", "%s: %v.", path, cause(err))
	case !info.IsDir():
		i.report(hcl.DiagError, key, "Folder not found", "%s is not a folder.", path)
	}
}

// readable opens a file as the supervisor will, before it gives up its rights.
func (i *inspector) readable(key, path string) {
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		i.report(hcl.DiagError, key, "File not readable", "%s is not a regular file.", path)
		return
	}
	if err == nil {
		var f *os.File
		if f, err = os.Open(path); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		i.report(severity(err), key, "File not readable", "%s: %v.", path, cause(err))
	}
}

// severity makes what this user may not see a warning, for the gateway may run as another.
func severity(err error) hcl.DiagnosticSeverity {
	if errors.Is(err, fs.ErrPermission) {
		return hcl.DiagWarning
	}
	return hcl.DiagError
}

// cause is the error without the operation and the path, which the message names itself.
func cause(err error) error {
	var wrapped *fs.PathError
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	var notRun *exec.Error
	if errors.As(err, &notRun) {
		return notRun.Err
	}
	return err
}
