// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"errors"
	"fmt"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// longest is how many steps one turn may take. Both halves come to rest after a
// few; more would be a defect, which must not hang the agent.
const longest = 10000

// turn is one transaction: events are stepped through both halves of the devices
// that they concern until these come to rest, and everything is written at once.
type turn struct {
	s     *Service
	tx    *journal.Tx
	now   time.Time
	seen  *census           // nil: to be counted
	names map[string]string // by identity
	wards map[string]*ward
	order []*ward // as they were touched
	lines []auditRecord
	steps int
	// manager is who manages from here on, where the turn changes that.
	manager *manager
}

// ward is one device within a turn.
type ward struct {
	name   string
	rec    record
	man    *management // nil: not managed here
	fresh  bool        // nothing was recorded of it
	before protocol.HostPhase
	gate   protocol.Gate  // before
	phase  protocol.Phase // of the managing half, before

	queue    []func() error
	todo     []protocol.HostAction
	rejected []protocol.Rejected
	reports  bool
	lines    int // of the audit, of this turn
	noted    noted
}

// begin makes a turn; mu is held.
func (s *Service) begin(tx *journal.Tx) *turn {
	return &turn{s: s, tx: tx, now: time.Now(), wards: make(map[string]*ward)}
}

// update runs one turn: what f steps is written, and what follows from it is done
// once it is durable. The turn is returned for what was rejected.
func (s *Service) update(f func(*turn) error) (*turn, error) {
	var t *turn
	locked := false
	err := s.journal.Update(func(tx *journal.Tx) error {
		s.mu.Lock()
		locked = true
		t = s.begin(tx)
		if err := f(t); err != nil {
			return err
		}
		return t.write()
	})
	if !locked {
		return t, err
	}
	defer s.mu.Unlock()
	if err != nil {
		return t, err
	}
	s.settle(t)
	return t, nil
}

