package routes

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
)

// Diagnostics are the errors and warnings of one configuration, with the sources they point into. The zero value is none.
type Diagnostics struct {
	list  hcl.Diagnostics
	files map[string]*hcl.File
}

// source is where a configuration was written.
type source struct {
	files  map[string]*hcl.File
	ranges map[string]hcl.Range // by the key functions of system.go; what was left out is not in it
}

func (s source) place(key string) string {
	at, ok := s.ranges[key]
	if !ok || at.Filename == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", at.Filename, at.Start.Line)
}

// Fault is one error, for a program that has written the configuration itself.
type Fault struct {
	Line   int // 0: it concerns the whole
	Reason string
}

// Faults lists the errors in file order.
func (d Diagnostics) Faults() []Fault {
	var faults []Fault
	for _, diag := range d.list {
		if diag.Severity == hcl.DiagError {
			faults = append(faults, Fault{place(diag).Start.Line, diag.Summary + ": " + diag.Detail})
		}
	}
	return faults
}

// HasErrors reports whether the configuration can't be used.
func (d Diagnostics) HasErrors() bool { return d.list.HasErrors() }

// Errors counts the errors.
func (d Diagnostics) Errors() int { return d.count(hcl.DiagError) }

// Warnings counts the warnings.
func (d Diagnostics) Warnings() int { return d.count(hcl.DiagWarning) }

func (d Diagnostics) count(severity hcl.DiagnosticSeverity) int {
	n := 0
	for _, diag := range d.list {
		if diag.Severity == severity {
			n++
		}
	}
	return n
}

// Write prints all of them in file order, each with file, line, source snippet, reason and way out. Text is wrapped at width
// columns (0: not at all); color adds terminal escapes.
func (d Diagnostics) Write(w io.Writer, width int, color bool) error {
	buffered := bufio.NewWriter(w)
	writer := hcl.NewDiagnosticTextWriter(buffered, d.files, uint(max(width, 0)), color)
	if err := writer.WriteDiagnostics(d.list); err != nil {
		return err
	}
	return buffered.Flush()
}

// sorted puts them in file order; those without a place come first.
func sorted(list hcl.Diagnostics) hcl.Diagnostics {
	slices.SortStableFunc(list, func(a, b *hcl.Diagnostic) int {
		return comparePlaces(place(a), place(b))
	})
	return list
}

func place(d *hcl.Diagnostic) hcl.Range {
	if d.Subject == nil {
		return hcl.Range{}
	}
	return *d.Subject
}

func comparePlaces(a, b hcl.Range) int {
	return cmp.Or(cmp.Compare(a.Filename, b.Filename), cmp.Compare(a.Start.Byte, b.Start.Byte))
}

// newDiagnostic makes one diagnostic. An empty range, of a value that stands in no file, becomes no subject.
func newDiagnostic(severity hcl.DiagnosticSeverity, at hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	d := &hcl.Diagnostic{Severity: severity, Summary: summary, Detail: fmt.Sprintf(format, args...)}
	if at.Filename != "" {
		d.Subject = &at
	}
	return d
}

// didYouMean is a sentence that names the known word nearest to a mistyped one, or nothing. The threshold is HCL's own.
func didYouMean(given string, known []string) string {
	const near = 3
	best, distance := "", near
	for _, name := range known {
		if d := levenshtein.Distance(given, name, nil); d < distance && d < len(name) {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" Did you mean %q?", best)
}
