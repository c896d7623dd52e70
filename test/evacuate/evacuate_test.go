// SPDX-License-Identifier: Apache-2.0

// Package evacuate_test takes a device into maintenance and back on real parts:
// two real guests use it, one disk moves away under its guest's verified writes,
// the other's owner objects first. tenond dies again and again meanwhile, each time
// before a write of its journal, and nobody else may notice.
//
// A run is repeated with TENON_EVACUATE_SEED.
package evacuate_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/internal/command"
)

// rounds is how many maintenances there are; in the last one tenond does not die.
const rounds = 4

// Cases: E20, E21, E22, E23, E24, E25, E26, E50, E54, E56, E78, E83, E84, E88, E131
func TestTwoGuestsLiveThroughMaintenanceWhileTenondDies(t *testing.T) {
	w := newWorld(t)
	for round := range rounds {
		w.next(round < rounds-1)
		w.maintain(fmt.Sprintf("m-%d", round))
		if t.Failed() {
			t.Fatalf("in round %d, after %d deaths", round, w.deaths.Load())
		}
		t.Logf("round %d: tenond has died %d times so far", round, w.deaths.Load())
	}
	if w.deaths.Load() < 10 {
		t.Errorf("tenond died %d times only; the kills miss what they are for", w.deaths.Load())
	}
	w.leaveNothing()
}

// maintain is one maintenance of the device, from its announcement to its end.
func (w *world) maintain(id string) {
	w.t.Helper()
	keeper := w.attachKept(id)
	use := "disk-" + keeper.ID
	w.do("maintenance", "policy", use, "ask", "--request-id", id+"-policy")

	w.do("maintenance", "prepare", serviced, "--id", id, "--reason", "a test", "--return", "--request-id", id+"-prepare")
	w.do("maintenance", "object", use, "--code", "busy", "--text", "not now", "--request-id", id+"-object")
	w.await("it is blocked, naming who objects, and the other disk has moved", func(s status) bool {
		return s.Phase == "MAINTENANCE_PHASE_BLOCKED" && len(s.Blockers) == 1 && strings.Contains(s.Blockers[0].Name, use) && w.lies(w.moved) == refuge
	})
	w.refused(id, "disk", "attach", serviced+"/spare", "keeper")
	w.unseen()

	w.do("maintenance", "withdraw", use, "--request-id", id+"-withdraw")
	w.do("disk", "detach", "keeper", keeper.ID, "--request-id", id+"-detach")
	w.await("it is in maintenance", func(s status) bool { return s.Phase == "MAINTENANCE_PHASE_IN_MAINTENANCE" && s.Fence.Verified })
	if _, err := os.Stat(keeper.Source.Path); !errors.Is(err, fs.ErrNotExist) {
		w.t.Errorf("in maintenance %s can be reached: %v", keeper.Source.Path, err)
	}
	w.refused(id, "disk", "attach", serviced+"/spare", "keeper")

	w.do("maintenance", "end", serviced, "--id", id, "--request-id", id+"-end")
	w.await("it is in service, and the disk came home", func(s status) bool {
		return s.Phase == "MAINTENANCE_PHASE_IN_SERVICE" && s.Gate == "GATE_OPEN" && w.lies(w.moved) == serviced
	})
	w.unharmed()
}

// attachKept gives the second guest a disk of the device.
func (w *world) attachKept(id string) disk {
	w.t.Helper()
	w.do("disk", "attach", serviced+"/kept", "keeper", "--request-id", id+"-attach")
	for _, d := range w.disks("keeper") {
		if d.URI == "tenon://"+serviced+"/kept" {
			return d
		}
	}
	w.t.Fatalf("the second guest has no disk of the device: %+v", w.disks("keeper"))
	return disk{}
}

// refused checks that something is refused, naming the maintenance. An answer of a
// tenond that has died meanwhile does not count.
func (w *world) refused(id string, args ...string) {
	w.t.Helper()
	err := w.poll("it is refused", func() (bool, error) {
		_, err := w.tenond.Run(w.t.Context(), args...)
		failed, ok := errors.AsType[*command.Error](err)
		if !ok {
			return false, fmt.Errorf("%v was not refused: %w", args, err)
		}
		return strings.Contains(failed.Stderr, id), nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// unseen attaches a file of the device behind tenon's back, and checks that it is
// found and named, and forgotten when it is gone.
func (w *world) unseen() {
	w.t.Helper()
	path := w.sourceOf("spare")
	w.virsh("attach-disk", "keeper", path, "vdz", "--driver", "qemu", "--subdriver", "raw", "--live")
	w.await("the disk behind tenon's back is found", func(s status) bool {
		return slices.ContainsFunc(s.Foreign, func(f foreign) bool { return f.Path == path })
	})
	w.virsh("detach-disk", "keeper", "vdz", "--live")
	w.await("the disk behind tenon's back is gone", func(s status) bool { return len(s.Foreign) == 0 })
}
