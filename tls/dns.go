package tls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"gateway/routes"
)

// provider makes an empty DNS provider, which is then given its settings as JSON.
type provider func() certmagic.DNSProvider

// CheckDNS reports why DNS settings can't work in this build.
func CheckDNS(d *routes.DNS) error {
	_, err := newDNSSolver(d, nil, zap.NewNop())
	return err
}

func newDNSSolver(d *routes.DNS, log Log, logger *zap.Logger) (acmez.Solver, error) {
	if d.Provider == "" {
		return &dnsCommand{DNS: *d, log: log}, nil
	}
	p, err := newProvider(providers(), d.Provider, d.Settings)
	if err != nil {
		return nil, err
	}
	return &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
		DNSProvider: p, PropagationDelay: d.Delay, Resolvers: d.Resolvers, Logger: logger,
	}}, nil
}

// newProvider makes a provider of the build and gives it its settings, whose names are those of its JSON form.
func newProvider(built map[string]provider, name string, settings map[string]string) (certmagic.DNSProvider, error) {
	begin, ok := built[name]
	if !ok {
		have := "none was built in"
		if len(built) > 0 {
			have = "built in: " + strings.Join(slices.Sorted(maps.Keys(built)), ", ")
		}
		return nil, fmt.Errorf("DNS provider %q is not in this build (%s): build with it, or use a command", name, have)
	}
	encoded, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	p := begin()
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(p); err != nil {
		return nil, fmt.Errorf("DNS provider %q: settings: %w", name, err)
	}
	return p, nil
}

// dnsCommand has a program make and remove TXT records. It implements [acmez.Solver] and [acmez.Waiter].
type dnsCommand struct {
	routes.DNS
	log Log
}

// Present implements [acmez.Solver].
func (d *dnsCommand) Present(ctx context.Context, c acme.Challenge) error {
	return d.run(ctx, "present", c)
}

// Wait implements [acmez.Waiter].
func (d *dnsCommand) Wait(ctx context.Context, _ acme.Challenge) error {
	select {
	case <-time.After(d.Delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CleanUp implements [acmez.Solver].
func (d *dnsCommand) CleanUp(ctx context.Context, c acme.Challenge) error {
	return d.run(ctx, "cleanup", c)
}

const (
	maxSaid   = 4 << 10         // bytes of what a command says
	killDelay = 2 * time.Second // for what it has started, and that keeps its output open
)

// run calls the command. It is ended, with all that it has started, when its time or ctx is over.
func (d *dnsCommand) run(ctx context.Context, what string, c acme.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	args := append(slices.Clone(d.Command[1:]), what, c.Identifier.Value, c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
	cmd := exec.CommandContext(ctx, d.Command[0], args...)
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Dir, cmd.Env = "/", d.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	err := cmd.Run()
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("DNS command: %s: did not end within %v%s", what, d.Timeout, said.quote())
	case err != nil:
		return fmt.Errorf("DNS command: %s: %w%s", what, err, said.quote())
	}
	d.log("info", "DNS command", "call", what, "name", c.DNS01TXTRecordName(), "said", said.String())
	return nil
}

// environment is what a child of a pool gets, and Env.
func (d *dnsCommand) environment() []string {
	var env []string
	for _, name := range []string{"PATH", "TZ", "LANG", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		env = append(env, name+"="+d.Env[name])
	}
	return env
}

// tail keeps the last bytes that are written to it: what a program says at its end is why it failed.
type tail struct{ bytes []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p...)
	if over := len(t.bytes) - maxSaid; over > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[over:]...)
	}
	return len(p), nil
}

// String is the text without the ends of its last line.
func (t *tail) String() string {
	return strings.ToValidUTF8(strings.TrimSpace(string(t.bytes)), "\uFFFD")
}

// quote is the text as the end of an error; empty if there is none.
func (t *tail) quote() string {
	if s := t.String(); s != "" {
		return fmt.Sprintf("; it said: %q", s)
	}
	return ""
}
