package proxy

import (
	"hash/maphash"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gateway/routes"
)

const (
	limitShards   = 16
	limitKeys     = 4096 // of a shard: about 200 KiB
	limitEviction = 32   // keys that are looked at for one to forget
)

// limiter bounds how often requests of the same key come, by the virtual scheduling of GCRA: each key has a time when its next
// request is due. It is safe for concurrent use.
type limiter struct {
	config *routes.RateLimit
	seed   maphash.Seed // secret, so that nobody makes up keys that collide
	shards [limitShards]limitShard

	refused atomic.Uint64
}

type limitShard struct {
	mu  sync.Mutex
	due map[uint64]time.Time // by the hash of the key; a time that has passed says nothing
}

func newLimiter(c *routes.RateLimit) *limiter {
	l := &limiter{config: c, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].due = map[uint64]time.Time{}
	}
	return l
}

// take counts a request in and returns how early it comes, or, if that is too early, after which time another one would not.
func (l *limiter) take(key string, now time.Time) (early time.Duration, ok bool) {
	h := maphash.String(l.seed, key)
	s := &l.shards[h%limitShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	due, known := s.due[h]
	if due.Before(now) {
		due = now
	}
	early = due.Sub(now)
	if over := early - time.Duration(l.config.Burst)*l.config.Interval; over > 0 {
		return over, false
	}
	if !known && len(s.due) >= limitKeys {
		s.forget(now)
	}
	s.due[h] = due.Add(l.config.Interval)
	return early, true
}

// forget makes room: it drops what has passed among some keys, and at least that of them which is due first.
func (s *limitShard) forget(now time.Time) {
	looked, first, soonest := 0, uint64(0), time.Time{}
	for key, due := range s.due { // in another order each time
		if !due.After(now) {
			delete(s.due, key)
		}
		if looked == 0 || due.Before(soonest) {
			first, soonest = key, due
		}
		if looked++; looked == limitEviction {
			break
		}
	}
	delete(s.due, first)
}

// LimitStatus is one entry of `rate_limits` in `gateway status -json`: the limits that a site or a route has.
type LimitStatus struct {
	Site    string `json:"site"`            // the first of its names
	Route   string `json:"route,omitempty"` // "site.hcl:12"; empty: they are the site's
	Refused uint64 `json:"refused"`         // requests
}

// limitPlace is where limits were written.
type limitPlace struct {
	site, route string
	limits      []*limiter
}

// addLimiters makes what the limits of a site, or of its route on a line, need at work.
func (s *Server) addLimiters(site *routes.Site, line string, limits []routes.RateLimit) {
	if len(limits) == 0 {
		return
	}
	place := limitPlace{site: site.Names[0], route: line}
	for i := range limits {
		l := newLimiter(&limits[i])
		s.limiters[&limits[i]] = l
		place.limits = append(place.limits, l)
	}
	s.limited = append(s.limited, place)
}

// RateLimits tells what the limits of all sites and routes have done, in the order of the configuration.
func (s *Server) RateLimits() []LimitStatus {
	list := []LimitStatus{}
	for _, place := range s.limited {
		st := LimitStatus{Site: place.site, Route: place.route}
		for _, l := range place.limits {
			st.Refused += l.refused.Load()
		}
		list = append(list, st)
	}
	return list
}

// limit holds the request against limits. It reports false when the client has its answer.
func (s *Server) limit(w http.ResponseWriter, r *http.Request, x *exchange, limits []routes.RateLimit) bool {
	for i := range limits {
		c := &limits[i]
		early, ok := s.limiters[c].take(x.facts(r).keyOf(c.Key), time.Now())
		switch {
		case !ok:
			s.limiters[c].refused.Add(1)
			w.Header().Set("Retry-After", strconv.FormatInt(int64((early+time.Second-1)/time.Second), 10))
			s.fail(w, x, http.StatusTooManyRequests, nil)
			return false
		case c.Delay && early > 0:
			if sleep(r.Context(), early); r.Context().Err() != nil {
				w.WriteHeader(statusClientGone)
				return false
			}
		}
	}
	return true
}
