package tls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"maps"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

// clientCA is a CA for clients, or for a site.
type clientCA struct {
	*authority
	t *testing.T
}

func newClientCA(t *testing.T, name string) *clientCA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := sign(template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &clientCA{&authority{root: root, key: key, rootPEM: encodeCertificate(root.Raw)}, t}
}

// client makes a certificate for a client.
func (i *clientCA) client(change func(*x509.Certificate)) stdtls.Certificate {
	i.t.Helper()
	key := newKey(i.t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "joe", Organization: []string{"Shop, Ltd"}, Country: []string{"DE"}}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	leaf, err := sign(template, i.root, key.Public(), i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return stdtls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func same(*x509.Certificate) {}

func (i *clientCA) site(mode string, names ...string) Site {
	s := internalSite("tcp :443", names...)
	s.Of, s.ClientAuth, s.ClientCAPEM = new(routes.Site), &routes.ClientAuth{Mode: mode}, i.rootPEM
	return s
}

// meet makes one connection and returns the server's end, if the handshake succeeds there: clients of TLS 1.3 learn of a refusal
// after theirs.
func meet(t *testing.T, c *Certificates, config *stdtls.Config) (*Conn, error) {
	t.Helper()
	near, far := loopback(t)
	defer near.Close()
	defer far.Close()
	server, client := c.Server("tcp :443", far), stdtls.Client(near, config)
	done := make(chan struct{})
	go func() { // ends when the connection closes
		defer close(done)
		client.Read(make([]byte, 1)) // the session ticket comes before any data
	}()
	err := server.Handshake(t.Context())
	if err == nil {
		_, err = server.Write([]byte("x"))
	}
	far.Close()
	<-done
	return server, err
}

// loopback is a connection that holds what nobody reads yet, which a pipe does not: both sides of a failing handshake write.
func loopback(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestClientsWithoutTheCertificateThatIsAskedForAreRefused(t *testing.T) {
	ours, others := newClientCA(t, "ours"), newClientCA(t, "others")
	good, expired, foreign := ours.client(same), ours.client(func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Minute) }), others.client(same)
	server := ours.client(func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	rows := []struct {
		name, mode string
		cert       *stdtls.Certificate
		verify     string // "": no connection
	}{
		{"required and good", routes.ClientRequire, &good, "SUCCESS"},
		{"required and missing", routes.ClientRequire, nil, ""},
		{"required and of another issuer", routes.ClientRequire, &foreign, ""},
		{"required and expired", routes.ClientRequire, &expired, ""},
		{"required and for servers", routes.ClientRequire, &server, ""},
		{"verified if given, and good", routes.ClientVerifyIfGiven, &good, "SUCCESS"},
		{"verified if given, and missing", routes.ClientVerifyIfGiven, nil, "NONE"},
		{"verified if given, and of another issuer", routes.ClientVerifyIfGiven, &foreign, ""},
		{"requested and good", routes.ClientRequest, &good, "SUCCESS"},
		{"requested and missing", routes.ClientRequest, nil, "NONE"},
		{"requested and of another issuer", routes.ClientRequest, &foreign, "FAILED:x509: certificate signed by unknown authority"},
		{"requested and expired", routes.ClientRequest, &expired, "FAILED:x509: certificate has expired"},
	}
	for _, row := range rows {
		for _, version := range []uint16{stdtls.VersionTLS12, stdtls.VersionTLS13} {
			t.Run(row.name+" "+stdtls.VersionName(version), func(t *testing.T) {
				c := open(t, t.TempDir(), &logbook{}, ours.site(row.mode, "a.example"))
				config := &stdtls.Config{ServerName: "a.example", InsecureSkipVerify: true, MaxVersion: version}
				// Unlike Certificates this sends one that the server has not asked for.
				config.GetClientCertificate = func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) {
					if row.cert == nil {
						return new(stdtls.Certificate), nil
					}
					return row.cert, nil
				}
				conn, err := meet(t, c, config)
				got := conn.Client()["SSL_CLIENT_VERIFY"]
				if (err == nil) != (row.verify != "") || !strings.HasPrefix(got, row.verify) {
					t.Errorf("Handshake = %v, SSL_CLIENT_VERIFY = %q, want %q", err, got, row.verify)
				}
				var refused interface{ ClientRefused() bool }
				if err != nil && !errors.As(err, &refused) {
					t.Errorf("Handshake = %v, want an error that says that it was the client's certificate", err)
				}
			})
		}
	}
}

func TestASessionIsResumedOnTheSameTermsOnly(t *testing.T) {
	ours, others := newClientCA(t, "ours"), newClientCA(t, "others")
	required, alike := ours.site(routes.ClientRequire, "require.example"), ours.site(routes.ClientRequire, "alike.example")
	modern := internalSite("tcp :443", "modern.example")
	modern.MinVersion = "1.3"
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "open.example"), internalSite("tcp :443", "public.example"), required, alike,
		ours.site(routes.ClientRequest, "request.example"), others.site(routes.ClientRequire, "other.example"), modern)
	cert := ours.client(same)
	rows := []struct {
		name, first, second string
		resumed, fails      bool
	}{
		{"the same site", "open.example", "open.example", true, false},
		{"the same site with client certificates", "require.example", "require.example", true, false},
		{"another site on the usual terms", "open.example", "public.example", true, false},
		{"another site that asks for the same certificates", "require.example", "alike.example", true, false},
		{"one that asks for certificates, after one that does not", "open.example", "require.example", false, false},
		{"one that does not, after one that asks for certificates", "require.example", "open.example", false, false},
		{"one that requires a certificate, after one that does not verify it", "request.example", "require.example", false, false},
		{"one that trusts another issuer", "require.example", "other.example", false, true},
		{"one for newer clients", "open.example", "modern.example", false, false},
	}
	for _, row := range rows {
		for _, version := range []uint16{stdtls.VersionTLS12, stdtls.VersionTLS13} {
			if version == stdtls.VersionTLS12 && row.second == "modern.example" {
				continue
			}
			t.Run(row.name+" "+stdtls.VersionName(version), func(t *testing.T) {
				resumed := false
				config := &stdtls.Config{
					InsecureSkipVerify: true, MaxVersion: version, ClientSessionCache: oneSession{stdtls.NewLRUClientSessionCache(1)},
					GetClientCertificate: func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) { return &cert, nil },
					VerifyConnection: func(s stdtls.ConnectionState) error {
						resumed = s.DidResume
						return nil
					},
				}
				config.ServerName = row.first
				if _, err := meet(t, c, config); err != nil {
					t.Fatal(err)
				}
				config.ServerName = row.second
				_, err := meet(t, c, config)
				if resumed != row.resumed || (err != nil) != row.fails {
					t.Errorf("%s after %s: resumed %t, error %v; want %t, an error %t", row.second, row.first, resumed, err, row.resumed, row.fails)
				}
			})
		}
	}
}

