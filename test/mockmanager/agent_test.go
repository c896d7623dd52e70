// SPDX-License-Identifier: Apache-2.0

package mockmanager_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// beat is the agents' heartbeat: short, so that what was lost is soon noticed.
const beat = 80 * time.Millisecond

// limit bounds every wait of a test.
const limit = 20 * time.Second

// agent is a host with the protocol's own machine for each device and nothing
// real behind it: uses are names, and fences always stand. What a crash leaves of
// it is what it wrote down.
type agent struct {
	id   string
	beat time.Duration

	mu       sync.Mutex // guards what follows
	boot     string
	start    string
	starts   int
	manager  string
	term     uint64
	hosts    map[string]*protocol.Host
	stored   map[string][]byte
	uses     map[string][]protocol.Use
	dirty    map[string]bool
	changed  chan struct{} // closed and made anew with each report
	foreign  map[string][]protocol.Foreign
	verified func(device string) bool // whether the device that comes back is the same; nil: it is
	history  []string                 // "DEVICE PHASE", as they came
}

func newAgent(id string, devices ...string) *agent {
	a := &agent{
		id: id, beat: beat, boot: "boot-1", hosts: map[string]*protocol.Host{}, stored: map[string][]byte{}, uses: map[string][]protocol.Use{},
		dirty: map[string]bool{}, changed: make(chan struct{}), foreign: map[string][]protocol.Foreign{},
	}
	for _, d := range devices {
		a.hosts[d] = &protocol.Host{Device: d, ID: id}
		a.store(d)
	}
	return a
}

func (a *agent) store(device string) {
	raw, err := json.Marshal(a.hosts[device])
	if err != nil {
		panic(err) // a Host is plain data
	}
	a.stored[device] = raw
}

// use records a use of a device, through its door.
func (a *agent) use(device, id string, policy ...protocol.PolicyStep) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	in, refused := a.hosts[device].Door().Admit(id, id)
	if refused != nil {
		return refused
	}
	a.uses[device] = append(a.uses[device], protocol.Use{
		ID: id, Kind: "disk", Subject: id, Writer: true, Admitted: in.Stamp, Grant: in.Grant, Policy: policy,
	})
	a.step(device, protocol.UsesSeen{Uses: a.uses[device]})
	return nil
}

// answer answers for a use at the epoch that the host knows.
func (a *agent) answer(device, use string, answer protocol.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.hosts[device]
	e := protocol.Answered{Use: use, Stamp: h.Order.Stamp, Boot: h.Boot, Answer: answer}
	if answer == protocol.Object {
		e.Reason = protocol.Reason{Code: "busy", Text: "a backup runs", Retryable: true}
	}
	a.step(device, e)
}

// step steps a machine and all that follows from it. The caller holds mu.
func (a *agent) step(device string, events ...protocol.HostEvent) {
	h := a.hosts[device]
	for len(events) > 0 {
		e := events[0]
		events = events[1:]
		phase := h.Phase
		actions := h.Step(e)
		a.store(device)
		if h.Phase != phase {
			a.history = append(a.history, device+" "+h.Phase.String())
		}
		for _, action := range actions {
			events = append(events, a.carryOut(device, action)...)
		}
	}
}

// carryOut does what a machine asks for, and returns what comes of it.
func (a *agent) carryOut(device string, action protocol.HostAction) []protocol.HostEvent {
	switch action := action.(type) {
	case protocol.SendReport:
		a.dirty[device] = true
		close(a.changed)
		a.changed = make(chan struct{})
	case protocol.Look:
		return []protocol.HostEvent{protocol.Looked{Stamp: action.Stamp, Serial: action.Serial, Uses: a.uses[device], Foreign: a.foreign[device]}}
	case protocol.RaiseFence:
		return []protocol.HostEvent{protocol.Fenced{Stamp: action.Stamp, OK: true, Method: "none", Evidence: "a test"}}
	case protocol.Verify:
		if a.verified != nil && !a.verified(device) {
			return []protocol.HostEvent{protocol.Verified{Stamp: action.Stamp, Failure: "another device came back"}}
		}
		return []protocol.HostEvent{protocol.Unfenced{Stamp: action.Stamp}, protocol.Verified{Stamp: action.Stamp, OK: true}}
	case protocol.ActOn:
		if action.Step.Action != protocol.Detach {
			return []protocol.HostEvent{protocol.ActionFailed{Use: action.Use, Index: action.Index, Reason: protocol.Reason{Code: "no"}}}
		}
		a.drop(device, action.Use)
		return []protocol.HostEvent{protocol.Gone{Use: action.Use, How: protocol.Detached}}
	case protocol.CutOff:
		a.drop(device, action.Use)
		return []protocol.HostEvent{protocol.Gone{Use: action.Use, How: protocol.Detached, Evidence: action.Permission}}
	case protocol.Restore:
		return []protocol.HostEvent{protocol.Settled{Use: action.Use}}
	}
	return nil
}

