package routes

import (
	"fmt"
	"math"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
)

// fault is what is wrong with a value, and where.
type fault struct {
	at     hcl.Range
	reason string
}

// envFunction is env("NAME") and env("NAME", "default"): a variable of the environment that the configuration is loaded in.
func envFunction() function.Function {
	return function.New(&function.Spec{
		Params:   []function.Parameter{{Name: "name", Type: cty.String}},
		VarParam: &function.Parameter{Name: "default", Type: cty.String},
		Type:     function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if len(args) > 2 {
				return cty.NilVal, function.NewArgErrorf(2, "env takes a name and one default")
			}
			name := args[0].AsString()
			if value, ok := os.LookupEnv(name); ok {
				return cty.StringVal(value), nil
			}
			if len(args) == 2 {
				return args[1], nil
			}
			return cty.NilVal, function.NewArgErrorf(0,
				"the environment has no variable %s; set it, or give a default: env(%q, \"…\")", name, name)
		},
	})
}

// decode turns an evaluated expression into the Go value of the attribute's kind. The value is nil when there are faults.
func (a *attr) decode(expr hclsyntax.Expression, v cty.Value) (any, []fault) {
	at := expr.Range()
	switch a.kind {
	case text:
		return one(at, v, a.decodeText)
	case number:
		return one(at, v, a.decodeNumber)
	case boolean:
		return one(at, v, decodeBoolean)
	case duration:
		return one(at, v, a.decodeDuration)
	case size:
		return one(at, v, a.decodeSize)
	case texts:
		return a.decodeTexts(expr, v)
	default:
		return decodeTable(expr, v)
	}
}

// one adapts a decoder of a single value, which gives a reason when it fails.
func one[T any](at hcl.Range, v cty.Value, decode func(cty.Value) (T, string)) (any, []fault) {
	value, reason := decode(v)
	if reason != "" {
		return nil, []fault{{at, reason}}
	}
	return value, nil
}

func (a *attr) decodeText(v cty.Value) (string, string) {
	if v.IsNull() || v.Type() != cty.String {
		return "", fmt.Sprintf("A text in quotes is needed, not %s.", typeName(v))
	}
	s := v.AsString()
	if strings.ContainsRune(s, 0) || !a.freeform && hasControl(s) {
		return "", fmt.Sprintf("%q holds a control character.", s)
	}
	return s, ""
}

func (a *attr) decodeNumber(v cty.Value) (int, string) {
	n, ok := wholeNumber(v)
	switch {
	case !ok:
		return 0, fmt.Sprintf("A whole number is needed, not %s.", describe(v))
	case n < a.min:
		return 0, fmt.Sprintf("%d is too small: the least is %d.", n, a.min)
	case a.max > 0 && n > a.max:
		return 0, fmt.Sprintf("%d is too big: the most is %d.", n, a.max)
	}
	return int(n), ""
}

func decodeBoolean(v cty.Value) (bool, string) {
	b, err := convert.Convert(v, cty.Bool)
	if err != nil || b.IsNull() {
		return false, fmt.Sprintf("Write true or false, not %s.", describe(v))
	}
	return b.True(), ""
}

func (a *attr) decodeDuration(v cty.Value) (time.Duration, string) {
	if n, ok := wholeNumber(v); ok && v.Type() == cty.Number {
		return 0, fmt.Sprintf(`A duration needs a unit: write "%ds" for %d seconds.`, n, n)
	}
	if v.Type() != cty.String {
		return 0, fmt.Sprintf(`A duration such as "10s" is needed, not %s.`, typeName(v))
	}
	d, err := time.ParseDuration(v.AsString())
	switch {
	case err != nil:
		return 0, fmt.Sprintf(`%q is not a duration: write numbers with the units ms, s, m or h, such as "10s" or "1m30s".`, v.AsString())
	case d < 0:
		return 0, fmt.Sprintf("%q is negative.", v.AsString())
	case a.min > 1 && d < time.Duration(a.min):
		return 0, fmt.Sprintf("%q is too short: the least is %q. Leave it out to have no limit.", v.AsString(), time.Duration(a.min))
	case d < time.Duration(a.min):
		return 0, fmt.Sprintf("%q is too short: it must be above 0.", v.AsString())
	}
	return d, ""
}

func (a *attr) decodeSize(v cty.Value) (int64, string) {
	n, ok := wholeNumber(v)
	if !ok && v.Type() == cty.String {
		n, ok = parseSize(v.AsString())
	}
	switch {
	case !ok:
		return 0, fmt.Sprintf(`%s is not a size: write bytes as a number, or a text with K, M or G such as "128M".`, describe(v))
	case a.min > 1 && n < a.min:
		return 0, fmt.Sprintf("%d bytes is too small: the least is %d. Leave it out to have no limit.", n, a.min)
	case n < a.min:
		return 0, fmt.Sprintf("%d is too small: the least is %d. There is no word for unlimited; a big size such as \"1024G\" does it.", n, a.min)
	}
	return n, ""
}

