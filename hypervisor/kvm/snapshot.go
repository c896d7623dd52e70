// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// overlayMark stands in the name of every overlay that a hypervisor snapshot of
// tenon's made: NAME-OF-DISK.hypervisor-snapshot.NAME.
const overlayMark = ".hypervisor-snapshot."

// CreateSnapshot makes a disk-only snapshot of all writable disks. libvirt
// creates the overlays and remembers the snapshot.
func (a *Adapter) CreateSnapshot(ctx context.Context, d hypervisor.DomainID, name string) (hypervisor.Snapshot, error) {
	if err := primitives.CheckSnapshotName(name); err != nil {
		return hypervisor.Snapshot{}, err
	}
	v, unlock, err := a.claim(ctx, d, "snapshot")
	if err != nil {
		return hypervisor.Snapshot{}, err
	}
	defer unlock()
	if v.live == nil {
		return hypervisor.Snapshot{}, notRunning(v.Domain, "snapshot")
	}
	have, err := a.snapshots(ctx, v)
	if err != nil {
		return hypervisor.Snapshot{}, err
	}
	if slices.ContainsFunc(have, func(s snapshot) bool { return s.Name == name }) {
		return hypervisor.Snapshot{}, primitives.Errorf(primitives.CodeExists, "domain %s has a snapshot %q already", v.Name, name)
	}
	overlays, err := planOverlays(v, name, a.snapshotDir)
	if err != nil {
		return hypervisor.Snapshot{}, err
	}
	if err := a.createSnapshot(ctx, v, name, overlays); err != nil {
		return hypervisor.Snapshot{}, err
	}
	made, err := a.snapshot(ctx, d, name)
	return made.Snapshot, err
}

// createSnapshot has libvirt make the overlays and switch to them.
func (a *Adapter) createSnapshot(ctx context.Context, v view, name string, overlays map[string]overlay) error {
	for _, o := range overlays {
		// libvirt would take an empty file that is there already; nobody knows whose.
		if _, err := os.Lstat(o.path); err == nil {
			return primitives.Errorf(primitives.CodeExists, "%s is there already", o.path).Trying("choose another name for the snapshot")
		}
		if dir := filepath.Dir(o.path); a.snapshotDir != "" && strings.HasPrefix(dir, a.snapshotDir) {
			if err := os.MkdirAll(dir, 0o711); err != nil {
				return primitives.Errorf(primitives.CodeDenied, "make a folder for overlays: %w", err)
			}
		}
	}
	text, err := snapshotXML(name, v.live, overlays).Marshal()
	if err != nil {
		return primitives.Errorf(primitives.CodeInternal, "describe the snapshot: %w", err)
	}
	q := ask{what: fmt.Sprintf("snapshot domain %s", v.Name), domain: hypervisor.DomainID(v.UUID), waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return c.SnapshotCreate(v.UUID, text, virt.SnapshotFlags{}) })
}

// planOverlays decides where the overlay of each writable disk goes: beside a
// disk that is a file, into dir for others.
func planOverlays(v view, name, dir string) (map[string]overlay, error) {
	out := map[string]overlay{}
	for _, disk := range disksIn(v.live) {
		d := describe(&disk)
		if d.Access == primitives.ReadOnly || disk.Device != "disk" {
			continue
		}
		if d.Job != "" {
			return nil, primitives.Errorf(primitives.CodeInUse, "a block job (%s) runs on %s", d.Job, d.Target).
				By(primitives.Blocker{Kind: "disk", Name: d.Target})
		}
		base := d.Source.Path
		if d.Source.Form != primitives.FormFile {
			if dir == "" {
				return nil, primitives.Errorf(primitives.CodeUnsupported, "%s is no file, so there is no place beside it for an overlay", d.Target).
					Trying("set the adapter's folder for overlays")
			}
			base = filepath.Join(dir, v.UUID, d.Target)
		}
		path := base + overlayMark + name
		if len(filepath.Base(path)) > 255 {
			return nil, primitives.Invalid("name", "%q: the overlay's file name would have %d bytes, at most 255 fit", name, len(filepath.Base(path)))
		}
		out[d.Target] = overlay{path: path, format: primitives.FormatQcow2}
	}
	if len(out) == 0 {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "domain %s has no writable disk to snapshot", v.Name)
	}
	return out, nil
}

