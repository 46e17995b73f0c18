package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"gateway/routes"
)

// Kind is the server that a file was written for.
type Kind string

const (
	FPM      Kind = "php-fpm"
	Unit     Kind = "unit"
	Apache   Kind = "apache"
	Htaccess Kind = "htaccess"
)

// readers are the kinds, in the order in which they are read: what serves goes by the pools that are known then.
var readers = []struct {
	kind Kind
	is   func(source) bool
	read func(*importer, []source) error
}{
	{FPM, isFPM, (*importer).fpm},
	{Unit, isUnit, (*importer).unit},
	{Apache, isApache, (*importer).apacheServer},
	{Htaccess, isHtaccess, (*importer).apacheFolders},
}

// KindList is the kinds, as a text.
func KindList() string {
	var words []string
	for _, k := range Kinds() {
		words = append(words, string(k))
	}
	return strings.Join(words, ", ")
}

// Kinds lists the kinds of files that can be read.
func Kinds() []Kind {
	kinds := make([]Kind, len(readers))
	for i, r := range readers {
		kinds[i] = r.kind
	}
	return kinds
}

// Options say what the files don't.
type Options struct {
	Kind Kind   // of all files; empty: each is recognised
	Root string // the folder of the site, where the files name none
}

// source is one file as read.
type source struct {
	name string
	text string // UTF-8: other bytes are U+FFFD
}

// importer is what the readers of all kinds write to.
type importer struct {
	Document
	root   string        // empty: not given
	fpms   []*fpmPool    // the pools that were php-fpm's
	event  string        // the name of the event pool; empty: there is none yet
	apache *apacheReader // nil: nothing of Apache's was read

	load func(name string) (source, error) // reads what the files include
	glob func(pattern string) ([]string, error)

	included      int // files
	includedBytes int // in them

	parts int // that were made, of blocks and of routes that lead to others
}

// maxParts bounds what becomes of the files: a few lines for each of many hosts are many. A configuration that can be loaded has fewer.
const maxParts = routes.MaxSourceBytes / 8

// exceeds counts parts, and reports whether they are too many: then there is no document.
func (im *importer) exceeds(parts int) bool {
	im.parts += parts
	return im.parts > maxParts
}

// Import reads configurations of other servers into one document, which the gateway can load. Its errors say file and line; there is no
// document then.
func Import(o Options, names ...string) (*Document, error) {
	im := newImporter(o)
	var sources []source
	for _, name := range names {
		s, err := load(name)
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	return im.run(o.Kind, sources)
}

func newImporter(o Options) *importer {
	return &importer{root: o.Root, load: loadRegular, glob: filepath.Glob}
}

func (im *importer) run(kind Kind, sources []source) (*Document, error) {
	byKind := map[Kind][]source{}
	for _, s := range sources {
		k := kind
		if k == "" {
			if k = recognise(s); k == "" {
				return nil, fmt.Errorf("%s: can't tell whose configuration this is: say it with -from (%s)", s.name, KindList())
			}
		}
		byKind[k] = append(byKind[k], s)
	}
	for _, r := range readers {
		if list := byKind[r.kind]; list != nil {
			if err := r.read(im, list); err != nil {
				return nil, err
			}
		}
	}
	if im.apache != nil {
		im.apache.write()
	}
	if im.exceeds(0) {
		return nil, fmt.Errorf("what becomes of it would be bigger than %d bytes: import fewer hosts at a time", routes.MaxSourceBytes)
	}
	im.Title = title(sources)
	im.startingSites()
	if err := im.settle(); err != nil {
		return nil, err
	}
	return &im.Document, nil
}

func title(sources []source) string {
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = oneLine(s.name, 0)
	}
	return "Imported by gateway import from " + strings.Join(names, ", ") +
		".\nWhat has no counterpart here is a comment with the place where it stood, and the reason."
}

func recognise(s source) Kind {
	for _, r := range readers {
		if r.is(s) {
			return r.kind
		}
	}
	return ""
}

// firstLine is the first line that is neither empty nor a comment.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
			return line
		}
	}
	return ""
}

func load(name string) (source, error) {
	f, err := os.Open(name)
	if err != nil {
		return source{}, err
	}
	return readSource(f)
}

// Bounds of what files include.
const (
	maxIncluded      = 1000     // files, each as often as it is included
	maxIncludedBytes = 16 << 20 // in them
)

// include reads a file that another one includes.
func (im *importer) include(name string) (source, error) {
	if im.included++; im.included > maxIncluded {
		return source{}, fmt.Errorf("more than %d files are included", maxIncluded)
	}
	s, err := im.load(name)
	if im.includedBytes += len(s.text); im.includedBytes > maxIncludedBytes {
		return source{}, fmt.Errorf("the files that are included have more than %d bytes", maxIncludedBytes)
	}
	return s, err
}

// loadRegular is for names that are not the caller's own: a pipe would be waited for.
func loadRegular(name string) (source, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return source{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: it is no regular file", name)
	}
	if err != nil {
		return source{}, errors.Join(err, f.Close())
	}
	return readSource(f)
}

// readSource reads a file and closes it.
func readSource(f *os.File) (source, error) {
	defer f.Close()
	name := f.Name()
	text, err := io.ReadAll(io.LimitReader(f, routes.MaxSourceBytes+1))
	switch {
	case err != nil:
		return source{}, err
	case len(text) > routes.MaxSourceBytes:
		return source{}, fmt.Errorf("%s: it is bigger than %d bytes", name, routes.MaxSourceBytes)
	}
	return source{name, string(bytes.ToValidUTF8(text, []byte("\uFFFD")))}, nil
}

// edge is the event pool, which it adds if there is none.
func (im *importer) edge() string {
	if im.event == "" {
		im.event = im.free("edge")
		im.Add(Origin{}, "pool", im.event).Set(Origin{}, "mpm", "event")
	}
	return im.event
}

// free is the name for a pool, with a number behind it if there is such a pool already.
func (im *importer) free(name string) string {
	unique := name
	for n := 2; im.Find("pool", unique) != nil; n++ {
		unique = name + strconv.Itoa(n)
	}
	return unique
}

// errorAt is an error of a file that can't be read further.
func errorAt(o Origin, format string, args ...any) error {
	return errors.New(o.File + ":" + fmt.Sprint(o.Line) + ": " + fmt.Sprintf(format, args...))
}
