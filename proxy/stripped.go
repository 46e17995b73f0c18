package proxy

import (
	"io/fs"
	"os"

	"gateway/routes"
)

// stripped is the folder of a route that cuts its prefix off ([routes.Route.StripPrefix]). Its paths are those of requests all the same,
// so that nobody else has two of them; what is not below the prefix is not there.
type stripped struct {
	files opener
	route *routes.Route
}

// strip is the folder of a route as its paths lead there; nil: it has none.
func strip(files opener, route *routes.Route) opener {
	if files == nil || route.Cut() == "" {
		return files
	}
	return &stripped{files, route}
}

// unstrip is a folder, and a path as it is looked for there.
func unstrip(files opener, path string) (opener, string) {
	s, ok := files.(*stripped)
	if !ok {
		return files, path
	}
	rest, _ := s.route.Below(path) // an empty path leads to no file
	return s.files, rest
}

// Open implements opener.
func (s *stripped) Open(path string) (*os.File, fs.FileInfo, error) {
	rest, ok := s.route.Below(path)
	if !ok {
		return nil, nil, fs.ErrNotExist
	}
	return s.files.Open(rest)
}

// Stat implements opener.
func (s *stripped) Stat(path string) (fs.FileMode, error) {
	rest, ok := s.route.Below(path)
	if !ok {
		return 0, fs.ErrNotExist
	}
	return s.files.Stat(rest)
}

// IsFile implements opener.
func (s *stripped) IsFile(path string) bool {
	rest, ok := s.route.Below(path)
	return ok && s.files.IsFile(rest)
}

// WasFile implements opener.
func (s *stripped) WasFile(path string) (bool, error) {
	rest, ok := s.route.Below(path)
	if !ok {
		return false, fs.ErrNotExist
	}
	return s.files.WasFile(rest)
}

// List implements opener.
func (s *stripped) List(path string) (listing, error) {
	rest, ok := s.route.Below(path)
	if !ok {
		return listing{}, fs.ErrNotExist
	}
	return s.files.List(rest)
}
