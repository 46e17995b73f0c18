package quiet

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	const period = 10 * time.Second
	var l Limiter
	begun := time.Unix(1_000_000, 0)
	for i, tt := range []struct {
		after time.Duration
		held  int
		ok    bool
	}{
		{0, 0, true},
		{time.Second, 0, false},
		{period - 1, 0, false},
		{period, 2, true},
		{2 * period, 0, true},
	} {
		if n, ok := l.Pass(begun.Add(tt.after), period); n != tt.held || ok != tt.ok {
			t.Errorf("step %d: Pass(%v) = %d, %v; want %d, %v", i, tt.after, n, ok, tt.held, tt.ok)
		}
	}
}