// oneSession is the cache of a client that offers a session to whoever it talks to.
type oneSession struct{ stdtls.ClientSessionCache }

func (o oneSession) Get(string) (*stdtls.ClientSessionState, bool) {
	return o.ClientSessionCache.Get("")
}
func (o oneSession) Put(_ string, s *stdtls.ClientSessionState) { o.ClientSessionCache.Put("", s) }

func TestTheKeysOfTicketsChangeEveryDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := newClientCA(t, "ours")
		site := ours.site(routes.ClientVerifyIfGiven, "a.example")
		c, err := New(t.TempDir(), []Site{site, internalSite("tcp :443", "b.example")}, (&logbook{}).log)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, name := range []string{"a.example", "b.example"} {
			ticket := func() []byte {
				var taken []byte
				config := &stdtls.Config{ServerName: name, InsecureSkipVerify: true, ClientSessionCache: capture(func(s *stdtls.ClientSessionState) {
					taken, _, _ = s.ResumptionState()
				})}
				if _, err := meet(t, c, config); err != nil {
					t.Fatal(err)
				}
				return taken
			}
			l := c.listeners["tcp :443"]
			config := l.config
			if own, ok := l.configs.Load(l.siteOf(name, nil).terms.Load()); ok {
				config = own.(*stdtls.Config)
			}
			first := ticket()
			readable := func() bool {
				s, err := config.DecryptTicket(first, stdtls.ConnectionState{})
				return s != nil && err == nil
			}
			if !readable() {
				t.Errorf("%s: the ticket can't be read at once", name)
			}
			time.Sleep(8 * 24 * time.Hour) // crypto/tls reads those of the last seven days
			ticket()
			if readable() {
				t.Errorf("%s: the ticket can still be read after eight days", name)
			}
		}
	})
}

// capture is a cache that keeps nothing.
type capture func(*stdtls.ClientSessionState)

