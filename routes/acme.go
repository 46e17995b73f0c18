package routes

import (
	"encoding/base64"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The CAs that have a short name.
const (
	letsEncrypt        = "https://acme-v02.api.letsencrypt.org/directory"
	letsEncryptStaging = "https://acme-staging-v02.api.letsencrypt.org/directory"
)

// The defaults of the dns and on_demand blocks.
const (
	defaultDNSTimeout       = time.Minute
	defaultOnDemandLimit    = 10
	defaultOnDemandInterval = time.Minute
)

// tlsDefaults reads the top-level tls block; s may be nil.
func (r *reader) tlsDefaults(s *section) TLSDefaults {
	d := TLSDefaults{MinVersion: "1.2", ACME: ACME{CA: []string{letsEncrypt}, KeyType: "p256", Challenges: []string{HTTP01, TLSALPN01}}}
	if s == nil {
		return d
	}
	d.Mode = get(s, "mode", "")
	d.MinVersion = get(s, "min_version", d.MinVersion)
	if hsts := s.one("hsts"); hsts != nil {
		d.HSTS = r.hsts(hsts)
	}
	d.ACME = r.acme(s, d.ACME)
	for _, word := range []string{"ca_root", "dns"} {
		r.ranges[tlsKey(word)] = s.given[word]
	}
	return d
}

// acme reads what both tls blocks take. What s does not say is as in the defaults.
func (r *reader) acme(s *section, defaults ACME) ACME {
	a := defaults
	a.Email = get(s, "email", a.Email)
	a.KeyType = get(s, "key_type", a.KeyType)
	a.Challenges = get(s, "challenges", a.Challenges)
	if at := strings.IndexByte(a.Email, '@'); s.has("email") && (at < 1 || strings.ContainsAny(a.Email, " ,<>")) {
		r.errorf(s.at("email"), "Wrong value", "%q is not an e-mail address.", a.Email)
	}
	if s.has("ca") {
		a.CA = r.directories(s)
	}
	if s.has("ca_root") {
		a.CARoot = r.pathOf(s, "ca_root", "")
	}
	// An account at a CA that is not asked is for other sites.
	a.EAB = slices.DeleteFunc(slices.Clone(a.EAB), func(eab EAB) bool { return !slices.Contains(a.CA, eab.CA) })
	for _, eab := range s.blocks["eab"] {
		a.EAB = append(a.EAB, r.eab(eab, a.CA))
	}
	if dns := s.one("dns"); dns != nil {
		a.DNS = r.dns(dns)
	}
	return a
}

func (r *reader) directories(s *section) []string {
	var list []string
	for i, text := range get[[]string](s, "ca", nil) {
		directory := directoryURL(text)
		u, err := url.Parse(directory)
		switch {
		case err != nil || u.Scheme != "https" || u.Host == "":
			r.errorf(s.elementAt("ca", i), "Wrong value", "%q is not the URL of an ACME directory, \"https://HOST/PATH\", nor \"letsencrypt\" or \"letsencrypt-staging\".", text)
		case slices.Contains(list, directory):
			r.errorf(s.elementAt("ca", i), "Wrong value", "%q stands in the list already.", text)
		}
		list = append(list, directory)
	}
	return list
}

func directoryURL(text string) string {
	switch text {
	case "letsencrypt":
		return letsEncrypt
	case "letsencrypt-staging":
		return letsEncryptStaging
	}
	return text
}

func (r *reader) eab(s *section, directories []string) EAB {
	eab := EAB{CA: directoryURL(get(s, "ca", "")), KeyID: get(s, "key_id", ""), MACKey: get(s, "mac_key", "")}
	switch {
	case s.has("ca") && !slices.Contains(directories, eab.CA):
		r.errorf(s.at("ca"), "Wrong value", "%q is not in the \"ca\" of the tls block.", get(s, "ca", ""))
	case s.mentions("ca"):
	case len(directories) != 1:
		r.errorf(s.head, "Missing attribute", "There are several CAs: say with \"ca\" to which one the account belongs.")
	default:
		eab.CA = directories[0]
	}
	eab.MACKey = strings.TrimRight(eab.MACKey, "=")
	if _, err := base64.RawURLEncoding.DecodeString(eab.MACKey); s.has("mac_key") && (err != nil || eab.MACKey == "") {
		r.errorf(s.at("mac_key"), "Wrong value", "\"mac_key\" is base64url text, as the CA gives it.")
	}
	return eab
}

func (r *reader) dns(s *section) *DNS {
	d := &DNS{
		Command:   get[[]string](s, "command", nil),
		Env:       r.variables(s, nil),
		Timeout:   get(s, "timeout", defaultDNSTimeout),
		Delay:     get[time.Duration](s, "delay", 0),
		Provider:  get(s, "provider", ""),
		Settings:  get[map[string]string](s, "settings", nil),
		Resolvers: get[[]string](s, "resolvers", nil),
	}
	if s.mentions("command") == s.mentions("provider") {
		r.errorf(s.head, "Command or provider", "Exactly one of \"command\", a program that makes and removes TXT records, and \"provider\", one that was built in, is needed.")
		return d
	}
	if s.has("command") && strings.Contains(d.Command[0], "/") {
		d.Command = slices.Concat([]string{r.path(d.Command[0], s.at("command"))}, d.Command[1:])
	}
	have, lack := "command", []string{"settings", "resolvers"}
	if s.mentions("provider") {
		have, lack = "provider", []string{"env", "timeout"}
	}
	for _, word := range s.mentioned(lack) {
		r.errorf(s.given[word], "No effect", "%q means nothing beside %q.", word, have)
	}
	for i, resolver := range d.Resolvers {
		if _, _, err := net.SplitHostPort(resolver); err != nil {
			r.errorf(s.elementAt("resolvers", i), "Wrong value", "%q is not a name server: write \"9.9.9.9:53\".", resolver)
		}
	}
	return d
}

// siteACME reads the settings of a site with mode "auto".
func (r *siteReader) siteACME(block *section, site *Site) *ACME {
	a := r.acme(block, r.tls.ACME)
	if s := block.one("on_demand"); s != nil {
		a.OnDemand = r.onDemand(s)
	}
	r.publicNames(block, site, a.CA)
	if a.DNS != nil {
		return &a
	}
	for _, name := range site.Names {
		if strings.HasPrefix(name, "*.") {
			r.errorf(block.head, "Wildcard without DNS", "CAs certify %q only by a record in the DNS: add a dns block, or list the names.", name)
			break
		}
	}
	if !slices.ContainsFunc(site.Listen, func(l Listen) bool { return l.TLS && l.Network == "tcp" }) {
		r.errorf(block.head, "Out of a CA's reach", "A CA looks at a site on TCP, and this one has TLS on unix sockets only: add a dns block, or a TCP address.")
	}
	return &a
}

// publicNames warns of a name that all of the CAs are known to refuse. Of addresses, those are the private ones.
func (r *siteReader) publicNames(block *section, site *Site, directories []string) {
	i := slices.IndexFunc(site.Names, func(name string) bool {
		ip, err := netip.ParseAddr(name)
		return isLocal(name) && (err != nil || ip.IsLoopback() || ip.IsPrivate())
	})
	own := slices.ContainsFunc(directories, func(d string) bool { return d != letsEncrypt && d != letsEncryptStaging })
	if i >= 0 && !own {
		r.warnf(block.at("mode"), "No public name", "Let's Encrypt does not certify %q, which is known on this machine or network only. Write tls { mode = \"internal\" }, or name an authority of yours with \"ca\".", site.Names[i])
	}
}

func (r *siteReader) onDemand(s *section) *OnDemand {
	o := &OnDemand{
		Ask:      get(s, "ask", ""),
		Limit:    get(s, "limit", defaultOnDemandLimit),
		Interval: get(s, "interval", defaultOnDemandInterval),
	}
	if !s.mentions("ask") && !s.mentions("names") {
		r.errorf(s.head, "Certificates for anybody", "Anyone could have certificates made for names that they point here. Say which are right: \"ask\", a URL that answers 200 for them, or \"names\", such as [\"*.customers.example.com\"].")
	}
	if u, err := url.Parse(o.Ask); s.has("ask") && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		r.errorf(s.at("ask"), "Wrong value", "%q is not a URL such as \"http://127.0.0.1:9000/allowed\".", o.Ask)
	}
	for i, text := range get[[]string](s, "names", nil) {
		name, reason := parseHostName(text)
		if reason != "" {
			r.errorf(s.elementAt("names", i), "Wrong host name", "%q: %s", text, reason)
		}
		o.Names = append(o.Names, name)
	}
	return o
}

