// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserveBytes are kept for taking volumes away: delink and destroy write a
// record before they free anything, and could not on a full file system. The
// lock file, whose bytes nobody reads, holds them. XFS needs an aligned chunk for
// new inodes, so a few blocks are not enough.
const reserveBytes = 1 << 20

// takeReserve takes the reserve where it is not held, if there is room.
func (t tree) takeReserve() error {
	info, err := t.lstat(lockFile)
	if err != nil || info.Size() >= reserveBytes {
		return err
	}
	f, err := t.open(lockFile, os.O_RDWR)
	if err != nil {
		return err
	}
	// Zero blocks are no reserve on a file system that stores them as holes, so
	// this asks for the blocks themselves.
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes), f.Close())
}

// keepReserve takes the reserve unless this backend knows that it is held: to
// look costs a destroy an entry of its own.
func (b *backend) keepReserve(ctx context.Context) {
	b.mu.Lock()
	held := b.reserved
	b.mu.Unlock()
	if held {
		return
	}
	s, err := b.change(ctx)
	if err != nil {
		return // the next destroy tries again
	}
	defer s.leave()
	err = s.takeReserve() // there is room, or there is not
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reserved = err == nil
}

// spendReserve gives the reserve back to the file system.
func (t tree) spendReserve() error {
	f, err := t.open(lockFile, os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(0), f.Sync(), f.Close())
}

// freeing does what takes something away, if need be out of the reserve. The
// next change that finds room takes the reserve again.
func (b *backend) freeing(ctx context.Context, do func() error) error {
	err := do()
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	s, enter := b.reach(ctx, true)
	if enter != nil {
		return err
	}
	spent := s.spendReserve()
	b.mu.Lock()
	b.reserved = false
	b.mu.Unlock()
	s.leave()
	if spent != nil {
		return errors.Join(err, spent)
	}
	return do()
}
