package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// statusClientGone is what the access log has for a client that did not wait (nginx's number).
const statusClientGone = 499

// complainEvery is how often at most the log says what clients can have it say again and again.
const complainEvery = 10 * time.Second

var errClientGone = errors.New("client has gone")

// warn logs that a file can't be had, limited.
func (s *Server) warn(msg, uri string, err error) {
	if held, ok := s.refusals.Pass(time.Now(), complainEvery); ok {
		s.log.Warnw(msg, "uri", uri, "error", err, "not_logged", held)
	}
}

// fail answers with an error. err says why, for the log; nil: the status says it all, or it is logged elsewhere.
func (a *applications) fail(w http.ResponseWriter, x *exchange, status int, err error) {
	a.logFailure(x, status, err)
	writeStatus(w, status)
}

func (a *applications) logFailure(x *exchange, status int, err error) {
	if err != nil && status >= http.StatusInternalServerError {
		a.log.Errorw("request failed", "status", status, "pool", x.pool, "pid", x.pid, "uri", x.uri, "error", err)
	}
}

// failBody answers a request whose body could not be read. A spool that takes no more has been logged, limited.
func (a *applications) failBody(w http.ResponseWriter, x *exchange, err error) {
	status := bodyStatus(err)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	if errors.Is(err, errSpool) {
		err = nil
	}
	a.fail(w, x, status, err)
}

// failAcquire answers a request that got no slot. The pool has logged why, limited.
func (s *Server) failAcquire(w http.ResponseWriter, r *http.Request, x *exchange) {
	if r.Context().Err() != nil {
		w.WriteHeader(statusClientGone)
		return
	}
	w.Header().Set("Retry-After", strconv.Itoa(retryAfter(s.pools[x.pool].config.Queue.Timeout)))
	s.fail(w, x, http.StatusServiceUnavailable, nil)
}

// retryAfter is in how many seconds a client may try again. A queue is worth as many seconds as its requests may wait;
// a tenth of them is soon enough for a place in it.
func retryAfter(queueTimeout time.Duration) int {
	return min(max(int(queueTimeout/(10*time.Second)), 1), 30)
}

// maxStderrLine is where a longer line of a program's error stream is broken, in bytes.
const maxStderrLine = 4 << 10

// stderrLog logs what a program writes to its error stream, by line.
type stderrLog struct {
	log  Logger
	pool string
	pid  int
	uri  string
	said func(pid int, line string)               // nil: only the log gets the lines
	from func(pid int, line string) (int, string) // tells whose line it is, and what of it counts; nil: all are of pid
	line []byte                                   // begun
}

func (l *stderrLog) write(b []byte) {
	for _, c := range b {
		if c == '\n' || len(l.line) == maxStderrLine {
			l.end()
		}
		if c != '\n' {
			l.line = append(l.line, c)
		}
	}
}

// end logs a line, be it complete or not.
func (l *stderrLog) end() {
	pid, text := l.pid, strings.TrimRight(string(l.line), " \t\r")
	if l.from != nil {
		pid, text = l.from(pid, text)
	}
	if text != "" {
		l.log.Warnw("program wrote to its error stream", "pool", l.pool, "pid", pid, "uri", l.uri, "text", printable(text))
		if l.said != nil {
			l.said(pid, text)
		}
	}
	l.line = l.line[:0]
}

// printable escapes what would change the look of a log or a terminal.
func printable(s string) string {
	if !strings.ContainsFunc(s, isUnprintable) {
		return s
	}
	var b strings.Builder
	for i, c := range s {
		switch {
		case !isUnprintable(c):
			b.WriteRune(c)
		case c < utf8.RuneSelf || c == utf8.RuneError:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}

// isUnprintable is for bytes that are no text (which a string range gives as RuneError), and for what the terminals take for
// commands: C0, DEL, C1, and the marks that turn the direction of writing.
func isUnprintable(c rune) bool {
	switch {
	case c < ' ' && c != '\t', 0x7f <= c && c < 0xa0, c == utf8.RuneError:
		return true
	case c == 0x2028, c == 0x2029, 0x202a <= c && c <= 0x202e, 0x2066 <= c && c <= 0x2069:
		return true
	}
	return false
}
