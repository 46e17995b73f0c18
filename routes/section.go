package routes

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// reader collects everything that is wrong while the blocks of a configuration are read. Nothing stops it at the first error.
type reader struct {
	diags   hcl.Diagnostics
	context *hcl.EvalContext
	folders map[string]string // absolute folder of each file, for relative paths
	ranges  map[string]hcl.Range

	trusting bool // the gateway block names trusted proxies
	listens  listenSet
}

// section is one block whose words and types have been checked against the schema. Values that failed are not in it.
type section struct {
	spec     *block
	head     hcl.Range // the block's type and labels; the place of whatever is missing in it
	labels   []label
	settings map[string]setting
	blocks   map[string][]*section
	given    map[string]hcl.Range // every known word that stands in the block, usable or not: its name
}

type label struct {
	text string
	at   hcl.Range
}

// setting is the value of an attribute.
type setting struct {
	value    any
	at       hcl.Range
	elements []hcl.Range          // of a list
	keys     map[string]hcl.Range // of a map
}

func (r *reader) errorf(at hcl.Range, summary, format string, args ...any) {
	r.diags = append(r.diags, newDiagnostic(hcl.DiagError, at, summary, format, args...))
}

func (r *reader) warnf(at hcl.Range, summary, format string, args ...any) {
	r.diags = append(r.diags, newDiagnostic(hcl.DiagWarning, at, summary, format, args...))
}

// section checks a block's words against its schema.
func (r *reader) section(spec *block, body *hclsyntax.Body, head hcl.Range) *section {
	s := &section{
		spec:     spec,
		head:     head,
		settings: map[string]setting{},
		blocks:   map[string][]*section{},
		given:    map[string]hcl.Range{},
	}
	for _, a := range inFileOrder(body.Attributes) {
		r.attribute(s, a)
	}
	for _, b := range body.Blocks {
		r.block(s, b)
	}
	for _, a := range spec.attrs {
		if _, ok := s.given[a.name]; a.required && !ok {
			r.errorf(head, "Missing attribute", "%s needs %q%s.", spec.title(), a.name, example(&a))
		}
	}
	return s
}

func inFileOrder(attributes hclsyntax.Attributes) []*hclsyntax.Attribute {
	return slices.SortedFunc(maps.Values(attributes), func(a, b *hclsyntax.Attribute) int {
		return comparePlaces(a.NameRange, b.NameRange)
	})
}

// example says what may be written for a missing attribute.
func example(a *attr) string {
	if len(a.values) > 0 {
		return ": " + alternatives(a.values)
	}
	return ", a " + string(a.kind)
}

func (r *reader) attribute(s *section, a *hclsyntax.Attribute) {
	spec, ok := s.spec.attr(a.Name)
	if !ok {
		r.unknownAttribute(s.spec, a)
		return
	}
	if first, ok := s.given[spec.name]; ok {
		r.errorf(a.NameRange, "Attribute given twice", "%q and %q are two names of the same number; it is already set in line %d. Keep %q.",
			spec.name, spec.old, first.Start.Line, spec.name)
		return
	}
	s.given[spec.name] = a.NameRange
	value, ok := r.value(spec, a)
	if !ok {
		return
	}
	if r.choice(spec, a, value) {
		s.settings[spec.name] = setting{value, a.Expr.Range(), elementRanges(a.Expr), keyRanges(a.Expr)}
	}
}

func (r *reader) unknownAttribute(spec *block, a *hclsyntax.Attribute) {
	if _, ok := spec.block(a.Name); ok {
		r.errorf(a.NameRange, "Block expected", "%q is a block: write %s { … } without an equals sign.", a.Name, a.Name)
		return
	}
	r.errorf(a.NameRange, "Unknown attribute", "%s has no attribute %q.%s", spec.title(), a.Name, instead(a.Name, spec))
}

// value evaluates an attribute and checks its type and its bounds.
func (r *reader) value(spec *attr, a *hclsyntax.Attribute) (any, bool) {
	if r.unquoted(spec, a.Expr) {
		return nil, false
	}
	v, diags := a.Expr.Value(r.context)
	if diags.HasErrors() {
		r.unevaluated(diags)
		return nil, false
	}
	if v == cty.DynamicVal {
		return nil, false // of a local that is wrong
	}
	if v.IsNull() || !v.IsWhollyKnown() || v.Type() == cty.DynamicPseudoType {
		r.errorf(a.Expr.Range(), "Wrong value", "%q has no value. Leave the attribute out to have its default.", a.Name)
		return nil, false
	}
	value, faults := spec.decode(a.Expr, v)
	for _, f := range faults {
		r.errorf(f.at, "Wrong value", "%q: %s", a.Name, f.reason)
	}
	return value, faults == nil
}

