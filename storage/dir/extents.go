// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"io"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/nbd"
	"github.com/tenon-storage/tenon/primitives"
)

// extents yields what of a raw file is not a hole. What lies in a hole reads as
// zero; what does not may be zero too.
func (r *rawImage) extents(ctx context.Context, off, n int64) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		end := off + n
		for off < end {
			if ctx.Err() != nil {
				yield(primitives.Extent{}, context.Cause(ctx))
				return
			}
			data, err := r.f.Seek(off, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
				return // nothing but a hole to the end
			}
			if err != nil {
				yield(primitives.Extent{}, err)
				return
			}
			hole, err := r.f.Seek(data, unix.SEEK_HOLE)
			if err != nil {
				yield(primitives.Extent{}, err)
				return
			}
			hole = min(hole, end)
			if !yield(primitives.Extent{Off: data, Len: hole - data, Kind: primitives.ExtentData}, nil) {
				return
			}
			off = hole
		}
	}
}

// extents yields what of an image is not known to be zero.
func (q *qcow2Image) extents(ctx context.Context, off, n int64) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		for e, err := range q.client.Extents(ctx, nbd.BaseAllocation, off, n) {
			if err != nil {
				yield(primitives.Extent{}, err)
				return
			}
			if e.Flags&nbd.StateZero != 0 {
				continue
			}
			if !yield(primitives.Extent{Off: e.Offset, Len: e.Length, Kind: primitives.ExtentData}, nil) {
				return
			}
		}
	}
}

// changes yields what the images of the chain hold themselves, as data or as zeros.
func (q *qcow2Image) changes(ctx context.Context, off, n int64) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		for held, err := range q.client.Extents(ctx, allocationDepth, off, n) {
			if err != nil {
				yield(primitives.Extent{}, err)
				return
			}
			if held.Flags == 0 {
				continue
			}
			for e, err := range q.client.Extents(ctx, nbd.BaseAllocation, held.Offset, held.Length) {
				if err != nil {
					yield(primitives.Extent{}, err)
					return
				}
				kind := primitives.ExtentData
				if e.Flags&nbd.StateZero != 0 {
					kind = primitives.ExtentZero
				}
				if !yield(primitives.Extent{Off: e.Offset, Len: e.Length, Kind: kind}, nil) {
					return
				}
			}
		}
	}
}

// copyChunk is how much is copied at once.
const copyChunk = 2 << 20

// copyImage copies what is not zero from one image to an empty one.
func copyImage(ctx context.Context, from, to image, size int64, report func(primitives.Progress)) error {
	buf := make([]byte, min(copyChunk, size))
	for e, err := range from.extents(ctx, 0, size) {
		if err != nil {
			return err
		}
		for off := e.Off; off < e.Off+e.Len; off += int64(len(buf)) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			part := buf[:min(int64(len(buf)), e.Off+e.Len-off)]
			if err := copyPart(from, to, part, off); err != nil {
				return err
			}
			if report != nil {
				report(primitives.Progress{Done: off + int64(len(part)), Total: size})
			}
		}
	}
	return nil
}

func copyPart(from, to image, buf []byte, off int64) error {
	a, isRaw := from.(*rawImage)
	b, bothRaw := to.(*rawImage)
	if isRaw && bothRaw { // within the kernel, and on some servers within the server
		src, dst := off, off
		n, err := unix.CopyFileRange(int(a.f.Fd()), &src, int(b.f.Fd()), &dst, len(buf), 0)
		if err == nil && n == len(buf) {
			return nil
		}
	}
	if err := from.readAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return to.writeAt(buf, off)
}
