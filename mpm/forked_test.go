package mpm

import (
	"fmt"
	"os"
	"testing"
	"testing/synctest"

	"gateway/internal/ctl"
	"gateway/routes"
)

func TestChildrenOfOneParent(t *testing.T) {
	bubble(t, "the end of their parent is one failure, however many they are", func(t *testing.T) {
		const children = 20
		w := newWorld(t, prefork(children))
		w.manual = true
		w.pool.Open()
		for slot := range children {
			w.pool.Started(slot, 100+slot, fmt.Sprintf("/run/%d.sock", slot), 0)
		}
		synctest.Wait()
		w.pool.Exited(0, 100, ctl.Unseen, false)
		for slot := range children - 1 {
			w.pool.Exited(slot+1, 101+slot, ctl.Orphaned, false)
		}
		st := w.pool.Status()
		if st.State == stateQuarantined {
			t.Errorf("state %q, trouble %q", st.State, st.Trouble)
		}
		equal(t, "exits", st.Exits[ExitCrash], children)
		equal(t, "trouble", st.Trouble, "child 100: between requests: its parent has seen how, and written it to the log")
		equal(t, "cause for a request", (&ChildExit{PID: 101, Status: ctl.Orphaned, Reason: ExitCrash}).Error(), "child 101: its parent has ended")
	})
	t.Run("what they share doesn't count where shares can't be seen", func(t *testing.T) {
		resident, shared := statmBytes(os.Getpid())
		if shared <= 0 || shared >= resident {
			t.Errorf("statmBytes() = %d, %d; want some of it shared", resident, shared)
		}
		if got := forkedFootprint(1 << 30); got != 0 {
			t.Errorf("forkedFootprint of no process = %d, want 0", got)
		}
		p := NewPool(routes.Pool{MPM: routes.Prefork, MaxRequestWorkers: 1, PHP: &routes.PHP{ShareOPcache: true}}, nil)
		defer p.Close()
		if got := p.footprint(os.Getpid()); got <= 0 || got > resident*2 {
			t.Errorf("footprint of this process = %d of %d", got, resident)
		}
	})
}
