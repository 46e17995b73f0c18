package tls

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/libdns"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/sys/unix"

	"gateway/routes"
)

// fakeProvider has the form of libdns's.
type fakeProvider struct {
	Token string `json:"api_token"`
}

func (*fakeProvider) AppendRecords(context.Context, string, []libdns.Record) ([]libdns.Record, error) {
	return nil, nil
}

func (*fakeProvider) DeleteRecords(context.Context, string, []libdns.Record) ([]libdns.Record, error) {
	return nil, nil
}

func TestProviders(t *testing.T) {
	built := map[string]provider{"fake": func() certmagic.DNSProvider { return new(fakeProvider) }, "other": nil}
	p, err := newProvider(built, "fake", map[string]string{"api_token": "secret"})
	if got, ok := p.(*fakeProvider); err != nil || !ok || got.Token != "secret" {
		t.Errorf("newProvider: %+v, %v; want the token of the settings", p, err)
	}
	rows := []struct {
		name, provider string
		settings       map[string]string
		want           string
	}{
		{"a provider that was not built in", "cloudflare", nil, `"cloudflare" is not in this build (built in: fake, other)`},
		{"a setting that it does not have", "fake", map[string]string{"token": "x"}, `"fake": settings: json: unknown field "token"`},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if _, err := newProvider(built, row.provider, row.settings); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("newProvider(%q, %v): %v; want %q", row.provider, row.settings, err, row.want)
			}
		})
	}
	if err := CheckDNS(&routes.DNS{Provider: "cloudflare"}); err == nil || !strings.Contains(err.Error(), "none was built in") {
		t.Errorf("CheckDNS in a build without providers: %v", err)
	}
}

func TestDNSCommand(t *testing.T) {
	challenge := acme.Challenge{Type: acme.ChallengeTypeDNS01, Identifier: acme.Identifier{Type: "dns", Value: "a.example"}, KeyAuthorization: "k"}
	rows := []struct {
		name    string
		script  string
		wantErr string
		wantLog string
	}{
		{"what it says when all is well is logged", `echo "$0 $1 $2"; echo "$TOKEN $HOME" >&2`, "", "said=present a.example _acme-challenge.a.example\nsecret"},
		{"what it says when it fails is in the error", "echo no such zone >&2; exit 3", `present: exit status 3; it said: "no such zone"`, ""},
		{"a silent failure has its status", "exit 4", "present: exit status 4", ""},
		{"of much that it says the end counts", "yes | head -c 100000; echo the end; exit 1", `y\nthe end"`, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("HOME", "/not/passed/on")
			book := new(logbook)
			d := &dnsCommand{DNS: routes.DNS{Command: []string{"/bin/sh", "-c", row.script}, Env: map[string]string{"TOKEN": "secret"}, Timeout: time.Minute}, log: book.log}
			err := d.Present(t.Context(), challenge)
			if row.wantErr == "" && (err != nil || book.count(row.wantLog) != 1 || book.count("/not/passed/on") > 0) {
				t.Errorf("Present: %v; log %q, want %q", err, book.all(), row.wantLog)
			}
			if row.wantErr != "" && (err == nil || !strings.Contains(err.Error(), row.wantErr) || len(err.Error()) > maxSaid*2+100) {
				t.Errorf("Present: %v; want %q", err, row.wantErr)
			}
		})
	}
}

// TestDNSCommandLeavesNothing ends a command that has started another one.
func TestDNSCommandLeavesNothing(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "alive")
	d := &dnsCommand{DNS: routes.DNS{Command: []string{"/bin/sh", "-c", "exec 9>" + pipe + "; flock 9; sleep 1000 & sleep 1000"}, Timeout: 2 * time.Second}}
	err := d.Present(t.Context(), acme.Challenge{})
	if err == nil || !strings.Contains(err.Error(), "did not end within 2s") {
		t.Fatalf("Present: %v", err)
	}
	f, err := os.Open(pipe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("somebody still has the file of the command open: %v", err)
	}
}

