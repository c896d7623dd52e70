// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Get tells where a device stands. CodeNotFound.
func (s *Service) Get(_ context.Context, device string) (Maintenance, error) {
	var m Maintenance
	err := s.peek(func(t *turn) error {
		w, err := t.ward(device)
		if err != nil {
			return err
		}
		m, err = t.show(w)
		return err
	})
	s.freshen(device, m.Uses)
	return m, err
}

// List tells where every configured device stands, in order of name.
func (s *Service) List(context.Context) ([]Maintenance, error) {
	var list []Maintenance
	err := s.peek(func(t *turn) error {
		devices, err := t.tx.Devices()
		if err != nil {
			return err
		}
		for _, d := range devices {
			w, err := t.ward(d.Name)
			if err != nil {
				return err
			}
			m, err := t.show(w)
			if err != nil {
				return err
			}
			list = append(list, m)
		}
		return nil
	})
	for _, m := range list {
		s.freshen(m.Device, m.Uses)
	}
	return list, err
}

// show is a device as callers see it.
func (t *turn) show(w *ward) (Maintenance, error) {
	uses, err := t.uses(w.name)
	if err != nil {
		return Maintenance{}, err
	}
	h := &w.rec.Host
	report := h.Report(uses)
	m := Maintenance{
		Device: w.name, Phase: h.Order.Phase, Host: h.Phase, Gate: h.Gate, Stamp: h.Order.Stamp, Since: w.rec.Since,
		Uses: report.Uses, Foreign: h.Foreign, Blockers: blockersOf(w), Fence: h.Fence, Failure: h.Failure,
		ManagedBy: cmp.Or(t.s.manager.ID, ThisHost),
	}
	if t.s.manager.ID == "" && w.man == nil && t.s.options.Manager != "" {
		m.ManagedBy = t.s.options.Manager
	}
	if h.Drain > 0 && h.Phase == protocol.HostDraining {
		m.Deadline = t.now.Add(h.Drain)
	}
	if w.man != nil {
		m.Phase, m.Stamp = w.man.Device.Phase, w.man.Device.Stamp()
		if !w.man.Since.IsZero() {
			m.Since = w.man.Since
		}
		for _, p := range w.man.Device.Intents {
			m.Intents = append(m.Intents, p.Intent)
			if w.man.Device.Phase == protocol.Announced && p.NotBefore > 0 {
				m.Deadline = earlier(m.Deadline, t.now.Add(p.NotBefore))
			}
		}
		return m, nil
	}
	for _, id := range h.Order.IDs {
		m.Intents = append(m.Intents, protocol.Intent{
			ID: id, Reason: h.Order.Reason, Impact: h.Order.Impact, Expected: h.Order.Expected, NotBefore: h.Order.NotBefore,
			Respond: h.Order.Respond, Drain: h.Order.Drain, OnRespond: h.Order.OnRespond, OnDrain: h.Order.OnDrain,
			Permission: h.Order.Permission, Policy: h.Order.Policy, Return: h.Order.Return,
		})
	}
	return m, nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// freshen fills in how far the operations of the agent's own steps are.
func (s *Service) freshen(name string, uses []protocol.UseReport) {
	operations := make(map[string]string)
	s.mu.Lock()
	if m := s.memories[name]; m != nil {
		for use, d := range m.acts {
			operations[use] = d.operation
		}
	}
	s.mu.Unlock()
	for i := range uses {
		u := &uses[i]
		id := operations[u.ID]
		if id == "" {
			continue
		}
		if op, err := s.engine.Get(s.ctx, id); err == nil && op.Progress.Total > 0 {
			u.Percent = 100 * float64(op.Progress.Done) / float64(op.Progress.Total)
			if spent := time.Since(op.Created); op.Progress.Done > 0 {
				u.ETA = time.Duration(float64(spent) * float64(op.Progress.Total-op.Progress.Done) / float64(op.Progress.Done)).Round(time.Second)
			}
			u.Silent = 0
		}
	}
}

// watcher is one Watch under way. It collects what changed, so that a slow
// receiver sees the newest state of each device.
type watcher struct {
	device string          // "": all
	dirty  map[string]bool // guarded by Service.mu
	wake   chan struct{}
}

// mark has a device shown again, if it is watched.
func (w *watcher) mark(name string) {
	if w.device != "" && w.device != name {
		return
	}
	w.dirty[name] = true
	select {
	case w.wake <- struct{}{}:
	default: // it is awake
	}
}

// Watch yields where one device stands, or with an empty name every one, and then
// each change; changes that come faster than they are received are joined. An
// error ends it: CodeNotFound, or ctx's end.
func (s *Service) Watch(ctx context.Context, device string) iter.Seq2[Maintenance, error] {
	return func(yield func(Maintenance, error) bool) {
		w := &watcher{device: device, dirty: make(map[string]bool), wake: make(chan struct{}, 1)}
		w.wake <- struct{}{}
		if device != "" {
			w.dirty[device] = true
		} else {
			for _, name := range s.devices.Names() {
				w.dirty[name] = true
			}
		}
		s.mu.Lock()
		s.watchers[w] = struct{}{}
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.watchers, w)
		}()
		last := make(map[string]Maintenance)
		for {
			select {
			case <-w.wake:
			case <-ctx.Done():
				yield(Maintenance{}, &primitives.Error{Code: primitives.CodeOf(ctx.Err()), Op: "watch maintenance", Err: context.Cause(ctx)})
				return
			case <-s.ctx.Done():
				yield(Maintenance{}, primitives.Errorf(primitives.CodeUnavailable, "tenond is stopping"))
				return
			}
			if !s.deliver(ctx, w, last, yield) {
				return
			}
		}
	}
}

