package mpm

import (
	"math/bits"
	"time"
)

const (
	ticksPerSlice = 5
	waitSlices    = 12 // of five seconds each: the last minute, the current slice included

	waitSteps   = 4      // buckets for each doubling of the time
	waitBuckets = 4 * 30 // 2^30 us are 18 minutes, more than any queue timeout that makes sense; what is longer goes in the last
	waitUnit    = time.Microsecond
)

// waits records how long requests waited for a slot, of the last minute in detail, without allocating. Guarded by Pool.mu.
type waits struct {
	slices  [waitSlices]waitSlice
	current int
	older   [waitBuckets]uint64 // of the slices that were given up
	seconds float64             // of all waits together
}

// waitSlice is a histogram. Bucket 0 is of requests that did not wait; the others grow by a quarter of a power of two.
type waitSlice struct {
	count [waitBuckets]uint32
	max   time.Duration
}

func (s *waitSlice) addTo(sum *[waitBuckets]uint64) {
	for b, n := range s.count {
		sum[b] += uint64(n)
	}
}

func (w *waits) add(d time.Duration) {
	s := &w.slices[w.current]
	s.count[waitBucket(d)]++
	s.max = max(s.max, d)
	w.seconds += d.Seconds()
}

// next begins a new slice in place of the oldest.
func (w *waits) next() {
	w.current = (w.current + 1) % waitSlices
	w.slices[w.current].addTo(&w.older)
	w.slices[w.current] = waitSlice{}
}

// waitBucket is the bucket of a time.
func waitBucket(d time.Duration) int {
	us := uint64(max(0, d) / waitUnit)
	if us < waitSteps {
		return int(us)
	}
	power := bits.Len64(us) - 1 // at least 2
	return min((power-1)*waitSteps+int(us>>(power-2))%waitSteps, waitBuckets-1)
}

// waitBound is the longest time in a bucket.
func waitBound(bucket int) time.Duration {
	if bucket < waitSteps {
		return time.Duration(bucket) * waitUnit
	}
	power, step := bucket/waitSteps+1, bucket%waitSteps
	return (time.Duration(waitSteps+step+1)<<(power-2) - 1) * waitUnit
}

// summary returns the time that half of the requests, and that 99 % of them, did not wait longer than, to a quarter, and the longest.
func (w *waits) summary() (p50, p99, longest time.Duration) {
	var sum [waitBuckets]uint64
	total := uint64(0)
	for i := range w.slices {
		s := &w.slices[i]
		longest = max(longest, s.max)
		s.addTo(&sum)
	}
	for _, n := range sum {
		total += n
	}
	quantile := func(percent uint64) time.Duration {
		rank := (total*percent + 99) / 100
		for b, seen := 0, uint64(0); b < waitBuckets; b++ {
			if seen += sum[b]; seen >= rank {
				return min(waitBound(b), longest)
			}
		}
		return longest
	}
	return quantile(50), quantile(99), longest
}

// The times that [waits.histogram] tells apart: 2^10 us (a millisecond) to 2^26 us (67 s), each four times the one before.
const (
	firstWaitPower = 10
	lastWaitPower  = 26
	waitPowerStep  = 2
)

// histogram tells of all waits since the pool was made.
func (w *waits) histogram() Histogram {
	count := w.older
	for i := range w.slices {
		w.slices[i].addTo(&count)
	}
	h := Histogram{Seconds: w.seconds}
	power := firstWaitPower
	for b, n := range count {
		if power <= lastWaitPower && b == waitBucket(waitUnit<<power) {
			h.Buckets = append(h.Buckets, Bucket{(waitUnit << power).Seconds(), h.Count})
			power += waitPowerStep
		}
		h.Count += n
	}
	return h
}
