// SPDX-License-Identifier: Apache-2.0

// Command tenond is the storage agent of a virtualization host.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/tenon-storage/tenon/agent"
	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/agent/rpc"
)

const (
	exitFailure = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("tenond", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", config.DefaultPath, "the configuration `file`")
	check := flags.Bool("check-config", false, "check the configuration and end")
	version := flags.Bool("version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "tenond: unexpected argument %q\n", flags.Arg(0))
		return exitUsage
	}
	if *version {
		fmt.Fprintln(stdout, "tenond", buildVersion())
		return 0
	}
	c, err := config.Load(*path, *path == config.DefaultPath)
	if err != nil {
		fmt.Fprintln(stderr, "tenond:", err)
		return exitUsage
	}
	if *check {
		fmt.Fprintln(stdout, "the configuration is in order")
		return 0
	}
	if err := serve(c, logger(c.Log, stderr)); err != nil {
		fmt.Fprintln(stderr, "tenond:", err)
		return exitFailure
	}
	return 0
}

// serve runs the agent until it is told to stop.
func serve(c config.Config, log *slog.Logger) (err error) {
	// An idle agent's heap is a few MiB; collecting it early keeps it so, and
	// costs nothing that a storage agent would feel.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	drivers, err := agent.Drivers()
	if err != nil {
		return err
	}
	adapter, err := agent.Adapter(c.Hypervisor, log)
	if err != nil {
		return err
	}
	a, err := agent.New(c, agent.Parts{Drivers: drivers, Adapter: adapter, Version: buildVersion(), Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	err = a.Serve(ctx, rpc.Socket{Path: c.Socket, Group: c.SocketGroup}, func() {
		log.Info("ready", "socket", c.Socket, "version", buildVersion())
		notify(log, daemon.SdNotifyReady)
	})
	notify(log, daemon.SdNotifyStopping)
	return err
}

// notify tells systemd, where it started this process (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "err", err)
	}
}

func logger(c config.Log, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// buildVersion is the module's version, as the build recorded it.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
