// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// Pauses between requests to a guest that says nothing: one that is booting
// forgets the first, and only a new one reaches it.
const (
	askAgainFirst = 2 * time.Second
	askAgainMost  = 15 * time.Second
)

// Detach takes a disk away: from the running domain, and, once it is gone there,
// from the definition. While the guest keeps the disk the definition does too,
// so that the disk has one answer to whether it is in use.
func (a *Adapter) Detach(ctx context.Context, d hypervisor.DomainID, id hypervisor.DiskID) (hypervisor.DetachResult, error) {
	var res hypervisor.DetachResult
	if err := hypervisor.CheckDiskID(id); err != nil {
		return res, err
	}
	unlock, err := a.lock(ctx, detachKey(d, id))
	if err != nil {
		return res, err
	}
	defer unlock()
	v, err := a.look(ctx, d)
	if err != nil {
		return res, err
	}
	if err := a.refuseOverlaid(ctx, v, id); err != nil {
		return res, err
	}
	if v.live != nil {
		res.Live = hypervisor.Already
		if disk := find(v.live, id); disk != nil {
			if err := a.detachLive(ctx, v, id, disk.Alias.Name); err != nil {
				return hypervisor.DetachResult{Live: hypervisor.Failed}, err
			}
			res.Live = hypervisor.Done
		}
	}
	a.removals.settle(d, v)
	res.Config, err = a.detachConfig(ctx, d, id)
	return res, err
}

// refuseOverlaid refuses to take away a disk that writes to the overlay of a
// hypervisor snapshot: the volume beneath would go without its newest content.
func (a *Adapter) refuseOverlaid(ctx context.Context, v view, id hypervisor.DiskID) error {
	disk := cmp.Or(find(v.live, id), find(v.config, id))
	if disk == nil {
		return nil
	}
	all, err := a.snapshots(ctx, v)
	if err != nil {
		return err
	}
	for _, s := range all {
		if path := s.overlays[disk.Target.Dev]; path != "" && onTop(disk, path) {
			return primitives.Errorf(primitives.CodeDependents, "disk %s of domain %s writes to an overlay of hypervisor snapshot %q", id, v.Name, s.Name).
				By(primitives.Blocker{Kind: "snapshot", Name: s.Name}).Trying("delete the hypervisor snapshot first")
		}
	}
	return nil
}

// detachLive asks until the disk is gone, the guest refuses, or ctx ends. What
// counts is the XML: libvirt takes a device out of it when QEMU has let it go,
// and neither a call's success nor an event's absence says as much.
func (a *Adapter) detachLive(ctx context.Context, v view, id hypervisor.DiskID, alias string) error {
	d := hypervisor.DomainID(v.UUID)
	if err := refuseBusy(v, id); err != nil {
		return err
	}
	me := a.removals.begin(d, alias)
	pause := askAgainFirst
	for {
		a.removals.ask(me)
		err := a.askToDetach(ctx, d, alias)
		switch {
		case errors.Is(err, primitives.CodeNotFound):
			// The domain or its disk went meanwhile; the XML says which.
		case errors.Is(err, primitives.CodeConflict), errors.Is(err, primitives.CodeUnavailable), ctx.Err() != nil:
			// It is being unplugged already, the domain's state moved, or QEMU does
			// not answer now. The request may have got through, so go on waiting.
		case err != nil:
			if gone, _ := a.awaitGone(ctx, d, alias, me, 0); gone {
				a.removals.end(d, alias, me)
				return nil // QEMU ended under the call
			}
			a.removals.end(d, alias, me)
			return err
		}
		gone, lookErr := a.awaitGone(ctx, d, alias, me, pause)
		switch {
		case gone:
			a.removals.end(d, alias, me)
			return nil
		case lookErr != nil:
			return lookErr
		case a.removals.refused(me):
			a.removals.end(d, alias, me)
			return primitives.Errorf(primitives.CodeInUse, "the guest of domain %s refused to give disk %s back", v.Name, id).
				By(primitives.Blocker{Kind: "domain", Name: v.Name}).Trying("unmount the disk in the guest, then repeat")
		case ctx.Err() != nil:
			return stillThere(ctx, v, id, err)
		}
		pause = min(2*pause, askAgainMost)
	}
}

