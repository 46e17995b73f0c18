package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"gateway/routes"
)

// LogEntry is what the access log may tell of one request. Texts come as the client sent them: the log escapes them.
type LogEntry struct {
	Remote       netip.Addr // zero for a unix socket
	User         string
	Time         time.Time // when the request came
	Method       string
	URI          string // the request target
	Proto        string
	Status       int
	Bytes        int64 // of the response's body, as sent
	Referer      string
	UserAgent    string
	Host         string // the field of the request, with its port
	Duration     time.Duration
	QueueWait    time.Duration // in the pool's queue
	Pool         string
	PID          int // of the child; 0: none
	TLSProtocol  string
	RequestBytes int64
}

// own makes copies of the texts that a client has sent, which may alias the head of the request.
func (e *LogEntry) own() {
	for _, text := range [...]*string{&e.Method, &e.URI, &e.Referer, &e.UserAgent, &e.Host} {
		*text = strings.Clone(*text)
	}
}

// setRefused makes e tell the beginning of bytes that are no request, up to the end of their first line, split as a request line is: it
// shows what the client took this for.
func (e *LogEntry) setRefused(seen []byte) {
	line := strings.TrimLeft(string(seen[:min(len(seen), maxRefusedBytes)]), "\r\n")
	if end := strings.IndexAny(line, "\r\n"); end >= 0 {
		line = line[:end]
	}
	e.Method, e.URI, _ = strings.Cut(line, " ")
	if last := strings.LastIndexByte(e.URI, ' '); last >= 0 {
		e.URI, e.Proto = e.URI[:last], e.URI[last+1:]
	}
}

const (
	maxRefusedBytes = 1 << 10 // of bytes that are no request

	logFlushBytes      = 64 << 10    // so much is written at once
	logFlushEvery      = time.Second // and what is less waits at most so long
	maxLogWaitingBytes = 1 << 20     // beyond it lines are dropped
	logWarnEvery       = time.Minute
	logPatience        = 5 * time.Second // of Reopen and Close with a write that hangs
)

var (
	errLogBehind = errors.New("the writer does not keep up")
	errLogHangs  = errors.New("access log: a write hangs")
	errLogClosed = errors.New("access log: closed")
)

// AccessLog writes a line for each request. Its methods are safe for concurrent use.
//
// A request only appends its line to a buffer; a goroutine writes what has gathered. While the file takes nothing (a full
// disk, a pipe that nobody reads) lines wait in memory, up to about two times maxLogWaitingBytes; those that come later are
// dropped and counted. So every line is written once, waits, or is counted. A process that is killed loses what waits.
type AccessLog struct {
	// Immutable after NewAccessLog.
	path    string
	maxSize int64 // 0: the file grows
	keep    int
	format  LogFormat
	open    func() (io.WriteCloser, error)
	warn    func(msg string, keysAndValues ...any)
	wake    chan struct{}   // one element: logFlushBytes have gathered
	reopens chan chan error // to the writer, which answers
	stop    chan struct{}   // closed by Close
	written chan struct{}   // closed by the writer when it leaves
	warned  chan struct{}   // closed by the warner when it leaves

	// Guarded by mu.
	mu       sync.Mutex
	lines    []byte // whole lines; what the writer will take next
	clock    logClock
	dropped  uint64
	failure  error           // of the last write that came back
	warnings chan logWarning // to the warner; closed with closed
	warnedAt time.Time
	closed   bool

	// Owned by the writer.
	file   io.WriteCloser
	size   int64  // of file; not kept when it grows
	batch  []byte // whole lines, taken and not yet written
	torn   int    // how many bytes of the batch's first line the file has already
	result error  // what Close returns; anyone's once written is closed
}

type logWarning struct {
	cause   error
	dropped uint64
}

// AccessLogOption changes an access log before it begins.
type AccessLogOption func(*AccessLog)

// WithAccessLogWarning sets where it is said, at most once a minute, that lines can't be written; zap's Warnw is such a
// function. It is called from a goroutine of its own.
func WithAccessLogWarning(warn func(msg string, keysAndValues ...any)) AccessLogOption {
	return func(l *AccessLog) { l.warn = warn }
}

