package mpm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gateway/routes"
)

// TestPoolKeepsItsBooksWhateverHappens runs clients against a supervisor whose children die, hang and fail to start, and
// checks the books after each event.
func TestPoolKeepsItsBooksWhateverHappens(t *testing.T) {
	pre := prefork(6)
	pre.StartServers, pre.MinSpareServers, pre.MaxSpareServers = 2, 1, 3
	thr := threaded(4, 3)
	thr.StartServers, thr.MinSpareThreads, thr.MaxSpareThreads, thr.MaxRequestWorkers = 2, 2, 5, 9
	for _, cfg := range []routes.Pool{pre, thr} {
		for _, cfg.Spawn = range []routes.Spawn{routes.SpawnDemand, routes.SpawnOnDemand, routes.SpawnStatic, routes.SpawnApache} {
			cfg.MaxRequestsPerChild, cfg.MaxChildAge, cfg.MaxChildMemory, cfg.IdleTimeout = 20, 10*time.Second, 1000, 3*time.Second
			cfg.RequestTimeout, cfg.Queue.Timeout = 2*time.Second, 500*ms
			for seed := range uint64(5) {
				bubble(t, fmt.Sprintf("%s, %s, seed %d", cfg.MPM, cfg.Spawn, seed), func(t *testing.T) { chaos(t, cfg, seed) })
			}
		}
	}
}

func chaos(t *testing.T, cfg routes.Pool, seed uint64) {
	const clients = 12
	w := newWorld(t, cfg)
	w.pool.footprint = func(pid int) int64 { return int64(pid%50) * 20 }
	w.pool.Open()
	ended := make(chan struct{})
	for i := range clients {
		go func() {
			defer func() { ended <- struct{}{} }()
			client(w, rand.New(rand.NewPCG(seed, uint64(i))))
		}()
	}
	rnd := rand.New(rand.NewPCG(seed, 99))
	before := w.pool.Status()
	for left := clients; left > 0; {
		select {
		case <-ended:
			left--
		case <-time.After(time.Duration(rnd.IntN(300)) * ms):
			if st := w.pool.Status(); len(st.Children) > 0 {
				victim := st.Children[rnd.IntN(len(st.Children))]
				w.pool.Exited(victim.Slot, victim.PID, 9, rnd.IntN(4) == 0)
			}
		}
		checkBooks(t, w.pool)
		after := w.pool.Status()
		checkCounters(t, &before, &after)
		before = after
	}
	is(t, "Drain()", w.pool.Drain(t.Context()), nil)
	checkBooks(t, w.pool)
}

// checkCounters holds that no counter goes backwards.
func checkCounters(t *testing.T, before, after *PoolStatus) {
	t.Helper()
	counters := func(st *PoolStatus) []uint64 {
		all := []uint64{st.Requests.Total, st.Requests.Failed, st.Queue.Rejected, st.Queue.TimedOut, st.Queue.Abandoned, st.Waits.Count}
		for _, why := range exitReasons {
			all = append(all, st.Exits[why])
		}
		return all
	}
	if !slices.Contains(PoolStates(), after.State) {
		t.Fatalf("the state %q is not among PoolStates", after.State)
	}
	now := counters(after)
	for i, n := range counters(before) {
		if now[i] < n {
			t.Fatalf("counter %d went from %d to %d", i, n, now[i])
		}
	}
}

// client makes requests with every outcome.
func client(w *world, rnd *rand.Rand) {
	var near SlotID
	for range 100 {
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(rnd.IntN(1000))*ms)
		if s, err := w.pool.AcquireFor(ctx, Claim{Near: near}); err == nil {
			near = s.ID()
			work(w, s, rnd)
		}
		cancel()
		time.Sleep(time.Duration(rnd.IntN(100)) * ms)
	}
}

func work(w *world, s *Slot, rnd *rand.Rand) {
	ctx, cancel := contextOf(w.t.Context(), s)
	defer cancel()
	s.Describe("GET", "/x")
	took := time.Duration(rnd.IntN(100)) * ms
	if rnd.IntN(50) == 0 {
		took = time.Hour
	}
	select {
	case <-ctx.Done():
		s.Release(Broken)
	case <-time.After(took):
		s.Release([]Outcome{Done, Done, Done, Done, Done, Done, Abandoned, NotSent, Broken}[rnd.IntN(9)])
	}
}

// checkBooks compares the tallies, the shelves and the children of a pool with its board.
func checkBooks(t *testing.T, p *Pool) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tally != p.board.tally() || p.tally.serving() > p.settings.Limit {
		t.Fatalf("tally %v, board %q, limit %d", p.tally, p.boardText(), p.settings.Limit)
	}
	living := 0
	for slot, c := range p.children {
		cell := &p.board[slot]
		if c == nil {
			if cell.State != Empty && cell.State != Starting || cell.Busy != 0 {
				t.Fatalf("place %d is %s with %d requests and has no child", slot, cell.State, cell.Busy)
			}
			continue
		}
		living++
		checkChild(t, p, c, cell)
	}
	if living != len(p.byPID) {
		t.Fatalf("%d children, %d pids", living, len(p.byPID))
	}
	checkShelves(t, p)
	if p.free.first() != nil && p.queue.length > 0 {
		t.Fatalf("%d wait while a thread is idle", p.queue.length)
	}
}

func checkChild(t *testing.T, p *Pool, c *child, cell *Cell) {
	t.Helper()
	busy := 0
	for i := range c.threads {
		th := &c.threads[i]
		switch {
		case th.busy:
			busy++
		case th.holder != nil || c.idle[th.at] != th:
			t.Fatalf("thread %d of child %d is idle, holder %v, place %d", i, c.PID, th.holder, th.at)
		case c.leaving != "" && th.channel != nil:
			t.Fatalf("thread %d of child %d, which leaves, keeps a connection", i, c.PID)
		}
	}
	inService := c.leaving == "" && c.ready
	switch {
	case busy != cell.Busy || busy+len(c.idle) != len(c.threads):
		t.Fatalf("child %d: %d threads busy, %d on the board, %d idle", c.PID, busy, cell.Busy, len(c.idle))
	case inService != (cell.State == Idle || cell.State == Busy), inService && (busy > 0) != (cell.State == Busy):
		t.Fatalf("child %d is %s with %d requests, ready %v, leaving %q", c.PID, cell.State, busy, c.ready, c.leaving)
	case c.leaving != "" && busy == 0 && !c.told:
		t.Fatalf("child %d has nothing to do, is to leave (%s) and was not told", c.PID, c.leaving)
	}
	want := notShelved
	if inService && len(c.idle) > 0 {
		want = busy
	}
	if c.shelf != want {
		t.Fatalf("child %d is on shelf %d, want %d", c.PID, c.shelf, want)
	}
	if p.board[c.Slot].State == Empty || p.byPID[c.PID] != c {
		t.Fatalf("child %d is not in the books", c.PID)
	}
}

func checkShelves(t *testing.T, p *Pool) {
	t.Helper()
	for n, c := range p.free.tops {
		var above *child
		for ; c != nil; above, c = c, c.below {
			if c.shelf != n || c.above != above || p.children[c.Slot] != c || n < p.free.lowest {
				t.Fatalf("child %d is found on shelf %d (lowest %d), says %d", c.PID, n, p.free.lowest, c.shelf)
			}
		}
	}
}
