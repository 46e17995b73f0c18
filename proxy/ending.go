package proxy

import (
	"context"
	"sync"
	"time"
)

// ending is a context that ends once, with a cause, which Err returns. It allocates nothing unless somebody waits for it, as nobody
// does for most requests. The zero value has not ended. Its user adds Value.
type ending struct {
	mu    sync.Mutex
	cause error         // nil: it has not ended
	done  chan struct{} // nil: nobody has asked for it
	hooks *hook         // that wait; nil: none
}

// end ends the context, unless it has ended.
func (e *ending) end(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		return
	}
	e.cause = cause
	if e.done != nil {
		close(e.done)
	}
	for h := e.hooks; h != nil; h = h.next {
		go h.f() // ends when the function does
	}
	e.hooks = nil
}

// Err implements context.Context.
func (e *ending) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cause
}

// Done implements context.Context.
func (e *ending) Done() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done == nil {
		e.done = make(chan struct{})
		if e.cause != nil {
			close(e.done)
		}
	}
	return e.done
}

// Deadline implements context.Context.
func (e *ending) Deadline() (time.Time, bool) { return time.Time{}, false }

// AfterFunc is what package context looks for, to make a context of this one without a goroutine.
func (e *ending) AfterFunc(f func()) (stop func() bool) {
	h := new(hook)
	h.wait(e, f)
	return h.stop
}

func (e *ending) itself() *ending { return e }

// hook is a call of a function in a goroutine of its own, when a context ends. The zero value waits for none.
type hook struct {
	f       func()
	of      *ending     // guards next; nil: it was never on, or is on a context of another kind
	next    *hook       // of the same ending
	foreign func() bool // stops one that is on a context of another kind
}

// on has f called when ctx ends, or now if it has. It may be called once.
func (h *hook) on(ctx context.Context, f func()) {
	if e, ok := ctx.(interface{ itself() *ending }); ok {
		h.wait(e.itself(), f)
		return
	}
	h.foreign = context.AfterFunc(ctx, f)
}

func (h *hook) wait(e *ending, f func()) {
	h.of, h.f = e, f
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		go f() // ends when the function does
		return
	}
	h.next, e.hooks = e.hooks, h
}

// stop reports whether the function was not called, and sees to it that it will not be.
func (h *hook) stop() bool {
	switch {
	case h.foreign != nil:
		return h.foreign()
	case h.of == nil:
		return true
	}
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	for p := &h.of.hooks; *p != nil; p = &(*p).next {
		if *p == h {
			*p = h.next
			return true
		}
	}
	return false
}
