package migrate

import (
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is read: a configuration may include files, which may include others.
const (
	maxDepth      = 16      // of includes, and of sections, within each other
	maxDirectives = 100_000 // in all files
	maxLine       = 64 << 10
)

// directive is a line of an Apache configuration, or a section with what stands in it.
type directive struct {
	Origin
	name  string // in small letters; a section's begins with "<"
	raw   string // what stands behind the name
	inner []directive
	mpm   string // "prefork", "worker" or "event": it stands in the section of that MPM alone
	fault string // why it can't be understood
}

// words are the arguments, as ap_getword_conf splits them: a backslash escapes itself and the quote.
func (d *directive) words() []string { return splitWords(d.raw, false) }

// arg is an argument; empty: there are not so many.
func (d *directive) arg(i int) string {
	if words := d.words(); i < len(words) {
		return words[i]
	}
	return ""
}

func (d *directive) isOn() bool { return strings.EqualFold(d.arg(0), "on") }

// splitWords splits arguments. The rewrite directives have rules of their own: a backslash keeps a space in the word, and stays.
func splitWords(text string, rewrite bool) (words []string) {
	for text = strings.TrimLeft(text, " \t"); text != ""; text = strings.TrimLeft(text, " \t") {
		var quote byte
		if text[0] == '"' || text[0] == '\'' {
			quote, text = text[0], text[1:]
		}
		var b strings.Builder
		i := 0
		for ; i < len(text); i++ {
			c := text[i]
			if quote != 0 && c == quote || quote == 0 && (c == ' ' || c == '\t') {
				break
			}
			if c == '\\' && i+1 < len(text) {
				switch next := text[i+1]; {
				case rewrite && (next == ' ' || next == '\t' || quote != 0 && next == quote):
					b.WriteByte(c)
					i++
				case !rewrite && (next == '\\' || quote != 0 && next == quote):
					i++
				}
			}
			b.WriteByte(text[i])
		}
		words = append(words, b.String())
		text = text[min(i+1, len(text)):]
	}
	return words
}

// confReader reads the files of one configuration in Apache's order.
type confReader struct {
	*importer
	defined map[string]string
	folder  string   // ServerRoot, or that of the first file
	open    []string // files that are being read, outermost first
	count   int      // directives
}

// debianDefines are what Debian's envvars sets for its own files.
var debianDefines = map[string]string{
	"APACHE_LOG_DIR": "/var/log/apache2", "APACHE_RUN_DIR": "/var/run/apache2", "APACHE_LOCK_DIR": "/var/lock/apache2",
	"APACHE_PID_FILE": "/var/run/apache2/apache2.pid", "APACHE_RUN_USER": "www-data", "APACHE_RUN_GROUP": "www-data",
}

func newConfReader(im *importer, first string) *confReader {
	r := &confReader{importer: im, defined: map[string]string{}, folder: filepath.Dir(first)}
	for name, value := range debianDefines {
		r.defined[name] = value
	}
	return r
}

// read returns what stands in a file, with what it includes in place.
func (r *confReader) read(s source) ([]directive, error) {
	at := Origin{File: s.name, Line: 1}
	switch {
	case strings.ContainsRune(s.text, 0):
		return nil, errorAt(at, "it is a binary file")
	case len(r.open) == maxDepth || slices.Contains(r.open, s.name):
		return nil, errorAt(at, "includes go in circles, or too deep: %s", strings.Join(append(r.open, s.name), " -> "))
	}
	r.open = append(r.open, s.name)
	defer func() { r.open = r.open[:len(r.open)-1] }()
	lines, err := logicalLines(s)
	if err != nil {
		return nil, err
	}
	tree, err := nest(lines)
	if err != nil {
		return nil, err
	}
	return r.evaluate(tree, "")
}

// nest puts lines into the sections in which they stand.
func nest(lines []directive) ([]directive, error) {
	open := []directive{{}} // the file, and the sections that are open
	for _, d := range lines {
		last := len(open) - 1
		name, closes := strings.CutPrefix(d.name, "</")
		switch {
		case closes && last > 0 && open[last].name == "<"+name:
			open[last-1].inner = append(open[last-1].inner, open[last])
			open = open[:last]
		case closes && last > 0:
			return nil, errorAt(d.Origin, "%s, but %s in line %d is not closed yet", d.Text, open[last].Text, open[last].Line)
		case closes:
			return nil, errorAt(d.Origin, "%s has no beginning", d.Text)
		case d.name[0] == '<' && last == maxDepth:
			return nil, errorAt(d.Origin, "more than %d sections stand within each other", maxDepth)
		case d.name[0] == '<':
			open = append(open, d)
		default:
			open[last].inner = append(open[last].inner, d)
		}
	}
	if last := open[len(open)-1]; len(open) > 1 {
		return nil, errorAt(last.Origin, "%s is not closed", last.Text)
	}
	return open[0].inner, nil
}

// evaluate puts in what is included, takes out what a condition excludes, and replaces variables.
func (r *confReader) evaluate(tree []directive, mpm string) (list []directive, err error) {
	for _, d := range tree {
		if r.count++; r.count > maxDirectives {
			return nil, errorAt(d.Origin, "there are more than %d directives", maxDirectives)
		}
		if d.raw, err = r.expand(d); err != nil {
			return nil, err
		}
		d.mpm = mpm
		var more []directive
		switch d.name {
		case "define":
			r.define(d)
		case "undefine":
			delete(r.defined, d.arg(0))
		case "serverroot":
			r.folder = d.arg(0)
		case "include", "includeoptional":
			more, err = r.includeAll(d)
		case "<ifmodule", "<ifdefine", "<ifversion":
			more, err = r.choose(d)
		default:
			d.inner, err = r.evaluate(d.inner, mpm)
			more = []directive{d}
		}
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

var variableOfConf = regexp.MustCompile(`\$\{([A-Za-z0-9_.]+)\}`)

// expand replaces the variables that are defined; others stay, as in Apache. What becomes of a line is no longer than a line.
func (r *confReader) expand(d directive) (string, error) {
	n := len(d.raw)
	text := variableOfConf.ReplaceAllStringFunc(d.raw, func(found string) string {
		value, ok := r.defined[found[2:len(found)-1]]
		if n += len(value); !ok || n > maxLine {
			return found
		}
		return value
	})
	if n > maxLine {
		return "", errorAt(d.Origin, "with its variables the line is longer than %d bytes", maxLine)
	}
	return text, nil
}

func (r *confReader) define(d directive) { r.defined[d.arg(0)] = d.arg(1) }

// includeAll reads the files of a pattern in name order. One that is not there is for the reader of this to find elsewhere.
func (r *confReader) includeAll(d directive) (list []directive, err error) {
	pattern := d.arg(0)
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(r.folder, pattern)
	}
	names, err := r.glob(pattern)
	if err != nil {
		return nil, errorAt(d.Origin, "%s is no pattern of files", pattern)
	}
	if len(names) == 0 && d.name == "include" {
		d.fault = pattern + " is not there"
		return []directive{d}, nil
	}
	for _, name := range names {
		s, err := r.include(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			d.fault = err.Error()
			list = append(list, d)
			continue
		}
		if err != nil {
			return nil, errorAt(d.Origin, "%v", err)
		}
		more, err := r.read(s)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

// choose returns what stands in a conditional section if the condition holds. A module counts as loaded: what is said of one that is
// not known here is told as such.
func (r *confReader) choose(d directive) ([]directive, error) {
	condition, not := strings.CutPrefix(d.arg(0), "!")
	mpm, holds := d.mpm, true
	switch d.name {
	case "<ifdefine":
		_, holds = r.defined[condition]
		if !holds && !not {
			d.fault, d.inner = condition+" is not defined in what was read", nil
			return []directive{d}, nil
		}
	case "<ifversion":
		holds = r.isVersion(d.words())
		not = false
	default:
		if name := mpmOf(condition); name != "" && !not {
			mpm = name
		}
	}
	if holds == not {
		return nil, nil
	}
	return r.evaluate(d.inner, mpm)
}

// mpmOf is the MPM that a module is; empty: none.
func mpmOf(module string) string {
	for _, mpm := range []string{"prefork", "worker", "event"} {
		if module == "mpm_"+mpm+"_module" || module == mpm+".c" || module == "mpm_"+mpm {
			return mpm
		}
	}
	return ""
}

// isVersion answers IfVersion: ">= 2.4" or "2.4.1". The version is that of Debian 12.
func (r *confReader) isVersion(words []string) bool {
	operator := "="
	if len(words) > 1 {
		operator, words = words[0], words[1:]
	}
	if len(words) == 0 {
		return false
	}
	operator, negated := strings.CutPrefix(operator, "!")
	comparison := slices.Compare([]int{2, 4, 62}, numbers(words[0]))
	holds := false
	switch operator {
	case "=", "==", "", "~":
		holds = comparison == 0
	case ">":
		holds = comparison > 0
	case ">=":
		holds = comparison >= 0
	case "<":
		holds = comparison < 0
	case "<=":
		holds = comparison <= 0
	}
	return holds != negated
}

// numbers are those of a version; what is no number is 0.
func numbers(version string) (list []int) {
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part)
		list = append(list, n)
	}
	return list
}

// logicalLines are those that say something, continued ones as one.
func logicalLines(s source) (lines []directive, err error) {
	number, at := 0, 0
	var text strings.Builder
	for line := range strings.Lines(s.text) {
		number++
		if text.Len() == 0 {
			at = number
		}
		part, continued := strings.CutSuffix(strings.TrimRight(line, "\r\n"), `\`)
		text.WriteString(part)
		if text.Len() > maxLine {
			return nil, errorAt(Origin{File: s.name, Line: at}, "the line is longer than %d bytes", maxLine)
		}
		if continued {
			text.WriteByte(' ')
			continue
		}
		lines = appendLine(lines, Origin{s.name, at, strings.TrimSpace(text.String())})
		text.Reset()
	}
	return appendLine(lines, Origin{s.name, at, strings.TrimSpace(text.String())}), nil
}

func appendLine(lines []directive, o Origin) []directive {
	if o.Text == "" || o.Text[0] == '#' {
		return lines
	}
	name, rest := o.Text, ""
	if i := strings.IndexAny(o.Text, " \t"); i >= 0 {
		name, rest = o.Text[:i], strings.TrimSpace(o.Text[i:])
	}
	if o.Text[0] == '<' {
		name, rest = strings.TrimSuffix(name, ">"), strings.TrimSuffix(rest, ">")
	}
	return append(lines, directive{Origin: o, name: strings.ToLower(name), raw: rest})
}
