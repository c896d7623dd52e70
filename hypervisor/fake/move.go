// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"cmp"
	"context"
	"errors"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// jobCopy is the kind of a job that copies a disk elsewhere.
const jobCopy = "copy"

// StartMove begins to copy a disk.
func (a *Adapter) StartMove(ctx context.Context, r hypervisor.MoveRequest) error {
	if err := cmp.Or(checkMove(r), r.CheckTarget()); err != nil {
		return err
	}
	v, err := a.look(ctx, r.Domain)
	if err != nil {
		return err
	}
	if begun, err := planMove(v, r); begun || err != nil {
		return err
	}
	return a.act(ctx, moveCall("move", r), func(d *domain) error {
		if begun, err := planMove(d.view(), r); begun || err != nil {
			return err
		}
		return a.host.copyTo(d, r)
	})
}

func moveCall(name string, r hypervisor.MoveRequest) Call {
	return Call{Name: name, Domain: r.Domain, Disks: []hypervisor.DiskID{r.Disk}}
}

func checkMove(r hypervisor.MoveRequest) error {
	if err := hypervisor.CheckDiskID(r.Disk); err != nil {
		return err
	}
	return cmp.Or(checkMapping(r.From), checkMapping(r.To))
}

// planMove reports whether the move has begun already, or why it cannot.
func planMove(v view, r hypervisor.MoveRequest) (begun bool, err error) {
	phase, x, err := phaseOf(v, r)
	switch {
	case err != nil:
		return false, err
	case phase != hypervisor.MoveNone:
		return true, nil
	case !v.up || x == nil:
		return false, notRunning(v, "move")
	case x.detaching:
		return false, primitives.Errorf(primitives.CodeConflict, "disk %s of domain %s is being detached", r.Disk, v.name).
			Trying("wait until it is gone")
	case x.job != "":
		return false, primitives.Errorf(primitives.CodeConflict, "a block job (%s) runs on disk %s of domain %s", x.job, r.Disk, v.name).
			By(primitives.Blocker{Kind: "disk", Name: string(r.Disk)}).Trying("wait for the job to end, or cancel it")
	case x.access != primitives.ReadWrite:
		return false, primitives.Errorf(primitives.CodeUnsupported, "disk %s of domain %s is read-only", r.Disk, v.name).
			Trying("detach the disk, and attach a copy of its volume")
	case x.size > 0 && x.size != r.To.Size:
		return false, primitives.Invalid("to", "the target has %d bytes, the disk has %d in the guest; they must be equal", r.To.Size, x.size)
	}
	return false, nil
}

// phaseOf is what a domain shows of a move, and the disk of its running half. A
// disk that is on neither side is CodeConflict, or what the overlay upon it calls for.
func phaseOf(v view, r hypervisor.MoveRequest) (hypervisor.MovePhase, *disk, error) {
	live, config := find(v.live, r.Disk), find(v.config, r.Disk)
	shown := cmp.Or(live, config)
	switch {
	case shown == nil:
		return 0, nil, noDisk(v.id, r.Disk)
	case shown.source.Shows(r.To):
		if live == nil || config == nil || config.source.Shows(r.To) {
			return hypervisor.MoveDone, live, nil
		}
		return hypervisor.MoveHalf, live, nil
	case !shown.source.Shows(r.From):
		if err := refuseOverlaid(v, r.Disk); err != nil {
			return 0, nil, overlaidMove(v, r.Disk)
		}
		return 0, nil, primitives.Errorf(primitives.CodeConflict, "disk %s of domain %s is on %v, which is neither side of the move", r.Disk, v.name, shown.source).
			By(primitives.Blocker{Kind: "disk", Name: string(r.Disk)})
	case live != nil && live.astray && live.copy.source.Shows(r.To):
		return hypervisor.MoveHalf, live, nil
	case live == nil || live.copy == nil || !live.copy.source.Shows(r.To):
		return hypervisor.MoveNone, live, nil
	case live.copy.ready:
		return hypervisor.MoveReady, live, nil
	}
	return hypervisor.MoveCopying, live, nil
}

func overlaidMove(v view, id hypervisor.DiskID) *primitives.Error {
	e := primitives.Errorf(primitives.CodeUnsupported, "disk %s of domain %s writes to the overlay of a hypervisor snapshot", id, v.name)
	for _, s := range v.snapshots {
		e = e.By(primitives.Blocker{Kind: "snapshot", Name: s.Name})
	}
	return e.Trying("delete the hypervisor snapshot first")
}

