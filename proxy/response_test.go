package proxy

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestInformWaitsForNobody: a client that is behind misses informational responses, and gets the final one.
func TestInformWaitsForNobody(t *testing.T) {
	informed := make(chan struct{})
	addr := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 { // more than sockets hold
			w.Header().Set("Link", strings.Repeat("a", 32<<10))
			w.WriteHeader(http.StatusEarlyHints)
		}
		clear(w.Header())
		close(informed)
		_, _ = io.WriteString(w, "final")
	})
	nc, _ := dialText(t, addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case <-informed:
	case <-time.After(20 * time.Second):
		t.Fatal("the handler waits for the client")
	}
	br := bufio.NewReaderSize(nc, 64<<10)
	for {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusEarlyHints {
			continue
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "final" {
			t.Errorf("the final response is %d, %q, %v", resp.StatusCode, body, err)
		}
		return
	}
}
