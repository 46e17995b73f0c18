package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decoded undoes the coding of a response.
func decoded(t testing.TB, resp *http.Response, body string) string {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	var err error
	switch resp.Header.Get("Content-Encoding") {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r, zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("%s: %v", resp.Header.Get("Content-Encoding"), err)
	}
	return string(b)
}

// gzipped compresses a text in a way of its own, so that a test can tell who did.
func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	z.Write([]byte(text))
	z.Close()
	return b.String()
}

// client is one connection, over which requests go one after another.
type client struct {
	net.Conn
	r *bufio.Reader
}

func connect(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{c, bufio.NewReader(c)}
}

const compressedSite = `
  compress { min_size = 100 }
  route "/plain/*" {
    pool = "edge"
    static {}
    compress { level = 0 }
  }
  route "/*" {
    pool = "edge"
    static {
      precompressed   = ["br", "gzip"]
      cache_control   = "max-age=60"
      cache_by_suffix = { ".min.js" = "immutable", "raw.txt" = "no-transform" }
      types           = { ".foo" = "text/x-foo", "tar.gz" = "application/x-tgz" }
      hide            = ["*.bak", "secret"]
    }
  }
`

func TestForms(t *testing.T) {
	text, big := strings.Repeat("all work and no play ", 200), strings.Repeat("0123456789 and so on, ", 40_000)
	readyBr := "not really brotli"
	addr, _, s := engineSite(t, compressedSite, map[string]string{
		"a.txt": text, "app.min.js": text, "app.min.js.gz": gzipped(t, text), "app.min.js.br": readyBr, "big.txt": big, "small.txt": "small", "a.png": text, "x.foo": text,
		"a.tar.gz": text, "raw.txt": text, "old.bak": text, "secret/a.txt": text, "plain/a.txt": text, "index.html": text, "index.html.gz": gzipped(t, text),
	}, nil)
	age(t)
	c := connect(t, addr)
	const long = "long"
	rows := []struct {
		name, method, path, accept, field string
		status                            int
		coding, want                      string
		long                              bool // not answered from memory the second time
	}{
		{name: "no Accept-Encoding", path: "/a.txt", status: 200, want: text},
		{name: "gzip on the way", path: "/a.txt", accept: "gzip", status: 200, coding: "gzip", want: text},
		{name: "brotli on the way", path: "/a.txt", accept: "BR;q=0.9, gzip;q=0.8", status: 200, coding: "br", want: text},
		{name: "zstd on the way", path: "/a.txt", accept: "gzip, deflate, br, zstd", status: 200, coding: "zstd", want: text},
		{name: "HEAD", method: "HEAD", path: "/a.txt", accept: "zstd", status: 200, coding: "zstd"},
		{name: "a range is one of the file as it is", path: "/a.txt", accept: "gzip", field: "Range: bytes=0-7", status: 206, want: "all work"},
		{name: "a large file", path: "/big.txt", accept: "gzip", status: 200, coding: "gzip", want: big},
		{name: "a file that is too short", path: "/small.txt", accept: "gzip", status: 200, want: "small"},
		{name: "a type that is compressed already", path: "/a.png", accept: "gzip", status: 200, want: text},
		{name: "a type of the route's", path: "/x.foo", accept: "gzip", status: 200, coding: "gzip", want: text},
		{name: "no-transform", path: "/raw.txt", accept: "gzip", status: 200, want: text},
		{name: "a route that does not compress", path: "/plain/a.txt", accept: "gzip", status: 200, want: text},
		{name: "gzip that lies beside the file", path: "/app.min.js", accept: "gzip, zstd;q=0.1", status: 200, coding: "gzip", want: text},
		{name: "what lies beside goes before what is made", path: "/app.min.js", accept: "gzip, zstd", status: 200, coding: "gzip", want: text},
		{name: "a coding that does not lie there is made", path: "/app.min.js", accept: "zstd", status: 200, coding: "zstd", want: text},
		{name: "the file as it is", path: "/app.min.js", accept: "gzip;q=0", status: 200, want: text},
		{name: "HEAD of what lies beside", method: "HEAD", path: "/app.min.js", accept: "br", status: 200, coding: "br"},
		{name: "a range of what lies beside", path: "/app.min.js", accept: "br", field: "Range: bytes=0-2", status: 206, coding: "br", want: "not"},
		{name: "an index with gzip beside it", path: "/", accept: "gzip", status: 200, coding: "gzip", want: text},
		{name: "what lies beside, asked for itself", path: "/app.min.js.gz", accept: "gzip", status: 200, want: gzipped(t, text)},
		{name: "a name that is hidden", path: "/old.bak", accept: "gzip", status: 404, want: "404 Not Found\n", long: true},
		{name: "a folder that is hidden", path: "/secret/a.txt", status: 404, want: "404 Not Found\n", long: true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			fields := []string{"Accept: */*"}
			if row.accept != "" {
				fields = append(fields, "Accept-Encoding: "+row.accept)
			}
			if row.field != "" {
				fields = append(fields, row.field)
			}
			method := row.method
			if method == "" {
				method = "GET"
			}
			var heads []string
			for _, way := range []string{long, "from memory"} {
				hits := s.Cache().Hits
				resp, body := get(t, c, c.r, method, row.path, fields...)
				h := resp.Header
				if resp.StatusCode != row.status || h.Get("Content-Encoding") != row.coding {
					t.Fatalf("%s: %d in coding %q, want %d in %q", way, resp.StatusCode, h.Get("Content-Encoding"), row.status, row.coding)
				}
				if row.coding != "" && resp.ContentLength < 0 {
					t.Errorf("%s: no length", way)
				}
				if method != "HEAD" && !strings.HasPrefix(body, readyBr[:3]) {
					body = decoded(t, resp, body)
				}
				if body != row.want && method != "HEAD" {
					t.Errorf("%s: body %.60q, want %.60q", way, body, row.want)
				}
				h.Del("Date")
				var head strings.Builder
				h.Write(&head)
				heads = append(heads, head.String())
				if got := s.Cache().Hits > hits; way != long && got == row.long {
					t.Errorf("%s: answered from memory: %v", way, got)
				}
			}
			if heads[0] != heads[1] {
				t.Errorf("the head from memory is\n%swant\n%s", heads[1], heads[0])
			}
		})
	}
}