// NewAccessLog opens the file ("-" is standard output), which is made with mode 0640. The caller must call [AccessLog.Close].
func NewAccessLog(cfg routes.AccessLog, options ...AccessLogOption) (*AccessLog, error) {
	open := func() (io.WriteCloser, error) { return openLog(cfg.Path) }
	if cfg.Path == "-" {
		open = func() (io.WriteCloser, error) { return duplicateFile(os.Stdout) }
	}
	return startAccessLog(cfg, open, options...)
}

func startAccessLog(cfg routes.AccessLog, open func() (io.WriteCloser, error), options ...AccessLogOption) (*AccessLog, error) {
	format, err := ParseLogFormat(cfg.Format)
	if err != nil {
		return nil, fmt.Errorf("access log: format %q: %w", cfg.Format, err)
	}
	file, err := open()
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	l := &AccessLog{
		path:     cfg.Path,
		maxSize:  cfg.MaxSize,
		keep:     cfg.Keep,
		format:   format,
		open:     open,
		warn:     func(string, ...any) {},
		wake:     make(chan struct{}, 1),
		reopens:  make(chan chan error),
		stop:     make(chan struct{}),
		written:  make(chan struct{}),
		warned:   make(chan struct{}),
		warnings: make(chan logWarning, 1),
		file:     file,
		size:     sizeOf(file),
	}
	for _, option := range options {
		option(l)
	}
	go l.writeLines()
	go l.writeWarnings()
	return l, nil
}

// openLog opens a file, or a pipe that has a reader: O_NONBLOCK refuses one that has none, where open would wait for it.
func openLog(path string) (io.WriteCloser, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o640)
	if errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%w: a pipe that nobody reads, or a socket", err)
	}
	if err != nil {
		return nil, err
	}
	return file, nil
}

// duplicate gives file another number. A write to a broken pipe ends a Go program if the number is 1 or 2, and is an error
// with any other one.
func duplicateFile(file *os.File) (io.WriteCloser, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var number int
	var failure error
	err = raw.Control(func(fd uintptr) { number, failure = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, failure); err != nil {
		return nil, fmt.Errorf("%s: duplicate: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(number), file.Name()), nil
}

// Log adds the line of e, which it does not keep. It never waits for the disk.
func (l *AccessLog) Log(e *LogEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.lines) >= maxLogWaitingBytes {
		l.dropped++
		l.complain()
		return
	}
	before := len(l.lines)
	l.lines = append(l.format.appendLine(l.lines, e, &l.clock), '\n')
	// Only the line that reaches logFlushBytes wakes the writer: when it is busy or the disk is full, more calls don't help.
	if before < logFlushBytes && len(l.lines) >= logFlushBytes {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Dropped returns how many lines were given up. Those that wait for a full disk are not among them yet.
func (l *AccessLog) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Reopen opens the path anew, for a file that was renamed. Lines logged before the call go to the old file, those logged
// after its return to the new one. If the path can't be opened, the old file stays in use.
func (l *AccessLog) Reopen() error {
	answer := make(chan error, 1)
	timeout := time.After(logPatience)
	select {
	case l.reopens <- answer:
	case <-l.stop:
		return errLogClosed
	case <-timeout:
		return errLogHangs // nothing was begun
	}
	select {
	case err := <-answer:
		return err
	case <-timeout:
		return errLogHangs
	}
}

// Close writes what waits and closes the file. An error says why lines were lost at the end; what is logged later is
// dropped. If a write hangs, Close gives up after a few seconds, and the goroutine ends when the write does.
func (l *AccessLog) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.stop)
		close(l.warnings)
	}
	l.mu.Unlock()
	timeout := time.After(logPatience)
	for _, end := range []chan struct{}{l.written, l.warned} {
		select {
		case <-end:
		case <-timeout:
			return errLogHangs
		}
	}
	return l.result
}

// complain tells the warner that lines are in trouble. l.mu is held.
func (l *AccessLog) complain() {
	now := time.Now()
	if l.closed || now.Sub(l.warnedAt) < logWarnEvery {
		return
	}
	select {
	case l.warnings <- logWarning{cause: l.failure, dropped: l.dropped}:
		l.warnedAt = now
	default: // the warner itself hangs
	}
}

// writeWarnings is the warner. Neither a request nor the writer may wait for the error log, which may be on the same disk.
// Close ends it.
func (l *AccessLog) writeWarnings() {
	defer close(l.warned)
	for w := range l.warnings {
		if w.cause == nil {
			w.cause = errLogBehind
		}
		if _, ok := errors.AsType[*os.LinkError](w.cause); ok {
			l.warn("access log can't be rotated; it goes on in the same file", "path", l.path, "error", w.cause,
				"fix", "let the front's user rename files in that folder")
			continue
		}
		l.warn("access log: lines wait in memory or are dropped", "path", l.path, "error", w.cause, "dropped", w.dropped,
			"fix", "free space on the disk, or set access_log.path to a file or a reader that keeps up")
	}
}

// writeLines is the writer. Close ends it.
func (l *AccessLog) writeLines() {
	defer close(l.written)
	tick := time.NewTicker(logFlushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.report(errors.Join(l.flush(), l.rotate()))
		case <-l.wake:
			l.report(errors.Join(l.flush(), l.rotate()))
		case answer := <-l.reopens:
			answer <- l.reopenFile()
		case <-l.stop:
			l.result = l.finish()
			return
		}
	}
}