// MoveStatus tells where a move is. Looking is what lets a copy get on by the host's pace,
// after what is answered.
func (a *Adapter) MoveStatus(ctx context.Context, r hypervisor.MoveRequest) (hypervisor.MoveStatus, error) {
	if err := checkMove(r); err != nil {
		return hypervisor.MoveStatus{}, err
	}
	if err := a.enter(ctx, moveCall("move-status", r)); err != nil {
		return hypervisor.MoveStatus{}, err
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	d := a.host.domains[r.Domain]
	if d == nil {
		return hypervisor.MoveStatus{}, noDomain(r.Domain)
	}
	phase, x, err := phaseOf(d.view(), r)
	if err != nil {
		return hypervisor.MoveStatus{}, err
	}
	s := hypervisor.MoveStatus{Phase: phase}
	switch phase {
	case hypervisor.MoveNone:
		if f := d.failures[r.Disk]; f.at > a.since && f.to.Shows(r.To) {
			s.Failure = f.why
		}
	case hypervisor.MoveCopying, hypervisor.MoveReady:
		s.Done, s.Total = x.copy.done, x.copy.total
		a.host.advance(d, r.Disk, a.host.pace)
	}
	return s, nil
}

// Converge begins a copy anew that the guest cannot outrun.
func (a *Adapter) Converge(ctx context.Context, r hypervisor.MoveRequest) error {
	return a.moving(ctx, r, "converge", func(phase hypervisor.MovePhase, x *disk) bool {
		return phase > hypervisor.MoveCopying || phase == hypervisor.MoveCopying && x.copy.synchronous
	}, func(_ *domain, x *disk) error {
		anew := *x.copy
		anew.done, anew.total, anew.synchronous = 0, x.copy.size, true
		x.copy = &anew
		return nil
	})
}

// FinishMove switches the running domain to the target, then the definition.
func (a *Adapter) FinishMove(ctx context.Context, r hypervisor.MoveRequest) error {
	err := a.moving(ctx, r, "pivot", func(phase hypervisor.MovePhase, _ *disk) bool {
		return phase == hypervisor.MoveHalf || phase == hypervisor.MoveDone
	}, func(d *domain, x *disk) error {
		if !x.copy.ready {
			return primitives.Errorf(primitives.CodeConflict, "the copy of disk %s of domain %s is not ready: %d of %d bytes",
				r.Disk, d.name, x.copy.done, x.copy.total).Trying("wait until it is")
		}
		x.source, x.handle, x.job, x.copy = x.copy.source, r.To.Handle, "", nil
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.bringBack(ctx, r); err != nil {
		return err
	}
	return a.moveConfig(ctx, r)
}

// bringBack ends the state that LoseSwitch makes: the guest is on the source again, and
// the error says so.
func (a *Adapter) bringBack(ctx context.Context, r hypervisor.MoveRequest) error {
	v, err := a.look(ctx, r.Domain)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // a transient domain ended
	}
	if x := find(v.live, r.Disk); err != nil || x == nil || !x.astray {
		return err
	}
	err = a.act(ctx, moveCall("pivot-back", r), func(d *domain) error {
		v := d.view()
		x := find(v.live, r.Disk)
		if x == nil || !x.astray {
			return nil
		}
		if err := copyRange(x.copy.source, mirror{source: x.source}, 0, x.copy.size); err != nil {
			return err
		}
		x.astray, x.job, x.copy = false, "", nil
		d.live = v.live
		return nil
	})
	if err != nil {
		return err
	}
	return primitives.Errorf(primitives.CodeConflict, "the switch of disk %s of domain %s was lost, and the disk was brought back to %v", r.Disk, v.name, sourceOf(r.From)).
		Trying("begin the move again")
}

// moveConfig has the definition follow, also when the domain has just ended: what its
// guest wrote last is on the target.
func (a *Adapter) moveConfig(ctx context.Context, r hypervisor.MoveRequest) error {
	v, err := a.look(ctx, r.Domain)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // a transient domain ended
	}
	if err != nil {
		return err
	}
	if x := find(v.config, r.Disk); x == nil || x.source.Shows(r.To) {
		return nil
	}
	return a.act(ctx, moveCall("pivot-config", r), func(d *domain) error {
		config := d.view().config
		if x := find(config, r.Disk); x != nil {
			x.source, x.handle = sourceOf(r.To), r.To.Handle
		}
		d.config = config
		return nil
	})
}

// moving makes one effect on a move that has begun, unless done says that there
// is nothing to do.
func (a *Adapter) moving(ctx context.Context, r hypervisor.MoveRequest, name string, done func(hypervisor.MovePhase, *disk) bool, effect func(*domain, *disk) error) error {
	if err := checkMove(r); err != nil {
		return err
	}
	v, err := a.look(ctx, r.Domain)
	if err != nil {
		return err
	}
	if over, err := moveOver(v, r, done); over || err != nil {
		return err
	}
	return a.act(ctx, moveCall(name, r), func(d *domain) error {
		// A view, so that an effect that fails has changed nothing.
		v := d.view()
		if over, err := moveOver(v, r, done); over || err != nil {
			return err
		}
		if err := effect(d, find(v.live, r.Disk)); err != nil {
			return err
		}
		d.live = v.live
		return nil
	})
}

func moveOver(v view, r hypervisor.MoveRequest, done func(hypervisor.MovePhase, *disk) bool) (bool, error) {
	phase, x, err := phaseOf(v, r)
	switch {
	case err != nil:
		return false, err
	case done(phase, x):
		return true, nil
	case phase == hypervisor.MoveNone:
		return false, primitives.Errorf(primitives.CodeConflict, "no copy of disk %s of domain %s runs", r.Disk, v.name).
			Trying("begin the move again")
	}
	return false, nil
}

// CancelMove ends a copy that is not finished.
func (a *Adapter) CancelMove(ctx context.Context, r hypervisor.MoveRequest) error {
	err := a.moving(ctx, r, "cancel-move", func(phase hypervisor.MovePhase, _ *disk) bool {
		return phase == hypervisor.MoveNone
	}, func(d *domain, x *disk) error {
		if x.copy == nil || x.astray {
			return primitives.Errorf(primitives.CodeConflict, "disk %s of domain %s is on %v already", r.Disk, d.name, x.source).
				Trying("finish the move")
		}
		x.job, x.copy = "", nil
		return nil
	})
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // a transient domain ended, and its copy with it
	}
	return err
}
