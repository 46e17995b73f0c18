package examples_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

const (
	pusher         = "ada"
	pusherPassword = "correct-horse"
)

func testCgit(t *testing.T, e *example) {
	needs(t, "git", "/usr/lib/git-core/git-http-backend")
	root := packaged(t, "cgit", "usr/lib/cgit/cgit.cgi")
	program := filepath.Join(root, "usr/lib/cgit/cgit.cgi")
	if out, err := exec.Command(program, "--version").CombinedOutput(); err != nil {
		t.Skipf("cgit does not run: %v: %s", err, out)
	}
	commit := makeRepository(t, e)
	writePasswords(t, e.path("git.htpasswd"), pusher, pusherPassword)
	rc, err := os.ReadFile(filepath.Join(root, "etc/cgitrc"))
	check(t, err)
	check(t, os.WriteFile(e.path("cgitrc"), fmt.Appendf(rc, "virtual-root=/cgit/\nsnapshots=tar.gz\nclone-prefix=https://localhost/git\nscan-path=%s\n", e.path("git")), 0o644))
	e.setenv("CGIT", program)
	e.setenv("CGIT_SHARE", filepath.Join(root, "usr/share/cgit"))
	e.setenv("CGITRC", e.path("cgitrc"))
	e.setenv("REPOSITORIES", e.path("git"))
	e.setenv("PASSWORDS", e.path("git.htpasswd"))
	e.offerTLS()
	e.start()

	first := e.get("/").want(t, 200, "sample.git", "A repository for the test")
	e.useTLS()
	if first.url != e.url("/cgit/") {
		t.Errorf("/ led to %s", first.url)
	}
	cgitPages(t, e, first, commit)
	gitReads(t, e, commit)
	gitPushes(t, e)
}

func writePasswords(t *testing.T, file, name, password string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	check(t, err)
	check(t, os.WriteFile(file, fmt.Appendf(nil, "%s:%s\n", name, hash), 0o600))
}

// cgitPages browses.
func cgitPages(t *testing.T, e *example, first page, commit string) {
	t.Helper()
	e.load(first)
	css := e.get("/cgit-css/cgit.css").want(t, 200, "div#cgit")
	if got := css.header.Get("Cache-Control"); got != "public, max-age=86400" {
		t.Errorf("cgit.css: Cache-Control %q: it did not come from the event pool", got)
	}
	e.get("/cgit/sample.git/").want(t, 200, "the second commit", "https://localhost/git/sample.git")
	e.get("/cgit/sample.git/tree/").want(t, 200, "hello.txt", "folder")
	e.get("/cgit/sample.git/tree/folder/hello%20again.txt").want(t, 200, "&lt;again&gt;")
	e.get("/cgit/sample.git/plain/hello.txt").want(t, 200, "hello from git\n")
	e.get("/cgit/sample.git/log/?qt=grep&q=first").want(t, 200, "the first commit")
	e.get("/cgit/sample.git/commit/?id="+commit).want(t, 200, "folder/hello again.txt")
	e.get("/cgit/sample.git/patch/?id="+commit).want(t, 200, "Subject: the second commit")
	e.get("/cgit/sample.git/atom/").want(t, 200, "<feed", "the second commit")
	e.get("/cgit/sample.git/snapshot/sample-"+commit+".tar.gz").want(t, 200, "\x1f\x8b")
	e.get("/cgit/none.git/").want(t, 404)
	e.get("/cgit/sample.git/plain/none.txt").want(t, 404)
}

// gitReads clones without a name, whole and in part, with either version of HTTP.
func gitReads(t *testing.T, e *example, commit string) {
	t.Helper()
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, protocol := range []string{"0", "2"} {
			clone := e.path(fmt.Sprintf("clone-%s-%s", strings.ReplaceAll(version, "/", "-"), protocol))
			e.git(t, "-c", "http.version="+version, "-c", "protocol.version="+protocol, "clone", "-q", e.url("/git/sample.git"), clone)
			if head := git(t, e, "-C", clone, "rev-parse", "HEAD"); head != commit {
				t.Errorf("with %s and version %s of git's protocol: cloned %s, want %s", version, protocol, head, commit)
			}
		}
	}
	shallow := e.path("shallow")
	e.git(t, "clone", "-q", "--depth", "1", e.url("/git/sample.git"), shallow)
	e.git(t, "-C", shallow, "fetch", "-q", "--unshallow")
	if n := git(t, e, "-C", shallow, "rev-list", "--count", "HEAD"); n != "2" {
		t.Errorf("%s commits after --unshallow, want 2", n)
	}

	// As a client without the smart protocol asks, and what is no part of any.
	e.get("/git/sample.git/HEAD").want(t, 200, "ref: refs/heads/")
	for _, path := range []string{"/git/none.git/info/refs", "/git/sample.git/config", "/git/sample.git/hooks/update.sample", "/git/sample.git/..%2f..%2fgit.htpasswd", "/git/%2e%2e/git.htpasswd", "/git/"} {
		if got := e.get(path); got.status != 404 {
			t.Errorf("%s: status %d\n%s", path, got.status, got.body)
		}
	}
}

