package routes

import "strings"

// Cut is what is cut off the paths of the route's requests: "/img" for "/img/*" and "/img/*.php". It is empty without StripPrefix, and of no route.
func (r *Route) Cut() string {
	if r == nil || !r.StripPrefix || r.Pattern.Kind == Exact {
		return ""
	}
	return strings.TrimSuffix(r.Pattern.top(), "/")
}

// Below is a path of the site as the route looks for it below its root: without what [Route.Cut] says. The path is one that [CleanPath]
// made, and so is the result. It returns false for a path that is not the route's: nothing of it is there.
func (r *Route) Below(path string) (below string, ok bool) {
	cut := r.Cut()
	if cut == "" {
		return path, true
	}
	rest, ok := strings.CutPrefix(path, cut)
	switch {
	case !ok:
		return "", false
	case rest == "":
		return "/", true
	case rest[0] != '/':
		return "", false
	}
	return rest, true
}

// BelowEscaped is [Route.Below] for an escaped path that the route has matched, so that a server gets it as the client spells it.
func (r *Route) BelowEscaped(escaped string) string {
	cut := r.Cut()
	if cut == "" {
		return escaped
	}
	end := 0
	for range len(cut) {
		if end < len(escaped) && escaped[end] == '%' {
			end += len("%2F") - 1
		}
		end++
	}
	if end = min(end, len(escaped)); end < len(escaped) && escaped[end] == '%' { // a slash, where the site takes encoded ones
		end = min(end+len("%2F"), len(escaped))
		return "/" + escaped[end:]
	}
	return "/" + strings.TrimPrefix(escaped[end:], "/")
}

// IsFolder reports whether a path is that of the folder which the route cuts off, without the slash at its end.
func (r *Route) IsFolder(path string) bool {
	return r.Cut() != "" && r.Pattern.Kind == Prefix && len(path) == len(r.Pattern.Text)-1 && strings.HasPrefix(r.Pattern.Text, path)
}

// stripping checks a route that cuts its folder off. The pool is nil if there is none of its name.
func (r *siteReader) stripping(s *section, route *Route, pool *readPool) {
	if !route.StripPrefix {
		return
	}
	const word = "strip_prefix"
	suffix := route.Pattern.Kind == Suffix
	switch at, label := s.at(word), s.label().text; {
	case route.Pattern.Kind == "": // reported already
	case route.Cut() == "":
		r.errorf(at, "No prefix", "The pattern %q has no folder that could be cut off. Write one, such as \"/img/*\" or \"/img/*.php\", or remove %q.", label, word)
	case route.Redirect != nil || route.Respond != nil:
		r.errorf(at, "No effect", "The route looks for no file and asks no server, so there is no path to cut. Remove %q.", word)
	case route.CGI != nil && (!suffix || route.CGI.Root == ""):
		r.errorf(at, "No effect", "\"cgi\" cuts the prefix off anyway: scripts get it in SCRIPT_NAME, and what follows in PATH_INFO. Remove %q.", word)
	case route.FastCGI != nil && !route.FastCGI.Files:
		r.errorf(at, "No effect", "The server has the whole of the route: it gets the prefix as SCRIPT_NAME, and what follows as PATH_INFO. Remove %q, or write files = true if it runs files below \"root\".", word)
	case pool != nil && (pool.application == "wsgi" || pool.application == "fastcgi"):
		r.errorf(at, "No effect", "Pool %q runs %q, which gets the prefix as SCRIPT_NAME, and what follows as PATH_INFO. Remove %q.", pool.Name, pool.application, word)
	}
	for i, file := range route.TryFiles {
		if i < len(route.TryFiles)-1 && leavesFolder(file.Path, route.Cut()) {
			r.warnf(s.elementAt("try_files", i), "Candidate never found", "The files of this route are those below %q, and this path leads elsewhere: only as the last one, where nothing is looked for, it is of use. Move or remove it.", route.Cut()+"/")
		}
	}
}

// leavesFolder reports whether no path that a template makes is below a folder.
func leavesFolder(t Template, folder string) bool {
	if len(t) == 0 || t[0].Name != "" {
		return false
	}
	text, folder := t[0].Text, folder+"/"
	if len(t) == 1 {
		return !strings.HasPrefix(text, folder)
	}
	n := min(len(text), len(folder))
	return text[:n] != folder[:n]
}
