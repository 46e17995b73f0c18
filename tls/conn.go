package tls

import (
	"context"
	stdtls "crypto/tls"
	"net/http"
)

// Conn is the server's side of a TLS connection. It is a net.Conn; CloseWrite sends the close alert and keeps reading.
//
// Errors of the connection below come through Read untouched. One that is a net.Error with Temporary() == true, as a
// parked connection returns it, leaves the Conn usable, in the middle of a record too; every other error, and every
// error of Write or Handshake, is final. Read may return bytes together with an error: use the bytes first.
type Conn struct{ *stdtls.Conn }

// Handshake must succeed before the first Read. When ctx ends it closes the connection and returns ctx's error.
func (c *Conn) Handshake(ctx context.Context) error { return c.HandshakeContext(ctx) }

// Describe sets r.TLS.
func (c *Conn) Describe(r *http.Request) {
	state := c.ConnectionState()
	r.TLS = &state
}

// ServerName is the host name that the client asked for (SNI), empty if it sent none.
func (c *Conn) ServerName() string { return c.ConnectionState().ServerName }

// Version is the protocol version as Apache's SSL_PROTOCOL names it, "TLSv1.3"; empty before the handshake.
func (c *Conn) Version() string {
	switch c.ConnectionState().Version {
	case stdtls.VersionTLS12:
		return "TLSv1.2"
	case stdtls.VersionTLS13:
		return "TLSv1.3"
	}
	return ""
}

// Cipher is the cipher suite as Apache's SSL_CIPHER names it, which is OpenSSL's name; empty before the handshake.
func (c *Conn) Cipher() string {
	state := c.ConnectionState()
	if state.CipherSuite == 0 {
		return ""
	}
	return opensslName(state.CipherSuite)
}

// opensslName knows the TLS 1.2 suites of Go's default list. In TLS 1.3 OpenSSL uses the names of the RFC, as Go does.
func opensslName(suite uint16) string {
	switch suite {
	case stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-ECDSA-AES128-GCM-SHA256"
	case stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-ECDSA-AES256-GCM-SHA384"
	case stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-ECDSA-CHACHA20-POLY1305"
	case stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:
		return "ECDHE-ECDSA-AES128-SHA"
	case stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:
		return "ECDHE-ECDSA-AES256-SHA"
	case stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-RSA-AES128-GCM-SHA256"
	case stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-RSA-AES256-GCM-SHA384"
	case stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-RSA-CHACHA20-POLY1305"
	case stdtls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:
		return "ECDHE-RSA-AES128-SHA"
	case stdtls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:
		return "ECDHE-RSA-AES256-SHA"
	}
	return stdtls.CipherSuiteName(suite)
}
