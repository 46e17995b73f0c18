package mpm

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

func TestTrouble(t *testing.T) {
	bubble(t, "what a child said that did not get ready is in the status, until one does", func(t *testing.T) {
		w := newWorld(t, prefork(1))
		w.manual = true
		w.pool.Open()
		w.pool.Said(7, "reported before its child is")
		w.pool.Started(0, 7, "/run/7.sock", 0)
		w.setBusy(8, true)
		synctest.Wait()
		w.pool.Said(7, "of a child that is ready")
		w.pool.Exited(0, 7, 255<<8, false)
		w.pool.Started(0, 8, "/run/8.sock", 0)
		for i := range 20 {
			w.pool.Said(8, fmt.Sprintf("line %d", i))
		}
		w.pool.Said(8, "")
		w.pool.Exited(0, 8, 255<<8, false)
		w.pool.Said(8, "reported late")
		st := w.pool.Status()
		equal(t, "said", st.Said, []string{"line 0", "line 1", "line 2", "line 3", "line 13", "line 14", "line 15", "line 16", "line 17", "line 18", "line 19", "reported late"})
		equal(t, "trouble", st.Trouble, "child 8: before ready: exit status 255")
		w.pool.Started(0, 9, "/run/9.sock", 0)
		synctest.Wait()
		st = w.pool.Status()
		equal(t, "trouble when one is ready", st.Trouble, "")
		w.pool.Exited(0, 9, 0, false)
		equal(t, "said by the next that failed", w.pool.Status().Said, nil)
	})
	bubble(t, "the words of children that fail at once are not mixed", func(t *testing.T) {
		w := newWorld(t, prefork(2))
		w.manual = true
		w.pool.Open()
		for _, pid := range []int{7, 8} {
			w.setBusy(pid, true)
			w.pool.Started(pid-7, pid, "/run/x.sock", 0)
		}
		for _, line := range []string{"cause", "effect"} {
			w.pool.Said(7, line+" in 7")
			w.pool.Said(8, line+" in 8")
		}
		w.pool.Exited(0, 7, 1<<8, false)
		equal(t, "said after the first end", w.pool.Status().Said, []string{"cause in 7", "effect in 7"})
		w.pool.Exited(1, 8, 1<<8, false)
		w.pool.Said(7, "late in 7")
		equal(t, "said after the second", w.pool.Status().Said, []string{"cause in 8", "effect in 8"})
	})
	bubble(t, "where no child came to be, what their parent said is in the status", func(t *testing.T) {
		w := newWorld(t, prefork(1))
		w.broken = "parent has ended"
		w.pool.Said(6, "unknown entry in the configuration")
		w.pool.Open()
		synctest.Wait()
		w.pool.Said(6, "late")
		equal(t, "said", w.pool.Status().Said, []string{"unknown entry in the configuration", "late"})
	})
	bubble(t, "lines are cut, and can't control a terminal", func(t *testing.T) {
		var s said
		s.add("\x1b[2Jred \xff" + strings.Repeat("x", 1000))
		line := s.lines()[0]
		equal(t, "begin", line[:9], " [2Jred ?")
		equal(t, "length", len(line), maxSaidBytes)
	})
	bubble(t, "a pool in quarantine tells why and when it tries again", func(t *testing.T) {
		cfg := threaded(2, 2)
		cfg.MinSpareThreads = 4
		w := newWorld(t, cfg)
		w.broken = "no such file"
		w.pool.Open()
		time.Sleep(2500 * ms)
		st := w.pool.Status()
		equal(t, "state", st.State, "quarantined")
		equal(t, "trouble", st.Trouble, "no such file")
		if st.NextTrySeconds <= 0 || st.NextTrySeconds > 10 {
			t.Errorf("next try in %v s", st.NextTrySeconds)
		}
	})
	bubble(t, "so does the log, with words that came after the news of the child's end", func(t *testing.T) {
		w := newWorld(t, prefork(1))
		w.manual = true
		w.pool.Open()
		for pid := range 20 {
			w.setBusy(pid, true)
			w.pool.Started(0, pid, "/run/x.sock", 0)
			w.pool.Exited(0, pid, 255<<8, false)
			w.pool.Said(pid, "cause")
			time.Sleep(time.Second)
		}
		if !slices.ContainsFunc(w.logs(), func(line string) bool {
			return strings.Contains(line, "quarantine") && strings.Contains(line, "said [cause]")
		}) {
			t.Errorf("the log is %q", w.logs())
		}
	})
	for name, c := range map[string]struct {
		status int
		probe  error
		oom    bool
		want   string
		why    ExitReason
	}{
		"a child that ended before its probe could tell is blamed with its end": {status: 254 << 8, probe: fmt.Errorf("probe: %w", io.ErrUnexpectedEOF), want: "exit status 254", why: ExitCrash},
		"one whose socket was gone when the probe came":                         {status: 1 << 8, probe: fmt.Errorf("dial: %w", syscall.ENOENT), want: "exit status 1", why: ExitCrash},
		"one that crashed too":                          {status: 11, probe: syscall.ECONNRESET, want: "signal 11 (segmentation fault)", why: ExitCrash},
		"one that was asked to end, with both":          {status: 0, want: "exit status 0 (probe ended)", why: ExitCrash},
		"one that had to be killed, with its probe":     {status: 9, want: "probe ended", why: ExitCrash},
		"one that followed SIGTERM, too":                {status: 15, want: "probe ended", why: ExitCrash},
		"one that the kernel killed for want of memory": {status: 9, oom: true, want: "probe ended, out of memory", why: ExitOOM},
	} {
		bubble(t, name, func(t *testing.T) {
			probe := func(context.Context, Child) error { return cmp.Or(c.probe, errProbeEnded) }
			w := newWorld(t, prefork(1), WithProbe(probe))
			w.manual = true
			w.pool.Open()
			w.pool.Started(0, 7, "/run/7.sock", 0)
			synctest.Wait()
			w.pool.Exited(0, 7, c.status, c.oom)
			st := w.pool.Status()
			equal(t, "trouble", st.Trouble, "child 7: before ready: "+c.want)
			equal(t, "exits", st.Exits[c.why], 1)
		})
	}
	bubble(t, "a pool whose last start failed and that has no child is failing, until one gets ready", func(t *testing.T) {
		w := newWorld(t, prefork(2))
		w.manual = true
		w.pool.Open()
		check := func(want string, failing bool) {
			t.Helper()
			st := w.pool.Status()
			if st.State != want || st.Failing() != failing {
				t.Errorf("state %s, failing %v, want %s, %v", st.State, st.Failing(), want, failing)
			}
		}
		check("starting", false)
		w.pool.StartFailed(0, "no such file")
		check("failing", true)
		w.setBusy(8, true)
		w.pool.Started(1, 8, "/run/8.sock", 0)
		check("failing", true)
		w.setBusy(8, false)
		synctest.Wait()
		check("ready", false)
	})
	bubble(t, "a request that crashes whoever serves it does not close the pool for the others", func(t *testing.T) {
		w := openWorld(t, prefork(4))
		for range 50 {
			s := w.acquire()
			w.pool.Exited(s.Child.Slot, s.Child.PID, 11, false)
			s.Release(Broken)
			synctest.Wait()
		}
		st := w.pool.Status()
		if st.State == "quarantined" || st.Exits[ExitCrash] != 50 {
			t.Errorf("state %s, %d crashes", st.State, st.Exits[ExitCrash])
		}
	})
	bubble(t, "a worker pool that can't have more children says what to raise", func(t *testing.T) {
		cfg := threaded(2, 1)
		cfg.MinSpareThreads, cfg.MaxRequestsPerChild, cfg.StartServers = 1, 1, 2
		w := openWorld(t, cfg)
		w.stuck = true
		w.acquire().Release(Done)
		s := w.acquire()
		time.Sleep(1500 * ms)
		equal(t, "log of a prefork-like pool", w.logs(), []string{"warn pool is full: raise max_request_workers, or make the application faster"})
		s.Release(Done)

		w = openWorld(t, threaded(2, 2))
		w.pool.settings.MinSpare, w.stuck = 1, true
		a, b := w.acquire(), w.acquire()
		a.Release(Broken)
		b.Release(Broken)
		time.Sleep(1500 * ms)
		equal(t, "last log", w.logs()[len(w.logs())-1], "warn pool is full of children that finish their last requests: raise server_limit")
	})
}

func TestWaitsAreInTheStatus(t *testing.T) {
	for _, mpm := range []routes.MPM{routes.Prefork, routes.Event} {
		bubble(t, string(mpm), func(t *testing.T) {
			cfg := prefork(1)
			cfg.MPM = mpm
			w := openWorld(t, cfg)
			s, r := w.acquire(), w.queue()
			time.Sleep(3 * time.Second)
			s.Release(Done)
			synctest.Wait()
			r.slot.Release(Done)
			q := w.pool.Status().Queue
			equal(t, "p50, p99, max", []float64{q.P50Seconds, q.P99Seconds, q.MaxSeconds}, []float64{0, 3, 3})
			time.Sleep(time.Minute + 5*time.Second)
			equal(t, "max after a minute", w.pool.Status().Queue.MaxSeconds, 0)
		})
	}
}
