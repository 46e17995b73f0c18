package proxy

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"gateway/mpm"
	"gateway/routes"
)

// exchange is one request on its way to its answer, and the context of that. It ends when the client has gone, or has its answer.
// It belongs to the goroutine that serves the request.
type exchange struct {
	ending
	conn     *conn // nil: the request came another way
	began    time.Time
	local    netip.AddrPort // zero for a unix socket
	remote   netip.AddrPort // of the client; likewise. As a trusted proxy says, without a port then
	peer     netip.AddrPort // who has connected; likewise
	believed bool           // peer is a trusted proxy
	https    bool           // the client speaks TLS, with us or with a trusted proxy
	secure   bool           // TLS
	tls      tlsFacts       // of a secure one
	listener string         // where it came in, a routes.Listen's Key

	site *routes.Site
	routeState
	user    string            // who has given a password; empty: nobody
	notes   func(text string) // takes each step of who explains a request; nil: nobody does
	failed  int               // the status that an error page is made for; 0: none
	failure *http.Request     // its method, and the path and query that failed; nil: as failed
	slot    *mpm.Slot         // of a handler that runs in the front; nil: none
	deputy  *deputy           // nil: the step has needed none yet

	// Together they take the least room.
	endless            atomic.Bool // the response ends with its client, who therefore would not half-close
	varies             bool        // the answer may be another one for another client
	rewritten          bool        // no rewrite concerns the request any more
	hidesAuthorization bool        // from the application: the gateway has looked at it
	internal           bool        // it has come to another path than the client's, so internal routes are open to it
	welcome            bool        // whoever the client is: what is served is the page for an error
	restart            bool        // the last redirect came from a script

	handover *handover   // what the application wants to have sent in place of its response; nil: nothing
	kept     http.Header // of the response of an application that has left the answer to another route; nil: none has

	// For the access log and the error log.
	asked     string // the path, as the client sent it
	resolved  string // the target without its dot segments and double slashes; empty: it has none
	uri       string // as the client sent it
	came      string // the path that the client asked for, decoded and clean
	pool      string
	pid       int           // of the child that served it; 0: none
	queueWait time.Duration // in the pool's queue
}

// Value implements context.Context.
func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return nil
}

// routeState changes with every internal redirect.
type routeState struct {
	route    *routes.Route
	path     string // decoded and clean; where the route was matched
	script   string // path of the script, below the route's root
	pathInfo string // what follows the script
	files    opener // the route's root; nil when it has none
	scripts  opener // its folder of CGI scripts, likewise
}

// note tells who explains the request what has become of it.
func (x *exchange) note(format string, args ...any) {
	if x.notes != nil {
		x.notes(fmt.Sprintf(format, args...))
	}
}

// lookResult is what was found at a path, for a note.
func lookResult(mode fs.FileMode, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a folder"
	}
	return "no regular file"
}

// tlsFacts are what a program behind may want to know of the connection (mod_ssl's SSL_PROTOCOL and SSL_CIPHER), and what decides
// which sites it may ask.
type tlsFacts struct {
	protocol, cipher string
	client           map[string]string // see [Secure.Client]
	session          Secure
}

func factsOf(s Secure) tlsFacts {
	return tlsFacts{protocol: s.Version(), cipher: s.Cipher(), client: s.Client(), session: s}
}
