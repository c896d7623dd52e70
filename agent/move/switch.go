// SPDX-License-Identifier: Apache-2.0

package move

import (
	"context"
	"errors"
	"slices"

	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// mostAttempts is how often a switch may be refused, with the disk seen to be on
// its source each time, before the disk is left there.
const mostAttempts = 5

// mostBegun is how often a copy whose switch came to nothing is begun anew.
const mostBegun = 2

// switchOver switches the disks to their targets, one by one, each with an entry
// in the journal before the next. What is not known of a disk is found out by a
// repeat of the step; nothing is taken back any more.
func (s *Service) switchOver(ctx context.Context, r *run) error {
	m, err := s.mover()
	if err != nil {
		return err
	}
	var unknown []error
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		if d.Moved || d.Stayed != nil {
			continue
		}
		if d.Moved, err = s.handed(r, i); err != nil {
			return err
		}
		if d.Moved {
			continue
		}
		if err := s.switchOne(ctx, m, r, i); err != nil {
			unknown = append(unknown, err)
		}
	}
	return errors.Join(unknown...)
}

// switchOne switches one disk. An error means that it is not known yet how it
// came out.
func (s *Service) switchOne(ctx context.Context, m hypervisor.Mover, r *run, i int) error {
	d := &r.Memory.Disks[i]
	q := requestOf(r, d)
	finished := s.finish(ctx, m, q)
	st, lookErr := status(ctx, m, q)
	if lookErr == nil && finished != nil && (st.Phase == hypervisor.MoveReady || st.Phase == hypervisor.MoveCopying) {
		d.attempts++
	}
	switch judge(finished, st, lookErr, d.attempts, d.begun) {
	case arrived:
		if err := s.verify(ctx, q); err != nil {
			return err
		}
		if err := s.hand(r, i); err != nil {
			return err
		}
		d.Moved = true
		return nil
	case anew:
		// Its failure is found by the next switch, which has nothing to finish then.
		d.begun++
		return errors.Join(finished, s.copySome(ctx, m, r, []int{i}))
	case remained:
		return s.stay(ctx, d, s.ended(ctx, d, st.Failure, "what it wrote last may be in the copy alone"))
	case givenUp:
		if err := s.abandon(ctx, m, q); err != nil {
			return err
		}
		return s.stay(ctx, d, s.naming(ctx, d, finished))
	}
	return errors.Join(finished, lookErr)
}

// stay leaves a disk on its source, once nobody has the target open: a libvirtd
// that is killed at the wrong moment may lose a domain whose QEMU goes on, on the
// target perhaps, and shows it as off.
func (s *Service) stay(ctx context.Context, d *disk, why error) error {
	if err := s.unmap(ctx, d.Use.ID, d.To); err != nil {
		return primitives.Errorf(primitives.CodeOf(err), "the hypervisor shows the disk on %s, but what it was to be switched to cannot be let go: %w",
			d.Use.URI.Short(), err).On(d.To).Trying("look whether the domain's processes run without the hypervisor's knowledge, before anybody starts it again")
	}
	d.Stayed = operation.FailureOf(why)
	return nil
}

func (s *Service) finish(ctx context.Context, m hypervisor.Mover, q hypervisor.MoveRequest) error {
	ctx, cancel := context.WithTimeout(ctx, switchTime)
	defer cancel()
	return m.FinishMove(ctx, q)
}

func (s *Service) abandon(ctx context.Context, m hypervisor.Mover, q hypervisor.MoveRequest) error {
	ctx, cancel := context.WithTimeout(ctx, switchTime)
	defer cancel()
	return m.CancelMove(ctx, q)
}

// verdict is how one switch came out.
type verdict uint8

const (
	unclear  verdict = iota // ask again
	arrived                 // the disk is on its target wherever the domain has it
	remained                // the disk is on its source, or gone, and no job runs
	givenUp                 // it is on its source, and the hypervisor goes on refusing to switch
	anew                    // it is on its source, and to be copied once more
)

// judge decides by what is seen after a switch was asked for. What the switch
// itself answered matters only for how often it was refused: an answer may be
// lost, or come from a hypervisor that did half of it.
func judge(finished error, st hypervisor.MoveStatus, look error, attempts, begun int) verdict {
	switch {
	case errors.Is(look, primitives.CodeNotFound):
		return remained // the domain or its disk is gone
	case look != nil:
		return unclear
	}
	switch st.Phase {
	case hypervisor.MoveDone:
		return arrived
	case hypervisor.MoveNone:
		// A hypervisor that lost the switch may have brought the disk back.
		if errors.Is(finished, primitives.CodeConflict) && st.Failure == "" && begun < mostBegun {
			return anew
		}
		return remained
	case hypervisor.MoveCopying, hypervisor.MoveReady:
		if finished != nil && attempts >= mostAttempts {
			return givenUp
		}
	case hypervisor.MoveHalf:
	}
	return unclear
}

// verify reads the disk once more, apart from the job: its source is what counts.
func (s *Service) verify(ctx context.Context, q hypervisor.MoveRequest) error {
	shown, err := s.disks.Shown(ctx, q.Domain)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	at := slices.IndexFunc(shown, func(d hypervisor.Disk) bool { return d.ID == q.Disk })
	if at >= 0 && !shown[at].Source.Shows(q.To) {
		return primitives.Errorf(primitives.CodeInternal, "the hypervisor called the move done, and shows the disk on %v", shown[at].Source).On(q.To.URI)
	}
	return nil
}
