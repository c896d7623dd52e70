// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// AddForeignDisk gives a domain, in all its halves, a writable disk that is not
// tenon's, as somebody else's tools do. A disk of that target is replaced.
func (h *Host) AddForeignDisk(id hypervisor.DomainID, target string, source hypervisor.Source) {
	h.AddForeign(id, target, source, primitives.ReadWrite)
}

// AddForeign is AddForeignDisk with a choice of access.
func (h *Host) AddForeign(id hypervisor.DomainID, target string, source hypervisor.Source, access primitives.Access) {
	h.at(id, func(d *domain) {
		x := disk{target: target, bus: busVirtio, access: access, source: source, size: sizeOf(source)}
		if d.up {
			x.instance = h.nextInstance()
			d.live = append(without(d.live, target), x)
		}
		if d.persistent {
			d.config = append(without(d.config, target), x)
		}
	})
}

// RemoveDisk takes a disk away, tenon's or not, as somebody else's tools do.
func (h *Host) RemoveDisk(id hypervisor.DomainID, target string) {
	h.at(id, func(d *domain) {
		d.live, d.config = without(d.live, target), without(d.config, target)
	})
}

// Drop is RemoveDisk for one of tenon's.
func (h *Host) Drop(id hypervisor.DomainID, disk hypervisor.DiskID) {
	h.at(id, func(d *domain) {
		if x := find(d.live, disk); x != nil {
			d.live = without(d.live, x.target)
		}
		if x := find(d.config, disk); x != nil {
			d.config = without(d.config, x.target)
		}
	})
}

// SetJob says that a block job, such as "copy", runs on a disk; "" that none does,
// also where one was begun by StartMove.
func (h *Host) SetJob(id hypervisor.DomainID, target, job string) {
	h.at(id, func(d *domain) {
		if x := byTarget(d.live, target); x != nil {
			x.job, x.copy = job, nil
		}
	})
}
