// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// Cases: E50
func TestAnAnswerToAnEarlierEpochDoesNotCountAndIsToldTheOrder(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	first := a.h.Order.Stamp
	s.must(maintenance.Extend{Drain: time.Hour})
	s.run()
	s.must(maintenance.Extend{Drain: 2 * time.Hour})
	s.run()
	for back := range uint64(2) {
		late := maintenance.Stamp{Term: 1, Epoch: first.Epoch + back, Rank: 1}
		e := maintenance.Answered{Use: "u3", By: theClient, Stamp: late, Boot: a.h.Boot, Answer: maintenance.Ready, How: maintenance.Closed}
		actions := s.act(a, e)
		told := false
		for _, act := range actions {
			if n, ok := act.(maintenance.Notify); ok && n.Stamp == a.h.Order.Stamp {
				told = true
			}
		}
		if !told || rejection(actions) == nil {
			t.Errorf("an answer to %s at %s is met with %v", late, a.h.Order.Stamp, actions)
		}
	}
	s.state(a, "u3", maintenance.UseNotified)
	s.phase(maintenance.Preparing)
}

// Cases: E51
func TestAUseLetInByAGrantIsWaitedFor(t *testing.T) {
	s := newScene(t)
	s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.must(maintenance.GrantUse{Grant: maintenance.Grant{ID: "g", Subject: "u2", By: "somebody"}})
	s.run()
	a := s.host(0, maintenance.HostDraining)
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.use(0, 2, 2)
	if u := a.uses[a.find("u2")]; u.Grant != "g" {
		t.Errorf("the use came in by grant %q, want g", u.Grant)
	}
	s.run()
	s.phase(maintenance.Preparing)
	s.blocker(byUse("u2"))
	if s.admit(0, s.d.agents[1], 1, 0) {
		t.Error("who has no grant came in too")
	}
	s.release(0, a, "u2", "")
	s.run()
	s.phase(maintenance.InMaintenance)
	s.refused(maintenance.GrantUse{Grant: maintenance.Grant{ID: "g2", Subject: "u2"}}, maintenance.WrongPhase)
}

// Cases: E52
func TestAnAnswerFromBeforeTheBootDoesNotCount(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	i := disconnect("m")
	i.Impact = maintenance.IOStall
	s.prepare(i)
	s.run()
	uses := a.uses
	s.restart(0, true)
	a.uses = uses // it registered again
	s.join(0, 0)
	s.step(0, a, maintenance.UsesSeen{Uses: a.uses})
	s.voids(s.answer(a, "u3", maintenance.Ready, func(e *maintenance.Answered) { e.Boot = "0" }), maintenance.Stale)
	s.state(a, "u3", maintenance.UseNotified)
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E53
func TestReadyDoesNotCountWhileTheDeviceIsOpen(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	a.foreign = true // it kept a file open
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.run()
	s.host(0, maintenance.HostDraining)
	s.phase(maintenance.Blocked)
	s.blocker(func(b maintenance.Blocker) bool { return b.Name == "qemu-img" })
	a.foreign = false
	s.pass(6 * time.Second)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E53
func TestARecordedUseIsReadyOnlyWhenItIsGone(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 2, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.voids(s.answer(a, "u2", maintenance.Ready, nil), maintenance.WrongPhase)
	s.run()
	s.phase(maintenance.Preparing)
	s.release(0, a, "u2", maintenance.Closed)
	s.run()
	s.phase(maintenance.InMaintenance)
}

func TestTheImpactDecidesWhatReadyMeans(t *testing.T) {
	for name, c := range map[string]struct {
		impact maintenance.Impact
		slot   int
		change func(*maintenance.Answered)
		ready  bool
	}{
		"a stall is tolerated":                      {maintenance.IOStall, 2, func(e *maintenance.Answered) { e.How = maintenance.Tolerates }, true},
		"a stall passes while the guest is paused":  {maintenance.IOStall, 0, func(e *maintenance.Answered) { e.How = maintenance.Paused }, true},
		"who is paused still has the device":        {maintenance.Disconnect, 0, func(e *maintenance.Answered) { e.How = maintenance.Paused }, false},
		"a subscriber cannot tolerate a disconnect": {maintenance.Disconnect, 3, func(e *maintenance.Answered) { e.How = maintenance.Tolerates }, false},
		"a subscriber that closed is ready":         {maintenance.Disconnect, 3, nil, true},
		"closing saves no data":                     {maintenance.DataLoss, 3, nil, false},
		"closing with evidence of the data does":    {maintenance.DataLoss, 3, func(e *maintenance.Answered) { e.Evidence = "restored elsewhere, checksums equal" }, true},
		"a subscriber that moved its data is ready": {maintenance.DataLoss, 3, func(e *maintenance.Answered) { e.How = maintenance.Moved }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			a := s.use(0, c.slot, 2)
			i := disconnect("m")
			i.Impact = c.impact
			s.prepare(i)
			s.run()
			refusal := s.answer(a, useNames[c.slot], maintenance.Ready, c.change)
			o, _ := a.h.Outcome(useNames[c.slot])
			if got := o.State == maintenance.UseReady; got != c.ready || got != (refusal == nil) {
				t.Errorf("the use is %s, refusal %v; want ready: %t", o.State, refusal, c.ready)
			}
		})
	}
}

func TestDataThatWasNotMovedBlocksWhenItWouldBeLost(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 2)
	i := disconnect("m")
	i.Impact = maintenance.DataLoss
	s.prepare(i)
	s.run()
	s.release(0, a, "u0", maintenance.Detached)
	s.run()
	s.phase(maintenance.Blocked)
	s.blocker(byUse("u0"))
	s.counts(s.answer(a, "u0", maintenance.Ready, func(e *maintenance.Answered) { e.How, e.Evidence = maintenance.Moved, "checksums equal" }))
	s.run()
	s.phase(maintenance.InMaintenance)
}

