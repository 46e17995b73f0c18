package mpm

import (
	"encoding/json"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestStatusAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := prefork(5)
		cfg.StartServers = 1
		w := openWorld(t, cfg)
		first, s := w.acquire(), w.acquire()
		first.Release(Done)
		s.Describe("GET", "/x.php?a=1")
		time.Sleep(250 * ms)
		got, err := json.Marshal(w.pool.snapshot(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		want := `{"name":"php","mpm":"prefork","state":"ready","board":"_W...",` +
			`"processes":{"total":2,"starting":0,"idle":1,"busy":1,"draining":0},"slots":{"total":2,"busy":1,"limit":5},` +
			`"queue":{"waiting":0,"length":10,"rejected":0,"timed_out":0,"abandoned":0,"wait_p50_seconds":0,"wait_p99_seconds":0,"wait_max_seconds":0},` +
			`"waits":{"count":2,"seconds":0,"buckets":[{"up_to":0.001024,"count":2},{"up_to":0.004096,"count":2},{"up_to":0.016384,"count":2},` +
			`{"up_to":0.065536,"count":2},{"up_to":0.262144,"count":2},{"up_to":1.048576,"count":2},{"up_to":4.194304,"count":2},` +
			`{"up_to":16.777216,"count":2},{"up_to":67.108864,"count":2}]},"requests":{"total":1,"failed":0,"hot":0},` +
			`"exits":{"age":0,"crash":0,"deadline":0,"idle":0,"max_requests":0,"memory":0,"oom":0,"reload":0,"shutdown":0},` +
			`"children":[{"slot":0,"pid":101,"generation":3,"state":"idle","requests":1,"rss_bytes":0,"age_seconds":0.25},` +
			`{"slot":1,"pid":102,"generation":3,"state":"busy","requests":0,"rss_bytes":0,"age_seconds":0.25,` +
			`"request":{"method":"GET","uri":"/x.php?a=1","seconds":0.25}}]}`
		if string(got) != want {
			t.Errorf("status\n got %s\nwant %s", got, want)
		}
		s.Release(Done)
	})
}

func TestStatusOfAPoolWithoutChildrenHasEmptyLists(t *testing.T) {
	p := newWorld(t, prefork(1)).pool
	if st := p.Status(); st.Children == nil || st.Exits == nil {
		t.Errorf("children %v, exits %v; want empty, not null", st.Children, st.Exits)
	}
}

func TestRSSBytes(t *testing.T) {
	if got := rssBytes(os.Getpid()); got < 1<<20 || got > 1<<34 {
		t.Errorf("rssBytes of this process = %d", got)
	}
	if got := rssBytes(1 << 30); got != 0 {
		t.Errorf("rssBytes of no process = %d, want 0", got)
	}
}

func TestEveryStateHasANameAndALetterOfItsOwn(t *testing.T) {
	names, letters := map[string]bool{}, map[byte]bool{}
	for s := range State(len(states)) {
		if s.String() == "" || names[s.String()] || letters[s.Letter()] {
			t.Errorf("state %d: name %q, letter %q", s, s, s.Letter())
		}
		names[s.String()], letters[s.Letter()] = true, true
	}
}
