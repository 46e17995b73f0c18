package tls

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"gateway/internal/gatewaytest"
	"gateway/routes"
)

// acmeInterval is how often the certificates of these tests are looked at.
const acmeInterval = 100 * time.Millisecond

// world is a CA, and listeners at which it looks for the sites of the test. No front is behind them before serve.
type world struct {
	t      *testing.T
	state  string
	log    *logbook
	pebble *gatewaytest.Pebble
	plain  net.Listener
	secure net.Listener
	with   []Option // of every front

	front  atomic.Pointer[Certificates]
	looked atomic.Int32 // handshakes that were a CA's look at a challenge
}

func newWorld(t *testing.T, s gatewaytest.PebbleSettings) *world {
	t.Helper()
	w := &world{t: t, state: filepath.Join(t.TempDir(), "state"), log: new(logbook), plain: listenLoopback(t), secure: listenLoopback(t)}
	s.HTTP, s.TLS = w.plain.Addr().String(), w.secure.Addr().String()
	pebble, err := gatewaytest.StartPebble(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	w.pebble = pebble
	t.Cleanup(func() {
		if err := pebble.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s\n%s", strings.Join(w.log.all(), "\n"), pebble.Log())
		}
	})
	return w
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (w *world) address() string { return "tcp " + w.secure.Addr().String() }

// site has its certificates from the world's CA; change makes it another one.
func (w *world) site(change func(*routes.ACME), names ...string) Site {
	w.t.Helper()
	roots, err := os.ReadFile(w.pebble.Roots)
	if err != nil {
		w.t.Fatal(err)
	}
	a := &routes.ACME{CA: []string{w.pebble.Directory}, KeyType: "p256", Challenges: []string{routes.HTTP01, routes.TLSALPN01}}
	if change != nil {
		change(a)
	}
	return Site{Names: names, Mode: Auto, Addresses: []string{w.address()}, ACME: a, CARootsPEM: roots}
}

// serve answers on the world's listeners until the test ends.
func (w *world) serve(sites ...Site) *Certificates {
	w.t.Helper()
	w.begin(sites...)
	w.t.Cleanup(func() { w.front.Load().Close() })
	redirect := http.RedirectHandler("https://elsewhere/", http.StatusPermanentRedirect)
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.front.Load().AnswerChallenges(redirect).ServeHTTP(rw, r)
	})}
	go server.Serve(w.plain) // ends with its listener
	w.t.Cleanup(func() { server.Close() })
	go func() { // ends with its listener
		for {
			raw, err := w.secure.Accept()
			if err != nil {
				return
			}
			go w.shake(raw) // ends with the connection, which the client ends
		}
	}()
	return w.front.Load()
}

// begin is the start of another front.
func (w *world) begin(sites ...Site) *Certificates {
	w.t.Helper()
	c, err := newCertificates(w.state, sites, w.log.log, acmeInterval, w.with...)
	if err != nil {
		w.t.Fatal(err)
	}
	if before := w.front.Swap(c); before != nil {
		before.Close()
	}
	return c
}

func (w *world) shake(raw net.Conn) {
	defer raw.Close()
	conn := w.front.Load().Server(w.address(), raw)
	switch err := conn.Handshake(context.Background()); {
	case err == nil:
		_, _ = conn.Read(make([]byte, 1))
	case errors.Is(err, errChallengeAnswered):
		w.looked.Add(1)
	}
}

