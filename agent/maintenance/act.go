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

// caller is who asks for the operations of a maintenance.
const caller = "maintenance"

// doing is an act under way.
type doing struct {
	act       act
	cancel    context.CancelFunc
	operation string // its id, once it is begun
	waiting   bool   // it was promised room that it does not take yet
	called    bool   // it is being taken back
}

// beginAct carries out a step of a use's policy, unless that is under way.
func (s *Service) beginAct(name string, a protocol.ActOn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.memoryOf(name)
	if d := m.acts[a.Use]; d != nil && d.act.Index == a.Index && !d.called {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	d := &doing{act: act{Index: a.Index, Stamp: a.Stamp, Action: a.Step.Action}, cancel: cancel}
	m.acts[a.Use] = d
	s.work.Go(func() {
		defer cancel()
		s.act(ctx, name, a, d)
	})
}

// act carries a step out and tells how it ended.
func (s *Service) act(ctx context.Context, name string, a protocol.ActOn, d *doing) {
	var how protocol.How
	var evidence string
	err := s.slot(ctx)
	if err == nil {
		how, evidence, err = s.actNow(ctx, name, a, d)
		<-s.slots
	}
	s.mu.Lock()
	if m := s.memoryOf(name); m.acts[a.Use] == d {
		delete(m.acts, a.Use)
	}
	s.mu.Unlock()
	if s.ctx.Err() != nil {
		return // it goes on at the next start
	}
	s.log.InfoContext(ctx, "step of a maintenance ended", "device", name, "use", a.Use, "action", a.Step.Action, "how", how, "err", err)
	if err == nil && how == protocol.Moved {
		s.mu.Lock()
		s.metrics.Moved++
		s.metrics.MovedBytes += uint64(max(d.act.Bytes, 0))
		s.mu.Unlock()
	}
	s.tellEnd(name, a, how, evidence, err)
}

// slot waits until one more act may be under way.
func (s *Service) slot(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &primitives.Error{Code: primitives.CodeCancelled, Op: "wait for other steps", Err: context.Cause(ctx)}
	}
}

// tellEnd tells the host's half how a step ended: a use that is recorded no more
// is gone, one that only had to be made safe is ready, all else failed.
func (s *Service) tellEnd(name string, a protocol.ActOn, how protocol.How, evidence string, failure error) {
	_ = s.happened(name, func(t *turn, w *ward) (protocol.HostEvent, error) {
		c, err := t.census()
		if err != nil {
			return nil, err
		}
		_, there := c.find(name, a.Use)
		switch {
		case failure == nil && there && how == protocol.Stopped && w.rec.Host.Order.Impact != protocol.IOStall:
			if err := t.sleep(a.Use); err != nil {
				return nil, err
			}
			return protocol.Gone{Use: a.Use, How: how, Evidence: evidence}, nil
		case failure == nil && there && (how == protocol.Paused || how == protocol.Stopped || how == protocol.Tolerates):
			return protocol.Answered{
				Use: a.Use, Stamp: w.rec.Host.Order.Stamp, Boot: w.rec.Host.Boot, Answer: protocol.Ready, How: how, Evidence: evidence,
			}, nil
		case !there:
			if failure != nil {
				how = "" // it went by itself, or by somebody else's hand
			}
			return protocol.Gone{Use: a.Use, How: how, Evidence: evidence}, nil
		case failure == nil:
			failure = primitives.Errorf(primitives.CodeConflict, "it ended well, but the use is there again")
		}
		return protocol.ActionFailed{Use: a.Use, Index: a.Index, Reason: reasonOf(failure)}, nil
	})
}

// sleep makes a use's record dormant: its domain is off and its mappings are gone.
func (t *turn) sleep(use string) error {
	u, err := t.tx.Use(use)
	if err != nil {
		return err
	}
	u.Dormant = true
	t.seen = nil
	return t.tx.PutUse(u)
}

