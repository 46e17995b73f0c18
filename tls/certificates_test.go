package tls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/goleak"
)

// TestMain looks for goroutines that are left. Two of certmagic's end later: one per lock file within seconds, and one per CA with
// the process.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"))
}

// logbook collects messages as "level: text key=value …".
type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logbook) log(level, msg string, kv ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := level + ": " + msg
	for i := 0; i+1 < len(kv); i += 2 {
		line += fmt.Sprintf(" %v=%v", kv[i], kv[i+1])
	}
	l.lines = append(l.lines, line)
}

func (l *logbook) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *logbook) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func open(t *testing.T, stateDir string, log *logbook, sites ...Site) *Certificates {
	t.Helper()
	c, err := New(stateDir, sites, log.log)
	if err != nil {
		t.Fatalf("New(%+v): %v", sites, err)
	}
	t.Cleanup(c.Close)
	return c
}

func internalSite(address string, names ...string) Site {
	return Site{Names: names, Mode: Internal, Addresses: []string{address}}
}

func encodeKey(t *testing.T, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// selfSigned makes a certificate as a user would give it.
func selfSigned(t *testing.T, key crypto.Signer, from, to time.Time, names ...string) []byte {
	t.Helper()
	x, err := sign(&x509.Certificate{NotBefore: from, NotAfter: to, DNSNames: names},
		&x509.Certificate{NotBefore: from, NotAfter: to, DNSNames: names}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return encodeCertificate(x.Raw)
}

func validPair(t *testing.T, names ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	key := newKey(t)
	return selfSigned(t, key, time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour), names...), encodeKey(t, key)
}

// leafFor is what a client sees that asks for name on address. It goes through the choice of a real handshake, verifies nothing.
func leafFor(t *testing.T, c *Certificates, address, name string) *x509.Certificate {
	t.Helper()
	client := handshake(t, c, address, &stdtls.Config{ServerName: name, InsecureSkipVerify: true})
	return client.ConnectionState().PeerCertificates[0]
}

// handshake connects a client to c over a pipe and ends both with the test.
func handshake(t *testing.T, c *Certificates, address string, config *stdtls.Config) *stdtls.Conn {
	t.Helper()
	near, far := net.Pipe()
	server, client := c.Server(address, far), stdtls.Client(near, config)
	done := make(chan error, 1)
	go func() { done <- server.Handshake(t.Context()) }() // ends with the handshake
	t.Cleanup(func() { near.Close(); far.Close() })
	if err := client.Handshake(); err != nil {
		t.Fatalf("client handshake for %q on %q: %v", config.ServerName, address, err)
	}
	if err := <-done; err != nil {
		t.Fatalf("server handshake for %q on %q: %v", config.ServerName, address, err)
	}
	return client
}

func TestNewRefusesAPairThatCannotServe(t *testing.T) {
	cert, key := validPair(t, "a.example")
	otherCert, otherKey := validPair(t, "a.example")
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}})
	oldEncrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte{1}})
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not DER")})
	brokenKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("not DER")})
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}})
	rows := []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"the key of another certificate", cert, otherKey, `site "a.example": key does not belong to the certificate`},
		{"the chain in the wrong order", slices.Concat(otherCert, cert), key, "key belongs to certificate number 2 of the file"},
		{"no certificate at all", nil, key, `site "a.example": certificate: not PEM`},
		{"garbage for a certificate", []byte("\x00\xff-----BEGIN"), key, "certificate: not PEM"},
		{"PEM around garbage", broken, key, "certificate: number 1 in the file: x509: "},
		{"a certificate request", request, key, "no PEM block CERTIFICATE, only CERTIFICATE REQUEST"},
		{"the two files exchanged", key, cert, "certificate: the file holds a private key"},
		{"the certificate given twice", cert, cert, "key: the file holds a certificate"},
		{"no key at all", cert, nil, "key: not PEM"},
		{"PEM around a garbage key", cert, brokenKey, "key: "},
		{"a key with a passphrase", cert, encrypted, "key: encrypted with a passphrase"},
		{"a key with a passphrase, old form", cert, oldEncrypted, "key: encrypted with a passphrase"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			site := Site{Names: []string{"a.example"}, Mode: Manual, Pairs: []Pair{{row.cert, row.key}}}
			c, err := New(t.TempDir(), []Site{site}, (&logbook{}).log)
			if err == nil {
				c.Close()
				t.Fatalf("New = nil error, want one with %q", row.want)
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("New = %q, want it to contain %q", err, row.want)
			}
		})
	}
}

