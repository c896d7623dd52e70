// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// Destroy releases a tombstone's data. The tombstone stays, marked as dying,
// until the last of its files is gone; a repeat goes on with it.
func (b *backend) Destroy(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error {
	err := b.freeing(ctx, func() error { return b.destroy(ctx, t, d) })
	if err != nil {
		return classify(t.Was, err)
	}
	b.keepReserve(ctx)
	return nil
}

// burial is a destroy under way.
type burial struct {
	r    record
	snap *snapshot // nil: the volume, with the snapshots that went along
	left *family   // what stays; nil: nothing
	gone []layer   // what is released
}

func (b *backend) destroy(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error {
	if d.Erase == primitives.EraseZero && b.copiesOnWrite() {
		return primitives.Errorf(primitives.CodeUnsupported, "the file system writes new blocks instead of overwriting old ones, so zeros would erase nothing").
			Trying("destroy with erase discard or none")
	}
	s, err := b.change(ctx)
	if err != nil {
		return err
	}
	defer s.leave()
	w, err := s.beginBurial(t, d.Erase)
	if err != nil || w == nil {
		return err
	}
	if eraseOwed(w.gone) > primitives.EraseNone {
		// Without the device's lock, because it takes as long as it takes. The
		// first layer's lock keeps a second destroy waiting.
		s.meta.release()
		h, err := s.lockWait(ctx, layerByte(w.gone[0].ID))
		if err != nil {
			return err
		}
		defer h.release()
		if err := s.eraseAll(ctx, w.gone, d.Report); err != nil {
			return err
		}
		if err := s.relock(ctx); err != nil {
			return err
		}
		if w, err = s.beginBurial(t, d.Erase); err != nil || w == nil {
			return err
		}
	}
	return s.endBurial(w)
}

func (b *backend) copiesOnWrite() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fs.copyOnWrite
}

func eraseOwed(layers []layer) primitives.Erase {
	most := primitives.EraseNone
	for _, l := range layers {
		most = max(most, l.Erase)
	}
	return most
}

// beginBurial marks the tombstone and works out what goes. Nil is an unknown
// tombstone, which is success.
func (s *session) beginBurial(t primitives.Tombstone, erase primitives.Erase) (*burial, error) {
	volume, snap, ok := splitTombstone(t.ID)
	if !ok {
		return nil, nil
	}
	var w *burial
	var err error
	if snap == "" {
		w, err = s.volumeBurial(t, erase)
	} else {
		w, err = s.snapshotBurial(t, volume, erase)
	}
	if err != nil || w == nil {
		return nil, err
	}
	if err := s.checkErase(w); err != nil {
		return nil, err
	}
	d := w.r.Delinked
	if w.snap != nil {
		d = w.snap.Delinked
	}
	if d.Dying {
		return w, nil
	}
	d.Dying = true
	return w, s.save(w.r)
}

func (s *session) volumeBurial(t primitives.Tombstone, erase primitives.Erase) (*burial, error) {
	r, err := s.loadFile(trashFile(t.ID))
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.VolumeGone {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.checkDependents(primitives.URI{Device: s.name, Volume: r.Delinked.Was}, r.clones()); err != nil {
		return nil, err
	}
	left := r.family.clone()
	left.VolumeGone = true
	// What was delinked on its own is destroyed on its own.
	left.Snapshots = slices.DeleteFunc(left.Snapshots, func(x snapshot) bool { return !x.gone() })
	for i := range left.Layers {
		left.Layers[i].Erase = max(left.Layers[i].Erase, erase)
	}
	return newBurial(r, nil, left), nil
}

func (s *session) snapshotBurial(t primitives.Tombstone, volume primitives.Handle, erase primitives.Erase) (*burial, error) {
	r, err := s.find(volume, t.Was.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	snap := r.buried(t.ID)
	if snap == nil {
		return nil, nil
	}
	if err := s.checkDependents(primitives.URI{Device: s.name, Volume: r.Name, Snapshot: snap.Delinked.Was}, snap.Clones); err != nil {
		return nil, err
	}
	left := r.family.clone()
	left.Snapshots = slices.DeleteFunc(left.Snapshots, func(x snapshot) bool { return x.Handle == snap.Handle })
	if l := left.layer(snap.Layer); l != nil {
		l.Erase = max(l.Erase, erase) // now, or when the last overlay over it goes
	}
	return newBurial(r, snap, left), nil
}

func newBurial(r record, snap *snapshot, left *family) *burial {
	gone := left.unneeded()
	left.drop(gone)
	if left.VolumeGone && len(left.Snapshots) == 0 {
		left = nil
	}
	return &burial{r: r, snap: snap, left: left, gone: gone}
}

// checkErase refuses to wipe bytes that also have a name outside the device:
// an adopted file is its owner's as well.
func (s *session) checkErase(w *burial) error {
	for _, l := range w.gone {
		if l.Erase == primitives.EraseNone {
			continue
		}
		info, err := s.lstat(l.file())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Sys().(*syscall.Stat_t).Nlink > 1 {
			return primitives.Errorf(primitives.CodeUnsupported, "the bytes also have a name outside the device").
				Trying("remove that file first, or destroy with erase none")
		}
	}
	return nil
}

// endBurial takes the files away and then the tombstone.
func (s *session) endBurial(w *burial) error {
	var j *job
	if w.left == nil && w.r.Origin != nil {
		var err error
		if j, err = s.note(newID(), work{Volume: w.r.Handle, Name: w.r.Name, Origin: w.r.Origin}); err != nil {
			return err
		}
	}
	for _, l := range w.gone {
		if err := s.remove(l.file()); err != nil {
			return errors.Join(err, s.end(j))
		}
	}
	if w.left != nil {
		return s.save(record{w.left, w.r.file})
	}
	if err := s.remove(w.r.file); err != nil {
		return errors.Join(err, s.end(j))
	}
	if j == nil {
		return nil
	}
	if err := s.unrefer(*w.r.Origin, w.r.Handle); err != nil {
		j.hold.release() // the note stays for the next Open
		return err
	}
	return s.end(j)
}

// release takes one layer's file away, erased as is owed.
func (s *session) release(l layer) error {
	if l.Erase > primitives.EraseNone {
		if err := s.erase(context.Background(), l, nil); err != nil {
			return err
		}
	}
	return s.remove(l.file())
}

func (s *session) eraseAll(ctx context.Context, layers []layer, report func(primitives.Progress)) error {
	for _, l := range layers {
		if l.Erase == primitives.EraseNone {
			continue
		}
		use, err := s.layerUse(l.ID)
		if err != nil {
			return err
		}
		if use == beingRead {
			return primitives.Errorf(primitives.CodeConflict, "the bytes are being read").Trying("repeat when the read has ended")
		}
		if err := s.erase(ctx, l, report); err != nil {
			return fmt.Errorf("erase %s: %w", s.host(l.file()), err)
		}
	}
	return nil
}

// erase discards or overwrites what a file holds.
func (s *session) erase(ctx context.Context, l layer, report func(primitives.Progress)) error {
	f, err := s.open(l.file(), os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s.about("erase", l.file())
	if l.Erase == primitives.EraseZero {
		if err := overwrite(ctx, f, info.Size(), report); err != nil {
			return err
		}
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, max(info.Size(), 1))
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return f.Sync()
}

// overwrite puts zeros over everything that has blocks, and waits until they
// are on the disk.
func overwrite(ctx context.Context, f *os.File, size int64, report func(primitives.Progress)) error {
	for e, err := range (&rawImage{f: f}).extents(ctx, 0, size) {
		if err != nil {
			return err
		}
		for off := e.Off; off < e.Off+e.Len; off += copyChunk {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(copyChunk, e.Off+e.Len-off)
			if err := writeZeros(f, off, n); err != nil {
				return err
			}
			if report != nil {
				report(primitives.Progress{Done: off + n, Total: size, Note: "erasing"})
			}
		}
	}
	return f.Sync()
}
