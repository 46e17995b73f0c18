package mpm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}

func TestTryAcquire(t *testing.T) {
	for _, mpm := range []routes.MPM{routes.Prefork, routes.Worker, routes.Event} {
		one := prefork(1)
		one.MPM, one.ThreadsPerChild = mpm, 1
		bubble(t, string(mpm)+": there is a slot if one is free, at once, until the pool is retired", func(t *testing.T) {
			w := openWorld(t, one)
			s := w.acquire()
			equal(t, "a second slot", w.pool.TryAcquire(), (*Slot)(nil))
			s.Release(Done)
			if s = w.pool.TryAcquire(); s == nil {
				t.Fatal("TryAcquire() = nil, and nobody has the slot")
			}
			s.Release(Done)
			is(t, "Drain", w.pool.Drain(t.Context()), nil)
			equal(t, "a slot of a pool that is retired", w.pool.TryAcquire(), (*Slot)(nil))
		})
	}
}

func TestQueue(t *testing.T) {
	for _, mpm := range []routes.MPM{routes.Prefork, routes.Worker, routes.Event} {
		one := prefork(1)
		one.MPM, one.ThreadsPerChild = mpm, 1
		bubble(t, string(mpm)+": who waits longest is served first", func(t *testing.T) {
			w := openWorld(t, one)
			s := w.acquire()
			var waiting []*request
			for range 3 {
				waiting = append(waiting, w.queue())
				time.Sleep(time.Second)
			}
			for i, r := range waiting {
				if r.ended {
					t.Fatalf("request %d did not wait", i)
				}
				s.Release(Done)
				synctest.Wait()
				if !r.ended || r.err != nil {
					t.Fatalf("request %d: ended %v, error %v; want a slot", i, r.ended, r.err)
				}
				equal(t, "QueueWait", r.slot.QueueWait, time.Duration(3-i)*time.Second)
				s = r.slot
			}
			s.Release(Done)
			equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 4})
		})
		bubble(t, string(mpm)+": a full queue answers at once", func(t *testing.T) {
			cfg := one
			cfg.Queue.Length = 2
			w := openWorld(t, cfg)
			s := w.acquire()
			waiting := []*request{w.queue(), w.queue()}
			for range 3 {
				_, err := w.pool.Acquire(t.Context())
				is(t, "Acquire()", err, ErrQueueFull)
			}
			equal(t, "queue", w.pool.Status().Queue, QueueStatus{Waiting: 2, Length: 2, Rejected: 3})
			equal(t, "warnings", len(w.logs()), 1)
			s.Release(Done)
			for _, r := range waiting {
				synctest.Wait()
				r.slot.Release(Done)
			}
		})
		bubble(t, string(mpm)+": nobody waits longer than the timeout", func(t *testing.T) {
			w := openWorld(t, one)
			s, begin := w.acquire(), time.Now()
			_, err := w.pool.Acquire(t.Context())
			is(t, "Acquire()", err, ErrQueueTimeout)
			equal(t, "waited", time.Since(begin), one.Queue.Timeout)
			equal(t, "queue", w.pool.Status().Queue, QueueStatus{Length: 10, TimedOut: 1, P99Seconds: 10, MaxSeconds: 10})
			s.Release(Done)
			w.acquire().Release(Done)
		})
		bubble(t, string(mpm)+": a request whose client has gone never runs", func(t *testing.T) {
			w := openWorld(t, one)
			s, gone := w.acquire(), errors.New("client has gone")
			first, second, third := w.queue(), w.queue(), w.queue()
			second.cancel(gone)
			synctest.Wait()
			is(t, "Acquire() of the second", second.err, gone)
			third.cancel(gone)
			first.cancel(gone)
			s.Release(Done) // granted to one whose client has gone as well, perhaps before it noticed
			synctest.Wait()
			is(t, "Acquire() of the first", first.err, gone)
			is(t, "Acquire() of the third", third.err, gone)
			equal(t, "queue", w.pool.Status().Queue, QueueStatus{Length: 10, Abandoned: 3})
			equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 1})
			w.acquire().Release(Done)
		})
		bubble(t, string(mpm)+": a context that has ended gets nothing", func(t *testing.T) {
			w, gone := openWorld(t, one), errors.New("client has gone")
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(gone)
			_, err := w.pool.Acquire(ctx)
			is(t, "Acquire()", err, gone)
		})
		bubble(t, string(mpm)+": a pool that drains grants nothing and waits for what runs", func(t *testing.T) {
			w := openWorld(t, one)
			s, r := w.acquire(), w.queue()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			is(t, "Drain()", w.pool.Drain(ctx), context.DeadlineExceeded)
			synctest.Wait()
			is(t, "Acquire() that waited", r.err, ErrDraining)
			_, err := w.pool.Acquire(t.Context())
			is(t, "Acquire()", err, ErrDraining)
			equal(t, "state", w.pool.Status().State, "draining")
			s.Release(Done)
			is(t, "Drain()", w.pool.Drain(t.Context()), nil)
		})
		bubble(t, string(mpm)+": releasing twice frees one slot, not two", func(t *testing.T) {
			w := openWorld(t, one)
			s := w.acquire()
			s.Release(Done)
			other := w.acquire()
			s.Release(Broken)
			r := w.queue()
			equal(t, "a second request runs", r.ended, false)
			equal(t, "log", w.logs(), []string{fmt.Sprintf("error slot was released twice [pool php pid %d]", s.Child.PID)})
			other.Release(Done)
			synctest.Wait()
			r.slot.Release(Done)
			equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 3})
		})
		bubble(t, string(mpm)+": a queue of length 0 holds nobody", func(t *testing.T) {
			cfg := one
			cfg.Queue.Length = 0
			w := openWorld(t, cfg)
			s := w.acquire()
			_, err := w.pool.Acquire(t.Context())
			is(t, "Acquire()", err, ErrQueueFull)
			s.Release(Done)
		})
	}
}

