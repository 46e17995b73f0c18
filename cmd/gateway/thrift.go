package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// thriftInterval is how often the front looks at its memory, and the shortest time between two returns of it.
	thriftInterval = time.Second
	quietBytes     = 1 << 20 // allocated in one interval at most when the front is quiet
	spareBytes     = 4 << 20 // not worth a return
)

// heap is what the collector knows of this process, in bytes.
type heap struct {
	allocated uint64 // since the start
	live      uint64 // as the last collection found
	objects   uint64 // live, or not collected yet
	free      uint64 // kept from the kernel for later
}

// thrift gives memory back to the kernel when a burst is over. Without it the garbage of the last burst, and the room it took,
// stay until the next one, and idle connections seem to cost twice what they do. It ends with the process.
func thrift() {
	before := readHeap()
	for range time.Tick(thriftInterval) {
		now := readHeap()
		if worthReturning(before, now) {
			debug.FreeOSMemory()
			now = readHeap()
		}
		before = now
	}
}

// worthReturning reports whether nothing happens, and more than a quarter of what is in use is in use for nothing.
func worthReturning(before, now heap) bool {
	spare := now.objects - min(now.live, now.objects) + now.free
	return now.allocated-before.allocated < quietBytes && spare > max(spareBytes, now.live/4)
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	return heap{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
}