// deliver yields what changed. false: the sequence ended.
func (s *Service) deliver(ctx context.Context, w *watcher, last map[string]Maintenance, yield func(Maintenance, error) bool) bool {
	s.mu.Lock()
	dirty := slices.Sorted(maps.Keys(w.dirty))
	clear(w.dirty)
	s.mu.Unlock()
	for _, name := range dirty {
		m, err := s.Get(ctx, name)
		if err != nil && w.device == "" && primitives.CodeOf(err) == primitives.CodeNotFound {
			continue // removed meanwhile
		}
		if had, known := last[name]; err == nil && known && same(had, m) {
			continue
		}
		last[name] = m
		if !yield(m, err) || err != nil {
			return false
		}
	}
	return true
}

// same reports whether nothing that people look at differs.
func same(a, b Maintenance) bool {
	quiet := func(m Maintenance) Maintenance {
		m.Deadline = m.Deadline.Round(2 * time.Second)
		m.Uses = slices.Clone(m.Uses)
		for i := range m.Uses {
			m.Uses[i].Silent = 0
		}
		return m
	}
	return reflect.DeepEqual(quiet(a), quiet(b))
}

// changed tells the watchers, the readers of reports and the subscribers of a
// device that changed; mu is held.
func (s *Service) changed(name string) {
	for w := range s.watchers {
		w.mark(name)
	}
	for r := range s.asked {
		r.mark(name)
	}
}

// tell passes on what a turn changed; mu is held.
func (s *Service) tell(w *ward) {
	s.changed(w.name)
	m := s.memoryOf(w.name)
	now := w.rec.Host.Order
	now.NotBefore, now.Respond, now.Drain, now.Expected, now.Heard, now.HeardFrom = 0, 0, 0, 0, 0, ""
	if reflect.DeepEqual(m.told, now) {
		return
	}
	// That a device is in service is news only after a maintenance.
	news := m.told.Device != "" || now.Phase != protocol.InService
	m.told = now
	if news {
		s.tellSubscribers(w)
	}
}
