package mpm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"gateway/routes"
)

func TestMaintainWorker(t *testing.T) {
	for name, c := range map[string]struct {
		board    string
		settings Settings
		memory   Memory
		waiting  int
		want     string
		rate     int
		full     bool
	}{
		"as many threads are idle as are wanted: nothing, and the rate falls back": {board: "22..", memory: Memory{Rate: 8}, rate: 1},
		"one idle thread is missing: a child starts, and the rate doubles":         {board: "23..", want: "start 2", rate: 2},
		"the threads of a starting child count as idle":                            {board: "44S.", rate: 1},
		"the threads of a draining child don't":                                    {board: "44G.", want: "start 3", rate: 2},
		"on demand no more children than have the missing threads":                 {board: "44.......", settings: Settings{MinSpare: 9}, memory: Memory{Rate: 32}, want: "start 2, start 3, start 4", rate: 32},
		"Apache starts as many as the rate says":                                   {board: "44.......", settings: Settings{MinSpare: 9, Spawn: routes.SpawnApache}, memory: Memory{Rate: 4}, want: "start 2, start 3, start 4, start 5", rate: 8},
		"requests that wait have a claim on idle threads":                          {board: "S...", waiting: 1, want: "start 1", rate: 2},
		"too many idle threads: of the least busy children the one idle longest":   {board: "3_1_", want: "retire 1", rate: 1},
		"too many idle threads in busy children: one of those finishes and leaves": {board: "1111", want: "retire 0", rate: 1},
		"a child that is busy altogether is never retired":                         {board: "4444", settings: Settings{MinSpare: -9, MaxSpare: -1}, rate: 1},
		"one still drains and there is no place: no other is retired":              {board: "__1G", rate: 1},
		"one still drains but there is a place: another is retired":                {board: "__1G.", want: "retire 0", rate: 1},
		"none drains and there is no place: one is retired":                        {board: "__11", want: "retire 0", rate: 1},
		"at max_request_workers nothing starts, whatever places are free":          {board: "44..", settings: Settings{Limit: 2}, memory: Memory{Rate: 4}, rate: 1, full: true},
		"draining children don't count for max_request_workers":                    {board: "4G..", settings: Settings{Limit: 2}, want: "start 2", rate: 2},
		"but for server_limit they do":                                             {board: "4GG", rate: 1, full: true},
		"at the limit with an idle thread: not full":                               {board: "43", rate: 1},
		"in quarantine nothing starts":                                             {board: "4...", memory: Memory{Score: Score{points: 12, at: epoch, tripped: true}}, rate: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := boardOf(t, c.board)
			s := c.settings.complete(b)
			s.Threads = 4
			if s.MinSpare == 0 {
				s.MinSpare = 4
			}
			if s.MaxSpare == 0 {
				s.MaxSpare = s.MinSpare + s.Threads
			}
			actions, m := Maintain(b, s, c.memory, epoch, c.waiting)
			if got := text(actions); got != c.want || m.Rate != c.rate || m.Full != c.full {
				t.Errorf("Maintain(%q, %+v, %d waiting) = %q, rate %d, full %v; want %q, %d, %v",
					c.board, s, c.waiting, got, m.Rate, m.Full, c.want, c.rate, c.full)
			}
		})
	}
}

func TestDemandOfAWorkerPoolStartsEnoughThreads(t *testing.T) {
	for name, c := range map[string]struct {
		board   string
		waiting int
		want    string
	}{
		"one child has threads for four":              {board: "4....", waiting: 4, want: "start 1"},
		"five need two":                               {board: "4....", waiting: 5, want: "start 1, start 2"},
		"one that starts has threads for four":        {board: "4S...", waiting: 4},
		"no more than the rate are starting":          {board: "4S...", waiting: 40, want: "start 2, start 3, start 4"},
		"a place of a draining child can't be filled": {board: "4GGGG", waiting: 4},
	} {
		t.Run(name, func(t *testing.T) {
			b := boardOf(t, c.board)
			s := Settings{Threads: 4}.complete(b)
			if got := text(Demand(b, s, Memory{Rate: 4}, epoch, c.waiting)); got != c.want {
				t.Errorf("Demand(%q, %d waiting) = %q, want %q", c.board, c.waiting, got, c.want)
			}
		})
	}
}

