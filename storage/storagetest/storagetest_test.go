// SPDX-License-Identifier: Apache-2.0

package storagetest_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/mem"
	"github.com/tenon-storage/tenon/storage/storagetest"
)

// memory is a harness over the reference driver, in the variants that reach
// every check together. Looking one volume up is tried among many.
func memory(many int) storagetest.Harness {
	var stores atomic.Int64
	store := func(more primitives.Props) storagetest.Store {
		return memoryStore(fmt.Sprintf("s%d", stores.Add(1)), more)
	}
	return storagetest.Harness{
		New: func(testing.TB) storagetest.Store { return store(nil) },
		NewSmall: func(_ testing.TB, capacity int64) storagetest.Store {
			return store(primitives.Props{"capacity": fmt.Sprint(capacity)})
		},
		Many: many,
		Variants: []storagetest.Variant{
			{Name: "plain"},
			{Name: "dependent", DeviceProps: primitives.Props{
				"clones": "dependent", "delete-with-snapshots": "refused", "snapshots": "remap", "offload": "true",
			}},
		},
	}
}

func memoryStore(name string, props primitives.Props) storagetest.Store {
	drv := mem.New()
	if props == nil {
		props = primitives.Props{}
	}
	props["store"] = name
	return storagetest.Store{
		Driver: drv,
		Props:  props,
		Crash:  func() { drv.Crash(name) },
		GoAway: func(testing.TB) (back func()) {
			drv.SetHealth(name, primitives.Unreachable, "gone away")
			clear := drv.Fault(name, mem.Fault{Dead: true})
			return func() {
				clear()
				drv.SetHealth(name, primitives.Healthy, "")
			}
		},
	}
}

func TestReferenceDriverKeepsTheContract(t *testing.T) {
	storagetest.Run(t, memory(5000))
}

func TestEveryCaseIsCheckedOrAccountedFor(t *testing.T) {
	covered := map[int]bool{}
	for _, n := range storagetest.CasesChecked() {
		covered[n] = true
	}
	for n := 1; n <= storagetest.Cases; n++ {
		if _, ok := storagetest.NotHere[n]; !ok && !covered[n] {
			t.Errorf("case %d is in no check and has no reason", n)
		}
	}
	for n := range storagetest.NotHere {
		if n < 1 || n > storagetest.Cases {
			t.Errorf("NotHere has case %d, which does not exist", n)
		}
	}
}

func TestEveryMutantIsCaught(t *testing.T) {
	mutants := storagetest.Mutants()
	if len(mutants) < 15 {
		t.Errorf("%d mutants, want at least 15", len(mutants))
	}
	for _, m := range mutants {
		t.Run(m.Bug, func(t *testing.T) {
			out := storagetest.Try(t, memory(500).Bent(m))
			if out.Check == "" {
				t.Fatalf("no check failed, %d passed", out.Passed)
			}
			t.Logf("caught by %q: %s", out.Check, out.Message)
		})
	}
}

// A wrapper that changes nothing must neither fail nor lose a facet.
// Cases: S103
func TestStraightWrapperPassesWithTheSameSkips(t *testing.T) {
	bare := storagetest.Try(t, memory(500))
	wrapped := storagetest.Try(t, memory(500).Bent(storagetest.Unbent()))
	for name, out := range map[string]storagetest.Outcome{"the driver": bare, "the wrapped driver": wrapped} {
		if out.Check != "" {
			t.Errorf("%s fails %q: %s", name, out.Check, out.Message)
		}
	}
	if d := cmp.Diff(bare.LeftOut, wrapped.LeftOut); d != "" {
		t.Errorf("left out without and with the wrapper (-without +with):\n%s", d)
	}
}
