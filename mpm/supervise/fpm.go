package supervise

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// fpmIdle is how long a child of php-fpm may wait for a connection. It forks another one for each that it did not end itself, so
	// after a retirement there is one that nobody asked for; this ends it. Those that were asked for get a knock three times as often.
	fpmIdle = time.Minute

	// fpmFirstSocket is the descriptor of the first place's socket.
	fpmFirstSocket = 3

	// maxCore is what core files are limited to at most: php-fpm reads the limit as an int.
	maxCore = 1 << 30
)

// fpmTitle is how a child of php-fpm is called, before the name of its [pool], which here is the number of its place.
const fpmTitle = "php-fpm: pool "

// fpmConfig is what php-fpm has to know: a [pool] of at most one child for each place, which it forks when somebody connects to the
// place's socket. Who is to leave is decided elsewhere.
func fpmConfig(p *Pool, sockets []string, idle time.Duration) []byte {
	var b strings.Builder
	b.WriteString("[global]\ndaemonize = no\nerror_log = /dev/null\nlog_level = warning\nlog_limit = 4096\n")
	for slot, path := range sockets {
		fmt.Fprintf(&b, "[%d]\nlisten = %s\n", slot, path)
		fmt.Fprintf(&b, "pm = ondemand\npm.max_children = 1\npm.max_requests = 0\npm.process_idle_timeout = %d\n", idle/time.Second)
		fmt.Fprintf(&b, "rlimit_core = %d\n", p.mark(slot))
		// Which files are scripts is said by the routes.
		b.WriteString("catch_workers_output = yes\nsecurity.limit_extensions =\n")
		// What is ours does not concern the scripts; an empty value is not possible.
		b.WriteString("clear_env = no\nenv[FPM_SOCKETS] = 0\n")
		if p.isRoot() {
			b.WriteString("user = 0\ngroup = 0\n")
		}
	}
	return []byte(b.String())
}

// fpmImage is php-fpm with the sockets of its places, and its configuration in the descriptor behind them.
func fpmImage(p *Pool, sockets []string) image {
	var inherited []string
	for slot, path := range sockets {
		inherited = append(inherited, path+"="+strconv.Itoa(fpmFirstSocket+slot))
	}
	args := []string{
		p.Args[0], "--nodaemonize", "--force-stderr", "--fpm-config", fmt.Sprintf("/proc/self/fd/%d", fpmFirstSocket+len(sockets)),
	}
	if p.isRoot() {
		args = append(args, "--allow-to-run-as-root")
	}
	return image{
		path: p.Path, args: append(args, p.Args[1:]...), dir: p.Dir, credential: p.Credential,
		env: append(p.Env[:len(p.Env):len(p.Env)], "FPM_SOCKETS="+strings.Join(inherited, ",")),
	}
}

func (p *Pool) isRoot() bool { return ownerOf(p.Credential).uid == 0 }

// mark is the limit of core files of the child in a place, in bytes: a little above the pool's, and for each place of each pool
// another. Whatever the child starts inherits it, and it can be seen by everybody; so it tells whose remains a process is.
func (p *Pool) mark(slot int) uint64 { return p.firstMark + uint64(slot) + p.coreLimit() }

// smallestMark: 0 is no limit to php-fpm; 1 is how the kernel keeps a core dump from causing another.
const smallestMark uint64 = 2

// coreLimit is the pool's own limit of core files. None is 0: below a page there are none.
func (p *Pool) coreLimit() uint64 {
	for _, l := range p.Limits.Rlimits {
		if l.Resource == unix.RLIMIT_CORE {
			return min(l.Value, maxCore)
		}
	}
	return 0
}

// parentLimits are the limits of a pool's parent: that of core files leaves room for the marks.
func (p *Pool) parentLimits() Limits {
	limits := p.Limits
	limits.Rlimits = append([]Rlimit(nil), limits.Rlimits...)
	for i := range limits.Rlimits {
		if l := &limits.Rlimits[i]; l.Resource == unix.RLIMIT_CORE {
			l.Value = p.mark(p.Slots)
		}
	}
	return limits
}

// placeOf reads from the title of a child of php-fpm which place it is in.
func placeOf(pid int) (slot int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, false
	}
	number, ok := strings.CutPrefix(strings.TrimRight(string(b), "\x00"), fpmTitle)
	if !ok {
		return 0, false
	}
	slot, err = strconv.Atoi(number)
	return slot, err == nil
}
