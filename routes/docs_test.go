package routes

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const docsFile = "../docs/config.md"

// TestDocs holds docs/config.md to the schema and the schema to it: every row of one is in the other.
func TestDocs(t *testing.T) {
	source, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	documented, known := docsRows(string(source)), schemaRows("", schema)
	for _, row := range known {
		if !slices.Contains(documented, row) {
			t.Errorf("%s lacks: %s", docsFile, row)
		}
	}
	for _, row := range documented {
		if !slices.Contains(known, row) {
			t.Errorf("%s has, but the schema has not: %s", docsFile, row)
		}
	}
}

// schemaRows writes the schema one fact a line: "pool | mpm | text | required".
func schemaRows(path string, b *block) []string {
	var rows []string
	title := path
	if title == "" {
		title = "Top level"
	}
	for _, a := range b.attrs {
		need := "optional"
		if a.required {
			need = "required"
		}
		rows = append(rows, fmt.Sprintf("%s | %s | %s | %s", title, a.name, a.kind, need))
	}
	for _, inner := range b.blocks {
		rows = append(rows, fmt.Sprintf("%s | block %s", title, inner.name))
		if b == routeSchema && slices.Contains(siteSchema.blocks, inner) {
			continue // it is told where a site has it
		}
		rows = append(rows, schemaRows(strings.TrimPrefix(path+"."+inner.name, "."), inner)...)
	}
	return rows
}

// docsRows reads the same facts from the tables below the headings.
func docsRows(source string) []string {
	var rows []string
	heading, header := "", ""
	for line := range strings.Lines(source) {
		line = strings.TrimSpace(line)
		cells := strings.Split(strings.Trim(line, "| "), "|")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		switch {
		case strings.HasPrefix(line, "## "):
			heading = strings.TrimPrefix(line, "## ")
		case !strings.HasPrefix(line, "|"):
			header = ""
		case header == "":
			header = cells[0]
		case strings.HasPrefix(line, "|--"):
		case header == "attribute":
			need := "optional"
			if cells[2] == "required" {
				need = "required"
			}
			rows = append(rows, fmt.Sprintf("%s | %s | %s | %s", heading, cells[0], cells[1], need))
		case header == "block":
			rows = append(rows, fmt.Sprintf("%s | block %s", heading, cells[0]))
		}
	}
	return rows
}

// TestOldNamesAreDocumented looks for what has no row of its own.
func TestOldNamesAreDocumented(t *testing.T) {
	source, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range poolSchema.attrs {
		if a.old != "" && !strings.Contains(string(source), "`"+a.old+"`") {
			t.Errorf("%s does not mention %q, the old name of %q", docsFile, a.old, a.name)
		}
		for _, v := range a.values {
			if !strings.Contains(string(source), "`\""+v+"\"`") {
				t.Errorf("%s does not mention the value %q of %q", docsFile, v, a.name)
			}
		}
	}
}
