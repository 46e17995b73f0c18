package http1

import "strconv"

// Error says why bytes were refused. After it nothing more can be read from the connection: where the next message would
// begin is not known.
type Error struct {
	Status int    // of the answer to send before closing; 0: close without an answer
	Reason string // constant text, safe to log and to show
}

func (e *Error) Error() string {
	if e.Status == 0 {
		return "connection refused: " + e.Reason
	}
	return "request refused with " + strconv.Itoa(e.Status) + ": " + e.Reason
}

func refuse(status int, reason string) error { return &Error{Status: status, Reason: reason} }

func bad(reason string) error { return refuse(400, reason) }
