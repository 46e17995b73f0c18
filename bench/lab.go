package main

import (
	"embed"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/gatewaytest"
)

//go:embed conf
var templates embed.FS

// lab is a folder with what the servers serve, their configurations and logs, and the processes that were started there.
type lab struct {
	dir     string
	cpu     int // where the servers run
	started []*started

	upstream string // the address of the server that others proxy to
}

// started is a process of a lab.
type started struct {
	pid   int
	ended chan struct{} // closed once it was reaped
}

const (
	hello      = "hello world\n"
	wsgiScript = "def application(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [b'hello world\\n']\n"
)

// newLab makes the folder. The processes that the servers leave behind become this one's children, so that close finds them.
func newLab(cpu int) (*lab, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gateway-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, cpu: cpu}
	if err := l.fill(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// fill writes the content. The servers' user can read all but the key.
func (l *lab) fill() error {
	err := os.Chmod(l.dir, 0o755)
	for name, mode := range map[string]os.FileMode{"www": 0o755, "cgi": 0o755, "app": 0o755, "log": 0o777 | os.ModeSticky, "tmp": 0o777 | os.ModeSticky} {
		err = errors.Join(err, os.Mkdir(l.path(name), 0o755), os.Chmod(l.path(name), mode))
	}
	err = errors.Join(err, os.Mkdir(l.path("www/proxied"), 0o755))
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{
		{"www/1k.html", filler(1 << 10), 0o644},
		{"www/proxied/1k.html", filler(1 << 10), 0o644},
		{"www/10k.css", filler(10 << 10), 0o644},
		{"www/100k.jpg", filler(100 << 10), 0o644},
		{"www/hello.php", "<?php header('Content-Type: text/plain'); echo \"hello world\\n\";\n", 0o644},
		{"www/100k.txt", prose(100 << 10), 0o644},
		{"www/100k.php", "<?php readfile(__DIR__ . '/100k.txt');\n", 0o644},
		{"www/page.php", "<?php readfile(__DIR__ . '/100k.txt');\n", 0o644},
		{"cgi/hello", "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\nhello world\\n'\n", 0o755},
		{"app/hello.py", wsgiScript, 0o644},
		{"mime.types", "text/html html\ntext/css css\nimage/jpeg jpg\n", 0o644},
	} {
		err = errors.Join(err, os.WriteFile(l.path(f.name), []byte(f.text), f.mode))
	}
	return errors.Join(err, gatewaytest.WriteCertificate(l.path("tls.crt"), l.path("tls.key")))
}

// filler is n bytes that are not all the same.
func filler(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + i*i%26)
	}
	return string(b)
}

// prose is n bytes that compress about as a page of text does, to a third.
func prose(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 2000)
	for i := range words {
		word := make([]byte, 2+r.IntN(8))
		for j := range word {
			word[j] = "eeeetttaaooiinnsshhrrdlucmfwypvbgk"[r.IntN(34)]
		}
		words[i] = string(word)
	}
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[int(float64(len(words))*math.Pow(r.Float64(), 3))]) // few words are most of a text
		if b.WriteByte(' '); r.IntN(20) == 0 {
			b.WriteString("</p>\n<p class=\"text\">")
		}
	}
	return b.String()[:n]
}

// configure writes a configuration: the template of that name, filled with facts. It returns its path.
func (l *lab) configure(name, template string, facts any) (string, error) {
	path := l.path(name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(render(f, template, facts), f.Close())
}

func render(f *os.File, name string, facts any) error {
	t, err := template.ParseFS(templates, "conf/"+name)
	if err != nil {
		return err
	}
	return t.Execute(f, facts)
}

// start runs a server. It leads a session, so an interrupt at the terminal does not reach it, and ends when this process is killed.
func (l *lab) start(argv ...string) (pid int, err error) { return l.startOn(l.cpu, argv...) }

func (l *lab) startOn(cpu int, argv ...string) (pid int, err error) {
	log, err := os.Create(l.path(fmt.Sprintf("log/%s-%d", filepath.Base(argv[0]), len(l.started))))
	if err != nil {
		return 0, err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := pinned(cpu, cmd.Start); err != nil {
		return 0, err
	}
	s := &started{pid: cmd.Process.Pid, ended: make(chan struct{})}
	l.started = append(l.started, s)
	go func() { // ends with the process
		defer close(s.ended)
		_ = cmd.Wait() // how it ends is in its log
	}()
	return s.pid, nil
}

// ladder is how long servers have for an orderly end.
const ladder = 5 * time.Second

// close ends the servers and everything that descends from them, and removes the folder.
func (l *lab) close() error {
	for _, s := range l.started {
		s.terminate()
	}
	patience := time.After(ladder)
	for _, s := range l.started {
		select {
		case <-s.ended:
		case <-patience:
			patience = time.After(0) // the others had as much
		}
	}
	return errors.Join(l.bury(), os.RemoveAll(l.dir))
}

// terminate spares a pid that was reaped: it may be a stranger's by now.
func (s *started) terminate() {
	select {
	case <-s.ended:
	default:
		_ = unix.Kill(s.pid, unix.SIGTERM) // it may have ended just now
	}
}

// bury kills descendants of this process until none is left but those that only their parent can reap.
func (l *lab) bury() error {
	for {
		all, err := processes()
		if err != nil {
			return err
		}
		alive := false
		for pid, p := range all {
			if pid != os.Getpid() && !p.dead && descends(all, pid, []int{os.Getpid()}) {
				alive = true
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended just now
			}
		}
		if !alive {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}
