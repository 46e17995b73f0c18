package proxy

import (
	"context"
	"encoding/xml"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// h2spec is github.com/summerwind/h2spec, a client that breaks the protocol in 145 ways.
const (
	h2spec      = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
	h2specCases = 145
)

// notPassed are the cases of h2spec that fail, and why they may.
var notPassed = map[string]string{
	"http2/6.5.3 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                            "x/net ends a connection whose settings name one twice: only attackers do that",
	"http2/8.1.2.2 Sends a HEADERS frame that contains the connection-specific header field":                       "x/net answers 400, which a person can read, instead of resetting the stream",
	"http2/8.1.2.2 Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "likewise",
}

func TestHTTP2Conformance(t *testing.T) {
	if testing.Short() {
		t.Skip("x/net keeps connections open for a second after an error, of which there are ten")
	}
	l := serveHTTP2(t, true, echo, nil)
	host, port, err := net.SplitHostPort(l.addr)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", h2spec, "-t", "-k", "-h", host, "-p", port, "-o", "3", "-j", report)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "GOFLAGS=")
	out, _ := cmd.CombinedOutput() // it fails when a case does
	data, err := os.ReadFile(report)
	if err != nil {
		t.Skipf("h2spec can't be had from the Go module proxy: %s", out)
	}
	var suites struct {
		Cases []struct {
			Section string  `xml:"package,attr"`
			Name    string  `xml:"classname,attr"`
			Failure *string `xml:"error"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(data, &suites); err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, c := range suites.Cases {
		name := c.Section + " " + c.Name
		switch {
		case c.Failure == nil:
			passed++
		case notPassed[name] == "":
			t.Errorf("%s failed: %s", name, *c.Failure)
		}
	}
	if len(suites.Cases) != h2specCases {
		t.Errorf("h2spec ran %d cases, want %d", len(suites.Cases), h2specCases)
	}
	t.Logf("h2spec: %d of %d cases passed", passed, len(suites.Cases))
}
