package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gateway/proxy/fcgi"
)

const (
	// scriptPath is the PATH of scripts.
	scriptPath = "/usr/local/bin:/usr/bin:/bin"

	// atomicBody is a body that fits into any pipe, so that writing it waits for nobody. A pipe has at least one page.
	atomicBody = 4 << 10

	// gatherOutput is how long output is held back for more: most scripts write it all at once and exit, and then it goes
	// out together with its end.
	gatherOutput = 2 * time.Millisecond

	// lingerOutput is how long a script's descendants may go on with its output after it has exited.
	lingerOutput = 2 * time.Second

	// scriptKillAfter is how long a script that nobody waits for has from SIGTERM to SIGKILL.
	scriptKillAfter = time.Second

	// exitTick is how often to look for the end of a script that has no pidfd: most have ended when they would need it, and
	// before Linux 5.3 there is none.
	exitTick = 20 * time.Millisecond
)

// ServeChild is what a child of the gateway's own does: it takes FastCGI requests from l, on so many connections at once as it
// has threads. It runs a script for each (RFC 3875), in its own process group, or an errand of the front. It returns nil when
// ctx has ended and the last request with it. log gets what the front can't be told, from several goroutines.
func ServeChild(ctx context.Context, l net.Listener, duties Duties, log func(line string)) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer null.Close()
	errands := newErrands(duties, log)
	defer errands.close()
	leaveChildSignal()
	idle := sync.Pool{New: func() any { return &scripts{null: null, duties: &duties, log: log} }}
	server := fcgi.Server{Gone: hungUp, Handler: func(ctx context.Context, r *fcgi.Request) {
		if name, ok := r.Params.Get(errandName); ok {
			errands.run(ctx, r, name)
			return
		}
		s, _ := idle.Get().(*scripts)
		s.handle(ctx, r)
		idle.Put(s)
	}}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Shutdown(context.Background()) // waits for the request in progress, however long the front lets it run
	})
	err = serveAll(&server, l, duties.Threads)
	if !stop() {
		<-stopped
	}
	return err
}

// leaveChildSignal has the kernel drop SIGCHLD, for which the runtime has a handler: otherwise the end of each script wakes up
// threads that have nothing to do. Ended scripts still wait to be reaped, as they would not with signal.Ignore.
func leaveChildSignal() {
	const (
		actionBytes = 32 // of a sigaction of the kernel, or more. All zero is SIG_DFL
		setBytes    = 8  // of a set of signals
	)
	var action [actionBytes]byte
	// It can't fail, and it may: the end of a script is learned otherwise.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGCHLD), uintptr(unsafe.Pointer(&action)), 0, setBytes, 0, 0)
}

// serveAll has a server take as many connections at once as there are threads. When one can take no more, none can.
func serveAll(server *fcgi.Server, l net.Listener, threads int) error {
	errs := make([]error, max(threads, 1))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = server.Serve(l) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// hungUp reports whether the front has closed a connection, whatever of it is still unread.
func hungUp(nc net.Conn) (gone bool) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		gone = poll(fds, 0) > 0
	})
	return gone || err != nil
}

// scripts runs scripts, one at a time.
type scripts struct {
	null   *os.File
	duties *Duties
	log    func(string)
	buf    [64 << 10]byte // of the request in progress
}

// handle runs the script of one request. The thread must not change: the kernel kills a script when the thread that
// started it ends.
func (s *scripts) handle(ctx context.Context, r *fcgi.Request) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	finerTimers()
	file, _ := r.Params.Get("SCRIPT_FILENAME")
	if !s.duties.mayRun(file) {
		s.refuse(r, http.StatusForbidden, fmt.Sprintf("refused to run %q: no route of this pool names it", file))
		return
	}
	p, err := s.start(r, file)
	if err != nil {
		status, reason := explainStart(file, err)
		s.refuse(r, status, file+": "+reason)
		return
	}
	defer p.close()
	stop := context.AfterFunc(ctx, p.terminate)
	defer stop()
	wrote := s.relay(r, p)
	s.conclude(r, file, p.wait(), wrote)
}

