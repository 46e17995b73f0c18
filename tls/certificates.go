// Package tls holds the certificates of every site and puts TLS on accepted connections.
//
// It is the only package that imports crypto/tls and certmagic. It runs in the unprivileged front: it is given certificates
// and keys as bytes, never as paths, and reads and writes nothing but the state directory.
package tls

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gateway/routes"
)

// The values of [Site.Mode].
const (
	Auto     = "auto"     // got from CAs by ACME
	Internal = "internal" // issued by the local CA of this package
	Manual   = "manual"   // Pairs are given
)

// checkInterval is how often certificates are looked at. It bounds how late a renewal is after the machine slept.
const checkInterval = time.Minute

// Site is what this package has to know of a site with TLS.
type Site struct {
	Of          *routes.Site       // by which others know it
	Names       []string           // host names, "*.example.com", or IP addresses; the first one names the site in messages
	Mode        string             // Auto, Internal or Manual
	Addresses   []string           // the TLS listeners it is on, as "network address": "tcp :443"
	Pairs       []Pair             // for Manual: a client gets the first that it can use
	ACME        *routes.ACME       // for Auto
	CARootsPEM  []byte             // for Auto: the bytes of ACME.CARoot
	MinVersion  string             // "1.3"; else 1.2
	ClientAuth  *routes.ClientAuth // nil: clients need no certificate
	ClientCAPEM []byte             // the bytes of ClientAuth.CA
}

// Pair is a certificate and its key, as the bytes of their files.
type Pair struct {
	CertificatePEM []byte // the site's own certificate first, intermediates after it
	KeyPEM         []byte
}

func (s *Site) name() string {
	if len(s.Names) == 0 {
		return ""
	}
	return s.Names[0]
}

// Log receives one message. The text is constant, kv alternates keys and values.
type Log = func(level, msg string, kv ...any)

// Certificates are the certificates of one configuration. Safe for concurrent use.
type Certificates struct {
	// Immutable after New.
	listeners map[string]*listener // by "network address"
	entries   []*entry             // every site once, in file order
	authority *authority           // nil: no site is internal
	automatic *automatic           // nil: no site has automatic certificates
	log       Log
	interval  time.Duration      // of maintain
	cancel    context.CancelFunc // ends maintain
	stopped   chan struct{}      // closed when maintain has ended

	storage      routes.Storage
	storageFiles StorageFiles

	buffers sync.Pool // see Conn

	mu    sync.Mutex // guards what follows
	terms map[termsKey]*terms
}

// entry is a site with its current certificate.
type entry struct {
	site         Site                                  // immutable
	terms        atomic.Pointer[terms]                 // replaced when the site trusts other clients
	policy       *policy                               // of an automatic site, whose certificates it has; immutable
	certificates atomic.Pointer[[]*stdtls.Certificate] // of every other site, at least one; Leaf is set

	mu       sync.Mutex // guards what follows
	warnings []string   // the last ones of their ends, by certificate, and when that was
	warned   time.Time
	trouble  string // why the files of a given certificate can't replace it; empty: they can
	mistrust string // why the file of ClientAuth.CA can't replace its bytes; empty: it can
}

// listener chooses among the sites of one listening address. Immutable, but for configs and changes.
type listener struct {
	config    *stdtls.Config // one for all connections of the address, or session tickets could not be resumed
	configs   sync.Map       // *terms to *stdtls.Config, for connections on other terms
	changes   atomic.Uint32  // of sites' terms: the beginnings and the ends of them
	automatic *automatic     // nil: no site of any listener has automatic certificates
	sites     map[*routes.Site]*entry
	exact     map[string]*entry
	wildcards map[string]*entry // key ".example.com" for "*.example.com"
	addresses map[netip.Addr]*entry
	first     *entry
}

// New prepares the certificates of sites, in file order. What is wrong with a given certificate is an error when no
// client could connect (the key does not fit), a warning to log when clients would complain (expired, a name is missing).
//
// Internal certificates are issued by a CA whose root is kept in stateDir. Automatic ones are kept there, too, unless
// [WithStorage] says otherwise: those that are stored are served from the beginning, and the others once a CA has issued them.
// A storage that can't be reached is no error. The caller must call [Certificates.Close].
func New(stateDir string, sites []Site, log Log, options ...Option) (*Certificates, error) {
	return newCertificates(stateDir, sites, log, checkInterval, options...)
}