// actNow looks whether the step is feasible at this moment, writes down what is
// going to be done, and does it.
func (s *Service) actNow(ctx context.Context, name string, a protocol.ActOn, d *doing) (protocol.How, string, error) {
	written, err := s.recall(name, a)
	if err != nil {
		return "", "", err
	}
	if written == nil {
		if written, err = s.arrangeOnceSeen(ctx, name, a); err != nil {
			return "", "", err
		}
	}
	s.mu.Lock()
	d.act, d.waiting = *written, true
	s.mu.Unlock()
	switch a.Step.Action {
	case protocol.Move:
		return s.actMoves(ctx, name, a, d)
	case protocol.Detach:
		return s.actDetach(ctx, name, a, d)
	case protocol.Pause:
		return s.actPause(ctx, name, a, *written)
	case protocol.Shutdown:
		return s.actShutdown(ctx, name, a, *written)
	}
	return "", "", primitives.Errorf(primitives.CodeUnsupported, "tenon cannot carry out %q", a.Step.Action)
}

// recall returns what an earlier life of the agent wrote down about the same step.
func (s *Service) recall(name string, a protocol.ActOn) (*act, error) {
	var found *act
	err := s.journal.View(func(tx *journal.Tx) error {
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		if x, known := rec.Acts[a.Use]; known && x.Index == a.Index && x.Action == a.Step.Action && x.Stamp.SameEpoch(a.Stamp) {
			found = &x
		}
		return err
	})
	return found, err
}

// arrange decides how a step is carried out, and writes that down.
func (s *Service) arrange(ctx context.Context, name string, a protocol.ActOn) (*act, error) {
	var order protocol.Order
	err := s.journal.View(func(tx *journal.Tx) error {
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		order = rec.Host.Order
		return err
	})
	if err != nil {
		return nil, err
	}
	x, err := s.situationOf(ctx, name, order.Impact, protocol.Policy{a.Step}, func(u user) bool { return u.ID == a.Use })
	if err != nil {
		return nil, err
	}
	if len(x.Users) == 0 {
		return nil, primitives.Errorf(primitives.CodeNotFound, "the use is gone")
	}
	f := x.Users[0]
	if f.off() {
		// Nothing is held; the record only has to say so.
		return s.write(name, a, act{Index: a.Index, Stamp: a.Stamp, Action: a.Step.Action, Domain: f.Use.Domain, Disk: f.Use.Disk, From: f.URI})
	}
	to, by := x.feasible(a.Step, f, x.Targets)
	if len(by) > 0 && (!f.Known || s.opening()) {
		return nil, primitives.Errorf(primitives.CodeUnavailable, "%s is not possible yet", a.Step.Action).By(by...)
	}
	if len(by) > 0 {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "%s is not possible", a.Step.Action).By(by...)
	}
	w := act{Index: a.Index, Stamp: a.Stamp, Action: a.Step.Action, Domain: f.Use.Domain, Disk: f.Use.Disk, From: f.URI, Bytes: f.Bytes}
	if to != "" {
		w.To = primitives.URI{Device: to, Volume: f.URI.Volume}
	}
	return s.write(name, a, w)
}

func (s *Service) write(name string, a protocol.ActOn, x act) (*act, error) {
	_, err := s.update(func(t *turn) error {
		w, err := t.ward(name)
		if err != nil {
			return err
		}
		if o, known := w.rec.Host.Outcome(a.Use); !known || !o.Acting || o.Taken || o.Index != a.Index {
			return primitives.Errorf(primitives.CodeCancelled, "the step is not wanted any more")
		}
		if w.rec.Acts == nil {
			w.rec.Acts = make(map[string]act)
		}
		w.rec.Acts[a.Use] = x
		return nil
	})
	return &x, err
}

// requestID is the same for the same step, so that after a crash its operation
// is found again.
func requestID(name, use string, x act) string {
	id := fmt.Sprintf("maintenance/%s/%d.%d/%s/%d", name, x.Stamp.Term, x.Stamp.Epoch, use, x.Index)
	if x.Try > 0 {
		id += fmt.Sprintf("~%d", x.Try)
	}
	return id
}

// operate runs an operation to its end, and takes it back when ctx ends.
func (s *Service) operate(ctx context.Context, d *doing, r operation.Request) (operation.Operation, error) {
	op, err := s.startPatiently(ctx, r)
	if err != nil {
		return op, err
	}
	s.mu.Lock()
	d.operation, d.waiting = op.ID, false
	s.mu.Unlock()
	done, err := s.engine.Wait(ctx, op.ID)
	if err != nil && ctx.Err() != nil && s.ctx.Err() == nil {
		if _, err := s.engine.Cancel(s.ctx, op.ID); err != nil {
			s.log.WarnContext(ctx, "operation of a maintenance cannot be taken back any more", "operation", op.ID, "err", err)
		}
		done, err = s.engine.Wait(s.ctx, op.ID)
	}
	if err == nil {
		err = done.Err()
	}
	return done, err
}

