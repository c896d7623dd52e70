// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// image is the bytes of a layer as a guest would see them. Offsets are within
// its size. Calls may run at once, except for close.
type image interface {
	readAt(p []byte, off int64) error
	writeAt(p []byte, off int64) error
	zeroAt(off, n int64) error
	extents(ctx context.Context, off, n int64) iter.Seq2[primitives.Extent, error] // what may be other than zero
	sync(ctx context.Context) error
	close() error
	kill() // close without any care for what was written
}

// openImage opens a chain, nearest first, of a volume of that size.
func (s *session) openImage(ctx context.Context, chain []layerRef, size int64, writable bool) (image, error) {
	if chain[0].Format == primitives.FormatQcow2 {
		return s.openQcow2(ctx, chain, size, writable)
	}
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	f, err := s.open(chain[0].file(), flag)
	if err != nil {
		return nil, err
	}
	return &rawImage{f: f}, nil
}

// rawImage is a raw file, which is the volume byte by byte. An adopted file may
// end within the volume's last sector; what is missing reads as zero.
type rawImage struct{ f *os.File }

func (r *rawImage) readAt(p []byte, off int64) error {
	n, err := r.f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

func (r *rawImage) writeAt(p []byte, off int64) error {
	_, err := r.f.WriteAt(p, off)
	return err
}

func (r *rawImage) zeroAt(off, n int64) error {
	return zeroRange(r.f, off, n)
}

// zeroRange makes a hole where the file system can, and writes zeros elsewhere.
func zeroRange(f *os.File, off, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, off, n)
	}
	return err
}

func writeZeros(f *os.File, off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:part], off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

func (r *rawImage) sync(context.Context) error { return r.f.Sync() }
func (r *rawImage) close() error               { return r.f.Close() }
func (r *rawImage) kill()                      { _ = r.f.Close() }

// makeImage makes the file of a new layer: size bytes of zeros, or of what lies
// below it, taking no space. The device's lock is held.
func (s *session) makeImage(ctx context.Context, l layer, size int64) error {
	if l.Format == primitives.FormatQcow2 {
		return s.makeQcow2(ctx, l, size)
	}
	f, err := s.create(l.file(), imagePerm)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if errors.Is(err, unix.EFBIG) || errors.Is(err, unix.EINVAL) {
		err = primitives.Invalid("size", "%d bytes are more than a file may have on this file system", size)
	}
	return errors.Join(err, f.Close())
}

// imagePerm keeps guests' bytes from other users; libvirt gives a disk to
// QEMU's user for as long as the guest runs.
const imagePerm = 0o600
