// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

func (b *backend) Clone(ctx context.Context, src, dst primitives.URI, c primitives.CloneRequest) (primitives.Object, error) {
	return call(ctx, b, "clone", func() (primitives.Object, error) {
		if err := b.mine(src, dst); err != nil {
			return primitives.Object{}, err
		}
		if !dst.IsVolume() {
			return primitives.Object{}, primitives.Invalid("destination", "%s is not a volume", dst.Short())
		}
		args := fmt.Sprintf("clone of %s to %s with %d bytes, full %t", src.Short(), dst.Short(), c.Size, c.Full)
		return once(b.s, c.Op.ID, args, func() (primitives.Object, error) { return b.clone(src, dst, c) })
	})
}

func (b *backend) clone(src, dst primitives.URI, c primitives.CloneRequest) (primitives.Object, error) {
	from, err := b.s.readable(src)
	if err != nil {
		return primitives.Object{}, err
	}
	if err := from.atGeneration(c.IfGen, src); err != nil {
		return primitives.Object{}, err
	}
	if err := b.s.free(dst); err != nil {
		return primitives.Object{}, err
	}
	size := from.c.size
	if c.Size != 0 {
		if size, err = b.cfg.roundUp(c.Size); err != nil {
			return primitives.Object{}, err
		}
		if size < from.c.size {
			return primitives.Object{}, primitives.Invalid("size", "%d is less than the source's %d bytes", c.Size, from.c.size)
		}
	}
	v := &volume{name: dst.Volume, snaps: make(map[string]*snapshot)}
	v.object = b.s.newObject(from.c.fork())
	v.c.size = size
	v.props = stored(c.Props)
	if !c.Full {
		v.parent = from.handle
	}
	if b.cfg.dependent && !c.Full {
		b.s.need(&v.object, from.handle)
	}
	b.s.volumes[dst.Volume] = v
	return b.render(dst, &v.object), nil
}

// free reports what has the name already.
func (s *store) free(u primitives.URI) error {
	v := s.volumes[u.Volume]
	switch {
	case v == nil:
		return nil
	case v.hidden:
		return v.busy(u)
	}
	return primitives.Errorf(primitives.CodeExists, "a volume of %d bytes has that name", v.c.size).On(u)
}

// need records that o cannot do without its origin.
func (s *store) need(o *object, origin primitives.Handle) {
	o.needs = origin
	if s.needers[origin] == nil {
		s.needers[origin] = make(map[primitives.Handle]bool)
	}
	s.needers[origin][o.handle] = true
}

func (s *store) needNoMore(o *object) {
	delete(s.needers[o.needs], o.handle)
	if len(s.needers[o.needs]) == 0 {
		delete(s.needers, o.needs)
	}
}

// CopyTo copies between the stores of one Driver where the device offers it.
func (b *backend) CopyTo(ctx context.Context, src primitives.URI, dst primitives.CopyTarget, op primitives.Op) (primitives.Object, error) {
	target, err := b.peer(ctx, src, dst)
	if err != nil {
		return primitives.Object{}, err
	}
	args := fmt.Sprintf("copy of %s to %s", src.Short(), dst.URI.Short())
	if answer, err := b.copiedBefore(target, op, args, dst.URI); answer != nil || err != nil {
		if err != nil {
			return primitives.Object{}, err
		}
		return *answer, nil
	}
	r, err := b.Read(ctx, src, primitives.Op{IfGen: op.IfGen})
	if err != nil {
		return primitives.Object{}, err
	}
	defer r.Close()
	w, err := target.Write(ctx, dst.URI, primitives.WriteRequest{Create: true, Size: r.Size(), Op: primitives.Op{Props: dst.Props}})
	if err != nil {
		return primitives.Object{}, err
	}
	if err := transfer(ctx, r.(*reader).c, w, op.Report); err != nil {
		_ = w.Abort(context.WithoutCancel(ctx))
		return primitives.Object{}, err
	}
	obj, err := w.Commit(ctx)
	if err != nil {
		_ = w.Abort(context.WithoutCancel(ctx))
		return primitives.Object{}, err
	}
	target.s.mu.Lock()
	defer target.s.mu.Unlock()
	target.s.remember(op.ID, args, obj)
	return obj, nil
}

// peer opens the session in which the target's side of a copy runs.
func (b *backend) peer(ctx context.Context, src primitives.URI, dst primitives.CopyTarget) (*backend, error) {
	return call(ctx, b, "copy-to", func() (*backend, error) {
		if err := b.mine(src); err != nil {
			return nil, err
		}
		if err := dst.URI.Check(); err != nil {
			return nil, err
		}
		store := b.driver.byIdentity(dst.Backend)
		if !b.cfg.offload || dst.Driver != Name || store == nil {
			return nil, primitives.Errorf(primitives.CodeNoOffload, "%s is not within reach of %s", dst.Backend, b.s.identity)
		}
		cfg, problems := parseConfig(dst.Props)
		if len(problems) > 0 {
			return nil, primitives.Errorf(primitives.CodeNoOffload, "the target's properties are not those of a store in this process")
		}
		target := &backend{driver: b.driver, s: store, cfg: cfg, name: dst.URI.Device, host: b.host, life: b.life, end: b.end}
		return target, nil
	})
}

func (b *backend) copiedBefore(target *backend, op primitives.Op, args string, dst primitives.URI) (*primitives.Object, error) {
	target.s.mu.Lock()
	defer target.s.mu.Unlock()
	answer, err := target.s.replay(op.ID, args)
	if answer == nil {
		return nil, err
	}
	obj := answer.(primitives.Object)
	return &obj, err
}

// transfer writes the chunks of a content that nobody changes.
func transfer(ctx context.Context, from *content, to primitives.Writer, report func(primitives.Progress)) error {
	var done int64
	for _, i := range from.indexes() {
		if err := ended(ctx); err != nil {
			return err
		}
		off := i * chunkSize
		data := from.at(i).data[:min(chunkSize, from.size-off)]
		if _, err := to.WriteAt(data, off); err != nil {
			return err
		}
		done += int64(len(data))
		if report != nil {
			report(primitives.Progress{Done: done, Total: from.size})
		}
	}
	return nil
}
