package proxy

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"gateway/routes"
)

func TestNewReply(t *testing.T) {
	header := func(fields ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(fields); i += 2 {
			h.Add(fields[i], fields[i+1])
		}
		return h
	}
	plain := func(fields ...string) http.Header { return header(append(fields, "Content-Type", "a/b")...) }
	rows := []struct {
		name   string
		status int
		header http.Header
		want   reply
	}{
		{"no status", 0, plain(), reply{200, plain(), -1, false, "", nil, false}},
		{"a status", 404, plain(), reply{404, plain(), -1, false, "", nil, false}},
		{"a local redirect", 0, header("Location", "/a?b"), reply{0, header(), -1, false, "/a?b", nil, true}},
		{"a local redirect with a type", 0, plain("Location", "/a"), reply{302, plain("Location", "/a"), -1, false, "", nil, false}},
		{"a local redirect with a status", 302, plain("Location", "/a"), reply{302, plain("Location", "/a"), -1, false, "", nil, false}},
		{"a redirect to another site", 0, plain("Location", "http://a/"), reply{302, plain("Location", "http://a/"), -1, false, "", nil, false}},
		{"a redirect to another host", 0, header("Location", "//a/"), reply{302, plain("Location", "//a/"), -1, false, "", nil, true}},
		{"a created thing", 201, plain("Location", "/a"), reply{201, plain("Location", "/a"), -1, false, "", nil, false}},
		{"a length", 0, plain("Content-Length", "3"), reply{200, plain("Content-Length", "3"), 3, false, "", nil, false}},
		{"a length with zeros", 0, plain("Content-Length", "003"), reply{200, plain("Content-Length", "3"), 3, false, "", nil, false}},
		{"a length that is none", 0, plain("Content-Length", "-3"), reply{200, plain(), -1, false, "", nil, false}},
		{"an empty length", 0, plain("Content-Length", ""), reply{200, plain(), -1, false, "", nil, false}},
		{"a length that overflows", 0, plain("Content-Length", "99999999999999999999"), reply{200, plain(), -1, false, "", nil, false}},
		{"two lengths", 0, plain("Content-Length", "3", "Content-Length", "3"), reply{200, plain(), -1, false, "", nil, false}},
		{"a length of no content", 204, plain("Content-Length", "3"), reply{204, plain(), -1, false, "", nil, false}},
		{"streaming", 0, plain("X-Accel-Buffering", "No"), reply{200, plain(), -1, true, "", nil, false}},
		{"events", 0, header("Content-Type", "text/event-stream"), reply{200, header("Content-Type", "text/event-stream"), -1, true, "", nil, false}},
		{"buffering", 0, plain("X-Accel-Buffering", "yes"), reply{200, plain(), -1, false, "", nil, false}},
		{"fields of the connection", 0, plain("Connection", "close, X-A", "X-A", "1", "Te", "x", "Upgrade", "h2c", "Trailer", "x", "Transfer-Encoding", "chunked"),
			reply{200, plain(), -1, false, "", nil, false}},
		{"not modified", 304, header("Etag", "x"), reply{304, header("Etag", "x"), -1, false, "", nil, false}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got := newReply(row.status, row.header.Clone())
			if row.want.local != "" || got.header.Get("X-Content-Type-Options") != "" {
				got.header, row.want.header = nil, nil // it goes nowhere, or it got a type
			}
			if !reflect.DeepEqual(*got, row.want) {
				t.Errorf("newReply(%d, %v) = %+v, want %+v", row.status, row.header, *got, row.want)
			}
		})
	}
}