func TestEventPool(t *testing.T) {
	cfg := routes.Pool{Name: "edge", MPM: routes.Event, MaxRequestWorkers: 3, RequestTimeout: time.Minute}
	bubble(t, "the status shows executors as a board", func(t *testing.T) {
		w := openWorld(t, cfg)
		s := w.acquire()
		st := w.pool.Status()
		equal(t, "board", st.Board, "W__")
		equal(t, "slots", st.Slots, SlotStatus{Total: 3, Busy: 1, Limit: 3})
		equal(t, "state", st.State, "ready")
		others := []*Slot{w.acquire(), w.acquire()}
		equal(t, "state", w.pool.Status().State, "full")
		for _, s := range append(others, s) {
			s.Release(Done)
		}
		equal(t, "calls to the starter", w.forget(), nil)
	})
}

func TestChildrenStart(t *testing.T) {
	bubble(t, "an opened pool has its first children", func(t *testing.T) {
		cfg := prefork(8)
		cfg.StartServers = 3
		w := newWorld(t, cfg)
		equal(t, "before Open", w.pool.Status().Board, "........")
		w.pool.Open()
		w.pool.Open() // has no further effect
		synctest.Wait()
		equal(t, "board", w.pool.Status().Board, "___.....")
	})
	bubble(t, "a child that was started takes no request before it is ready", func(t *testing.T) {
		w := newWorld(t, prefork(1))
		w.setBusy(101, true)
		w.pool.Open()
		r := w.queue()
		equal(t, "board", w.pool.Status().Board, "S")
		equal(t, "state", w.pool.Status().State, "starting")
		w.setBusy(101, false)
		synctest.Wait()
		if !r.ended {
			t.Fatal("the child is ready and the request still waits")
		}
		r.slot.Release(Done)
	})
	bubble(t, "a request that finds no idle child starts one at once", func(t *testing.T) {
		cfg := prefork(3)
		cfg.StartServers = 1
		w := openWorld(t, cfg)
		begin := time.Now()
		slots := []*Slot{w.acquire(), w.acquire(), w.acquire()}
		equal(t, "waited", time.Since(begin), 0)
		equal(t, "calls", w.forget(), []string{"start 1", "start 2"})
		for _, s := range slots {
			s.Release(Done)
		}
	})
	bubble(t, "a request that may not wait starts one for the next", func(t *testing.T) {
		cfg := prefork(1)
		cfg.StartServers, cfg.Queue.Length = 0, 0
		w := openWorld(t, cfg)
		_, err := w.pool.Acquire(t.Context())
		is(t, "Acquire()", err, ErrQueueFull)
		synctest.Wait()
		w.acquire().Release(Done)
	})
	bubble(t, "an Apache pool starts children only by tick, never more than server_limit", func(t *testing.T) {
		cfg := prefork(9)
		cfg.StartServers, cfg.MinSpareServers, cfg.ServerLimit = 1, 1, 2
		cfg.Spawn = routes.SpawnApache
		w := openWorld(t, cfg)
		s, r := w.acquire(), w.queue()
		equal(t, "board", w.pool.Status().Board, "W.")
		time.Sleep(time.Second)
		synctest.Wait()
		equal(t, "board", w.pool.Status().Board, "WW")
		s.Release(Done)
		r.slot.Release(Done)
	})
	bubble(t, "spare children are there after a tick, and go when they are too many", func(t *testing.T) {
		cfg := prefork(8)
		cfg.StartServers, cfg.MinSpareServers, cfg.MaxSpareServers = 1, 2, 3
		w := openWorld(t, cfg)
		time.Sleep(1500 * ms)
		equal(t, "board", w.pool.Status().Board, "__......")
		slots := []*Slot{w.acquire(), w.acquire(), w.acquire(), w.acquire(), w.acquire()}
		for _, s := range slots {
			s.Release(Done)
		}
		time.Sleep(10 * time.Second)
		st := w.pool.Status()
		equal(t, "idle", st.Processes, ProcessStatus{Total: 3, Idle: 3})
		equal(t, "exits", st.Exits[ExitIdle], 2)
	})
	bubble(t, "a child that never gets ready is killed", func(t *testing.T) {
		w := newWorld(t, prefork(1), WithStartTimeout(5*time.Second))
		w.setBusy(101, true)
		w.pool.Open()
		time.Sleep(5500 * ms)
		equal(t, "calls", w.forget(), []string{"start 0", "kill 101"})
		equal(t, "crashes", w.pool.Status().Exits[ExitCrash], 1)
		w.acquire().Release(Done)
	})
	bubble(t, "children of an earlier front are adopted, and only the missing ones started", func(t *testing.T) {
		cfg := prefork(4)
		cfg.StartServers = 3
		w := newWorld(t, cfg)
		w.setBusy(42, true)
		w.pool.Started(2, 41, "/run/41.sock", time.Hour)
		w.pool.Started(0, 42, "/run/42.sock", time.Hour)
		w.pool.Started(0, 42, "/run/42.sock", time.Hour)
		w.pool.Started(0, 43, "/run/43.sock", time.Hour)
		w.pool.Started(4, 44, "/run/44.sock", time.Hour)
		w.pool.Open()
		synctest.Wait()
		st := w.pool.Status()
		equal(t, "calls", w.forget(), []string{"retire 43", "retire 44", "start 1"})
		equal(t, "board", st.Board, "S__.")
		equal(t, "age", st.Children[0].AgeSeconds, 3600)
		w.setBusy(42, false)
		synctest.Wait()
		equal(t, "board", w.pool.Status().Board, "___.")
	})
	bubble(t, "a child that comes up while the pool drains leaves again", func(t *testing.T) {
		w := newWorld(t, prefork(1))
		w.manual = true
		w.pool.Open()
		drained := make(chan error)
		go func() { drained <- w.pool.Drain(t.Context()) }()
		synctest.Wait()
		w.manual = false
		w.pool.Started(0, 7, "/run/7.sock", 0)
		is(t, "Drain()", <-drained, nil)
		equal(t, "calls", w.forget(), []string{"start 0", "retire 7"})
		equal(t, "exits", w.pool.Status().Exits[ExitShutdown], 1)
	})
	bubble(t, "reports about children that are not there change nothing", func(t *testing.T) {
		w := openWorld(t, prefork(2))
		before := w.pool.Status()
		for _, slot := range []int{-1, 0, 1, 2, 1 << 40} {
			w.pool.Exited(slot, 9999, 0, false)
			w.pool.StartFailed(slot, "stale")
		}
		equal(t, "status", w.pool.Status(), before)
	})
}

