package mpm

import (
	"context"
	"fmt"
	"testing"
	"time"

	"gateway/routes"
)

// instant starts children that are ready at once.
type instant struct{ pool *Pool }

func (s *instant) Start(_ string, slot int) { s.pool.Started(slot, slot+1000, "", 0) }
func (*instant) Retire(string, int, int)    {}
func (*instant) Kill(string, int, int)      {}

func cycle(b *testing.B, p *Pool) {
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		s, err := p.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		s.Release(Done)
	}
}

// Claim: less than 200 ns.
func BenchmarkEventSlot(b *testing.B) {
	p := NewPool(routes.Pool{Name: "edge", MPM: routes.Event, MaxRequestWorkers: 400}, nil)
	defer p.Close()
	cycle(b, p)
}

// Claim: less than 1 us, whatever the number of children.
func BenchmarkPreforkSlot(b *testing.B) {
	for _, n := range []int{1, 16, 256, 1024} {
		b.Run(fmt.Sprintf("children=%d", n), func(b *testing.B) {
			cfg := prefork(n)
			cfg.RequestTimeout, cfg.MaxRequestsPerChild = time.Minute, 1<<40
			starter := &instant{}
			p := NewPool(cfg, starter)
			defer p.Close()
			starter.pool = p
			p.Open()
			cycle(b, p)
		})
	}
}
