package tls

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gateway/routes"
)

const (
	// A given certificate is warned of when less is left, or a third and a twelfth of its life if these are shorter.
	firstNotice = 30 * 24 * time.Hour
	lastNotice  = 7 * 24 * time.Hour

	warnAgainTime = 24 * time.Hour
)

// Check reports why a certificate and its key can't be used.
func Check(p Pair) error {
	_, err := parsePair(p.CertificatePEM, p.KeyPEM)
	return err
}

// HasCertificates reports whether a PEM file holds certificates.
func HasCertificates(data []byte) bool {
	_, err := parseChain(data)
	return err == nil
}

func parsePairs(pairs []Pair) ([]*stdtls.Certificate, error) {
	if len(pairs) == 0 {
		return nil, errors.New("no certificate")
	}
	certs := make([]*stdtls.Certificate, len(pairs))
	for i, p := range pairs {
		var err error
		if certs[i], err = parsePair(p.CertificatePEM, p.KeyPEM); err != nil {
			return nil, err
		}
	}
	return certs, nil
}

// parsePair checks a given certificate and key so that a mistake is named here, not met in the first handshake.
func parsePair(certPEM, keyPEM []byte) (*stdtls.Certificate, error) {
	chain, err := parseChain(certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(chain[0].PublicKey) {
		return nil, mismatch(public, chain)
	}
	cert := &stdtls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, x := range chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	return cert, nil
}

// mismatch explains why the key does not fit the first certificate.
func mismatch(public interface{ Equal(crypto.PublicKey) bool }, chain []*x509.Certificate) error {
	for i, x := range chain[1:] {
		if public.Equal(x.PublicKey) {
			return fmt.Errorf("key belongs to certificate number %d of the file: put that one first, the intermediates after it", i+2)
		}
	}
	return errors.New("key does not belong to the certificate")
}

// parseChain reads every CERTIFICATE block; other blocks are skipped, as the key may be in the same file.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	var other string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			other = block.Type
			continue
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("number %d in the file: %w", len(chain)+1, err)
		}
		chain = append(chain, x)
	}
	switch {
	case len(chain) > 0:
		return chain, nil
	case strings.HasSuffix(other, "PRIVATE KEY"):
		return nil, errors.New("the file holds a private key and no certificate: the two may be exchanged")
	case other != "":
		return nil, fmt.Errorf("no PEM block CERTIFICATE, only %s", other)
	}
	return nil, errors.New("not PEM: no -----BEGIN CERTIFICATE----- line")
}

// parseKey reads the first private key, in any of the three encodings that are in use.
func parseKey(data []byte) (crypto.Signer, error) {
	var other string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, errors.New("encrypted with a passphrase: remove it with `openssl pkey -in old.key -out new.key`")
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return parseKeyDER(block.Bytes)
		}
		other = block.Type
	}
	if other == "CERTIFICATE" {
		return nil, errors.New("the file holds a certificate and no private key: the two may be exchanged")
	}
	return nil, errors.New("not PEM: no -----BEGIN PRIVATE KEY----- line")
}

func parseKeyDER(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("a %T can't be used for TLS: make an ECDSA P-256 or RSA key", key)
}

// give has a site serve certificates of its own, and says what clients will complain of.
func (c *Certificates) give(e *entry, certs []*stdtls.Certificate, now time.Time) {
	e.certificates.Store(&certs)
	for _, cert := range certs {
		for _, d := range append(e.site.uncovered(cert.Leaf), incomplete(cert)...) {
			c.log("warn", d.Text, append([]any{"site", e.site.name(), "key", cert.Leaf.PublicKeyAlgorithm.String()}, d.Facts...)...)
		}
	}
	c.warnValidity(e, now)
}

// Replace gives a site whose certificates are given other ones, for the handshakes to come. If they can't serve, or trouble says
// why their files are of no use, the site keeps those that it has, and its status says so.
func (c *Certificates) Replace(site *routes.Site, pairs []Pair, trouble string) {
	i := slices.IndexFunc(c.entries, func(e *entry) bool { return e.site.Of == site && e.site.Mode == Manual })
	if i < 0 {
		return
	}
	e := c.entries[i]
	certs, err := parsePairs(pairs)
	if err != nil && trouble == "" {
		trouble = err.Error()
	}
	switch news := e.notes(&e.trouble, trouble); {
	case trouble != "" && news:
		c.log("error", "certificate has been changed and can't be used: the one before is served until the files are mended", "site", e.site.name(), "error", trouble)
	case trouble == "" && !slices.EqualFunc(certs, *e.certificates.Load(), sameCertificate):
		c.log("info", "certificate replaced", "site", e.site.name(), "expires", certs[0].Leaf.NotAfter)
		c.give(e, certs, time.Now())
	}
}

