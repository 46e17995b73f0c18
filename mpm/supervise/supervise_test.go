package supervise

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/ctl"
)

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	if want := []string{"gateway/internal/ctl", "gateway/internal/quiet", "gateway/mpm/supervise", "golang.org/x/sys/unix"}; !slices.Equal(got, want) {
		t.Errorf("beside the standard library: %q, want %q", got, want)
	}
	out, err = exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(out)) {
		if name == "net/http" || name == "crypto/tls" || name == "os/exec" {
			t.Errorf("imports %s", name)
		}
	}
}

func TestLadder(t *testing.T) {
	const s = time.Second
	term, kill := syscall.SIGTERM, syscall.SIGKILL
	type at struct {
		second float64
		signal syscall.Signal
		group  bool
	}
	for _, tt := range []struct {
		name  string
		climb func(c *climb, begun time.Time)
		want  []at
	}{
		{"nobody wants to end it", func(*climb, time.Time) {}, nil},
		{"a stop is Apache's ladder", func(c *climb, b time.Time) { c.begin(b, stopping, stopLadder()) },
			[]at{{0, term, false}, {3, term, false}, {5, term, false}, {7, term, false}, {9, kill, true}}},
		{"a kill goes to the group", func(c *climb, b time.Time) { c.begin(b, killing, killLadder(2*s)) },
			[]at{{0, term, true}, {2, kill, true}}},
		{"a second stop starts nothing anew", func(c *climb, b time.Time) {
			c.begin(b, stopping, stopLadder())
			c.begin(b.Add(s), stopping, stopLadder())
		}, []at{{0, term, false}, {3, term, false}, {5, term, false}, {7, term, false}, {9, kill, true}}},
		{"a kill replaces a stop", func(c *climb, b time.Time) {
			c.begin(b, stopping, stopLadder())
			c.due(b)
			c.begin(b.Add(s), killing, killLadder(2*s))
		}, []at{{1, term, true}, {3, kill, true}}},
		{"a kill never delays the end of a stop", func(c *climb, b time.Time) {
			c.begin(b, stopping, stopLadder())
			c.due(b.Add(8 * s))
			c.begin(b.Add(8*s), killing, killLadder(time.Hour))
		}, []at{{8, term, true}, {9, kill, true}}},
		{"a stop does not soften a kill", func(c *climb, b time.Time) {
			c.begin(b, killing, killLadder(2*s))
			c.begin(b.Add(s), stopping, stopLadder())
		}, []at{{0, term, true}, {2, kill, true}}},
		{"at once is at once", func(c *climb, b time.Time) {
			c.begin(b, killing, killLadder(2*s))
			c.due(b)
			c.begin(b.Add(s), atOnce, killAfter(0))
		}, []at{{1, kill, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c climb
			begun := time.Unix(1_000_000, 0)
			tt.climb(&c, begun)
			var got []at
			for next := c.next(); !next.IsZero(); next = c.next() {
				if early := c.due(next.Add(-1)); len(early) > 0 {
					t.Fatalf("due before its time: %v", early)
				}
				for _, r := range c.due(next) {
					got = append(got, at{next.Sub(begun).Seconds(), r.signal, r.group})
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("steps %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRestartsOfTheFront(t *testing.T) {
	const s = time.Second
	var r restarts
	for i, tt := range []struct {
		name  string
		lived time.Duration
		want  time.Duration
	}{
		{"the first death, however young, costs no time", 0, 0},
		{"dead again within 2 s: wait", s, s},
		{"and again", s, s},
		{"it lived: all is forgiven", 2 * s, 0},
		{"the first young death after that", s, 0},
		{"the second", 0, s},
	} {
		if got := r.delay(tt.lived); got != tt.want {
			t.Errorf("step %d, %s: delay(%v) = %v, want %v", i, tt.name, tt.lived, got, tt.want)
		}
	}
}

func TestPlanIsChecked(t *testing.T) {
	long := "/" + strings.Repeat("x", ctl.MaxSocketBytes)
	for _, tt := range []struct {
		name   string
		change func(*Plan)
		want   string // "": it is good
	}{
		{"a good plan", func(*Plan) {}, ""},
		{"generations count from 1", func(p *Plan) { p.Generation = 0 }, "generation 0"},
		{"the front has a name", func(p *Plan) { p.Front.Args = nil }, "front: no arguments"},
		{"the runtime folder is absolute", func(p *Plan) { p.RuntimeDir = "run" }, `runtime_dir "run"`},
		{"the state folder is absolute", func(p *Plan) { p.StateDir = "state" }, `state_dir "state"`},
		{"a socket has room in the runtime folder", func(p *Plan) { p.RuntimeDir = long }, "17 bytes too long for the path of a socket"},
		{"the admin socket has a path", func(p *Plan) { p.AdminSocket = "" }, "admin socket"},
		{"the admin socket's path fits", func(p *Plan) { p.AdminSocket = long }, "admin socket"},
		{"a pool has a name", func(p *Plan) { p.Pools[0].Name = "" }, "the name must have"},
		{"a pool is named once", func(p *Plan) { p.Pools = append(p.Pools, p.Pools[0]) }, "named twice"},
		{"a program is named by its path", func(p *Plan) { p.Pools[0].Path = "php-cgi" }, `executable "php-cgi"`},
		{"a program has arguments", func(p *Plan) { p.Pools[0].Args = nil }, "no arguments"},
		{"a pool has slots", func(p *Plan) { p.Pools[0].Slots = 0 }, "0 slots"},
		{"a kill is not in the past", func(p *Plan) { p.Pools[0].KillAfter = -1 }, "kill_after"},
	} {
		p := Plan{
			Generation: 1, Front: Program{Args: []string{"front"}}, RuntimeDir: "/run/gateway",
			AdminSocket: "/run/gateway/admin.sock",
			Pools:       []Pool{{Name: "p", Path: "/bin/true", Args: []string{"true"}, Slots: 1}},
		}
		tt.change(&p)
		err := p.validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: validate() = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// own is the owner that needs no privilege.
func own() owner { return ownerOf(nil) }

func TestListenTCP(t *testing.T) {
	ipv6 := func() bool { l, err := net.Listen("tcp", "[::1]:0"); return err == nil && l.Close() == nil }()
	for _, tt := range []struct {
		name, address string
		needsIPv6     bool
		reach, miss   string // from where it answers, and from where it does not
	}{
		{"no host is every address of both families", ":0", true, "127.0.0.1 ::1", ""},
		{"an IPv4 address is that one", "127.0.0.1:0", false, "127.0.0.1", "127.0.0.2 ::1"},
		{"an IPv6 address is that one", "[::1]:0", true, "::1", "127.0.0.1"},
		{"0.0.0.0 is all of IPv4", "0.0.0.0:0", false, "127.0.0.1 127.0.0.2", "::1"},
		{"[::] is all of IPv6 and not of IPv4", "[::]:0", true, "::1", "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.needsIPv6 && !ipv6 {
				t.Skip("no IPv6 here")
			}
			f, err := listen(Listener{"tcp", tt.address}, own())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			port := checkListener(t, f)
			for _, host := range strings.Fields(tt.reach) {
				c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
				if err != nil {
					t.Errorf("not reached from %s: %v", host, err)
					continue
				}
				c.Close()
			}
			for _, host := range strings.Fields(tt.miss) {
				c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
				if err == nil {
					c.Close()
					t.Errorf("reached from %s", host)
				}
			}
		})
	}
}

// checkListener looks at the options of a listening socket and returns its port.
func checkListener(t *testing.T, f *os.File) uint16 {
	t.Helper()
	fd, err := ctl.Descriptor(f)
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("not non-blocking: %#x, %v", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("not closed on exec: %#x, %v", flags, err)
	}
	for name, o := range map[string][2]int{
		"TCP_NODELAY": {unix.IPPROTO_TCP, unix.TCP_NODELAY}, "SO_REUSEADDR": {unix.SOL_SOCKET, unix.SO_REUSEADDR},
		"TCP_DEFER_ACCEPT": {unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT},
	} {
		if v, err := unix.GetsockoptInt(fd, o[0], o[1]); err != nil || v == 0 {
			t.Errorf("%s = %d, %v; want it set", name, v, err)
		}
	}
	if f.SetDeadline(time.Now()) == nil {
		t.Error("the socket is in the runtime's poller: every connection would wake the supervisor")
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port)
	case *unix.SockaddrInet6:
		return uint16(a.Port)
	}
	t.Fatalf("address of type %T", address)
	return 0
}

func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	file, live := filepath.Join(dir, "file"), filepath.Join(dir, "live")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct {
		l    Listener
		want string
	}{
		{Listener{"udp", ":80"}, `listen :80: unknown network "udp"`},
		{Listener{"tcp", "80"}, "listen 80: address 80: missing port in address"},
		{Listener{"tcp", "127.0.0.1:http"}, `listen 127.0.0.1:http: port "http" is not a number from 0 to 65535`},
		{Listener{"tcp", "127.0.0.1:65536"}, `listen 127.0.0.1:65536: port "65536" is not a number from 0 to 65535`},
		{Listener{"tcp", "example.com:80"}, `listen example.com:80: "example.com" is not an IP address`},
		{Listener{"tcp", "192.0.2.1:80"}, "listen 192.0.2.1:80: cannot assign requested address"},
		{Listener{"unix", file}, "listen " + file + ": exists and is not a socket"},
		{Listener{"unix", live}, "listen " + live + ": address already in use"},
		{Listener{"unix", "/no/such/folder/s"}, "listen /no/such/folder/s: no such file or directory"},
	} {
		f, err := listen(tt.l, own())
		if err == nil {
			f.Close()
		}
		if err == nil || err.Error() != tt.want {
			t.Errorf("listen(%v) = %v, want %s", tt.l, err, tt.want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file that is no socket: %q, %v", b, err)
	}
}

func TestAStaleUnixSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	f, err := listen(Listener{"unix", path}, own())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|unixListenerMode {
		t.Errorf("mode %v, %v; want a socket of %o", info.Mode(), err, unixListenerMode)
	}
	if live, pid := listenerOf(path); !live || pid != os.Getpid() {
		t.Errorf("listenerOf() = %v, %d; want true, %d", live, pid, os.Getpid())
	}
}

func TestOwnFolder(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(path string) error
		want    string // "": taken
	}{
		{"it is made, its parents too", func(string) error { return nil }, ""},
		{"ours and private is fine", func(p string) error {
			return errors.Join(os.MkdirAll(p, 0o700), os.WriteFile(p+"/x", nil, 0o600))
		}, ""},
		{"open and empty is made private", func(p string) error { return os.MkdirAll(p, 0o755) }, ""},
		{"open and used is refused", func(p string) error {
			return errors.Join(os.MkdirAll(p, 0o755), os.WriteFile(p+"/x", nil, 0o600))
		}, "lets others in"},
		{"a link is refused", func(p string) error {
			return errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink("/tmp", p))
		}, "symbolic link"},
		{"a file is refused", func(p string) error {
			return errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, nil, 0o600))
		}, "not a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a", "b")
			if err := tt.prepare(path); err != nil {
				t.Fatal(err)
			}
			f, _, err := ownFolder(path, own())
			if err == nil {
				defer f.Close()
			}
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("ownFolder() = %v, want %q", err, tt.want)
				}
				return
			}
			info, statErr := os.Stat(path)
			if err != nil || statErr != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("ownFolder() = %v; %v, %v; want mode 700", err, info, statErr)
			}
		})
	}
}

func TestAFolderOfAnotherUserIsNotTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	wanted := owner{33, 33}
	for _, tt := range []struct {
		name    string
		prepare func(path string) error
		want    string
	}{
		{"root's and empty is given to the user", func(p string) error { return os.Mkdir(p, 0o755) }, ""},
		{"root's and used is refused", func(p string) error {
			return errors.Join(os.Mkdir(p, 0o700), os.WriteFile(p+"/x", nil, 0o600))
		}, "belongs to user 0, not to user 33"},
		{"somebody else's is refused", func(p string) error {
			return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, 99, 99))
		}, "belongs to user 99, not to user 33"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "d")
			if err := tt.prepare(path); err != nil {
				t.Fatal(err)
			}
			f, _, err := ownFolder(path, wanted)
			if err == nil {
				defer f.Close()
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("ownFolder() = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAChildsSocketIsBlockingAndItsOwn(t *testing.T) {
	dir, _, err := ownFolder(filepath.Join(t.TempDir(), "run"), own())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	d, err := openSocketFolder(dir, own())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	fd, name, err := d.listen(new(pool))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x, %v: php-cgi ends when accept does not block", flags, err)
	}
	path := socketPath(dir.Name(), name)
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%s: %v, %v; want a socket of 600", path, info.Mode(), err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := d.remove(name); err != nil {
		t.Error(err)
	}
	if _, second, err := d.listen(new(pool)); err != nil || second == name {
		t.Errorf("the next socket is %q, %v: names are not used twice", second, err)
	}
}

func TestDescribe(t *testing.T) {
	for status, want := range map[unix.WaitStatus]string{
		0: "exit status 0", 0x0200: "exit status 2", 9: "signal: killed", 0x80 | 11: "signal: segmentation fault (core dumped)",
	} {
		if got := describe(status); got != want {
			t.Errorf("describe(%#x) = %q, want %q", int(status), got, want)
		}
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add("status\n")
	f.Add("stop\r\nmore")
	f.Add(strings.Repeat("x", adminLine) + "\n")
	f.Add(strings.Repeat("x", adminLine+1) + "\n")
	f.Fuzz(func(t *testing.T, in string) {
		line, err := readLine(strings.NewReader(in))
		first, _, ended := strings.Cut(in, "\n")
		if want := ended && len(first) <= adminLine; (err == nil) != want {
			t.Fatalf("readLine(%q) = %q, %v; want success: %v", in, line, err, want)
		}
		if err == nil && line != strings.TrimSuffix(first, "\r") {
			t.Fatalf("readLine(%q) = %q", in, line)
		}
	})
}
