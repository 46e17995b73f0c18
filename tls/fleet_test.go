package tls

import (
	"crypto/x509"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/internal/gatewaytest"
	"gateway/routes"
)

// newFleet is a world whose fronts have their certificates on a Redis server.
func newFleet(t *testing.T) (*world, *gatewaytest.Redis) {
	t.Helper()
	server := startRedis(t)
	w := newWorld(t, gatewaytest.PebbleSettings{})
	w.with = []Option{WithStorage(routes.Storage{Redis: redisAt(server)}, StorageFiles{})}
	return w, server
}

// elsewhere makes the next front one of another machine.
func (w *world) elsewhere() { w.state = filepath.Join(w.t.TempDir(), "state") }

// other is another gateway of the fleet, which nobody reaches. It ends with the test.
func (w *world) other(sites ...Site) *Certificates {
	w.t.Helper()
	w.elsewhere()
	c, err := newCertificates(w.state, sites, w.log.log, acmeInterval, w.with...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	w.elsewhere()
	return c
}

// holder is the token of who holds the only lock of the fleet; empty: nobody, or there are several.
func holder(server *gatewaytest.Redis) string {
	locks, err := server.Do("--raw", "KEYS", "gateway:lock:*")
	if err != nil || locks == "" || strings.Contains(locks, "\n") {
		return ""
	}
	token, err := server.Do("--raw", "GET", locks)
	if err != nil {
		return ""
	}
	return token
}

// TestFleetGetsOneCertificate has one gateway ask for a certificate, and the CA find another one at the site's address.
func TestFleetGetsOneCertificate(t *testing.T) {
	for _, challenge := range []string{routes.HTTP01, routes.TLSALPN01} {
		t.Run(challenge, func(t *testing.T) {
			w, server := newFleet(t)
			site := w.site(func(a *routes.ACME) { a.Challenges = []string{challenge} }, "a.example")
			asking := w.other(site)
			// The CA's connection waits, for nobody serves yet.
			err := gatewaytest.Wait(func() (bool, error) {
				tokens, err := server.Do("KEYS", "gateway:file:acme/*/challenge_tokens/*")
				return tokens != "" && holder(server) != "", err
			})
			if err != nil {
				t.Fatalf("no challenge and lock are on the server: %v", err)
			}
			locked := holder(server)
			w.serve(site)
			if token := holder(server); token != "" && token != locked {
				t.Errorf("the second gateway has taken the lock of the first")
			}
			leaf := w.wait("a.example", whatever)
			mine := asking.automatic.certificateOf(asking.automatic.all()[0])
			if !leaf.Equal(mine) {
				t.Errorf("a client of the second gateway gets another certificate than the first one has")
			}
			if n := strings.Count(w.pebble.Log(), "Issued certificate serial"); n != 1 {
				t.Errorf("the CA has issued %d certificates, want one", n)
			}
			// It is the third gateway's from its beginning, without the CA.
			if err := w.pebble.Stop(); err != nil {
				t.Fatal(err)
			}
			w.elsewhere()
			w.begin(site)
			if !leaf.Equal(w.leaf("a.example")) {
				t.Errorf("a client of the third gateway gets another certificate")
			}
		})
	}
}

// TestFleetWithoutServer kills the server while gateways run and before they start.
func TestFleetWithoutServer(t *testing.T) {
	w, server := newFleet(t)
	c := w.serve(w.site(nil, "a.example"))
	leaf := w.wait("a.example", whatever)
	serves := func(when string) {
		t.Helper()
		if !leaf.Equal(w.leaf("a.example")) {
			t.Errorf("%s: a client does not get the certificate", when)
		}
	}
	if s := c.StorageStatus(); s == nil || s.Name != "redis at "+server.Address || s.Error != "" {
		t.Errorf("StorageStatus = %+v", s)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	serves("the server is gone")
	// A restart serves the copy, and waits with the site that is new.
	c = w.begin(w.site(nil, "a.example"), w.site(nil, "b.example"))
	serves("restarted without the server")
	if w.leaf("b.example") != nil {
		t.Errorf("a client gets a certificate that nobody can have asked for")
	}
	if s := c.StorageStatus(); s.Error == "" || s.Since.IsZero() || c.Status()[1].Error != s.Error {
		t.Errorf("StorageStatus = %+v and Status = %+v, want the reason in both", s, c.Status())
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	w.wait("b.example", whatever)
	if s := c.StorageStatus(); s.Error != "" || c.Status()[1].Error != "" {
		t.Errorf("StorageStatus = %+v and Status = %+v, want no error", s, c.Status())
	}
	// Another machine begins without a copy: its other sites are served, and this one as soon as the server is back.
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	cert, key := validPair(t, "healthy.example")
	w.elsewhere()
	w.begin(w.site(nil, "a.example"), Site{Names: []string{"healthy.example"}, Mode: Manual, Addresses: []string{w.address()}, Pairs: []Pair{{cert, key}}})
	if w.leaf("a.example") != nil || w.leaf("healthy.example") == nil {
		t.Errorf("without the server and a copy of its certificate the site is served, or another site is not")
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	w.wait("a.example", leaf.Equal)
}

// TestFleetRenews has the gateway that is behind take over what another one has renewed.
func TestFleetRenews(t *testing.T) {
	name := unusedName()
	server := startRedis(t)
	w := newWorld(t, gatewaytest.PebbleSettings{Life: 5 * time.Second})
	w.with = []Option{WithStorage(routes.Storage{Redis: redisAt(server)}, StorageFiles{})}
	w.serve(w.site(nil, name))
	first := w.wait(name, whatever)
	behind := w.other(w.site(nil, name)).automatic
	second := w.wait(name, func(x *x509.Certificate) bool { return !x.Equal(first) })
	err := gatewaytest.Wait(func() (bool, error) {
		leaf := behind.certificateOf(behind.all()[0])
		return leaf != nil && !leaf.NotAfter.Before(second.NotAfter), nil
	})
	if err != nil {
		t.Errorf("a gateway has the first certificate while another one has the second: %v", err)
	}
}

// TestFleetServerFull has a server that takes nothing more.
func TestFleetServerFull(t *testing.T) {
	w, server := newFleet(t)
	w.serve(w.site(nil, "a.example"))
	leaf := w.wait("a.example", whatever)
	if _, err := server.Do("CONFIG", "SET", "maxmemory", "1"); err != nil {
		t.Fatal(err)
	}
	c := w.begin(w.site(nil, "a.example"), w.site(nil, "b.example"))
	w.waitLog("error: certificate could not be got: it is tried again name=b.example again_in=1m0s " +
		"error=failed storage check: redis at " + server.Address + ": OOM command not allowed when used memory > 'maxmemory'. - storage is probably misconfigured")
	if !leaf.Equal(w.leaf("a.example")) || w.leaf("b.example") != nil {
		t.Errorf("a client does not get the certificate that there is, or one that there can't be")
	}
	if s := c.Status()[1]; !strings.Contains(s.Error, "OOM") {
		t.Errorf("Status = %+v, want the reason", s)
	}
}
