package proxy

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// LogOutput logs what a child writes to its own standard error, line by line, until all that have it open have closed it. Most
// of what a FastCGI program has to say comes with its requests instead; this is where crashes speak. said gets each line as well; nil:
// nobody does.
func LogOutput(log Logger, pool string, pid int, output io.Reader, said func(pid int, line string)) {
	stderrLog{log: log, pool: pool, pid: pid, said: said}.follow(output)
}

// LogParent does the same for php-fpm and the children that it forks, whose output it passes on.
func LogParent(log Logger, pool string, pid int, output io.Reader, said func(pid int, line string)) {
	stderrLog{log: log, pool: pool, pid: pid, said: said, from: fromFPM}.follow(output)
}

func (l stderrLog) follow(output io.Reader) {
	b := make([]byte, maxStderrLine)
	for {
		n, err := output.Read(b)
		l.write(b[:n])
		if err == nil {
			continue
		}
		l.end()
		if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
			l.log.Warnw("error stream of a child can't be read", "pool", l.pool, "pid", l.pid, "error", err)
		}
		return
	}
}

// fpmLine is what php-fpm says of a child, and fpmSaid what a child has said to php-fpm. Each child has a [pool] of its own, whose
// name tells nothing.
var (
	fpmLine = regexp.MustCompile(`^\[[^]]*\] [A-Z]+: \[pool [0-9]+\] (.*)$`)
	fpmSaid = regexp.MustCompile(`^child ([0-9]+) said into std(?:err|out): "(.*)"(?:, pipe is closed)?$`)
)

// fromFPM tells whose a line of php-fpm's output is, and what was written.
func fromFPM(parent int, line string) (pid int, text string) {
	if m := fpmLine.FindStringSubmatch(line); m != nil {
		line = m[1]
	}
	if strings.HasPrefix(line, "server reached max_children setting") {
		return parent, "" // one child for each place is what it was told to have
	}
	if m := fpmSaid.FindStringSubmatch(line); m != nil {
		if pid, err := strconv.Atoi(m[1]); err == nil {
			return pid, m[2]
		}
	}
	return parent, line
}
