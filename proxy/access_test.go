package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

// The hashes of "secret", as openssl and htpasswd make them.
const (
	apr1Secret   = "$apr1$r31.....$G/cElGhD0cboYkZN5h5Ne/"
	bcryptSecret = "$2a$04$kGNXILqR8k6jz65MELhI5eFV/c5CJVubygfNCpFneIVAMM9BEpY5m"
)

func TestPasswordFiles(t *testing.T) {
	rows := []struct{ name, line, fault string }{
		{"bcrypt", "u:" + bcryptSecret, ""},
		{"apr1", "u:" + apr1Secret, ""},
		{"a comment and an empty line", "# x\n\nu:" + apr1Secret + ":a comment", ""},
		{"an end of line of Windows", "u:" + apr1Secret + "\r\n", ""},
		{"SHA-1", "u:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1 without salt"},
		{"a plain password", "u:secret", "stands there itself"},
		{"crypt", "u:rqXexS6ZhobKA", "crypt"},
		{"SHA-512 of crypt", "u:$6$salt$hash", "only bcrypt"},
		{"a bcrypt hash that was cut", "u:" + bcryptSecret[:20], "damaged"},
		{"a bcrypt hash that takes minutes", "u:" + strings.Replace(bcryptSecret, "$04$", "$20$", 1), "cost 20"},
		{"a name alone", "u", "no colon"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			err := CheckPasswords([]byte(row.line))
			if row.fault == "" && err != nil || row.fault != "" && (err == nil || !strings.Contains(err.Error(), row.fault) || !strings.Contains(err.Error(), `line 1: user "u"`)) {
				t.Errorf("CheckPasswords(%q) = %v, want %q", row.line, err, row.fault)
			}
		})
	}
}

func TestAPR1(t *testing.T) {
	for password, want := range map[string]string{
		"secret": apr1Secret, "": "$apr1$r31.....$iQoXxeL5pW.kaXVrniDCU0", "a very long password indeed": "$apr1$r31.....$xRYNOXcy0AobpBbgQ5kzD.",
	} {
		if got := apr1(password, "r31....."); got != want {
			t.Errorf("apr1(%q) = %q, want %q", password, got, want)
		}
	}
}

func TestPasswordChecks(t *testing.T) {
	p := newPasswords()
	u, err := parseUsers("b:" + bcryptSecret + "\na:" + apr1Secret)
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		name, user, password string
		want                 bool
	}{
		{"the right one of bcrypt", "b", "secret", true},
		{"the right one again", "b", "secret", true},
		{"the right one of apr1", "a", "secret", true},
		{"a wrong one", "b", "Secret", false},
		{"none", "b", "", false},
		{"of another user", "c", "secret", false},
		{"of no user", "", "secret", false},
		{"one that is too long", "a", strings.Repeat("x", maxPasswordText+1), false},
	}
	for _, row := range rows {
		if got, err := p.check(t.Context(), u, row.user, row.password); got != row.want || err != nil {
			t.Errorf("%s: check(%q, %q) = %t, %v; want %t", row.name, row.user, row.password, got, err, row.want)
		}
	}
	if len(p.known) != 2 {
		t.Errorf("%d passwords are known, want the 2 right ones", len(p.known))
	}
	for range cap(p.working) {
		p.working <- struct{}{}
	}
	if ok, err := p.check(t.Context(), u, "b", "secret"); !ok || err != nil {
		t.Errorf("a known password waits for others: %t, %v", ok, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.check(ctx, u, "b", "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that has gone waits: %v", err)
	}
	p.waiting.Store(maxCheckWaiting)
	if _, err := p.check(t.Context(), u, "b", "x"); !errors.Is(err, errManyChecks) {
		t.Errorf("one more than may wait: %v, want %v", err, errManyChecks)
	}
}

func FuzzPasswords(f *testing.F) {
	f.Add("u:"+apr1Secret, "secret")
	f.Add("u:$apr1$$", "")
	f.Add("u:$2y$04$", "x")
	f.Fuzz(func(t *testing.T, file, password string) {
		u, _ := parseUsers(file)
		for name := range u.hashes {
			if len(u.hashes[name]) < 60 { // bcrypt takes its time
				_, _ = newPasswords().check(t.Context(), u, name, password)
			}
		}
	})
}

func basic(user, password string) http.Header {
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}}
}

