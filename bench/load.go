package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// loadVerb is this program as a loader, where wrk is not installed. Its report has the line of wrk's that [parseLoad] wants.
const loadVerb = "load"

// load is what clients ask for: requests one after another on each of some connections.
type load struct {
	url         string
	close       bool // a new connection for each request
	gzip        bool // asks for it
	connections int
	duration    time.Duration
}

// command is the loader's. Only wrk speaks TLS.
func (l load) command() ([]string, error) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return []string{self, loadVerb, "-c", strconv.Itoa(l.connections), "-d", l.duration.String(), "-close=" + strconv.FormatBool(l.close), "-gzip=" + strconv.FormatBool(l.gzip), l.url}, nil
	}
	args := []string{wrk, "-t1", "-c" + strconv.Itoa(l.connections), fmt.Sprintf("-d%ds", l.duration/time.Second)}
	if l.close {
		args = append(args, "-H", "Connection: close")
	}
	if l.gzip {
		args = append(args, "-H", "Accept-Encoding: gzip")
	}
	return append(args, l.url), nil
}

var (
	loadTotal = regexp.MustCompile(`(?m)^\s*(\d+) requests in ([0-9.]+[a-z]+)`)
	loadBad   = regexp.MustCompile(`(?m)^.*Non-2xx.*$`)
)

// parseLoad reads wrk's report.
func parseLoad(report []byte) (requests int, took time.Duration, err error) {
	if bad := loadBad.Find(report); bad != nil {
		return 0, 0, fmt.Errorf("load: %s", bytes.TrimSpace(bad))
	}
	m := loadTotal.FindSubmatch(report)
	if m == nil {
		return 0, 0, fmt.Errorf("load: no result in %q", report)
	}
	if requests, err = strconv.Atoi(string(m[1])); err != nil {
		return 0, 0, err
	}
	took, err = time.ParseDuration(string(m[2]))
	if err == nil && (requests == 0 || took <= 0) {
		err = fmt.Errorf("load: %d requests in %v", requests, took)
	}
	return requests, took, err
}

// loadMain is the own loader's process.
func loadMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(loadVerb, flag.ContinueOnError)
	var l load
	flags.IntVar(&l.connections, "c", 1, "connections")
	flags.DurationVar(&l.duration, "d", time.Second, "duration")
	flags.BoolVar(&l.close, "close", false, "a new connection for each request")
	flags.BoolVar(&l.gzip, "gzip", false, "ask for gzip")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l.url = flags.Arg(0)
	began := time.Now()
	n, err := l.run(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d requests in %v\n", n, time.Since(began))
	return nil
}

// run returns how many requests were answered with 200.
func (l load) run(ctx context.Context) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return 0, err
	}
	r.Close = l.close
	if l.gzip {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	var request bytes.Buffer
	if err := r.Write(&request); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.duration)
	defer cancel()
	var done atomic.Int64
	errs := make(chan error, l.connections)
	var clients sync.WaitGroup
	for range l.connections {
		clients.Go(func() { errs <- client(ctx, r, request.Bytes(), &done) }) // ends when ctx does
	}
	clients.Wait()
	for range l.connections {
		if err := <-errs; err != nil {
			return 0, err
		}
	}
	return done.Load(), nil
}

// client counts its requests into done until ctx ends.
func client(ctx context.Context, r *http.Request, request []byte, done *atomic.Int64) error {
	var conn net.Conn
	buffer := bufio.NewReader(nil)
	for ctx.Err() == nil {
		if conn == nil {
			var err error
			if conn, err = net.Dial("tcp", r.URL.Host); err != nil {
				return err
			}
			buffer.Reset(conn)
		}
		keep, err := exchange(conn, buffer, r, request)
		if err != nil || !keep {
			conn.Close()
			conn = nil
		}
		if err != nil {
			return err
		}
		done.Add(1)
	}
	if conn != nil {
		conn.Close()
	}
	return nil
}

// exchange sends one request and reads its answer; keep says that the connection takes another one.
func exchange(conn net.Conn, buffer *bufio.Reader, r *http.Request, request []byte) (keep bool, err error) {
	const patience = 30 * time.Second
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	if _, err := conn.Write(request); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(buffer, r)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("load: %s", resp.Status)
	}
	return !resp.Close, nil
}
