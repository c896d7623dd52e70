// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// callTime bounds a call of the hypervisor.
const callTime = time.Minute

func (s *Service) device(ctx context.Context, name string) (*storage.Device, primitives.Snapshotter, error) {
	d, err := s.devices.Await(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	f := d.Facets().Snapshots
	if f == nil {
		return nil, nil, primitives.Errorf(primitives.CodeUnsupported, "the device has no snapshots").On(primitives.URI{Device: name})
	}
	return d, f, nil
}

// groupOp is what the calls for one group carry, the same at each repeat.
func groupOp(r *run, part string, i int) primitives.Op {
	return r.Op(fmt.Sprintf("%s %d", part, i))
}

// take snapshots one group; a repeat gives the same snapshots.
func (s *Service) take(ctx context.Context, r *run, i int) (primitives.SnapshotSet, error) {
	g := r.Memory.Groups[i]
	_, f, err := s.device(ctx, g.Device)
	if err != nil {
		return primitives.SnapshotSet{}, err
	}
	set, err := f.Snapshot(ctx, g.URIs, r.Memory.Name, groupOp(r, "take", i))
	if err != nil {
		return set, err
	}
	keep(r, g.URIs, set.Snapshots)
	return set, nil
}

func keep(r *run, uris []primitives.URI, made []primitives.Object) {
	if r.Memory.Made == nil {
		r.Memory.Made = make(map[string]primitives.Object)
	}
	for i, o := range made {
		if i < len(uris) {
			r.Memory.Made[uris[i].Short()] = o
		}
	}
}

func (s *Service) each(r *run, w way, do func(i int, g group) error) error {
	for i, g := range r.Memory.Groups {
		if g.Way != w {
			continue
		}
		if err := do(i, g); err != nil {
			return err
		}
	}
	return nil
}

// prepare lets the devices make ready, in their own time, what the hypervisor
// will switch to.
func (s *Service) prepare(ctx context.Context, r *run) error {
	_, err := s.switches(ctx, r)
	return err
}

// switches prepares the groups that need a switch, or asks again what they
// prepared, and returns the disks with what they must show.
func (s *Service) switches(ctx context.Context, r *run) ([]hypervisor.DiskSwitch, error) {
	var moves []hypervisor.DiskSwitch
	err := s.each(r, remap, func(i int, _ group) error {
		set, err := s.take(ctx, r, i)
		if err != nil {
			return err
		}
		for _, m := range set.Switch {
			disk, err := diskOf(r, m)
			if err != nil {
				return err
			}
			moves = append(moves, hypervisor.DiskSwitch{Disk: disk, To: m})
		}
		return nil
	})
	return moves, err
}

func diskOf(r *run, m primitives.Mapping) (hypervisor.DiskID, error) {
	for _, u := range r.Memory.Uses {
		if u.ID == m.Consumer {
			return hypervisor.DiskID(u.Disk), nil
		}
	}
	return "", primitives.Errorf(primitives.CodeUnsupported, "somebody else, %q, has it mapped and would have to switch too", m.Consumer).On(m.URI).
		By(primitives.Blocker{Kind: "mapping", Name: string(m.ID)})
}

// unprepare takes away what was prepared, unless the switch happened after all.
// Only what is pending can be this operation's: it holds the volumes.
func (s *Service) unprepare(ctx context.Context, r *run) error {
	if r.Memory.Switched {
		return nil
	}
	return s.each(r, remap, func(i int, g group) error {
		d, f, err := s.device(ctx, g.Device)
		if err != nil {
			return err
		}
		waits, err := pending(ctx, d, g.URIs, r.Memory.Name)
		if err != nil || !waits {
			return err
		}
		_, err = f.Settle(ctx, g.URIs, r.Memory.Name, false, groupOp(r, "unsettle", i))
		return err
	})
}

// pending reports whether every volume has a snapshot of that name that awaits
// the switch.
func pending(ctx context.Context, d *storage.Device, uris []primitives.URI, name string) (bool, error) {
	for _, u := range uris {
		o, err := d.Stat(ctx, u.At(name), primitives.Op{})
		if errors.Is(err, primitives.CodeNotFound) {
			return false, nil
		}
		if err != nil || o.State != primitives.Pending {
			return false, err
		}
	}
	return true, nil
}

// cut takes the snapshots, in a freeze where that was asked for and works.
func (s *Service) cut(ctx context.Context, r *run) error {
	moves, err := s.switches(ctx, r)
	if err != nil {
		return err
	}
	r.Memory.Level, r.Memory.Note = level(r.Memory.Groups), r.Memory.Why
	if !r.Memory.Freeze {
		return s.moment(ctx, r, moves)
	}
	a, err := s.disks.Adapter()
	if err != nil {
		return err
	}
	began := false
	report, err := a.Facets().Freeze.Freeze(ctx, r.Memory.Domain, s.options.FreezeTime, func(ctx context.Context) error {
		began = true
		return s.moment(ctx, r, moves)
	})
	if report.ThawErr != nil {
		r.Log.ErrorContext(ctx, "domain could not be thawed", "domain", r.Memory.Domain, "err", report.ThawErr)
		r.Memory.Note = "the guest's file systems may still be frozen: " + report.ThawErr.Error()
	}
	switch {
	case began && err == nil:
		r.Memory.Level, r.Memory.Held = Frozen, report.Held
		return nil
	case began || ctx.Err() != nil:
		return err
	}
	// An agent that does not freeze is no reason to have no snapshot.
	r.Log.WarnContext(ctx, "guest did not freeze", "domain", r.Memory.Domain, "err", err)
	r.Memory.Note = "the guest did not freeze: " + err.Error()
	return s.moment(ctx, r, moves)
}

// moment is the point in time: first the devices that snapshot by themselves,
// because these can still be taken back, then the switch, which cannot.
func (s *Service) moment(ctx context.Context, r *run, moves []hypervisor.DiskSwitch) error {
	err := s.each(r, direct, func(i int, _ group) error {
		_, err := s.take(ctx, r, i)
		return err
	})
	if err != nil || len(moves) == 0 {
		return err
	}
	a, err := s.disks.Adapter()
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err = a.Facets().Switch.Switch(call, r.Memory.Domain, moves)
	if err == nil {
		return nil
	}
	// The answer may be lost and the switch done: what the disks show is true.
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	if side, lookErr := s.side(look, r, moves); lookErr == nil && side == switched {
		return nil
	}
	return err
}

// sides of the switch.
type sideOf uint8

const (
	before   sideOf = iota // the running domain writes to the old files
	switched               // every disk shows its new mapping
	idle                   // the domain does not run, so nobody can tell
)

// side looks on which side of the switch the disks are.
func (s *Service) side(ctx context.Context, r *run, moves []hypervisor.DiskSwitch) (sideOf, error) {
	disks, err := s.disks.Shown(ctx, r.Memory.Domain)
	if errors.Is(err, primitives.CodeNotFound) {
		return idle, nil
	}
	if err != nil {
		return before, err
	}
	there, live := 0, false
	for _, m := range moves {
		for _, d := range disks {
			if d.ID == m.Disk {
				live = live || d.Live
				if d.Source.Shows(m.To) {
					there++
				}
			}
		}
	}
	switch {
	case there == len(moves):
		return switched, nil
	case !live:
		return idle, nil
	}
	return before, nil
}

// switchIdle goes on with a switch of a domain that does not run. Whether it was
// switched before it ended cannot be seen, and need not be: the new file lies
// upon the old one, so with it nothing is lost in either case.
func (s *Service) switchIdle(ctx context.Context, r *run, moves []hypervisor.DiskSwitch) error {
	a, err := s.disks.Adapter()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err = a.Facets().Switch.Switch(ctx, r.Memory.Domain, moves)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // the domain is gone, or the disk from its definition
	}
	return err
}