// report keeps what became of a write, for the next warning.
func (l *AccessLog) report(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
	if err != nil {
		l.complain()
	}
}

// flush writes what was logged before the call. What could not be written stays in the batch.
func (l *AccessLog) flush() error {
	if err := l.writeBatch(); err != nil {
		return err
	}
	l.mu.Lock()
	l.batch, l.lines = l.lines, l.batch
	l.mu.Unlock()
	return l.writeBatch()
}

// writeBatch empties the batch, or cuts it to the lines that the file does not have as a whole.
func (l *AccessLog) writeBatch() error {
	if len(l.batch) == 0 {
		return nil
	}
	n, err := l.file.Write(l.batch[l.torn:])
	l.size += int64(n)
	n += l.torn
	whole := bytes.LastIndexByte(l.batch[:n], '\n') + 1
	l.torn = n - whole
	l.batch = append(l.batch[:0], l.batch[whole:]...)
	return err
}

// reopenFile puts a new file in the place of the old one. Lines that the old one could not take go to the new one; a line
// that was cut begins anew there.
func (l *AccessLog) reopenFile() error {
	l.report(l.flush())
	file, err := l.open()
	if err != nil {
		return fmt.Errorf("access log: reopen: %w", err)
	}
	old := l.file
	l.file, l.size, l.torn = file, sizeOf(file), 0
	if err := old.Close(); err != nil {
		return fmt.Errorf("access log: close the old file: %w", err)
	}
	return nil
}

// rotate puts a file that has reached maxSize aside, as path.1, after the older ones have made room for it, and begins a new one.
// The last of them is overwritten. A file that is cut in a line stays until the line is whole.
func (l *AccessLog) rotate() error {
	if l.maxSize == 0 || l.size < l.maxSize || l.torn > 0 {
		return nil
	}
	if _, err := os.Lstat(l.path); errors.Is(err, fs.ErrNotExist) {
		return l.reopenFile() // it was put aside already
	}
	for i := l.keep - 1; i > 0; i-- {
		err := os.Rename(l.rotated(i), l.rotated(i+1))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("access log: rotate: %w", err)
		}
	}
	if err := os.Rename(l.path, l.rotated(1)); err != nil {
		return fmt.Errorf("access log: rotate: %w", err)
	}
	return l.reopenFile()
}

func (l *AccessLog) rotated(i int) string { return l.path + "." + strconv.Itoa(i) }

// sizeOf is the size of a regular file. Other things have none: a pipe is not rotated.
func sizeOf(file io.Writer) int64 {
	f, ok := file.(*os.File)
	if !ok {
		return 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return math.MinInt64
	}
	return info.Size()
}