// stillThere is the error of a detach that was not seen to end.
func stillThere(ctx context.Context, v view, id hypervisor.DiskID, last error) error {
	e := primitives.Errorf(primitives.CodeUnavailable, "the guest of domain %s has not given disk %s back: %w", v.Name, id, context.Cause(ctx))
	if last != nil && !errors.Is(last, primitives.CodeConflict) {
		e = primitives.Errorf(primitives.CodeUnavailable, "the guest of domain %s has not given disk %s back: %w", v.Name, id, last)
	}
	return e.By(primitives.Blocker{Kind: "domain", Name: v.Name}).
		Trying("the disk is still in use and may yet go; repeat when the guest has booted and responds")
}

// refuseBusy names the job that holds a disk. libvirt would refuse too, with an
// error that tells less.
func refuseBusy(v view, id hypervisor.DiskID) error {
	if disk := find(v.live, id); disk != nil && disk.Mirror != nil {
		return primitives.Errorf(primitives.CodeInUse, "a block job (%s) runs on disk %s of domain %s", describe(disk).Job, id, v.Name).
			By(primitives.Blocker{Kind: "disk", Name: string(id)}).Trying("wait for the job to end, or cancel it")
	}
	return nil
}

func (a *Adapter) askToDetach(ctx context.Context, d hypervisor.DomainID, alias string) error {
	unlock, err := a.lock(ctx, domainKey(d))
	if err != nil {
		return err
	}
	defer unlock()
	q := ask{what: "detach " + alias, domain: d, waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return c.DetachDevice(string(d), alias, virt.Live) })
}

// awaitGone looks for the disk, again at each event, until it is gone, the guest
// refused, pause has passed or ctx has ended. It looks once more when ctx has
// ended, so that the answer is the latest.
func (a *Adapter) awaitGone(ctx context.Context, d hypervisor.DomainID, alias string, me *removal, pause time.Duration) (bool, error) {
	again := time.NewTimer(pause)
	defer again.Stop()
	for {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
		v, err := a.look(last, d)
		cancel()
		switch {
		case errors.Is(err, primitives.CodeNotFound):
			return true, nil // a transient domain ended, and its disks with it
		case err != nil && ctx.Err() == nil && !errors.Is(err, primitives.CodeUnavailable):
			return false, err
		case err == nil && !hasAlias(v.live, alias):
			return true, nil
		case a.removals.refused(me), ctx.Err() != nil:
			return false, nil
		}
		select {
		case <-me.news:
		case <-ctx.Done():
		case <-again.C:
			return false, nil
		}
	}
}

// lastLook bounds a look that outlives the caller's context.
const lastLook = 2 * time.Second

// detachConfig takes the disk out of the persistent definition.
func (a *Adapter) detachConfig(ctx context.Context, d hypervisor.DomainID, id hypervisor.DiskID) (hypervisor.Outcome, error) {
	v, unlock, err := a.claim(ctx, d, "take disk "+string(id)+" out of the definition")
	if errors.Is(err, primitives.CodeNotFound) {
		return hypervisor.NotAsked, nil // a transient domain ended
	}
	if err != nil {
		return hypervisor.Failed, err
	}
	defer unlock()
	if v.config == nil {
		return hypervisor.NotAsked, nil
	}
	disk := find(v.config, id)
	if disk == nil {
		return hypervisor.Already, nil
	}
	q := ask{what: "take disk " + string(id) + " out of the definition", domain: d, waits: true}
	err = a.do(ctx, q, func(c virt.Conn) error { return c.DetachDevice(string(d), disk.Alias.Name, virt.Config) })
	if errors.Is(err, primitives.CodeNotFound) {
		return hypervisor.Already, nil
	}
	if err != nil {
		return hypervisor.Failed, err
	}
	return hypervisor.Done, nil
}
