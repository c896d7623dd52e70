// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"sync"

	"github.com/tenon-storage/tenon/hypervisor"
)

// Deafen makes a running domain's guest ignore requests until hear is called:
// what it was asked meanwhile, it does then. Deafness, like every other manner,
// ends with the guest.
func (h *Host) Deafen(id hypervisor.DomainID) (hear func()) {
	return h.manner(id, func(d *domain, on bool) { d.deaf = on && d.up })
}

// Refuse makes a running domain's guest refuse to give disks back until relent is
// called.
func (h *Host) Refuse(id hypervisor.DomainID) (relent func()) {
	return h.manner(id, func(d *domain, on bool) { d.refuses = on && d.up })
}

// HangAgent makes a running domain's guest agent take requests without ever
// answering until resume is called. A freeze that it took has happened.
func (h *Host) HangAgent(id hypervisor.DomainID) (resume func()) {
	return h.manner(id, func(d *domain, on bool) { d.hung = on && d.up })
}

// Stall makes what runs a domain stop answering until resume is called. What it
// was asked meanwhile happens then, also where the caller has given up.
func (h *Host) Stall(id hypervisor.DomainID) (resume func()) {
	return h.manner(id, func(d *domain, on bool) {
		d.stalled = on && d.up
		if d.stalled {
			return
		}
		waiting := d.late
		d.late = nil
		for _, l := range waiting {
			l.done <- l.effect(d)
		}
	})
}

// manner changes how a domain behaves, and back.
func (h *Host) manner(id hypervisor.DomainID, set func(*domain, bool)) (back func()) {
	h.at(id, func(d *domain) { set(d, true) })
	return sync.OnceFunc(func() {
		h.mu.Lock()
		_, exists := h.domains[id]
		h.mu.Unlock()
		if exists {
			h.at(id, func(d *domain) { set(d, false) })
		}
	})
}

// settle lets a guest do what it was asked to do, if it hears; mu is held.
func (h *Host) settle(d *domain) {
	if d.state != hypervisor.StateRunning || d.deaf || d.stalled {
		return
	}
	var kept []disk
	for _, x := range d.live {
		if x.detaching && !d.refuses {
			continue
		}
		x.detaching = false
		kept = append(kept, x)
	}
	d.live = kept
	if d.stopping {
		h.end(d, "shutdown")
	}
}

// Frozen reports whether the file systems of a domain's guest are frozen.
func (h *Host) Frozen(id hypervisor.DomainID) (frozen bool) {
	h.see(id, func(d *domain) { frozen = d.frozen })
	return frozen
}

// Disks lists a domain's disks as they are, without any adapter.
func (h *Host) Disks(id hypervisor.DomainID) (disks []hypervisor.Disk) {
	h.see(id, func(d *domain) { disks = d.view().disks() })
	return disks
}

// Size returns how many bytes a running domain's guest sees of a disk; 0: it has
// no such disk.
func (h *Host) Size(id hypervisor.DomainID, disk hypervisor.DiskID) (size int64) {
	h.see(id, func(d *domain) {
		if x := find(d.live, disk); x != nil {
			size = x.size
		}
	})
	return size
}

// see looks at a domain; one that is gone shows nothing.
func (h *Host) see(id hypervisor.DomainID, look func(*domain)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[id]; d != nil {
		look(d)
	}
}
