// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

const (
	burstDevices = 100
	burstUses    = 200 // of each device
)

// benchMaintenance measures what maintenance costs an agent: a burst of orders
// for many devices with many uses, the gate that every use passes, and the
// protocol's own steps; then live moves, of which an evacuation is made.
func benchMaintenance(ctx context.Context, b *bench) ([]row, error) {
	burst, err := benchBurst(ctx, b)
	if err != nil {
		return nil, err
	}
	gate, err := benchGate(b)
	if err != nil {
		return nil, err
	}
	steps, err := benchSteps()
	if err != nil {
		return nil, err
	}
	moves, err := benchMove(ctx, b)
	return slices.Concat(burst, gate, steps, moves), err
}

// ward is an agent's maintenance without the rest of the agent.
type ward struct {
	journal *journal.Journal
	devices *device.Registry
	service *maintenance.Service
	close   func() error
}

// newWard makes an agent of devices in memory, each with recorded uses.
func newWard(ctx context.Context, dir string, devices, uses int) (_ *ward, err error) {
	w := &ward{}
	w.journal, err = journal.Open(filepath.Join(dir, "journal.db"), journal.Options{})
	if err != nil {
		return nil, err
	}
	drivers, err := storage.NewTable(mem.New())
	if err != nil {
		return nil, err
	}
	engine := operation.New(w.journal, operation.Options{})
	w.devices, err = device.New(w.journal, engine, drivers, device.Options{
		StateDir: dir, Host: primitives.HostInfo{ID: w.journal.HostID(), BootID: "bench", RunDir: filepath.Join(dir, "run")},
	})
	if err != nil {
		return nil, err
	}
	disks := attach.New(w.journal, engine, w.devices, nil, attach.Options{})
	w.service, err = maintenance.New(w.journal, engine, w.devices, disks, nil, maintenance.Options{Boot: "bench"})
	if err != nil {
		return nil, err
	}
	w.devices.Start()
	w.service.Start()
	for i := range devices {
		if err := add(ctx, w.devices, engine, deviceName(i)); err != nil {
			return nil, err
		}
	}
	if err := w.journal.Update(func(tx *journal.Tx) error { return record(tx, devices, uses) }); err != nil {
		return nil, err
	}
	w.close = func() error {
		w.service.Stop()
		engine.Stop(context.WithoutCancel(ctx))
		return errors.Join(w.devices.Close(), w.journal.Close())
	}
	return w, nil
}

func deviceName(i int) string { return fmt.Sprintf("device%03d", i) }

// add configures a device in memory.
func add(ctx context.Context, devices *device.Registry, engine *operation.Engine, name string) error {
	op, err := devices.Add(ctx, device.Spec{Name: name, Driver: mem.Name, Props: primitives.Props{"store": name}}, device.Origin{})
	if err == nil {
		op, err = engine.Wait(ctx, op.ID)
	}
	return errors.Join(err, op.Err())
}

// record writes the uses of the devices.
func record(tx *journal.Tx, devices, uses int) error {
	for i := range devices {
		for k := range uses {
			if err := device.Admit(tx, use(deviceName(i), k)); err != nil {
				return err
			}
		}
	}
	return nil
}

func use(device string, k int) journal.Use {
	return journal.Use{
		ID: fmt.Sprintf("%s-%03d", device, k), Kind: journal.UseTransfer, Access: primitives.ReadOnly,
		URI: primitives.URI{Device: device, Volume: fmt.Sprintf("volume%03d", k)}, Admitted: time.Now(),
	}
}

// benchBurst sends an order for every device at once, as a manager does when a
// whole array is serviced, and waits until every device is reported as it is
// ordered to be. The next round sends the next epoch.
func benchBurst(ctx context.Context, b *bench) ([]row, error) {
	dir, err := b.folder("burst")
	if err != nil {
		return nil, err
	}
	w, err := newWard(ctx, dir, burstDevices, burstUses)
	if err != nil {
		return nil, err
	}
	b.undo = append(b.undo, func(context.Context) error { return w.close() })
	if err := w.service.Enrol(ctx, "bench", 2); err != nil {
		return nil, err
	}
	names := make(map[string]string) // by what orders call it
	err = w.journal.View(func(tx *journal.Tx) error {
		list, err := tx.Devices()
		for _, d := range list {
			names[max(d.Backend, d.Name)] = d.Name
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for round := range runs {
		d, err := w.burst(ctx, uint64(round+1), slices.Collect(keys(names)))
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	return []row{lowerIs(fmt.Sprintf("orders for %d devices with %d uses each, taken and reported", burstDevices, burstUses), "ms", millis(median(took)), nil, 1000)}, nil
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// burst orders every device to close its gate at that epoch.
func (w *ward) burst(ctx context.Context, epoch uint64, devices []string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stamp := protocol.Stamp{Term: 2, Epoch: epoch, Rank: protocol.RankGate}
	orders := make([]protocol.Order, len(devices))
	for i, d := range devices {
		orders[i] = protocol.Order{
			Device: d, IDs: []string{"burst"}, Stamp: stamp, Phase: protocol.Preparing, Gate: protocol.GateClosed,
			Impact: protocol.Disconnect, Expected: time.Hour, Reason: "a benchmark",
		}
	}
	reported := make(chan error, 1)
	began := time.Now()
	go func() { reported <- w.awaitReports(ctx, stamp, len(devices)) }()
	if err := w.service.Orders(ctx, orders); err != nil {
		return 0, err
	}
	err := <-reported
	return time.Since(began), err
}

// awaitReports reads reports until every device was seen closed at that stamp
// with all of its uses.
func (w *ward) awaitReports(ctx context.Context, stamp protocol.Stamp, devices int) error {
	seen := make(map[string]bool)
	for reports := range w.service.Reports(ctx) {
		for _, r := range reports {
			if r.Seen == stamp && r.Gate == protocol.GateClosed && len(r.Uses) == burstUses {
				seen[r.Device] = true
			}
		}
		if len(seen) == devices {
			return nil
		}
	}
	return fmt.Errorf("only %d of %d devices were reported: %w", len(seen), devices, context.Cause(ctx))
}

// benchGate records uses through the gate and, in turn, the same records without
// asking it.
func benchGate(b *bench) ([]row, error) {
	dir, err := b.folder("gate")
	if err != nil {
		return nil, err
	}
	w, err := newWard(context.Background(), dir, 2, burstUses)
	if err != nil {
		return nil, err
	}
	b.undo = append(b.undo, func(context.Context) error { return w.close() })
	var gated, plain []time.Duration
	var commits uint64
	for i := range 20 * runs {
		before := w.journal.Commits()
		began := time.Now()
		if err := w.journal.Update(func(tx *journal.Tx) error { return device.Admit(tx, use(deviceName(0), 1000+i)) }); err != nil {
			return nil, err
		}
		gated = append(gated, time.Since(began))
		commits = max(commits, w.journal.Commits()-before)
		began = time.Now()
		if err := w.journal.Update(func(tx *journal.Tx) error { return tx.PutUse(use(deviceName(1), 1000+i)) }); err != nil {
			return nil, err
		}
		plain = append(plain, time.Since(began))
	}
	const perCommit = 2 // fsyncs: the pages, and the page that makes them count
	return []row{
		lowerIs("fsyncs of the journal for an admission", "fsyncs", float64(perCommit*commits), nil, 2),
		lowerIs("an admission, durable", "ms", millis(median(gated)), map[string]float64{"the same record without a gate": millis(median(plain))}, 1.25),
	}, nil
}