// finish writes the last lines, or counts them.
func (l *AccessLog) finish() error {
	err := errors.Join(l.flush(), l.file.Close())
	if err == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := bytes.Count(l.batch, []byte{'\n'}) + bytes.Count(l.lines, []byte{'\n'})
	l.batch, l.lines = nil, nil
	l.dropped += uint64(lost)
	return fmt.Errorf("access log: close: %d lines lost: %w", lost, err)
}

// LogFormat says what a line holds. It is made by [ParseLogFormat].
type LogFormat struct{ items []logItem }

// logItem adds one item of a line. None adds a control character, except tabs of the format itself.
type logItem func(dst []byte, e *LogEntry, c *logClock) []byte

func (f LogFormat) appendLine(dst []byte, e *LogEntry, c *logClock) []byte {
	for _, item := range f.items {
		dst = item(dst, e, c)
	}
	return dst
}

// Apache's own (mod_log_config).
const (
	commonFormat   = `%h %l %u %t "%r" %>s %b`
	combinedFormat = commonFormat + ` "%{Referer}i" "%{User-Agent}i"`
)

// ParseLogFormat reads the name of a format (common, combined, json) or a text with directives as in Apache's LogFormat.
// The error names each fault with its place, counted in characters from 1.
func ParseLogFormat(text string) (LogFormat, error) {
	switch text {
	case "common":
		text = commonFormat
	case "combined":
		text = combinedFormat
	case "json":
		return LogFormat{items: []logItem{appendJSON}}, nil
	}
	if !strings.Contains(text, "%") {
		return LogFormat{}, errors.New("neither common, combined or json, nor a text with % directives")
	}
	p := logFormatParser{text: text, known: logDirectives()}
	for p.at < len(p.text) {
		if p.text[p.at] == '%' {
			p.directive()
		} else {
			p.literal()
		}
	}
	if p.faults != nil {
		return LogFormat{}, errors.Join(p.faults...)
	}
	return LogFormat{items: p.items}, nil
}

// logDirectives returns all that may follow a %; arguments in lower case.
func logDirectives() map[string]logItem {
	return map[string]logItem{
		"%":               constantItem("%"),
		"h":               appendRemote,
		"a":               appendRemote,
		"l":               constantItem("-"), // of RFC 1413, which nobody speaks
		"u":               textItem(func(e *LogEntry) string { return e.User }),
		"t":               appendCommonTime,
		"r":               appendRequestLine,
		"m":               textItem(func(e *LogEntry) string { return e.Method }),
		"U":               appendPath,
		"q":               appendQuery,
		"H":               textItem(func(e *LogEntry) string { return e.Proto }),
		"s":               numberItem("-", func(e *LogEntry) int64 { return int64(e.Status) }),
		">s":              numberItem("-", func(e *LogEntry) int64 { return int64(e.Status) }),
		"<s":              numberItem("-", func(e *LogEntry) int64 { return int64(e.Status) }),
		"b":               numberItem("-", func(e *LogEntry) int64 { return e.Bytes }),
		"B":               numberItem("0", func(e *LogEntry) int64 { return e.Bytes }),
		"D":               numberItem("0", func(e *LogEntry) int64 { return e.Duration.Microseconds() }),
		"T":               numberItem("0", func(e *LogEntry) int64 { return int64(e.Duration / time.Second) }),
		"{s}T":            numberItem("0", func(e *LogEntry) int64 { return int64(e.Duration / time.Second) }),
		"{ms}T":           numberItem("0", func(e *LogEntry) int64 { return e.Duration.Milliseconds() }),
		"{us}T":           numberItem("0", func(e *LogEntry) int64 { return e.Duration.Microseconds() }),
		"{referer}i":      textItem(func(e *LogEntry) string { return e.Referer }),
		"{user-agent}i":   textItem(func(e *LogEntry) string { return e.UserAgent }),
		"{host}i":         textItem(func(e *LogEntry) string { return e.Host }),
		"v":               textItem(func(e *LogEntry) string { return withoutPort(e.Host) }),
		"P":               numberItem("-", func(e *LogEntry) int64 { return int64(e.PID) }),
		"{ssl_protocol}x": textItem(func(e *LogEntry) string { return e.TLSProtocol }),
		"{pool}x":         textItem(func(e *LogEntry) string { return e.Pool }),
		"{queue}x":        func(dst []byte, e *LogEntry, _ *logClock) []byte { return appendSeconds(dst, e.QueueWait) },
	}
}

