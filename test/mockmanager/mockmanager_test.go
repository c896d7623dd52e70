// SPDX-License-Identifier: Apache-2.0

package mockmanager_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
	"github.com/tenon-storage/tenon/test/mockmanager"
)

// buffer is a record that is written while it may be read.
type buffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// house is a manager and how to wait for it.
type house struct {
	*testing.T
	*mockmanager.Manager
	ctx    context.Context
	record *buffer
}

func newHouse(t *testing.T, o mockmanager.Options) *house {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	t.Cleanup(cancel)
	h := &house{T: t, ctx: ctx, record: new(buffer)}
	if o.Listen == "" {
		o.Listen = "unix:" + filepath.Join(t.TempDir(), "m")
	}
	o.Record = h.record
	m, err := mockmanager.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	h.Manager = m
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			text := h.record.String()
			t.Logf("the last of the record:\n%s", text[max(0, len(text)-6000):])
		}
	})
	return h
}

// within bounds one wait.
func (h *house) within(wait func(context.Context) error) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, limit)
	defer cancel()
	if err := wait(ctx); err != nil {
		h.Fatal(err)
	}
}

func (h *house) phase(device string, p protocol.Phase) {
	h.Helper()
	h.within(func(ctx context.Context) error { return h.AwaitPhase(ctx, device, p) })
}

func (h *house) hosts(n int) {
	h.Helper()
	h.within(func(ctx context.Context) error { return h.AwaitHosts(ctx, n) })
}

// event has something happen to a device.
func (h *house) event(device string, e protocol.ManagementEvent) {
	h.Helper()
	if err := h.Do(device, e); err != nil {
		h.Fatalf("%s: %T = %v", device, e, err)
	}
}

// open waits until every host has a device open.
func (h *house) open(device string, agents ...*agent) {
	h.Helper()
	h.phase(device, protocol.InService)
	h.eventually("the device is open everywhere", func() bool {
		return !slices.ContainsFunc(agents, func(a *agent) bool {
			phase, gate := a.where(device)
			return phase != protocol.HostOpen || gate != protocol.GateOpen
		})
	})
}

func (h *house) eventually(what string, done func() bool) {
	h.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			h.Fatalf("waited in vain until %s", what)
		}
	}
}

func intent(id string) protocol.Intent {
	return protocol.Intent{ID: id, Requester: "test", Reason: "new disks", Impact: protocol.Disconnect, Expected: time.Hour}
}

var (
	ask    = protocol.PolicyStep{Action: protocol.Ask}
	detach = protocol.PolicyStep{Action: protocol.Detach}
)

// maintain takes a device into maintenance and back, and looks at what must hold.
func (h *house) maintain(device, id string, agents ...*agent) {
	h.Helper()
	h.event(device, protocol.Prepare{Intent: intent(id)})
	h.phase(device, protocol.InMaintenance)
	for _, a := range agents {
		if phase, gate := a.where(device); phase != protocol.HostFenced || gate != protocol.GateFenced {
			h.Errorf("in maintenance, host %s is %s with gate %s", a.id, phase, gate)
		}
		if err := a.use(device, "intruder"); err == nil {
			h.Errorf("in maintenance, host %s lets a use in", a.id)
		}
	}
	h.event(device, protocol.End{ID: id, By: "test"})
	h.open(device, agents...)
}

