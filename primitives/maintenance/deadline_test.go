// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// Cases: E65
func TestWhoDoesNotAnswerInTimeIsLost(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 2)
	i := disconnect("m")
	i.Respond = 10 * time.Second
	s.prepare(i)
	s.run()
	s.pass(9 * time.Second)
	s.state(a, "u0", maintenance.UseNotified)
	s.pass(time.Second)
	s.run()
	s.state(a, "u0", maintenance.UseLost)
	s.phase(maintenance.Blocked)
}

// Cases: E65
func TestWhoDoesNotAnswerInTimeIsActedOnWhereThatIsAsked(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 4) // ignore, ask, shutdown
	i := disconnect("m")
	i.Respond, i.OnRespond = 10*time.Second, maintenance.OnDeadlineEscalate
	s.prepare(i)
	s.run()
	s.pass(10 * time.Second)
	s.run()
	if len(a.running) != 1 || a.running[0].Step.Action != maintenance.Shutdown {
		t.Fatalf("what is done is %+v, want a shutdown", a.running)
	}
	s.finish(0, a, 0, true)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E66
func TestADrainDeadlineHoldsAtNinetyNinePercent(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 1)
	i := disconnect("m")
	i.Drain = 30 * time.Second
	s.prepare(i)
	s.run()
	s.counts(s.answer(a, "u0", maintenance.Progress, func(e *maintenance.Answered) { e.By, e.Percent = "", 99 }))
	s.pass(30 * time.Second)
	s.run()
	s.phase(maintenance.Blocked)
	if len(a.running) != 1 {
		t.Error("holding stopped the move")
	}
	s.finish(0, a, 0, true)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E66
func TestADrainDeadlineGoesOnToTheNextStep(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 1) // move, detach
	i := disconnect("m")
	i.Drain, i.OnDrain = 30*time.Second, maintenance.OnDeadlineEscalate
	s.prepare(i)
	s.run()
	s.pass(30 * time.Second)
	s.run() // the move is cancelled, and the next step begun
	if len(a.running) != 1 || a.running[0].Step.Action != maintenance.Detach {
		t.Fatalf("what is done is %+v, want a detach", a.running)
	}
	s.finish(0, a, 0, true)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E67
func TestADeadlineIsExtendedShortenedAndTakenAway(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	i := disconnect("m")
	i.Drain = 30 * time.Second
	s.prepare(i)
	s.run()
	s.pass(40 * time.Second)
	s.run()
	s.phase(maintenance.Blocked)
	s.must(maintenance.Extend{Drain: time.Minute, By: "somebody"})
	s.run()
	s.phase(maintenance.Preparing)
	if left := a.h.Order.Drain; left != time.Minute {
		t.Errorf("the host has %s, want 1m", left)
	}
	epoch := s.m.Epoch
	s.prepare(i) // a repeat of what was asked for first takes nothing back
	if s.m.Epoch != epoch || s.m.Intents[0].Drain != time.Minute {
		t.Errorf("the repeat changed it to %+v", s.m.Intents[0])
	}
	s.must(maintenance.Extend{Drain: time.Second})
	s.run()
	s.pass(2 * time.Second)
	s.phase(maintenance.Blocked)
	s.must(maintenance.Extend{Drain: -1})
	s.run()
	s.pass(24 * time.Hour)
	s.run()
	s.phase(maintenance.Preparing)
	i.ID, i.Drain = "past", -time.Second
	s.refused(maintenance.Prepare{Intent: i}, maintenance.Invalid)
	s.refused(maintenance.Extend{ID: "no"}, maintenance.Unknown)
}

// Cases: E68
func TestADeviceWithNoUseGoesStraightOn(t *testing.T) {
	s := newScene(t)
	s.prepare(disconnect("m"))
	s.run()
	s.phase(maintenance.InMaintenance)
	for n := range 2 {
		a := s.host(n, maintenance.HostFenced)
		if !a.fence || a.h.Gate != maintenance.GateFenced {
			t.Errorf("h%d is not fenced", n)
		}
	}
}

