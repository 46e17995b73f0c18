package tls

import (
	"bytes"
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// serve accepts on a loopback port and answers each connection with the Conn's own view of it. It returns the port's address.
func serve(t *testing.T, c *Certificates, address string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when ln closes
		defer close(done)
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			answer(t, c.Server(address, raw))
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func answer(t *testing.T, conn *Conn) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if conn.Handshake(ctx) != nil {
		return
	}
	conn.Read(make([]byte, 4096)) // the request; what it says does not matter
	r := &http.Request{}
	conn.Describe(r)
	body := strings.Join([]string{conn.Version(), conn.Cipher(), conn.ServerName(), r.TLS.NegotiatedProtocol}, " ") + "\n"
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"+body)
	conn.CloseWrite()
}

func TestGoClients(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example", "127.0.0.1"))
	at := serve(t, c, "tcp :443")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.RootPEM())
	rows := []struct {
		name   string
		config *stdtls.Config
		want   string // in the answer
		fails  string // in the client's error
	}{
		{"TLS 1.3 with a name", &stdtls.Config{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}}, "TLSv1.3 TLS_", ""},
		{"the name and the protocol are described", &stdtls.Config{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}}, " a.example h2", ""},
		{"no ALPN", &stdtls.Config{ServerName: "a.example"}, "TLSv1.3", ""},
		{"an address instead of a name", &stdtls.Config{ServerName: "127.0.0.1"}, "TLSv1.3", ""},
		{"TLS 1.2", &stdtls.Config{ServerName: "a.example", MaxVersion: stdtls.VersionTLS12}, "TLSv1.2 ECDHE-ECDSA-", ""},
		{"TLS 1.1", &stdtls.Config{ServerName: "a.example", MinVersion: stdtls.VersionTLS10, MaxVersion: stdtls.VersionTLS11}, "", "protocol version"},
		{"TLS 1.0", &stdtls.Config{ServerName: "a.example", MinVersion: stdtls.VersionTLS10, MaxVersion: stdtls.VersionTLS10}, "", "protocol version"},
		{"only protocols we don't speak", &stdtls.Config{ServerName: "a.example", NextProtos: []string{"h3"}}, "", "no application protocol"},
		{"a name that no site has", &stdtls.Config{ServerName: "b.example"}, "", "not b.example"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			config := row.config
			config.RootCAs = roots
			got, err := get(at, config)
			switch {
			case row.fails == "" && err != nil:
				t.Errorf("client: %v, want an answer with %q", err, row.want)
			case row.fails != "" && (err == nil || !strings.Contains(err.Error(), row.fails)):
				t.Errorf("client: %v, answer %q, want an error with %q", err, got, row.fails)
			case !strings.Contains(got, row.want):
				t.Errorf("answer = %q, want it to contain %q", got, row.want)
			}
		})
	}
}

func get(at string, config *stdtls.Config) (string, error) {
	conn, err := stdtls.Dial("tcp", at, config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		return "", err
	}
	got, err := io.ReadAll(conn)
	return string(got), err
}

func TestSessionsAreResumed(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	at := serve(t, c, "tcp :443")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.RootPEM())
	for _, version := range []uint16{stdtls.VersionTLS12, stdtls.VersionTLS13} {
		resumed := 0
		config := &stdtls.Config{ServerName: "a.example", RootCAs: roots, MaxVersion: version, ClientSessionCache: stdtls.NewLRUClientSessionCache(1),
			VerifyConnection: func(s stdtls.ConnectionState) error {
				if s.DidResume {
					resumed++
				}
				return nil
			}}
		for range 2 {
			if _, err := get(at, config); err != nil {
				t.Fatal(err)
			}
		}
		if resumed != 1 {
			t.Errorf("%s: %d of 2 connections resumed a session, want 1", stdtls.VersionName(version), resumed)
		}
	}
}