func TestDNSCommandWaits(t *testing.T) {
	d := &dnsCommand{DNS: routes.DNS{Delay: time.Hour}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Wait(ctx, acme.Challenge{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait(an ended context): %v", err)
	}
}

func TestCoveredNames(t *testing.T) {
	rows := []struct {
		patterns []string
		name     string
		want     bool
	}{
		{nil, "a.example", true},
		{[]string{"a.example"}, "a.example", true},
		{[]string{"a.example"}, "b.a.example", false},
		{[]string{"*.a.example"}, "b.a.example", true},
		{[]string{"*.a.example"}, "c.b.a.example", true},
		{[]string{"*.a.example"}, "a.example", false},
		{[]string{"*.a.example"}, "ba.example", false},
		{[]string{"b.example", "*.a.example"}, "x.a.example", true},
	}
	for _, row := range rows {
		if got := covered(row.patterns, row.name); got != row.want {
			t.Errorf("covered(%q, %q) = %t, want %t", row.patterns, row.name, got, row.want)
		}
	}
}

func TestOnDemandRefusesAtOnce(t *testing.T) {
	a := newAutomatic(new(logbook).log, time.Hour)
	defer a.close()
	o := newOnDemand(&policy{automatic: a}, &routes.OnDemand{Names: []string{"*.shops.example", "1.2.3.4"}})
	for _, name := range []string{"a.example", "1.2.3.4", "::1", "a b.shops.example", ".shops.example", "*.shops.example", "../../x.shops.example", "a\x00.shops.example", strings.Repeat("a.", 130) + "shops.example", ""} {
		if _, err := o.begin(name, time.Now()); !errors.Is(err, errNotAllowed) {
			t.Errorf("begin(%q): %v, want %v", name, err, errNotAllowed)
		}
	}
	for i := range maxPending {
		o.pending[string(rune('a'+i))] = nil
	}
	if _, err := o.begin("a.shops.example", time.Now()); !errors.Is(err, errTooMany) {
		t.Errorf("begin while %d others are got: %v, want %v", maxPending, err, errTooMany)
	}
	now := time.Now()
	o.refuse("b.shops.example", errNotAllowed, now)
	if _, err := o.begin("b.shops.example", now.Add(refusalTime-1)); !errors.Is(err, errNotAllowed) {
		t.Errorf("begin of a name that was just refused: %v, want %v", err, errNotAllowed)
	}
	for i := range maxRefused + 1 {
		o.refuse(time.Duration(i).String(), errNotAllowed, now)
	}
	if n := len(o.refused); n > maxRefused {
		t.Errorf("%d refused names are remembered, want at most %d", n, maxRefused)
	}
}

func TestOnDemandTakesOnlyTheFirstAnswerForAYes(t *testing.T) {
	a := newAutomatic(new(logbook).log, time.Hour)
	defer a.close()
	application := http.NewServeMux()
	application.HandleFunc("/yes", func(http.ResponseWriter, *http.Request) {})
	application.HandleFunc("/no", http.NotFound)
	application.Handle("/elsewhere", http.RedirectHandler("/yes", http.StatusFound))
	server := httptest.NewServer(application)
	defer server.Close()
	for path, want := range map[string]error{"/yes": nil, "/no": errNotAllowed, "/elsewhere": errNotAllowed} {
		o := newOnDemand(&policy{automatic: a}, &routes.OnDemand{Ask: server.URL + path})
		if err := o.allowed(t.Context(), "a.example"); !errors.Is(err, want) {
			t.Errorf("allowed, when %s is asked: %v, want %v", path, err, want)
		}
		o.client.CloseIdleConnections()
	}
}

func TestOnDemandAsksAgainSoonWhenNobodyAnswers(t *testing.T) {
	a := newAutomatic(new(logbook).log, time.Hour)
	defer a.close()
	o := newOnDemand(&policy{automatic: a}, &routes.OnDemand{Ask: "http://127.0.0.1:1/"}) // where nobody listens
	silence := o.allowed(t.Context(), "a.example")
	now := time.Now()
	for i, row := range []struct {
		err  error
		want time.Duration
	}{
		{silence, 10 * time.Second}, {silence, 20 * time.Second}, {silence, 40 * time.Second}, {silence, 80 * time.Second}, {silence, 160 * time.Second},
		{silence, failureTime}, {silence, failureTime}, {nil, 0}, {silence, 10 * time.Second}, {errNotAllowed, refusalTime}, {errors.New("the CA refuses"), failureTime},
	} {
		o.end("a.example", make(chan struct{}), row.err, now)
		if r := o.refused["a.example"]; row.err != nil && r.until.Sub(now) != row.want || row.err == nil && r.err != nil {
			t.Errorf("after end %d with %v the name is tried again in %v, want %v", i+1, row.err, r.until.Sub(now), row.want)
		}
	}
}

func TestOnDemandHasOnlySomeHandshakesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &automatic{ctx: t.Context(), log: new(logbook).log}
		o := newOnDemand(&policy{automatic: a}, &routes.OnDemand{})
		done := make(chan struct{})
		o.pending["a.example"] = done
		var waiting sync.WaitGroup
		for range maxWaiters {
			waiting.Go(func() {
				if err := o.wait(t.Context(), nil, done); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := o.wait(t.Context(), nil, done); !errors.Is(err, errTooMany) {
			t.Errorf("wait beside %d others: %v, want %v", maxWaiters, err, errTooMany)
		}
		close(done)
		waiting.Wait()
		if err := o.wait(t.Context(), nil, done); err != nil {
			t.Errorf("wait when they have gone: %v", err)
		}
	})
}

func TestOnDemandGrants(t *testing.T) {
	a := newAutomatic(new(logbook).log, time.Hour)
	defer a.close()
	o := newOnDemand(&policy{automatic: a}, &routes.OnDemand{Limit: 2, Interval: time.Minute})
	start := time.Now()
	var got []bool
	for _, after := range []time.Duration{0, 10, 20, 59, 60, 61, 70, 71} {
		got = append(got, o.grant(start.Add(after*time.Second)))
	}
	if want := []bool{true, true, false, false, true, false, true, false}; !slices.Equal(got, want) {
		t.Errorf("grants %v, want %v", got, want)
	}
}

func TestTCPAddress(t *testing.T) {
	rows := []struct {
		address string
		host    string
		port    int
		ok      bool
	}{
		{"tcp :443", "", 443, true},
		{"tcp 127.0.0.1:8443", "127.0.0.1", 8443, true},
		{"tcp [::1]:443", "::1", 443, true},
		{"unix /run/x.sock", "", 0, false},
	}
	for _, row := range rows {
		if host, port, ok := tcpAddress(row.address); host != row.host || port != row.port || ok != row.ok {
			t.Errorf("tcpAddress(%q) = %q, %d, %t", row.address, host, port, ok)
		}
	}
}

func TestChallengedName(t *testing.T) {
	for name, want := range map[string]string{"A.example": "a.example", "4.3.2.1.in-addr.arpa": "1.2.3.4", "": ""} {
		if got := challenged(name); got != want {
			t.Errorf("challenged(%q) = %q, want %q", name, got, want)
		}
	}
}
