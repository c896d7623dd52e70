// SPDX-License-Identifier: Apache-2.0

package storagetest_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/mem"
	"github.com/tenon-storage/tenon/storage/storagetest"
)

// stores numbers the stores of this process.
var stores atomic.Int64

// memory is a harness over the reference driver.
func memory() storagetest.Harness {
	return storagetest.Harness{
		New: func(t testing.TB) storagetest.Store { return memoryStore(0) },
		NewSmall: func(t testing.TB, capacity int64) storagetest.Store {
			return memoryStore(capacity)
		},
		Many: 5000,
	}
}

func memoryStore(capacity int64) storagetest.Store {
	drv := mem.New()
	name := fmt.Sprintf("s%d", stores.Add(1))
	props := primitives.Props{"store": name}
	if capacity > 0 {
		props["capacity"] = fmt.Sprint(capacity)
	}
	return storagetest.Store{
		Driver: drv,
		Props:  props,
		Crash:  func() { drv.Crash(name) },
		GoAway: func(t testing.TB) (back func()) {
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
	storagetest.Run(t, memory())
}
