package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	pathpkg "path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gateway/routes"
)

const staticMethods = "GET, HEAD, OPTIONS"

// maxRanges is how many parts of a file one request may ask for; with more it gets the whole file (Apache's MaxRanges).
const maxRanges = 200

// shelf is the files of a route.
type shelf struct {
	files    opener
	config   *routes.Static
	encoders *encoders // nil: nothing is compressed on the way
	hot      *hotCache // keeps small files as the answer to what was asked for; nil: none are kept
}

// serve answers r with the file at path, which is decoded and clean ("/a/b"; a slash at the end asks for a directory).
//
// For a directory with an index file it answers nothing and returns that file's path: the caller routes it anew, as an index may
// be a script. An error is for the log: the client has its answer, unless it is errDeputy.
func (s *shelf) serve(w http.ResponseWriter, r *http.Request, x *exchange, path string) (redirect string, err error) {
	if s.hides(path) {
		writeStatus(w, http.StatusNotFound)
		return "", nil
	}
	file, info, err := s.files.Open(path)
	if errors.Is(err, ErrDirectory) {
		return s.serveDirectory(w, r, x, path)
	}
	if err != nil {
		return "", refuse(w, path, err)
	}
	s.serveFile(w, r, x, path, file, info)
	return "", nil
}

// hides reports a path that is not to be found, whatever is there.
func (s *shelf) hides(path string) bool {
	return isHidden(path) && !s.config.DotFiles || isSource(path) ||
		len(s.config.Hide) > 0 && (isListed(s.config.Hide, path) || isListed(s.config.Hide, withoutCoding(path)))
}

// withoutCoding is the path of the file of which a compressed one lies beside it.
func withoutCoding(path string) string {
	for _, suffix := range codingSuffixes[identity+1:] {
		if before, ok := strings.CutSuffix(path, suffix); ok {
			return before
		}
	}
	return path
}

// isListed reports whether one of the names on a path is one of the patterns'.
func isListed(patterns []string, path string) bool {
	for name := range strings.SplitSeq(path, "/") {
		for _, pattern := range patterns {
			if match, _ := pathpkg.Match(pattern, name); match { // the patterns were checked when the configuration was read
				return true
			}
		}
	}
	return false
}

// refuse tells the client that path can't be served. It returns what the log should have of it.
func refuse(w http.ResponseWriter, path string, err error) error {
	switch {
	case errors.Is(err, errDeputy):
		return err
	case errors.Is(err, fs.ErrNotExist):
		writeStatus(w, http.StatusNotFound)
		return nil
	case errors.Is(err, fs.ErrPermission):
		writeStatus(w, http.StatusForbidden)
		return forbidden(path, err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EAGAIN):
		w.Header().Set("Retry-After", "1")
		writeStatus(w, http.StatusServiceUnavailable)
	default:
		writeStatus(w, http.StatusInternalServerError)
	}
	return fmt.Errorf("file %q: %w", path, err)
}

// forbidden says why the file at path is refused.
func forbidden(path string, err error) error {
	if errors.Is(err, errOutside) || errors.Is(err, errLink) {
		return fmt.Errorf("file %q: %w", path, err)
	}
	return fmt.Errorf("file %q: the user that looks for it (the front's; on a prefork or worker pool without application the pool's) may not read it or enter its folder, or it is no regular file", path)
}

// serveDirectory looks for an index file. The methods are those of the index, so they are not looked at here.
func (s *shelf) serveDirectory(w http.ResponseWriter, r *http.Request, x *exchange, path string) (redirect string, err error) {
	if !strings.HasSuffix(path, "/") {
		w.Header().Set("Location", directoryLocation(path, r.URL.RawQuery))
		writeStatus(w, http.StatusMovedPermanently)
		return "", nil
	}
	for _, name := range s.config.Index {
		mode, err := s.files.Stat(path + name)
		if errors.Is(err, errDeputy) {
			return "", err
		}
		if err == nil && mode.IsRegular() {
			return path + name, nil
		}
	}
	if s.config.Listing {
		return "", s.serveListing(w, r, x, path)
	}
	writeStatus(w, http.StatusForbidden)
	return "", nil
}

// directoryLocation adds the slash at the end. It encodes path anew and begins with one slash only: "//host/" would be
// another site.
func directoryLocation(path, query string) string {
	u := url.URL{Path: "/" + strings.TrimLeft(path+"/", "/"), RawQuery: query}
	return u.String()
}

// redirectFolder answers a request for a folder without the slash at its end, from which links would lead astray.
func redirectFolder(w http.ResponseWriter, r *http.Request, path string) {
	status := http.StatusMovedPermanently
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		status = http.StatusPermanentRedirect
	}
	w.Header().Set("Location", directoryLocation(path, r.URL.RawQuery))
	writeStatus(w, status)
}

// refuseMethod answers what is no request for a file, and reports whether it was none.
func refuseMethod(w http.ResponseWriter, r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return false
	case http.MethodOptions:
		w.Header().Set("Allow", staticMethods)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", staticMethods)
		writeStatus(w, http.StatusMethodNotAllowed)
	}
	return true
}

