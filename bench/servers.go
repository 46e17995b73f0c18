package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gateway/internal/gatewaytest"
)

// kind is what a server has to be able to do for a request.
type kind uint8

const (
	static kind = iota
	overTLS
	php
	cgi
	wsgi
	gzipped // answers of PHP, at level 5
	proxied // from another server, on kept connections
)

// server is one that runs.
type server struct {
	name  string
	plain string // its address
	tls   string // likewise
	roots []int  // its processes, without those that they have started
	able  map[kind]bool
}

// facts is what the templates of configurations are filled with.
type facts struct {
	Name, Dir  string
	Plain, TLS string // addresses
	Host, Port string // of Plain
	Upstream   string // the address of the server behind
	PHP        string // a socket, a program, or Apache's handler; empty: none
	WSGI       string // a socket, or an interpreter; empty: none
	Cached     bool   // nginx: with open_file_cache
	Prefork    bool   // Apache: else event
	Modules    []apacheModule
}

type apacheModule struct{ Name, Path string }

// rival is a server to measure, in the order of the table's columns.
type rival struct {
	name  string
	start func(l *lab, s *server, f facts) error
}

// rivals are the gateway, which comes first, and its peers. Each has eight children of its own for PHP, apart from mod_php, which
// has as many as Apache, and two of eight threads for WSGI.
func rivals(gateway string) []rival {
	return []rival{
		{"gateway", func(l *lab, s *server, f facts) error { return startGateway(l, s, f, gateway) }},
		{"nginx", startNginx},
		{"nginx, open_file_cache", func(l *lab, s *server, f facts) error { f.Cached = true; return startNginx(l, s, f) }},
		{"lighttpd", startLighttpd},
		{"Apache event", startApache},
		{"Apache prefork", func(l *lab, s *server, f facts) error { f.Prefork = true; return startApache(l, s, f) }},
	}
}

// run starts a server on free addresses.
func (r rival) run(l *lab) (*server, error) {
	plain, err := gatewaytest.FreeAddress()
	if err != nil {
		return nil, err
	}
	tls, err := gatewaytest.FreeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{name: r.name, plain: plain, tls: tls, able: map[kind]bool{static: true, proxied: true}}
	f := facts{Name: strings.Map(letter, r.name), Dir: l.dir, Plain: plain, TLS: tls, Upstream: l.upstream}
	if f.Host, f.Port, err = net.SplitHostPort(plain); err != nil {
		return nil, err
	}
	return s, r.start(l, s, f)
}

// letter makes names that files and sockets can have.
func letter(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
		return r
	}
	return '-'
}

// find returns the first program or file that is there. Daemons are not on everybody's PATH.
func find(names ...string) string {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		if paths, err := filepath.Glob(name); err == nil && len(paths) > 0 {
			return paths[0]
		}
	}
	return ""
}

func findServer(names ...string) (string, error) {
	path := find(names...)
	if path == "" {
		return "", fmt.Errorf("%s is not installed", names[0])
	}
	return path, nil
}

// findPython returns the interpreter that uWSGI and mod_wsgi are built for, if it is there.
func findPython() string { return find("/usr/bin/python3", "python3") }

// launch starts a process of s.
func (s *server) launch(l *lab, argv ...string) error {
	pid, err := l.start(argv...)
	s.roots = append(s.roots, pid)
	return err
}

func startGateway(l *lab, s *server, f facts, program string) error {
	f.PHP, f.WSGI = find("php-cgi"), findPython()
	s.able[overTLS], s.able[cgi], s.able[php], s.able[gzipped], s.able[wsgi] = true, true, f.PHP != "", f.PHP != "", f.WSGI != ""
	conf, err := l.configure("gateway.hcl", "gateway.hcl", f)
	if err != nil {
		return err
	}
	return s.launch(l, program, "run", conf)
}

func startNginx(l *lab, s *server, f facts) error {
	program, err := findServer("nginx", "/usr/sbin/nginx")
	if err != nil {
		return err
	}
	if f.Cached { // which concerns files only
		s.able[proxied] = false
	} else {
		if f.PHP, err = s.startPHP(l, f); err != nil {
			return err
		}
		if f.WSGI, err = s.startWSGI(l, f); err != nil {
			return err
		}
	}
	s.able[overTLS], s.able[php], s.able[gzipped], s.able[wsgi] = true, f.PHP != "", f.PHP != "", f.WSGI != ""
	conf, err := l.configure(f.Name+".conf", "nginx.conf", f)
	if err != nil {
		return err
	}
	return s.launch(l, program, "-c", conf)
}

