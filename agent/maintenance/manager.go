// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// managerKey is the one record of who manages this host.
const managerKey = "manager"

// Enrol makes an outside manager the one whom this host follows, from a term on
// that is later than every one that was followed before. From then on the host
// manages no device itself; each keeps its gate until the manager's first order.
// A repeat is success. CodeConflict for a term that is not later, naming the one
// that counts.
func (s *Service) Enrol(_ context.Context, id string, term uint64) error {
	if id == "" {
		return primitives.Invalid("manager", "it is empty; expected the manager's identity")
	}
	if id == ThisHost {
		return primitives.Invalid("manager", "%q is this host's own name", id)
	}
	_, err := s.update(func(t *turn) error {
		if s.manager == (manager{id, term}) {
			return nil
		}
		devices, err := t.tx.Devices()
		if err != nil {
			return err
		}
		newest := s.manager.Term
		for _, d := range devices {
			w, err := t.ward(d.Name)
			if err != nil {
				return err
			}
			newest = max(newest, w.rec.Host.Order.Stamp.Term)
		}
		if term < newest || term == newest && s.manager.ID != id {
			return primitives.Errorf(primitives.CodeConflict, "term %d is not later than %d, which this host followed last", term, newest).
				Trying("begin a later term, at least %d", newest+1)
		}
		for _, w := range t.order {
			w.man = nil
			t.audit(w, protocol.Audit{
				Device: w.rec.Host.Device, IDs: w.rec.Host.Order.IDs, Stamp: w.rec.Host.Order.Stamp,
				Who: id, What: "enrolled this host", Before: whoManages(s.manager), After: id,
			})
			if err := journal.Drop(t.tx, journal.Managements, w.name); err != nil {
				return err
			}
		}
		t.manager = &manager{id, term}
		return journal.Put(t.tx, journal.Manager, managerKey, manager{id, term})
	})
	return err
}

func whoManages(m manager) string {
	if m.ID == "" {
		return ThisHost
	}
	return m.ID
}

// Enrolled tells who manages this host; "" for the host itself.
func (s *Service) Enrolled() (id string, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.manager.ID, s.manager.Term
}

// AgentStart is the id of this start of the agent, as reports tell it.
func (s *Service) AgentStart() string { return s.start }

// Orders takes orders of the manager, all of them in one transaction. What is
// older than what was followed before, or known already, changes nothing and is
// answered with a report. CodeNotFound names the devices that are not configured
// here, after the others were taken; CodeDenied where no manager is enrolled.
func (s *Service) Orders(_ context.Context, orders []protocol.Order) error {
	var unknown []primitives.Blocker
	_, err := s.update(func(t *turn) error {
		if s.manager.ID == "" {
			return primitives.Errorf(primitives.CodeDenied, "no manager is enrolled, so this host takes no orders from one")
		}
		for _, o := range orders {
			name, err := t.called(o.Device)
			if err != nil {
				return err
			}
			if name == "" {
				unknown = append(unknown, primitives.Blocker{Kind: "device", Name: o.Device})
				continue
			}
			w, err := t.ward(name)
			if err != nil {
				return err
			}
			uses, err := t.uses(name)
			if err != nil {
				return err
			}
			t.host(w, protocol.Ordered{Order: o, Uses: uses})
			if err := t.run(w); err != nil {
				return err
			}
			w.reports = true
		}
		return nil
	})
	if err != nil || len(unknown) == 0 {
		return err
	}
	return primitives.Errorf(primitives.CodeNotFound, "%d of the ordered devices are not configured on this host", len(unknown)).By(unknown...)
}

// reporting is one reader of reports. Service.mu guards it.
type reporting struct {
	dirty map[string]bool
	wake  chan struct{}
}

// mark has a device reported again.
func (r *reporting) mark(name string) {
	r.dirty[name] = true
	select {
	case r.wake <- struct{}{}:
	default: // it is awake
	}
}

// Reports yields the state of every device, and then of those that changed, until
// ctx ends; changes that come faster than they are received are joined.
func (s *Service) Reports(ctx context.Context) iter.Seq[[]protocol.Report] {
	return func(yield func([]protocol.Report) bool) {
		r := &reporting{dirty: make(map[string]bool), wake: make(chan struct{}, 1)}
		s.mu.Lock()
		s.asked[r] = struct{}{}
		s.markAll(r)
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.asked, r)
		}()
		for {
			select {
			case <-r.wake:
			case <-ctx.Done():
				return
			case <-s.ctx.Done():
				return
			}
			s.mu.Lock()
			dirty := slices.Sorted(maps.Keys(r.dirty))
			clear(r.dirty)
			s.mu.Unlock()
			reports, err := s.reports(dirty)
			if err != nil {
				s.log.ErrorContext(ctx, "devices could not be reported", "err", err)
				continue
			}
			if len(reports) > 0 && !yield(reports) {
				return
			}
		}
	}
}

// markAll has every device reported; mu is held.
func (s *Service) markAll(r *reporting) {
	for _, name := range s.devices.Names() {
		r.mark(name)
	}
}

// Reask has every reader of Reports get everything again: the other side lost it.
func (s *Service) Reask() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.asked {
		s.markAll(r)
	}
}

// reports makes the reports of some devices.
func (s *Service) reports(names []string) ([]protocol.Report, error) {
	list := make([]protocol.Report, 0, len(names))
	var shown []string
	err := s.peek(func(t *turn) error {
		for _, name := range names {
			w, err := t.ward(name)
			if errors.Is(err, primitives.CodeNotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
			uses, err := t.uses(name)
			if err != nil {
				return err
			}
			list = append(list, w.rec.Host.Report(uses))
			shown = append(shown, name)
		}
		return nil
	})
	for i := range list {
		s.freshen(shown[i], list[i].Uses)
	}
	return list, err
}
