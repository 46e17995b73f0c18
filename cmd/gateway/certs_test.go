package main

import (
	"strings"
	"testing"
	"time"

	"gateway/tls"
)

func TestWhatIsWrongWithCertificatesIsShownAndTold(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rows := []struct {
		name    string
		cert    tls.CertificateStatus
		shows   []string
		trouble string // "": none
	}{
		{"all is well", tls.CertificateStatus{Names: []string{"a.test", "b.test"}, Mode: "auto", Key: "ECDSA", Issuer: "CA 1", Expires: now.Add(time.Hour), Renews: now},
			[]string{"a.test b.test  auto  ECDSA  CA 1    2026-01-02 04:04:05 UTC  2026-01-02 03:04:05 UTC"}, ""},
		{"it ends soon", tls.CertificateStatus{Names: []string{"a.test"}, Mode: "manual", Expires: now.Add(time.Hour), Warning: "certificate expires within a week"},
			[]string{"a.test", "  certificate expires within a week"}, ""},
		{"there is none yet", tls.CertificateStatus{Names: []string{"a.test"}, Mode: "auto", Error: "refused\x1b"},
			[]string{"a.test  auto  -    -       -        -", `  "refused\x1b"`}, "a.test: there is no certificate yet"},
		{"it has expired", tls.CertificateStatus{Names: []string{"a.test"}, Expires: now.Add(-time.Hour)}, []string{"a.test"}, "a.test: the certificate has expired"},
		{"it can't be renewed", tls.CertificateStatus{Names: []string{"a.test"}, Expires: now.Add(time.Hour), Error: "refused"}, []string{"a.test", "  refused"},
			"a.test: the last try to get another certificate failed"},
		{"its files have been changed and are of no use", tls.CertificateStatus{Names: []string{"a.test"}, Mode: "manual", Expires: now.Add(time.Hour), Error: "no key"}, []string{"a.test", "  no key"},
			"a.test: the files have changed and can't be used, so the certificate before is served"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var out strings.Builder
			list := []tls.CertificateStatus{row.cert}
			if err := listCertificates(&out, list); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")[1:]
			if len(lines) != len(row.shows) {
				t.Fatalf("listCertificates printed %q, want %q", lines, row.shows)
			}
			for i := range lines {
				if !strings.HasPrefix(lines[i], row.shows[i]) {
					t.Errorf("listCertificates printed %q, want %q", lines[i], row.shows[i])
				}
			}
			trouble := ""
			if err := certificateTrouble(list, now); err != nil {
				trouble = err.Error()
			}
			if trouble != row.trouble {
				t.Errorf("certificateTrouble = %q, want %q", trouble, row.trouble)
			}
		})
	}
}
