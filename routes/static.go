package routes

import (
	"fmt"
	"maps"
	"mime"
	"path"
	"slices"
	"strings"
)

// forEver is what "immutable" stands for as a Cache-Control: the name of such a file changes with its content (RFC 8246).
const forEver = "public, max-age=31536000, immutable"

// The content codings of [Static.Precompressed] and [Compress.Codings] (RFC 9110 §8.4.1).
const (
	Gzip   = "gzip"
	Brotli = "br"
	Zstd   = "zstd"
)

// codings lists them, in the order of the default.
var codings = []string{Zstd, Brotli, Gzip}

// The defaults of compress.
const (
	defaultCompressMin   = 1 << 10 // bytes: what fits into one packet gains nothing
	defaultCompressLevel = 5
	maxCompressLevel     = 9
)

// compressedTypes are those that browsers load and that are not compressed already.
var compressedTypes = []string{
	"text/*", "*+json", "*+xml", "application/json", "application/javascript", "application/x-javascript", "application/xml", "application/wasm",
	"application/vnd.ms-fontobject", "font/ttf", "font/otf", "font/collection", "image/bmp", "image/x-icon",
}

func (r *siteReader) static(s *section, site *Site) *Static {
	static := &Static{
		Index:         r.index(s, site.Index),
		CacheControl:  cacheControl(get(s, "cache_control", "")),
		CacheBySuffix: r.bySuffix(s, "cache_by_suffix", headerFault),
		Types:         r.bySuffix(s, "types", mediaTypeFault),
		Precompressed: get[[]string](s, "precompressed", nil),
		Listing:       get(s, "listing", false),
		Hide:          r.hide(s),
		DotFiles:      get(s, "dot_files", false),
	}
	for suffix, value := range static.CacheBySuffix {
		static.CacheBySuffix[suffix] = cacheControl(value)
	}
	return static
}

func cacheControl(value string) string {
	if value == "immutable" {
		return forEver
	}
	return value
}

// bySuffix reads a map whose keys are ends of file names, with or without their dot. fault says what is wrong with a value.
func (r *siteReader) bySuffix(s *section, name string, fault func(string) string) map[string]string {
	given := get[map[string]string](s, name, nil)
	if given == nil {
		return nil
	}
	table := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		suffix := "." + strings.ToLower(strings.TrimPrefix(key, "."))
		reason := fault(given[key])
		if suffix == "." || strings.Contains(suffix, "/") || hasControl(suffix) {
			reason = "the end of a file's name is needed, such as \".css\"."
		}
		if _, twice := table[suffix]; twice {
			reason = "it stands in the map already, written another way."
		}
		if reason != "" {
			r.errorf(s.keyAt(name, key), "Wrong value", "%q: %s", key, reason)
		}
		table[suffix] = given[key]
	}
	return table
}

func headerFault(value string) string {
	if value == "" || hasControl(value) {
		return "the value is empty, or holds a control character."
	}
	return ""
}

func mediaTypeFault(value string) string {
	if name, _, err := mime.ParseMediaType(value); err != nil || !strings.Contains(name, "/") || hasControl(value) {
		return fmt.Sprintf("%q is no media type, such as \"text/plain\" or \"text/html; charset=iso-8859-1\".", value)
	}
	return ""
}

// hide reads patterns for single names.
func (r *siteReader) hide(s *section) []string {
	list := get[[]string](s, "hide", nil)
	for i, pattern := range list {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" || strings.Contains(pattern, "/") {
			r.errorf(s.elementAt("hide", i), "Wrong pattern", "%q: a pattern is compared with each name on the path: \"*.bak\", \"composer.json\", \"[Mm]akefile\".", pattern)
		}
	}
	return list
}

// compress reads how responses are compressed; nil: they are not. Without a block it is as elsewhere says.
func (r *siteReader) compress(s *section, elsewhere *Compress) *Compress {
	block := s.one("compress")
	if block == nil {
		return elsewhere
	}
	c := &Compress{
		Codings: get(block, "codings", codings),
		Types:   get(block, "types", compressedTypes),
		MinSize: get(block, "min_size", int64(defaultCompressMin)),
		Level:   get(block, "level", defaultCompressLevel),
	}
	for i, t := range c.Types {
		if !isTypePattern(t) {
			r.errorf(block.elementAt("types", i), "Wrong type", "%q is no media type, such as \"text/html\", \"text/*\" or \"*+json\".", t)
		}
	}
	if c.Level == 0 {
		return nil
	}
	return c
}

// isTypePattern reports "text/html", "text/*" or "*+json".
func isTypePattern(s string) bool {
	if rest, ok := strings.CutPrefix(s, "*+"); ok {
		return isToken(rest)
	}
	kind, name, ok := strings.Cut(s, "/")
	return ok && isToken(kind) && isToken(name) && s == strings.ToLower(s) && (name == "*" || !strings.Contains(s, "*"))
}
