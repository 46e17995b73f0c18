package main

import (
	"encoding/json"
	"maps"
	"os"
	"syscall"

	"gateway/routes"
)

// newFiles is what the front is to know instead of a part of its setup, since files have changed that only the supervisor may read.
type newFiles struct {
	Certificates []certificate // by the places of the sites; nil: none has changed
	Passwords    []passwordFile
}

// fileWatch watches these files. One goroutine has it, in the supervisor.
type fileWatch struct {
	certificates *certificateFiles
	passwords    *passwordFiles
}

// newFileWatch begins with the files as they are now.
func newFileWatch(c *routes.Config) *fileWatch {
	return &fileWatch{newCertificateFiles(c), newPasswordFiles(c)}
}

// empty reports whether the configuration names none.
func (w *fileWatch) empty() bool {
	return len(w.certificates.paths) == 0 && len(w.passwords.paths) == 0
}

// changed is for [supervise.Plan.Changed].
func (w *fileWatch) changed() []byte {
	certificates, passwords := w.certificates.update(), w.passwords.update()
	if !certificates && !passwords {
		return nil
	}
	b, err := json.Marshal(newFiles{w.certificates.last, w.passwords.files})
	if err != nil {
		return nil // texts and bytes can always be encoded
	}
	return b
}

// watch tells when files change.
type watch struct {
	paths []string         // immutable
	seen  map[string]stamp // at the last look
	used  map[string]stamp // at the last change that counted, or at first
}

// stamp changes whenever the content of a file does, as far as the file system tells. It is zero for a file that is not there.
type stamp struct {
	device, inode  uint64
	size           int64
	mtime, changed syscall.Timespec
}

// newWatch begins with the files as they are now.
func newWatch(paths []string) watch {
	w := watch{paths: paths}
	w.seen = w.stamps()
	w.used = w.seen
	return w
}

// changed looks whether the files have changed. A change counts once it has lasted from one look to the next, as certificate and
// key are seldom replaced, and a file is seldom written, in one moment.
func (w *watch) changed() bool {
	now := w.stamps()
	settled := maps.Equal(now, w.seen)
	w.seen = now
	if !settled || maps.Equal(now, w.used) {
		return false
	}
	w.used = now
	return true
}

func (w *watch) stamps() map[string]stamp {
	stamps := map[string]stamp{}
	for _, path := range w.paths {
		stamps[path] = stampOf(path)
	}
	return stamps
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
}
