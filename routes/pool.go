package routes

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// The defaults of a pool: Apache's own, of its prefork and event modules.
const (
	defaultStartServers   = 5
	defaultMinSpare       = 5
	defaultMaxSpare       = 10
	defaultPreforkWorkers = 256
	defaultEventWorkers   = 400
	defaultRequestTimeout = 60 * time.Second
	defaultKillAfter      = 2 * time.Second
	defaultQueueLength    = 511
	defaultQueueTimeout   = 60 * time.Second
)

// poolSet is what the routes need to know of the pools.
type poolSet struct {
	inOrder []*readPool
	byName  map[string]*readPool
}

// readPool is a pool with what its block said that a faulty one can't express.
type readPool struct {
	Pool
	label       label
	application string // the application block's name, one of a later version included; empty: none
	used        bool   // by a route
}

func (s *poolSet) names() []string { return slices.Sorted(maps.Keys(s.byName)) }

func (r *reader) pools(sections []*section) *poolSet {
	set := &poolSet{byName: map[string]*readPool{}}
	for _, s := range sections {
		p := r.pool(s)
		if first, ok := set.byName[p.Name]; ok && p.Name != "" {
			r.errorf(p.label.at, "Pool defined twice", "There is a pool %q in %s line %d. Give this one another name.", p.Name, first.label.at.Filename, first.label.at.Start.Line)
			continue
		}
		set.inOrder = append(set.inOrder, p)
		set.byName[p.Name] = p
	}
	return set
}

func (r *reader) pool(s *section) *readPool {
	p := &readPool{label: s.label()}
	p.Name = p.label.text
	if len(s.labels) > 0 && !poolName.MatchString(p.Name) {
		r.errorf(p.label.at, "Wrong pool name", "%q: a pool's name is made of letters, digits, dots, underscores and hyphens, at most 64; no dot or hyphen first.", p.Name)
	}
	p.MPM = MPM(get(s, "mpm", ""))
	p.RequestTimeout = get(s, "request_timeout", defaultRequestTimeout)
	r.foreign(s, p.MPM)
	r.queue(s.one("queue"), &p.Pool)
	switch p.MPM {
	case Prefork:
		r.sizePrefork(s, &p.Pool)
		p.MaxRequestsPerChild = get(s, "max_requests_per_child", 0)
		p.KillAfter = get(s, "kill_after", defaultKillAfter)
		p.User = r.user(s, poolKey(p.Name, "user"))
	case Event:
		p.MaxRequestWorkers = get(s, "max_request_workers", defaultEventWorkers)
	}
	r.application(s, p)
	return p
}

// poolName keeps names fit for file names, log lines and metrics.
var poolName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// foreign reports attributes that mean nothing for the pool's MPM.
func (r *reader) foreign(s *section, mpm MPM) {
	if mpm == "" {
		return
	}
	for _, a := range s.spec.attrs {
		at, given := s.given[a.name]
		if !given || len(a.only) == 0 || slices.Contains(a.only, mpm) {
			continue
		}
		reason := "its requests run in the front, it has no processes of its own"
		if mpm == Prefork {
			reason = "its children serve one request at a time, without threads"
		}
		r.errorf(at, "Attribute of another MPM", "A pool with mpm = %q has no %q: %s. Remove it.", mpm, a.name, reason)
	}
}

func (r *reader) queue(s *section, p *Pool) {
	p.Queue = Queue{
		Length:  get(s, "length", defaultQueueLength),
		Timeout: get(s, "timeout", defaultQueueTimeout),
		Header:  get(s, "header", false),
	}
}