func TestNewRefusesAnUnknownMode(t *testing.T) {
	_, err := New(t.TempDir(), []Site{{Names: []string{"a.example"}, Mode: "magic"}}, (&logbook{}).log)
	if want := `site "a.example": unknown TLS mode "magic"`; err == nil || err.Error() != want {
		t.Errorf("New = %v, want %s", err, want)
	}
}

func TestNewTakesEveryUsualKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec := newKey(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		name string
		key  crypto.Signer
		pem  []byte
	}{
		{"RSA in PKCS #1", rsaKey, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})},
		{"RSA in PKCS #8", rsaKey, encodeKey(t, rsaKey)},
		{"ECDSA in SEC 1", ec, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER})},
		{"ECDSA in PKCS #8", ec, encodeKey(t, ec)},
		{"Ed25519 in PKCS #8", ed, encodeKey(t, ed)},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			cert := selfSigned(t, row.key, time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour), "a.example")
			both := slices.Concat(cert, row.pem) // one file for both, as some tools write it
			log := &logbook{}
			c := open(t, t.TempDir(), log, Site{Names: []string{"a.example"}, Mode: Manual, Addresses: []string{"tcp :443"}, Pairs: []Pair{{both, both}}})
			leafFor(t, c, "tcp :443", "a.example")
			if len(log.all()) > 0 {
				t.Errorf("New logged %q, want nothing", log.all())
			}
			if root := c.RootPEM(); root != nil {
				t.Errorf("RootPEM = %q without an internal site, want nil", root)
			}
		})
	}
}

func TestNewWarnsOfACertificateThatClientsWillRefuse(t *testing.T) {
	now := time.Now()
	day := 24 * time.Hour
	rows := []struct {
		name     string
		from, to time.Time
		site     []string
		want     string // "": no message
	}{
		{"expired yesterday", now.Add(-9 * day), now.Add(-day), []string{"a.example"}, "warn: certificate has expired"},
		{"valid from tomorrow", now.Add(day), now.Add(90 * day), []string{"a.example"}, "warn: certificate is not valid yet"},
		{"three days left", now.Add(-90 * day), now.Add(3 * day), []string{"a.example"}, "warn: certificate expires within a week"},
		{"three weeks left", now.Add(-90 * day), now.Add(21 * day), []string{"a.example"}, "warn: certificate expires within a month"},
		{"three of nine days left", now.Add(-6*day + time.Hour), now.Add(3*day + time.Hour), []string{"a.example"}, ""},
		{"a name missing", now.Add(-day), now.Add(90 * day), []string{"a.example", "b.example"}, "name=b.example covered=a.example *.a.example"},
		{"an address missing", now.Add(-day), now.Add(90 * day), []string{"a.example", "127.0.0.1"}, "name=127.0.0.1"},
		{"a name below the wildcard", now.Add(-day), now.Add(90 * day), []string{"x.a.example"}, ""},
		{"the wildcard itself", now.Add(-day), now.Add(90 * day), []string{"*.a.example"}, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			key := newKey(t)
			log := &logbook{}
			open(t, t.TempDir(), log, Site{Names: row.site, Mode: Manual,
				Pairs: []Pair{{selfSigned(t, key, row.from, row.to, "a.example", "*.a.example"), encodeKey(t, key)}}})
			switch {
			case row.want == "" && len(log.all()) > 0:
				t.Errorf("New(%q) logged %q, want nothing", row.site, log.all())
			case row.want != "" && (log.count(row.want) != 1 || len(log.all()) != 1):
				t.Errorf("New(%q) logged %q, want one message with %q", row.site, log.all(), row.want)
			}
		})
	}
}