func TestLocate(t *testing.T) {
	root := tree(t)
	s := &Server{files: map[folderName]*Files{nameFolder(root, ""): newFiles(t, root)}}
	php, fastcgi := &routes.Pool{PHP: &routes.PHP{}}, &routes.Pool{FastCGI: &routes.FastCGI{}}
	suffix, prefix := routes.Pattern{Kind: routes.Suffix, Text: ".php"}, routes.Pattern{Kind: routes.Prefix, Text: "/app/"}
	rows := []struct {
		name    string
		config  *routes.Pool
		pattern routes.Pattern
		path    string
		script  string
		info    string
		cgi     *routes.CGI
		want    program
		status  int
	}{
		{"a PHP script", php, suffix, "/php/index.php", "/php/index.php", "", nil, program{name: "/php/index.php", file: root + "/php/index.php"}, 0},
		{"PHP has no PATH_TRANSLATED", php, suffix, "/php/index.php/a", "/php/index.php", "/a", nil,
			program{name: "/php/index.php", file: root + "/php/index.php", info: "/a"}, 0},
		{"another suffix", php, suffix, "/a.txt", "/a.txt", "", nil, program{}, 404},
		{"all paths, but only scripts", php, routes.Pattern{Kind: routes.Prefix, Text: "/"}, "/a.txt", "/a.txt", "", nil, program{}, 404},
		{"dots", php, suffix, "/dir/../php/index.php", "/dir/../php/index.php", "", nil, program{}, 404},
		{"a link out of the root", php, routes.Pattern{Kind: routes.Exact, Text: "/link-out"}, "/link-out", "/link-out", "", nil, program{}, 403},
		{"a FastCGI program below a prefix", fastcgi, prefix, "/app/a/b", "/app/a/b", "", nil,
			program{name: "/app", file: root + "/app", info: "/a/b", translated: root + "/a/b"}, 0},
		{"a FastCGI program at the top", fastcgi, routes.Pattern{Kind: routes.Prefix, Text: "/"}, "/a", "/a", "", nil,
			program{name: "", file: root, info: "/a", translated: root + "/a"}, 0},
		{"a FastCGI program with a suffix", fastcgi, routes.Pattern{Kind: routes.Suffix, Text: ".fcgi"}, "/x.fcgi/a", "/x.fcgi", "/a", nil,
			program{name: "/x.fcgi", file: root + "/x.fcgi", info: "/a", translated: root + "/a"}, 0},
		{"one CGI program", &routes.Pool{}, prefix, "/app/a", "/app/a", "", &routes.CGI{Script: "/x/y.cgi"},
			program{name: "/app", file: "/x/y.cgi", info: "/a", translated: root + "/a"}, 0},
		{"a CGI script", &routes.Pool{}, prefix, "/app/dir/index.html/i", "/app/dir/index.html/i", "", &routes.CGI{Root: root},
			program{name: "/app/dir/index.html", file: root + "/dir/index.html", info: "/i", translated: root + "/i"}, 0},
		{"a CGI script that is a pipe", &routes.Pool{}, prefix, "/app/fifo/i", "/app/fifo/i", "", &routes.CGI{Root: root}, program{}, 404},
		{"a folder of CGI scripts", &routes.Pool{}, prefix, "/app/dir/", "/app/dir/", "", &routes.CGI{Root: root}, program{}, 404},
		{"a CGI script out of the root", &routes.Pool{}, prefix, "/app/link-out", "/app/link-out", "", &routes.CGI{Root: root}, program{}, 403},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			x := &exchange{routeState: routeState{
				route: &routes.Route{Pattern: row.pattern, Root: root, CGI: row.cgi}, path: row.path, script: row.script, pathInfo: row.info, files: s.files[nameFolder(root, "")], scripts: s.files[nameFolder(root, "")],
			}}
			got, status, err := s.locate(x, row.config)
			if !reflect.DeepEqual(got, row.want) || status != row.status || (err != nil) != (status == 403) {
				t.Errorf("locate(%q) = %+v, %d, %v; want %+v, %d", row.path, got, status, err, row.want, row.status)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for timeout, want := range map[time.Duration]int{0: 1, time.Second: 1, 30 * time.Second: 3, time.Minute: 6, time.Hour: 30} {
		if got := retryAfter(timeout); got != want {
			t.Errorf("retryAfter(%v) = %d, want %d", timeout, got, want)
		}
	}
}

func TestStderrLog(t *testing.T) {
	long := strings.Repeat("y", maxStderrLine)
	rows := []struct {
		name   string
		pieces []string
		want   []string
	}{
		{"nothing", nil, nil},
		{"a line", []string{"a\n"}, []string{"a"}},
		{"lines in pieces", []string{"a", "b\nc", "\nd"}, []string{"ab", "c", "d"}},
		{"empty lines", []string{"\n\r\n \na\r\n"}, []string{"a"}},
		{"a long line", []string{long + "z\n"}, []string{long, "z"}},
		{"a line that just fits", []string{long + "\n"}, []string{long}},
		{"controls", []string{"a\x1b[31m\tb\x00\n"}, []string{"a\\x1b[31m\tb\\x00"}},
		{"text", []string{"Grüße\n"}, []string{"Grüße"}},
		{"bytes that are no text", []string{"\xff\xc3\n"}, []string{`\xff\xc3`}},
		{"marks that turn the direction", []string{"a\u202eb\n"}, []string{`a\u202eb`}},
	}
	for _, row := range rows {
		log := newTestLog()
		l := stderrLog{log: log, pool: "p", pid: 7, uri: "/u"}
		for _, piece := range row.pieces {
			l.write([]byte(piece))
		}
		l.end()
		var want strings.Builder
		for _, text := range row.want {
			want.WriteString("warn program wrote to its error stream pool p pid 7 uri /u text " + text + "\n")
		}
		if got := log.text(); got != want.String() {
			t.Errorf("%s: %q gave\n%q, want\n%q", row.name, row.pieces, got, want.String())
		}
	}
}
