package main_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"gateway/internal/gatewaytest"
)

// crowdedSite has a pool whose queue takes whatever comes.
const crowdedSite = `
gateway {
  runtime_dir = "%[1]s/run"
  state_dir   = "%[1]s/state"
}
pool "edge" { mpm = "event" }
pool "php" {
  mpm                 = "prefork"
  start_servers       = 1
  max_request_workers = 2
  queue {
    length  = 65535
    timeout = "10m"
  }
  php {}
}
site "localhost" {
  listen = ["%[2]s h2c"]
  root   = "%[1]s"
  route "*.php" { pool = "php" }
  route "/*" {
    pool = "edge"
    static {}
  }
}
`

// TestManyHTTP2Requests has 500 connections ask a slow application for 128 pages each, from four addresses, and read nothing.
func TestManyHTTP2Requests(t *testing.T) {
	attackers := 500
	if gatewaytest.RaceDetector() {
		attackers = 100 // everything takes longer
	}
	const (
		streams = 128
		limit   = 4096      // the default of max_http2_requests
		memory  = 400 << 20 // of the front, see docs/tls.md
	)
	needs(t, uint64(2*attackers))
	g, address := startCrowded(t)
	before, err := g.Status()
	if err != nil {
		t.Fatal(err)
	}
	requests := manyRequests(t, "/slow.php", streams)
	for i := range attackers {
		c := dialFrom(t, net.IPv4(127, 0, 0, byte(2+i%4)), address)
		if _, err := c.Write(requests); err != nil {
			t.Fatal(err)
		}
	}
	if err := gatewaytest.Wait(func() (bool, error) {
		s, err := g.Status()
		return s.Connections.HTTP2Refused >= attackers*streams-limit, err
	}); err != nil {
		t.Errorf("%d requests have come: %v", attackers*streams, err)
	}
	if size := resident(t, before.FrontPID); size > memory && !gatewaytest.RaceDetector() {
		t.Errorf("the front has %d MiB, want at most %d", size>>20, memory>>20)
	}
	serves(t.Context(), t, "http://"+address+"/page.txt")
	newcomer := http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}, Timeout: gatewaytest.Patience}
	newcomer.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	defer newcomer.CloseIdleConnections()
	resp, err := newcomer.Get("http://" + address + "/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Errorf("another client that speaks HTTP/2 gets %s, want 200", resp.Status)
	}

	after, err := g.Status()
	if err != nil || after.FrontPID != before.FrontPID {
		t.Errorf("the front is %d, %v; it was %d", after.FrontPID, err, before.FrontPID)
	}
}

// needs skips a test for which there are not enough descriptors.
func needs(t *testing.T, descriptors uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < descriptors+100 {
		t.Skipf("needs %d descriptors, the limit is %d", descriptors+100, limit.Cur)
	}
}

func startCrowded(t *testing.T) (g *gatewaytest.Gateway, address string) {
	t.Helper()
	if err := gatewaytest.Missing("php-cgi"); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "gw") // below which other users may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := gatewaytest.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	if address, err = gatewaytest.FreeAddress(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"site.hcl": fmt.Sprintf(crowdedSite, dir, address), "page.txt": "page\n", "slow.php": "<?php sleep(600);",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g, err = gatewaytest.Start(gatewaytest.Command{
		Binary: binary, Config: filepath.Join(dir, "site.hcl"), Socket: filepath.Join(dir, "admin.sock"), Log: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
	})
	return g, address
}

// dialFrom connects from an address of the loopback network.
func dialFrom(t *testing.T, from net.IP, address string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: gatewaytest.Patience}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// manyRequests is all that a client says who makes n requests at once.
func manyRequests(t *testing.T, path string, n int) []byte {
	t.Helper()
	var all, block bytes.Buffer
	all.WriteString(http2.ClientPreface)
	framer, encoder := http2.NewFramer(&all, nil), hpack.NewEncoder(&block)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		block.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "localhost"}, {Name: ":path", Value: path},
			{Name: "user-agent", Value: "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
			{Name: "cookie", Value: "PHPSESSID=0123456789abcdef0123456789abcdef"},
		} {
			if err := encoder.WriteField(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
			t.Fatal(err)
		}
	}
	return all.Bytes()
}