func TestSpawn(t *testing.T) {
	idleTimeout := 10 * time.Second
	for name, c := range map[string]struct {
		board       string
		spawn       routes.Spawn
		waiting     int
		after       time.Duration // since place 0 was entered; each next one a second later
		open        string
		tick        string
		demand      string
		replacement string
	}{
		"on demand a new pool has start_servers":         {board: "......", spawn: routes.SpawnDemand, open: "start 0, start 1, start 2", tick: "start 0", replacement: "start 0"},
		"children that are there count":                  {board: "W_....", spawn: routes.SpawnDemand, open: "start 2", tick: "start 2", replacement: "start 2"},
		"ondemand: none without requests":                {board: "......", spawn: routes.SpawnOnDemand},
		"ondemand: one for a request":                    {board: "......", spawn: routes.SpawnOnDemand, waiting: 1, tick: "start 0", demand: "start 0", replacement: "start 0"},
		"ondemand: idle ones stay for idle_timeout":      {board: "__W...", spawn: routes.SpawnOnDemand, after: idleTimeout - 1},
		"ondemand: idle ones leave after idle_timeout":   {board: "_W_...", spawn: routes.SpawnOnDemand, after: idleTimeout + 2*time.Second, tick: "retire 0, retire 2"},
		"static: all, whatever start_servers says":       {board: "......", spawn: routes.SpawnStatic, open: "start 0, start 1, start 2, start 3, start 4, start 5", tick: "start 0", replacement: "start 0"},
		"static: one that is missing is replaced":        {board: "WW_.__", spawn: routes.SpawnStatic, open: "start 3", tick: "start 3", replacement: "start 3"},
		"static: none leaves for being idle":             {board: "______", spawn: routes.SpawnStatic, after: time.Hour},
		"static: none starts before another has left":    {board: "_____G", spawn: routes.SpawnStatic},
		"apache: requests that wait start nothing":       {board: "WW__W.", spawn: routes.SpawnApache, waiting: 3},
		"apache: the tick and the end of a child do":     {board: "WW_W..", spawn: routes.SpawnApache, waiting: 3, tick: "start 4", replacement: "start 4"},
		"demand: requests that wait have spare children": {board: "WW__W.", spawn: routes.SpawnDemand, waiting: 3, tick: "start 5", demand: "start 5", replacement: "start 5"},
	} {
		t.Run(name, func(t *testing.T) {
			b, now := boardOf(t, c.board), epoch.Add(c.after)
			s := Settings{Spawn: c.spawn, MinSpare: 2, MaxSpare: 10, IdleTimeout: idleTimeout}.complete(b)
			check := func(what string, got []Action, want string) {
				if text(got) != want {
					t.Errorf("%s(%q) = %q, want %q", what, c.board, text(got), want)
				}
			}
			check("Open", Open(b, s, 3), c.open)
			tick, _ := Maintain(b, s, Memory{}, now, c.waiting)
			check("Maintain", tick, c.tick)
			check("Demand", Demand(b, s, Memory{}, now, c.waiting), c.demand)
			check("Replace", Replace(b, s, Memory{}, now, c.waiting), c.replacement)
		})
	}
}

func TestAged(t *testing.T) {
	b := boardOf(t, "_WGS_.")
	for i, expires := range []time.Duration{0, -time.Hour, -time.Hour, -time.Hour, 1, -time.Hour} {
		b[i].Expires = epoch.Add(expires)
	}
	if got, want := text(Aged(b, epoch)), "replace 0, replace 1"; got != want {
		t.Errorf("Aged() = %q, want %q: those that serve and have reached their age", got, want)
	}
	if got := Aged(boardOf(t, "_W"), epoch.Add(time.Hour)); got != nil {
		t.Errorf("Aged() = %q, want none: they have no age limit", text(got))
	}
}

func TestLostChildrenOfAWorkerPoolAreReplacedAtOnceThreeTimes(t *testing.T) {
	s, b := Settings{Threads: 2}.complete(make(Board, 9)), boardOf(t, "_........")
	lose := func(m *Memory) (atOnce bool) {
		*m, atOnce = m.Lose(s)
		return atOnce
	}
	var m Memory
	for i, want := range []bool{true, true, true, false, false} {
		if got := lose(&m); got != want {
			t.Errorf("loss %d: at once %v, want %v", i+1, got, want)
		}
	}
	_, m = Maintain(b, s, m, epoch, 0)
	if lose(&m) {
		t.Error("after a tick before which one was lost: at once")
	}
	_, m = Maintain(b, s, m, epoch, 0)
	_, m = Maintain(b, s, m, epoch, 0)
	if !lose(&m) {
		t.Error("after a quiet tick: not at once")
	}
	s.Threads = 1
	m = Memory{Lost: 100}
	if !lose(&m) {
		t.Error("in a prefork pool: not at once")
	}
}

// life is a pool without processes: what a policy decides is done, what happens to children is up to the test.
type life struct {
	t   testing.TB
	b   Board
	s   Settings
	m   Memory
	now time.Time
}

