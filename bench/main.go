// Command bench measures the gateway: its parts one by one (micro), and the whole beside other servers (peers).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

const usage = `bench micro [-benchtime 200ms]
	runs the benchmarks of the packages and prints one table
bench peers [-gateway FILE] [-only NAME,...] [-rounds N] [-seconds N]
	serves the same files and programs by the gateway and by every peer that is installed, and prints one table
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "micro":
		return micro(ctx, args)
	case "peers":
		return peers(ctx, args)
	case loadVerb:
		return loadMain(ctx, args)
	}
	fmt.Fprint(os.Stderr, usage)
	return fmt.Errorf("no command %q", verb)
}