// serveFile answers with a file, or with another form of it, and closes it.
func (s *shelf) serveFile(w http.ResponseWriter, r *http.Request, x *exchange, path string, file *os.File, info fs.FileInfo) {
	f := &form{file: file, info: info}
	defer func() { f.file.Close() }()
	if refuseMethod(w, r) {
		return
	}
	h := w.Header()
	if first(h, "Content-Type") == "" { // or an application has said it
		h.Set("Content-Type", s.mimeType(path))
	}
	page := x != nil && x.failed != 0 // for an error, which nobody is to keep for as long as the file
	if v := s.cacheControl(path); v != "" && !page {
		h.Set("Cache-Control", v)
	}
	s.choose(r, h, path, f)
	content := s.content(r, h, x, f)
	tag, modified := f.validators(time.Now())
	if page {
		tag, modified = "", time.Time{}
	}
	if tag != "" {
		h.Set("ETag", tag)
	}
	x.freeSlot()
	// It copies from an *os.File itself, so that w.ReadFrom can use sendfile. A file that shrinks meanwhile gives a body shorter than
	// its Content-Length: w must end the connection then.
	http.ServeContent(f.writer(w), withUsableRange(r), "", modified, content)
}

// mimeType is the media type of a file.
func (s *shelf) mimeType(path string) string {
	if t, ok := bySuffix(s.config.Types, path); ok {
		return t
	}
	return mimeType(path)
}

func (s *shelf) cacheControl(path string) string {
	if v, ok := bySuffix(s.config.CacheBySuffix, path); ok {
		return v
	}
	return s.config.CacheControl
}

// bySuffix finds the longest end of a file's name that is in a table; the whole name is one.
func bySuffix(table map[string]string, path string) (value string, ok bool) {
	if len(table) == 0 {
		return "", false
	}
	name := "." + lowerASCII(path[strings.LastIndexByte(path, '/')+1:])
	for i := range len(name) {
		if name[i] == '.' {
			if value, ok = table[name[i:]]; ok {
				return value, true
			}
		}
	}
	return "", false
}

// validators are the ETag and the Last-Modified time of a file.
//
// The tag has the mtime in nanoseconds, as two versions of a file within a second would be equal otherwise. Times 0 and 1
// are what reproducible builds write into every version: they tell nothing. A time in the future becomes now, as RFC 9110
// §8.8.2.1 demands.
func validators(info fs.FileInfo, now time.Time) (tag string, modified time.Time) {
	modified = info.ModTime()
	if modified.Unix() <= 1 {
		return "", time.Time{}
	}
	b := make([]byte, 0, 40)
	b = append(b, '"')
	b = strconv.AppendInt(b, modified.UnixNano(), 16)
	b = append(b, '-')
	b = strconv.AppendInt(b, info.Size(), 16)
	b = append(b, '"')
	if modified.After(now) {
		modified = now
	}
	return string(b), modified
}

// withUsableRange returns r, without its Range field if http.ServeContent would not treat that as RFC 9110 §14.2 says:
// it must be ignored on HEAD and for other units, and may be when it is malformed.
func withUsableRange(r *http.Request) *http.Request {
	values := r.Header["Range"]
	if len(values) == 0 || len(values) == 1 && r.Method == http.MethodGet && isByteRange(values[0]) {
		return r
	}
	without := *r
	without.Header = r.Header.Clone()
	without.Header.Del("Range")
	return &without
}

// isByteRange reports whether value is "bytes=" and at most maxRanges of "0-9", "5-" and "-5". Which of them lie in the
// file is for http.ServeContent to say.
func isByteRange(value string) bool {
	list, ok := strings.CutPrefix(value, "bytes=")
	if !ok || strings.Count(list, ",") >= maxRanges {
		return false
	}
	for spec := range strings.SplitSeq(list, ",") {
		if !isRangeSpec(trimSpace(spec)) {
			return false
		}
	}
	return true
}

func isRangeSpec(spec string) bool {
	first, last, ok := strings.Cut(spec, "-")
	switch {
	case !ok || first == "" && last == "":
		return false
	case !isNumber(first) || !isNumber(last):
		return false
	}
	return first != "" || strings.Trim(last, "0") != "" // "-0" is no byte; ServeContent would send 206 for it
}

// isNumber accepts the empty string, and nothing that could overflow an int64.
func isNumber(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) <= 18
}

// isHidden reports whether a part of path begins with a dot. "/.well-known/" is meant to be seen (RFC 8615).
func isHidden(path string) bool {
	if rest, ok := strings.CutPrefix(path, "/.well-known/"); ok {
		path = "/" + rest
	}
	return strings.Contains(path, "/.")
}

// isSource reports whether path names the source of a PHP script, or a copy that an editor or a compressor left: such a file is run or
// refused, never shown, whichever route a request takes to it.
func isSource(path string) bool {
	name := lowerASCII(path[strings.LastIndexByte(path, '/')+1:])
	for cut := true; cut; {
		name, cut = cutBackup(name)
	}
	switch extension(name) {
	case "php", "php3", "php4", "php5", "php7", "php8", "phps", "pht", "phtml", "phar":
		return true
	}
	return false
}

func cutBackup(name string) (string, bool) {
	for _, suffix := range [...]string{"~", ".bak", ".old", ".orig", ".save", ".swp", ".tmp"} {
		if before, ok := strings.CutSuffix(name, suffix); ok {
			return before, true
		}
	}
	before := withoutCoding(name)
	return before, before != name
}

// writeStatus answers with a status and its name, or leaves an error to its page.
func writeStatus(w http.ResponseWriter, status int) {
	if d, ok := w.(*dressed); ok && d.postpone(status) {
		return
	}
	writePlain(w, status)
}

// writePlain answers with a status and its name.
func writePlain(w http.ResponseWriter, status int) {
	if d, ok := w.(*dressed); ok {
		if d.x.failed != 0 {
			status = d.x.failed
		}
		d.plain = status >= http.StatusBadRequest
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%d %s\n", status, http.StatusText(status))
}
