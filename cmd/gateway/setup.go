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
	Storage       tls.StorageFiles
}

// certificate holds the bytes of the files that a site's tls block names; they are empty where it names none.
type certificate struct {
	Certificate, Key, CARoots []byte
}

// maxSetup is more than any configuration takes.
const maxSetup = 256 << 20

func (s *setup) encode() ([]byte, error) { return json.Marshal(s) }

func decodeSetup(f *os.File) (*setup, error) {
	b, err := ctl.ReadBlob(f, maxSetup)
	if err != nil {
		return nil, err
	}
	s := new(setup)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("setup: %w", err)
	}
	if s.Config == nil || len(s.Certificates) != len(s.Config.Sites) {
		return nil, errors.New("setup: not complete")
	}
	return s, nil
}

// readCertificates reads the files that the sites name, as the supervisor's user.
func readCertificates(c *routes.Config) ([]certificate, error) {
	all := make([]certificate, len(c.Sites))
	for i := range c.Sites {
		t := c.Sites[i].TLS
		var err error
		if t.ACME != nil && t.ACME.CARoot != "" {
			if all[i].CARoots, err = os.ReadFile(t.ACME.CARoot); err != nil {
				return nil, fmt.Errorf("site %q: ca_root: %w", c.Sites[i].Names[0], err)
			}
		}
		if t.Mode != "manual" {
			continue
		}
		if all[i].Certificate, err = os.ReadFile(t.Certificate); err != nil {
			return nil, fmt.Errorf("site %q: certificate: %w", c.Sites[i].Names[0], err)
		}
		if all[i].Key, err = os.ReadFile(t.Key); err != nil {
			return nil, fmt.Errorf("site %q: key: %w", c.Sites[i].Names[0], err)
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
			if content, err = os.ReadFile(path); err != nil {
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
