package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/http2"
)

func TestShares(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	s := newShares(12)
	for _, row := range []struct {
		name   string
		client netip.Addr
		want   int
	}{
		{"one that takes all it can get has half", a, 6},
		{"the next one half of the rest", b, 3},
		{"and whoever comes then still finds places", c, 2},
		{"one that has its share gets no more", a, 0},
	} {
		got := 0
		for s.take(row.client, 1) {
			got++
		}
		if got != row.want {
			t.Errorf("%s: %d places, want %d", row.name, got, row.want)
		}
	}
	if s.take(c, 2) {
		t.Error("a request gets more places than there are")
	}
	s.put(a, 6)
	s.put(b, 3)
	s.put(c, 2)
	if s.free != 12 || len(s.taken) != 0 {
		t.Errorf("%d places are free when all are given back, and %d clients have some; want 12 and none", s.free, len(s.taken))
	}
}

func TestClientOf(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1":              "192.0.2.1",
		"::ffff:192.0.2.1":       "192.0.2.1",
		"2001:db8:1:2:3:4:5:6":   "2001:db8:1:2::",
		"2001:db8:1:2:ffff::":    "2001:db8:1:2::",
		"fe80::1:2:3:4%eth0":     "fe80::",
		"2001:db8:1:3:3:4:5:6":   "2001:db8:1:3::",
		"::ffff:192.0.2.1%zone0": "192.0.2.1",
	} {
		if got := clientOf(netip.MustParseAddr(remote)); got.String() != want {
			t.Errorf("clientOf(%s) = %s, want %s", remote, got, want)
		}
	}
	if got := clientOf(netip.Addr{}); got.IsValid() {
		t.Errorf("the client of a unix socket is %s, want none", got)
	}
}

func TestHTTP2RequestsAreBounded(t *testing.T) {
	const places = 8 // of which one client gets half
	core, log := observer.New(zap.WarnLevel)
	release := make(chan struct{})
	entered := make(chan struct{}, places)
	l := serveHTTP2(t, false, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}, func(h *HTTP) { h.HTTP2 = NewHTTP2(0, places, zap.New(core).Sugar()) })
	c := l.raw(t, http2.Setting{ID: http2.SettingHeaderTableSize}) // or only the first 503 would be spelled out
	c.settle()
	for i := range places {
		c.get(uint32(2*i+1), "/slow")
	}
	for range places / 2 {
		<-entered
		if got := c.status(0); got != "503" {
			t.Errorf("a request above the share of its client: %s, want 503", got)
		}
	}
	if got := l.HTTP2.Refused(); got != places/2 {
		t.Errorf("Refused() = %d, want %d", got, places/2)
	}
	if got := log.Len(); got != 1 {
		t.Errorf("%d warnings, want one: %v", got, log.All())
	}
	close(release)
	for range places / 2 {
		if got := c.status(0); got != "200" {
			t.Errorf("a request in progress: %s, want 200", got)
		}
	}
	c.conn.Close()
	eventually(t, "all places are given back", func() bool {
		l.HTTP2.requests.mu.Lock()
		defer l.HTTP2.requests.mu.Unlock()
		return l.HTTP2.requests.free == places
	})
}

func TestHTTP2BurstsBeginOneByOne(t *testing.T) {
	l := serveHTTP2(t, false, func(http.ResponseWriter, *http.Request) {}, nil)
	for _, odd := range []bool{false, true} {
		t.Run(fmt.Sprintf("with heads that become no requests: %t", odd), func(t *testing.T) {
			c := l.raw(t)
			c.settle()
			for i := range maxStreams {
				fields := []string{":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/"}
				if odd && i%2 == 0 {
					fields = append(fields, "connection", "close") // x/net answers it
				}
				c.request(uint32(2*i+1), true, fields...)
			}
			answers := map[string]int{}
			for range maxStreams {
				answers[c.status(0)]++
			}
			if answers["200"]+answers["400"] != maxStreams || (answers["400"] > 0) != odd {
				t.Errorf("answers to %d requests are %v", maxStreams, answers)
			}
		})
	}
}
