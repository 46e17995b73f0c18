package mpm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// boardOf reads a scoreboard as the status writes it. A place further left has been in its state longer.
func boardOf(t testing.TB, letters string) Board {
	t.Helper()
	b := make(Board, len(letters))
	for i := range b {
		s := slices.IndexFunc(states[:], func(s struct {
			name   string
			letter byte
		}) bool {
			return s.letter == letters[i]
		})
		if s < 0 {
			t.Fatalf("no state has the letter %q", letters[i])
		}
		b[i] = Cell{State: State(s), Since: epoch.Add(time.Duration(i) * time.Second)}
	}
	return b
}

func text(actions []Action) string {
	var words []string
	for _, a := range actions {
		words = append(words, fmt.Sprint(map[ActionKind]string{StartChild: "start ", RetireChild: "retire "}[a.Kind], a.Slot))
	}
	return strings.Join(words, ", ")
}

// The table of prefork.c for min_spare 5, all children busy and staying busy.
func TestApachePoolDoublesItsStartsEachTick(t *testing.T) {
	s := Settings{Spawn: SpawnApache, MinSpare: 5, MaxSpare: 10, Limit: 256}
	b := make(Board, 256)
	for i := range 5 {
		b[i].State = Busy
	}
	var m Memory
	for tick, want := range []int{6, 8, 12, 20, 36, 68, 100, 132, 164, 196, 228, 256} {
		var actions []Action
		actions, m = Maintain(b, s, m, epoch, 0)
		for _, a := range actions {
			b[a.Slot].State = Busy
		}
		if tally := b.tally(); tally.total() != want || m.Full {
			t.Fatalf("after tick %d: %d children, full %v; want %d, not full", tick+1, tally.total(), m.Full, want)
		}
	}
	actions, m := Maintain(b, s, m, epoch, 0)
	if len(actions) > 0 || !m.Full || m.Rate != 1 {
		t.Fatalf("13th tick: %s, full %v, rate %d; want nothing, full, rate 1", text(actions), m.Full, m.Rate)
	}
}

