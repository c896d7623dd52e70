// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// BenchmarkHostStep puts a host with two uses through a maintenance with every
// kind of event, over and over; an op is one event.
func BenchmarkHostStep(b *testing.B) {
	h := maintenance.Host{Device: "d", ID: "h0", Boot: "b", AgentStart: "a"}
	uses := []maintenance.Use{
		{ID: "u0", Kind: "disk", Subject: "v0", Domain: "guest", Disk: "vda", Policy: policies[1]},
		{ID: "u1", Kind: "subscriber", Subject: "v1"},
	}
	ids := []string{"m"}
	order := func(epoch uint64, rank uint8, gate maintenance.Gate) maintenance.Order {
		return maintenance.Order{
			Device: "d", IDs: ids, Stamp: maintenance.Stamp{Term: 1, Epoch: epoch, Rank: rank}, Gate: gate,
			Impact: maintenance.Disconnect, Respond: time.Minute, Drain: time.Hour,
		}
	}
	epoch := uint64(1)
	h.Step(maintenance.Ordered{Order: order(epoch, 1, maintenance.GateOpen)})
	h.Step(maintenance.Verified{Stamp: h.Order.Stamp, OK: true})
	events := []func() maintenance.HostEvent{
		func() maintenance.HostEvent {
			epoch++
			return maintenance.Ordered{Order: order(epoch, 1, maintenance.GateClosed), Uses: uses}
		},
		func() maintenance.HostEvent { return maintenance.Elapsed{By: time.Second} },
		func() maintenance.HostEvent {
			return maintenance.Answered{Use: "u1", Stamp: h.Order.Stamp, Boot: "b", Answer: maintenance.Accept, ETA: time.Minute}
		},
		func() maintenance.HostEvent {
			return maintenance.Answered{Use: "u0", Stamp: h.Order.Stamp, Boot: "b", Answer: maintenance.Progress, Percent: 50}
		},
		func() maintenance.HostEvent {
			return maintenance.Ordered{Order: order(epoch, 1, maintenance.GateClosed), Uses: uses}
		},
		func() maintenance.HostEvent { return maintenance.Gone{Use: "u0", How: maintenance.Moved} },
		func() maintenance.HostEvent {
			return maintenance.Answered{Use: "u1", Stamp: h.Order.Stamp, Boot: "b", Answer: maintenance.Ready, How: maintenance.Closed}
		},
		func() maintenance.HostEvent {
			return maintenance.Looked{Stamp: h.Order.Stamp, Serial: h.Looks, Uses: uses[1:]}
		},
		func() maintenance.HostEvent {
			return maintenance.Ordered{Order: order(epoch, 2, maintenance.GateFenced), Uses: uses[1:]}
		},
		func() maintenance.HostEvent {
			return maintenance.Looked{Stamp: h.Order.Stamp, Serial: h.Looks, Uses: uses[1:]}
		},
		func() maintenance.HostEvent {
			return maintenance.Fenced{Stamp: h.Order.Stamp, OK: true, Method: "set aside"}
		},
		func() maintenance.HostEvent {
			epoch++
			return maintenance.Ordered{Order: order(epoch, 1, maintenance.GateOpen), Uses: uses[1:]}
		},
		func() maintenance.HostEvent { return maintenance.Unfenced{Stamp: h.Order.Stamp} },
		func() maintenance.HostEvent { return maintenance.Verified{Stamp: h.Order.Stamp, OK: true, Uses: uses} },
	}
	b.ReportAllocs()
	b.ResetTimer()
	begin := processorTime(b)
	for i := range b.N {
		h.Step(events[i%len(events)]())
		if i%len(events) == len(events)-1 && h.Phase != maintenance.HostOpen {
			b.Fatalf("the host is %s, want it open", h.Phase)
		}
	}
	b.ReportMetric(float64(b.N)/(processorTime(b)-begin).Seconds(), "events/core-s")
}

// processorTime is what this process had of the processors so far. The machine may have more to do.
func processorTime(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkManagementStep puts a device on two hosts through a maintenance, over
// and over; an op is one event, and most are reports.
func BenchmarkManagementStep(b *testing.B) {
	m := maintenance.NewManagement("d", 1)
	seqs := [2]uint64{}
	for _, host := range hostNames[:2] {
		if _, err := m.Step(maintenance.HostJoined{Host: host, Boot: "b", AgentStart: "a"}); err != nil {
			b.Fatal(err)
		}
	}
	uses := []maintenance.UseReport{{ID: "u0", Kind: "subscriber", State: maintenance.UseReady}}
	report := func(host int, phase maintenance.HostPhase) func() maintenance.ManagementEvent {
		return func() maintenance.ManagementEvent {
			seqs[host]++
			return maintenance.Reported{Report: maintenance.Report{
				Device: "d", Host: hostNames[host], Boot: "b", AgentStart: "a", Seq: seqs[host], Seen: m.Stamp(), Phase: phase,
				Uses: uses, UsesDigest: "1",
			}}
		}
	}
	events := []func() maintenance.ManagementEvent{
		func() maintenance.ManagementEvent {
			return maintenance.Prepare{Intent: maintenance.Intent{ID: "m", Impact: maintenance.Disconnect}}
		},
		report(0, maintenance.HostDraining), report(1, maintenance.HostDraining),
		func() maintenance.ManagementEvent { return maintenance.Elapsed{By: time.Second} },
		report(0, maintenance.HostDrained), report(1, maintenance.HostDrained),
		report(0, maintenance.HostFencing), report(1, maintenance.HostFencing),
		report(0, maintenance.HostFenced), report(1, maintenance.HostFenced),
		func() maintenance.ManagementEvent { return maintenance.End{ID: "m"} },
		report(0, maintenance.HostVerifying), report(1, maintenance.HostVerifying),
		report(0, maintenance.HostOpen), report(1, maintenance.HostOpen),
	}
	b.ReportAllocs()
	b.ResetTimer()
	begin := processorTime(b)
	for i := range b.N {
		if _, err := m.Step(events[i%len(events)]()); err != nil {
			b.Fatal(err)
		}
		if i%len(events) == len(events)-1 && m.Phase != maintenance.InService {
			b.Fatalf("the device is %s, want it in service", m.Phase)
		}
	}
	b.ReportMetric(float64(b.N)/(processorTime(b)-begin).Seconds(), "events/core-s")
}
