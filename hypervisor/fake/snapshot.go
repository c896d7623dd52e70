// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// snapshot is a hypervisor snapshot with what the contract does not show.
type snapshot struct {
	hypervisor.Snapshot
	overlays map[string]string // target: the overlay
}

// CreateSnapshot puts an overlay on every writable disk, at one point in time.
// The overlays exist nowhere but in the host's mind.
func (a *Adapter) CreateSnapshot(ctx context.Context, id hypervisor.DomainID, name string) (hypervisor.Snapshot, error) {
	if err := primitives.CheckSnapshotName(name); err != nil {
		return hypervisor.Snapshot{}, err
	}
	v, err := a.look(ctx, id)
	if err == nil {
		err = checkSnapshot(v, name)
	}
	if err != nil {
		return hypervisor.Snapshot{}, err
	}
	var made snapshot
	err = a.act(ctx, Call{Name: "snapshot", Domain: id}, func(d *domain) error {
		if err := checkSnapshot(d.view(), name); err != nil {
			return err
		}
		made = a.host.overlay(d, name)
		return nil
	})
	return made.Snapshot, err
}

// checkSnapshot reports why a domain cannot have a snapshot of that name made.
func checkSnapshot(v view, name string) error {
	if !v.up {
		return notRunning(v, "snapshot")
	}
	if slices.ContainsFunc(v.snapshots, func(s snapshot) bool { return s.Name == name }) {
		return primitives.Errorf(primitives.CodeExists, "domain %s has a snapshot %q already", v.name, name)
	}
	writable := false
	for _, x := range v.live {
		if err := refuseBusy(v, x); err != nil {
			return err
		}
		writable = writable || x.access == primitives.ReadWrite
	}
	if !writable {
		return primitives.Errorf(primitives.CodeUnsupported, "domain %s has no writable disk to snapshot", v.name)
	}
	return nil
}

// overlay makes the snapshot; mu is held. The definition follows.
func (h *Host) overlay(d *domain, name string) snapshot {
	s := snapshot{Snapshot: hypervisor.Snapshot{Name: name, Created: time.Now()}, overlays: map[string]string{}}
	for i := range d.live {
		x := &d.live[i]
		if x.access != primitives.ReadWrite {
			continue
		}
		under, base := x.source, x.source.Path
		if under.Form != primitives.FormFile {
			base = filepath.Join("/fake", string(d.id), x.target)
		}
		path := base + ".hypervisor-snapshot." + name
		over := hypervisor.Source{
			Form: primitives.FormFile, Path: path, Format: primitives.FormatQcow2,
			Chain: append([]string{under.String()}, under.Chain...),
		}
		h.overlays[path], s.overlays[x.target] = true, path
		if x.id != "" {
			s.Disks = append(s.Disks, x.id)
		}
		if c := byTarget(d.config, x.target); c != nil && c.id == x.id {
			c.beneath, c.source = append(slices.Clone(c.beneath), c.source), over
		}
		x.beneath, x.source = append(slices.Clone(x.beneath), under), over
	}
	d.snapshots = append(d.snapshots, s)
	return s
}

// Snapshots lists a domain's snapshots, oldest first.
func (a *Adapter) Snapshots(ctx context.Context, id hypervisor.DomainID) ([]hypervisor.Snapshot, error) {
	if err := a.enter(ctx, Call{Name: "snapshots", Domain: id}); err != nil {
		return nil, err
	}
	v, err := a.look(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make([]hypervisor.Snapshot, len(v.snapshots))
	for i, s := range v.snapshots {
		out[i] = s.Snapshot
		out[i].Disks = slices.Clone(s.Disks)
	}
	return out, nil
}

// DeleteSnapshot merges the newest snapshot's overlays back.
func (a *Adapter) DeleteSnapshot(ctx context.Context, id hypervisor.DomainID, name string) error {
	v, err := a.look(ctx, id)
	if err != nil {
		return err
	}
	if at, err := checkMerge(v, name); at < 0 {
		return err
	}
	return a.act(ctx, Call{Name: "snapshot-delete", Domain: id}, func(d *domain) error {
		at, err := checkMerge(d.view(), name)
		if at < 0 {
			return err
		}
		a.host.merge(d, d.snapshots[at])
		d.snapshots = slices.Delete(slices.Clone(d.snapshots), at, at+1)
		return nil
	})
}

// checkMerge returns the snapshot's place; -1: there is none, or it cannot be
// merged.
func checkMerge(v view, name string) (int, error) {
	at := slices.IndexFunc(v.snapshots, func(s snapshot) bool { return s.Name == name })
	switch {
	case at < 0:
		return -1, nil
	case at < len(v.snapshots)-1:
		return -1, primitives.Errorf(primitives.CodeDependents, "snapshot %q of domain %s is not the newest", name, v.name).
			By(primitives.Blocker{Kind: "snapshot", Name: v.snapshots[at+1].Name}).Trying("delete the newer snapshots first")
	case !v.up:
		return -1, primitives.Errorf(primitives.CodeUnsupported, "domain %s is off; its overlays are merged while it runs", v.name).
			Trying("start the domain, then repeat")
	}
	for target, path := range v.snapshots[at].overlays {
		x := byTarget(v.live, target)
		if x == nil || !slices.Contains(x.source.Chain, path) {
			continue
		}
		return -1, primitives.Errorf(primitives.CodeDependents, "%s of domain %s is on %v, which lies upon the snapshot's overlay", target, v.name, x.source).
			By(primitives.Blocker{Kind: "disk", Name: string(x.id)})
	}
	return at, nil
}

// merge puts the disks that write to a snapshot's overlays back on what lies
// beneath; mu is held.
func (h *Host) merge(d *domain, s snapshot) {
	for _, half := range [][]disk{d.live, d.config} {
		for i := range half {
			x := &half[i]
			if path := s.overlays[x.target]; path == "" || x.source.Path != path {
				continue
			}
			last := len(x.beneath) - 1
			x.source, x.beneath = x.beneath[last], slices.Clone(x.beneath[:last])
		}
	}
	for path := range maps.Values(s.overlays) {
		delete(h.overlays, path)
	}
}