func TestAccess(t *testing.T) {
	s := routed(t, `
site "a.example" {
  listen = [":80"]
  deny   = ["203.0.113.0/24"]
  route "/lists" {
    pool  = "edge"
    allow = ["10.0.0.0/8", "2001:db8::/32"]
    respond {}
  }
  route "/hole" {
    pool  = "edge"
    deny  = "10.0.0.66"
    allow = "10.0.0.0/8"
    respond {}
  }
  route "/nobody" {
    pool = "edge"
    deny = "all"
    respond {}
  }
  route "/secret" {
    pool = "edge"
    auth_basic {
      realm = "Members"
      file  = "users"
    }
    proxy { to = ["`+seen(t)+`"] }
  }
  route "/passed" {
    pool = "edge"
    auth_basic {
      file    = "users"
      pass_on = true
    }
    proxy { to = ["`+seen(t)+`"] }
  }
  route "/both" {
    pool  = "edge"
    allow = "10.0.0.0/8"
    auth_basic { file = "users" }
    respond { body = "{user}" }
  }
  route "/either" {
    pool    = "edge"
    allow   = "10.0.0.0/8"
    satisfy = "any"
    auth_basic { file = "users" }
    respond { body = "{user}" }
  }
  route "/hidden" {
    pool    = "edge"
    allow   = "10.0.0.0/8"
    satisfy = "any"
    auth_basic { file = "users" }
    proxy { to = ["`+seen(t)+`"] }
  }
  route "/unread" {
    pool = "edge"
    auth_basic { file = "unread" }
    respond {}
  }
  rewrite "^/gone" { status = 410 }
  error_page "410" { path = "/secret" }
  route "/around" {
    pool      = "edge"
    root      = "{root}"
    try_files = ["/secret"]
    static {}
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
`, nil)
	for path := range s.passwords.files {
		if strings.HasSuffix(path, "/users") {
			if _, err := s.SetPasswords(path, []byte("u:"+apr1Secret)); err != nil {
				t.Fatal(err)
			}
		}
	}
	right, wrong := basic("u", "secret"), basic("u", "x")
	hidden := visitAs(s, askedFor{target: "/hidden", remote: "10.0.0.1", header: basic("admin", "guessed")})
	if got := bodyOf(t, hidden); hidden.StatusCode != 200 || strings.Contains(got, "Authorization") {
		t.Errorf("a password that nobody looked at: %d %q", hidden.StatusCode, got)
	}
	page := visitAs(s, askedFor{target: "/gone", remote: "192.0.2.1", header: basic("admin", "guessed")})
	if got := bodyOf(t, page); page.StatusCode != 410 || !strings.Contains(got, "GET /secret") || strings.Contains(got, "Authorization") {
		t.Errorf("a password that nobody looked at, for an error page: %d %q", page.StatusCode, got)
	}
	rows := []struct {
		name   string
		target string
		remote string
		header http.Header
		status int
		want   string // in the body
	}{
		{"who is not refused comes in", "/", "192.0.2.1", nil, 200, ""},
		{"who is refused stays out", "/", "203.0.113.7", nil, 403, ""},
		{"a mapped address is an IPv4 address", "/", "::ffff:203.0.113.7", nil, 403, ""},
		{"where some are allowed the others stay out", "/lists", "192.0.2.1", nil, 403, ""},
		{"who is allowed comes in", "/lists", "10.1.2.3", nil, 200, ""},
		{"an IPv6 network is allowed", "/lists", "2001:db8::1", nil, 200, ""},
		{"a route's lists stand in place of the site's", "/nobody", "192.0.2.1", nil, 403, ""},
		{"the list that was written first decides", "/hole", "10.0.0.66", nil, 403, ""},
		{"the second list decides about the others", "/hole", "10.0.0.67", nil, 200, ""},
		{"who gives no password is asked for one", "/secret", "192.0.2.1", nil, 401, ""},
		{"a wrong password is asked for again", "/secret", "192.0.2.1", wrong, 401, ""},
		{"another scheme is no password", "/secret", "192.0.2.1", http.Header{"Authorization": {"Bearer x"}}, 401, ""},
		{"the right password comes in", "/secret", "192.0.2.1", right, 200, "GET /secret"},
		{"the address must be right, too", "/secret", "203.0.113.7", right, 403, ""},
		{"an application may get the password", "/passed", "192.0.2.1", right, 200, "Authorization: Basic"},
		{"both are needed", "/both", "10.0.0.1", right, 200, "u"},
		{"both: the password alone is not enough", "/both", "192.0.2.1", right, 403, ""},
		{"both: the address alone is not enough", "/both", "10.0.0.1", nil, 401, ""},
		{"either: the password is enough", "/either", "192.0.2.1", right, 200, "u"},
		{"either: the address is enough", "/either", "10.0.0.1", nil, 200, ""},
		{"either: nothing is asked for a password", "/either", "192.0.2.1", nil, 401, ""},
		{"a file that is not there lets nobody in", "/unread", "192.0.2.1", right, 503, ""},
		{"no way leads around a password", "/around", "192.0.2.1", nil, 401, ""},
		{"a longer way to the same path neither", "/x/..//%73ecret", "192.0.2.1", nil, 401, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			resp := visitAs(s, askedFor{target: row.target, remote: row.remote, header: row.header})
			got := bodyOf(t, resp)
			if resp.StatusCode != row.status || !strings.Contains(got, row.want) {
				t.Errorf("GET %s from %s = %d %q, want %d %q", row.target, row.remote, resp.StatusCode, got, row.status, row.want)
			}
			if challenge := resp.Header.Get("WWW-Authenticate"); (challenge != "") != (row.status == 401) {
				t.Errorf("GET %s: challenge %q", row.target, challenge)
			}
			if row.target == "/secret" && strings.Contains(got, "Authorization") {
				t.Errorf("the application got the password: %q", got)
			}
		})
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(&routes.RateLimit{Interval: time.Second, Burst: 2})
		take := func(key string, want bool) {
			t.Helper()
			if _, ok := l.take(key, time.Now()); ok != want {
				t.Errorf("take(%q) = %t, want %t", key, ok, want)
			}
		}
		take("a", true)
		take("a", true) // the burst
		take("a", true)
		take("a", false)
		take("b", true)
		time.Sleep(time.Second)
		take("a", true)
		take("a", false)
		time.Sleep(time.Hour)
		for range 3 {
			take("a", true)
		}
		if wait, ok := l.take("a", time.Now()); ok || wait != time.Second {
			t.Errorf("after the burst: %v, %t; want to wait for a second", wait, ok)
		}
		for n := range 2 * limitShards * limitKeys {
			l.take(fmt.Sprint(n), time.Now())
		}
		for i := range l.shards {
			if n := len(l.shards[i].due); n > limitKeys {
				t.Errorf("shard %d holds %d keys, want %d at most", i, n, limitKeys)
			}
		}
	})
}

