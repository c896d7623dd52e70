// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// Converge begins a copy anew, with every write of the guest waiting for both
// sides. QEMU can change a copy under way from 8.2 on, and libvirt 9.0 has no call
// for it.
func (a *Adapter) Converge(ctx context.Context, r hypervisor.MoveRequest) error {
	if err := checkMove(r); err != nil {
		return err
	}
	unlock, err := a.lock(ctx, moveKey(r))
	if err != nil {
		return err
	}
	defer unlock()
	p, err := a.placeNow(ctx, r)
	switch {
	case err != nil:
		return err
	case p.phase == hypervisor.MoveNone:
		return noCopy(r, "")
	case p.phase != hypervisor.MoveCopying, a.copies.synchronous(r.Domain, p.live.Target.Dev, toKey(r)):
		return nil
	}
	if _, err := a.endCopy(ctx, r, p, ready.abort); err != nil {
		return err
	}
	return a.startCopy(ctx, r, true)
}

func noCopy(r hypervisor.MoveRequest, why string) *primitives.Error {
	e := primitives.Errorf(primitives.CodeConflict, "no copy of disk %s of domain %s runs", r.Disk, r.Domain)
	if why != "" {
		e = primitives.Errorf(primitives.CodeConflict, "the copy of disk %s of domain %s has ended without a result: %s", r.Disk, r.Domain, why)
	}
	return e.Trying("begin the move again")
}

// placeNow is place of what the domain shows now.
func (a *Adapter) placeNow(ctx context.Context, r hypervisor.MoveRequest) (place, error) {
	v, err := a.look(ctx, r.Domain)
	if err != nil {
		return place{}, err
	}
	return a.place(ctx, v, r)
}

// endCopy has a copy end in one of the ways that ready names, and returns where the
// move is then. One that was asked before is not asked again.
func (a *Adapter) endCopy(ctx context.Context, r hypervisor.MoveRequest, p place, how string) (place, error) {
	if !p.ending(how) {
		err := a.askCopyToEnd(ctx, r, p.live.Target.Dev, how)
		if now, lookErr := a.placeNow(ctx, r); lookErr != nil || now.live == nil || now.live.Mirror == nil {
			return now, lookErr // it has ended, perhaps before it was asked
		}
		if err != nil {
			return p, err
		}
	}
	return a.awaitJobEnd(ctx, r)
}

// askCopyToEnd keeps others from changing the domain only while it asks.
func (a *Adapter) askCopyToEnd(ctx context.Context, r hypervisor.MoveRequest, target, how string) error {
	unlock, err := a.lock(ctx, domainKey(r.Domain))
	if err != nil {
		return err
	}
	defer unlock()
	end := virt.Conn.BlockJobCancel
	if how == ready.pivot {
		end = virt.Conn.BlockJobSwitch
	}
	q := ask{what: "end the copy of disk " + string(r.Disk), domain: r.Domain, waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return end(c, string(r.Domain), target) })
}

// jobLook is how often a job is looked at when no event comes.
const jobLook = time.Second

// awaitJobEnd looks, again at each event, until the disk has no job or the domain
// is off. libvirt takes the job out of the XML when QEMU has closed the side that
// was given up.
func (a *Adapter) awaitJobEnd(ctx context.Context, r hypervisor.MoveRequest) (place, error) {
	me := a.watchers.join()
	defer a.watchers.leave(me)
	tick := time.NewTicker(jobLook)
	defer tick.Stop()
	for {
		p, err := a.placeNow(ctx, r)
		if err != nil || p.live == nil || p.live.Mirror == nil {
			return p, err
		}
		select {
		case <-me.ready:
			a.watchers.take(me)
		case <-tick.C:
		case <-ctx.Done():
			return p, ended(ctx, "wait for the end of the copy of disk "+string(r.Disk))
		}
	}
}

// FinishMove switches the running domain, then its definition, and verifies both
// in their XML.
func (a *Adapter) FinishMove(ctx context.Context, r hypervisor.MoveRequest) error {
	if err := checkMove(r); err != nil {
		return err
	}
	unlock, err := a.lock(ctx, moveKey(r))
	if err != nil {
		return err
	}
	defer unlock()
	p, err := a.placeNow(ctx, r)
	if err != nil {
		return err
	}
	switch p.phase {
	case hypervisor.MoveNone:
		return noCopy(r, "")
	case hypervisor.MoveCopying:
		return primitives.Errorf(primitives.CodeConflict, "the copy of disk %s of domain %s is not ready", r.Disk, r.Domain).
			Trying("wait until it is")
	case hypervisor.MoveReady:
		if err := a.pivot(ctx, r, p); err != nil {
			return err
		}
	}
	if p.stray != nil {
		return a.bringBack(ctx, r, p.stray)
	}
	return a.moveConfig(ctx, r)
}