// peek runs a turn that is thrown away, to show what is or would be.
func (s *Service) peek(f func(*turn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.View(func(tx *journal.Tx) error { return f(s.begin(tx)) })
}

// settle does what follows from a turn that is durable; mu is held.
func (s *Service) settle(t *turn) {
	if t.manager != nil {
		s.manager = *t.manager
	}
	for _, w := range t.order {
		m := s.memoryOf(w.name)
		m.clock, m.record = t.now, &w.rec
		if w.man != nil {
			m.acks = make(map[string]ackOf)
			for _, x := range w.man.Device.Members {
				m.acks[x.Host] = ackOf{x.Ack, x.Last, x.Quiet}
			}
		}
		m.busy = w.busy()
		if w.rec.Host.Gate == protocol.GateOpen && w.gate != protocol.GateOpen {
			s.disks.Wake() // mappings that were released are made again
		}
		s.measure(w)
		s.tell(w)
		s.enqueue(w.name, m, w.pressing())
	}
}

// pressing returns what is to be done, without the notices that nobody in the
// agent has to hear: disks are acted on, and subscribers are told of the order.
func (w *ward) pressing() []protocol.HostAction {
	var todo []protocol.HostAction
	for _, a := range w.todo {
		if n, is := a.(protocol.Notify); is {
			o, told := w.rec.Host.Outcome(n.Use)
			if !told || o.Kind == kindDisk || o.Kind == kindSubscriber {
				continue
			}
		}
		todo = append(todo, a)
	}
	return todo
}

// ward returns a device within the turn, up to date. CodeNotFound for one that is
// not configured.
func (t *turn) ward(name string) (*ward, error) {
	if w := t.wards[name]; w != nil {
		return w, nil
	}
	d, err := t.configured(name)
	if err != nil {
		return nil, err
	}
	w := &ward{name: name}
	var found bool
	if m := t.s.memories[name]; m != nil && m.record != nil {
		w.rec, found = m.record.clone(), true
	} else if w.rec, found, err = journal.Find[record](t.tx, journal.Hosts, name); err != nil {
		return nil, err
	}
	w.fresh = !found
	if !found {
		w.rec.Host = protocol.Host{Device: identity(d), ID: t.s.journal.HostID(), Boot: t.s.boot, AgentStart: t.s.start}
		w.rec.At = t.now
	}
	w.before, w.gate = w.rec.Host.Phase, w.rec.Host.Gate
	if err := t.loadManagement(w); err != nil {
		return nil, err
	}
	t.wards[name] = w
	t.order = append(t.order, w)
	return w, t.pass(w)
}

// configured returns a device's record. CodeNotFound.
func (t *turn) configured(name string) (journal.Device, error) {
	d, err := t.tx.Device(name)
	if errors.Is(err, primitives.CodeNotFound) {
		err = primitives.Errorf(primitives.CodeNotFound, "device %q is not configured", name).
			On(primitives.URI{Device: name}).Trying("see: tenonctl device list")
	}
	return d, err
}

// loadManagement reads the managing half, where this host has it, with what is
// counted of its hosts.
func (t *turn) loadManagement(w *ward) error {
	man, found, err := journal.Find[management](t.tx, journal.Managements, w.name)
	if err != nil || !found {
		return err
	}
	w.man, w.phase = &man, man.Device.Phase
	if m := t.s.memories[w.name]; m != nil {
		for i := range man.Device.Members {
			if a, known := m.acks[man.Device.Members[i].Host]; known {
				x := &man.Device.Members[i]
				x.Ack, x.Last, x.Quiet = a.ack, a.last, a.quiet
			}
		}
	}
	return nil
}

// pass tells both halves how much time went by since they were brought up to
// date: by the steady clock while the agent runs, by the host's clock over a
// restart, where a clock that went back counts for nothing.
func (t *turn) pass(w *ward) error {
	since := t.now.Sub(w.rec.At.Round(0)) // w.rec.At comes from the journal: it has no steady reading
	if m := t.s.memories[w.name]; m != nil && !m.clock.IsZero() {
		since = t.now.Sub(m.clock)
	}
	w.rec.At = t.now
	if since <= 0 || w.fresh {
		return nil
	}
	t.host(w, protocol.Elapsed{By: since})
	if w.man != nil {
		t.manage(w, protocol.Elapsed{By: since})
	}
	return t.run(w)
}

// identity is how orders name a device.
func identity(d journal.Device) string {
	if d.Backend != "" {
		return d.Backend
	}
	return d.Name
}

// called returns the name of the device of an identity; "" for none.
func (t *turn) called(device string) (string, error) {
	if t.names == nil {
		devices, err := t.tx.Devices()
		if err != nil {
			return "", err
		}
		t.names = make(map[string]string, len(devices))
		for _, d := range devices {
			t.names[identity(d)] = d.Name
		}
	}
	return t.names[device], nil
}

// host queues an event of the host's half.
func (t *turn) host(w *ward, e protocol.HostEvent) {
	w.queue = append(w.queue, func() error { return t.stepHost(w, e) })
}

// manage queues an event of the managing half.
func (t *turn) manage(w *ward, e protocol.ManagementEvent) {
	w.queue = append(w.queue, func() error { return t.stepManagement(w, e) })
}

// run steps until the device is at rest.
func (t *turn) run(w *ward) error {
	for len(w.queue) > 0 {
		if t.steps++; t.steps > longest*(1+len(t.order)) {
			return primitives.Errorf(primitives.CodeInternal, "the maintenance of device %s does not come to rest", w.name)
		}
		next := w.queue[0]
		w.queue = w.queue[1:]
		if err := next(); err != nil {
			w.queue = nil
			return err
		}
	}
	return nil
}

func (t *turn) stepHost(w *ward, e protocol.HostEvent) error {
	overdue := w.rec.Host.Overdue
	actions := w.rec.Host.Step(e)
	w.note(e, actions, overdue)
	for _, a := range actions {
		switch a := a.(type) {
		case protocol.Audit:
			t.audit(w, a)
		case protocol.SendReport:
			w.reports = true
			if w.man != nil {
				if err := t.reportHere(w); err != nil {
					return err
				}
			}
		case protocol.Rejected:
			w.rejected = append(w.rejected, a)
		default:
			w.todo = append(w.todo, a)
		}
	}
	return nil
}

// reportHere gives the host's report to the managing half beside it.
func (t *turn) reportHere(w *ward) error {
	uses, err := t.uses(w.name)
	if err != nil {
		return err
	}
	report := protocol.Reported{Report: w.rec.Host.Report(uses)}
	w.queue = append(w.queue, func() error {
		// A report that does not count changes nothing, and is no failure of the turn.
		if err := t.stepManagement(w, report); err != nil && !errors.Is(err, primitives.CodeConflict) {
			return err
		}
		return nil
	})
	return nil
}

func (t *turn) stepManagement(w *ward, e protocol.ManagementEvent) error {
	actions, err := w.man.Device.Step(e)
	if err != nil {
		return refusal(w.name, err)
	}
	for _, a := range actions {
		switch a := a.(type) {
		case protocol.Audit:
			t.audit(w, a)
		case protocol.Send:
			if a.Host != w.rec.Host.ID {
				continue // no other host is on the roster of a host that manages itself
			}
			uses, err := t.uses(w.name)
			if err != nil {
				return err
			}
			t.host(w, protocol.Ordered{Order: a.Order, Uses: uses})
		}
	}
	return nil
}

// write puts everything into the transaction.
func (t *turn) write() error {
	for _, w := range t.order {
		if err := t.run(w); err != nil {
			return err
		}
		if w.rec.Host.Gate == protocol.GateOpen && w.gate != protocol.GateOpen {
			if err := t.wakeDormant(w.name); err != nil {
				return err
			}
		}
		w.rec.enter(w.before, t.now)
		w.tidy()
		err := errors.Join(
			journal.Put(t.tx, journal.Hosts, w.name, w.rec),
			t.tx.PutDoor(w.name, w.rec.Host.Door()))
		if w.man != nil {
			if w.man.Since.IsZero() || w.man.Device.Phase != w.phase {
				w.man.Since = t.now
			}
			err = errors.Join(err, journal.Put(t.tx, journal.Managements, w.name, *w.man))
		}
		if err != nil {
			return fmt.Errorf("maintenance of device %s: %w", w.name, err)
		}
	}
	return t.writeAudit()
}

// tidy forgets what belongs to uses that the host's half does not know any more.
func (w *ward) tidy() {
	for use := range w.rec.Acts {
		if o, known := w.rec.Host.Outcome(use); !known || !o.Acting {
			delete(w.rec.Acts, use)
		}
	}
	if w.rec.Host.Gate != protocol.GateOpen {
		return
	}
	w.rec.Was = nil
	if len(w.rec.Host.Owed) == 0 && len(w.rec.Acts) == 0 {
		w.rec.Deeds = nil
	}
}

// busy reports whether the device is on its way somewhere.
func (w *ward) busy() bool {
	h := &w.rec.Host
	if len(h.Owed) > 0 || len(w.rec.Acts) > 0 {
		return true
	}
	if w.man != nil {
		switch w.man.Device.Phase {
		case protocol.InService, protocol.InMaintenance, protocol.ReturnFailed:
		default:
			return true
		}
	}
	switch h.Phase {
	case protocol.HostOpen, protocol.HostUnknown, protocol.HostReturnFailed, protocol.HostFenced:
		return false
	}
	return true
}

// refusal turns a machine's refusal into an error of the agent's.
func refusal(device string, err error) error {
	e, ok := errors.AsType[*protocol.Error](err)
	if !ok {
		return err
	}
	code := primitives.CodeConflict
	switch e.Code {
	case protocol.Unknown:
		code = primitives.CodeNotFound
	case protocol.Denied:
		code = primitives.CodeDenied
	case protocol.Invalid:
		code = primitives.CodeInvalid
	}
	out := &primitives.Error{Code: code, URI: primitives.URI{Device: device}, Err: e, Try: e.Try}
	if code == primitives.CodeInvalid {
		out.Problems = []primitives.Problem{{Prop: "maintenance", Message: e.Text, Fatal: true}}
		out.Err = nil
	}
	return out
}
