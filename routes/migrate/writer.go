package migrate

import (
	"bytes"
	"slices"
	"strings"
)

// writer writes blocks line by line, and into each the lines it came to stand in.
type writer struct {
	text bytes.Buffer
	line int // the last one
}

func (w *writer) print(line string) {
	w.text.WriteString(line + "\n")
	w.line += 1 + strings.Count(line, "\n")
}

func (w *writer) comment(indent, text string) {
	for line := range strings.Lines(text) {
		w.print(strings.TrimRight(indent+"# "+line, " \n"))
	}
}

func (w *writer) element(e *Block, indent string) {
	e.lines.first = w.line + 1
	switch {
	case e.kind == comment && e.reason != "":
		w.comment(indent, Note{e.from, e.reason}.String())
		w.comment(indent, e.text)
	case e.kind == comment:
		w.comment(indent, e.text)
	case e.kind == attribute:
		w.print(indent + name(e.word) + " = " + e.text)
	case e.isShort():
		w.short(e, indent)
	default:
		w.long(e, indent)
	}
	e.lines.last = w.line
}

// isShort reports whether a block or a map fits one line, which HCL allows for one attribute.
func (b *Block) isShort() bool {
	if len(b.inner) == 0 {
		return true
	}
	e := b.inner[0]
	return len(b.inner) == 1 && e.kind == attribute && !strings.Contains(e.text, "\n") && !b.isOuter() &&
		len(b.head())+len(e.word)+len(e.text) < longLine
}

// isOuter reports a block that people write on several lines, however little it says.
func (b *Block) isOuter() bool {
	switch b.word {
	case "gateway", "pool", "site", "route":
		return b.kind == block
	}
	return false
}

// head is what stands before the brace.
func (b *Block) head() string {
	if b.kind == table {
		return name(b.word) + " ="
	}
	words := []string{b.word}
	for _, l := range b.labels {
		words = append(words, literal(l))
	}
	return strings.Join(words, " ")
}

func (w *writer) short(e *Block, indent string) {
	body := "{}"
	for _, a := range e.inner {
		body = "{ " + name(a.word) + " = " + a.text + " }"
		a.lines = span{} // what is wrong with the line is the block's
	}
	w.print(indent + e.head() + " " + body)
}

func (w *writer) long(e *Block, indent string) {
	w.print(indent + e.head() + " {")
	for i, inner := range e.inner {
		if i > 0 && startsRoutes(e.inner, i) {
			w.print("")
		}
		w.element(inner, indent+"  ")
	}
	w.print(indent + "}")
}

// startsRoutes reports whether the routes of a site begin at i, with the comments before the first one.
func startsRoutes(list []*Block, i int) bool {
	next := slices.IndexFunc(list[i:], func(e *Block) bool { return e.kind != comment })
	return next >= 0 && list[i+next].isRoute() && list[i-1].kind != comment && !list[i-1].isRoute()
}

func (b *Block) isRoute() bool { return b.kind == block && b.word == "route" }
