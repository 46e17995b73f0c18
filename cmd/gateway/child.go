package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"gateway/proxy"
)

// childRole is the hidden command of a child that runs the gateway's own handlers.
const childRole = "child"

// childMain serves scripts on the private listening socket that is descriptor 0. Its standard error is read by the front. The
// argument is how many it runs at once: the pool's threads_per_child.
func childMain(args []string) int {
	threads, err := strconv.Atoi(strings.Join(args, " "))
	if err != nil {
		fmt.Fprintf(os.Stderr, "this role is started by the supervisor only: number of threads: %v\n", err)
		return exitUsage
	}
	l, err := net.FileListener(os.Stdin)
	if err != nil {
		fmt.Fprintf(os.Stderr, "descriptor 0 is not a listening socket: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := proxy.ServeScripts(ctx, l, threads, func(line string) { fmt.Fprintln(os.Stderr, line) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return exitOK
}
