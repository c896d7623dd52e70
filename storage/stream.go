// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// Read opens a volume or snapshot for reading. The Reader holds the object until
// Close: nothing takes it away or, for a volume, writes to it meanwhile.
func (d *Device) Read(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
	c := call{name: "read", uri: u, op: op, held: true, keys: reading(u)}
	if err := d.object(u); err != nil {
		return nil, d.refuse(c.name, c.uri, err)
	}
	r, l, err := hold(ctx, d, c, func(ctx context.Context, op primitives.Op) (primitives.Reader, error) {
		r, err := d.backend.Read(ctx, u, op)
		if err == nil && r == nil {
			err = errors.New("the driver returned no reader")
		}
		return r, err
	}, func(late primitives.Reader) error { return late.Close() })
	if err != nil {
		return nil, err
	}
	l.answered()
	return &reader{d: d, u: u, r: r, l: l}, nil
}

// reader is a Reader that holds its object.
type reader struct {
	d *Device
	u primitives.URI
	r primitives.Reader
	l *lease

	once sync.Once
	err  error
}

func (r *reader) Size() int64 { return r.r.Size() }

// ReadAt waits for the driver without limit, since io.ReaderAt has no context;
// Copy, which has one, does not wait for it.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	start := time.Now()
	n, err := r.readAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = classify("read-at", r.u, err)
		r.d.stats.record("read-at", err, time.Since(start))
		r.d.logFailure(r.l.ctx, call{name: "read-at", uri: r.u}, err, time.Since(start))
		return n, err
	}
	r.d.stats.record("read-at", nil, time.Since(start))
	return n, err
}

func (r *reader) readAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, primitives.Invalid("offset", "%d is negative", off)
	}
	if r.d.life.Err() != nil {
		return 0, errClosed
	}
	n, err := protected(func() (int, error) { return r.r.ReadAt(p, off) })
	if errors.Is(err, io.EOF) {
		err = io.EOF // callers compare it, as io.ReaderAt promises
	}
	return n, err
}

// Close gives the object back.
func (r *reader) Close() error {
	r.once.Do(func() {
		_, err := protected(func() (struct{}, error) { return struct{}{}, r.r.Close() })
		r.err = classify("close", r.u, err)
		r.l.end(r.d, nil, nil)
	})
	return r.err
}

// Write opens a volume for writing, or makes one. The Writer holds the volume
// until Commit succeeded or Abort: everybody else gets CodeConflict.
func (d *Device) Write(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	c := call{name: "write", uri: u, op: w.Op, held: true, keys: changing(u), args: arguments(w.Op, "write %s", u.Short())}
	if w.Create {
		c.scope, c.keys = primitives.ScopeVolume, naming(u)
		c.args = arguments(w.Op, "create %s size %d format %q", u.Short(), w.Size, w.Format)
	}
	if err := d.writable(ctx, u, w); err != nil {
		return nil, d.refuse(c.name, c.uri, err)
	}
	wr, l, err := hold(ctx, d, c, func(ctx context.Context, op primitives.Op) (*writer, error) {
		w.Op = op
		inner, err := d.backend.Write(ctx, u, w)
		if err == nil && inner == nil {
			err = errors.New("the driver returned no writer")
		}
		return &writer{d: d, u: u, w: inner, fresh: w.Create}, err
	}, func(late *writer) error {
		return errors.Join(errors.New("the caller left"), late.w.Abort(context.Background()))
	})
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		return &replayed{obj: *wr.committed}, nil
	}
	wr.l = l
	l.answered()
	return wr, nil
}

func (d *Device) writable(ctx context.Context, u primitives.URI, w primitives.WriteRequest) error {
	if err := d.volume("uri", u); err != nil {
		return err
	}
	if w.Resume && w.Op.ID == "" {
		return primitives.Invalid("request id", "it is empty; an interrupted write is resumed with the id that it had")
	}
	if !w.Create {
		return nil
	}
	if err := d.size(ctx, w.Size); err != nil {
		return err
	}
	return d.format(ctx, w.Format)
}