// gitPushes brings back what was cloned with more in it: large, with either version of HTTP, and only with the right password.
func gitPushes(t *testing.T, e *example) {
	t.Helper()
	work := e.path("work")
	for user, want := range map[string]string{"": "could not read Username", pusher + ":wrong@": "Authentication failed", "eve:" + pusherPassword + "@": "Authentication failed"} {
		if out, err := e.tryGit("-C", work, "push", e.urlFor(user, "/git/sample.git"), "HEAD:refs/heads/never"); err == nil || !strings.Contains(out, want) {
			t.Errorf("push by %q: %v\n%s\nwant %q", user, err, out, want)
		}
	}
	for _, path := range []string{"/git/sample.git/info/refs?service=git-receive-pack", "/git/sample.git/info/refs?x&service=git-receive-pack&y", "/push/sample.git/HEAD"} {
		e.get(path).want(t, 401)
	}
	e.get("/git/sample.git/info/refs?service=git%2Dreceive-pack").want(t, 403) // the rewrite does not know it, and git lets nobody push
	for _, path := range []string{"/git/sample.git/git-receive-pack", "/git/sample.git/git%2Dreceive-pack", "/git//sample.git//git-receive-pack"} {
		e.post(path, "application/x-git-receive-pack-request", strings.NewReader("0000")).want(t, 401)
	}

	mine := e.urlFor(pusher+":"+pusherPassword+"@", "/git/sample.git")
	large := make([]byte, 6<<20)
	random := rand.NewChaCha8([32]byte{1})
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		_, err := random.Read(large)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(work, "large.bin"), large, 0o644))
		git(t, e, "-C", work, "add", ".")
		git(t, e, "-C", work, "commit", "-q", "-m", "large by "+version)
		e.git(t, "-C", work, "-c", "http.version="+version, "push", "-q", mine, "HEAD")
		e.get("/cgit/sample.git/log/").want(t, 200, "large by "+version)
	}
	e.wantSent("Transfer-Encoding: chunked")
	if p := e.get("/cgit/sample.git/plain/large.bin").want(t, 200); p.body != string(large) {
		t.Errorf("%d bytes came back of a file of %d", len(p.body), len(large))
	}

	// A clone that asks for many branches compresses what it asks.
	for i := range 30 {
		commit := git(t, e, "-C", work, "commit-tree", "-m", fmt.Sprint("branch ", i), "HEAD^{tree}")
		git(t, e, "-C", work, "branch", fmt.Sprint("branch-", i), commit)
	}
	e.git(t, "-C", work, "push", "-q", "--all", mine)
	e.git(t, "clone", "-q", "--mirror", e.url("/git/sample.git"), e.path("mirror.git"))
	e.wantSent("Content-Encoding: gzip")
	ours, theirs := git(t, e, "-C", work, "for-each-ref", "refs/heads"), git(t, e, "-C", e.path("mirror.git"), "for-each-ref", "refs/heads")
	if ours != theirs {
		t.Errorf("pushed\n%s\ncloned\n%s", ours, theirs)
	}
}

// git is a client that trusts the certificate.
func (e *example) git(t *testing.T, args ...string) {
	t.Helper()
	_, err := e.tryGit(args...)
	check(t, err)
}

func (e *example) tryGit(args ...string) (string, error) {
	return tryGit(e, append([]string{"-c", "http.sslCAInfo=" + e.path("tls.crt")}, args...)...)
}

// urlFor has a name and a password ("name:password@").
func (e *example) urlFor(user, path string) string {
	return strings.Replace(e.url(path), "://", "://"+user, 1)
}

// wantSent looks for a header line in what git's client tells of all its requests.
func (e *example) wantSent(line string) {
	e.t.Helper()
	trace, err := os.ReadFile(e.path("git.trace"))
	check(e.t, err)
	if !strings.Contains(strings.ToLower(string(trace)), "=> send header: "+strings.ToLower(line)) {
		e.t.Errorf("git has not sent %q", line)
	}
}
