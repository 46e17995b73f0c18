package tls

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"gateway/routes"
)

const (
	// onDemandWait is how long a handshake waits for its certificate: less than clients and the front allow for a handshake.
	// The certificate is got all the same, and the client's next handshake has it.
	onDemandWait = 7 * time.Second
	// maxPending is for how many names certificates are got at once, and asked; the others have to come again.
	maxPending  = 64
	maxWaiters  = 256 // handshakes that wait for these certificates, about 30 KB each; the others have to come again, too
	askTimeout  = 5 * time.Second
	issueLimit  = 3 * time.Minute
	refusalTime = time.Minute      // until a name is asked for again that was not allowed
	failureTime = 5 * time.Minute  // until a name is tried again whose certificate could not be got
	silenceTime = 10 * time.Second // until one is asked for again when ask did not answer; doubles each time, up to failureTime
	maxRefused  = 10000            // names remembered for that
)

var (
	errNotAllowed = errors.New("the name is not allowed")
	errNoAnswer   = errors.New("ask does not answer")
	errTooMany    = errors.New("too many new certificates at the moment")
)

// onDemand gets certificates for names that come up in handshakes. Safe for concurrent use.
type onDemand struct {
	// Immutable.
	routes.OnDemand
	policy *policy
	client *http.Client

	mu      sync.Mutex
	pending map[string]chan struct{} // by name; closed when its certificate is there, or won't be
	waiters int                      // handshakes
	refused map[string]refusal
	granted []time.Time // of the latest certificates, at most Limit
	warned  time.Time   // that Limit is reached
}

// refusal is why a name gets no certificate, and until when.
type refusal struct {
	until time.Time
	pause time.Duration // up to then
	err   error
}

func newOnDemand(p *policy, settings *routes.OnDemand) *onDemand {
	return &onDemand{
		OnDemand: *settings, policy: p, client: &http.Client{Timeout: askTimeout, CheckRedirect: noRedirect},
		pending: make(map[string]chan struct{}), refused: make(map[string]refusal),
	}
}

// noRedirect has the first answer count: the page that an application shows to strangers, where it sends them, is no yes.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// certificate waits for the certificate of a name, but not for long.
func (o *onDemand) certificate(hello *stdtls.ClientHelloInfo, name string) (*stdtls.Certificate, error) {
	done, err := o.begin(name, time.Now())
	if err == nil {
		err = o.wait(hello.Context(), hello.Conn, done)
	}
	if err != nil {
		return nil, fmt.Errorf("no certificate for %q: %w", name, err)
	}
	if cert := o.policy.find(hello, name); cert != nil {
		return cert, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r, ok := o.refused[name]; ok {
		return nil, fmt.Errorf("no certificate for %q: %w", name, r.err)
	}
	return nil, fmt.Errorf("the certificate for %q takes longer than %v", name, onDemandWait)
}

// wait waits for the end of begin's work, unless too many do already.
func (o *onDemand) wait(ctx context.Context, c net.Conn, done chan struct{}) error {
	if !o.enter() {
		return errTooMany
	}
	defer o.leave()
	idle(c, func() {
		select {
		case <-done:
		case <-time.After(onDemandWait):
		case <-ctx.Done():
		}
	})
	return nil
}

func (o *onDemand) enter() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiters >= maxWaiters {
		return false
	}
	o.waiters++
	return true
}

func (o *onDemand) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiters--
}

// idle waits, by f, for something that the client has no part in. Where handshakes compute in a limited number, the connection
// gives its place to another one meanwhile.
func idle(c net.Conn, f func()) {
	if limited, ok := c.(interface{ Idle(func()) }); ok {
		limited.Idle(f)
		return
	}
	f()
}

// begin has the certificate of a name got, unless somebody does so already. done is closed at the end of that.
func (o *onDemand) begin(name string, now time.Time) (done chan struct{}, err error) {
	if !isHostName(name) || !covered(o.Names, name) {
		return nil, errNotAllowed
	}
	if err := o.policy.ctx.Err(); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r, ok := o.refused[name]; ok && now.Before(r.until) {
		return nil, r.err
	}
	if done, ok := o.pending[name]; ok {
		return done, nil
	}
	if len(o.pending) >= maxPending {
		return nil, errTooMany
	}
	done = make(chan struct{})
	o.pending[name] = done
	o.policy.working.Go(func() { // ends with issueLimit, or with the policy
		err := o.get(name)
		o.end(name, done, err, time.Now())
	})
	return done, nil
}

