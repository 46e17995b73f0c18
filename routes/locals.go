package routes

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// localsWord is the block that names values, and localWord what they are used by: local.NAME.
const (
	localsWord = "locals"
	localWord  = "local"
)

var (
	errNoFile  = errors.New("it is no regular file")
	errBigFile = errors.New("it is bigger than 1 MiB")
	errNoText  = errors.New("it is no UTF-8 text")
)

// functions are what expressions may call. Files are read in the folder.
func functions(folder string) map[string]function.Function {
	return map[string]function.Function{
		"env":        envFunction(),
		"file":       fileFunction(folder),
		"concat":     stdlib.ConcatFunc,
		"format":     stdlib.FormatFunc,
		"join":       stdlib.JoinFunc,
		"lower":      stdlib.LowerFunc,
		"merge":      stdlib.MergeFunc,
		"replace":    stdlib.ReplaceFunc,
		"split":      stdlib.SplitFunc,
		"trimprefix": stdlib.TrimPrefixFunc,
		"trimspace":  stdlib.TrimSpaceFunc,
		"trimsuffix": stdlib.TrimSuffixFunc,
		"upper":      stdlib.UpperFunc,
	}
}

// fileFunction is file("NAME"): the text of a file.
func fileFunction(folder string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "name", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			name := args[0].AsString()
			path := name
			if !filepath.IsAbs(path) {
				path = filepath.Join(folder, path)
			}
			text, err := readText(path)
			if err != nil {
				return cty.NilVal, function.NewArgErrorf(0, "%s: %v", name, cause(err))
			}
			return cty.StringVal(text), nil
		},
	})
}

func readText(name string) (string, error) {
	info, err := os.Stat(name) // before it is opened: a pipe would be waited for
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errNoFile
	}
	b, err := readFile(name)
	switch {
	case err != nil:
		return "", err
	case len(b) > MaxSourceBytes:
		return "", errBigFile
	case !utf8.Valid(b):
		return "", errNoText
	}
	return string(b), nil
}

// locals takes the blocks of values out of the top level and makes the values known to all other expressions. One may use another
// wherever that stands.
func (r *reader) locals(body *hclsyntax.Body) {
	pending := hclsyntax.Attributes{}
	body.Blocks = slices.DeleteFunc(body.Blocks, func(b *hclsyntax.Block) bool {
		if b.Type == localsWord {
			r.collectLocals(b, pending)
		}
		return b.Type == localsWord
	})
	values := map[string]cty.Value{}
	for found := true; found; {
		found = false
		for _, a := range inFileOrder(pending) {
			if awaits(a.Expr, pending) {
				continue
			}
			found = true
			delete(pending, a.Name)
			v, diags := a.Expr.Value(r.context)
			r.unevaluated(diags)
			if diags.HasErrors() {
				v = cty.DynamicVal // what is made of it fails silently
			}
			values[a.Name] = v
			r.context.Variables[localWord] = cty.ObjectVal(values)
		}
	}
	for _, a := range inFileOrder(pending) {
		r.errorf(a.Expr.Range(), "Values in a circle", "%q is made of values that are made of it.", a.Name)
		values[a.Name] = cty.DynamicVal
	}
	r.context.Variables[localWord] = cty.ObjectVal(values)
}

// unevaluated reports why an expression has no value.
func (r *reader) unevaluated(diags hcl.Diagnostics) {
	for _, d := range diags {
		switch d.Summary {
		case "Unsupported attribute":
			d.Summary, d.Detail = "Unknown value", "No "+localsWord+" block has a value of this name."
			if d.Expression != nil {
				d.Detail += didYouMean(lastName(d.Expression), r.localNames())
			}
		case "Unknown variable":
			d.Detail += " Values of the configuration are written ${local.NAME} or ${env(\"NAME\")}, and what each request brings {path}, without a dollar sign."
		}
	}
	r.diags = append(r.diags, diags...)
}

// localNames are the names of the values that are known.
func (r *reader) localNames() []string {
	values, ok := r.context.Variables[localWord]
	if !ok || !values.Type().IsObjectType() {
		return nil
	}
	return slices.Sorted(maps.Keys(values.Type().AttributeTypes()))
}

// lastName is the name at the end of an expression such as local.name; empty: it is another one.
func lastName(expr hcl.Expression) string {
	t, _ := hcl.AbsTraversalForExpr(expr)
	if len(t) == 0 {
		return ""
	}
	name, _ := t[len(t)-1].(hcl.TraverseAttr)
	return name.Name
}

func (r *reader) collectLocals(b *hclsyntax.Block, all hclsyntax.Attributes) {
	for _, label := range b.LabelRanges {
		r.errorf(label, "Too many labels", "%q takes no label.", localsWord)
	}
	for _, inner := range b.Body.Blocks {
		r.errorf(inner.TypeRange, "Unknown block", "%q holds values: write %s = { … }.", localsWord, inner.Type)
	}
	for _, a := range inFileOrder(b.Body.Attributes) {
		if first, ok := all[a.Name]; ok {
			r.errorf(a.NameRange, "Attribute given twice", "%q is already set in %s line %d.", a.Name, first.NameRange.Filename, first.NameRange.Start.Line)
			continue
		}
		all[a.Name] = a
	}
}

// awaits reports whether an expression uses a value that is not known yet.
func awaits(expr hclsyntax.Expression, pending hclsyntax.Attributes) bool {
	return slices.ContainsFunc(expr.Variables(), func(t hcl.Traversal) bool {
		if t.RootName() != localWord || len(t) < 2 {
			return false
		}
		name, ok := t[1].(hcl.TraverseAttr)
		return ok && pending[name.Name] != nil
	})
}
