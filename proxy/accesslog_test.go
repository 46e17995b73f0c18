package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gateway/proxy/http1"
	"gateway/routes"
)

// sampleEntry is a request with a value in every field.
func sampleEntry() LogEntry {
	return LogEntry{
		Remote:       netip.MustParseAddr("192.0.2.7"),
		User:         "anna",
		Time:         time.Date(2026, 3, 4, 5, 6, 7, 89_654_321, time.FixedZone("", 3600)),
		Method:       "GET",
		URI:          "/shop/a%20b.php?x=1&y=%22",
		Proto:        "HTTP/1.1",
		Status:       200,
		Bytes:        5120,
		Referer:      "https://example.com/start",
		UserAgent:    "Mozilla/5.0 (X11)",
		Host:         "example.com:8443",
		Duration:     2*time.Second + 34567*time.Microsecond,
		QueueWait:    1234567 * time.Nanosecond,
		Pool:         "php",
		PID:          4711,
		TLSProtocol:  "TLSv1.3",
		RequestBytes: 77,
	}
}

// formatEntry returns the line of e without its end.
func formatEntry(t testing.TB, format string, e LogEntry) string {
	t.Helper()
	f, err := ParseLogFormat(format)
	if err != nil {
		t.Fatalf("ParseLogFormat(%q): %v", format, err)
	}
	return string(f.appendLine(nil, &e, new(logClock)))
}

