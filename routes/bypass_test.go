package routes

import "testing"

func TestOverlapping(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want bool
	}{
		{"/a", "/a", true}, {"/a", "/b", false}, {"/a/b", "/a/*", true}, {"/a", "/a/*", false}, {"/a/*", "/a/b/*", true}, {"/a/*", "/b/*", false},
		{"*.php", "/a/*", true}, {"/b/*.php", "/a/*", false}, {"/a/b/*.php", "/a/*", true}, {"/a/*.php", "/a/b/*", true},
		{"/a/*.php", "/a/x.php", true}, {"/a/*.php", "/b/x.php", false}, {"*.php", "/x.txt", false},
		{"*.inc.php", "*.php", true}, {"*.css", "*.php", false}, {"/a/*.php", "/b/*.php", false}, {"/a/*.php", "*.php", true},
	} {
		a, _ := parsePattern(row.a)
		b, _ := parsePattern(row.b)
		if overlapping(a, b) != row.want || overlapping(b, a) != row.want {
			t.Errorf("overlapping(%q, %q) = %t and %t, want %t", row.a, row.b, overlapping(a, b), overlapping(b, a), row.want)
		}
	}
}
