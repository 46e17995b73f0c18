package main_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"gateway/internal/gatewaytest"
	"gateway/routes"
)

var updateScripts = flag.Bool("update", false, "rewrite what the scripts of testdata/script compare with")

// TestScript runs the scripts of testdata/script: whole-system promises, one each, held by the real binary and real
// children. Beside the commands of testscript they have those of commands; testdata/script/README.md tells what they do.
func TestScript(t *testing.T) {
	// Not t.TempDir: the gateway's users must be able to enter the folder, and socket paths must be short.
	root, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := gatewaytest.Build(root)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		WorkdirRoot:         root,
		Setup:               func(env *testscript.Env) error { return setup(env, binary) },
		Condition:           condition,
		Cmds:                commands(),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *updateScripts,
	})
}

// script is what the commands of one script share.
type script struct {
	binary  string
	gateway *gatewaytest.Gateway
	ca      *gatewaytest.Pebble    // nil: none was started
	pending map[string]chan answer // requests in the background, by name
}

type scriptKey struct{}

func scriptOf(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// setup gives a script its addresses and folders. The binary gets a name in the work folder, so that PATH leads to it.
func setup(env *testscript.Env, binary string) error {
	bin := filepath.Join(env.WorkDir, ".bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), open(env.WorkDir)); err != nil {
		return err
	}
	linked := filepath.Join(bin, "gateway")
	if err := os.Link(binary, linked); err != nil {
		return err
	}
	for _, name := range []string{"ADDR", "ADDR2", "METRICS"} {
		address, err := gatewaytest.FreeAddress()
		if err != nil {
			return err
		}
		env.Setenv(name, address)
	}
	env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
	env.Setenv("RUNTIME", filepath.Join(env.WorkDir, "run"))
	env.Setenv("STATE", filepath.Join(env.WorkDir, "state"))
	env.Setenv("SOCKET", filepath.Join(env.WorkDir, "run", "admin.sock"))
	s := &script{binary: linked, pending: map[string]chan answer{}}
	env.Values[scriptKey{}] = s
	env.Defer(func() {
		if t, ok := env.T().(testing.TB); ok {
			stopCA(s, t)
		}
		if s.gateway == nil {
			return
		}
		err := errors.Join(s.gateway.Kill(), s.gateway.Sane())
		if t, ok := env.T().(testing.TB); ok && err != nil {
			t.Error(err)
		}
	})
	return nil
}

// open lets the users of children write where the scripts' programs do.
func open(folder string) error {
	return filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o777)
	})
}

// condition knows [root], [user:NAME], [php-fpm], whose program's name has its version, and [mounts]: whether a script may have mounts of
// its own. Other programs are testscript's own [exec:NAME].
func condition(c string) (bool, error) {
	name, isUser := strings.CutPrefix(c, "user:")
	switch {
	case c == "root":
		return os.Geteuid() == 0, nil
	case c == "php-fpm":
		_, err := routes.LookPath(c)
		return err == nil, nil
	case c == "mounts":
		return exec.Command("unshare", "--mount", "true").Run() == nil, nil
	case isUser:
		_, err := user.Lookup(name)
		return err == nil, nil
	}
	return false, fmt.Errorf("unknown condition %q", c)
}

func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"gateway-start": positive(start),
		"gateway-stop":  positive(stop),
		"gateway-wait":  ended,
		"acme":          positive(acme),
		"log":           log,
		"metrics":       positive(metrics),
		"http":          positive(request),
		"http-wait":     positive(requestWait),
		"raw":           positive(raw),
		"pid":           positive(pid),
		"signal":        positive(sendSignal),
		"gone":          gone,
		"waitfor":       positive(waitfor),
		"descendants":   positive(descendants),
		"json-fields":   positive(jsonFields),
	}
}

// positive is a command that means nothing with "!".
func positive(run func(*testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("! means nothing here")
		}
		run(ts, args)
	}
}

