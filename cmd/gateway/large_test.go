package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/gatewaytest"
)

const largeSite = `
gateway {
  runtime_dir = "%[1]s/run"
  state_dir   = "%[1]s/state"
  spool_dir   = "%[1]s/spool"
}
pool "scripts" {
  mpm                 = "prefork"
  start_servers       = 1
  max_request_workers = 1
}
pool "php" {
  mpm                 = "prefork"
  start_servers       = 1
  max_request_workers = 1
  php {}
}
site "localhost" {
  listen           = ["%[2]s"]
  root             = "%[1]s/www"
  max_request_body = "1024G"
  route "/stream/*" {
    pool   = "scripts"
    buffer = false
    cgi { root = "%[1]s/cgi" }
  }
  route "/cgi-bin/*" {
    pool = "scripts"
    cgi { root = "%[1]s/cgi" }
  }
  route "*.php" { pool = "php" }
}
`

var largeFiles = map[string]string{
	"www/count.php": `<?php $n = 0; $in = fopen("php://input", "r"); while (!feof($in)) $n += strlen(fread($in, 1 << 20)); echo $n;`,
	"www/zeros.php": `<?php $block = str_repeat("\0", 1 << 20); for ($i = $_GET["size"] >> 20; $i > 0; $i--) echo $block;`,
	"cgi/count":     "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'; wc -c | tr -d ' \\n'\n",
	"cgi/zeros":     "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'; exec head -c \"${QUERY_STRING#size=}\" /dev/zero\n",
}

// large is a gateway for bodies that fit into no memory.
type large struct {
	*gatewaytest.Gateway
	address string
}

// startLarge runs a gateway whose spool is prepared by spool, which may be nil.
func startLarge(t *testing.T, spool func(dir string)) *large {
	t.Helper()
	if err := gatewaytest.Missing("php-cgi"); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address, err := gatewaytest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	steps := []error{os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "spool"), 0o777)}
	for name, text := range largeFiles {
		path := filepath.Join(dir, name)
		steps = append(steps, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755))
	}
	steps = append(steps, os.WriteFile(filepath.Join(dir, "site.hcl"), fmt.Appendf(nil, largeSite, dir, address), 0o644))
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	if spool != nil {
		spool(filepath.Join(dir, "spool"))
	}
	if err := os.Chmod(filepath.Join(dir, "spool"), 0o777); err != nil { // the front has a user of its own
		t.Fatal(err)
	}
	binary, err := gatewaytest.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gatewaytest.Start(gatewaytest.Command{
		Binary: binary, Config: filepath.Join(dir, "site.hcl"), Socket: filepath.Join(dir, "run", "admin.sock"),
		Dir: dir, Env: os.Environ(), Log: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Sane()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(g.Log())
		}
	})
	return &large{g, address}
}

// peak is the most memory that the front has ever had, in bytes.
func (l *large) peak(t *testing.T) int {
	t.Helper()
	status, err := l.Status()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", status.FrontPID))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := bytes.Cut(text, []byte("VmHWM:"))
	line, _, _ = bytes.Cut(line, []byte("kB"))
	kb, err := strconv.Atoi(string(bytes.TrimSpace(line)))
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// idle returns when no child has a request.
func (l *large) idle(t *testing.T) {
	t.Helper()
	err := gatewaytest.Wait(func() (bool, error) {
		status, err := l.Status()
		busy := 0
		for _, p := range status.Pools {
			busy += p.Processes.Busy
		}
		return busy == 0, err
	})
	if err != nil {
		t.Fatal("children are still busy: ", err)
	}
}

// largeSize is that of the bodies in bytes, a multiple of 1 MiB: 1 GiB, or what GATEWAY_TEST_LARGE says.
func largeSize(t *testing.T) int64 {
	text := os.Getenv("GATEWAY_TEST_LARGE")
	if text == "" {
		return 1 << 30
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal("GATEWAY_TEST_LARGE is not a number of bytes: ", err)
	}
	return n >> 20 << 20
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestLargeBodies: the front's memory does not grow with a body, in either direction, whether it is spooled or passed on; and a
// child is free before a client has taken what it wrote.
func TestLargeBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("gigabytes take their time")
	}
	const room = 64 << 20
	l, size := startLarge(t, nil), largeSize(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	upload := func(path string, length int64) func(*testing.T) {
		return func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), "PUT", "http://"+l.address+path, io.NopCloser(io.LimitReader(zeros{}, size)))
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = length
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); string(got) != strconv.FormatInt(size, 10) || err != nil {
				t.Errorf("the program got %.100s bytes, %v; want %d", got, err, size)
			}
		}
	}
	download := func(path string, wait bool) func(*testing.T) {
		return func(t *testing.T) {
			resp, err := client.Get(fmt.Sprintf("http://%s%s?size=%d", l.address, path, size))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if wait {
				l.idle(t)
			}
			if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
				t.Errorf("the client got %d bytes, %v; want %d", n, err, size)
			}
		}
	}
	before := l.peak(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a chunked upload to PHP", upload("/count.php", -1)},
		{"a chunked upload to a script", upload("/cgi-bin/count", -1)},
		{"an upload to a script that is not spooled", upload("/stream/count", size)},
		{"a download from PHP", download("/zeros.php", false)},
		{"a download from PHP to a client that waits", download("/zeros.php", true)},
		{"a download from a script to a client that waits", download("/cgi-bin/zeros", true)},
		{"a download from a script that is not spooled", download("/stream/zeros", false)},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t)
			if grown := l.peak(t) - before; grown > room {
				t.Errorf("the front has had %d MiB more than before, want at most %d", grown>>20, room>>20)
			}
		})
	}
	t.Logf("the front had at most %d MiB, %d before", l.peak(t)>>20, before>>20)
}

// TestFullDisk: a full disk costs the request whose body does not fit, and nothing else.
func TestFullDisk(t *testing.T) {
	l := startLarge(t, func(dir string) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Skip("a file system of its own needs root: ", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	})
	client := &http.Client{Transport: &http.Transport{}, Timeout: gatewaytest.Patience}
	defer client.CloseIdleConnections()
	put := func(size int64) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), "PUT", "http://"+l.address+"/count.php", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if status, _ := put(1<<20 + 128<<10); status != http.StatusInsufficientStorage {
		t.Errorf("an upload larger than the disk gave %d, want 507", status)
	}
	if status, body := put(512 << 10); status != http.StatusOK || body != "524288" {
		t.Errorf("an upload that fits the disk gave %d %q", status, body)
	}
	nc, err := net.Dial("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(gatewaytest.Patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(nc, "GET /zeros.php?size=%d HTTP/1.0\r\nHost: localhost\r\n\r\n", 64<<20)
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.idle(t) // it was cut off: nobody waits for the client
	if n, _ := io.Copy(io.Discard, nc); n >= 64<<20 {
		t.Errorf("a client that does not read got all %d bytes through a disk of 1 MiB", n)
	}
	if status, body := put(512 << 10); status != http.StatusOK || body != "524288" {
		t.Errorf("afterwards an upload that fits the disk gave %d %q", status, body)
	}
}
