// SPDX-License-Identifier: Apache-2.0

package mem_test

import (
	"fmt"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/mem"
	"github.com/tenon-storage/tenon/storage/storagetest"
)

// fresh is a store in a universe of its own.
func fresh(props primitives.Props) storagetest.Store {
	const name = "store"
	drv := mem.New()
	all := primitives.Props{"store": name}
	for k, v := range props {
		all[k] = v
	}
	return storagetest.Store{
		Driver:  drv,
		Props:   all,
		Secrets: primitives.NewSecrets(map[string][]byte{"token": []byte("canary-5e1d")}),
		Crash:   func() { drv.Crash(name) },
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

func TestMemKeepsTheContract(t *testing.T) {
	storagetest.Run(t, storagetest.Harness{
		New: func(testing.TB) storagetest.Store { return fresh(nil) },
		NewSmall: func(_ testing.TB, capacity int64) storagetest.Store {
			return fresh(primitives.Props{"capacity": fmt.Sprint(capacity)})
		},
		Many: 5000,
		Variants: []storagetest.Variant{
			{Name: "transparent"},
			{Name: "remap", DeviceProps: primitives.Props{"snapshots": "remap", "offload": "true"}},
			{Name: "offline", DeviceProps: primitives.Props{"snapshots": "none", "delete-with-snapshots": "refused", "granule": "65536"}},
			{Name: "bare", DeviceProps: primitives.Props{"facets": "none"}},
		},
	})
}