func TestLogFormats(t *testing.T) {
	nothing := func(e *LogEntry) { *e = LogEntry{Time: e.Time} }
	for _, row := range []struct {
		name   string
		format string
		change func(*LogEntry)
		want   string
	}{
		{"common is Apache's", "common", nil,
			`192.0.2.7 - anna [04/Mar/2026:05:06:07 +0100] "GET /shop/a%20b.php?x=1&y=%22 HTTP/1.1" 200 5120`},
		{"combined adds referer and user agent", "combined", nil,
			`192.0.2.7 - anna [04/Mar/2026:05:06:07 +0100] "GET /shop/a%20b.php?x=1&y=%22 HTTP/1.1" 200 5120 "https://example.com/start" "Mozilla/5.0 (X11)"`},
		{"what is missing is a hyphen", "combined", nothing,
			`- - - [04/Mar/2026:05:06:07 +0100] "-" - - "-" "-"`},
		{"json has every field", "json", nil,
			`{"ts":"2026-03-04T05:06:07.089+01:00","remote":"192.0.2.7","user":"anna","method":"GET","uri":"/shop/a%20b.php?x=1&y=%22","proto":"HTTP/1.1",` +
				`"host":"example.com:8443","status":200,"bytes":5120,"request_bytes":77,"duration_seconds":2.034567,"queue_wait_seconds":0.001234,` +
				`"pool":"php","pid":4711,"tls_protocol":"TLSv1.3","referer":"https://example.com/start","user_agent":"Mozilla/5.0 (X11)"}`},
		{"json keeps the fields that are empty", "json", nothing,
			`{"ts":"2026-03-04T05:06:07.089+01:00","remote":"","user":"","method":"","uri":"","proto":"","host":"","status":0,"bytes":0,"request_bytes":0,` +
				`"duration_seconds":0.000000,"queue_wait_seconds":0.000000,"pool":"","pid":0,"tls_protocol":"","referer":"","user_agent":""}`},
		{"json in UTC has a Z", "json", func(e *LogEntry) { *e = LogEntry{Time: e.Time.UTC()} },
			`{"ts":"2026-03-04T04:06:07.089Z","remote":"","user":"","method":"","uri":"","proto":"","host":"","status":0,"bytes":0,"request_bytes":0,` +
				`"duration_seconds":0.000000,"queue_wait_seconds":0.000000,"pool":"","pid":0,"tls_protocol":"","referer":"","user_agent":""}`},
		{"a negative duration is still a JSON number", "json", func(e *LogEntry) { *e = LogEntry{Time: e.Time, Duration: -1500 * time.Millisecond} },
			`{"ts":"2026-03-04T05:06:07.089+01:00","remote":"","user":"","method":"","uri":"","proto":"","host":"","status":0,"bytes":0,"request_bytes":0,` +
				`"duration_seconds":0.000000,"queue_wait_seconds":0.000000,"pool":"","pid":0,"tls_protocol":"","referer":"","user_agent":""}`},

		{"parts of the request line", "%m %U %q %H", nil, `GET /shop/a b.php ?x=1&y=%22 HTTP/1.1`},
		{"a path is decoded once and escaped", "%U", func(e *LogEntry) { e.URI = "/%22%0a%2520%c3%A9?q" }, `/\"\n%20\xc3\xa9`},
		{"a broken escape in a path stays", "%U", func(e *LogEntry) { e.URI = "/%zz%4%+1%" }, `/%zz%4%+1%`},
		{"a target in absolute form has a path", "%U%q", func(e *LogEntry) { e.URI = "http://example.com/p?q=http://x/y" }, `/p?q=http://x/y`},
		{"a target in absolute form may have no path", "%U", func(e *LogEntry) { e.URI = "http://example.com?q" }, `/`},
		{"a URL as a path is a path", "%U", func(e *LogEntry) { e.URI = "/go/http://example.com/x" }, `/go/http://example.com/x`},
		{"the target of OPTIONS", "%U", func(e *LogEntry) { e.URI = "*" }, `*`},
		{"an empty query keeps its question mark", "<%q>", func(e *LogEntry) { e.URI = "/a?" }, `<?>`},
		{"no query is nothing", "<%q>", func(e *LogEntry) { e.URI = "/a" }, `<>`},
		{"a request line without a version", "%r", func(e *LogEntry) { e.Proto = "" }, `GET /shop/a%20b.php?x=1&y=%22`},
		{"a status with and without a modifier", "%s %>s %<s", nil, `200 200 200`},
		{"no bytes, in two ways", "%b %B", func(e *LogEntry) { e.Bytes = 0 }, `- 0`},
		{"durations in their units", "%D %T %{s}T %{ms}T %{us}T %{}T", nil, `2034567 2 2 2034 2034567 2`},
		{"fields of the request, in any case", "%{Referer}i %{user-agent}i %{HOST}i", nil, `https://example.com/start Mozilla/5.0 (X11) example.com:8443`},
		{"the host has no port", "%v", nil, `example.com`},
		{"an IPv6 host keeps its brackets", "%v", func(e *LogEntry) { e.Host = "[2001:db8::1]:443" }, `[2001:db8::1]`},
		{"an IPv6 host without a port", "%v", func(e *LogEntry) { e.Host = "[2001:db8::1]" }, `[2001:db8::1]`},
		{"pool, child, queue and TLS", "%{pool}x %P %{queue}x %{SSL_PROTOCOL}x", nil, `php 4711 0.001234 TLSv1.3`},
		{"no child and no TLS", "%P %{SSL_PROTOCOL}x", nothing, `- -`},
		{"an IPv6 client", "%h %a", func(e *LogEntry) { e.Remote = netip.MustParseAddr("2001:db8::1") }, `2001:db8::1 2001:db8::1`},
		{"an IPv4 client on an IPv6 socket", "%h", func(e *LogEntry) { e.Remote = netip.MustParseAddr("::ffff:192.0.2.7") }, `192.0.2.7`},
		{"a zone is left out", "%h", func(e *LogEntry) { e.Remote = netip.MustParseAddr("fe80::1%eth0\n\"") }, `fe80::1`},
		{"percent sign, tab, backslash and letters", `100%% \t%l\\ \x é`, nil, "100% \t-\\ \\x é"},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := sampleEntry()
			if row.change != nil {
				row.change(&e)
			}
			if got := formatEntry(t, row.format, e); got != row.want {
				t.Errorf("format %q:\n got %s\nwant %s", row.format, got, row.want)
			}
		})
	}
}

