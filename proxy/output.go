package proxy

import (
	"errors"
	"io"
	"os"
)

// LogOutput logs what a child writes to its own standard error, line by line, until all that have it open have closed it. Most
// of what a FastCGI program has to say comes with its requests instead; this is where crashes speak. said gets each line as well; nil:
// nobody does.
func LogOutput(log Logger, pool string, pid int, output io.Reader, said func(pid int, line string)) {
	l := stderrLog{log: log, pool: pool, pid: pid, said: said}
	b := make([]byte, maxStderrLine)
	for {
		n, err := output.Read(b)
		l.write(b[:n])
		if err == nil {
			continue
		}
		l.end()
		if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
			log.Warnw("error stream of a child can't be read", "pool", pool, "pid", pid, "error", err)
		}
		return
	}
}
