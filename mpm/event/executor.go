package event

import "sync/atomic"

// idleExecutors is how many goroutines of a loop wait for the next connection instead of ending. A new goroutine begins with a
// small stack, and growing that costs a request more than anything else it does before its handler runs.
const idleExecutors = 64

// executors are the goroutines that own connections of one loop while these are served.
type executors struct {
	jobs chan *Conn   // unbuffered: a send succeeds if an executor waits. Closed by the loop, its only sender
	idle atomic.Int32 // executors that wait or are about to
}

func newExecutors() executors { return executors{jobs: make(chan *Conn)} }

// run has an idle executor serve c, or a new one.
func (x *executors) run(c *Conn) {
	select {
	case x.jobs <- c:
	default:
		c.loop.engine.done.Add(1)
		go x.work(c) // ends with the loop, or when enough others are idle
	}
}

func (x *executors) work(c *Conn) {
	defer c.loop.engine.done.Done()
	for open := true; open; {
		c.serve()
		if x.idle.Add(1) > idleExecutors {
			x.idle.Add(-1)
			return
		}
		c, open = <-x.jobs
		x.idle.Add(-1)
	}
}
