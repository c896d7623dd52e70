// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// tombstoneID names one delink of one object: the same operation gives the same
// id, and a later delink of the same object another, so that a late repeat of a
// destroy cannot meet an object that was relinked since.
func tombstoneID(op string, handles ...primitives.Handle) string {
	nonce := newID()
	if op != "" {
		sum := sha256.Sum256([]byte(op))
		nonce = hex.EncodeToString(sum[:8])
	}
	parts := make([]string, 0, 3)
	for _, h := range handles {
		parts = append(parts, string(h))
	}
	return strings.Join(append(parts, nonce), ".")
}

// splitTombstone returns the handles in a tombstone's id: the volume's and, for
// a snapshot's, the snapshot's. False for an id that is none of ours.
func splitTombstone(id string) (volume, snap primitives.Handle, ok bool) {
	parts := strings.Split(id, ".")
	for _, p := range parts {
		if !isID(p) {
			return "", "", false
		}
	}
	switch len(parts) {
	case 2:
		return primitives.Handle(parts[0]), "", true
	case 3:
		return primitives.Handle(parts[0]), primitives.Handle(parts[1]), true
	}
	return "", "", false
}

// Delink takes an object out of the namespace.
func (b *backend) Delink(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
	var t primitives.Tombstone
	err := b.freeing(ctx, func() (err error) {
		t, err = b.delink(ctx, u, d)
		return err
	})
	return t, classify(u, err)
}

func (b *backend) delink(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
	if err := b.mine(u); err != nil {
		return primitives.Tombstone{}, err
	}
	s, err := b.change(ctx)
	if err != nil {
		return primitives.Tombstone{}, err
	}
	defer s.leave()
	if u.IsSnapshot() {
		return s.delinkSnapshot(u, d)
	}
	return s.delinkVolume(u, d)
}

func newDelinked(u primitives.URI, was string, d primitives.DelinkRequest, handles ...primitives.Handle) *delinked {
	t := &delinked{ID: tombstoneID(d.ID, handles...), Was: was, Time: time.Now().UTC(), By: delinkRequest(u, d)}
	if d.Keep > 0 {
		t.Expires = t.Time.Add(d.Keep)
	}
	return t
}

func delinkRequest(u primitives.URI, d primitives.DelinkRequest) request {
	return request{Kind: kindDelink, ID: d.ID, Args: fmt.Sprintf("%s for %s", u.Short(), d.Keep)}
}

func (s *session) delinkVolume(u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
	by := delinkRequest(u, d)
	if done, err := s.delinkedBy(u, by); done != nil || err != nil {
		return *orZero(done), err
	}
	r, cond, err := s.lookup(u)
	if err != nil {
		return primitives.Tombstone{}, err
	}
	if r.Delinked != nil && r.Delinked.Undone && r.Delinked.By.repeats(by) {
		return r.Delinked.tombstone(u, r.Handle), nil
	}
	if cond == writing {
		return primitives.Tombstone{}, fail(primitives.CodeConflict, u, "operation %q is writing it", r.Writing.ID)
	}
	if err := s.checkDelink(u, r, d.Op); err != nil {
		return primitives.Tombstone{}, err
	}
	// The tombstone says nothing while the record is among the volumes; the
	// rename is the delink.
	r.Delinked = newDelinked(u, u.Volume, d, r.Handle)
	if err := s.save(r); err != nil {
		return primitives.Tombstone{}, err
	}
	if err := s.rename(r.file, trashFile(r.Delinked.ID)); err != nil {
		return primitives.Tombstone{}, err
	}
	return r.Delinked.tombstone(u, r.Handle), nil
}

func orZero(t *primitives.Tombstone) *primitives.Tombstone {
	if t == nil {
		return &primitives.Tombstone{}
	}
	return t
}

func (s *session) checkDelink(u primitives.URI, r record, op primitives.Op) error {
	if err := checkGeneration(u, op, r.Generation); err != nil {
		return err
	}
	maps, err := s.allMappings(r.Handle)
	if err != nil {
		return err
	}
	if err := errMapped(u, maps); err != nil {
		return err
	}
	if names := r.pending(); len(names) > 0 {
		return errPending(u, names)
	}
	return s.checkDependents(u, r.clones())
}