// recover looks, after a crash during the cut, whether the moment was passed.
// The guest is thawed first, whatever else happens.
func (s *Service) recover(ctx context.Context, r *run) (operation.Verdict, error) {
	s.thaw(ctx, r)
	past, err := s.past(ctx, r)
	if err != nil {
		return operation.Repeat, err
	}
	if !past {
		return operation.TakeBack, nil
	}
	r.Memory.Level, r.Memory.Note = level(r.Memory.Groups), r.Memory.Why
	if r.Memory.Freeze {
		r.Memory.Note = "tenond ended during the snapshot; whether the guest was frozen then is not known"
	}
	return operation.Done, nil
}

func (s *Service) thaw(ctx context.Context, r *run) {
	a, err := s.disks.Adapter()
	if !r.Memory.Freeze || err != nil || a.Facets().Freeze == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := a.Facets().Freeze.Thaw(ctx, r.Memory.Domain); err != nil && !errors.Is(err, primitives.CodeNotFound) {
		r.Log.ErrorContext(ctx, "domain could not be thawed", "domain", r.Memory.Domain, "err", err)
	}
}

// past reports whether every snapshot was taken. Where something is switched, the
// switch is the last act of the moment, so it tells for all.
func (s *Service) past(ctx context.Context, r *run) (bool, error) {
	moves, err := s.switches(ctx, r)
	if err != nil {
		return false, err
	}
	if len(moves) > 0 {
		side, err := s.side(ctx, r, moves)
		if err != nil || side == before {
			return false, err
		}
		if side == idle {
			if err := s.switchIdle(ctx, r, moves); err != nil {
				return false, err
			}
		}
	}
	past := true
	err = s.each(r, direct, func(i int, g group) error {
		mine, err := s.mine(ctx, r, i, g)
		past = past && mine
		return err
	})
	return past, err
}

