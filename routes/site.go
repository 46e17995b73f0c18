package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// The defaults of a site.
const (
	defaultKeepAliveTimeout = 5 * time.Second
	defaultMaxRequestBody   = 1 << 30 // bytes; Apache's LimitRequestBody
	hstsYear                = 365 * 24 * time.Hour
)

// siteReader reads the sites. It holds what they must agree on.
type siteReader struct {
	*reader
	tls   TLSDefaults
	pools *poolSet
	names map[string]hcl.Range // listener and host name: the label that has it

	number   int  // of the site that is read
	lostRoot bool // the root of the site is given, and can't be used
}

func (r *reader) sites(sections []*section, defaults TLSDefaults, pools *poolSet) []Site {
	sr := &siteReader{reader: r, tls: defaults, pools: pools, names: map[string]hcl.Range{}}
	sites := make([]Site, 0, len(sections))
	for i, s := range sections {
		sites = append(sites, sr.site(s, i))
	}
	sr.settleChallenges(sections, sites)
	r.warnUnused(pools)
	return sites
}

// warnUnused is silent after errors: the route that lacks may be one of them.
func (r *reader) warnUnused(pools *poolSet) {
	if r.diags.HasErrors() {
		return
	}
	for _, p := range pools.inOrder {
		if !p.used {
			r.warnf(p.label.at, "Unused pool", "No route names pool %q. Remove it, or name it in a route.", p.Name)
		}
	}
}

func (r *siteReader) site(s *section, number int) Site {
	r.number, r.lostRoot = number, s.failed("root")
	site := Site{
		Names:            r.hostNames(s),
		Listen:           r.listen(s),
		Root:             r.pathOf(s, "root", siteKey(number, "root")),
		Symlinks:         Symlinks(get(s, "symlinks", "")),
		Index:            r.index(s, []string{"index.html"}),
		KeepAliveTimeout: get(s, "keep_alive_timeout", defaultKeepAliveTimeout),
		MaxKeepAlive:     get(s, "max_keep_alive_requests", 0),
		MaxRequestBody:   get(s, "max_request_body", int64(defaultMaxRequestBody)),
		EncodedSlashes:   get(s, "encoded_slashes", false),
	}
	site.Rewrites = r.rewrites(s, site.Root)
	site.Headers, site.RequestHeaders = r.headers(s, "header"), r.headers(s, "request_header")
	site.ErrorPages, site.RateLimits = r.errorPages(s), r.rateLimits(s)
	access := r.access(s, nil, siteKey(number, ""))
	r.uniqueNames(s, &site)
	site.TLS = r.siteTLS(s, &site, number)
	site.Compress = r.compress(s, nil)
	sections := s.blocks["route"]
	if len(sections) == 0 && !s.mentions("route") {
		r.errorf(s.head, "Missing route", "The site has no route, so it would answer every request with 404. Write route \"/*\" { … }.")
	}
	for i, route := range sections {
		site.Routes = append(site.Routes, r.route(route, &site, access, routeKey(number, i)))
	}
	r.warnShadowed(sections, site.Routes)
	r.warnBypassed(sections, site.Routes)
	return site
}

// hostNames reads the labels. A faulty one keeps its place so that names and labels stay parallel.
func (r *siteReader) hostNames(s *section) []string {
	names := make([]string, len(s.labels))
	for i, l := range s.labels {
		name, reason := parseHostName(l.text)
		if reason != "" {
			r.errorf(l.at, "Wrong host name", "%q: %s", l.text, reason)
		}
		names[i] = name
	}
	return names
}

// parseHostName brings a site's name into the form that [Table.Site] compares.
func parseHostName(label string) (name, reason string) {
	name = normalHost(label)
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.String(), ""
	}
	rest := strings.TrimPrefix(name, "*.")
	switch {
	case name == "":
		return "", "the name is empty."
	case name == "*" || name == "_":
		return "", "no name is needed for all others: a request for an unknown host gets the first site of its listener. Write any name."
	case strings.Contains(name, "://"), strings.Contains(name, "/"):
		return "", "only the host name is needed, without scheme and path."
	case strings.Contains(name, ":"):
		return "", "the port belongs into \"listen\"."
	case strings.Contains(rest, "*"):
		return "", "a star stands for whole labels at the beginning only, as in \"*.example.com\"."
	case len(name) > 253:
		return "", "a host name has at most 253 characters."
	}
	for part := range strings.SplitSeq(rest, ".") {
		if reason := hostLabelFault(part); reason != "" {
			return "", reason
		}
	}
	return name, ""
}

// hostLabelFault checks one label (RFC 1123 §2.1). Underscores are not in the RFC but in use.
func hostLabelFault(part string) string {
	if part == "" || len(part) > 63 {
		return "each part between dots has 1 to 63 characters."
	}
	for _, c := range []byte(part) {
		switch {
		case c >= 0x80:
			return "write an international name as browsers send it, in its \"xn--\" form."
		case c != '-' && c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9'):
			return fmt.Sprintf("%q can't be in a host name.", c)
		}
	}
	return ""
}

