// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// CopyRequest says how to copy. Its Op's properties are those of the new volume.
type CopyRequest struct {
	primitives.Op
	Size   int64             // 0: as the source; larger: the tail reads as zero; smaller: CodeInvalid
	Format primitives.Format // empty: the target device's default
	Resume bool              // take over what an interrupted copy of the same Op.ID left behind
}

// Copy makes to, a new volume of dst, with the bytes of from, a volume or snapshot
// of src. Where src says that it reaches dst by itself, it is asked to; else the
// bytes are streamed, and ranges that are zero stay unwritten. The volume is
// visible once everything is there.
//
// After an error, or the end of ctx, to is absent, or Incomplete when even the
// clean-up failed or the process died. Then the same Op.ID with Resume takes the
// Incomplete volume over and writes it anew from the beginning; nothing of what
// an interrupted copy wrote is trusted. A repeat of a finished copy with the
// same Op.ID returns the same object.
//
// The source is held as by Read and the target as by Write. The codes are those
// of Read, Write and Commit; CodeInvalid too for a target that is the source.
func Copy(ctx context.Context, src *Device, from primitives.URI, dst *Device, to primitives.URI, r CopyRequest) (primitives.Object, error) {
	if src == dst && from == to {
		return primitives.Object{}, classify("copy", to, primitives.Invalid("destination", "%s is the source itself", to.Short()))
	}
	if err := dst.volume("destination", to); err != nil {
		return primitives.Object{}, dst.refuse("copy", to, err)
	}
	obj, err := src.offload(ctx, from, dst, to, r)
	if err == nil || primitives.CodeOf(err) != primitives.CodeNoOffload {
		return obj, classify("copy", to, err)
	}
	obj, err = stream(ctx, src, from, dst, to, r)
	return obj, classify("copy", to, err)
}

// offload asks the source to copy by itself, or answers CodeNoOffload. It holds
// the target meanwhile, which the source's driver cannot.
func (d *Device) offload(ctx context.Context, from primitives.URI, dst *Device, to primitives.URI, r CopyRequest) (primitives.Object, error) {
	none := &primitives.Error{Code: primitives.CodeNoOffload}
	peers := d.known(ctx).Caps.CopyPeers
	if len(peers) == 0 || r.Size != 0 || r.Format != "" {
		return primitives.Object{}, none
	}
	backend := dst.known(ctx).Backend
	if !slices.Contains(peers, backend) && !slices.Contains(peers, dst.driver.Name) {
		return primitives.Object{}, none
	}
	if o, err := dst.Stat(ctx, to, primitives.Op{}); err == nil && o.State == primitives.Incomplete && r.Resume {
		return primitives.Object{}, none // a streamed copy is to be gone on with
	}
	c := call{
		name: "receive", uri: to, op: r.Op, scope: primitives.ScopeVolume, long: true, keys: naming(to),
		args: arguments(r.Op, "receive %s from %s", to.Short(), from.Short()),
	}
	return perform(ctx, dst, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		target := primitives.CopyTarget{URI: to, Backend: backend, Driver: dst.driver.Name, Props: op.Props}
		return d.CopyTo(ctx, from, target, primitives.Op{ID: r.Op.ID, Report: op.Report})
	})
}

// stream copies through this host.
func stream(ctx context.Context, src *Device, from primitives.URI, dst *Device, to primitives.URI, r CopyRequest) (_ primitives.Object, err error) {
	reader, err := src.Read(ctx, from, primitives.Op{})
	if err != nil {
		return primitives.Object{}, err
	}
	t := &transfer{src: src, from: from, r: reader, report: r.Op.Report}
	defer t.closeReader()
	size := r.Size
	if size == 0 {
		size = reader.Size()
	}
	if size < reader.Size() {
		return primitives.Object{}, primitives.Invalid("size", "%d is less than the source's %d bytes", size, reader.Size())
	}
	op := r.Op
	op.Report = nil // the transfer reports
	w, err := dst.Write(ctx, to, primitives.WriteRequest{Op: op, Create: true, Size: size, Format: r.Format, Resume: r.Resume})
	if err != nil {
		return primitives.Object{}, err
	}
	if done, before := w.(*replayed); before {
		return done.obj, nil
	}
	defer func() {
		if err != nil {
			err = withCleanUp(err, w.Abort(ctx))
		}
	}()
	caps := dst.known(ctx).Caps
	t.w, t.tail = w, size
	t.fill = r.Resume || !caps.ZeroOnCreate // holes may hold something
	t.workers = 1
	if caps.RandomWrite {
		t.workers = copyWorkers
	}
	if err := t.run(ctx); err != nil {
		return primitives.Object{}, err
	}
	return w.Commit(ctx)
}

// withCleanUp adds what went wrong in the clean-up, unless the device is away and
// the first error says so already.
func withCleanUp(err, cleanUp error) error {
	if cleanUp == nil || primitives.CodeOf(cleanUp) == primitives.CodeOf(err) {
		return err
	}
	return errors.Join(err, cleanUp)
}
