// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// snapshots is the Snapshots facet.
//
// With reflinks a snapshot is a second file that shares its extents with the
// volume's. Without, the volume's file becomes the snapshot and an overlay takes
// the volume's writes from then on; a hypervisor that has the file open must
// switch to the overlay, so such a snapshot is Pending until Settle.
type snapshots struct{ b *backend }

// maxChain bounds how many images lie one below the other. Each costs the guest
// a look-up on a read; libvirt gives up at 200.
const maxChain = 128

// Snapshot makes a snapshot of each volume.
func (f snapshots) Snapshot(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
	set, err := f.snapshot(ctx, vols, name, op)
	u := primitives.URI{Device: f.b.name}
	if len(vols) == 1 {
		u = vols[0]
	}
	return set, classify(u, err)
}

func (f snapshots) snapshot(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
	if err := f.b.checkGroup(vols, name); err != nil {
		return primitives.SnapshotSet{}, err
	}
	s, err := f.b.change(ctx)
	if err != nil {
		return primitives.SnapshotSet{}, err
	}
	defer s.leave()
	g, err := s.inspectGroup(vols, name, op)
	if err != nil {
		return primitives.SnapshotSet{}, err
	}
	if err := g.take(ctx); err != nil {
		return primitives.SnapshotSet{}, err
	}
	return g.result()
}

func (b *backend) checkGroup(vols []primitives.URI, name string) error {
	if len(vols) == 0 {
		return primitives.Invalid("volumes", "expected at least one")
	}
	if err := b.mineVolume(vols...); err != nil {
		return err
	}
	for i, u := range vols {
		if slices.Contains(vols[:i], u) {
			return primitives.Invalid("volumes", "%s is given twice", u.Short())
		}
	}
	return primitives.CheckSnapshotName(name)
}

// group is a snapshot of several volumes under way. The device's lock is held
// from the first look to the last record.
type group struct {
	s       *session
	name    string
	by      request
	members []member
}

type member struct {
	u      primitives.URI
	r      record
	writer *mapping // what writes to the volume now; nil: nothing
	done   bool     // an earlier attempt of the same operation made the snapshot
}

func (m member) snap(name string) *snapshot { return m.r.snapshot(name) }

// inspectGroup finds every volume fit for its snapshot, or changes nothing.
func (s *session) inspectGroup(vols []primitives.URI, name string, op primitives.Op) (*group, error) {
	names := make([]string, len(vols))
	for i, u := range vols {
		names[i] = u.Volume
	}
	slices.Sort(names)
	g := &group{s: s, name: name, by: request{Kind: kindSnapshot, ID: op.ID, Args: fmt.Sprintf("%s of %q", name, names)}}
	for _, u := range vols {
		m, err := s.inspectMember(u, g, op)
		if err != nil {
			return nil, classify(u, err)
		}
		g.members = append(g.members, m)
	}
	if len(vols) > 1 && s.fs.reflink {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "reflinks of %d volumes are not of one point in time", len(vols)).
			Trying("freeze or pause the guest and snapshot one volume after the other")
	}
	return g, nil
}

func (s *session) inspectMember(u primitives.URI, g *group, op primitives.Op) (member, error) {
	r, err := s.whole(u)
	if err != nil {
		return member{}, err
	}
	m := member{u: u, r: r}
	if have := r.snapshot(g.name); have != nil {
		if !have.By.repeats(g.by) {
			code := primitives.CodeExists
			if have.By.clashes(g.by) {
				code = primitives.CodeConflict
			}
			return member{}, fail(code, u.At(g.name), "a snapshot of that name was made %s", have.Created.Format(time.RFC3339))
		}
		m.done = true
	} else if names := r.pending(); len(names) > 0 {
		return member{}, errPending(u, names)
	}
	if err := checkGeneration(u, op, r.Generation); err != nil {
		return member{}, err
	}
	if !s.canSnapshot(r.family) {
		return member{}, fail(primitives.CodeUnsupported, u, "a %s volume has no snapshots on a file system without reflinks", r.Format).
			Trying("use format qcow2, or a device on XFS or Btrfs")
	}
	if depth := len(r.layer(r.Head).chain()); depth >= maxChain && !m.done && !s.fs.reflink {
		return member{}, fail(primitives.CodeNoSpace, u, "it has %d images one below the other, which is the limit", depth).
			Trying("make a full clone of it and go on with that")
	}
	if r.Growing != nil && !m.done {
		return member{}, fail(primitives.CodeConflict, u, "a resize to %d bytes waits for the hypervisor", r.Growing.Size)
	}
	m.writer, err = s.writerOf(r.Handle)
	return m, err
}

