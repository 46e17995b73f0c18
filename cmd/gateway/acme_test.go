package main_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gateway/internal/gatewaytest"
)

// acme is `acme start [LIFE]`, which starts a CA that looks at challenges at $ADDR and $ADDR2, and `acme stop`. Of the running one
// $ACME is the directory, $ACME_ROOTS trusts its server, and $ACME_ISSUED what it issues.
func acme(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, "acme start [LIFE], acme stop")
	s := scriptOf(ts)
	if args[0] == "stop" {
		ts.Check(s.ca.Stop())
		return
	}
	settings := gatewaytest.PebbleSettings{HTTP: ts.Getenv("ADDR"), TLS: ts.Getenv("ADDR2")}
	if len(args) > 1 {
		var err error
		settings.Life, err = time.ParseDuration(args[1])
		ts.Check(err)
	}
	folder := ts.MkAbs(".acme")
	ts.Check(os.MkdirAll(folder, 0o755))
	ca, err := gatewaytest.StartPebble(folder, settings)
	ts.Check(err)
	s.ca = ca
	issued := filepath.Join(folder, "issued.crt")
	ts.Check(fetch(ca.Management+"/roots/0", issued))
	ts.Setenv("ACME", ca.Directory)
	ts.Setenv("ACME_ROOTS", ca.Roots)
	ts.Setenv("ACME_ISSUED", issued)
	ts.Setenv("ACME_SET_TXT", ca.SetTXT)
	ts.Setenv("ACME_CLEAR_TXT", ca.ClearTXT)
}

// fetch stores what is at a URL.
func fetch(url, file string) error {
	resp, err := client().Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return errors.Join(err, os.WriteFile(file, body, 0o644))
}

// stopCA ends the CA of a script, and shows what it said when the script has failed.
func stopCA(s *script, t testing.TB) {
	if s.ca == nil {
		return
	}
	if t.Failed() {
		t.Log(s.ca.Log())
	}
	if err := s.ca.Stop(); err != nil {
		t.Error(err)
	}
}
