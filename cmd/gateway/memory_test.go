package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAControlGroupLowersTheMemory(t *testing.T) {
	for name, row := range map[string]struct {
		files map[string]string
		group string
		want  machine
	}{
		"no control group":                {nil, "", machine{1000, 800}},
		"one without a limit":             {map[string]string{"a/memory.max": "max\n", "a/memory.current": "10\n"}, "/a", machine{1000, 800}},
		"a limit with a part in use":      {map[string]string{"a/memory.max": "500\n", "a/memory.current": "100\n"}, "/a", machine{500, 400}},
		"more in use than the limit":      {map[string]string{"a/memory.max": "500\n", "a/memory.current": "600\n"}, "/a", machine{500, 0}},
		"the group above has the limit":   {map[string]string{"a/memory.max": "500\n", "a/memory.current": "100\n", "a/b/memory.max": "max\n"}, "/a/b", machine{500, 400}},
		"a container's own root":          {map[string]string{"memory.max": "300\n", "memory.current": "100\n"}, "/", machine{300, 200}},
		"a limit above what there is":     {map[string]string{"a/memory.max": "5000\n", "a/memory.current": "1\n"}, "/a", machine{1000, 800}},
		"a file that says no number":      {map[string]string{"a/memory.max": "?\n"}, "/a", machine{1000, 800}},
		"a group that has gone meanwhile": {nil, "/a/b", machine{1000, 800}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range row.files {
				full := filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := (machine{1000, 800}).within(root, row.group); got != row.want {
				t.Errorf("within(%q) = %+v, want %+v", row.group, got, row.want)
			}
		})
	}
}

func TestGroupPath(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/gateway.service\n": "/system.slice/gateway.service",
		"12:cpu:/x\n0::/\n":                  "/",
		"4:memory:/docker/1\n":               "",
		"":                                   "",
	} {
		if got := groupPath([]byte(text)); got != want {
			t.Errorf("groupPath(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestRelationOf(t *testing.T) {
	for stat, want := range map[string]relation{
		"12 (php-cgi) S 1 12 11 0 -1": {1, 11},
		"12 (a) b (c)) S 2 12 13 0":   {2, 13},
		"12 (cut off":                 {},
		"12 (short) S 1":              {},
		"12 (odd) S 1 2 x 4":          {},
		"12 (odd) S x 2 3 4":          {},
		"":                            {},
	} {
		if got := relationOf([]byte(stat)); got != want {
			t.Errorf("relationOf(%q) = %+v, want %+v", stat, got, want)
		}
	}
}

func TestBranchOf(t *testing.T) {
	table := map[int]relation{
		10: {1, 10}, 11: {10, 10}, 12: {11, 10}, 13: {1, 10}, 14: {13, 10}, 15: {12, 15}, 16: {15, 15}, 17: {18, 10}, 18: {17, 10},
	}
	for name, row := range map[string]struct{ pid, want int }{
		"a leader is of no branch":                      {10, 0},
		"a child of the leader is one":                  {11, 11},
		"what it has started is of it":                  {12, 11},
		"what lost its parent is of none":               {14, 0},
		"who left the session is of none there":         {15, 0},
		"but has branches of its own":                   {16, 16},
		"what was read while pids changed is of none":   {17, 0},
		"what ended before it could be read is of none": {99, 0},
	} {
		if got := branchOf(table, row.pid); got != row.want {
			t.Errorf("%s: branchOf(%d) = %d, want %d", name, row.pid, got, row.want)
		}
	}
}

func TestTheMemoryOfThisProcessIsSeen(t *testing.T) {
	m, err := readMachine()
	if err != nil || m.total <= 0 || m.available > m.total {
		t.Errorf("readMachine() = %+v, %v", m, err)
	}
	session, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	sizes, err := footprints()
	if err != nil || session != 0 && sizes[session] < 1<<20 {
		t.Errorf("footprints() has %d bytes for session %d, %v; want at least this test's", sizes[session], session, err)
	}
}