func (capture) Get(string) (*stdtls.ClientSessionState, bool) { return nil, false }
func (c capture) Put(_ string, s *stdtls.ClientSessionState)  { c(s) }

func TestAConnectionServesTheSitesOnItsTerms(t *testing.T) {
	ours := newClientCA(t, "ours")
	cert, key := validPair(t, "a.example", "b.example", "*.c.example")
	manual := func(names ...string) Site {
		return Site{Of: new(routes.Site), Names: names, Mode: Manual, Addresses: []string{"tcp :443"}, Pairs: []Pair{{cert, key}}}
	}
	internal := internalSite("tcp :443", "i.example")
	internal.Of = new(routes.Site)
	private := manual("c.example")
	private.ClientAuth, private.ClientCAPEM = &routes.ClientAuth{Mode: routes.ClientRequire}, ours.rootPEM
	elsewhere := manual("e.example")
	elsewhere.Addresses = []string{"tcp :444"}
	a, b, wild := manual("a.example", "x.example"), manual("b.example"), manual("*.c.example")
	c := open(t, t.TempDir(), &logbook{}, a, b, wild, internal, private, elsewhere)
	rows := []struct {
		name, sni string
		site      Site
		host      string
		want      bool
	}{
		{"the site that was asked for", "a.example", a, "a.example", true},
		{"another name of it", "a.example", a, "x.example", true},
		{"a host that nobody has, of the first site", "a.example", a, "nobody.example", true},
		{"a host that nobody has, by both names", "nobody.example", a, "nobody.example", true},
		{"a site that the certificate covers", "a.example", b, "b.example", true},
		{"a site whose host the certificate covers with its star", "a.example", wild, "www.c.example", true},
		{"two labels where the star covers one", "a.example", wild, "x.www.c.example", false},
		{"a site with another certificate", "a.example", internal, "i.example", false},
		{"a site with another certificate, the other way", "i.example", a, "a.example", false},
		{"a site that asks for client certificates", "a.example", private, "www.c.example", false},
		{"a site that does not, from one that asks", "c.example", a, "a.example", false},
		{"no server name, first site", "", a, "a.example", true},
		{"no server name, another site", "", internal, "i.example", true},
		{"no server name, a site that asks for client certificates", "", private, "www.c.example", false},
		{"no server name, a site of another address", "", elsewhere, "e.example", false},
		{"a site of another address", "a.example", elsewhere, "a.example", false},
	}
	client := ours.client(same)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			conn, err := meet(t, c, &stdtls.Config{ServerName: row.sni, InsecureSkipVerify: true, Certificates: []stdtls.Certificate{client}})
			if err != nil {
				t.Fatal(err)
			}
			if got := conn.Serves(row.site.Of, row.host); got != row.want {
				t.Errorf("asked for %q: Serves(%q) = %t, want %t", row.sni, row.host, got, row.want)
			}
		})
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if c.Server("tcp :443", far).Serves(a.Of, "a.example") {
		t.Error("Serves = true before the handshake")
	}
}

func TestTheOldestVersionIsTheSites(t *testing.T) {
	modern := internalSite("tcp :443", "modern.example")
	modern.MinVersion = "1.3"
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "usual.example"), modern)
	rows := []struct {
		name, site string
		version    uint16
		ok         bool
	}{
		{"1.2 for the usual site", "usual.example", stdtls.VersionTLS12, true},
		{"1.3 for the usual site", "usual.example", stdtls.VersionTLS13, true},
		{"1.2 for the modern site", "modern.example", stdtls.VersionTLS12, false},
		{"1.3 for the modern site", "modern.example", stdtls.VersionTLS13, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			_, err := meet(t, c, &stdtls.Config{ServerName: row.site, InsecureSkipVerify: true, MaxVersion: row.version})
			if (err == nil) != row.ok {
				t.Errorf("Handshake = %v, want success %t", err, row.ok)
			}
		})
	}
	_, err := meet(t, c, &stdtls.Config{ServerName: "usual.example", InsecureSkipVerify: true, MaxVersion: stdtls.VersionTLS12,
		CipherSuites: []uint16{stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}})
	if err == nil {
		t.Error("a client that knows CBC only has got a connection")
	}
}

