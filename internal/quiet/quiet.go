// Package quiet holds back log messages that somebody else can cause again and again.
package quiet

import (
	"sync"
	"time"
)

// Limiter lets a repeated message through once in a while and counts the rest. The zero value has let none through. Safe for
// concurrent use.
type Limiter struct {
	mu   sync.Mutex // guards what follows
	next time.Time  // until then nothing is logged
	held int        // since the last that was
}

// Pass reports whether a message may be logged now, and how many were held back since the last. After one that may, nothing
// passes for as long as every.
func (l *Limiter) Pass(now time.Time, every time.Duration) (held int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		l.held++
		return 0, false
	}
	held, l.held = l.held, 0
	l.next = now.Add(every)
	return held, true
}
