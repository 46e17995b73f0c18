package proxy

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"gateway/routes"
)

// linked makes a folder "www" full of links, a folder beside it, and opens "www" with every policy.
func linked(t *testing.T) (base string, files map[routes.Symlinks]*Files) {
	t.Helper()
	base = t.TempDir()
	root := filepath.Join(base, "www")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "dir", "sub"), 0o755))
	must(os.Mkdir(filepath.Join(base, "beside"), 0o755))
	for _, name := range []string{"www/a.txt", "www/dir/b.txt", "beside/c.txt"} {
		must(os.WriteFile(filepath.Join(base, name), []byte(name), 0o644))
	}
	for name, target := range map[string]string{
		"relative": "dir/b.txt", "absolute": filepath.Join(root, "a.txt"), "absolute-dir": filepath.Join(root, "dir"), "out": "../beside/c.txt", "out-dir": "../beside",
		"chain": "absolute", "there-and-back": "../beside/back", "root": "/", "itself": ".", "loop": "loop", "dangling": filepath.Join(root, "nothing"),
		"dir/sub/up": "../../a.txt", "proc": "/proc/self/root",
	} {
		must(os.Symlink(target, filepath.Join(root, name)))
	}
	must(os.Symlink(filepath.Join(root, "a.txt"), filepath.Join(base, "beside", "back")))
	files = map[routes.Symlinks]*Files{}
	for _, links := range []routes.Symlinks{routes.LinksNone, routes.LinksOwner, routes.LinksInside, routes.LinksAll} {
		f, err := NewFiles(root, links)
		must(err)
		t.Cleanup(func() { f.Close() })
		files[links] = f
	}
	return base, files
}

func TestSymlinks(t *testing.T) {
	_, files := linked(t)
	const a, b, c = "www/a.txt", "www/dir/b.txt", "beside/c.txt"
	const none, owner, inside, all = routes.LinksNone, routes.LinksOwner, routes.LinksInside, routes.LinksAll
	rows := []struct {
		name, path, want string
		by               []routes.Symlinks // who opens it; the others forbid it
	}{
		{"a file", "/a.txt", a, []routes.Symlinks{none, owner, inside, all}},
		{"a file in a folder", "/dir/b.txt", b, []routes.Symlinks{none, owner, inside, all}},
		{"a relative link", "/relative", b, []routes.Symlinks{owner, inside, all}},
		{"a relative link upwards", "/dir/sub/up", a, []routes.Symlinks{owner, inside, all}},
		{"an absolute link that ends inside", "/absolute", a, []routes.Symlinks{owner, inside, all}},
		{"a file below an absolute link", "/absolute-dir/b.txt", b, []routes.Symlinks{owner, inside, all}},
		{"a link to a link", "/chain", a, []routes.Symlinks{owner, inside, all}},
		{"a link to the folder itself", "/itself/a.txt", a, []routes.Symlinks{owner, inside, all}},
		{"a link that leads out and back in", "/there-and-back", a, []routes.Symlinks{owner, inside, all}},
		{"a link out", "/out", c, []routes.Symlinks{owner, all}},
		{"a file below a link out", "/out-dir/c.txt", c, []routes.Symlinks{owner, all}},
		{"dots that lead out", "/../beside/c.txt", "", nil},
		{"dots behind a link", "/out-dir/../www/a.txt", a, []routes.Symlinks{inside}},
		{"two slashes", "//etc/passwd", "", nil},
	}
	for links, f := range files {
		for _, row := range rows {
			file, _, err := f.Open(row.path)
			if !slices.Contains(row.by, links) {
				if !errors.Is(err, fs.ErrPermission) {
					t.Errorf("symlinks = %q: Open(%q), %s, = %v, want fs.ErrPermission", links, row.path, row.name, err)
				}
				if f.IsFile(row.path) {
					t.Errorf("symlinks = %q: IsFile(%q), %s", links, row.path, row.name)
				}
				continue
			}
			if err != nil {
				t.Errorf("symlinks = %q: Open(%q), %s, = %v", links, row.path, row.name, err)
				continue
			}
			got, err := io.ReadAll(file)
			file.Close()
			if string(got) != row.want || err != nil || !f.IsFile(row.path) {
				t.Errorf("symlinks = %q: Open(%q), %s, has %q, %v; want %q", links, row.path, row.name, got, err, row.want)
			}
		}
		for _, path := range []string{"/loop", "/dangling", "/nothing", "/proc/nothing", "/a.txt/b"} {
			if _, _, err := f.Open(path); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				t.Errorf("symlinks = %q: Open(%q) = %v, want that it is not there, or forbidden", links, path, err)
			}
		}
	}
}

func TestSymlinksOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	base, files := linked(t)
	root := filepath.Join(base, "www")
	for name, want := range map[string]bool{"relative": false, "out": false, "chain": true} {
		if err := unix.Lchown(filepath.Join(root, name), 1234, 1234); err != nil {
			t.Fatal(err)
		}
		if name == "chain" { // of which every part belongs to the same one
			for _, part := range []string{"absolute", "a.txt"} {
				if err := unix.Lchown(filepath.Join(root, part), 1234, 1234); err != nil {
					t.Fatal(err)
				}
			}
		}
		file, _, err := files[routes.LinksOwner].Open("/" + name)
		if err == nil {
			file.Close()
		}
		if (err == nil) != want || err != nil && !errors.Is(err, errLink) {
			t.Errorf("Open(/%s) = %v, want it to open: %v", name, err, want)
		}
	}
}
