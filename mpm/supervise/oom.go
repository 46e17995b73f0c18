package supervise

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

// oomScore is added to the supervisor's own oom_score_adj for children: when memory is short, one of them goes first.
const oomScore = 200

// maxOOMScore is the kernel's OOM_SCORE_ADJ_MAX.
const maxOOMScore = 1000

// exposeToOOM raises the oom_score_adj of a child. Where that is not allowed the kernel chooses by size alone.
func exposeToOOM(pid int) {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	score, err := strconv.Atoi(string(bytes.TrimSpace(own)))
	if err != nil {
		return
	}
	score = min(score+oomScore, maxOOMScore)
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0) //nolint:errcheck // see above
}

// oomCredit is how long after its kill the kernel's count may still be seen at the reaping of a child.
const oomCredit = time.Second

// oomWatch tells whether the kernel has killed for want of memory, from a count that the child does not have for itself: that of
// the supervisor's control group, or of the machine. So it is asked only about a child that got a SIGKILL which nobody sent.
type oomWatch struct {
	read   func() uint64
	seen   uint64
	credit uint64 // kills seen and not yet laid to a child
	until  time.Time
}

func newOOMWatch() oomWatch {
	read := func() uint64 { return countIn("/proc/vmstat", "oom_kill") }
	if own, err := ownGroup(); err == nil {
		events := own + "/memory.events"
		if _, err := os.Stat(events); err == nil {
			read = func() uint64 { return countIn(events, "oom_kill") }
		}
	}
	return oomWatch{read: read, seen: read()}
}

// look takes in the count. It is called now and then, so that an old kill is never laid to a child.
func (w *oomWatch) look(now time.Time) {
	if now.After(w.until) {
		w.credit = 0
	}
	if n := w.read(); n > w.seen {
		w.credit += n - w.seen
		w.seen, w.until = n, now.Add(oomCredit)
	}
}

// claim reports whether a kill was seen just now, and takes it.
func (w *oomWatch) claim(now time.Time) bool {
	w.look(now)
	if w.credit == 0 {
		return false
	}
	w.credit--
	return true
}

// endedByOOM reports whether the kernel ended c for want of memory.
func (s *supervisor) endedByOOM(c *child, status unix.WaitStatus, now time.Time) bool {
	if c.group != nil && c.group.oomKills() > 0 {
		return true
	}
	if c.killed || status != ctl.Unseen && (!status.Signaled() || status.Signal() != unix.SIGKILL) {
		return false
	}
	return s.ooms.claim(now)
}

// countIn reads one number of a file that has lines of a name and a number; 0 when there is none.
func countIn(path, name string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64) // 0 when it is no number
			return n
		}
	}
	return 0
}