func TestChildrenServe(t *testing.T) {
	bubble(t, "the child that was busy last is taken first, with its connection", func(t *testing.T) {
		w := openWorld(t, prefork(3))
		a, b := w.acquire(), w.acquire()
		a.Channel, b.Channel = channel{w, "a"}, channel{w, "b"}
		b.Release(Done)
		a.Release(Done)
		again := w.acquire()
		equal(t, "child", again.Child, a.Child)
		equal(t, "channel", again.Channel, io.Closer(channel{w, "a"}))
		again.Release(Done)
		equal(t, "events", w.forget(), nil)
		is(t, "Drain()", w.pool.Drain(t.Context()), nil)
		events := w.forget()
		for name, pid := range map[string]int{"a": a.Child.PID, "b": b.Child.PID} {
			i := slices.Index(events, fmt.Sprintf("retire %d", pid))
			if i < 1 || events[i-1] != "close "+name {
				t.Errorf("events = %q, want retire %d right after close %s", events, pid, name)
			}
		}
	})
	bubble(t, "a child that broke its connection is killed and replaced", func(t *testing.T) {
		for _, c := range []struct {
			outcome  Outcome
			requests RequestStatus
		}{{Broken, RequestStatus{Total: 1, Failed: 1}}, {NotSent, RequestStatus{}}} {
			cfg := prefork(2)
			cfg.StartServers, cfg.MinSpareServers = 1, 1
			w := openWorld(t, cfg)
			s := w.acquire()
			s.Channel = channel{w, "c"}
			s.Release(c.outcome)
			synctest.Wait()
			equal(t, "events", w.forget(), []string{"close c", "kill 101", "start 1"})
			equal(t, "requests", w.pool.Status().Requests, c.requests)
			equal(t, "exits", w.pool.Status().Exits[ExitCrash], 1)
			w.pool.Close()
		}
	})
	bubble(t, "an abandoned child serves again when it has finished", func(t *testing.T) {
		w := openWorld(t, prefork(1))
		s := w.acquire()
		s.Channel = channel{w, "c"}
		w.setBusy(s.Child.PID, true)
		s.Release(Abandoned)
		r := w.queue()
		equal(t, "board", w.pool.Status().Board, "W")
		time.Sleep(time.Second)
		w.setBusy(s.Child.PID, false)
		synctest.Wait()
		equal(t, "QueueWait", r.slot.QueueWait, time.Second)
		equal(t, "channel", r.slot.Channel, io.Closer(nil))
		r.slot.Release(Done)
		equal(t, "events", w.forget(), []string{"close c"})
	})
	bubble(t, "an abandoned child is killed at the deadline of its request", func(t *testing.T) {
		cfg := prefork(1)
		cfg.RequestTimeout = 3 * time.Second
		w := openWorld(t, cfg)
		s := w.acquire()
		w.setBusy(s.Child.PID, true)
		time.Sleep(time.Second)
		s.Release(Abandoned)
		r := w.queue()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, "events", w.forget(), []string{"kill 101", "start 0"})
		equal(t, "exits", w.pool.Status().Exits[ExitDeadline], 1)
		r.slot.Release(Done)
	})
	bubble(t, "an abandoned child whose probe fails is killed", func(t *testing.T) {
		down := errors.New("connection refused")
		var fail bool
		w := openWorld(t, prefork(1), WithProbe(func(context.Context, Child) error {
			if fail {
				return down
			}
			return nil
		}))
		s := w.acquire()
		fail = true
		s.Release(Abandoned)
		synctest.Wait()
		if got := w.forget(); got[0] != "kill 101" {
			t.Errorf("events = %q, want kill 101 first", got)
		}
	})
	bubble(t, "without a probe an abandoned child is killed", func(t *testing.T) {
		w := openWorld(t, prefork(1), WithProbe(nil))
		w.acquire().Release(Abandoned)
		equal(t, "events", w.forget(), []string{"kill 101"})
		w.acquire().Release(Done)
	})
}

