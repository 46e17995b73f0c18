package routes

import (
	"maps"
	"regexp"
	"slices"
	"time"
)

// The defaults of a pool that do not depend on its MPM.
const (
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
	application string // the application block's name; empty: none
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
	case Worker:
		r.sizeWorker(s, &p.Pool)
	case Event:
		p.MaxRequestWorkers = get(s, "max_request_workers", defaultEventWorkers)
	}
	p.SessionLimit = r.sessionLimit(s.one("session_limit"), &p.Pool)
	if p.MPM == Prefork || p.MPM == Worker {
		r.ends(s, &p.Pool)
		r.surroundings(s, &p.Pool)
	}
	r.application(s, p)
	return p
}

// poolName keeps names fit for file names, log lines and metrics.
var poolName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

func (r *reader) queue(s *section, p *Pool) {
	p.Queue = Queue{
		Length:  get(s, "length", defaultQueueLength),
		Timeout: get(s, "timeout", defaultQueueTimeout),
		Header:  get(s, "header", false),
	}
}

func (r *reader) sessionLimit(s *section, p *Pool) *SessionLimit {
	if s == nil {
		return nil
	}
	l := &SessionLimit{Cookie: get(s, "cookie", "PHPSESSID"), Max: get(s, "max", 2)}
	if !isToken(l.Cookie) {
		r.errorf(s.at("cookie"), "Wrong cookie", "%q is no name of a cookie, such as \"PHPSESSID\".", l.Cookie)
	}
	if p.MaxRequestWorkers > 1 && l.Max >= p.MaxRequestWorkers {
		r.warnf(s.at("max"), "Limit without effect", "A session may have %d requests at once, and the pool runs %d at once. Write a smaller number.", l.Max, p.MaxRequestWorkers)
	}
	return l
}
