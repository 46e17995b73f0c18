package mpm

import "time"

// The points of mod_fcgid's score.
const (
	startPoints   = 1  // a start; charged only if its child fails before it is ready, or quick growth would look like a crash loop
	deathPoints   = 2  // a death that nobody asked for
	quarantinedAt = 10 // from here on the pool starts nothing; a point is forgotten each second
)

// Score tells children that crash in a loop from one that crashed. It is a value: each method that changes it returns the
// changed one. The zero Score is that of a pool without failures.
type Score struct {
	points  float64
	at      time.Time // when points was right
	tripped bool      // reached quarantinedAt; until a child gets ready or all is forgotten, one child at a time is tried
}

// now returns the score with what was forgotten since it last changed.
func (s Score) now(now time.Time) Score {
	s.points = max(0, s.points-now.Sub(s.at).Seconds())
	s.at = now
	s.tripped = s.tripped && s.points > 0
	return s
}

func (s Score) add(now time.Time, points float64) Score {
	s = s.now(now)
	s.points = max(0, s.points+points)
	s.tripped = s.tripped || s.points >= quarantinedAt
	return s
}

// Died charges a child that ended and was not asked to, or could not be started at all.
func (s Score) Died(now time.Time, wasReady bool) Score {
	if wasReady {
		return s.add(now, deathPoints)
	}
	return s.add(now, startPoints+deathPoints)
}

// Ready notes that a child came up: starting works, so the next starts are no longer trials.
func (s Score) Ready(now time.Time) Score {
	s = s.now(now)
	s.tripped = s.points >= quarantinedAt
	return s
}

// Served pays a death back with a request that was finished. A pool that loses children under load and still serves is replaced
// at the pace of its requests; one whose children live but serve nothing is not.
func (s Score) Served(now time.Time) Score { return s.add(now, -deathPoints) }

// Quarantined reports whether children fail so often that starting more would only be a fork bomb.
func (s Score) Quarantined(now time.Time) bool {
	s = s.now(now)
	return s.tripped || s.points >= quarantinedAt
}

// Allow returns how many of n children may start while others are starting: all, or in quarantine one at a time and none
// until the score has fallen.
func (s Score) Allow(now time.Time, starting, n int) int {
	switch s = s.now(now); {
	case s.points >= quarantinedAt:
		return 0
	case !s.tripped:
		return n
	case starting > 0:
		return 0
	default:
		return min(n, 1)
	}
}

// NextTry is how long nothing will be started.
func (s Score) NextTry(now time.Time) time.Duration {
	return time.Duration(max(0, s.now(now).points-quarantinedAt) * float64(time.Second))
}
