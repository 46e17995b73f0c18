package mpm

import (
	"errors"
	"fmt"
	"syscall"

	"gateway/internal/ctl"
)

// Why Acquire failed, and why a request lost its slot.
var (
	ErrQueueFull    = errors.New("queue is full")
	ErrQueueTimeout = errors.New("waited too long for a slot")
	ErrDraining     = errors.New("pool is being retired")
	ErrDeadline     = errors.New("request_timeout has passed") // what [Slot.OnEnd] tells
)

// ExitReason is why a child ended. Every end has exactly one.
type ExitReason string

// The reasons.
const (
	ExitMaxRequests ExitReason = "max_requests" // served max_requests_per_child
	ExitIdle        ExitReason = "idle"         // more were idle than the pool keeps spare
	ExitMemory      ExitReason = "memory"       // grew above its limit
	ExitAge         ExitReason = "age"          // lived longer than its limit
	ExitDeadline    ExitReason = "deadline"     // its request ran longer than request_timeout
	ExitOOM         ExitReason = "oom"          // the kernel killed it for want of memory
	ExitCrash       ExitReason = "crash"        // nobody asked for it, or it broke the protocol
	ExitShutdown    ExitReason = "shutdown"     // the pool ends
	ExitReload      ExitReason = "reload"       // the pool's definition has changed
)

// exitReasons is the list of all reasons; the status shows each of them.
var exitReasons = [...]ExitReason{
	ExitMaxRequests, ExitIdle, ExitMemory, ExitAge, ExitDeadline, ExitOOM, ExitCrash, ExitShutdown, ExitReload,
}

// ChildExit is what [Slot.OnEnd] tells when the child ended during the request.
type ChildExit struct {
	PID    int
	Status syscall.WaitStatus
	Reason ExitReason
}

func (e *ChildExit) Error() string {
	text := fmt.Sprintf("child %d: %s", e.PID, exitText(e.Status))
	if e.Reason == ExitCrash {
		return text
	}
	return fmt.Sprintf("%s, reason: %s", text, e.Reason) // with several threads perhaps the deadline of another request
}

// exitText says how a process ended: "exit status 255", "signal 9 (killed)", or how that can be known.
func exitText(status syscall.WaitStatus) string {
	switch {
	case status == ctl.Unseen:
		return "its parent has seen how, and written it to the log"
	case status == ctl.Orphaned:
		return "its parent has ended"
	case status.Signaled():
		return fmt.Sprintf("signal %d (%s)", int(status.Signal()), status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}
