package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/zap"

	"gateway/mpm/event"
	"gateway/routes"
)

// TestBelieve: whom a request comes from.
func TestBelieve(t *testing.T) {
	trust := &routes.Trust{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}}
	for _, row := range []struct {
		name   string
		trust  *routes.Trust
		peer   string // empty: a unix socket
		secure bool
		fields http.Header
		want   string
	}{
		{"nobody is believed by default", &routes.Trust{}, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}, "10.0.0.1:5 false"},
		{"a stranger is not", trust, "192.0.2.9:5", false, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}, "192.0.2.9:5 false"},
		{"a trusted proxy is", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}, "192.0.2.1:0 true"},
		{"as an IPv4 address of an IPv6 socket, too", trust, "[::ffff:10.0.0.1]:5", false, http.Header{"X-Forwarded-For": {"192.0.2.1"}}, "192.0.2.1:0 false"},
		{"what the client has said before does not count", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"6.6.6.6, 192.0.2.1"}}, "192.0.2.1:0 false"},
		{"in several fields", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"6.6.6.6", "192.0.2.1"}}, "192.0.2.1:0 false"},
		{"trusted proxies behind each other", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"6.6.6.6, 192.0.2.1,10.0.0.3 , 10.0.0.2"}}, "192.0.2.1:0 false"},
		{"a client that is a trusted proxy", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"10.0.0.3, 10.0.0.2"}}, "10.0.0.3:0 false"},
		{"what is no address ends the list", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"192.0.2.1, unknown, 10.0.0.2"}}, "10.0.0.2:0 false"},
		{"a list without address says nothing", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"evil"}}, "10.0.0.1:5 false"},
		{"an address with a port", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-For": {"192.0.2.1:4711"}}, "192.0.2.1:0 false"},
		{"IPv6 in brackets", trust, "[2001:db8::1]:5", false, http.Header{"X-Forwarded-For": {"[2001:db9::1]:4711"}}, "[2001:db9::1]:0 false"},
		{"the last protocol counts", trust, "10.0.0.1:5", false, http.Header{"X-Forwarded-Proto": {"https, http"}}, "10.0.0.1:5 false"},
		{"a plain client of a proxy that speaks TLS", trust, "10.0.0.1:5", true, http.Header{"X-Forwarded-Proto": {"http"}}, "10.0.0.1:5 false"},
		{"another protocol says nothing", trust, "10.0.0.1:5", true, http.Header{"X-Forwarded-Proto": {"gopher"}}, "10.0.0.1:5 true"},
		{"Forwarded", trust, "10.0.0.1:5", false, http.Header{"Forwarded": {`for=6.6.6.6;proto=http, For="[2001:db9::1]:4711";Proto=https;by=10.0.0.1`}}, "[2001:db9::1]:0 true"},
		{"Forwarded of an obfuscated client", trust, "10.0.0.1:5", false, http.Header{"Forwarded": {`for=6.6.6.6, for=_hidden`}}, "10.0.0.1:5 false"},
		{"Forwarded without address", trust, "10.0.0.1:5", false, http.Header{"Forwarded": {`for=6.6.6.6, proto=https`}}, "10.0.0.1:5 true"},
		{"X-Forwarded-For counts more", trust, "10.0.0.1:5", false, http.Header{"Forwarded": {`for=6.6.6.6`}, "X-Forwarded-For": {"192.0.2.1"}}, "192.0.2.1:0 false"},
		{"a unix socket is not trusted by itself", trust, "", false, http.Header{"X-Forwarded-For": {"192.0.2.1"}}, "invalid AddrPort false"},
		{"but if it is named", &routes.Trust{Unix: true}, "", false, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}, "192.0.2.1:0 true"},
	} {
		x := &exchange{secure: row.secure}
		if row.peer != "" {
			x.remote = netip.MustParseAddrPort(row.peer)
		}
		(&Server{trust: row.trust}).believe(x, row.fields)
		if got := fmt.Sprint(x.remote, " ", x.scheme() == "https"); got != row.want {
			t.Errorf("%s: the client is %s, want %s", row.name, got, row.want)
		}
	}
}

