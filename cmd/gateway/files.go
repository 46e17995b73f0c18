package main

import (
	"encoding/json"

	"gateway/routes"
)

// newFiles is what the front is to know instead of a part of its setup, since files have changed that only the supervisor may read.
type newFiles struct {
	Certificates []certificate // by the places of the sites; nil: none has changed
	Passwords    []passwordFile
}

// fileWatch watches these files. One goroutine has it, in the supervisor.
type fileWatch struct {
	certificates *certificateFiles // nil: there are none
	passwords    *passwordFiles
}

// newFileWatch begins with the files as they are now; nil: the configuration names none.
func newFileWatch(c *routes.Config) *fileWatch {
	w := &fileWatch{newCertificateFiles(c), newPasswordFiles(c)}
	if w.certificates == nil && len(w.passwords.files) == 0 {
		return nil
	}
	return w
}

// changed is for [supervise.Plan.Changed].
func (w *fileWatch) changed() []byte {
	var n newFiles
	certificates := w.certificates != nil && w.certificates.changed()
	if passwords := w.passwords.changed(); !passwords && !certificates {
		return nil
	}
	if w.certificates != nil {
		n.Certificates = w.certificates.last
	}
	n.Passwords = w.passwords.files
	b, err := json.Marshal(n)
	if err != nil {
		return nil // texts and bytes can always be encoded
	}
	return b
}