func TestGarbageInsteadOfAHelloFailsTheHandshake(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	rows := []struct{ name, bytes string }{
		{"plain HTTP", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"zeros", strings.Repeat("\x00", 64)},
		{"a record that is too long", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 64)},
		{"a hello that is cut off", "\x16\x03\x01\x00\x20\x01\x00\x00\x1c"},
		{"nothing", ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			go func() { // ends when either end closes
				io.WriteString(near, row.bytes)
				near.Close()
			}()
			if err := c.Server("tcp :443", &discardWrites{far}).Handshake(t.Context()); err == nil {
				t.Errorf("Handshake after %q = nil, want an error", row.bytes)
			}
		})
	}
}

// discardWrites is a connection whose peer does not read.
type discardWrites struct{ net.Conn }

func (c *discardWrites) Write(p []byte) (int, error) { return len(p), nil }

func TestAHandshakeEndsWithItsContext(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	near, far := net.Pipe()
	defer near.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Server("tcp :443", far).Handshake(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Handshake with a context that ended = %v, want %v", err, context.Canceled)
	}
}

// parkedError is what the engine's connections return while nothing is there to read.
type parkedError struct{}

func (parkedError) Error() string   { return "parked" }
func (parkedError) Timeout() bool   { return true }
func (parkedError) Temporary() bool { return true }

// parkingConn reads from a queue of steps; each returns its bytes and its error. After the last one it reads from Conn.
type parkingConn struct {
	net.Conn
	steps []step
}

type step struct {
	bytes []byte
	err   error
}

func (c *parkingConn) Read(p []byte) (int, error) {
	if len(c.steps) == 0 {
		return c.Conn.Read(p)
	}
	s := &c.steps[0]
	n := copy(p, s.bytes)
	if n < len(s.bytes) {
		s.bytes = s.bytes[n:]
		return n, nil
	}
	err := s.err
	c.steps = c.steps[1:]
	return n, err
}

// connectParking connects a client and a server whose reads the test can shape. What record returns is what the client
// puts on the wire for text, with the close alert when closed.
func connectParking(t *testing.T, c *Certificates, version uint16) (server *Conn, raw *parkingConn, record func(text string, closed bool) []byte) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	raw = &parkingConn{Conn: far}
	wire := &captureWrites{Conn: near}
	client := stdtls.Client(wire, &stdtls.Config{InsecureSkipVerify: true, MaxVersion: version})
	server = c.Server("tcp :443", raw)
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }() // ends with the handshake
	if err := server.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return server, raw, func(text string, closed bool) []byte {
		wire.captured = &bytes.Buffer{}
		if _, err := io.WriteString(client, text); err != nil {
			t.Fatal(err)
		}
		if closed {
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		return wire.captured.Bytes()
	}
}

// captureWrites keeps what is written once captured is set.
type captureWrites struct {
	net.Conn
	captured *bytes.Buffer
}

func (c *captureWrites) Write(p []byte) (int, error) {
	if c.captured == nil {
		return c.Conn.Write(p)
	}
	return c.captured.Write(p)
}

func TestATemporaryErrorLeavesTheConnectionUsable(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	rows := []struct {
		name   string
		steps  func(record []byte) []step
		parked int // how often Read returns the error before the text
	}{
		{"before the record", func(r []byte) []step { return []step{{nil, parkedError{}}, {r, nil}} }, 1},
		{"inside the record's header", func(r []byte) []step { return []step{{r[:3], nil}, {nil, parkedError{}}, {r[3:], nil}} }, 1},
		{"inside the record's body", func(r []byte) []step { return []step{{r[:9], nil}, {nil, parkedError{}}, {r[9:], nil}} }, 1},
		{"twice", func(r []byte) []step {
			return []step{{r[:2], nil}, {nil, parkedError{}}, {r[2:9], nil}, {nil, parkedError{}}, {r[9:], nil}}
		}, 2},
		{"together with the bytes before it", func(r []byte) []step { return []step{{r[:9], parkedError{}}, {r[9:], nil}} }, 1},
		{"together with the end of the record", func(r []byte) []step { return []step{{r, parkedError{}}} }, 1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			server, raw, record := connectParking(t, c, stdtls.VersionTLS13)
			raw.steps = row.steps(record("hello", false))
			buf := make([]byte, 64)
			parked := 0
			n, err := server.Read(buf)
			for ; err == error(parkedError{}) && parked < 10; n, err = server.Read(buf) {
				parked++
			}
			if err != nil || string(buf[:n]) != "hello" {
				t.Errorf("Read = %q, %v, want %q", buf[:n], err, "hello")
			}
			if parked != row.parked {
				t.Errorf("Read returned the temporary error %d times, want %d", parked, row.parked)
			}
		})
	}
}

