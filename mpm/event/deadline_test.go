package event

import (
	"testing"
	"time"
)

// TestDeadlines: the deadline of a write that waits for the client holds whatever the reader of the same connection sets.
func TestDeadlines(t *testing.T) {
	c := &Conn{entry: new(entry), loop: &loop{engine: &Engine{start: time.Now()}}}
	for _, step := range []struct {
		name string
		do   func()
		want uint32 // engine seconds
	}{
		{"a reader's deadline counts", func() { c.SetTimeout(20 * time.Second) }, 22},
		{"the earlier one of a write counts", func() { c.setStall(10 * time.Second) }, 12},
		{"the reader's end does not touch it", func() { c.SetTimeout(0) }, 12},
		{"the next reader's earlier one counts", func() { c.SetTimeout(5 * time.Second) }, 7},
		{"with the write its deadline goes", func() { c.setStall(0) }, 7},
		{"and with the reader its own", func() { c.SetTimeout(0) }, 0},
	} {
		step.do()
		if got := c.entry.deadline.Load(); got != step.want {
			t.Errorf("%s: the deadline is %d, want %d", step.name, got, step.want)
		}
	}
}
