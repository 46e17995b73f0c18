package migrate

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// bracedWord is what a template takes for a variable.
var bracedWord = regexp.MustCompile(`\{[a-z0-9_]+(\.[A-Za-z0-9_-]+)?\}`)

// needless are directives that need no counterpart: the gateway does so anyway, has nothing of the kind, or they only dress up what is shown.
// docs/import.md lists them.
var needless = setOf(`accessfilename acceptpathinfo adddefaultcharset addcharset addalt addaltbyencoding addaltbytype adddescription addicon addiconbyencoding
	addiconbytype addlanguage allowoverride allowoverridelist authmerging browsermatch browsermatchnocase cachedefaultexpire
	defaultcharset defaulticon defaultruntimedir defaulttype enablemmap enablesendfile errorlog errorlogformat extendedstatus gracefulshutdowntimeout
	headername hostnamelookups h2direct h2push indexheadinsert indexignore indexoptions indexorderdefault
	languagepriority forcelanguagepriority listenbacklog loadfile loadmodule loglevel mimemagicfile mutex namevirtualhost pidfile protocols
	protocolshonororder proxybadheader proxypreservehost proxypassreverse proxypassreversecookiedomain proxypassreversecookiepath proxyrequests proxyvia
	proxyaddheaders proxyerroroverride proxytimeout proxyiobuffersize proxyreceivebuffersize readmename receivebuffersize regexdefaultoptions requestreadtimeout scoreboardfile scriptsock
	securelisten sendbuffersize serveradmin serverpath serversignature servertokens sslciphersuite sslcompression
	sslcryptodevice sslhonorcipherorder sslinsecurerenegotiation sslopensslconfcmd sslpassphrasedialog sslproxyengine sslrandomseed sslsessioncache
	sslsessioncachetimeout sslsessiontickets sslstaplingcache sslstrictsnivhostcheck sslusestapling sslverifydepth threadstacksize traceenable
	proxystatus typesconfig usecanonicalname usecanonicalphysicalport allowencodedslashes contentdigest asyncrequestworkerfactor coredumpdirectory
	maxmemfree maxrangeoverlaps maxrangereversals maxranges mergeslashes mergetrailers deflatecompressionlevel
	deflatememlevel deflatewindowsize deflatebuffersize deflatefilternote filterdeclare filterprovider filterchain filterprotocol addoutputfilter
	bufferedlogs cgidscripttimeout interpretersource win32disableacceptex acceptfilter acceptmutex lockfile`)

func setOf(words string) map[string]bool {
	set := map[string]bool{}
	for _, word := range strings.Fields(words) {
		set[word] = true
	}
	return set
}

// setting takes a directive of the core and its neighbours, and reports whether it was one.
func (s *apacheSite) setting(c *scope, d directive) (done bool, reason string) {
	value, from := d.arg(0), d.Origin
	n, isNumber := natural(value)
	switch d.name {
	case "documentroot":
		s.setRoot(path.Clean(value))
	case "servername":
		s.names = slices.Insert(s.names, 0, hostOf(value))
	case "serveralias":
		for _, name := range d.words() {
			s.names = append(s.names, hostOf(name))
		}
	case "directoryindex":
		if c.index = d.words(); slices.Contains(c.index, "disabled") {
			c.index = nil
		}
		c.index = slices.DeleteFunc(c.index, func(name string) bool { return strings.HasPrefix(name, "/") })
		c.anything = true
	case "fallbackresource":
		if value != "disabled" {
			c.rules.list = append(c.rules.list, &rewrite{
				from: from, label: map[bool]string{true: "", false: "^" + quotePath(c.path)}[c.path == "/"], to: value, then: "last",
				not: []term{{attr: "file", value: "{path}"}, {attr: "folder", value: "{path}"}},
			})
		}
	case "errordocument":
		return true, s.errorDocument(c, d)
	case "options":
		return true, s.options(c, d)
	case "fileetag":
		if strings.EqualFold(value, "none") {
			c.block.Add(from, "header").Set(from, "remove", []string{"ETag"})
			c.anything = true
		}
	case "limitrequestbody":
		if n == 0 || !isNumber {
			return true, "a bound is a number of bytes, and never none"
		}
		if c.path != "/" {
			c.anything = true
			c.set["max_request_body"] = value
			return true, ""
		}
		s.settings.Set(from, "max_request_body", n)
	case "keepalivetimeout":
		s.settings.Set(from, "keep_alive_timeout", secondsOf(value))
	case "keepalive":
		if strings.EqualFold(value, "off") {
			s.settings.Set(from, "max_keep_alive_requests", 1)
		}
	case "maxkeepaliverequests":
		if isNumber {
			s.settings.Set(from, "max_keep_alive_requests", n)
		}
	case "alias", "scriptalias", "aliasmatch", "scriptaliasmatch":
		return true, s.alias(d)
	default:
		return false, ""
	}
	return true, ""
}

