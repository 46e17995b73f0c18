package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
	"gateway/internal/quiet"
)

// Logger takes constant messages with facts as keys and values. A zap SugaredLogger is one.
type Logger interface {
	Infow(msg string, keysAndValues ...any)
	Warnw(msg string, keysAndValues ...any)
	Errorw(msg string, keysAndValues ...any)
}

// supervisor is the state of [Run]. One goroutine, the loop, owns it all; the readers get what they need as arguments.
type supervisor struct {
	// Immutable after prepare.
	plan         Plan
	log          Logger
	started      time.Time
	stopLadder   func() []rung
	readyTimeout time.Duration
	heartbeat    time.Duration
	filesPeriod  time.Duration
	fpmIdle      time.Duration
	forkTimeout  time.Duration
	clock        func() time.Time

	// Made by prepare, which appends to undo how to unmake it.
	undo        []func()
	null        *os.File
	setup       *os.File
	folder      *socketFolder
	admin       *admin
	groups      groups
	frontForker *forker
	childForker *forker
	signals     chan os.Signal
	deaths      chan os.Signal // SIGCHLD: apart, so that a storm of them never displaces another signal

	// The goroutines of the fronts.
	readers sync.WaitGroup
	events  chan event
	files   chan []byte   // of watchFiles
	done    chan struct{} // closed when nobody receives events any more

	// Owned by the loop.
	sockets     []socket
	front       *front // nil: between two
	everReady   bool
	restarts    restarts
	restartAt   time.Time
	pools       map[string]*pool
	children    map[int]*child // by pid
	parents     map[int]*parent
	warden      warden
	ooms        oomWatch
	refusal     quiet.Limiter // for pools that do not exist
	newest      []byte        // of the files that have changed; nil: none has
	stop        stop
	stopWaiters []request
	failure     error // why the start failed
}

// Run supervises until it is told to stop, by SIGTERM, SIGINT or the admin socket. It returns nil after a stop, and
// an error when the start failed; in both cases every process that it started is gone, and so are its sockets.
//
// It takes the whole process for itself: its signals, its umask (022) and all its children, those of others included. If
// the process is killed, the kernel kills everything that Run started, and the warden what those have started.
func Run(p Plan, log Logger) error {
	return newSupervisor(p, log).run()
}

func newSupervisor(p Plan, log Logger) *supervisor {
	s := &supervisor{
		plan:         p,
		log:          log,
		started:      time.Now(),
		stopLadder:   stopLadder,
		readyTimeout: readyTimeout,
		heartbeat:    heartbeatPeriod,
		filesPeriod:  filesPeriod,
		fpmIdle:      fpmIdle,
		forkTimeout:  forkTimeout,
		clock:        time.Now,
		signals:      make(chan os.Signal, 8),
		deaths:       make(chan os.Signal, 1),
		events:       make(chan event),
		files:        make(chan []byte),
		done:         make(chan struct{}),
		ooms:         newOOMWatch(),
		pools:        make(map[string]*pool, len(p.Pools)),
		children:     make(map[int]*child),
		parents:      make(map[int]*parent),
	}
	firstMark := smallestMark
	for _, pl := range p.Pools {
		if pl.FPM {
			pl.firstMark = firstMark
			firstMark += uint64(pl.Slots) + 1 //nolint:gosec // positive; the parent has one, too
		}
		s.pools[pl.Name] = &pool{Pool: pl, slots: make(map[int]*child)}
	}
	return s
}

func (s *supervisor) run() error {
	err := s.prepare()
	if err == nil {
		s.loop()
		err = s.failure
	}
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
	for _, r := range s.stopWaiters {
		r.answer("ok\n")
	}
	return err
}