func want(ts *testscript.TestScript, args []string, least int, usage string) {
	if len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

func start(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, "gateway-start FILE")
	s := scriptOf(ts)
	if s.gateway != nil {
		// A second one beside or after the first; what is left of that one must not outlive the script.
		ts.Check(s.gateway.Kill())
	}
	g, err := gatewaytest.Start(gatewaytest.Command{
		Binary: s.binary,
		Config: ts.MkAbs(args[0]),
		Socket: ts.Getenv("SOCKET"),
		Dir:    ts.MkAbs("."),
		Env:    environment(ts, "ACME", "ACME_ROOTS", "ACME_SET_TXT", "ACME_CLEAR_TXT", "ADDR", "ADDR2", "METRICS", "PATH", "RUNTIME", "STATE", "WORK"),
		Log:    ts.MkAbs("gateway.log"),
	})
	ts.Check(err)
	s.gateway = g
}

// environment is what configurations read by env, and no more.
func environment(ts *testscript.TestScript, names ...string) []string {
	var env []string
	for _, n := range names {
		env = append(env, n+"="+ts.Getenv(n))
	}
	return env
}

// running is the script's gateway.
func running(ts *testscript.TestScript) *gatewaytest.Gateway {
	g := scriptOf(ts).gateway
	if g == nil {
		ts.Fatalf("no gateway was started")
	}
	return g
}

func stop(ts *testscript.TestScript, _ []string) {
	ts.Check(running(ts).Stop())
}

// ended waits for the end of the supervisor, which someone else has brought about.
func ended(ts *testscript.TestScript, neg bool, _ []string) {
	err := running(ts).Wait()
	if neg != (err != nil) {
		ts.Fatalf("the supervisor's end: %v", err)
	}
}

// log looks for a line in what the gateway has printed, and waits for it, or sees that there is none now.
func log(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, args, 1, "log REGEXP")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	g := running(ts)
	if neg {
		if found := pattern.FindString(g.Log()); found != "" {
			ts.Fatalf("the log has %q", found)
		}
		return
	}
	err = gatewaytest.Wait(func() (bool, error) { return pattern.MatchString(g.Log()), nil })
	if err != nil {
		ts.Fatalf("no %q in the log: %v\n%s", args[0], err, g.Log())
	}
}

// metrics waits for lines of what $METRICS tells: a request is counted when it is over, which its client may see first.
func metrics(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, "metrics REGEXP...")
	for _, text := range args {
		pattern, err := regexp.Compile("(?m)" + text)
		ts.Check(err)
		var last answer
		err = gatewaytest.Wait(func() (bool, error) {
			last = send(http.MethodGet, "http://"+ts.Getenv("METRICS")+"/metrics", "", nil)
			return pattern.MatchString(last.text), nil
		})
		if err != nil {
			ts.Fatalf("no %q in the metrics: %v\n%s%v", text, err, last.text, last.err)
		}
	}
}

// answer is what became of a request.
type answer struct {
	text string // status, header and body, as http prints them
	err  error
}

// request is `http [-n N] [-bg NAME] [-H FIELD] [-d BODY] [-k] METHOD URL`.
func request(ts *testscript.TestScript, args []string) {
	flags := flag.NewFlagSet("http", flag.ContinueOnError)
	times := flags.Int("n", 1, "so many times, each on a connection of its own")
	background := flags.String("bg", "", "go on, and let http-wait have the answer by this name")
	body := flags.String("d", "", "the request's body")
	var fields []string
	flags.Func("H", "a header field", func(f string) error { fields = append(fields, f); return nil })
	ts.Check(flags.Parse(args))
	want(ts, flags.Args(), 2, "http [flags] METHOD URL")
	send := func() answer { return send(flags.Arg(0), flags.Arg(1), *body, fields) }
	if *background != "" {
		done := make(chan answer, *times)
		scriptOf(ts).pending[*background] = done
		for range *times {
			go func() { done <- send() }() // ends with the request, which has a time limit
		}
		return
	}
	for range *times {
		show(ts, send())
	}
}