func TestDeadline(t *testing.T) {
	cfg := prefork(2)
	cfg.RequestTimeout = 3 * time.Second
	bubble(t, "at the deadline the one child is killed and its holder told", func(t *testing.T) {
		w := openWorld(t, cfg)
		w.stuck = true
		other := w.acquire()
		time.Sleep(time.Second)
		s := w.acquire()
		other.Release(Done)
		s.Channel = channel{w, "c"}
		s.Describe("GET", "/slow.php")
		ctx, cancel := contextOf(t.Context(), s)
		defer cancel()
		begin := time.Now()
		<-ctx.Done()
		synctest.Wait()
		is(t, "cause", context.Cause(ctx), ErrDeadline)
		equal(t, "ran", time.Since(begin), cfg.RequestTimeout)
		kill := fmt.Sprintf("kill %d", s.Child.PID)
		equal(t, "events", w.forget(), []string{kill})
		w.pool.Exited(s.Child.Slot, s.Child.PID, 9, false)
		s.Release(Done)
		equal(t, "events", w.forget(), []string{"close c"})
		is(t, "cause", context.Cause(ctx), ErrDeadline)
		st := w.pool.Status()
		equal(t, "requests", st.Requests, RequestStatus{Total: 2, Failed: 1})
		equal(t, "exits", st.Exits[ExitDeadline], 1)
	})
	bubble(t, "a request may have another deadline than the pool's, the next one of its child has that", func(t *testing.T) {
		w := openWorld(t, cfg)
		for _, limit := range []time.Duration{2 * cfg.RequestTimeout, cfg.RequestTimeout / 2, 0} {
			s := w.acquire()
			if limit > 0 {
				s.Limit(limit)
			}
			ctx, cancel := contextOf(t.Context(), s)
			begin := time.Now()
			if limit > cfg.RequestTimeout {
				time.Sleep(limit - ms)
				is(t, "cause", context.Cause(ctx), nil)
				s.Release(Done)
				cancel()
				continue
			}
			<-ctx.Done()
			is(t, "cause", context.Cause(ctx), ErrDeadline)
			equal(t, "ran", time.Since(begin), cmp.Or(limit, cfg.RequestTimeout))
			s.Release(Broken)
			cancel()
		}
	})
	bubble(t, "a context made after the deadline has ended already", func(t *testing.T) {
		w := openWorld(t, cfg)
		s := w.acquire()
		time.Sleep(cfg.RequestTimeout + ms)
		ctx, cancel := contextOf(t.Context(), s)
		defer cancel()
		is(t, "cause", context.Cause(ctx), ErrDeadline)
		s.Release(Broken)
		equal(t, "exits", w.pool.Status().Exits[ExitCrash], 0)
	})
	bubble(t, "a request without limit has no deadline, the next one of its child has", func(t *testing.T) {
		w := openWorld(t, cfg)
		s := w.acquire()
		ctx, cancel := contextOf(t.Context(), s)
		defer cancel()
		s.Unlimited()
		time.Sleep(100 * cfg.RequestTimeout)
		is(t, "cause", context.Cause(ctx), nil)
		s.Release(Done)
		s = w.acquire()
		ctx, cancel = contextOf(t.Context(), s)
		defer cancel()
		begin := time.Now()
		<-ctx.Done()
		is(t, "cause", context.Cause(ctx), ErrDeadline)
		equal(t, "ran", time.Since(begin), cfg.RequestTimeout)
		s.Release(Done)
	})
	bubble(t, "a request without limit that is abandoned gets a deadline", func(t *testing.T) {
		w := openWorld(t, cfg)
		s := w.acquire()
		w.setBusy(s.Child.PID, true)
		s.Unlimited()
		time.Sleep(100 * cfg.RequestTimeout)
		s.Release(Abandoned)
		time.Sleep(cfg.RequestTimeout - ms)
		equal(t, "events", w.forget(), nil)
		time.Sleep(2 * ms)
		equal(t, "events", w.forget(), []string{fmt.Sprintf("kill %d", s.Child.PID)})
	})
	bubble(t, "the deadline is that of the request, not of the child", func(t *testing.T) {
		w := openWorld(t, cfg)
		for range 5 {
			s := w.acquire()
			ctx, cancel := contextOf(t.Context(), s)
			time.Sleep(cfg.RequestTimeout - ms)
			is(t, "cause", context.Cause(ctx), nil)
			s.Release(Done)
			cancel()
		}
		equal(t, "events", w.forget(), nil)
	})
}

