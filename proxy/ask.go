package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gateway/mpm/event"
	"gateway/proxy/http1"
	"gateway/routes"
)

const (
	// maxEarly and maxEarlyBytes bound the informational responses to one request, and the fields of all of them together.
	maxEarly      = 16
	maxEarlyBytes = 64 << 10
)

// notQuiet is what the log says of a server that speaks unasked.
const notQuiet = "server has hung up or says more than its answer: its connection is closed"

var (
	errEarly  = errors.New("too many informational responses")
	errTarget = errors.New("a query that try_files or a script has made can't be sent to a server")
)

// ask has an HTTP server answer the request. connect returns a connection to it.
//
// A connection that was kept may end just when the request comes, so it is perhaps asked again.
func (c *call) ask(h *hold, connect func() (*serverConn, error)) (*serverAnswer, error) {
	for sent := false; ; {
		k, err := connect()
		if err != nil {
			if sent {
				err = fmt.Errorf("%w: %w", errNoAnswer, unmarked(err))
			}
			return nil, err
		}
		h.hook(k)
		a, err := k.ask(c, &earlyAnswers{w: c.w})
		if err == nil {
			return a, nil
		}
		if errors.Is(err, errTarget) {
			return nil, err
		}
		if errors.Is(err, event.ErrNotQuiet) {
			c.log.Debugw(notQuiet, "uri", c.x.uri)
		}
		if h.Err() != nil || !c.mayAskAgain(k, err, sent) || !h.drop() {
			return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
		}
		sent = sent || k.sent
	}
}

// mayAskAgain reports whether a request that failed with err can go over another connection: of course if nothing was written.
// If all that came was the end, a server may have ended an idle connection, or because of what it was asked: once, and only if a
// method has no effects (RFC 9112 §9.3.1). A child's unix socket tells: it is reset if something was left unread. The end of a
// child that has read it all is for retry, see [call.mayRepeat].
func (c *call) mayAskAgain(k *serverConn, err error, sentBefore bool) bool {
	switch {
	case !k.carried || k.received || !c.body.again():
		return false
	case !k.sent:
		return true
	case sentBefore:
		return false
	case c.x.route.Proxy == nil:
		return errors.Is(err, unix.ECONNRESET) && c.body.length == 0
	}
	return isSafe(c.r.Method)
}

// isSafe: RFC 9110 §9.2.1.
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// unmarked is an error that is not taken for errUnreachable: the application had read the request before it took no more.
func unmarked(err error) error {
	switch {
	case !errors.Is(err, errUnreachable):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s", errTooSlow, err.Error())
	}
	return errors.New(err.Error())
}

// appendRequest appends the head of the request as a server of HTTP/1.1 gets it.
func (c *call) appendRequest(b []byte) ([]byte, error) {
	target, err := c.serverTarget()
	if err != nil {
		return b, err
	}
	b = append(append(append(b, c.r.Method...), ' '), target...)
	b = http1.AppendField(append(b, " HTTP/1.1\r\n"...), "Host", c.host())
	c.tell(func(name, value string) { b = http1.AppendField(b, name, value) })
	b = c.appendConnection(b)
	if m := c.r.Method; c.body.length > 0 || m == http.MethodPost || m == http.MethodPut || m == http.MethodPatch {
		b = http1.AppendContentLength(b, c.body.length) // if it is known
	}
	return append(b, "\r\n"...), nil
}

// tell calls put with each field that a server gets, of whichever HTTP: the client's without what concerns its connection, and with what
// the server can't know itself. put takes those alone that [http1.ValidField] finds right.
func (c *call) tell(put func(name, value string)) {
	for name, values := range c.r.Header {
		if c.endsHere(name) {
			continue
		}
		for _, value := range values {
			put(name, value)
		}
	}
	c.tellForwarded(put)
}

// host is what the server is asked for: what the client has asked for, unless its route says otherwise.
func (c *call) host() string {
	if c.server != nil && c.server.Host != "" {
		return c.server.Host
	}
	return c.clientHost()
}

// clientHost is the host that the client asked for, with its port, or else the site's name.
func (c *call) clientHost() string { return cmp.Or(c.r.Host, hostOf(c.r, c.x)) }

