package tls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	expiryNotice  = 14 * 24 * time.Hour // a given certificate is warned of when less is left
	warnAgainTime = 24 * time.Hour
)

// Check reports why a certificate and its key can't be used; both as the bytes of their files.
func Check(certPEM, keyPEM []byte) error {
	_, err := parsePair(certPEM, keyPEM)
	return err
}

// HasCertificates reports whether a PEM file holds certificates.
func HasCertificates(data []byte) bool {
	_, err := parseChain(data)
	return err == nil
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

// warnNames warns of the site's names that the certificate does not cover.
func (c *Certificates) warnNames(e *entry) {
	leaf := e.certificate.Load().Leaf
	for _, name := range e.site.Names {
		if err := leaf.VerifyHostname(name); err != nil {
			c.log("warn", "certificate does not cover a name of its site: browsers will refuse it; get one with this name in it",
				"site", e.site.name(), "name", name, "covered", strings.Join(coveredNames(leaf), " "))
		}
	}
}

func coveredNames(leaf *x509.Certificate) []string {
	names := leaf.DNSNames
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// warnValidity warns once a day of a given certificate that is not valid, or soon will not be.
func (c *Certificates) warnValidity(e *entry, now time.Time) {
	leaf := e.certificate.Load().Leaf
	var msg string
	switch {
	case now.After(leaf.NotAfter):
		msg = "certificate has expired: install a new one and restart the gateway"
	case now.Before(leaf.NotBefore):
		msg = "certificate is not valid yet: check the clock of this machine"
	case leaf.NotAfter.Sub(now) < expiryNotice:
		msg = "certificate expires soon: install a new one and restart the gateway"
	default:
		return
	}
	if now.Sub(e.warned) < warnAgainTime {
		return
	}
	e.warned = now
	c.log("warn", msg, "site", e.site.name(), "valid_from", leaf.NotBefore, "expires", leaf.NotAfter)
}
