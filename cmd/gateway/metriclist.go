package main

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gateway/mpm"
	"gateway/proxy"
	"gateway/tls"
)

// metric is a row of the list of all metrics: what it is called, and how it is read off a status.
type metric struct {
	name   string
	kind   metricKind
	labels []string // none that clients choose the values of
	help   string
	read   func(*statusReport, figures)
}

// metricKind is a type of Prometheus, by its name there.
type metricKind string

const (
	counter   metricKind = "counter"
	gauge     metricKind = "gauge"
	histogram metricKind = "histogram"
)

func (m *metric) desc() *prometheus.Desc { return prometheus.NewDesc(m.name, m.help, m.labels, nil) }

// figures are the values of one metric, by their labels.
type figures map[string]*figure

type figure struct {
	labels []string
	value  float64
	times  mpm.Histogram // instead, of a histogram
}

// add adds to the value with these labels: two servers, or two sites, may have the same.
func (f figures) add(value float64, labels ...string) { f.at(labels).value += value }

func (f figures) at(labels []string) *figure {
	key := keyOf(labels)
	if f[key] == nil {
		f[key] = &figure{labels: labels}
	}
	return f[key]
}

func keyOf(labels []string) string { return strings.Join(labels, "\x00") }

func (f *figure) metric(desc *prometheus.Desc, kind metricKind) (prometheus.Metric, error) {
	switch kind {
	case histogram:
		buckets := make(map[float64]uint64, len(f.times.Buckets))
		for _, b := range f.times.Buckets {
			buckets[b.UpTo] = b.Count
		}
		return prometheus.NewConstHistogram(desc, f.times.Count, f.times.Seconds, buckets, f.labels...)
	case counter:
		return prometheus.NewConstMetric(desc, prometheus.CounterValue, f.value, f.labels...)
	default:
		return prometheus.NewConstMetric(desc, prometheus.GaugeValue, f.value, f.labels...)
	}
}

// The labels of metrics that several have.
var (
	ofPool        = []string{"pool"}
	ofServer      = []string{"route", "server"}
	ofCertificate = []string{"name", "mode"}
)

// allMetrics is the list of them; docs/metrics.md tells the same. Counters begin anew with each front.
var allMetrics = slices.Concat(frontMetrics, requestMetrics, poolMetrics, upstreamMetrics, certificateMetrics)