// What befalls single messages changes when things happen, not what happens.
//
// Cases: E1, E2, E3, E7
func TestLostRepeatedAndReorderedMessagesOnlyCostTime(t *testing.T) {
	for name, f := range map[string][]mockmanager.Fault{
		"nothing":                      nil,
		"every first order is lost":    {{Of: "orders", Do: "lose", Count: 3}},
		"every first report is lost":   {{Of: "reports", Do: "lose", Count: 3}},
		"orders come a thousand times": {{Of: "orders", Do: "repeat", Times: 1000}},
		"reports come a hundred times": {{Of: "reports", Do: "repeat", Times: 100, Count: 4}},
		"orders change places":         {{Of: "orders", Do: "reorder", Count: 2}, {Of: "orders", Do: "reorder", Count: 2}},
		"reports change places":        {{Of: "reports", Do: "reorder", Count: 3}},
		"the first order comes again":  {{Of: "orders", Do: "late", Count: 4}},
		"the first report comes again": {{Of: "reports", Do: "late", Count: 4}},
		"all comes late":               {{Of: "orders", Do: "delay", Count: 4, By: 3 * beat}, {Of: "reports", Do: "delay", Count: 4, By: 3 * beat}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, mockmanager.Options{})
			a := newAgent("host-1", "fast")
			a.run(t, h.Address())
			h.hosts(1)
			h.open("fast", a)
			if err := a.use("fast", "web01", detach); err != nil {
				t.Fatal(err)
			}
			if err := h.Befall(f...); err != nil {
				t.Fatal(err)
			}
			h.maintain("fast", "m-1", a)
			for _, fault := range f {
				if !strings.Contains(h.record.String(), `"fault":"`+fault.Do+`"`) {
					t.Errorf("nothing was befallen by %q; the test tries nothing", fault.Do)
				}
			}
		})
	}
}

// Chance loses, repeats and swaps messages while sessions are cut and both sides crash.
//
// Cases: E1, E2, E3, E20, E29, E30
func TestThreeHostsGoThroughEverythingUnderChaos(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, mockmanager.Options{})
			var agents []*agent
			kills := map[*agent]func(){}
			for i := range 3 {
				a := newAgent(fmt.Sprintf("host-%d", i), "fast")
				agents, kills[a] = append(agents, a), a.run(t, h.Address())
			}
			h.hosts(3)
			h.open("fast", agents...)
			h.Unsettle(&mockmanager.Chaos{Seed: seed, Lose: 0.3, Repeat: 0.2, Swap: 0.2})
			for round := range 3 {
				for i, a := range agents {
					if err := a.use("fast", fmt.Sprintf("disk-%d-%d", i, round), detach); err != nil {
						t.Fatal(err)
					}
				}
				victim := agents[(int(seed)+round)%len(agents)]
				h.event("fast", protocol.Prepare{Intent: intent(fmt.Sprintf("m-%d", round))})
				kills[victim]()
				if err := h.Restart(); err != nil {
					t.Fatal(err)
				}
				kills[victim] = victim.run(t, h.Address())
				h.phase("fast", protocol.InMaintenance)
				for _, a := range agents {
					if phase, _ := a.where("fast"); phase != protocol.HostFenced {
						t.Errorf("round %d: in maintenance, host %s is %s", round, a.id, phase)
					}
				}
				h.Disconnect("")
				h.event("fast", protocol.End{By: "test"})
				h.open("fast", agents...)
			}
		})
	}
}

