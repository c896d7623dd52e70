// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tenon-storage/tenon/internal/command"
)

// What the demo reads of tenonctl's JSON, which writes 64-bit numbers as strings.
type (
	operation struct {
		ID       string `json:"id"`
		State    string `json:"state"`
		Progress struct {
			Done int64 `json:"done,string"`
		} `json:"progress"`
		Volume      volume      `json:"volume"`
		Tombstone   tombstone   `json:"tombstone"`
		Disk        disk        `json:"disk"`
		SnapshotSet snapshotSet `json:"snapshot_set"`
	}
	volume struct {
		Format string `json:"format"`
		Size   int64  `json:"size_bytes,string"`
		Used   int64  `json:"used_bytes,string"`
	}
	tombstone struct {
		ID string `json:"id"`
	}
	disk struct {
		ID     string `json:"id"`
		URI    string `json:"uri"`
		Source struct {
			Path string `json:"path"`
		} `json:"source"`
	}
	disks struct {
		Disks []disk `json:"disks"`
	}
	snapshotSet struct {
		Level  string `json:"level"`
		Note   string `json:"note"`
		Frozen string `json:"frozen_duration"`
	}
)

// ctl runs tenonctl and returns what it printed.
func (d *demo) ctl(ctx context.Context, args ...string) (string, error) {
	if d.verbose {
		fmt.Fprintf(d.out, "               $ tenonctl %s\n", strings.Join(args, " "))
	}
	return d.tenond.Run(ctx, args...)
}

// do runs a tenonctl command that changes something and reads its operation.
func (d *demo) do(ctx context.Context, args ...string) (operation, error) {
	if d.verbose {
		fmt.Fprintf(d.out, "               $ tenonctl %s\n", strings.Join(args, " "))
	}
	var op operation
	err := d.tenond.RunJSON(ctx, &op, args...)
	return op, err
}

// inGuest runs a script in the guest.
func (d *demo) inGuest(ctx context.Context, format string, args ...any) (string, error) {
	return d.shell.Run(ctx, fmt.Sprintf(format, args...))
}

// checksum reads a volume or snapshot through tenonctl and sums its first n
// bytes; n 0: all of it.
func (d *demo) checksum(ctx context.Context, uri string, n int64) (sum string, size int64, err error) {
	file := filepath.Join(d.dir, "read")
	defer os.Remove(file)
	if _, err := d.ctl(ctx, "volume", "read", uri, "--output", file); err != nil {
		return "", 0, err
	}
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	var r io.Reader = f
	if n > 0 {
		r = io.LimitReader(f, n)
	}
	h := sha256.New()
	size, err = io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// same compares two checksums and shortens them for the proof.
func same(what string, sums ...string) (string, error) {
	for _, s := range sums[1:] {
		if s != sums[0] || s == "" {
			return "", fmt.Errorf("%s: checksums differ: %q", what, sums)
		}
	}
	return fmt.Sprintf("%s: sha256 %s… %d times the same", what, sums[0][:12], len(sums)), nil
}

// refused checks that tenonctl failed with that exit code and that what it
// wrote to stderr has every word.
func refused(err error, code int, words ...string) (string, error) {
	e, ok := errors.AsType[*command.Error](err)
	if !ok || e.ExitCode != code {
		return "", fmt.Errorf("this should have been refused with exit %d, not: %w", code, err)
	}
	for _, w := range words {
		if !strings.Contains(e.Stderr, w) {
			return "", fmt.Errorf("the refusal does not say %q: %s", w, e.Stderr)
		}
	}
	return strings.TrimSpace(e.Stderr), nil
}