// prepare makes all that must be there before the first process starts. What it made before an error is in undo.
func (s *supervisor) prepare() error {
	if err := s.plan.validate(); err != nil {
		return err
	}
	for _, step := range []func() error{
		s.takeProcess,
		s.openRuntimeDir,
		s.openAdmin,
		s.openStateDir,
		s.openSockets,
		s.openFiles,
		s.openGroups,
		s.startForkers,
		s.openWarden,
		s.watchFiles, // the last one: only the loop ends it
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// takeProcess sets what belongs to the whole process.
func (s *supervisor) takeProcess() error {
	if err := closeOnExec(); err != nil {
		return err
	}
	umask := unix.Umask(0o022) // the children's too
	s.undo = append(s.undo, func() { unix.Umask(umask) })

	// SIGPIPE is received and forgotten: the end of whoever reads our log must not end us. To ignore it instead would make
	// the children ignore it.
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	signal.Notify(s.deaths, syscall.SIGCHLD)
	s.undo = append(s.undo, func() {
		signal.Stop(s.signals)
		signal.Stop(s.deaths)
	})

	// What a child leaves behind comes to us, not to init, so that a stop finds it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// closeOnExec keeps from our processes what whoever started us left open: everything of our own is closed on exec anyway.
func closeOnExec() error {
	const first, last = 3, 1<<32 - 1
	err := unix.CloseRange(first, last, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd") // Linux before 5.11
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// openRuntimeDir opens the runtime folder and the sockets' folder in it, unless another supervisor lives there.
func (s *supervisor) openRuntimeDir() error {
	if live, pid := listenerOf(s.plan.AdminSocket); live {
		return fmt.Errorf("admin socket %s: another gateway runs here: pid %d: `gateway stop` ends it; a second one needs a runtime_dir of its own", s.plan.AdminSocket, pid)
	}
	o := ownerOf(s.plan.Front.Credential)
	dir, made, err := ownFolder(s.plan.RuntimeDir, o)
	if err != nil {
		return fmt.Errorf("gateway { runtime_dir }: %w", err)
	}
	s.undo = append(s.undo, func() {
		dir.Close() //nolint:errcheck // a folder
		if made {
			os.Remove(s.plan.RuntimeDir) //nolint:errcheck // others may have put files there
		}
	})
	s.folder, err = openSocketFolder(dir, o)
	if err != nil {
		return fmt.Errorf("runtime_dir: %w", err)
	}
	s.undo = append(s.undo, s.folder.close)
	if slices.ContainsFunc(s.plan.Pools, func(p Pool) bool { return p.OwnSocket && ownerOf(p.Credential) != o }) {
		return s.folder.openOutside()
	}
	return nil
}

func (s *supervisor) openAdmin() error {
	a, err := listenAdmin(s.plan.AdminSocket)
	if err != nil {
		return fmt.Errorf("admin socket %s: %w", s.plan.AdminSocket, err)
	}
	s.admin = a
	s.undo = append(s.undo, a.close)
	return nil
}

func (s *supervisor) openStateDir() error {
	if s.plan.StateDir == "" {
		return nil
	}
	dir, _, err := ownFolder(s.plan.StateDir, ownerOf(s.plan.Front.Credential))
	if err != nil {
		return fmt.Errorf("gateway { state_dir }: %w", err)
	}
	return dir.Close()
}

// openSockets binds the listening sockets: all of the addresses that can't be had are in the error.
func (s *supervisor) openSockets() error {
	s.undo = append(s.undo, s.closeSockets)
	var errs []error
	for _, l := range s.plan.Listeners {
		f, err := listen(l, ownerOf(s.plan.Front.Credential))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.sockets = append(s.sockets, socket{l.Address, f})
	}
	return errors.Join(errs...)
}

func (s *supervisor) openFiles() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	s.null = null
	s.undo = append(s.undo, func() { closeFile(null) })
	setup, err := ctl.NewBlob(s.plan.Setup)
	if err != nil {
		return err
	}
	s.setup = setup
	s.undo = append(s.undo, func() { closeFile(setup) })
	return nil
}

func (s *supervisor) startForkers() error {
	var err error
	if s.frontForker, err = newForker(forbidPrivileges); err != nil {
		return err
	}
	s.undo = append(s.undo, s.frontForker.close)
	if s.childForker, err = newForker(yieldToFront); err != nil {
		return err
	}
	s.undo = append(s.undo, s.childForker.close)
	return nil
}

// loop runs until everything is gone. It waits for one thing at a time and then does what is due.
func (s *supervisor) loop() {
	defer s.readers.Wait()
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := s.advance(s.clock())
		if s.stop.phase == finished {
			s.abandonFront()
			s.abandonForked()
			return
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(next.Sub(s.clock()))
		}
		s.await(timer.C)
	}
}

// await takes in one thing that happened.
func (s *supervisor) await(due <-chan time.Time) {
	select {
	case sig := <-s.signals:
		if n, ok := sig.(syscall.Signal); ok {
			s.signal(n, s.clock())
		}
	case <-s.deaths:
		s.reap(s.clock())
	case e := <-s.events:
		s.frontEvent(e, s.clock())
	case b := <-s.files:
		s.filesChanged(b)
	case r := <-s.admin.requests:
		s.adminRequest(r, s.clock())
	case <-due:
	}
}

// advance does everything whose time has come and returns when it is to be called again; zero: when something happens.
func (s *supervisor) advance(now time.Time) time.Time {
	var next soonest
	s.frontDue(now, &next)
	s.stopDue(now, &next)
	s.wardenDue(now, &next)
	if s.front != nil {
		s.front.advance(now, &next)
	}
	for _, c := range s.children {
		c.advance(now, &next)
	}
	for _, p := range s.parents {
		s.parentDue(p, now, &next)
	}
	return next.Time
}

// advance sends a process the signals that are due.
func (p *process) advance(now time.Time, next *soonest) {
	for _, step := range p.climb.due(now) {
		p.signal(step)
	}
	next.add(p.climb.next())
}

// abandonFront ends the goroutines of a front that could not be ended.
func (s *supervisor) abandonFront() {
	if s.front != nil {
		s.front.conn.Close() //nolint:errcheck // nobody talks to it any more
		close(s.front.out)
		s.front = nil
	}
}
