package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/zap"

	"gateway/mpm"
	"gateway/proxy"
	"gateway/tls"
)

// fullStatus has something for every metric to tell.
func fullStatus() *statusReport {
	return &statusReport{
		Version: "1.0", FrontPID: 1,
		Connections: connectionCounts{Open: 6, Parked: 3, Idle: 2, Active: 1},
		Responses: []proxy.ResponseStatus{{
			Pool: "php", Classes: map[string]uint64{"2xx": 7, "5xx": 1},
			Times: mpm.Histogram{Count: 8, Seconds: 2.5, Buckets: []mpm.Bucket{{UpTo: 0.1, Count: 3}, {UpTo: 1, Count: 7}}},
		}},
		RateLimits: []proxy.LimitStatus{{Site: "a.test", Refused: 2}, {Site: "a.test", Refused: 3}, {Site: "a.test", Route: "site.hcl:4"}},
		Pools: []mpm.PoolStatus{{
			Name: "php", MPM: "prefork", State: "quarantined", NextTrySeconds: 4,
			Exits: map[mpm.ExitReason]uint64{mpm.ExitCrash: 5},
			Waits: mpm.Histogram{Count: 2, Seconds: 0.5, Buckets: []mpm.Bucket{{UpTo: 0.25, Count: 1}}},
			Children: []mpm.ChildStatus{
				{PID: 7, RSSBytes: 1000, Request: &mpm.ActiveRequest{URI: "/secret", Seconds: 3}}, {PID: 8, RSSBytes: 24, Request: &mpm.ActiveRequest{Seconds: 2}},
			},
		}},
		Upstreams: []proxy.UpstreamStatus{
			{Route: "site.hcl:9", Server: "10.0.0.1:80", State: "ill", Requests: 4, Failed: 1, Relayed: 2},
			{Route: "site.hcl:9", Server: "10.0.0.1:80", State: "well", Requests: 6, Relayed: 5},
		},
		Certificates: []tls.CertificateStatus{
			{Names: []string{"a.test", "b.test"}, Mode: tls.Manual, Expires: time.Unix(3000, 0), Warning: "ends soon"},
			{Names: []string{"a.test", "b.test"}, Mode: tls.Manual, Expires: time.Unix(2000, 0)},
			{Names: []string{"c.test"}, Mode: tls.Auto, Error: "connection refused"},
			{Names: []string{"chosen.test"}, Mode: tls.Auto, OnDemand: true, Expires: time.Unix(5000, 0), Renews: time.Unix(4000, 0), OCSP: "good"},
			{Names: []string{"wanted.test"}, Mode: tls.Auto, OnDemand: true, Error: "no"},
		},
		Storage: &tls.StorageStatus{Name: "redis 10.0.0.2:6379", Error: "gone"},
	}
}

