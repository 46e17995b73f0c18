package tls

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"gateway/routes"
)

// maxSessions is how many sessions with servers are kept for being resumed, of one [Client].
const maxSessions = 256

// Client puts TLS on connections to servers, as their client. Sessions are resumed. It is immutable and safe for concurrent use.
type Client struct {
	http1 *stdtls.Config
	http2 *stdtls.Config
}

// ClientFiles holds the bytes of the files that a routes.ClientTLS names; they are empty where it names none.
type ClientFiles struct {
	CARoots, Certificate, Key []byte
}

// NewClient fails when the files are not what they should be.
func NewClient(t *routes.ClientTLS, files ClientFiles) (*Client, error) {
	config, err := clientConfig(t, files)
	if err != nil {
		return nil, err
	}
	c := &Client{http1: config, http2: config.Clone()}
	for config, protocol := range map[*stdtls.Config]string{c.http1: "http/1.1", c.http2: "h2"} {
		config.NextProtos, config.ClientSessionCache = []string{protocol}, stdtls.NewLRUClientSessionCache(maxSessions)
	}
	return c, nil
}

// clientConfig is for connections to servers, whose names it lacks where the configuration has none.
func clientConfig(t *routes.ClientTLS, files ClientFiles) (*stdtls.Config, error) {
	config := &stdtls.Config{ServerName: t.ServerName, MinVersion: stdtls.VersionTLS12, InsecureSkipVerify: t.Insecure} //nolint:gosec // the configuration says so
	if t.CARoot != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(files.CARoots) {
			return nil, fmt.Errorf("no certificate in %s", t.CARoot)
		}
	}
	if t.Certificate != "" {
		pair, err := parsePair(files.Certificate, files.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []stdtls.Certificate{*pair}
	}
	return config, nil
}

// Handshake puts TLS on a connection to the server at an address, and makes sure that it is the one. The result has a method CloseWrite.
// When ctx ends, nc is closed; after any other error it is of no use.
func (c *Client) Handshake(ctx context.Context, nc net.Conn, address string, http2 bool) (net.Conn, error) {
	config := c.http1
	if http2 {
		config = c.http2
	}
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		config = config.Clone()
		config.ServerName = host
	}
	t := stdtls.Client(nc, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, explainHandshake(err)
	}
	if http2 && t.ConnectionState().NegotiatedProtocol != "h2" {
		return nil, errNoHTTP2
	}
	return t, nil
}

var errNoHTTP2 = errors.New("handshake: the server does not choose HTTP/2 (ALPN): write \"https://\" for it")

// explainHandshake says what to do about a handshake that failed.
func explainHandshake(err error) error {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		record  stdtls.RecordHeaderError
	)
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("handshake: %w: name the authority that has issued the server's certificate in tls { ca }", err)
	case errors.As(err, &name):
		return fmt.Errorf("handshake: %w: tls { server_name } says which name the server's certificate has", err)
	case errors.As(err, &record):
		return fmt.Errorf("handshake: %w: the server does not speak TLS here", err)
	}
	return fmt.Errorf("handshake: %w", err)
}
