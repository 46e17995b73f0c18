package mpm

import (
	"testing"
	"time"

	"gateway/routes"
)

func TestScore(t *testing.T) {
	type step func(Score, time.Time) Score
	crash := func(s Score, now time.Time) Score { return s.Died(now, true) }
	stillborn := func(s Score, now time.Time) Score { return s.Died(now, false) }
	ready, served := Score.Ready, Score.Served
	for name, c := range map[string]struct {
		steps       []step
		later       time.Duration
		quarantined bool
		allow       int // of 5, none starting
		nextTry     time.Duration
	}{
		"no failure":                             {allow: 5},
		"four crashes at once":                   {steps: []step{crash, crash, crash, crash}, allow: 5},
		"five crashes at once":                   {steps: []step{crash, crash, crash, crash, crash}, quarantined: true},
		"four that never got ready":              {steps: []step{stillborn, stillborn, stillborn, stillborn}, quarantined: true, nextTry: 2 * time.Second},
		"the same, before its next try":          {steps: []step{stillborn, stillborn, stillborn, stillborn}, later: time.Second, quarantined: true, nextTry: time.Second},
		"the same, later: one trial":             {steps: []step{stillborn, stillborn, stillborn, stillborn}, later: 3 * time.Second, quarantined: true, allow: 1},
		"the same, forgotten":                    {steps: []step{stillborn, stillborn, stillborn, stillborn}, later: 12 * time.Second, allow: 5},
		"a trial that fails":                     {steps: []step{stillborn, stillborn, stillborn, stillborn, stillborn}, later: 3 * time.Second, quarantined: true, nextTry: 2 * time.Second},
		"five crashes, then one gets ready":      {steps: []step{crash, crash, crash, crash, crash, ready}, quarantined: true},
		"the same a second later":                {steps: []step{crash, crash, crash, crash, crash, ready}, later: time.Second, quarantined: true, allow: 1},
		"five crashes, each new child served":    {steps: []step{crash, served, crash, served, crash, served, crash, served, crash, served}, allow: 5},
		"what was served before is no credit":    {steps: []step{served, served, served, crash, crash, crash, crash, crash}, quarantined: true},
		"one that got ready is no trial anymore": {steps: []step{stillborn, stillborn, stillborn, stillborn, served, served, ready}, allow: 5},
	} {
		t.Run(name, func(t *testing.T) {
			var s Score
			for _, step := range c.steps {
				s = step(s, epoch)
			}
			now := epoch.Add(c.later)
			if got := s.Quarantined(now); got != c.quarantined {
				t.Errorf("Quarantined() = %v, want %v", got, c.quarantined)
			}
			if got := s.Allow(now, 0, 5); got != c.allow {
				t.Errorf("Allow(starting 0, 5) = %d, want %d", got, c.allow)
			}
			if got := s.NextTry(now); got != c.nextTry {
				t.Errorf("NextTry() = %v, want %v", got, c.nextTry)
			}
		})
	}
}

// A pool whose command fails at once gets its chance by tick, and by demand all the time.
func TestAPoolThatCannotStartDoesNotForkBomb(t *testing.T) {
	s := Settings{Spawn: routes.SpawnDemand, Threads: 1, MinSpare: 5, MaxSpare: 10, Limit: 256}
	b, m, forks := make(Board, 256), Memory{}, 0
	fail := func(actions []Action, now time.Time) {
		for range actions {
			forks++
			m.Score = m.Score.Died(now, false)
		}
	}
	const minute = 60
	for second := range minute {
		now := epoch.Add(time.Duration(second) * time.Second)
		var actions []Action
		actions, m = Maintain(b, s, m, now, 100)
		fail(actions, now)
		for ms := range 1000 {
			now := now.Add(time.Duration(ms) * time.Millisecond)
			fail(Demand(b, s, m, now, 100), now)
		}
	}
	if forks < minute/4 || forks > minute/2 {
		t.Errorf("%d starts in a minute; want about one in three seconds", forks)
	}
}
