// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"cmp"
	"context"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// Attach gives a disk to a domain: live, then in the definition, in two calls,
// because one call for both hides which half failed.
func (a *Adapter) Attach(ctx context.Context, r hypervisor.AttachRequest) (hypervisor.AttachResult, error) {
	r.Bus = cmp.Or(r.Bus, busVirtio)
	if err := checkAttach(r); err != nil {
		return hypervisor.AttachResult{}, err
	}
	unlock, err := a.reserve(ctx, r.Domain, "attach disk "+string(r.Disk))
	if err != nil {
		return hypervisor.AttachResult{}, err
	}
	defer unlock()
	if v, ok := a.glances.take(ctx, r.Domain, r.Name); ok {
		return a.attachGlanced(ctx, v, r)
	}
	v, err := a.lookNamed(ctx, r.Domain, r.Name)
	if err != nil {
		return hypervisor.AttachResult{}, err
	}
	return a.attachSeen(ctx, v, r)
}

// attachGlanced attaches upon a glance. When that is refused and the domain is not
// as it was seen, it attaches to what there is now.
func (a *Adapter) attachGlanced(ctx context.Context, v view, r hypervisor.AttachRequest) (hypervisor.AttachResult, error) {
	res, err := a.attachSeen(ctx, v, r)
	if !mayBeStale(res, err) {
		return res, err
	}
	now, lookErr := a.lookNamed(ctx, r.Domain, r.Name)
	if lookErr == nil && now == v {
		return res, err
	}
	again, againErr := hypervisor.AttachResult{}, lookErr
	if lookErr == nil {
		again, againErr = a.attachSeen(ctx, now, r)
	}
	if err != nil { // so nothing was attached
		return again, againErr
	}
	if againErr == nil {
		if again.Live == hypervisor.Already {
			again.Live = res.Live
		}
		res = again
	}
	return res, nil
}

// attachSeen attaches to a domain that is as v shows it.
func (a *Adapter) attachSeen(ctx context.Context, v view, r hypervisor.AttachRequest) (hypervisor.AttachResult, error) {
	a.removals.settle(r.Domain, v)
	if disk := find(v.live, r.Disk); disk != nil && a.removals.has(r.Domain, disk.Alias.Name) {
		return hypervisor.AttachResult{}, primitives.Errorf(primitives.CodeConflict,
			"disk %s of domain %s is being detached", r.Disk, v.Name).Trying("wait until it is gone, or repeat the detach")
	}
	plan, err := planAttach(v, r, newAlias(r.Disk))
	if err != nil {
		return hypervisor.AttachResult{}, err
	}
	return a.attach(ctx, r, plan)
}

func checkAttach(r hypervisor.AttachRequest) error {
	if err := checkDomain(r.Domain); err != nil {
		return err
	}
	if err := hypervisor.CheckDiskID(r.Disk); err != nil {
		return err
	}
	if targetPrefixes[r.Bus] == "" {
		return primitives.Invalid("bus", "%q: expected %q or %q", r.Bus, busVirtio, busSCSI)
	}
	if r.Where > hypervisor.ConfigOnly {
		return primitives.Invalid("where", "%d: expected auto, live or config", r.Where)
	}
	return checkMapping(r.Mapping)
}

// attachPlan says what to do for each half: Done stands for "to be done".
type attachPlan struct {
	live, config hypervisor.Outcome
	disk         *libvirtxml.DomainDisk // nil: nothing to do
	have         *libvirtxml.DomainDisk // nil: in neither half
	inLive       bool
	inConfig     bool
}

// planAttach decides how to reach what r asks for from what v shows. A new disk
// gets the alias.
func planAttach(v view, r hypervisor.AttachRequest, alias string) (attachPlan, error) {
	wantLive, wantConfig, err := halves(v, r.Where, "attach")
	if err != nil {
		return attachPlan{}, err
	}
	live, config := find(v.live, r.Disk), find(v.config, r.Disk)
	for _, have := range []*libvirtxml.DomainDisk{live, config} {
		if have != nil && !showsDisk(have, r) {
			return attachPlan{}, primitives.Errorf(primitives.CodeConflict, "domain %s has a disk %s already, on %v as %v",
				v.Name, r.Disk, sourceOf(have), have.Target.Dev).By(primitives.Blocker{Kind: "disk", Name: string(r.Disk)})
		}
	}
	plan := attachPlan{
		live: step(wantLive, live != nil), config: step(wantConfig, config != nil), have: cmp.Or(live, config),
		inLive: live != nil, inConfig: config != nil,
	}
	if plan.live != hypervisor.Done && plan.config != hypervisor.Done {
		return plan, nil
	}
	if err := checkRoom(v, r.Bus, plan); err != nil {
		return attachPlan{}, err
	}
	plan.disk = diskXML(r.Disk, alias, r.Mapping, r.Bus, chooseTarget(v, r.Bus, live, config))
	return plan, nil
}

