package proxy

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"gateway/mpm"
)

func TestResponsesAreCounted(t *testing.T) {
	addr, root, s := engineSite(t, `
  error_page "404" { path = "/page.html" }
  route "/hello" {
    pool = "edge"
    respond { body = "hello" }
  }
  route "/moved" {
    pool = "edge"
    redirect { to = "/hello" }
  }
  route "/limited" {
    pool = "edge"
    rate_limit { rate = "1r/h" }
    respond {}
  }
  route "*.html" {
    pool = "edge"
    static {}
  }
`, map[string]string{"a.html": "hot", "page.html": "not here"}, nil)
	age(t, root+"/a.html")
	const end = "Host: localhost\r\nConnection: close\r\n\r\n"
	for _, row := range []struct {
		name, request, pool, class string
		timed                      bool
	}{
		{"a response of a pool's route", "GET /hello HTTP/1.1\r\n" + end, "edge", "2xx", true},
		{"a redirect", "GET /moved HTTP/1.1\r\n" + end, "edge", "3xx", true},
		{"a file that is not there, and has a page", "GET /none.html HTTP/1.1\r\n" + end, "edge", "4xx", true},
		{"a path without a route, whose page comes from one", "GET /none HTTP/1.1\r\n" + end, "", "4xx", true},
		{"a file that is read", "GET /a.html HTTP/1.1\r\n" + end, "edge", "2xx", true},
		{"the same from memory", "GET /a.html HTTP/1.1\r\n" + end, "edge", "2xx", false},
		{"the same for who has it", "GET /a.html HTTP/1.1\r\nIf-Modified-Since: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n" + end, "edge", "3xx", false},
		{"bytes that are no request", "GET /hello HTTP/1.1\r\nHost: a\r\n" + end, "", "4xx", false},
		{"a request that a limit lets pass", "GET /limited HTTP/1.1\r\n" + end, "edge", "2xx", true},
		{"one that it refuses", "GET /limited HTTP/1.1\r\n" + end, "edge", "4xx", true},
	} {
		before := byPool(s)
		answer := raw(t, addr, row.request, false)
		eventually(t, row.name+": the response is counted", func() bool {
			return byPool(s)[row.pool].Classes[row.class] == before[row.pool].Classes[row.class]+1
		})
		timed := byPool(s)[row.pool].Times.Count - before[row.pool].Times.Count
		if (timed == 1) != row.timed || timed > 1 {
			t.Errorf("%s: its time is counted %d times, want %t\n%s", row.name, timed, row.timed, answer)
		}
		if now := byPool(s); total(now) != total(before)+1 {
			t.Errorf("%s: %d responses are counted", row.name, total(now)-total(before))
		}
	}
	limits := s.RateLimits()
	if len(limits) != 1 || limits[0].Site != "localhost" || limits[0].Refused != 1 || !strings.HasPrefix(limits[0].Route, "test.hcl:") {
		t.Errorf("RateLimits() = %+v, want one of the site, at its route, that has refused a request", limits)
	}
}

func byPool(s *Server) map[string]ResponseStatus {
	all := map[string]ResponseStatus{}
	for _, st := range s.Responses() {
		all[st.Pool] = st
	}
	return all
}

func total(all map[string]ResponseStatus) (n uint64) {
	for _, st := range all {
		for _, of := range st.Classes {
			n += of
		}
	}
	return n
}

func TestResponseTimes(t *testing.T) {
	c := new(responses)
	for _, took := range []time.Duration{-time.Second, 0, 5 * time.Millisecond, 6 * time.Millisecond, time.Minute, time.Hour} {
		c.time(took)
	}
	times := c.status("").Times
	if times.Count != 6 || times.Seconds != 3660.011 {
		t.Errorf("%d times, %v seconds; want 6 and 3660.011", times.Count, times.Seconds)
	}
	first, last := times.Buckets[0], times.Buckets[len(times.Buckets)-1]
	if (first != mpm.Bucket{UpTo: 0.005, Count: 3}) || (last != mpm.Bucket{UpTo: 60, Count: 5}) {
		t.Errorf("the buckets go from %+v to %+v, want 3 up to 5 ms and 5 up to a minute", first, last)
	}
}

func TestStatusesHaveTheirClass(t *testing.T) {
	s := &Server{responses: map[string]*responses{"php": new(responses)}}
	for status, class := range map[int]string{0: "none", 101: "1xx", 200: "2xx", 304: "3xx", 499: "4xx", 599: "5xx"} {
		if s.count("php", status); s.responses["php"].status("php").Classes[class] != 1 {
			t.Errorf("%d is not counted as %s", status, class)
		}
	}
}