// The expected texts are what Apache httpd 2.4 logs for the same bytes, but for NUL, which it can't log.
func TestLogEscaping(t *testing.T) {
	for _, row := range []struct{ name, in, apache, json string }{
		{"a forged line", "x\r\n1.2.3.4 - - \"GET", `x\r\n1.2.3.4 - - \"GET`, `x\u000d\u000a1.2.3.4 - - \"GET`},
		{"quotes and backslashes", `a"b\c`, `a\"b\\c`, `a\"b\\c`},
		{"controls with a letter", "\b\t\v\n\r", `\b\t\v\n\r`, `\u0008\u0009\u000b\u000a\u000d`},
		{"controls without one", "\x00\x01\a\f\x1b[2J\x7f", `\x00\x01\x07\x0c\x1b[2J\x7f`, `\u0000\u0001\u0007\u000c\u001b[2J\u007f`},
		{"letters beyond ASCII", "é€😀", `\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80`, `é€😀`},
		{"not UTF-8", "a\xffb\xc3", `a\xffb\xc3`, `a\ufffdb\ufffd`},
		{"a replacement character that was sent", "\ufffd", `\xef\xbf\xbd`, "\ufffd"},
		{"line ends and controls of Unicode", "\u0085\u009b\u2028\u2029", `\xc2\x85\xc2\x9b\xe2\x80\xa8\xe2\x80\xa9`, `\u0085\u009b\u2028\u2029`},
		{"nothing to escape", "curl/8.5 <&>'", "curl/8.5 <&>'", "curl/8.5 <&>'"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := string(appendEscaped(nil, row.in)); got != row.apache {
				t.Errorf("appendEscaped(%q): got %s, want %s", row.in, got, row.apache)
			}
			want := `,"n":"` + row.json + `"`
			if got := string(appendJSONString(nil, "n", row.in)); got != want {
				t.Errorf("appendJSONString(%q): got %s, want %s", row.in, got, want)
			}
		})
	}
}

func TestParseLogFormatRefuses(t *testing.T) {
	for _, row := range []struct{ name, format, want string }{
		{"a name with a slip", "combind", `neither common, combined or json, nor a text with % directives`},
		{"nothing", "", `neither common, combined or json, nor a text with % directives`},
		{"an unknown letter, behind a letter of two bytes", "é %h %Z",
			`character 6: "%Z": unknown; there is %% %<s %>s %B %D %H %P %T %U %a %b %h %l %m %q %r %s %t %u %v %{host}i %{ms}T %{pool}x %{queue}x ` +
				`%{referer}i %{ssl_protocol}x %{s}T %{user-agent}i %{us}T`},
		{"another field of the request", `"%{Cookie}i"`, `character 2: "%{Cookie}i": unknown; there is %{host}i %{referer}i %{user-agent}i`},
		{"a field without a name", "%i", `character 1: "%i": unknown; there is %{host}i %{referer}i %{user-agent}i`},
		{"a modifier elsewhere", "%>U", `character 1: "%>U": unknown; there is %U`},
		{"a layout for the time", "%{%Y}t", `character 1: "%{%Y}t": unknown; there is %t`},
		{"a condition", "%!200{Referer}i", `character 1: "%!": conditions by status are not supported`},
		{"an open brace", "%h %{Referer", `character 4: "%{Referer": the } is missing`},
		{"a percent sign at the end", "%h 100%", `character 7: "%": the letter is missing; write %% for a percent sign`},
		{"a modifier at the end", "%h%>", `character 3: "%>": the letter is missing; write %% for a percent sign`},
		{"a line feed by name", `%h\n%u`, `character 3: "\\n": a line of the log is one line`},
		{"a carriage return", "%h\r", `character 3: "\r": a line of the log has no control characters`},
		{"a control beyond ASCII", "%h\u0085", `character 3: "\u0085": a line of the log has no control characters`},
		{"bytes that are not UTF-8", "%h\xff%u", `character 3: "\xff": not UTF-8`},
		{"two faults at once", "%{x}h %>h", "character 1: \"%{x}h\": unknown; there is %h\ncharacter 7: \"%>h\": unknown; there is %h"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ParseLogFormat(row.format)
			if err == nil || err.Error() != row.want {
				t.Errorf("ParseLogFormat(%q):\n got %v\nwant %s", row.format, err, row.want)
			}
		})
	}
}

func TestJSONHasEveryFieldOfLogEntry(t *testing.T) {
	full := sampleEntry()
	for i := range reflect.TypeFor[LogEntry]().NumField() {
		changed := full
		reflect.ValueOf(&changed).Elem().Field(i).SetZero()
		if formatEntry(t, "json", changed) == formatEntry(t, "json", full) {
			t.Errorf("json: field %s is not logged", reflect.TypeFor[LogEntry]().Field(i).Name)
		}
	}
}

