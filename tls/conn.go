package tls

import (
	"bytes"
	"context"
	stdtls "crypto/tls"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
)

// Conn is the server's side of a TLS connection. It is a net.Conn; CloseWrite sends the close alert and keeps reading.
//
// Errors of the connection below come through Read untouched. One that is a net.Error with Temporary() == true, as a
// parked connection returns it, leaves the Conn usable, in the middle of a record too; every other error, and every
// error of Write or Handshake, is final. Read may return bytes together with an error: use the bytes first.
type Conn struct {
	*stdtls.Conn
	listener *listener
	entry    *entry            // the site that the client asked for; set by Handshake, as are the next two
	terms    *terms            // that the client has met
	client   map[string]string // see Client
	buffers  *sync.Pool        // of *bytes.Buffer; shared by all connections
	lent     *bytes.Buffer     // one of them, whose bytes the Conn has; nil: none
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.borrow()
	return c.Conn.Read(p)
}

// Rest gives back the buffers of a connection that is about to be parked or closed: the last Read has returned the temporary
// error, or there is no further one.
func (c *Conn) Rest() { c.giveBack() }

// Handshake must succeed before the first Read. When ctx ends it closes the connection and returns ctx's error.
//
// The error of a client that speaks plain HTTP has a method PlainHTTP, and says so: what it sent can be answered in plain text. That
// of one without the certificate that is asked for has a method ClientRefused.
func (c *Conn) Handshake(ctx context.Context) error {
	c.borrow()
	changes := c.listener.changes.Load()
	err := c.HandshakeContext(ctx)
	var record stdtls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && beginsRequest(record.RecordHeader[:]) {
		return plainHTTPError{err}
	}
	if err != nil {
		return clientRefusal(err)
	}
	state := c.ConnectionState()
	if state.NegotiatedProtocol == acmez.ACMETLS1Protocol {
		return errChallengeAnswered
	}
	c.entry = c.listener.siteOf(state.ServerName, c.Conn)
	if c.terms = c.entry.terms.Load(); c.terms.clients != nil && (changes%2 == 1 || c.listener.changes.Load() != changes) {
		return errTermsChanged
	}
	c.client = clientVariables(c.terms, &state, time.Now())
	return nil
}

// errTermsChanged ends a handshake that may have been on terms that the site has no more. Its client comes again.
var errTermsChanged = errors.New("client_auth: ca was replaced meanwhile")

// plainHTTPError is the failure of a handshake with a client that does not know of TLS.
type plainHTTPError struct{ error }

func (plainHTTPError) PlainHTTP() bool { return true }

// clientRefusal gives the failure of a client that showed no certificate, or a wrong one, a method ClientRefused.
func clientRefusal(err error) error {
	var wrong *stdtls.CertificateVerificationError
	if errors.As(err, &wrong) || err.Error() == "tls: client didn't provide a certificate" { // it has no type
		return clientError{err}
	}
	return err
}

type clientError struct{ error }

func (clientError) ClientRefused() bool { return true }

func (e clientError) Unwrap() error { return e.error }

// beginsRequest reports whether the first bytes of a connection look like an HTTP method.
func beginsRequest(b []byte) bool {
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH"} {
		if string(b) == method {
			return true
		}
	}
	return false
}

// Describe sets r.TLS.
func (c *Conn) Describe(r *http.Request) {
	state := c.ConnectionState()
	r.TLS = &state
}

// ServerName is the host name that the client asked for (SNI), empty if it sent none.
func (c *Conn) ServerName() string { return c.ConnectionState().ServerName }

// Protocol is what the client chose to speak (ALPN), "h2" or "http/1.1"; empty if it did not choose.
func (c *Conn) Protocol() string { return c.ConnectionState().NegotiatedProtocol }

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

// opensslName knows the TLS 1.2 suites that are spoken. In TLS 1.3 OpenSSL uses the names of the RFC, as Go does.
func opensslName(suite uint16) string {
	switch suite {
	case stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-ECDSA-AES128-GCM-SHA256"
	case stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-ECDSA-AES256-GCM-SHA384"
	case stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-ECDSA-CHACHA20-POLY1305"
	case stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-RSA-AES128-GCM-SHA256"
	case stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-RSA-AES256-GCM-SHA384"
	case stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-RSA-CHACHA20-POLY1305"
	}
	return stdtls.CipherSuiteName(suite)
}

// Hello reports whether data, what a client has sent so far, is enough to begin a handshake with: its whole first record
// (RFC 8446 §5.1), or something else, for the handshake to refuse.
func Hello(data []byte) bool {
	const (
		header    = 5
		handshake = 22 // a content type
		maxRecord = 1 << 14
	)
	if len(data) < header {
		return false
	}
	n := int(data[3])<<8 | int(data[4])
	return data[0] != handshake || n > maxRecord || len(data) >= header+n
}
