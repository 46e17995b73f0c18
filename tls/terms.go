package tls

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"gateway/routes"
)

// suites are those of TLS 1.2 that are both forward secret and authenticated encryption (RFC 9325 §4.2); which one is taken, and all
// of TLS 1.3, is crypto/tls's choice. Of Go's default list those with CBC are missing.
func suites() []uint16 {
	return []uint16{
		stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// terms are what a site demands of connections, beside its certificate. Sites with the same ones share them. Immutable.
type terms struct {
	key     termsKey
	version uint16
	auth    stdtls.ClientAuthType
	clients *x509.CertPool // who issues the certificates of clients; nil: these need none
}

// termsKey tells whether the terms of two sites are the same. The zero value is what every listener demands.
type termsKey struct {
	modern bool // TLS 1.3 only
	auth   routes.ClientAuth
	ca     string // the bytes of auth.CA
}

// termsOf returns a site's terms.
func (c *Certificates) termsOf(site *Site) (*terms, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := termsKey{modern: site.MinVersion == "1.3"}
	if site.ClientAuth != nil {
		key.auth, key.ca = *site.ClientAuth, string(site.ClientCAPEM)
	}
	if t, ok := c.terms[key]; ok {
		return t, nil
	}
	t := &terms{key: key, version: stdtls.VersionTLS12}
	if key.modern {
		t.version = stdtls.VersionTLS13
	}
	if site.ClientAuth != nil {
		var err error
		if t.auth, err = clientAuthType(key.auth.Mode); err != nil {
			return nil, err
		}
		t.clients = x509.NewCertPool()
		if !t.clients.AppendCertsFromPEM(site.ClientCAPEM) {
			return nil, errNoClientCA
		}
	}
	c.terms[key] = t
	return t, nil
}

var errNoClientCA = errors.New("client_auth: ca: no certificate in it")

// ReplaceClientCA has a site with client_auth trust the clients of other issuers, in the handshakes to come. If pem is of no use, or
// trouble says why its file is, the site trusts whom it did.
func (c *Certificates) ReplaceClientCA(of *routes.Site, pem []byte, trouble string) {
	i := slices.IndexFunc(c.entries, func(e *entry) bool { return e.site.Of == of && e.site.ClientAuth != nil })
	if i < 0 {
		return
	}
	e := c.entries[i]
	site := e.site
	site.ClientCAPEM = pem
	t, err := c.termsOf(&site)
	if err != nil && trouble == "" {
		trouble = err.Error()
	}
	switch news := e.notes(&e.mistrust, trouble); {
	case trouble != "" && news:
		c.log("error", "client_auth: ca has been changed and can't be used: clients of the one before are let in until the file is mended", "site", e.site.name(), "error", trouble)
	case trouble == "" && t != e.terms.Load():
		c.change(e, t)
		c.log("info", "client_auth: ca replaced", "site", e.site.name())
	}
}

// change gives a site other terms, and forgets those that no site has any more. A handshake that sees an odd count of changes, or
// two counts, may have been on either: see [Conn.Handshake].
func (c *Certificates) change(e *entry, t *terms) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, address := range e.site.Addresses {
		c.listeners[address].offer(t)
		c.listeners[address].changes.Add(1)
	}
	old := e.terms.Swap(t)
	for _, address := range e.site.Addresses {
		c.listeners[address].changes.Add(1)
	}
	if slices.ContainsFunc(c.entries, func(e *entry) bool { return e.terms.Load() == old }) {
		return
	}
	delete(c.terms, old.key)
	for _, l := range c.listeners {
		l.configs.Delete(old)
	}
}

func clientAuthType(mode string) (stdtls.ClientAuthType, error) {
	switch mode {
	case routes.ClientRequire:
		return stdtls.RequireAndVerifyClientCert, nil
	case routes.ClientVerifyIfGiven:
		return stdtls.VerifyClientCertIfGiven, nil
	case routes.ClientRequest:
		return stdtls.RequestClientCert, nil
	}
	return stdtls.NoClientCert, fmt.Errorf("client_auth: unknown mode %q", mode)
}

// offer makes the configuration for connections on these terms. The usual ones have the listener's own.
//
// Sessions are tickets that their clients keep, and in one that is resumed nobody is asked for a certificate. So each terms have
// ticket keys of their own, which crypto/tls changes every day: a ticket of other terms can't be read, and is as none.
func (l *listener) offer(t *terms) {
	if _, ok := l.configs.Load(t); ok || t.key == (termsKey{}) {
		return
	}
	config := l.config.Clone()
	config.MinVersion, config.ClientAuth, config.ClientCAs = t.version, t.auth, t.clients
	// Without these crypto/tls takes the keys of the listener's own configuration.
	config.WrapSession, config.UnwrapSession = config.EncryptTicket, config.DecryptTicket
	l.configs.Store(t, config)
}

// configFor chooses the configuration for a client; nil: the listener's own.
func (l *listener) configFor(hello *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
	if l.automatic != nil {
		if config, err := l.automatic.answerTLS(hello); config != nil || err != nil {
			return config, err
		}
	}
	if l.first == nil {
		return nil, nil // there is no certificate either
	}
	t := l.siteOf(hello.ServerName, hello.Conn).terms.Load()
	if t.key == (termsKey{}) {
		return nil, nil
	}
	if config, ok := l.configs.Load(t); ok {
		return config.(*stdtls.Config), nil
	}
	return nil, errTermsChanged
}

// Serves reports whether this connection may carry requests for a host that belongs to a site. If not, they are misdirected
// (RFC 9110 §7.4, §15.5.20): the client would have got another certificate, or would have been asked for its own. One that asked for no
// host, as proxies and probes do, has taken whatever certificate there was, and may go on to any site that demands no more.
func (c *Conn) Serves(site *routes.Site, host string) bool {
	switch {
	case c.entry == nil: // before the handshake
		return false
	case c.entry.site.Of == site:
		return true
	}
	other := c.listener.sites[site]
	return other != nil && other.terms.Load() == c.terms && (c.ServerName() == "" || c.entry.covers(host))
}

// covers reports whether all certificates of a site whose own are given hold for a name. Those that are issued hold for the site's
// names only.
func (e *entry) covers(host string) bool {
	if e.site.Mode != Manual {
		return false
	}
	for _, cert := range *e.certificates.Load() {
		if cert.Leaf.VerifyHostname(host) != nil {
			return false
		}
	}
	return true
}
