// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
	"github.com/tenon-storage/tenon/storage/storagetest"
)

// through is a store whose backends are Devices.
func through(props primitives.Props) storagetest.Store {
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
		Strict:  true,
		Open: func(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
			return storage.Open(ctx, drv, o, storage.Options{LockWait: 100 * time.Millisecond})
		},
		Crash: func() { drv.Crash(name) },
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

func TestDeviceKeepsTheContract(t *testing.T) {
	storagetest.Run(t, storagetest.Harness{
		New: func(testing.TB) storagetest.Store { return through(nil) },
		NewSmall: func(_ testing.TB, capacity int64) storagetest.Store {
			return through(primitives.Props{"capacity": fmt.Sprint(capacity)})
		},
		Many: 5000,
		Variants: []storagetest.Variant{
			{Name: "transparent"},
			{Name: "remap", DeviceProps: primitives.Props{"snapshots": "remap", "offload": "true"}},
			{Name: "bare", DeviceProps: primitives.Props{"facets": "none"}},
		},
	})
}