func TestDirectivesMatchTheirList(t *testing.T) {
	for name := range logDirectives() {
		if got := formatEntry(t, "%"+name, sampleEntry()); got == "" {
			t.Errorf("format %%%s: got nothing", name)
		}
	}
}

func TestTimeStampsAreNotMixedUp(t *testing.T) {
	var clock logClock
	f, err := ParseLogFormat("%t")
	if err != nil {
		t.Fatal(err)
	}
	base := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	east := time.FixedZone("", 2*3600)
	for _, at := range []time.Time{base, base.Add(999 * time.Millisecond), base.Add(time.Second), base, base.In(east), base, time.Unix(0, 0).UTC(), {}} {
		want := at.Format("[02/Jan/2006:15:04:05 -0700]")
		if got := string(f.appendLine(nil, &LogEntry{Time: at}, &clock)); got != want {
			t.Errorf("%%t of %v: got %s, want %s", at, got, want)
		}
		want = at.Format("2006-01-02T15:04:05.000Z07:00")
		if got := string(clock.appendRFC3339(nil, at)); got != want {
			t.Errorf("appendRFC3339(%v): got %s, want %s", at, got, want)
		}
	}
}

// logFile is a file in memory that can be full or hang. Its fields are guarded by mu.
type logFile struct {
	mu     sync.Mutex
	data   []byte
	limit  int           // bytes it has room for; -1: no limit
	hang   chan struct{} // if set, a write waits until it is closed
	writes int
}

func (f *logFile) Write(p []byte) (int, error) {
	if hang := f.begin(); hang != nil {
		<-hang
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(p)
	if f.limit >= 0 {
		n = min(n, f.limit-len(f.data))
	}
	f.data = append(f.data, p[:n]...)
	if n < len(p) {
		return n, unix.ENOSPC
	}
	return n, nil
}

func (f *logFile) begin() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	return f.hang
}

func (f *logFile) Close() error { return nil }

func (f *logFile) setLimit(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = n
}

func (f *logFile) content() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.data)
}

// openLogFiles returns an open function that gives one file after the other.
func openLogFiles(files ...*logFile) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) {
		if len(files) == 0 {
			return nil, errors.New("no more files")
		}
		f := files[0]
		files = files[1:]
		return f, nil
	}
}

// startTestLog starts a log of user names, the shortest that can be told apart.
func startTestLog(t *testing.T, open func() (io.WriteCloser, error), options ...AccessLogOption) *AccessLog {
	t.Helper()
	l, err := startAccessLog(routes.AccessLog{Path: "test", Format: "%u"}, open, options...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func logUsers(l *AccessLog, users ...string) {
	for _, user := range users {
		l.Log(&LogEntry{User: user})
	}
}

func TestLinesAreWrittenWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &logFile{limit: -1}
		l := startTestLog(t, openLogFiles(file))
		logUsers(l, "a", "b")
		synctest.Wait()
		if got := file.content(); got != "" {
			t.Errorf("at once: got %q, want nothing", got)
		}
		time.Sleep(logFlushEvery) // of the bubble's clock
		synctest.Wait()
		if got := file.content(); got != "a\nb\n" || file.writes != 1 {
			t.Errorf("after %v: got %q in %d writes, want both lines in one", logFlushEvery, got, file.writes)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestManyLinesAreWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &logFile{limit: -1}
		l := startTestLog(t, openLogFiles(file))
		defer l.Close()
		logUsers(l, strings.Repeat("x", logFlushBytes))
		synctest.Wait()
		if got := len(file.content()); got != logFlushBytes+1 {
			t.Errorf("before the second is over: got %d bytes, want %d", got, logFlushBytes+1)
		}
	})
}

