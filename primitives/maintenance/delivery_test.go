// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// Cases: E1
func TestALostOrderIsSentAgain(t *testing.T) {
	s := newScene(t)
	s.prepare(disconnect("m"))
	s.net = s.net[:0]
	s.run()
	s.phase(maintenance.Preparing)
	s.pass(6 * time.Second)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E1
func TestALostReportIsAskedForAgain(t *testing.T) {
	s := newScene(t)
	s.prepare(disconnect("m"))
	for range 4 {
		s.deliverAll()
		s.doAll()
		s.net = s.net[:0] // whatever hosts say
	}
	s.phase(maintenance.Preparing)
	s.host(0, maintenance.HostDrained)
	s.pass(6 * time.Second)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E2
func TestARepeatedOrderChangesNothing(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	order := s.m.OrderFor("h0")
	before, _ := json.Marshal(a.h)
	for range 1000 {
		actions := s.act(a, maintenance.Ordered{Order: order})
		if err := rejection(actions); !errors.Is(err, maintenance.Duplicate) || len(actions) != 2 {
			t.Fatalf("a repeat is met with %v (%v), want a report and nothing else", actions, err)
		}
	}
	a.h.Seq -= 1000
	after, _ := json.Marshal(a.h)
	if string(before) != string(after) {
		t.Errorf("after a thousand repeats the host is\n%s, was\n%s", after, before)
	}
}

// Cases: E3
func TestTheNewestOrderCountsInWhateverOrderTheyCome(t *testing.T) {
	s := newScene(t)
	a := s.d.agents[0]
	s.prepare(disconnect("m"))
	gate := s.m.OrderFor("h0")
	s.run()
	fence := s.m.OrderFor("h0")
	s.must(maintenance.End{})
	open := s.m.OrderFor("h0")
	for _, late := range []maintenance.Order{open, gate, fence} {
		s.step(0, a, maintenance.Ordered{Order: late})
	}
	s.run()
	if a.h.Order.Stamp != open.Stamp || a.h.Gate != maintenance.GateOpen {
		t.Errorf("the host follows %s and its gate is %s", a.h.Order.Stamp, a.h.Gate)
	}
	s.phase(maintenance.InService)
}

// Cases: E4
func TestAnOrderForAnotherDeviceIsRefused(t *testing.T) {
	s := newScene(t)
	order := s.m.OrderFor("h0")
	order.Device, order.Stamp.Epoch = "other", 9
	if err := rejection(s.act(s.d.agents[0], maintenance.Ordered{Order: order})); !errors.Is(err, maintenance.Unknown) {
		t.Errorf("it is met with %v, want unknown", err)
	}
	s.host(0, maintenance.HostOpen)
}

// Cases: E5
func TestAnOrderOfALowerTermIsRefusedWithTheCurrentStamp(t *testing.T) {
	s := newScene(t)
	old := s.m.OrderFor("h0")
	old.Stamp.Epoch = 99
	s.must(maintenance.Failover{Term: 2, By: "another"})
	s.run()
	err := rejection(s.act(s.d.agents[0], maintenance.Ordered{Order: old}))
	var refusal *maintenance.Error
	if !errors.As(err, &refusal) || refusal.Code != maintenance.Stale || refusal.Current != s.m.Stamp() {
		t.Errorf("it is met with %+v, want stale at %s", refusal, s.m.Stamp())
	}
	s.refused(maintenance.Failover{Term: 2}, maintenance.Stale)
}

// Cases: E6
func TestAnOrderOfTheSameStampWithOtherContentIsRefused(t *testing.T) {
	s := newScene(t)
	order := s.m.OrderFor("h0")
	order.Gate = maintenance.GateClosed
	if err := rejection(s.act(s.d.agents[0], maintenance.Ordered{Order: order})); !errors.Is(err, maintenance.Conflicting) {
		t.Errorf("it is met with %v, want conflicting", err)
	}
	s.host(0, maintenance.HostOpen)
}

// Cases: E6
func TestAMaintenanceWithOtherContentNeedsAHigherRevision(t *testing.T) {
	s := newScene(t)
	i := disconnect("m")
	s.prepare(i)
	epoch := s.m.Epoch
	s.prepare(i)
	if s.m.Epoch != epoch {
		t.Error("a repeat cost an epoch")
	}
	i.Reason = "another"
	s.refused(maintenance.Prepare{Intent: i}, maintenance.Conflicting)
	i.Revision = 2
	s.prepare(i)
	if s.m.Epoch != epoch+1 {
		t.Errorf("a revision is epoch %d, want %d", s.m.Epoch, epoch+1)
	}
	i.Revision = 1
	s.refused(maintenance.Prepare{Intent: i}, maintenance.Stale)
}

func TestAChangedPlanIsRefusedAndARepeatIsNot(t *testing.T) {
	s := newScene(t)
	i := disconnect("m")
	i.PlanDigest = "agreed"
	s.refused(maintenance.Prepare{Intent: i, Plan: "other"}, maintenance.PlanChanged)
	s.phase(maintenance.InService)
	s.must(maintenance.Prepare{Intent: i, Plan: "agreed"})
	epoch := s.m.Epoch
	s.must(maintenance.Prepare{Intent: i, Plan: "half of it is done"})
	if s.m.Epoch != epoch {
		t.Error("a repeat cost an epoch")
	}
}

// Cases: E7
func TestAnOldReportDoesNotCount(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.release(0, a, "u3", "")
	s.doAll()
	drained := a.h.Report(a.uses)
	a.h.Seq++ // a later report, that it was used again
	again := drained
	again.Seq, again.Phase = a.h.Seq, maintenance.HostDraining
	s.net = s.net[:0]
	s.must(maintenance.Reported{Report: again})
	s.refused(maintenance.Reported{Report: drained}, maintenance.Stale)
	s.phase(maintenance.Preparing)
}

// A stream that is half open delivers nothing, and management waits; the next one of the same agent takes over.
// Cases: E8, E9
func TestASecondStreamOfAnAgentTakesOver(t *testing.T) {
	s := newScene(t)
	s.apart[1] = true
	s.prepare(disconnect("m"))
	s.run()
	s.pass(time.Minute)
	s.run()
	s.phase(maintenance.Preparing)
	s.blocker(func(b maintenance.Blocker) bool { return b.Host == "h1" })
	s.apart[1] = false
	s.join(0, 1)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E10
func TestOfTwoAgentsWithOneHostIDOnlyTheLastToJoinCounts(t *testing.T) {
	s := newScene(t)
	report := s.d.agents[0].h.Report(nil)
	s.must(maintenance.HostJoined{Host: "h0", Boot: "its", AgentStart: "impostor"})
	s.refused(maintenance.Reported{Report: report}, maintenance.Stale)
	s.refused(maintenance.HostJoined{Host: "h0", Boot: "0", AgentStart: "0"}, maintenance.Stale)
}

// Cases: E11
func TestAClockThatJumpsBackMovesNoDeadline(t *testing.T) {
	s := newScene(t)
	s.use(0, 3, 2)
	i := disconnect("m")
	i.Drain, i.Respond = time.Minute, time.Minute
	s.prepare(i)
	s.run()
	before, _ := json.Marshal([]any{s.m, s.d.agents[0].h})
	s.pass(-time.Hour)
	after, _ := json.Marshal([]any{s.m, s.d.agents[0].h})
	if string(before) != string(after) {
		t.Errorf("after the jump there is\n%s, before\n%s", after, before)
	}
	if order := s.m.OrderFor("h0"); order.Drain != time.Minute {
		t.Errorf("an order tells %s to drain, want what is left by the steady clock, 1m", order.Drain)
	}
}

// Cases: E12
func TestABurstOfOrdersTellsEveryUseOnce(t *testing.T) {
	var uses []maintenance.Use
	for i := range 200 {
		uses = append(uses, maintenance.Use{ID: fmt.Sprintf("u%03d", i), Kind: "transfer"})
	}
	for device := range 100 {
		name := numbers[device]
		m := maintenance.NewManagement(name, 1)
		h := maintenance.Host{Device: name, ID: "h0", Boot: "b", AgentStart: "a"}
		must(m.Step(maintenance.HostJoined{Host: "h0", Boot: "b", AgentStart: "a"}))
		must(m.Step(maintenance.Prepare{Intent: disconnect("m")}))
		told := 0
		for _, act := range h.Step(maintenance.Ordered{Order: m.OrderFor("h0"), Uses: uses}) {
			if _, ok := act.(maintenance.Notify); ok {
				told++
			}
		}
		r := h.Report(uses)
		if told != 200 || len(r.Uses) != 200 {
			t.Fatalf("%d uses are told and %d reported, want 200", told, len(r.Uses))
		}
		must(m.Step(maintenance.Reported{Report: r}))
		if len(m.Blockers()) != 200 {
			t.Fatalf("%d blockers, want 200", len(m.Blockers()))
		}
	}
}