func TestNewRefusesTermsThatNobodyCanMeet(t *testing.T) {
	rows := []struct {
		name string
		auth routes.ClientAuth
		ca   string
		want string
	}{
		{"a mode that there is not", routes.ClientAuth{Mode: "maybe"}, "", `site "a.example": client_auth: unknown mode "maybe"`},
		{"no CA", routes.ClientAuth{Mode: routes.ClientRequire}, "x", `site "a.example": client_auth: ca: no certificate in it`},
	}
	for _, row := range rows {
		site := internalSite("tcp :443", "a.example")
		site.ClientAuth, site.ClientCAPEM = &row.auth, []byte(row.ca)
		if _, err := New(t.TempDir(), []Site{site}, (&logbook{}).log); err == nil || err.Error() != row.want {
			t.Errorf("%s: New = %v, want %s", row.name, err, row.want)
		}
	}
}

func TestApplicationsAreToldOfTheClientsCertificate(t *testing.T) {
	ours := newClientCA(t, "Our CA")
	site := ours.site(routes.ClientRequire, "a.example")
	site.ClientAuth.Export = true
	c := open(t, t.TempDir(), &logbook{}, site)
	start := time.Now().UTC().Truncate(time.Second).Add(-time.Minute)
	cert := ours.client(func(x *x509.Certificate) {
		x.SerialNumber = big.NewInt(0xabc)
		x.NotBefore, x.NotAfter = start, start.Add(time.Hour)
		x.DNSNames, x.EmailAddresses = []string{"pc.example"}, []string{"joe@example.com"}
		x.Subject.ExtraNames = []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: "j@example.com"},
			{Type: asn1.ObjectIdentifier{2, 5, 4, 11}, Value: "x\ny"},
		}
	})
	conn, err := meet(t, c, &stdtls.Config{ServerName: "a.example", InsecureSkipVerify: true, Certificates: []stdtls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	got := conn.Client()
	want := map[string]string{
		"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_M_VERSION": "3", "SSL_CLIENT_M_SERIAL": "0ABC",
		"SSL_CLIENT_V_START": start.Format("Jan _2 15:04:05 2006 GMT"), "SSL_CLIENT_V_END": start.Add(time.Hour).Format("Jan _2 15:04:05 2006 GMT"),
		"SSL_CLIENT_I_DN": "CN=Our CA", "SSL_CLIENT_I_DN_CN": "Our CA",
		"SSL_CLIENT_S_DN_CN": "joe", "SSL_CLIENT_S_DN_O": "Shop, Ltd", "SSL_CLIENT_S_DN_C": "DE", "SSL_CLIENT_S_DN_Email": "j@example.com",
		"SSL_CLIENT_SAN_DNS_0": "pc.example", "SSL_CLIENT_SAN_Email_0": "joe@example.com",
		"SSL_CLIENT_CERT": string(encodeCertificate(cert.Leaf.Raw)),
	}
	if subject := got["SSL_CLIENT_S_DN"]; strings.Contains(subject, "\n") || subject != "" && !strings.Contains(subject, `CN=joe,O=Shop\, Ltd,C=DE`) {
		t.Errorf("SSL_CLIENT_S_DN = %q", subject)
	}
	delete(got, "SSL_CLIENT_S_DN")
	if !maps.Equal(got, want) {
		t.Errorf("Client() = %q\nwant %q", got, want)
	}
}

func TestAClientGetsTheFirstCertificateThatItCanUse(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour)
	ec, ecKey := validPair(t, "a.example")
	r := selfSigned(t, rsaKey, from, to, "a.example")
	c := open(t, t.TempDir(), &logbook{}, Site{Names: []string{"a.example"}, Mode: Manual, Addresses: []string{"tcp :443"}, Pairs: []Pair{{ec, ecKey}, {r, encodeKey(t, rsaKey)}}})
	rows := []struct {
		name   string
		suites []uint16
		want   x509.PublicKeyAlgorithm
	}{
		{"any", nil, x509.ECDSA},
		{"ECDSA", []uint16{stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, x509.ECDSA},
		{"RSA", []uint16{stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, x509.RSA},
	}
	for _, row := range rows {
		client := handshake(t, c, "tcp :443", &stdtls.Config{ServerName: "a.example", InsecureSkipVerify: true, MaxVersion: stdtls.VersionTLS12, CipherSuites: row.suites})
		if got := client.ConnectionState().PeerCertificates[0].PublicKeyAlgorithm; got != row.want {
			t.Errorf("a client that knows %s got a certificate with %v, want %v", row.name, got, row.want)
		}
	}
	if all := c.Status(); len(all) != 2 || all[0].Key != "ECDSA" || all[1].Key != "RSA" {
		t.Errorf("Status() = %+v, want both", all)
	}
}

func TestAGivenCertificateIsReplacedByOneThatCanServe(t *testing.T) {
	oldCert, oldKey := validPair(t, "a.example")
	newCert, newKey := validPair(t, "a.example")
	of, log := new(routes.Site), &logbook{}
	c := open(t, t.TempDir(), log, Site{Of: of, Names: []string{"a.example"}, Mode: Manual, Addresses: []string{"tcp :443"}, Pairs: []Pair{{oldCert, oldKey}}})
	rows := []struct {
		name    string
		pair    Pair
		trouble string
		serves  []byte
		status  string // its error
		logged  string // "": nothing
	}{
		{"the same", Pair{oldCert, oldKey}, "", oldCert, "", ""},
		{"a key that does not belong to it", Pair{newCert, oldKey}, "", oldCert, "key does not belong to the certificate", "error: certificate has been changed and can't be used"},
		{"the same mistake again", Pair{newCert, oldKey}, "", oldCert, "key does not belong to the certificate", ""},
		{"files that can't be read", Pair{}, "key: permission denied", oldCert, "key: permission denied", "error: certificate has been changed and can't be used"},
		{"a new pair", Pair{newCert, newKey}, "", newCert, "", "info: certificate replaced site=a.example"},
		{"the same pair again", Pair{newCert, newKey}, "", newCert, "", ""},
	}
	for _, row := range rows {
		before := len(log.all())
		c.Replace(of, []Pair{row.pair}, row.trouble)
		if got := leafFor(t, c, "tcp :443", "a.example"); !bytes.Equal(encodeCertificate(got.Raw), row.serves) {
			t.Errorf("%s: the wrong certificate is served", row.name)
		}
		if got := c.Status()[0].Error; got != row.status {
			t.Errorf("%s: the status has the error %q, want %q", row.name, got, row.status)
		}
		news := log.all()[before:]
		if row.logged == "" && len(news) > 0 || row.logged != "" && (len(news) != 1 || !strings.HasPrefix(news[0], row.logged)) {
			t.Errorf("%s: logged %q, want %q", row.name, news, row.logged)
		}
	}
	c.Replace(new(routes.Site), nil, "") // nobody's
}

func TestTheIssuerOfClientsIsReplaced(t *testing.T) {
	old, other := newClientCA(t, "old"), newClientCA(t, "other")
	of := func(ca *clientCA) stdtls.Certificate { return ca.client(same) }
	a, b, log := old.site(routes.ClientRequire, "a.test"), old.site(routes.ClientRequire, "b.test"), &logbook{}
	c := open(t, t.TempDir(), log, a, b)
	before, err := meet(t, c, &stdtls.Config{ServerName: "a.test", InsecureSkipVerify: true, Certificates: []stdtls.Certificate{of(old)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name       string
		pem        []byte
		trouble    string
		old, other bool   // whether their clients get in
		logged     string // "": nothing
	}{
		{"the same", old.rootPEM, "", true, false, ""},
		{"a file without a certificate", []byte("x"), "", true, false, "error: client_auth: ca has been changed and can't be used"},
		{"the same mistake again", []byte("x"), "", true, false, ""},
		{"a file that can't be read", nil, "permission denied", true, false, "error: client_auth: ca has been changed and can't be used"},
		{"another one", other.rootPEM, "", false, true, "info: client_auth: ca replaced site=a.test"},
		{"the same again", other.rootPEM, "", false, true, ""},
		{"both", slices.Concat(old.rootPEM, other.rootPEM), "", true, true, "info: client_auth: ca replaced site=a.test"},
	} {
		logged := len(log.all())
		c.ReplaceClientCA(a.Of, row.pem, row.trouble)
		for _, client := range []struct {
			ca   *clientCA
			want bool
		}{{old, row.old}, {other, row.other}} {
			_, err := meet(t, c, &stdtls.Config{ServerName: "a.test", InsecureSkipVerify: true, Certificates: []stdtls.Certificate{of(client.ca)}})
			if (err == nil) != client.want {
				t.Errorf("%s: a client of the CA %q: %v, want to get in: %t", row.name, client.ca.root.Subject.CommonName, err, client.want)
			}
		}
		news := log.all()[logged:]
		if row.logged == "" && len(news) > 0 || row.logged != "" && (len(news) != 1 || !strings.HasPrefix(news[0], row.logged)) {
			t.Errorf("%s: logged %q, want %q", row.name, news, row.logged)
		}
		if n := len(c.terms); n > 2 {
			t.Errorf("%s: %d terms are kept for two sites", row.name, n)
		}
	}
	if _, err := meet(t, c, &stdtls.Config{ServerName: "b.test", InsecureSkipVerify: true, Certificates: []stdtls.Certificate{of(old)}}); err != nil {
		t.Errorf("the site whose CA has not changed: %v", err)
	}
	if !before.Serves(a.Of, "a.test") {
		t.Error("a connection from before is not served to its end")
	}
	c.ReplaceClientCA(new(routes.Site), nil, "") // nobody's
}

// Whatever a handshake meets while issuers are replaced, nobody gets in without a certificate.
func TestNobodySlipsInWhileTheIssuerIsReplaced(t *testing.T) {
	a, b := newClientCA(t, "a"), newClientCA(t, "b")
	site := a.site(routes.ClientRequire, "a.test")
	c := open(t, t.TempDir(), &logbook{}, site)
	stop := make(chan struct{})
	var replacing sync.WaitGroup
	replacing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				c.ReplaceClientCA(site.Of, []*clientCA{a, b}[i%2].rootPEM, "")
			}
		}
	})
	for range 100 {
		if _, err := meet(t, c, &stdtls.Config{ServerName: "a.test", InsecureSkipVerify: true}); err == nil {
			t.Error("a client without a certificate gets in")
		}
	}
	close(stop)
	replacing.Wait()
}

