package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowClient is a response whose client takes so many bytes and then waits until it is asked for more.
type slowClient struct {
	mu     sync.Mutex
	more   sync.Cond
	room   int
	gone   error
	got    bytes.Buffer
	pieces []int // lengths of what was written
	header http.Header
	kept   []byte
}

func newSlowClient(room int) *slowClient {
	c := &slowClient{room: room, header: http.Header{}}
	c.more.L = &c.mu
	return c
}

// take lets the client have more.
func (c *slowClient) take(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room += n
	c.more.Broadcast()
}

func (c *slowClient) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = errors.New("gone")
	c.more.Broadcast()
}

func (c *slowClient) Header() http.Header { return c.header }
func (c *slowClient) WriteHeader(int)     {}
func (c *slowClient) Flush()              {}

func (c *slowClient) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pieces = append(c.pieces, len(p))
	return len(p), c.wait(p)
}

func (c *slowClient) wait(p []byte) error {
	for {
		n := min(len(p), c.room)
		c.room -= n
		c.got.Write(p[:n])
		if p = p[n:]; len(p) == 0 || c.gone != nil {
			return c.gone
		}
		c.more.Wait()
	}
}

// offeredClient is a slowClient that can be written to without waiting.
type offeredClient struct{ *slowClient }

func (c offeredClient) offer(p []byte) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pieces = append(c.pieces, len(p))
	n := min(len(p), c.room)
	c.room -= n
	c.got.Write(p[:n])
	c.kept = append(c.kept, p[n:]...)
	return len(c.kept) > 0, c.gone
}

func (c offeredClient) settle() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.kept
	c.kept = nil
	return c.wait(p)
}

// pattern has no period that a lost or doubled piece could hide in.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>16) ^ byte(i>>8) ^ byte(i)
	}
	return b
}

func TestDelivery(t *testing.T) {
	const kb, all = 1 << 10, 1 << 30
	rows := []struct {
		name   string
		size   int           // of the body
		piece  int           // of each write of the child
		pause  time.Duration // between two of them
		room   int           // what the client takes before the child has finished
		pieces []int         // as the client gets them; nil: it does not matter
		begun  bool          // before the end
		file   bool          // at the end
	}{
		{name: "an empty response", size: 0, piece: 1, room: all, pieces: []int{}},
		{name: "a small response goes out in one piece at its end", size: 3 * kb, piece: kb, room: all, pieces: []int{3 * kb}},
		{name: "a response that just fits the memory likewise", size: 64 * kb, piece: 8 * kb, room: all, pieces: []int{64 * kb}},
		{name: "a larger one goes out whenever the memory is full", size: 150 * kb, piece: 8 * kb, room: all, pieces: []int{64 * kb, 64 * kb, 22 * kb}, begun: true},
		{name: "pieces larger than the memory", size: 150 * kb, piece: 100 * kb, room: all, pieces: []int{64 * kb, 64 * kb, 22 * kb}, begun: true},
		{name: "a child that pauses does not keep the client waiting", size: 3 * kb, piece: kb, pause: 2 * gatherTime, room: all, pieces: []int{kb, kb, kb}, begun: true},
		{name: "a slow child's response goes out ten times a second", size: 20 * kb, piece: kb, pause: gatherTime/5 + 1, room: all, pieces: []int{5 * kb, 5 * kb, 5 * kb, 5 * kb}, begun: true},
		{name: "a client that takes nothing of what fits the memory", size: 64 * kb, piece: 8 * kb, room: 0, pieces: []int{64 * kb}},
		{name: "a client that takes nothing of more", size: 120 * kb, piece: 8 * kb, room: 0, begun: true},
		{name: "a client that takes nothing of much more", size: 1000 * kb, piece: 8 * kb, room: 0, begun: true, file: true},
		{name: "a client that falls behind", size: 1000 * kb, piece: 8 * kb, room: 300 * kb, begun: true, file: true},
		{name: "a client that falls behind in the middle of a piece", size: 1000*kb + 1, piece: 8*kb + 1, room: 300*kb + 1, begun: true, file: true},
		{name: "a client that falls behind a slow child", size: 300 * kb, piece: 10 * kb, pause: gatherTime, room: 15 * kb, begun: true, file: true},
	}
	for _, row := range rows {
		for _, kind := range []string{"offered", "written"} {
			t.Run(row.name+", "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, client := newSpool(t.TempDir(), 0, newTestLog()), newSlowClient(row.room)
					heads := 0
					d := newDelivery(s, writerOf(client, kind), func() { heads++ })
					defer d.close()
					want := pattern(row.size)
					for rest := want; len(rest) > 0; {
						n := min(len(rest), row.piece)
						if _, err := d.Write(rest[:n]); err != nil {
							t.Fatal(err)
						}
						rest = rest[n:]
						time.Sleep(row.pause)
						synctest.Wait()
					}
					if d.file != nil != row.file {
						t.Errorf("the response waits in a file: %t, want %t", d.file != nil, row.file)
					}
					if _, begun := d.stop(true); begun != row.begun {
						t.Errorf("stop() = %t, want %t", begun, row.begun)
					}
					go client.take(all)
					if err := d.finish(); err != nil {
						t.Errorf("finish() = %v", err)
					}
					if !bytes.Equal(client.got.Bytes(), want) || heads != 1 {
						t.Errorf("the client has %d bytes, equal: %t, and %d heads; want %d", client.got.Len(), bytes.Equal(client.got.Bytes(), want), heads, row.size)
					}
					if row.pieces != nil && kind == "offered" && !equalInts(client.pieces, row.pieces) {
						t.Errorf("in pieces of %d bytes, want %d", client.pieces, row.pieces)
					}
					if used := s.used.Load(); used != 0 {
						t.Errorf("the spool still has %d bytes", used)
					}
				})
			})
		}
	}
}