// leaf is what a client gets that asks for name; nil: its handshake fails.
func (w *world) leaf(name string) *x509.Certificate {
	conn, err := stdtls.Dial("tcp", w.secure.Addr().String(), &stdtls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// wait returns what a client gets once there is something that the test accepts.
func (w *world) wait(name string, accept func(*x509.Certificate) bool) *x509.Certificate {
	w.t.Helper()
	var leaf *x509.Certificate
	err := gatewaytest.Wait(func() (bool, error) {
		leaf = w.leaf(name)
		return leaf != nil && accept(leaf), nil
	})
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	return leaf
}

func (w *world) waitLog(part string) {
	w.t.Helper()
	if err := gatewaytest.Wait(func() (bool, error) { return w.log.count(part) > 0, nil }); err != nil {
		w.t.Fatalf("no %q in the log: %v", part, err)
	}
}

func whatever(*x509.Certificate) bool { return true }

func TestACMEIssues(t *testing.T) {
	rows := []struct {
		name     string
		settings gatewaytest.PebbleSettings
		change   func(*world, *routes.ACME)
		names    []string
		ask      []string // what clients ask for; empty: names
		check    func(*x509.Certificate) bool
		looks    bool // the CA must have made handshakes of its own, which then carried nothing
	}{
		{name: "by HTTP-01", change: func(_ *world, a *routes.ACME) { a.Challenges = []string{routes.HTTP01} }, names: []string{"a.example"}},
		{name: "by TLS-ALPN-01", change: func(_ *world, a *routes.ACME) { a.Challenges = []string{routes.TLSALPN01} }, names: []string{"a.example"}, looks: true},
		{name: "by a command that makes DNS records, for a wildcard and its parent", change: func(w *world, a *routes.ACME) { a.DNS = w.hook() }, names: []string{"*.a.example", "a.example"}, ask: []string{"b.a.example", "a.example"}},
		{name: "for many names, a certificate each", names: []string{"a.example", "b.example", "c.example", "d.example", "e.example"}},
		{name: "for an address", change: func(_ *world, a *routes.ACME) { a.Challenges = []string{routes.TLSALPN01} }, names: []string{"127.0.0.1"}, ask: []string{""}},
		{name: "although half of the nonces are refused", settings: gatewaytest.PebbleSettings{BadNonces: 50}, names: []string{"a.example"}},
		{
			name: "for an account that its operator has made", settings: gatewaytest.PebbleSettings{EAB: map[string]string{"kid": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}},
			change: func(w *world, a *routes.ACME) {
				a.Email = "ops@a.example"
				a.EAB = []routes.EAB{{CA: w.pebble.Directory, KeyID: "kid", MACKey: "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}}
			}, names: []string{"a.example"},
		},
		{name: "when the CA before it does not answer", change: func(w *world, a *routes.ACME) { a.CA = []string{"https://127.0.0.1:1/dir", w.pebble.Directory} }, names: []string{"a.example"}},
		{name: "ECDSA P-256", names: []string{"a.example"}, check: func(x *x509.Certificate) bool {
			key, ok := x.PublicKey.(*ecdsa.PublicKey)
			return ok && key.Curve.Params().BitSize == 256
		}},
		{name: "RSA when asked", change: func(_ *world, a *routes.ACME) { a.KeyType = "rsa2048" }, names: []string{"a.example"}, check: func(x *x509.Certificate) bool {
			key, ok := x.PublicKey.(*rsa.PublicKey)
			return ok && key.N.BitLen() == 2048
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, row.settings)
			c := w.serve(w.site(func(a *routes.ACME) {
				if row.change != nil {
					row.change(w, a)
				}
			}, row.names...))
			ask := row.ask
			if ask == nil {
				ask = row.names
			}
			for _, name := range ask {
				leaf := w.wait(name, whatever)
				if err := leaf.VerifyHostname(name); name != "" && err != nil {
					t.Errorf("a client that asks for %s: %v", name, err)
				}
				if row.check != nil && !row.check(leaf) {
					t.Errorf("a client gets a key of type %T", leaf.PublicKey)
				}
			}
			if got := w.looked.Load() > 0; row.looks && !got {
				t.Errorf("the CA's handshakes are taken for those of clients")
			}
			for _, s := range c.Status() {
				if s.Expires.IsZero() || s.Error != "" || !s.Renews.Before(s.Expires) || !strings.Contains(s.Issuer, "Pebble") {
					t.Errorf("Status: %+v", s)
				}
			}
			w.wantPrivate()
		})
	}
}

// TestACMEAccountThatIsNotThereYet has the folder of an account without its files, as others see one that is being stored.
func TestACMEAccountThatIsNotThereYet(t *testing.T) {
	w := newWorld(t, gatewaytest.PebbleSettings{})
	w.serve(w.site(nil, "a.example"))
	w.wait("a.example", whatever)
	files, err := filepath.Glob(filepath.Join(w.state, "acme", "*", "users", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("files of the account: %q, %v", files, err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	w.begin(w.site(nil, "b.example"))
	w.wait("b.example", whatever)
}

// hook is a command that has the world's DNS server answer.
func (w *world) hook() *routes.DNS {
	w.t.Helper()
	script := filepath.Join(w.t.TempDir(), "hook")
	text := `#!/bin/sh
case "$1 $2 $3" in
"present a.example _acme-challenge.a.example") exec curl -sS --fail -d "{\"host\":\"$3.\",\"value\":\"$4\"}" "$SET" ;;
"cleanup a.example _acme-challenge.a.example") echo cleaned; exec curl -sS --fail -d "{\"host\":\"$3.\"}" "$CLEAR" ;;
esac
echo "called with $*" >&2
exit 1
`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		w.t.Fatal(err)
	}
	return &routes.DNS{Command: []string{script}, Env: map[string]string{"SET": w.pebble.SetTXT, "CLEAR": w.pebble.ClearTXT}, Timeout: time.Minute}
}

// wantPrivate looks for keys that others can read.
func (w *world) wantPrivate() {
	w.t.Helper()
	keys := 0
	err := filepath.WalkDir(w.state, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".key") {
			return nil
		}
		keys++
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
			w.t.Errorf("%s: mode %v, want 0600; error %v", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil || keys < 2 {
		w.t.Errorf("%d keys are stored, want those of the account and the certificate; error %v", keys, err)
	}
}

// unusedName has no earlier failures: certmagic puts renewals off by name, for all CAs of the process.
func unusedName() string { return fmt.Sprintf("a%d.example", time.Now().UnixNano()) }

func TestACMERenewsWithoutRestart(t *testing.T) {
	name := unusedName()
	w := newWorld(t, gatewaytest.PebbleSettings{Life: 5 * time.Second})
	w.serve(w.site(nil, name))
	first := w.wait(name, whatever)
	second := w.wait(name, func(x *x509.Certificate) bool { return !x.Equal(first) })
	if !second.NotAfter.After(first.NotAfter) {
		t.Errorf("the second certificate ends at %v, the first at %v", second.NotAfter, first.NotAfter)
	}
	for _, part := range []string{"certificate obtained: it is served from now on name=" + name, "certificate renewed name=" + name} {
		w.waitLog(part)
	}
}

// TestACMEServesWhatItHas takes everything away that could renew a certificate.
func TestACMEServesWhatItHas(t *testing.T) {
	name := unusedName()
	w := newWorld(t, gatewaytest.PebbleSettings{Life: 3 * time.Second})
	site := w.site(nil, name)
	w.serve(site)
	w.wait(name, whatever)
	if err := w.pebble.Stop(); err != nil {
		t.Fatal(err)
	}
	first := w.wait(name, whatever) // on a slow machine it may be the second already
	// Another front begins with what is stored, at once, although the certificate expires and nobody makes new ones.
	w.begin(site)
	if leaf := w.leaf(name); !first.Equal(leaf) {
		t.Errorf("after a restart a client gets another certificate")
	}
	w.waitLog("warn: certificate has expired")
	if leaf := w.leaf(name); !first.Equal(leaf) || !time.Now().After(first.NotAfter) {
		t.Errorf("a client gets another certificate than the expired one")
	}
	// The storage is lost: what is in memory is served.
	if err := os.RemoveAll(w.state); err != nil {
		t.Fatal(err)
	}
	if leaf := w.leaf(name); !first.Equal(leaf) {
		t.Errorf("without storage a client gets another certificate")
	}
}

// TestACMEServesTheOldCAsCertificate changes the CA, first to one that is not there.
func TestACMEServesTheOldCAsCertificate(t *testing.T) {
	w := newWorld(t, gatewaytest.PebbleSettings{})
	cert, key := validPair(t, "a.example")
	w.store("old.example-dir", map[string]string{".crt": string(cert), ".key": string(key), ".json": "{}"})
	old, err := parsePair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	c := w.serve(w.site(func(a *routes.ACME) { a.CA = []string{"https://127.0.0.1:1/"} }, "a.example"))
	if leaf := w.leaf("a.example"); !old.Leaf.Equal(leaf) {
		t.Errorf("a client gets %v, want the certificate of the CA before", leaf)
	}
	if err := gatewaytest.Wait(func() (bool, error) { return c.Status()[0].Error != "", nil }); err != nil {
		t.Errorf("Status tells of no error: %+v", c.Status())
	}
	w.begin(w.site(nil, "a.example"))
	w.wait("a.example", func(x *x509.Certificate) bool { return strings.Contains(x.Issuer.CommonName, "Pebble") })
}

// store puts files below the state directory, as they would be there after a CA had issued a certificate for a.example.
func (w *world) store(ca string, files map[string]string) {
	w.t.Helper()
	w.storeFor(ca, "a.example", files)
}

func (w *world) storeFor(ca, name string, files map[string]string) {
	w.t.Helper()
	folder := filepath.Join(w.state, certmagic.StorageKeys.CertsSitePrefix(ca, name))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		w.t.Fatal(err)
	}
	for suffix, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name+suffix), []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestACMEReplacesDamagedFiles(t *testing.T) {
	rows := []struct{ name, suffix, content string }{
		{"a truncated key", ".key", "-----BEGIN EC PRIV"},
		{"an empty certificate", ".crt", ""},
		{"a description that is not JSON", ".json", "{"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, gatewaytest.PebbleSettings{})
			site := w.site(nil, "a.example")
			key := certmagic.NewACMEIssuer(&certmagic.Config{}, certmagic.ACMEIssuer{CA: w.pebble.Directory}).IssuerKey()
			cert, private := validPair(t, "a.example")
			files := map[string]string{".crt": string(cert), ".key": string(private), ".json": `{"sans":["a.example"]}`}
			files[row.suffix] = row.content
			w.store(key, files)
			w.serve(site)
			leaf := w.wait("a.example", whatever)
			if !strings.Contains(leaf.Issuer.CommonName, "Pebble") {
				t.Errorf("the certificate's issuer is %q", leaf.Issuer.CommonName)
			}
			if w.log.count("stored certificate is damaged") != 1 {
				t.Errorf("the log does not tell of the damage")
			}
		})
	}
}

// TestACMEFailures has everything go wrong that the others of this package must survive: their site is served all the time.
func TestACMEFailures(t *testing.T) {
	garbage := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }))
	defer garbage.Close()
	broken := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	defer broken.Close()
	ca := func(s *httptest.Server) func(*world, *Site) {
		return func(_ *world, site *Site) {
			site.ACME.CA, site.CARootsPEM = []string{s.URL}, encodeCertificate(s.Certificate().Raw)
		}
	}
	rows := []struct {
		name   string
		change func(*world, *Site)
		want   string // in the log
	}{
		{"the CA refuses the name", func(_ *world, s *Site) { s.Names = []string{"blocked.example"} }, "rejectedIdentifier"},
		{"the CA answers 500", ca(broken), "HTTP 500"},
		{"the CA answers garbage", ca(garbage), "a CA has issued no certificate"},
		{"nobody is at the CA's address", func(_ *world, s *Site) { s.ACME.CA = []string{"https://127.0.0.1:1/"} }, "connection refused"},
		{"the CA is not trusted", func(_ *world, s *Site) { s.CARootsPEM = nil }, "x509"},
		{"the command for the DNS fails", func(w *world, s *Site) { s.ACME.DNS = w.hook(); s.Names = []string{"other.example"} }, `it said: "called with present other.example`},
		{"the command for the DNS does not end", func(_ *world, s *Site) {
			s.ACME.DNS = &routes.DNS{Command: []string{"/bin/sh", "-c", "echo begun; sleep 1000"}, Timeout: time.Second}
		}, `present: did not end within 1s; it said: "begun"`},
		{"the storage can't be written", func(w *world, _ *Site) {
			if err := os.WriteFile(w.state, nil, 0o600); err != nil {
				w.t.Fatal(err)
			}
		}, "error: certificate could not be got: it is tried again"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, gatewaytest.PebbleSettings{Blocked: []string{"blocked.example"}})
			cert, key := validPair(t, "healthy.example")
			site := w.site(nil, "a.example")
			row.change(w, &site)
			c := w.serve(Site{Names: []string{"healthy.example"}, Mode: Manual, Addresses: []string{w.address()}, Pairs: []Pair{{cert, key}}}, site)
			w.waitLog(row.want)
			if w.leaf("healthy.example") == nil {
				t.Errorf("the other site is not served")
			}
			if w.leaf(site.Names[0]) != nil {
				t.Errorf("a client gets a certificate, want a failed handshake")
			}
			err := gatewaytest.Wait(func() (bool, error) { return c.Status()[1].Error != "", nil })
			if err != nil {
				t.Errorf("Status tells of no error: %+v", c.Status())
			}
		})
	}
}

