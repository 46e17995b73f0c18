package routes

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// reservedEnv are the variables with which the gateway makes a program a child of its own, and what to write instead.
var reservedEnv = map[string]string{
	"PHP_FCGI_CHILDREN":     "every child is one process. Set max_request_workers instead.",
	"PHP_FCGI_MAX_REQUESTS": "it retires children between requests. Set max_requests_per_child instead.",
	"GATEWAY_SOCKET":        "it names the socket that an HTTP application listens on.",
	"LISTEN_FDS":            "it hands an HTTP application its socket.",
	"LISTEN_PID":            "it hands an HTTP application its socket.",
	"LISTEN_FDNAMES":        "it hands an HTTP application its socket.",
	"FPM_SOCKETS":           "it hands php-fpm its sockets.",
}

// application reads the block that says what runs in the pool.
func (r *reader) application(s *section, p *readPool) {
	found := s.mentioned(applications)
	if len(found) == 0 {
		return
	}
	p.application = found[0]
	for _, second := range found[1:] {
		r.errorf(s.given[second], "Two applications", "Pool %q already runs %q. Make a pool of its own for %q.", p.Name, found[0], second)
	}
	if block := s.one("php"); block != nil {
		r.phpNeedsPrefork(s, block, &p.Pool)
		p.PHP = r.php(block, p.Name)
		r.shareOPcache(s, &p.Pool)
	}
	if block := s.one("fastcgi"); block != nil {
		p.FastCGI = r.fastCGI(block, &p.Pool)
		r.processesFor(s, block, &p.Pool, "a FastCGI program", p.FastCGI.ThreadSafe)
	}
	if block := s.one("wsgi"); block != nil {
		p.WSGI = r.wsgi(block, &p.Pool)
		r.processesFor(s, block, &p.Pool, "a WSGI application", p.WSGI.ThreadSafe)
	}
	if block := s.one("http"); block != nil {
		p.HTTP = r.httpApp(block, &p.Pool)
		r.processesFor(s, block, &p.Pool, "an HTTP application", p.HTTP.ThreadSafe)
	}
}

// phpNeedsPrefork refuses PHP where requests share a process.
func (r *reader) phpNeedsPrefork(s, php *section, p *Pool) {
	const zts = "A thread-safe build of PHP (ZTS) does not change that: it lets a server load PHP into its own threads, and php-cgi starts none."
	if p.MPM == Worker || p.MPM == Event {
		r.errorf(s.at("mpm"), "Unsuitable MPM", "Pool %q runs PHP, but php-cgi is not thread-safe: it serves one request per process, so it can't run on mpm = %q. %s Write mpm = \"prefork\".", p.Name, p.MPM, zts)
	}
	if get(php, "thread_safe", false) {
		r.errorf(php.at("thread_safe"), "Not thread-safe", "php-cgi serves one request per process, whatever the scripts are. %s Remove \"thread_safe\".", zts)
	}
}

// processesFor refuses an application where it can't run: without processes, or with threads that it does not stand.
func (r *reader) processesFor(s, block *section, p *Pool, what string, threadSafe bool) {
	switch {
	case p.MPM == Event:
		r.errorf(s.at("mpm"), "Unsuitable MPM", "Pool %q runs %s, but an event pool has no processes. Write mpm = \"worker\", or \"prefork\" for code that is not thread-safe.", p.Name, what)
	case p.MPM == Worker && !threadSafe && p.ThreadsPerChild > 1 && !s.failed("threads_per_child"):
		r.errorf(block.at("thread_safe"), "Not thread-safe", "Pool %q runs %s that is not thread-safe, but its children run %d requests at once in threads of one process, which would damage each other's data. Write mpm = \"prefork\", or threads_per_child = 1.",
			p.Name, what, p.ThreadsPerChild)
	}
}

func (r *reader) php(s *section, pool string) *PHP {
	php := &PHP{
		Command: []string{"php-cgi"},
		INI:     get[map[string]string](s, "ini", nil),
		Env:     r.variables(s, reservedEnv),

		ShareOPcache: get(s, "share_opcache", false),
	}
	if php.ShareOPcache {
		php.Command = []string{phpFPM}
	}
	if s.has("command") {
		php.Command = r.command(s)
		r.phpProgram(s, php)
	}
	r.ranges[poolKey(pool, "command")] = s.at("command")
	for _, name := range slices.Sorted(maps.Keys(php.INI)) {
		r.iniValue(s.keyAt("ini", name), name, php.INI[name])
	}
	return php
}

// phpCLI matches the names that distributions give the PHP for the command line.
var phpCLI = regexp.MustCompile(`^php[0-9.]*$`)

// phpProgram refuses a program of PHP that can't do what the pool needs. Each of the three speaks to others in its own way.
func (r *reader) phpProgram(s *section, php *PHP) {
	if len(php.Command) == 0 {
		return
	}
	program, needed := filepath.Base(php.Command[0]), "php-cgi"
	if php.ShareOPcache {
		needed = phpFPM
	}
	switch {
	case phpCLI.MatchString(program):
		r.errorf(s.elementAt("command", 0), "Wrong command", "%q is the command-line PHP, which serves nobody; %s is needed. Install that and name it, or remove \"command\" if it is in a folder of PATH.", php.Command[0], needed)
	case php.ShareOPcache && strings.HasPrefix(program, "php-cgi"):
		r.errorf(s.at("command"), "Wrong command", "%q can't share an OPcache: each process of php-cgi has its own. With share_opcache the command is php-fpm, one process of which forks all children. Remove \"command\" or name php-fpm.", php.Command[0])
	case !php.ShareOPcache && strings.HasPrefix(program, phpFPM) && !s.failed("share_opcache"):
		r.errorf(s.elementAt("command", 0), "Wrong command", "%q is php-fpm, which starts its children itself: the gateway has it do so in a pool with share_opcache. Write share_opcache = true, or name php-cgi.", php.Command[0])
	}
}

