// Package supervise is the privileged half of the gateway: it binds the listening sockets, starts the front and the
// children of the pools as their users, buries them, and does nothing else. It never reads a byte that a client sent.
//
// The front decides, the supervisor acts, and only on what its own [Plan] allows.
package supervise

import (
	"errors"
	"fmt"
	"path/filepath"
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
	Setup     []byte // what the front gets to know, as a blob: see [ctl.ReadBlob]
	Listeners []Listener
	Pools     []Pool

	RuntimeDir  string // admin socket and private child sockets; made when missing
	StateDir    string // belongs to the front; made when missing; empty: none
	AdminSocket string

	GracePeriod time.Duration // how long a graceful stop waits for the front
	Reopen      func() error  `json:"-"` // reopens the supervisor's own log files; nil: it has none
}

// Program is how the front is started. Its executable is [Self].
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
	case p.KillAfter < 0:
		return fmt.Errorf("pool %q: kill_after %v: must not be negative", p.Name, p.KillAfter)
	}
	return nil
}
