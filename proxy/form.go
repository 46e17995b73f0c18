package proxy

import (
	"bytes"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"
)

// form is a file in one of the codings that there are of it.
type form struct {
	choice
	offer offer    // what the client could choose from
	file  *os.File // what is sent, or what it is made from
	info  fs.FileInfo
}

// choose looks what there is beside the file and takes what the client likes best.
func (s *shelf) choose(r *http.Request, h http.Header, path string, f *form) {
	f.offer = s.offer(h, path, f.info)
	if f.offer.n == 0 {
		return
	}
	varyByEncoding(h)
	best := f.offer.choose(first(r.Header, "Accept-Encoding"), len(r.Header["Range"]) > 0)
	if best.made || best.coding == identity {
		f.choice = best
		return
	}
	file, info, err := s.files.Open(path + codingSuffixes[best.coding])
	if err != nil {
		return // it has just gone
	}
	f.file.Close()
	f.choice, f.file, f.info = best, file, info
}

// offer is what a file can be had as: what lies beside it, and what can be made of it.
func (s *shelf) offer(h http.Header, path string, info fs.FileInfo) (o offer) {
	for _, name := range s.config.Precompressed {
		if c := codingOf(name); s.files.IsFile(path + codingSuffixes[c]) {
			o.add(choice{coding: c})
		}
	}
	if e := s.encoders; e != nil && info.Size() >= e.config.MinSize && info.Size() <= maxMade && e.suits(h) {
		for _, c := range e.offer.choices[:e.offer.n] {
			o.add(c)
		}
	}
	return o
}

// content is what is to be sent: from memory, or the file. What can't be made now is sent as it is.
func (s *shelf) content(r *http.Request, h http.Header, x *exchange, f *form) io.ReadSeeker {
	if s.hot != nil {
		if kept := s.hot.load(x, f, h, s.encoders); kept != nil && kept.file == nil {
			return bytes.NewReader(kept.body)
		}
	}
	if !f.made {
		return f.file
	}
	if tag, _ := f.validators(time.Now()); listsTag([]byte(first(r.Header, "If-None-Match")), strings.TrimPrefix(tag, "W/")) {
		return bytes.NewReader(nil) // which the client is not going to get
	}
	body, err := s.encoders.whole(f.coding, f.file)
	if err != nil {
		f.choice = choice{}
		return f.file
	}
	return bytes.NewReader(body)
}

// validators are those of the file, with a tag that no other form has (RFC 9110 §8.8.3.3). What is made is perhaps made otherwise the next
// time.
func (f *form) validators(now time.Time) (tag string, modified time.Time) {
	tag, modified = validators(f.info, now)
	switch {
	case tag == "" || f.coding == identity:
	case f.made:
		tag = "W/" + tag
	default:
		tag = tag[:len(tag)-1] + "-" + codingNames[f.coding] + `"`
	}
	return tag, modified
}

// writer returns w, or what has it say in which coding the content is.
func (f *form) writer(w http.ResponseWriter) http.ResponseWriter {
	if f.coding == identity {
		return w
	}
	return codedWriter{w, f.coding}
}

// codedWriter says late in which coding the content is: [http.ServeContent] gives no length to what says so before.
type codedWriter struct {
	http.ResponseWriter
	coding coding
}

// WriteHeader implements http.ResponseWriter.
func (w codedWriter) WriteHeader(status int) {
	if status == http.StatusOK || status == http.StatusPartialContent {
		w.Header().Set("Content-Encoding", codingNames[w.coding])
	}
	w.ResponseWriter.WriteHeader(status)
}

// ReadFrom implements io.ReaderFrom.
func (w codedWriter) ReadFrom(src io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, src) }
