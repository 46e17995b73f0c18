package tls

import (
	stdtls "crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"gateway/routes"
)

// TestClientHandshake: a server is the one that was meant, or the error says what is wrong with it and what to do.
func TestClientHandshake(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		name     string
		from, to time.Time // of the server's certificate, which is for back.test
		terms    routes.ClientTLS
		want     string
	}{
		{"one whose certificate is given", now.Add(-time.Hour), now.Add(time.Hour), routes.ClientTLS{CARoot: "given", ServerName: "back.test"}, ""},
		{"one that is not looked at", now.Add(-2 * time.Hour), now.Add(-time.Hour), routes.ClientTLS{Insecure: true}, ""},
		{"one of an unknown authority", now.Add(-time.Hour), now.Add(time.Hour), routes.ClientTLS{ServerName: "back.test"}, "name the authority that has issued the server's certificate in tls { ca }"},
		{"one with another name", now.Add(-time.Hour), now.Add(time.Hour), routes.ClientTLS{CARoot: "given", ServerName: "front.test"}, "tls { server_name } says which name"},
		{"one without the address as a name", now.Add(-time.Hour), now.Add(time.Hour), routes.ClientTLS{CARoot: "given"}, "127.0.0.1"},
		{"one whose certificate has expired", now.Add(-2 * time.Hour), now.Add(-time.Hour), routes.ClientTLS{CARoot: "given", ServerName: "back.test"}, "certificate has expired or is not yet valid"},
		{"one whose certificate is not valid yet", now.Add(time.Hour), now.Add(2 * time.Hour), routes.ClientTLS{CARoot: "given", ServerName: "back.test"}, "certificate has expired or is not yet valid"},
	} {
		t.Run(row.name, func(t *testing.T) {
			key := newKey(t)
			certPEM := selfSigned(t, key, row.from, row.to, "back.test")
			pair, err := stdtls.X509KeyPair(certPEM, encodeKey(t, key))
			if err != nil {
				t.Fatal(err)
			}
			client, err := NewClient(&row.terms, ClientFiles{CARoots: certPEM})
			if err != nil {
				t.Fatal(err)
			}
			l, err := stdtls.Listen("tcp", "127.0.0.1:0", &stdtls.Config{Certificates: []stdtls.Certificate{pair}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			done := make(chan struct{})
			go func() { // ends with the connection, or the listener
				defer close(done)
				if nc, err := l.Accept(); err == nil {
					_, _ = io.Copy(io.Discard, nc)
					nc.Close()
				}
			}()
			ours, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.Handshake(t.Context(), ours, "127.0.0.1:443", false)
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("error %v, want %q", err, row.want)
			}
			ours.Close()
			<-done
		})
	}
	for name, terms := range map[string]routes.ClientTLS{
		"no certificate in given": {CARoot: "given"},
		"certificate: ":           {Certificate: "given"},
	} {
		if _, err := NewClient(&terms, ClientFiles{}); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("NewClient with files that hold nothing: %v, want %q", err, name)
		}
	}
}
