// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// StartMove begins to copy a disk to a volume that is there already. libvirt says
// yes to every copy that it can begin; whether it lives, MoveStatus tells.
func (a *Adapter) StartMove(ctx context.Context, r hypervisor.MoveRequest) error {
	if err := cmp.Or(checkMove(r), checkTarget(r)); err != nil {
		return err
	}
	unlock, err := a.lock(ctx, moveKey(r))
	if err != nil {
		return err
	}
	defer unlock()
	return a.startCopy(ctx, r, false)
}

// startCopy begins a copy unless it has begun. moveKey is held.
func (a *Adapter) startCopy(ctx context.Context, r hypervisor.MoveRequest, synchronous bool) error {
	v, unlock, err := a.claim(ctx, r.Domain, "move disk "+string(r.Disk))
	if err != nil {
		return err
	}
	defer unlock()
	a.removals.settle(r.Domain, v)
	begun, err := a.planMove(ctx, v, r)
	if begun || err != nil {
		return err
	}
	target := find(v.live, r.Disk).Target.Dev
	if err := a.checkSize(ctx, r, target); err != nil {
		return err
	}
	text, err := copyXML(r.To)
	if err != nil {
		return err
	}
	a.copies.begin(r.Domain, target, toKey(r), synchronous)
	q := ask{what: fmt.Sprintf("copy disk %s (%s)", r.Disk, target), domain: r.Domain, waits: true}
	return a.do(ctx, q, func(c virt.Conn) error {
		return c.BlockCopy(string(r.Domain), target, text, virt.CopyOptions{Bandwidth: uint64(r.Bandwidth), Synchronous: synchronous})
	})
}

// moveKey is held for one call on a move, also while its job is waited for.
func moveKey(r hypervisor.MoveRequest) string {
	return "move " + string(r.Domain) + " " + string(r.Disk)
}

// toKey names the target of a move for the memory of copies.
func toKey(r hypervisor.MoveRequest) string { return sourceOfMapping(r.To).String() }

func sourceOfMapping(m primitives.Mapping) hypervisor.Source { return whereIs(sourceXML(m)) }

func checkMove(r hypervisor.MoveRequest) error {
	if err := checkDomain(r.Domain); err != nil {
		return err
	}
	if err := hypervisor.CheckDiskID(r.Disk); err != nil {
		return err
	}
	return cmp.Or(checkMapping(r.From), checkMapping(r.To))
}

// checkTarget reports why a copy cannot go where it is to go.
func checkTarget(r hypervisor.MoveRequest) error {
	if err := r.CheckTarget(); err != nil {
		return err
	}
	if r.To.Form == primitives.FormFile && len(r.To.File.Backing) > 0 {
		// QEMU takes such a file for one that reads as zero where it has no data.
		return primitives.Errorf(primitives.CodeUnsupported, "the target %s lies upon %s; a disk is copied as a whole", r.To.File.Path, r.To.File.Backing[0].Path).
			Trying("move to a volume of its own")
	}
	return nil
}

// copyXML describes the target of a copy. libvirt takes the place and the format
// from it; cache, I/O and discard are those of the disk.
func copyXML(to primitives.Mapping) (string, error) {
	d := &libvirtxml.DomainDisk{Device: "disk"}
	layMapping(d, to)
	text, err := d.Marshal()
	if err != nil {
		return "", primitives.Errorf(primitives.CodeInternal, "describe the target: %w", err)
	}
	return text, nil
}

// checkSize compares with what the guest sees: QEMU itself begins a copy to a
// target of another size, and then gives it up.
func (a *Adapter) checkSize(ctx context.Context, r hypervisor.MoveRequest, target string) error {
	q := ask{what: "read the size of " + target, domain: r.Domain, waits: true}
	size, err := call(ctx, a, q, func(c virt.Conn) (int64, error) { return c.BlockCapacity(string(r.Domain), target) })
	if err == nil && size != r.To.Size {
		err = primitives.Invalid("to", "the target has %d bytes, the disk has %d in the guest; they must be equal", r.To.Size, size)
	}
	return err
}

// planMove reports whether a move has begun already, or why it cannot.
func (a *Adapter) planMove(ctx context.Context, v view, r hypervisor.MoveRequest) (begun bool, err error) {
	p, err := a.place(ctx, v, r)
	if err != nil {
		return false, err
	}
	switch {
	case p.phase != hypervisor.MoveNone && !p.ending(ready.abort):
		return true, nil
	case p.live == nil:
		return false, notRunning(v.Domain, "move")
	case a.removals.has(r.Domain, p.live.Alias.Name):
		return false, primitives.Errorf(primitives.CodeConflict, "disk %s of domain %s is being detached", r.Disk, v.Name).
			Trying("wait until it is gone")
	case p.live.Mirror != nil:
		return false, primitives.Errorf(primitives.CodeConflict, "a block job (%s) runs on disk %s of domain %s", describe(p.live).Job, r.Disk, v.Name).
			By(primitives.Blocker{Kind: "disk", Name: string(r.Disk)}).Trying("wait for the job to end, or cancel it")
	case describe(p.live).Access != primitives.ReadWrite:
		return false, primitives.Errorf(primitives.CodeUnsupported, "disk %s of domain %s is read-only", r.Disk, v.Name).
			Trying("detach the disk, and attach a copy of its volume")
	}
	if err := a.refuseOverlaidMove(ctx, v, r.Disk); err != nil {
		return false, err
	}
	return false, a.closeLeft(ctx, r, p)
}

