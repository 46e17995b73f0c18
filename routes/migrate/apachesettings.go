package migrate

import (
	"path"
	"regexp"
	"slices"
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
	protocolshonororder proxybadheader proxypassreversecookiedomain proxypassreversecookiepath proxyrequests proxyvia
	proxyaddheaders proxyiobuffersize proxyreceivebuffersize readmename receivebuffersize regexdefaultoptions requestreadtimeout scoreboardfile scriptsock
	securelisten sendbuffersize serveradmin serverpath serversignature servertokens sslciphersuite sslcompression
	sslcryptodevice sslhonorcipherorder sslinsecurerenegotiation sslopensslconfcmd sslpassphrasedialog sslproxyengine sslrandomseed sslsessioncache
	sslsessioncachetimeout sslsessiontickets sslstaplingcache sslstrictsnivhostcheck sslusestapling sslverifydepth threadstacksize traceenable
	proxyset proxystatus sslproxyciphersuite sslproxyprotocol sslproxyverifydepth typesconfig usecanonicalname usecanonicalphysicalport contentdigest asyncrequestworkerfactor coredumpdirectory
	maxmemfree maxrangeoverlaps maxrangereversals maxranges mergeslashes mergetrailers deflatecompressionlevel
	deflatememlevel deflatewindowsize deflatebuffersize deflatefilternote filterdeclare filterprovider filterchain filterprotocol
	bufferedlogs cgidscripttimeout interpretersource win32disableacceptex xsendfileignoreetag xsendfileignorelastmodified acceptfilter acceptmutex lockfile`)

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
	case "allowencodedslashes":
		if !strings.EqualFold(value, "off") {
			s.settings.Set(from, "encoded_slashes", true)
		}
	case "xsendfile":
		c.sends, c.anything = &d, true
	case "xsendfilepath":
		c.sendRoots, c.anything = append(c.sendRoots, path.Clean(value)), true
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

// content takes what is said of responses and of programs.
func (s *apacheSite) content(c *scope, d directive) (reason string) {
	words, from := d.words(), d.Origin
	switch d.name {
	case "header":
		c.anything = true
		return header(c.block, d, "header")
	case "requestheader":
		if (len(words) == 2 || len(words) == 3) && strings.EqualFold(words[0], "unset") && strings.EqualFold(words[1], "proxy") {
			return "" // it never gets to an application
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
	case "addoutputfilterbytype", "addoutputfilter", "setoutputfilter":
		return s.filter(d)
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

// filter takes mod_deflate, whose work a compress block does.
func (s *apacheSite) filter(d directive) (reason string) {
	words := d.words()
	for name := range strings.SplitSeq(strings.ToUpper(d.arg(0)), ";") {
		if name != "DEFLATE" && name != "BROTLI_COMPRESS" {
			return "it has no counterpart"
		}
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
