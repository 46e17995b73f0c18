package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gateway/internal/gatewaytest"
)

// attempt is one request, and what may come of it. Unless only HTTP/1.1 can say it, it is made over HTTP/2 as well.
type attempt struct {
	name   string
	method string // GET, unless it is said
	target string
	fields []string // "Name: value"
	body   string
	only1  bool
	status string   // "4": any that begins so; "cut": 502, or a response whose end is missing
	want   []string // in its header, or its body
	never  []string // besides what is forbidden
}

// attempts are requests whose harm, where there was one, was published.
func attempts() []attempt {
	evil := strings.Repeat("0-,", 1300) + "0-"
	return []attempt{
		{name: "CVE-2016-5385, httpoxy: a Proxy field is no HTTP_PROXY of PHP", target: "/env.php", fields: []string{"Proxy: http://192.0.2.9"}, status: "200", want: []string{"RAN"}, never: []string{"192.0.2.9"}},
		{name: "CVE-2016-5387, httpoxy: nor of a CGI script", target: "/cgi-bin/env.cgi", fields: []string{"Proxy: http://192.0.2.9"}, status: "200", want: []string{"ARGS=0"}, never: []string{"192.0.2.9"}},
		{name: "CVE-2016-1000110, httpoxy: nor of a WSGI application", target: "/wsgi/", fields: []string{"Proxy: http://192.0.2.9"}, status: "200", want: []string{"PATH_INFO"}, never: []string{"192.0.2.9"}},
		{name: "httpoxy: nor does it reach a server", target: "/app/echo", fields: []string{"Proxy: http://192.0.2.9"}, status: "200", want: []string{"GET /app/echo"}, never: []string{"192.0.2.9"}},
		{name: "a field is never a variable of another kind", target: "/env.php", status: "200",
			fields: []string{"Remote-Addr: 6.6.6.6", "Script-Filename: /etc/passwd", "Php-Admin-Value: auto_prepend_file=/etc/passwd", "Redirect-Status: 6.6.6.6"},
			want:   []string{"HTTP_REMOTE_ADDR=6.6.6.6", "\nREMOTE_ADDR=127.0.0.1", "\nREDIRECT_STATUS=200"}, never: []string{"\nPHP_ADMIN_VALUE"}},
		{name: "a field with an underscore is not taken for one with a hyphen", target: "/env.php", fields: []string{"X_Real_User: root", "X.Real.User: root", "X-Real-User: me"}, status: "200",
			want: []string{"HTTP_X_REAL_USER=me"}, never: []string{"root"}},
		{name: "nor is it by a server", target: "/app/echo", fields: []string{"X_Real_User: admin", "X-Real-User: me"}, status: "200", want: []string{"X-Real-User: me"}, never: []string{"admin"}},
		{name: "CVE-2012-1823: php-cgi gets no switch out of a query", target: "/env.php?-s", status: "200", want: []string{"RAN", "QUERY_STRING=-s\n"}, never: []string{"<?php"}},
		{name: "CVE-2024-4577: nor one that begins with a soft hyphen", method: "POST", target: "/env.php?%ADd+allow_url_include%3d1+%ADd+auto_prepend_file%3dphp://input",
			body: "<?php echo 'EVIL '.'EXECUTED';", status: "200", want: []string{"RAN", "QUERY_STRING=%ADd"}},
		{name: "CVE-2019-11043: PATH_INFO with a line feed does not reach PHP", target: "/env.php/PHP%0Ais_the_shittiest_lang.php?" + strings.Repeat("Q", 1754), status: "400"},
		{name: "CVE-2019-11043: PATH_INFO that looks like a script is PATH_INFO", target: "/env.php/b.php/c?" + strings.Repeat("Q", 1754), status: "200", want: []string{"\nPATH_INFO=/b.php/c\n", "\nSCRIPT_NAME=/env.php\n"}},
		{name: "CVE-2021-41773: a shell is no CGI script", method: "POST", target: "/cgi-bin/.%2e/.%2e/.%2e/.%2e/.%2e/.%2e/.%2e/.%2e/bin/sh", body: "echo; id", status: "400"},
		{name: "CVE-2021-42013: nor by dots that are escaped twice", method: "POST", target: "/cgi-bin/%%32%65%%32%65/%%32%65%%32%65/%%32%65%%32%65/bin/sh", body: "echo; id", status: "4", only1: true},
		{name: "CVE-2024-38472: a path never names another host", target: "/raw//192.0.2.1/share/x", status: "404"},
		{name: "CVE-2024-38472: nor with backslashes", target: "/raw/%5c%5c192.0.2.1/share/x", status: "400"},
		{name: "CVE-2024-38473: an escaped question mark opens no script that is refused", target: "/locked.php%3Fooo.php", status: "404", never: []string{"LOCKED"}},
		{name: "CVE-2024-38473: a script sees the path that the routes have seen", target: "/locked/..//%65nv.php/./a%20b?c=/../d", status: "200", want: []string{"REQUEST_URI=/env.php/a%20b?c=/../d\n"}},
		{name: "and so does a server", target: "/locked/../app/%65cho?c=/../d", status: "200", want: []string{"GET /app/echo?c=/../d "}},
		{name: "PATH_INFO behind a script that is refused opens it neither", target: "/locked.php/x", status: "403", never: []string{"LOCKED"}},
		{name: "nor does a slash", target: "/locked.php/", status: "403", never: []string{"LOCKED"}},
		{name: "nor does PATH_INFO open a script that is internal", target: "/inside.php/x", status: "404", never: []string{"LOCKED"}},
		{name: "PATH_INFO behind a CGI script that is refused opens it neither", target: "/cgi-bin/locked.cgi/x", status: "403", never: []string{"LOCKED"}},
		{name: "CVE-2024-38473: nor does PATH_INFO get round", target: "/locked/a.php%3F/x.php", status: "403", never: []string{"LOCKED"}},
		{name: "CVE-2024-38474: an escaped question mark in a rewrite ends no path", target: "/doc/note.txt%3f", status: "404", never: []string{"SECRET-NOTE"}},
		{name: "CVE-2024-38474: it stays one value in a query", target: "/page/x%3fa%26page=y", status: "200", want: []string{"QUERY_STRING=page=x%3Fa%26page%3Dy\n"}},
		{name: "CVE-2024-38475: what a rewrite makes of a client's path lies below the root", target: "/raw/etc/passwd", status: "404"},
		{name: "CVE-2024-38475: and passes the routes again", target: "/raw/locked/a.txt", status: "403", never: []string{"LOCKED"}},
		{name: "CVE-2024-38476: where a script redirects to within the site passes the routes again", target: "/cgi-bin/local.cgi", status: "403", never: []string{"LOCKED"}},
		{name: "a page for an error redirects to no other place that is refused", target: "/gone/", status: "410", never: []string{"LOCKED"}},
		{name: "CVE-2024-38476 and CVE-2024-39884: the type of a response chooses no handler", target: "/cgi-bin/typed.cgi", status: "302", want: []string{"Location: /upload/note.txt"}, never: []string{"SECRET-NOTE", "RAN"}},
		{name: "CVE-2024-39573 and CVE-2021-40438: a query chooses no server", target: "/app/echo?unix:" + strings.Repeat("A", 5000) + "|http://192.0.2.1/", status: "200", want: []string{"GET /app/echo?unix:AAA"}},
		{name: "nor does a path", target: "/app/echo/http://192.0.2.1/", status: "200", want: []string{"GET /app/echo/http:/192.0.2.1/"}},
		{name: "CVE-2024-24795: a script that splits its response gets 502", target: "/cgi-bin/split.cgi", status: "502", never: []string{"e=1"}},
		{name: "CVE-2023-38709: and so does a server", target: "/app/split", status: "502", never: []string{"e=1"}},
		{name: "CVE-2023-38709: a line feed alone splits no response of a server", target: "/app/linefeed", status: "502", never: []string{"e=1"}},
		{name: "a line break in a path splits no redirect", target: "/static%0d%0aSet-Cookie:%20e=1", status: "400", never: []string{"e=1"}},
		{name: "a line break in a query stays escaped", target: "/static?%0d%0aSet-Cookie:%20e=1", status: "301", want: []string{"Location: /static/?%0d%0aSet-Cookie:%20e=1"}},
		{name: "a field in a redirect stays one name on this site", target: "/local/", fields: []string{`X-To: /\evil.example/%0d%0ae=1`}, status: "302", want: []string{"Location: /%2F%5Cevil.example%2F%250d%250ae=1"}},
		{name: "CVE-2022-31813: Connection takes away no field of ours", target: "/app/echo", only1: true, status: "200",
			fields: []string{"Connection: close, X-Forwarded-For, X-Forwarded-Proto, X-Real-Ip, Host", "X-Forwarded-For: 6.6.6.6", "X-Real-Ip: 6.6.6.6"},
			want:   []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Real-Ip: 127.0.0.1", "Host: localhost"}, never: []string{"6.6.6.6"}},
		{name: "what a client says of itself is not passed on", target: "/app/echo", fields: []string{"X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Forwarded-Host: 6.6.6.6", "X-Real-Ip: 6.6.6.6"}, status: "200",
			want: []string{"X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1"}, never: []string{"6.6.6.6"}},
		{name: "CVE-2022-2880: a query reaches a server as it is", target: "/app/echo?a=1;b=2&c=%20;", status: "200", want: []string{"GET /app/echo?a=1;b=2&c=%20; "}},
		{name: "CVE-2022-2880: or not at all", target: "/app/echo?c=%zz", only1: true, status: "400"},
		{name: "dots with a parameter reach no server", target: "/app/..;/manager/html", status: "400"},
		{name: "CVE-2020-24553: a script that does not say its type is not guessed to be a page", target: "/cgi-bin/untyped.cgi", status: "200", want: []string{"Content-Type: text/plain", "X-Content-Type-Options: nosniff"}},
		{name: "CVE-2011-3192: a thousand ranges get the file once", target: "/digits.txt", fields: []string{"Range: bytes=" + evil}, status: "200", want: []string{"Content-Length: 10"}},
		{name: "CVE-2017-7529: ranges that overflow are none", target: "/digits.txt", fields: []string{"Range: bytes=-9223372036854775608,-9223372036854775608"}, status: "200", want: []string{"0123456789"}},
		{name: "CVE-2011-3368: a target is no address of a server", target: "@192.0.2.1/", only1: true, status: "400"},
		{name: "no open proxy: a URL of another host", target: "http://192.0.2.1/app/echo", only1: true, status: "400"},
		{name: "no open proxy: a URL goes to the server of its route", target: "http://localhost/app/echo", only1: true, status: "200", want: []string{"GET /app/echo "}},
		{name: "no open proxy: CONNECT", method: "CONNECT", target: "192.0.2.1:25", only1: true, status: "405"},
		{name: "no open redirect: two slashes before a folder", target: "//evil.example", status: "301", want: []string{"Location: /evil.example/"}},
		{name: "no open redirect: and dots behind", target: "//evil.example/%2e%2e/static", status: "301", want: []string{"Location: /static/"}},
		{name: "no open redirect: a group behind a host", target: "/moved/.evil.example", status: "302", want: []string{"Location: https://new.example/.evil.example"}},
		{name: "no open redirect: nor is the host a user's name", target: "/moved/@evil.example/", status: "302", want: []string{"Location: https://new.example/@evil.example/"}},
		{name: "an upgrade that nobody asked for is no tunnel", target: "/app/switch", status: "502"},
		{name: "an upgrade to something else than was asked for neither", target: "/app/switch", fields: []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 777"}, only1: true, status: "502"},
		{name: "no server is asked for h2c", target: "/app/echo", fields: []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"}, only1: true, status: "200", never: []string{"h2c", "Settings"}},
		{name: "a status 000 is none", target: "/app/000", status: "502"},
		{name: "a status 099 is none", target: "/app/099", status: "502"},
		{name: "a status 1000 is none", target: "/app/1000", status: "502"},
		{name: "a status of letters is none", target: "/app/abc", status: "502"},
		{name: "a status 000 of a script is none", target: "/cgi-bin/000.cgi", status: "502"},
		{name: "a status 099 of a script is none", target: "/cgi-bin/099.cgi", status: "502"},
		{name: "a status 1000 of a script is none", target: "/cgi-bin/1000.cgi", status: "502"},
		{name: "a status of letters of a script is none", target: "/cgi-bin/abc.cgi", status: "502"},
		{name: "a status that is split is none", target: "/cgi-bin/splitstatus.cgi", status: "502", never: []string{"e=1"}},
		{name: "a server's body that is short has no clean end", target: "/app/short", status: "cut"},
		{name: "chunks of a server that are cut have no clean end", target: "/app/cut", status: "cut"},
		{name: "a server that speaks HTTP/2 is understood", target: "/two/fine", status: "200", want: []string{"body"}},
		{name: "a status 000 of such a server is none", target: "/two/000", status: "502"},
		{name: "a status 099 of such a server is none", target: "/two/099", status: "502"},
		{name: "a status 600 of such a server is none", target: "/two/600", status: "502"},
		{name: "a status of letters of such a server is none", target: "/two/abc", status: "502"},
		{name: "no status of such a server is none", target: "/two/none", status: "502"},
		{name: "such a server opens no tunnel", target: "/two/switch", status: "200", want: []string{"body"}, never: []string{"Upgrade"}},
		{name: "such a server splits no response", target: "/two/split", status: "502", never: []string{"e=1"}},
		{name: "nor by a line feed", target: "/two/linefeed", status: "502", never: []string{"e=1"}},
		{name: "nor by a name", target: "/two/name", status: "502", never: []string{"e=1"}},
		{name: "such a server says nothing of the client's connection", target: "/two/hop", status: "200", never: []string{"chunked"}},
		{name: "such a server's body that is short has no clean end", target: "/two/short", status: "cut"},
		{name: "2 MB of such a server's header are too much", target: "/two/header", status: "502"},
		{name: "a thousand early hints of such a server end", target: "/two/early", status: "502"},
		{name: "a script that is killed has no clean end", target: "/cgi-bin/killed.cgi", status: "cut"},
		{name: "a script that redirects to itself ends", target: "/cgi-bin/circle.cgi", status: "500"},
		{name: "a thousand informational responses end", target: "/app/continue", status: "502"},
		{name: "2 MB of a server's header are too much", target: "/app/header", status: "502"},
		{name: "1 MB of a script's header is too much", target: "/cgi-bin/header.cgi", status: "502"},
		{name: "a listing shows names as text", target: "/upload/?sort=%3Cscript%3E", status: "200", want: []string{"note.txt", "default-src 'none'"}, never: []string{"<script"}},
	}
}

// attackOutputs are scripts that write what they should not.
var attackOutputs = map[string]string{
	"locked":      `printf 'Content-Type: text/plain\n\nLOCKED RAN'`,
	"local":       `printf 'Location: /locked/a.txt\n\n'`,
	"typed":       `printf 'Content-Type: application/x-httpd-php\nLocation: /upload/note.txt\n\n<?php echo "EVIL "."EXECUTED";'`,
	"split":       `printf 'X-A: b\rSet-Cookie: e=1\n\n'`,
	"splitstatus": `printf 'Status: 200 OK\rSet-Cookie: e=1\n\n'`,
	"untyped":     `printf 'X-A: b\n\n<b>bold</b>'`,
	"000":         `printf 'Status: 000 X\n\n'`,
	"099":         `printf 'Status: 099 X\n\n'`,
	"1000":        `printf 'Status: 1000 X\n\n'`,
	"abc":         `printf 'Status: abc\n\n'`,
	"killed":      `printf 'Content-Type: text/plain\n\n'; head -c 200000 /dev/zero | tr '\0' a; kill -9 $$`,
	"circle":      `printf 'Location: /cgi-bin/circle.cgi\n\n'`,
	"header":      `printf 'X-A: '; head -c 1000000 /dev/zero | tr '\0' a; printf '\n\n'`,
}

func testRequestAttacks(t *testing.T, address string) {
	for _, a := range attempts() {
		t.Run(a.name, func(t *testing.T) {
			a.judge(t, "HTTP/1.1", a.over1(t, address))
			if !a.only1 {
				a.judge(t, "HTTP/2", a.over2(t, address))
			}
		})
	}
}

// outcome is what a client has got.
type outcome struct {
	status string // "reset": none
	text   string // of the header, a line for each field, and the body
	whole  bool
}

func (a *attempt) judge(t *testing.T, protocol string, got outcome) {
	t.Helper()
	if a.status == "cut" && got.whole && got.status != "502" || a.status != "cut" && !strings.HasPrefix(got.status, a.status) {
		t.Errorf("%s: status %s, whole: %t; want %s: %.300q", protocol, got.status, got.whole, a.status, got.text)
	}
	for _, want := range a.want {
		if !strings.Contains(got.text, want) {
			t.Errorf("%s: the answer lacks %q: %.2000q", protocol, want, got.text)
		}
	}
	for _, word := range slices.Concat(a.never, forbidden) {
		if strings.Contains(got.text, word) {
			t.Errorf("%s: the answer holds %q: %.2000q", protocol, word, got.text)
		}
	}
}

func (a *attempt) verb() string {
	if a.method == "" {
		return http.MethodGet
	}
	return a.method
}

// over1 makes the attempt in HTTP/1.1, byte for byte as it stands.
func (a *attempt) over1(t *testing.T, address string) outcome {
	c := dial(t, address)
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\n", a.verb(), a.target)
	for _, field := range a.fields {
		head += field + "\r\n"
	}
	if !strings.Contains(head, "\r\nConnection: ") {
		head += "Connection: close\r\n"
	}
	if a.body != "" {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(a.body))
	}
	if _, err := io.WriteString(c, head+"\r\n"+a.body); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	r, err := http.ReadResponse(br, nil)
	for err == nil && r.StatusCode < http.StatusOK && r.StatusCode != http.StatusSwitchingProtocols {
		r, err = http.ReadResponse(br, nil)
	}
	if err != nil {
		return outcome{status: "reset", text: err.Error()}
	}
	var text bytes.Buffer
	r.Header.Write(&text)
	fmt.Fprintf(&text, "Content-Length: %d\r\n\r\n", r.ContentLength)
	_, err = io.Copy(&text, r.Body)
	return outcome{fmt.Sprint(r.StatusCode), text.String(), err == nil}
}

// over2 makes it in HTTP/2, whose frames can say what clients would not.
func (a *attempt) over2(t *testing.T, address string) outcome {
	c := dial(t, address)
	var block bytes.Buffer
	fields := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", a.verb()}, {":scheme", "http"}, {":authority", "localhost"}, {":path", a.target}} {
		fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	for _, field := range a.fields {
		name, value, _ := strings.Cut(field, ": ")
		fields.WriteField(hpack.HeaderField{Name: strings.ToLower(name), Value: value})
	}
	const window = 1 << 28
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	io.WriteString(c, http2.ClientPreface)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	f.WriteWindowUpdate(0, window)
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: a.body == ""})
	if a.body != "" {
		f.WriteData(1, true, []byte(a.body))
	}
	return answer2(f)
}

// answer2 reads what comes on the first stream.
func answer2(f *http2.Framer) (got outcome) {
	got.status = "reset"
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return got
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			got.status = frame.PseudoValue("status")
			for _, field := range frame.RegularFields() {
				got.text += http.CanonicalHeaderKey(field.Name) + ": " + field.Value + "\r\n"
			}
		case *http2.DataFrame:
			got.text += string(frame.Data())
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return got
		}
		if frame.Header().StreamID == 1 && frame.Header().Flags.Has(http2.FlagDataEndStream) {
			got.whole = true
			return got
		}
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(gatewaytest.Patience))
	return c
}
