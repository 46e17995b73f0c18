// Package migrate turns the configurations of other servers into the gateway's. What has no counterpart here is kept as a comment that
// says where it stood and why it was left.
package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// Origin is the place in an imported file that something comes from.
type Origin struct {
	File string
	Line int    // 0: unknown
	Text string // what stands there
}

// maxShown bounds what of a line is shown, in characters.
const maxShown = 160

func (o Origin) String() string {
	place := o.File
	if o.Line > 0 {
		place += ":" + strconv.Itoa(o.Line)
	}
	return place + ": " + oneLine(o.Text, maxShown)
}

// Note is something that was left out, and why.
type Note struct {
	Origin
	Reason string
}

func (n Note) String() string { return n.Origin.String() + ": " + oneLine(n.Reason, 0) }

// Document is a configuration in the making. Its blocks are written in the order of top, and those of one word in the order in
// which they were added.
type Document struct {
	Block
	Title string // a comment before everything else
}

// top is the order in which a person writes the blocks of the top level.
var top = []string{"gateway", "tls", "pool", "site"}

// Block is a block, or one of the things in it: what it is called, what it holds, and the lines it came to stand in.
type Block struct {
	kind   kind
	word   string // a block's, or the name of an attribute
	labels []string
	text   string // an attribute's value as it is written, or a comment
	inner  []*Block
	from   Origin
	reason string // of a comment: why something has no counterpart; empty: it is only a remark
	spared bool   // of a comment: nothing is lost without it
	lines  span   // where it was written last
}

type kind int

const (
	block kind = iota
	attribute
	table // an attribute that is a map; its entries are attributes
	comment
)

// span is the first and the last line of something, counted from 1.
type span struct{ first, last int }

// NewBlock makes a block that stands nowhere yet: see [Block.Append].
func NewBlock(from Origin, word string, labels ...string) *Block {
	return &Block{word: word, labels: labels, from: from}
}

// Add appends a block to the block and returns it.
func (b *Block) Add(from Origin, word string, labels ...string) *Block {
	return b.Append(NewBlock(from, word, labels...))
}

// Append appends a block that was made before, and returns it.
func (b *Block) Append(inner *Block) *Block {
	b.inner = append(b.inner, inner)
	return inner
}

// Find returns the first block in it with that word and these labels, or nil.
func (b *Block) Find(word string, labels ...string) *Block {
	for _, e := range b.inner {
		if e.kind == block && e.word == word && slices.Equal(e.labels, labels) {
			return e
		}
	}
	return nil
}

// Need returns the first block in it with that word and these labels, which it adds if there is none.
func (b *Block) Need(from Origin, word string, labels ...string) *Block {
	if found := b.Find(word, labels...); found != nil {
		return found
	}
	return b.Add(from, word, labels...)
}

// Blocks returns the blocks in it with that word.
func (b *Block) Blocks(word string) []*Block {
	var found []*Block
	for _, e := range b.inner {
		if e.kind == block && e.word == word {
			found = append(found, e)
		}
	}
	return found
}

// Labels returns the texts behind the block's word.
func (b *Block) Labels() []string { return b.labels }

// Has reports whether the attribute is set.
func (b *Block) Has(name string) bool { return b.setting(name) != nil }

func (b *Block) setting(name string) *Block {
	for _, e := range b.inner {
		if (e.kind == attribute || e.kind == table) && e.word == name {
			return e
		}
	}
	return nil
}

// Expr is the value of an attribute as it is written, such as the call of a function.
type Expr string

// Set gives the attribute a value: a string, an int, a bool, a []string, a map[string]string or an [Expr]. It takes the place of one from before.
// A text that is not UTF-8 is left out.
func (b *Block) Set(from Origin, name string, value any) {
	if entries, ok := value.(map[string]string); ok {
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			b.Put(from, name, key, entries[key])
		}
		return
	}
	text := literal(value)
	if strings.ContainsRune(text, utf8.RuneError) {
		b.Leave(from, "it is not UTF-8")
		return
	}
	b.place(&Block{kind: attribute, word: name, text: text, from: from})
}

