package ctl

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// example returns a message of kind k in which every field that the kind has is set.
func example(k Kind) Message {
	full := Message{
		Address: ":80", Pool: "php", Slot: 3, PID: 4711, Generation: 1, Socket: "/run/gateway/c/1.sock",
		Status: 0x100, OOM: true, Seconds: 1.5, Text: "fork/exec /usr/bin/php-cgi: no such file or directory",
	}
	r, _ := ruleOf(k)
	m := Message{Kind: k}
	from, to := reflect.ValueOf(full), reflect.ValueOf(&m).Elem()
	for _, c := range full.checks() {
		if r.fields&c.field != 0 {
			i := fieldIndex(c.name)
			to.Field(i).Set(from.Field(i))
		}
	}
	return m
}

// fieldIndex finds a field of Message by its JSON name.
func fieldIndex(name string) int {
	t := reflect.TypeFor[Message]()
	for i := range t.NumField() {
		if strings.TrimSuffix(t.Field(i).Tag.Get("json"), ",omitempty") == name {
			return i
		}
	}
	return -1
}

// newPair returns both ends, closed with the test.
func newPair(t *testing.T) (sup, front *Conn) {
	t.Helper()
	sup, other, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	front, err = FromFile(other)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sup.Close(); front.Close() })
	return sup, front
}

func openNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestEveryFieldOfMessageIsChecked(t *testing.T) {
	checks := Message{}.checks()
	if got, want := len(checks), reflect.TypeFor[Message]().NumField()-1; got != want {
		t.Fatalf("checks() has %d rows, Message has %d fields beside its kind", got, want)
	}
	var all field
	for _, c := range checks {
		if fieldIndex(c.name) < 0 {
			t.Errorf("check %q: no such field", c.name)
		}
		if all&c.field != 0 {
			t.Errorf("check %q: its bit is taken", c.name)
		}
		all |= c.field
	}
}

func TestEveryKindTravelsWithItsFiles(t *testing.T) {
	sup, fr := newPair(t)
	for _, k := range Kinds() {
		r, _ := ruleOf(k)
		from, to := sup, fr
		if r.from == front {
			from, to = fr, sup
		}
		m := example(k)
		var files []*os.File
		for range r.files {
			files = append(files, openNull(t))
		}
		if err := from.Send(m, files...); err != nil {
			t.Fatalf("Send(%v): %v", m, err)
		}
		got, gotFiles, err := to.Recv()
		if err != nil || got != m || len(gotFiles) != r.files {
			t.Fatalf("Recv() = %v, %d files, %v; want %v, %d files", got, len(gotFiles), err, m, r.files)
		}
		for _, f := range gotFiles {
			assertCloseOnExec(t, f)
			f.Close()
		}
		if err := to.Send(m, files...); err == nil {
			t.Errorf("Send(%v) by the %s succeeded, which never sends it", m, to.self)
		}
	}
}

func assertCloseOnExec(t *testing.T, f *os.File) {
	t.Helper()
	fd, err := Descriptor(f)
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor %d: flags %#x, %v: not closed on exec", fd, flags, err)
	}
}

