package mpm

import (
	"sync"
	"testing"

	"gateway/routes"
)

func TestRequestsAnsweredWithoutASlotAreInTheBooks(t *testing.T) {
	p := NewPool(routes.Pool{Name: "edge", MPM: routes.Event, MaxRequestWorkers: 4}, nil)
	t.Cleanup(p.Close)
	slot, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slot.Release(Done)
	const loops, each = 40, 1000
	var wg sync.WaitGroup
	for loop := range loops {
		wg.Go(func() {
			for range each {
				p.CountAnswered(loop, loop == 0)
			}
		})
	}
	wg.Wait()
	want := RequestStatus{Total: loops*each + 1, Hot: loops * each}
	if got := p.Status().Requests; got != want {
		t.Errorf("Requests = %+v, want %+v", got, want)
	}
	if all, unchanged := p.Answered(); all != loops*each || unchanged != each {
		t.Errorf("Answered() = %d, %d; want %d, %d", all, unchanged, loops*each, each)
	}
}

func BenchmarkCountAnswered(b *testing.B) {
	p := NewPool(routes.Pool{Name: "edge", MPM: routes.Event, MaxRequestWorkers: 4}, nil)
	b.Cleanup(p.Close)
	for b.Loop() {
		p.CountAnswered(1, false)
	}
}