// A network that parts in any state leaves the host as it was ordered last; what
// was wanted meanwhile happens when it is whole again.
//
// Cases: E29, E40, E41, E42, E43, E44, E45
func TestAPartedHostKeepsItsGateAndCatchesUp(t *testing.T) {
	for name, c := range map[string]struct {
		before func(h *house, a *agent) // then the network parts
		while  func(h *house)           // what management wants meanwhile
		gate   protocol.Gate            // that the host keeps
	}{
		"before the notice": {
			before: func(*house, *agent) {},
			while:  func(h *house) { h.event("fast", protocol.Prepare{Intent: intent("m-1")}) },
			gate:   protocol.GateOpen,
		},
		"after a use accepted": {
			before: func(h *house, a *agent) {
				h.event("fast", protocol.Prepare{Intent: intent("m-1")})
				h.eventually("the host drains", func() bool { p, _ := a.where("fast"); return p == protocol.HostDraining })
				a.answer("fast", "web01", protocol.Accept)
			},
			while: func(h *house) { h.event("fast", protocol.End{By: "test"}) },
			gate:  protocol.GateClosed,
		},
		"after the host drained": {
			before: func(h *house, a *agent) {
				h.event("fast", protocol.Prepare{Intent: intent("m-1")})
				h.eventually("the host drains", func() bool { p, _ := a.where("fast"); return p == protocol.HostDraining })
				h.Disconnect("")
				a.release("fast")
				h.eventually("the host drained", func() bool { p, _ := a.where("fast"); return p >= protocol.HostDrained })
			},
			while: func(h *house) {},
			gate:  protocol.GateClosed,
		},
		"while it is fenced": {
			before: func(h *house, a *agent) {
				a.release("fast")
				h.event("fast", protocol.Prepare{Intent: intent("m-1")})
				h.phase("fast", protocol.InMaintenance)
			},
			while: func(h *house) { h.event("fast", protocol.End{By: "test"}) },
			gate:  protocol.GateFenced,
		},
		"until after the deadline": {
			before: func(h *house, a *agent) {
				i := intent("m-1")
				i.Drain = 4 * beat
				h.event("fast", protocol.Prepare{Intent: i})
				h.eventually("the host drains", func() bool { p, _ := a.where("fast"); return p == protocol.HostDraining })
			},
			while: func(h *house) { h.phase("fast", protocol.Blocked) },
			gate:  protocol.GateClosed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, mockmanager.Options{})
			a := newAgent("host-1", "fast")
			kill := a.run(t, h.Address())
			h.hosts(1)
			h.open("fast", a)
			if err := a.use("fast", "web01", ask); err != nil {
				t.Fatal(err)
			}
			c.before(h, a)
			kill() // the link, not the host: its clock and machines stay as they are
			c.while(h)
			if err := h.Restart(); err != nil { // and the manager crashes as well
				t.Fatal(err)
			}
			if _, gate := a.where("fast"); gate != c.gate && (c.gate != protocol.GateClosed || gate != protocol.GateFenced) {
				t.Errorf("parted, the host's gate is %s, want %s", gate, c.gate)
			}
			a.dial(t, h.Address(), a.start, a.boot)
			a.release("fast")
			s, _, err := h.State("fast")
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Intents) > 0 {
				h.phase("fast", protocol.InMaintenance)
				h.event("fast", protocol.End{By: "test"})
			}
			h.open("fast", a)
		})
	}
}

// release lets every use of a device go.
func (a *agent) release(device string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	uses := a.uses[device]
	a.uses[device] = nil
	for _, u := range uses {
		a.step(device, protocol.Gone{Use: u.ID, How: protocol.Closed})
	}
	a.step(device, protocol.UsesSeen{})
}

// Cases: E9
func TestASecondSessionOfOneAgentReplacesTheFirst(t *testing.T) {
	h := newHouse(t, mockmanager.Options{})
	a := newAgent("host-1", "fast")
	a.run(t, h.Address())
	h.hosts(1)
	a.dial(t, h.Address(), a.start, a.boot) // the same start again
	h.eventually("the first session is told", func() bool {
		return strings.Contains(h.record.String(), "a later session of the same agent start took over")
	})
	h.hosts(1)
}

// Cases: E10, E82
func TestASecondAgentWithOneHostIDIsRefused(t *testing.T) {
	h := newHouse(t, mockmanager.Options{})
	a := newAgent("host-1", "fast")
	kill := a.run(t, h.Address())
	h.hosts(1)
	h.open("fast", a)
	twin := newAgent("host-1", "fast")
	twin.starts = 100
	killTwin := twin.run(t, h.Address())
	h.eventually("the twin is refused", func() bool { return strings.Contains(h.record.String(), "has a session that answers") })
	if phase, gate := twin.where("fast"); phase != protocol.HostUnknown || gate != protocol.GateUnknown {
		t.Errorf("the refused twin is %s with gate %s, want it to know nothing", phase, gate)
	}
	// The first agent goes: the other start is then the host, and the first one never is again.
	kill()
	h.open("fast", twin)
	killTwin()
	a.dial(t, h.Address(), a.start, a.boot)
	h.eventually("the earlier start is refused", func() bool { return strings.Contains(h.record.String(), "was started after this one") })
}