func TestProgressThatComesAfterReadyTakesNothingBack(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.use(1, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.counts(s.answer(a, "u3", maintenance.Progress, func(e *maintenance.Answered) { e.Percent = 99 }))
	s.run()
	s.state(a, "u3", maintenance.UseReady)
	s.host(0, maintenance.HostDrained)
}

// Cases: E54
func TestAnObjectionAfterReadyCounts(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.use(1, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.run()
	s.host(0, maintenance.HostDrained)
	s.counts(s.answer(a, "u3", maintenance.Object, nil))
	s.run()
	s.host(0, maintenance.HostDraining)
	s.phase(maintenance.Blocked)
	s.blocker(byUse("u3"))
}

// Cases: E54
func TestAnObjectionThatMeetsTheOrderToFenceGoesBack(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.apart[0] = true // the order to fence is on its way
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.doAll()
	s.apart[0] = false
	reports := s.net
	s.net = nil
	for _, m := range reports {
		s.deliver(m)
	}
	s.phase(maintenance.Fencing)
	epoch := s.m.Epoch
	s.counts(s.answer(a, "u3", maintenance.Object, nil))
	s.run()
	if s.m.Phase == maintenance.Fencing || s.m.Phase == maintenance.InMaintenance || s.m.Epoch == epoch {
		t.Errorf("the device is %s at epoch %d", s.m.Phase, s.m.Epoch)
	}
	s.counts(s.answer(a, "u3", maintenance.Object, nil)) // asked again, it says so again
	s.run()
	s.phase(maintenance.Blocked)
}

// Cases: E55
func TestAnObjectionAfterTheFenceIsTooLate(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.run()
	s.phase(maintenance.InMaintenance)
	s.voids(s.answer(a, "u3", maintenance.Object, nil), maintenance.WrongPhase)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E56
func TestAWithdrawnObjectionBlocksNoMore(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.counts(s.answer(a, "u3", maintenance.Object, nil))
	s.run()
	s.phase(maintenance.Blocked)
	s.voids(s.answer(a, "u3", maintenance.Accept, nil), maintenance.WrongPhase)
	s.counts(s.answer(a, "u3", maintenance.Withdraw, nil))
	s.run()
	s.phase(maintenance.Preparing)
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.run()
	s.phase(maintenance.InMaintenance)
}

func TestAnObjectionStopsWhatIsDoneAboutTheUse(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 1)
	s.prepare(disconnect("m"))
	s.run()
	if len(a.running) != 1 || a.running[0].Step.Action != maintenance.Move {
		t.Fatalf("what is done is %+v, want a move", a.running)
	}
	s.counts(s.answer(a, "u0", maintenance.Object, nil))
	s.run()
	if len(a.running) != 0 {
		t.Error("the move goes on")
	}
	s.state(a, "u0", maintenance.UseObjected)
	s.counts(s.answer(a, "u0", maintenance.Withdraw, nil))
	s.run()
	if len(a.running) != 1 {
		t.Error("the move is not begun again")
	}
}

// Cases: E57
func TestAClientThatDiesWhileItWorksIsLostAndNamed(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	i := disconnect("m")
	i.Respond = 10 * time.Second
	s.prepare(i)
	s.run()
	s.counts(s.answer(a, "u3", maintenance.Accept, nil))
	s.pass(6 * time.Second)
	s.counts(s.answer(a, "u3", maintenance.Progress, nil))
	s.pass(6 * time.Second)
	s.state(a, "u3", maintenance.UseWorking)
	s.pass(6 * time.Second)
	s.run()
	s.state(a, "u3", maintenance.UseLost)
	s.phase(maintenance.Blocked)
	s.blocker(byUse("u3"))
	s.counts(s.answer(a, "u3", maintenance.Ready, nil)) // it lives after all
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E58, E59
func TestAClientThatOnlyPromisesIsVisibleAndNeverReady(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	i := disconnect("m")
	i.Respond, i.Drain = 10*time.Second, time.Minute
	s.prepare(i)
	s.run()
	eta := time.Minute
	for range 9 {
		s.pass(6 * time.Second)
		eta += time.Minute
		s.counts(s.answer(a, "u3", maintenance.Progress, func(e *maintenance.Answered) { e.Percent, e.ETA = 40, eta }))
		s.run()
		s.phase(maintenance.Preparing)
		if u := s.m.Members[0].Last.Uses[0]; u.ETA != eta || u.Percent != 40 || u.Silent != 0 {
			t.Fatalf("the report says %+v", u)
		}
	}
	s.pass(12 * time.Second)
	s.run()
	s.phase(maintenance.Blocked) // the time to drain is over
	s.blocker(byUse("u3"))
}

// Cases: E60
func TestAClientAnswersForItsOwnUsesOnly(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.voids(s.answer(a, "u3", maintenance.Ready, func(e *maintenance.Answered) { e.By = "thief" }), maintenance.Denied)
	s.voids(s.answer(a, "u9", maintenance.Ready, nil), maintenance.Unknown)
	s.state(a, "u3", maintenance.UseNotified)
	s.counts(s.answer(a, "u3", maintenance.Ready, func(e *maintenance.Answered) { e.By = "" })) // the host's own word
}