func TestReadReturnsBytesTogetherWithTheEnd(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	server, raw, record := connectParking(t, c, stdtls.VersionTLS12) // in TLS 1.3 crypto/tls can't see that an alert follows
	raw.steps = []step{{record("bye", true), nil}}
	buf := make([]byte, 64)
	if n, err := server.Read(buf); string(buf[:n]) != "bye" || err != io.EOF {
		t.Errorf("Read = %q, %v, want %q with %v", buf[:n], err, "bye", io.EOF)
	}
}

func TestBeforeTheHandshakeNothingIsKnown(t *testing.T) {
	c := open(t, t.TempDir(), &logbook{}, internalSite("tcp :443", "a.example"))
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	conn := c.Server("tcp :443", far)
	if got := conn.Version() + conn.Cipher() + conn.ServerName(); got != "" {
		t.Errorf("Version, Cipher and ServerName = %q, want nothing", got)
	}
}

func TestEveryCipherHasItsOpenSSLName(t *testing.T) {
	for _, suite := range stdtls.CipherSuites() {
		got := opensslName(suite.ID)
		tls13 := suite.SupportedVersions[0] == stdtls.VersionTLS13
		if slices.Contains(suites(), suite.ID) && strings.HasPrefix(got, "TLS_") || tls13 && got != suite.Name {
			t.Errorf("opensslName(%s) = %q", suite.Name, got)
		}
	}
}

// run executes a client program, or skips the test when it is not installed.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

func TestCurlTrustsTheRoot(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, &logbook{}, internalSite("tcp :443", "a.example", "127.0.0.1"))
	at := serve(t, c, "tcp :443")
	_, port, _ := net.SplitHostPort(at)
	root := filepath.Join(dir, rootCertificateKey)
	rows := []struct {
		name  string
		args  []string
		want  string
		fails bool
	}{
		{"by name", []string{"--cacert", root, "--resolve", "a.example:" + port + ":127.0.0.1", "https://a.example:" + port}, "TLSv1.3", false},
		{"by address", []string{"--cacert", root, "https://" + at}, "TLSv1.3", false},
		{"TLS 1.2", []string{"--cacert", root, "--tls-max", "1.2", "https://" + at}, "TLSv1.2 ECDHE-ECDSA-", false},
		{"TLS 1.1", []string{"--cacert", root, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", "https://" + at}, "", true},
		{"a wrong name", []string{"--cacert", root, "--resolve", "b.example:" + port + ":127.0.0.1", "https://b.example:" + port}, "", true},
		{"without the root", []string{"https://" + at}, "", true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, err := run(t, "curl", append([]string{"-sS", "--http1.1", "--noproxy", "*"}, row.args...)...)
			if (err != nil) != row.fails || !strings.Contains(got, row.want) {
				t.Errorf("curl %q = %q, %v, want %q, failure %v", row.args, got, err, row.want, row.fails)
			}
		})
	}
}

func TestOpenSSLVerifiesTheChain(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, &logbook{}, internalSite("tcp :443", "a.example"))
	at := serve(t, c, "tcp :443")
	root := filepath.Join(dir, rootCertificateKey)
	if _, err := os.Stat(root); err != nil {
		t.Fatal(err)
	}
	got, err := run(t, "openssl", "s_client", "-connect", at, "-servername", "a.example", "-verify_hostname", "a.example",
		"-verify_return_error", "-CAfile", root, "-alpn", "h2,http/1.1", "-x509_strict")
	if err != nil || !strings.Contains(got, "Verify return code: 0 (ok)") || !strings.Contains(got, "ALPN protocol: h2") {
		t.Errorf("openssl s_client = %v, want a verified chain and h2:\n%s", err, got)
	}
	if got, err := run(t, "openssl", "s_client", "-connect", at, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"); err == nil {
		t.Errorf("openssl s_client -tls1_1 succeeded, want a refusal:\n%s", got)
	}
}
