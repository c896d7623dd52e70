// SPDX-License-Identifier: Apache-2.0

// Command demo runs tenon's main job on real parts: tenond and tenonctl as built,
// a libvirtd and a guest of its own, two devices on two file systems. It prints
// each step with its time and what it proved, and ends with 1 if anything differs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tenon-storage/tenon/test/guest"
	"github.com/tenon-storage/tenon/test/host"
)

const (
	domainName = "demo"
	mib        = 1 << 20
)

func main() {
	bin := flag.String("bin", "build", "folder with tenond and tenonctl")
	verbose := flag.Bool("v", false, "print each tenonctl command")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout, *bin, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is what the steps share.
type demo struct {
	*report
	dir     string
	verbose bool
	libvirt *host.Libvirtd
	tenond  *host.Tenond
	domain  guest.Domain
	shell   *guest.Shell
	paths   map[string]string // device to folder
	undo    []func(context.Context) error

	web, db disk   // the two disks of the guest
	before  string // checksum of the guest's file at the snapshot
}

func run(ctx context.Context, out io.Writer, bin string, verbose bool) (err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	// libvirt's sockets need a short path.
	dir, err := os.MkdirTemp("", "tn-demo-")
	if err != nil {
		return err
	}
	d := &demo{report: &report{out: out, began: time.Now()}, dir: dir, verbose: verbose, paths: map[string]string{}}
	defer func() {
		err = errors.Join(err, d.takeDown(context.WithoutCancel(ctx)))
	}()
	fmt.Fprintf(out, "tenon's main job, on real parts in %s\n", dir)
	if err := d.setUp(ctx, bin); err != nil {
		return err
	}
	d.devices(ctx)
	d.attach(ctx)
	d.snapshot(ctx)
	d.copy(ctx)
	d.resize(ctx)
	d.crash(ctx)
	d.takeAway(ctx)
	d.maintain(ctx)
	d.summary()
	if d.failed != nil && d.tenond != nil {
		fmt.Fprintf(out, "\ntenond's last lines:\n%s\n", d.tenond.Log())
	}
	return d.failed
}

// setUp builds the host around tenond: image, file systems, libvirtd, guest.
func (d *demo) setUp(ctx context.Context, bin string) error {
	image, err := guest.Build(ctx, d.out)
	if err != nil {
		return err
	}
	for device, kind := range map[string]string{"fast": "xfs", "vault": "ext4"} {
		mounted, unmount, err := host.MountLoop(ctx, d.dir, kind, 4<<30)
		if err != nil {
			return err
		}
		d.undo = append(d.undo, unmount)
		d.paths[device] = filepath.Join(mounted, "tenon")
		if err := os.Mkdir(d.paths[device], 0o755); err != nil {
			return err
		}
	}
	d.libvirt, err = host.StartLibvirtd(ctx, d.dir)
	if err != nil {
		return err
	}
	d.undo = append(d.undo, d.libvirt.Stop)
	d.domain = guest.Domain{Name: domainName, UUID: "7e3a0a52-5b0c-4b52-9a53-0d2f7c1f6a01", Image: image, Dir: d.dir}
	if err := d.libvirt.Boot(ctx, guest.DomainXML(d.domain)); err != nil {
		return err
	}
	d.tenond, err = host.NewTenond(d.dir, bin, d.libvirt.URI())
	if err != nil {
		return err
	}
	took, err := d.tenond.Start(ctx)
	if err != nil {
		return err
	}
	d.undo = append(d.undo, d.tenond.Stop)
	fmt.Fprintf(d.out, "a guest is booting, two file systems are mounted, tenond was ready after %d ms\n", took.Milliseconds())
	return nil
}

// takeDown ends everything that was started, newest first.
func (d *demo) takeDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	if d.shell != nil {
		errs = append(errs, d.shell.Close())
	}
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i](ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the host down: %w (what is left stands in %s)", err, d.dir)
	}
	return os.RemoveAll(d.dir)
}
