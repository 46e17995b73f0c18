package proxy

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"gateway/mpm"
)

// responseTimes are the times that the books tell apart.
var responseTimes = [...]time.Duration{
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// responses counts the responses to the requests of a pool. Those from memory are in the books of the pool itself, see
// [mpm.Pool.CountAnswered].
type responses struct {
	classes      [len(responseClasses)]atomic.Uint64
	times        [len(responseTimes) + 1]atomic.Uint64
	microseconds atomic.Uint64 // all together
}

// responseClasses names the statuses by their first digit. Without a status the connection, or the stream, was ended without a word.
var responseClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// count counts a response of a pool, whose books it returns; nil: there are none. s may be nil.
func (s *Server) count(pool string, status int) *responses {
	if s == nil {
		return nil
	}
	c := s.responses[pool]
	if class := status / 100; c != nil && class < len(c.classes) {
		c.classes[class].Add(1)
	}
	return c
}

// countTimed is count for a response that took so long, from the head of its request to its last byte.
func (s *Server) countTimed(pool string, status int, took time.Duration) {
	if c := s.count(pool, status); c != nil {
		c.time(took)
	}
}

// time enters how long a response took, from the head of its request to its last byte.
func (c *responses) time(took time.Duration) {
	i := 0
	for i < len(responseTimes) && took > responseTimes[i] {
		i++
	}
	c.times[i].Add(1)
	c.microseconds.Add(uint64(max(took, 0) / time.Microsecond))
}

// ResponseStatus is one entry of `responses` in `gateway status -json`.
type ResponseStatus struct {
	Pool    string            `json:"pool"`    // empty: of requests that came to none, as refused and redirected ones
	Classes map[string]uint64 `json:"classes"` // "2xx" and so on; "none": ended without a response
	Times   mpm.Histogram     `json:"times"`   // from the head of the request to the last byte; not of those from memory
}

// Responses tells of all pools, in the order of their names.
func (s *Server) Responses() []ResponseStatus {
	list := make([]ResponseStatus, 0, len(s.responses))
	for _, name := range slices.Sorted(maps.Keys(s.responses)) {
		st := s.responses[name].status(name)
		if p := s.pools[name]; p.Pool != nil {
			hot, unchanged := p.Answered()
			st.Classes["2xx"] += hot - unchanged
			st.Classes["3xx"] += unchanged
		}
		list = append(list, st)
	}
	return list
}

func (c *responses) status(pool string) ResponseStatus {
	st := ResponseStatus{Pool: pool, Classes: make(map[string]uint64, len(c.classes))}
	for i, class := range responseClasses {
		st.Classes[class] = c.classes[i].Load()
	}
	st.Times.Seconds = (time.Duration(c.microseconds.Load()) * time.Microsecond).Seconds()
	for i, bound := range responseTimes {
		st.Times.Count += c.times[i].Load()
		st.Times.Buckets = append(st.Times.Buckets, mpm.Bucket{UpTo: bound.Seconds(), Count: st.Times.Count})
	}
	st.Times.Count += c.times[len(responseTimes)].Load()
	return st
}
