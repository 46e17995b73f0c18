package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"gateway/internal/ctl"
	"gateway/routes"
	"gateway/tls"
)

// setup is what the supervisor tells each front: everything it needs that only the supervisor may read.
type setup struct {
	Version       string
	Generation    int
	SupervisorPID int
	Started       time.Time
	Config        *routes.Config
	Certificates  []certificate // of the sites, by their place in Config
	Passwords     []passwordFile
	Storage       tls.StorageFiles
	Servers       []tls.ClientFiles // see readServers
}

// certificate holds the bytes of the files that a site's tls block names; they are empty where it names none.
type certificate struct {
	Pairs     []tls.Pair
	Trouble   string // why the files of the pairs are of no use now: these are of before; empty: they are
	CARoots   []byte
	ClientCAs []byte

	ClientTrouble string // likewise, of the ClientCAs
}

// maxSetup is more than any configuration takes.
const maxSetup = 256 << 20

func (s *setup) encode() ([]byte, error) { return json.Marshal(s) }

func decodeSetup(f *os.File) (*setup, error) {
	s := new(setup)
	if err := decodeBlob(f, s); err != nil {
		return nil, fmt.Errorf("setup: %w", err)
	}
	if s.Config == nil || len(s.Certificates) != len(s.Config.Sites) || len(s.Servers) != len(tlsRoutes(s.Config)) {
		return nil, errors.New("setup: not complete")
	}
	return s, nil
}

// decodeFiles reads what [fileWatch.changed] says.
func decodeFiles(f *os.File) (n newFiles, err error) {
	defer f.Close()
	if err := decodeBlob(f, &n); err != nil {
		return newFiles{}, fmt.Errorf("files: %w", err)
	}
	return n, nil
}

func decodeBlob(f *os.File, v any) error {
	b, err := ctl.ReadBlob(f, maxSetup)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// readCertificates reads the files that the sites name, as the supervisor's user.
func readCertificates(c *routes.Config) ([]certificate, error) {
	all := make([]certificate, len(c.Sites))
	for i := range c.Sites {
		t := &c.Sites[i].TLS
		var err error
		if t.ACME != nil && t.ACME.CARoot != "" {
			if all[i].CARoots, err = readFile(t.ACME.CARoot); err != nil {
				return nil, fmt.Errorf("site %q: ca_root: %w", c.Sites[i].Names[0], err)
			}
		}
		if t.ClientAuth != nil {
			if all[i].ClientCAs, err = readFile(t.ClientAuth.CA); err != nil {
				return nil, fmt.Errorf("site %q: client_auth: ca: %w", c.Sites[i].Names[0], err)
			}
		}
		if all[i].Pairs, err = readPairs(t); err != nil {
			return nil, fmt.Errorf("site %q: %w", c.Sites[i].Names[0], err)
		}
	}
	return all, nil
}

// readStorage reads the files that the storage block names, as the supervisor's user.
func readStorage(s routes.Storage) (files tls.StorageFiles, err error) {
	if s.Redis == nil {
		return files, nil
	}
	read := func(name, path string) (content []byte) {
		if path != "" && err == nil {
			if content, err = readFile(path); err != nil {
				err = fmt.Errorf("storage: %s: %w", name, err)
			}
		}
		return content
	}
	files.Password = bytes.TrimRight(read("password_file", s.Redis.PasswordFile), "\r\n")
	if t := s.Redis.TLS; t != nil {
		files.CARoots = read("ca_root", t.CARoot)
		files.Certificate, files.Key = read("certificate", t.Certificate), read("key", t.Key)
	}
	return files, err
}

// readPairs reads the certificates that a site names, in their order.
func readPairs(t *routes.TLS) ([]tls.Pair, error) {
	pairs := make([]tls.Pair, len(t.Certificates))
	for i, files := range t.Certificates {
		var err error
		if pairs[i], err = readPair(files); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

func readPair(files routes.CertificateFiles) (p tls.Pair, err error) {
	if p.CertificatePEM, err = readFile(files.Certificate); err != nil {
		return p, fmt.Errorf("certificate: %w", err)
	}
	if p.KeyPEM, err = readFile(files.Key); err != nil {
		return p, fmt.Errorf("key: %w", err)
	}
	return p, nil
}
