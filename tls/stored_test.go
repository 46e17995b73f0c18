package tls

import (
	"crypto"
	"crypto/ecdsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/crypto/ocsp"

	"gateway/internal/gatewaytest"
)

// issuer is a CA that has issued what the storage has at the start of a test.
type issuer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, key: newKey(t)}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Stored CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-1000 * 24 * time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
	}
	i.cert = i.sign(template, template, i.key.Public())
	return i
}

func (i *issuer) sign(template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	i.t.Helper()
	cert, err := sign(template, parent, public, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return cert
}

// store puts a certificate into the world's storage, as its CA's.
func (i *issuer) store(w *world, name string, begin, end time.Time, responders ...string) *x509.Certificate {
	i.t.Helper()
	key := newKey(i.t)
	leaf := i.sign(&x509.Certificate{
		DNSNames: []string{name}, NotBefore: begin, NotAfter: end, OCSPServer: responders,
	}, i.cert, key.Public())
	w.storeFor(certmagic.NewACMEIssuer(&certmagic.Config{}, certmagic.ACMEIssuer{CA: w.pebble.Directory}).IssuerKey(), name, map[string]string{
		".crt": string(encodeCertificate(leaf.Raw)) + string(encodeCertificate(i.cert.Raw)), ".key": string(encodeKey(i.t, key)), ".json": `{"sans":["` + name + `"]}`,
	})
	return leaf
}

const day = 24 * time.Hour

// TestACMEAtAStart begins with what the storage has, after the machine was off, or had another clock.
func TestACMEAtAStart(t *testing.T) {
	rows := []struct {
		name       string
		begin, end time.Duration // of the stored certificate, from now
		noCA       bool
		renewed    bool
		log        string
	}{
		{name: "a certificate in the middle of its life is served", begin: -30 * day, end: 60 * day},
		{name: "one past its renewal time is renewed", begin: -70 * day, end: 20 * day, renewed: true, log: "info: certificate renewed"},
		{name: "an expired one is renewed", begin: -91 * day, end: -day, renewed: true, log: "info: certificate renewed"},
		{name: "an expired one is served while the CA can't be reached", begin: -91 * day, end: -day, noCA: true, log: "warn: certificate has expired and could not be renewed: it is served all the same"},
		{name: "one that is not valid yet is served", begin: 10 * day, end: 100 * day},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w, name := newWorld(t, gatewaytest.PebbleSettings{}), unusedName()
			if row.noCA {
				if err := w.pebble.Stop(); err != nil {
					t.Fatal(err)
				}
			}
			stored := newIssuer(t).store(w, name, time.Now().Add(row.begin), time.Now().Add(row.end))
			c := w.serve(w.site(nil, name))
			if row.log != "" {
				w.waitLog(row.log)
			}
			if row.renewed {
				w.wait(name, func(x *x509.Certificate) bool { return strings.Contains(x.Issuer.CommonName, "Pebble") })
			} else if leaf := w.leaf(name); !stored.Equal(leaf) {
				t.Errorf("a client gets another certificate than the stored one")
			}
			if row.noCA {
				w.waitLog("error: certificate could not be renewed: it is tried again, and what is there is served meanwhile")
				if s := c.Status()[0]; s.Error == "" || !s.Expires.Equal(stored.NotAfter) {
					t.Errorf("Status = %+v, want the stored certificate and why there is no other one", s)
				}
			}
		})
	}
}

// TestACMEStaples has the CA's responder answer for a stored certificate.
func TestACMEStaples(t *testing.T) {
	ca := newIssuer(t)
	var revoke atomic.Bool
	var asked atomic.Int32
	responder := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		question, err := ocsp.ParseRequest(body)
		if err != nil {
			t.Error(err)
			return
		}
		status := ocsp.Good
		if revoke.Load() {
			status = ocsp.Revoked
		}
		answer, err := ocsp.CreateResponse(ca.cert, ca.cert, ocsp.Response{
			Status: status, SerialNumber: question.SerialNumber, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(day),
			RevokedAt: time.Now(), RevocationReason: ocsp.KeyCompromise,
		}, ca.key)
		if err != nil {
			t.Error(err)
		}
		_, _ = rw.Write(answer)
	}))
	defer responder.Close()
	w, name := newWorld(t, gatewaytest.PebbleSettings{}), unusedName()
	leaf := ca.store(w, name, time.Now().Add(-day), time.Now().Add(60*day), responder.URL)
	w.serve(w.site(nil, name))
	if w.staple(name) != nil || asked.Load() != 0 {
		t.Errorf("the responder is asked while the gateway starts")
	}
	if err := gatewaytest.Wait(func() (bool, error) { return w.staple(name) != nil, nil }); err != nil {
		t.Fatalf("no answer is stapled, after %d questions: %v", asked.Load(), err)
	}
	if answer, err := ocsp.ParseResponseForCert(w.staple(name), leaf, ca.cert); err != nil || answer.Status != ocsp.Good {
		t.Errorf("stapled: %+v, %v", answer, err)
	}
	if st := w.front.Load().Status(); st[0].OCSP != "good" {
		t.Errorf("Status() = %+v, want the answer told", st)
	}
	// It is stored: a start has it at once.
	before := asked.Load()
	w.begin(w.site(nil, name))
	if w.staple(name) == nil || asked.Load() != before {
		t.Errorf("after a restart the stored answer is not stapled, or the responder was asked again")
	}
	// Of a certificate that was revoked there is another one soon.
	revoke.Store(true)
	revoked := unusedName()
	ca.store(w, revoked, time.Now().Add(-day), time.Now().Add(60*day), responder.URL)
	w.begin(w.site(nil, revoked))
	w.wait(revoked, func(x *x509.Certificate) bool { return strings.Contains(x.Issuer.CommonName, "Pebble") })
}

// TestACMEWithoutResponder has certificates served whatever their CA's responder says.
func TestACMEWithoutResponder(t *testing.T) {
	w, ca, stored := newWorld(t, gatewaytest.PebbleSettings{}), newIssuer(t), map[string]*x509.Certificate{}
	var asked [3]atomic.Int32
	for i, answer := range [...]http.HandlerFunc{
		func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) },
		func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("yes")) },
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		responder := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked[i].Add(1)
			answer(rw, r)
		}))
		defer responder.Close()
		name := unusedName()
		stored[name] = ca.store(w, name, time.Now().Add(-day), time.Now().Add(60*day), responder.URL)
	}
	w.serve(w.site(nil, slices.Collect(maps.Keys(stored))...))
	for i := range asked {
		if err := gatewaytest.Wait(func() (bool, error) { return asked[i].Load() > 0, nil }); err != nil {
			t.Fatalf("responder %d was not asked: %v", i, err)
		}
	}
	for name, leaf := range stored {
		if !leaf.Equal(w.leaf(name)) || w.staple(name) != nil {
			t.Errorf("a client of %s gets another certificate, or an answer that nobody gave", name)
		}
	}
}

// staple is the OCSP answer that a client gets with the certificate.
func (w *world) staple(name string) []byte {
	w.t.Helper()
	conn, err := stdtls.Dial("tcp", w.secure.Addr().String(), &stdtls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	return conn.OCSPResponse()
}