func (s *apacheSite) setRoot(root string) {
	s.root = root
	for _, c := range s.scopes {
		c.rules.root = root
	}
}

// hostOf is the name of a ServerName, which may have a scheme and a port.
func hostOf(value string) string {
	if _, rest, ok := strings.Cut(value, "://"); ok {
		value = rest
	}
	if i := strings.LastIndexByte(value, ':'); i > 0 && !strings.HasSuffix(value, "]") {
		value = value[:i]
	}
	return strings.ToLower(value)
}

// secondsOf is Apache's duration, "30", "30s" or "500ms", as one of Go's.
func secondsOf(value string) string {
	if _, ok := natural(value); ok {
		return value + "s"
	}
	return strings.Replace(value, "min", "m", 1)
}

func (s *apacheSite) errorDocument(c *scope, d directive) (reason string) {
	status, page := d.arg(0), d.arg(1)
	switch {
	case page == "default":
		return ""
	case !strings.HasPrefix(page, "/"):
		return "a page for an error is a path of the site"
	}
	c.block.Add(d.Origin, "error_page", status).Set(d.Origin, "path", escapeBraces(page))
	c.anything = true
	return ""
}

// options takes what has a meaning here: listings, links, and nothing else.
func (s *apacheSite) options(c *scope, d directive) (reason string) {
	words := d.words()
	if len(words) > 0 && !strings.ContainsAny(words[0][:1], "+-") { // they replace those from before
		c.listing = new(bool)
		c.set["symlinks"] = "none"
	}
	var left []string
	for _, word := range words {
		on := !strings.HasPrefix(word, "-")
		switch strings.ToLower(strings.TrimLeft(word, "+-")) {
		case "indexes":
			c.listing = &on
		case "all":
			c.listing, c.set["symlinks"] = &on, "all"
		case "followsymlinks":
			c.set["symlinks"] = map[bool]string{true: "all", false: "none"}[on]
		case "symlinksifownermatch":
			c.set["symlinks"] = map[bool]string{true: "owner", false: "none"}[on]
		case "none", "execcgi":
		default:
			if on {
				left = append(left, word)
			}
		}
	}
	c.anything = true
	if left != nil {
		return strings.Join(left, " ") + " has no counterpart"
	}
	return ""
}

// alias makes a route of a path that leads elsewhere.
func (s *apacheSite) alias(d directive) (reason string) {
	url, target := d.arg(0), d.arg(1)
	script := strings.HasPrefix(d.name, "script")
	switch {
	case strings.HasSuffix(d.name, "match"):
		return "an expression has no counterpart here: write a route for each path"
	case url == "" || target == "" || url[0] != '/':
		return "it leads nowhere"
	}
	folder := strings.TrimSuffix(path.Clean(url), "/") + "/"
	label := folder + "*"
	if script {
		pool := s.scriptPool()
		m := mount{from: d.Origin, label: label, cuts: true, add: func(route *Block) {
			route.Set(d.Origin, "pool", pool)
			route.Add(d.Origin, "cgi").Set(d.Origin, "root", path.Clean(target))
		}}
		if !strings.HasSuffix(target, "/") && !strings.HasSuffix(url, "/") && strings.Contains(path.Base(target), ".") {
			m.label = path.Clean(url)
			m.add = func(route *Block) {
				route.Set(d.Origin, "pool", pool)
				route.Add(d.Origin, "cgi").Set(d.Origin, "script", target)
			}
			s.mount(m)
			m.label = label
		}
		s.mount(m)
		return ""
	}
	root, ok := strings.CutSuffix(path.Clean(target)+"/", folder)
	if !ok {
		return "a root holds the whole path: give the folder that name (a link is enough), and write root in a route \"" + label + "\""
	}
	s.mount(mount{from: d.Origin, label: label, folder: cmp.Or(root, "/")})
	return ""
}

