package mpm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

func TestSessions(t *testing.T) {
	alice, bob := Claim{Session: "alice"}, Claim{Session: "bob"}
	for _, mpm := range []routes.MPM{routes.Prefork, routes.Worker, routes.Event} {
		four := prefork(4)
		four.MPM, four.ThreadsPerChild, four.SessionLimit = mpm, 1, &routes.SessionLimit{Cookie: "PHPSESSID", Max: 2}
		if mpm == routes.Worker {
			four.ServerLimit, four.MaxSpareThreads = 4, 4
		}
		bubble(t, string(mpm)+": the third request of a session waits while others pass", func(t *testing.T) {
			w := openWorld(t, four)
			first, second, third, fourth := w.queueFor(alice), w.queueFor(alice), w.queueFor(alice), w.queueFor(alice)
			others := []*request{w.queueFor(bob), w.queue()}
			for i, r := range append(others, first, second) {
				if r.slot == nil {
					t.Fatalf("request %d waits, error %v", i, r.err)
				}
			}
			equal(t, "queue", w.pool.Status().Queue, QueueStatus{Waiting: 2, Held: 2, Length: 10})
			time.Sleep(time.Second)
			second.slot.Release(Done)
			synctest.Wait()
			if third.slot == nil || fourth.slot != nil {
				t.Fatalf("third has a slot: %v; fourth: %v", third.slot != nil, fourth.slot != nil)
			}
			equal(t, "QueueWait of the third", third.slot.QueueWait, time.Second)
			for _, r := range append(others, first, third) {
				r.slot.Release(Done)
			}
			synctest.Wait()
			fourth.slot.Release(Done)
			equal(t, "sessions that are remembered", len(w.pool.sessions), 0)
			equal(t, "requests", w.pool.Status().Requests, RequestStatus{Total: 6})
		})
		bubble(t, string(mpm)+": a request that its session let in goes before those that came later", func(t *testing.T) {
			w := openWorld(t, four)
			mine := []*request{w.queueFor(alice), w.queueFor(alice)}
			others := []*request{w.queue(), w.queue()}
			third := w.queueFor(alice)
			time.Sleep(time.Second)
			later := w.queueFor(bob)
			mine[0].slot.Release(Done)
			synctest.Wait()
			if third.slot == nil || later.slot != nil {
				t.Fatalf("the session's third has a slot: %v; who came later: %v", third.slot != nil, later.slot != nil)
			}
			for _, r := range append(others, mine[1], third) {
				r.slot.Release(Done)
			}
			synctest.Wait()
			later.slot.Release(Done)
			equal(t, "sessions that are remembered", len(w.pool.sessions), 0)
		})
		bubble(t, string(mpm)+": who waits for its session times out, or leaves, as in the queue", func(t *testing.T) {
			w, gone := openWorld(t, four), errors.New("client has gone")
			mine := []*request{w.queueFor(alice), w.queueFor(alice)}
			slow, left := w.queueFor(alice), w.queueFor(alice)
			left.cancel(gone)
			time.Sleep(four.Queue.Timeout)
			synctest.Wait()
			is(t, "Acquire() of the one whose client has gone", left.err, gone)
			is(t, "Acquire() of the one that waited", slow.err, ErrQueueTimeout)
			mine[0].slot.Release(Done)
			mine[1].slot.Release(Done)
			equal(t, "sessions that are remembered", len(w.pool.sessions), 0)
			equal(t, "held", w.pool.held, 0)
		})
		bubble(t, string(mpm)+": those that wait for their session count for the length of the queue", func(t *testing.T) {
			cfg := four
			cfg.Queue.Length = 1
			w := openWorld(t, cfg)
			mine := []*request{w.queueFor(alice), w.queueFor(alice), w.queueFor(alice)}
			_, err := w.pool.AcquireFor(t.Context(), alice)
			is(t, "Acquire()", err, ErrQueueFull)
			_, err = w.pool.AcquireFor(t.Context(), bob)
			is(t, "Acquire() of another session, for which a slot is free", err, nil)
			mine[0].slot.Release(Done)
			synctest.Wait()
			mine[2].slot.Release(Done)
			mine[1].slot.Release(Done)
		})
		bubble(t, string(mpm)+": a pool that drains sends them away", func(t *testing.T) {
			w := openWorld(t, four)
			mine := []*request{w.queueFor(alice), w.queueFor(alice), w.queueFor(alice)}
			w.pool.drain()
			synctest.Wait()
			is(t, "Acquire()", mine[2].err, ErrDraining)
			mine[0].slot.Release(Done)
			mine[1].slot.Release(Done)
		})
	}
	bubble(t, "a child that still works for a client that has gone counts, until its end", func(t *testing.T) {
		cfg := prefork(4)
		cfg.SessionLimit = &routes.SessionLimit{Max: 1}
		w := openWorld(t, cfg)
		first, second, third := w.queueFor(alice), w.queueFor(alice), w.queueFor(alice)
		w.setBusy(first.slot.Child.PID, true)
		first.slot.Release(Abandoned)
		synctest.Wait()
		if second.slot != nil {
			t.Fatal("the second has a slot while the child works for the first")
		}
		w.setBusy(first.slot.Child.PID, false)
		synctest.Wait()
		if second.slot == nil {
			t.Fatal("the second has no slot")
		}
		w.leave(second.slot.Child.Slot, second.slot.Child.PID, 11)
		synctest.Wait()
		if third.slot == nil {
			t.Fatal("the third has no slot after the child of the second has crashed")
		}
		second.slot.Release(Broken)
		third.slot.Release(Done)
		equal(t, "sessions that are remembered", len(w.pool.sessions), 0)
	})
}

// TestSessionsInDisorder has many clients come, wait and go as they like: no session ever has more than its limit, and at the end
// nothing is left in the books.
func TestSessionsInDisorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := prefork(5)
		cfg.Queue.Timeout, cfg.SessionLimit = 50*ms, &routes.SessionLimit{Max: 2}
		w := openWorld(t, cfg)
		var mu sync.Mutex
		running := map[string]int{}
		count := func(name string, n int) {
			mu.Lock()
			defer mu.Unlock()
			if running[name] += n; running[name] > 2 {
				t.Errorf("session %s has %d requests", name, running[name])
			}
		}
		var clients sync.WaitGroup
		for i := range 40 {
			clients.Go(func() {
				for range 20 {
					name := fmt.Sprint(i % 7)
					time.Sleep(time.Duration(rand.IntN(30)) * ms)
					s, err := w.pool.AcquireFor(t.Context(), Claim{Session: name})
					if err != nil {
						continue
					}
					count(name, 1)
					time.Sleep(time.Duration(rand.IntN(20)) * ms)
					count(name, -1)
					s.Release([]Outcome{Done, Done, Done, Abandoned, Broken}[rand.IntN(5)])
				}
			})
		}
		clients.Wait()
		synctest.Wait()
		equal(t, "sessions that are remembered", len(w.pool.sessions), 0)
		equal(t, "requests that wait", w.pool.waiting(), 0)
	})
}
