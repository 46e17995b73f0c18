package supervise

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// image is what a new process consists of.
type image struct {
	path       string
	args       []string
	env        []string
	dir        string
	credential *Credential
	files      []uintptr // becomes descriptors 0, 1, 2 …; everything else of ours is closed on exec
	cgroup     *os.File  // folder of the control group to start in; nil: ours
	outlives   bool      // it does not die with us
	coarse     bool      // its timers may be late, see timerSlack
}

// forker starts processes from one OS thread that lives until close.
//
// Some things of Linux belong to a thread where one expects the process: the parent-death signal is sent when the *thread*
// that forked ends, which in Go may be any time; no_new_privs and the scheduling policy are set for one thread and inherited by
// what it forks. So there is one forker for the front, whose thread [forbidPrivileges], and one for the children, whose programs
// may need set-id helpers (PHP's mail() calls Postfix's postdrop), and whose thread has to [yieldToFront].
type forker struct {
	jobs  chan job
	ended chan struct{}
}

type job struct {
	image image
	done  chan<- forked
}

type forked struct {
	pid int
	err error
}

// newForker starts a forker. Its thread calls prepare first.
func newForker(prepare func() error) (*forker, error) {
	f := &forker{jobs: make(chan job), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go f.run(prepare, ready) // ends with close
	if err := <-ready; err != nil {
		return nil, err
	}
	return f, nil
}

// run never unlocks its thread, so the thread ends with it and no other goroutine ever gets it.
func (f *forker) run(prepare func() error, ready chan<- error) {
	defer close(f.ended)
	runtime.LockOSThread()
	err := prepare()
	ready <- err
	if err != nil {
		return
	}
	for j := range f.jobs {
		pid, err := fork(j.image)
		j.done <- forked{pid, err}
	}
}

// forbidPrivileges sets no_new_privs for the calling thread: nothing it executes gains any.
func forbidPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// yieldToFront makes the calling thread one that does not interrupt others when it wakes up (SCHED_BATCH, sched(7)).
//
// Otherwise each request that the front hands to a child of the same processor puts that child in the front's place, for one
// request, while the next ones wait in the front: with a hello world, a third of the time goes into these changes.
// A policy that somebody chose for the supervisor stays.
func yieldToFront() error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return nil // a sandbox without these calls costs speed only
	}
	attr.Policy = unix.SCHED_BATCH
	unix.SchedSetAttr(0, attr, 0) //nolint:errcheck // see above
	return nil
}

// start returns when the new program runs, or with the reason why it could not be executed.
//
// The caller is the loop, which also reaps: so a process whose exec failed is waited for by syscall.ForkExec alone.
func (f *forker) start(i image) (pid int, err error) {
	done := make(chan forked)
	f.jobs <- job{i, done}
	r := <-done
	return r.pid, r.err
}

// close ends the thread. Whatever it started and still lives gets SIGKILL, unless it outlives us.
func (f *forker) close() {
	close(f.jobs)
	<-f.ended
}

// timerSlack is how late the timers of our own child role may be. Go's runtime looks every 20 us, in a thread of its own, whether a
// system call takes long, which costs a process that runs scripts more than its own work. (Its other timers are no finer than this.)
const timerSlack = 5 * time.Millisecond

func fork(i image) (pid int, err error) {
	if i.coarse {
		// The thread's slack is what its processes have (prctl(2)); 0 is its own default. Without it they are as others.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack.Nanoseconds()), 0, 0, 0)
		defer unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) //nolint:errcheck // see above
	}
	attr := &syscall.ProcAttr{
		Dir:   i.dir,
		Env:   i.env,
		Files: i.files,
		Sys: &syscall.SysProcAttr{
			// An own session: a ^C at the terminal reaches only the supervisor, and the process group is everything
			// the program starts, unless that makes a group of its own.
			Setsid:    true,
			Pdeathsig: syscall.SIGKILL,
		},
	}
	if i.outlives {
		attr.Sys.Pdeathsig = 0
	}
	if i.cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(i.cgroup.Fd())
	}
	if c := i.credential; c != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	}
	pid, err = syscall.ForkExec(i.path, i.args, attr)
	if err != nil {
		return 0, explainFork(i, err)
	}
	return pid, nil
}

// explainFork names the object of an error that ForkExec gives as a bare errno: it is the same for the program, its
// interpreter, its folder and its user.
func explainFork(i image, err error) error {
	if i.dir != "" && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		if _, statErr := os.Stat(i.dir); statErr != nil {
			return fmt.Errorf("chdir %s: %w", i.dir, err)
		}
	}
	if errors.Is(err, unix.ENOENT) {
		if _, statErr := os.Stat(i.path); statErr == nil {
			return fmt.Errorf("fork/exec %s: %w (the interpreter or loader that it names)", i.path, err)
		}
	}
	if errors.Is(err, unix.EPERM) && i.credential != nil && os.Geteuid() != 0 {
		return fmt.Errorf("fork/exec %s: set user %d: %w (only root may change the user)", i.path, i.credential.UID, err)
	}
	return fmt.Errorf("fork/exec %s: %w", i.path, err)
}
