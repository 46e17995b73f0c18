package tls

import (
	"crypto/x509"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/crypto/ocsp"
)

// CertificateStatus is a certificate, or one that there should be.
type CertificateStatus struct {
	Names   []string  `json:"names"`
	Mode    string    `json:"mode"`
	Key     string    `json:"key,omitempty"` // its algorithm
	Issuer  string    `json:"issuer,omitempty"`
	Expires time.Time `json:"expires,omitzero"` // zero: there is none yet
	Renews  time.Time `json:"renews,omitzero"`  // about then; a CA may ask for it earlier. Zero: never
	Warning string    `json:"warning,omitempty"`
	Error   string    `json:"error,omitempty"` // why the last try to get it, or to read it again, failed

	OnDemand bool   `json:"on_demand,omitempty"` // its name is a client's choice
	OCSP     string `json:"ocsp,omitempty"`      // what the CA says of it in the answer that clients get: good, revoked or unknown. Empty: there is no answer
}

// Status tells of all certificates, automatic ones after the others.
func (c *Certificates) Status() []CertificateStatus {
	all, now := []CertificateStatus{}, time.Now()
	for _, e := range c.entries {
		if e.policy == nil {
			all = append(all, e.status(now)...)
		}
	}
	if c.automatic != nil {
		all = append(all, c.automatic.status()...)
	}
	return all
}

func (e *entry) status(now time.Time) (all []CertificateStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, cert := range *e.certificates.Load() {
		s := CertificateStatus{Names: e.site.Names, Mode: e.site.Mode, Error: e.trouble}
		s.describe(cert.Leaf)
		if s.Mode == Internal {
			s.Renews = s.Expires.Add(-leafLife / 3)
		} else {
			s.Warning = validity(cert.Leaf, now)
		}
		all = append(all, s)
	}
	return all
}

func (s *CertificateStatus) describe(leaf *x509.Certificate) {
	s.Expires, s.Issuer, s.Key = leaf.NotAfter, leaf.Issuer.CommonName, leaf.PublicKeyAlgorithm.String()
	if s.Issuer == "" {
		s.Issuer = leaf.Issuer.String()
	}
}

// stapled is what an OCSP answer says of its certificate.
func stapled(answer []byte) string {
	if len(answer) == 0 {
		return ""
	}
	r, err := ocsp.ParseResponse(answer, nil)
	switch {
	case err == nil && r.Status == ocsp.Good:
		return "good"
	case err == nil && r.Status == ocsp.Revoked:
		return "revoked"
	}
	return "unknown"
}

func (a *automatic) status() []CertificateStatus {
	var all []CertificateStatus
	for _, m := range a.all() {
		s := CertificateStatus{Names: []string{m.name}, Mode: Auto, OnDemand: m.giveUp != nil}
		if cert := a.newest(m); cert.Leaf != nil {
			leaf := cert.Leaf
			s.describe(leaf)
			s.OCSP = stapled(cert.OCSPStaple)
			life := leaf.NotAfter.Sub(leaf.NotBefore)
			s.Renews = leaf.NotAfter.Add(-time.Duration(float64(life) * certmagic.DefaultRenewalWindowRatio))
		}
		a.mu.Lock()
		s.Error = m.trouble
		a.mu.Unlock()
		if err := a.away(); err != nil && s.Expires.IsZero() {
			s.Error = err.Error()
		}
		all = append(all, s)
	}
	return all
}