// requestWait prints what a request in the background has got. With -n so many answers, sorted.
func requestWait(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, "http-wait NAME")
	done, ok := scriptOf(ts).pending[args[0]]
	if !ok {
		ts.Fatalf("no request %q", args[0])
	}
	for range cap(done) {
		show(ts, <-done)
	}
}

// show prints a failure as an answer, too: whether it is one is for the script to say.
func show(ts *testscript.TestScript, a answer) {
	if a.err != nil {
		fmt.Fprintf(ts.Stdout(), "error: %v\n", a.err)
		return
	}
	fmt.Fprint(ts.Stdout(), a.text)
}

func send(method, url, body string, fields []string) answer {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	r.Close = true
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		r.Header.Add(name, strings.TrimSpace(value))
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	resp, err := client().Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	return print(resp)
}

// client neither follows a redirect nor doubts a certificate; the tls script has curl for that.
func client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
			DisableCompression: true,
		},
		Timeout:       gatewaytest.Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func print(resp *http.Response) answer {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s\n", resp.Proto, resp.Status)
	names := make([]string, 0, len(resp.Header))
	for name := range resp.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range resp.Header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	b.WriteString("\n")
	_, err := io.Copy(&b, resp.Body)
	b.WriteString("\n")
	return answer{b.String(), err}
}

// raw sends a file's bytes, each line with CRLF, and prints all that comes until the server closes.
func raw(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, "raw ADDRESS FILE")
	conn, err := net.DialTimeout("tcp", args[0], gatewaytest.Patience)
	ts.Check(err)
	defer conn.Close()
	_, err = io.WriteString(conn, strings.ReplaceAll(ts.ReadFile(args[1]), "\n", "\r\n"))
	ts.Check(err)
	_, err = io.Copy(ts.Stdout(), conn)
	ts.Check(err)
}

// pid puts a process id into an environment variable. Of a pool it is the first child that is ready, or the first in the
// given state, or the one that has a request for the given path.
func pid(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, "pid VAR supervisor | front | POOL [STATE | PATH]")
	g := running(ts)
	found := 0
	switch args[1] {
	case "supervisor":
		found = g.PID()
	case "front":
		status, err := g.Status()
		ts.Check(err)
		found = status.FrontPID
	default:
		found = childPID(ts, g, args[1:])
	}
	ts.Setenv(args[0], strconv.Itoa(found))
}

func childPID(ts *testscript.TestScript, g *gatewaytest.Gateway, args []string) int {
	fits := func(c gatewaytest.Child) bool { return c.State != "starting" }
	if len(args) > 1 {
		fits = func(c gatewaytest.Child) bool { return c.State == args[1] || c.Request.URI == args[1] }
	}
	found := 0
	err := gatewaytest.Wait(func() (bool, error) {
		p, err := poolOf(g, args[0])
		if i := slices.IndexFunc(p.Children, fits); i >= 0 {
			found = p.Children[i].PID
		}
		return found != 0, err
	})
	if err != nil {
		ts.Fatalf("child of pool %s: %v", strings.Join(args, " "), err)
	}
	return found
}

func poolOf(g *gatewaytest.Gateway, name string) (gatewaytest.Pool, error) {
	status, err := g.Status()
	if err != nil {
		return gatewaytest.Pool{}, err
	}
	i := slices.IndexFunc(status.Pools, func(p gatewaytest.Pool) bool { return p.Name == name })
	if i < 0 {
		return gatewaytest.Pool{}, fmt.Errorf("no pool %q", name)
	}
	return status.Pools[i], nil
}

// signals are those that scripts send.
func signals() map[string]syscall.Signal {
	return map[string]syscall.Signal{"INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1}
}

func sendSignal(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, "signal NAME PIDS")
	s, ok := signals()[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %q", args[0])
	}
	for _, n := range pids(ts, args[1:]) {
		ts.Check(syscall.Kill(n, s))
	}
}

// pids reads process ids, several in one argument too, as descendants puts them there. Those below 2 would mean more than
// one process to kill(2).
func pids(ts *testscript.TestScript, args []string) []int {
	var list []int
	for _, text := range strings.Fields(strings.Join(args, " ")) {
		n, err := strconv.Atoi(text)
		ts.Check(err)
		if n < 2 {
			ts.Fatalf("not a process: %d", n)
		}
		list = append(list, n)
	}
	return list
}