func scrape(t *testing.T, s *statusReport) string {
	t.Helper()
	w := httptest.NewRecorder()
	server := newMetricsServer(func() *statusReport { return s }, zap.NewNop())
	server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics: %d\n%s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetricsTellTheStatus(t *testing.T) {
	text := scrape(t, fullStatus())
	for what, line := range map[string]string{
		"the states of connections are apart":              `gateway_connections{state="parked"} 3`,
		"responses are told by pool and class":             `gateway_responses_total{class="5xx",pool="php"} 1`,
		"the buckets of a histogram hold those before":     `gateway_response_duration_seconds_bucket{pool="php",le="1"} 7`,
		"what is longer than all is in the last bucket":    `gateway_response_duration_seconds_bucket{pool="php",le="+Inf"} 8`,
		"the time in the queue is told":                    `gateway_pool_queue_wait_seconds_sum{pool="php"} 0.5`,
		"a pool is in its state":                           `gateway_pool_state{pool="php",state="quarantined"} 1`,
		"and in no other":                                  `gateway_pool_state{pool="php",state="ready"} 0`,
		"the memory of children is added up":               `gateway_pool_resident_memory_bytes{pool="php"} 1024`,
		"the oldest request is told by its age alone":      `gateway_pool_oldest_request_seconds{pool="php"} 3`,
		"two limits of one place are one":                  `gateway_rate_limit_refused_total{route="",site="a.test"} 5`,
		"a server that a route names twice is one":         `gateway_upstream_requests_total{route="site.hcl:9",server="10.0.0.1:80"} 10`,
		"those that the loops have passed on are told":     `gateway_upstream_requests_relayed_total{route="site.hcl:9",server="10.0.0.1:80"} 7`,
		"of a site's certificates the first to end counts": `gateway_certificate_expiry_timestamp_seconds{mode="manual",name="a.test"} 2000`,
		"a certificate that is missing ended long ago":     `gateway_certificate_expiry_timestamp_seconds{mode="auto",name="c.test"} 0`,
		"its last error is told":                           `gateway_certificate_errors{mode="auto",name="c.test"} 1`,
		"names on demand are one":                          `gateway_certificates{mode="auto",name="*"} 2`,
		"and what none of them has does not count":         `gateway_certificate_expiry_timestamp_seconds{mode="auto",name="*"} 5000`,
		"an OCSP answer is told":                           `gateway_certificate_ocsp{mode="auto",name="*",status="good"} 1`,
		"a storage that is away is told":                   `gateway_certificate_storage_up 0`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s: no %s in\n%s", what, line, text)
		}
	}
	for _, chosen := range []string{"/secret", "chosen.test", "wanted.test"} {
		if strings.Contains(text, chosen) {
			t.Errorf("a label has what a client chose: %s", chosen)
		}
	}
}

func TestMetricsFollowTheConventions(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(scrape(t, fullStatus()))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMetricsOfAStatusThatSaysNothing(t *testing.T) {
	if text := scrape(t, new(statusReport)); strings.Contains(text, "gateway_pool_") || !strings.Contains(text, "gateway_uptime_seconds 0\n") {
		t.Errorf("without a pool /metrics answers\n%s", text)
	}
}

// TestMetricsAreDocumented holds docs/metrics.md to what is told, and that to it. All other names there must be of the list, too.
func TestMetricsAreDocumented(t *testing.T) {
	const docs = "../../docs/metrics.md"
	page, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	text := scrape(t, fullStatus())
	var rows []string
	for i := range allMetrics {
		m := &allMetrics[i]
		labels := "—"
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(m.labels, "`, `") + "`"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", m.name, m.kind, labels, m.help))
		if !strings.Contains(text, "# TYPE "+m.name+" "+string(m.kind)+"\n") {
			t.Errorf("%s is in the list and not told of a full status", m.name)
		}
	}
	documented := regexp.MustCompile("(?m)^\\| `gateway_.*$").FindAllString(string(page), -1)
	if !slices.Equal(documented, rows) {
		t.Errorf("the table of %s is not that of the list:\n%s", docs, strings.Join(rows, "\n"))
	}
	for _, name := range regexp.MustCompile(`gateway_[a-z0-9_]+`).FindAllString(string(page), -1) {
		if !slices.ContainsFunc(allMetrics, func(m metric) bool { return m.name == name }) {
			t.Errorf("%s has %s, which is not told", docs, name)
		}
	}
}

func TestMetricsServerAnswersNothingElse(t *testing.T) {
	server := newMetricsServer(func() *statusReport { return new(statusReport) }, zap.NewNop())
	for name, row := range map[string]struct {
		method, target string
		want           int
	}{
		"GET":                   {http.MethodGet, "/metrics", http.StatusOK},
		"HEAD":                  {http.MethodHead, "/metrics", http.StatusOK},
		"a method with effects": {http.MethodPost, "/metrics", http.StatusMethodNotAllowed},
		"another path":          {http.MethodGet, "/", http.StatusNotFound},
		"a path below":          {http.MethodGet, "/metrics/x", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			server.Handler.ServeHTTP(w, httptest.NewRequest(row.method, row.target, nil))
			if w.Code != row.want {
				body, _ := io.ReadAll(w.Body)
				t.Errorf("%s %s: %d, want %d\n%s", row.method, row.target, w.Code, row.want, body)
			}
		})
	}
}