func TestDoubts(t *testing.T) {
	now, day := time.Now(), 24*time.Hour
	root := newClientCA(t, "Some CA")
	pair := func(left time.Duration, names ...string) Pair {
		key := newKey(t)
		return Pair{selfSigned(t, key, now.Add(-365*day), now.Add(left), names...), encodeKey(t, key)}
	}
	issued, err := root.issue([]string{"a.example"}, now)
	if err != nil {
		t.Fatal(err)
	}
	issuedPEM := encodeCertificate(issued.Certificate[0])
	rows := []struct {
		name string
		pair Pair
		want []string
	}{
		{"nothing wrong", pair(90*day, "a.example"), nil},
		{"expired", pair(-time.Hour, "a.example"), []string{"certificate has expired"}},
		{"three days left", pair(3*day, "a.example"), []string{"certificate expires within a week"}},
		{"three weeks left", pair(21*day, "a.example"), []string{"certificate expires within a month"}},
		{"another name and soon over", pair(3*day, "b.example"), []string{"certificate does not cover", "certificate expires within a week"}},
		{"an issuer that nobody knows", Pair{issuedPEM, encodeKey(t, issued.PrivateKey)}, []string{"certificate's issuer is neither in its file"}},
		{"the issuer in the file", Pair{slices.Concat(issuedPEM, root.rootPEM), encodeKey(t, issued.PrivateKey)}, nil},
		{"no certificate", Pair{}, nil},
	}
	for _, row := range rows {
		var got []string
		for _, d := range Doubts([]string{"a.example"}, row.pair, now) {
			got = append(got, d.Text)
		}
		if !slices.EqualFunc(got, row.want, strings.HasPrefix) {
			t.Errorf("%s: Doubts = %q, want %q", row.name, got, row.want)
		}
	}
}

// FuzzClientVariables: with "request" anybody's certificate gets as far as applications.
func FuzzClientVariables(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "joe\n", Organization: []string{"a", "b"}}, SerialNumber: big.NewInt(1), DNSNames: []string{"a.example"},
		EmailAddresses: []string{"joe@example.com"}, NotAfter: time.Now().Add(time.Hour),
	}
	leaf, err := sign(template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(leaf.Raw)
	t := &terms{clients: x509.NewCertPool()}
	f.Fuzz(func(test *testing.T, der []byte) {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		v := clientVariables(t, &stdtls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, time.Now())
		if v["SSL_CLIENT_VERIFY"] == "SUCCESS" {
			test.Error("verified by nobody")
		}
		for name, value := range v {
			if !strings.HasPrefix(name, "SSL_CLIENT_") || strings.ContainsAny(name+value, "\x00\r\n") {
				test.Errorf("%q = %q", name, value)
			}
		}
	})
}
