package proxy

import "testing"

func TestLinesOfPHPFPM(t *testing.T) {
	const at = "[22-Nov-2026 03:46:55] WARNING: "
	for name, row := range map[string]struct {
		line string
		pid  int
		text string
	}{
		"what a child has said is the child's":        {at + `[pool 3] child 42 said into stderr: "PHP message: oh: "no""`, 42, `PHP message: oh: "no"`},
		"also its last words":                         {at + `[pool 3] child 42 said into stdout: "bye", pipe is closed`, 42, "bye"},
		"an empty line is none":                       {at + `[pool 3] child 42 said into stderr: ""`, 42, ""},
		"how a child ended is told by its parent":     {at + "[pool 0] child 42 exited on signal 11 (SIGSEGV) after 0.3 seconds from start", 7, "child 42 exited on signal 11 (SIGSEGV) after 0.3 seconds from start"},
		"a second connection is nothing to tell":      {at + "[pool 0] server reached max_children setting (1), consider raising it", 7, ""},
		"what is of no child stays as it is":          {"[22-Nov-2026 03:46:55] ERROR: FPM initialization failed", 7, "[22-Nov-2026 03:46:55] ERROR: FPM initialization failed"},
		"so does what others write":                   {"free(): invalid pointer", 7, "free(): invalid pointer"},
		"a child's number is not everything's number": {at + `[pool 0] child 99999999999999999999 said into stderr: "x"`, 7, `child 99999999999999999999 said into stderr: "x"`},
	} {
		if pid, text := fromFPM(7, row.line); pid != row.pid || text != row.text {
			t.Errorf("%s: fromFPM(7, %q) = %d, %q; want %d, %q", name, row.line, pid, text, row.pid, row.text)
		}
	}
}
