// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// Clone makes a volume with the content of another, or of a snapshot.
func (b *backend) Clone(ctx context.Context, src, dst primitives.URI, c primitives.CloneRequest) (primitives.Object, error) {
	o, err := b.clone(ctx, src, dst, c)
	return o, classify(dst, err)
}

// cloning is a clone under way.
type cloning struct {
	src source
	dst record
	way cloneWay
	job *job
}

// cloneWay is how a clone gets its bytes.
type cloneWay uint8

const (
	byCopy    cloneWay = iota // costs the size
	byReflink                 // shares extents, depends on nothing
	byOverlay                 // depends on the snapshot
)

// chooseWay picks the cheapest way that keeps the request's promise.
func (s *session) chooseWay(src source, full bool) cloneWay {
	switch {
	case s.fs.reflink && len(src.layer.Below) == 0:
		return byReflink
	case full || src.snap == nil || src.Format != primitives.FormatQcow2 || len(src.layer.chain()) >= maxChain:
		return byCopy
	}
	return byOverlay
}

func (b *backend) clone(ctx context.Context, src, dst primitives.URI, req primitives.CloneRequest) (primitives.Object, error) {
	if err := b.mine(src); err != nil {
		return primitives.Object{}, err
	}
	if err := b.mineVolume(dst); err != nil {
		return primitives.Object{}, err
	}
	s, err := b.change(ctx)
	if err != nil {
		return primitives.Object{}, err
	}
	defer s.leave()
	c, done, err := s.beginClone(src, dst, req)
	if err != nil {
		return primitives.Object{}, err
	}
	if done != nil {
		return *done, nil
	}
	if c.way == byCopy {
		err = s.fillByCopy(ctx, src, c, req.Report)
	} else {
		err = s.fill(ctx, c)
	}
	if err != nil {
		return primitives.Object{}, errors.Join(err, s.undoClone(ctx, c))
	}
	return s.publish(c.dst, c.job)
}

// beginClone reserves the name. done is the outcome of an earlier attempt.
func (s *session) beginClone(src, dst primitives.URI, req primitives.CloneRequest) (*cloning, *primitives.Object, error) {
	have, cond, err := s.present(dst)
	if err != nil {
		return nil, nil, err
	}
	by := request{Kind: kindClone, ID: req.ID, Args: fmt.Sprintf("of %s, %d bytes, full %t", src.Short(), req.Size, req.Full)}
	what, err := decideCreate(dst, have.family, cond, by, false)
	if err != nil {
		return nil, nil, err
	}
	if what == createReplay {
		o, err := s.volumeObject(have, cond)
		return nil, &o, err
	}
	from, err := s.source(src, req.Op)
	if err != nil {
		return nil, nil, err
	}
	size, err := cloneSize(req.Size, from.size)
	if err != nil {
		return nil, nil, err
	}
	if what == createAnew {
		if err := s.sweep(have); err != nil {
			return nil, nil, err
		}
	}
	c := &cloning{src: from, way: s.chooseWay(from, req.Full)}
	c.dst = record{s.newFamily(dst, from.Format, size, by, req.Props), volumeFile(dst.Volume)}
	l := &c.dst.Layers[0]
	l.Shared = c.way == byReflink
	if c.way == byOverlay {
		l.Below = from.layer.chain()
		c.dst.Origin = &origin{Volume: from.Handle, Name: from.Name, Snapshot: from.snap.Handle}
	}
	c.job, err = s.reserve(c.dst)
	return c, nil, err
}

func cloneSize(want, have int64) (int64, error) {
	if want == 0 {
		return have, nil
	}
	size, err := roundUp(want)
	if err != nil {
		return 0, err
	}
	if size < have {
		return 0, primitives.Invalid("size", "%d is less than the source's %d bytes", want, have)
	}
	return size, nil
}

// fill gives the clone its bytes without copying them. The device's lock is held.
func (s *session) fill(ctx context.Context, c *cloning) error {
	l := c.dst.Layers[0]
	if c.way == byOverlay {
		if err := s.refer(*c.dst.Origin, dependent{Handle: c.dst.Handle, Name: c.dst.Name}); err != nil {
			return err
		}
		return s.makeQcow2(ctx, l, c.dst.Size)
	}
	use, err := s.layerUse(c.src.layer.ID)
	if err != nil {
		return err
	}
	if use == beingWritten {
		return fail(primitives.CodeConflict, primitives.URI{Device: s.name, Volume: c.src.Name}, "it is being written")
	}
	if err := s.shareSource(c.src); err != nil {
		return err
	}
	if err := s.reflink(c.src.layer.ref(), l.ref()); err != nil {
		return err
	}
	return s.growLayer(ctx, l.ref(), c.src.size, c.dst.Size)
}

// shareSource notes that the source's file does not have its extents alone.
func (s *session) shareSource(src source) error {
	if src.layer.Shared {
		return nil
	}
	f := src.family.clone()
	f.layer(src.layer.ID).Shared = true
	return s.save(record{f, src.file})
}

// growLayer makes an image that nobody has open larger; the tail is zero.
func (s *session) growLayer(ctx context.Context, l layerRef, from, to int64) error {
	if l.Format == primitives.FormatQcow2 {
		if from == to {
			return nil
		}
		return s.growQcow2(ctx, l, to)
	}
	// Always: an adopted raw file may be longer or shorter than its volume by
	// part of a sector.
	return s.truncate(l.file(), to)
}

// fillByCopy copies without the device's lock: the source's layer is locked
// against writers, and the clone's against everybody.
func (s *session) fillByCopy(ctx context.Context, src primitives.URI, c *cloning, report func(primitives.Progress)) error {
	held, err := s.lockSource(src, c.src)
	if err != nil {
		return err
	}
	defer held.release()
	if err := s.makeImage(ctx, c.dst.Layers[0], c.dst.Size); err != nil {
		return err
	}
	s.meta.release()
	from, err := s.openImage(ctx, c.src.layer.chain(), c.src.size, false)
	if err != nil {
		return err
	}
	to, err := s.openImage(ctx, c.dst.Layers[0].chain(), c.dst.Size, true)
	if err != nil {
		from.kill()
		return err
	}
	err = copyImage(ctx, from, to, c.src.size, report)
	if err == nil {
		err = to.sync(ctx)
	}
	if err != nil {
		from.kill()
		to.kill()
		return err
	}
	if err := errors.Join(from.close(), to.close()); err != nil {
		return err
	}
	if err := s.syncLayer(c.dst.Layers[0].ref()); err != nil {
		return err
	}
	return s.relock(ctx)
}

// undoClone takes a failed clone away.
func (s *session) undoClone(ctx context.Context, c *cloning) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if s.meta.held() {
		return s.discard(c.dst, c.job)
	}
	again, err := s.backend.change(ctx)
	if err != nil {
		c.job.hold.release() // the note stays for the next Open
		return err
	}
	defer again.leave()
	return again.discard(c.dst, c.job)
}

// publish makes a volume that was reserved visible.
func (s *session) publish(r record, j *job) (primitives.Object, error) {
	r.State = stateReady
	r.Generation = 1
	r.Created = time.Now().UTC()
	if err := s.save(r); err != nil {
		r.State = stateCreating
		return primitives.Object{}, errors.Join(err, s.discard(r, j))
	}
	if err := s.end(j); err != nil {
		return primitives.Object{}, err
	}
	return s.volumeObject(r, ready)
}
