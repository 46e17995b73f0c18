package routes

import (
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The defaults of storage "redis".
const (
	defaultStoragePrefix  = "gateway"
	defaultStorageTimeout = 3 * time.Second // less than a client waits for a handshake
)

// storageEngines are the labels of a storage block, and the attributes and blocks that each of them takes.
var storageEngines = map[string][]string{
	"file":  {"path"},
	"redis": {"address", "username", "password", "password_file", "database", "prefix", "timeout", "tls"},
}

var storagePrefix = regexp.MustCompile(`^[\w.:{}-]{1,64}$`)

func (r *reader) storage(s *section) Storage {
	engine := s.label()
	mine, known := storageEngines[engine.text]
	if !known {
		if len(s.labels) > 0 {
			engines := slices.Sorted(maps.Keys(storageEngines))
			r.errorf(engine.at, "Unknown storage", "There is no storage %q: it can be %s.%s", engine.text, alternatives(engines), didYouMean(engine.text, engines))
		}
		return Storage{}
	}
	for other, words := range storageEngines {
		for _, word := range s.mentioned(words) {
			if other != engine.text {
				r.errorf(s.given[word], "No effect", "%q is for storage %q, and this is storage %q. It takes %s.", word, other, engine.text, alternatives(mine))
			}
		}
	}
	if engine.text == "redis" {
		return Storage{Redis: r.redis(s)}
	}
	if !s.mentions("path") {
		return Storage{}
	}
	return Storage{Path: r.pathOf(s, "path", gatewayKey("storage.path"))}
}

func (r *reader) redis(s *section) *Redis {
	d := &Redis{
		Username: get(s, "username", ""), Password: get(s, "password", ""), Database: get(s, "database", 0),
		Prefix: get(s, "prefix", defaultStoragePrefix), Timeout: get(s, "timeout", defaultStorageTimeout),
	}
	r.redisAddress(s, d)
	if s.mentions("password") && s.mentions("password_file") {
		r.errorf(s.given["password_file"], "Password given twice", "Remove \"password\" or \"password_file\".")
	}
	if s.has("password_file") {
		d.PasswordFile = r.pathOf(s, "password_file", gatewayKey("storage.password_file"))
	}
	if s.mentions("username") && !s.mentions("password") && !s.mentions("password_file") {
		r.errorf(s.at("username"), "Missing attribute", "A user needs a password: \"password_file\", or \"password\", such as env(\"REDIS_PASSWORD\").")
	}
	if !storagePrefix.MatchString(d.Prefix) {
		r.errorf(s.at("prefix"), "Wrong value", "%q can't be how the names of keys begin: letters, digits, \"_\", \".\", \":\", \"-\" and braces, at most 64 of them.", d.Prefix)
	}
	if tls := s.one("tls"); tls != nil {
		t := r.clientTLS(tls, "ca_root", gatewayKey("storage.tls."))
		d.TLS = &t
	}
	switch {
	case d.Network == "unix" && d.TLS != nil:
		r.errorf(s.given["tls"], "No effect", "There is no TLS on the unix socket %s. Remove the block.", d.Address)
	case d.Network == "tcp" && d.TLS == nil && !onThisMachine(d.Address):
		r.warnf(s.at("address"), "Keys in the clear", "The private keys of all sites go to %s without TLS. Add a tls block, if the network between is not as safe as this machine.", d.Address)
	}
	return d
}

func (r *reader) redisAddress(s *section, d *Redis) {
	const form = "write \"HOST:PORT\", as \"redis.internal:6379\", or \"unix:/path\""
	if !s.mentions("address") {
		r.errorf(s.head, "Missing attribute", "\"address\" says where the server is: %s.", form)
	}
	if !s.has("address") {
		return
	}
	text := get(s, "address", "")
	if path, ok := strings.CutPrefix(text, "unix:"); ok && path != "" {
		d.Network, d.Address = "unix", r.path(path, s.at("address"))
		return
	}
	host, port, err := net.SplitHostPort(text)
	if _, ok := parsePort(port); err != nil || !ok || host == "" || strings.ContainsAny(host, "/@ ") {
		r.errorf(s.at("address"), "Wrong value", "%q is not the address of a server: %s.", text, form)
		return
	}
	d.Network, d.Address = "tcp", text
}

// onThisMachine reports whether what is sent to an address stays here.
func onThisMachine(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, ipErr := netip.ParseAddr(host)
	return err == nil && (host == "localhost" || ipErr == nil && ip.IsLoopback())
}

// clientTLS reads a tls block in which ca is the word for whom to trust. The key begins the names of its files in the table of places.
func (r *reader) clientTLS(s *section, ca, key string) ClientTLS {
	t := ClientTLS{ServerName: get(s, "server_name", "")}
	for name, path := range map[string]*string{ca: &t.CARoot, "certificate": &t.Certificate, "key": &t.Key} {
		if s.has(name) {
			*path = r.pathOf(s, name, key+name)
		}
	}
	if s.mentions("certificate") != s.mentions("key") {
		r.errorf(s.head, "Missing attribute", "\"certificate\" and \"key\" are what the gateway shows the server: give both, or none.")
	}
	return t
}
