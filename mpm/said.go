package mpm

import (
	"strings"
	"unicode"
)

const (
	saidLines    = 8
	maxSaidBytes = 512 // of a line
)

// said keeps the last lines that children wrote to their standard error before they were ready: why they did not start.
// Guarded by Pool.mu.
type said struct {
	lines [saidLines]string
	next  int
}

func (s *said) add(line string) {
	s.lines[s.next] = printable(line[:min(len(line), maxSaidBytes)])
	s.next = (s.next + 1) % saidLines
}

// printable keeps a child from writing to the terminal of who reads the status.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(line, "?"))
}

// last returns the lines in the order in which they came.
func (s *said) last() (lines []string) {
	for i := range saidLines {
		if line := s.lines[(s.next+i)%saidLines]; line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// Said reports a line that a child wrote to its standard error, also before Started or after Exited: it keeps the last few of
// children that were not ready, for the status and the log.
func (p *Pool) Said(pid int, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.byPID[pid]; line == "" || c != nil && c.ready {
		return
	}
	p.said.add(line)
}