func startLighttpd(l *lab, s *server, f facts) error {
	program, err := findServer("lighttpd", "/usr/sbin/lighttpd")
	if err != nil {
		return err
	}
	if f.PHP, err = s.startPHP(l, f); err != nil {
		return err
	}
	s.able[cgi], s.able[php], s.able[proxied] = true, f.PHP != "", false // it keeps no connections to servers
	conf, err := l.configure(f.Name+".conf", "lighttpd.conf", f)
	if err != nil {
		return err
	}
	return s.launch(l, program, "-D", "-f", conf)
}

// modules is where Debian has those of Apache.
const modules = "/usr/lib/apache2/modules/"

// startApache has mod_php and mod_cgi in prefork; in event php-fpm and mod_wsgi, but no CGI: mod_cgid does not wait for its scripts, so
// the kernel counts nobody their processor time.
func startApache(l *lab, s *server, f facts) error {
	program, err := findServer("apache2", "/usr/sbin/apache2")
	if err != nil {
		return err
	}
	s.able[overTLS] = true
	names := []string{"authz_core", "mime", "ssl", "socache_shmcb", "alias", "proxy", "proxy_http"}
	if f.Prefork {
		names = append(names, "mpm_prefork", "cgi")
		s.able[cgi] = true
		if path := find(modules + "libphp*.so"); path != "" {
			f.PHP, s.able[php] = "application/x-httpd-php", true
			f.Modules = append(f.Modules, apacheModule{"php_module", path})
		}
	} else {
		names = append(names, "mpm_event", "proxy_fcgi")
		socket, err := s.startPHP(l, f)
		if err != nil {
			return err
		}
		if socket != "" {
			f.PHP, s.able[php] = "proxy:unix:"+socket+"|fcgi://localhost/", true
		}
		if path := find(modules + "mod_wsgi*.so"); path != "" {
			f.WSGI, s.able[wsgi] = path, true
			f.Modules = append(f.Modules, apacheModule{"wsgi_module", path})
		}
	}
	for _, name := range names {
		f.Modules = append(f.Modules, apacheModule{name + "_module", modules + "mod_" + name + ".so"})
	}
	conf, err := l.configure(f.Name+".conf", "apache.conf", f)
	if err != nil {
		return err
	}
	return s.launch(l, program, "-D", "FOREGROUND", "-f", conf)
}

// startUpstream starts the server that all others proxy to: a gateway, beside the load.
func (l *lab) startUpstream(program string, cpu int) error {
	address, err := gatewaytest.FreeAddress()
	if err != nil {
		return err
	}
	l.upstream = address
	conf, err := l.configure("upstream.hcl", "upstream.hcl", facts{Dir: l.dir, Plain: address})
	if err != nil {
		return err
	}
	_, err = l.startOn(cpu, program, "run", conf)
	return err
}

// startPHP starts a php-fpm and returns its socket; none if it is not installed.
func (s *server) startPHP(l *lab, f facts) (socket string, err error) {
	program := find("php-fpm", "/usr/sbin/php-fpm*")
	if program == "" {
		return "", nil
	}
	f.Name += "-php"
	f.PHP = l.path("tmp/" + f.Name)
	conf, err := l.configure(f.Name+".conf", "php-fpm.conf", f)
	if err != nil {
		return "", err
	}
	return f.PHP, s.launch(l, program, "-F", "-y", conf)
}

// startWSGI starts a uWSGI and returns its socket; none if it is not installed.
func (s *server) startWSGI(l *lab, f facts) (socket string, err error) {
	program := find("uwsgi")
	if program == "" {
		return "", nil
	}
	socket = l.path("tmp/" + f.Name + "-wsgi")
	argv := []string{
		program, "--plugins", "python3", "--master", "--die-on-term", "--processes", "2", "--threads", "8", "--enable-threads", "--thunder-lock",
		"--socket", socket, "--chmod-socket=666", "--chdir", l.path("app"), "--module", "hello:application", "--disable-logging",
	}
	if os.Geteuid() == 0 {
		argv = append(argv, "--uid", "www-data", "--gid", "www-data")
	}
	return socket, s.launch(l, argv...)
}