// logFormatParser goes on after a fault, to find them all.
type logFormatParser struct {
	text   string
	known  map[string]logItem
	at     int
	items  []logItem
	faults []error
}

// fault notes what is wrong with the part of the text up to end, and goes on there.
func (p *logFormatParser) fault(end int, format string, args ...any) {
	place := utf8.RuneCountInString(p.text[:p.at]) + 1
	reason := fmt.Sprintf(format, args...)
	p.faults = append(p.faults, fmt.Errorf("character %d: %q: %s", place, p.text[p.at:end], reason))
	p.at = end
}

// literal reads up to the next directive.
func (p *logFormatParser) literal() {
	var b strings.Builder
	for p.at < len(p.text) && p.text[p.at] != '%' {
		rest := p.text[p.at:]
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case strings.HasPrefix(rest, `\n`), strings.HasPrefix(rest, `\r`):
			p.fault(p.at+2, "a line of the log is one line")
		case strings.HasPrefix(rest, `\t`):
			b.WriteByte('\t')
			p.at += 2
		case strings.HasPrefix(rest, `\\`):
			b.WriteByte('\\')
			p.at += 2
		case r == utf8.RuneError && size == 1:
			p.fault(p.at+1, "not UTF-8")
		case unicode.IsControl(r) && r != '\t':
			p.fault(p.at+size, "a line of the log has no control characters")
		default:
			b.WriteString(rest[:size])
			p.at += size
		}
	}
	p.items = append(p.items, constantItem(b.String()))
}

// directive reads %, perhaps > or <, perhaps an argument in braces, and a letter.
func (p *logFormatParser) directive() {
	end := p.at + 1
	name := ""
	if c := p.peek(end); c == '>' || c == '<' {
		name = string(c)
		end++
	}
	if p.peek(end) == '{' {
		length := strings.IndexByte(p.text[end:], '}')
		if length < 0 {
			p.fault(len(p.text), "the } is missing")
			return
		}
		if length > 1 { // %{}T is %T
			name += strings.ToLower(p.text[end : end+length+1])
		}
		end += length + 1
	}
	letter, size := utf8.DecodeRuneInString(p.text[end:])
	end += size
	name += string(letter)
	item, ok := p.known[name]
	switch {
	case size == 0:
		p.fault(end, "the letter is missing; write %%%% for a percent sign")
	case strings.ContainsRune("!,0123456789", letter):
		p.fault(end, "conditions by status are not supported")
	case !ok:
		p.fault(end, "unknown; there is %s", p.alternatives(letter))
	default:
		p.items = append(p.items, item)
		p.at = end
	}
}

// peek returns the byte at i, 0 behind the end.
func (p *logFormatParser) peek(i int) byte {
	if i >= len(p.text) {
		return 0
	}
	return p.text[i]
}

// alternatives lists the directives of that letter, or all when it has none.
func (p *logFormatParser) alternatives(letter rune) string {
	var same, all []string
	for _, name := range slices.Sorted(maps.Keys(p.known)) {
		all = append(all, "%"+name)
		if strings.HasSuffix(name, string(letter)) {
			same = append(same, "%"+name)
		}
	}
	if same != nil {
		all = same
	}
	return strings.Join(all, " ")
}

func constantItem(s string) logItem {
	return func(dst []byte, _ *LogEntry, _ *logClock) []byte { return append(dst, s...) }
}

// textItem is an item that a client may have chosen.
func textItem(get func(*LogEntry) string) logItem {
	return func(dst []byte, e *LogEntry, _ *logClock) []byte { return appendText(dst, get(e)) }
}