func TestChildrenEnd(t *testing.T) {
	bubble(t, "a child that exits during a request costs that request, at once", func(t *testing.T) {
		w := openWorld(t, prefork(2))
		other, s := w.acquire(), w.acquire()
		s.Channel = channel{w, "c"}
		ctx, cancel := contextOf(t.Context(), s)
		defer cancel()
		otherCtx, cancelOther := contextOf(t.Context(), other)
		defer cancelOther()
		r := w.queue()
		w.pool.Exited(s.Child.Slot, s.Child.PID, 11, false)
		var exit *ChildExit
		if !errors.As(context.Cause(ctx), &exit) {
			t.Fatalf("cause = %v, want a ChildExit", context.Cause(ctx))
		}
		equal(t, "exit", *exit, ChildExit{PID: s.Child.PID, Status: 11, Reason: ExitCrash})
		is(t, "the other's cause", context.Cause(otherCtx), nil)
		synctest.Wait()
		equal(t, "the waiting request runs on the replacement", r.ended, true)
		equal(t, "events", w.forget(), []string{fmt.Sprintf("start %d", s.Child.Slot)})
		s.Release(Broken)
		equal(t, "events", w.forget(), []string{"close c"})
		r.slot.Release(Done)
		other.Release(Done)
		equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 3, Failed: 1})
		equal(t, "board", w.pool.Status().Board, "__")
	})
	bubble(t, "a child that exits between requests is replaced and nobody notices", func(t *testing.T) {
		cfg := prefork(2)
		cfg.MinSpareServers = 2
		w := openWorld(t, cfg)
		s := w.acquire()
		s.Channel = channel{w, "c"}
		s.Release(Done)
		w.pool.Exited(s.Child.Slot, s.Child.PID, 0, false)
		synctest.Wait()
		equal(t, "events", w.forget(), []string{"close c", fmt.Sprintf("start %d", s.Child.Slot)})
		equal(t, "board", w.pool.Status().Board, "__")
		next := w.acquire()
		equal(t, "channel", next.Channel, io.Closer(nil))
		next.Release(Done)
	})
	bubble(t, "a child leaves after max_requests_per_child, its connection closed first", func(t *testing.T) {
		cfg := prefork(2)
		cfg.StartServers, cfg.MinSpareServers, cfg.MaxRequestsPerChild = 1, 1, 3
		w := openWorld(t, cfg)
		for range 3 {
			s := w.acquire()
			s.Channel = channel{w, "c"}
			s.Release(Done)
			synctest.Wait()
		}
		equal(t, "events", w.forget(), []string{"close c", "start 1", "retire 101"})
		equal(t, "exits", w.pool.Status().Exits[ExitMaxRequests], 1)
	})
	bubble(t, "at the limit the replacement comes when the place is free", func(t *testing.T) {
		cfg := prefork(1)
		cfg.MinSpareServers, cfg.MaxRequestsPerChild = 1, 1
		w := openWorld(t, cfg)
		for range 3 {
			w.acquire().Release(Done)
		}
		synctest.Wait()
		equal(t, "events", w.forget(), []string{"retire 101", "start 0", "retire 102", "start 0", "retire 103", "start 0"})
	})
}

