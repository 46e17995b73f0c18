package proxy

import (
	"cmp"
	"hash/fnv"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"

	"gateway/routes"
)

// balancer chooses among servers. It is safe for concurrent use.
type balancer struct {
	kind routes.Balance
	key  string // see routes.Proxy

	mu sync.Mutex // guards the credit of the servers
}

// choose returns one of the servers, of which there must be at least one.
func (b *balancer) choose(servers []*upstream, c *call) *upstream {
	switch b.kind {
	case routes.LeastConnections:
		return b.turn(idlest(servers))
	case routes.Hash:
		if key := b.keyOf(c); key != "" {
			return slices.MaxFunc(servers, func(s, t *upstream) int { return cmp.Compare(s.rank(key), t.rank(key)) })
		}
	case routes.RoundRobin:
	}
	return b.turn(servers)
}

// turn is nginx's smooth weighted round robin: each server earns its weight, and the richest pays for all. So the turns of a heavy
// one are spread among those of the others.
func (b *balancer) turn(servers []*upstream) (richest *upstream) {
	if len(servers) == 1 {
		return servers[0]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	total := 0
	for _, s := range servers {
		s.credit += s.weight
		total += s.weight
		if richest == nil || s.credit > richest.credit {
			richest = s
		}
	}
	richest.credit -= total
	return richest
}

// idlest are the servers with the fewest requests for their weight.
func idlest(servers []*upstream) (list []*upstream) {
	for _, s := range servers {
		if len(list) > 0 {
			mine, least := s.active.Load()*int64(list[0].weight), list[0].active.Load()*int64(s.weight)
			if mine > least {
				continue
			}
			if mine < least {
				list = list[:0]
			}
		}
		list = append(list, s)
	}
	return list
}

// rank is how much a server is wanted for a key (weighted rendezvous hashing): when one goes or comes, only its keys move.
func (s *upstream) rank(key string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.Network + s.Address + s.base + "\x00" + key)) // it never fails
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd // FNV's high bits hardly depend on the last bytes: MurmurHash3's end mixes them
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(s.weight) / -math.Log((float64(x>>11)+0.5)/(1<<53))
}

// keyOf is what of a request decides; empty: it has nothing of the kind.
func (b *balancer) keyOf(c *call) string {
	kind, name, _ := strings.Cut(b.key, ":")
	switch kind {
	case "remote_ip":
		if c.x.remote.IsValid() {
			return c.x.remoteIP()
		}
	case "uri":
		return c.target("")
	case "header":
		return c.r.Header.Get(name)
	case "cookie":
		return cookieOf(c.r, name)
	}
	return ""
}

// next chooses a server for a request that those tried have not answered, and counts the request as one of its own until leave is
// called. Servers that are well come first, then backups, then those that have failed lately. nil: no server is left.
func (u *upstreams) next(c *call, tried []*upstream) *upstream {
	if s := u.servers[0]; len(u.servers) == 1 {
		if len(tried) > 0 || s.ill.Load() || !s.enter() {
			return nil
		}
		return s
	}
	var room [8]*upstream
	for _, may := range [...]func(*upstream) bool{
		func(s *upstream) bool { return !s.Backup && s.isWell() },
		func(s *upstream) bool { return s.Backup && s.isWell() },
		func(s *upstream) bool { return !s.ill.Load() },
	} {
		list := room[:0]
		for _, s := range u.servers {
			if !slices.Contains(tried, s) && may(s) {
				list = append(list, s)
			}
		}
		for len(list) > 0 {
			s := u.balancer.choose(list, c)
			if s.enter() {
				return s
			}
			list = slices.DeleteFunc(list, func(t *upstream) bool { return t == s })
		}
	}
	return nil
}

// isIdempotent: the methods of RFC 9110 §9.2.2 that are served; a request of theirs done twice has the effects of one.
func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
