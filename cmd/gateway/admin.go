package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gateway/mpm"
	"gateway/proxy"
	"gateway/tls"
)

// adminName is the admin socket's name in runtime_dir.
const adminName = "admin.sock"

// Status is what `gateway status -json` prints.
type statusReport struct {
	Version       string            `json:"version"`
	Generation    int               `json:"generation"`
	UptimeSeconds float64           `json:"uptime_seconds"`
	SupervisorPID int               `json:"supervisor_pid"`
	FrontPID      int               `json:"front_pid"`
	Goroutines    int               `json:"front_goroutines"`
	Descriptors   int               `json:"front_descriptors"`
	Connections   connectionCounts  `json:"connections"`
	Cache         proxy.CacheStatus `json:"cache"`
	AccessLog     accessLogCounts   `json:"access_log"`
	Pools         []mpm.PoolStatus  `json:"pools"`

	FrontSeconds float64                `json:"front_uptime_seconds"`
	Handshakes   proxy.HandshakeStatus  `json:"handshakes"`
	Spool        proxy.SpoolStatus      `json:"spool"`
	Responses    []proxy.ResponseStatus `json:"responses"`
	RateLimits   []proxy.LimitStatus    `json:"rate_limits"`

	Upstreams    []proxy.UpstreamStatus  `json:"upstreams"`
	Certificates []tls.CertificateStatus `json:"certificates"`
	Storage      *tls.StorageStatus      `json:"storage,omitempty"`
	InternalRoot string                  `json:"internal_root,omitempty"` // PEM; empty: no site has its certificate from it
}

type accessLogCounts struct {
	Dropped uint64 `json:"dropped"` // lines that the disk or the reader did not take
}

type connectionCounts struct {
	Open   int64 `json:"open"`
	Parked int64 `json:"parked"`
	Idle   int64 `json:"idle"` // without a request, and not parked: they speak HTTP/2
	Active int64 `json:"active"`

	Accepted uint64 `json:"accepted"`      // since the front began
	Pauses   uint64 `json:"pauses"`        // of accepting, for want of descriptors
	Refused  uint64 `json:"http2_refused"` // requests above max_http2_requests
}

// ask sends one word to a running gateway and returns its whole answer.
func ask(socket, word string, patience time.Duration) ([]byte, error) {
	if socket == "" {
		socket = filepath.Join(defaultRuntimeDir(), adminName)
	}
	c, err := net.DialTimeout("unix", socket, 2*time.Second)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%s: only root and the user of that gateway are answered", socket)
		}
		return nil, fmt.Errorf("no gateway answers at %s: %w (another one: -socket PATH)", socket, errors.Unwrap(err))
	}
	defer c.Close()
	if patience > 0 {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
	}
	if _, err := io.WriteString(c, word+"\n"); err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	if text, ok := strings.CutPrefix(string(answer), "error: "); ok {
		return nil, errors.New(strings.TrimSpace(text))
	}
	return answer, nil
}

func askStatus(socket string) (*statusReport, error) {
	answer, err := ask(socket, "status", 5*time.Second)
	if err != nil {
		return nil, err
	}
	st := new(statusReport)
	return st, json.Unmarshal(answer, st)
}

// askFront is askStatus for what only a front knows.
func askFront(socket string) (*statusReport, error) {
	s, err := askStatus(socket)
	if err == nil && s.FrontPID == 0 {
		err = errNoFront
	}
	return s, err
}

func stop(args []string) error {
	fs := flag.NewFlagSet("stop", flag.ContinueOnError)
	socket := fs.String("socket", "", "`path` of the admin socket")
	if _, err := parse(fs, args); err != nil {
		return err
	}
	answer, err := ask(*socket, "stop", 0)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(answer)) != "ok" {
		return fmt.Errorf("the gateway ended before it had stopped: %q", answer)
	}
	return nil
}

func status(args []string) error {
	fs := flag.NewFlagSet("status", flag.ContinueOnError)
	socket := fs.String("socket", "", "`path` of the admin socket")
	asJSON := fs.Bool("json", false, "print one JSON object")
	if _, err := parse(fs, args); err != nil {
		return err
	}
	answer, err := ask(*socket, "status", 5*time.Second)
	if err != nil {
		return err
	}
	var s statusReport
	if err := json.Unmarshal(answer, &s); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if !*asJSON {
		s.print(os.Stdout)
	} else if _, err := os.Stdout.Write(answer); err != nil {
		return err
	}
	return s.trouble()
}

var errNoFront = errors.New("no front serves at the moment: the log tells why")

// trouble is what scripts should know: that nobody serves, or which pools have no children because those can't start or keep failing.
func (s *statusReport) trouble() error {
	if s.FrontPID == 0 {
		return errNoFront
	}
	var all []error
	for i := range s.Pools {
		if p := &s.Pools[i]; p.Failing() {
			all = append(all, fmt.Errorf("pool %q is %s: %s", p.Name, p.State, plain(p.Trouble)))
		}
	}
	return errors.Join(all...)
}

