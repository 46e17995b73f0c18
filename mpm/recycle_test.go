package mpm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

func TestRecycle(t *testing.T) {
	grown := func(w *world, size int64) { w.pool.footprint = func(int) int64 { return size } }
	one := prefork(2)
	one.StartServers, one.MinSpareServers, one.MaxChildMemory = 1, 1, 1000
	bubble(t, "a child that has grown above max_child_memory leaves after its request", func(t *testing.T) {
		w := openWorld(t, one)
		grown(w, 1001)
		s := w.acquire()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		equal(t, "events while it runs", w.forget(), []string{"start 1"}) // the spare one
		s.Release(Done)
		synctest.Wait()
		equal(t, "events", w.forget(), []string{"retire 101"})
		equal(t, "exits", w.pool.Status().Exits[ExitMemory], 1)
	})
	bubble(t, "one that has not stays", func(t *testing.T) {
		w := openWorld(t, one)
		grown(w, 900) // the jitter is a tenth
		for range 10 {
			w.acquire().Release(Done)
			time.Sleep(time.Second)
		}
		equal(t, "exits", w.pool.Status().Exits[ExitMemory], 0)
	})
	bubble(t, "memory is read at most once a second, and after the last request of a burst as well", func(t *testing.T) {
		w := openWorld(t, one)
		w.pool.footprint = func(pid int) int64 {
			w.note("read")
			return 0
		}
		for range 100 {
			w.acquire().Release(Done)
		}
		time.Sleep(10 * time.Second)
		equal(t, "events", w.forget(), []string{"read", "read"})
	})
	bubble(t, "a threaded child that has grown finishes all its requests", func(t *testing.T) {
		cfg := threaded(2, 2)
		cfg.StartServers, cfg.MinSpareThreads, cfg.MaxChildMemory = 1, 1, 1000
		w := openWorld(t, cfg)
		grown(w, 1001)
		a, b := w.acquire(), w.acquire()
		a.Release(Done)
		synctest.Wait()
		equal(t, "events while one runs", w.forget(), []string{"start 1"})
		b.Release(Done)
		equal(t, "events", w.forget(), []string{"retire 101"})
	})
	bubble(t, "a child leaves at max_child_age, less a tenth at most, busy or not", func(t *testing.T) {
		cfg := prefork(3)
		cfg.StartServers, cfg.MinSpareServers, cfg.MaxChildAge = 2, 1, 100*time.Second
		w := openWorld(t, cfg)
		s := w.acquire()
		time.Sleep(89 * time.Second)
		synctest.Wait()
		equal(t, "events before", w.forget(), nil)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		equal(t, "exits while one is busy", w.pool.Status().Exits[ExitAge], 1)
		s.Release(Done)
		equal(t, "exits", w.pool.Status().Exits[ExitAge], 2)
	})
	bubble(t, "the age of an adopted child counts from its birth", func(t *testing.T) {
		cfg := prefork(1)
		cfg.MaxChildAge = time.Hour
		w := newWorld(t, cfg)
		w.pool.Started(0, 42, "/run/42.sock", 2*time.Hour)
		synctest.Wait()
		w.pool.Open()
		time.Sleep(1500 * ms)
		equal(t, "events", w.forget(), []string{"retire 42"})
	})
}

func TestOnlyIfWaiting(t *testing.T) {
	cfg := prefork(1)
	cfg.RequestTimeout, cfg.OnlyIfWaiting, cfg.Queue.Timeout = 3*time.Second, 2, time.Hour
	bubble(t, "the deadline kills nobody while fewer requests wait", func(t *testing.T) {
		w := openWorld(t, cfg)
		s := w.acquire()
		r := w.queue()
		time.Sleep(time.Hour / 2)
		equal(t, "events", w.forget(), nil)
		s.Release(Done)
		synctest.Wait()
		r.slot.Release(Done)
		equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 2})
	})
	bubble(t, "it does as soon as enough wait, within a second", func(t *testing.T) {
		w := openWorld(t, cfg)
		s := w.acquire()
		time.Sleep(time.Minute)
		first, second := w.queue(), w.queue()
		ctx, cancel := contextOf(t.Context(), s)
		defer cancel()
		begin := time.Now()
		<-ctx.Done()
		is(t, "cause", context.Cause(ctx), ErrDeadline)
		if d := time.Since(begin); d > time.Second {
			t.Errorf("killed after %v", d)
		}
		synctest.Wait()
		equal(t, "events", w.forget(), []string{"kill 101", "start 0"})
		s.Release(Broken)
		first.slot.Release(Done)
		synctest.Wait()
		second.slot.Release(Done)
	})
}