// drop forgets a use. The caller holds mu.
func (a *agent) drop(device, use string) {
	a.uses[device] = slices.DeleteFunc(slices.Clone(a.uses[device]), func(u protocol.Use) bool { return u.ID == use })
}

// Enrol follows a manager.
func (a *agent) Enrol(_ context.Context, manager string, term uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if term < a.term {
		return primitives.Errorf(primitives.CodeConflict, "term %d is over", term)
	}
	a.manager, a.term = manager, term
	return nil
}

// Enrolled returns who is followed.
func (a *agent) Enrolled() (string, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.manager, a.term
}

// Orders takes orders.
func (a *agent) Orders(_ context.Context, orders []protocol.Order) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range orders {
		if a.hosts[o.Device] != nil {
			a.step(o.Device, protocol.Ordered{Order: o, Uses: a.uses[o.Device]})
		}
	}
	return nil
}

// Reports yields everything, then what changed.
func (a *agent) Reports(ctx context.Context) iter.Seq[[]protocol.Report] {
	return func(yield func([]protocol.Report) bool) {
		a.mu.Lock()
		for d := range a.hosts {
			a.dirty[d] = true
		}
		a.mu.Unlock()
		for {
			a.mu.Lock()
			var batch []protocol.Report
			for _, d := range slices.Sorted(maps.Keys(a.dirty)) {
				batch = append(batch, a.hosts[d].Report(a.uses[d]))
			}
			clear(a.dirty)
			changed := a.changed
			a.mu.Unlock()
			if len(batch) > 0 && !yield(batch) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// run starts the agent anew from what it wrote down and dials, until the returned
// function kills it.
func (a *agent) run(t *testing.T, address string) (kill func()) {
	t.Helper()
	a.mu.Lock()
	a.starts++
	a.start = fmt.Sprintf("%s-start-%d", a.id, a.starts)
	start, boot := a.start, a.boot
	for d, raw := range a.stored {
		h := new(protocol.Host)
		if err := json.Unmarshal(raw, h); err != nil {
			t.Fatal(err)
		}
		a.hosts[d] = h
		a.step(d, protocol.Restarted{Boot: boot, AgentStart: start})
		for _, action := range h.Resume() {
			a.step(d, a.carryOut(d, action)...)
		}
	}
	a.mu.Unlock()
	return a.dial(t, address, start, boot)
}

// dial runs a link and the clock, until the returned function ends them.
func (a *agent) dial(t *testing.T, address, start, boot string) func() {
	t.Helper()
	link, err := rpc.NewManagerLink(a, rpc.ManagerOptions{
		Address: address, Host: rpc.Host{ID: a.id, BootID: boot, Version: "test"}, AgentStart: start,
		Heartbeat: a.beat, MaxPause: 4 * beat,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { link.Run(ctx) })
	running.Go(func() { a.clock(ctx) })
	kill := sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(kill)
	return kill
}

// clock lets time pass for the machines.
func (a *agent) clock(ctx context.Context) {
	const tick = 20 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			a.mu.Lock()
			for d := range a.hosts {
				a.step(d, protocol.Elapsed{By: tick})
			}
			a.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// where is the phase and gate of a device on the host.
func (a *agent) where(device string) (protocol.HostPhase, protocol.Gate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.hosts[device]
	return h.Phase, h.Gate
}
