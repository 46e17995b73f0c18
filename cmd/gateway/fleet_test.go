package main_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gateway/internal/gatewaytest"
)

// TestFleet has two gateways with one storage: what one begins the other goes on with, and without the storage both serve.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the lock of a killed gateway")
	}
	if err := gatewaytest.Missing("redis-server", "redis-cli"); err != nil {
		t.Skip(err)
	}
	f := newFleet(t)
	f.startRedis()

	// A gateway that stops in the middle leaves no lock to wait for.
	leaving := f.start("leaving")
	f.wait("a lock on the server", func() bool { return f.redis("KEYS", "fleet:lock:*") != "" })
	if err := leaving.Stop(); err != nil {
		t.Error(err)
	}
	if locks := f.redis("KEYS", "fleet:lock:*"); locks != "" {
		t.Errorf("a gateway that was stopped left the locks %s", locks)
	}

	// The first gateway asks for a certificate, and is killed when the CA is about to look at the challenge.
	dead := f.start("dead")
	f.wait("a challenge and a lock on the server", func() bool {
		return f.redis("KEYS", "fleet:file:acme/*/challenge_tokens/*") != "" && f.redis("KEYS", "fleet:lock:*") != ""
	})
	if err := dead.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()

	// The second one waits for its lock, and asks itself. The CA finds a third one, which answers for it.
	asking := f.start("asking")
	f.wait("the challenge of the second gateway", func() bool { return strings.Contains(asking.Log(), "trying to solve challenge") })
	t.Logf("the lock of a killed gateway was free after %v at most", time.Since(killed).Round(100*time.Millisecond))
	answering := f.start("answering")
	f.answer("answering")
	f.wait("the third gateway's word that it has answered", func() bool {
		return strings.Contains(answering.Log(), "served key authentication") && strings.Contains(answering.Log(), `"distributed": true`)
	})
	leaf := f.leaf("asking")
	if !leaf.Equal(f.leaf("answering")) {
		t.Errorf("the two gateways serve different certificates")
	}
	if strings.Contains(answering.Log(), "trying to solve challenge") || strings.Contains(asking.Log(), "served key authentication") {
		t.Errorf("the gateway that answered has asked, too, or the other way round")
	}

	// Without the server, and the CA, they serve on, and after a restart.
	if err := errors.Join(f.server.Kill(), f.pebble.Stop()); err != nil {
		t.Fatal(err)
	}
	if err := asking.Stop(); err != nil {
		t.Error(err)
	}
	f.start("asking")
	if !leaf.Equal(f.leaf("asking")) || !leaf.Equal(f.leaf("answering")) {
		t.Errorf("without the server they serve other certificates")
	}
	// One that never was there serves its other sites, says why, and has the certificate once the server is back.
	late := f.start("late")
	if f.get("late") != "welcome\n" {
		t.Errorf("without the server the plain site is not served")
	}
	status := f.status("late")
	if !strings.Contains(status, "\nstorage redis at "+f.server.Address+": away since ") || !strings.Contains(status, "certificate a.test (auto): none yet; the last try to get it failed: redis at ") {
		t.Errorf("the status does not tell of the storage:\n%s", status)
	}
	if !strings.Contains(late.Log(), "shared storage can't be reached: loaded certificates are served, and none is got or renewed until it is back") {
		t.Errorf("the log does not tell of the storage:\n%s", late.Log())
	}
	if err := f.server.Start(); err != nil {
		t.Fatal(err)
	}
	if !leaf.Equal(f.leaf("late")) {
		t.Errorf("the certificate of the late gateway is another one")
	}
}

// fleet is a CA, a server, and gateways by name.
type fleet struct {
	t      *testing.T
	folder string
	binary string
	server *gatewaytest.Redis
	pebble *gatewaytest.Pebble
	plain  map[string]string // addresses, by the gateway's name
	secure map[string]string

	storage string // of the next gateway, HCL
	names   string // of its site

	site net.Listener // where the CA looks; its connections wait for answer
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	// Not t.TempDir: the gateway's user must be able to enter it, and socket paths must be short.
	folder, err := os.MkdirTemp("", "fleet")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, folder: folder, plain: map[string]string{}, secure: map[string]string{}, names: `"a.test"`}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if f.binary, err = gatewaytest.Build(folder); err != nil {
		t.Fatal(err)
	}
	if f.site, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.site.Close() })
	if f.pebble, err = gatewaytest.StartPebble(folder, gatewaytest.PebbleSettings{HTTP: f.site.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.pebble.Stop() })
	return f
}

