package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// table is a Markdown table that is also aligned for a terminal.
type table [][]string // the first row is the header

func (t table) write(w io.Writer) error {
	width := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for i, row := range t {
		writeRow(&b, row, width)
		if i == 0 {
			for _, n := range width {
				b.WriteString("|-" + strings.Repeat("-", n) + "-")
			}
			b.WriteString("|\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRow(b *strings.Builder, row []string, width []int) {
	for i, cell := range row {
		b.WriteString("| " + cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+1))
	}
	b.WriteString("|\n")
}
