package proxy

import (
	"net/netip"
	"sync"
)

// shares deals a number of places out to clients: each may have as many as are free then. So one that takes all it can get has half
// of them, two have a third each, and whoever comes next finds room. Safe for concurrent use.
type shares struct {
	mu    sync.Mutex
	free  int
	taken map[netip.Addr]int // by client; nobody has none
}

func newShares(places int) *shares {
	return &shares{free: places, taken: make(map[netip.Addr]int)}
}

// take reports whether the client gets n places, which it has to give back with put.
func (s *shares) take(client netip.Addr, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.taken[client]
	if had+n > s.free {
		return false
	}
	s.free -= n
	s.taken[client] = had + n
	return true
}

func (s *shares) put(client netip.Addr, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	if s.taken[client] -= n; s.taken[client] == 0 {
		delete(s.taken, client)
	}
}
