package main

import (
	"fmt"
	"os"

	"gateway/mpm/supervise"
)

// wardenRole is the hidden command of the warden, which outlives a supervisor that was killed.
const wardenRole = "warden"

// wardenMain waits on the pipe that is descriptor 0 for the supervisor's end. What it says then is the only trace of that in the log.
func wardenMain() int {
	killed, err := supervise.Watch(0)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gateway warden: it is started by `gateway run`: %v\n", err)
		return exitFailed
	}
	fmt.Fprintf(os.Stderr, "gateway: the supervisor is gone: killed what it left, processes: %d\n", killed)
	return exitOK
}
