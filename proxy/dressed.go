package proxy

import (
	"cmp"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gateway/routes"
)

// dressed is a response that has more in its header than its handler says, or an error page in its place. It is an
// http.ResponseWriter, Flusher and io.ReaderFrom as far as the one below it is.
type dressed struct {
	http.ResponseWriter
	r     *http.Request
	x     *exchange
	begun bool
	plain bool // an error of the gateway's own, without a page
}

// dress returns the writer for a response, which is w itself where neither the site nor an application before has anything to say of it.
func (s *Server) dress(w http.ResponseWriter, r *http.Request, x *exchange) http.ResponseWriter {
	if _, is := w.(*dressed); is || !s.dresses[x.site] && x.kept == nil {
		return w
	}
	return &dressed{ResponseWriter: w, r: r, x: x}
}

// dresses reports whether a site changes responses, or one of its routes does.
func dresses(site *routes.Site) bool {
	return len(site.Headers)+len(site.ErrorPages) > 0 ||
		slices.ContainsFunc(site.Routes, func(r routes.Route) bool { return len(r.Headers)+len(r.ErrorPages) > 0 })
}

// undressed is the writer that knows the connection.
func undressed(w http.ResponseWriter) http.ResponseWriter {
	if d, ok := w.(*dressed); ok {
		return d.ResponseWriter
	}
	return w
}

// Unwrap is for http.ResponseController.
func (d *dressed) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (d *dressed) WriteHeader(status int) {
	if !d.begun && status >= http.StatusOK {
		d.begun = true
		if d.x.failed != 0 {
			status = d.x.failed
		}
		d.x.lend(d.Header(), status)
		d.x.changeResponse(d.r, d.Header(), d.plain)
	}
	d.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (d *dressed) Write(p []byte) (int, error) {
	d.begin()
	return d.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (d *dressed) ReadFrom(src io.Reader) (int64, error) {
	d.begin()
	return io.Copy(d.ResponseWriter, src)
}

// FlushError is what http.ResponseController calls.
func (d *dressed) FlushError() error {
	d.begin()
	return flush(d.ResponseWriter)
}

func (d *dressed) begin() {
	if !d.begun {
		d.WriteHeader(http.StatusOK)
	}
}

// postpone reports whether a page will answer for an error.
func (d *dressed) postpone(status int) bool {
	if d.begun || d.x.failed != 0 || d.x.errorPage(status) == nil {
		return false
	}
	d.x.failed = status
	return true
}

// intercept reports whether a page will answer in place of an application that has answered with an error. Of the application's header it
// keeps what clients need to go on.
func (c *call) intercept(rp *reply) bool {
	d, ok := c.w.(*dressed)
	if !ok || rp.status < http.StatusBadRequest {
		return false
	}
	if page := c.x.errorPage(rp.status); page == nil || !page.Intercept || !d.postpone(rp.status) {
		return false
	}
	for _, name := range [...]string{"Allow", "Retry-After", "Set-Cookie", "Www-Authenticate"} {
		if values := rp.header[name]; len(values) > 0 {
			d.Header()[name] = values
		}
	}
	return true
}

// errorPage is the page for an error; nil: there is none.
func (x *exchange) errorPage(status int) (page *routes.ErrorPage) {
	pages := x.site.ErrorPages
	if x.route != nil {
		pages = x.route.ErrorPages
	}
	for i := range pages {
		if slices.Contains(pages[i].Statuses, status) {
			page = &pages[i]
		}
	}
	return page
}

// serveErrorPage answers with the page for an error that was postponed. No error of its own gets one.
func (s *Server) serveErrorPage(w http.ResponseWriter, r *http.Request, x *exchange) {
	page := x.errorPage(x.failed)
	f := x.facts(r)
	x.failure = &http.Request{Method: r.Method, URL: &url.URL{Path: cmp.Or(x.path, r.URL.Path), RawQuery: r.URL.RawQuery}}
	path, err := f.internalPath(page.Path)
	if err != nil {
		writeStatus(w, x.failed)
		return
	}
	x.note("error page for %d: %s", x.failed, path)
	x.restart, x.rewritten, x.varies, x.internal, x.welcome = true, true, true, true, true
	r = redirected(r, x, path, f.query(page.Query), page.HasQuery)
	r.Header = unconditional(r.Header)
	delete(w.Header(), "Content-Type") // of the file that an application had in mind
	pool := x.pool
	s.route(w, r, x, path)
	x.pool = pool // the error's, not its page's
}

// unconditional is a header that asks for all of a page.
func unconditional(h http.Header) http.Header {
	h = h.Clone()
	for _, name := range [...]string{"If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range", "Upgrade"} {
		delete(h, name)
	}
	return h
}

// changeResponse changes the header of a response as its route says, or the site for one that has come to no route. plain is an error of
// the gateway's own.
func (x *exchange) changeResponse(r *http.Request, h http.Header, plain bool) {
	changes := x.site.Headers
	if x.route != nil {
		changes = x.route.Headers
	}
	for i := range changes {
		if c := &changes[i]; c.Always || !plain {
			x.facts(r).change(h, c)
		}
	}
}

// changeRequest is the request with the header that the application is to get. What the client has declared to be of its connection
// is gone before, or a client could have the gateway's own fields removed with it (CVE-2022-31813).
func (x *exchange) changeRequest(r *http.Request) *http.Request {
	if len(x.route.RequestHeaders) == 0 && !x.hidesAuthorization {
		return r
	}
	c := *r
	c.Header = r.Header.Clone()
	endConnection(c.Header)
	if x.hidesAuthorization {
		delete(c.Header, "Authorization")
	}
	for i := range x.route.RequestHeaders {
		x.facts(r).change(c.Header, &x.route.RequestHeaders[i])
	}
	return &c
}

// endConnection removes the fields that Connection names (RFC 9110 §7.6.1), and their names there. What upgrades and trailers need stays.
func endConnection(header http.Header) {
	values := header["Connection"]
	delete(header, "Connection")
	for _, value := range values {
		for option := range strings.SplitSeq(value, ",") {
			option = trimSpace(option)
			switch name := http.CanonicalHeaderKey(option); name {
			case "Close", "Keep-Alive", "Te", "Upgrade":
				header["Connection"] = append(header["Connection"], option)
			default:
				delete(header, name)
			}
		}
	}
}

// change changes a header.
func (v *facts) change(h http.Header, c *routes.Headers) {
	for _, name := range c.Remove {
		delete(h, name)
		if name == "Server" {
			h[name] = nil // or it would be added
		}
	}
	for _, field := range c.Set {
		h[field.Name] = []string{v.field(field.Value)}
	}
	for _, field := range c.Add {
		h[field.Name] = append(slices.Clip(h[field.Name]), v.field(field.Value))
	}
}
