package proxy

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestEnding(t *testing.T) {
	gone := errors.New("gone")
	rows := map[string]func(t *testing.T, h *hold, called *atomic.Int32, call func()){
		"it has no cause before its end, and no deadline": func(t *testing.T, h *hold, _ *atomic.Int32, _ func()) {
			if _, has := h.Deadline(); has || h.Err() != nil || context.Cause(h) != nil {
				t.Errorf("deadline %v, cause %v, want none", has, h.Err())
			}
		},
		"the first cause stays": func(t *testing.T, h *hold, _ *atomic.Int32, _ func()) {
			h.end(gone)
			h.end(context.Canceled)
			if h.Err() != gone || context.Cause(h) != gone {
				t.Errorf("cause %v, want %v", h.Err(), gone)
			}
		},
		"who waits is woken, and who comes late does not wait": func(t *testing.T, h *hold, _ *atomic.Int32, _ func()) {
			early := h.Done()
			h.end(gone)
			<-early
			<-h.Done()
			var other hold
			other.end(gone)
			<-other.Done()
		},
		"a hook is called once": func(t *testing.T, h *hold, called *atomic.Int32, call func()) {
			var k hook
			k.on(h, call)
			h.end(gone)
			h.end(gone)
			synctest.Wait()
			if called.Load() != 1 || k.stop() {
				t.Errorf("called %d times, want 1, and nothing left to stop", called.Load())
			}
		},
		"a hook that comes late is called": func(t *testing.T, h *hold, called *atomic.Int32, call func()) {
			var k hook
			h.end(gone)
			k.on(h, call)
			synctest.Wait()
			if called.Load() != 1 || k.stop() {
				t.Errorf("called %d times, want 1, and nothing left to stop", called.Load())
			}
		},
		"of several hooks those that are stopped are not called": func(t *testing.T, h *hold, called *atomic.Int32, call func()) {
			var k [4]hook
			for i := range k {
				k[i].on(h, call)
			}
			if !k[0].stop() || !k[2].stop() {
				t.Error("stop() = false before the end")
			}
			h.end(gone)
			synctest.Wait()
			if called.Load() != 2 {
				t.Errorf("called %d times, want 2", called.Load())
			}
		},
		"a hook that waits for nothing has nothing to stop": func(t *testing.T, _ *hold, _ *atomic.Int32, _ func()) {
			if !new(hook).stop() {
				t.Error("stop() = false")
			}
		},
		"a hook waits for a context of another kind": func(t *testing.T, _ *hold, called *atomic.Int32, call func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var k, stopped hook
			k.on(ctx, call)
			stopped.on(ctx, call)
			if !stopped.stop() {
				t.Error("stop() = false before the end")
			}
			cancel()
			synctest.Wait()
			if called.Load() != 1 || k.stop() {
				t.Errorf("called %d times, want 1, and nothing left to stop", called.Load())
			}
		},
		"contexts that are made of it end with its cause, without a goroutine for each": func(t *testing.T, h *hold, _ *atomic.Int32, _ func()) {
			ctx, release := context.WithCancel(h)
			defer release()
			other, cancel := context.WithCancel(ctx)
			cancel()
			h.end(gone)
			<-ctx.Done()
			if context.Cause(ctx) != gone || context.Cause(other) != context.Canceled {
				t.Errorf("causes %v and %v, want %v and %v", context.Cause(ctx), context.Cause(other), gone, context.Canceled)
			}
		},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var called atomic.Int32
				row(t, new(hold), &called, func() { called.Add(1) })
			})
		})
	}
}