// patience is how long an act waits between attempts to begin its operation while
// others hold the disk or too many run.
const patience = 2 * time.Second

// startPatiently begins an operation, again and again while others are in its way.
func (s *Service) startPatiently(ctx context.Context, r operation.Request) (operation.Operation, error) {
	deadline := time.NewTimer(5 * time.Minute)
	defer deadline.Stop()
	for {
		op, err := s.engine.Start(ctx, r)
		if err == nil || !errors.Is(err, primitives.CodeConflict) && !errors.Is(err, primitives.CodeUnavailable) || heldByMaintenance(err) {
			return op, err
		}
		again := time.NewTimer(min(patience, s.options.Tick))
		select {
		case <-again.C:
		case <-deadline.C:
			again.Stop()
			return op, err
		case <-ctx.Done():
			again.Stop()
			return op, &primitives.Error{Code: primitives.CodeCancelled, Op: r.Kind, Err: context.Cause(ctx)}
		}
	}
}

// heldByMaintenance reports that a gate refused, which waiting does not change.
func heldByMaintenance(err error) bool {
	e, ok := errors.AsType[*primitives.Error](err)
	return ok && len(e.Blocked) > 0 && e.Blocked[0].Kind == "maintenance"
}

func (s *Service) actMove(ctx context.Context, name string, a protocol.ActOn, d *doing) (protocol.How, string, error) {
	x := d.act
	if x.To.IsZero() {
		return s.rest(ctx, name, a, x) // the domain was off when it was arranged
	}
	err := s.note(name, a.Use, deed{How: protocol.Moved, Domain: x.Domain, Disk: x.Disk, From: x.From, To: x.To})
	if err != nil {
		return "", "", err
	}
	op, err := s.operate(ctx, d, operation.Request{
		RequestID: requestID(name, a.Use, x), Kind: move.KindMove, Caller: caller,
		Args: move.Args{Domain: x.Domain, Disk: attach.DiskName(x.Disk), To: x.To},
	})
	if err != nil {
		return "", "", err
	}
	return protocol.Moved, fmt.Sprintf("to %s by operation %s", x.To.Short(), op.ID), nil
}

func (s *Service) actDetach(ctx context.Context, name string, a protocol.ActOn, d *doing) (protocol.How, string, error) {
	x := d.act
	op, err := s.operate(ctx, d, operation.Request{
		RequestID: requestID(name, a.Use, x), Kind: attach.KindDetach, Caller: caller,
		Args: attach.DetachArgs{Domain: x.Domain, Disk: attach.DiskName(x.Disk), Timeout: s.options.DetachTime},
	})
	if err != nil {
		return "", "", err
	}
	return protocol.Detached, "by operation " + op.ID, nil
}

func (s *Service) actPause(ctx context.Context, name string, a protocol.ActOn, x act) (protocol.How, string, error) {
	domain, err := s.disks.Domain(ctx, x.Domain)
	if err != nil {
		return "", "", err
	}
	// Who was paused before, by a person or for an I/O error, stays paused after.
	mine := domain.State == hypervisor.StateRunning || s.didBefore(name, x.Domain, protocol.Paused)
	if err := s.note(name, a.Use, deed{How: protocol.Paused, Domain: x.Domain, Disk: x.Disk, Mine: mine}); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if err := s.adapter.Facets().Pause.Pause(ctx, domain.ID); err != nil {
		return "", "", err
	}
	return protocol.Paused, "domain " + domain.Name + " is paused", nil
}