func TestValidate(t *testing.T) {
	long := strings.Repeat("x", MaxTextBytes+1)
	for name, m := range map[string]Message{
		"a kind is needed":                         {},
		"a kind must be known":                     {Kind: "format"},
		"a start needs a pool":                     {Kind: Start, Generation: 1},
		"a start needs a generation":               {Kind: Start, Pool: "p"},
		"a slot is not negative":                   {Kind: Start, Pool: "p", Generation: 1, Slot: -1},
		"a slot has an upper bound":                {Kind: Start, Pool: "p", Generation: 1, Slot: MaxSlot + 1},
		"a start has no pid":                       {Kind: Start, Pool: "p", Generation: 1, PID: 7},
		"a start has no text":                      {Kind: Start, Pool: "p", Generation: 1, Text: "rm -rf /"},
		"a pool's name has an upper bound":         {Kind: Start, Pool: long, Generation: 1},
		"pid 0 is our own process group":           {Kind: Kill, Pool: "p", Generation: 1, PID: 0},
		"pid -1 is everybody":                      {Kind: Kill, Pool: "p", Generation: 1, PID: -1},
		"pid 1 is init":                            {Kind: Kill, Pool: "p", Generation: 1, PID: 1},
		"a pid has an upper bound":                 {Kind: Kill, Pool: "p", Generation: 1, PID: 1 << 23},
		"a start knows nothing of an end":          {Kind: Start, Pool: "p", Generation: 1, OOM: true},
		"ready has nothing else":                   {Kind: Ready, Generation: 1},
		"a text has an upper bound":                {Kind: Failed, Pool: "p", Generation: 1, Text: long},
		"a wait status is 16 bits":                 {Kind: Exited, Pool: "p", Generation: 1, PID: 7, Status: 1 << 16},
		"an age is not negative":                   {Kind: Child, Pool: "p", Generation: 1, PID: 7, Socket: "/s", Seconds: -1},
		"a socket path must fit into a sockaddr":   {Kind: Child, Pool: "p", Generation: 1, PID: 7, Socket: long},
		"a listener needs the address it is bound": {Kind: Listener},
	} {
		if m.Validate() == nil {
			t.Errorf("%s: Validate(%+.60v) = nil", name, m)
		}
	}
}

// sendRaw writes bytes to the other end as an attacker in the front could.
func sendRaw(t *testing.T, c *Conn, b []byte, files ...*os.File) {
	t.Helper()
	rights, err := rightsOf(files)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := Descriptor(c.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(fd, b, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		t.Fatal(err)
	}
}

func TestRecvRefuses(t *testing.T) {
	null := openNull(t)
	for _, tt := range []struct {
		name  string
		bytes string
		files int
		want  string
	}{
		{"what is no JSON", "hello", 0, "malformed"},
		{"an unknown field", `{"kind":"ready","command":"sh"}`, 0, "unknown field"},
		{"a second value behind the first", `{"kind":"ready"}{"kind":"ready"}`, 0, "more than one value"},
		{"a kind that only the supervisor sends", `{"kind":"drain"}`, 0, "not a message of the front"},
		{"a number that is no integer", `{"kind":"start","pool":"p","slot":1.5,"generation":1}`, 0, "malformed"},
		{"a number beyond int", `{"kind":"start","pool":"p","slot":1e99,"generation":1}`, 0, "malformed"},
		{"a message longer than the bound", `{"kind":"ready"}` + strings.Repeat(" ", MaxMessageBytes), 0, "longer than"},
		{"more files than there is room for", `{"kind":"ready"}`, maxFiles + 1, "truncated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sup, fr := newPair(t)
			files := make([]*os.File, tt.files)
			for i := range files {
				files[i] = null
			}
			before := openDescriptors(t)
			sendRaw(t, fr, []byte(tt.bytes), files...)
			m, _, err := sup.Recv()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Recv() = %v, %v; want an error with %q", m, err, tt.want)
			}
			if after := openDescriptors(t); after != before {
				t.Errorf("Recv() left %d descriptors open", after-before)
			}
		})
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestRecvClosesFilesThatDoNotBelong(t *testing.T) {
	sup, fr := newPair(t)
	null := openNull(t)
	before := openDescriptors(t)
	sendRaw(t, fr, []byte(`{"kind":"ready"}`), null, null, null)
	m, files, err := sup.Recv()
	if err != nil || m.Kind != Ready || len(files) != 0 {
		t.Errorf("Recv() = %v, %d files, %v; want ready without files", m, len(files), err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("Recv() left %d descriptors open", after-before)
	}
}

func TestRecvRefusesAMissingFile(t *testing.T) {
	sup, fr := newPair(t)
	sendRaw(t, sup, []byte(`{"kind":"status"}`))
	if m, _, err := fr.Recv(); err == nil {
		t.Errorf("Recv() = %v, want an error: a status comes with a file", m)
	}
}

func TestEndOfThePeer(t *testing.T) {
	t.Run("is the end of file", func(t *testing.T) {
		sup, fr := newPair(t)
		fr.Close()
		if _, _, err := sup.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("Recv() = %v, want io.EOF", err)
		}
	})
	t.Run("is the end of file too when it left messages unread", func(t *testing.T) {
		sup, fr := newPair(t)
		if err := sup.Send(Message{Kind: Drain}); err != nil {
			t.Fatal(err)
		}
		fr.Close()
		if _, _, err := sup.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("Recv() = %v, want io.EOF", err)
		}
	})
	t.Run("is an error for Send, and no signal", func(t *testing.T) {
		sup, fr := newPair(t)
		fr.Close()
		if err := sup.Send(Message{Kind: Drain}); !errors.Is(err, unix.EPIPE) {
			t.Errorf("Send() = %v, want EPIPE", err)
		}
	})
}

