// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// ResizeDisk tells a running domain a disk's new size and grows its file.
func (a *Adapter) ResizeDisk(ctx context.Context, id hypervisor.DomainID, disk hypervisor.DiskID, size int64) error {
	if err := hypervisor.CheckDiskID(disk); err != nil {
		return err
	}
	const sector = 512
	if size <= 0 || size%sector != 0 {
		return primitives.Invalid("size", "%d: expected a positive multiple of %d bytes", size, sector)
	}
	v, err := a.look(ctx, id)
	if err == nil {
		err = checkGrowth(v, disk, size)
	}
	if err != nil {
		return err
	}
	return a.act(ctx, Call{Name: "resize", Domain: id, Disks: []hypervisor.DiskID{disk}}, func(d *domain) error {
		if err := checkGrowth(d.view(), disk, size); err != nil {
			return err
		}
		x := find(d.live, disk)
		if err := grow(x.source, size); err != nil {
			return err
		}
		x.size = size
		return nil
	})
}

// checkGrowth refuses what a hypervisor cannot do to a disk, or must not.
func checkGrowth(v view, id hypervisor.DiskID, size int64) error {
	if !v.up {
		return notRunning(v, "resize")
	}
	x := find(v.live, id)
	if x == nil {
		return noDisk(v.id, id)
	}
	if err := refuseBusy(v, *x); err != nil {
		return err
	}
	switch {
	case size < x.size:
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s has %d bytes in the guest; shrinking it to %d would cut data off", id, x.size, size)
	case size > x.size && x.source.Form == primitives.FormNetwork && !v.reconnects:
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s is reached over %s, whose size is read at the connection", id, x.source.Network.Protocol).
			Trying("detach the disk and attach it again")
	}
	return nil
}
