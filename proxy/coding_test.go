package proxy

import (
	"net/http"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	const gzip, br, zstd = gzipCoding, brotliCoding, zstdCoding
	all := offer{}
	for _, c := range []coding{zstd, br, gzip} {
		all.add(choice{coding: c})
	}
	rows := []struct {
		name, accept string
		want         coding
	}{
		{"nothing is accepted", "", identity},
		{"one is", "gzip", gzip},
		{"what a browser accepts: the best one", "gzip, deflate, br, zstd", zstd},
		{"in capitals", "GZIP", gzip},
		{"its old name", "x-gzip", gzip},
		{"the client likes another one better", "zstd;q=0.5, gzip;q=0.8, br;q=0.1", gzip},
		{"with a capital Q and spaces", " gzip ; Q=0.5 ,br ;q=0.1", gzip},
		{"a thousandth decides", "gzip;q=0.501, br;q=0.5", gzip},
		{"one is excluded", "zstd;q=0, br", br},
		{"all are excluded", "gzip;q=0, br;q=0.0, zstd;q=0.000", identity},
		{"anything", "*", zstd},
		{"anything but one", "*, zstd;q=0", br},
		{"nothing at all", "*;q=0", identity},
		{"one and nothing else", "gzip, *;q=0", gzip},
		{"only what nobody has", "deflate, compress", identity},
		{"rather none", "identity, gzip;q=0.5", identity},
		{"none as well: a coding saves more", "identity, gzip", gzip},
		{"a weight that is none", "gzip;q=x, br;q=1.5x, zstd;q=", identity},
		{"a weight with four digits", "gzip;q=0.1234", identity},
		{"a weight above 1 counts as 1", "gzip;q=1.9, br", br},
		{"another parameter", "gzip;level=1", identity},
		{"commas only", ",,,", identity},
		{"a name that only begins so", "gzipped, brr", identity},
	}
	for _, row := range rows {
		if got := all.choose(row.accept, false); got.coding != row.want {
			t.Errorf("choose(%q), %s, = %q, want %q", row.accept, row.name, codingNames[got.coding], codingNames[row.want])
		}
	}
	made := offer{}
	made.add(choice{coding: br})
	made.add(choice{gzip, true})
	made.add(choice{br, true})
	if made.n != 2 {
		t.Errorf("a coding that lies there is offered to be made as well: %v", made)
	}
	if got := made.choose("gzip", true); got != (choice{}) {
		t.Errorf("with a range choose() = %v, though there is no range of what is made", got)
	}
	if got := made.choose("br", true); got != (choice{coding: br}) {
		t.Errorf("with a range choose() = %v, want the file that lies there", got)
	}
}

func FuzzAcceptance(f *testing.F) {
	for _, s := range []string{"", "gzip", "gzip;q=0.5, *;q=0", "br;q=1.000", ";;,=q", "gzip;q=0.9999", "*;q"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		for _, name := range []string{"gzip", "br", "zstd", "identity"} {
			q, named := acceptance(accept, name)
			if q < 0 || q > 1000 || named && !strings.Contains(lowerASCII(accept), name) {
				t.Errorf("acceptance(%q, %q) = %d, %v", accept, name, q, named)
			}
		}
	})
}

func TestIsCompressible(t *testing.T) {
	types := []string{"text/*", "*+json", "application/wasm"}
	for contentType, want := range map[string]bool{
		"text/html": true, "text/html; charset=utf-8": true, "TEXT/CSS": true, "application/ld+json": true, "application/wasm": true,
		"image/png": false, "": false, "text": false, "application/json": false, "application/json+x": false, "text/event-stream": false,
	} {
		if got := isCompressible(types, contentType); got != want {
			t.Errorf("isCompressible(%q) = %v, want %v", contentType, got, want)
		}
	}
	if !isCompressible([]string{"text/event-stream"}, "text/event-stream") {
		t.Error("an event stream that is named is not compressed")
	}
}

func TestVaryByEncoding(t *testing.T) {
	for have, want := range map[string]string{
		"": "Accept-Encoding", "Cookie": "Cookie, Accept-Encoding", "cookie, accept-encoding": "cookie, accept-encoding", "*": "*",
	} {
		h := http.Header{}
		if have != "" {
			h.Set("Vary", have)
		}
		varyByEncoding(h)
		if got := strings.Join(h["Vary"], ", "); got != want {
			t.Errorf("Vary: %s became %s, want %s", have, got, want)
		}
	}
}

// TestChoosingAllocatesNothing, as it is done on the loop for each request of a file that there is in several codings.
func TestChoosingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	o := newEncoders(compressAll).offer
	if n := testing.AllocsPerRun(100, func() {
		if o.choose("gzip, deflate;q=0.5, br;q=0.8, zstd;q=0.2, *;q=0", false).coding != gzipCoding {
			t.Error("another coding")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
