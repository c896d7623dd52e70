// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

// Command bench measures tenon against its peers and its goals: one table and
// one JSON file for each benchmark. Peers run in turn with tenon, in the same
// run, and medians are compared, so that a machine's changing speed hits both.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tenon-storage/tenon/test/host"
)

// runs is how often each thing is measured; the median counts.
const runs = 9

// bench is what a benchmark gets: a private folder, and what must be undone.
type bench struct {
	dir  string // short, emptied afterwards
	bin  string // the folder with tenond and tenonctl
	undo []func(context.Context) error
}

var benchmarks = map[string]func(context.Context, *bench) ([]row, error){
	"idle":        benchIdle,
	"attach":      benchAttach,
	"stat":        benchStat,
	"list":        benchList,
	"maintenance": benchMaintenance,
}

func main() {
	bin := flag.String("bin", "build", "folder with tenond and tenonctl")
	out := flag.String("out", "build/bench", "folder for the JSON files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Arg(0), *bin, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name, bin, out string) (err error) {
	measure, known := benchmarks[name]
	if !known {
		var names []string
		for n := range benchmarks {
			names = append(names, n)
		}
		slices.Sort(names)
		return fmt.Errorf("no benchmark %q; there are: %s", name, strings.Join(names, ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tn-bench-")
	if err != nil {
		return err
	}
	b := &bench{dir: dir, bin: bin}
	defer func() { err = errors.Join(err, b.takeDown(context.WithoutCancel(ctx)), os.RemoveAll(dir)) }()
	rows, err := measure(ctx, b)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	if len(rows) > 0 {
		err = errors.Join(publish(os.Stdout, out, name, rows), err)
	}
	return err
}

func (b *bench) takeDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	for _, f := range slices.Backward(b.undo) {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// tenond starts a daemon with that libvirt; "" is none.
func (b *bench) tenond(ctx context.Context, libvirtURI string) (*host.Tenond, error) {
	t, err := host.NewTenond(b.dir, b.bin, libvirtURI)
	if err != nil {
		return nil, err
	}
	if _, err := t.Start(ctx); err != nil {
		return nil, err
	}
	b.undo = append(b.undo, t.Stop)
	return t, nil
}

// folder makes a folder for a device.
func (b *bench) folder(name string) (string, error) {
	path := filepath.Join(b.dir, "device-"+name)
	return path, os.Mkdir(path, 0o755)
}

// addDevice makes a folder a device of that name.
func (b *bench) addDevice(ctx context.Context, t *host.Tenond, name string) (string, error) {
	path, err := b.folder(name)
	if err != nil {
		return "", err
	}
	_, err = t.Run(ctx, "device", "add", name, "--driver", "dir", "-p", "path="+path)
	return path, err
}