func TestJitterTakesAtMostATenth(t *testing.T) {
	for _, c := range []struct{ limit, from int64 }{{0, 0}, {1, 1}, {9, 9}, {10, 9}, {4000, 3600}} {
		seen := map[int64]bool{}
		for range 2000 {
			q := jitter(c.limit)
			if q < c.from || q > c.limit {
				t.Fatalf("jitter(%d) = %d, want %d to %d", c.limit, q, c.from, c.limit)
			}
			seen[q] = true
		}
		if c.limit-c.from > 100 && len(seen) < 100 {
			t.Errorf("jitter(%d) took only %d values", c.limit, len(seen))
		}
	}
}

func TestQuarantine(t *testing.T) {
	bubble(t, "a command that can't start is tried less and less, until it can", func(t *testing.T) {
		cfg := prefork(20)
		cfg.StartServers, cfg.MinSpareServers = 2, 2
		w := newWorld(t, cfg)
		w.broken = "exec /usr/bin/php-cgi: no such file or directory"
		w.pool.Open()
		time.Sleep(time.Minute)
		if n := len(w.forget()); n < 10 || n > 30 {
			t.Errorf("%d starts in a minute, want about 20", n)
		}
		st := w.pool.Status()
		equal(t, "state", st.State, "quarantined")
		equal(t, "trouble", st.Trouble, w.broken)
		_, err := w.pool.Acquire(t.Context())
		is(t, "Acquire()", err, ErrQueueTimeout)

		w.mu.Lock()
		w.broken = ""
		w.mu.Unlock()
		time.Sleep(30 * time.Second)
		st = w.pool.Status()
		equal(t, "state", st.State, "ready")
		equal(t, "trouble", st.Trouble, "")
		w.acquire().Release(Done)
		count := map[string]int{}
		for _, line := range w.logs() {
			count[strings.Fields(line)[0]]++
		}
		if count["error"] != 1 || count["info"] != 1 {
			t.Errorf("log = %q, want one error and one recovery", w.logs())
		}
	})
	bubble(t, "children that crash as soon as they are ready are not replaced for ever", func(t *testing.T) {
		cfg := prefork(1)
		cfg.MinSpareServers = 1
		w := openWorld(t, cfg)
		crashes := 0
		for range 60_000 {
			if st := w.pool.Status(); st.Processes.Idle > 0 {
				w.pool.Exited(0, st.Children[0].PID, 11, false)
				crashes++
			}
			time.Sleep(ms)
		}
		if crashes < 20 || crashes > 40 {
			t.Errorf("%d crashes in a minute, want about one in two seconds", crashes)
		}
	})
	bubble(t, "children that are killed under load are replaced as long as they serve", func(t *testing.T) {
		w := openWorld(t, prefork(1))
		for range 1000 {
			w.acquire().Release(Done)
			s := w.acquire()
			w.pool.Exited(s.Child.Slot, s.Child.PID, 9, false)
			s.Release(Broken)
		}
		equal(t, "state", w.pool.Status().State, "ready")
	})
}