// TestForwardedFields: what servers are told.
func TestForwardedFields(t *testing.T) {
	for _, row := range []struct {
		name     string
		believed bool
		fields   http.Header
		want     string
	}{
		{"what a client says is replaced", false, http.Header{"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"evil"}, "Forwarded": {"for=6.6.6.6"}},
			"X-Forwarded-For: 10.0.0.1|X-Forwarded-Host: example.com|X-Forwarded-Proto: http|"},
		{"what a trusted proxy says goes on", true, http.Header{"X-Forwarded-For": {"192.0.2.1", "10.0.0.2"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"shop"}, "Forwarded": {"for=192.0.2.1"}},
			"X-Forwarded-For: 192.0.2.1, 10.0.0.2, 10.0.0.1|Forwarded: for=192.0.2.1, for=10.0.0.1;proto=http|X-Forwarded-Host: shop|X-Forwarded-Proto: https|"},
	} {
		c := asked()
		c.r.Header, c.r.Host = row.fields, "example.com"
		c.x.believed, c.x.peer = row.believed, netip.MustParseAddrPort("10.0.0.1:5")
		got := ""
		c.tellForwarded(func(name, value string) { got += name + ": " + value + "|" })
		if got != row.want {
			t.Errorf("%s: the fields are %s, want %s", row.name, got, row.want)
		}
	}
}

var proxyHeaders = []struct {
	name, header string
	want         string // the client and the server; empty: it is refused
}{
	{"version 1", "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "192.0.2.1:56324 192.0.2.2:443"},
	{"version 1 with IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", "[2001:db8::1]:56324 [2001:db8::2]:443"},
	{"version 1 of somebody unknown", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "invalid AddrPort invalid AddrPort"},
	{"version 2", proxyV2 + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb", "192.0.2.1:56324 192.0.2.2:443"},
	{"version 2 with more behind the addresses", proxyV2 + "\x21\x11\x00\x0f\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb\x04\x00\x00", "192.0.2.1:56324 192.0.2.2:443"},
	{"version 2 of the load balancer itself", proxyV2 + "\x20\x00\x00\x00", "invalid AddrPort invalid AddrPort"},
	{"version 2 of a unix socket", proxyV2 + "\x21\x31\x00\x02ab", "invalid AddrPort invalid AddrPort"},
	{"another protocol", "GET / HTTP/1.1\r\n", ""},
	{"version 1 without addresses", "PROXY TCP4\r\n", ""},
	{"version 1 with the wrong family", "PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n", ""},
	{"version 1 with a port too large", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n", ""},
	{"version 1 with a signed port", "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n", ""},
	{"version 1 with two spaces", "PROXY TCP4  192.0.2.1 192.0.2.2 1 443\r\n", ""},
	{"version 1 without end", "PROXY TCP4 " + strings.Repeat("1", maxProxyV1), ""},
	{"version 2 of version 3", proxyV2 + "\x31\x11\x00\x0c", ""},
	{"version 2 that is too short for its addresses", proxyV2 + "\x21\x11\x00\x04\xc0\x00\x02\x01", ""},
	{"version 2 that is too long", proxyV2 + "\x21\x11\xff\xff", ""},
}

func TestProxyHeaders(t *testing.T) {
	for _, row := range proxyHeaders {
		p, n, err := parseProxyHeader([]byte(row.header + "GET"))
		got := fmt.Sprint(p.client, p.server)
		if row.want == "" && err == nil || row.want != "" && (err != nil || n != len(row.header) || got != row.want) {
			t.Errorf("%s: parseProxyHeader = %s, %d, %v; want %q", row.name, got, n, err, row.want)
		}
		for end := range row.header {
			if _, n, err := parseProxyHeader([]byte(row.header[:end])); row.want != "" && (n != 0 || err != nil) {
				t.Errorf("%s: the first %d bytes gave %d, %v", row.name, end, n, err)
			}
		}
	}
}

// FuzzProxyHeader: nothing is read behind the header, a piece of one is none, and what is understood is understood when it is written
// again.
func FuzzProxyHeader(f *testing.F) {
	for _, row := range proxyHeaders {
		f.Add([]byte(row.header))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p, n, err := parseProxyHeader(in)
		if err != nil && n != 0 || n > len(in) {
			t.Fatalf("parseProxyHeader = %d, %v of %d bytes", n, err, len(in))
		}
		if n == 0 && err == nil && len(in) >= maxProxyV2 {
			t.Fatalf("%d bytes are not enough", len(in))
		}
		for end := range n {
			if _, m, err := parseProxyHeader(in[:end]); m != 0 || err != nil {
				t.Fatalf("the first %d of %d bytes gave %d, %v", end, n, m, err)
			}
		}
		if n == 0 {
			return
		}
		for _, version := range []string{"v1", "v2"} {
			again, _, err := parseProxyHeader(appendProxyHeader(nil, version, p))
			if err != nil || again != p {
				t.Errorf("%s of %v reads %v, %v", version, p, again, err)
			}
		}
	})
}

// TestProxyProtocolIn: connections begin with a header, of whom may send one, and not otherwise.
func TestProxyProtocolIn(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, row := range []struct {
		name, network string
		pieces        []string
		want          string // in the answer; empty: there is none
	}{
		{"a header and a request", "127.0.0.0/8", []string{"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get}, "192.0.2.1:1 192.0.2.1:1"},
		{"in pieces", "127.0.0.0/8", []string{"PROXY TC", "P4 192.0.2.1 192.0.2.2 1 2\r", "\nGE", get[2:]}, "192.0.2.1:1 192.0.2.1:1"},
		{"the load balancer itself", "127.0.0.0/8", []string{proxyV2 + "\x20\x00\x00\x00" + get}, "127.0.0.1:"},
		{"only once", "127.0.0.0/8", []string{"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nPROXY TCP4 6.6.6.6 192.0.2.2 1 2\r\n" + get}, "501 Not Implemented"},
		{"none", "127.0.0.0/8", []string{get}, ""},
		{"a stranger", "10.0.0.0/8", []string{"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			e, err := event.New(event.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f, err := l.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			h := &HTTP{
				Trust: &routes.Trust{Networks: []netip.Prefix{netip.MustParsePrefix(row.network)}}, Log: zap.NewNop().Sugar(),
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, exchangeOf(r).remote, " ") }),
				Local:   func(*event.Conn) netip.AddrPort { return netip.AddrPort{} },
			}
			if err := e.Listen(f, event.Listener{Protocol: h, Address: "tcp :0"}); err != nil {
				t.Fatal(err)
			}
			nc, br := dialText(t, l.Addr().String(), row.pieces[0])
			for _, piece := range row.pieces[1:] {
				if _, err := io.WriteString(nc, piece); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = io.WriteString(nc, get) // another one on the same connection; it fails when that was refused
			_ = nc.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(br) // likewise
			var bodies strings.Builder
			for answer := range strings.SplitSeq(string(got), "HTTP/1.1 ") {
				head, body, _ := strings.Cut(answer, "\r\n\r\n")
				if !strings.HasPrefix(head, "200") {
					body = head
				}
				bodies.WriteString(body)
			}
			if row.want == "" && len(got) > 0 || !strings.Contains(bodies.String(), row.want) {
				t.Errorf("the answers are %q, want %q", got, row.want)
			}
		})
	}
}
