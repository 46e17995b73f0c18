package proxy

import (
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// gatherTime is how long a client waits for what a child has written, in case there is more, or its end.
	gatherTime = 100 * time.Millisecond

	// fileSlice is after how many bytes of a file to look whether the rest is still wanted.
	fileSlice = 1 << 20
)

// offerer is a client's connection that can be written to without waiting, see [response].
type offerer interface {
	offer([]byte) (kept bool, err error)
	settle() error
}

// delivery takes the body of a response to the client. Write never waits for the client, so that a child is free when its last
// byte was read.
//
// It gathers what the child writes until the memory is full or gatherTime is over: so an ordinary response goes out in one
// piece, with its length, and a slow one begins early. As long as the client keeps up it gets each piece from the goroutine
// that reads the child. When it falls behind, another one sends, and what the child writes meanwhile waits in memory, and
// then in a file, until the client has caught up.
type delivery struct {
	w     http.ResponseWriter
	offer offerer // w, once its head is set; nil: it can't be written to without waiting
	head  func()  // sets the head of w, before its first byte
	whole bool    // all of the body is here: nothing will be waited for
	spool *spool

	mu      sync.Mutex
	idle    sync.Cond // sending has become false
	timer   *time.Timer
	memory  *[spoolMemory]byte // nil: nothing is in it
	n       int                // of memory
	file    *spoolFile         // what follows the memory; nil: nothing does. Only while sending
	sent    int64              // of file
	begun   bool               // the head is set
	sending bool               // w belongs to send
	stopped bool               // there is no more to come
	err     error              // why the client can't have the rest
}

func newDelivery(s *spool, w http.ResponseWriter, head func()) *delivery {
	d := &delivery{w: w, head: head, spool: s}
	d.offer, _ = undressed(w).(offerer)
	d.idle.L = &d.mu
	return d
}

// Write implements io.Writer. Its errors stay: nothing more is wanted.
func (d *delivery) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	done := 0
	for done < len(p) && d.err == nil {
		switch {
		case d.file != nil:
			done += d.spill(p[done:])
		case d.n < spoolMemory:
			done += d.gather(p[done:])
		case d.sending:
			d.file, d.err = d.spool.file()
		default:
			d.push()
		}
	}
	return done, d.err
}

func (d *delivery) gather(p []byte) int {
	if d.memory == nil {
		d.memory = d.spool.buffer()
		if !d.sending && !d.whole {
			d.hurry()
		}
	}
	n := copy(d.memory[d.n:], p)
	d.n += n
	return n
}

// hurry has the memory sent in a while.
func (d *delivery) hurry() {
	if d.timer == nil {
		d.timer = time.AfterFunc(gatherTime, d.overdue)
		return
	}
	d.timer.Reset(gatherTime)
}

// overdue is called when something has been in the memory for gatherTime, or since.
func (d *delivery) overdue() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.memory != nil && !d.sending && !d.stopped && d.err == nil {
		d.push()
	}
}

func (d *delivery) spill(p []byte) (n int) {
	n, d.err = d.file.Write(p)
	return n
}

// push gives what is in the memory to the client. If that does not take all of it at once, send sees to the rest, and to what
// follows.
func (d *delivery) push() {
	d.begin()
	if d.offer == nil {
		d.sending = true
		go d.send(d.memoryWriter()) // ends when the client has caught up, or is given up; finish waits for it
		return
	}
	var kept bool
	kept, d.err = d.offer.offer(d.memory[:d.n])
	d.forget()
	if kept && d.err == nil {
		d.sending = true
		go d.send(d.offer.settle) // as above
	}
}

func (d *delivery) begin() {
	if !d.begun {
		d.begun = true
		d.head()
	}
}

func (d *delivery) forget() {
	d.spool.buffers.Put(d.memory)
	d.memory, d.n = nil, 0
}

// send calls first, and then sends until nothing is left. It alone uses w meanwhile.
func (d *delivery) send(first func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unlocked(first)
	for d.err == nil && (d.memory != nil || d.file != nil) {
		if d.memory != nil {
			d.unlocked(d.memoryWriter())
		} else {
			d.sendFile()
		}
	}
	d.discard()
	d.sending = false
	d.idle.Broadcast()
}

// unlocked waits for the client while others go on. The first error stays.
func (d *delivery) unlocked(wait func() error) {
	d.mu.Unlock()
	err := wait()
	d.mu.Lock()
	if d.err == nil {
		d.err = err
	}
}

// memoryWriter returns what sends what is in the memory now, while another one is filled.
func (d *delivery) memoryWriter() func() error {
	b, n := d.memory, d.n
	d.memory, d.n = nil, 0
	return func() error {
		defer d.spool.buffers.Put(b)
		if _, err := d.w.Write(b[:n]); err != nil {
			return err
		}
		return flush(d.w)
	}
}

// sendFile sends some of what is in the file, and gives the file up when that was all.
func (d *delivery) sendFile() {
	f, n := d.file, min(d.file.size-d.sent, fileSlice)
	d.unlocked(func() error {
		if _, err := io.CopyN(d.w, f.File, n); err != nil {
			return err
		}
		return flush(d.w)
	})
	d.sent += n
	if d.sent == f.size {
		d.discard()
	}
}

// discard drops what was not sent.
func (d *delivery) discard() {
	if d.memory != nil {
		d.forget()
	}
	if d.file != nil {
		_ = d.file.Close() // nobody wants what was written
		d.file, d.sent = nil, 0
	}
}

// stop says that there is no more to come, whatever has become of what was written. It reports whether the head is on its way;
// if not, nothing is until finish is called, and all of the body is held.
func (d *delivery) stop(bool) (held int64, begun bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
	return int64(d.n), d.begun
}

// finish waits until the client has all that was written.
func (d *delivery) finish() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.sending {
		d.idle.Wait()
	}
	if d.err == nil {
		d.begin()
	}
	if d.err == nil && d.memory != nil {
		_, d.err = d.w.Write(d.memory[:d.n])
	}
	return d.err
}

// close drops what the client did not get. There must be none that sends: nothing was begun, or finish has returned.
func (d *delivery) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.discard()
}