// parseSize reads "128M". The units are powers of 1024.
func parseSize(s string) (int64, bool) {
	digits, unit := s, int64(1)
	if s != "" {
		switch s[len(s)-1] {
		case 'k', 'K':
			unit = 1 << 10
		case 'm', 'M':
			unit = 1 << 20
		case 'g', 'G':
			unit = 1 << 30
		}
	}
	if unit > 1 {
		digits = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(n) > math.MaxInt64/unit {
		return 0, false
	}
	return int64(n) * unit, true
}

func (a *attr) decodeTexts(expr hclsyntax.Expression, v cty.Value) (any, []fault) {
	if a.single && !v.IsNull() && v.Type() == cty.String {
		v = cty.TupleVal([]cty.Value{v})
	}
	if !isList(v.Type()) {
		reason := fmt.Sprintf("A list of texts is needed, not %s.", typeName(v))
		if v.Type() == cty.String {
			reason = fmt.Sprintf("A list is needed: write [%q].", v.AsString())
		}
		return nil, []fault{{expr.Range(), reason}}
	}
	var list []string
	var faults []fault
	places := elementRanges(expr)
	for i, element := range v.AsValueSlice() {
		s, reason := a.decodeText(element)
		if reason == "" && len(a.values) > 0 && !slices.Contains(a.values, s) {
			reason = fmt.Sprintf("%q is none of %s.%s", s, alternatives(a.values), didYouMean(s, a.values))
		}
		if reason != "" {
			faults = append(faults, fault{elementRange(expr, places, i), reason})
			continue
		}
		list = append(list, s)
	}
	if len(list) == 0 && faults == nil {
		faults = append(faults, fault{expr.Range(), "The list is empty."})
	}
	if faults != nil {
		return nil, faults
	}
	return list, nil
}

func decodeTable(expr hclsyntax.Expression, v cty.Value) (any, []fault) {
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		return nil, []fault{{expr.Range(), fmt.Sprintf("A map such as { name = \"value\" } is needed, not %s.", typeName(v))}}
	}
	entries := map[string]string{}
	var faults []fault
	places := keyRanges(expr)
	for key, value := range v.AsValueMap() {
		s, ok := scalarText(value)
		switch {
		case !ok:
			faults = append(faults, fault{keyRange(expr, places, key), fmt.Sprintf("The value of %q must be a text, a number or a flag, not %s.", key, typeName(value))})
		case strings.ContainsRune(s, 0):
			faults = append(faults, fault{keyRange(expr, places, key), fmt.Sprintf("The value of %q holds a NUL byte.", key)})
		default:
			entries[key] = s
		}
	}
	if faults != nil {
		return nil, faults
	}
	return entries, nil
}

// scalarText is the text of a string, a whole number or a flag.
func scalarText(v cty.Value) (string, bool) {
	switch {
	case v.IsNull():
		return "", false
	case v.Type() == cty.String:
		return v.AsString(), true
	case v.Type() == cty.Bool:
		return strconv.FormatBool(v.True()), true
	case v.Type() == cty.Number:
		if n, ok := wholeNumber(v); ok {
			return strconv.FormatInt(n, 10), true
		}
		// Not 'f': a number such as 1e999999999 would become a gigabyte of zeros.
		return v.AsBigFloat().Text('g', -1), true
	}
	return "", false
}

// wholeNumber takes a number, or a text that holds one, as env gives it.
func wholeNumber(v cty.Value) (int64, bool) {
	switch v.Type() {
	case cty.String:
		n, err := strconv.ParseInt(v.AsString(), 10, 64)
		return n, err == nil
	case cty.Number:
		n, accuracy := v.AsBigFloat().Int64()
		return n, accuracy == big.Exact
	}
	return 0, false
}

func isList(t cty.Type) bool { return t.IsTupleType() || t.IsListType() || t.IsSetType() }

// typeName is the kind of a value in the words of the documentation.
func typeName(v cty.Value) string {
	t := v.Type()
	switch {
	case v.IsNull():
		return "null"
	case t == cty.String:
		return "a text"
	case t == cty.Number:
		return "a number"
	case t == cty.Bool:
		return "true or false"
	case isList(t):
		return "a list"
	case t.IsObjectType() || t.IsMapType():
		return "a map"
	}
	return "this"
}

// describe shows a short value itself, and of others the type.
func describe(v cty.Value) string {
	if s, ok := scalarText(v); ok && len(s) < 64 {
		if v.Type() == cty.String {
			return strconv.Quote(s)
		}
		return s
	}
	return typeName(v)
}

// hasControl reports bytes that have no place in a name, a path or a header.
func hasControl(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) >= 0
}

// elementRanges are the places of a list's elements when it is written out as [a, b].
func elementRanges(expr hclsyntax.Expression) []hcl.Range {
	list, ok := expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		return nil
	}
	places := make([]hcl.Range, len(list.Exprs))
	for i, element := range list.Exprs {
		places[i] = element.Range()
	}
	return places
}

func elementRange(expr hclsyntax.Expression, places []hcl.Range, i int) hcl.Range {
	if i < len(places) {
		return places[i]
	}
	return expr.Range()
}

// keyRanges are the places of a map's keys when it is written out as { a = b }.
func keyRanges(expr hclsyntax.Expression) map[string]hcl.Range {
	object, ok := expr.(*hclsyntax.ObjectConsExpr)
	if !ok {
		return nil
	}
	places := map[string]hcl.Range{}
	for _, item := range object.Items {
		if key, diags := item.KeyExpr.Value(nil); !diags.HasErrors() && key.Type() == cty.String && key.IsKnown() && !key.IsNull() {
			places[key.AsString()] = item.KeyExpr.Range()
		}
	}
	return places
}

func keyRange(expr hclsyntax.Expression, places map[string]hcl.Range, key string) hcl.Range {
	if at, ok := places[key]; ok {
		return at
	}
	return expr.Range()
}