// mine reports whether a group's snapshots are there and this operation's own.
func (s *Service) mine(ctx context.Context, r *run, i int, g group) (bool, error) {
	d, _, err := s.device(ctx, g.Device)
	if err != nil {
		return false, err
	}
	for _, u := range g.URIs {
		_, err := d.Stat(ctx, u.At(r.Memory.Name), primitives.Op{})
		if errors.Is(err, primitives.CodeNotFound) {
			return false, nil // a group is taken as a whole
		}
		if err != nil {
			return false, err
		}
	}
	_, err = s.take(ctx, r, i) // a repeat, or refused because they are another's
	if errors.Is(err, primitives.CodeExists) {
		return false, nil
	}
	return err == nil, err
}

// judge thaws the guest and finds out which snapshots the devices made by
// themselves, to be discarded. A switch cannot be taken back: where it is found
// to have happened its snapshots stay.
func (s *Service) judge(ctx context.Context, r *run) error {
	s.thaw(ctx, r)
	if slices.ContainsFunc(r.Memory.Groups, func(g group) bool { return g.Way == remap }) {
		if err := s.acknowledge(ctx, r); err != nil {
			return err
		}
	}
	r.Memory.Discard = nil
	return s.each(r, direct, func(i int, g group) error {
		mine, err := s.mine(ctx, r, i, g)
		if err != nil || !mine {
			return err
		}
		for _, u := range g.URIs {
			r.Memory.Discard = append(r.Memory.Discard, u.At(r.Memory.Name))
		}
		return nil
	})
}

// discardAll takes away what judge found. A repeat finds the same tombstones by
// the request ids.
func (s *Service) discardAll(ctx context.Context, r *run) error {
	for _, u := range r.Memory.Discard {
		d, _, err := s.device(ctx, u.Device)
		if err != nil {
			return err
		}
		if err := discard(ctx, d, u, r.Op("discard "+u.Short())); err != nil {
			return err
		}
	}
	return nil
}

// acknowledge settles what a switch whose answer was lost left pending. What
// was prepared is asked of the devices and not made again.
func (s *Service) acknowledge(ctx context.Context, r *run) error {
	all := true
	err := s.each(r, remap, func(_ int, g group) error {
		d, _, err := s.device(ctx, g.Device)
		if err != nil {
			return err
		}
		waits, err := pending(ctx, d, g.URIs, r.Memory.Name)
		all = all && waits
		return err
	})
	if err != nil || !all {
		return err
	}
	moves, err := s.switches(ctx, r)
	if err != nil {
		return err
	}
	side, err := s.side(ctx, r, moves)
	if err != nil || side == before {
		return err
	}
	if side == idle {
		if err := s.switchIdle(ctx, r, moves); err != nil {
			return err
		}
	}
	r.Memory.Switched = true
	r.Log.WarnContext(ctx, "disks were, or may have been, switched although that failed; the snapshots stay", "snapshot", r.Memory.Name)
	return s.settle(ctx, r)
}

func discard(ctx context.Context, d *storage.Device, u primitives.URI, op primitives.Op) error {
	del := op
	del.ID += " delink"
	t, err := d.Delink(ctx, u, primitives.DelinkRequest{Op: del})
	if errors.Is(err, primitives.CodeNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	op.ID += " destroy"
	return d.Destroy(ctx, t, primitives.DestroyRequest{Op: op})
}

// settle tells the devices that the switch happened.
func (s *Service) settle(ctx context.Context, r *run) error {
	return s.each(r, remap, func(i int, g group) error {
		_, f, err := s.device(ctx, g.Device)
		if err != nil {
			return err
		}
		made, err := f.Settle(ctx, g.URIs, r.Memory.Name, true, groupOp(r, "settle", i))
		if err == nil {
			keep(r, g.URIs, made)
		}
		return err
	})
}
