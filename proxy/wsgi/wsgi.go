// Package wsgi starts WSGI applications (PEP 3333): a Python program, embedded here, serves one by FastCGI.
//
// The program needs nothing but an interpreter: no file, no writable folder, no package. It takes the listening unix socket
// of descriptor 0, imports the application in its working folder, and answers as many connections at once as it has threads,
// each for as long as its peer keeps it. On SIGTERM it ends with status 0 after the requests in progress.
package wsgi

import (
	_ "embed"
	"strconv"
)

// ExitImport is the exit status of a child whose application could not be imported. The reason is in its output.
const ExitImport = 3

//go:embed shim.py
var shim string

const (
	sourceVariable = "GATEWAY_WSGI_SHIM"
	// bootstrap runs the source from the environment, where unlike among the arguments it doesn't fill the process list. It
	// takes it out of there, so that no program that the application starts gets it.
	bootstrap = `import os; s = {"__name__": "gateway_wsgi", "__file__": "<gateway wsgi>"}; ` +
		`exec(compile(os.environ.pop("` + sourceVariable + `"), s["__file__"], "exec"), s); s["main"]()`
)

// Command returns the arguments, with the program's name first, and the additional environment of a child that serves an
// application with so many threads.
//
// python should be the absolute path of the interpreter: one of a virtual environment finds its packages by it. The
// application is "module:name", "module:factory()" or "module", which means "module:application". The child's working folder
// comes first where modules are looked for.
func Command(python, application string, threads int) (args, env []string) {
	args = []string{python, "-c", bootstrap, application, strconv.Itoa(threads)}
	return args, []string{sourceVariable + "=" + shim}
}
