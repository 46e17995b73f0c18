package main

import (
	"errors"
	"flag"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"
)

const (
	metricsConnections = 16 // at once; the others wait
	metricsReadTimeout = 5 * time.Second
	metricsTimeout     = 15 * time.Second // until the answer has gone
	metricsHeadBytes   = 8 << 10
)

// printMetrics prints what /metrics would answer.
func printMetrics(args []string) error {
	flags := flag.NewFlagSet("metrics", flag.ContinueOnError)
	socket := flags.String("socket", "", "`path` of the admin socket")
	if _, err := parse(flags, args); err != nil {
		return err
	}
	s, err := askFront(*socket)
	if err != nil {
		return err
	}
	families, err := metricsOf(func() *statusReport { return s }).Gather()
	if err != nil {
		return err
	}
	text := expfmt.NewEncoder(os.Stdout, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if err := text.Encode(family); err != nil {
			return err
		}
	}
	return nil
}

// serveMetrics answers on a listening socket of its own, apart from the engine: whoever watches has to be answered when clients can't
// be.
func (f *front) serveMetrics(socket *os.File) error {
	l, err := net.FileListener(socket)
	if err = errors.Join(err, socket.Close()); err != nil {
		return err
	}
	server := newMetricsServer(f.status, f.log.Desugar())
	go func() { // ends with the process
		f.log.Errorw("metrics are told no more", "error", server.Serve(netutil.LimitListener(l, metricsConnections)))
	}()
	return nil
}

// newMetricsServer answers GET and HEAD of /metrics. A connection is for one request, so that none is held.
func newMetricsServer(status func() *statusReport, log *zap.Logger) *http.Server {
	errorLog := zap.NewStdLog(log)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metricsOf(status), promhttp.HandlerOpts{
		ErrorLog: errorLog, ErrorHandling: promhttp.ContinueOnError, CoalesceGather: true, DisableCompression: true,
	}))
	s := &http.Server{
		Handler: mux, ReadTimeout: metricsReadTimeout, WriteTimeout: metricsTimeout, MaxHeaderBytes: metricsHeadBytes,
		DisableGeneralOptionsHandler: true, ErrorLog: errorLog,
	}
	s.SetKeepAlivesEnabled(false)
	return s
}

// metricsOf reads a status anew for each who asks.
func metricsOf(status func() *statusReport) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{status}) // the list of metrics is right or wrong whatever the status: a test has seen it
	return r
}

// collector makes metrics of a status, so that counting costs requests nothing more.
type collector struct{ status func() *statusReport }

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for i := range allMetrics {
		to <- allMetrics[i].desc()
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.status()
	for i := range allMetrics {
		m, all := &allMetrics[i], figures{}
		m.read(s, all)
		desc := m.desc()
		for _, f := range all {
			made, err := f.metric(desc, m.kind)
			if err != nil {
				made = prometheus.NewInvalidMetric(desc, err)
			}
			to <- made
		}
	}
}