// sizePrefork sets the numbers of a prefork pool as Apache's prefork.c does, which forces them into shape with warnings. What
// was left out is fitted silently.
func (r *reader) sizePrefork(s *section, p *Pool) {
	p.MaxRequestWorkers = get(s, "max_request_workers", defaultPreforkWorkers)
	p.ServerLimit = get(s, "server_limit", p.MaxRequestWorkers)
	p.MaxRequestWorkers = r.lower(s, "max_request_workers", p.MaxRequestWorkers, "server_limit", p.ServerLimit)
	p.StartServers = r.lower(s, "start_servers", get(s, "start_servers", defaultStartServers), "max_request_workers", p.MaxRequestWorkers)
	p.MinSpareServers = r.lower(s, "min_spare_servers", get(s, "min_spare_servers", defaultMinSpare), "max_request_workers", p.MaxRequestWorkers)
	p.MaxSpareServers = get(s, "max_spare_servers", defaultMaxSpare)
	if p.MaxSpareServers > p.MinSpareServers {
		return
	}
	name := "max_spare_servers"
	if !s.has(name) {
		name = "min_spare_servers"
	}
	r.warnf(s.at(name), "Spare servers adjusted", "\"max_spare_servers\" is %d, but must be above \"min_spare_servers\", which is %d; %d is used. Set it to at least %[3]d.",
		p.MaxSpareServers, p.MinSpareServers, p.MinSpareServers+1)
	p.MaxSpareServers = p.MinSpareServers + 1
}

// lower bounds one number by another, with a warning when the number was written in the file.
func (r *reader) lower(s *section, name string, value int, boundName string, bound int) int {
	if value <= bound {
		return value
	}
	if s.has(name) {
		r.warnf(s.at(name), "Number lowered", "%q is %d, but can't be above %q, which is %d; %[4]d is used. Raise %[3]q or lower %[1]q.", name, value, boundName, bound)
	}
	return bound
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
	if php := s.one("php"); php != nil {
		r.phpNeedsPrefork(s, p.Name)
		p.PHP = r.php(php, p.Name)
	}
	if fcgi := s.one("fastcgi"); fcgi != nil {
		if p.MPM == Event {
			r.errorf(s.at("mpm"), "Unsuitable MPM", "Pool %q runs a FastCGI program, but an event pool has no processes. Write mpm = \"prefork\".", p.Name)
		}
		p.FastCGI = r.fastCGI(fcgi, p.Name)
	}
}

// phpNeedsPrefork looks at what was written: a worker pool is refused before it becomes a value.
func (r *reader) phpNeedsPrefork(s *section, pool string) {
	for _, written := range []setting{s.settings["mpm"], s.refused["mpm"]} {
		if mpm, ok := written.value.(string); ok && MPM(mpm) != Prefork {
			r.errorf(written.at, "Unsuitable MPM", "Pool %q runs PHP, but php-cgi is not thread-safe: it serves one request per process, so it can't run on mpm = %q. Write mpm = \"prefork\".", pool, mpm)
		}
	}
}

// reservedPHPEnv are the variables with which the gateway makes php-cgi a child of its own, and what to write instead.
var reservedPHPEnv = map[string]string{
	"PHP_FCGI_CHILDREN":     "every child is one process. Set max_request_workers instead.",
	"PHP_FCGI_MAX_REQUESTS": "it retires children between requests. Set max_requests_per_child instead.",
}

func (r *reader) php(s *section, pool string) *PHP {
	php := &PHP{
		Command: []string{"php-cgi"},
		INI:     get[map[string]string](s, "ini", nil),
		Env:     r.variables(s, "env", reservedPHPEnv),
	}
	if s.has("command") {
		php.Command = r.command(s)
	}
	r.ranges[poolKey(pool, "command")] = s.at("command")
	for _, name := range slices.Sorted(maps.Keys(php.INI)) {
		r.iniValue(s.keyAt("ini", name), name, php.INI[name])
	}
	return php
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

func (r *reader) fastCGI(s *section, pool string) *FastCGI {
	r.ranges[poolKey(pool, "command")] = s.at("command")
	return &FastCGI{
		Command: r.command(s),
		Env:     r.variables(s, "env", nil),
		Dir:     r.pathOf(s, "dir", poolKey(pool, "dir")),
	}
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
