// Package supervise is the privileged half of the gateway: it binds the listening sockets, starts the front and the
// children of the pools as their users, buries them, and does nothing else. It never reads a byte that a client sent.
//
// The front decides, the supervisor acts, and only on what its own [Plan] allows.
package supervise

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"gateway/internal/ctl"
)

// Self is the path of a program that is the gateway itself. It works even when the binary lies in a folder that the
// program's user can't enter.
const Self = "/proc/self/exe"

// Plan is all that the supervisor may do: its own copy of what the configuration allows. It never changes after [Run] got it.
type Plan struct {
	Version    string // for the status while no front answers
	Generation int    // from 1

	Front     Program
	Launcher  []string // arguments that make [Self] call [Launch]: the program's name and its role
	Warden    Program  // calls [Watch]; no arguments: there is none, and what children have started survives a killed supervisor
	Setup     []byte   // what the front gets to know, as a blob: see [ctl.ReadBlob]
	Listeners []Listener
	Pools     []Pool

	RuntimeDir  string // admin socket and private child sockets; made when missing
	StateDir    string // belongs to the front; made when missing; empty: none
	AdminSocket string

	GracePeriod time.Duration // how long a graceful stop waits for the front
	Reopen      func() error  `json:"-"` // reopens the supervisor's own log files; nil: it has none
	Changed     func() []byte `json:"-"` // called every few seconds: what the front is to know instead of a part of Setup; nil: as before. A nil func: it never changes
	Ready       func()        `json:"-"` // called once, when the first front serves; nil: nobody wants to know
}

// Program is how the front or the warden is started. Its executable is [Self].
type Program struct {
	Args       []string // with the program's name first
	Env        []string
	Credential *Credential // nil: the caller's
}

// Credential is whom a process runs as. All three replace the caller's.
type Credential struct {
	UID    uint32
	GID    uint32
	Groups []uint32
}

// Listener is an address to listen on.
type Listener struct {
	Network string // tcp or unix
	Address string // ":80" (all addresses, IPv4 and IPv6), "127.0.0.1:8080", "[::1]:8080", "/run/x.sock"
}

// Pool is what the children of one pool are.
type Pool struct {
	Name       string
	Path       string   // of the executable: absolute, or [Self]
	Args       []string // with the program's name first
	Env        []string // all of it: nothing is inherited
	Dir        string   // empty: the supervisor's own
	Credential *Credential
	Slots      int           // at most so many children
	KillAfter  time.Duration // from SIGTERM to SIGKILL when the front asks to kill
	Limits     Limits
	Cgroup     *Cgroup // nil: the children stay in the supervisor's control group

	// OwnSocket is for programs that may make their socket themselves: see [SocketPlaceholder].
	OwnSocket bool

	// FPM says that the program is php-fpm, of which one process, the parent, forks all children of the pool: they share its OPcache.
	FPM bool

	firstMark uint64 // see [Pool.mark]; set by the supervisor
}

// SocketPlaceholder stands in the arguments of a pool with OwnSocket for the path at which a child may listen; it is also in its
// environment, as GATEWAY_SOCKET. Nothing is there when the child starts. Descriptor 3 is a socket that listens already, which it
// may use instead, and is announced as systemd does (LISTEN_FDS); descriptor 0 is empty. [ctl.OwnSocket] names the path to the front.
const SocketPlaceholder = "{socket}"

// Limits are set for each child before its program runs. The zero value changes nothing.
type Limits struct {
	Umask   *int
	Nice    *int
	Rlimits []Rlimit
}

// Rlimit is one limit of setrlimit(2), soft and hard.
type Rlimit struct {
	Name     string // for messages
	Resource int    // unix.RLIMIT_…
	Value    uint64
}

// Cgroup are the limits of a pool's control group. 0: none.
type Cgroup struct {
	MemoryMax      int64 // bytes
	PIDsMax        int
	CPUWeight      int
	ChildMemoryMax int64 // bytes, of each child and what it starts
}

// launched reports whether the children need more than fork and exec can do.
func (p *Pool) launched() bool {
	return p.OwnSocket || p.Limits.Umask != nil || p.Limits.Nice != nil || len(p.Limits.Rlimits) > 0
}

// validate finds what would fail late or do harm. All of it at once.
func (p *Plan) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Generation < 1 {
		fail("generation %d: must be at least 1", p.Generation)
	}
	if len(p.Front.Args) == 0 {
		fail("front: no arguments")
	}
	if !filepath.IsAbs(p.RuntimeDir) {
		fail("runtime_dir %q: must be an absolute path", p.RuntimeDir)
	}
	if p.StateDir != "" && !filepath.IsAbs(p.StateDir) {
		fail("state_dir %q: must be an absolute path", p.StateDir)
	}
	if room := ctl.MaxSocketBytes - len(socketPath(p.RuntimeDir, maxSocketName)); room < 0 {
		fail("runtime_dir %q: %d bytes too long for the path of a socket in it", p.RuntimeDir, -room)
	}
	if !filepath.IsAbs(p.AdminSocket) || len(p.AdminSocket) > ctl.MaxSocketBytes {
		fail("admin socket %q: must be an absolute path of at most %d bytes", p.AdminSocket, ctl.MaxSocketBytes)
	}
	seen := make(map[string]bool, len(p.Pools))
	for i := range p.Pools {
		pool := &p.Pools[i]
		errs = append(errs, pool.validate())
		if seen[pool.Name] {
			fail("pool %q: named twice", pool.Name)
		}
		seen[pool.Name] = true
		if pool.launched() && len(p.Launcher) == 0 {
			fail("pool %q: needs a launcher", pool.Name)
		}
	}
	return errors.Join(errs...)
}

func (p *Pool) validate() error {
	switch {
	case p.Name == "" || len(p.Name) > ctl.MaxNameBytes:
		return fmt.Errorf("pool %.40q: the name must have 1 to %d bytes", p.Name, ctl.MaxNameBytes)
	case !filepath.IsAbs(p.Path):
		return fmt.Errorf("pool %q: executable %q: must be an absolute path", p.Name, p.Path)
	case len(p.Args) == 0:
		return fmt.Errorf("pool %q: no arguments", p.Name)
	case p.Slots < 1 || p.Slots > ctl.MaxSlot:
		return fmt.Errorf("pool %q: %d slots: must be 1 to %d", p.Name, p.Slots, ctl.MaxSlot)
	case p.Cgroup != nil && strings.ContainsAny(p.Name, "/\x00\n"):
		return fmt.Errorf("pool %q: the name can't be that of a control group", p.Name)
	case p.FPM && (p.OwnSocket || p.Slots > MaxForked):
		return fmt.Errorf("pool %q: php-fpm has no socket of its own and at most %d slots", p.Name, MaxForked)
	case p.KillAfter < 0:
		return fmt.Errorf("pool %q: kill_after %v: must not be negative", p.Name, p.KillAfter)
	}
	return nil
}