var frontMetrics = []metric{
	{"gateway_build_info", gauge, []string{"version"}, "Version of the gateway; the value is 1.", func(s *statusReport, f figures) { f.add(1, s.Version) }},
	{"gateway_uptime_seconds", gauge, nil, "Time since the gateway was started.", one(func(s *statusReport) float64 { return s.UptimeSeconds })},
	{"gateway_front_uptime_seconds", gauge, nil, "Time since the front was started; it is less than that of the gateway once one was replaced.", one(func(s *statusReport) float64 { return s.FrontSeconds })},
	{"gateway_generation", gauge, nil, "Number of the configuration that is served.", one(func(s *statusReport) float64 { return float64(s.Generation) })},
	{"gateway_front_goroutines", gauge, nil, "Goroutines of the front.", one(func(s *statusReport) float64 { return float64(s.Goroutines) })},
	{"gateway_front_descriptors", gauge, nil, "Open file descriptors of the front.", one(func(s *statusReport) float64 { return float64(s.Descriptors) })},
	{"gateway_connections", gauge, []string{"state"}, "Open connections of clients: parked without a request, idle with HTTP/2, or active.", func(s *statusReport, f figures) {
		f.add(float64(s.Connections.Parked), "parked")
		f.add(float64(s.Connections.Idle), "idle")
		f.add(float64(s.Connections.Active), "active")
	}},
	{"gateway_connections_accepted_total", counter, nil, "Connections of clients that were accepted.", one(func(s *statusReport) float64 { return float64(s.Connections.Accepted) })},
	{"gateway_accept_pauses_total", counter, nil, "Times that accepting paused for want of file descriptors.", one(func(s *statusReport) float64 { return float64(s.Connections.Pauses) })},
	{"gateway_http2_requests_refused_total", counter, nil, "Requests over HTTP/2 above max_http2_requests.", one(func(s *statusReport) float64 { return float64(s.Connections.Refused) })},
	{"gateway_tls_handshakes_total", counter, []string{"result"}, "TLS handshakes that are over, done or failed.", func(s *statusReport, f figures) {
		f.add(float64(s.Handshakes.Done), "done")
		f.add(float64(s.Handshakes.Failed), "failed")
	}},
	{"gateway_tls_handshakes_shed_total", counter, nil, "Of the failed handshakes, those given up because too many clients kept theirs waiting.", one(func(s *statusReport) float64 { return float64(s.Handshakes.Shed) })},
	{"gateway_access_log_dropped_lines_total", counter, nil, "Lines of the access log that the disk or the reader did not take.", one(func(s *statusReport) float64 { return float64(s.AccessLog.Dropped) })},
	{"gateway_spool_bytes", gauge, nil, "Bytes of requests and responses that wait in files of spool_dir.", one(func(s *statusReport) float64 { return float64(s.Spool.Bytes) })},
	{"gateway_spool_limit_bytes", gauge, nil, "The spool_limit; 0: none.", one(func(s *statusReport) float64 { return float64(s.Spool.Limit) })},
	{"gateway_hot_cache_hits_total", counter, nil, "Requests for files that were answered from memory.", one(func(s *statusReport) float64 { return float64(s.Cache.Hits) })},
	{"gateway_hot_cache_misses_total", counter, nil, "Requests for files that had to be read.", one(func(s *statusReport) float64 { return float64(s.Cache.Misses) })},
	{"gateway_hot_cache_evictions_total", counter, nil, "Files that had to make room for others.", one(func(s *statusReport) float64 { return float64(s.Cache.Evictions) })},
	{"gateway_hot_cache_files", gauge, nil, "Files that are kept, in memory or open.", one(func(s *statusReport) float64 { return float64(s.Cache.Entries) })},
	{"gateway_hot_cache_open_files", gauge, nil, "Of these, the large ones, which are kept open.", one(func(s *statusReport) float64 { return float64(s.Cache.OpenFiles) })},
	{"gateway_hot_cache_bytes", gauge, nil, "Bytes of the files that are kept in memory.", one(func(s *statusReport) float64 { return float64(s.Cache.Bytes) })},
}

var requestMetrics = []metric{
	{"gateway_responses_total", counter, []string{"pool", "class"}, "Responses by class of status, 1xx to 5xx; none: the client got no response. The pool is empty for requests that came to none, as refused and redirected ones.", func(s *statusReport, f figures) {
		for i := range s.Responses {
			for class, n := range s.Responses[i].Classes {
				f.add(float64(n), s.Responses[i].Pool, class)
			}
		}
	}},
	{"gateway_response_duration_seconds", histogram, ofPool, "Time from the head of a request to the last byte of its response; files that were answered from memory are not counted.", func(s *statusReport, f figures) {
		for i := range s.Responses {
			f.at([]string{s.Responses[i].Pool}).times = s.Responses[i].Times
		}
	}},
	{"gateway_rate_limit_refused_total", counter, []string{"site", "route"}, "Requests that a rate_limit has refused; the route is empty for the limits of the site itself.", func(s *statusReport, f figures) {
		for _, l := range s.RateLimits {
			f.add(float64(l.Refused), l.Site, l.Route)
		}
	}},
}

