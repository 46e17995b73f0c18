package migrate

import (
	"errors"
	"strings"

	"gateway/routes"
)

// settle makes what is not valid here a comment, with the reason that the gateway itself gives, until the rest is valid. So the importers
// need not know every bound of every attribute. Each round takes something away, which ends it.
func (im *importer) settle() error {
	for {
		_, diags := routes.Parse("imported.hcl", im.Bytes())
		faults := diags.Faults()
		if len(faults) == 0 {
			return nil
		}
		taken := false
		for _, f := range faults {
			taken = im.withdraw(f) || taken
		}
		switch {
		case taken:
		case len(im.Blocks("site")) == 0:
			im.emptySite()
		default:
			return errors.New(faults[0].Reason)
		}
	}
}

// withdraw makes a comment of the innermost thing that stands in the line of the fault.
func (b *Block) withdraw(f routes.Fault) bool {
	for i, e := range b.inner {
		if e.kind == comment || f.Line < e.lines.first || f.Line > e.lines.last {
			continue
		}
		if !e.withdraw(f) {
			b.inner[i] = e.withdrawn(b.from, f.Reason)
		}
		return true
	}
	return false
}

// withdrawn is the comment that takes the place of something: the reason, and what a block has held. What was left out in it already
// stays a note of its own.
func (b *Block) withdrawn(outer Origin, reason string) *Block {
	note := left(b.from, reason)
	if note.from == (Origin{}) {
		note.from = outer
	}
	if b.kind == block {
		w := &writer{}
		w.element(b, "")
		note.text = strings.TrimSuffix(w.text.String(), "\n")
	}
	b.each(func(e *Block) {
		if e.reason != "" && !e.spared {
			note.inner = append(note.inner, left(e.from, e.reason))
		}
	})
	return note
}

// emptySite is for a configuration of which nothing is left that serves: without a site it can't be loaded.
func (im *importer) emptySite() {
	site := im.Add(Origin{}, "site", "localhost")
	site.Comment("Nothing that was imported says what is served.")
	site.Set(Origin{}, "listen", []string{":80"})
	im.respond(site, "/*", 404)
}

func (im *importer) respond(site *Block, pattern string, status int) {
	route := site.Add(site.from, "route", pattern)
	route.Set(site.from, "pool", im.edge())
	route.Add(site.from, "respond").Set(site.from, "status", status)
}
