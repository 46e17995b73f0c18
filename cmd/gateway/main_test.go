package main

import (
	"os"
	"strings"
	"testing"
)

// TestReadmeTellsOfEveryVerb holds the README to the list of verbs.
func TestReadmeTellsOfEveryVerb(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range verbs {
		if !strings.Contains(string(readme), "`gateway "+v.name) {
			t.Errorf("README.md does not tell of gateway %s", v.name)
		}
	}
}