func TestACMEOnDemand(t *testing.T) {
	w := newWorld(t, gatewaytest.PebbleSettings{Blocked: []string{"blocked.shops.example"}})
	allowed := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("domain") == "denied.shops.example" {
			rw.WriteHeader(http.StatusForbidden)
		}
	}))
	defer allowed.Close()
	c := w.serve(w.site(func(a *routes.ACME) {
		a.OnDemand = &routes.OnDemand{Ask: allowed.URL + "/ask?x=1", Names: []string{"*.shops.example"}, Limit: 3, Interval: time.Hour}
	}, "a.example"))
	if leaf := w.leaf("one.shops.example"); leaf == nil || leaf.VerifyHostname("one.shops.example") != nil {
		t.Errorf("the first client gets %v, want a certificate for its name", leaf)
	}
	for _, name := range []string{"other.example", "denied.shops.example", "blocked.shops.example", "blocked.shops.example"} {
		if leaf := w.leaf(name); leaf != nil {
			t.Errorf("a client that asks for %s gets a certificate for %q", name, leaf.DNSNames)
		}
	}
	if w.leaf("two.shops.example") == nil {
		t.Errorf("the third certificate is within the limit")
	}
	if w.leaf("three.shops.example") != nil || w.log.count("more certificates are demanded than the limit allows") != 1 {
		t.Errorf("the fourth certificate is got, or the log does not tell of the limit")
	}
	if n := w.log.count("name=blocked.shops.example"); n != 1 {
		t.Errorf("the log tells %d times of a name that the CA refuses, want once", n)
	}
	w.wait("a.example", whatever)
	var names []string
	for _, s := range c.Status() {
		names = append(names, s.Names...)
	}
	if want := []string{"a.example", "one.shops.example", "two.shops.example"}; !slices.Equal(names, want) {
		t.Errorf("Status has %q, want %q", names, want)
	}
}

// TestACMEChallengesOfOthers looks at challenges that nobody has asked for.
func TestACMEChallengesOfOthers(t *testing.T) {
	w := newWorld(t, gatewaytest.PebbleSettings{})
	c := w.serve(w.site(nil, "a.example"))
	w.wait("a.example", whatever)
	for _, name := range []string{"a.example", "b.example", ""} {
		conn, err := stdtls.Dial("tcp", w.secure.Addr().String(), &stdtls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}})
		if err == nil {
			conn.Close()
			t.Errorf("a handshake for a challenge of %q, which there is not, succeeds", name)
		}
	}
	handler := c.AnswerChallenges(http.NotFoundHandler())
	for _, host := range []string{"a.example", "a.example:80", "b.example", "[::1]", ""} {
		r := httptest.NewRequest("GET", "/.well-known/acme-challenge/token", nil)
		r.Host = host
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		if rec.Code != http.StatusNotFound {
			t.Errorf("a challenge of %q, which there is not, is answered with %d", host, rec.Code)
		}
	}
}