// withoutEffect reports settings of automatic certificates in a site that has none.
func (r *siteReader) withoutEffect(block *section, mode string) {
	words := []string{"eab", "dns", "on_demand"}
	for _, a := range acmeAttrs {
		words = append(words, a.name)
	}
	for _, word := range block.mentioned(words) {
		r.errorf(block.given[word], "No effect", "%q is for automatic certificates, and this site's mode is %q. Remove it, or write mode = \"auto\".", word, mode)
	}
}

// settleChallenges reports the sites whose only challenge is one that the addresses of the configuration can't answer, and has the
// others do without it.
func (r *siteReader) settleChallenges(sections []*section, sites []Site) {
	if slices.ContainsFunc(r.listens.seen, func(l placedListen) bool { return !l.TLS && !l.metrics }) {
		return
	}
	for i := range sites {
		a := sites[i].TLS.ACME
		if a == nil || a.DNS != nil {
			continue
		}
		a.Challenges = slices.DeleteFunc(slices.Clone(a.Challenges), func(c string) bool { return c == HTTP01 })
		if len(a.Challenges) == 0 {
			r.errorf(sections[i].at("listen"), "Out of a CA's reach", "The challenge %q is looked for on port 80, and the configuration has no address without TLS: add \":80\".", HTTP01)
		}
	}
}