// finerTimers gives the calling thread, and the scripts that it starts, the timers of other processes: ours are coarse, see
// mpm/supervise.
func finerTimers() {
	const usual = 50 * time.Microsecond
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_TIMERSLACK, uintptr(usual), 0) // it can't fail
}

// conclude judges a script by how it ended. The exit status of one that has answered means nothing, as in other servers.
func (s *scripts) conclude(r *fcgi.Request, file string, status unix.WaitStatus, wrote bool) {
	switch {
	case !wrote:
		s.refuse(r, http.StatusBadGateway, fmt.Sprintf("%s: %s, and no output", file, endText(status)))
	case status.Signaled():
		s.tell(r, file+": "+endText(status)+", in the middle of its output")
		_ = r.Stdout.Flush() // it fails when the front has hung up
		r.Abort()
	}
}

// endText says how a script ended.
func endText(status unix.WaitStatus) string {
	if status.Signaled() {
		return fmt.Sprintf("signal %d (%s)", int(status.Signal()), status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// refuse answers instead of a script. The status at the end tells the front so, see [hold.refused].
func (s *scripts) refuse(r *fcgi.Request, status int, reason string) {
	s.tell(r, reason)
	r.AppStatus = uint32(status)
	// It fails when the front has hung up.
	_, _ = fmt.Fprintf(r.Stdout, "Status: %d %[2]s\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n%[1]d %[2]s\n", status, http.StatusText(status))
}

// tell logs a line, where the front can't through our own log.
func (s *scripts) tell(r *fcgi.Request, line string) {
	if _, err := io.WriteString(r.Stderr, line+"\n"); err != nil {
		s.log(line)
	}
}

// script is a process that answers a request.
type script struct {
	pid            int
	pidfd          int      // -1: none yet, or the kernel has none
	stdout, stderr int      // read ends of pipes, which block
	stdin          *os.File // write end of a pipe for a large body; nil: there is none

	mu    sync.Mutex // guards what follows: until it is reaped, pid is its own
	dead  bool       // reaped
	timer *time.Timer
}

// start executes file, with no argument but its name: the query never becomes one (CVE-2012-1823).
func (s *scripts) start(r *fcgi.Request, file string) (*script, error) {
	if !filepath.IsAbs(file) {
		return nil, fmt.Errorf("path %q: %w", file, unix.ENOENT)
	}
	var in input
	defer in.close()
	if err := s.openInput(&in, r); err != nil {
		return nil, err
	}
	var out, errs [2]int
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer closeFD(out[1])
	if err := unix.Pipe2(errs[:], unix.O_CLOEXEC); err != nil {
		closeFD(out[0])
		return nil, err
	}
	defer closeFD(errs[1])
	p := &script{pidfd: -1, stdout: out[0], stderr: errs[0]}
	var err error
	p.pid, err = syscall.ForkExec(file, []string{file}, &syscall.ProcAttr{
		Dir:   filepath.Dir(file),
		Env:   scriptEnviron(r.Params),
		Files: []uintptr{uintptr(in.child), uintptr(out[1]), uintptr(errs[1])},
		// A group of its own: what the script has started ends with it, when nobody waits for it any more.
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		closeFD(out[0])
		closeFD(errs[0])
		return nil, err
	}
	p.feed(&in)
	return p, nil
}

// input is where the body of a request comes from.
type input struct {
	child int      // descriptor 0 of the script
	pipe  bool     // child is ours to close
	rest  *os.File // where body still has to be written; nil: nowhere
	body  io.Reader
}

// openInput writes a small body into a pipe at once. A larger one, and one of unknown length, is for feed.
func (s *scripts) openInput(in *input, r *fcgi.Request) error {
	in.child = int(s.null.Fd())
	length, _ := r.Params.Get("CONTENT_LENGTH")
	n, _ := strconv.ParseUint(length, 10, 63) // 0 if it has none
	if n == 0 {
		return nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	in.child, in.pipe = pipe[0], true
	if n > atomicBody {
		if err := unix.SetNonblock(pipe[1], true); err != nil { // for the poller; the script's end stays blocking
			closeFD(pipe[1])
			return err
		}
		in.rest, in.body = os.NewFile(uintptr(pipe[1]), "stdin of a script"), r.Body
		return nil
	}
	defer closeFD(pipe[1])
	if _, err := io.ReadFull(r.Body, s.buf[:n]); err != nil {
		return err
	}
	_, err := unix.Write(pipe[1], s.buf[:n])
	return err
}

// close closes what the parent has no use for once the script runs.
func (in *input) close() {
	if in.pipe {
		closeFD(in.child)
	}
	if in.rest != nil {
		_ = in.rest.Close() // nothing was written
	}
}

// feed writes a large body, in a goroutine that ends with the script or with the request, whose Body fails then.
func (p *script) feed(in *input) {
	if in.rest == nil {
		return
	}
	p.stdin, in.rest = in.rest, nil
	go func() {
		_, _ = io.Copy(p.stdin, in.body) // a script need not read its input
		_ = p.stdin.Close()
	}()
}

func closeFD(fd int) {
	_ = unix.Close(fd) // of a pipe: it has nothing to say
}

// scriptEnviron is the environment of a script: its variables, and a PATH. It has nothing of ours.
func scriptEnviron(params fcgi.Params) []string {
	env := make([]string, 0, len(params)+1)
	path := false
	for _, v := range params {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || strings.IndexByte(v.Value, 0) >= 0 {
			continue
		}
		path = path || v.Name == "PATH"
		env = append(env, v.Name+"="+v.Value)
	}
	if !path {
		env = append(env, "PATH="+scriptPath)
	}
	return env
}

// terminate ends a script that nobody waits for: SIGTERM, and SIGKILL if that was not enough.
func (p *script) terminate() {
	p.signal(unix.SIGTERM)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dead {
		p.timer = time.AfterFunc(scriptKillAfter, func() { p.signal(unix.SIGKILL) })
	}
}

func (p *script) signal(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dead {
		_ = unix.Kill(-p.pid, sig) // it can only be a zombie already
	}
}

// wait reaps the script.
func (p *script) wait() unix.WaitStatus {
	p.waitExit(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	if p.timer != nil {
		p.timer.Stop()
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(p.pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			return status
		}
	}
}

// waitExit waits for the end of the script without reaping it, or with WNOHANG only looks.
func (p *script) waitExit(flags int) (ended bool) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOWAIT|flags, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && info.Signo != 0
		}
	}
}

// close closes our ends of the script's pipes, which ends feed.
func (p *script) close() {
	closeFD(p.stdout)
	closeFD(p.stderr)
	if p.pidfd >= 0 {
		closeFD(p.pidfd)
	}
	if p.stdin != nil {
		_ = p.stdin.Close() // closed already when all was written
	}
}

// relay passes on what the script writes until its output has ended, or lingerOutput after it has exited. It reports
// whether there was output.
//
// It blocks in poll and read on the thread of the script: going through the runtime's poller would cost a registration and
// two changes of threads for each pipe.
func (s *scripts) relay(r *fcgi.Request, p *script) (wrote bool) {
	const stdout, stderr, exit = 0, 1, 2
	fds := [...]unix.PollFd{
		stdout: {Fd: int32(p.stdout), Events: unix.POLLIN},
		stderr: {Fd: int32(p.stderr), Events: unix.POLLIN},
		exit:   {Fd: -1, Events: unix.POLLIN}, // once it takes longer
	}
	var until time.Time // end of lingering; zero: the script runs
	held := false       // output that was not flushed
	for fds[stdout].Fd >= 0 || fds[stderr].Fd >= 0 && until.IsZero() {
		n := poll(fds[:], pollTimeout(held, until, p.pidfd < 0))
		if n == 0 && held {
			_ = r.Stdout.Flush() // when the front has hung up the script gets a signal
			held = false
		}
		if n == 0 && p.pidfd < 0 && until.IsZero() {
			p.pidfd = pidfdOf(p.pid)
			fds[exit].Fd = int32(p.pidfd)
		}
		if !until.IsZero() && !time.Now().Before(until) {
			break
		}
		if fds[stdout].Revents != 0 {
			read := s.pass(r.Stdout, &fds[stdout])
			wrote, held = wrote || read, held || read
		}
		if fds[stderr].Revents != 0 {
			s.passErrors(r, &fds[stderr])
		}
		if until.IsZero() && (fds[exit].Revents != 0 || p.pidfd < 0 && p.waitExit(unix.WNOHANG)) {
			fds[exit].Fd = -1
			until = time.Now().Add(lingerOutput)
		}
	}
	for fds[stderr].Fd >= 0 && poll(fds[stderr:exit], 0) > 0 { // what is left; nobody waits for a daemon that kept it open
		s.passErrors(r, &fds[stderr])
	}
	return wrote
}

// pidfdOf opens a process that was not reaped, or returns -1.
func pidfdOf(pid int) int {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1
	}
	return fd
}

// pollTimeout is how long to wait for the next event, in milliseconds; -1: for ever.
func pollTimeout(held bool, until time.Time, tick bool) int {
	switch {
	case held:
		return int(gatherOutput / time.Millisecond)
	case !until.IsZero():
		return int(max(time.Until(until), 0)/time.Millisecond) + 1
	case tick:
		return int(exitTick / time.Millisecond)
	}
	return -1
}

// poll returns how many descriptors have something to tell.
func poll(fds []unix.PollFd, timeout int) int {
	for {
		n, err := unix.Poll(fds, timeout)
		if !errors.Is(err, unix.EINTR) {
			return n
		}
	}
}

// pass copies what is in a pipe. At its end it takes the pipe out of the poll set, and returns false.
func (s *scripts) pass(to io.Writer, fd *unix.PollFd) bool {
	n, err := unix.Read(int(fd.Fd), s.buf[:])
	if errors.Is(err, unix.EINTR) {
		return false
	}
	if n <= 0 {
		fd.Fd, fd.Revents = -1, 0
		return false
	}
	_, _ = to.Write(s.buf[:n]) // when the front has hung up the script gets a signal
	return true
}

// passErrors is pass for the error stream.
func (s *scripts) passErrors(r *fcgi.Request, fd *unix.PollFd) {
	s.pass(errorStream{s, r}, fd)
}

// errorStream writes to the front's log, or to our own.
type errorStream struct {
	s *scripts
	r *fcgi.Request
}

func (e errorStream) Write(p []byte) (int, error) {
	if _, err := e.r.Stderr.Write(p); err != nil {
		for line := range strings.SplitSeq(strings.TrimRight(string(p), "\n"), "\n") {
			e.s.log(line)
		}
	}
	return len(p), nil
}

// explainStart says why a script can't be executed, for the log, and what the client gets. The errno is the same for the
// script and the interpreter that its first line names.
func explainStart(file string, err error) (status int, reason string) {
	missing := errors.Is(unix.Faccessat(unix.AT_FDCWD, file, unix.F_OK, unix.AT_EACCESS), unix.ENOENT)
	forbidden := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS) != nil
	switch {
	case errors.Is(err, unix.ENOENT) && missing:
		return http.StatusNotFound, "the script does not exist"
	case errors.Is(err, unix.ENOENT):
		return http.StatusBadGateway, "its interpreter does not exist: look at the script's first line"
	case errors.Is(err, unix.EACCES) && forbidden:
		return http.StatusForbidden, "the script is not executable: chmod +x"
	case errors.Is(err, unix.EACCES):
		return http.StatusBadGateway, "its interpreter, or a folder on the way, is not accessible: " + err.Error()
	case errors.Is(err, unix.ENOEXEC):
		return http.StatusBadGateway, `it is no program and does not begin with "#!": name its interpreter in the first line`
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return http.StatusServiceUnavailable, "can't be started now: " + err.Error()
	}
	return http.StatusBadGateway, "can't be started: " + err.Error()
}