// refuseOverlaidMove is refuseOverlaid in the words of a move.
func (a *Adapter) refuseOverlaidMove(ctx context.Context, v view, id hypervisor.DiskID) error {
	err := a.refuseOverlaid(ctx, v, id)
	if e, ok := errors.AsType[*primitives.Error](err); ok && e.Code == primitives.CodeDependents {
		e.Code = primitives.CodeUnsupported
	}
	return err
}

// ready is what libvirt's XML says of a copy that is not under way any more.
var ready = struct{ yes, pivot, abort string }{"yes", "pivot", "abort"}

// place is where a move is, as far as the XML says.
type place struct {
	phase        hypervisor.MovePhase
	live, config *libvirtxml.DomainDisk // nil: not in that half
	stray        *stray                 // not nil: QEMU says otherwise, and is right
	left         []string               // nodes of the target that a libvirt that died left open
}

// ending reports whether the copy has been asked to end in that way.
func (p place) ending(how string) bool {
	return p.live != nil && p.live.Mirror != nil && p.live.Mirror.Ready == how
}

// placeOf finds where a move is. on is false for a disk that is on neither side.
func placeOf(v view, r hypervisor.MoveRequest) (p place, on bool) {
	p = place{live: find(v.live, r.Disk), config: find(v.config, r.Disk)}
	shown := sourceOf(cmp.Or(p.live, p.config))
	switch {
	case shown.Shows(r.To):
		p.phase = hypervisor.MoveDone
		if p.live != nil && p.config != nil && !sourceOf(p.config).Shows(r.To) {
			p.phase = hypervisor.MoveHalf
		}
	case !shown.Shows(r.From):
		return p, false
	case p.live != nil && copiesTo(p.live, r.To):
		p.phase = hypervisor.MoveCopying
		if p.ending(ready.yes) || p.ending(ready.pivot) {
			p.phase = hypervisor.MoveReady
		}
	}
	return p, true
}

// copiesTo reports whether a disk is being copied to what m describes.
func copiesTo(d *libvirtxml.DomainDisk, m primitives.Mapping) bool {
	if d.Mirror == nil || d.Mirror.Source == nil || describe(d).Job != jobCopy {
		return false
	}
	to := &libvirtxml.DomainDisk{Source: d.Mirror.Source}
	if d.Mirror.Format != nil {
		to.Driver = &libvirtxml.DomainDiskDriver{Type: d.Mirror.Format.Type}
	}
	return sourceOf(to).Shows(m)
}

const jobCopy = "copy"

// place is placeOf, with QEMU's word where libvirt shows no move, and with the
// reasons why there is no answer.
func (a *Adapter) place(ctx context.Context, v view, r hypervisor.MoveRequest) (p place, err error) {
	if find(v.live, r.Disk) == nil && find(v.config, r.Disk) == nil {
		return place{}, noDisk(r.Domain, r.Disk)
	}
	p, on := placeOf(v, r)
	if on && p.phase == hypervisor.MoveNone && p.live != nil && p.live.Mirror == nil {
		p.stray, p.left, err = a.strayOf(ctx, v, r, p.live)
		if p.stray != nil {
			p.phase = hypervisor.MoveHalf
		}
		return p, err
	}
	if on {
		return p, nil
	}
	if err := a.refuseOverlaidMove(ctx, v, r.Disk); err != nil {
		return place{}, err
	}
	return place{}, primitives.Errorf(primitives.CodeConflict, "disk %s of domain %s is on %v, which is neither side of the move",
		r.Disk, v.Name, sourceOf(cmp.Or(p.live, p.config))).By(primitives.Blocker{Kind: "disk", Name: string(r.Disk)})
}

// MoveStatus tells where a move is. The XML says it; the job's counters are read
// where there is a job. A copy is ready when both say so: libvirt's counters meet
// when a copy has not begun, and its XML follows QEMU's word.
func (a *Adapter) MoveStatus(ctx context.Context, r hypervisor.MoveRequest) (hypervisor.MoveStatus, error) {
	if err := checkMove(r); err != nil {
		return hypervisor.MoveStatus{}, err
	}
	// Each look but the first means that a job went between the XML and its counters.
	for range 3 {
		s, known, err := a.moveStatus(ctx, r)
		if known || err != nil {
			return s, err
		}
	}
	return hypervisor.MoveStatus{}, primitives.Errorf(primitives.CodeUnavailable,
		"the copy of disk %s of domain %s comes and goes", r.Disk, r.Domain).Trying("look again")
}

func (a *Adapter) moveStatus(ctx context.Context, r hypervisor.MoveRequest) (s hypervisor.MoveStatus, known bool, err error) {
	v, err := a.look(ctx, r.Domain)
	if err != nil {
		return s, false, err
	}
	p, err := a.place(ctx, v, r)
	if err != nil {
		return s, false, err
	}
	s.Phase = p.phase
	switch p.phase {
	case hypervisor.MoveNone:
		if p.live != nil {
			s.Failure = a.copies.failure(r.Domain, p.live.Target.Dev, toKey(r))
		}
		return s, true, nil
	case hypervisor.MoveHalf, hypervisor.MoveDone:
		return s, true, nil
	}
	target := p.live.Target.Dev
	q := ask{what: "read the job on " + target, domain: r.Domain, waits: true}
	job, err := call(ctx, a, q, func(c virt.Conn) (virt.Job, error) { return c.BlockJob(string(r.Domain), target) })
	if err != nil || !job.Copy {
		return s, false, err
	}
	if job.Total <= 1 { // libvirt's "not known yet"
		s.Phase = hypervisor.MoveCopying
		return s, true, nil
	}
	s.Done, s.Total = job.Done, job.Total
	return s, true, nil
}
