// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// bigMiB is the size of the volume whose copy is interrupted: large enough to
// be caught in the middle, small enough for a demo.
const bigMiB = 512

// crash kills tenond in the middle of a copy and starts it again.
func (d *demo) crash(ctx context.Context) {
	d.chapter("kill -9 in the middle of a copy")
	var want string
	d.step(ctx, fmt.Sprintf("write %d MiB to fast/big", bigMiB), func(ctx context.Context) (_ string, err error) {
		file := filepath.Join(d.dir, "big")
		defer os.Remove(file)
		want, err = writeRandom(file, bigMiB*mib)
		if err != nil {
			return "", err
		}
		if _, err := d.do(ctx, "volume", "create", "fast/big", "--size", fmt.Sprintf("%dM", bigMiB), "--format", "raw"); err != nil {
			return "", err
		}
		_, err = d.ctl(ctx, "volume", "write", "fast/big", "--input", file)
		return fmt.Sprintf("sha256 %.12s…", want), err
	})
	var copying operation
	d.step(ctx, "start a copy and kill tenond when it is under way", func(ctx context.Context) (_ string, err error) {
		copying, err = d.do(ctx, "--async", "copy", "fast/big", "vault/big-copy", "--format", "raw")
		if err != nil {
			return "", err
		}
		at, err := d.underWay(ctx, copying.ID)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("killed at %d of %d MiB", at/mib, bigMiB), d.tenond.Kill()
	})
	d.step(ctx, "the guest did not notice", func(ctx context.Context) (string, error) {
		_, err := d.inGuest(ctx, `a=$(wc -c </mnt/log); dd if=/dev/urandom of=/mnt/alone bs=1M count=2 2>/dev/null; sync; b=$(wc -c </mnt/log); [ $b -gt $a ]`)
		return "it kept writing to both disks while there was no tenond", err
	})
	d.step(ctx, "start tenond again; the copy finishes", func(ctx context.Context) (string, error) {
		took, err := d.tenond.Start(ctx)
		if err != nil {
			return "", err
		}
		op, err := d.do(ctx, "operation", "wait", copying.ID)
		if err == nil && op.State != "OPERATION_STATE_SUCCEEDED" {
			err = fmt.Errorf("it ended as %s", op.State)
		}
		return fmt.Sprintf("ready after %d ms; operation %s went on by itself", took.Milliseconds(), copying.ID), err
	})
	d.step(ctx, "compare what was written, source and copy", func(ctx context.Context) (string, error) {
		source, _, err := d.checksum(ctx, "fast/big", 0)
		if err != nil {
			return "", err
		}
		target, _, err := d.checksum(ctx, "vault/big-copy", 0)
		if err != nil {
			return "", err
		}
		return same(fmt.Sprintf("all %d MiB", bigMiB), want, source, target)
	})
	d.step(ctx, "tenond knows both disks again by looking", func(ctx context.Context) (string, error) {
		var l disks
		if err := d.tenond.RunJSON(ctx, &l, "disk", "list", domainName); err != nil {
			return "", err
		}
		found := 0
		for _, k := range l.Disks {
			if (k.ID == d.web.ID && k.URI == d.web.URI) || (k.ID == d.db.ID && k.URI == d.db.URI) {
				found++
			}
		}
		if found != 2 {
			return "", fmt.Errorf("disk list shows %+v", l.Disks)
		}
		return fmt.Sprintf("%s is %s, %s is %s", d.web.ID, d.web.URI, d.db.ID, d.db.URI), nil
	})
}

// underWay waits until the operation has moved some bytes but by far not all.
func (d *demo) underWay(ctx context.Context, id string) (int64, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		op, err := d.do(ctx, "operation", "show", id)
		switch {
		case err != nil:
			return 0, err
		case op.State != "OPERATION_STATE_RUNNING":
			return 0, errors.New("the copy was over before it could be interrupted")
		case op.Progress.Done > 0:
			return op.Progress.Done, nil
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// writeRandom fills a file with bytes that do not repeat and sums them.
func writeRandom(path string, size int64) (string, error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	source := rand.NewChaCha8([32]byte{1})
	h := sha256.New()
	buf := make([]byte, mib)
	for range size / mib {
		_, _ = source.Read(buf) // never fails
		h.Write(buf)
		if _, err := f.Write(buf); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), f.Close()
}