// Put sets one entry of an attribute that is a map, a string or an [Expr].
func (b *Block) Put(from Origin, name, key string, value any) {
	t := b.setting(name)
	if t == nil {
		t = b.place(&Block{kind: table, word: name, from: from})
	}
	t.Set(from, key, value)
}

// place puts a setting where an older one of its name stands, or else behind the other settings: before the blocks.
func (b *Block) place(e *Block) *Block {
	if old := b.setting(e.word); old != nil {
		*old = *e
		return old
	}
	at := slices.IndexFunc(b.inner, func(e *Block) bool { return e.kind == block })
	if at < 0 {
		at = len(b.inner)
	}
	b.inner = slices.Insert(b.inner, at, e)
	return e
}

// Comment appends a remark.
func (b *Block) Comment(text string) {
	b.inner = append(b.inner, &Block{kind: comment, text: text})
}

// Leave notes at this place of the block that something has no counterpart.
func (b *Block) Leave(from Origin, format string, args ...any) {
	b.inner = append(b.inner, left(from, fmt.Sprintf(format, args...)))
}

// Spare notes at this place of the block that something is not needed here, so that nothing is lost without it.
func (b *Block) Spare(from Origin, format string, args ...any) {
	b.Leave(from, format, args...)
	b.inner[len(b.inner)-1].spared = true
}

func left(from Origin, reason string) *Block {
	return &Block{kind: comment, from: from, reason: reason}
}

// Notes returns what was left out, by file and line. What several blocks lack is in it once.
func (d *Document) Notes() []Note {
	var notes []Note
	seen := map[Note]bool{}
	d.each(func(e *Block) {
		if n := (Note{e.from, e.reason}); e.reason != "" && !e.spared && !seen[n] {
			notes, seen[n] = append(notes, n), true
		}
	})
	slices.SortStableFunc(notes, func(a, b Note) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return notes
}

// each visits everything in the block, outer before inner.
func (b *Block) each(visit func(*Block)) {
	for _, e := range b.inner {
		visit(e)
		e.each(visit)
	}
}

// size counts everything in the block.
func (b *Block) size() (n int) {
	b.each(func(*Block) { n++ })
	return n
}

// Bytes writes the configuration as a person would.
func (d *Document) Bytes() []byte {
	w := &writer{}
	w.comment("", d.Title)
	slices.SortStableFunc(d.inner, func(a, b *Block) int { return cmp.Compare(rank(a), rank(b)) })
	for i, e := range d.inner {
		if w.line > 0 && (i == 0 || e.kind == block) {
			w.print("")
		}
		w.element(e, "")
	}
	return hclwrite.Format(w.text.Bytes())
}

// rank is the place of something at the top level; remarks come first.
func rank(b *Block) int {
	if b.kind != block {
		return -1
	}
	return slices.Index(top, b.word)
}

// literal writes a value in HCL.
func literal(value any) string {
	switch value := value.(type) {
	case Expr:
		return string(value)
	case int:
		return strconv.Itoa(value)
	case bool:
		return strconv.FormatBool(value)
	case []string:
		quoted := make([]string, len(value))
		for i, s := range value {
			quoted[i] = literal(s)
		}
		return list(quoted)
	default:
		return string(hclwrite.TokensForValue(cty.StringVal(fmt.Sprint(value))).Bytes())
	}
}

// longLine is where lists are broken, in bytes.
const longLine = 120

func list(quoted []string) string {
	if line := "[" + strings.Join(quoted, ", ") + "]"; len(line) <= longLine {
		return line
	}
	return "[\n" + strings.Join(quoted, ",\n") + ",\n]"
}

// name writes the name of an attribute or of an entry of a map.
func name(s string) string {
	if hclsyntax.ValidIdentifier(s) {
		return s
	}
	return literal(s)
}

// oneLine makes a text fit for a line of a comment: without control characters, and no longer than limit characters (0: any length).
func oneLine(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(s, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) }), " ")
	if runes := []rune(s); limit > 0 && len(runes) > limit {
		s = string(runes[:limit]) + "…"
	}
	return s
}
