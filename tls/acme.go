package tls

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"gateway/routes"
)

const (
	// firstRetry and lastRetry bound how long it takes until a name is taken up again whose certificate could not be got for
	// a reason that is not the CA's, such as a full disk. For the CA's failures certmagic has its own, slower times.
	firstRetry = time.Minute
	lastRetry  = time.Hour

	// ocspChecks is at how many checks once it is looked whether a stapled answer is still fresh.
	ocspChecks = int(time.Hour / checkInterval)
)

// automatic gets certificates from CAs by ACME (RFC 8555), keeps them in the state directory, and renews them. certmagic does
// that; what is here says what to get, in what order to start, and what to tell. Safe for concurrent use.
type automatic struct {
	// Immutable after newAutomatic.
	cache   *certmagic.Cache
	storage lockedStorage
	redis   *redisStorage     // storage, or nil: it is a folder
	copies  certmagic.Storage // nil: storage needs none
	log     Log
	logger  *zap.Logger // what certmagic logs, in the words of log
	ctx     context.Context
	cancel  context.CancelFunc

	mu      sync.Mutex // guards what follows
	managed map[string]*managed
	working sync.WaitGroup // those that get a first certificate
}

// policy is how the certificates of one site are got. Immutable.
type policy struct {
	*automatic
	config   *certmagic.Config
	onDemand *onDemand // nil: the site's names only
}

// managed is a name and the state of its certificate. automatic.mu guards it.
type managed struct {
	name    string
	policy  *policy
	spare   string             // hash of a certificate of another CA, served until there is one; empty: none
	working bool               // somebody gets its first certificate
	giveUp  context.CancelFunc // immutable. On demand: ends that at the CA's first no. Nil: it is tried again
	retry   time.Time          // not before then, after failures of ours
	pause   time.Duration      // until retry
	trouble string             // the last failure since the last success; empty: none
	warning string             // the last one about its end, and when that was
	warned  time.Time
}

func newAutomatic(log Log, interval time.Duration) *automatic {
	a := &automatic{
		log:     log,
		managed: make(map[string]*managed),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.logger = zap.New(&logCore{log: log, over: func() bool { return a.ctx.Err() != nil }})
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   a.configFor,
		RenewCheckInterval: interval,
		OCSPCheckInterval:  time.Duration(ocspChecks) * interval,
		Logger:             a.logger,
	})
	return a
}

// close ends all work. What is in memory stays usable.
func (a *automatic) close() {
	a.cancel()
	a.cache.Stop()
	if a.redis != nil {
		a.redis.stop() // it may have called recheck
		defer a.redis.close()
	}
	a.working.Wait()
}

// addSite has the site's certificates got, and loads those that are stored: they are there when addSite returns.
func (a *automatic) addSite(site *Site) (*policy, error) {
	p, err := a.newPolicy(site)
	if err != nil {
		return nil, err
	}
	for _, name := range site.Names {
		if m := (&managed{name: unbracketed(strings.ToLower(name)), policy: p}); a.manage(m) {
			a.loadStored(m)
		}
	}
	return p, nil
}

// manage has a name's certificate renewed from now on. It reports false when the name has a policy already.
func (a *automatic) manage(m *managed) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.managed[m.name] != nil {
		return false
	}
	a.managed[m.name] = m
	return true
}

// all returns the names in their order.
func (a *automatic) all() []*managed {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.managed), func(a, b *managed) int { return strings.Compare(a.name, b.name) })
}

func (a *automatic) newPolicy(site *Site) (*policy, error) {
	p := &policy{automatic: a}
	settings := certmagic.Config{
		Storage:    ownAccounts{a.storage},
		LocalCache: a.copies,
		Logger:     a.logger,
		OnEvent:    a.event,
		KeySource:  certmagic.StandardKeyGenerator{KeyType: certmagic.KeyType(site.ACME.KeyType)},
		// With a proxy function certmagic's client has a time limit, and else none.
		OCSP: certmagic.OCSPConfig{HTTPProxy: http.ProxyFromEnvironment},
	}
	p.config = certmagic.New(a.cache, settings)
	template, err := a.issuer(site)
	if err != nil {
		return nil, err
	}
	p.config.Issuers = nil
	for _, directory := range site.ACME.CA {
		template.CA, template.ExternalAccount = directory, nil
		for _, eab := range site.ACME.EAB {
			if eab.CA == directory {
				template.ExternalAccount = &acme.EAB{KeyID: eab.KeyID, MACKey: eab.MACKey} // a site's own comes after the default
			}
		}
		p.config.Issuers = append(p.config.Issuers, certmagic.NewACMEIssuer(p.config, template))
	}
	if site.ACME.OnDemand != nil {
		p.onDemand = newOnDemand(p, site.ACME.OnDemand)
	}
	return p, nil
}

