// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	// keepEvery is how often the time that went by is written down where nothing
	// else is: so much of a deadline a crash may give back.
	keepEvery   = 10 * time.Second
	rewatchTime = 5 * time.Second
)

// tend looks after the devices that are on their way, at each tick and whenever
// something happened.
func (s *Service) tend(ctx context.Context) {
	ticker := time.NewTicker(s.options.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		if err := s.lookAfter(ctx, s.onTheirWay()); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "devices could not be looked after", "err", err)
		}
		s.missing(time.Now())
	}
}

// onTheirWay returns the devices to be looked after.
func (s *Service) onTheirWay() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, m := range s.memories {
		if m.busy {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// lookAfter tells the halves of devices of the time that went by and of uses that
// came and went. It writes only where that changes anything, and all in one turn.
func (s *Service) lookAfter(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var due []string
	var resting []journal.Use
	err := s.peek(func(t *turn) error {
		for _, name := range names {
			w, err := t.ward(name)
			if errors.Is(err, primitives.CodeNotFound) {
				continue // removed meanwhile
			}
			if err == nil {
				err = t.notice(w)
			}
			if err != nil {
				return err
			}
			asleep := t.now.Sub(s.memoryOf(name).clock)
			if len(w.todo) > 0 || w.lines > 0 || w.reports || asleep >= keepEvery {
				due = append(due, name)
			}
			rest, err := t.mayRest(w)
			if err != nil {
				return err
			}
			resting = append(resting, rest...)
		}
		return nil
	})
	if err == nil && len(due) > 0 {
		_, err = s.update(func(t *turn) error {
			for _, name := range due {
				w, err := t.ward(name)
				if err == nil {
					err = t.notice(w)
				}
				if err != nil && !errors.Is(err, primitives.CodeNotFound) {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	for _, name := range names {
		s.changed(name)
	}
	s.mu.Unlock()
	return s.letRest(ctx, resting)
}

// notice tells the host's half which uses came and went, and that what works in
// the agent lives.
func (t *turn) notice(w *ward) error {
	c, err := t.census()
	if err != nil {
		return err
	}
	h := &w.rec.Host
	here := make(map[string]bool)
	fresh := false
	for _, u := range c.of(w.name) {
		here[u.ID] = true
		o, told := h.Outcome(u.ID)
		fresh = fresh || !told
		if told && t.lives(u, o, h) {
			t.host(w, protocol.Answered{Use: u.ID, Stamp: h.Order.Stamp, Boot: h.Boot, Answer: protocol.Progress})
		}
	}
	for use, until := range w.rec.Until {
		if o, told := h.Outcome(use); told && o.State == protocol.UseObjected && t.now.Before(until) {
			continue
		} else if told && o.State == protocol.UseObjected {
			t.host(w, protocol.Answered{Use: use, Stamp: h.Order.Stamp, Boot: h.Boot, Answer: protocol.Withdraw})
		}
		delete(w.rec.Until, use)
	}
	for _, o := range h.Outcomes {
		if !o.Residue && !here[o.ID] && !o.Acting {
			t.host(w, protocol.Gone{Use: o.ID})
		}
	}
	if fresh && (h.Gate != protocol.GateOpen || h.Phase == protocol.HostNoticed) {
		uses, err := t.uses(w.name)
		if err != nil {
			return err
		}
		t.host(w, protocol.UsesSeen{Uses: uses})
	}
	return t.run(w)
}

// lives reports whether a use that works in the agent should say that it lives.
func (t *turn) lives(u user, o protocol.Outcome, h *protocol.Host) bool {
	switch u.Kind {
	case kindDisk, kindSubscriber:
		return false
	}
	every := t.s.options.Heartbeat
	if h.Order.Respond > 0 {
		every = min(every, h.Order.Respond/3)
	}
	working := o.State == protocol.UseNotified || o.State == protocol.UseAccepted || o.State == protocol.UseWorking || o.State == protocol.UseLost
	return working && o.Cut == "" && o.Silent >= every
}

// mayRest returns the disks that would hold nothing if their domain were off.
func (t *turn) mayRest(w *ward) (disks []journal.Use, err error) {
	h := &w.rec.Host
	if h.Phase != protocol.HostDraining || h.Order.Impact == protocol.IOStall {
		return nil, nil
	}
	c, err := t.census()
	for _, u := range c.of(w.name) {
		o, told := h.Outcome(u.ID)
		if u.Kind == kindDisk && told && !o.Acting && o.Cut == "" {
			disks = append(disks, u.record)
		}
	}
	return disks, err
}

// letRest releases the mappings of disks whose domain is off: nobody has to be
// asked about them.
func (s *Service) letRest(ctx context.Context, disks []journal.Use) error {
	if s.adapter == nil {
		return nil
	}
	off := make(map[string]bool)
	for _, u := range disks {
		if _, asked := off[u.Domain]; !asked {
			d, err := s.disks.Domain(ctx, u.Domain)
			off[u.Domain] = err == nil && d.State == hypervisor.StateOff
		}
		if !off[u.Domain] {
			continue
		}
		if err := s.disks.Release(ctx, u); err != nil {
			return err
		}
		if err := s.slept(u.URI.Device, u); err != nil {
			return err
		}
	}
	return nil
}

// slept tells the host's half that a disk's domain is off.
func (s *Service) slept(name string, u journal.Use) error {
	return s.happened(name, func(t *turn, w *ward) (protocol.HostEvent, error) {
		now, err := t.tx.Use(u.ID)
		if errors.Is(err, primitives.CodeNotFound) {
			err = nil
		}
		if err != nil || now != u || w.rec.Host.Gate == protocol.GateOpen {
			return nil, err // it changed meanwhile; the next look tells
		}
		if err := t.sleep(u.ID); err != nil {
			return nil, err
		}
		return protocol.Gone{Use: u.ID, How: protocol.Stopped, Evidence: "its domain is off"}, nil
	})
}

// followOperations looks after the devices whenever an operation ended.
func (s *Service) followOperations(ctx context.Context) {
	for op, err := range s.engine.Watch(ctx, "") {
		if err != nil {
			return
		}
		if op.State.Finished() {
			s.poke()
			s.showAll()
		}
	}
}

// showAll has those who watch look at every device again: its uses may differ.
func (s *Service) showAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchers) == 0 {
		return
	}
	for _, name := range s.devices.Names() {
		for w := range s.watchers {
			w.mark(name)
		}
	}
}

// followDomains looks after the devices whenever the hypervisor says that
// something changed, and notes whom somebody else started.
func (s *Service) followDomains(ctx context.Context) {
	changed := make(chan struct{}, 1)
	s.work.Go(func() {
		for {
			select {
			case <-changed:
				s.seeStarted(ctx)
				s.poke()
			case <-ctx.Done():
				return
			}
		}
	})
	for ctx.Err() == nil {
		err := s.adapter.Watch(ctx, func(hypervisor.DomainID) {
			select {
			case changed <- struct{}{}:
			default: // it is known already
			}
		})
		if ctx.Err() != nil {
			return
		}
		s.log.DebugContext(ctx, "hypervisor cannot be watched", "err", err)
		again := time.NewTimer(rewatchTime)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
		}
	}
}
