// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"

	"github.com/tenon-storage/tenon/primitives"
)

// fencer waits for the calls under way on the device, and keeps others out until
// the fence stands or is gone. Calls that only look are let pass: the driver
// answers them as it finds the device. Repeats go to the driver, which verifies.
type fencer struct {
	d     *Device
	inner primitives.Fencer
}

// Holders tells who has the device open.
func (f fencer) Holders(ctx context.Context) ([]primitives.Holder, error) {
	c := call{name: "holders", uri: primitives.URI{Device: f.d.name}}
	return perform(ctx, f.d, c, func(ctx context.Context, _ primitives.Op) ([]primitives.Holder, error) {
		return f.inner.Holders(ctx)
	})
}

// Fence closes the device. Calls that do not end within ctx, or Options.CallTimeout
// where ctx has no end, are CodeConflict and named, and so are Readers and Writers
// that stay open for Options.LockWait.
func (f fencer) Fence(ctx context.Context, op primitives.Op) (primitives.FenceReport, error) {
	defer f.d.forgetTraits()
	return perform(ctx, f.d, f.call("fence", op), func(ctx context.Context, op primitives.Op) (primitives.FenceReport, error) {
		return f.inner.Fence(ctx, op)
	})
}

// Unfence opens the device again.
func (f fencer) Unfence(ctx context.Context, op primitives.Op) error {
	defer f.d.forgetTraits()
	return do(ctx, f.d, f.call("unfence", op), func(ctx context.Context, op primitives.Op) error {
		return f.inner.Unfence(ctx, op)
	})
}

func (f fencer) call(name string, op primitives.Op) call {
	return call{name: name, uri: primitives.URI{Device: f.d.name}, op: op, alone: true}
}

// forgetTraits has the next call that needs the description ask anew.
func (d *Device) forgetTraits() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.traits = nil
}
