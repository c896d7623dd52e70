// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

func (b *backend) Write(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	return call(ctx, b, "write", func() (primitives.Writer, error) {
		if err := b.mine(u); err != nil {
			return nil, err
		}
		if !u.IsVolume() {
			return nil, primitives.Invalid("uri", "%s is a snapshot, which cannot be written", u.Short())
		}
		if w.Create {
			return b.create(u, w)
		}
		return b.overwrite(u, w)
	})
}

func (b *backend) create(u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	size, err := b.cfg.roundUp(w.Size)
	if err != nil {
		return nil, err
	}
	if w.Format != "" && w.Format != primitives.FormatRaw {
		return nil, primitives.Invalid("format", "%q is not offered; expected %q", w.Format, primitives.FormatRaw)
	}
	args := fmt.Sprintf("create of %s with %d bytes", u.Volume, size)
	answer, err := b.s.replay(w.Op.ID, args)
	if err != nil {
		return nil, err
	}
	if answer != nil {
		return &replayed{obj: answer.(primitives.Object)}, nil
	}
	v := b.s.volumes[u.Volume]
	if v != nil {
		if err := v.resumable(u, w, args); err != nil {
			return nil, err
		}
	} else {
		v = &volume{name: u.Volume, snaps: make(map[string]*snapshot), hidden: true}
		v.object = b.s.newObject(newContent(size))
		v.state, v.props = primitives.Incomplete, stored(w.Props)
		v.createdBy, v.madeAs = w.Op.ID, args
		b.s.volumes[u.Volume] = v
	}
	v.writer = &writer{b: b, v: v, u: u, op: w.Op, args: args, fresh: true}
	v.writer.life, v.writer.end = context.WithCancelCause(b.life)
	return v.writer, nil
}

// resumable reports why a create cannot take over v, which has its name.
func (v *volume) resumable(u primitives.URI, w primitives.WriteRequest, args string) error {
	switch {
	case v.writer != nil:
		return v.busy(u)
	case v.state != primitives.Incomplete || v.madeAs == "" || v.touchedBy != "":
		return primitives.Errorf(primitives.CodeExists, "a volume of %d bytes has that name", v.c.size).On(u)
	case !w.Resume:
		return errIncomplete(u)
	case w.Op.ID == "" || w.Op.ID != v.createdBy:
		return primitives.Errorf(primitives.CodeConflict, "it is half written by another request").On(u).
			By(primitives.Blocker{Kind: "operation", Name: v.createdBy})
	case args != v.madeAs:
		return primitives.Errorf(primitives.CodeConflict, "request id %q was used for %s, and now for %s", w.Op.ID, v.madeAs, args).On(u)
	}
	return nil
}

func (b *backend) overwrite(u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	args := "write to " + u.Volume
	answer, err := b.s.replay(w.Op.ID, args)
	if err != nil {
		return nil, err
	}
	if answer != nil {
		return &replayed{obj: answer.(primitives.Object)}, nil
	}
	v, err := b.s.changeable(u, w.IfGen)
	if err != nil {
		return nil, err
	}
	if v.state == primitives.Incomplete {
		switch {
		case !w.Resume:
			return nil, errIncomplete(u)
		case w.Op.ID == "" || w.Op.ID != v.touchedBy:
			return nil, primitives.Errorf(primitives.CodeConflict, "it is half written by another request").On(u).
				By(primitives.Blocker{Kind: "operation", Name: v.touchedBy})
		}
	}
	if err := b.s.unmapped(v, u); err != nil {
		return nil, err
	}
	v.writer = &writer{b: b, v: v, u: u, op: w.Op, args: args}
	v.writer.life, v.writer.end = context.WithCancelCause(b.life)
	return v.writer, nil
}

// writer writes to a volume that is hidden until Commit, or in place. The
// store's lock guards its state.
type writer struct {
	b     *backend
	v     *volume
	u     primitives.URI
	op    primitives.Op
	args  string
	fresh bool // made the volume

	// life ends with the writer, so that Abort releases writes that a fault
	// holds; it is no request's context.
	life context.Context
	end  context.CancelCauseFunc

	committed *primitives.Object
	aborted   bool
}

func (w *writer) open() error {
	switch {
	case w.committed != nil:
		return primitives.Errorf(primitives.CodeInvalid, "the writer is committed").On(w.u)
	case w.aborted || w.v.writer != w:
		return primitives.Errorf(primitives.CodeInvalid, "the writer is aborted").On(w.u)
	}
	return nil
}

// change runs one modification of the bytes.
func (w *writer) change(op string, off, n int64, run func() error) error {
	if err := w.b.s.faults.gate(w.life, op, Before); err != nil {
		return err
	}
	w.b.s.mu.Lock()
	defer w.b.s.mu.Unlock()
	if w.b.isGone() {
		return errGone()
	}
	if err := w.open(); err != nil {
		return err
	}
	if off < 0 || n < 0 || off > w.v.c.size || n > w.v.c.size-off {
		return primitives.Invalid("offset", "%d bytes at %d are not within the volume's %d", n, off, w.v.c.size)
	}
	if n == 0 {
		return nil
	}
	if !w.fresh {
		w.v.state, w.v.touchedBy = primitives.Incomplete, w.op.ID
	}
	return run()
}

func (w *writer) WriteAt(p []byte, off int64) (n int, err error) {
	err = w.change("write-at", off, int64(len(p)), func() (err error) {
		n, err = w.b.s.space.writeAt(w.v.c, p, off, w.b.cfg.capacity)
		return err
	})
	return n, err
}

func (w *writer) ZeroAt(off, n int64) error {
	return w.change("zero-at", off, n, func() error {
		return w.b.s.space.zeroAt(w.v.c, off, n, w.b.cfg.capacity)
	})
}

func (w *writer) Commit(ctx context.Context) (primitives.Object, error) {
	return call(ctx, w.b, "commit", func() (primitives.Object, error) {
		if w.committed != nil {
			return *w.committed, nil
		}
		if err := w.open(); err != nil {
			return primitives.Object{}, err
		}
		v := w.v
		v.writer, v.hidden, v.touchedBy, v.state = nil, false, "", primitives.Ready
		if !w.fresh {
			v.gen++
		}
		obj := w.b.render(w.u, &v.object)
		w.committed = &obj
		w.end(nil)
		w.b.s.remember(w.op.ID, w.args, obj)
		return obj, nil
	})
}

func (w *writer) Abort(ctx context.Context) error {
	w.end(primitives.Errorf(primitives.CodeCancelled, "the writer is aborted"))
	return do(ctx, w.b, "abort", func() error {
		if w.committed != nil || w.aborted || w.v.writer != w {
			return nil
		}
		w.aborted = true
		w.v.writer = nil
		if w.fresh {
			w.b.s.space.release(w.v.c)
			delete(w.b.s.volumes, w.v.name)
		}
		return nil
	})
}

// replayed is the writer of a request that was committed before: it takes the
// same bytes again and lets them fall.
type replayed struct{ obj primitives.Object }

func (r *replayed) check(off, n int64) error {
	if off < 0 || n < 0 || off > r.obj.Size || n > r.obj.Size-off {
		return primitives.Invalid("offset", "%d bytes at %d are not within the volume's %d", n, off, r.obj.Size)
	}
	return nil
}

func (r *replayed) WriteAt(p []byte, off int64) (int, error) {
	if err := r.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (r *replayed) ZeroAt(off, n int64) error { return r.check(off, n) }

func (r *replayed) Commit(context.Context) (primitives.Object, error) { return r.obj, nil }

func (r *replayed) Abort(context.Context) error { return nil }
