// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/move"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	restoreTries = 5                // attempts to undo one deed; then it is left, and the audit says so
	restorePause = 10 * time.Second // between them
)

// beginRestore undoes what maintenance did to a use, unless that is under way.
func (s *Service) beginRestore(name string, a protocol.Restore) {
	key := "restore " + a.Use
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.memoryOf(name)
	if m.acts[key] != nil {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	d := &doing{cancel: cancel}
	m.acts[key] = d
	s.work.Go(func() {
		defer cancel()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.memoryOf(name).acts, key)
		}()
		s.restore(ctx, name, a, d)
	})
}

// restore undoes one deed. What cannot be undone after some attempts is left as
// it is: the device must not wait for ever for a disk to come home.
func (s *Service) restore(ctx context.Context, name string, a protocol.Restore, d *doing) {
	for {
		done, tries, err := s.deedOf(name, a)
		if err != nil {
			return
		}
		outcome := ""
		if done != nil {
			outcome, err = s.undo(ctx, name, a, *done, d)
		}
		if s.ctx.Err() != nil {
			return
		}
		if err == nil || tries+1 >= restoreTries {
			s.settled(name, a, outcome, err)
			return
		}
		s.log.WarnContext(ctx, "what maintenance did could not be undone yet", "device", name, "use", a.Use, "how", a.How, "err", err)
		s.tried(name, a.Use)
		again := time.NewTimer(min(restorePause, 5*s.options.Tick))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}

func (s *Service) deedOf(name string, a protocol.Restore) (found *deed, tries int, err error) {
	err = s.journal.View(func(tx *journal.Tx) error {
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		if x, known := rec.Deeds[a.Use]; known && x.How == a.How {
			found, tries = &x, x.Tries
		}
		return err
	})
	return found, tries, err
}

func (s *Service) tried(name, use string) {
	_, _ = s.update(func(t *turn) error {
		w, err := t.ward(name)
		if err != nil {
			return err
		}
		if x, known := w.rec.Deeds[use]; known {
			x.Tries++
			w.rec.Deeds[use] = x
		}
		return nil
	})
}

// settled tells the host's half, and the audit, how a deed was undone.
func (s *Service) settled(name string, a protocol.Restore, outcome string, failure error) {
	_ = s.happened(name, func(t *turn, w *ward) (protocol.HostEvent, error) {
		if failure != nil {
			outcome = "could not be undone and was left: " + failure.Error()
		}
		t.audit(w, protocol.Audit{
			Device: w.rec.Host.Device, IDs: w.rec.Host.Order.IDs, Stamp: w.rec.Host.Order.Stamp, Who: w.rec.Host.ID,
			What: "undone: " + string(a.How), Subject: a.Use, Evidence: outcome,
		})
		delete(w.rec.Deeds, a.Use)
		return protocol.Settled{Use: a.Use}, nil
	})
}

// undo does it.
func (s *Service) undo(ctx context.Context, name string, a protocol.Restore, d deed, doing *doing) (string, error) {
	switch a.How {
	case protocol.Stopped:
		return s.startAgain(ctx, name, d)
	case protocol.Paused:
		return s.resumeAgain(ctx, d)
	case protocol.Moved:
		return s.bringHome(ctx, name, a, d, doing)
	}
	return "there is nothing to undo", nil
}

// startAgain starts a domain that maintenance shut down, unless somebody else had
// it since, or it is no more.
func (s *Service) startAgain(ctx context.Context, name string, d deed) (string, error) {
	if !d.Mine || d.Void {
		return "left as it is: somebody else stopped or started it since", nil
	}
	domain, err := s.disks.Domain(ctx, d.Domain)
	if errors.Is(err, primitives.CodeNotFound) {
		return "the domain does not exist any more", nil
	}
	if err != nil {
		return "", err
	}
	if domain.State != hypervisor.StateOff {
		return "the domain is " + domain.State.String() + " already", nil
	}
	if other := s.owedBy(name, d.Domain); other != "" {
		return "left to the return of device " + other + ", on which it has a disk too", nil
	}
	if err := s.servesAgain(ctx, domain.ID); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if err := s.adapter.Facets().Power.Start(ctx, domain.ID); err != nil {
		return "", err
	}
	return "domain " + domain.Name + " was started again", nil
}

// owedBy returns another device in maintenance whose return starts the domain as
// well; "" for none.
func (s *Service) owedBy(name, domain string) (other string) {
	_ = s.journal.View(func(tx *journal.Tx) error {
		for key, rec := range journal.Records[record](tx, journal.Hosts) {
			for _, d := range rec.Deeds {
				if key != name && rec.Host.Gate != protocol.GateOpen && d.Domain == domain && d.How == protocol.Stopped && d.Mine && !d.Void {
					other = key
				}
			}
		}
		return nil
	})
	return other
}

// servesAgain maps what the domain's disks need, which was released with its end.
func (s *Service) servesAgain(ctx context.Context, domain hypervisor.DomainID) error {
	uses, err := s.disks.Uses("")
	if err != nil {
		return err
	}
	for _, u := range uses {
		if u.Kind != journal.UseDisk || u.Domain != string(domain) {
			continue
		}
		if u.Dormant {
			return primitives.Errorf(primitives.CodeConflict, "its disk is on a device that is still in maintenance").On(u.URI)
		}
		if err := s.disks.Serve(ctx, u, primitives.Op{}, primitives.Op{}); err != nil {
			return err
		}
	}
	return nil
}

// resumeAgain lets a domain go on that maintenance paused. One that a person
// paused, or an I/O error, is left as it is.
func (s *Service) resumeAgain(ctx context.Context, d deed) (string, error) {
	if !d.Mine {
		return "left paused: it was not maintenance that paused it", nil
	}
	domain, err := s.disks.Domain(ctx, d.Domain)
	if errors.Is(err, primitives.CodeNotFound) {
		return "the domain does not exist any more", nil
	}
	if err != nil {
		return "", err
	}
	if domain.State != hypervisor.StatePaused {
		return "the domain is " + domain.State.String(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if err := s.adapter.Facets().Pause.Resume(ctx, domain.ID); err != nil {
		return "", err
	}
	return "domain " + domain.Name + " goes on", nil
}

// bringHome moves a disk back to where it was, unless it has gone elsewhere since.
func (s *Service) bringHome(ctx context.Context, name string, a protocol.Restore, d deed, doing *doing) (string, error) {
	var now journal.Use
	var stamp protocol.Stamp
	err := s.journal.View(func(tx *journal.Tx) (err error) {
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		if err != nil {
			return err
		}
		stamp = rec.Host.Order.Stamp
		now, err = tx.Use(a.Use)
		return err
	})
	if errors.Is(err, primitives.CodeNotFound) {
		return "the disk is gone", nil
	}
	if err != nil {
		return "", err
	}
	if now.URI == d.From {
		return "it is at home", nil
	}
	if now.URI != d.To {
		return fmt.Sprintf("left where it is: it was moved to %s since", now.URI.Short()), nil
	}
	op, err := s.operate(ctx, doing, operation.Request{
		RequestID: fmt.Sprintf("maintenance/%s/%d.%d/%s/home/%d", name, stamp.Term, stamp.Epoch, a.Use, d.Tries),
		Kind:      move.KindMove, Caller: caller,
		Args: move.Args{Domain: d.Domain, Disk: attach.DiskName(d.Disk), To: d.From},
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("back at %s by operation %s", d.From.Short(), op.ID), nil
}

// seeStarted notes which of the domains that maintenance shut down somebody else
// had since: they are not started again.
func (s *Service) seeStarted(ctx context.Context) {
	var stopped []string
	_ = s.journal.View(func(tx *journal.Tx) error {
		for _, rec := range journal.Records[record](tx, journal.Hosts) {
			for _, d := range rec.Deeds {
				if d.How == protocol.Stopped && d.Mine && !d.Void && d.Done {
					stopped = append(stopped, d.Domain)
				}
			}
		}
		return nil
	})
	for _, id := range stopped {
		domain, err := s.disks.Domain(ctx, id)
		if err == nil && domain.State != hypervisor.StateOff && domain.State != hypervisor.StateShuttingDown {
			s.void(id)
		}
	}
}

// void notes that somebody else started a domain.
func (s *Service) void(domain string) {
	_, err := s.update(func(t *turn) error {
		for name, rec := range journal.Records[record](t.tx, journal.Hosts) {
			for _, d := range rec.Deeds {
				if d.Domain != domain || d.How != protocol.Stopped || d.Void {
					continue
				}
				if _, err := t.ward(name); err != nil {
					return err
				}
			}
		}
		for _, w := range t.order {
			if w.restoring(domain) {
				continue // it is tenon that starts it
			}
			for use, d := range w.rec.Deeds {
				if d.Domain == domain && d.How == protocol.Stopped {
					d.Void = true
					w.rec.Deeds[use] = d
				}
			}
		}
		return nil
	})
	if err != nil && s.ctx.Err() == nil {
		s.log.Error("a domain's start could not be recorded", "domain", domain, "err", err)
	}
}

// restoring reports whether the device is back, so that tenon itself starts the
// domain.
func (w *ward) restoring(string) bool { return w.rec.Host.Gate == protocol.GateOpen }
