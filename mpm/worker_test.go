package mpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

func TestThreadsServe(t *testing.T) {
	bubble(t, "requests go to the child with the fewest, and each thread keeps its connection", func(t *testing.T) {
		w := openWorld(t, threaded(2, 2))
		a, b, c, d := w.acquire(), w.acquire(), w.acquire(), w.acquire()
		if a.Child.PID == b.Child.PID || c.Child.PID == d.Child.PID {
			t.Errorf("children %d, %d, %d, %d; want the first two and the last two apart", a.Child.PID, b.Child.PID, c.Child.PID, d.Child.PID)
		}
		all := []*Slot{a, b, c, d}
		names := map[SlotID]bool{}
		for i, s := range all {
			names[s.ID()] = true
			s.Channel = channel{w, fmt.Sprint(i)}
		}
		equal(t, "different slots", len(names), 4)
		equal(t, "board", w.pool.Status().Board, "WWWW")
		equal(t, "state", w.pool.Status().State, "full")
		r := w.queue()
		c.Release(Done)
		synctest.Wait()
		equal(t, "slot of the one that waited", r.slot.ID(), c.ID())
		equal(t, "its channel", r.slot.Channel, io.Closer(channel{w, "2"}))
		for _, s := range []*Slot{a, b, r.slot, d} {
			s.Release(Done)
		}
		equal(t, "events", w.forget(), nil)
		equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 5})
	})
	bubble(t, "the board has a letter for each thread", func(t *testing.T) {
		cfg := threaded(2, 3)
		cfg.StartServers, cfg.MaxRequestsPerChild = 1, 2
		w := openWorld(t, cfg)
		w.stuck = true
		a := w.acquire()
		equal(t, "board", w.pool.Status().Board, "W__...")
		b := w.acquire()
		equal(t, "board when it has had its last request", w.pool.Status().Board, "GGG...")
		b.Release(Done)
		c := w.acquire()
		st := w.pool.Status()
		equal(t, "board", st.Board, "GGGW__")
		equal(t, "slots", st.Slots, SlotStatus{Total: 3, Busy: 2, Limit: 6})
		equal(t, "processes", st.Processes, ProcessStatus{Total: 2, Busy: 1, Draining: 1})
		equal(t, "threads", st.Threads, 3)
		a.Release(Done)
		c.Release(Done)
	})
	bubble(t, "the status tells every request of a child, the oldest first", func(t *testing.T) {
		w := openWorld(t, threaded(1, 3))
		old := w.acquire()
		old.Describe("GET", "/old")
		time.Sleep(time.Second)
		young := w.acquire()
		young.Describe("POST", "/young")
		time.Sleep(time.Second)
		c := w.pool.Status().Children[0]
		equal(t, "request", *c.Request, ActiveRequest{"GET", "/old", 2})
		equal(t, "threads", c.Threads, []ThreadStatus{{0, ActiveRequest{"GET", "/old", 2}}, {1, ActiveRequest{"POST", "/young", 1}}})
		old.Release(Done)
		young.Release(Done)
	})
}

func TestAffinity(t *testing.T) {
	bubble(t, "a connection's next request gets the thread of its last one", func(t *testing.T) {
		w := openWorld(t, threaded(2, 2))
		mine, other := w.acquire(), w.acquire()
		id := mine.ID()
		other.Release(Done)
		mine.Release(Done)
		w.acquire().Release(Done)
		for range 3 {
			s, err := w.pool.AcquireFor(t.Context(), Claim{Near: id})
			if err != nil || s.ID() != id {
				t.Fatalf("AcquireFor(%v) = %v, %v", id, s.ID(), err)
			}
			s.Release(Done)
		}
	})
	bubble(t, "it gets another one when that is busy, and doesn't wait for it", func(t *testing.T) {
		w := openWorld(t, threaded(1, 2))
		mine := w.acquire()
		s, err := w.pool.AcquireFor(t.Context(), Claim{Near: mine.ID()})
		is(t, "AcquireFor()", err, nil)
		equal(t, "Thread", s.Thread(), 1-mine.Thread())
		s.Release(Done)
		mine.Release(Done)
	})
	bubble(t, "a thread of a child that has left, or leaves, is forgotten", func(t *testing.T) {
		cfg := threaded(2, 1)
		cfg.MaxRequestsPerChild = 2
		w := openWorld(t, cfg)
		w.stuck = true
		s := w.acquire()
		id := s.ID()
		s.Release(Done)
		again, err := w.pool.AcquireFor(t.Context(), Claim{Near: id})
		is(t, "AcquireFor()", err, nil)
		equal(t, "slot", again.ID(), id)
		again.Release(Done)
		other, err := w.pool.AcquireFor(t.Context(), Claim{Near: id}) // the child leaves
		is(t, "AcquireFor()", err, nil)
		if other.Child.PID == id.pid {
			t.Error("a leaving child got a request")
		}
		w.stuck = false
		w.pool.Exited(id.place, id.pid, 0, false)
		w.pool.Started(id.place, 9999, "/run/9999.sock", 0)
		synctest.Wait()
		next, err := w.pool.AcquireFor(t.Context(), Claim{Near: id}) // the place has another child
		is(t, "AcquireFor()", err, nil)
		equal(t, "child", next.Child.PID, 9999)
		next.Release(Done)
		other.Release(Done)
	})
	bubble(t, "names from elsewhere name nothing", func(t *testing.T) {
		w := openWorld(t, threaded(1, 1))
		for _, id := range []SlotID{{}, {place: -1, pid: 101}, {place: 7, pid: 101}, {pid: 101, thread: 7}, {pid: 7}} {
			s, err := w.pool.AcquireFor(t.Context(), Claim{Near: id})
			is(t, "AcquireFor()", err, nil)
			s.Release(Done)
		}
	})
	bubble(t, "the slots of an event pool have no name", func(t *testing.T) {
		w := openWorld(t, routes.Pool{MPM: routes.Event, MaxRequestWorkers: 1})
		s := w.acquire()
		equal(t, "ID", s.ID(), SlotID{})
		equal(t, "Thread", s.Thread(), 0)
		s.Describe("GET", "/")
		s.Release(Done)
	})
}

