package fcgi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseHeader(t *testing.T) {
	tests := []struct {
		name   string
		head   string
		status int
		fields string // as fmt prints the map
	}{
		{"LF", "Content-Type: text/html\n\n", 0, "map[Content-Type:[text/html]]"},
		{"CRLF", "Content-Type: text/html\r\n\r\n", 0, "map[Content-Type:[text/html]]"},
		{"both mixed", "A: 1\r\nB: 2\n\r\n", 0, "map[A:[1] B:[2]]"},
		{"status alone", "Status: 204\n\n", 204, "map[]"},
		{"status with reason", "Status: 404 Not Found\nA: 1\n\n", 404, "map[A:[1]]"},
		{"status in lower case", "status:500\n\n", 500, "map[]"},
		{"the largest status", "Status: 599 x\n\n", 599, "map[]"},
		{"local redirect", "Location: /there?x=1\n\n", 0, "map[Location:[/there?x=1]]"},
		{"client redirect as PHP sends it", "Status: 302 Found\r\nLocation: http://a/\r\nContent-type: text/html\r\n\r\n", 302,
			"map[Content-Type:[text/html] Location:[http://a/]]"},
		{"cookies keep their order", "Set-Cookie: b=1\nX: y\nset-cookie: a=2\n\n", 0, "map[Set-Cookie:[b=1 a=2] X:[y]]"},
		{"white space around a value", "A: \t 1 2 \t\n\n", 0, "map[A:[1 2]]"},
		{"an empty value", "A:\n\n", 0, "map[A:[]]"},
		{"a colon and bytes above 127 in a value", "A: b:\xe9\n\n", 0, "map[A:[b:\xe9]]"},
		{"a line longer than the buffer", "A: " + strings.Repeat("x", 5000) + "\r\n\r\n", 0, "map[A:[" + strings.Repeat("x", 5000) + "]]"},
		{"nearly too large", "A: " + strings.Repeat("x", maxHead-5) + "\n\n", 0, "map[A:[" + strings.Repeat("x", maxHead-5) + "]]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(tt.head + "body\n\n")))
			status, header, err := ParseHeader(r)
			if err != nil || status != tt.status || fmt.Sprint(map[string][]string(header)) != tt.fields {
				t.Fatalf("ParseHeader(%.80q) = %d, %.80v, %v; want %d, %.80s", tt.head, status, header, err, tt.status, tt.fields)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "body\n\n" {
				t.Errorf("ParseHeader(%.80q) left %q as the body", tt.head, rest)
			}
		})
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	for name, head := range map[string]string{
		"nothing":                          "",
		"an empty head":                    "\n",
		"an empty head with CRLF":          "\r\nA: 1\r\n\r\n",
		"no empty line":                    "A: 1\n",
		"the end in a line":                "A: 1\nB",
		"no colon":                         "A: 1\nHello, world\n\n",
		"a status line":                    "HTTP/1.1 200 OK\n\n",
		"an empty name":                    ": 1\n\n",
		"a space before the colon":         "A : 1\n\n",
		"a folded line":                    "A: 1\n B: 2\n\n",
		"a name with a parenthesis":        "A(1): 1\n\n",
		"a name with a high byte":          "\xc3\xa9: 1\n\n",
		"a CR in a value":                  "A: b\rSet-Cookie: e=1\n\n",
		"a CR before the CRLF":             "A: b\r\r\n\r\n",
		"a NUL in a value":                 "A: b\x00c\n\n",
		"another control in a value":       "A: b\x1b[1m\n\n",
		"DEL in a value":                   "A: b\x7f\n\n",
		"status 0":                         "Status: 0\n\n",
		"status 000":                       "Status: 000\n\n",
		"status 99":                        "Status: 99\n\n",
		"status 099":                       "Status: 099\n\n",
		"an interim status":                "Status: 101 Switching Protocols\n\n",
		"status 600":                       "Status: 600\n\n",
		"status 1000":                      "Status: 1000\n\n",
		"status abc":                       "Status: abc\n\n",
		"status -20":                       "Status: -20\n\n",
		"status with letters":              "Status: 20x OK\n\n",
		"status in other digits":           "Status: ٢00\n\n",
		"no status value":                  "Status:\n\n",
		"two statuses":                     "Status: 200\nStatus: 404\n\n",
		"a head that is too large":         "A: " + strings.Repeat("x", maxHead-4) + "\n\n",
		"a line without end":               strings.Repeat("x", 2*maxHead),
		"too large in many fields":         strings.Repeat("A: 1\n", maxHead/5+1) + "\n",
		"too large in the last empty line": "A: " + strings.Repeat("x", maxHead-4) + "\n\n",
	} {
		if status, header, err := ParseHeader(bufio.NewReader(strings.NewReader(head))); !errors.Is(err, ErrHead) {
			t.Errorf("%s: ParseHeader(%.60q) = %d, %.60v, %v; want ErrHead", name, head, status, header, err)
		}
	}
}

func TestParseHeaderReturnsReadErrors(t *testing.T) {
	r := io.MultiReader(strings.NewReader("A: 1\n"), iotest.ErrReader(ErrTruncated))
	if _, _, err := ParseHeader(bufio.NewReader(r)); !errors.Is(err, ErrTruncated) || errors.Is(err, ErrHead) {
		t.Errorf("ParseHeader() = %v, want ErrTruncated", err)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte("Status: 404 Not Found\r\nContent-Type: a\r\nSet-Cookie: b\nSet-Cookie: c\n\nbody"))
	f.Add([]byte("Location: /x\n\n"))
	f.Add([]byte("A: b\rC: d\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		status, header, err := ParseHeader(bufio.NewReaderSize(bytes.NewReader(data), 16))
		if err != nil {
			return
		}
		if status != 0 && (status < 200 || status > 599) {
			t.Errorf("ParseHeader(%q) gave status %d", data, status)
		}
		var again bytes.Buffer
		if status != 0 {
			fmt.Fprintf(&again, "Status: %d\r\n", status)
		}
		writeHeader(t, &again, header)
		status2, header2, err := ParseHeader(bufio.NewReader(&again))
		if err != nil || status2 != status || fmt.Sprint(header2) != fmt.Sprint(header) {
			t.Errorf("ParseHeader(%q) = %d, %v; written out and parsed again: %d, %v, %v", data, status, header, status2, header2, err)
		}
	})
}

func writeHeader(t *testing.T, w io.Writer, header http.Header) {
	for name, values := range header {
		for _, v := range values {
			if strings.ContainsAny(name+v, "\r\n\x00") {
				t.Errorf("field %q: %q would split the response", name, v)
			}
			fmt.Fprintf(w, "%s: %s\r\n", name, v)
		}
	}
	fmt.Fprint(w, "\r\n")
}

func BenchmarkParseHeader(b *testing.B) {
	head := []byte("X-Powered-By: PHP/8.2.36\r\nSet-Cookie: PHPSESSID=u1v9; path=/\r\nExpires: Thu, 19 Nov 1981 08:52:00 GMT\r\n" +
		"Cache-Control: no-store\r\nContent-type: text/html; charset=UTF-8\r\n\r\n")
	src := bytes.NewReader(head)
	r := bufio.NewReaderSize(src, 4096)
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(head)
		r.Reset(src)
		if _, _, err := ParseHeader(r); err != nil {
			b.Fatal(err)
		}
	}
}