func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := routed(t, `
site "a.example" {
  listen = [":80"]
  route "/ip" {
    pool = "edge"
    rate_limit { rate = "1r/s" }
    respond {}
  }
  route "/key" {
    pool = "edge"
    rate_limit {
      rate = "6r/m"
      key  = "{header.X-Key}"
    }
    respond {}
  }
  route "/late" {
    pool = "edge"
    rate_limit {
      rate  = "1r/s"
      burst = 1
      delay = true
    }
    respond {}
  }
}
`, nil)
		expect := func(a askedFor, status int, retryAfter string) {
			t.Helper()
			resp := visitAs(s, a)
			if resp.StatusCode != status || resp.Header.Get("Retry-After") != retryAfter {
				t.Errorf("GET %s from %s = %d, Retry-After %q; want %d, %q", a.target, a.remote, resp.StatusCode, resp.Header.Get("Retry-After"), status, retryAfter)
			}
		}
		expect(askedFor{target: "/ip"}, 200, "")
		expect(askedFor{target: "/ip"}, 429, "1")
		expect(askedFor{target: "/ip", remote: "192.0.2.2"}, 200, "")
		expect(askedFor{target: "/ip", remote: "2001:db8::1"}, 200, "")
		expect(askedFor{target: "/ip", remote: "2001:db8::ffff:1"}, 429, "1") // of the same network
		expect(askedFor{target: "/ip", remote: "2001:db8:0:1::1"}, 200, "")
		time.Sleep(time.Second)
		expect(askedFor{target: "/ip"}, 200, "")

		key := askedFor{target: "/key", header: http.Header{"X-Key": {"k"}}}
		expect(key, 200, "")
		key.remote = "192.0.2.9"
		expect(key, 429, "10")
		expect(askedFor{target: "/key", remote: "192.0.2.9"}, 200, "") // without a key: by address

		expect(askedFor{target: "/late"}, 200, "")
		began := time.Now()
		expect(askedFor{target: "/late"}, 200, "")
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("a request that came too early waited for %v, want 1s", waited)
		}
	})
}
