package migrate

import (
	"regexp"
	"strconv"
	"strings"
)

// header takes a Header or RequestHeader.
func header(b *Block, d directive, word string) (reason string) {
	words := d.words()
	always := false
	if len(words) > 0 && (strings.EqualFold(words[0], "always") || strings.EqualFold(words[0], "onsuccess")) {
		always, words = strings.EqualFold(words[0], "always"), words[1:]
	}
	if len(words) > 0 && strings.EqualFold(words[len(words)-1], "early") {
		words = words[:len(words)-1]
	}
	if len(words) < 2 {
		return "it names no field"
	}
	action, name, value := strings.ToLower(words[0]), strings.TrimSuffix(words[1], ":"), ""
	if len(words) > 2 {
		value = words[2]
	}
	attr := map[string]string{"set": "set", "add": "add", "append": "add", "merge": "add", "unset": "remove"}[action]
	switch {
	case attr == "":
		return "\"" + words[0] + "\" has no counterpart"
	case len(words) > 3, attr == "remove" && len(words) > 2, strings.HasPrefix(value, "expr="):
		return "conditions have no counterpart"
	case attr != "remove" && strings.Contains(strings.ReplaceAll(value, "%%", ""), "%"):
		return "its variables have no counterpart"
	}
	block := headerBlock(b, d.Origin, word, always, attr, name)
	if attr == "remove" {
		if old := block.setting("remove"); old != nil {
			old.text = strings.TrimSuffix(old.text, "]") + ", " + literal(name) + "]"
			return ""
		}
		block.Set(d.Origin, "remove", []string{name})
	} else {
		block.Put(d.Origin, attr, name, escapeBraces(strings.ReplaceAll(value, "%%", "%")))
	}
	if always {
		block.Set(d.Origin, "always", true)
	}
	return ""
}

// headerBlock is the last block of the kind, or a new one where a change could not be told from an older one: in a block what is removed
// comes first, and what is added last.
func headerBlock(b *Block, from Origin, word string, always bool, attr, name string) *Block {
	if n := len(b.inner); n > 0 {
		last := b.inner[n-1]
		set, add := last.setting("set"), last.setting("add")
		busy := set != nil && (set.Has(name) || attr == "remove") || add != nil && (add.Has(name) || attr != "add")
		if last.kind == block && last.word == word && last.Has("always") == always && !busy {
			return last
		}
	}
	return b.Add(from, word)
}

// expiry is what mod_expires says.
type expiry struct {
	off    bool
	base   string
	byType map[string]string
}

var expirySpan = regexp.MustCompile(`([0-9]+)\s*(second|minute|hour|day|week|month|year)s?`)

func (e *expiry) directive(d directive) (reason string) {
	switch d.name {
	case "expiresactive":
		e.off = strings.EqualFold(d.arg(0), "off")
		return ""
	case "expiresdefault":
		seconds, ok := expirySeconds(d.arg(0))
		if !ok {
			return "only the time since the request can be told here"
		}
		e.base = "max-age=" + seconds
		return ""
	case "expiresbytype":
		seconds, ok := expirySeconds(d.arg(1))
		if !ok {
			return "only the time since the request can be told here"
		}
		endings := endingsOfType[strings.ToLower(d.arg(0))]
		if endings == nil {
			return "no ending is known for that type: see cache_by_suffix"
		}
		if e.byType == nil {
			e.byType = map[string]string{}
		}
		for _, ending := range endings {
			e.byType[ending] = "max-age=" + seconds
		}
		return ""
	}
	return "it has no counterpart"
}

// expirySeconds reads "access plus 1 month" or "A3600".
func expirySeconds(text string) (seconds string, ok bool) {
	if rest, ok := strings.CutPrefix(text, "A"); ok {
		if _, ok := natural(rest); ok {
			return rest, true
		}
	}
	units := map[string]int{"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}
	base, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	if base != "access" && base != "now" {
		return "", false
	}
	total := 0
	for _, m := range expirySpan.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(m[1]) // one that is too big is 0
		total += n * units[m[2]]
	}
	return strconv.Itoa(total), true
}

// endingsOfType are the ends of the names of files that have a media type.
var endingsOfType = map[string][]string{
	"text/html": {".html", ".htm"}, "text/css": {".css"}, "text/javascript": {".js", ".mjs"}, "application/javascript": {".js", ".mjs"},
	"application/x-javascript": {".js"}, "text/x-javascript": {".js"}, "application/json": {".json"}, "application/xml": {".xml"}, "text/xml": {".xml"},
	"text/plain": {".txt"}, "image/jpeg": {".jpg", ".jpeg"}, "image/jpg": {".jpg", ".jpeg"}, "image/png": {".png"}, "image/gif": {".gif"}, "image/webp": {".webp"},
	"image/avif": {".avif"}, "image/svg+xml": {".svg"}, "image/x-icon": {".ico"}, "image/vnd.microsoft.icon": {".ico"}, "image/ico": {".ico"},
	"image/bmp": {".bmp"}, "image/tiff": {".tif", ".tiff"}, "font/woff": {".woff"}, "font/woff2": {".woff2"}, "font/ttf": {".ttf"}, "font/otf": {".otf"},
	"application/font-woff": {".woff"}, "application/font-woff2": {".woff2"}, "application/x-font-woff": {".woff"}, "application/x-font-ttf": {".ttf"},
	"application/vnd.ms-fontobject": {".eot"}, "font/eot": {".eot"}, "application/pdf": {".pdf"}, "video/mp4": {".mp4"}, "video/webm": {".webm"}, "video/ogg": {".ogv"},
	"audio/ogg": {".ogg"}, "audio/mpeg": {".mp3"}, "application/rss+xml": {".rss"}, "application/atom+xml": {".atom"}, "text/x-component": {".htc"},
	"application/manifest+json": {".webmanifest"}, "text/cache-manifest": {".appcache"}, "application/wasm": {".wasm"},
}
