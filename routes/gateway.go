package routes

import (
	"slices"
	"strings"
	"time"
)

// The defaults of the gateway block.
const (
	defaultGracePeriod = 30 * time.Second
	defaultLogsKept    = 5
	defaultSpoolDir    = "/var/tmp" // not /tmp, which is often memory
)

// DefaultHTTP2Requests is [Gateway.MaxHTTP2Requests] where nothing is said.
const DefaultHTTP2Requests = 4096

// minLogSize is what the access log writes at once.
const minLogSize = 64 << 10

// gateway reads the gateway block; s may be nil.
func (r *reader) gateway(s *section) Gateway {
	g := Gateway{
		SpoolDir:    defaultSpoolDir,
		SpoolLimit:  get[int64](s, "spool_limit", 0),
		GracePeriod: get(s, "grace_period", defaultGracePeriod),
		Log:         Log{Level: "info", Format: "console"},

		MaxHTTP2Requests: get(s, "max_http2_requests", DefaultHTTP2Requests),
	}
	if s == nil {
		return g
	}
	g.Trust = r.trust(s)
	r.trusting = !g.Trust.IsEmpty()
	g.User = r.account(s, "user", gatewayKey("user"))
	g.RuntimeDir = r.pathOf(s, "runtime_dir", "")
	g.StateDir = r.pathOf(s, "state_dir", "")
	if s.has("spool_dir") {
		g.SpoolDir = r.pathOf(s, "spool_dir", gatewayKey("spool_dir"))
	}
	if log := s.one("log"); log != nil {
		g.Log = Log{Level: get(log, "level", g.Log.Level), Format: get(log, "format", g.Log.Format)}
	}
	if log := s.one("access_log"); log != nil {
		g.AccessLog = r.accessLog(log)
	}
	if metrics := s.one("metrics"); metrics != nil {
		g.Metrics = r.metrics(metrics)
	}
	if storage := s.one("storage"); storage != nil {
		g.Storage = r.storage(storage)
	}
	return g
}

func (r *reader) accessLog(s *section) *AccessLog {
	log := &AccessLog{Path: get(s, "path", "-"), Format: get(s, "format", "combined")}
	if log.Path != "-" {
		log.Path = r.pathOf(s, "path", gatewayKey("access_log"))
	}
	if s.has("max_size") {
		log.MaxSize, log.Keep = get(s, "max_size", int64(0)), get(s, "keep", defaultLogsKept)
	}
	if s.has("max_size") && (log.Path == "-" || log.MaxSize < minLogSize) {
		r.errorf(s.at("max_size"), "Wrong value", "\"max_size\" takes a \"path\" that is a file, and at least 64K: so much is written at once.")
	}
	if s.has("keep") && !s.has("max_size") {
		r.errorf(s.at("keep"), "Missing attribute", "\"keep\" says how many files of \"max_size\" stay: add that, or leave both to logrotate and SIGUSR1.")
	}
	r.ranges[gatewayKey("access_log.format")] = s.at("format")
	known := []string{"common", "combined", "json"}
	if !slices.Contains(known, log.Format) && !strings.Contains(log.Format, "%") {
		r.errorf(s.at("format"), "Unknown value", "\"format\" can be %s, or a format string with Apache's %% directives, not %q.%s",
			alternatives(known), log.Format, didYouMean(log.Format, known))
	}
	return log
}

// metrics reads where the metrics are told; nil: that is wrong.
func (r *reader) metrics(s *section) *Listen {
	if !s.has("listen") {
		return nil
	}
	at := s.at("listen")
	l, reason := r.listenAt(get(s, "listen", ""), at)
	switch {
	case reason != "":
		r.errorf(at, "Wrong listen address", "%s", reason)
		return nil
	case l.TLS || l.H2C || l.Proxied:
		r.errorf(at, "Wrong listen address", "Metrics are told without TLS, and no word may follow their address, nor its port be 443. Write \"127.0.0.1:9180\"; for TLS or a password let a site's route proxy to it.")
		return nil
	case !l.isLocal():
		r.warnf(at, "Metrics for everybody", "Whoever reaches %s reads the metrics, which name pools, sites and servers, without a password. Write \"127.0.0.1:9180\" or \"unix:/path\", or see to it that only your Prometheus reaches the port.", l.Address)
	}
	r.listens.add(r, placedListen{l, at, true})
	return &l
}

// account reads the name or the number of a user or a group, which CheckSystem looks up.
func (r *reader) account(s *section, what, key string) string {
	name := get(s, what, "")
	if s.has(what) && (name == "" || strings.ContainsAny(name, ": /")) {
		r.errorf(s.at(what), "Wrong value", "%q is not the name of a %s.", name, what)
	}
	r.ranges[key] = s.at(what)
	return name
}

// trust reads networks, single addresses, and "unix".
func (r *reader) trust(s *section) (t Trust) {
	for i, text := range get[[]string](s, "trusted_proxies", nil) {
		if text == "unix" {
			t.Unix = true
			continue
		}
		network, err := parseNetwork(text)
		if err != nil || network != network.Masked() {
			r.errorf(s.elementAt("trusted_proxies", i), "Wrong network", "%q is neither a network such as \"10.0.0.0/8\", whose last bits are 0, nor an address, nor \"unix\".", text)
			continue
		}
		t.Networks = append(t.Networks, network)
	}
	return t
}
