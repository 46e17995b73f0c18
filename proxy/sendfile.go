package proxy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gateway/routes"
)

// handover is what an application wants to have sent in place of its response: a file, or what another route answers.
type handover struct {
	route  *routes.Route // of the folder that the file is in
	path   string        // below that, clean
	next   string        // a path of the site, escaped, with an optional query; empty: it is a file
	header http.Header   // of the application's response
}

// The fields by which an application names a file: the first one by a path that only the configuration knows, escaped like a URL's, the
// others by the file's own absolute path.
const (
	fieldAccel    = "X-Accel-Redirect"
	fieldSendfile = "X-Sendfile"
	fieldLighttpd = "X-Lighttpd-Send-File"
)

// fileRoute is a route for the files below a folder from which r's application may have some sent.
func fileRoute(r *routes.Route, folder string) *routes.Route {
	return &routes.Route{Pool: r.SendFile.Pool, Root: folder, Symlinks: r.Symlinks, Static: &routes.Static{}, Line: r.Line}
}

// handsOver returns the field of a response that names what is to be sent in its place, if its route allows that; empty: none does. What
// goes with another status than success is a page of its own.
func (c *call) handsOver(rp *reply) string {
	if c.x.route.SendFile == nil || rp.status < 200 || rp.status > 299 {
		return ""
	}
	for _, name := range [...]string{fieldAccel, fieldSendfile, fieldLighttpd} {
		if first(rp.header, name) != "" {
			return name
		}
	}
	return ""
}

// handOver gives back the slot of a response that names another one, which is sent when the application is out of the way.
func (c *call) handOver(h *hold, rp *reply, name string, resp source, rest io.WriterTo) error {
	f, err := findHandover(c.x.route, name, first(rp.header, name))
	h.slot.Failed = err != nil
	if lost := h.skip(resp, rest); lost != nil || err != nil {
		return errors.Join(err, lost)
	}
	f.header = endBody(rp.header)
	if rp.untyped {
		delete(f.header, "Content-Type")
	}
	c.x.handover = f
	return nil
}

// findHandover looks in which of a route's folders a file is that its application names. Whether it is there shows when it is opened.
func findHandover(r *routes.Route, field, value string) (*handover, error) {
	folder, rest := "", ""
	if field == fieldAccel {
		target, _, _ := strings.Cut(value, "?")
		path, err := routes.CleanPath(target)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", field, value, err)
		}
		if raw, _ := url.PathUnescape(target); hasDotSegment(raw) { // of a name that a client has chosen, perhaps
			return nil, fmt.Errorf("%s: %q has a part that is \".\" or \"..\"", field, value)
		}
		longest := 0
		for _, i := range r.SendFile.Internal {
			if below, ok := strings.CutPrefix(path, i.Prefix); ok && len(i.Prefix) > longest {
				folder, rest, longest = i.Folder, below, len(i.Prefix)
			}
		}
		if folder == "" && r.SendFile.Routes {
			return &handover{next: value}, nil
		}
	} else {
		for _, root := range r.SendFile.Roots {
			if below, ok := strings.CutPrefix(value, root+"/"); ok && len(root) > len(folder) {
				folder, rest = root, below
			}
		}
	}
	if rest = "/" + rest; folder == "" || hasDotSegment(rest) || strings.Contains(rest, "//") {
		return nil, fmt.Errorf("%s: %q lies below none of the folders in send_file", field, value)
	}
	return &handover{route: fileRoute(r, folder), path: rest}, nil
}

// endBody takes out of an application's header what describes its own body, and not what is sent in its place.
func endBody(header http.Header) http.Header {
	maps.DeleteFunc(header, func(name string, _ []string) bool {
		switch name {
		case fieldSendfile, fieldLighttpd, "Content-Length", "Content-Encoding", "Content-Range", "Content-Md5", "Accept-Ranges", "Etag", "Last-Modified",
			"Trailer", "Digest", "Content-Digest", "Repr-Digest":
			return true
		}
		return strings.HasPrefix(name, "X-Accel-")
	})
	return header
}

// serveHandover sends what an application has named, or returns where to go on for that.
func (s *Server) serveHandover(w http.ResponseWriter, r *http.Request, x *exchange) (next string) {
	f := x.handover
	x.handover = nil
	if f.next != "" {
		x.keep(w.Header(), f.header)
		return f.next
	}
	x.asked = "" // what is sent is the application's choice, and not what every request for this path gets
	s.sendFile(w, r, x, f)
	return ""
}

// sendFile sends the file that an application has named, as a route of its own would.
func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, x *exchange, f *handover) {
	files := s.filesOf(w, r, x, f.route, f.route.Root)
	if p := s.pools[f.route.Pool]; !p.hasDeputies() && !s.occupy(w, r, x, p) {
		return
	}
	defer x.freeSlot()
	file, info, err := files.Open(f.path)
	if errors.Is(err, ErrDirectory) {
		err = fs.ErrNotExist
	}
	if err != nil {
		if err = refuse(w, f.path, err); err != nil && !x.deputy.excuse() {
			s.warn("file that an application has named failed", x.uri, err)
		}
		return
	}
	maps.Copy(w.Header(), f.header)
	sent := shelf{files: files, config: f.route.Static}
	sent.serveFile(w, asGet(r), x, f.path, file, info)
}

// keptFields are those of an application's header that hold for what another route answers in its place, as in nginx. Others may describe
// the page that the application has not sent.
var keptFields = [...]string{"Cache-Control", "Content-Disposition", "Content-Type", "Expires", "Set-Cookie"}

// keep notes what an application says of the answer that it leaves to another route. The first application that says something is right.
// A type is for files: another application knows its own, so the type is already in the header of the answer, h, where that overwrites it.
func (x *exchange) keep(h, said http.Header) {
	kept := http.Header{}
	for _, name := range keptFields {
		if values := said[name]; len(values) > 0 {
			kept[name] = values
		}
	}
	x.lend(kept, http.StatusOK)
	if kind := kept["Content-Type"]; kind != nil {
		h["Content-Type"] = kind
		delete(kept, "Content-Type")
	}
	x.kept = kept
}

// lend puts what was kept into the header of an answer. An error is nobody's file: it only has the cookies.
func (x *exchange) lend(h http.Header, status int) {
	for name, values := range x.kept {
		switch {
		case name == "Set-Cookie":
			h[name] = slices.Concat(values, h[name])
		case status < http.StatusBadRequest:
			h[name] = values
		}
	}
}

// asGet is the request as one for what the application has named. The conditions of another method concern what the application did.
func asGet(r *http.Request) *http.Request {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return r
	}
	c := *r
	c.Method, c.Header = http.MethodGet, unconditional(r.Header)
	return &c
}

// isMapping reports the fields by which a front tells an application (Rack's, for one) how it is to name files: a client has no say in
// that.
func isMapping(name string) bool { return name == "X-Sendfile-Type" || name == "X-Accel-Mapping" }