func TestCloseWritesWhatWaits(t *testing.T) {
	file := &logFile{limit: -1}
	l := startTestLog(t, openLogFiles(file))
	logUsers(l, "a")
	for range 2 {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	logUsers(l, "late")
	if err := l.Reopen(); !errors.Is(err, errLogClosed) {
		t.Errorf("Reopen after Close: got %v, want %v", err, errLogClosed)
	}
	if got, dropped := file.content(), l.Dropped(); got != "a\n" || dropped != 1 {
		t.Errorf("got %q and %d dropped, want a, and the late line dropped", got, dropped)
	}
}

func TestADiskThatWasFullGetsEveryLineWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &logFile{limit: 5}
		l := startTestLog(t, openLogFiles(file))
		logUsers(l, "one", "two", "three")
		time.Sleep(2 * logFlushEvery)
		if got := file.content(); got != "one\nt" {
			t.Errorf("full: got %q, want what there is room for", got)
		}
		file.setLimit(6) // the cut line goes on by one byte
		time.Sleep(logFlushEvery)
		file.setLimit(-1)
		logUsers(l, "four")
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if got, dropped := file.content(), l.Dropped(); got != "one\ntwo\nthree\nfour\n" || dropped != 0 {
			t.Errorf("with room again: got %q and %d dropped, want all four lines", got, dropped)
		}
	})
}

func TestReopenMovesWhatAFullFileCouldNotTake(t *testing.T) {
	old, fresh := &logFile{limit: 5}, &logFile{limit: -1}
	l := startTestLog(t, openLogFiles(old, fresh))
	logUsers(l, "one", "two", "three")
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
	logUsers(l, "four")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if got, want := fresh.content(), "two\nthree\nfour\n"; got != want {
		t.Errorf("new file: got %q, want %q", got, want)
	}
}

func TestReopenThatFailsKeepsTheFile(t *testing.T) {
	file := &logFile{limit: -1}
	l := startTestLog(t, openLogFiles(file))
	logUsers(l, "a")
	if err := l.Reopen(); err == nil || err.Error() != "access log: reopen: no more files" {
		t.Errorf("Reopen: got %v, want why it failed", err)
	}
	logUsers(l, "b")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if got := file.content(); got != "a\nb\n" {
		t.Errorf("got %q, want both lines in the old file", got)
	}
}

func TestCloseCountsWhatAFullDiskLost(t *testing.T) {
	l := startTestLog(t, openLogFiles(&logFile{limit: 5}))
	logUsers(l, "one", "two", "three")
	want := "access log: close: 2 lines lost: no space left on device"
	if err := l.Close(); err == nil || err.Error() != want || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Close: got %v, want %s", err, want)
	}
	if got := l.Dropped(); got != 2 {
		t.Errorf("Dropped: got %d, want 2", got)
	}
}

func TestAHangingWriteHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &logFile{limit: -1, hang: make(chan struct{})}
		warnings := make(chan string, 10)
		l := startTestLog(t, openLogFiles(file), WithAccessLogWarning(func(msg string, facts ...any) { warnings <- fmt.Sprint(msg, facts) }))
		long := strings.Repeat("x", logFlushBytes)
		logUsers(l, long)
		synctest.Wait() // the writer hangs with this line
		fits := maxLogWaitingBytes / len(long)
		for range fits + 5 {
			logUsers(l, long)
		}
		synctest.Wait()
		if got := l.Dropped(); got != 5 {
			t.Errorf("Dropped: got %d, want 5", got)
		}
		want := "access log: lines wait in memory or are dropped[path test error the writer does not keep up dropped 1 fix free space on the disk, or set " +
			"access_log.path to a file or a reader that keeps up]"
		if got := drainStrings(warnings); !slices.Equal(got, []string{want}) {
			t.Errorf("warnings: got %q, want only %q", got, want)
		}
		if err := l.Reopen(); !errors.Is(err, errLogHangs) {
			t.Errorf("Reopen: got %v, want %v", err, errLogHangs)
		}
		if err := l.Close(); !errors.Is(err, errLogHangs) {
			t.Errorf("Close: got %v, want %v", err, errLogHangs)
		}
		close(file.hang)
		if err := l.Close(); err != nil {
			t.Errorf("Close once the write came back: %v", err)
		}
		if got := strings.Count(file.content(), "\n"); got != fits+1 {
			t.Errorf("lines written: got %d, want %d", got, fits+1)
		}
	})
}

func drainStrings(c chan string) (all []string) {
	for {
		select {
		case s := <-c:
			all = append(all, s)
		default:
			return all
		}
	}
}

func TestAFullDiskIsWarnedOfOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		warnings := make(chan string, 10)
		l := startTestLog(t, openLogFiles(&logFile{}), WithAccessLogWarning(func(_ string, facts ...any) { warnings <- fmt.Sprint(facts[3]) }))
		logUsers(l, "a")
		time.Sleep(logFlushEvery + logWarnEvery - time.Millisecond)
		synctest.Wait()
		if got := drainStrings(warnings); !slices.Equal(got, []string{"no space left on device"}) {
			t.Errorf("warnings in the first minute: got %q, want one", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := drainStrings(warnings); len(got) != 1 {
			t.Errorf("warnings as the second minute begins: got %q, want one more", got)
		}
		if err := l.Close(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Close: got %v, want %v", err, unix.ENOSPC)
		}
	})
}

func TestNewAccessLogMakesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	for _, user := range []string{"first", "second"} {
		l, err := NewAccessLog(routes.AccessLog{Path: path, Format: "%u"})
		if err != nil {
			t.Fatal(err)
		}
		logUsers(l, user)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	got, err := os.ReadFile(path)
	if string(got) != "first\nsecond\n" || err != nil {
		t.Errorf("content: got %q, %v, want both lines", got, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode(); mode&^0o640 != 0 || mode&0o400 == 0 {
		t.Errorf("mode: got %v, want 0640 less the umask", mode)
	}
}

func TestNewAccessLogRefuses(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		cfg  routes.AccessLog
		want string
	}{
		{"a folder that is not there", routes.AccessLog{Path: dir + "/none/log", Format: "common"},
			"access log: open " + dir + "/none/log: no such file or directory"},
		{"a folder as the file", routes.AccessLog{Path: dir, Format: "common"},
			"access log: open " + dir + ": is a directory"},
		{"a pipe without a reader, at once", routes.AccessLog{Path: pipe, Format: "common"},
			"access log: open " + pipe + ": no such device or address: a pipe that nobody reads, or a socket"},
		{"a wrong format, without making the file", routes.AccessLog{Path: dir + "/log", Format: "%h %Y%%"},
			`access log: format "%h %Y%%": character 4: "%Y": unknown; there is`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := NewAccessLog(row.cfg)
			if err == nil || !strings.HasPrefix(err.Error(), row.want) {
				t.Errorf("NewAccessLog(%+v): got %v, want %s", row.cfg, err, row.want)
			}
		})
	}
	if _, err := os.Stat(dir + "/log"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a wrong format: got %v, want that there is none", err)
	}
}

func TestDeviceWithoutRoom(t *testing.T) {
	l, err := NewAccessLog(routes.AccessLog{Path: "/dev/full", Format: "combined"})
	if err != nil {
		t.Fatal(err)
	}
	const entries = 30_000 // three times what may wait
	e := sampleEntry()
	for range entries {
		l.Log(&e)
	}
	if got := l.Dropped(); got == 0 || got == entries {
		t.Errorf("Dropped with %d entries: got %d, want some", entries, got)
	}
	if err := l.Close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Close: got %v, want %v", err, unix.ENOSPC)
	}
	if got := l.Dropped(); got != entries {
		t.Errorf("Dropped at the end: got %d, want %d", got, entries)
	}
}

func TestPipeThatNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	l, err := NewAccessLog(routes.AccessLog{Path: path, Format: "combined"})
	if err != nil {
		t.Fatal(err)
	}
	const entries = 30_000
	e := sampleEntry()
	for range entries {
		l.Log(&e)
	}
	if l.Dropped() == 0 {
		t.Error("Dropped: got 0, want some")
	}
	read := make(chan int)
	go func() { // ends with the pipe, which Close closes
		b, _ := io.ReadAll(reader)
		read <- bytes.Count(b, []byte{'\n'})
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if got := <-read; got+int(l.Dropped()) != entries {
		t.Errorf("got %d lines and %d dropped, want %d together", got, l.Dropped(), entries)
	}
}