// issuer is what the CAs of a site have in common.
func (a *automatic) issuer(site *Site) (certmagic.ACMEIssuer, error) {
	template := certmagic.ACMEIssuer{
		Email:                   site.ACME.Email,
		Agreed:                  true,
		Logger:                  a.logger,
		DisableHTTPChallenge:    !slices.Contains(site.ACME.Challenges, routes.HTTP01),
		DisableTLSALPNChallenge: !slices.Contains(site.ACME.Challenges, routes.TLSALPN01),
	}
	if len(site.CARootsPEM) > 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(site.CARootsPEM) {
			return template, errors.New("ca_root: no certificate in it")
		}
		template.TrustedRoots = roots
	}
	if site.ACME.DNS != nil {
		solver, err := newDNSSolver(site.ACME.DNS, a.log, a.logger)
		template.DNS01Solver = solver
		return template, err
	}
	// certmagic answers challenges with a listener of its own unless the address is taken. This one is: it is the site's, and
	// the handlers of this package answer there.
	for _, address := range site.Addresses {
		if host, port, ok := tcpAddress(address); ok {
			template.ListenHost, template.AltHTTPPort, template.AltTLSALPNPort = host, port, port
			return template, nil
		}
	}
	return template, errors.New("no TCP address on which a CA could look at it")
}

// tcpAddress splits "tcp host:port".
func tcpAddress(address string) (host string, port int, ok bool) {
	address, ok = strings.CutPrefix(address, "tcp ")
	if !ok {
		return "", 0, false
	}
	tcp, err := net.ResolveTCPAddr("tcp", address) // numbers only: nothing is looked up
	if err != nil {
		return "", 0, false
	}
	if tcp.IP != nil {
		host = tcp.IP.String()
	}
	return host, tcp.Port, true
}

// loadStored takes a certificate from the storage, or from the copy of it, with the OCSP answer that is there. It asks no responder
// for another one, which could keep a start waiting: certmagic does so later.
func (a *automatic) loadStored(m *managed) {
	quick := *m.policy.config
	quick.OCSP.HTTPProxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("not before there is time") }
	quick.Logger = zap.NewNop() // it would tell of that
	_, err := quick.CacheManagedCertificate(a.ctx, m.name)
	if err == nil || a.away() != nil {
		return
	}
	if !errors.Is(err, fs.ErrNotExist) {
		a.log("error", "stored certificate can't be used", "name", m.name, "error", err)
		a.discardDamaged(m)
	}
	a.loadSpare(m, &quick)
}

// loadSpare takes a stored certificate of a CA that is asked no more: the site is served while the new one is asked, perhaps in
// vain.
func (a *automatic) loadSpare(m *managed, quick *certmagic.Config) {
	folders, err := a.storage.List(a.ctx, "certificates", false)
	if err != nil {
		return // nothing has been stored yet
	}
	for _, folder := range folders {
		ca := path.Base(folder)
		cert, certErr := a.storage.Load(a.ctx, certmagic.StorageKeys.SiteCert(ca, m.name))
		key, keyErr := a.storage.Load(a.ctx, certmagic.StorageKeys.SitePrivateKey(ca, m.name))
		if certErr != nil || keyErr != nil {
			continue
		}
		pair, err := parsePair(cert, key)
		if err != nil || time.Now().After(pair.Leaf.NotAfter) {
			continue
		}
		hash, err := quick.CacheUnmanagedTLSCertificate(a.ctx, *pair, nil)
		if err != nil {
			continue
		}
		a.log("warn", "the certificate of another CA is served until there is one", "name", m.name, "ca", ca, "expires", pair.Leaf.NotAfter)
		a.mu.Lock()
		m.spare = hash
		a.mu.Unlock()
		return
	}
}

// discardDamaged removes stored files that are there, and can be read, but hold no certificate with its key: certmagic would
// neither use nor replace them.
func (a *automatic) discardDamaged(m *managed) {
	for _, issuer := range m.policy.config.Issuers {
		folder := certmagic.StorageKeys.CertsSitePrefix(issuer.IssuerKey(), m.name)
		damage := a.damage(issuer.IssuerKey(), m.name)
		if damage == nil {
			continue
		}
		a.log("warn", "stored certificate is damaged: it is removed, and another one is got", "name", m.name, "folder", folder, "error", damage)
		if err := a.storage.Delete(a.ctx, folder); err != nil {
			a.log("error", "damaged certificate can't be removed", "name", m.name, "error", err)
		}
	}
}

