package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"gateway/routes"
)

var compressAll = &routes.Compress{Codings: []string{"zstd", "br", "gzip"}, Types: []string{"text/*", "*+json"}, MinSize: 1000, Level: 5}

// compressedPHP is a pool of PHP whose answers are compressed.
func compressedPHP(t *testing.T, files map[string]string) *gate {
	route := routes.Route{Pattern: routes.Pattern{Kind: routes.Suffix, Text: ".php"}, MaxRequestBody: 8 << 20, Compress: compressAll}
	return newGate(t, phpPool(t), files, route)
}

func TestCompressedAnswers(t *testing.T) {
	g := compressedPHP(t, map[string]string{"www/a.php": `<?php
		foreach ($_GET["h"] ?? [] as $h) header($h);
		if (isset($_GET["status"])) http_response_code((int)$_GET["status"]);
		$text = str_repeat("all work and no play ", (int)($_GET["n"] ?? 100));
		if (isset($_GET["length"])) header("Content-Length: " . strlen($text));
		if (isset($_GET["slow"])) { while (ob_get_level()) ob_end_flush(); echo substr($text, 0, 30); flush(); usleep(200000); $text = substr($text, 30); }
		echo $text;`})
	text := func(n int) string { return strings.Repeat("all work and no play ", n) }
	rows := []struct {
		name, query, accept, coding string
		want                        string // of the body; empty: text(100)
		vary                        string
		status                      int
		tag                         string
	}{
		{name: "no Accept-Encoding", vary: "Accept-Encoding"},
		{name: "gzip", accept: "gzip", coding: "gzip", vary: "Accept-Encoding"},
		{name: "brotli", accept: "br", coding: "br", vary: "Accept-Encoding"},
		{name: "a browser", accept: "gzip, deflate, br, zstd", coding: "zstd", vary: "Accept-Encoding"},
		{name: "with a length", query: "length", accept: "gzip", coding: "gzip", vary: "Accept-Encoding"},
		{name: "more than the memory takes", query: "n=200000", accept: "gzip", coding: "gzip", vary: "Accept-Encoding", want: text(200000)},
		{name: "too short", query: "n=2", accept: "gzip", vary: "Accept-Encoding", want: text(2)},
		{name: "too short, with a length", query: "n=2&length", accept: "gzip", vary: "Accept-Encoding", want: text(2)},
		{name: "nothing", query: "n=0", accept: "gzip", vary: "Accept-Encoding", want: "nothing"},
		{name: "one that comes slowly", query: "slow", accept: "gzip", coding: "gzip", vary: "Accept-Encoding"},
		{name: "an image", query: "h[]=Content-Type:image/png", accept: "gzip"},
		{name: "no-transform", query: "h[]=Cache-Control:private,+no-transform", accept: "gzip"},
		{name: "compressed already", query: "h[]=Content-Encoding:x-own", accept: "gzip", coding: "x-own"},
		{name: "another Vary", query: "h[]=Vary:Cookie", accept: "gzip", coding: "gzip", vary: "Cookie, Accept-Encoding"},
		{name: "an error page", query: "status=404", status: 404, accept: "gzip", coding: "gzip", vary: "Accept-Encoding"},
		{name: "a part", query: "status=206&h[]=Content-Range:bytes+0-2099/9999", status: 206, accept: "gzip"},
		{name: "a strong ETag", query: `h[]=ETag:"x"`, accept: "gzip", coding: "gzip", vary: "Accept-Encoding", tag: `W/"x"`},
		{name: "a weak ETag", query: `h[]=ETag:W/"x"`, accept: "gzip", coding: "gzip", vary: "Accept-Encoding", tag: `W/"x"`},
		{name: "an ETag of what is not compressed", query: `h[]=ETag:"x"`, vary: "Accept-Encoding", tag: `"x"`},
	}
	for way, addr := range g.fronts(t) {
		c := connect(t, addr)
		for _, row := range rows {
			t.Run(way+": "+row.name, func(t *testing.T) {
				fields := []string{"Accept: */*"}
				if row.accept != "" {
					fields = append(fields, "Accept-Encoding: "+row.accept)
				}
				resp, body := get(t, c, c.r, "GET", "/a.php?"+strings.ReplaceAll(row.query, `"`, "%22"), fields...)
				if resp.Header.Get("Content-Encoding") != row.coding || row.status != 0 && resp.StatusCode != row.status || row.status == 0 && resp.StatusCode != 200 {
					t.Fatalf("%d in coding %q, want %q", resp.StatusCode, resp.Header.Get("Content-Encoding"), row.coding)
				}
				want := row.want
				switch want {
				case "":
					want = text(100)
				case "nothing":
					want = ""
				}
				if got := decoded(t, resp, body); got != want {
					t.Errorf("%d bytes, %.60q…, want %d", len(got), got, len(want))
				}
				if got := strings.Join(resp.Header["Vary"], ", "); got != row.vary {
					t.Errorf("Vary is %q, want %q", got, row.vary)
				}
				if got := resp.Header.Get("Etag"); got != row.tag {
					t.Errorf("ETag is %s, want %s", got, row.tag)
				}
				if resp.ContentLength >= 0 && resp.ContentLength != int64(len(body)) {
					t.Errorf("Content-Length %d of %d", resp.ContentLength, len(body))
				}
				head, _ := get(t, c, c.r, "HEAD", "/a.php?"+strings.ReplaceAll(row.query, `"`, "%22"), fields...)
				if got := head.Header.Get("Content-Encoding"); strings.Contains(row.query, "length") && got != row.coding || head.Header.Get("Vary") != resp.Header.Get("Vary") {
					t.Errorf("HEAD says coding %q, Vary %q", got, head.Header["Vary"])
				}
			})
		}
	}
	g.idle(t)
}

