package mpm

import (
	"slices"
	"strings"
	"unicode"
)

const (
	saidFirst    = 4   // what went wrong
	saidLast     = 8   // what it came to
	maxSaidBytes = 512 // of a line
)

// said keeps the first and the last lines that one process wrote to its standard error. Guarded by Pool.mu.
type said struct {
	pid   int
	first []string
	last  []string
}

func (s *said) add(line string) {
	line = printable(line[:min(len(line), maxSaidBytes)])
	if len(s.first) < saidFirst {
		s.first = append(s.first, line)
		return
	}
	if len(s.last) == saidLast {
		s.last = slices.Delete(s.last, 0, 1)
	}
	s.last = append(s.last, line)
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

// lines returns what was kept in the order in which it came.
func (s *said) lines() []string { return slices.Concat(s.first, s.last) }

// Said reports a line that a child, or the parent of the pool's children, wrote to its standard error, also before Started or after
// Exited. The status and the log have those of the child that failed last, or if it said nothing of a process that is no child.
func (p *Pool) Said(pid int, line string) {
	if line == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch c := p.byPID[pid]; {
	case c != nil && c.ready:
	case c != nil:
		c.said.add(line)
	case pid == p.said.pid:
		p.said.add(line)
	default:
		if p.stray.pid != pid {
			p.stray = said{pid: pid}
		}
		p.stray.add(line)
	}
}

// words are those of the child that failed last, or else of the parent that could not give one.
func (p *Pool) words() []string {
	if lines := p.said.lines(); lines != nil {
		return lines
	}
	return p.stray.lines()
}

// claimWords returns what was reported of a process before it was a child.
func (p *Pool) claimWords(pid int) said {
	if p.stray.pid != pid {
		return said{pid: pid}
	}
	words := p.stray
	p.stray = said{}
	return words
}
