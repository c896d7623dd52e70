// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// backend is the identity by which orders name a device.
func (h *house) backend(name string) string {
	h.t.Helper()
	s, err := h.devices.Get(name)
	if err != nil || s.Description.Backend == "" {
		h.t.Fatalf("device %s = %+v, %v; want a backend", name, s, err)
	}
	return s.Description.Backend
}

func (h *house) report(name string) protocol.Report {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), reached)
	defer cancel()
	id := h.backend(name)
	for reports := range h.upkeep.Reports(ctx) {
		for _, r := range reports {
			if r.Device == id {
				return r
			}
		}
	}
	h.t.Fatalf("device %s is not reported", name)
	return protocol.Report{}
}

// reports waits until a device is reported as it should be.
func (h *house) reports(name, what string, is func(protocol.Report) bool) protocol.Report {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), reached)
	defer cancel()
	id := h.backend(name)
	var last protocol.Report
	for reports := range h.upkeep.Reports(ctx) {
		for _, r := range reports {
			if r.Device == id {
				if last = r; is(r) {
					return r
				}
			}
		}
	}
	h.t.Fatalf("%s was never reported %s; the last was %+v", name, what, last)
	return last
}

// TestAManagerTakesOverAndThisHostOnlyFollows goes through a maintenance by the
// orders of an outside manager, with lost, repeated and late ones.
//
// Cases: E2, E4, E5, E42
func TestAManagerTakesOverAndThisHostOnlyFollows(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	oneVolume(h)
	h.attach("one/a")
	order := protocol.Order{Device: h.backend("one"), IDs: []string{"m9"}, Impact: protocol.Disconnect}
	at := func(epoch uint64, rank uint8, gate protocol.Gate, p protocol.Phase) protocol.Order {
		o := order
		o.Stamp, o.Gate, o.Phase = protocol.Stamp{Term: 5, Epoch: epoch, Rank: rank}, gate, p
		o.Policy = protocol.Policy{{Action: protocol.Detach}}
		return o
	}
	closed := at(1, protocol.RankGate, protocol.GateClosed, protocol.Preparing)
	if err := h.upkeep.Orders(t.Context(), []protocol.Order{closed}); !errors.Is(err, primitives.CodeDenied) {
		t.Errorf("Orders of nobody = %v, want denied", err)
	}
	if err := h.upkeep.Enrol(t.Context(), "central", 1); !errors.Is(err, primitives.CodeConflict) {
		t.Errorf("Enrol in the term that counts = %v, want conflict", err)
	}
	if err := h.upkeep.Enrol(t.Context(), "central", 5); err != nil {
		t.Fatal(err)
	}
	if id, term := h.upkeep.Enrolled(); id != "central" || term != 5 {
		t.Errorf("Enrolled = %s, %d", id, term)
	}
	_, err := h.upkeep.Prepare(t.Context(), maintenance.PrepareRequest{Device: "one"})
	if e, ok := errors.AsType[*primitives.Error](err); !ok || e.Code != primitives.CodeConflict || e.Blocked[0] != (primitives.Blocker{Kind: "manager", Name: "central"}) {
		t.Errorf("Prepare on an enrolled host = %v, want conflict naming the manager", err)
	}
	h.create("one/b", 2) // the gate stays as it was until the first order

	for range 3 {
		if err := h.upkeep.Orders(t.Context(), []protocol.Order{closed}); err != nil {
			t.Fatal(err)
		}
	}
	h.reports("one", "drained", func(r protocol.Report) bool { return r.Phase == protocol.HostDrained && r.Seen == closed.Stamp })
	h.diskCount(0)

	// The agent dies, and the manager is not heard of for a while: nothing opens.
	h.bury()
	w.manager = "unix:/nowhere"
	h = boot(t, w, -1)
	defer h.bury()
	r := h.reports("one", "drained again", func(r protocol.Report) bool { return r.Phase == protocol.HostDrained })
	if r.Gate != protocol.GateClosed {
		t.Errorf("without its manager the gate is %v, want it closed", r.Gate)
	}
	fenced := at(1, protocol.RankFence, protocol.GateFenced, protocol.Fencing)
	if err := h.upkeep.Orders(t.Context(), []protocol.Order{fenced, closed}); err != nil {
		t.Fatal(err)
	}
	h.reports("one", "fenced", func(r protocol.Report) bool { return r.Phase == protocol.HostFenced && r.Fence.Verified })
	old := at(9, protocol.RankGate, protocol.GateOpen, protocol.InService)
	old.Stamp.Term = 4
	if err := h.upkeep.Orders(t.Context(), []protocol.Order{old}); err != nil {
		t.Fatal(err)
	}
	if r := h.report("one"); r.Phase != protocol.HostFenced || r.Seen != fenced.Stamp {
		t.Errorf("an order of an older term was followed: %+v", r)
	}
	strange := closed
	strange.Device = "nobody"
	if err := h.upkeep.Orders(t.Context(), []protocol.Order{strange}); !errors.Is(err, primitives.CodeNotFound) {
		t.Errorf("Orders for a device that is not here = %v, want not found", err)
	}
	if err := h.upkeep.Orders(t.Context(), []protocol.Order{at(2, protocol.RankGate, protocol.GateOpen, protocol.InService)}); err != nil {
		t.Fatal(err)
	}
	h.reports("one", "open", func(r protocol.Report) bool { return r.Phase == protocol.HostOpen })
	h.content("one/a", 1)
	if m := h.upkeep.Metrics(); m.StaleOrders == 0 {
		t.Errorf("metrics = %+v, want the stale order counted", m)
	}
}

