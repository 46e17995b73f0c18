package mpm

import (
	"reflect"
	"testing"
	"time"
)

func TestEveryWaitIsInItsBucket(t *testing.T) {
	last := 0
	for us := range int64(1 << 20) {
		d := time.Duration(us) * time.Microsecond
		b := waitBucket(d)
		bound := waitBound(b)
		if b < last || b > last+1 || bound < d || bound > d+d/4 {
			t.Fatalf("%v is in bucket %d up to %v, after bucket %d", d, b, bound, last)
		}
		last = b
	}
	for _, d := range []time.Duration{time.Hour, 1<<63 - 1} {
		if got := waitBucket(d); got != waitBuckets-1 {
			t.Errorf("%v is in bucket %d, want the last", d, got)
		}
	}
	if got := waitBucket(-time.Second); got != 0 {
		t.Errorf("a negative wait, as of a clock that jumped, is in bucket %d", got)
	}
}

func TestWaits(t *testing.T) {
	add := func(w *waits, n int, d time.Duration) {
		for range n {
			w.add(d)
		}
	}
	for name, c := range map[string]struct {
		fill          func(*waits)
		p50, p99, max time.Duration
	}{
		"no requests":              {fill: func(*waits) {}},
		"nobody waited":            {fill: func(w *waits) { add(w, 1000, 0) }},
		"one request":              {fill: func(w *waits) { add(w, 1, 7*time.Second) }, p50: 7 * time.Second, p99: 7 * time.Second, max: 7 * time.Second},
		"one of hundred waited":    {fill: func(w *waits) { add(w, 99, 0); add(w, 1, time.Second) }, max: time.Second},
		"two of hundred waited":    {fill: func(w *waits) { add(w, 98, 0); add(w, 2, time.Second) }, p99: time.Second, max: time.Second},
		"longer than any bucket":   {fill: func(w *waits) { add(w, 1, time.Hour) }, p50: waitBound(waitBuckets - 1), p99: waitBound(waitBuckets - 1), max: time.Hour},
		"slices of one minute":     {fill: func(w *waits) { add(w, 1, time.Second); advance(w, waitSlices-1); add(w, 99, 0) }, max: time.Second},
		"what is older is gone":    {fill: func(w *waits) { add(w, 1, time.Second); advance(w, waitSlices) }},
		"and gone when it is new":  {fill: func(w *waits) { add(w, 1, time.Second); advance(w, waitSlices); add(w, 1, 2*time.Microsecond) }, p50: 2 * time.Microsecond, p99: 2 * time.Microsecond, max: 2 * time.Microsecond},
		"less than a microsecond":  {fill: func(w *waits) { add(w, 1, 999) }, max: 999},
		"a bucket above the value": {fill: func(w *waits) { add(w, 2, 9*time.Microsecond); add(w, 1, time.Millisecond) }, p50: 9 * time.Microsecond, p99: time.Millisecond, max: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := new(waits)
			c.fill(w)
			if p50, p99, longest := w.summary(); p50 != c.p50 || p99 != c.p99 || longest != c.max {
				t.Errorf("summary() = %v, %v, %v; want %v, %v, %v", p50, p99, longest, c.p50, c.p99, c.max)
			}
		})
	}
}

func TestHistogramOfAllWaits(t *testing.T) {
	w := new(waits)
	for _, d := range []time.Duration{0, time.Millisecond, 1024 * time.Microsecond, 2 * time.Second, 2 * time.Minute} {
		w.add(d)
		advance(w, 7) // the first ones are older than a minute
	}
	got := w.histogram()
	want := Histogram{Count: 5, Seconds: 122.002024, Buckets: []Bucket{
		{0.001024, 2}, {0.004096, 3}, {0.016384, 3}, {0.065536, 3}, {0.262144, 3}, {1.048576, 3}, {4.194304, 4}, {16.777216, 4}, {67.108864, 4},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("histogram() = %+v, want %+v", got, want)
	}
}

func advance(w *waits, slices int) {
	for range slices {
		w.next()
	}
}

func TestWaitsCostNoMemory(t *testing.T) {
	w := new(waits)
	if n := testing.AllocsPerRun(1000, func() { w.add(time.Second) }); n > 0 {
		t.Errorf("add allocates %v times", n)
	}
}
