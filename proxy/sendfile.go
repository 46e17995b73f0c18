package proxy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"strings"

	"gateway/routes"
)

// handover is a file that an application wants to have sent in place of its response.
type handover struct {
	route  *routes.Route // of the folder that it is in
	path   string        // below that, clean
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

// namesFile returns the field of a response that names a file, if its route allows that; empty: none does. What goes with another status
// than success is a page of its own.
func (c *call) namesFile(rp *reply) string {
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

// handOver gives back the slot of a response that names a file, which is sent when the application is out of the way.
func (c *call) handOver(h *hold, rp *reply, name string, resp source, rest io.WriterTo) error {
	f, err := findFile(c.x.route, name, first(rp.header, name))
	h.slot.Failed = err != nil
	if lost := h.skip(resp, rest); lost != nil || err != nil {
		return errors.Join(err, lost)
	}
	f.header = ofFile(rp.header)
	if rp.untyped {
		delete(f.header, "Content-Type")
	}
	c.x.handover = f
	return nil
}

// findFile looks in which of a route's folders a file is that its application names. Whether it is there shows when it is opened.
func findFile(r *routes.Route, field, value string) (*handover, error) {
	folder, rest := "", ""
	if field == fieldAccel {
		target, _, _ := strings.Cut(value, "?")
		path, err := routes.CleanPath(target)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", field, value, err)
		}
		longest := 0
		for _, i := range r.SendFile.Internal {
			if below, ok := strings.CutPrefix(path, i.Prefix); ok && len(i.Prefix) > longest {
				folder, rest, longest = i.Folder, below, len(i.Prefix)
			}
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

// ofFile takes out of an application's header what describes its own response, and not the file.
func ofFile(header http.Header) http.Header {
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

// serveHandover sends the file that an application has named, as a route of its own would.
func (s *Server) serveHandover(w http.ResponseWriter, r *http.Request, x *exchange) {
	f := x.handover
	x.handover, x.asked = nil, "" // what is sent is the application's choice, and not what every request for this path gets
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

// asGet is the request as one for the file. The conditions of another method concern what the application did.
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