// pivot switches the running domain. A job that is gone says nothing: what the
// disk shows afterwards does.
func (a *Adapter) pivot(ctx context.Context, r hypervisor.MoveRequest, p place) error {
	target := p.live.Target.Dev
	p, err := a.endCopy(ctx, r, p, ready.pivot)
	switch {
	case errors.Is(err, primitives.CodeNotFound):
		return nil // a transient domain ended; there is nothing left to switch
	case err != nil:
		return notReady(r, err)
	case p.stray != nil:
		return a.bringBack(ctx, r, p.stray)
	case p.phase == hypervisor.MoveHalf || p.phase == hypervisor.MoveDone:
		return nil
	case p.live == nil:
		return primitives.Errorf(primitives.CodeUnavailable, "domain %s ended while disk %s was switched", r.Domain, r.Disk).
			Trying("look at the domain's definition: it shows which side the disk is on")
	}
	return noCopy(r, a.copies.failure(r.Domain, target, toKey(r)))
}

// notReady turns libvirt's refusal of a pivot that comes too early.
func notReady(r hypervisor.MoveRequest, err error) error {
	e, ok := errors.AsType[*virt.Error](err)
	if !ok || e.Code != virt.CodeBlockCopyActive {
		return err
	}
	return primitives.Errorf(primitives.CodeConflict, "the copy of disk %s of domain %s is not ready: %w", r.Disk, r.Domain, err).
		Trying("wait until it is")
}

// moveConfig makes the definition follow, with the settings that belong to the
// target. libvirt lets the place follow by itself; this compares and verifies, and
// ends a move that was cut off between the two.
func (a *Adapter) moveConfig(ctx context.Context, r hypervisor.MoveRequest) error {
	v, unlock, err := a.claim(ctx, r.Domain, "move disk "+string(r.Disk)+" in the definition")
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // a transient domain ended
	}
	if err != nil {
		return err
	}
	defer unlock()
	disk := find(v.config, r.Disk)
	if disk == nil || definedOn(disk, r.To) {
		return nil
	}
	after := *disk
	driver := libvirtxml.DomainDiskDriver{}
	if disk.Driver != nil {
		driver = *disk.Driver
	}
	after.Driver = &driver
	layMapping(&after, r.To)
	if err := a.redefineDisk(ctx, r.Domain, &after); err != nil {
		return err
	}
	p, err := a.placeNow(ctx, r)
	if err == nil && p.config != nil && !sourceOf(p.config).Shows(r.To) {
		err = primitives.Errorf(primitives.CodeInternal, "the definition of domain %s shows disk %s on %v after it was changed",
			v.Name, r.Disk, sourceOf(p.config))
	}
	return err
}

// definedOn reports whether a disk of a definition is what layMapping makes of it.
func definedOn(d *libvirtxml.DomainDisk, m primitives.Mapping) bool {
	want := &libvirtxml.DomainDisk{}
	layMapping(want, m)
	return sourceOf(d).Shows(m) && d.Driver != nil && d.Driver.Cache == want.Driver.Cache &&
		d.Driver.IO == want.Driver.IO && d.Driver.Discard == want.Driver.Discard
}

// CancelMove ends a copy without its result.
func (a *Adapter) CancelMove(ctx context.Context, r hypervisor.MoveRequest) error {
	if err := checkMove(r); err != nil {
		return err
	}
	unlock, err := a.lock(ctx, moveKey(r))
	if err != nil {
		return err
	}
	defer unlock()
	p, err := a.placeNow(ctx, r)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // a transient domain ended, and its copy with it
	}
	if err == nil {
		err = refuseCancel(r, p)
	}
	if err != nil {
		return err
	}
	if p.phase == hypervisor.MoveNone {
		return a.closeLeft(ctx, r, p)
	}
	p, err = a.endCopy(ctx, r, p, ready.abort)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return refuseCancel(r, p)
}

// refuseCancel refuses where only forward is left.
func refuseCancel(r hypervisor.MoveRequest, p place) error {
	if p.phase == hypervisor.MoveHalf || p.phase == hypervisor.MoveDone || p.ending(ready.pivot) {
		return primitives.Errorf(primitives.CodeConflict, "disk %s of domain %s is on the target already", r.Disk, r.Domain).
			Trying("finish the move")
	}
	return nil
}
