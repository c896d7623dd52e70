// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"cmp"
	"context"
	"errors"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Detach takes a disk away: from the running domain, and, once it is gone there,
// from the definition.
func (a *Adapter) Detach(ctx context.Context, d hypervisor.DomainID, id hypervisor.DiskID) (hypervisor.DetachResult, error) {
	var res hypervisor.DetachResult
	if err := hypervisor.CheckDiskID(id); err != nil {
		return res, err
	}
	v, err := a.look(ctx, d)
	if err != nil {
		return res, err
	}
	if err := refuseOverlaid(v, id); err != nil {
		return res, err
	}
	if v.up {
		res.Live = hypervisor.Already
		if x := find(v.live, id); x != nil {
			if err := a.detachLive(ctx, v, *x); err != nil {
				return hypervisor.DetachResult{Live: hypervisor.Failed}, err
			}
			res.Live = hypervisor.Done
		}
	}
	res.Config, err = a.detachConfig(ctx, d, id)
	return res, err
}

// refuseOverlaid refuses to take away a disk that writes to the overlay of a
// hypervisor snapshot: the volume beneath would go without its newest content.
func refuseOverlaid(v view, id hypervisor.DiskID) error {
	x := cmp.Or(find(v.live, id), find(v.config, id))
	if x == nil {
		return nil
	}
	for _, s := range v.snapshots {
		if s.overlays[x.target] == x.source.Path && x.source.Path != "" {
			return primitives.Errorf(primitives.CodeDependents, "disk %s of domain %s writes to an overlay of hypervisor snapshot %q", id, v.name, s.Name).
				By(primitives.Blocker{Kind: "snapshot", Name: s.Name}).Trying("delete the hypervisor snapshot first")
		}
	}
	return nil
}

// refuseBusy names the job that holds a disk.
func refuseBusy(v view, x disk) error {
	if x.job == "" {
		return nil
	}
	return primitives.Errorf(primitives.CodeInUse, "a block job (%s) runs on %s of domain %s", x.job, x.target, v.name).
		By(primitives.Blocker{Kind: "disk", Name: cmp.Or(string(x.id), x.target)}).Trying("wait for the job to end, or cancel it")
}

// detachLive asks the guest for a disk and waits until it is gone, the guest
// refuses, or ctx ends.
func (a *Adapter) detachLive(ctx context.Context, v view, x disk) error {
	err := a.act(ctx, Call{Name: "detach", Domain: v.id, Disks: []hypervisor.DiskID{x.id}}, func(d *domain) error {
		now := find(d.live, x.id)
		if now == nil || now.instance != x.instance {
			return nil
		}
		if err := cmp.Or(refuseOverlaid(d.view(), x.id), refuseBusy(d.view(), *now)); err != nil {
			return err
		}
		now.detaching = true // what the guest does about it, settle says
		return nil
	})
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // a transient domain ended, and its disks with it
	}
	if err != nil {
		return err
	}
	err = a.await(ctx, v.id, func(d *domain) (bool, error) {
		if d == nil {
			return true, nil
		}
		now := find(d.live, x.id)
		if now == nil || now.instance != x.instance {
			return true, nil
		}
		if !now.detaching {
			return false, primitives.Errorf(primitives.CodeInUse, "the guest of domain %s refused to give disk %s back", v.name, x.id).
				By(primitives.Blocker{Kind: "domain", Name: v.name}).Trying("unmount the disk in the guest, then repeat")
		}
		return false, nil
	})
	if ctx.Err() != nil && errors.Is(err, primitives.CodeUnavailable) {
		return primitives.Errorf(primitives.CodeUnavailable, "the guest of domain %s has not given disk %s back: %w", v.name, x.id, context.Cause(ctx)).
			By(primitives.Blocker{Kind: "domain", Name: v.name}).
			Trying("the disk is still in use and may yet go; repeat when the guest has booted and responds")
	}
	return err
}

// detachConfig takes the disk out of the persistent definition.
func (a *Adapter) detachConfig(ctx context.Context, id hypervisor.DomainID, disk hypervisor.DiskID) (hypervisor.Outcome, error) {
	v, err := a.look(ctx, id)
	if errors.Is(err, primitives.CodeNotFound) {
		return hypervisor.NotAsked, nil // a transient domain ended
	}
	switch {
	case err != nil:
		return hypervisor.Failed, err
	case !v.persistent:
		return hypervisor.NotAsked, nil
	case find(v.config, disk) == nil:
		return hypervisor.Already, nil
	}
	err = a.act(ctx, Call{Name: "detach-config", Domain: id, Disks: []hypervisor.DiskID{disk}}, func(d *domain) error {
		if x := find(d.config, disk); x != nil {
			d.config = without(d.config, x.target)
		}
		return nil
	})
	if err != nil {
		return hypervisor.Failed, err
	}
	return hypervisor.Done, nil
}
