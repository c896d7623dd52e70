// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"iter"

	"github.com/tenon-storage/tenon/primitives"
)

// Run is a range of an object's bytes.
type Run struct {
	Off, Len int64
	Zero     bool // known to read as zero
}

// Runs divides a range of an object into what has to be read and what is known
// to be zero, in order and without gaps. The caller holds a Reader of the object,
// and the range is within its size. Where the device cannot say, or stops saying,
// everything is to be read.
func (d *Device) Runs(ctx context.Context, u primitives.URI, from, to int64) iter.Seq[Run] {
	return func(yield func(Run) bool) {
		at := from
		next := func(end int64, zero bool) bool {
			run := Run{Off: at, Len: end - at, Zero: zero}
			at = max(at, end)
			return run.Len <= 0 || yield(run)
		}
		told := from < to && d.tellable(ctx, u)
		if told {
			for e, err := range d.heldExtents(ctx, u, from, to-from) {
				if err != nil {
					told = false // what came before is right
					break
				}
				if !next(min(e.Off, to), true) || !next(min(e.Off+e.Len, to), e.Kind == primitives.ExtentZero) {
					return
				}
			}
		}
		next(to, told)
	}
}

// heldExtents asks without locks of its own: the Reader has them, and a second
// set could wait for somebody who waits for the first.
func (d *Device) heldExtents(ctx context.Context, u primitives.URI, off, n int64) iter.Seq2[primitives.Extent, error] {
	return d.facets.Delta.(deltaReader).extents(ctx, primitives.DeltaRequest{Target: u, Off: off, Len: n}, nil)
}

// tellable reports whether the extents told now are those of the bytes that a
// Reader reads. They may not be when a guest, here or on another host, writes to
// the volume meanwhile.
func (d *Device) tellable(ctx context.Context, u primitives.URI) bool {
	if d.facets.Delta == nil {
		return false
	}
	if u.IsSnapshot() || d.facets.Map == nil {
		return true
	}
	if d.known(ctx).Caps.SharedAcrossHosts {
		return false
	}
	mappings, err := d.facets.Map.Mappings(ctx)
	for _, m := range mappings {
		if m.URI == u && m.Active && m.Access == primitives.ReadWrite {
			return false
		}
	}
	return err == nil
}