func TestCloseEndsRecv(t *testing.T) {
	sup, _ := newPair(t)
	ended := make(chan error)
	go func() { // ends with Recv
		_, _, err := sup.Recv()
		ended <- err
	}()
	sup.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Recv() = %v, want os.ErrClosed", err)
	}
}

func TestSendGivesUpOnAPeerThatDoesNotRead(t *testing.T) {
	sup, _ := newPair(t)
	sup.timeout = 50 * time.Millisecond
	m := Message{Kind: Failed, Pool: "p", Generation: 1, Text: strings.Repeat("x", MaxTextBytes)}
	start := time.Now()
	for range 10_000 {
		err := sup.Send(m)
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Send() = %v, want os.ErrDeadlineExceeded", err)
		}
		if waited := time.Since(start); waited < sup.timeout {
			t.Errorf("Send() gave up after %v, want %v", waited, sup.timeout)
		}
		return
	}
	t.Error("10,000 messages were taken by a peer that reads none")
}

func TestSendIsSafeForConcurrentUse(t *testing.T) {
	sup, fr := newPair(t)
	const senders, each = 4, 100
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for range each {
				if err := sup.Send(Message{Kind: Reopen}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range senders * each {
		if m, _, err := fr.Recv(); err != nil || m.Kind != Reopen {
			t.Fatalf("Recv() = %v, %v", m, err)
		}
	}
	wg.Wait()
}

func TestFromFileRefusesWhatIsNoControlSocket(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(f); err == nil || !strings.Contains(err.Error(), "not a control socket") {
		t.Errorf("FromFile(/dev/null) = %v", err)
	}
}

func TestBlob(t *testing.T) {
	want := bytes.Repeat([]byte("key"), 100_000)
	f, err := NewBlob(want)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for reader := range 2 { // the next front reads the same file
		if got, err := ReadBlob(f, int64(len(want))); err != nil || !bytes.Equal(got, want) {
			t.Errorf("reader %d: ReadBlob() = %d bytes, %v; want %d", reader, len(got), err, len(want))
		}
	}
	if _, err := ReadBlob(f, int64(len(want))-1); err == nil {
		t.Error("ReadBlob() with a smaller limit succeeded")
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a sealed blob could be written")
	}
	if f.Truncate(0) == nil {
		t.Error("a sealed blob could be truncated")
	}
}

func TestReadBlobRefusesAFileThatCanChange(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ReadBlob(f, 1<<20); err == nil {
		t.Error("ReadBlob(ordinary file) succeeded")
	}
}

func FuzzDecode(f *testing.F) {
	for _, k := range Kinds() {
		r, _ := ruleOf(k)
		b, err := encode(example(k), r.from, r.files)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"kind":"kill","pool":"p","slot":0,"pid":-1,"generation":1}`))
	f.Add([]byte(`{"KIND":"ready","kind":"start"} null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, from := range []side{supervisor, front} {
			m, files, err := decode(b, from)
			if err != nil {
				continue
			}
			if r, _ := ruleOf(m.Kind); r.from != from {
				t.Fatalf("decode(%q, %s) = %v, which the %s sends", b, from, m, r.from)
			}
			again, err := encode(m, from, files)
			if err != nil {
				t.Fatalf("decode(%q) = %+v, which can't be encoded: %v", b, m, err)
			}
			if m2, _, err := decode(again, from); err != nil || m2 != m {
				t.Fatalf("decode(%q) = %+v, %v; want %+v", again, m2, err, m)
			}
			if len(again) > MaxMessageBytes {
				t.Fatalf("decode(%.40q) = a message of %d bytes", b, len(again))
			}
		}
	})
}