// content takes what is said of responses and of programs.
func (s *apacheSite) content(c *scope, d directive) (reason string) {
	words, from := d.words(), d.Origin
	switch d.name {
	case "header":
		c.anything = true
		return header(c.block, d, "header")
	case "requestheader":
		if len(words) == 2 || len(words) == 3 && strings.EqualFold(words[0], "unset") {
			if strings.EqualFold(words[0], "unset") && strings.EqualFold(words[1], "proxy") {
				return "" // it never gets to an application
			}
		}
		c.anything = true
		return header(c.block, d, "request_header")
	case "setenv":
		if c.path != "/" || len(words) == 0 {
			return "only for the whole site variables can be set here"
		}
		s.env[words[0]], s.envFrom = d.arg(1), from
		return ""
	case "setenvif", "setenvifnocase":
		return s.setEnvIf(d)
	case "addtype":
		return s.addType(c, d)
	case "forcetype":
		return "it has no counterpart: types go by the ends of names"
	case "addhandler", "sethandler", "removehandler", "removetype":
		return s.handler(c, d)
	case "addoutputfilterbytype", "setoutputfilter":
		return s.filter(c, d)
	case "addencoding", "removeencoding":
		return "it has no counterpart: see precompressed in static"
	}
	return "it has no counterpart"
}

// setEnvIf knows the idioms that bring a password to PHP, which has it here anyway.
func (s *apacheSite) setEnvIf(d directive) (reason string) {
	words := d.words()
	if len(words) > 2 && strings.EqualFold(words[0], "Authorization") {
		return ""
	}
	if len(words) > 0 && strings.EqualFold(words[0], "X-Forwarded-Proto") {
		return "write the proxy in front as trusted_proxies in the gateway block: then the scheme is the one that it names"
	}
	return "variables of the environment have no counterpart"
}

func isPHP(handler string) bool {
	handler = strings.ToLower(handler)
	return strings.Contains(handler, "php") && !strings.Contains(handler, "source")
}

// addType takes media types, and PHP, which is one in old files.
func (s *apacheSite) addType(c *scope, d directive) (reason string) {
	words := d.words()
	if len(words) < 2 {
		return "it names no ending"
	}
	for _, ending := range words[1:] {
		ending = "." + strings.TrimPrefix(ending, ".")
		switch {
		case isPHP(words[0]):
			s.scripts = append(s.scripts, ending)
		case strings.Contains(words[0], "/") && !strings.Contains(words[0], "x-httpd"):
			c.types[ending] = words[0]
			c.anything = true
		default:
			return "it has no counterpart"
		}
	}
	return ""
}

// handler takes programs for endings, or for a whole folder.
func (s *apacheSite) handler(c *scope, d directive) (reason string) {
	words := d.words()
	if len(words) == 0 {
		return "it names no handler"
	}
	name := words[0]
	switch removes := strings.HasPrefix(d.name, "remove"); {
	case removes, d.name == "sethandler" && slices.Contains([]string{"none", "default-handler", "default"}, strings.ToLower(name)):
		if !removes || slices.ContainsFunc(words, func(w string) bool { return strings.TrimPrefix(w, ".") == "php" }) {
			c.noPHP, c.anything = true, true
		}
		return ""
	case d.name == "sethandler" && strings.HasPrefix(name, "proxy:"):
		return "a FastCGI server has the files with certain endings here: put it into <FilesMatch>"
	case d.name == "sethandler":
		return "it has no counterpart for a whole folder"
	case strings.HasPrefix(name, "proxy:"):
		address, ok := fcgiAddress(strings.TrimPrefix(name, "proxy:"))
		if !ok {
			return "it is no address of a FastCGI server"
		}
		s.fastcgi = address
	case name == "type-map":
		return "" // no file says which others to send
	case !isPHP(name) && name != "cgi-script":
		return "it has no counterpart"
	}
	for _, ending := range words[1:] {
		ending = "." + strings.TrimPrefix(ending, ".")
		if name == "cgi-script" {
			s.cgi = append(s.cgi, ending)
		} else {
			s.scripts = append(s.scripts, ending)
		}
	}
	return ""
}

// filter takes mod_deflate, whose work a compress block does.
func (s *apacheSite) filter(c *scope, d directive) (reason string) {
	words := d.words()
	name := strings.ToUpper(d.arg(0))
	if !strings.Contains(name, "DEFLATE") && !strings.Contains(name, "BROTLI") {
		return "it has no counterpart"
	}
	block := s.rest.Need(d.Origin, "compress")
	for _, t := range words[min(1, len(words)):] {
		if d.name == "addoutputfilterbytype" && !slices.Contains(s.compressed, t) {
			s.compressed = append(s.compressed, t)
		}
	}
	if s.compressed != nil {
		block.Set(d.Origin, "types", s.compressed)
	}
	return ""
}

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