func TestFormsHaveTheirOwnValidators(t *testing.T) {
	text := strings.Repeat("all work and no play ", 200)
	addr, _, _ := engineSite(t, compressedSite, map[string]string{"a.js": text, "a.js.gz": gzipped(t, text)}, nil)
	age(t)
	c := connect(t, addr)
	tags := map[string]string{}
	for range 2 { // the long way, and from memory
		for _, accept := range []string{"identity", "gzip", "zstd"} {
			resp, _ := get(t, c, c.r, "GET", "/a.js", "Accept-Encoding: "+accept)
			if got := resp.Header.Get("Vary"); got != "Accept-Encoding" {
				t.Errorf("%s: Vary is %q", accept, got)
			}
			tag := resp.Header.Get("Etag")
			if tags[accept] != "" && tags[accept] != tag {
				t.Errorf("%s: ETag %s, then %s", accept, tags[accept], tag)
			}
			tags[accept] = tag
		}
	}
	if !strings.HasSuffix(tags["gzip"], `-gzip"`) || tags["zstd"] != "W/"+tags["identity"] {
		t.Errorf("ETags %v: want one of its own for what lies there, and a weak one for what was made", tags)
	}
	for range 2 {
		for accept, tag := range tags {
			resp, body := get(t, c, c.r, "GET", "/a.js", "Accept-Encoding: "+accept, "If-None-Match: "+tag)
			if resp.StatusCode != 304 || body != "" || resp.Header.Get("Vary") == "" || resp.Header.Get("Etag") != tag || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s with If-None-Match: %s: %d, %v", accept, tag, resp.StatusCode, resp.Header)
			}
		}
		resp, _ := get(t, c, c.r, "GET", "/a.js", "Accept-Encoding: zstd", "If-None-Match: "+tags["gzip"])
		if resp.StatusCode != 200 {
			t.Errorf("another form's ETag gave %d, want 200", resp.StatusCode)
		}
		resp, _ = get(t, c, c.r, "GET", "/a.js", "Accept-Encoding: zstd", "Range: bytes=0-3", "If-Range: "+tags["zstd"])
		if resp.StatusCode != 200 {
			t.Errorf("a range with a weak ETag gave %d, want all of the file", resp.StatusCode)
		}
	}
}

func TestFormsFollowTheirFiles(t *testing.T) {
	text := strings.Repeat("all work and no play ", 200)
	addr, root, s := engineSite(t, compressedSite, map[string]string{"a.js": text}, nil)
	age(t)
	c := connect(t, addr)
	ask := func() (coding, body string) {
		resp, body := get(t, c, c.r, "GET", "/a.js", "Accept-Encoding: gzip")
		return resp.Header.Get("Content-Encoding"), decoded(t, resp, body)
	}
	if coding, body := ask(); coding != "gzip" || body != text {
		t.Errorf("first: %q, %.30q", coding, body)
	}
	outdate := func(name, content string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		age(t)
		for i := range s.hot.sets { // a second later
			for j := range s.hot.sets[i] {
				if f := s.hot.sets[i][j].Load(); f != nil {
					f.checked.Store(0)
				}
			}
		}
	}
	other := strings.Repeat("all play and no work ", 200)
	outdate("a.js", other)
	if coding, body := ask(); coding != "gzip" || body != other {
		t.Errorf("after a change: %q, %.30q", coding, body)
	}
	outdate("a.js.gz", gzipped(t, "laid beside it"))
	for range 2 {
		if coding, body := ask(); coding != "gzip" || body != "laid beside it" {
			t.Errorf("with a file beside it: %q, %.30q", coding, body)
		}
	}
	if err := os.Remove(filepath.Join(root, "a.js.gz")); err != nil {
		t.Fatal(err)
	}
	outdate("b.js", "")
	if coding, body := ask(); coding != "gzip" || body != other {
		t.Errorf("without it again: %q, %.30q", coding, body)
	}
}

// TestCompressedOnce: who asks for a file while it is compressed waits for that, and later it is there.
func TestCompressedOnce(t *testing.T) {
	text := strings.Repeat("all work and no play makes a dull server. ", 20_000)
	addr, _, s := engineSite(t, compressedSite, map[string]string{"a.txt": text}, nil)
	age(t)
	var clients sync.WaitGroup
	for range 8 {
		c := connect(t, addr)
		clients.Go(func() {
			resp, body := get(t, c, c.r, "GET", "/a.txt", "Accept-Encoding: br")
			if got := decoded(t, resp, body); got != text || resp.Header.Get("Content-Encoding") != "br" {
				t.Errorf("%d bytes in coding %q", len(got), resp.Header.Get("Content-Encoding"))
			}
		})
	}
	clients.Wait()
	if st := s.Cache(); st.Entries != 1 || st.Bytes == 0 || st.Bytes >= int64(len(text)) {
		t.Errorf("the cache is %+v, want the compressed file", st)
	}
}