// notes keeps what is wrong with files, in one of the entry's fields for that, and reports whether it is news.
func (e *entry) notes(where *string, trouble string) (news bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	news = trouble != *where
	*where = trouble
	return news
}

// sameCertificate compares chains too: intermediates may be all that is new.
func sameCertificate(a, b *stdtls.Certificate) bool {
	return slices.EqualFunc(a.Certificate, b.Certificate, bytes.Equal)
}

// Doubt is what is wrong with a certificate that can be served all the same: a constant text, and facts as keys and values.
type Doubt struct {
	Text  string
	Facts []any
}

// Doubts lists what clients will complain of when a site with these names serves a certificate. What [Check] refuses has none.
func Doubts(names []string, pair Pair, now time.Time) []Doubt {
	cert, err := parsePair(pair.CertificatePEM, pair.KeyPEM)
	if err != nil {
		return nil
	}
	site := Site{Names: names}
	doubts := append(site.uncovered(cert.Leaf), incomplete(cert)...)
	if text := validity(cert.Leaf, now); text != "" {
		doubts = append(doubts, Doubt{text, []any{"expires", cert.Leaf.NotAfter}})
	}
	return doubts
}

// uncovered lists the site's names that the certificate does not hold for.
func (s *Site) uncovered(leaf *x509.Certificate) (doubts []Doubt) {
	for _, name := range s.Names {
		if leaf.VerifyHostname(name) != nil {
			doubts = append(doubts, Doubt{
				"certificate does not cover a name of its site: browsers will refuse it; get one with this name in it",
				[]any{"name", name, "covered", cmp.Or(strings.Join(coveredNames(leaf), " "), "none: a common name (CN) does not count")},
			})
		}
	}
	return doubts
}

func coveredNames(leaf *x509.Certificate) []string {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// incomplete doubts a chain that leads neither to a root of this machine nor to a certificate that is its own issuer. Browsers know
// some intermediates and fetch others, so the site may seem to work; other programs do not.
func incomplete(cert *stdtls.Certificate) []Doubt {
	between, last := x509.NewCertPool(), cert.Leaf
	for _, der := range cert.Certificate[1:] {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return nil // parseChain has read it
		}
		between.AddCert(x)
		last = x
	}
	roots, err := x509.SystemCertPool()
	if err != nil || roots.Equal(x509.NewCertPool()) || bytes.Equal(last.RawSubject, last.RawIssuer) {
		return nil
	}
	// Whether it has expired is another question.
	options := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: cert.Leaf.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	var unknown x509.UnknownAuthorityError
	if _, err := cert.Leaf.Verify(options); !errors.As(err, &unknown) {
		return nil
	}
	return []Doubt{{
		"certificate's issuer is neither in its file nor among this machine's roots: clients that don't know it will refuse the site; put intermediates into the file, behind the site's own certificate",
		[]any{"issuer", last.Issuer.String()},
	}}
}

// validity says what is wrong with the times of a given certificate, or soon will be; empty: nothing.
func validity(leaf *x509.Certificate, now time.Time) string {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	switch left := leaf.NotAfter.Sub(now); {
	case left < 0:
		return "certificate has expired: put a new one into its files, which are read again by themselves"
	case now.Before(leaf.NotBefore):
		return "certificate is not valid yet: check the clock of this machine"
	case left < min(lastNotice, life/12):
		return "certificate expires within a week: put a new one into its files, which are read again by themselves"
	case left < min(firstNotice, life/3):
		return "certificate expires within a month: put a new one into its files, which are read again by themselves"
	}
	return ""
}

// warnValidity warns once a day of given certificates that are not valid, or soon will not be, and whenever that changes.
func (c *Certificates) warnValidity(e *entry, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	certs := *e.certificates.Load()
	texts := make([]string, len(certs))
	for i, cert := range certs {
		texts[i] = validity(cert.Leaf, now)
	}
	if slices.Equal(texts, e.warnings) && now.Sub(e.warned) < warnAgainTime {
		return
	}
	e.warnings, e.warned = texts, now
	for i, cert := range certs {
		if texts[i] != "" {
			c.log("warn", texts[i], "site", e.site.name(), "key", cert.Leaf.PublicKeyAlgorithm.String(), "valid_from", cert.Leaf.NotBefore, "expires", cert.Leaf.NotAfter)
		}
	}
}
