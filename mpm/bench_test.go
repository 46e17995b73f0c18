package mpm

import (
	"context"
	"fmt"
	"runtime"
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

// Claim: less than 100 ns.
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

// Claim: less than 1 us, whatever the number of children and threads, also for a connection that returns to its thread.
func BenchmarkWorkerSlot(b *testing.B) {
	for _, n := range []int{1, 16, 256, 1024} {
		for _, threads := range []int{1, 25} {
			b.Run(fmt.Sprintf("children=%d/threads=%d", n, threads), func(b *testing.B) {
				cfg := threaded(n, threads)
				cfg.RequestTimeout, cfg.MaxRequestsPerChild = time.Minute, 1<<40
				starter := &instant{}
				p := NewPool(cfg, starter)
				defer p.Close()
				starter.pool = p
				p.Open()
				ctx := context.Background()
				var near SlotID
				b.ReportAllocs()
				for b.Loop() {
					s, err := p.AcquireFor(ctx, Claim{Near: near})
					if err != nil {
						b.Fatal(err)
					}
					near = s.ID()
					s.Release(Done)
				}
			})
		}
	}
}

// Claim: a slot that goes from hand to hand through the queue costs less than 2 us, whatever the number of children.
func BenchmarkQueue(b *testing.B) {
	for _, n := range []int{1, 256} {
		b.Run(fmt.Sprintf("children=%d", n), func(b *testing.B) {
			cfg := prefork(n)
			cfg.Queue = routes.Queue{Length: 1000, Timeout: time.Hour}
			starter := &instant{}
			p := NewPool(cfg, starter)
			defer p.Close()
			starter.pool = p
			p.Open()
			b.ReportAllocs()
			b.SetParallelism(2 * n)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					s, err := p.Acquire(context.Background())
					if err != nil {
						b.Error(err)
						return
					}
					runtime.Gosched() // the others come to wait
					s.Release(Done)
				}
			})
		})
	}
}