func (g *group) take(ctx context.Context) error {
	if g.s.fs.reflink {
		if m := &g.members[0]; !m.done {
			return g.reflink(m)
		}
		return nil
	}
	return g.overlay(ctx)
}

// reflink makes the snapshot a file of its own. The file system holds writers
// off while it does so, which is why a guest at work notices nothing: what its
// writes had completed is in, as after a loss of power.
func (g *group) reflink(m *member) error {
	head := m.r.layer(m.r.Head)
	l := layer{ID: newID(), Format: head.Format, Below: head.Below, Shared: true}
	j, err := g.s.begin(m.r, l.ref())
	if err != nil {
		return err
	}
	if err := g.s.reflink(head.ref(), l.ref()); err != nil {
		return errors.Join(err, g.s.remove(l.file()), g.s.end(j))
	}
	f := m.r.family.clone()
	f.layer(f.Head).Shared = true
	f.Layers = append(f.Layers, l)
	f.Snapshots = append(f.Snapshots, g.newSnapshot(m.r, l.ID, ""))
	if err := g.s.save(record{f, m.r.file}); err != nil {
		return errors.Join(err, g.s.remove(l.file()), g.s.end(j))
	}
	m.r.family = f
	return g.s.end(j)
}

func (g *group) newSnapshot(r record, layer, next string) snapshot {
	return snapshot{Name: g.name, Handle: newHandle(), Layer: layer, Size: r.Size, Created: time.Now().UTC(), By: g.by, Next: next, Props: r.Props}
}

// reflink makes to a file of its own that shares all extents with from.
func (s *session) reflink(from, to layerRef) error {
	src, err := s.open(from.file(), os.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := s.create(to.file(), imagePerm)
	if err != nil {
		return err
	}
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		return errors.Join(err, dst.Close())
	}
	if err := errors.Join(dst.Sync(), dst.Close()); err != nil {
		return err
	}
	return s.syncDir(dataDir)
}

