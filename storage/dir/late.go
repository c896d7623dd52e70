// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"iter"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// lateImage is opened for writing by the first write. Most volumes are made
// empty, and to start a storage daemon for them takes longer than to make them.
type lateImage struct {
	open func(context.Context) (image, error)

	mu  sync.Mutex // guards img, nil until the first write
	img image
}

func (b *backend) openLate(chain []layerRef, size int64) *lateImage {
	return &lateImage{open: func(ctx context.Context) (image, error) {
		s, err := b.enter(ctx)
		if err != nil {
			return nil, err
		}
		defer s.leave()
		return s.openImage(ctx, chain, size, true)
	}}
}

func (l *lateImage) opened() (image, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.img != nil {
		return l.img, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime) // io.WriterAt knows none
	defer cancel()
	img, err := l.open(ctx)
	if err == nil {
		l.img = img
	}
	return img, err
}

// written returns the image, nil if nothing was written.
func (l *lateImage) written() image {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.img
}

func (l *lateImage) readAt(p []byte, off int64) error {
	img, err := l.opened()
	if err != nil {
		return err
	}
	return img.readAt(p, off)
}

func (l *lateImage) writeAt(p []byte, off int64) error {
	img, err := l.opened()
	if err != nil {
		return err
	}
	return img.writeAt(p, off)
}

func (l *lateImage) zeroAt(off, n int64) error {
	img, err := l.opened()
	if err != nil {
		return err
	}
	return img.zeroAt(off, n)
}

func (l *lateImage) extents(ctx context.Context, off, n int64) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		img, err := l.opened()
		if err != nil {
			yield(primitives.Extent{}, err)
			return
		}
		img.extents(ctx, off, n)(yield)
	}
}

func (l *lateImage) sync(ctx context.Context) error {
	if img := l.written(); img != nil {
		return img.sync(ctx)
	}
	return nil
}

func (l *lateImage) close() error {
	if img := l.written(); img != nil {
		return img.close()
	}
	return nil
}

func (l *lateImage) kill() {
	if img := l.written(); img != nil {
		img.kill()
	}
}
