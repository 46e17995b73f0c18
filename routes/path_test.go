package routes

import (
	"errors"
	"strings"
	"testing"
)

func TestCleanPath(t *testing.T) {
	rows := []struct {
		name   string
		raw    string
		want   string
		status int // 0: no error
	}{
		{"the root", "/", "/", 0},
		{"nothing to do", "/a/b.html", "/a/b.html", 0},
		{"a folder keeps its slash", "/a/", "/a/", 0},
		{"escapes are decoded", "/a%20b/%c3%a9", "/a b/é", 0},
		{"escapes are decoded once", "/%2541%252e", "/%41%2e", 0},
		{"an escaped letter is the letter", "/info.ph%70", "/info.php", 0},
		{"an escaped question mark is part of the path", "/info.php%3fx", "/info.php?x", 0},
		{"double slashes are one", "//a///b//", "/a/b/", 0},
		{"a dot segment vanishes", "/./a/./b", "/a/b", 0},
		{"a final dot names a folder", "/a/.", "/a/", 0},
		{"two dots go up", "/a/b/../c", "/a/c", 0},
		{"final dots name a folder", "/a/b/..", "/a/", 0},
		{"up to the root", "/a/..", "/", 0},
		{"escaped dots are dots", "/a/%2e%2E/b", "/b", 0},
		{"three dots are a name", "/.../a", "/.../a", 0},
		{"a hidden file is a name", "/.htaccess", "/.htaccess", 0},
		{"three dots with a semicolon are a name", "/a/...;/b", "/a/...;/b", 0},
		{"overlong bytes stay bytes", "/%c0%ae%c0%ae/x", "/\xc0\xae\xc0\xae/x", 0},

		{"empty", "", "", 400},
		{"no slash first", "a/b", "", 400},
		{"an escape without digits", "/%", "", 400},
		{"an escape with one digit", "/%2", "", 400},
		{"an escape with a wrong digit", "/%2g", "", 400},
		{"a double per cent", "/.%%32%65/", "", 400},
		{"NUL", "/a%00.php", "", 400},
		{"line feed", "/info.php/PHP%0Ais", "", 400},
		{"a raw control character", "/a\x01", "", 400},
		{"DEL", "/a%7f", "", 400},
		{"a backslash", `/a\b`, "", 400},
		{"an escaped backslash", "/..%5c..%5Cetc", "", 400},
		{"dots with a parameter, which some servers behind obey", "/a/..;/b", "", 400},
		{"dots with a parameter of a value, escaped", "/a/%2e.%3bx=1", "", 400},
		{"a dot with a parameter", "/.;/b", "", 400},
		{"above the root", "/..", "", 400},
		{"above the root by a detour", "/a/../../etc/passwd", "", 400},
		{"above the root, escaped", "/cgi-bin/.%2e/.%2e/.%2e/etc/passwd", "", 400},
		{"an escaped slash", "/a%2Fb", "", 404},
		{"an escaped slash in lower case", "/..%2f..%2fetc", "", 404},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, err := CleanPath(row.raw)
			status := 0
			var refused *PathError
			if errors.As(err, &refused) {
				status = refused.Status
			}
			if got != row.want || status != row.status || (err != nil) != (row.status != 0) {
				t.Errorf("CleanPath(%q) = %q, %v (status %d); want %q, status %d", row.raw, got, err, status, row.want, row.status)
			}
		})
	}
}

func TestCleanPathOfASiteWithEncodedSlashes(t *testing.T) {
	rows := []struct {
		name   string
		raw    string
		want   string
		status int // 0: no error
	}{
		{"an encoded slash is a slash", "/api/a%2Fb", "/api/a/b", 0},
		{"in lower case, too", "/api/a%2fb%2fc", "/api/a/b/c", 0},
		{"it may be the last", "/api/a%2F", "/api/a/", 0},
		{"a hidden name behind it is a name", "/api%2F.git", "/api/.git", 0},
		{"it is decoded once", "/a%252Fb", "/a%2Fb", 0},
		{"beside a slash it is 404", "/api/%2F/b", "", 404},
		{"beside another one it is 404", "/api%2F%2Fb", "", 404},
		{"it ends no dot segment", "/api/..%2fadmin", "", 404},
		{"nor begins one", "/api%2f../admin", "", 404},
		{"dots elsewhere are not resolved beside it", "/x/../api/a%2fb", "", 404},
		{"above the root stays 400", "/..%2f..%2fetc", "", 400},
		{"a control character stays 400", "/a%2f%00", "", 400},
	}
	site := Site{EncodedSlashes: true}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, err := site.CleanPath(row.raw)
			var refused *PathError
			status := 0
			if errors.As(err, &refused) {
				status = refused.Status
			}
			if got != row.want || status != row.status || (err != nil) != (row.status != 0) {
				t.Errorf("CleanPath(%q) = %q, %v (status %d); want %q, status %d", row.raw, got, err, status, row.want, row.status)
			}
		})
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, raw := range []string{"/", "/a//b/./c/../d", "/%2e%2e/", "/a%20b", "/%25%32%65", "/a/.", "/a/..", "/..a/.b"} {
		f.Add(raw)
	}
	site := Site{EncodedSlashes: true}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := CleanPath(raw)
		if slashed, _ := site.CleanPath(raw); err == nil && slashed != path {
			t.Errorf("CleanPath(%q) = %q, and of a site with encoded slashes %q", raw, path, slashed)
		}
		if err != nil {
			var refused *PathError
			if !errors.As(err, &refused) || refused.Status < 400 || refused.Status > 499 {
				t.Errorf("CleanPath(%q): %v is no PathError with a 4xx status", raw, err)
			}
			return
		}
		if !strings.HasPrefix(path, "/") || strings.Contains(path, "//") || hasControl(path) || strings.Contains(path, `\`) {
			t.Errorf("CleanPath(%q) = %q is not clean", raw, path)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "." || segment == ".." {
				t.Errorf("CleanPath(%q) = %q holds a dot segment", raw, path)
			}
		}
		again, err := CleanPath(strings.ReplaceAll(path, "%", "%25"))
		if err != nil || again != path {
			t.Errorf("CleanPath(%q) = %q, but cleaning that gives %q, %v", raw, path, again, err)
		}
	})
}