// halves says which halves of a domain a request means.
func halves(v view, where hypervisor.Where, what string) (live, config bool, err error) {
	switch {
	case where == hypervisor.LiveOnly && v.live == nil:
		return false, false, notRunning(v.Domain, what)
	case where == hypervisor.ConfigOnly && v.config == nil:
		return false, false, primitives.Errorf(primitives.CodeUnsupported, "%s: domain %s has no persistent definition", what, v.Name)
	}
	live = v.live != nil && where != hypervisor.ConfigOnly
	config = v.config != nil && where != hypervisor.LiveOnly
	if !live && !config {
		return false, false, notRunning(v.Domain, what)
	}
	return live, config, nil
}

func step(wanted, there bool) hypervisor.Outcome {
	switch {
	case !wanted:
		return hypervisor.NotAsked
	case there:
		return hypervisor.Already
	}
	return hypervisor.Done
}

// showsDisk reports whether a disk is what r asks for.
func showsDisk(d *libvirtxml.DomainDisk, r hypervisor.AttachRequest) bool {
	have := describe(d)
	return have.Source.Shows(r.Mapping) && have.Access == r.Mapping.Access && have.Bus == r.Bus
}

// chooseTarget keeps the name that the disk has in one half, if the other half
// has room for it.
func chooseTarget(v view, bus string, live, config *libvirtxml.DomainDisk) string {
	have := cmp.Or(live, config)
	if have == nil {
		return freeTarget(bus, v.live, v.config)
	}
	other := v.config
	if live == nil {
		other = v.live
	}
	for _, d := range disksIn(other) {
		if d.Target != nil && d.Target.Dev == have.Target.Dev {
			return freeTarget(bus, v.live, v.config)
		}
	}
	return have.Target.Dev
}

// checkRoom refuses what libvirt would refuse with an error that nobody
// understands, or would do in a way that no guest can use.
func checkRoom(v view, bus string, plan attachPlan) error {
	if bus == busSCSI {
		if plan.live == hypervisor.Done && !hasSCSI(v.live) || plan.config == hypervisor.Done && !hasSCSI(v.config) {
			return primitives.Errorf(primitives.CodeUnsupported, "domain %s has no virtio-scsi controller", v.Name).
				Trying("attach the disk to the virtio bus, or add a virtio-scsi controller to the domain")
		}
		return nil
	}
	if plan.live == hypervisor.Done && freeSlots(v.live) == 0 {
		return primitives.Errorf(primitives.CodeNoSpace, "domain %s has no free PCI slot for another virtio disk", v.Name).
			Trying("attach the disk to the scsi bus, or give the domain more pcie-root-port controllers while it is off")
	}
	return nil
}

// attach does what the plan says.
func (a *Adapter) attach(ctx context.Context, r hypervisor.AttachRequest, plan attachPlan) (hypervisor.AttachResult, error) {
	res := hypervisor.AttachResult{Live: plan.live, Config: plan.config}
	if plan.live == hypervisor.Done {
		if err := a.attachHalf(ctx, r, plan.disk, virt.Live); err != nil {
			return hypervisor.AttachResult{Live: hypervisor.Failed}, err
		}
	}
	if plan.config == hypervisor.Done {
		if err := a.attachHalf(ctx, r, plan.disk, virt.Config); err != nil {
			if plan.live == hypervisor.NotAsked {
				return hypervisor.AttachResult{Config: hypervisor.Failed}, err
			}
			res.Config, res.ConfigErr = hypervisor.Failed, err
		}
	}
	res.Disk = describe(cmp.Or(plan.have, plan.disk))
	res.Disk.Domain = r.Domain
	res.Disk.Live = res.Live == hypervisor.Done || plan.inLive
	res.Disk.Config = res.Config == hypervisor.Done || plan.inConfig
	return res, nil
}

func (a *Adapter) attachHalf(ctx context.Context, r hypervisor.AttachRequest, disk *libvirtxml.DomainDisk, half virt.Half) error {
	text, err := disk.Marshal()
	if err != nil {
		return primitives.Errorf(primitives.CodeInternal, "describe disk %s: %w", r.Disk, err)
	}
	q := ask{what: fmt.Sprintf("attach disk %s as %s to the %v", r.Disk, disk.Target.Dev, half), domain: r.Domain, waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return c.AttachDevice(string(r.Domain), text, half) })
}

// do is call without a value.
func (a *Adapter) do(ctx context.Context, q ask, fn func(virt.Conn) error) error {
	_, err := call(ctx, a, q, func(c virt.Conn) (struct{}, error) { return struct{}{}, fn(c) })
	return err
}

// lock serialises what changes one domain, or one thing of it.
func (a *Adapter) lock(ctx context.Context, name string) (func(), error) {
	unlock, err := a.locks.Lock(ctx, keylock.Key{Name: name})
	if err != nil {
		return nil, ended(ctx, "wait for another operation on "+name)
	}
	return unlock, nil
}

// domainKey is held for one change of a domain's disks, never while a guest is
// waited for.
func domainKey(d hypervisor.DomainID) string { return "domain " + string(d) }

// detachKey is held while a disk's detach is waited for.
func detachKey(d hypervisor.DomainID, id hypervisor.DiskID) string {
	return "detach " + string(d) + " " + string(id)
}

// freezeKey is held from freeze to thaw: a second freeze would fail, and its
// thaw would end the first.
func freezeKey(d hypervisor.DomainID) string { return "freeze " + string(d) }
