package gatewaytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// pebbleModule is Let's Encrypt's ACME server for tests, pinned so that a finding comes from a change here and not from there.
const pebbleModule = "github.com/letsencrypt/pebble/v2"

const pebbleVersion = "v2.10.1"

// PebbleSettings say what a [Pebble] is like.
type PebbleSettings struct {
	HTTP, TLS   string        // addresses at which it looks at challenges; empty: nobody listens there
	Life        time.Duration // of its certificates; 0: 90 days
	Blocked     []string      // names that it refuses
	EAB         map[string]string
	BadNonces   int    // how many nonces of a hundred it refuses
	ListenAgain string // an address that an earlier one had; empty: a free one
}

// Pebble is an ACME server and a DNS server that says of every name that it is 127.0.0.1.
type Pebble struct {
	Directory  string // its URL
	Management string // URL, of its own interface
	Roots      string // file: what signs for both of these
	DNS        string // address
	SetTXT     string // URL that takes {"host":"name.","value":"text"}
	ClearTXT   string // URL that takes {"host":"name."}

	commands []*exec.Cmd
	logs     []string
}

// StartPebble starts both servers, with their files in folder. The caller must call Stop.
func StartPebble(folder string, s PebbleSettings) (*Pebble, error) {
	binaries, err := buildPebble()
	if err != nil {
		return nil, err
	}
	addresses := make([]string, 4)
	for i := range addresses {
		if addresses[i], err = FreeAddress(); err != nil {
			return nil, err
		}
	}
	if s.ListenAgain != "" {
		addresses[0] = s.ListenAgain
	}
	p := &Pebble{
		Directory: "https://" + addresses[0] + "/dir", Management: "https://" + addresses[1], DNS: addresses[2],
		SetTXT: "http://" + addresses[3] + "/set-txt", ClearTXT: "http://" + addresses[3] + "/clear-txt",
		Roots: filepath.Join(folder, "pebble.crt"),
	}
	config, err := p.configure(folder, addresses, s)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		p.start(folder, nil, filepath.Join(binaries, "pebble-challtestsrv"), "-dnsserver", p.DNS, "-management", addresses[3],
			"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""),
		p.start(folder, []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_WFE_NONCEREJECT=" + strconv.Itoa(s.BadNonces)},
			filepath.Join(binaries, "pebble"), "-config", config, "-dnsserver", p.DNS),
	)
	for _, address := range []string{addresses[0], addresses[1], addresses[3]} {
		if err == nil {
			err = p.wait(address)
		}
	}
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// wait returns when somebody listens.
func (p *Pebble) wait(address string) error {
	err := Wait(func() (bool, error) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
	if err != nil {
		return fmt.Errorf("pebble at %s: %w\n%s", address, err, p.Log())
	}
	return nil
}

// configure writes the files of the ACME server and returns the name of its configuration.
func (p *Pebble) configure(folder string, addresses []string, s PebbleSettings) (string, error) {
	key := filepath.Join(folder, "pebble.key")
	if err := WriteCertificate(p.Roots, key); err != nil {
		return "", err
	}
	life := s.Life
	if life == 0 {
		life = 90 * 24 * time.Hour
	}
	text, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": addresses[0], "managementListenAddress": addresses[1],
		"certificate": p.Roots, "privateKey": key,
		"httpPort": portOf(s.HTTP), "tlsPort": portOf(s.TLS),
		"domainBlocklist":                s.Blocked,
		"externalAccountBindingRequired": s.EAB != nil, "externalAccountMACKeys": s.EAB,
		"keyAlgorithm": "ecdsa",
		"profiles":     map[string]any{"default": map[string]any{"description": "", "validityPeriod": int(life.Seconds())}},
	}})
	if err != nil {
		return "", err
	}
	config := filepath.Join(folder, "pebble.json")
	return config, os.WriteFile(config, text, 0o600)
}

// portOf is 1, where nobody listens, for no address.
func portOf(address string) int {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 1
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 1
	}
	return n
}

// WriteCertificate makes a certificate for the loopback interface and localhost that is its own root.
func WriteCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
}

func (p *Pebble) start(folder string, env []string, binary string, args ...string) error {
	name := filepath.Join(folder, filepath.Base(binary)+".log")
	log, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.commands, p.logs = append(p.commands, cmd), append(p.logs, name)
	return nil
}

// Log is what the servers have printed.
func (p *Pebble) Log() string {
	var all bytes.Buffer
	for _, name := range p.logs {
		text, err := os.ReadFile(name)
		fmt.Fprintf(&all, "%s: %v\n%s", name, err, text)
	}
	return all.String()
}

// Stop ends the servers. It may be called again.
func (p *Pebble) Stop() error {
	var errs []error
	for _, cmd := range p.commands {
		errs = append(errs, cmd.Process.Kill())
		_ = cmd.Wait() // it says that it was killed
	}
	p.commands = nil
	return errors.Join(errs...)
}

// buildPebble compiles both servers unless an earlier test has, and returns their folder.
func buildPebble() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "gateway-test", "pebble-"+pebbleVersion)
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(folder), "build")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	cmd := exec.Command("go", "install", pebbleModule+"/cmd/pebble@"+pebbleVersion, pebbleModule+"/cmd/pebble-challtestsrv@"+pebbleVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+fresh, "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s@%s: %w\n%s", pebbleModule, pebbleVersion, err, out)
	}
	// The rename comes last: what stands there is whole. Another test may have been faster.
	if err := os.Rename(fresh, folder); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", err
	}
	return folder, nil
}
