// SPDX-License-Identifier: Apache-2.0

package move

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// mostDelinks is how often a delink may fail in passing before the volume is
// left to people.
const mostDelinks = 5

// other is the side that a disk does not need any more: the source of one that
// moved, the target of one that stayed.
func (d *disk) other() primitives.URI {
	if d.Moved {
		return d.Use.URI
	}
	return d.To
}

// release lets go of the side that is not needed. It is repeated until that is
// done, because until then the device is in use.
func (s *Service) release(ctx context.Context, r *run) error {
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		if err := s.unmap(ctx, d.Use.ID, d.other()); err != nil {
			return err
		}
		id := fromID(r, i)
		if !d.Moved {
			id = toID(r, i)
		}
		if err := s.drop(id); err != nil {
			return err
		}
	}
	return nil
}

// bury makes tombstones of what is not needed any more. The target of a disk that
// stayed becomes one too, and is not destroyed: where a domain ended at the very
// moment of its switch, the newest bytes may be there.
func (s *Service) bury(ctx context.Context, r *run) error {
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		if d.Tombstone != nil || d.Note != "" {
			continue
		}
		if err := s.buryOne(ctx, r, i); err != nil {
			if d.buried++; primitives.CodeOf(err).Retry() == primitives.RetrySame && d.buried < mostDelinks {
				return err
			}
			d.Note = fmt.Sprintf("%s stays as a volume: %v", d.other().Short(), err)
		}
	}
	s.show(ctx, r)
	return nil
}

func (s *Service) buryOne(ctx context.Context, r *run, i int) error {
	d := &r.Memory.Disks[i]
	u, want := d.other(), d.Source
	if !d.Moved {
		want = d.Made
	}
	dev, err := s.devices.Await(ctx, u.Device)
	if err != nil {
		return err
	}
	there, err := dev.Stat(ctx, u, primitives.Op{})
	if err == nil && there.Handle != want {
		return primitives.Errorf(primitives.CodeConflict, "another volume has that name by now").On(u)
	}
	if err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return err
	}
	// Also where it is not found: a delink of an earlier life is answered by its id.
	t, err := dev.Delink(ctx, u, primitives.DelinkRequest{Op: r.Op(part("bury", i)), Keep: cmp.Or(r.Args.Keep, DefaultKeep)})
	if err == nil {
		d.Tombstone = &t
	}
	return err
}

// show remembers the disks as they are now, for the result.
func (s *Service) show(ctx context.Context, r *run) {
	shown, err := s.disks.Disks(ctx, string(r.Memory.Domain))
	if err != nil {
		r.Log.WarnContext(ctx, "moved disks cannot be shown", "err", err)
	}
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		d.Shown.ID, d.Shown.Domain, d.Shown.DomainName, d.Shown.Target = d.ID, r.Memory.Domain, r.Memory.DomainName, d.Target
		d.Shown.Use, d.Shown.Size, d.Shown.URI = d.Use.ID, d.Size, d.To
		if !d.Moved {
			d.Shown.URI = d.Use.URI
		}
		for _, x := range shown {
			if x.ID == d.ID {
				d.Shown = x
			}
		}
	}
}

func result(r *run) Result {
	out := Result{Domain: r.Memory.DomainName}
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		m := Moved{Disk: d.Shown, From: d.Use.URI, To: d.To, Moved: d.Moved, Bytes: d.Bytes, Tombstone: d.Tombstone, Note: d.Note}
		if d.Stayed != nil {
			m.Failure = d.Stayed.Message
		}
		out.Disks = append(out.Disks, m)
	}
	return out
}

// outcome is the error of a move after which some disk is where it was.
func outcome(r *run) error {
	var stayed *disk
	var all []string
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		switch {
		case d.Stayed == nil:
			all = append(all, fmt.Sprintf("%s moved to %s", d.Target, d.To.Short()))
			continue
		case d.Tombstone != nil:
			all = append(all, fmt.Sprintf("%s stayed on %s, its copy is tombstone %s of %s: %s",
				d.Target, d.Use.URI.Short(), d.Tombstone.ID, d.To.Device, d.Stayed.Message))
		default:
			all = append(all, fmt.Sprintf("%s stayed on %s: %s", d.Target, d.Use.URI.Short(), d.Stayed.Message))
		}
		if stayed == nil {
			stayed = d
		}
	}
	if stayed == nil {
		return nil
	}
	return primitives.Errorf(stayed.Stayed.Code, "%s", strings.Join(all, "; ")).On(stayed.Use.URI).By(stayed.Stayed.Blocked...).
		Trying("%s", cmp.Or(stayed.Stayed.Try, "look at the domain, then repeat the request with a new request id"))
}