var poolMetrics = []metric{
	{"gateway_pool_info", gauge, []string{"pool", "mpm"}, "The MPM of a pool; the value is 1.", pools(func(p *mpm.PoolStatus, f figures) { f.add(1, p.Name, p.MPM) })},
	{"gateway_pool_state", gauge, []string{"pool", "state"}, "1 for the state that the pool is in.", pools(func(p *mpm.PoolStatus, f figures) {
		states(f, p.State, mpm.PoolStates(), p.Name)
	})},
	{"gateway_pool_next_try_seconds", gauge, ofPool, "Time until a pool in quarantine starts a child again; 0: it is in none.", each(func(p *mpm.PoolStatus) float64 { return p.NextTrySeconds })},
	{"gateway_pool_requests_total", counter, ofPool, "Requests that had a slot, or were answered from memory.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Requests.Total) })},
	{"gateway_pool_requests_failed_total", counter, ofPool, "Of these, those that lost their child, its connection or their time, or got no proper response.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Requests.Failed) })},
	{"gateway_pool_requests_hot_total", counter, ofPool, "Of these, those for files that were answered from memory.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Requests.Hot) })},
	{"gateway_pool_slots", gauge, ofPool, "Slots of the children that are ready.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Slots.Total) })},
	{"gateway_pool_slots_busy", gauge, ofPool, "Slots with a request.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Slots.Busy) })},
	{"gateway_pool_slots_limit", gauge, ofPool, "Slots that there can be: max_request_workers.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Slots.Limit) })},
	{"gateway_pool_oldest_request_seconds", gauge, ofPool, "How long the oldest request in a child has lasted; 0: there is none.", each(oldestRequest)},
	{"gateway_pool_queue_waiting", gauge, ofPool, "Requests that wait for a slot.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Queue.Waiting) })},
	{"gateway_pool_queue_held_by_session", gauge, ofPool, "Of these, those that session_limit keeps.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Queue.Held) })},
	{"gateway_pool_queue_limit", gauge, ofPool, "Requests that may wait: queue length.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Queue.Length) })},
	{"gateway_pool_queue_rejected_total", counter, ofPool, "Requests that found the queue full and got 503.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Queue.Rejected) })},
	{"gateway_pool_queue_timed_out_total", counter, ofPool, "Requests that waited for the queue's timeout and got 503.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Queue.TimedOut) })},
	{"gateway_pool_queue_abandoned_total", counter, ofPool, "Requests whose client left while they waited.", each(func(p *mpm.PoolStatus) float64 { return float64(p.Queue.Abandoned) })},
	{"gateway_pool_queue_wait_seconds", histogram, ofPool, "How long requests waited for a slot, those that got one at once and those that timed out included.", pools(func(p *mpm.PoolStatus, f figures) {
		f.at([]string{p.Name}).times = p.Waits
	})},
	{"gateway_pool_processes", gauge, []string{"pool", "state"}, "Children by state: starting, idle, busy, draining.", pools(func(p *mpm.PoolStatus, f figures) {
		f.add(float64(p.Processes.Starting), p.Name, "starting")
		f.add(float64(p.Processes.Idle), p.Name, "idle")
		f.add(float64(p.Processes.Busy), p.Name, "busy")
		f.add(float64(p.Processes.Draining), p.Name, "draining")
	})},
	{"gateway_pool_resident_memory_bytes", gauge, ofPool, "Resident memory of all children together; what they share is in it several times.", each(residentBytes)},
	{"gateway_pool_child_exits_total", counter, []string{"pool", "reason"}, "Ends of children by reason.", pools(func(p *mpm.PoolStatus, f figures) {
		for reason, n := range p.Exits {
			f.add(float64(n), p.Name, string(reason))
		}
	})},
}

var upstreamMetrics = []metric{
	{"gateway_upstream_state", gauge, []string{"route", "server", "state"}, "1 for the state that a server of a proxy route is in: well, failing (passed over for a while), ill (its health check fails).", upstreams(func(u *proxy.UpstreamStatus, f figures) {
		states(f, u.State, proxy.UpstreamStates(), u.Route, u.Server)
	})},
	{"gateway_upstream_connections", gauge, []string{"route", "server", "state"}, "Connections to a server: active with a request, or idle.", upstreams(func(u *proxy.UpstreamStatus, f figures) {
		f.add(float64(u.Connections.Active), u.Route, u.Server, "active")
		f.add(float64(u.Connections.Idle), u.Route, u.Server, "idle")
	})},
	{"gateway_upstream_requests_total", counter, ofServer, "Requests that a server was asked.", upstreams(func(u *proxy.UpstreamStatus, f figures) {
		f.add(float64(u.Requests), u.Route, u.Server)
	})},
	{"gateway_upstream_requests_failed_total", counter, ofServer, "Of these, those that failed.", upstreams(func(u *proxy.UpstreamStatus, f figures) {
		f.add(float64(u.Failed), u.Route, u.Server)
	})},
	{"gateway_upstream_requests_relayed_total", counter, ofServer, "Of all requests, those that were relayed: passed on as they are, by an event loop or the goroutine of a connection.", upstreams(func(u *proxy.UpstreamStatus, f figures) {
		f.add(float64(u.Relayed), u.Route, u.Server)
	})},
}

// onDemandName stands for all names that clients chose.
const onDemandName = "*"

var certificateMetrics = []metric{
	{"gateway_certificates", gauge, ofCertificate, "Certificates, and names that wait for one. The name is the first of the site, or * for all on demand.", certificates(func(c *tls.CertificateStatus, f figures, labels []string) {
		f.add(1, labels...)
	})},
	{"gateway_certificate_expiry_timestamp_seconds", gauge, ofCertificate, "When a certificate ends, the first of several; 0: there is none yet.", certificates(func(c *tls.CertificateStatus, f figures, labels []string) {
		f.earliest(c.Expires, c.OnDemand, labels)
	})},
	{"gateway_certificate_renewal_timestamp_seconds", gauge, ofCertificate, "When a certificate is renewed, about; 0: never, or there is none yet.", certificates(func(c *tls.CertificateStatus, f figures, labels []string) {
		f.earliest(c.Renews, c.OnDemand, labels)
	})},
	{"gateway_certificate_errors", gauge, ofCertificate, "Certificates whose last try to get, renew or read them failed.", certificates(func(c *tls.CertificateStatus, f figures, labels []string) {
		f.add(count(c.Error != ""), labels...)
	})},
	{"gateway_certificate_warnings", gauge, ofCertificate, "Certificates of one's own that have expired, soon will, or are not valid yet.", certificates(func(c *tls.CertificateStatus, f figures, labels []string) {
		f.add(count(c.Warning != ""), labels...)
	})},
	{"gateway_certificate_ocsp", gauge, []string{"name", "mode", "status"}, "Certificates with an OCSP answer, by what it says: good, revoked, unknown.", certificates(func(c *tls.CertificateStatus, f figures, labels []string) {
		if c.OCSP != "" {
			f.add(1, labels[0], labels[1], c.OCSP)
		}
	})},
	{"gateway_certificate_storage_up", gauge, nil, "Whether the Redis server of a fleet's certificates can be reached; only with one.", func(s *statusReport, f figures) {
		if s.Storage != nil {
			f.add(count(s.Storage.Error == ""))
		}
	}},
}

func count(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// states adds a value for each state that there is.
func states(f figures, state string, all []string, labels ...string) {
	for _, name := range all {
		f.add(count(name == state), append(slices.Clone(labels), name)...)
	}
}

func one(value func(*statusReport) float64) func(*statusReport, figures) {
	return func(s *statusReport, f figures) { f.add(value(s)) }
}

func pools(read func(*mpm.PoolStatus, figures)) func(*statusReport, figures) {
	return func(s *statusReport, f figures) {
		for i := range s.Pools {
			read(&s.Pools[i], f)
		}
	}
}

func each(value func(*mpm.PoolStatus) float64) func(*statusReport, figures) {
	return pools(func(p *mpm.PoolStatus, f figures) { f.add(value(p), p.Name) })
}

func oldestRequest(p *mpm.PoolStatus) (longest float64) {
	for i := range p.Children {
		if r := p.Children[i].Request; r != nil {
			longest = max(longest, r.Seconds)
		}
	}
	return longest
}

func residentBytes(p *mpm.PoolStatus) (sum float64) {
	for i := range p.Children {
		sum += float64(p.Children[i].RSSBytes)
	}
	return sum
}

func upstreams(read func(*proxy.UpstreamStatus, figures)) func(*statusReport, figures) {
	return func(s *statusReport, f figures) {
		for i := range s.Upstreams {
			read(&s.Upstreams[i], f)
		}
	}
}

func certificates(read func(*tls.CertificateStatus, figures, []string)) func(*statusReport, figures) {
	return func(s *statusReport, f figures) {
		for i := range s.Certificates {
			c := &s.Certificates[i]
			labels := []string{c.Names[0], c.Mode}
			if c.OnDemand {
				labels[0] = onDemandName
			}
			read(c, f, labels)
		}
	}
}

// earliest keeps the first of the times with these labels. A name on demand that has none is its client's wish, and no fault.
func (f figures) earliest(t time.Time, onDemand bool, labels []string) {
	seconds := 0.0
	switch {
	case !t.IsZero():
		seconds = float64(t.Unix())
	case onDemand:
		return
	}
	_, known := f[keyOf(labels)]
	if at := f.at(labels); !known || seconds < at.value {
		at.value = seconds
	}
}