// phpFPM is the program whose processes share an OPcache.
const phpFPM = "php-fpm"

const (
	// MaxForked is how many children one php-fpm has at most: so many sockets it can be told of.
	MaxForked = 1024

	// fpmFiles is what php-fpm opens for each child: its socket, and pipes for its output. fpmFilesBeside is for itself.
	fpmFiles, fpmFilesBeside = 3, 64
)

// FPMFiles is how many files php-fpm has open for so many children.
func FPMFiles(children int) int { return fpmFiles*children + fpmFilesBeside }

// shareOPcache checks a pool whose children one php-fpm forks.
func (r *reader) shareOPcache(s *section, p *Pool) {
	if !p.PHP.ShareOPcache || s.failed("max_request_workers") {
		return
	}
	if p.MaxRequestWorkers > MaxForked {
		r.errorf(s.at("max_request_workers"), "Too many children", "Pool %q may have %d children, but one php-fpm, which share_opcache needs, has at most %d. Lower max_request_workers, or make several pools.", p.Name, p.MaxRequestWorkers, MaxForked)
	}
	if n, least := p.Rlimit.NoFile, FPMFiles(p.MaxRequestWorkers); n != nil && *n < int64(least) {
		r.errorf(s.one("rlimit").at("nofile"), "Contradiction", "The limit of %d open files also holds for the php-fpm that forks the children, and with share_opcache that needs %d for up to %d children. Raise \"nofile\", or lower max_request_workers.", *n, least, p.MaxRequestWorkers)
	}
}

var iniName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// iniValue checks one php.ini value. Each becomes a line of its own in php-cgi, so a line break would be a second one.
func (r *reader) iniValue(at hcl.Range, name, value string) {
	switch {
	case !iniName.MatchString(name):
		r.errorf(at, "Wrong php.ini name", "%q is not the name of a php.ini value.", name)
	case hasControl(value):
		r.errorf(at, "Wrong php.ini value", "The value of %q holds a control character.", name)
	}
}

func (r *reader) fastCGI(s *section, p *Pool) *FastCGI {
	r.ranges[poolKey(p.Name, "command")] = s.at("command")
	return &FastCGI{
		Command:    r.command(s),
		Env:        r.variables(s, reservedEnv),
		Dir:        r.applicationDir(s, p),
		ThreadSafe: get(s, "thread_safe", true),
	}
}

func (r *reader) httpApp(s *section, p *Pool) *HTTPApp {
	r.ranges[poolKey(p.Name, "command")] = s.at("command")
	return &HTTPApp{
		Command:    r.command(s),
		Env:        r.variables(s, reservedEnv),
		Dir:        r.applicationDir(s, p),
		ThreadSafe: get(s, "thread_safe", true),
	}
}

func (r *reader) wsgi(s *section, p *Pool) *WSGI {
	r.ranges[poolKey(p.Name, "command")] = s.at("python")
	w := &WSGI{
		Module:     get(s, "module", ""),
		Dir:        r.applicationDir(s, p),
		Python:     get(s, "python", "python3"),
		Env:        r.variables(s, reservedEnv),
		ThreadSafe: get(s, "thread_safe", true),
	}
	switch file, isFile := strings.CutSuffix(w.Module, ".py"); {
	case isFile && file != "":
		module := strings.ReplaceAll(strings.Trim(file, "./"), "/", ".")
		r.errorf(s.at("module"), "Wrong module", "%q is a file, but Python wants the module in it: write \"%s\", or \"%[2]s:app\" if the application there is named app, and set \"dir\" to the folder where it begins.", w.Module, module)
	case s.has("module") && !wsgiModule.MatchString(w.Module):
		r.errorf(s.at("module"), "Wrong module", "%q: write the Python module and the application in it, such as \"shop.wsgi:application\", or \"shop:create_app()\" for a function that makes it.", w.Module)
	}
	if s.has("python") && w.Python == "" {
		r.errorf(s.at("python"), "Wrong value", "The interpreter is empty. Leave the attribute out to have \"python3\".")
	}
	if strings.Contains(w.Python, "/") {
		w.Python = r.path(w.Python, s.at("python"))
	}
	return w
}

// wsgiModule is "package.module:callable", with "()" behind a factory, or the module alone.
var wsgiModule = regexp.MustCompile(`^[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)*(:[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)*(\(\))?)?$`)

// applicationDir is the working directory that the application names, or else its pool's.
func (r *reader) applicationDir(s *section, p *Pool) string {
	if !s.has("dir") {
		return p.Dir
	}
	return r.pathOf(s, "dir", poolKey(p.Name, "dir"))
}

// command reads a program and its arguments. A program with a slash in its name is a path; others are searched in PATH.
func (r *reader) command(s *section) []string {
	command := slices.Clone(get[[]string](s, "command", nil))
	if len(command) == 0 {
		return nil
	}
	if command[0] == "" {
		r.errorf(s.elementAt("command", 0), "Wrong value", "The command is empty. Name a program.")
	}
	if strings.Contains(command[0], "/") {
		command[0] = r.path(command[0], s.at("command"))
	}
	return command
}
