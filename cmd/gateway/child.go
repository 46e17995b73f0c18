package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"gateway/proxy"
)

// childRole is the hidden command of a child that runs the gateway's own handlers.
const childRole = "child"

// childMain serves the front on the private listening socket that is descriptor 0. Its standard error is read by the front. The
// arguments are its duties.
func childMain(args []string) int {
	duties, err := parseDuties(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "this role is started by the supervisor only: %v\n", err)
		return exitUsage
	}
	l, err := net.FileListener(os.Stdin)
	if err != nil {
		fmt.Fprintf(os.Stderr, "descriptor 0 is not a listening socket: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := proxy.ServeChild(ctx, l, duties, func(line string) { fmt.Fprintln(os.Stderr, line) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return exitOK
}

// dutyFlags names the lists of duties on a child's command line. The number of threads stands before them.
func dutyFlags(d *proxy.Duties) []dutyFlag {
	return []dutyFlag{{"-open", &d.Open}, {"-look", &d.Look}, {"-links", &d.Links}, {"-run", &d.Run}, {"-dial", &d.Dial}}
}

type dutyFlag struct {
	name string
	list *[]string
}

func dutyArgs(d proxy.Duties) []string {
	args := []string{strconv.Itoa(d.Threads)}
	for _, f := range dutyFlags(&d) {
		for _, value := range *f.list {
			args = append(args, f.name, value)
		}
	}
	return args
}

func parseDuties(args []string) (d proxy.Duties, err error) {
	if len(args)%2 == 0 {
		return d, fmt.Errorf("%d arguments", len(args))
	}
	if d.Threads, err = strconv.Atoi(args[0]); err != nil {
		return d, err
	}
	flags := dutyFlags(&d)
	for pair := range slices.Chunk(args[1:], 2) {
		i := slices.IndexFunc(flags, func(f dutyFlag) bool { return f.name == pair[0] })
		if i < 0 {
			return d, fmt.Errorf("unknown argument %q", pair[0])
		}
		*flags[i].list = append(*flags[i].list, pair[1])
	}
	return d, nil
}