func writerOf(c *slowClient, kind string) http.ResponseWriter {
	if kind == "offered" {
		return offeredClient{c}
	}
	return c
}

func equalInts(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestDeliveryCatchesUp: a client that stalls now and then gets everything, and the file is given up each time it has caught up.
func TestDeliveryCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := newSpool(t.TempDir(), 0, newTestLog()), newSlowClient(0)
		d := newDelivery(s, offeredClient{client}, func() {})
		defer d.close()
		want := pattern(3 << 20)
		for rest := want; len(rest) > 0; rest = rest[1<<20:] {
			if _, err := d.Write(rest[:1<<20]); err != nil {
				t.Fatal(err)
			}
			if d.file == nil {
				t.Error("what a stalled client has not taken is in no file")
			}
			client.take(1 << 20)
			synctest.Wait()
			if used := s.used.Load(); d.sending || used != 0 {
				t.Errorf("the client has caught up, but sending: %t, bytes in files: %d", d.sending, used)
			}
		}
		d.stop(true)
		if err := d.finish(); err != nil || !bytes.Equal(client.got.Bytes(), want) {
			t.Errorf("finish() = %v, after %d of %d bytes", err, client.got.Len(), len(want))
		}
	})
}

// TestDeliveryFails: a client that leaves, or a spool that is full, ends the delivery at once, and nothing stays.
func TestDeliveryFails(t *testing.T) {
	body := pattern(1 << 20)
	rows := []struct {
		name  string
		limit int64
		dir   string // below the test's folder
		fail  func(*slowClient)
		want  error // nil: the client's
	}{
		{name: "the client leaves while the child writes", fail: (*slowClient).leave},
		{name: "the spool is full", limit: 100 << 10, want: errSpoolLimit},
		{name: "the spool's folder is gone", dir: "none", want: os.ErrNotExist},
	}
	for _, row := range rows {
		for _, kind := range []string{"offered", "written"} {
			t.Run(row.name+", "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					log := newTestLog()
					s, client := newSpool(filepath.Join(t.TempDir(), row.dir), row.limit, log), newSlowClient(0)
					d := newDelivery(s, writerOf(client, kind), func() {})
					defer d.close()
					_, err := d.Write(body[:256<<10])
					if row.fail != nil && err == nil {
						row.fail(client)
						synctest.Wait()
						_, err = d.Write(body[:1])
					}
					if err == nil || row.want != nil && !errors.Is(err, row.want) {
						t.Fatalf("Write() = %v, want %v", err, row.want)
					}
					client.leave()
					if _, begun := d.stop(true); !begun {
						t.Error("the response has not begun")
					}
					if got := d.finish(); !errors.Is(got, err) {
						t.Errorf("finish() = %v, want %v", got, err)
					}
					if used := s.used.Load(); used != 0 || d.file != nil || d.memory != nil {
						t.Errorf("the spool still has %d bytes in files", used)
					}
					if row.want != nil && !strings.Contains(log.text(), "spool takes no more") {
						t.Errorf("the log has %q", log.text())
					}
				})
			})
		}
	}
}

// TestDeliveryStopped: a response that failed before it began leaves its client to another answer.
func TestDeliveryStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newSlowClient(1 << 20)
		d := newDelivery(newSpool(t.TempDir(), 0, newTestLog()), client, func() { t.Error("the head was sent") })
		if _, err := io.WriteString(d, "half a page"); err != nil {
			t.Fatal(err)
		}
		if _, begun := d.stop(true); begun {
			t.Error("stop() says that the response has begun")
		}
		d.close()
		time.Sleep(2 * gatherTime)
		if len(client.pieces) > 0 {
			t.Errorf("the client got %q", client.got.String())
		}
	})
}

// TestSpoolLog: a full spool is in the log once in a while, with the count of what was not logged.
func TestSpoolLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newTestLog()
		s := newSpool(t.TempDir(), 1, log)
		for range 3 {
			if _, err := s.read(bytes.NewReader(make([]byte, spoolMemory+1)), -1); bodyStatus(err) != http.StatusServiceUnavailable {
				t.Errorf("with the limit reached: %v, status %d; want 503", err, bodyStatus(err))
			}
		}
		time.Sleep(complainEvery)
		s.complain(errSpoolLimit)
		if lines := strings.Count(log.text(), "\n"); lines != 2 || !strings.Contains(log.text(), "not_logged 2") {
			t.Errorf("four failures gave %d lines, want 2, with 2 not logged:\n%s", lines, log.text())
		}
	})
}
