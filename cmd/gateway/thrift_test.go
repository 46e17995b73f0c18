package main

import (
	"runtime"
	"testing"
)

func TestWhenMemoryIsReturned(t *testing.T) {
	const mb = 1 << 20
	rows := []struct {
		name        string
		before, now heap
		want        bool
	}{
		{"a burst has just ended", heap{allocated: 100 * mb}, heap{allocated: 100*mb + 10, live: 20 * mb, objects: 40 * mb}, true},
		{"room that a burst has left", heap{allocated: 100 * mb}, heap{allocated: 100 * mb, live: 2 * mb, objects: 2 * mb, free: 90 * mb}, true},
		{"the burst goes on", heap{allocated: 100 * mb}, heap{allocated: 102 * mb, live: 20 * mb, objects: 40 * mb}, false},
		{"little to return", heap{allocated: 100 * mb}, heap{allocated: 100 * mb, live: mb, objects: 3 * mb, free: 2 * mb}, false},
		{"little beside what is live", heap{allocated: 500 * mb}, heap{allocated: 500 * mb, live: 400 * mb, objects: 440 * mb, free: 50 * mb}, false},
		{"returned already", heap{allocated: 100 * mb}, heap{allocated: 100 * mb, live: 20 * mb, objects: 20 * mb}, false},
		{"fewer objects than were live, as after a sweep", heap{}, heap{live: 20 * mb, objects: 10 * mb}, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if got := worthReturning(row.before, row.now); got != row.want {
				t.Errorf("worthReturning(%+v, %+v) = %v, want %v", row.before, row.now, got, row.want)
			}
		})
	}
}

func TestTheHeapIsRead(t *testing.T) {
	runtime.GC()
	if h := readHeap(); h.allocated == 0 || h.live == 0 || h.objects == 0 {
		t.Errorf("readHeap() = %+v, want more than nothing", h)
	}
}