// below is the path that goes before that of the request.
func (c *call) below() string {
	if c.server != nil {
		return c.server.base
	}
	return ""
}

// asksBase reports whether each server of a route has a path of its own, as which the route's folder is asked for: one that is a folder
// there redirects to itself.
func asksBase(r *routes.Route) bool {
	return r.Proxy != nil && !slices.ContainsFunc(r.Proxy.To, func(u routes.Upstream) bool { return u.Base == "" })
}

// target is what is asked for, below a path: the clean path, in the client's spelling if that is the same.
func (c *call) target(below string) string {
	path := c.x.route.BelowEscaped((&url.URL{Path: c.x.path, RawPath: c.x.asked}).EscapedPath())
	if below != "" && c.x.route.IsFolder(c.x.path) {
		path = ""
	}
	if c.r.URL.RawQuery == "" && !c.r.URL.ForceQuery {
		return below + path
	}
	return below + path + "?" + c.r.URL.RawQuery
}

// serverTarget is what the server is asked for.
func (c *call) serverTarget() (string, error) {
	target := c.target(c.below())
	if !http1.ValidTarget(target) {
		return "", fmt.Errorf("%w: %q", errTarget, target)
	}
	return target, nil
}

// endsHere reports whether a field of the client is not for a server: it concerns the connection (RFC 9110 §7.6.1), the server could
// take it for another one, or the gateway knows better.
func (c *call) endsHere(name string) bool {
	return alwaysEndsHere(name) || name == "X-Forwarded-Prefix" && c.x.route.Cut() != "" || listNames(c.r.Header["Connection"], name)
}

// alwaysEndsHere reports whether a field is for no server, whatever else the client says and wherever its request goes.
func alwaysEndsHere(name string) bool {
	if slices.Contains(hopByHop[:], name) {
		return true
	}
	switch name {
	case "Content-Length":
		return true
	case "Expect": // the body is spooled, or asked for when it is read
		return true
	case "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For", "Forwarded":
		return true
	}
	return isTreacherous(name)
}

// listNames reports whether a list that spans several fields has a name as an element.
func listNames(values []string, name string) bool {
	for _, value := range values {
		if http1.HasToken([]byte(value), name) {
			return true
		}
	}
	return false
}

// appendConnection appends what the gateway proposes to the server for their connection.
func (c *call) appendConnection(b []byte) []byte {
	if protocol := c.proposed(); protocol != "" {
		b = http1.AppendField(b, "Connection", "Upgrade")
		b = http1.AppendField(b, "Upgrade", protocol)
	}
	if c.takesTrailer() {
		b = append(b, "Connection: TE\r\nTe: trailers\r\n"...)
	}
	return b
}

// takesTrailer reports whether the client wants to have the trailer of the response.
func (c *call) takesTrailer() bool {
	return listNames(c.r.Header["Te"], "trailers") && c.r.ProtoAtLeast(1, 1)
}

// earlyAnswers passes informational responses on (RFC 9110 §15.2).
type earlyAnswers struct {
	w     http.ResponseWriter
	count int
	bytes int
}

func (e *earlyAnswers) pass(status int, fields http.Header) error {
	e.count++
	e.bytes += fieldBytes(fields)
	if e.count > maxEarly || e.bytes > maxEarlyBytes {
		return errEarly
	}
	stripHopByHop(fields)
	header := e.w.Header()
	final := maps.Clone(header) // what the gateway itself has put there
	clear(header)
	maps.Copy(header, fields)
	e.w.WriteHeader(status)
	clear(header)
	maps.Copy(header, final)
	return nil
}

// fieldBytes is how many bytes names and values have.
func fieldBytes(header http.Header) (n int) {
	for name, values := range header {
		for _, value := range values {
			n += len(name) + len(value)
		}
	}
	return n
}

// announced is the trailer that the head of a response announces, without values yet.
func announced(header http.Header) http.Header {
	trailer := http.Header{}
	for _, value := range header["Trailer"] {
		for name := range strings.SplitSeq(value, ",") {
			trailer[http.CanonicalHeaderKey(trimSpace(name))] = nil
		}
	}
	return trailer
}