// Cases: E4, E5, E6
func TestAManagerOfALaterTermIsFollowedAndAnEarlierOneIsNot(t *testing.T) {
	h := newHouse(t, mockmanager.Options{ID: "old", Term: 5})
	a := newAgent("host-1", "fast")
	kill := a.run(t, h.Address())
	h.hosts(1)
	h.event("unknown-here", protocol.Prepare{Intent: intent("m-0")}) // no host has it: nobody is waited for
	h.event("fast", protocol.Prepare{Intent: intent("m-1")})
	h.phase("fast", protocol.InMaintenance)
	if err := h.FailOver("new"); err != nil {
		t.Fatal(err)
	}
	h.phase("fast", protocol.InMaintenance)
	h.eventually("the agent follows the new one", func() bool { m, term := a.Enrolled(); return m == "new" && term == 6 })
	kill()
	late := newHouse(t, mockmanager.Options{ID: "old", Term: 5})
	a.dial(t, late.Address(), a.start, a.boot)
	late.eventually("the old manager hears that it is over", func() bool { return strings.Contains(late.record.String(), `"stale":{"manager_id":"new","term":"6"}`) })
	if phase, _ := a.where("fast"); phase != protocol.HostFenced {
		t.Errorf("the host is %s, want fenced: an old manager changes nothing", phase)
	}
}

func TestAManagerThatMayTakesOverInALaterTerm(t *testing.T) {
	h := newHouse(t, mockmanager.Options{ID: "mock", Term: 5, TakeOver: true})
	a := newAgent("host-1", "fast")
	a.manager, a.term = "another", 9
	a.run(t, h.Address())
	h.open("fast", a)
	if manager, term := a.Enrolled(); manager != "mock" || term != 10 {
		t.Errorf("Enrolled = %s, %d; want mock, 10", manager, term)
	}
	h.maintain("fast", "m-1", a)
}

// Cases: E12
func TestAHundredDevicesOfTwoHundredUsesEachAreOrderedAtOnce(t *testing.T) {
	h := newHouse(t, mockmanager.Options{Tick: time.Second})
	var devices []string
	for i := range 100 {
		devices = append(devices, fmt.Sprintf("device-%02d", i))
	}
	a := newAgent("host-1", devices...)
	a.beat = time.Second // a megabyte of reports takes its time
	a.run(t, h.Address())
	h.hosts(1)
	began := time.Now()
	lap := func(what string) { t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond)) }
	for _, d := range devices {
		h.open(d, a)
		a.mu.Lock()
		for i := range 200 {
			a.uses[d] = append(a.uses[d], protocol.Use{ID: fmt.Sprintf("%s-use-%03d", d, i), Kind: "disk", Subject: "v", Policy: protocol.Policy{ask}})
		}
		a.mu.Unlock()
	}
	lap("every device is open")
	for _, d := range devices {
		h.event(d, protocol.Prepare{Intent: intent("m-" + d)})
	}
	lap("every order is given")
	for _, d := range devices {
		h.within(func(ctx context.Context) error {
			return h.Await(ctx, d, func(s protocol.Management, b []protocol.Blocker) bool {
				return len(s.Members) == 1 && s.Members[0].Ack.Uses == 200 && len(b) == 200
			})
		})
	}
	lap("every use is reported")
}

