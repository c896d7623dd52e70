// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"cmp"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// Buses that a disk of tenon's can have, and what their target names begin with.
const (
	busVirtio = "virtio"
	busSCSI   = "scsi"
)

var targetPrefixes = map[string]string{busVirtio: "vd", busSCSI: "sd"}

// targetName returns the n-th name: vda, …, vdz, vdaa, ….
func targetName(prefix string, n int) string {
	var letters string
	for n++; n > 0; n = (n - 1) / 26 {
		letters = string(rune('a'+(n-1)%26)) + letters
	}
	return prefix + letters
}

// compareTargets orders vdz before vdaa.
func compareTargets(a, b string) int {
	return cmp.Or(strings.Compare(a[:min(2, len(a))], b[:min(2, len(b))]), cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// freeTarget returns the first name that neither half of a domain uses. A disk
// that is leaving has its name until it is gone (CloudStack #3290, #14214), and
// libvirt shows it until then.
func freeTarget(bus string, halves ...*libvirtxml.Domain) string {
	taken := map[string]bool{}
	for _, half := range halves {
		for _, d := range disksIn(half) {
			if d.Target != nil {
				taken[d.Target.Dev] = true
			}
		}
	}
	for n := 0; ; n++ {
		if name := targetName(targetPrefixes[bus], n); !taken[name] {
			return name
		}
	}
}

// freeSlots counts the virtio disks that can be plugged into a running domain,
// or -1 where that is not known. On a PCI Express machine each takes a root port
// that was there when the domain started.
func freeSlots(d *libvirtxml.Domain) int {
	if d == nil || d.Devices == nil {
		return -1
	}
	const slotsOfPCI = 32
	free := map[uint]int{} // bus: slots
	var conventional, express bool
	for _, c := range d.Devices.Controllers {
		if c.Type != "pci" || c.Index == nil {
			continue
		}
		switch c.Model {
		case "pci-root":
			conventional = true
			free[*c.Index] = slotsOfPCI - 1 // slot 0 is the host bridge
		case "pci-bridge":
			free[*c.Index] = slotsOfPCI - 1
		case "pcie-root":
			express = true
		case "pcie-root-port", "pcie-switch-downstream-port":
			free[*c.Index] = 1
		}
	}
	if !conventional && !express {
		return -1
	}
	total := 0
	used := slotsUsed(d)
	for bus, slots := range free {
		total += max(0, slots-len(used[bus]))
	}
	return total
}

// slotsUsed returns, for each PCI bus, the slots that devices of a domain take.
func slotsUsed(d *libvirtxml.Domain) map[uint]map[uint]bool {
	used := map[uint]map[uint]bool{}
	for _, a := range addresses(d.Devices) {
		if a == nil || a.PCI == nil || a.PCI.Bus == nil || a.PCI.Slot == nil {
			continue
		}
		if used[*a.PCI.Bus] == nil {
			used[*a.PCI.Bus] = map[uint]bool{}
		}
		used[*a.PCI.Bus][*a.PCI.Slot] = true
	}
	return used
}

// addresses lists the addresses of all devices that can sit on a PCI bus.
func addresses(d *libvirtxml.DomainDeviceList) []*libvirtxml.DomainAddress {
	var out []*libvirtxml.DomainAddress
	for _, x := range d.Disks {
		out = append(out, x.Address)
	}
	for _, x := range d.Controllers {
		out = append(out, x.Address)
	}
	for _, x := range d.Interfaces {
		out = append(out, x.Address)
	}
	for _, x := range d.Hostdevs {
		out = append(out, x.Address)
	}
	for _, x := range d.Filesystems {
		out = append(out, x.Address)
	}
	for _, x := range d.Videos {
		out = append(out, x.Address)
	}
	for _, x := range d.Sounds {
		out = append(out, x.Address)
	}
	for _, x := range d.RNGs {
		out = append(out, x.Address)
	}
	for _, x := range d.Inputs {
		out = append(out, x.Address)
	}
	for _, x := range d.Watchdogs {
		out = append(out, x.Address)
	}
	for _, x := range d.Shmems {
		out = append(out, x.Address)
	}
	for _, x := range d.Memorydevs {
		out = append(out, x.Address)
	}
	if d.MemBalloon != nil {
		out = append(out, d.MemBalloon.Address)
	}
	if d.VSock != nil {
		out = append(out, d.VSock.Address)
	}
	return out
}

// hasSCSI reports whether a domain has a controller that a disk can be plugged
// into. libvirt would add one by itself, of a kind that guests have no driver for.
func hasSCSI(d *libvirtxml.Domain) bool {
	if d == nil || d.Devices == nil {
		return false
	}
	for _, c := range d.Devices.Controllers {
		if c.Type == "scsi" && (c.Model == "virtio-scsi" || c.Model == "virtio-transitional" || c.Model == "virtio-non-transitional") {
			return true
		}
	}
	return false
}