func TestAccessLogOfWhatIsNoRequest(t *testing.T) {
	for _, row := range []struct{ name, seen, want string }{
		{"a request without a host", "GET /a?b HTTP/1.1\r\n\r\n", `"GET /a?b HTTP/1.1" 400`},
		{"a space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", `"GET /a b HTTP/1.1" 400`},
		{"empty lines before it", "\r\n\r\nGET /a HTTP/1.1\r\n", `"GET /a HTTP/1.1" 400`},
		{"a line that has no end yet", "GET /a", `"GET /a" 400`},
		{"one word", "QUIT\r\n", `"QUIT" 400`},
		{"bytes that are no text", "\x16\x03\x01 \"\xff\x00\n", `"\x16\x03\x01 \"\xff\x00" 400`},
		{"nothing", "", `"-" 400`},
		{"more than the log wants", strings.Repeat("a", 5000), `"` + strings.Repeat("a", maxRefusedBytes) + `" 400`},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "access.log")
			l, err := NewAccessLog(routes.AccessLog{Path: path, Format: `"%r" %s`})
			if err != nil {
				t.Fatal(err)
			}
			h := &HTTP{Access: l, Log: zap.NewNop().Sugar()}
			h.refuse(io.Discard, netip.AddrPort{}, []byte(row.seen), &http1.Error{Status: 400, Reason: "bad"})
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(path); string(got) != row.want+"\n" || err != nil {
				t.Errorf("refuse(%.40q): the log has %q, %v, want %q", row.seen, got, err, row.want)
			}
		})
	}
}

func TestReopenAfterARename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := NewAccessLog(routes.AccessLog{Path: path, Format: "%u"})
	if err != nil {
		t.Fatal(err)
	}
	logUsers(l, "before")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	logUsers(l, "between")
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
	logUsers(l, "after")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{path + ".1": "before\nbetween\n", path: "after\n"} {
		if got, err := os.ReadFile(name); string(got) != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", filepath.Base(name), got, err, want)
		}
	}
}

func TestReopenUnderLoadLosesNothing(t *testing.T) {
	const writers, entries, rotations = 4, 400, 10
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	l, err := NewAccessLog(routes.AccessLog{Path: path, Format: "%u"})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range entries {
				logUsers(l, fmt.Sprintf("%d.%d", w, i))
			}
		})
	}
	for i := range rotations {
		if err := os.Rename(path, path+"."+strconv.Itoa(i)); err != nil {
			t.Error(err)
		}
		if err := l.Reopen(); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	seen := map[string]int{}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != rotations+1 {
		t.Errorf("files: got %d, %v, want %d", len(files), err, rotations+1)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(b)) {
			seen[line]++
		}
	}
	for w := range writers {
		for i := range entries {
			if line := fmt.Sprintf("%d.%d\n", w, i); seen[line] != 1 {
				t.Errorf("line %q: got %d times, want once", line, seen[line])
			}
		}
	}
	if len(seen) != writers*entries || l.Dropped() != 0 {
		t.Errorf("got %d different lines and %d dropped, want %d and none", len(seen), l.Dropped(), writers*entries)
	}
}

// A Go program dies of a write to a broken pipe that is its standard output; this one must not.
func TestStandardOutputThatBroke(t *testing.T) {
	const key = "TEST_ACCESS_LOG_STDOUT"
	if os.Getenv(key) != "" {
		l, err := NewAccessLog(routes.AccessLog{Path: "-", Format: "%u"})
		if err != nil {
			t.Fatal(err)
		}
		logUsers(l, "a")
		if err := l.Close(); !errors.Is(err, unix.EPIPE) || l.Dropped() != 1 {
			t.Errorf("Close: got %v with %d dropped, want %v and 1", err, l.Dropped(), unix.EPIPE)
		}
		if t.Failed() {
			os.Exit(3)
		}
		os.Exit(4)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), key+"=1")
	cmd.Stdout = write
	err = cmd.Run()
	if cmd.ProcessState.ExitCode() != 4 {
		t.Errorf("child: got %v, want exit status 4", err)
	}
}