// numberItem is an item for which another text stands when it is 0 or less.
func numberItem(none string, get func(*LogEntry) int64) logItem {
	return func(dst []byte, e *LogEntry, _ *logClock) []byte {
		n := get(e)
		if n <= 0 {
			return append(dst, none...)
		}
		return strconv.AppendInt(dst, n, 10)
	}
}

func appendRemote(dst []byte, e *LogEntry, _ *logClock) []byte {
	if !e.Remote.IsValid() {
		return append(dst, '-')
	}
	return appendAddr(dst, e.Remote)
}

// appendAddr leaves out the zone, which names an interface of this machine and could be any text.
func appendAddr(dst []byte, addr netip.Addr) []byte {
	return addr.Unmap().WithZone("").AppendTo(dst)
}

func appendCommonTime(dst []byte, e *LogEntry, c *logClock) []byte {
	return append(dst, c.common.of(e.Time, "[02/Jan/2006:15:04:05 -0700]")...)
}

// appendRequestLine leaves out what a request too broken to be read does not have.
func appendRequestLine(dst []byte, e *LogEntry, _ *logClock) []byte {
	start := len(dst)
	for _, part := range [...]string{e.Method, e.URI, e.Proto} {
		if part == "" {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ' ')
		}
		dst = appendEscaped(dst, part)
	}
	if len(dst) == start {
		return append(dst, '-')
	}
	return dst
}

// appendPath adds the path of the target, decoded as in Apache, but not cleaned: /a%41/../b is /aA/../b.
func appendPath(dst []byte, e *LogEntry, _ *logClock) []byte {
	path, _, _ := strings.Cut(e.URI, "?")
	if !strings.HasPrefix(path, "/") {
		// The absolute form (RFC 9112 §3.2.2).
		if _, rest, ok := strings.Cut(path, "://"); ok {
			_, path, _ = strings.Cut(rest, "/")
			path = "/" + path
		}
	}
	if path == "" {
		return append(dst, '-')
	}
	for {
		i := strings.IndexByte(path, '%')
		if i < 0 {
			return appendEscaped(dst, path)
		}
		dst = appendEscaped(dst, path[:i])
		path = path[i:]
		if c, err := strconv.ParseUint(path[1:min(3, len(path))], 16, 8); err == nil && len(path) >= 3 {
			dst = appendEscapedByte(dst, byte(c))
			path = path[3:]
		} else {
			dst = append(dst, '%') // the request was refused, and the log shows what it was
			path = path[1:]
		}
	}
}

// appendQuery adds the query with its question mark, or nothing.
func appendQuery(dst []byte, e *LogEntry, _ *logClock) []byte {
	i := strings.IndexByte(e.URI, '?')
	if i < 0 {
		return dst
	}
	return appendEscaped(dst, e.URI[i:])
}

// withoutPort keeps the brackets of an IPv6 address.
func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

const lowerHex = "0123456789abcdef"

// appendText adds s escaped, or the sign for nothing.
func appendText(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, '-')
	}
	return appendEscaped(dst, s)
}

// appendEscaped adds s as Apache's ap_escape_logitem does: only printable ASCII stands for itself.
func appendEscaped(dst []byte, s string) []byte {
	start := 0
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			dst = append(dst, s[start:i]...)
			dst = appendEscapedByte(dst, c)
			start = i + 1
		}
	}
	return append(dst, s[start:]...)
}

func appendEscapedByte(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	case '\v':
		return append(dst, `\v`...)
	}
	if c < ' ' || c > '~' {
		return append(dst, '\\', 'x', lowerHex[c>>4], lowerHex[c&15])
	}
	return append(dst, c)
}

