// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// A scene is a world of one device that a test plays in. Every invariant is looked
// at after each step of it.
type scene struct {
	*testing.T
	*world
	d *device
	m *maintenance.Management
}

func newScene(t *testing.T) *scene { return sceneOf(t, newWorld(1, 0, 0, 0)) }

func sceneOf(t *testing.T, w *world) *scene {
	t.Cleanup(func() {
		if w.trouble != "" {
			t.Error(w.trouble)
		}
	})
	return &scene{T: t, world: w, d: w.devices[0], m: w.devices[0].m}
}

// run has everything that is under way arrive, and be done.
func (s *scene) run() {
	for range 8 {
		s.deliverAll()
		s.doAll()
	}
	s.m = s.d.m
}

// must has management take an event.
func (s *scene) must(e maintenance.ManagementEvent) {
	s.Helper()
	if p, ok := e.(maintenance.Prepare); ok && p.Intent.Permission != "" {
		s.d.permissions = append(s.d.permissions, p.Intent.Permission)
	}
	if err := s.manage(0, e); err != nil {
		s.Fatalf("management refused %+v: %v", e, err)
	}
	s.m = s.d.m
}

// refused has management refuse an event.
func (s *scene) refused(e maintenance.ManagementEvent, want maintenance.ErrorCode) {
	s.Helper()
	if err := s.manage(0, e); !errors.Is(err, want) {
		s.Fatalf("management answers %+v with %v, want %v", e, err, want)
	}
}

func (s *scene) prepare(i maintenance.Intent) {
	s.Helper()
	s.must(maintenance.Prepare{Intent: i})
}

// phase expects the device to be in a phase.
func (s *scene) phase(want maintenance.Phase) {
	s.Helper()
	if s.d.m.Phase != want {
		s.Fatalf("the device is %s, want %s; blockers: %+v", s.d.m.Phase, want, s.d.m.Blockers())
	}
}

// host expects a host to be in a phase, and returns its agent.
func (s *scene) host(n int, want maintenance.HostPhase) *agent {
	s.Helper()
	a := s.d.agents[n]
	if a.h.Phase != want {
		s.Fatalf("h%d is %s, want %s: %+v", n, a.h.Phase, want, a.h)
	}
	return a
}

// use admits a use of a slot; its kind and id are the slot's.
func (s *scene) use(host, slot, policy int) *agent {
	s.Helper()
	a := s.d.agents[host]
	if !s.admit(0, a, slot, uint8(policy)) {
		s.Fatalf("%s was not let in on h%d", useNames[slot], host)
	}
	return a
}

// say has a client answer a notice, and returns the refusal if it does not count.
func (s *scene) answer(a *agent, use string, answer maintenance.Answer, change func(*maintenance.Answered)) *maintenance.Error {
	s.Helper()
	e := maintenance.Answered{
		Use: use, By: theClient, Stamp: a.h.Order.Stamp, Boot: a.h.Boot, Answer: answer, How: maintenance.Closed,
		Reason: maintenance.Reason{Code: "busy", Text: "a backup is running"},
	}
	if change != nil {
		change(&e)
	}
	// The refusal is an action: step a copy to see it, and then the host itself.
	again := a.h
	again.Outcomes = slices.Clone(a.h.Outcomes)
	var refusal *maintenance.Error
	for _, act := range again.Step(e) {
		if r, ok := act.(maintenance.Rejected); ok {
			refusal = r.Err
		}
	}
	s.step(0, a, e)
	return refusal
}

// counts expects an answer to count.
func (s *scene) counts(refusal *maintenance.Error) {
	s.Helper()
	if refusal != nil {
		s.Fatalf("the answer does not count: %v", refusal)
	}
}

// voids expects an answer not to count.
func (s *scene) voids(refusal *maintenance.Error, want maintenance.ErrorCode) {
	s.Helper()
	if !errors.Is(refusal, want) {
		s.Fatalf("the answer is met with %v, want %v", refusal, want)
	}
}

// blocker expects somebody to be named.
func (s *scene) blocker(want func(maintenance.Blocker) bool) {
	s.Helper()
	if !slices.ContainsFunc(s.d.m.Blockers(), want) {
		s.Fatalf("the blockers %+v do not name it", s.d.m.Blockers())
	}
}

func byUse(use string) func(maintenance.Blocker) bool {
	return func(b maintenance.Blocker) bool { return b.Use == use }
}

// state expects what a use has come to.
func (s *scene) state(a *agent, use string, want maintenance.UseState) maintenance.Outcome {
	s.Helper()
	o, found := a.h.Outcome(use)
	if !found || o.State != want {
		s.Fatalf("%s is %s (known: %t), want %s", use, o.State, found, want)
	}
	return o
}

// disconnect is an intent as most are.
func disconnect(id string) maintenance.Intent {
	return maintenance.Intent{ID: id, Requester: "somebody", Impact: maintenance.Disconnect, Expected: time.Hour}
}

// act steps a host and returns what it asks for.
func (s *scene) act(a *agent, e maintenance.HostEvent) []maintenance.HostAction {
	again := a.h
	again.Outcomes = slices.Clone(a.h.Outcomes)
	actions := again.Step(e)
	s.step(0, a, e)
	return actions
}

// rejection returns how an event was refused, or nil.
func rejection(actions []maintenance.HostAction) error {
	for _, act := range actions {
		if r, ok := act.(maintenance.Rejected); ok {
			return r.Err
		}
	}
	return nil
}