// delinkedBy looks for what an earlier attempt of the operation left in the
// trash. Only names are read, unless one fits.
func (s *session) delinkedBy(u primitives.URI, by request) (*primitives.Tombstone, error) {
	if by.ID == "" {
		return nil, nil
	}
	names, err := s.names(trashDir)
	if err != nil {
		return nil, err
	}
	suffix := tombstoneID(by.ID, "") + recordSuffix
	for _, name := range names {
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		r, err := s.loadFile(trashDir + "/" + name)
		if err != nil {
			return nil, err
		}
		if d := r.Delinked; d != nil && d.By.repeats(by) {
			t := d.tombstone(u, r.Handle)
			return &t, nil
		}
	}
	return nil, nil
}

// checkDependents refuses what clones cannot do without. It names them as they
// are called now, and forgets those that are gone.
func (s *session) checkDependents(u primitives.URI, all []dependent) error {
	var by []primitives.Blocker
	for _, d := range all {
		r, err := s.find(d.Handle, d.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case r.inTrash():
			by = append(by, primitives.Blocker{Kind: "tombstone", Name: r.Delinked.ID + " of " + primitives.URI{Device: s.name, Volume: r.Delinked.Was}.Short()})
		default:
			by = append(by, primitives.Blocker{Kind: "volume", Name: primitives.URI{Device: s.name, Volume: r.Name}.Short()})
		}
	}
	if len(by) == 0 {
		return nil
	}
	return fail(primitives.CodeDependents, u, "clones share its data").By(by...).Trying("destroy the clones first; a full clone would not depend on it")
}

func (s *session) delinkSnapshot(u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
	r, _, err := s.lookup(u.Parent())
	if err != nil {
		return primitives.Tombstone{}, err
	}
	by := delinkRequest(u, d)
	for _, snap := range r.Snapshots {
		if snap.Delinked != nil && snap.Delinked.By.repeats(by) {
			return snap.Delinked.tombstone(u, snap.Handle), nil
		}
	}
	snap := r.snapshot(u.Snapshot)
	if snap == nil {
		return primitives.Tombstone{}, notFound(u)
	}
	if err := s.checkDelinkSnapshot(u, r, snap, d.Op); err != nil {
		return primitives.Tombstone{}, err
	}
	snap.Delinked = newDelinked(u, u.Snapshot, d, r.Handle, snap.Handle)
	if err := s.save(r); err != nil {
		return primitives.Tombstone{}, err
	}
	return snap.Delinked.tombstone(u, snap.Handle), nil
}

func (s *session) checkDelinkSnapshot(u primitives.URI, r record, snap *snapshot, op primitives.Op) error {
	if snap.pending() {
		return errPending(u.Parent(), []string{snap.Name})
	}
	if err := checkGeneration(u, op, 1); err != nil {
		return err
	}
	maps, err := s.allMappings(r.Handle)
	if err != nil {
		return err
	}
	var on []mapping
	for _, m := range maps {
		if m.Of == snap.Handle {
			on = append(on, m)
		}
	}
	if err := errMapped(u, on); err != nil {
		return err
	}
	return s.checkDependents(u, snap.Clones)
}

// Relink brings a tombstone back.
func (b *backend) Relink(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	o, err := b.relink(ctx, t, as, op)
	u := as
	if u.IsZero() {
		u = t.Was
	}
	return o, classify(u, err)
}

func (b *backend) relink(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	if !as.IsZero() {
		if err := b.mine(as); err != nil {
			return primitives.Object{}, err
		}
	}
	volume, snap, ok := splitTombstone(t.ID)
	if !ok {
		return primitives.Object{}, errNoTombstone(t)
	}
	if !as.IsZero() && as.IsSnapshot() != (snap != "") {
		return primitives.Object{}, primitives.Invalid("as", "%s: a volume comes back as a volume, a snapshot as a snapshot", as.Short())
	}
	s, err := b.change(ctx)
	if err != nil {
		return primitives.Object{}, err
	}
	defer s.leave()
	if snap != "" {
		return s.relinkSnapshot(t, volume, as, op)
	}
	return s.relinkVolume(t, as, op)
}

func errNoTombstone(t primitives.Tombstone) error {
	return primitives.Errorf(primitives.CodeNotFound, "no tombstone %q", t.ID).Trying("list the device's tombstones")
}

func relinkRequest(t primitives.Tombstone, as primitives.URI, op primitives.Op) request {
	return request{Kind: kindRelink, ID: op.ID, Args: t.ID + " as " + as.Short()}
}