func (r *siteReader) listen(s *section) []Listen {
	var list []Listen
	seen := map[string]bool{}
	for i, text := range get[[]string](s, "listen", nil) {
		at := s.elementAt("listen", i)
		l, reason := r.listenAt(text, at)
		switch {
		case reason != "":
			r.errorf(at, "Wrong listen address", "%s", reason)
			continue
		case seen[l.Key()]:
			r.errorf(at, "Address given twice", "The site listens on %s already.", l.Address)
			continue
		case l.Proxied && !r.trusting:
			r.errorf(at, "PROXY protocol from nobody", "Nobody is trusted to tell who the clients are. Name the load balancers in the gateway block: trusted_proxies = [\"10.0.0.0/8\"].")
			continue
		}
		seen[l.Key()] = true
		r.listens.add(r.reader, placedListen{Listen: l, at: at})
		list = append(list, l)
	}
	return list
}

// uniqueNames reports a name that two sites of one listener claim, once per name.
func (r *siteReader) uniqueNames(s *section, site *Site) {
	for i, name := range site.Names {
		at := s.labels[i].at
		if name == "" {
			continue
		}
		if slices.Contains(site.Names[:i], name) {
			r.errorf(at, "Name given twice", "The site has the name %q already. Remove one.", name)
			continue
		}
		reported := false
		for _, l := range site.Listen {
			key := l.Key() + " " + name
			first, taken := r.names[key]
			if taken && !reported {
				r.errorf(at, "Site defined twice", "%q on %s is a site already, in %s line %d. Put the routes into one block.", name, l.Address, first.Filename, first.Start.Line)
				reported = true
			}
			if !taken {
				r.names[key] = at
			}
		}
	}
}

// siteTLS reads the tls block and chooses a mode where none was written.
func (r *siteReader) siteTLS(s *section, site *Site, number int) TLS {
	block := s.one("tls")
	if block == nil {
		block = &section{head: s.head}
	}
	tls := TLS{Certificates: r.certificateFiles(block, number), Mode: r.tlsMode(s, block, site)}
	if tls.Mode == "off" {
		r.withoutTLS(block)
	} else {
		r.secure(&tls, block, site, number)
	}
	switch {
	case tls.Mode == "auto":
		tls.ACME = r.siteACME(block, site)
		for _, word := range []string{"ca_root", "dns"} {
			r.ranges[siteKey(number, word)] = r.ranges[tlsKey(word)] // from where the site has it, if it does not say it itself
			if block.mentions(word) {
				r.ranges[siteKey(number, word)] = block.given[word]
			}
		}
	case tls.Mode != "":
		r.withoutEffect(block, tls.Mode)
	}
	return tls
}

// certificateFiles pairs the certificates with their keys.
func (r *siteReader) certificateFiles(block *section, number int) []CertificateFiles {
	for pair := range strings.SplitSeq("certificate key,key certificate", ",") {
		has, lacks, _ := strings.Cut(pair, " ")
		if block.mentions(has) && !block.mentions(lacks) {
			r.errorf(block.given[has], "Missing attribute", "A %s needs its %[2]s: set %[2]q too.", has, lacks)
		}
	}
	certificates, keys := r.paths(block, "certificate", number), r.paths(block, "key", number)
	if !block.has("certificate") || !block.has("key") {
		return nil
	}
	if len(certificates) != len(keys) {
		r.errorf(block.at("key"), "Certificates without keys", "As many keys as certificates are needed, %d and not %d: the first key belongs to the first certificate, and so on.", len(certificates), len(keys))
		return nil
	}
	files := make([]CertificateFiles, len(keys))
	for i := range keys {
		files[i] = CertificateFiles{certificates[i], keys[i]}
	}
	return files
}

// paths is pathOf for a list.
func (r *siteReader) paths(block *section, name string, number int) []string {
	paths := slices.Clone(get[[]string](block, name, nil))
	for i, p := range paths {
		at := block.elementAt(name, i)
		if p == "" {
			r.errorf(at, "Wrong value", "%q is an empty path.", name)
		}
		paths[i] = r.path(p, at)
		r.ranges[certificateKey(number, i, name)] = at
	}
	return paths
}

// secure reads what connections with TLS must meet, and who is sent to them.
func (r *siteReader) secure(tls *TLS, block *section, site *Site, number int) {
	tls.MinVersion = get(block, "min_version", r.tls.MinVersion)
	tls.HSTS = r.tls.HSTS
	if s := block.one("hsts"); s != nil {
		tls.HSTS = r.hsts(s)
	}
	if s := block.one("client_auth"); s != nil {
		tls.ClientAuth = &ClientAuth{
			Mode:   get(s, "mode", ClientRequire),
			CA:     r.pathOf(s, "ca", siteKey(number, "client_auth.ca")),
			Export: get(s, "export_certificate", false),
		}
	}
	r.redirects(tls, block, site)
}

