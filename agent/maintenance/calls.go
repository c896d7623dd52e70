// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// The kinds of operation of this package. Each is one step that may be repeated;
// they make every changing request idempotent by its request id.
const (
	kindPrepare  = "maintenance.prepare"
	kindExtend   = "maintenance.extend"
	kindOverride = "maintenance.override"
	kindCancel   = "maintenance.cancel"
	kindEnd      = "maintenance.end"
	kindObject   = "maintenance.object"
	kindWithdraw = "maintenance.withdraw"
	kindReady    = "maintenance.ready"
	kindPolicy   = "maintenance.policy"
)

type prepareArgs struct {
	Device string
	Intent protocol.Intent
}

type extendArgs struct {
	Device, ID               string
	Respond, Drain, Expected time.Duration
}

type overrideArgs struct{ Device, ID, Subject, Permission, Reason string }

type endArgs struct{ Device, ID string }

type answerArgs struct {
	Use      string
	Epoch    uint64
	How      protocol.How
	Evidence string
	Reason   protocol.Reason
}

type policyArgs struct {
	Subject string
	Policy  protocol.Policy
}

// nothing is what these operations remember.
type nothing struct{}

func (s *Service) registerKinds() {
	onDevice := func(name string) string { return name }
	register(s, kindPrepare, func(a prepareArgs) string { return onDevice(a.Device) }, s.prepare)
	register(s, kindExtend, func(a extendArgs) string { return onDevice(a.Device) }, s.extend)
	register(s, kindOverride, func(a overrideArgs) string { return a.Device + " " + a.Subject }, s.override)
	register(s, kindCancel, func(a endArgs) string { return onDevice(a.Device) }, s.cancel)
	register(s, kindEnd, func(a endArgs) string { return onDevice(a.Device) }, s.end)
	register(s, kindObject, func(a answerArgs) string { return a.Use }, s.object)
	register(s, kindWithdraw, func(a answerArgs) string { return a.Use }, s.withdraw)
	register(s, kindReady, func(a answerArgs) string { return a.Use }, s.ready)
	register(s, kindPolicy, func(a policyArgs) string { return a.Subject }, func(_ context.Context, _, _ string, a policyArgs) error { return s.setPolicy(a) })
}

// register makes a call an operation of one step. do gets the operation's id,
// which a repeat after a crash has too, and the caller.
func register[A any](s *Service, name string, subject func(A) string, do func(ctx context.Context, id, caller string, a A) error) {
	operation.Register(s.engine, operation.Kind[A, nothing]{
		Name: name, Subject: subject,
		Steps: []operation.Step[A, nothing]{{
			Name: "apply",
			Do: func(ctx context.Context, r *operation.Run[A, nothing]) error {
				return do(ctx, r.ID, r.Caller, r.Args)
			},
		}},
	})
}

// call runs an operation to its end. Its failure is the call's.
func (s *Service) call(ctx context.Context, kind, requestID, caller string, args any) (operation.Operation, error) {
	op, err := s.engine.Start(ctx, operation.Request{RequestID: requestID, Kind: kind, Args: args, Caller: caller})
	if err == nil {
		op, err = s.engine.Wait(ctx, op.ID)
	}
	if err == nil {
		err = op.Err()
	}
	return op, err
}

// Prepare declares that a device is to go into maintenance. An intent without an
// ID gets one; without an impact it is Disconnect. CodeNotFound, CodeInvalid,
// CodeConflict where the plan is not the one that was agreed to, or where an
// outside manager has this host.
func (s *Service) Prepare(ctx context.Context, r PrepareRequest) (Maintenance, error) {
	if err := checkIntent(&r.Intent, r.Caller); err != nil {
		return Maintenance{}, err
	}
	if _, err := s.call(ctx, kindPrepare, r.RequestID, r.Caller, prepareArgs{r.Device, r.Intent}); err != nil {
		return Maintenance{}, err
	}
	return s.Get(ctx, r.Device)
}

// checkIntent reports every mistake in an intent and fills in what was left out.
func checkIntent(i *protocol.Intent, caller string) error {
	var problems []primitives.Problem
	add := func(field, format string, args ...any) {
		problems = append(problems, primitives.Invalid("intent."+field, format, args...).Problems...)
	}
	i.Impact = cmp.Or(i.Impact, protocol.Disconnect)
	i.Requester = cmp.Or(i.Requester, caller)
	i.Revision = cmp.Or(i.Revision, 1)
	if i.Impact > protocol.DataLoss {
		add("impact", "%d is none; expected io-stall, disconnect or data-loss", i.Impact)
	}
	for field, d := range map[string]time.Duration{"expected": i.Expected, "not_before": i.NotBefore, "respond": i.Respond, "drain": i.Drain} {
		if d < 0 {
			add(field, "%s is negative", d)
		}
	}
	if i.OnRespond > protocol.OnDeadlineForce || i.OnDrain > protocol.OnDeadlineForce {
		add("on_deadline", "expected hold, escalate or force")
	}
	if (i.OnRespond == protocol.OnDeadlineForce || i.OnDrain == protocol.OnDeadlineForce) && strings.TrimSpace(i.Permission) == "" {
		add("permission", "cutting uses off needs the name of who permits it")
	}
	if len(i.ID) > 128 || strings.ContainsAny(i.ID, " \t\n/") {
		add("id", "%q: expected at most 128 bytes without blanks and slashes", i.ID)
	}
	if e, wrong := errors.AsType[*primitives.Error](checkPolicy("intent.policy", i.Policy)); wrong {
		problems = append(problems, e.Problems...)
	}
	if len(problems) > 0 {
		return &primitives.Error{Code: primitives.CodeInvalid, Problems: problems}
	}
	return nil
}