// startRedis starts the server that is the storage of all gateways.
func (f *fleet) startRedis() {
	f.t.Helper()
	var err error
	if f.server, err = gatewaytest.StartRedis(f.t.TempDir(), "--requirepass", "secret"); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { f.server.Stop() })
	// Only root may read the password: the front gets it from the supervisor.
	if err := os.WriteFile(f.path("password"), []byte("secret\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.storage = fmt.Sprintf("storage \"redis\" {\n address = %q\n password_file = %q\n prefix = \"fleet\"\n}\n", f.server.Address, f.path("password"))
}

func (f *fleet) path(name string) string { return filepath.Join(f.folder, name) }

func (f *fleet) redis(command ...string) string {
	f.t.Helper()
	answer, err := f.server.Do(append([]string{"--no-auth-warning", "-a", "secret"}, command...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer
}

func (f *fleet) wait(what string, holds func() bool) {
	f.t.Helper()
	if err := gatewaytest.Wait(func() (bool, error) { return holds(), nil }); err != nil {
		f.t.Fatalf("%s: %v", what, err)
	}
}

// address chooses the addresses of a gateway that has none yet, and returns the one without TLS.
func (f *fleet) address(name string) string {
	f.t.Helper()
	for _, addresses := range []map[string]string{f.plain, f.secure} {
		if addresses[name] == "" {
			var err error
			if addresses[name], err = gatewaytest.FreeAddress(); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	return f.plain[name]
}

// start runs a gateway of the fleet, which has the addresses and the state that it had before under this name.
func (f *fleet) start(name string) *gatewaytest.Gateway {
	f.t.Helper()
	f.address(name)
	config := fmt.Sprintf(`
gateway {
  runtime_dir = %q
  state_dir   = %q
  log {
    level = "debug"
  }
  %s
}
pool "edge" {
  mpm = "event"
}
site %s {
  listen = [%q, "%s tls"]
  tls {
    mode       = "auto"
    ca         = %q
    ca_root    = %q
    challenges = "http-01"
    redirect   = false
  }
  route "/*" {
    pool = "edge"
    respond {
      body = "welcome\n"
    }
  }
}
`, f.path(name+".run"), f.path(name+".state"), f.storage, f.names, f.plain[name], f.secure[name], f.pebble.Directory, f.pebble.Roots)
	if err := os.WriteFile(f.path(name+".hcl"), []byte(config), 0o644); err != nil {
		f.t.Fatal(err)
	}
	g, err := gatewaytest.Start(gatewaytest.Command{
		Binary: f.binary, Config: f.path(name + ".hcl"), Socket: f.path(name + ".sock"), Dir: f.folder, Log: f.path(name + ".log"),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Sane()); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
			f.t.Error(err)
		}
		if f.t.Failed() {
			f.t.Logf("%s:\n%s", name, g.Log())
		}
	})
	return g
}

// answer passes what the CA sends to a gateway, also what it has sent before. It ends with the listener.
func (f *fleet) answer(name string) {
	address := f.address(name)
	go func() { // ends with the listener
		for {
			from, err := f.site.Accept()
			if err != nil {
				return
			}
			go relay(from, address) // ends with the connections, which the CA ends
		}
	}()
}

func relay(from net.Conn, address string) {
	defer from.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(to, from) })
	both.Go(func() { _, _ = io.Copy(from, to); from.Close() })
	both.Wait()
}

// leaf is the certificate that a gateway serves, once it does.
func (f *fleet) leaf(name string) (leaf *x509.Certificate) {
	f.t.Helper()
	f.wait(name+" serves its site", func() bool {
		conn, err := tls.Dial("tcp", f.secure[name], &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		defer conn.Close()
		leaf = conn.ConnectionState().PeerCertificates[0]
		return true
	})
	return leaf
}

func (f *fleet) get(name string) string {
	f.t.Helper()
	resp, err := client().Get("http://" + f.plain[name] + "/")
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(body)
}

func (f *fleet) status(name string) string {
	f.t.Helper()
	out, err := exec.Command(f.binary, "status", "-socket", f.path(name+".sock")).CombinedOutput()
	if err != nil {
		f.t.Fatalf("gateway status: %v\n%s", err, out)
	}
	return string(out)
}
