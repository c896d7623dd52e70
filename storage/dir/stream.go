// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"io"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// stream is an open image with the lock of its layer.
type stream struct {
	b    *backend
	u    primitives.URI
	size int64
	hold *hold

	mu   sync.RWMutex // held shared by I/O; guards img, which is nil once closed
	img  image
	lost bool // abandoned by Close of the device
}

// track makes Close of the device end the stream.
func (b *backend) track(st *stream) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed()
	}
	b.streams[st] = true
	return nil
}

// abandon ends the stream as the death of the process would.
func (st *stream) abandon() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.img != nil {
		st.img.kill()
		st.img = nil
	}
	st.lost = true
	st.hold.release()
}

func (st *stream) untrack() {
	st.b.mu.Lock()
	defer st.b.mu.Unlock()
	delete(st.b.streams, st)
}

// shut closes the image and keeps the lock. A repeat does nothing.
func (st *stream) shut() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.img == nil {
		return nil
	}
	img := st.img
	st.img = nil
	return img.close()
}

// io runs f on the open image for a range that lies within it.
func (st *stream) io(off, n int64, f func(image) error) error {
	if off < 0 || n < 0 || n > st.size || off > st.size-n {
		return primitives.Invalid("offset", "%d bytes at %d are not within the volume's %d bytes", n, off, st.size).On(st.u)
	}
	st.mu.RLock()
	defer st.mu.RUnlock()
	if st.img == nil {
		return fail(primitives.CodeUnavailable, st.u, "it is closed")
	}
	if n == 0 {
		return nil
	}
	return classify(st.u, f(st.img))
}

// reader reads a volume or snapshot. Whatever happens to the object meanwhile,
// the bytes stay: nobody writes a layer that is being read.
type reader struct{ *stream }

func (r reader) Size() int64 { return r.size }

func (r reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, primitives.Invalid("offset", "%d is negative", off).On(r.u)
	}
	if off >= r.size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := min(int64(len(p)), r.size-off)
	if err := r.io(off, n, func(img image) error { return img.readAt(p[:n], off) }); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (r reader) Close() error {
	err := r.shut()
	r.untrack()
	r.hold.release()
	return classify(r.u, err)
}

// Read opens a volume or snapshot for reading.
func (b *backend) Read(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
	r, err := b.read(ctx, u, op)
	if err != nil {
		return nil, classify(u, err)
	}
	return r, nil
}

func (b *backend) read(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
	if err := b.mine(u); err != nil {
		return nil, err
	}
	s, err := b.change(ctx)
	if err != nil {
		return nil, err
	}
	defer s.leave()
	src, err := s.source(u, op)
	if err != nil {
		return nil, err
	}
	st := &stream{b: b, u: u, size: src.size}
	if st.hold, err = s.lockSource(u, src); err != nil {
		return nil, err
	}
	s.meta.release()
	if st.img, err = s.openImage(ctx, src.layer.chain(), src.size, false); err == nil {
		err = b.track(st)
	}
	if err != nil {
		st.abandon()
		return nil, err
	}
	return reader{st}, nil
}

// source is content that can be read.
type source struct {
	record
	snap  *snapshot // nil: the volume
	layer layer
	size  int64
}

// source finds the content of a volume that nobody writes, or of a snapshot.
func (s *session) source(u primitives.URI, op primitives.Op) (source, error) {
	r, cond, err := s.lookup(u.Parent())
	if err != nil {
		return source{}, err
	}
	if u.IsSnapshot() {
		snap := r.snapshot(u.Snapshot)
		if snap == nil {
			return source{}, notFound(u)
		}
		if snap.pending() {
			return source{}, fail(primitives.CodeIncomplete, u, "the snapshot waits for the hypervisor to switch").Trying("settle it first")
		}
		return source{r, snap, *r.layer(snap.Layer), snap.Size}, nil
	}
	if cond != ready {
		_, err := s.whole(u)
		return source{}, err
	}
	if err := checkGeneration(u, op, r.Generation); err != nil {
		return source{}, err
	}
	maps, err := s.mappingsOf(r.Handle)
	if err != nil {
		return source{}, err
	}
	for _, m := range maps {
		if m.Active && m.Access == primitives.ReadWrite {
			return source{}, fail(primitives.CodeInUse, u, "%s writes to it", m.Consumer).By(m.blocker()).Trying("read a snapshot of it")
		}
	}
	return source{r, nil, *r.layer(r.Head), r.Size}, nil
}

// lockSource keeps everybody from writing to the source's layer.
func (s *session) lockSource(u primitives.URI, src source) (*hold, error) {
	h, err := s.lockLayer(src.layer.ID, false)
	if err == nil && h == nil {
		err = fail(primitives.CodeConflict, u, "it is being written")
	}
	return h, err
}