// TestCompressedPieces: what a program has flushed reaches the client, be the response buffered or not.
func TestCompressedPieces(t *testing.T) {
	for name, unbuffered := range map[string]bool{"a page that goes on": false, "buffer = false": true} {
		t.Run(name, func(t *testing.T) {
			route := routes.Route{Pattern: routes.Pattern{Kind: routes.Suffix, Text: ".php"}, MaxRequestBody: 8 << 20, Compress: compressAll, Unbuffered: unbuffered}
			g := newGate(t, phpPool(t), map[string]string{"www/early.php": slowFiles["www/early.php"]}, route)
			goOn := g.fifo(t, "go")
			c := connect(t, g.front(t))
			fmt.Fprintf(c, "GET /early.php HTTP/1.1\r\nHost: legacy.example\r\nAccept-Encoding: gzip\r\n\r\n")
			resp, err := http.ReadResponse(c.r, nil)
			if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
				t.Fatalf("%v, %v", resp, err)
			}
			z, err := gzip.NewReader(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 5)
			if _, err := io.ReadFull(z, first); err != nil || string(first) != "first" {
				t.Fatalf("%q, %v", first, err)
			}
			writeFile(t, goOn)
			if rest, err := io.ReadAll(z); string(rest) != "last" || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

// TestCompressedAndCut: a response whose program dies does not look complete.
func TestCompressedAndCut(t *testing.T) {
	g := compressedPHP(t, map[string]string{"www/die.php": `<?php echo random_bytes(300000); while (ob_get_level()) ob_end_flush(); flush(); posix_kill(getmypid(), 9);`})
	for way, addr := range g.fronts(t) {
		c := connect(t, addr)
		fmt.Fprintf(c, "GET /die.php HTTP/1.1\r\nHost: legacy.example\r\nAccept-Encoding: gzip\r\n\r\n")
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode == 200 {
			t.Errorf("%s: the response looks complete", way)
		}
	}
}

// sink is an outlet that fails when it is full.
type sink struct {
	bytes.Buffer
	limit int
}

var errFull = errors.New("full")

func (s *sink) Write(p []byte) (int, error) {
	if s.Len()+len(p) > s.limit {
		return 0, errFull
	}
	return s.Buffer.Write(p)
}
func (s *sink) stop(bool) (int64, bool) { return int64(s.Len()), false }
func (s *sink) finish() error           { return nil }

func TestCompressionEnds(t *testing.T) {
	e := newEncoders(compressAll)
	for c := identity + 1; c < codings; c++ {
		for _, limit := range []int{0, 10, 1 << 20} {
			out := &sink{limit: limit}
			z := &compression{outlet: out, encoders: e, coding: c, header: http.Header{}, whole: true}
			for range 50 {
				if _, err := z.Write([]byte(strings.Repeat("x", 100))); err != nil && !errors.Is(err, errFull) {
					t.Fatal(err)
				}
			}
			held, _ := z.stop(true)
			if err := z.finish(); (err != nil) != (limit < 1<<20) || err == nil && (held == 0 || held > 200) {
				t.Errorf("%s into %d bytes: held %d, error %v", codingNames[c], limit, held, err)
			}
		}
	}
}

// BenchmarkCompress is what compressing a page of 64 KiB takes: with gzip not longer than zlib needs for it, which other servers use.
func BenchmarkCompress(b *testing.B) {
	var page strings.Builder
	for i := 0; page.Len() < 64<<10; i++ {
		fmt.Fprintf(&page, "<tr><td>%d</td><td class=\"name\">customer %x</td><td>%v</td></tr>\n", i, i*7919, time.Duration(i*104729))
	}
	e := newEncoders(compressAll)
	for c := identity + 1; c < codings; c++ {
		b.Run(codingNames[c], func(b *testing.B) {
			b.SetBytes(int64(page.Len()))
			for b.Loop() {
				if _, err := e.whole(c, bufio.NewReader(strings.NewReader(page.String()))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
