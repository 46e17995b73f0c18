package proxy

import (
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"gateway/routes"
)

// program is what answers a request, in the words of RFC 3875.
type program struct {
	name       string            // SCRIPT_NAME
	file       string            // SCRIPT_FILENAME, absolute
	info       string            // PATH_INFO
	translated string            // PATH_TRANSLATED; empty: not to be told
	root       string            // DOCUMENT_ROOT; empty: the route's
	cut        string            // CONTEXT_PREFIX: what of the path is not below folder; empty: nothing
	folder     string            // CONTEXT_DOCUMENT_ROOT, beside it
	env        map[string]string // more variables
}

// locate finds the program of a request to an application. Without one it returns the status to answer with, and an error
// if there is something to be mended.
func (s *Server) locate(x *exchange, config *routes.Pool) (p program, status int, err error) {
	switch cgi := x.route.CGI; {
	case hasDotSegment(x.path), hasDotSegment(x.script):
		return program{}, http.StatusNotFound, nil
	case cgi != nil && cgi.Root != "":
		p, err = locateScript(x, x.scripts)
	case cgi != nil:
		p = mounted(x)
		p.file, p.env = cgi.Script, cgi.Env
	case x.route.FastCGI != nil:
		p, err = locateRemote(x)
	case config.PHP != nil:
		p, err = locatePHP(x)
	default:
		p = mounted(x)
		p.file = below(x.route.Root, p.name)
	}
	switch {
	case err == nil:
		return p, 0, nil
	case errors.Is(err, fs.ErrNotExist):
		return program{}, http.StatusNotFound, nil
	case errors.Is(err, fs.ErrPermission):
		return program{}, http.StatusForbidden, forbidden(x.path, err)
	}
	return program{}, http.StatusInternalServerError, err
}

// locatePHP makes sure that php-cgi runs no file but a script: it would run any that it is told to.
//
// PATH_TRANSLATED is not told, because php-cgi would take it for the script in some settings of cgi.fix_pathinfo.
func locatePHP(x *exchange) (program, error) {
	suffix := ".php"
	switch p := x.route.Pattern; p.Kind {
	case routes.Suffix:
		suffix = p.Text
	case routes.Prefix:
	case routes.Exact: // the route names the file
		suffix = ""
	}
	if x.files == nil || !strings.HasSuffix(x.script, suffix) {
		return program{}, fs.ErrNotExist
	}
	found, err := x.files.WasFile(x.script)
	if err != nil {
		return program{}, err
	}
	if !found {
		return program{}, fs.ErrNotExist
	}
	p := program{name: x.script, file: fileBelow(x.route.Root, x), info: x.pathInfo}
	if p.cut = x.route.Cut(); p.cut != "" {
		p.root, p.folder = x.site.Root, x.route.Root
	}
	return p, nil
}

// fileBelow is the file name of the script below a root.
func fileBelow(root string, x *exchange) string {
	rest, _ := x.route.Below(x.script) // or the route would not have matched
	return below(root, rest)
}

// locateRemote is the program of a FastCGI server that may see the root elsewhere.
func locateRemote(x *exchange) (p program, err error) {
	f := x.route.FastCGI
	if !f.Files {
		p = mounted(x)
	} else if p, err = locatePHP(x); err != nil {
		return p, err
	}
	p.file, p.env = below(f.Root, p.name), f.Env
	if p.cut != "" {
		p.file, p.folder = fileBelow(f.Root, x), f.Root
	}
	if p.cut == "" || f.Root != x.route.Root { // else the server sees the site's as it is
		p.root = f.Root
	}
	return p, nil
}

// mounted is a program that has the whole of its route: what follows the route's prefix is its PATH_INFO.
func mounted(x *exchange) program {
	p := program{name: x.script, info: x.pathInfo}
	if x.route.Pattern.Kind == routes.Prefix {
		p.name, p.info = cutPrefix(x)
	}
	p.translated = translate(x, p.info)
	return p
}

// locateScript walks the path to the first file below the scripts' folder.
func locateScript(x *exchange, files opener) (program, error) {
	prefix, rest := cutPrefix(x)
	script, err := firstFile(files, rest)
	if err != nil {
		return program{}, err
	}
	if p := x.route.Pattern; p.Kind == routes.Suffix && !strings.HasSuffix(script, p.Text) {
		return program{}, fs.ErrNotExist
	}
	info := rest[len(script):]
	return program{
		name: prefix + script, file: below(x.route.CGI.Root, script), info: info, translated: translate(x, info), env: x.route.CGI.Env,
	}, nil
}

// cutPrefix splits the path where the part begins that the route leaves open: "/cgi-bin" and "/a/b" for "/cgi-bin/*".
func cutPrefix(x *exchange) (prefix, rest string) {
	n := 0
	switch p := x.route.Pattern; p.Kind {
	case routes.Prefix:
		n = len(p.Text) - 1
	case routes.Exact:
		n = strings.LastIndexByte(x.script, '/')
	case routes.Suffix:
		n = len(x.route.Cut())
	}
	return x.path[:n], x.path[n:]
}

// firstFile is the shortest beginning of path that names a file, all before it being folders.
func firstFile(files opener, path string) (string, error) {
	for end := 0; end < len(path); {
		next := strings.IndexByte(path[end+1:], '/')
		if end += 1 + next; next < 0 {
			end = len(path)
		}
		mode, err := files.Stat(path[:end])
		if err != nil {
			return "", err
		}
		if mode.IsRegular() {
			return path[:end], nil
		}
		if !mode.IsDir() {
			break
		}
	}
	return "", fs.ErrNotExist
}

// translate is PATH_TRANSLATED (RFC 3875 §4.1.6).
func translate(x *exchange, info string) string {
	if info == "" || x.route.Root == "" {
		return ""
	}
	return below(x.route.Root, info)
}

// below is the file name of a path, which begins with a slash or is empty.
func below(root, path string) string { return strings.TrimSuffix(root, "/") + path }

// hasDotSegment reports what [routes.CleanPath] has removed from every path.
func hasDotSegment(path string) bool {
	return strings.Contains(path, "/./") || strings.Contains(path, "/../") || strings.HasSuffix(path, "/.") || strings.HasSuffix(path, "/..")
}