// Cases: E165
func TestOneHostOfTenThatFindsAnotherDeviceIsNamed(t *testing.T) {
	h := newHouse(t, mockmanager.Options{})
	var agents []*agent
	for i := range 10 {
		a := newAgent(fmt.Sprintf("host-%d", i), "fast")
		a.run(t, h.Address())
		agents = append(agents, a)
	}
	h.hosts(10)
	h.open("fast", agents...)
	h.event("fast", protocol.Prepare{Intent: intent("m-1")})
	h.phase("fast", protocol.InMaintenance)
	bad := agents[7]
	bad.mu.Lock()
	bad.verified = func(string) bool { return false }
	bad.mu.Unlock()
	h.event("fast", protocol.End{By: "test"})
	h.phase("fast", protocol.ReturnFailed)
	h.within(func(ctx context.Context) error {
		return h.Await(ctx, "fast", func(_ protocol.Management, b []protocol.Blocker) bool {
			return len(b) == 1 && b[0].Host == "host-7" && strings.Contains(b[0].Reason, "another device came back")
		})
	})
	if _, gate := bad.where("fast"); gate == protocol.GateOpen {
		t.Error("the gate of the host that failed is open")
	}
}

func TestEveryScriptInTestdataSucceeds(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(scripts) < 4 {
		t.Fatalf("scripts = %v, %v", scripts, err)
	}
	for _, file := range scripts {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := mockmanager.ReadScript(text)
			if err != nil {
				t.Fatal(err)
			}
			h := newHouse(t, mockmanager.Options{})
			for _, id := range []string{"host-1", "host-2"} {
				a := newAgent(id, "fast")
				a.run(t, h.Address())
				h.hosts(1)
				h.open("fast", a)
				if err := a.use("fast", id+"-web01", detach); err != nil {
					t.Fatal(err)
				}
				if id == "host-2" {
					if err := a.use("fast", "stubborn", ask); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := h.Manager.Run(h.ctx, s, func(step string) { t.Log(step) }); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestARecordIsPlayedBackToWhoeverDials(t *testing.T) {
	h := newHouse(t, mockmanager.Options{})
	a := newAgent("host-1", "fast")
	kill := a.run(t, h.Address())
	h.hosts(1)
	h.open("fast", a)
	h.maintain("fast", "m-1", a)
	kill()
	said, err := mockmanager.ReadRecord(strings.NewReader(h.record.String()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	socket := "unix:" + filepath.Join(t.TempDir(), "r")
	ended := make(chan error, 1)
	go func() { ended <- mockmanager.Replay(ctx, socket, said, 0) }()
	other := newAgent("host-2", "its own name")
	kill = other.run(t, socket)
	h.eventually("the other agent went through all of it", func() bool {
		other.mu.Lock()
		defer other.mu.Unlock()
		return slices.Contains(other.history, "its own name fenced") && other.history[len(other.history)-1] == "its own name open"
	})
	kill()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Replay = %v", err)
	}
}

func TestAScriptThatSaysNothingOrTooMuchIsRefused(t *testing.T) {
	for _, bad := range []string{
		"steps: [{}]", "steps: [{hosts: 1, pause: 1s}]", "steps: [{unknown: 1}]", "steps: [{prepare: {id: m, when: now}}]", "steps: 7",
	} {
		if _, err := mockmanager.ReadScript([]byte(bad)); err == nil {
			t.Errorf("ReadScript(%q) is no error", bad)
		}
	}
	h := newHouse(t, mockmanager.Options{})
	for _, bad := range []string{
		"steps: [{prepare: {device: fast, id: m, impact: loud}}]", "steps: [{prepare: {device: fast, id: m, policy: [jump]}}]",
		"steps: [{expect: {device: fast, phase: happy}}]", "steps: [{fault: {of: orders, do: eat}}]", "steps: [{end: {device: fast, id: m}}]",
		"steps: [{expect: {device: fast, phase: blocked, within: 20ms}}]",
	} {
		s, err := mockmanager.ReadScript([]byte(bad))
		if err != nil {
			t.Errorf("ReadScript(%q) = %v", bad, err)
			continue
		}
		if err := h.Manager.Run(h.ctx, s, func(string) {}); err == nil || !strings.Contains(err.Error(), "step 1") {
			t.Errorf("Run(%q) = %v, want an error that names the step", bad, err)
		}
	}
}