func TestTheServerNameChoosesTheSite(t *testing.T) {
	const a, b = "tcp :443", "tcp 127.0.0.1:8443"
	c := open(t, t.TempDir(), &logbook{},
		internalSite(a, "first.example"),
		Site{Names: []string{"shop.example", "*.shop.example"}, Mode: Internal, Addresses: []string{a, b}},
		internalSite(a, "www.shop.example"),
		internalSite(a, "shop.example", "late.example"),
		internalSite(b, "b.example"))
	rows := []struct{ name, address, ask, want string }{
		{"an exact name", a, "shop.example", "shop.example"},
		{"an exact name of a later site before a wildcard", a, "www.shop.example", "www.shop.example"},
		{"capitals", a, "SHOP.Example", "shop.example"},
		{"one label for the wildcard", a, "x.shop.example", "shop.example"},
		{"two labels for the wildcard, as requests have it", a, "y.x.shop.example", "shop.example"},
		{"an unknown name", a, "nobody.example", "first.example"},
		{"no name", a, "", "first.example"},
		{"the second name of a site whose first is taken", a, "late.example", "shop.example late.example"},
		{"a site of the other address", a, "b.example", "first.example"},
		{"its own address", b, "b.example", "b.example"},
		{"no name on the other address", b, "", "shop.example"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got := leafFor(t, c, row.address, row.ask)
			if names := strings.Join(got.DNSNames, " "); !strings.HasPrefix(names, row.want) {
				t.Errorf("asked for %q on %q: got the certificate of %q, want %q", row.ask, row.address, names, row.want)
			}
		})
	}
}

// addressConn is a connection that reached a given local address.
type addressConn struct {
	net.Conn
	local net.Addr
}

func (c addressConn) LocalAddr() net.Addr { return c.local }

func TestWithoutServerNameTheAddressChoosesTheSite(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{},
		internalSite("tcp :443", "first.example"),
		internalSite("tcp :443", "127.0.0.1"),
		internalSite("tcp :443", "[::1]"))
	l := c.listeners["tcp :443"]
	rows := []struct {
		name  string
		local net.Addr
		want  string
	}{
		{"an IPv4 address", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}, "127.0.0.1"},
		{"an IPv4 address on an IPv6 socket", &net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1"), Port: 443}, "127.0.0.1"},
		{"an IPv6 address", &net.TCPAddr{IP: net.IPv6loopback, Port: 443}, "[::1]"},
		{"an address of no site", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 443}, "first.example"},
		{"a unix socket", &net.UnixAddr{Net: "unix", Name: "/run/x.sock"}, "first.example"},
		{"no address", nil, "first.example"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			hello := &stdtls.ClientHelloInfo{Conn: addressConn{local: row.local}}
			got, err := l.certificate(hello)
			if err != nil {
				t.Fatal(err)
			}
			if name := got.Leaf.Subject.CommonName; name != row.want {
				t.Errorf("connected to %v: got the certificate of %q, want %q", row.local, name, row.want)
			}
		})
	}
}

func TestAnAddressWithoutSiteFailsTheHandshake(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	near, far := net.Pipe()
	defer near.Close()
	go stdtls.Client(near, &stdtls.Config{InsecureSkipVerify: true}).Handshake() // ends when the pipe closes
	err := c.Server("tcp :1", far).Handshake(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no site with TLS is on this address") {
		t.Errorf("Handshake on an unknown address = %v, want an error that says so", err)
	}
	far.Close()
}

func TestTheInternalRootSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	site := internalSite("tcp :443", "a.example", "*.a.example", "127.0.0.1", "::1")
	log := &logbook{}
	first := open(t, dir, log, site)
	second := open(t, dir, log, site)
	if !bytes.Equal(first.RootPEM(), second.RootPEM()) {
		t.Error("RootPEM differs after a restart")
	}
	if n := log.count("internal CA: root made"); n != 1 {
		t.Errorf("a root was made %d times, want once: %q", n, log.all())
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(first.RootPEM()) {
		t.Fatalf("RootPEM = %q, want a certificate", first.RootPEM())
	}
	leaf := leafFor(t, second, "tcp :443", "a.example")
	for _, name := range []string{"a.example", "x.a.example", "127.0.0.1", "::1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("Verify(%q) by the first root: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "b.example"}); err == nil {
		t.Error(`Verify("b.example") = nil, want an error`)
	}
}