func TestMaintain(t *testing.T) {
	blocked := Score{points: 12, at: epoch, tripped: true}
	trial := Score{points: 9, at: epoch, tripped: true}
	for name, c := range map[string]struct {
		board    string
		settings Settings
		memory   Memory
		waiting  int
		want     string
		rate     int
		full     bool
	}{
		"enough spare children: nothing, and the rate falls back":    {board: "__W....", settings: Settings{MinSpare: 2, MaxSpare: 3}, memory: Memory{Rate: 8}, rate: 1},
		"too many spare: the one idle longest leaves":                {board: "W____..", settings: Settings{MinSpare: 1, MaxSpare: 3}, want: "retire 1", rate: 1},
		"far too many spare: still one a tick":                       {board: "_______", settings: Settings{MinSpare: 1, MaxSpare: 2}, want: "retire 0", rate: 1},
		"too many only because some are starting: those stay":        {board: "WSSSS..", settings: Settings{MinSpare: 1, MaxSpare: 2}, rate: 1},
		"draining children are neither spare nor retired again":      {board: "GG__...", settings: Settings{MinSpare: 2, MaxSpare: 3}, rate: 1},
		"one spare is missing: one starts, and the rate doubles":     {board: "_WW....", settings: Settings{MinSpare: 2, MaxSpare: 3}, want: "start 3", rate: 2},
		"starting children count as spare":                           {board: "SSWW...", settings: Settings{MinSpare: 2, MaxSpare: 3}, rate: 1},
		"on demand never more than are missing":                      {board: "_WW....", settings: Settings{MinSpare: 3, MaxSpare: 4}, memory: Memory{Rate: 32}, want: "start 3, start 4", rate: 32},
		"Apache starts as many as the rate says":                     {board: "_WW....", settings: Settings{Spawn: SpawnApache, MinSpare: 3, MaxSpare: 4}, memory: Memory{Rate: 4}, want: "start 3, start 4, start 5, start 6", rate: 8},
		"a waiting request has a claim on a spare child":             {board: "SWW....", settings: Settings{MinSpare: 1, MaxSpare: 4}, memory: Memory{Rate: 4}, waiting: 2, want: "start 3, start 4", rate: 8},
		"the gaps of the board are filled first":                     {board: "W.W.W..", settings: Settings{MinSpare: 3, MaxSpare: 4}, memory: Memory{Rate: 4}, want: "start 1, start 3, start 5", rate: 8},
		"no more than the limit":                                     {board: "WWWWW..", settings: Settings{MinSpare: 5, MaxSpare: 6, Limit: 6}, memory: Memory{Rate: 4}, want: "start 5", rate: 8},
		"at the limit and all busy: full, and the rate falls back":   {board: "WWWWWWW", settings: Settings{MinSpare: 2, MaxSpare: 3}, memory: Memory{Rate: 8}, rate: 1, full: true},
		"at the limit with a draining child: the place is not free":  {board: "WWWWWWG", settings: Settings{MinSpare: 2, MaxSpare: 3}, rate: 1, full: true},
		"at the limit but one is idle: not full":                     {board: "_WWWWWW", settings: Settings{MinSpare: 2, MaxSpare: 3}, rate: 1},
		"was full, few are idle: the episode goes on":                {board: "_WWWWWW", settings: Settings{MinSpare: 2, MaxSpare: 3}, memory: Memory{Full: true}, rate: 1, full: true},
		"was full, enough are idle: the episode is over":             {board: "__WWWWW", settings: Settings{MinSpare: 2, MaxSpare: 3}, memory: Memory{Full: true}, rate: 1},
		"a board smaller than the limit is a limit":                  {board: "WW", settings: Settings{MinSpare: 2, MaxSpare: 3, Limit: 100}, rate: 1, full: true},
		"after a reload the rate doesn't double":                     {board: "WW.....", settings: Settings{MinSpare: 2, MaxSpare: 3}, memory: Memory{Rate: 2, Calm: 1}, want: "start 2, start 3", rate: 2},
		"in quarantine nothing starts":                               {board: "W......", settings: Settings{MinSpare: 2, MaxSpare: 3}, memory: Memory{Rate: 8, Score: blocked}, rate: 1},
		"when the score has fallen one child is tried":               {board: "W......", settings: Settings{MinSpare: 3, MaxSpare: 4}, memory: Memory{Rate: 8, Score: trial}, want: "start 1", rate: 1},
		"while one is tried no other is":                             {board: "S......", settings: Settings{MinSpare: 3, MaxSpare: 4}, memory: Memory{Rate: 8, Score: trial}, rate: 1},
		"quarantine doesn't keep children that are too many":         {board: "____...", settings: Settings{MinSpare: 1, MaxSpare: 2}, memory: Memory{Score: blocked}, want: "retire 0", rate: 1},
		"an empty board of a pool that wants no spare: nothing":      {board: ".......", settings: Settings{MinSpare: 0, MaxSpare: 1}, rate: 1},
		"an empty board of a pool that wants spare: the first start": {board: ".......", settings: Settings{MinSpare: 5, MaxSpare: 10}, want: "start 0", rate: 2},
	} {
		t.Run(name, func(t *testing.T) {
			if c.settings.Limit == 0 {
				c.settings.Limit = len(c.board)
			}
			actions, m := Maintain(boardOf(t, c.board), c.settings, c.memory, epoch, c.waiting)
			if got := text(actions); got != c.want || m.Rate != c.rate || m.Full != c.full {
				t.Errorf("Maintain(%q, %+v, %d waiting) = %q, rate %d, full %v; want %q, %d, %v",
					c.board, c.settings, c.waiting, got, m.Rate, m.Full, c.want, c.rate, c.full)
			}
		})
	}
}

func TestAfterAReloadTheRateDoublesOnlyWhenTheCalmIsOver(t *testing.T) {
	b, s, m := boardOf(t, "W"+strings.Repeat(".", 99)), Settings{MinSpare: 50, MaxSpare: 60, Limit: 100}, Memory{Calm: 10}
	for tick := 1; tick <= 12; tick++ {
		_, m = Maintain(b, s, m, epoch, 0)
		if want := max(1, 1<<max(0, tick-10)); m.Rate != want {
			t.Errorf("rate after tick %d = %d, want %d", tick, m.Rate, want)
		}
	}
}

func TestDemand(t *testing.T) {
	for name, c := range map[string]struct {
		board    string
		settings Settings
		memory   Memory
		waiting  int
		want     string
	}{
		"one waits: one starts":                             {board: "WW...", waiting: 1, want: "start 2"},
		"one waits and one is starting already":             {board: "WWS..", waiting: 1},
		"many wait: no more than the rate are starting":     {board: "WW...", waiting: 9, want: "start 2"},
		"many wait, a higher rate":                          {board: "WW...", waiting: 9, memory: Memory{Rate: 2}, want: "start 2, start 3"},
		"many wait, a higher rate, one is starting already": {board: "WWS..", waiting: 9, memory: Memory{Rate: 2}, want: "start 3"},
		"a full board":                      {board: "WWWWG", waiting: 9, memory: Memory{Rate: 8}},
		"quarantine":                        {board: "W....", waiting: 9, memory: Memory{Score: Score{points: 10, at: epoch, tripped: true}}},
		"an Apache pool waits for its tick": {board: "W....", waiting: 9, settings: Settings{Spawn: SpawnApache}},
	} {
		t.Run(name, func(t *testing.T) {
			c.settings.Limit = len(c.board)
			if got := text(Demand(boardOf(t, c.board), c.settings, c.memory, epoch, c.waiting)); got != c.want {
				t.Errorf("Demand(%q, rate %d, %d waiting) = %q, want %q", c.board, c.memory.Rate, c.waiting, got, c.want)
			}
		})
	}
}

