package proxy

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gateway/proxy/fcgi"
)

// fixedVariables is about how many variables a request has besides those of its header.
const fixedVariables = 28

// environment is the list of a request's CGI variables, no name twice (RFC 3875 §4.1).
type environment []fcgi.Param

// fill tells a program about a request: the variables of RFC 3875, those that Apache adds, and what PHP asks for.
// bodyLen is the length of the body as the program will read it. e is empty before.
func (e *environment) fill(r *http.Request, x *exchange, p program, bodyLen int64) {
	*e = slices.Grow(*e, fixedVariables+len(r.Header)+len(p.env))
	e.addProgram(x, p)
	e.addRedirect(r, x, p)
	e.addRequest(r, x, bodyLen)
	e.addConnection(r, x)
	if x.user != "" {
		e.add("AUTH_TYPE", "Basic")
		e.add("REMOTE_USER", x.user)
	}
	for name, values := range r.Header {
		e.addField(name, values)
	}
	for name, value := range p.env {
		e.set(name, value)
	}
}

// set adds a variable whose value is not from the client, or replaces it.
func (e *environment) set(name, value string) {
	for i := range *e {
		if (*e)[i].Name == name {
			(*e)[i].Value = value
			return
		}
	}
	*e = append(*e, fcgi.Param{Name: name, Value: value})
}

// add adds a variable. The parser has refused the bytes that are looked for here; a variable that had one could end early
// in one program and go on in another.
func (e *environment) add(name, value string) {
	if strings.IndexByte(value, 0) < 0 && strings.IndexByte(value, '\r') < 0 && strings.IndexByte(value, '\n') < 0 {
		*e = append(*e, fcgi.Param{Name: name, Value: value})
	}
}

func (e *environment) addProgram(x *exchange, p program) {
	e.add("GATEWAY_INTERFACE", "CGI/1.1")
	e.add("SERVER_SOFTWARE", serverName)
	e.add("SCRIPT_NAME", p.name)
	e.add("SCRIPT_FILENAME", p.file)
	e.addNonempty("DOCUMENT_ROOT", cmp.Or(p.root, x.route.Root))
	if p.cut != "" { // Apache has the two always
		e.add("CONTEXT_PREFIX", p.cut)
		e.add("CONTEXT_DOCUMENT_ROOT", p.folder)
	}
	if p.info != "" {
		e.add("PATH_INFO", p.info)
	}
	if p.translated != "" {
		e.add("PATH_TRANSLATED", p.translated)
	}
}

// addRedirect tells what led to the program, if it was not the client alone, as Apache does.
func (e *environment) addRedirect(r *http.Request, x *exchange, p program) {
	path, query := "", ""
	if x.failed != 0 {
		e.add("REDIRECT_STATUS", strconv.Itoa(x.failed))
		e.add("REDIRECT_REQUEST_METHOD", x.failure.Method)
		path, query = x.failure.URL.Path, x.failure.URL.RawQuery
	} else {
		e.add("REDIRECT_STATUS", "200") // without it php-cgi takes a request for an attempt to get around the server
		if x.internal {
			path, query = x.came, r.URL.RawQuery
		}
	}
	if p.info == "" { // beside them PHP takes PATH_INFO for wrong, and PATH_TRANSLATED for the script
		e.addNonempty("REDIRECT_URL", path)
		e.addNonempty("REDIRECT_QUERY_STRING", query)
	}
}

func (e *environment) addRequest(r *http.Request, x *exchange, bodyLen int64) {
	e.add("SERVER_PROTOCOL", r.Proto)
	e.add("REQUEST_METHOD", r.Method)
	e.add("REQUEST_URI", x.requestURI(r))
	e.add("QUERY_STRING", r.URL.RawQuery)
	if kind := r.Header["Content-Type"]; len(kind) > 0 {
		e.add("CONTENT_TYPE", kind[0])
	}
	if bodyLen > 0 || r.ContentLength < 0 || r.Header["Content-Length"] != nil {
		e.add("CONTENT_LENGTH", strconv.FormatInt(bodyLen, 10))
	}
	if r.Host != "" {
		e.add("HTTP_HOST", r.Host)
	}
}