func TestSpawnModes(t *testing.T) {
	bubble(t, "an ondemand pool has no child before a request, and none after idle_timeout", func(t *testing.T) {
		cfg := prefork(3)
		cfg.Spawn, cfg.IdleTimeout, cfg.MinSpareServers = routes.SpawnOnDemand, 10*time.Second, 2
		w := openWorld(t, cfg)
		time.Sleep(time.Minute)
		equal(t, "board", w.pool.Status().Board, "...")
		w.acquire().Release(Done)
		time.Sleep(9 * time.Second)
		equal(t, "board", w.pool.Status().Board, "_..")
		time.Sleep(3 * time.Second)
		equal(t, "board", w.pool.Status().Board, "...")
		equal(t, "exits", w.pool.Status().Exits[ExitIdle], 1)
	})
	bubble(t, "an Apache pool with more requests than children grows as Apache's does, and says once that it is full", func(t *testing.T) {
		cfg := prefork(256)
		cfg.Spawn, cfg.StartServers, cfg.MinSpareServers, cfg.MaxSpareServers = routes.SpawnApache, 5, 5, 10
		cfg.Queue = routes.Queue{Length: 300, Timeout: time.Hour}
		w := openWorld(t, cfg)
		var requests []*request
		for range 300 {
			requests = append(requests, w.queue())
		}
		time.Sleep(500 * ms)
		for second, want := range []int{5, 6, 8, 12, 20, 36, 68, 100, 132, 164, 196, 228, 256, 256, 256} {
			if got := w.pool.Status().Processes; got != (ProcessStatus{Total: want, Busy: want}) {
				t.Fatalf("after %d seconds: %+v, want %d, all busy", second, got, want)
			}
			time.Sleep(time.Second)
		}
		equal(t, "log", w.logs(), []string{"warn pool is full: raise max_request_workers, or make the application faster"})
		for _, r := range requests {
			synctest.Wait()
			r.slot.Release(Done)
		}
	})
	bubble(t, "a static pool has all its children all the time", func(t *testing.T) {
		cfg := prefork(4)
		cfg.Spawn, cfg.StartServers, cfg.MaxSpareServers, cfg.MaxRequestsPerChild = routes.SpawnStatic, 1, 1, 3
		w := openWorld(t, cfg)
		for range 50 {
			w.acquire().Release(Done)
			synctest.Wait()
			equal(t, "board", w.pool.Status().Board, "____")
		}
		time.Sleep(time.Minute)
		equal(t, "exits", w.pool.Status().Exits[ExitIdle], 0)
	})
	bubble(t, "a static worker pool, too", func(t *testing.T) {
		cfg := threaded(2, 2)
		cfg.Spawn, cfg.StartServers = routes.SpawnStatic, 0
		equal(t, "board", openWorld(t, cfg).pool.Status().Board, "____")
	})
}