func TestReplace(t *testing.T) {
	for name, c := range map[string]struct {
		board   string
		score   Score
		waiting int
		want    string
	}{
		"too few are spare: one starts":               {board: "_G...", want: "start 2"},
		"none is spare: still one":                    {board: "WG...", want: "start 2"},
		"enough are spare":                            {board: "__G.."},
		"enough are spare, but not for those waiting": {board: "SSG..", waiting: 1, want: "start 3"},
		"no place":   {board: "WWWWG"},
		"quarantine": {board: "WG...", score: Score{points: 10, at: epoch, tripped: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := Settings{MinSpare: 2, MaxSpare: 3, Limit: len(c.board)}
			if got := text(Replace(boardOf(t, c.board), s, Memory{Score: c.score}, epoch, c.waiting)); got != c.want {
				t.Errorf("Replace(%q, %d waiting) = %q, want %q", c.board, c.waiting, got, c.want)
			}
		})
	}
}

// FuzzMaintain lets a pool live through arbitrary events, a tick after each, and then leaves it alone.
func FuzzMaintain(f *testing.F) {
	f.Add(uint8(5), uint8(10), uint8(40), false, []byte("abcdefghijklmnopqrstuvwxyz"))
	f.Add(uint8(1), uint8(2), uint8(3), true, []byte{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11})
	f.Add(uint8(0), uint8(0), uint8(0), false, []byte{})
	f.Fuzz(func(t *testing.T, minSpare, maxSpare, limit uint8, apache bool, events []byte) {
		s := Settings{MinSpare: int(minSpare), MaxSpare: max(int(maxSpare), int(minSpare)+1), Limit: int(limit) + 1}
		if apache {
			s.Spawn = SpawnApache
		}
		b, m, now := make(Board, s.Limit), Memory{}, epoch
		tick := func(waiting int) {
			now = now.Add(time.Second)
			m = checkedTick(t, b, s, m, now, waiting)
		}
		for _, e := range events[:min(len(events), 200)] {
			place := int(e>>2) % len(b)
			switch cell := &b[place]; {
			case e&3 == 0 && cell.State == Starting, e&3 == 0 && cell.State == Busy:
				cell.State = Idle
			case e&3 == 1 && cell.State == Idle:
				cell.State = Busy
			case e&3 == 2 && cell.State != Empty:
				cell.State = Empty
				m.Score = m.Score.Died(now, true)
			}
			tick(int(e) % 7)
		}
		for range 300 {
			tick(0)
			for i := range b {
				switch b[i].State {
				case Starting, Busy:
					b[i].State = Idle
					m.Score = m.Score.Ready(now)
				case Draining:
					b[i].State = Empty
				}
			}
		}
		tally := b.tally()
		spare := tally[Starting] + tally[Idle]
		if spare > s.MaxSpare || spare < min(s.MinSpare, s.Limit) {
			t.Errorf("left alone, the pool has %d spare children; want %d to %d, limit %d", spare, s.MinSpare, s.MaxSpare, s.Limit)
		}
	})
}

// checkedTick applies one tick to b and checks what must hold of each.
func checkedTick(t *testing.T, b Board, s Settings, m Memory, now time.Time, waiting int) Memory {
	t.Helper()
	quarantined := m.Score.Quarantined(now)
	actions, m := Maintain(b, s, m, now, waiting)
	retired, started := 0, 0
	for _, a := range actions {
		switch cell := &b[a.Slot]; {
		case a.Kind == RetireChild && cell.State == Idle:
			cell.State, retired = Draining, retired+1
		case a.Kind == StartChild && cell.State == Empty:
			cell.State, started = Starting, started+1
		default:
			t.Fatalf("action %s on a child that is %s", text([]Action{a}), cell.State)
		}
		b[a.Slot].Since = now
	}
	tally := b.tally()
	switch {
	case tally.total() > s.Limit:
		t.Fatalf("%d children, limit %d", tally.total(), s.Limit)
	case retired > 1 || retired > 0 && started > 0:
		t.Fatalf("one tick retired %d and started %d", retired, started)
	case started > maxRate || quarantined && started > 1:
		t.Fatalf("one tick started %d, quarantined %v", started, quarantined)
	}
	return m
}