// damage says why what is stored of a CA's certificate can't be one. It is nil when there is none, or it can't be read.
func (a *automatic) damage(ca, name string) error {
	var files [3][]byte
	for i, key := range []string{certmagic.StorageKeys.SiteCert(ca, name), certmagic.StorageKeys.SitePrivateKey(ca, name), certmagic.StorageKeys.SiteMeta(ca, name)} {
		var err error
		if files[i], err = a.storage.Load(a.ctx, key); err != nil {
			return nil
		}
	}
	if !json.Valid(files[2]) {
		return errors.New("its description is not JSON")
	}
	return Check(Pair{files[0], files[1]})
}

// check begins to get the certificates that are missing, and looks at those that are there. certmagic renews them.
//
// It asks the cache without the mutex, which certmagic takes while it holds the cache.
func (a *automatic) check(now time.Time) {
	for _, m := range a.all() {
		cert := a.certificateOf(m)
		switch {
		case cert != nil && m.giveUp != nil && now.After(cert.NotAfter):
			a.log("info", "certificate on demand has expired and could not be renewed: it is tried again when somebody asks for it", "name", m.name)
			a.forget(m.name)
		case cert != nil:
			a.lookAt(m, cert, now)
		case a.begin(m, now):
			a.working.Go(func() { _ = a.obtain(a.ctx, m) }) // close ends it; it has logged what was wrong
		}
	}
}