// snapshot is a snapshot with what the contract does not show.
type snapshot struct {
	hypervisor.Snapshot
	parent   string
	overlays map[string]string // target: overlay
}

// Snapshots lists a domain's snapshots, oldest first.
func (a *Adapter) Snapshots(ctx context.Context, d hypervisor.DomainID) ([]hypervisor.Snapshot, error) {
	v, err := a.look(ctx, d)
	if err != nil {
		return nil, err
	}
	all, err := a.snapshots(ctx, v)
	if err != nil {
		return nil, err
	}
	out := make([]hypervisor.Snapshot, len(all))
	for i, s := range all {
		out[i] = s.Snapshot
	}
	return out, nil
}

func (a *Adapter) snapshots(ctx context.Context, v view) ([]snapshot, error) {
	q := ask{what: "list snapshots of domain " + v.Name, domain: hypervisor.DomainID(v.UUID)}
	texts, err := call(ctx, a, q, func(c virt.Conn) ([]string, error) { return c.Snapshots(v.UUID) })
	if err != nil {
		return nil, err
	}
	out := make([]snapshot, 0, len(texts))
	for _, text := range texts {
		s, err := readSnapshot(text, v)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return inOrder(out), nil
}

// snapshot returns the snapshot of that name.
func (a *Adapter) snapshot(ctx context.Context, d hypervisor.DomainID, name string) (snapshot, error) {
	v, err := a.look(ctx, d)
	if err != nil {
		return snapshot{}, err
	}
	all, err := a.snapshots(ctx, v)
	if err != nil {
		return snapshot{}, err
	}
	for _, s := range all {
		if s.Name == name {
			return s, nil
		}
	}
	return snapshot{}, primitives.Errorf(primitives.CodeNotFound, "domain %s has no snapshot %q", v.Name, name)
}

// readSnapshot reads libvirt's XML of a snapshot.
func readSnapshot(text string, v view) (snapshot, error) {
	var x libvirtxml.DomainSnapshot
	if err := x.Unmarshal(text); err != nil {
		return snapshot{}, primitives.Errorf(primitives.CodeInternal, "read a snapshot of domain %s: %w", v.Name, err)
	}
	s := snapshot{Snapshot: hypervisor.Snapshot{Name: x.Name}, overlays: map[string]string{}}
	if seconds, err := strconv.ParseInt(x.CreationTime, 10, 64); err == nil {
		s.Created = time.Unix(seconds, 0)
	}
	if x.Parent != nil {
		s.parent = x.Parent.Name
	}
	if x.Disks == nil {
		return s, nil
	}
	ids := diskIDs(v)
	for _, disk := range x.Disks.Disks {
		if disk.Snapshot != "external" || disk.Source == nil {
			continue
		}
		s.overlays[disk.Name] = whereIs(disk.Source).Path
		if id := ids[disk.Name]; id != "" {
			s.Disks = append(s.Disks, id)
		}
	}
	return s, nil
}

// diskIDs maps targets to tenon's disks.
func diskIDs(v view) map[string]hypervisor.DiskID {
	ids := map[string]hypervisor.DiskID{}
	for _, half := range []*libvirtxml.Domain{v.config, v.live} {
		for _, disk := range disksIn(half) {
			if id := idOf(&disk); id != "" && disk.Target != nil {
				ids[disk.Target.Dev] = id
			}
		}
	}
	return ids
}

// inOrder sorts snapshots oldest first: a parent before its children, also where
// both were made within the same second.
func inOrder(all []snapshot) []snapshot {
	depth := func(s snapshot) int {
		n := 0
		for parent := s.parent; parent != "" && n <= len(all); n++ {
			i := slices.IndexFunc(all, func(o snapshot) bool { return o.Name == parent })
			if i < 0 {
				break
			}
			parent = all[i].parent
		}
		return n
	}
	slices.SortStableFunc(all, func(x, y snapshot) int {
		if c := x.Created.Compare(y.Created); c != 0 {
			return c
		}
		return depth(x) - depth(y)
	})
	return all
}