// The cases of RoadRunner's pool that the tests above don't have.
func TestWhatOtherPoolsBrokeOn(t *testing.T) {
	bubble(t, "a child that is slow to leave holds its place, is told once, and nobody waits for it", func(t *testing.T) {
		cfg := prefork(2)
		cfg.MinSpareServers, cfg.MaxSpareServers, cfg.MaxRequestsPerChild = 1, 2, 1
		w := openWorld(t, cfg)
		w.stuck = true
		s := w.acquire()
		s.Release(Done)
		time.Sleep(time.Minute)
		equal(t, "events", w.forget(), []string{fmt.Sprintf("retire %d", s.Child.PID)})
		next := w.acquire()
		w.pool.Exited(s.Child.Slot, s.Child.PID, 0, false)
		synctest.Wait()
		equal(t, "events", w.forget(), []string{fmt.Sprintf("start %d", s.Child.Slot)})
		next.Release(Done)
	})
	bubble(t, "a pool that is reset while a request runs lets it finish", func(t *testing.T) {
		w := openWorld(t, prefork(2))
		s := w.acquire()
		ctx, cancel := contextOf(t.Context(), s)
		defer cancel()
		drained := make(chan error)
		go func() { drained <- w.pool.Drain(t.Context()) }()
		time.Sleep(time.Minute)
		is(t, "cause", context.Cause(ctx), nil)
		s.Release(Done)
		is(t, "Drain()", <-drained, nil)
		equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 1})
	})
	bubble(t, "a broken child that was replaced from outside is not given to anyone", func(t *testing.T) {
		w := openWorld(t, prefork(1))
		s := w.acquire()
		w.pool.Exited(0, s.Child.PID, 9, false)
		synctest.Wait()
		next := w.acquire()
		s.Release(Done) // its holder has not noticed
		equal(t, "board", w.pool.Status().Board, "W")
		if next.Child.PID == s.Child.PID {
			t.Error("the dead child was granted")
		}
		next.Release(Done)
	})
	bubble(t, "a thundering herd gets its slots, never more at once than the limit, in the order in which it came", func(t *testing.T) {
		for _, cfg := range []routes.Pool{prefork(8), threaded(2, 4)} {
			cfg.StartServers, cfg.Queue = 0, routes.Queue{Length: 1000, Timeout: time.Hour}
			w := openWorld(t, cfg)
			var mu sync.Mutex
			var wg sync.WaitGroup
			running, most, order := 0, 0, []int{}
			for i := range 1000 {
				time.Sleep(time.Microsecond)
				wg.Go(func() {
					s := w.acquire()
					mu.Lock()
					running++
					most = max(most, running)
					order = append(order, i)
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					running--
					mu.Unlock()
					s.Release(Done)
				})
			}
			wg.Wait()
			equal(t, "served", len(order), 1000)
			equal(t, "at once", most, 8)
			for i := 0; i < len(order); i += 8 {
				if early := slices.Max(order[i : i+8]); early > i+16 {
					t.Fatalf("request %d was served among the first %d", early, i+8)
				}
			}
			checkBooks(t, w.pool)
			w.pool.Close()
		}
	})
	bubble(t, "ten thousand requests, each with a child of its own", func(t *testing.T) {
		cfg := prefork(4)
		cfg.MaxRequestsPerChild = 1
		w := openWorld(t, cfg)
		for range 10_000 {
			w.acquire().Release(Done)
		}
		st := w.pool.Status()
		equal(t, "exits", st.Exits[ExitMaxRequests], 10_000)
		equal(t, "state", st.State, "ready")
	})
	bubble(t, "ten children are killed a second under load: the pool stays in service", func(t *testing.T) {
		for _, cfg := range []routes.Pool{prefork(8), threaded(4, 4)} {
			cfg.MinSpareServers, cfg.MinSpareThreads = 1, 4
			w := openWorld(t, cfg)
			stop := make(chan struct{})
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(10 * ms):
							w.acquire().Release(Done)
						}
					}
				})
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			for range 100 {
				time.Sleep(100 * ms)
				if st := w.pool.Status(); len(st.Children) > 0 {
					c := st.Children[rnd.IntN(len(st.Children))]
					w.pool.Exited(c.Slot, c.PID, 9, false)
				}
			}
			close(stop)
			clients.Wait()
			time.Sleep(2 * time.Second) // for what replaces the last one
			st := w.pool.Status()
			equal(t, "state", st.State, "ready")
			equal(t, "timed out", st.Queue.TimedOut, 0)
			w.pool.Close()
		}
	})
}

func TestOutOfMemoryIsAReasonOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWorld(t, prefork(2))
		s := w.acquire()
		ctx, cancel := contextOf(t.Context(), s)
		defer cancel()
		w.pool.Exited(s.Child.Slot, s.Child.PID, 9, true)
		exit := exitOf(t, ctx)
		equal(t, "error", exit.Error(), fmt.Sprintf("child %d: signal 9 (killed), reason: oom", s.Child.PID))
		equal(t, "exits", w.pool.Status().Exits[ExitOOM], 1)
		s.Release(Broken)
	})
}

func TestFootprint(t *testing.T) {
	pid := os.Getpid()
	if got, rss := footprint(pid), rssBytes(pid); got < 1<<20 || got > 2*rss {
		t.Errorf("footprint of this process = %d, resident are %d", got, rss)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if got := footprint(gone.Process.Pid); got != 0 {
		t.Errorf("footprint of a process that has gone = %d, want 0", got)
	}
	for text, want := range map[string]int64{
		"00400000-7ff [rollup]\nRss:  2000 kB\nPss:  1234 kB\nPss_Dirty: 99 kB\n": 1234 << 10,
		"Pss_Anon: 7 kB\n": 0, "Pss:": 0, "Pss: x kB": 0, "Pss: 99999999999999999999 kB": 0, "": 0,
	} {
		if got := pssBytes([]byte(text)); got != want {
			t.Errorf("pssBytes(%q) = %d, want %d", text, got, want)
		}
	}
}
