package main

import (
	"testing"

	"gateway/mpm"
)

func TestStatusTellsScriptsOfTrouble(t *testing.T) {
	pool := func(name, state, trouble string) mpm.PoolStatus {
		return mpm.PoolStatus{Name: name, State: state, Trouble: trouble}
	}
	for name, row := range map[string]struct {
		report statusReport
		want   string // empty: all is well
	}{
		"pools that serve, start, drain or are full are well": {
			report: statusReport{FrontPID: 1, Pools: []mpm.PoolStatus{
				pool("a", "ready", ""), pool("b", "starting", ""), pool("c", "full", ""), pool("d", "draining", ""),
			}},
		},
		"a child that crashed a while ago is no trouble": {
			report: statusReport{FrontPID: 1, Pools: []mpm.PoolStatus{pool("a", "ready", "child 7: during a request: signal 11")}},
		},
		"each pool that can't have children is named, with the reason": {
			report: statusReport{FrontPID: 1, Pools: []mpm.PoolStatus{
				pool("a", "quarantined", "child 7: before ready: exit status 1"), pool("b", "ready", ""), pool("c", "failing", "no such file"),
			}},
			want: "pool \"a\" is quarantined: child 7: before ready: exit status 1\npool \"c\" is failing: no such file",
		},
		"a reason can't control the terminal": {
			report: statusReport{FrontPID: 1, Pools: []mpm.PoolStatus{pool("a", "failing", "\x1b[2J")}},
			want:   `pool "a" is failing: "\x1b[2J"`,
		},
		"without a front nobody serves": {
			report: statusReport{Pools: []mpm.PoolStatus{}},
			want:   "no front serves at the moment: the log tells why",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := row.report.trouble(); err != nil {
				got = err.Error()
			}
			if got != row.want {
				t.Errorf("trouble() = %q, want %q", got, row.want)
			}
		})
	}
}
