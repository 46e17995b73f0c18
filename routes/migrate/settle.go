package migrate

import (
	"errors"
	"slices"
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
			taken = im.withdraw(&im.Block, f) || taken
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

// withdraw makes a comment of the innermost thing in b that stands in the line of the fault. It reports false if that is to be b itself.
func (im *importer) withdraw(b *Block, f routes.Fault) bool {
	for i, e := range b.inner {
		if !e.stands(f) {
			continue
		}
		if e.kind == comment || im.withdraw(e, f) { // a comment: an earlier fault of the line has made it one
			return true
		}
		if b.needs(e) {
			return false
		}
		restricted := e.isRoute() && slices.ContainsFunc(e.inner, func(part *Block) bool { return part.stands(f) && e.needs(part) })
		b.inner[i] = e.withdrawn(b.from, f.Reason)
		if restricted {
			b.inner = slices.Insert(b.inner, i+1, im.closed(e))
		}
		return true
	}
	return false
}

func (b *Block) stands(f routes.Fault) bool { return b.lines.first <= f.Line && f.Line <= b.lines.last }

// needs reports what can't be taken from a block alone, for it keeps requests out of it.
func (b *Block) needs(part *Block) bool {
	switch b.word {
	case "when", "not", "auth_basic":
		return true
	}
	switch part.word {
	case "allow", "deny", "satisfy", "auth_basic", "methods", "symlinks", "when", "not":
		return true
	}
	return false
}

// closed is a route that keeps everybody out, in place of one without what has kept out some.
func (im *importer) closed(route *Block) *Block {
	closed := NewBlock(route.from, "route", route.labels...)
	closed.Set(route.from, "pool", im.edge())
	closed.Add(route.from, "respond").Set(route.from, "status", 403)
	return closed
}

// withdrawn is the comment that takes the place of something: the reason, and what a block has held. What was left out in it already
// stays a note of its own.
func (b *Block) withdrawn(outer Origin, reason string) *Block {
	note := left(b.from, reason)
	note.lines = b.lines
	if len(b.inner) == 1 && b.isShort() {
		note.from = b.inner[0].from
	}
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
