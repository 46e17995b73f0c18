package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// maxLaunch bounds the order of a launcher: more than the arguments and the environment of a program may have.
const maxLaunch = 8 << 20

// launch is the order of a launcher, which comes to it as a blob.
type launch struct {
	Parent     int // the supervisor
	Path       string
	Args       []string
	Env        []string
	Dir        string
	Credential *Credential
	Limits     Limits
	Listens    bool // descriptor 3 is a listening socket: say so as systemd does
}

// Launch makes this process a child of a pool: it takes on what fork and exec have no means for, then the pool's user, and
// becomes the program. It returns only when that fails. It is for the process that a supervisor started with [Plan.Launcher], and
// the descriptor is what that was told behind it.
//
// What needs privileges comes before the change of user; limits that could hinder this program itself come last.
func Launch(descriptor int) error {
	runtime.LockOSThread() // nice and the parent-death signal belong to the thread, and exec keeps those of its caller
	order, err := readOrder(descriptor)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		order.raiseHardLimits, order.setNice, order.changeUser, order.bindToParent, order.enterFolder, order.setUmask, order.setLimits,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	env := order.Env
	if order.Listens {
		env = append(env, "LISTEN_FDS=1", "LISTEN_FDNAMES=http", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	}
	return fmt.Errorf("exec %s: %w", order.Path, syscall.Exec(order.Path, order.Args, env))
}

func readOrder(descriptor int) (*launch, error) {
	f := os.NewFile(uintptr(descriptor), "order")
	if f == nil {
		return nil, fmt.Errorf("descriptor %d: this role is started by the supervisor only", descriptor)
	}
	b, err := ctl.ReadBlob(f, maxLaunch)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	order := new(launch)
	if err := json.Unmarshal(b, order); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	return order, nil
}

// raiseHardLimits makes room for the limits that are above what this process may have: later it may not any more.
func (o *launch) raiseHardLimits() error {
	for _, l := range o.Limits.Rlimits {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(l.Resource, &now); err != nil {
			return fmt.Errorf("rlimit %s: %w", l.Name, err)
		}
		if l.Value <= now.Max {
			continue
		}
		if err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: now.Cur, Max: l.Value}); err != nil {
			return fmt.Errorf("rlimit %s: raise it from %d to %d: %w", l.Name, now.Max, l.Value, err)
		}
	}
	return nil
}

func (o *launch) setNice() error {
	if o.Limits.Nice == nil {
		return nil
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, *o.Limits.Nice); err != nil {
		return fmt.Errorf("nice %d: %w", *o.Limits.Nice, err)
	}
	return nil
}

func (o *launch) changeUser() error {
	c := o.Credential
	if c == nil {
		return nil
	}
	groups := make([]int, len(c.Groups))
	for i, g := range c.Groups {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setgid(int(c.GID)); err != nil {
		return fmt.Errorf("set group %d: %w", c.GID, err)
	}
	if err := syscall.Setuid(int(c.UID)); err != nil {
		return fmt.Errorf("set user %d: %w", c.UID, err)
	}
	return nil
}

// bindToParent sets the parent-death signal, which a change of user takes away, and sees that it does not come too late.
func (o *launch) bindToParent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set parent-death signal: %w", err)
	}
	if os.Getppid() != o.Parent {
		return errors.New("the supervisor is gone")
	}
	return nil
}

// enterFolder comes after the change of user: the folder may be one that only that user may enter.
func (o *launch) enterFolder() error {
	if o.Dir == "" {
		return nil
	}
	return os.Chdir(o.Dir)
}

func (o *launch) setUmask() error {
	if o.Limits.Umask != nil {
		syscall.Umask(*o.Limits.Umask)
	}
	return nil
}

func (o *launch) setLimits() error {
	for _, l := range o.Limits.Rlimits {
		if err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: l.Value, Max: l.Value}); err != nil {
			return fmt.Errorf("rlimit %s %d: %w", l.Name, l.Value, err)
		}
	}
	return nil
}

// launcher turns an image into one of a launcher that will become it. The order is the caller's to close after the start.
func (s *supervisor) launcher(i image, p *pool) (image, *os.File, error) {
	if _, err := os.Stat(i.path); err != nil {
		return image{}, nil, explainFork(i, errors.Unwrap(err)) // as without a launcher, which could only end and say so
	}
	limits := p.Limits
	if p.FPM {
		limits = p.parentLimits()
	}
	if p.OwnSocket && limits.Umask == nil && ownerOf(p.Credential) != s.folder.owner {
		limits.Umask = new(ownSocketUmask)
	}
	b, err := json.Marshal(launch{
		Parent: os.Getpid(), Path: i.path, Args: i.args, Env: i.env, Dir: i.dir, Credential: i.credential,
		Limits: limits, Listens: p.OwnSocket,
	})
	if err != nil {
		return image{}, nil, err
	}
	order, err := ctl.NewBlob(b)
	if err != nil {
		return image{}, nil, err
	}
	fd, err := ctl.Descriptor(order)
	if err != nil {
		return image{}, nil, errors.Join(err, order.Close())
	}
	args := append(append([]string(nil), s.plan.Launcher...), strconv.Itoa(len(i.files)))
	return image{path: Self, args: args, files: append(i.files, uintptr(fd)), cgroup: i.cgroup, coarse: i.coarse}, order, nil
}