func (e *environment) addConnection(r *http.Request, x *exchange) {
	port := "80"
	if x.https {
		port = "443"
		e.add("HTTPS", "on")
	}
	if x.secure {
		e.addNonempty("SSL_PROTOCOL", x.tls.protocol)
		e.addNonempty("SSL_CIPHER", x.tls.cipher)
		for name, value := range x.tls.client {
			e.set(name, value) // a certificate has several lines
		}
	}
	e.add("REQUEST_SCHEME", x.scheme())
	if x.local.IsValid() {
		var address string
		address, port = splitAddress(x.local)
		e.add("SERVER_ADDR", address)
	}
	e.add("SERVER_PORT", port)
	e.add("SERVER_NAME", hostOf(r, x))
	if !x.remote.IsValid() {
		e.add("REMOTE_ADDR", "unix:") // RFC 3875 wants one; as in nginx, and no address that somebody might trust
		return
	}
	address, port := splitAddress(x.remote)
	e.add("REMOTE_ADDR", address)
	if port != "0" {
		e.add("REMOTE_PORT", port)
	}
}

func (e *environment) addNonempty(name, value string) {
	if value != "" {
		e.add(name, value)
	}
}

// splitAddress returns the texts of an address and its port, which share one string. An IPv4 client of an IPv6 socket has an IPv4 address.
func splitAddress(a netip.AddrPort) (address, port string) {
	text := netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
	i := strings.LastIndexByte(text, ':')
	return strings.Trim(text[:i], "[]"), text[i+1:]
}

// hostOf is the host that the client asked for, without a port, or else the site's name.
func hostOf(r *http.Request, x *exchange) string {
	if host := hostname(r.Host); host != "" {
		return host
	}
	if len(x.site.Names) > 0 {
		return strings.TrimPrefix(x.site.Names[0], "*.")
	}
	return "localhost"
}

// addField adds a header field, unless it has no place among the variables.
func (e *environment) addField(name string, values []string) {
	switch name {
	case "Content-Type", "Content-Length", "Host": // variables of other names
		return
	case "Transfer-Encoding": // the body is no longer encoded
		return
	case "Proxy": // HTTP_PROXY is how many programs are told of their own proxy (CVE-2016-5385, "httpoxy")
		return
	}
	variable, ok := variableOf(name)
	if !ok || len(values) == 0 || isMapping(name) {
		return
	}
	value := values[0]
	if len(values) > 1 {
		separator := ", " // RFC 9110 §5.3
		if name == "Cookie" {
			separator = "; " // RFC 9113 §8.2.3
		}
		value = strings.Join(values, separator)
	}
	e.add(variable, value)
}

// variableOf is the name of a header field's variable. The common ones cost no allocation.
//
// It refuses names that are not canonical or have other characters than letters, digits and "-": "X_Real_User" would have
// the variable of "X-Real-User", which a program may trust.
func variableOf(name string) (string, bool) {
	switch name {
	case "Accept":
		return "HTTP_ACCEPT", true
	case "Accept-Encoding":
		return "HTTP_ACCEPT_ENCODING", true
	case "Accept-Language":
		return "HTTP_ACCEPT_LANGUAGE", true
	case "Authorization":
		return "HTTP_AUTHORIZATION", true
	case "Cache-Control":
		return "HTTP_CACHE_CONTROL", true
	case "Connection":
		return "HTTP_CONNECTION", true
	case "Cookie":
		return "HTTP_COOKIE", true
	case "If-Modified-Since":
		return "HTTP_IF_MODIFIED_SINCE", true
	case "If-None-Match":
		return "HTTP_IF_NONE_MATCH", true
	case "Origin":
		return "HTTP_ORIGIN", true
	case "Referer":
		return "HTTP_REFERER", true
	case "Sec-Fetch-Dest":
		return "HTTP_SEC_FETCH_DEST", true
	case "Sec-Fetch-Mode":
		return "HTTP_SEC_FETCH_MODE", true
	case "Sec-Fetch-Site":
		return "HTTP_SEC_FETCH_SITE", true
	case "Upgrade-Insecure-Requests":
		return "HTTP_UPGRADE_INSECURE_REQUESTS", true
	case "User-Agent":
		return "HTTP_USER_AGENT", true
	case "X-Forwarded-For":
		return "HTTP_X_FORWARDED_FOR", true
	case "X-Forwarded-Proto":
		return "HTTP_X_FORWARDED_PROTO", true
	case "X-Requested-With":
		return "HTTP_X_REQUESTED_WITH", true
	}
	return makeVariable(name)
}

func makeVariable(name string) (string, bool) {
	const prefix = "HTTP_"
	b := append(make([]byte, 0, len(prefix)+len(name)), prefix...)
	first := true // of a word, which has a capital in a canonical name
	for i := range len(name) {
		c := name[i]
		switch {
		case '0' <= c && c <= '9':
		case first && 'A' <= c && c <= 'Z':
		case !first && 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		case c == '-':
			c = '_'
		default:
			return "", false
		}
		first = c == '_'
		b = append(b, c)
	}
	return string(b), name != ""
}