// prepare steps the intent. A repeat finds it there, which is success.
func (s *Service) prepare(ctx context.Context, op, _ string, a prepareArgs) error {
	if a.Intent.ID == "" {
		a.Intent.ID = "m-" + op
	}
	plan := ""
	if a.Intent.PlanDigest != "" {
		now, err := s.Plan(ctx, PlanRequest(a))
		if err != nil {
			return err
		}
		if plan = now.Digest; plan != a.Intent.PlanDigest && !s.prepared(a) {
			return s.planChanged(a, now)
		}
		plan = a.Intent.PlanDigest
	}
	alternatives := s.alternatives(a.Device)
	return s.managing(a.Device, op, func(t *turn, w *ward) error {
		w.man.Device.Alternatives = alternatives
		t.manage(w, protocol.Prepare{Intent: a.Intent, Plan: plan})
		return nil
	})
}

// prepared reports that the intent is there already: the uses have changed since
// because of it.
func (s *Service) prepared(a prepareArgs) (known bool) {
	_ = s.peek(func(t *turn) error {
		w, err := t.ward(a.Device)
		if err == nil && w.man != nil {
			known = slices.ContainsFunc(w.man.Device.Intents, func(p protocol.Planned) bool { return p.Intent.ID == a.Intent.ID })
		}
		return err
	})
	return known
}

func (s *Service) planChanged(a prepareArgs, now Plan) error {
	err := primitives.Errorf(primitives.CodeConflict, "the plan changed since it was made").On(primitives.URI{Device: a.Device}).
		Trying("look at the plan again: tenonctl maintenance plan %s; it is %s now", a.Device, now.Digest)
	var what []string
	if then, known := s.planned(a.Device, a.Intent.PlanDigest); known {
		what = differences(then.Uses, now.Uses)
	} else {
		for _, u := range now.Uses {
			what = append(what, fmt.Sprintf("%s (%s): %s", u.ID, u.Subject, u.words()))
		}
	}
	for _, w := range what {
		err = err.By(primitives.Blocker{Kind: "plan", Name: w})
	}
	return err
}

// alternatives names the devices that can be used instead of one: open ones, the
// one with the most room first.
func (s *Service) alternatives(except string) []string {
	states, err := s.devices.List()
	if err != nil {
		return nil
	}
	states = slices.DeleteFunc(states, func(d device.Status) bool {
		return d.Name == except || d.State != device.Open || !d.Described || len(d.Description.Caps.Forms) == 0 || s.closed(d.Name)
	})
	slices.SortStableFunc(states, func(a, b device.Status) int { return cmp.Compare(b.Description.Free, a.Description.Free) })
	var names []string
	for _, d := range states[:min(len(states), 3)] {
		names = append(names, d.Name)
	}
	return names
}

// managing steps the managing half of a device, once for each operation.
// CodeConflict where an outside manager has it.
func (s *Service) managing(name, id string, f func(*turn, *ward) error) error {
	_, err := s.update(func(t *turn) error {
		w, err := t.ward(name)
		if err != nil {
			return err
		}
		if w.man == nil {
			return s.managedElsewhere(name)
		}
		return w.apply(id, func() error {
			if err := f(t, w); err != nil {
				return err
			}
			return t.run(w)
		})
	})
	return err
}

// managedElsewhere refuses what only the outside manager may say; mu is held.
func (s *Service) managedElsewhere(name string) error {
	by := s.manager.ID
	if by == "" {
		by = "at " + s.options.Manager + ", which has not been heard of yet"
	}
	return primitives.Errorf(primitives.CodeConflict, "the device is managed by the manager %s", by).On(primitives.URI{Device: name}).
		By(primitives.Blocker{Kind: "manager", Name: by}).Trying("ask that manager; this host only follows it")
}

// Extend gives a maintenance other deadlines, counted from now.
func (s *Service) Extend(ctx context.Context, r ExtendRequest) (Maintenance, error) {
	_, err := s.call(ctx, kindExtend, r.RequestID, r.Caller, extendArgs{r.Device, r.ID, r.Respond, r.Drain, r.Expected})
	if err != nil {
		return Maintenance{}, err
	}
	return s.Get(ctx, r.Device)
}

