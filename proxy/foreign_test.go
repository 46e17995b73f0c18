package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"os"
	"strings"
	"sync"
	"testing"

	"gateway/routes"
)

// foreignVariable makes the test binary a FastCGI program that is not ours: net/http/fcgi's.
const foreignVariable = "PROXY_TEST_FOREIGN"

// threadsOfForeign is how many requests its "/meet" waits for.
const threadsOfForeign = 8

// TestForeignProgram is not a test: it is the program of TestForeignFastCGI.
func TestForeignProgram(t *testing.T) {
	if os.Getenv(foreignVariable) == "" {
		t.Skip("started by another test")
	}
	l, err := net.FileListener(os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	meeting := make(chan struct{})
	var arrived sync.WaitGroup
	arrived.Add(threadsOfForeign)
	go func() { // ends with the meeting
		arrived.Wait()
		close(meeting)
	}()
	t.Error(fcgi.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.URL.Path == "/meet" {
			arrived.Done()
			<-meeting
		}
		fmt.Fprintf(w, "%d %s %d %v", os.Getpid(), r.Method, len(body), err)
	})))
}

// TestForeignFastCGI: a FastCGI program with threads serves as many requests at once as its pool says.
func TestForeignFastCGI(t *testing.T) {
	for _, row := range []struct{ name, method, body string }{
		{"plain requests", "GET", ""},
		{"requests with a body", "POST", strings.Repeat("0123456789abcdef", 200<<10/16)},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := worker(1)
			cfg.ThreadsPerChild, cfg.MaxRequestWorkers = threadsOfForeign, threadsOfForeign
			cfg.FastCGI = &routes.FastCGI{Command: []string{os.Args[0], "-test.run=^TestForeignProgram$"}}
			g := newGate(t, cfg, nil)
			answers := make([]string, threadsOfForeign)
			var wg sync.WaitGroup
			for i := range answers {
				wg.Go(func() { _, answers[i] = g.askOK(t, row.method, "/meet", row.body) })
			}
			wg.Wait()
			_, last := g.askOK(t, row.method, "/", row.body)
			want := fmt.Sprintf("%d %s %d <nil>", g.starter.only().cmd.Process.Pid, row.method, len(row.body))
			for _, got := range append(answers, last) {
				if got != want {
					t.Errorf("%s gave %q, want %q", row.method, got, want)
				}
			}
		})
	}
}
