package tls

import (
	"errors"
	"maps"
	"slices"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap/zapcore"
)

// logCore passes what certmagic logs on, in the words of this program. It implements zapcore.Core.
type logCore struct {
	log    Log
	over   func() bool // the work is being ended, and what fails now fails for that
	fields []zapcore.Field
}

// translation is what becomes of a message of certmagic's.
type translation struct{ level, text string }

// translations holds the messages that a person should see, and those that look worse than they are. Every other information
// is for debugging; other warnings and errors are passed on as they are.
func translations(message string) (t translation, known bool) {
	switch message {
	case "could not get certificate from issuer":
		return translation{"warn", "a CA has issued no certificate"}, true
	case "will retry":
		return translation{"error", "certificate could not be got: it is tried again"}, true
	case "job failed":
		return translation{"error", "certificate could not be renewed: it is tried again, and what is there is served meanwhile"}, true
	case "ARI window or selected renewal time changed":
		return translation{"info", "the CA has changed when a certificate should be renewed"}, true
	case "tls-alpn challenge", "looking up info for HTTP challenge":
		return translation{"debug", "no such challenge"}, true // whoever knocks can bring that about
	case "challenge failed", "validating authorization", "HTTP request failed; retrying":
		return translation{"debug", message}, true // part of what follows
	case "stapling OCSP":
		return translation{"warn", "no OCSP answer to staple: the certificate is served without"}, true
	}
	return translation{}, false
}

// Enabled implements zapcore.Core.
func (c *logCore) Enabled(zapcore.Level) bool { return true }

// With implements zapcore.Core.
func (c *logCore) With(fields []zapcore.Field) zapcore.Core {
	return &logCore{c.log, c.over, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

// Check implements zapcore.Core.
func (c *logCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

// Write implements zapcore.Core.
func (c *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	t, known := translations(e.Message)
	if !known {
		t = translation{levelOf(e.Level), e.Message}
	}
	if c.over() {
		t.level = "debug"
	}
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(encoder)
		if err, ok := f.Interface.(error); ok && errors.Is(err, certmagic.ErrNoOCSPServerSpecified) {
			t.level = "debug" // most CAs have given up OCSP
		}
	}
	kv := make([]any, 0, 2*len(encoder.Fields))
	for _, name := range slices.Sorted(maps.Keys(encoder.Fields)) {
		kv = append(kv, name, encoder.Fields[name])
	}
	c.log(t.level, t.text, kv...)
	return nil
}

// levelOf makes certmagic's information, of which there is a lot for each certificate, debugging output.
func levelOf(l zapcore.Level) string {
	switch {
	case l >= zapcore.ErrorLevel:
		return "error"
	case l == zapcore.WarnLevel:
		return "warn"
	}
	return "debug"
}

// Sync implements zapcore.Core.
func (c *logCore) Sync() error { return nil }
