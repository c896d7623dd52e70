// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// lockFile is locked byte by byte, with locks that belong to an open file
// (F_OFD_SETLK in fcntl(2)) and therefore end with the process that crashes:
// byte 0 around every change of a record; beyond it one byte per layer, held
// exclusively while somebody writes the layer and shared while somebody reads
// it. They hold between processes and, over NFS, between hosts.
const lockFile = "lock"

// hold is one held lock.
type hold struct{ f *os.File }

// release ends the lock. A repeat does nothing.
func (h *hold) release() {
	if h == nil || h.f == nil {
		return
	}
	// By name: a program that is being started at this moment has a copy of the
	// descriptor until it begins, and would keep the lock for as long.
	_ = setUnlock(h.f)
	_ = h.f.Close() // nothing was written through it
	h.f = nil
}

func (h *hold) held() bool { return h != nil && h.f != nil }

func layerByte(layer string) int64 {
	sum := sha256.Sum256([]byte(layer))
	return int64(binary.BigEndian.Uint64(sum[:])>>2) | 1
}

func lockAt(at int64, exclusive bool) *unix.Flock_t {
	lk := &unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
	if exclusive {
		lk.Type = unix.F_WRLCK
	}
	return lk
}

// lockMeta takes the device's lock. It waits until ctx ends.
func (t tree) lockMeta(ctx context.Context) (*hold, error) { return t.lockWait(ctx, 0) }

// lockWait takes the exclusive lock of a byte.
func (t tree) lockWait(ctx context.Context, at int64) (*hold, error) {
	f, err := t.open(lockFile, os.O_RDWR)
	if errors.Is(err, unix.EROFS) {
		return &hold{}, nil // nobody on this host can change what the lock protects
	}
	if err != nil {
		return nil, err
	}
	err = setLock(f, unix.F_OFD_SETLK, at)
	if err == nil {
		return &hold{f}, nil
	}
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return nil, errors.Join(err, f.Close())
	}
	granted := make(chan error, 1)
	go func() { granted <- setLock(f, unix.F_OFD_SETLKW, at) }()
	select {
	case err := <-granted:
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &hold{f}, nil
	case <-ctx.Done():
		// The wait in the kernel cannot be called off; it ends with the present
		// holder, which keeps the lock for moments.
		go func() {
			if err := <-granted; err == nil {
				_ = setUnlock(f)
			}
			_ = f.Close() // nothing was written through it
		}()
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, context.Cause(ctx)
		}
		return nil, (&primitives.Error{Code: primitives.CodeConflict, Err: context.Cause(ctx)}).
			Trying("repeat: another operation held the lock")
	}
}

// still runs f while nobody changes a record or moves one: what reads a folder
// beside the renames of others may miss what is there all the time. Btrfs gives
// a name that is replaced a new place, and a folder that was opened before ends
// before that place.
func (s *session) still(ctx context.Context, f func() error) error {
	if s.meta.held() {
		return f()
	}
	h, err := s.lockMeta(ctx)
	if err != nil {
		return err
	}
	defer h.release()
	return f()
}

func setUnlock(f *os.File) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
}

func setLock(f *os.File, cmd int, at int64) error {
	for {
		err := unix.FcntlFlock(f.Fd(), cmd, lockAt(at, true))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// lockLayer takes a layer's lock, or answers nil when somebody else's is in the way.
func (t tree) lockLayer(layer string, exclusive bool) (*hold, error) {
	flag := os.O_RDWR
	if !exclusive {
		flag = os.O_RDONLY
	}
	f, err := t.open(lockFile, flag)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, lockAt(layerByte(layer), exclusive))
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &hold{f}, nil
}

// layerUse is who holds a layer's lock now.
type layerUse uint8

const (
	unused layerUse = iota
	beingRead
	beingWritten
)

func (t tree) layerUse(layer string) (layerUse, error) {
	f, err := t.open(lockFile, os.O_RDONLY)
	if err != nil {
		return unused, err
	}
	defer f.Close()
	lk := lockAt(layerByte(layer), true)
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, lk); err != nil {
		return unused, err
	}
	switch lk.Type {
	case unix.F_WRLCK:
		return beingWritten, nil
	case unix.F_RDLCK:
		return beingRead, nil
	}
	return unused, nil
}

// anyLayerUsed reports whether anybody, in this process or another, reads or
// writes any layer.
func (t tree) anyLayerUsed() (bool, error) {
	f, err := t.open(lockFile, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer f.Close()
	lk := &unix.Flock_t{Type: unix.F_WRLCK, Start: 1} // to the end
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, lk); err != nil {
		return false, err
	}
	return lk.Type != unix.F_UNLCK, nil
}