func TestTheInternalRootIsACAOfTenYears(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	root := c.authority.root
	key, ok := root.PublicKey.(*ecdsa.PublicKey)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if !ok || key.Curve != elliptic.P256() || !root.IsCA || root.PermittedDNSDomainsCritical || root.Subject.CommonName != "gateway local CA "+host {
		t.Errorf("root = %s, %T, CA %v, want an ECDSA P-256 CA named for %s", root.Subject, root.PublicKey, root.IsCA, host)
	}
	if life := root.NotAfter.Sub(root.NotBefore).Round(24 * time.Hour); life != rootLife {
		t.Errorf("root lives %v, want %v", life, rootLife)
	}
}

func TestStoredFilesAreForTheOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, &logbook{}, internalSite("tcp :443", "a.example"))
	for _, key := range []string{rootCertificateKey, rootPrivateKeyKey} {
		info, err := os.Stat(filepath.Join(dir, key))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %v, want 0600", key, mode)
		}
	}
}

func TestAUselessStoredRootIsReplaced(t *testing.T) {
	cert, _ := validPair(t, "a.example")
	leafCert, leafKey := validPair(t, "a.example")
	old := newKey(t)
	now := time.Now()
	oldRoot, err := sign(
		&x509.Certificate{IsCA: true, BasicConstraintsValid: true, NotBefore: now.Add(-rootLife), NotAfter: now.Add(time.Hour)},
		&x509.Certificate{IsCA: true, BasicConstraintsValid: true, NotBefore: now.Add(-rootLife), NotAfter: now.Add(time.Hour)}, old.Public(), old)
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		name  string
		files map[string][]byte
		warns int
	}{
		{"an empty certificate", map[string][]byte{rootCertificateKey: nil}, 1},
		{"a truncated key", map[string][]byte{rootPrivateKeyKey: []byte("-----BEGIN PRIVATE KEY-----\nMIG")}, 1},
		{"a certificate of another key", map[string][]byte{rootCertificateKey: cert}, 1},
		{"no CA", map[string][]byte{rootCertificateKey: leafCert, rootPrivateKeyKey: leafKey}, 1},
		{"an hour of life", map[string][]byte{rootCertificateKey: encodeCertificate(oldRoot.Raw), rootPrivateKeyKey: encodeKey(t, old)}, 1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			before := open(t, dir, &logbook{}, internalSite("tcp :443", "a.example")).RootPEM()
			for key, data := range row.files {
				if err := os.WriteFile(filepath.Join(dir, key), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			log := &logbook{}
			after := open(t, dir, log, internalSite("tcp :443", "a.example")).RootPEM()
			if bytes.Equal(before, after) {
				t.Error("the root is the old one, want a new one")
			}
			if n := log.count("warn: internal CA: stored root is replaced"); n != row.warns {
				t.Errorf("%d warnings, want %d: %q", n, row.warns, log.all())
			}
			again := open(t, dir, log, internalSite("tcp :443", "a.example")).RootPEM()
			if !bytes.Equal(after, again) {
				t.Error("the replacement did not survive a restart")
			}
		})
	}
}

func TestAStateDirThatCannotBeWrittenStillServes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Below a link to itself nothing can be read or made, by root neither.
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if _, err := New(loop, []Site{internalSite("tcp :443", "a.example")}, (&logbook{}).log); err == nil || !strings.HasPrefix(err.Error(), `site "a.example": internal CA: `) {
		t.Errorf("New with an unreadable state directory = %v, want an error that names the internal CA", err)
	}

	dir := t.TempDir()
	if err := os.Symlink("/proc/nowhere", filepath.Join(dir, "internal")); err != nil {
		t.Fatal(err)
	}
	log := &logbook{}
	c := open(t, dir, log, internalSite("tcp :443", "a.example"))
	leafFor(t, c, "tcp :443", "a.example")
	if n := log.count("warn: internal CA: root can't be stored"); n != 1 {
		t.Errorf("%d warnings, want 1: %q", n, log.all())
	}
}

func TestInternalCertificatesAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		c, err := New(t.TempDir(), []Site{internalSite("tcp :443", "a.example")}, log.log)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		current := func() *x509.Certificate { return (*c.entries[0].certificates.Load())[0].Leaf }
		first := current()
		time.Sleep(leafLife / 2)
		synctest.Wait()
		if current() != first {
			t.Error("renewed after half of its life, want two thirds")
		}
		time.Sleep(leafLife / 4)
		synctest.Wait()
		second := current()
		if second == first || second.SerialNumber.Cmp(first.SerialNumber) == 0 {
			t.Error("not renewed after three quarters of its life")
		}
		if err := second.CheckSignatureFrom(c.authority.root); err != nil {
			t.Errorf("renewed certificate: %v", err)
		}
		if left := time.Until(second.NotAfter); left < leafLife*2/3 {
			t.Errorf("renewed certificate is valid for %v more, want nearly %v", left, leafLife)
		}
		if n := log.count("info: internal certificate renewed site=a.example"); n != 1 {
			t.Errorf("logged %q, want one renewal", log.all())
		}
	})
}

func TestALeafNeverOutlivesItsRoot(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	root := c.authority.root
	cert, err := c.authority.issue([]string{"a.example"}, root.NotAfter.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if !cert.Leaf.NotAfter.Equal(root.NotAfter) {
		t.Errorf("leaf ends at %v, want the root's end %v", cert.Leaf.NotAfter, root.NotAfter)
	}
}

func TestAGivenCertificateIsWarnedOfOnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newKey(t)
		site := Site{Names: []string{"a.example"}, Mode: Manual,
			Pairs: []Pair{{selfSigned(t, key, time.Now().Add(-300*24*time.Hour), time.Now().Add(31*24*time.Hour), "a.example"), encodeKey(t, key)}}}
		log := &logbook{}
		c, err := New(t.TempDir(), []Site{site}, log.log)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if len(log.all()) > 0 {
			t.Fatalf("logged %q with 31 days left, want nothing", log.all())
		}
		time.Sleep(73 * time.Hour)
		synctest.Wait()
		if n := log.count("warn: certificate expires within a month"); n != 3 || len(log.all()) != 3 {
			t.Errorf("logged %q in 3 days, want 3 warnings", log.all())
		}
		time.Sleep(22 * 24 * time.Hour)
		synctest.Wait()
		if n := log.count("warn: certificate expires within a week"); n == 0 {
			t.Errorf("logged %q, want a warning that it has a week left", log.all())
		}
		time.Sleep(7 * 24 * time.Hour)
		synctest.Wait()
		if n := log.count("warn: certificate has expired"); n == 0 {
			t.Errorf("logged %q, want a warning that it has expired", log.all())
		}
	})
}

func TestTwoGivenCertificatesAreWarnedOfOnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, day := newKey(t), 24*time.Hour
		pair := func(left time.Duration) Pair {
			return Pair{selfSigned(t, key, time.Now().Add(-300*day), time.Now().Add(left), "a.example"), encodeKey(t, key)}
		}
		site := Site{Names: []string{"a.example"}, Mode: Manual, Pairs: []Pair{pair(20 * day), pair(-day)}}
		log := &logbook{}
		c, err := New(t.TempDir(), []Site{site}, log.log)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		within, past := log.count("warn: certificate expires within a month"), log.count("warn: certificate has expired")
		if within != 2 || past != 2 || len(log.all()) != 4 {
			t.Errorf("logged %q in 25 hours, want each warning at the start and once more", log.all())
		}
	})
}

func TestNamesThatNoCertificateCanHoldAreErrors(t *testing.T) {
	_, err := New(t.TempDir(), []Site{internalSite("tcp :443", "bücher.example")}, (&logbook{}).log)
	if err == nil || !strings.Contains(err.Error(), `site "bücher.example": internal certificate: `) {
		t.Errorf("New = %v, want an error of the internal certificate", err)
	}
}

func FuzzParsePair(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	root, err := createAuthority(&certmagic.FileStorage{Path: f.TempDir()}, (&logbook{}).log, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(root.rootPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, certPEM, keyPEM []byte) {
		cert, err := parsePair(certPEM, keyPEM)
		if err == nil && (cert.Leaf == nil || cert.PrivateKey == nil || len(cert.Certificate) == 0) {
			t.Errorf("parsePair(%q, %q) = %+v without an error", certPEM, keyPEM, cert)
		}
	})
}