// overlay makes every snapshot pending, which keeps the volumes that nothing
// writes to as they are, and settles at once if there is nothing to switch. A
// crash in between leaves pending snapshots, which a repeat completes.
func (g *group) overlay(ctx context.Context) error {
	for i := range g.members {
		if m := &g.members[i]; !m.done {
			if err := g.putOverlay(ctx, m); err != nil {
				return errors.Join(err, g.takeBack())
			}
		}
	}
	if g.mustSwitch() {
		return nil
	}
	for i := range g.members {
		if err := g.s.settle(&g.members[i].r, g.name); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) mustSwitch() bool {
	for _, m := range g.members {
		if m.writer != nil && m.snap(g.name).pending() {
			return true
		}
	}
	return false
}

func (g *group) putOverlay(ctx context.Context, m *member) error {
	head := m.r.layer(m.r.Head)
	l := layer{ID: newID(), Format: primitives.FormatQcow2, Below: head.chain()}
	j, err := g.s.begin(m.r, l.ref())
	if err != nil {
		return err
	}
	if err := g.s.makeQcow2(ctx, l, m.r.Size); err != nil {
		return errors.Join(err, g.s.remove(l.file()), g.s.end(j))
	}
	f := m.r.family.clone()
	f.Layers = append(f.Layers, l)
	f.Snapshots = append(f.Snapshots, g.newSnapshot(m.r, f.Head, l.ID))
	if err := g.s.save(record{f, m.r.file}); err != nil {
		return errors.Join(err, g.s.remove(l.file()), g.s.end(j))
	}
	m.r.family = f
	return g.s.end(j)
}

// takeBack removes what this attempt has made.
func (g *group) takeBack() error {
	var errs []error
	for i := range g.members {
		m := &g.members[i]
		if snap := m.snap(g.name); !m.done && snap != nil {
			errs = append(errs, g.s.unsettle(&m.r, g.name))
		}
	}
	return errors.Join(errs...)
}

// settle makes a pending snapshot ready and its overlay the volume's head.
func (s *session) settle(r *record, name string) error {
	snap := r.snapshot(name)
	if snap == nil || !snap.pending() {
		return nil
	}
	f := r.family.clone()
	snap = f.snapshot(name)
	f.Head, snap.Next = snap.Next, ""
	if err := s.save(record{f, r.file}); err != nil {
		return err
	}
	r.family = f
	return nil
}

// unsettle takes a pending snapshot away.
func (s *session) unsettle(r *record, name string) error {
	f := r.family.clone()
	f.Snapshots = slices.DeleteFunc(f.Snapshots, func(x snapshot) bool { return x.Name == name && x.pending() })
	gone := f.unneeded()
	if len(gone) == 0 {
		return nil
	}
	f.drop(gone)
	refs := make([]layerRef, len(gone))
	for i, l := range gone {
		refs[i] = l.ref()
	}
	j, err := s.begin(*r, refs...)
	if err != nil {
		return err
	}
	if err := s.save(record{f, r.file}); err != nil {
		return errors.Join(err, s.end(j))
	}
	r.family = f
	for _, l := range refs {
		if err := s.remove(l.file()); err != nil {
			j.hold.release() // the note stays for the next Open
			return err
		}
	}
	return s.end(j)
}

// result shows the snapshots, and what to switch to.
func (g *group) result() (primitives.SnapshotSet, error) {
	var set primitives.SnapshotSet
	for _, m := range g.members {
		snap := m.snap(g.name)
		o, err := g.s.snapshotObject(m.r, snap)
		if err != nil {
			return set, err
		}
		set.Snapshots = append(set.Snapshots, o)
		if m.writer == nil || !snap.pending() {
			continue
		}
		next := *m.writer
		next.Layer = snap.Next
		next.Epoch++
		p, err := g.s.presentMapping(next, m.r)
		if err != nil {
			return set, err
		}
		set.Switch = append(set.Switch, p)
	}
	return set, nil
}

// Settle ends the second phase of a snapshot.
func (f snapshots) Settle(ctx context.Context, vols []primitives.URI, name string, switched bool, _ primitives.Op) ([]primitives.Object, error) {
	out, err := f.settle(ctx, vols, name, switched)
	u := primitives.URI{Device: f.b.name}
	if len(vols) == 1 {
		u = vols[0].At(name)
	}
	return out, classify(u, err)
}

func (f snapshots) settle(ctx context.Context, vols []primitives.URI, name string, switched bool) ([]primitives.Object, error) {
	if err := f.b.checkGroup(vols, name); err != nil {
		return nil, err
	}
	s, err := f.b.change(ctx)
	if err != nil {
		return nil, err
	}
	defer s.leave()
	members := make([]record, 0, len(vols))
	for _, u := range vols {
		r, err := s.whole(u)
		if !switched && errors.Is(err, primitives.CodeNotFound) {
			continue // nothing to take away
		}
		if err == nil {
			err = s.checkSettle(u, r, name, switched)
		}
		if err != nil {
			return nil, classify(u, err)
		}
		members = append(members, r)
	}
	var out []primitives.Object
	for i := range members {
		o, err := s.settleOne(&members[i], name, switched)
		if err != nil {
			return nil, err
		}
		out = append(out, o...)
	}
	return out, nil
}

// checkSettle compares what the caller says with what can be seen: who is told
// that the switch failed must not remove a file that a guest writes to, and who
// is told that it happened must not freeze one.
func (s *session) checkSettle(u primitives.URI, r record, name string, switched bool) error {
	snap := r.snapshot(name)
	if snap == nil {
		if switched {
			return notFound(u.At(name))
		}
		return nil
	}
	if !snap.pending() {
		return nil
	}
	if switched {
		return s.checkNobody(u, r.layer(snap.Layer).ref(), qemuWrites, "still writes to the volume's old file", "let the hypervisor switch first")
	}
	return s.checkNobody(u, r.layer(snap.Next).ref(), qemuHolds, "has switched to the new file already", "settle the snapshot as switched")
}

func (s *session) checkNobody(u primitives.URI, l layerRef, does func(*os.File) (bool, error), what, try string) error {
	f, err := s.open(l.file(), os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	yes, err := does(f)
	if err != nil || !yes {
		return err
	}
	by, err := s.openBy(f)
	if err != nil {
		return err
	}
	return fail(primitives.CodeInUse, u, "a guest %s %s", what, s.host(l.file())).By(by...).Trying("%s", try)
}

func (s *session) settleOne(r *record, name string, switched bool) ([]primitives.Object, error) {
	snap := r.snapshot(name)
	if !switched {
		if snap == nil || !snap.pending() {
			return nil, nil
		}
		return nil, s.unsettle(r, name)
	}
	if err := s.settle(r, name); err != nil {
		return nil, err
	}
	if err := s.follow(*r); err != nil {
		return nil, err
	}
	o, err := s.snapshotObject(*r, r.snapshot(name))
	return []primitives.Object{o}, err
}

// follow makes the record of the mapping that writes say what it now leads to.
// It only tells: without it the mapping is shown at the volume's head all the same.
func (s *session) follow(r record) error {
	m, err := s.writerOf(r.Handle)
	if err != nil || m == nil || !s.here(*m) || m.Layer == r.Head {
		return err
	}
	m.Layer = r.Head
	if m.Identity, err = s.fileIdentity(r.layer(r.Head).ref()); err != nil {
		return err
	}
	return s.saveMapping(m)
}
