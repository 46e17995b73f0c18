package mpm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

func TestExitText(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		want   string
	}{
		{"left by itself", 0, "exit status 0"},
		{"php-cgi could not start", 255 << 8, "exit status 255"},
		{"killed", int(syscall.SIGKILL), "signal 9 (killed)"},
		{"crashed and left a core", int(syscall.SIGSEGV) | 0x80, "signal 11 (segmentation fault)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := exitText(syscall.WaitStatus(c.status)); got != c.want {
				t.Errorf("exitText(%#x) = %q, want %q", c.status, got, c.want)
			}
		})
	}
	err := &ChildExit{PID: 4711, Status: 9, Reason: ExitCrash}
	if got, want := err.Error(), "child 4711: signal 9 (killed)"; got != want {
		t.Errorf("ChildExit.Error() = %q, want %q", got, want)
	}
}

func TestEveryExitReasonIsInTheListAndTheStatus(t *testing.T) {
	declared := constants(t, "exit.go", "ExitReason")
	var listed []string
	for _, why := range exitReasons {
		listed = append(listed, string(why))
	}
	if !slices.Equal(declared, listed) {
		t.Errorf("declared reasons %q, listed %q", declared, listed)
	}
	p := newWorld(t, prefork(1)).pool
	for _, why := range declared {
		if _, ok := p.Status().Exits[ExitReason(why)]; !ok {
			t.Errorf("the status lacks exits.%s", why)
		}
	}
}

// constants returns the values of all string constants of a type that a file declares.
func constants(t *testing.T, file, typ string) (values []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typ {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	return values
}
