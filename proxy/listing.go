package proxy

import (
	"bytes"
	"cmp"
	_ "embed" // listing.html
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxListed is how many names of a folder a listing has. Which those of a larger one are is for the file system to choose.
	maxListed = 10_000

	// maxListingBytes bounds a listing that a child has made.
	maxListingBytes = 32 << 20
)

// listing is what is in a folder.
type listing struct {
	Entries []entry `json:"entries"`
	More    bool    `json:"more,omitempty"` // than maxListed
}

// entry is a file or a folder in a listing.
type entry struct {
	Name     string    `json:"name"`
	Folder   bool      `json:"folder"`
	Size     int64     `json:"size"` // bytes; 0 for a folder
	Modified time.Time `json:"modified"`
}

// List says what is in the folder at path: regular files and folders, and links to such that may be followed.
func (f *Files) List(path string) (listing, error) {
	d, err := f.folder()
	if err != nil {
		return listing{}, err
	}
	return d.list(path)
}

func (f *folder) list(path string) (l listing, err error) {
	dir, err := f.openAs(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return l, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxListed + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return l, err
	}
	if l.More = len(names) > maxListed; l.More {
		names = names[:maxListed]
	}
	for _, name := range names {
		var st unix.Stat_t
		if f.look(int(dir.Fd()), path, name, &st) != nil {
			continue // it has gone, or it may not be seen
		}
		e := entry{Name: name, Size: st.Size, Modified: time.Unix(st.Mtim.Unix()).UTC().Truncate(time.Second)}
		if e.Folder = fileType(st.Mode).IsDir(); e.Folder {
			e.Size = 0
		}
		if fileType(st.Mode) != fs.ModeIrregular {
			l.Entries = append(l.Entries, e)
		}
	}
	return l, nil
}

// look tells what a name in an open folder is, or what the link of that name leads to.
func (f *folder) look(dir int, path, name string, st *unix.Stat_t) error {
	err := unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return err
	}
	return f.statTo(strings.TrimSuffix(path, "/")+"/"+name, st)
}

// List implements opener.
func (g *guarded) List(path string) (l listing, err error) {
	file, err := g.deputy.list(g.in, path)
	if err != nil {
		return l, err
	}
	defer file.Close()
	err = json.NewDecoder(io.LimitReader(file, maxListingBytes)).Decode(&l)
	return l, err
}

