package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// trustStore is how a machine is told which authorities its programs trust, as on Debian (ca-certificates).
type trustStore struct {
	folder  string // of PEM files
	command string // takes them over
}

func systemTrust() trustStore {
	return trustStore{"/usr/local/share/ca-certificates", "update-ca-certificates"}
}

// trust prints the root of the internal authority, or has this machine trust it.
func trust(args []string) error {
	flags := flag.NewFlagSet("trust", flag.ContinueOnError)
	socket := flags.String("socket", "", "`path` of the admin socket")
	install := flags.Bool("install", false, "have the programs of this machine trust it (as root)")
	if _, err := parse(flags, args); err != nil {
		return err
	}
	root, err := internalRoot(*socket)
	if err != nil {
		return err
	}
	if !*install {
		_, err := os.Stdout.Write(root)
		return err
	}
	file, err := systemTrust().install(root)
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	fmt.Printf("%s: trusted by the programs of this machine; browsers with lists of their own, such as Firefox, need it imported\n", file)
	return nil
}

// internalRoot asks a running gateway: its state_dir is for its own user.
func internalRoot(socket string) ([]byte, error) {
	s, err := askFront(socket)
	switch {
	case err != nil:
		return nil, err
	case s.InternalRoot == "":
		return nil, errors.New(`no site of this gateway has a certificate of the internal authority: tls { mode = "internal" }`)
	}
	return []byte(s.InternalRoot), nil
}

// install returns the file that it has made. Another gateway's root has another name, and stays.
func (t trustStore) install(root []byte) (string, error) {
	block, _ := pem.Decode(root)
	if block == nil {
		return "", errors.New("the gateway's answer is not a certificate")
	}
	command, err := exec.LookPath(t.command)
	if err != nil {
		return "", fmt.Errorf("%s is not here (Debian's package is ca-certificates): save what `gateway trust` prints where this system keeps authorities of its own; Fedora: /etc/pki/ca-trust/source/anchors, then update-ca-trust", t.command)
	}
	root = pem.EncodeToMemory(block) // and nothing else that the front may have said
	sum := sha256.Sum256(block.Bytes)
	file := filepath.Join(t.folder, fmt.Sprintf("gateway-%x.crt", sum[:4]))
	err = os.MkdirAll(t.folder, 0o755) //nolint:gosec // for everybody
	if err == nil {
		err = os.WriteFile(file, root, 0o644) //nolint:gosec // likewise
	}
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%w: only root can do that: sudo gateway trust -install -socket PATH", err)
	}
	if err != nil {
		return "", err
	}
	if out, err := exec.Command(command).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return file, nil
}