// begin reports that the caller is the one to get the name's first certificate now.
func (a *automatic) begin(m *managed, now time.Time) bool {
	if a.away() != nil {
		return false // it would fail: recheck follows
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if m.working || m.giveUp != nil || now.Before(m.retry) {
		return false
	}
	m.working = true
	return true
}

// lookAt warns once a day of a certificate that should have been renewed long ago, and mends what may have kept it from that.
func (a *automatic) lookAt(m *managed, cert *x509.Certificate, now time.Time) {
	var warning string
	switch left := cert.NotAfter.Sub(now); {
	case left <= 0:
		warning = "certificate has expired and could not be renewed: it is served all the same; see the last error, and the clock of this machine"
	case left < cert.NotAfter.Sub(cert.NotBefore)/6:
		warning = "certificate is near its end and could not be renewed yet: it is served until it is"
	default:
		return
	}
	a.mu.Lock()
	due := warning != m.warning || now.Sub(m.warned) >= warnAgainTime
	if due {
		m.warning, m.warned = warning, now
	}
	trouble := m.trouble
	a.mu.Unlock()
	if due {
		a.discardDamaged(m)
		a.log("warn", warning, "name", m.name, "expires", cert.NotAfter, "last_error", trouble)
	}
}

// obtain gets the first certificate of a name, however long that takes, and has it served. ctx ends it.
func (a *automatic) obtain(ctx context.Context, m *managed) error {
	config := m.policy.config
	err := config.ObtainCertAsync(ctx, m.name) // does nothing when one is stored
	if err != nil {
		return a.failed(m, err)
	}
	cert, err := config.CacheManagedCertificate(ctx, m.name)
	if err != nil {
		return a.failed(m, err)
	}
	a.log("info", "certificate obtained: it is served from now on", "name", m.name, "issuer", cert.Leaf.Issuer.CommonName, "expires", cert.Leaf.NotAfter)
	a.mu.Lock()
	spare := m.spare
	m.spare, m.working, m.pause, m.trouble = "", false, 0, ""
	a.mu.Unlock()
	if spare != "" {
		a.cache.Remove([]string{spare})
	}
	return nil
}

// failed puts a name off that has got no certificate, and returns why.
func (a *automatic) failed(m *managed, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.working = false
	m.pause = min(max(2*m.pause, firstRetry), lastRetry)
	m.retry = time.Now().Add(m.pause)
	switch {
	case m.giveUp != nil && m.trouble != "":
		return errors.New(m.trouble) // err is only that ctx was ended for it
	case m.giveUp == nil && a.ctx.Err() == nil:
		m.trouble = err.Error()
		a.log("error", "certificate could not be got: it is tried again", "name", m.name, "again_in", m.pause, "error", err)
	}
	return err
}

// event hears from certmagic. An error keeps it from what it is about to do.
func (a *automatic) event(ctx context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	a.mu.Lock()
	m := a.managed[name]
	a.mu.Unlock()
	if m == nil {
		return nil
	}
	switch event {
	case "cert_obtaining":
		if o := m.policy.onDemand; o != nil && data["renewal"] == true {
			return o.mayRenew(ctx, m)
		}
	case "cert_obtained":
		a.settle(m, "")
		if data["renewal"] == true {
			a.log("info", "certificate renewed", "name", name, "ca", data["issuer"])
		}
	case "cert_failed":
		a.settle(m, fmt.Sprint(data["error"]))
	}
	return nil
}

// settle notes how the last try ended. trouble is empty for a success.
func (a *automatic) settle(m *managed, trouble string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.trouble = trouble
	if trouble == "" {
		m.warning = ""
	} else if m.giveUp != nil {
		m.giveUp()
	}
}

// configFor tells certmagic how to renew a certificate.
func (a *automatic) configFor(cert certmagic.Certificate) (*certmagic.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range cert.Names {
		if m := a.managed[name]; m != nil {
			return m.policy.config, nil
		}
	}
	return nil, fmt.Errorf("no site has the names %q", cert.Names)
}

// certificateOf returns the certificate of a name that is renewed, or nil: the spare one is not.
func (a *automatic) certificateOf(m *managed) *x509.Certificate { return a.newest(m).Leaf }

// newest is certificateOf with its OCSP answer; without a Leaf there is none.
func (a *automatic) newest(m *managed) (newest stdtls.Certificate) {
	a.mu.Lock()
	spare := m.spare
	a.mu.Unlock()
	for _, cert := range a.cache.AllMatchingCertificates(m.name) {
		if cert.Hash() != spare && slices.Contains(cert.Names, m.name) && (newest.Leaf == nil || cert.Leaf.NotAfter.After(newest.Leaf.NotAfter)) {
			newest = cert.Certificate
		}
	}
	return newest
}

// certificate answers a handshake: for the client's name if the site has it, else for the site's first name. It never waits,
// unless for a certificate on demand.
func (p *policy) certificate(hello *stdtls.ClientHelloInfo, site *Site) (*stdtls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if name != "" {
		if cert := p.find(hello, name); cert != nil {
			return cert, nil
		}
		if slices.Contains(site.Names, name) {
			return nil, fmt.Errorf("there is no certificate yet for %q", name) // another one would not do
		}
		if p.onDemand != nil {
			return p.onDemand.certificate(hello, name)
		}
	}
	if cert := p.find(hello, unbracketed(strings.ToLower(site.name()))); cert != nil {
		return cert, nil
	}
	return nil, fmt.Errorf("there is no certificate yet for %q", site.name())
}

func (a *automatic) find(hello *stdtls.ClientHelloInfo, name string) *stdtls.Certificate {
	cert, err := certmagic.DefaultCertificateSelector(hello, a.cache.AllMatchingCertificates(name))
	if err != nil {
		return nil
	}
	return &cert.Certificate
}

// unbracketed is a name as certificates have it: an IPv6 address without brackets.
func unbracketed(name string) string {
	if addr, ok := parseIP(name); ok {
		return addr.String()
	}
	return name
}

// policyOf returns the policy of a name that is managed, or nil.
func (a *automatic) policyOf(name string) *policy {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.managed[name]; m != nil {
		return m.policy
	}
	return nil
}

// AnswerChallenges returns a handler for plain listeners, which answers the HTTP-01 challenges of names whose certificates are
// automatic (RFC 8555 §8.3), and has next answer everything else.
func (c *Certificates) AnswerChallenges(next http.Handler) http.Handler {
	a := c.automatic
	if a == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !certmagic.LooksLikeHTTPChallenge(r) || !a.answerHTTP(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

func (a *automatic) answerHTTP(w http.ResponseWriter, r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	p := a.policyOf(unbracketed(strings.ToLower(host)))
	if p == nil {
		return false
	}
	// Any of the issuers knows the challenges of all.
	issuer, ok := p.config.Issuers[0].(*certmagic.ACMEIssuer)
	return ok && issuer.HandleHTTPChallenge(w, r)
}

// errChallengeAnswered ends a connection after its handshake, which was all that the CA wanted (RFC 8737 §3): it must not
// carry requests, which would come in without what the listener demands of clients.
var errChallengeAnswered = errors.New("answered a TLS-ALPN challenge")

// answerTLS returns the configuration for a CA that looks at a TLS-ALPN-01 challenge, and nil for any other client.
func (a *automatic) answerTLS(hello *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acmez.ACMETLS1Protocol {
		return nil, nil
	}
	p := a.policyOf(challenged(hello.ServerName))
	if p == nil {
		return nil, fmt.Errorf("no certificate is got for %q", hello.ServerName)
	}
	return &stdtls.Config{
		MinVersion: stdtls.VersionTLS12,
		NextProtos: []string{acmez.ACMETLS1Protocol},
		GetCertificate: func(hello *stdtls.ClientHelloInfo) (cert *stdtls.Certificate, err error) {
			idle(hello.Conn, func() { cert, err = p.config.GetCertificate(hello) }) // another gateway's challenge is in the storage
			return cert, err
		},
		SessionTicketsDisabled: true,
	}, nil
}

// challenged is the name that a CA looks at: of an address it sends the reverse mapping (RFC 8738 §6).
func challenged(serverName string) string {
	name := strings.ToLower(serverName)
	labels, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return name
	}
	parts := strings.Split(labels, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".")
}
