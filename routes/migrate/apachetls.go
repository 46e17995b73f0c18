package migrate

import "strings"

// ssl takes mod_ssl's directives of a virtual host.
func (s *apacheSite) ssl(d directive) (reason string) {
	value := d.arg(0)
	switch d.name {
	case "sslengine":
		s.secure = d.isOn()
	case "sslcertificatefile", "sslcertificatekeyfile":
		attr := map[string]string{"sslcertificatefile": "certificate", "sslcertificatekeyfile": "key"}[d.name]
		if old := s.tls.setting(attr); old != nil {
			old.text = "[" + strings.Trim(old.text, "[]") + ", " + literal(value) + "]"
			return ""
		}
		s.tls.Set(d.Origin, attr, value)
	case "sslcertificatechainfile":
		return "put the certificates of that file behind the site's own, in one file"
	case "sslprotocol":
		if version := oldestTLS(d.words()); version != "" {
			s.tls.Set(d.Origin, "min_version", version)
		}
	case "sslverifyclient":
		mode := map[string]string{"require": "require", "optional": "verify_if_given", "optional_no_ca": "request"}[strings.ToLower(value)]
		if mode != "" {
			s.tls.Need(d.Origin, "client_auth").Set(d.Origin, "mode", mode)
		}
	case "sslcacertificatefile":
		s.clientCA = &d
	case "ssloptions":
		for _, word := range d.words() {
			if strings.EqualFold(strings.TrimPrefix(word, "+"), "ExportCertData") && s.tls.Find("client_auth") != nil {
				s.tls.Need(d.Origin, "client_auth").Set(d.Origin, "export_certificate", true)
			}
		}
	default:
		return "it has no counterpart"
	}
	return ""
}

// oldestTLS is the oldest version that SSLProtocol leaves, as far as it is spoken here; empty: the usual one.
func oldestTLS(words []string) string {
	on := map[string]bool{}
	for _, word := range words {
		for _, version := range []string{"tlsv1.2", "tlsv1.3"} {
			if name := strings.ToLower(strings.TrimLeft(word, "+-")); name == version || name == "all" {
				on[version] = word[0] != '-'
			}
		}
	}
	if on["tlsv1.3"] && !on["tlsv1.2"] {
		return "1.3"
	}
	return ""
}
