package main_test

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/internal/gatewaytest"
)

// TestSlowClients has slowhttptest hold thousands of connections with slow heads, slow bodies and slow readers, all at once, on a
// pool of one PHP child. Others get their answers as if nothing was.
func TestSlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("slow clients take their time")
	}
	if err := gatewaytest.Missing("slowhttptest"); err != nil {
		t.Skip(err)
	}
	g := startLarge(t, nil)
	attacks := map[string][]string{
		"heads":  {"-r", "300", "-H", "-i", "5"},
		"bodies": {"-r", "300", "-B", "-i", "5", "-s", "8192", "-x", "10"},
		// These are requests that the one child has to answer, three for each connection: no more than it can.
		"readers": {"-r", "90", "-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*gatewaytest.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for name, flags := range attacks {
		for _, path := range []string{"/count.php", "/cgi-bin/zeros?size=1000000"} {
			wg.Go(func() { besiege(ctx, t, name, g.url(path), flags) })
		}
	}
	done := make(chan struct{})
	go func() { // ends with the attacks
		wg.Wait()
		close(done)
	}()
	for served := 0; ; served++ {
		select {
		case <-done:
			if served == 0 {
				t.Error("nobody was served while the attacks lasted")
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
		serves(ctx, t, g.url("/count.php"))
	}
}

func (l *large) url(path string) string { return "http://" + l.address + path }

// besiege runs slowhttptest and looks at what its own probe saw.
func besiege(ctx context.Context, t *testing.T, name, url string, flags []string) {
	// -c connections, opened at -r a second; -l seconds altogether; -p how long the probe waits.
	args := append([]string{"-c", "1000", "-l", "12", "-p", "10", "-u", url}, flags...)
	out, err := exec.CommandContext(ctx, "slowhttptest", args...).CombinedOutput()
	if err != nil {
		t.Errorf("slow %s on %s: %v\n%s", name, url, err, out)
	}
	if said := string(out); strings.Contains(said, "NO") || !strings.Contains(said, "YES") {
		t.Errorf("slow %s on %s: the service was not always there:\n%s", name, url, said)
	}
}

// serves asks for a page as anybody would.
func serves(ctx context.Context, t *testing.T, url string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err == nil {
		err = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", resp.Status)
		}
	}
	if err != nil {
		t.Errorf("GET %s among slow clients: %v", url, err)
	}
}
