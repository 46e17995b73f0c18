package routes

import (
	"slices"
	"time"
)

// The defaults of a pool's numbers: Apache's own, of its prefork, worker and event modules.
const (
	defaultPreforkStart   = 5
	defaultMinSpare       = 5
	defaultMaxSpare       = 10
	defaultPreforkWorkers = 256

	defaultWorkerStart     = 3
	defaultThreadsPerChild = 25
	defaultThreadLimit     = 64
	defaultMinSpareThreads = 75
	defaultMaxSpareThreads = 250
	defaultWorkerServers   = 16
	defaultWorkerWorkers   = 400

	defaultEventWorkers = 400
	defaultIdleTimeout  = 10 * time.Second // php-fpm's process_idle_timeout
)

// foreign reports attributes and blocks that mean nothing for the pool's MPM.
func (r *reader) foreign(s *section, mpm MPM) {
	if mpm == "" {
		return
	}
	report := func(what, name string, only []MPM) {
		at, given := s.given[name]
		if !given || len(only) == 0 || slices.Contains(only, mpm) {
			return
		}
		r.errorf(at, what+" of another MPM", "A pool with mpm = %q has no %q: %s. Remove it.", mpm, name, foreignReason(mpm))
	}
	for _, a := range s.spec.attrs {
		report("Attribute", a.name, a.only)
	}
	for _, b := range s.spec.blocks {
		report("Block", b.name, b.only)
	}
}

// foreignReason says what the pools of an MPM lack that others have.
func foreignReason(mpm MPM) string {
	switch mpm {
	case Event:
		return "its requests run in the front, it has no processes of its own"
	case Worker:
		return "it counts idle threads, not idle children: write min_spare_threads and max_spare_threads"
	default:
		return "its children serve one request at a time, without threads"
	}
}

// sizePrefork sets the numbers of a prefork pool as Apache's prefork.c does, which forces them into shape with warnings. What
// was left out is fitted silently.
func (r *reader) sizePrefork(s *section, p *Pool) {
	p.MaxRequestWorkers = get(s, "max_request_workers", defaultPreforkWorkers)
	p.ServerLimit = get(s, "server_limit", p.MaxRequestWorkers)
	p.MaxRequestWorkers = r.lower(s, "max_request_workers", p.MaxRequestWorkers, "server_limit", p.ServerLimit)
	p.ThreadsPerChild, p.ThreadLimit = 1, 1
	p.StartServers = r.lower(s, "start_servers", get(s, "start_servers", defaultPreforkStart), "max_request_workers", p.MaxRequestWorkers)
	p.MinSpareServers = r.lower(s, "min_spare_servers", get(s, "min_spare_servers", defaultMinSpare), "max_request_workers", p.MaxRequestWorkers)
	p.MaxSpareServers = r.spare(s, "servers", p.MinSpareServers, get(s, "max_spare_servers", defaultMaxSpare), 1)
	r.spawn(s, p, p.MaxRequestWorkers)
}

// sizeWorker sets the numbers of a worker pool as Apache's worker.c does.
func (r *reader) sizeWorker(s *section, p *Pool) {
	p.ThreadLimit = get(s, "thread_limit", defaultThreadLimit)
	p.ThreadsPerChild = r.lower(s, "threads_per_child", get(s, "threads_per_child", defaultThreadsPerChild), "thread_limit", p.ThreadLimit)
	p.ServerLimit = get(s, "server_limit", defaultWorkerServers)
	p.MaxRequestWorkers = r.wholeChildren(s, p)
	children := p.MaxRequestWorkers / p.ThreadsPerChild
	p.StartServers = r.lower(s, "start_servers", get(s, "start_servers", defaultWorkerStart), "max_request_workers / threads_per_child", children)
	p.MinSpareThreads = r.lower(s, "min_spare_threads", get(s, "min_spare_threads", defaultMinSpareThreads), "max_request_workers", p.MaxRequestWorkers)
	p.MaxSpareThreads = r.spare(s, "threads", p.MinSpareThreads, get(s, "max_spare_threads", defaultMaxSpareThreads), p.ThreadsPerChild)
	r.spawn(s, p, children)
}

// wholeChildren brings max_request_workers of a worker pool to what whole children give: at least one of them, and no more than
// server_limit allows.
func (r *reader) wholeChildren(s *section, p *Pool) int {
	const name = "max_request_workers"
	threads, wanted := p.ThreadsPerChild, get(s, name, defaultWorkerWorkers)
	workers := max(wanted/threads, 1) * threads
	if workers != wanted && s.has(name) {
		r.misfit(s, name, "Number adjusted", "%q is %d, but a child has %d threads (\"threads_per_child\"), so it is a multiple of that; %d is used. Write %[4]d.", name, wanted, threads, workers)
	}
	if most := p.ServerLimit * threads; workers > most {
		if s.has(name) {
			r.misfit(s, name, "Number lowered", "%q is %d, but \"server_limit\" %d times \"threads_per_child\" %d is %d; that is used. Raise \"server_limit\" to %d or lower %[1]q.",
				name, workers, p.ServerLimit, threads, most, workers/threads)
		}
		workers = most
	}
	return workers
}

// spare returns the upper bound of spare servers or threads, raised to the lower one and a distance.
func (r *reader) spare(s *section, what string, least, most, distance int) int {
	if most >= least+distance {
		return most
	}
	low, high := "min_spare_"+what, "max_spare_"+what
	blamed := high
	if !s.has(high) {
		blamed = low
	}
	if s.has(blamed) {
		r.misfit(s, blamed, "Spare "+what+" adjusted", "%q is %d, but must be at least %d above %q, which is %d; %d is used. Set it to at least %[6]d.",
			high, most, distance, low, least, least+distance)
	}
	return least + distance
}

// lower bounds one number by another, with a warning when the number was written in the file.
func (r *reader) lower(s *section, name string, value int, boundName string, bound int) int {
	if value <= bound {
		return value
	}
	if s.has(name) {
		r.misfit(s, name, "Number lowered", "%q is %d, but can't be above %q, which is %d; %[4]d is used. Raise %[3]q or lower %[1]q.", name, value, boundName, bound)
	}
	return bound
}

// misfit warns about a number that doesn't fit the others, unless one of those has failed and a default stands in its place.
func (r *reader) misfit(s *section, name, summary, format string, args ...any) {
	if !slices.ContainsFunc(s.spec.attrs, func(a attr) bool { return s.failed(a.name) }) {
		r.warnf(s.at(name), summary, format, args...)
	}
}

// spawn reads when children start. Where the mode says how many start at first, start_servers has no meaning.
func (r *reader) spawn(s *section, p *Pool, children int) {
	p.Spawn = Spawn(get(s, "spawn", string(SpawnDemand)))
	p.IdleTimeout = get(s, "idle_timeout", defaultIdleTimeout)
	if p.Spawn != SpawnOnDemand {
		r.without(s, "idle_timeout", "it is for spawn = \"ondemand\"; on this pool the spare numbers decide when idle children leave")
	}
	switch p.Spawn {
	case SpawnOnDemand:
		p.StartServers = 0
		r.without(s, "start_servers", "spawn = \"ondemand\" starts no child before a request needs it")
	case SpawnStatic:
		p.StartServers = children
		r.without(s, "start_servers", "spawn = \"static\" starts all children at first")
	case SpawnDemand, SpawnApache:
	}
}

// without warns about an attribute that has no effect.
func (r *reader) without(s *section, name, reason string) {
	if s.mentions(name) {
		r.warnf(s.given[name], "Attribute without effect", "%q has no effect here: %s. Remove it.", name, reason)
	}
}