// writer is a Writer that holds its volume.
type writer struct {
	d     *Device
	u     primitives.URI
	w     primitives.Writer
	l     *lease
	fresh bool

	mu        sync.Mutex         // guards the rest; held during Commit and Abort
	committed *primitives.Object // set before the lease ends, never changed then
	over      bool               // the lease is ended
}

func (w *writer) change(op string, off, n int64, run func() error) error {
	start := time.Now()
	err := func() error {
		switch {
		case off < 0 || n < 0:
			return primitives.Invalid("offset", "%d bytes at %d are no range", n, off)
		case w.d.life.Err() != nil:
			return errClosed
		}
		_, err := protected(func() (struct{}, error) { return struct{}{}, run() })
		return err
	}()
	err = classify(op, w.u, err)
	w.d.stats.record(op, err, time.Since(start))
	if err != nil {
		w.d.logFailure(w.l.ctx, call{name: op, uri: w.u}, err, time.Since(start))
	}
	return err
}

func (w *writer) WriteAt(p []byte, off int64) (n int, err error) {
	err = w.change("write-at", off, int64(len(p)), func() (err error) { n, err = w.w.WriteAt(p, off); return err })
	return n, err
}

func (w *writer) ZeroAt(off, n int64) error {
	return w.change("zero-at", off, n, func() error { return w.w.ZeroAt(off, n) })
}

// Commit makes the volume durable and visible. After an error the Writer still
// holds the volume: commit again or abort.
func (w *writer) Commit(ctx context.Context) (primitives.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.committed != nil {
		return *w.committed, nil
	}
	if w.over {
		return primitives.Object{}, w.d.refuse("commit", w.u, primitives.Errorf(primitives.CodeInvalid, "the writer is aborted"))
	}
	c := call{name: "commit", uri: w.u, long: true}
	obj, err := perform(ctx, w.d, c, func(ctx context.Context, _ primitives.Op) (primitives.Object, error) { return w.w.Commit(ctx) })
	if err != nil {
		return primitives.Object{}, err
	}
	w.committed, w.over = &obj, true
	w.l.end(w.d, w, nil)
	return obj, nil
}

// Abort gives everything up. The volume is free for others afterwards, even if
// the driver failed to clean up: what is left is Incomplete.
func (w *writer) Abort(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return nil
	}
	w.over = true
	given := errors.New("the writer was aborted")
	release := sync.OnceFunc(func() { w.l.end(w.d, nil, given) })
	aborted := make(chan error, 1)
	go func() {
		// Aborting is clean-up and outlives the request that failed.
		err := do(context.WithoutCancel(ctx), w.d, call{name: "abort", uri: w.u}, func(ctx context.Context, _ primitives.Op) error {
			defer release() // when the driver is done with the volume, however late
			return w.w.Abort(ctx)
		})
		if w.d.life.Err() != nil {
			// Refused, because the device is closed; a driver takes back what is
			// half made all the same.
			_, err = protected(func() (struct{}, error) { return struct{}{}, w.w.Abort(context.WithoutCancel(ctx)) })
			release()
		}
		aborted <- classify("abort", w.u, err)
	}()
	select {
	case err := <-aborted:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case err := <-aborted:
		return err
	case <-t.C:
		return classify("abort", w.u, fmt.Errorf("it goes on by itself: %w", ended(ctx)))
	}
}

// replayed is the Writer of a request that was committed before: it takes the
// same bytes again and lets them fall.
type replayed struct{ obj primitives.Object }

func (r *replayed) WriteAt(p []byte, off int64) (int, error) {
	if err := r.ZeroAt(off, int64(len(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (r *replayed) ZeroAt(off, n int64) error {
	if off < 0 || n < 0 || off > r.obj.Size || n > r.obj.Size-off {
		return classify("write-at", r.obj.URI, primitives.Invalid("offset", "%d bytes at %d are not within the volume's %d", n, off, r.obj.Size))
	}
	return nil
}

func (r *replayed) Commit(context.Context) (primitives.Object, error) { return r.obj, nil }

func (r *replayed) Abort(context.Context) error { return nil }