func (s *Service) extend(_ context.Context, op, caller string, a extendArgs) error {
	return s.managing(a.Device, op, func(t *turn, w *ward) error {
		id, err := w.only(a.ID)
		t.manage(w, protocol.Extend{ID: id, By: caller, Respond: a.Respond, Drain: a.Drain, Expected: a.Expected})
		return err
	})
}

// only returns the id of the intent that is meant.
func (w *ward) only(id string) (string, error) {
	if id != "" {
		return id, nil
	}
	switch intents := w.man.Device.Intents; len(intents) {
	case 0:
		return "", primitives.Errorf(primitives.CodeNotFound, "no maintenance of the device is under way").On(primitives.URI{Device: w.name}).
			Trying("see: tenonctl maintenance status %s", w.name)
	case 1:
		return intents[0].Intent.ID, nil
	default:
		var ids []string
		for _, p := range intents {
			ids = append(ids, p.Intent.ID)
		}
		return "", primitives.Invalid("id", "%d maintenances cover the device; name one: %s", len(ids), strings.Join(ids, ", "))
	}
}

// Override stops waiting for a use or for this host; after a failed return it
// takes the device as it came back, if it is the same storage. Permission and what
// was hit are in the audit before anything is done. CodeInvalid without a permission.
func (s *Service) Override(ctx context.Context, r OverrideRequest) (Maintenance, error) {
	if strings.TrimSpace(r.Permission) == "" {
		return Maintenance{}, primitives.Invalid("permission", "it is empty; expected the name of who permits it")
	}
	if r.Subject == "" {
		return Maintenance{}, primitives.Invalid("subject", "it is empty; expected the id of a use or of a host")
	}
	_, err := s.call(ctx, kindOverride, r.RequestID, r.Caller, overrideArgs{r.Device, r.ID, r.Subject, r.Permission, r.Reason})
	if err != nil {
		return Maintenance{}, err
	}
	return s.Get(ctx, r.Device)
}

func (s *Service) override(_ context.Context, op, caller string, a overrideArgs) error {
	return s.managing(a.Device, op, func(t *turn, w *ward) error {
		if w.man.Device.Phase == protocol.ReturnFailed && a.Subject == w.rec.Host.ID {
			t.accept(w, a, caller)
			return nil
		}
		if _, err := w.only(a.ID); err != nil {
			return err
		}
		t.manage(w, protocol.Overrule{Override: protocol.Override{Subject: a.Subject, Permission: a.Permission, By: caller, Reason: a.Reason}})
		return nil
	})
}

// accept takes a device as it came back, of another size than before: it tries to
// return again, and only its identity and that it works still count.
func (t *turn) accept(w *ward, a overrideArgs, caller string) {
	t.audit(w, protocol.Audit{
		Device: w.rec.Host.Device, IDs: w.rec.Host.Order.IDs, Stamp: w.rec.Host.Order.Stamp, Who: caller,
		What: "accepted as it came back", Subject: a.Subject, Evidence: a.Reason, Permission: a.Permission,
	})
	w.rec.Was = nil
	t.manage(w, protocol.End{By: caller})
}

// Cancel calls a maintenance off before the device is in maintenance.
// CodeConflict once it is: then it is ended.
func (s *Service) Cancel(ctx context.Context, r EndRequest) (Maintenance, error) {
	if _, err := s.call(ctx, kindCancel, r.RequestID, r.Caller, endArgs{r.Device, r.ID}); err != nil {
		return Maintenance{}, err
	}
	return s.Get(ctx, r.Device)
}

func (s *Service) cancel(_ context.Context, op, caller string, a endArgs) error {
	return s.managing(a.Device, op, func(t *turn, w *ward) error {
		if w.man.Device.Phase == protocol.InMaintenance {
			return primitives.Errorf(primitives.CodeConflict, "the device is in maintenance already, which is ended and not cancelled").
				On(primitives.URI{Device: a.Device}).Trying("end it once the device is back: tenonctl maintenance end %s", a.Device)
		}
		id, err := w.only(a.ID)
		t.manage(w, protocol.End{ID: id, By: caller})
		return err
	})
}

// End says that a device is back: it is verified, unfenced and in service again.
// After a failed return it tries again.
func (s *Service) End(ctx context.Context, r EndRequest) (Maintenance, error) {
	if _, err := s.call(ctx, kindEnd, r.RequestID, r.Caller, endArgs{r.Device, r.ID}); err != nil {
		return Maintenance{}, err
	}
	return s.Get(ctx, r.Device)
}

func (s *Service) end(_ context.Context, op, caller string, a endArgs) error {
	return s.managing(a.Device, op, func(t *turn, w *ward) error {
		id := a.ID
		if len(w.man.Device.Intents) > 0 {
			var err error
			if id, err = w.only(a.ID); err != nil {
				return err
			}
		}
		t.manage(w, protocol.End{ID: id, By: caller})
		return nil
	})
}
