package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"gateway/proxy"
	"gateway/routes"
)

// passwordFile is a file of passwords as the front gets it.
type passwordFile struct {
	Path    string
	Text    []byte
	Trouble string // why it can't be read, and Text is of before; empty: it can
}

// passwordFiles watches the files of passwords that routes name. One goroutine has it, in the supervisor, which alone may read them.
type passwordFiles struct {
	files []passwordFile
	watch
}

// newPasswordFiles reads the files as they are now.
func newPasswordFiles(c *routes.Config) *passwordFiles {
	paths := passwordPaths(c)
	p := &passwordFiles{watch: newWatch(paths)}
	for _, path := range paths {
		p.files = append(p.files, passwordFile{Path: path})
	}
	p.read()
	return p
}

func passwordPaths(c *routes.Config) (paths []string) {
	for i := range c.Sites {
		for j := range c.Sites[i].Routes {
			a := c.Sites[i].Routes[j].Access
			if a != nil && a.Auth != nil && !slices.Contains(paths, a.Auth.File) {
				paths = append(paths, a.Auth.File)
			}
		}
	}
	return paths
}

// update reads the files anew, and reports it, when one has changed.
func (p *passwordFiles) update() bool {
	if !p.changed() {
		return false
	}
	p.read()
	return true
}

func (p *passwordFiles) read() {
	for i := range p.files {
		f := &p.files[i]
		text, err := readPasswords(f.Path)
		f.Trouble = ""
		if err != nil {
			f.Trouble = err.Error()
			continue
		}
		f.Text = text
	}
}

func readPasswords(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would be waited for
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, proxy.MaxPasswordBytes+1))
	if len(text) > proxy.MaxPasswordBytes {
		err = fmt.Errorf("%s: bigger than %d bytes", path, proxy.MaxPasswordBytes)
	}
	return text, errors.Join(err, file.Close())
}

// takePasswords lets in who stands in the files now.
func (f *front) takePasswords(files []passwordFile) {
	for i := range files {
		if files[i].Trouble != "" {
			f.log.Errorw("file of passwords can't be read: who stood in it before can get in, or nobody", "file", files[i].Path, "error", files[i].Trouble)
		}
		if files[i].Text == nil {
			continue
		}
		users, err := f.server.SetPasswords(files[i].Path, files[i].Text)
		if err != nil {
			f.log.Errorw("users of a file of passwords can't get in", "file", files[i].Path, "error", err)
		}
		f.log.Infow("file of passwords was read", "file", files[i].Path, "users", users)
	}
}

// badPasswords lists the lines of files of passwords that can't be used. A file that can't be read is reported elsewhere.
func badPasswords(c *routes.Config) (found []string) {
	for _, path := range passwordPaths(c) {
		text, err := readPasswords(path)
		if err != nil {
			continue
		}
		if err := proxy.CheckPasswords(text); err != nil {
			found = append(found, fmt.Sprintf("auth_basic: %s: %v", path, err))
		}
	}
	return found
}