// listingFile is a listing as a child hands it to the front: in memory that has a descriptor.
func listingFile(l listing) (*os.File, error) {
	fd, err := unix.MemfdCreate("listing", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "listing")
	if err = json.NewEncoder(file).Encode(l); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// serveListing shows what is in the folder at path, which ends with a slash, to people or, if they ask for it, to programs.
func (s *shelf) serveListing(w http.ResponseWriter, r *http.Request, x *exchange, path string) error {
	if refuseMethod(w, r) {
		return nil
	}
	l, err := s.files.List(path)
	if err != nil {
		return refuse(w, path, err)
	}
	x.freeSlot()
	l.Entries = slices.DeleteFunc(l.Entries, func(e entry) bool { return s.hides(path + e.Name + e.slash()) })
	by := orderOf(r.URL.Query())
	slices.SortFunc(l.Entries, by.compare)
	h := w.Header()
	h["Vary"] = append(h["Vary"], "Accept")
	body, contentType, err := l.render(path, by, wantsJSON(r))
	if err != nil {
		return refuse(w, path, err)
	}
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	body = s.pack(r, h, body)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that has gone does not miss it
	return nil
}

// pack compresses a body if that is wanted.
func (s *shelf) pack(r *http.Request, h http.Header, body []byte) []byte {
	if s.encoders == nil || int64(len(body)) < s.encoders.config.MinSize || !s.encoders.suits(h) {
		return body
	}
	how := s.encoders.offer.choose(first(r.Header, "Accept-Encoding"), false)
	if how.coding == identity {
		return body
	}
	packed, err := s.encoders.whole(how.coding, bytes.NewReader(body))
	if err != nil {
		return body
	}
	mark(h, how.coding)
	return packed
}

// wantsJSON reports whether a listing is asked for by a program.
func wantsJSON(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "json"
	}
	accept := strings.Join(r.Header["Accept"], ",")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// The columns of a listing, which it can be sorted by.
var listingColumns = [...]string{"name", "size", "modified"}

// order is how a listing is sorted. Folders come first.
type order struct {
	column  string
	reverse bool
}

// orderOf reads "?sort=size&order=desc". What is unknown is left at the names.
func orderOf(query url.Values) order {
	o := order{listingColumns[0], query.Get("order") == "desc"}
	if column := query.Get("sort"); slices.Contains(listingColumns[:], column) {
		o.column = column
	}
	return o
}

func (o order) compare(a, b entry) int {
	if a.Folder != b.Folder {
		if a.Folder {
			return -1
		}
		return 1
	}
	by := 0
	switch o.column {
	case "size":
		by = cmp.Compare(a.Size, b.Size)
	case "modified":
		by = a.Modified.Compare(b.Modified)
	}
	by = cmp.Or(by, cmp.Compare(a.Name, b.Name))
	if o.reverse {
		return -by
	}
	return by
}

// page is what listing.html shows.
type page struct {
	listing
	Path    string
	Parent  bool
	Crumbs  []anchor
	Columns []column
}

// anchor is a link.
type anchor struct{ Name, Href string }

type column struct {
	anchor
	Sorted string // "ascending", "descending", or empty
}

//go:embed listing.html
var listingHTML string

var listingTemplate = template.Must(template.New("listing").Parse(listingHTML))

// render writes a listing out.
func (l listing) render(path string, by order, asJSON bool) (body []byte, contentType string, err error) {
	if asJSON {
		if l.Entries == nil {
			l.Entries = []entry{}
		}
		body, err = json.Marshal(struct {
			Path string `json:"path"`
			listing
		}{path, l})
		return append(body, '\n'), "application/json", err
	}
	var b bytes.Buffer
	p := page{listing: l, Path: path, Parent: path != "/", Crumbs: crumbs(path)}
	for _, name := range listingColumns {
		p.Columns = append(p.Columns, by.heading(name))
	}
	err = listingTemplate.Execute(&b, p)
	return b.Bytes(), "text/html; charset=utf-8", err
}

// heading is a column's, whose link sorts by it, or the other way round if that is so already.
func (o order) heading(name string) column {
	c := column{anchor: anchor{strings.ToUpper(name[:1]) + name[1:], "?sort=" + name}}
	switch {
	case o.column != name:
	case o.reverse:
		c.Sorted = "descending"
	default:
		c.Sorted, c.Href = "ascending", c.Href+"&order=desc"
	}
	return c
}

// crumbs are the folders on a path, as links.
func crumbs(path string) []anchor {
	names := strings.Split(strings.Trim(path, "/"), "/")
	found := []anchor{{"/", strings.Repeat("../", strings.Count(path, "/")-1) + "./"}}
	for i, name := range names {
		if name != "" {
			found = append(found, anchor{name + "/", strings.Repeat("../", len(names)-1-i) + "./"})
		}
	}
	return found
}

// Href is a link to the entry. "./" keeps a name with a colon from being a scheme.
func (e entry) Href() string { return "./" + url.PathEscape(e.Name) + e.slash() }

func (e entry) slash() string {
	if e.Folder {
		return "/"
	}
	return ""
}

// Time is when the entry was modified.
func (e entry) Time() string { return e.Modified.Format("2006-01-02 15:04") }

// HumanSize is the size in the unit that fits.
func (e entry) HumanSize() string {
	size, unit := float64(e.Size), ""
	for _, next := range []string{"K", "M", "G", "T"} {
		if size < 1000 {
			break
		}
		size, unit = size/1024, next
	}
	if unit == "" {
		return strconv.FormatInt(e.Size, 10)
	}
	return fmt.Sprintf("%.1f %s", size, unit)
}
