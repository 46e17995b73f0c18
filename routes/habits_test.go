package routes

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// Regular expressions, templates and networks reach the front as they are.
func TestHabitsSurviveJSON(t *testing.T) {
	source, err := os.ReadFile("testdata/good/habits.hcl")
	if err != nil {
		t.Fatal(err)
	}
	c, diags := Parse("habits.hcl", source)
	if diags.Errors()+diags.Warnings() > 0 {
		t.Fatalf("Parse:\n%s", render(t, diags))
	}
	var got Config
	if err := json.Unmarshal([]byte(asJSON(t, c)), &got); err != nil {
		t.Fatal(err)
	}
	if asJSON(t, got) != asJSON(t, c) {
		t.Errorf("after JSON\n got %s\nwant %s", asJSON(t, got), asJSON(t, c))
	}
	if re := got.Sites[0].Rewrites[0].Match; !re.MatchString("/old/x") {
		t.Errorf("%q does not match any more", re)
	}
}

// What docs/apache.md proposes is understood.
func TestApacheDocs(t *testing.T) {
	const name = "../docs/apache.md"
	source, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pieces := strings.Split(string(source), "```hcl\n")[1:]
	for _, piece := range pieces {
		words, _, _ := strings.Cut(piece, "```")
		c, diags := Parse(name, []byte(siteWith(`"example.com"`, `[":80"]`, words, staticRoute)))
		if diags.Errors()+diags.Warnings() > 0 || c == nil {
			t.Errorf("%s\n%s", words, render(t, diags))
		}
	}
	if len(pieces) < 6 {
		t.Errorf("%s has %d pieces of HCL, want at least 6", name, len(pieces))
	}
}
