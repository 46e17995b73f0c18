package main

import (
	"reflect"
	"testing"

	"gateway/proxy"
)

func TestDutiesOnTheCommandLine(t *testing.T) {
	want := proxy.Duties{Threads: 3, Open: []string{"/a", "-look"}, Look: []string{"/b c"}, Run: []string{"/cgi"}, Dial: []string{"tcp 127.0.0.1:1"}}
	if got, err := parseDuties(dutyArgs(want)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parseDuties(%q) = %+v, %v; want %+v", dutyArgs(want), got, err, want)
	}
	for name, args := range map[string][]string{
		"no arguments":            nil,
		"no number of threads":    {"x"},
		"a name without its list": {"1", "-open"},
		"an unknown name":         {"1", "-write", "/a"},
	} {
		if got, err := parseDuties(args); err == nil {
			t.Errorf("%s: parseDuties(%q) = %+v, want an error", name, args, got)
		}
	}
}
