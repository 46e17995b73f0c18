package tls

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/caddyserver/certmagic"
)

// Where the root is kept below the state directory, as keys of certmagic's storage. Only the root is stored: leaves are
// issued anew at every start, so that no other private key lies on the disk.
const (
	rootCertificateKey = "internal/root.crt"
	rootPrivateKeyKey  = "internal/root.key"
)

const (
	rootLife      = 10 * 365 * 24 * time.Hour
	rootMinLife   = 30 * 24 * time.Hour // a root with less left is replaced at start
	leafLife      = 7 * 24 * time.Hour
	clockSkew     = time.Hour // certificates are valid since then, for clients whose clock is behind
	maxCommonName = 64        // ub-common-name, RFC 5280 appendix A.1
)

// authority is the local CA. Immutable.
type authority struct {
	root    *x509.Certificate
	key     crypto.Signer
	rootPEM []byte
}

// openAuthority loads the CA from stateDir. It makes a new one when there is none, or when what is stored is of no use.
// A root that exists and can't be read is an error, as clients would not trust its replacement.
func openAuthority(stateDir string, log Log, now time.Time) (*authority, error) {
	storage := &certmagic.FileStorage{Path: stateDir}
	a, err := loadAuthority(storage, now)
	var useless *uselessRootError
	switch {
	case err == nil:
		return a, nil
	case errors.As(err, &useless):
		log("warn", "internal CA: stored root is replaced: clients must trust the new one",
			"file", storage.Filename(rootCertificateKey), "error", err)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("internal CA: %w", err)
	}
	return createAuthority(storage, log, now)
}

// uselessRootError says why a stored root has to be replaced.
type uselessRootError struct{ reason string }

func (e *uselessRootError) Error() string { return e.reason }

func loadAuthority(storage certmagic.Storage, now time.Time) (*authority, error) {
	certPEM, err := storage.Load(context.Background(), rootCertificateKey)
	if err != nil {
		return nil, err
	}
	keyPEM, err := storage.Load(context.Background(), rootPrivateKeyKey)
	if err != nil {
		return nil, err
	}
	pair, err := parsePair(certPEM, keyPEM)
	switch {
	case err != nil:
		return nil, &uselessRootError{err.Error()}
	case !pair.Leaf.IsCA:
		return nil, &uselessRootError{"the certificate is not that of a CA"}
	case pair.Leaf.NotAfter.Sub(now) < rootMinLife:
		return nil, &uselessRootError{"it expires at " + pair.Leaf.NotAfter.Format(time.DateTime)}
	}
	// Re-encoded: a key that someone put into the same file must not leave through RootPEM.
	return &authority{root: pair.Leaf, key: pair.PrivateKey.(crypto.Signer), rootPEM: encodeCertificate(pair.Leaf.Raw)}, nil
}

// createAuthority makes a root and stores it. When that fails the root serves until the end of the process.
func createAuthority(storage *certmagic.FileStorage, log Log, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("internal CA: key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: rootName()},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leaves only
	}
	root, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("internal CA: root: %w", err)
	}
	a := &authority{root: root, key: key, rootPEM: encodeCertificate(root.Raw)}
	file := storage.Filename(rootCertificateKey)
	if err := a.store(storage); err != nil {
		log("warn", "internal CA: root can't be stored: clients must trust a new one after every start; make state_dir writable",
			"file", file, "error", err)
		return a, nil
	}
	log("info", "internal CA: root made", "file", file, "name", root.Subject.CommonName)
	return a, nil
}

// rootName tells the roots of several machines apart in the list of a browser.
func rootName() string {
	name := "gateway local CA"
	if host, err := os.Hostname(); err == nil {
		name += " " + host
	}
	return name[:min(len(name), maxCommonName)]
}

// store writes the key before the certificate: a crash between the two leaves no certificate that someone could trust.
func (a *authority) store(storage certmagic.Storage) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := storage.Store(context.Background(), rootPrivateKeyKey, keyPEM); err != nil {
		return err
	}
	return storage.Store(context.Background(), rootCertificateKey, a.rootPEM)
}

// issue makes a certificate for names, with a key of its own.
func (a *authority) issue(names []string, now time.Time) (*stdtls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("internal certificate: key: %w", err)
	}
	leaf, err := sign(a.template(names, now), a.root, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("internal certificate: %w", err)
	}
	return &stdtls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func (a *authority) template(names []string, now time.Time) *x509.Certificate {
	t := &x509.Certificate{
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(leafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if t.NotAfter.After(a.root.NotAfter) {
		t.NotAfter = a.root.NotAfter
	}
	if len(names) > 0 && len(names[0]) <= maxCommonName {
		t.Subject.CommonName = names[0]
	}
	for _, name := range names {
		if addr, ok := parseIP(name); ok {
			t.IPAddresses = append(t.IPAddresses, addr.AsSlice())
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	return t
}

// sign gives the certificate a random serial number.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// renewalDue says that two thirds of the life are over.
func renewalDue(leaf *x509.Certificate, now time.Time) bool {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return now.After(leaf.NotBefore.Add(life / 3 * 2))
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