// actShutdown asks the guest to power off, waits until it did, and lets go of its
// mapping, so that nothing of the device is held.
func (s *Service) actShutdown(ctx context.Context, name string, a protocol.ActOn, x act) (protocol.How, string, error) {
	domain, err := s.disks.Domain(ctx, x.Domain)
	if err != nil {
		return "", "", err
	}
	up := domain.State != hypervisor.StateOff && domain.State != hypervisor.StateCrashed
	mine := up || s.didBefore(name, x.Domain, protocol.Stopped)
	err = s.note(name, a.Use, deed{How: protocol.Stopped, Domain: x.Domain, Disk: x.Disk, Mine: mine})
	if err != nil {
		return "", "", err
	}
	if up {
		down, cancel := context.WithTimeout(ctx, s.options.ShutdownTime)
		defer cancel()
		if err := s.adapter.Facets().Power.Shutdown(down, domain.ID); err != nil {
			return "", "", err
		}
	}
	done := deed{How: protocol.Stopped, Domain: x.Domain, Disk: x.Disk, Mine: mine, Done: true}
	if err := s.note(name, a.Use, done); err != nil {
		return "", "", err
	}
	return s.rest(ctx, name, a, x)
}

// rest releases the mapping of a disk whose domain is off.
func (s *Service) rest(ctx context.Context, name string, a protocol.ActOn, _ act) (protocol.How, string, error) {
	var use journal.Use
	stalls := false
	err := s.journal.View(func(tx *journal.Tx) (err error) {
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		if err != nil {
			return err
		}
		stalls = rec.Host.Order.Impact == protocol.IOStall
		use, err = tx.Use(a.Use)
		return err
	})
	if err != nil || stalls {
		return protocol.Stopped, "its domain is off", err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if err := s.disks.Release(ctx, use); err != nil {
		return "", "", err
	}
	return protocol.Stopped, "its domain is off and its mapping was released", nil
}

// note writes down what is about to be done to a use, as far as it is to be undone.
func (s *Service) note(name, use string, d deed) error {
	_, err := s.update(func(t *turn) error {
		w, err := t.ward(name)
		if err != nil {
			return err
		}
		if had, known := w.rec.Deeds[use]; known && had.How == d.How {
			d.Mine = d.Mine || had.Mine
		}
		if w.rec.Deeds == nil {
			w.rec.Deeds = make(map[string]deed)
		}
		w.rec.Deeds[use] = d
		return nil
	})
	return err
}

// didBefore reports whether tenon itself stopped or paused the domain, for
// another of its disks or before it died: on any device.
func (s *Service) didBefore(_, domain string, how protocol.How) (did bool) {
	_ = s.journal.View(func(tx *journal.Tx) error {
		for _, rec := range journal.Records[record](tx, journal.Hosts) {
			for _, d := range rec.Deeds {
				did = did || d.Domain == domain && d.How == how && d.Mine && !d.Void
			}
		}
		return nil
	})
	return did
}

// cancelAct takes a step back where that can be; its end is told by itself. What
// is not under way has ended without being taken note of.
func (s *Service) cancelAct(name string, a protocol.CancelAct) {
	s.mu.Lock()
	d := s.memoryOf(name).acts[a.Use]
	if d != nil && d.act.Index == a.Index {
		d.called = true
		d.cancel()
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.work.Go(func() { s.cancelForgotten(name, a) })
}

// cancelForgotten takes back a step that an earlier life of the agent began.
func (s *Service) cancelForgotten(name string, a protocol.CancelAct) {
	var x act
	var op string
	err := s.journal.View(func(tx *journal.Tx) error {
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		if err != nil {
			return err
		}
		x = rec.Acts[a.Use]
		o, err := tx.OperationByRequest(requestID(name, a.Use, x))
		if errors.Is(err, primitives.CodeNotFound) {
			return nil
		}
		op = o.ID
		return err
	})
	failure := error(primitives.Errorf(primitives.CodeCancelled, "it was taken back"))
	if err == nil && op != "" {
		if _, err := s.engine.Cancel(s.ctx, op); err != nil {
			s.log.Warn("operation of a maintenance cannot be taken back any more", "operation", op, "err", err)
		}
		var done operation.Operation
		if done, err = s.engine.Wait(s.ctx, op); err == nil {
			failure = done.Err()
		}
	}
	if err != nil && s.ctx.Err() != nil {
		return
	}
	how := protocol.Moved
	if x.Action == protocol.Detach {
		how = protocol.Detached
	}
	s.tellEnd(name, protocol.ActOn{Use: a.Use, Index: a.Index, Step: protocol.PolicyStep{Action: x.Action}}, how, "", errors.Join(err, failure))
}