// print shows the status the way Apache's mod_status does: a board with a letter for each place.
func (s *statusReport) print(w io.Writer) {
	fmt.Fprintf(w, "gateway %s, generation %d, up %s, supervisor %d, front %d\n", s.Version, s.Generation,
		(time.Duration(s.UptimeSeconds) * time.Second).String(), s.SupervisorPID, s.FrontPID)
	fmt.Fprintf(w, "connections: %d open, %d parked, %d idle (HTTP/2), %d active; the front has %d descriptors and %d goroutines\n",
		s.Connections.Open, s.Connections.Parked, s.Connections.Idle, s.Connections.Active, s.Descriptors, s.Goroutines)
	fmt.Fprintf(w, "hot files: %d (%.1f MB, and %d open), %d hits, %d misses, %d evictions\n", s.Cache.Entries-s.Cache.OpenFiles,
		float64(s.Cache.Bytes)/(1<<20), s.Cache.OpenFiles, s.Cache.Hits, s.Cache.Misses, s.Cache.Evictions)
	if n := s.AccessLog.Dropped; n > 0 {
		fmt.Fprintf(w, "access log: %d lines dropped\n", n)
	}
	if s.Storage != nil && s.Storage.Error != "" {
		fmt.Fprintf(w, "storage %s: away since %s: %s\n", s.Storage.Name, day(s.Storage.Since), plain(s.Storage.Error))
	}
	for i := range s.Certificates {
		printCertificate(w, &s.Certificates[i])
	}
	for i := range s.Pools {
		printPool(w, &s.Pools[i])
	}
	for i := range s.Upstreams {
		printUpstream(w, &s.Upstreams[i])
	}
	fmt.Fprint(w, "\n_ idle  W busy  S starting  G draining  . empty\n")
}

// plain quotes what would not be printed as it is: the front has it from clients and children.
func plain(s string) string {
	if q := strconv.Quote(s); q[1:len(q)-1] != s {
		return q
	}
	return s
}

// printExits shows why children ended, if any did.
func printExits(w io.Writer, exits map[mpm.ExitReason]uint64) {
	separator := "  children ended: "
	for _, reason := range slices.Sorted(maps.Keys(exits)) {
		if n := exits[reason]; n > 0 {
			fmt.Fprintf(w, "%s%d %s", separator, n, reason)
			separator = ", "
		}
	}
	if separator == ", " {
		fmt.Fprintln(w)
	}
}

// seconds prints a time with three digits or so.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func printUpstream(w io.Writer, u *proxy.UpstreamStatus) {
	fmt.Fprintf(w, "server %s (%s): %s, %d active, %d idle, %d requests, %d failed\n", plain(u.Server), u.Route, u.State, u.Connections.Active, u.Connections.Idle, u.Requests, u.Failed)
}

func printCertificate(w io.Writer, c *tls.CertificateStatus) {
	fmt.Fprintf(w, "certificate %s (%s): ", strings.Join(c.Names, " "), c.Mode)
	if c.Expires.IsZero() {
		fmt.Fprint(w, "none yet")
	} else {
		fmt.Fprintf(w, "by %s (%s), until %s", plain(c.Issuer), c.Key, day(c.Expires))
	}
	if !c.Renews.IsZero() {
		fmt.Fprintf(w, ", renewed about %s", day(c.Renews))
	}
	if c.Warning != "" {
		fmt.Fprintf(w, "; %s", c.Warning)
	}
	if c.Error != "" {
		fmt.Fprintf(w, "; %s: %s", failure(c), plain(c.Error))
	}
	fmt.Fprintln(w)
}

func printPool(w io.Writer, p *mpm.PoolStatus) {
	fmt.Fprintf(w, "\npool %s (%s): %s", p.Name, p.MPM, p.State)
	if p.Trouble != "" {
		fmt.Fprintf(w, ": %s", plain(p.Trouble))
	}
	if p.NextTrySeconds > 0 {
		fmt.Fprintf(w, "; next try in %.0f s", p.NextTrySeconds)
	}
	for _, line := range p.Said {
		fmt.Fprintf(w, "\n  a child said: %s", plain(line))
	}
	fmt.Fprintf(w, "\n  slots %d of %d busy", p.Slots.Busy, p.Slots.Limit)
	if p.Processes.Total > 0 {
		fmt.Fprintf(w, ", processes %d (%d idle, %d busy, %d starting, %d draining)", p.Processes.Total,
			p.Processes.Idle, p.Processes.Busy, p.Processes.Starting, p.Processes.Draining)
	}
	if p.Threads > 0 {
		fmt.Fprintf(w, ", %d threads each", p.Threads)
	}
	fmt.Fprintf(w, "\n  requests %d, failed %d; queue %d of %d waiting, %d rejected, %d timed out, %d abandoned\n", p.Requests.Total,
		p.Requests.Failed, p.Queue.Waiting, p.Queue.Length, p.Queue.Rejected, p.Queue.TimedOut, p.Queue.Abandoned)
	fmt.Fprintf(w, "  waited in the last minute: half at most %s, 99 %% at most %s, longest %s\n",
		seconds(p.Queue.P50Seconds), seconds(p.Queue.P99Seconds), seconds(p.Queue.MaxSeconds))
	if p.MPM == "event" {
		return
	}
	printExits(w, p.Exits)
	for board := p.Board; board != ""; {
		n := min(64, len(board))
		fmt.Fprintf(w, "  %s\n", board[:n])
		board = board[n:]
	}
	for _, c := range p.Children {
		fmt.Fprintf(w, "  %4d pid %-7d %-8s %6d requests %7.1f MB %8.0f s", c.Slot, c.PID, c.State, c.Requests, float64(c.RSSBytes)/(1<<20), c.AgeSeconds)
		if r := c.Request; r != nil {
			fmt.Fprintf(w, "  %s %s %.1f s", plain(r.Method), plain(r.URI), r.Seconds)
		}
		if n := len(c.Threads); n > 1 {
			fmt.Fprintf(w, " and %d more", n-1)
		}
		fmt.Fprintln(w)
	}
}
