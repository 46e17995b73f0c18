package mpm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gateway/routes"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// boardOf reads a scoreboard with a letter for each child; a digit is a child of several threads of which so many are busy. A
// place further left has been in its state longer.
func boardOf(t testing.TB, letters string) Board {
	t.Helper()
	b := make(Board, len(letters))
	for i := range b {
		b[i] = cellOf(t, letters[i])
		b[i].Since = epoch.Add(time.Duration(i) * time.Second)
	}
	return b
}

func cellOf(t testing.TB, letter byte) Cell {
	t.Helper()
	if letter >= '1' && letter <= '9' {
		return Cell{State: Busy, Busy: int(letter - '0')}
	}
	for s := range State(len(states)) {
		if s.Letter() == letter {
			c := Cell{State: s}
			if s == Busy {
				c.Busy = 1
			}
			return c
		}
	}
	t.Fatalf("no state has the letter %q", letter)
	return Cell{}
}

// complete fills in what a row does not say: demand, one thread, no other limit than the board.
func (s Settings) complete(b Board) Settings {
	if s.Spawn == "" {
		s.Spawn = routes.SpawnDemand
	}
	if s.Limit == 0 {
		s.Limit = len(b)
	}
	s.Threads = max(s.Threads, 1)
	return s
}

func text(actions []Action) string {
	var words []string
	for _, a := range actions {
		words = append(words, fmt.Sprint(map[ActionKind]string{StartChild: "start ", RetireChild: "retire ", ReplaceChild: "replace "}[a.Kind], a.Slot))
	}
	return strings.Join(words, ", ")
}

// The table of prefork.c for min_spare 5, all children busy and staying busy.
func TestApachePoolDoublesItsStartsEachTick(t *testing.T) {
	s := Settings{Spawn: routes.SpawnApache, Threads: 1, MinSpare: 5, MaxSpare: 10, Limit: 256}
	b := make(Board, 256)
	for i := range 5 {
		b[i].State, b[i].Busy = Busy, 1
	}
	var m Memory
	for tick, want := range []int{6, 8, 12, 20, 36, 68, 100, 132, 164, 196, 228, 256} {
		var actions []Action
		actions, m = Maintain(b, s, m, epoch, 0)
		for _, a := range actions {
			b[a.Slot].State, b[a.Slot].Busy = Busy, 1
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
		"Apache starts as many as the rate says":                     {board: "_WW....", settings: Settings{Spawn: routes.SpawnApache, MinSpare: 3, MaxSpare: 4}, memory: Memory{Rate: 4}, want: "start 3, start 4, start 5, start 6", rate: 8},
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
			b := boardOf(t, c.board)
			actions, m := Maintain(b, c.settings.complete(b), c.memory, epoch, c.waiting)
			if got := text(actions); got != c.want || m.Rate != c.rate || m.Full != c.full {
				t.Errorf("Maintain(%q, %+v, %d waiting) = %q, rate %d, full %v; want %q, %d, %v",
					c.board, c.settings, c.waiting, got, m.Rate, m.Full, c.want, c.rate, c.full)
			}
		})
	}
}

func TestAfterAReloadTheRateDoublesOnlyWhenTheCalmIsOver(t *testing.T) {
	b, m := boardOf(t, "W"+strings.Repeat(".", 99)), Memory{Calm: 10}
	s := Settings{MinSpare: 50, MaxSpare: 60}.complete(b)
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
		"an Apache pool waits for its tick": {board: "W....", waiting: 9, settings: Settings{Spawn: routes.SpawnApache}},
	} {
		t.Run(name, func(t *testing.T) {
			b := boardOf(t, c.board)
			if got := text(Demand(b, c.settings.complete(b), c.memory, epoch, c.waiting)); got != c.want {
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
			b := boardOf(t, c.board)
			s := Settings{MinSpare: 2, MaxSpare: 3}.complete(b)
			if got := text(Replace(b, s, Memory{Score: c.score}, epoch, c.waiting)); got != c.want {
				t.Errorf("Replace(%q, %d waiting) = %q, want %q", c.board, c.waiting, got, c.want)
			}
		})
	}
}
