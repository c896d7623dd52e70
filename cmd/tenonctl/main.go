// SPDX-License-Identifier: Apache-2.0

// Command tenonctl asks tenond for things and shows what it answers. It knows the
// API and nothing else of tenon.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenon-storage/tenon/cmd/tenonctl/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the waiting in good order; a second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Run(ctx, cli.FromOS(), os.Args[1:]))
}