// Cases: E81, E82
func TestADeviceAddedUnderAManagerStaysGatedUntilItsFirstOrder(t *testing.T) {
	w := newWorld(t)
	w.manager = "unix:/nowhere"
	h := boot(t, w, -1)
	defer h.bury()
	h.addMem("one", "one", nil)
	create := func() error {
		return h.tries(volume.KindCreate, volume.CreateArgs{URI: uri("one/a"), Size: volumeSize})
	}
	h.refuses("create without any order", create(), primitives.CodeConflict, "unknown")
	if err := h.upkeep.Enrol(t.Context(), "central", 1); err != nil {
		t.Fatal(err)
	}
	h.refuses("create before the first order", create(), primitives.CodeConflict, "unknown")
	err := h.upkeep.Orders(t.Context(), []protocol.Order{{
		Device: h.backend("one"), Stamp: protocol.Stamp{Term: 1, Epoch: 1}, Gate: protocol.GateOpen, Phase: protocol.InService,
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.reports("one", "open", func(r protocol.Report) bool { return r.Gate == protocol.GateOpen })
	if err := create(); err != nil {
		t.Errorf("create in service = %v", err)
	}
}

// TestABurstOfOrdersIsFollowedWithinASecond orders a hundred devices with two
// hundred uses each, and reads what they report.
//
// Cases: E12
func TestABurstOfOrdersIsFollowedWithinASecond(t *testing.T) {
	const devices, uses = 100, 200
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	var orders []protocol.Order
	for i := range devices {
		name := fmt.Sprintf("d%03d", i)
		h.addMem(name, name, nil)
		orders = append(orders, protocol.Order{
			Device: h.backend(name), IDs: []string{"m1"}, Stamp: protocol.Stamp{Term: 2, Epoch: 1, Rank: protocol.RankGate},
			Gate: protocol.GateClosed, Phase: protocol.Preparing, Impact: protocol.Disconnect, Policy: asking(),
		})
	}
	err := h.journal.Update(func(tx *journal.Tx) error {
		for i := range devices {
			for k := range uses {
				u := journal.Use{
					ID: fmt.Sprintf("disk-%03d-%03d", i, k), Kind: journal.UseDisk, Access: primitives.ReadWrite, Domain: "d", Disk: fmt.Sprint(i, k),
					URI: primitives.URI{Device: fmt.Sprintf("d%03d", i), Volume: fmt.Sprintf("v%d", k)},
				}
				if err := device.Admit(tx, u); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = h.upkeep.Enrol(t.Context(), "central", 2)
	}
	if err != nil {
		t.Fatal(err)
	}
	before, start := h.journal.Commits(), time.Now()
	if err := h.upkeep.Orders(t.Context(), orders); err != nil {
		t.Fatal(err)
	}
	ordered := time.Since(start)
	commits := h.journal.Commits() - before
	seen := make(map[string]int)
	for reports := range h.upkeep.Reports(t.Context()) {
		for _, r := range reports {
			if r.Seen == orders[0].Stamp {
				seen[r.Device] = len(r.Uses)
			}
		}
		if len(seen) == devices {
			break
		}
	}
	took := time.Since(start)
	t.Logf("%d devices with %d uses each: followed in %v with %d commits, reported after %v", devices, uses, ordered, commits, took)
	for name, n := range seen {
		if n != uses {
			t.Errorf("device %s reports %d uses, want %d", name, n, uses)
		}
	}
	if commits > 3 {
		t.Errorf("one batch cost %d commits, want one and what follows from it", commits)
	}
	if limit := 10 * time.Second; took > limit { // the bench holds it to a second
		t.Errorf("it took %v", took)
	}
}