func TestWarningsAreGivenOncePerEpisode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := prefork(2)
		cfg.MinSpareServers, cfg.MaxSpareServers = 1, 2
		w := openWorld(t, cfg)
		for range 2 {
			a, b := w.acquire(), w.acquire()
			time.Sleep(5 * time.Second)
			a.Release(Done)
			b.Release(Done)
			time.Sleep(5 * time.Second)
		}
		full := "warn pool is full: raise max_request_workers, or make the application faster"
		equal(t, "log", w.logs(), []string{full, full})
	})
}

func TestClose(t *testing.T) {
	bubble(t, "the connections are closed, the children left alone, and slots may still be released", func(t *testing.T) {
		w := openWorld(t, prefork(3))
		kept, held := w.acquire(), w.acquire()
		kept.Channel, held.Channel = channel{w, "kept"}, channel{w, "held"}
		kept.Release(Done)
		abandoned := w.acquire()
		w.setBusy(abandoned.Child.PID, true)
		abandoned.Release(Abandoned)
		r := w.queue()
		if !r.ended {
			t.Fatal("no child was idle")
		}
		w.pool.Close()
		w.pool.Close()
		held.Release(Done)
		r.slot.Release(Done)
		events := w.forget()
		slices.Sort(events)
		equal(t, "events", events, []string{"close held", "close kept"})
		_, err := w.pool.Acquire(t.Context())
		is(t, "Acquire()", err, ErrDraining)
	})
}