// TestPolicyKeepsItsPromises lets pools of all kinds, each from a board of its own, live through events by chance.
func TestPolicyKeepsItsPromises(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for pool := range uint64(3000) {
		if !t.Run(fmt.Sprintf("seed %d, pool %d", seed, pool), func(t *testing.T) { lifeByChance(t, rand.New(rand.NewPCG(seed, pool))) }) {
			return
		}
	}
}

func lifeByChance(t *testing.T, rnd *rand.Rand) {
	spawns := []routes.Spawn{routes.SpawnDemand, routes.SpawnOnDemand, routes.SpawnStatic, routes.SpawnApache}
	s := Settings{Spawn: spawns[rnd.IntN(4)], Threads: 1, MinSpare: rnd.IntN(60), Limit: 1 + rnd.IntN(60), IdleTimeout: 10 * time.Second}
	places := s.Limit
	if rnd.IntN(2) == 0 { // a worker pool
		s.Threads, places = 1+rnd.IntN(8), places+rnd.IntN(10)
	}
	s.MaxSpare = max(rnd.IntN(100), s.MinSpare+s.Threads)
	l := &life{t: t, b: make(Board, places), s: s, now: epoch}
	for i := range l.b {
		if t := l.b.tally(); t.serving() < s.Limit {
			l.b[i] = cellByChance(rnd, s.Threads)
		}
	}
	l.m = Memory{Rate: rnd.IntN(maxRate + 1), Calm: rnd.IntN(10), Score: Score{}.add(epoch, float64(rnd.IntN(2*quarantinedAt)))}
	for range rnd.IntN(100) {
		l.now = l.now.Add(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		l.happen(byte(rnd.IntN(4)), &l.b[rnd.IntN(places)], rnd.IntN(2*places))
		if rnd.IntN(2) == 0 {
			l.tick(rnd.IntN(2 * places))
		}
	}
	l.leaveAlone()
}

func cellByChance(rnd *rand.Rand, threads int) Cell {
	c := Cell{State: State(rnd.IntN(len(states))), Since: epoch.Add(-time.Duration(rnd.IntN(20)) * time.Second)}
	switch c.State {
	case Busy:
		c.Busy = 1 + rnd.IntN(threads)
	case Draining:
		c.Busy = rnd.IntN(threads + 1)
	case Empty, Starting, Idle:
	}
	if rnd.IntN(4) == 0 {
		c.Expires = epoch.Add(time.Duration(rnd.IntN(100)) * time.Second)
	}
	return c
}

// FuzzPolicy lets a pool live through arbitrary events, a tick after each, and then leaves it alone.
func FuzzPolicy(f *testing.F) {
	f.Add(uint8(0), uint8(5), uint8(10), uint8(40), uint8(0), uint8(0), []byte("abcdefghijklmnopqrstuvwxyz"))
	f.Add(uint8(0), uint8(1), uint8(2), uint8(3), uint8(0), uint8(3), []byte{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11})
	f.Add(uint8(24), uint8(75), uint8(250), uint8(16), uint8(0), uint8(0), []byte("zyxwvutsrqponmlkjihgfedcba"))
	f.Add(uint8(3), uint8(9), uint8(0), uint8(4), uint8(9), uint8(3), []byte("the quick brown fox jumps over the lazy dog"))
	f.Add(uint8(3), uint8(9), uint8(0), uint8(4), uint8(9), uint8(1), []byte("the quick brown fox jumps over the lazy dog"))
	f.Add(uint8(1), uint8(9), uint8(0), uint8(4), uint8(9), uint8(2), []byte("the quick brown fox jumps over the lazy dog"))
	f.Add(uint8(0), uint8(0), uint8(0), uint8(0), uint8(0), uint8(0), []byte{})
	spawns := []routes.Spawn{routes.SpawnDemand, routes.SpawnOnDemand, routes.SpawnStatic, routes.SpawnApache}
	f.Fuzz(func(t *testing.T, threads, minSpare, maxSpare, limit, extra, spawn uint8, events []byte) {
		s := Settings{Spawn: spawns[spawn%4], Threads: int(threads) + 1, MinSpare: int(minSpare), Limit: int(limit) + 1, IdleTimeout: 10 * time.Second}
		s.MaxSpare = max(int(maxSpare), s.MinSpare+s.Threads)
		l := &life{t: t, b: make(Board, s.Limit+int(extra)), s: s, now: epoch}
		l.do(Open(l.b, s, int(maxSpare)))
		for _, e := range events[:min(len(events), 200)] {
			l.happen(e&3, &l.b[int(e>>2)%len(l.b)], int(e)%7)
			l.tick(int(e) % 7)
		}
		l.leaveAlone()
	})
}

// leaveAlone ends all requests, lets nobody age, and checks where the pool ends: quarantine is over when its points are forgotten, each tick retires a
// child that is too many or starts some, which come up by the next, and children without requests leave after idle_timeout.
func (l *life) leaveAlone() {
	l.t.Helper()
	for i := range l.b {
		l.b[i].Expires = time.Time{}
	}
	for range len(l.b) + int(l.m.Score.now(l.now).points) + int(l.s.IdleTimeout/time.Second) + 5 {
		l.rest()
		l.tick(0)
	}
	l.rest()
	l.checkRest()
}

// happen is one event in a place.
func (l *life) happen(event byte, c *Cell, waiting int) {
	switch {
	case event == 0 && c.State == Starting:
		c.State = Idle
		l.m.Score = l.m.Score.Ready(l.now)
	case event == 0 && c.Busy > 0:
		l.finish(c)
	case event == 1 && (c.State == Idle || c.State == Busy) && c.Busy < l.s.Threads:
		c.State = Busy
		c.Busy++
	case event == 2 && c.State != Empty:
		*c = Cell{}
		l.m.Score = l.m.Score.Died(l.now, true)
		var atOnce bool
		if l.m, atOnce = l.m.Lose(l.s); atOnce {
			l.do(Replace(l.b, l.s, l.m, l.now, waiting))
		}
	case event == 3:
		l.do(Demand(l.b, l.s, l.m, l.now, waiting))
	}
}

func (l *life) finish(c *Cell) {
	c.Busy--
	if c.Busy == 0 && c.State == Busy {
		c.State, c.Since = Idle, l.now
	}
}

// rest ends all requests and brings up what starts.
func (l *life) rest() {
	for i := range l.b {
		c := &l.b[i]
		for c.Busy > 0 {
			l.finish(c)
		}
		switch c.State {
		case Starting:
			c.State, c.Since = Idle, l.now
			l.m.Score = l.m.Score.Ready(l.now)
		case Draining:
			*c = Cell{}
		case Empty, Idle, Busy:
		}
	}
}

func (l *life) tick(waiting int) {
	l.t.Helper()
	l.now = l.now.Add(time.Second)
	actions, m := Maintain(l.b, l.s, l.m, l.now, waiting)
	retired := 0
	for _, a := range actions {
		if a.Kind == RetireChild {
			retired++
		}
	}
	if retired > 0 && (l.s.Spawn == routes.SpawnStatic || retired < len(actions)) || retired > 1 && l.s.Spawn != routes.SpawnOnDemand {
		l.t.Fatalf("one tick of a %s pool: %s", l.s.Spawn, text(actions))
	}
	l.do(actions)
	l.m = m
	l.do(Aged(l.b, l.now))
}

// do carries out actions and checks what must hold of all of them.
func (l *life) do(actions []Action) {
	l.t.Helper()
	score, starting, started := l.m.Score.now(l.now), l.b.tally()[Starting], 0
	for _, a := range actions {
		c := &l.b[a.Slot]
		switch {
		case a.Kind == StartChild && c.State == Empty:
			*c = Cell{State: Starting}
			started++
		case a.Kind == RetireChild && c.State == Idle, a.Kind == RetireChild && c.State == Busy && c.Busy < l.s.Threads:
			c.State = Draining // with its requests
		case a.Kind == ReplaceChild && (c.State == Idle || c.State == Busy) && !c.Expires.IsZero() && !l.now.Before(c.Expires):
			c.State = Draining
		default:
			l.t.Fatalf("action %s on a child that is %s with %d requests", text([]Action{a}), c.State, c.Busy)
		}
		c.Since = l.now
	}
	switch t := l.b.tally(); {
	case t.serving() > l.s.Limit:
		l.t.Fatalf("%d children, limit %d", t.serving(), l.s.Limit)
	case started > 0 && score.points >= quarantinedAt:
		l.t.Fatalf("%d started in quarantine, %.1f points", started, score.points)
	case started > 0 && score.tripped && starting+started > 1:
		l.t.Fatalf("%d started on trial beside %d", started, starting)
	}
}

// checkRest checks where a pool ends that nobody uses.
func (l *life) checkRest() {
	l.t.Helper()
	t := l.b.tally()
	children, idle := t.total(), l.b.idleThreads(l.s.Threads)
	switch l.s.Spawn {
	case routes.SpawnStatic:
		if children != l.s.Limit {
			l.t.Errorf("left alone, the static pool has %d children, want %d", children, l.s.Limit)
		}
	case routes.SpawnOnDemand:
		if children != 0 {
			l.t.Errorf("left alone, the ondemand pool has %d children", children)
		}
	default:
		if least := min(l.s.MinSpare, l.s.Limit*l.s.Threads); idle < least || idle > l.s.MaxSpare {
			l.t.Errorf("left alone, the pool has %d idle threads, want %d to %d", idle, least, l.s.MaxSpare)
		}
	}
}
