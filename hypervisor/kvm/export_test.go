// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// What the tests reach: an adapter over a fake, and the deciding parts.
var (
	NewOver        = newOver
	TargetName     = targetName
	CompareTargets = compareTargets
	FreeTarget     = freeTarget
	FreeSlots      = freeSlots
	Classify       = classify
	DiskXML        = diskXML
	CheckMapping   = checkMapping
	CheckGrowth    = checkGrowth
	NewAlias       = newAlias
	IDOf           = idOf
	SourceOf       = sourceOf
)

// MergeDisks merges the disks of both halves of a domain.
func MergeDisks(live, config *libvirtxml.Domain) []hypervisor.Disk {
	return view{live: live, config: config}.disks(func(string) bool { return false })
}

// PlanAttach decides on an attach; it returns the outcomes to reach and the target.
func PlanAttach(live, config *libvirtxml.Domain, r hypervisor.AttachRequest) (onLive, onConfig hypervisor.Outcome, target string, err error) {
	v := view{Domain: virt.Domain{Name: "dom", Persistent: config != nil}, live: live, config: config}
	plan, err := planAttach(v, r, newAlias(r.Disk))
	if plan.disk != nil {
		target = plan.disk.Target.Dev
	}
	return plan.live, plan.config, target, err
}

// CheckOverlay reports why a running disk on a source cannot switch to a mapping.
func CheckOverlay(now hypervisor.Source, to primitives.Mapping) error {
	return checkOverlay(hypervisor.DiskSwitch{Disk: "d", To: to}, now)
}
