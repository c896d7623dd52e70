// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// DeleteSnapshot merges the newest snapshot's overlays into what lies beneath,
// while the guest runs. Where it was cut off, a repeat goes on from what the
// domain's XML shows.
func (a *Adapter) DeleteSnapshot(ctx context.Context, d hypervisor.DomainID, name string) error {
	v, unlock, err := a.claim(ctx, d, "delete snapshot "+name)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := a.snapshots(ctx, v)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(s snapshot) bool { return s.Name == name })
	if at < 0 {
		return nil
	}
	s := all[at]
	if err := checkMerge(v, s, all); err != nil {
		return err
	}
	for _, target := range slices.Sorted(maps.Keys(s.overlays)) {
		if err := a.beginMerge(ctx, v, target, s.overlays[target]); err != nil {
			return err
		}
	}
	// One after the other: a domain of which some disks are merged and some are
	// not is a legal state, and a repeat goes on.
	var merged []string
	for _, target := range slices.Sorted(maps.Keys(s.overlays)) {
		done, err := a.endMerge(ctx, d, target, s)
		if err != nil {
			return err
		}
		if done {
			merged = append(merged, s.overlays[target])
		}
	}
	q := ask{what: "forget snapshot " + name, domain: d, waits: true}
	err = a.do(ctx, q, func(c virt.Conn) error { return c.SnapshotForget(string(d), name) })
	if err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return err
	}
	return removeOverlays(s, merged)
}

// checkMerge reports why a snapshot's overlays cannot be merged.
func checkMerge(v view, s snapshot, all []snapshot) error {
	var later []primitives.Blocker
	for _, o := range all {
		if o.parent == s.Name {
			later = append(later, primitives.Blocker{Kind: "snapshot", Name: o.Name})
		}
	}
	if len(later) > 0 {
		return primitives.Errorf(primitives.CodeDependents, "snapshot %q of domain %s is not the newest", s.Name, v.Name).
			By(later...).Trying("delete the newer snapshots first")
	}
	if len(s.overlays) == 0 {
		return primitives.Errorf(primitives.CodeUnsupported, "snapshot %q of domain %s lies inside of its disks; it was not made by tenon", s.Name, v.Name)
	}
	if v.live == nil {
		return primitives.Errorf(primitives.CodeUnsupported, "domain %s is off; its overlays are merged while it runs", v.Name).Trying("start the domain, then repeat")
	}
	for target, path := range s.overlays {
		disk := byTarget(v.live, target)
		if disk == nil || onTop(disk, path) || !slices.Contains(describe(disk).Source.Chain, path) {
			continue
		}
		return primitives.Errorf(primitives.CodeDependents, "%s of domain %s is on %v, which lies upon the snapshot's overlay", target, v.Name, sourceOf(disk)).
			By(primitives.Blocker{Kind: "disk", Name: string(idOf(disk))})
	}
	return nil
}

func byTarget(d *libvirtxml.Domain, target string) *libvirtxml.DomainDisk {
	disks := disksIn(d)
	for i := range disks {
		if disks[i].Target != nil && disks[i].Target.Dev == target {
			return &disks[i]
		}
	}
	return nil
}

// onTop reports whether a disk writes to that file now.
func onTop(disk *libvirtxml.DomainDisk, path string) bool {
	s := sourceOf(disk)
	return s.Form == primitives.FormFile && s.Path == path
}

const activeCommit = "active-commit"

// beginMerge starts the job of one disk, unless it runs or has ended.
func (a *Adapter) beginMerge(ctx context.Context, v view, target, path string) error {
	disk := byTarget(v.live, target)
	if disk == nil || !onTop(disk, path) {
		return nil // detached since, or merged by an earlier attempt
	}
	if disk.Mirror != nil && disk.Mirror.Job == activeCommit {
		return nil
	}
	if disk.Mirror != nil {
		return primitives.Errorf(primitives.CodeInUse, "a block job (%s) runs on %s of domain %s", describe(disk).Job, target, v.Name)
	}
	if err := a.refuseLost(ctx, v, disk); err != nil {
		return err
	}
	q := ask{what: "merge " + target, domain: hypervisor.DomainID(v.UUID), waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return c.BlockCommit(v.UUID, target) })
}

// mergeLook is how often a job is looked at when no event comes.
const mergeLook = time.Second

// endMerge waits until the job of one disk is ready, pivots, and verifies that
// the disk is on another file afterwards: a job that is gone may have failed. It
// reports whether the overlay is known to be merged: a disk that was taken away,
// or whose name another disk has now, may have left its data in there.
func (a *Adapter) endMerge(ctx context.Context, d hypervisor.DomainID, target string, s snapshot) (merged bool, err error) {
	path := s.overlays[target]
	me := a.watchers.join()
	defer a.watchers.leave(me)
	pivoted := false
	for {
		v, err := a.look(ctx, d)
		if err != nil {
			return false, err
		}
		disk := byTarget(v.live, target)
		switch {
		case disk == nil:
			return false, nil
		case !onTop(disk, path):
			return pivoted || sourceOf(disk).Path+overlayMark+s.Name == path, nil
		case disk.Mirror == nil && !pivoted:
			return false, primitives.Errorf(primitives.CodeInternal, "merge %s of domain %s: the job ended without a result; see QEMU's log", target, v.Name)
		case disk.Mirror != nil && disk.Mirror.Ready == "yes":
			q := ask{what: "end the merge of " + target, domain: d, waits: true}
			if err := a.do(ctx, q, func(c virt.Conn) error { return c.BlockJobPivot(string(d), target) }); err != nil {
				return false, err
			}
			pivoted = true
			continue
		}
		timer := time.NewTimer(mergeLook)
		select {
		case <-me.ready:
			a.watchers.take(me)
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false, ended(ctx, "merge "+target)
		}
		timer.Stop()
	}
}

// removeOverlays deletes the merged overlays that tenon named; others belong to
// whoever made the snapshot.
func removeOverlays(s snapshot, merged []string) error {
	var errs []error
	for _, path := range merged {
		if !strings.HasSuffix(path, overlayMark+s.Name) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return primitives.Errorf(primitives.CodeDenied, "remove merged overlays: %w", err)
	}
	return nil
}
