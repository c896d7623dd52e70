// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// cleanupTime bounds what is taken back after a request has ended.
const cleanupTime = time.Minute

// writer writes a volume. Its layer's lock says that it lives; without it the
// volume is an interrupted write.
type writer struct {
	*stream
	record
	create bool
	job    *job // of an overwrite: only the lock

	end     sync.Mutex // one Commit or Abort at a time; guards what follows
	object  *primitives.Object
	aborted bool
	flushed bool // the bytes are on the disk and the image is closed
}

func (w *writer) WriteAt(p []byte, off int64) (int, error) {
	err := w.io(off, int64(len(p)), func(img image) error { return img.writeAt(p, off) })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *writer) ZeroAt(off, n int64) error {
	return w.io(off, n, func(img image) error { return img.zeroAt(off, n) })
}

// Commit makes the volume durable, then visible.
func (w *writer) Commit(ctx context.Context) (primitives.Object, error) {
	w.end.Lock()
	defer w.end.Unlock()
	switch {
	case w.object != nil:
		return *w.object, nil
	case w.aborted:
		return primitives.Object{}, fail(primitives.CodeConflict, w.u, "the write was aborted")
	}
	o, err := w.commit(ctx)
	if err != nil {
		return primitives.Object{}, classify(w.u, err)
	}
	w.object = &o
	w.untrack()
	return o, nil
}

func (w *writer) commit(ctx context.Context) (primitives.Object, error) {
	if ctx.Err() != nil {
		return primitives.Object{}, context.Cause(ctx)
	}
	if err := w.flush(ctx); err != nil {
		return primitives.Object{}, err
	}
	s, err := w.b.change(ctx)
	if err != nil {
		return primitives.Object{}, err
	}
	defer s.leave()
	r, err := s.loadFile(w.file)
	if err != nil {
		return primitives.Object{}, err
	}
	if r.Handle != w.Handle || r.State != w.State {
		return primitives.Object{}, fail(primitives.CodeConflict, w.u, "it was changed while it was written")
	}
	r.State, r.Writing = stateReady, request{}
	r.Generation++
	if err := s.save(r); err != nil {
		return primitives.Object{}, err
	}
	if w.create {
		err = s.end(w.job)
	} else {
		w.hold.release()
	}
	if err != nil {
		return primitives.Object{}, err
	}
	return s.volumeObject(r, ready)
}

// flush brings the bytes to the disk and closes the image. It may take long, so
// the device's lock is not held.
func (w *writer) flush(ctx context.Context) error {
	if w.flushed {
		return nil
	}
	s, err := w.b.enter(ctx)
	if err != nil {
		return err
	}
	defer s.leave()
	w.mu.RLock()
	img, lost := w.img, w.lost
	w.mu.RUnlock()
	if lost || img == nil {
		return fail(primitives.CodeUnavailable, w.u, "the device was closed during the write")
	}
	if err := img.sync(ctx); err != nil {
		return err
	}
	if err := w.shut(); err != nil {
		return err
	}
	if err := s.syncLayer(w.layer(w.Head).ref()); err != nil {
		return err
	}
	w.flushed = true
	return nil
}

// syncLayer brings a data file and its name to the disk, whoever wrote it.
func (s *session) syncLayer(l layerRef) error {
	f, err := s.open(l.file(), os.O_RDONLY)
	if err != nil {
		return err
	}
	s.about("flush", l.file())
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return s.syncDir(dataDir)
}

// Abort gives the write up.
func (w *writer) Abort(ctx context.Context) error {
	w.end.Lock()
	defer w.end.Unlock()
	if w.object != nil || w.aborted {
		return nil
	}
	w.aborted = true
	w.untrack()
	w.mu.Lock()
	if w.img != nil {
		w.img.kill()
		w.img = nil
	}
	lost := w.lost
	w.mu.Unlock()
	if !w.create {
		w.hold.release() // what is recorded as being written is now an interrupted write
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return classify(w.u, w.takeBack(ctx, lost))
}

// takeBack removes a volume that was being made, also after Close of the device.
func (w *writer) takeBack(ctx context.Context, lost bool) error {
	s, err := w.b.enterEvenClosed(ctx, true)
	if err != nil {
		w.hold.release() // the next Open clears it away
		return err
	}
	defer s.leave()
	if lost {
		// The lock was let go, so another may have gone on with the write since.
		r, err := s.loadFile(w.file)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (r.Handle != w.Handle || r.State != stateCreating) {
			return nil
		}
		if err != nil {
			return err
		}
		if w.job.hold, err = s.lockLayer(w.Head, true); err != nil || w.job.hold == nil {
			return err
		}
	}
	return s.discard(w.record, w.job)
}

// replayed is the writer of a create that was committed before: the bytes that
// the repeat brings are there already.
type replayed struct {
	u      primitives.URI
	size   int64
	object primitives.Object
}

func (r *replayed) check(off, n int64) error {
	if off < 0 || n < 0 || n > r.size || off > r.size-n {
		return primitives.Invalid("offset", "%d bytes at %d are not within the volume's %d bytes", n, off, r.size).On(r.u)
	}
	return nil
}

func (r *replayed) WriteAt(p []byte, off int64) (int, error) {
	if err := r.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (r *replayed) ZeroAt(off, n int64) error                         { return r.check(off, n) }
func (r *replayed) Commit(context.Context) (primitives.Object, error) { return r.object, nil }
func (r *replayed) Abort(context.Context) error                       { return nil }
