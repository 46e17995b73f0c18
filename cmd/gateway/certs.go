package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gateway/routes"
	"gateway/tls"
)

// certs lists the certificates of a running gateway.
func certs(args []string) error {
	flags := flag.NewFlagSet("certs", flag.ContinueOnError)
	socket := flags.String("socket", "", "`path` of the admin socket")
	asJSON := flags.Bool("json", false, "print a JSON list")
	if _, err := parse(flags, args); err != nil {
		return err
	}
	s, err := askFront(*socket)
	if err != nil {
		return err
	}
	if *asJSON {
		err = json.NewEncoder(os.Stdout).Encode(s.Certificates)
	} else {
		err = listCertificates(os.Stdout, s.Certificates)
	}
	return errors.Join(err, certificateTrouble(s.Certificates, time.Now()))
}

// listCertificates prints a table, and below each row what is wrong with it.
func listCertificates(out io.Writer, list []tls.CertificateStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMES\tMODE\tKEY\tISSUER\tEXPIRES\tRENEWED ABOUT")
	for i := range list {
		c := &list[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", strings.Join(c.Names, " "), c.Mode, orDash(c.Key), orDash(plain(c.Issuer)), day(c.Expires), day(c.Renews))
		for _, text := range []string{c.Warning, c.Error} {
			if text != "" {
				fmt.Fprintf(w, "  %s\n", plain(text))
			}
		}
	}
	return w.Flush()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateTime + " UTC")
}

// certificateTrouble is what scripts should know.
func certificateTrouble(list []tls.CertificateStatus, now time.Time) error {
	var all []string
	for i := range list {
		c := &list[i]
		switch names := strings.Join(c.Names, " "); {
		case c.Expires.IsZero():
			all = append(all, names+": there is no certificate yet")
		case now.After(c.Expires):
			all = append(all, names+": the certificate has expired")
		case c.Error != "":
			all = append(all, names+": "+failure(c))
		}
	}
	if all == nil {
		return nil
	}
	return errors.New(strings.Join(slices.Compact(all), "\n")) // what is wrong with a site's files is said of each of its certificates
}

// failure is what the error of a certificate means.
func failure(c *tls.CertificateStatus) string {
	switch {
	case c.Mode == tls.Manual:
		return "the files have changed and can't be used, so the certificate before is served"
	case c.Expires.IsZero():
		return "the last try to get it failed"
	}
	return "the last try to get another certificate failed"
}

// certificateFiles watches the files of the certificates that sites name. One goroutine has it, in the supervisor, which alone may
// read them. What it reads is checked here, so that no later front begins with what can't serve.
type certificateFiles struct {
	sites []routes.Site
	last  []certificate // what the front has been told; nil: nothing yet
	watch
}

// newCertificateFiles begins with the files as they are now.
func newCertificateFiles(c *routes.Config) *certificateFiles {
	var paths []string
	for i := range c.Sites {
		for _, files := range c.Sites[i].TLS.Certificates {
			paths = append(paths, files.Certificate, files.Key)
		}
		if a := c.Sites[i].TLS.ClientAuth; a != nil {
			paths = append(paths, a.CA)
		}
	}
	return &certificateFiles{sites: c.Sites, watch: newWatch(paths)}
}

// update reports whether last is something else now.
func (f *certificateFiles) update() bool {
	if !f.changed() {
		return false
	}
	if f.last == nil {
		f.last = make([]certificate, len(f.sites))
	}
	for i := range f.sites {
		f.readPairs(&f.sites[i].TLS, &f.last[i])
		f.readClientCA(f.sites[i].TLS.ClientAuth, &f.last[i])
	}
	return true
}

// readPairs takes a site's certificates if all of them can serve, and says else why not.
func (f *certificateFiles) readPairs(t *routes.TLS, last *certificate) {
	pairs, err := readPairs(t)
	for i := 0; err == nil && i < len(pairs); i++ {
		if err = tls.Check(pairs[i]); err != nil {
			err = fmt.Errorf("%s, %s: %w", t.Certificates[i].Certificate, t.Certificates[i].Key, err)
		}
	}
	if err != nil {
		last.Trouble = err.Error()
		return
	}
	last.Pairs, last.Trouble = pairs, ""
}

// readClientCA takes the file if there is a certificate in it, and says else why not.
func (f *certificateFiles) readClientCA(a *routes.ClientAuth, last *certificate) {
	if a == nil {
		return
	}
	pem, err := readFile(a.CA)
	if err == nil && !tls.HasCertificates(pem) {
		err = fmt.Errorf("no certificate in %s", a.CA)
	}
	if err != nil {
		last.ClientTrouble = err.Error()
		return
	}
	last.ClientCAs, last.ClientTrouble = pem, ""
}

// exposedKeys lists the keys that more than their owner, and a group that may read them, can get at.
func exposedKeys(c *routes.Config) (found []string) {
	for _, r := range tlsRoutes(c) {
		if mode := exposure(r.proxy.TLS.Key); mode != 0 {
			found = append(found, fmt.Sprintf("%sproxy: tls: the key %s has mode %04o: others than its owner can take or replace it, and pretend to be this gateway: run chmod 600 %s",
				c.PlaceOfServers(r.site, r.route, "key"), r.proxy.TLS.Key, mode, r.proxy.TLS.Key))
		}
	}
	for i := range c.Sites {
		for j, files := range c.Sites[i].TLS.Certificates {
			if mode := exposure(files.Key); mode != 0 {
				found = append(found, fmt.Sprintf("%ssite %q: the key %s has mode %04o: others than its owner can take or replace it, and pretend to be the site: run chmod 600 %s",
					c.PlaceOfCertificate(i, j, "key"), c.Sites[i].Names[0], files.Key, mode, files.Key))
			}
		}
	}
	return found
}

// exposure is the mode of a file that more than its owner, and a group that may read it, can get at; 0: it is none.
func exposure(path string) fs.FileMode {
	const others fs.FileMode = 0o027 // reading and writing by everybody, writing by the group
	info, err := os.Stat(path)
	if err != nil || info.Mode()&others == 0 {
		return 0
	}
	return info.Mode().Perm()
}

// certificateDoubts lists what clients will complain of. A certificate that can't serve at all is reported elsewhere.
func certificateDoubts(c *routes.Config, now time.Time) (found []string) {
	for i := range c.Sites {
		s := &c.Sites[i]
		for j, files := range s.TLS.Certificates {
			pair, err := readPair(files)
			if err != nil {
				continue
			}
			for _, d := range tls.Doubts(s.Names, pair, now) {
				text := fmt.Sprintf("%ssite %q: %s (%s", c.PlaceOfCertificate(i, j, "certificate"), s.Names[0], d.Text, files.Certificate)
				for k := 0; k+1 < len(d.Facts); k += 2 {
					text += fmt.Sprintf("; %v: %v", d.Facts[k], d.Facts[k+1])
				}
				found = append(found, text+")")
			}
		}
	}
	return found
}