// end tells those who wait that there is a certificate, or why there is none.
func (o *onDemand) end(name string, done chan struct{}, err error, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.refuse(name, err, now)
	} else {
		delete(o.refused, name)
	}
	delete(o.pending, name)
	close(done)
}

// refuse remembers that a name gets no certificate for a while. The mutex is held.
func (o *onDemand) refuse(name string, err error, now time.Time) {
	pause := failureTime
	if errors.Is(err, errNoAnswer) {
		pause = min(max(silenceTime, 2*o.refused[name].pause), failureTime)
	}
	if errors.Is(err, errNotAllowed) || errors.Is(err, errTooMany) || o.policy.away() != nil {
		pause = refusalTime
	} else {
		o.policy.log("warn", "certificate on demand could not be got", "name", name, "again_in", pause, "error", err)
	}
	if len(o.refused) >= maxRefused {
		clear(o.refused) // somebody makes names up: remembering them helps nobody
	}
	o.refused[name] = refusal{now.Add(pause), pause, err}
}

// get asks whether the name may have a certificate, and takes the stored one or gets one.
func (o *onDemand) get(name string) error {
	ctx, cancel := context.WithTimeout(o.policy.ctx, issueLimit)
	defer cancel()
	if err := o.allowed(ctx, name); err != nil {
		return err
	}
	m := &managed{name: name, policy: o.policy, working: true, giveUp: cancel}
	if !o.policy.manage(m) {
		return errors.New("another site has the name")
	}
	o.policy.loadStored(m)
	if o.policy.certificateOf(m) != nil {
		return nil
	}
	err := errTooMany
	if o.grant(time.Now()) {
		err = o.policy.obtain(ctx, m)
	}
	if err != nil {
		o.policy.forget(name)
	}
	return err
}

// grant reports whether a certificate may be got now, and counts it.
func (o *onDemand) grant(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.granted = slices.DeleteFunc(o.granted, func(t time.Time) bool { return now.Sub(t) >= o.Interval })
	if len(o.granted) >= o.Limit {
		if now.Sub(o.warned) >= o.Interval {
			o.warned = now
			o.policy.log("warn", "more certificates are demanded than the limit allows: raise it in on_demand if these names are right", "limit", o.Limit, "interval", o.Interval)
		}
		return false
	}
	o.granted = append(o.granted, now)
	return true
}

// allowed asks the URL, where there is one. The patterns were asked before.
func (o *onDemand) allowed(ctx context.Context, name string) error {
	if o.Ask == "" {
		return nil
	}
	u, err := url.Parse(o.Ask)
	if err != nil {
		return err
	}
	query := u.Query()
	query.Set("domain", name)
	u.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	answer, err := o.client.Do(request)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 4<<10)) // so that the connection can be used again
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: ask answers %d", errNotAllowed, answer.StatusCode)
	}
	return nil
}

// mayRenew asks again before a certificate is renewed. One that is not allowed any more is served no longer.
func (o *onDemand) mayRenew(ctx context.Context, m *managed) error {
	err := o.allowed(ctx, m.name)
	if errors.Is(err, errNotAllowed) {
		o.policy.log("info", "certificate on demand is given up: its name is not allowed any more", "name", m.name)
		o.policy.forget(m.name)
	}
	return err
}

// forget has a name's certificate neither served nor renewed. What is stored stays.
func (a *automatic) forget(name string) {
	a.mu.Lock()
	var spare string
	if m := a.managed[name]; m != nil {
		spare = m.spare
	}
	delete(a.managed, name)
	a.mu.Unlock()
	a.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: name}})
	a.cache.Remove([]string{spare}) // nothing, if there is none
}

// isHostName reports whether a name that a client sent, in lower case, is one that could be in the DNS: it becomes part of a
// file's name and of a question to others.
func isHostName(name string) bool {
	if len(name) > 253 || certmagic.SubjectIsIP(name) {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// covered reports whether one of the patterns is the name, or has a star for its first labels. No patterns cover everything.
func covered(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		suffix, star := strings.CutPrefix(pattern, "*")
		return !star && name == pattern || star && len(name) > len(suffix) && strings.HasSuffix(name, suffix)
	})
}
