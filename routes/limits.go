package routes

import (
	"slices"
	"strconv"
	"time"
)

// ends reads when the children of a pool leave.
func (r *reader) ends(s *section, p *Pool) {
	p.MaxRequestsPerChild = get(s, "max_requests_per_child", 0)
	p.MaxChildMemory = get(s, "max_child_memory", int64(0))
	p.MaxChildAge = get(s, "max_child_age", time.Duration(0))
	p.KillAfter = get(s, "kill_after", defaultKillAfter)
	p.OnlyIfWaiting = get(s, "only_if_waiting", 0)
	p.Retry = get(s, "retry", false)
	p.DebugErrors = get(s, "debug_errors", false)
	if p.OnlyIfWaiting > p.Queue.Length {
		r.errorf(s.at("only_if_waiting"), "Contradiction", "\"only_if_waiting\" is %d, but the queue has room for %d requests, so request_timeout would never end anything. Lower it, or raise the queue's \"length\".",
			p.OnlyIfWaiting, p.Queue.Length)
	}
}

// surroundings reads what the children of a pool run as and in.
func (r *reader) surroundings(s *section, p *Pool) {
	p.User = r.account(s, "user", poolKey(p.Name, "user"))
	p.Group = r.account(s, "group", poolKey(p.Name, "group"))
	p.Umask = r.umask(s)
	if s.has("nice") {
		nice := get(s, "nice", 0)
		p.Nice = &nice
	}
	p.Dir = r.pathOf(s, "dir", poolKey(p.Name, "dir"))
	p.EnvPass = r.passed(s)
	p.Rlimit = r.rlimit(s.one("rlimit"))
	p.Cgroup = r.cgroup(s.one("cgroup"))
}

// umask reads a mask as text: as a number HCL would take 022 for twenty-two.
func (r *reader) umask(s *section) *int {
	if !s.has("umask") {
		return nil
	}
	written := get(s, "umask", "")
	n, err := strconv.ParseUint(written, 8, 32)
	if err != nil || n > 0o777 {
		r.errorf(s.at("umask"), "Wrong value", "%q is not a umask: write octal digits up to \"777\", such as \"022\" or \"007\".", written)
		return nil
	}
	mask := int(n)
	return &mask
}

// passed reads the names of the variables that children get from the environment of whoever started the gateway.
func (r *reader) passed(s *section) []string {
	names := get[[]string](s, "env_pass", nil)
	for i, name := range names {
		switch why := reservedEnv[name]; {
		case why != "":
			r.errorf(s.elementAt("env_pass", i), "Reserved variable", "The gateway sets %s itself: %s", name, why)
		case !isVariableName(name):
			r.errorf(s.elementAt("env_pass", i), "Wrong variable name", "%q is not a name for an environment variable: letters, digits and underscores, no digit first.", name)
		case slices.Contains(names[:i], name):
			r.errorf(s.elementAt("env_pass", i), "Variable given twice", "%q stands in the list already.", name)
		}
	}
	return names
}

func (r *reader) rlimit(s *section) Rlimit {
	if s == nil {
		return Rlimit{}
	}
	limit := Rlimit{AS: given[int64](s, "as"), Core: given[int64](s, "core")}
	if n := given[int](s, "nofile"); n != nil {
		limit.NoFile = new(int64(*n))
	}
	if n := given[int](s, "nproc"); n != nil {
		limit.NProc = new(int64(*n))
	}
	if d := given[time.Duration](s, "cpu"); d != nil {
		limit.CPU = new(int64((*d + time.Second - 1) / time.Second)) // the kernel counts whole seconds
	}
	return limit
}

// given is an attribute's value, nil when it was left out or failed.
func given[T any](s *section, name string) *T {
	if v, ok := s.settings[name].value.(T); ok {
		return &v
	}
	return nil
}

func (r *reader) cgroup(s *section) *Cgroup {
	if s == nil {
		return nil
	}
	c := &Cgroup{
		MemoryMax:      get(s, "memory_max", int64(0)),
		PIDsMax:        get(s, "pids_max", 0),
		CPUWeight:      get(s, "cpu_weight", 0),
		ChildMemoryMax: get(s, "child_memory_max", int64(0)),
	}
	if c.MemoryMax > 0 && c.ChildMemoryMax > c.MemoryMax {
		r.errorf(s.at("child_memory_max"), "Contradiction", "\"child_memory_max\" (%d bytes for one child) is above \"memory_max\" (%d bytes for all of them). Lower it.", c.ChildMemoryMax, c.MemoryMax)
	}
	return c
}