// gone waits until no process of these pids lives; "! gone" sees that all of them live now.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, args, 1, "gone PIDS")
	for _, n := range pids(ts, args) {
		if neg {
			if _, alive := gatewaytest.Find(n); !alive {
				ts.Fatalf("process %d is gone", n)
			}
			continue
		}
		err := gatewaytest.Wait(func() (bool, error) {
			_, alive := gatewaytest.Find(n)
			return !alive, nil
		})
		if err != nil {
			p, _ := gatewaytest.Find(n)
			ts.Fatalf("process %v: %v", p, err)
		}
	}
}

// waitfor waits for a state that nobody announces.
func waitfor(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, "waitfor POOL state STATE | POOL COUNTER N | front-after PID | listening ADDRESS | refused ADDRESS | file PATH | no-zombies")
	if err := gatewaytest.Wait(state(ts, args[0], append(args[1:], "", ""))); err != nil {
		if g := scriptOf(ts).gateway; g != nil {
			ts.Logf("the gateway said:\n%s", g.Log())
		}
		ts.Fatalf("waitfor %s: %v", strings.Join(args, " "), err)
	}
}

func state(ts *testscript.TestScript, what string, args []string) func() (bool, error) {
	switch what {
	case "listening", "refused":
		return func() (bool, error) {
			conn, err := net.Dial("tcp", args[0])
			if err == nil {
				conn.Close()
			}
			return (err == nil) == (what == "listening"), nil
		}
	case "file":
		path := ts.MkAbs(args[0])
		return func() (bool, error) {
			_, err := os.Stat(path)
			return err == nil, nil
		}
	}
	g := running(ts)
	switch what {
	case "front-after":
		return func() (bool, error) {
			status, err := g.Status()
			return err == nil && status.FrontPID != 0 && strconv.Itoa(status.FrontPID) != args[0], nil
		}
	case "no-zombies":
		return func() (bool, error) {
			left, err := gatewaytest.Zombies(g.PID())
			return len(left) == 0, err
		}
	}
	return func() (bool, error) {
		p, err := poolOf(g, what)
		if err != nil {
			return false, err
		}
		is, err := figure(p, args[0])
		return is == args[1], err
	}
}

// figure is one entry of a pool's status.
func figure(p gatewaytest.Pool, name string) (string, error) {
	if name == "state" {
		return p.State, nil
	}
	counters := map[string]int{
		"total": p.Processes.Total, "idle": p.Processes.Idle, "busy": p.Processes.Busy,
		"waiting": p.Queue.Waiting, "abandoned": p.Queue.Abandoned,
	}
	n, ok := counters[name]
	if !ok {
		n, ok = p.Exits[name]
	}
	if !ok {
		return "", fmt.Errorf("a pool's status has no %q", name)
	}
	return strconv.Itoa(n), nil
}

// descendants puts the pids of all processes below the supervisor into an environment variable, with blanks between.
func descendants(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, "descendants VAR")
	below, err := gatewaytest.Descendants(running(ts).PID())
	ts.Check(err)
	if len(below) == 0 {
		ts.Fatalf("no process below the supervisor")
	}
	var pids []string
	for _, p := range below {
		pids = append(pids, strconv.Itoa(p.PID))
	}
	ts.Setenv(args[0], strings.Join(pids, " "))
}

// jsonFields prints the names of all fields of a JSON file, sorted, each with the names that lead to it.
func jsonFields(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, "json-fields FILE")
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &value))
	names := map[string]bool{}
	collect(value, "", names)
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted)
	fmt.Fprintln(ts.Stdout(), strings.Join(sorted, "\n"))
}

func collect(value any, path string, names map[string]bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			names[path+name] = true
			collect(inner, path+name+".", names)
		}
	case []any:
		for _, inner := range v {
			collect(inner, path, names)
		}
	}
}