// redirects reads which listeners send clients to those with TLS.
func (r *siteReader) redirects(tls *TLS, block *section, site *Site) {
	reachable := slices.ContainsFunc(site.Listen, func(l Listen) bool { return l.TLS && !l.isLocal() })
	for _, l := range site.Listen {
		// What only this machine reaches is for its own proxies and probes, which TLS would not help.
		if !l.TLS && get(block, "redirect", !reachable || !l.isLocal()) {
			tls.Redirect = append(tls.Redirect, l.Key())
		} else if !l.TLS && tls.ClientAuth != nil {
			r.warnf(block.given["client_auth"], "Way around client certificates", "On %s the site is served without TLS, and so without certificates of clients. Write redirect = true, or remove the address.", l.Address)
		}
	}
}

// hsts makes the value of Strict-Transport-Security (RFC 6797 §6.1).
func (r *reader) hsts(s *section) string {
	age := get(s, "max_age", hstsYear)
	value := fmt.Sprintf("max-age=%d", int64(age/time.Second))
	subdomains, preload := get(s, "include_subdomains", false), get(s, "preload", false)
	if preload && (!subdomains || age < hstsYear) {
		r.errorf(s.at("preload"), "Not fit for preloading", "The lists that browsers come with take a site only with include_subdomains = true and a max_age of a year (%q) at least.", "8760h")
	}
	if subdomains {
		value += "; includeSubDomains"
	}
	if preload {
		value += "; preload"
	}
	return value
}

// withoutTLS reports settings that mean nothing without TLS.
func (r *siteReader) withoutTLS(block *section) {
	for _, word := range block.mentioned([]string{"min_version", "hsts", "client_auth"}) {
		r.errorf(block.given[word], "No effect", "%q is for connections with TLS, and this site has none. Remove it, or add \":443\" to \"listen\".", word)
	}
}

// tlsMode decides where the certificate comes from, and that it is needed exactly when an address is TLS. It is "" after an error.
func (r *siteReader) tlsMode(s, block *section, site *Site) string {
	manual := block.mentions("certificate") || block.mentions("key")
	mode := get(block, "mode", "")
	secure := false
	for _, l := range site.Listen {
		secure = secure || l.TLS
	}
	switch {
	case manual && block.mentions("mode"):
		r.errorf(block.given["mode"], "Contradiction", "A certificate is given, so the mode is known. Remove \"mode\", or certificate and key.")
		return ""
	case block.mentions("mode") && mode == "":
		return "" // reported already
	case !s.has("listen") || len(site.Listen) < len(get[[]string](s, "listen", nil)):
		return "" // what is wrong with the addresses decides
	case !secure && (manual || mode == "internal" || mode == "auto"):
		r.errorf(block.head, "TLS without an address", "The site has a certificate, but no TLS address to use it on. Add \":443\", or \"ADDRESS tls\" for another port, to \"listen\".")
		return ""
	case !secure:
		return "off"
	case manual:
		return "manual"
	case mode == "":
		mode = r.defaultMode(site)
	}
	return r.needCertificate(s, block, mode)
}

// defaultMode is what the top-level tls block says, else the internal authority for names that no public one certifies, else
// a public one. It is "" when the site has names of both kinds.
func (r *siteReader) defaultMode(site *Site) string {
	if r.tls.Mode != "" {
		return r.tls.Mode
	}
	local := 0
	for _, name := range site.Names {
		if isLocal(name) {
			local++
		}
	}
	switch local {
	case 0:
		return "auto"
	case len(site.Names):
		return "internal"
	}
	return ""
}

// isLocal reports names that only this machine or network knows: addresses, and what is set aside by RFC 6761, 6762, 8375 and by
// ICANN ("internal").
func isLocal(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch last {
	case name, "localhost", "local", "internal", "test":
		return true
	}
	return strings.HasSuffix(name, ".home.arpa")
}

// needCertificate refuses a TLS address without a certificate.
func (r *siteReader) needCertificate(s, block *section, mode string) string {
	const wayOut = "Write tls { mode = \"auto\" } for a certificate from a public authority, tls { mode = \"internal\" } for one from the gateway's own, or certificate and key in the tls block."
	switch {
	case mode == "internal" || mode == "auto":
		return mode
	case mode == "off" && block.has("mode"):
		r.errorf(block.at("mode"), "TLS address without TLS", "The mode is \"off\", but the site listens on a TLS address (port 443, or with the word tls). %s", wayOut)
	case mode == "off":
		r.errorf(s.at("listen"), "TLS address without TLS", "The mode is \"off\" in the top-level tls block, but the site listens on a TLS address. %s", wayOut)
	default:
		r.errorf(s.at("listen"), "Certificate needed", "Some names of the site are known here only, and no public authority certifies those: put them into a site of their own, or say what you want. %s", wayOut)
	}
	return ""
}

// index reads a list of index files, each a plain name.
func (r *siteReader) index(s *section, fallback []string) []string {
	names := get(s, "index", fallback)
	if !s.has("index") {
		return names
	}
	for i, name := range names {
		if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
			r.errorf(s.elementAt("index", i), "Wrong index file", "%q: an index file is a plain name such as \"index.html\", looked for in each folder.", name)
		}
	}
	return names
}