// exitOf is the ChildExit that ended a context.
func exitOf(t *testing.T, ctx context.Context) ChildExit {
	t.Helper()
	var exit *ChildExit
	if !errors.As(context.Cause(ctx), &exit) {
		t.Fatalf("cause = %v, want a ChildExit", context.Cause(ctx))
	}
	return *exit
}

func TestThreadsEnd(t *testing.T) {
	bubble(t, "the deadline of one request kills its child, and the other requests learn why", func(t *testing.T) {
		cfg := threaded(1, 2)
		cfg.RequestTimeout = 3 * time.Second
		w := openWorld(t, cfg)
		w.stuck = true
		slow := w.acquire()
		time.Sleep(time.Second)
		victim := w.acquire()
		slowCtx, cancel := contextOf(t.Context(), slow)
		defer cancel()
		victimCtx, cancelVictim := contextOf(t.Context(), victim)
		defer cancelVictim()
		<-slowCtx.Done()
		synctest.Wait()
		is(t, "cause", context.Cause(slowCtx), ErrDeadline)
		is(t, "the other's cause before the child has left", context.Cause(victimCtx), nil)
		equal(t, "events", w.forget(), []string{"kill 101"})
		w.pool.Exited(0, 101, 15, false)
		equal(t, "the other's cause", exitOf(t, victimCtx), ChildExit{101, 15, ExitDeadline})
		slow.Release(Broken)
		victim.Release(Broken)
		equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 2, Failed: 2})
		equal(t, "exits", w.pool.Status().Exits[ExitDeadline], 1)
	})
	bubble(t, "a child that exits costs the requests of all its threads, at once", func(t *testing.T) {
		w := openWorld(t, threaded(1, 3))
		var slots []*Slot
		var contexts []context.Context
		for range 3 {
			s := w.acquire()
			ctx, cancel := contextOf(t.Context(), s)
			defer cancel()
			slots, contexts = append(slots, s), append(contexts, ctx)
		}
		r := w.queue()
		w.pool.Exited(0, 101, 11, false)
		for _, ctx := range contexts {
			equal(t, "cause", exitOf(t, ctx), ChildExit{101, 11, ExitCrash})
		}
		synctest.Wait()
		equal(t, "the waiting request runs on the replacement", r.ended, true)
		for _, s := range slots {
			s.Release(Broken)
		}
		r.slot.Release(Done)
		equal(t, "board", w.pool.Status().Board, "___")
	})
	bubble(t, "a child that broke a connection finishes its other requests and is killed then", func(t *testing.T) {
		cfg := threaded(2, 2)
		cfg.StartServers, cfg.MinSpareThreads = 1, 1
		w := openWorld(t, cfg)
		a, b := w.acquire(), w.acquire()
		b.Channel = channel{w, "b"}
		w.forget()
		a.Release(Broken)
		equal(t, "events", w.forget(), []string{"start 1"})
		equal(t, "leaving", w.pool.Status().Children[0].Leaving, ExitCrash)
		b.Release(Done)
		equal(t, "events", w.forget(), []string{"close b", "kill 101"})
	})
	bubble(t, "a connection that was closed between requests costs nothing but that", func(t *testing.T) {
		w := openWorld(t, threaded(1, 2))
		a, b := w.acquire(), w.acquire()
		a.Channel = channel{w, "a"}
		a.Release(NotSent)
		synctest.Wait()
		again := w.acquire()
		equal(t, "slot", again.ID(), a.ID())
		equal(t, "channel", again.Channel, io.Closer(nil))
		equal(t, "events", w.forget(), []string{"close a"})
		again.Release(Done)
		b.Release(Done)
		equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 2})
	})
	bubble(t, "max_requests_per_child counts the requests of all threads, and none is cut off", func(t *testing.T) {
		cfg := threaded(2, 3)
		cfg.StartServers, cfg.MinSpareThreads, cfg.MaxRequestsPerChild = 1, 1, 4
		w := openWorld(t, cfg)
		a, b := w.acquire(), w.acquire()
		w.acquire().Release(Done)
		c := w.acquire()
		equal(t, "children of the four", []int{a.Child.PID, b.Child.PID, c.Child.PID}, []int{101, 101, 101})
		d := w.acquire()
		equal(t, "child of the fifth", d.Child.PID, 102)
		equal(t, "events", w.forget(), []string{"start 1"})
		a.Release(Done)
		equal(t, "state", w.pool.Status().Children[0].State, "draining")
		c.Release(Done)
		equal(t, "events while one runs", w.forget(), nil)
		b.Release(Done)
		equal(t, "events", w.forget(), []string{"retire 101"})
		equal(t, "exits", w.pool.Status().Exits[ExitMaxRequests], 1)
		d.Release(Done)
	})
	bubble(t, "the idle threads of a child that has had its last request are no reason to start none", func(t *testing.T) {
		cfg := threaded(2, 4)
		cfg.StartServers, cfg.MinSpareThreads, cfg.MaxRequestsPerChild, cfg.Spawn = 1, 1, 2, routes.SpawnApache
		w := openWorld(t, cfg)
		a, b := w.acquire(), w.acquire()
		synctest.Wait()
		c := w.acquire()
		equal(t, "child of the third", c.Child.PID, 102)
		for _, s := range []*Slot{a, b, c} {
			s.Release(Done)
		}
		equal(t, "events", w.forget(), []string{"start 1", "retire 101"})
	})
	bubble(t, "a leaving child whose last request runs too long is killed", func(t *testing.T) {
		cfg := threaded(1, 2)
		cfg.RequestTimeout, cfg.MaxRequestsPerChild = 3*time.Second, 2
		w := openWorld(t, cfg)
		a, b := w.acquire(), w.acquire()
		ctx, cancel := contextOf(t.Context(), b)
		defer cancel()
		a.Release(Done)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		is(t, "cause", context.Cause(ctx), ErrDeadline)
		equal(t, "events", w.forget(), []string{"kill 101"})
		equal(t, "exits", w.pool.Status().Exits[ExitDeadline], 1)
		b.Release(Broken)
	})
	bubble(t, "a leaving child with an abandoned request leaves when that has ended", func(t *testing.T) {
		w := openWorld(t, threaded(1, 2))
		s := w.acquire()
		w.setBusy(101, true)
		s.Release(Abandoned)
		drained := make(chan error)
		go func() { drained <- w.pool.Drain(t.Context()) }()
		synctest.Wait()
		equal(t, "events", w.forget(), nil)
		w.setBusy(101, false)
		is(t, "Drain()", <-drained, nil)
		equal(t, "events", w.forget(), []string{"retire 101"})
	})
	bubble(t, "a pool that drains lets its children finish, and nobody else in", func(t *testing.T) {
		w := openWorld(t, threaded(2, 2))
		s := w.acquire()
		drained := make(chan error)
		go func() { drained <- w.pool.Drain(t.Context()) }()
		synctest.Wait()
		equal(t, "events", len(w.forget()), 1) // the other child leaves
		s.Release(Done)
		is(t, "Drain()", <-drained, nil)
		equal(t, "exits", w.pool.Status().Exits[ExitShutdown], 2)
	})
	bubble(t, "after three lost children in a row the tick is waited for", func(t *testing.T) {
		cfg := threaded(1, 2)
		cfg.MinSpareThreads = 1
		w := openWorld(t, cfg)
		for range 4 {
			synctest.Wait()
			w.pool.Exited(0, w.pool.Status().Children[0].PID, 11, false)
		}
		equal(t, "events", w.forget(), []string{"start 0", "start 0", "start 0"})
		time.Sleep(1500 * ms)
		equal(t, "events", w.forget(), []string{"start 0"})
	})
}
