// SPDX-License-Identifier: Apache-2.0

// Command mortal is tenond, but for the moment at which it dies: before the write
// of its journal whose number stands in the file CONFIG.die-at it kills itself
// with SIGKILL. Without that file it lives as long as it is let.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/tenon-storage/tenon/agent"
	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/rpc"
)

func main() {
	path := flag.String("config", "", "the configuration `file`")
	flag.Parse()
	if err := serve(*path); err != nil {
		fmt.Fprintln(os.Stderr, "mortal:", err)
		os.Exit(1)
	}
}

// dieAt is the number of the write before which to die; 0: never.
func dieAt(path string) (int64, error) {
	text, err := os.ReadFile(path + ".die-at")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// serve is what tenond does.
func serve(path string) (err error) {
	last, err := dieAt(path)
	if err != nil {
		return err
	}
	c, err := config.Load(path, false)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	drivers, err := agent.Drivers()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.Log.Level}))
	adapter, err := agent.Adapter(c.Hypervisor, log)
	if err != nil {
		return err
	}
	var writes atomic.Int64
	a, err := agent.New(c, agent.Parts{Drivers: drivers, Adapter: adapter, Version: "mortal", Log: log, Journal: journal.Options{
		Before: func() error {
			if writes.Add(1) != last {
				return nil
			}
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {} // until the signal comes
		},
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	return a.Serve(ctx, rpc.Socket{Path: c.Socket, Group: c.SocketGroup}, func() {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			log.Warn("nobody was told", "err", err)
		}
	})
}