// unquoted reports words that lack their quotes, which HCL takes for variables.
func (r *reader) unquoted(spec *attr, expr hclsyntax.Expression) bool {
	elements := []hclsyntax.Expression{expr}
	if list, ok := expr.(*hclsyntax.TupleConsExpr); ok {
		elements = list.Exprs
	}
	found := false
	for _, e := range elements {
		if t, ok := e.(*hclsyntax.ScopeTraversalExpr); !ok || t.Traversal.RootName() == localWord {
			continue
		}
		name := "…"
		if keyword := hcl.ExprAsKeyword(e); keyword != "" {
			name = keyword
		}
		r.errorf(e.Range(), "Missing quotes", "%q: a text stands in quotes: write \"%s\". local.NAME is a value of a locals block; env(\"NAME\") reads the environment.", spec.name, name)
		found = true
	}
	return found
}

// choice checks a text that must be one of a few.
func (r *reader) choice(spec *attr, a *hclsyntax.Attribute, value any) bool {
	given, isText := value.(string)
	if !isText || len(spec.values) == 0 || slices.Contains(spec.values, given) {
		return true
	}
	r.errorf(a.Expr.Range(), "Unknown value", "%q can be %s, not %q.%s", a.Name, alternatives(spec.values), given, didYouMean(given, spec.values))
	return false
}

func (r *reader) block(s *section, b *hclsyntax.Block) {
	spec, ok := s.spec.block(b.Type)
	if !ok {
		r.unknownBlock(s.spec, b)
		return
	}
	if first, ok := s.given[b.Type]; ok && !spec.many {
		r.errorf(b.TypeRange, "Block given twice", "%s takes one %q block; there is one in %s line %d.", s.spec.title(), b.Type, first.Filename, first.Start.Line)
		return
	}
	s.given[b.Type] = b.TypeRange
	inner := r.section(spec, b.Body, b.DefRange())
	r.labels(inner, b)
	s.blocks[b.Type] = append(s.blocks[b.Type], inner)
}

func (r *reader) unknownBlock(spec *block, b *hclsyntax.Block) {
	if a, ok := spec.attr(b.Type); ok {
		detail := fmt.Sprintf("%q is an attribute, a %s: write it with an equals sign.", b.Type, a.kind)
		r.errorf(b.TypeRange, "Attribute expected", "%s", detail)
		return
	}
	r.errorf(b.TypeRange, "Unknown block", "%s has no block %q.%s", spec.title(), b.Type, instead(b.Type, spec))
}

func (r *reader) labels(s *section, b *hclsyntax.Block) {
	for i, l := range b.Labels {
		s.labels = append(s.labels, label{l, b.LabelRanges[i]})
	}
	switch want := s.spec.label; {
	case want == nil && len(b.Labels) > 0:
		r.errorf(b.LabelRanges[0], "Too many labels", "%q takes no label. Remove %q.", b.Type, b.Labels[0])
	case want == nil:
	case len(b.Labels) == 0:
		r.errorf(b.TypeRange, "Missing label", "Write the %s behind the word: %s %q { … }.", want.meaning, b.Type, want.example)
	case len(b.Labels) > 1 && !want.several:
		r.errorf(b.LabelRanges[1], "Too many labels", "%q takes one label, the %s. Remove %q.", b.Type, want.meaning, b.Labels[1])
	}
}

// label returns the first label, which a faulty block may lack.
func (s *section) label() label {
	if len(s.labels) == 0 {
		return label{at: s.head}
	}
	return s.labels[0]
}

// one returns the block of that name, nil when there is none. It is for blocks that stand once.
func (s *section) one(name string) *section {
	if len(s.blocks[name]) == 0 {
		return nil
	}
	return s.blocks[name][0]
}

// has reports whether the attribute has a usable value.
func (s *section) has(name string) bool {
	_, ok := s.settings[name]
	return ok
}

// mentions reports whether the word stands in the block, even with a value that failed.
func (s *section) mentions(name string) bool {
	_, ok := s.given[name]
	return ok
}

// failed reports whether the attribute stands in the block with a value that can't be used.
func (s *section) failed(name string) bool { return s.mentions(name) && !s.has(name) }

// at is the place of an attribute's value, or of the block when it has none.
func (s *section) at(name string) hcl.Range {
	if v, ok := s.settings[name]; ok {
		return v.at
	}
	return s.head
}

// elementAt is the place of a list's element.
func (s *section) elementAt(name string, i int) hcl.Range {
	if v := s.settings[name]; i < len(v.elements) {
		return v.elements[i]
	}
	return s.at(name)
}

// keyAt is the place of a key of a map.
func (s *section) keyAt(name, key string) hcl.Range {
	if at, ok := s.settings[name].keys[key]; ok {
		return at
	}
	return s.at(name)
}

// get returns an attribute's value, or the fallback when it was left out or failed.
func get[T any](s *section, name string, fallback T) T {
	if s == nil {
		return fallback
	}
	if v, ok := s.settings[name].value.(T); ok {
		return v
	}
	return fallback
}

// mentioned returns those of the words that stand in the block, in file order.
func (s *section) mentioned(words []string) []string {
	var found []string
	for _, w := range words {
		if s.mentions(w) {
			found = append(found, w)
		}
	}
	slices.SortFunc(found, func(a, b string) int { return comparePlaces(s.given[a], s.given[b]) })
	return found
}