// Cases: E69
func TestForceNeedsAPermissionAndLeavesItsLineFirst(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 2)
	i := disconnect("m")
	i.Drain, i.OnDrain = 30*time.Second, maintenance.OnDeadlineForce
	s.refused(maintenance.Prepare{Intent: i}, maintenance.Denied)
	s.phase(maintenance.InService)
	i.Permission = "ticket 7"
	s.prepare(i)
	s.run()
	actions := s.act(a, maintenance.Elapsed{By: 31 * time.Second})
	line := slices.IndexFunc(actions, func(act maintenance.HostAction) bool {
		l, ok := act.(maintenance.Audit)
		return ok && l.Subject == "u0" && l.Permission == "ticket 7" && strings.Contains(l.Evidence, "v0")
	})
	cut := slices.IndexFunc(actions, func(act maintenance.HostAction) bool { c, ok := act.(maintenance.CutOff); return ok && c.Use == "u0" })
	if line < 0 || cut < line {
		t.Fatalf("the actions are %+v: want a line with who allowed it, and then the cut", actions)
	}
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E69
func TestAnObjectionDoesNotOutliveAPermittedDeadline(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 2)
	i := disconnect("m")
	i.Drain, i.OnDrain, i.Permission = 30*time.Second, maintenance.OnDeadlineForce, "ticket 7"
	s.prepare(i)
	s.run()
	s.counts(s.answer(a, "u0", maintenance.Object, nil))
	s.run()
	s.phase(maintenance.Blocked)
	s.pass(31 * time.Second)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E70
func TestAnExhaustedPolicyBlocksWithTheLastReason(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 1) // move, detach
	s.prepare(disconnect("m"))
	s.run()
	for range 2 {
		s.finish(0, a, 0, false)
		s.run()
	}
	o := s.state(a, "u0", maintenance.UseObjected)
	if o.Reason.Code != "exhausted" || !strings.Contains(o.Reason.Text, "no step") {
		t.Errorf("the reason is %+v", o.Reason)
	}
	s.phase(maintenance.Blocked)
	s.blocker(byUse("u0"))
	s.must(maintenance.Extend{Drain: time.Hour}) // try again
	s.run()
	if len(a.running) != 1 || a.running[0].Step.Action != maintenance.Move {
		t.Errorf("what is done is %+v, want the move again", a.running)
	}
}

func TestAnOverruledUseIsCutOffOnlyWhenTheFenceIsDue(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 2)
	other := s.use(1, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.counts(s.answer(a, "u0", maintenance.Object, nil))
	s.run()
	o := maintenance.Override{Subject: "u0", By: "admin"}
	s.refused(maintenance.Overrule{Override: o}, maintenance.Denied)
	o.Permission = "ticket 8"
	s.d.permissions = append(s.d.permissions, o.Permission)
	s.refused(maintenance.Overrule{Override: maintenance.Override{Subject: "nobody", Permission: "p"}}, maintenance.Unknown)
	s.must(maintenance.Overrule{Override: o})
	s.run()
	s.host(0, maintenance.HostDrained)
	if a.find("u0") < 0 {
		t.Error("it is cut off though the other host is not drained")
	}
	s.counts(s.answer(other, "u3", maintenance.Ready, nil))
	s.run()
	s.phase(maintenance.InMaintenance)
	if a.find("u0") >= 0 {
		t.Error("it still has the fenced device")
	}
}

func TestADeadlineOfOneIntentIsNotHurriedByAnother(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 2)
	forced := disconnect("forced")
	forced.Drain, forced.OnDrain, forced.Permission = time.Minute, maintenance.OnDeadlineForce, "ticket 9"
	held := disconnect("held")
	held.Drain = 10 * time.Second
	s.prepare(forced)
	s.prepare(held)
	s.run()
	s.pass(20 * time.Second)
	s.run()
	s.phase(maintenance.Blocked)
	if a.find("u0") < 0 {
		t.Fatal("it was cut off at the deadline that only holds")
	}
	s.pass(41 * time.Second)
	s.run()
	s.pass(time.Second)
	s.run()
	s.phase(maintenance.InMaintenance)
}