func TestStandardOutput(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	l, err := startAccessLog(routes.AccessLog{Path: "-", Format: "%u"}, func() (io.WriteCloser, error) { return duplicateFile(write) })
	if err != nil {
		t.Fatal(err)
	}
	logUsers(l, "a")
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
	logUsers(l, "b")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := write.WriteString("still open"); err != nil {
		t.Error(err)
	}
	if err := write.Close(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(read); string(got) != "a\nb\nstill open" || err != nil {
		t.Errorf("got %q, %v, want both lines and an open file", got, err)
	}
}

var combinedLine = regexp.MustCompile(
	`^(\S+) - (.*) \[04/Mar/2026:05:06:07 \+0100\] "((?:[^"\\]|\\.)*)" 200 5120 "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"$`)

// FuzzLogLine: whatever a client sends, a line is one line of printable characters, and says what was sent.
func FuzzLogLine(f *testing.F) {
	f.Add("anna", "/a?b", "https://example.com/", "curl/8")
	f.Add("", "", "", "")
	f.Add("x\r\n", "/\x00\x7f%0a%\xff", `a" "b\`, "\u2028\u0085é\xc3")
	f.Add(`\`, `\"`, `"`, `\x0a`)
	f.Fuzz(func(t *testing.T, user, uri, referer, agent string) {
		e := sampleEntry()
		e.User, e.URI, e.Referer, e.UserAgent, e.Host = user, uri, referer, agent, agent
		checkCombined(t, &e, formatEntry(t, "combined", e))
		checkJSON(t, &e, formatEntry(t, "json", e))
		checkPrintable(t, formatEntry(t, "%U %q %v %{host}i %m %H", e))
	})
}

func checkPrintable(t *testing.T, line string) {
	t.Helper()
	for i := range len(line) {
		if line[i] < ' ' || line[i] > '~' {
			t.Errorf("line %q: byte %#x at %d, want printable ASCII", line, line[i], i)
		}
	}
}

func checkCombined(t *testing.T, e *LogEntry, line string) {
	t.Helper()
	checkPrintable(t, line)
	parts := combinedLine.FindStringSubmatch(line)
	if parts == nil {
		t.Errorf("line %q: not a combined line", line)
		return
	}
	request := e.Method + " " + e.URI + " " + e.Proto
	if e.URI == "" {
		request = e.Method + " " + e.Proto
	}
	for i, want := range []string{e.User, request, e.Referer, e.UserAgent} {
		if want == "" {
			want = "-"
		}
		got, err := strconv.Unquote(`"` + parts[i+2] + `"`) // Apache's escapes are a subset of Go's
		if got != want || err != nil {
			t.Errorf("line %q: part %d: got %q, %v, want %q", line, i, got, err, want)
		}
	}
}

func checkJSON(t *testing.T, e *LogEntry, line string) {
	t.Helper()
	for _, r := range line {
		if r < ' ' || r >= 0x7f && r <= 0x9f || r == '\u2028' || r == '\u2029' {
			t.Errorf("line %q: raw %q", line, r)
		}
	}
	var got struct{ User, URI, Referer, Host string }
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Errorf("line %q: %v", line, err)
	}
	for _, pair := range [][2]string{{got.User, e.User}, {got.URI, e.URI}, {got.Referer, e.Referer}, {got.Host, e.Host}} {
		if want := string([]rune(pair[1])); pair[0] != want {
			t.Errorf("line %q: got %q, want %q", line, pair[0], want)
		}
	}
}

// FuzzParseLogFormat: a format that is accepted makes whole lines.
func FuzzParseLogFormat(f *testing.F) {
	for _, seed := range []string{"common", "combined", "json", combinedFormat, "%{queue}x %{pool}x", "%", "%{", "%>{", "%é", `\`, `%h\n`, "%%\t", "%{ms}T%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, format string) {
		parsed, err := ParseLogFormat(format)
		if err != nil {
			return
		}
		e := sampleEntry()
		e.URI, e.User = "/%0a\n?\n", "\r\n"
		line := string(parsed.appendLine(nil, &e, new(logClock)))
		for _, r := range line {
			if r < ' ' && r != '\t' || r >= 0x7f && r <= 0x9f {
				t.Errorf("format %q: line %q: raw %q", format, line, r)
			}
		}
	})
}

// BenchmarkAccessLog: logging a request costs no more than one allocation, the entry itself.
func BenchmarkAccessLog(b *testing.B) {
	for _, format := range []string{"combined", "json"} {
		b.Run(format, func(b *testing.B) {
			l, err := NewAccessLog(routes.AccessLog{Path: os.DevNull, Format: format})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			sample := sampleEntry()
			for b.Loop() {
				e := sample
				l.Log(&e)
			}
			if err := l.Close(); err != nil {
				b.Error(err)
			}
			b.ReportMetric(float64(l.Dropped())/float64(b.N), "dropped/op")
		})
	}
}
