// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"fmt"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// ResizeDisk tells a running domain a disk's new size. QEMU would truncate a
// file to a smaller one without asking, so what it has is read first.
func (a *Adapter) ResizeDisk(ctx context.Context, d hypervisor.DomainID, id hypervisor.DiskID, size int64) error {
	if err := hypervisor.CheckDiskID(id); err != nil {
		return err
	}
	const sector = 512
	if size <= 0 || size%sector != 0 {
		return primitives.Invalid("size", "%d: expected a positive multiple of %d bytes", size, sector)
	}
	v, unlock, err := a.claim(ctx, d, "resize disk "+string(id))
	if err != nil {
		return err
	}
	defer unlock()
	if v.live == nil {
		return notRunning(v.Domain, "resize")
	}
	disk := find(v.live, id)
	if disk == nil {
		return noDisk(d, id)
	}
	if err := refuseBusy(v, id); err != nil {
		return err
	}
	q := ask{what: "read the size of disk " + string(id), domain: d, waits: true}
	have, err := call(ctx, a, q, func(c virt.Conn) (int64, error) { return c.BlockCapacity(string(d), disk.Target.Dev) })
	if err != nil {
		return err
	}
	if err := checkGrowth(have, size, id, describe(disk)); err != nil {
		return err
	}
	q = ask{what: fmt.Sprintf("resize disk %s to %d bytes", id, size), domain: d, waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return c.BlockResize(string(d), disk.Target.Dev, size) })
}

// checkGrowth refuses what QEMU cannot do to a disk, or must not.
func checkGrowth(have, want int64, id hypervisor.DiskID, disk hypervisor.Disk) error {
	switch {
	case want < have:
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s has %d bytes in the guest; shrinking it to %d would cut data off", id, have, want)
	case want > have && disk.Source.Form == primitives.FormNetwork:
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s is reached over %s, whose size QEMU reads when it connects", id, disk.Source.Network.Protocol).
			Trying("detach the disk and attach it again")
	}
	return nil
}
