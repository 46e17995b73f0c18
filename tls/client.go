package tls

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Client returns what applications are told of the client's certificate, by the names and in the forms of mod_ssl; nil if the site
// asks for none. It is valid after the handshake and must not be changed.
func (c *Conn) Client() map[string]string { return c.client }

// clientVariables makes them.
func clientVariables(t *terms, state *stdtls.ConnectionState, now time.Time) map[string]string {
	if t.clients == nil {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		return map[string]string{"SSL_CLIENT_VERIFY": "NONE"}
	}
	leaf := state.PeerCertificates[0]
	v := map[string]string{
		"SSL_CLIENT_VERIFY":    verdict(t, state, now),
		"SSL_CLIENT_M_VERSION": strconv.Itoa(leaf.Version),
		"SSL_CLIENT_M_SERIAL":  serial(leaf),
		"SSL_CLIENT_V_START":   moment(leaf.NotBefore),
		"SSL_CLIENT_V_END":     moment(leaf.NotAfter),
	}
	addName(v, "SSL_CLIENT_S_DN", leaf.RawSubject)
	addName(v, "SSL_CLIENT_I_DN", leaf.RawIssuer)
	for i, name := range leaf.DNSNames {
		v[fmt.Sprintf("SSL_CLIENT_SAN_DNS_%d", i)] = name
	}
	for i, address := range leaf.EmailAddresses {
		v[fmt.Sprintf("SSL_CLIENT_SAN_Email_%d", i)] = address
	}
	for name, value := range v {
		if strings.ContainsAny(value, "\x00\r\n") { // it could end early in one program and go on in another
			delete(v, name)
		}
	}
	if t.key.auth.Export {
		v["SSL_CLIENT_CERT"] = string(encodeCertificate(leaf.Raw))
	}
	return v
}

// verdict is whether the certificate is of an issuer that the site trusts. Where the handshake has not asked that, nobody has.
func verdict(t *terms, state *stdtls.ConnectionState, now time.Time) string {
	if len(state.VerifiedChains) > 0 {
		return "SUCCESS"
	}
	between := x509.NewCertPool()
	for _, x := range state.PeerCertificates[1:] {
		between.AddCert(x)
	}
	options := x509.VerifyOptions{Roots: t.clients, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := state.PeerCertificates[0].Verify(options); err != nil {
		return "FAILED:" + strings.Map(printable, err.Error())
	}
	return "SUCCESS"
}

// printable replaces what a client could have put into its certificate to end the text that quotes it.
func printable(r rune) rune {
	if r < ' ' {
		return ' '
	}
	return r
}

// serial is the number as OpenSSL writes it: pairs of digits.
func serial(leaf *x509.Certificate) string {
	b := leaf.SerialNumber.Bytes()
	if len(b) == 0 {
		b = []byte{0}
	}
	return strings.ToUpper(hex.EncodeToString(b))
}

func moment(t time.Time) string { return t.UTC().Format("Jan _2 15:04:05 2006 GMT") }

// attributes are the parts of names that have variables of their own. Where a name has several of a kind, it is the first.
func attributes(oid string) (name string, ok bool) {
	switch oid {
	case "2.5.4.3":
		return "CN", true
	case "2.5.4.6":
		return "C", true
	case "2.5.4.7":
		return "L", true
	case "2.5.4.8":
		return "ST", true
	case "2.5.4.10":
		return "O", true
	case "2.5.4.11":
		return "OU", true
	case "0.9.2342.19200300.100.1.1":
		return "UID", true
	case "1.2.840.113549.1.9.1":
		return "Email", true
	}
	return "", false
}

// addName adds a name as RFC 2253 writes it, and its parts.
func addName(v map[string]string, variable string, der []byte) {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		return
	}
	v[variable] = name.String()
	for _, set := range name {
		for _, part := range set {
			value, isText := part.Value.(string)
			kind, known := attributes(part.Type.String())
			if _, has := v[variable+"_"+kind]; known && isText && !has {
				v[variable+"_"+kind] = value
			}
		}
	}
}
