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

// keepReserve takes the reserve where it is not held, if there is room.
func (t tree) keepReserve() error {
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
	s.leave()
	if spent != nil {
		return errors.Join(err, spent)
	}
	return do()
}
