package routes

import "testing"

func TestOverlap(t *testing.T) {
	rows := []struct {
		name string
		a, b string
		want bool
	}{
		{"all addresses hold each", ":80", "127.0.0.1:80", true},
		{"all addresses hold those of version 6", ":80", "[::1]:80", true},
		{"all of version 4 hold one of it", "0.0.0.0:80", "10.0.0.1:80", true},
		{"all of version 4 hold none of version 6", "0.0.0.0:80", "[::1]:80", false},
		{"all of version 6 hold one of it", "[::]:80", "[::1]:80", true},
		{"all of version 6 hold none of version 4", "[::]:80", "127.0.0.1:80", false},
		{"two addresses", "127.0.0.1:80", "127.0.0.2:80", false},
		{"two ports", ":80", "127.0.0.1:81", false},
		{"a socket", ":80", "unix:/run/x", false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			a, reasonA := parseListen(row.a)
			b, reasonB := parseListen(row.b)
			if reasonA+reasonB != "" {
				t.Fatalf("parseListen: %s%s", reasonA, reasonB)
			}
			if overlap(a, b) != row.want || overlap(b, a) != row.want {
				t.Errorf("overlap(%q, %q) = %t and %t, want %t", row.a, row.b, overlap(a, b), overlap(b, a), row.want)
			}
		})
	}
}

func TestHasApplication(t *testing.T) {
	rows := []struct {
		name string
		pool Pool
		want bool
	}{
		{"php runs in it", Pool{PHP: &PHP{}}, true},
		{"a FastCGI program runs in it", Pool{FastCGI: &FastCGI{}}, true},
		{"the gateway's own handlers run in it", Pool{}, false},
	}
	for _, row := range rows {
		if got := row.pool.HasApplication(); got != row.want {
			t.Errorf("%s: HasApplication() = %t, want %t", row.name, got, row.want)
		}
	}
}