func (s *session) relinkVolume(t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	by := relinkRequest(t, as, op)
	r, err := s.loadFile(trashFile(t.ID))
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.VolumeGone {
		return s.relinkedBefore(t, as, by)
	}
	if err != nil {
		return primitives.Object{}, err
	}
	if as.IsZero() {
		as = primitives.URI{Device: s.name, Volume: r.Delinked.Was}
	}
	if r.Delinked.Dying {
		return primitives.Object{}, fail(primitives.CodeConflict, as, "it is being destroyed").Trying("finish the destroy")
	}
	if err := checkGeneration(as, op, r.Generation); err != nil {
		return primitives.Object{}, err
	}
	if err := s.checkFree(as); err != nil {
		return primitives.Object{}, err
	}
	if err := s.checkData(as, r); err != nil {
		return primitives.Object{}, err
	}
	r.Name, r.Relinked = as.Volume, by
	d := *r.Delinked
	d.Undone = true // while the record is in the trash it says nothing
	r.Delinked = &d
	if err := s.save(r); err != nil {
		return primitives.Object{}, err
	}
	if err := s.rename(r.file, volumeFile(as.Volume)); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fail(primitives.CodeExists, as, "the file system takes the name of another volume for the same")
		}
		return primitives.Object{}, err
	}
	r.file = volumeFile(as.Volume)
	cond, err := s.conditionOf(r.family)
	if err != nil {
		return primitives.Object{}, err
	}
	return s.volumeObject(r, cond)
}

// checkData makes sure that no data file was taken away behind our back.
func (s *session) checkData(u primitives.URI, r record) error {
	for _, l := range r.Layers {
		_, err := s.lstat(l.file())
		if errors.Is(err, fs.ErrNotExist) {
			return fail(primitives.CodeNotFound, u, "its file %s is gone", s.host(l.file())).Trying("restore the file, or destroy the tombstone")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFree makes sure that nothing has the name.
func (s *session) checkFree(u primitives.URI) error {
	have, cond, err := s.present(u)
	switch {
	case err != nil:
		return err
	case have.family == nil:
		return nil
	case cond == debris:
		return s.sweep(have)
	case cond == making:
		return fail(primitives.CodeConflict, u, "operation %q is making it", have.MadeBy.ID)
	}
	return fail(primitives.CodeExists, u, "a %s volume of %d bytes has that name", have.Format, have.Size)
}

// relinkedBefore answers the repeat of a relink.
func (s *session) relinkedBefore(t primitives.Tombstone, as primitives.URI, by request) (primitives.Object, error) {
	u := as
	if u.IsZero() {
		u = primitives.URI{Device: s.name, Volume: t.Was.Volume}
	}
	r, cond, err := s.lookup(u)
	if err != nil || !r.Relinked.repeats(by) {
		return primitives.Object{}, errNoTombstone(t)
	}
	return s.volumeObject(r, cond)
}

func (s *session) relinkSnapshot(t primitives.Tombstone, volume primitives.Handle, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	by := relinkRequest(t, as, op)
	r, err := s.find(volume, t.Was.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		return primitives.Object{}, errNoTombstone(t)
	}
	if err != nil {
		return primitives.Object{}, err
	}
	snap := r.buried(t.ID)
	if snap == nil {
		for i := range r.Snapshots {
			if x := &r.Snapshots[i]; x.Relinked.repeats(by) && !x.gone() {
				return s.snapshotObject(r, x)
			}
		}
		return primitives.Object{}, errNoTombstone(t)
	}
	name := snap.Delinked.Was
	if !as.IsZero() {
		name = as.Snapshot
	}
	u := primitives.URI{Device: s.name, Volume: r.Name, Snapshot: name}
	switch {
	case r.inTrash():
		return primitives.Object{}, fail(primitives.CodeConflict, u, "its volume is delinked").
			By(primitives.Blocker{Kind: "tombstone", Name: r.Delinked.ID}).Trying("relink the volume first")
	case !as.IsZero() && as.Volume != r.Name:
		return primitives.Object{}, primitives.Invalid("as", "%s: the snapshot belongs to volume %s", as.Short(), u.Parent().Short())
	case snap.Delinked.Dying:
		return primitives.Object{}, fail(primitives.CodeConflict, u, "it is being destroyed").Trying("finish the destroy")
	case r.snapshot(name) != nil:
		return primitives.Object{}, fail(primitives.CodeExists, u, "another snapshot has that name")
	}
	if err := s.checkData(u, r); err != nil {
		return primitives.Object{}, err
	}
	d := *snap.Delinked
	d.Undone = true
	snap.Name, snap.Delinked, snap.Relinked = name, &d, by
	if err := s.save(r); err != nil {
		return primitives.Object{}, err
	}
	return s.snapshotObject(r, snap)
}
