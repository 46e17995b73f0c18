package http1

import (
	"testing"
	"time"
)

const wrkHead = "GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: wrk/4.2.0\r\nAccept: */*\r\n\r\n"

const browserHead = "GET /wiki/doku.php?id=start&do=edit HTTP/1.1\r\n" +
	"Host: www.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Referer: https://www.example.com/wiki/doku.php?id=start\r\n" +
	"Connection: keep-alive\r\n" +
	"Cookie: DokuWiki=0123456789abcdef0123456789abcdef; DWcookie=cHJlZnM%3D\r\n" +
	"Upgrade-Insecure-Requests: 1\r\n" +
	"If-Modified-Since: Tue, 01 Jul 2025 10:00:00 GMT\r\n" +
	"If-None-Match: \"5f3c-63a1b2c3d4e5f\"\r\n" +
	"Priority: u=0, i\r\n\r\n"

// Claim: below 300 ns, no allocation.
func BenchmarkParseWrk(b *testing.B) { benchmarkParse(b, wrkHead) }

// Claim: below 700 ns, no allocation.
func BenchmarkParseBrowser(b *testing.B) { benchmarkParse(b, browserHead) }

func benchmarkParse(b *testing.B, in string) {
	buf := []byte(in)
	var h Head
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if n, err := h.Parse(buf); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

// Claim: a head of 64 KiB that comes byte by byte costs less than the system calls that bring it.
func BenchmarkResumeByBytes(b *testing.B) {
	buf := []byte(headOf(MaxHeadBytes))
	var h Head
	b.ReportAllocs()
	for b.Loop() {
		if n, err := parseInPieces(&h, buf, 1); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkChunkReader(b *testing.B) {
	var body []byte
	for range 16 {
		body = AppendChunk(body, make([]byte, 4096))
	}
	body = append(body, LastChunk...)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var c ChunkReader
		for src := body; len(src) > 0; {
			_, n, _, err := c.Next(src)
			if err != nil {
				b.Fatal(err)
			}
			src = src[n:]
		}
	}
}

// Claim: no allocation.
func BenchmarkResponseHead(b *testing.B) {
	var cache DateCache
	now := time.Unix(1_750_000_000, 0)
	dst := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendStatusLine(dst[:0], 200)
		dst = cache.AppendField(dst, now)
		dst = AppendField(dst, "Content-Type", "text/html; charset=utf-8")
		dst = AppendField(dst, "ETag", "\"5f3c-63a1b2c3d4e5f\"")
		dst = AppendContentLength(dst, 1024)
		dst = append(dst, "\r\n"...)
	}
}