// appendJSON adds an object with every field of e.
func appendJSON(dst []byte, e *LogEntry, c *logClock) []byte {
	dst = append(dst, `{"ts":"`...)
	dst = c.appendRFC3339(dst, e.Time)
	dst = append(dst, `","remote":"`...)
	if e.Remote.IsValid() {
		dst = appendAddr(dst, e.Remote)
	}
	dst = append(dst, '"')
	dst = appendJSONString(dst, "user", e.User)
	dst = appendJSONString(dst, "method", e.Method)
	dst = appendJSONString(dst, "uri", e.URI)
	dst = appendJSONString(dst, "proto", e.Proto)
	dst = appendJSONString(dst, "host", e.Host)
	dst = appendJSONNumber(dst, "status", int64(e.Status))
	dst = appendJSONNumber(dst, "bytes", e.Bytes)
	dst = appendJSONNumber(dst, "request_bytes", e.RequestBytes)
	dst = appendSeconds(append(dst, `,"duration_seconds":`...), e.Duration)
	dst = appendSeconds(append(dst, `,"queue_wait_seconds":`...), e.QueueWait)
	dst = appendJSONString(dst, "pool", e.Pool)
	dst = appendJSONNumber(dst, "pid", int64(e.PID))
	dst = appendJSONString(dst, "tls_protocol", e.TLSProtocol)
	dst = appendJSONString(dst, "referer", e.Referer)
	dst = appendJSONString(dst, "user_agent", e.UserAgent)
	return append(dst, '}')
}

// appendJSONName begins a member of an object that has one already.
func appendJSONName(dst []byte, name string) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	return append(dst, '"', ':')
}

func appendJSONNumber(dst []byte, name string, n int64) []byte {
	return strconv.AppendInt(appendJSONName(dst, name), n, 10)
}

// appendJSONString writes every character that could end a line or move a cursor as an escape, and U+FFFD for each byte that is
// not UTF-8, as encoding/json does (RFC 8259 §8.1).
func appendJSONString(dst []byte, name, s string) []byte {
	dst = append(appendJSONName(dst, name), '"')
	start := 0
	for i := 0; i < len(s); {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		if needsJSONEscape(r, size) {
			dst = append(dst, s[start:i]...)
			dst = appendJSONRune(dst, r)
			start = i + size
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func needsJSONEscape(r rune, size int) bool {
	return r < ' ' || r == '"' || r == '\\' || r >= 0x7f && r <= 0x9f || r == '\u2028' || r == '\u2029' ||
		r == utf8.RuneError && size == 1
}

// appendJSONRune takes what needsJSONEscape found: all of it is in the basic plane, so no surrogates are needed.
func appendJSONRune(dst []byte, r rune) []byte {
	if r == '"' || r == '\\' {
		return append(dst, '\\', byte(r))
	}
	return append(dst, '\\', 'u', lowerHex[r>>12&15], lowerHex[r>>8&15], lowerHex[r>>4&15], lowerHex[r&15])
}

// appendSeconds adds d with six decimals, cut off; 0 when it is negative.
func appendSeconds(dst []byte, d time.Duration) []byte {
	micros := max(0, d.Microseconds())
	dst = strconv.AppendInt(dst, micros/1e6, 10)
	return appendPadded(append(dst, '.'), micros%1e6, 100_000)
}

// appendPadded adds n with as many digits as unit, a power of ten, has.
func appendPadded(dst []byte, n, unit int64) []byte {
	for ; unit > 0; unit /= 10 {
		dst = append(dst, byte('0'+n/unit%10))
	}
	return dst
}

// logClock keeps the texts of the current second: a busy server logs thousands of lines in it.
type logClock struct {
	common, date, zone logStamp
}

// appendRFC3339 adds t with milliseconds, cut off.
func (c *logClock) appendRFC3339(dst []byte, t time.Time) []byte {
	dst = append(dst, c.date.of(t, "2006-01-02T15:04:05")...)
	dst = appendPadded(append(dst, '.'), int64(t.Nanosecond()/1e6), 100)
	return append(dst, c.zone.of(t, "Z07:00")...)
}

// logStamp is the text of one second in one layout.
type logStamp struct {
	second   int64
	location *time.Location
	text     []byte
}

// of returns t in the layout, which is the same in every call. The result is good until the next one.
func (s *logStamp) of(t time.Time, layout string) []byte {
	if s.second != t.Unix() || s.location != t.Location() {
		s.second, s.location = t.Unix(), t.Location()
		s.text = t.AppendFormat(s.text[:0], layout)
	}
	return s.text
}
