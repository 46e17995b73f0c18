package routes

import (
	"encoding/json"
	"os"
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