// newCertificates is New with the interval in which certificates are looked at.
func newCertificates(stateDir string, sites []Site, log Log, interval time.Duration, options ...Option) (*Certificates, error) {
	c := &Certificates{
		listeners: make(map[string]*listener),
		terms:     make(map[termsKey]*terms),
		log:       log,
		interval:  interval,
		stopped:   make(chan struct{}),
	}
	for _, option := range options {
		option(c)
	}
	now := time.Now()
	for _, site := range sites {
		e, err := c.newEntry(stateDir, site, now)
		if err != nil {
			c.closeAutomatic()
			return nil, fmt.Errorf("site %q: %w", site.name(), err)
		}
		c.entries = append(c.entries, e)
		for _, address := range site.Addresses {
			c.listen(address).add(e)
		}
	}
	for _, l := range c.listeners {
		l.automatic = c.automatic
		l.config.GetConfigForClient = l.configFor
	}
	if c.automatic != nil {
		c.automatic.check(now)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go c.maintain(ctx) // Close ends it
	return c, nil
}

func (c *Certificates) newEntry(stateDir string, site Site, now time.Time) (*entry, error) {
	e := &entry{site: site}
	t, err := c.termsOf(&site)
	if err != nil {
		return nil, err
	}
	e.terms.Store(t)
	switch site.Mode {
	case Manual:
		certs, err := parsePairs(site.Pairs)
		if err != nil {
			return nil, err
		}
		c.give(e, certs, now)
	case Internal:
		if err := c.openAuthority(stateDir, now); err != nil {
			return nil, err
		}
		cert, err := c.authority.issue(site.Names, now)
		if err != nil {
			return nil, err
		}
		e.certificates.Store(&[]*stdtls.Certificate{cert})
	case Auto:
		if err := c.openAutomatic(stateDir); err != nil {
			return nil, err
		}
		p, err := c.automatic.addSite(&e.site)
		if err != nil {
			return nil, err
		}
		e.policy = p
	default:
		return nil, fmt.Errorf("unknown TLS mode %q", site.Mode)
	}
	return e, nil
}

// openAutomatic prepares what all sites with automatic certificates share, once the first one needs it.
func (c *Certificates) openAutomatic(stateDir string) error {
	if c.automatic != nil {
		return nil
	}
	c.automatic = newAutomatic(c.log, c.interval)
	if err := c.automatic.openStorage(stateDir, c.storage, c.storageFiles); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

// openAuthority loads or makes the local CA once the first site needs it.
func (c *Certificates) openAuthority(stateDir string, now time.Time) error {
	if c.authority != nil {
		return nil
	}
	a, err := openAuthority(stateDir, c.log, now)
	if err != nil {
		return err
	}
	c.authority = a
	return nil
}

// listen returns the listener of an address, new if need be.
func (c *Certificates) listen(address string) *listener {
	l, ok := c.listeners[address]
	if !ok {
		l = newListener("h2", "http/1.1")
		c.listeners[address] = l
	}
	return l
}

// newListener takes the ALPN protocols the server speaks, the preferred one first.
func newListener(protocols ...string) *listener {
	l := &listener{
		sites:     make(map[*routes.Site]*entry),
		exact:     make(map[string]*entry),
		wildcards: make(map[string]*entry),
		addresses: make(map[netip.Addr]*entry),
	}
	l.config = &stdtls.Config{
		MinVersion:     stdtls.VersionTLS12,
		CipherSuites:   suites(),
		NextProtos:     protocols,
		GetCertificate: l.certificate,
		// Small first records cost four writes where one is enough (10 KB).
		DynamicRecordSizingDisabled: true,
	}
	return l
}

// add makes e a choice. Of two sites with the same name the first one wins, as it does for the routes.
func (l *listener) add(e *entry) {
	if l.first == nil {
		l.first = e
	}
	l.sites[e.site.Of] = e
	l.offer(e.terms.Load())
	for _, name := range e.site.Names {
		name = strings.ToLower(name)
		if addr, ok := parseIP(name); ok {
			addOnce(l.addresses, addr, e)
		} else if suffix, ok := strings.CutPrefix(name, "*"); ok {
			addOnce(l.wildcards, suffix, e)
		} else {
			addOnce(l.exact, name, e)
		}
	}
}

func addOnce[K comparable](m map[K]*entry, key K, e *entry) {
	if _, ok := m[key]; !ok {
		m[key] = e
	}
}

// certificate is the listener's choice for a client, of those that its site has.
func (l *listener) certificate(hello *stdtls.ClientHelloInfo) (*stdtls.Certificate, error) {
	if l.first == nil {
		return nil, errors.New("no site with TLS is on this address")
	}
	e := l.siteOf(hello.ServerName, hello.Conn)
	if e.policy != nil {
		return e.policy.certificate(hello, &e.site)
	}
	certs := *e.certificates.Load()
	for _, cert := range certs[:len(certs)-1] {
		if hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return certs[len(certs)-1], nil
}

// siteOf is the site that a client asks for by its server name: exactly, then by the longest wildcard, else the first one, as
// [routes.Table] has it for requests. A client that connects to an IP address sends no name (RFC 6066 §3): then the address it
// reached decides.
func (l *listener) siteOf(name string, c net.Conn) *entry {
	if name == "" {
		return l.byAddress(c.LocalAddr())
	}
	name = strings.ToLower(name)
	if e, ok := l.exact[name]; ok {
		return e
	}
	for i := 1; i < len(name); i++ {
		if name[i] != '.' {
			continue
		}
		if e, ok := l.wildcards[name[i:]]; ok {
			return e
		}
	}
	return l.first
}

func (l *listener) byAddress(local net.Addr) *entry {
	if local == nil {
		return l.first
	}
	ap, err := netip.ParseAddrPort(local.String())
	if err != nil { // a unix socket
		return l.first
	}
	if e, ok := l.addresses[ap.Addr().Unmap().WithZone("")]; ok {
		return e
	}
	return l.first
}

// parseIP reads an IP address as a site may write it, an IPv6 address with or without brackets.
func parseIP(name string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(name, "["); ok {
		name, ok = strings.CutSuffix(inner, "]")
		if !ok {
			return netip.Addr{}, false
		}
	}
	addr, err := netip.ParseAddr(name)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

// Server puts TLS on a connection that was accepted on address ("network address"). It does no I/O; see [Conn.Handshake].
// The handshake fails when no site is on that address.
func (c *Certificates) Server(address string, raw net.Conn) *Conn {
	l, ok := c.listeners[address]
	if !ok {
		l = newListener()
	}
	return &Conn{Conn: stdtls.Server(raw, l.config), listener: l, buffers: &c.buffers}
}

// RootPEM returns the certificate of the local CA's root, which clients must trust; nil when no site is internal.
func (c *Certificates) RootPEM() []byte {
	if c.authority == nil {
		return nil
	}
	return c.authority.rootPEM
}

// Close ends the renewal of certificates. Connections go on, and new ones get the certificates as they are.
func (c *Certificates) Close() {
	c.cancel()
	<-c.stopped
	c.closeAutomatic()
}

func (c *Certificates) closeAutomatic() {
	if c.automatic != nil {
		c.automatic.close()
	}
}

// maintain renews internal certificates and warns of given ones that come to their end.
func (c *Certificates) maintain(ctx context.Context) {
	defer close(c.stopped)
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.check(time.Now())
		}
	}
}

func (c *Certificates) check(now time.Time) {
	for _, e := range c.entries {
		switch {
		case e.site.Mode == Manual:
			c.warnValidity(e, now)
		case e.site.Mode == Internal && renewalDue((*e.certificates.Load())[0].Leaf, now):
			c.renew(e, now)
		}
	}
	if c.automatic != nil {
		c.automatic.check(now)
	}
}

// renew replaces an internal certificate. After a failure the old one is kept and the next check tries again.
func (c *Certificates) renew(e *entry, now time.Time) {
	cert, err := c.authority.issue(e.site.Names, now)
	if err != nil {
		c.log("error", "internal certificate could not be renewed", "site", e.site.name(), "error", err)
		return
	}
	e.certificates.Store(&[]*stdtls.Certificate{cert})
	c.log("info", "internal certificate renewed", "site", e.site.name(), "expires", cert.Leaf.NotAfter)
}
