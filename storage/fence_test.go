// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

// TestAFenceWaitsForTheCallsUnderWay holds a clone in the driver and lets it go
// once the fence waits.
func TestAFenceWaitsForTheCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drv := mem.New()
		dev := open(t, drv, nil, storage.Options{LockWait: time.Second})
		create(t, dev, vol("a"), 4096, nil)
		clear := drv.Fault("one", mem.Fault{Op: "clone", Delay: 30 * time.Second})
		defer clear()
		cloned, fenced := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := dev.Clone(t.Context(), vol("a"), vol("b"), primitives.CloneRequest{Op: primitives.Op{ID: "clone"}})
			cloned <- err
		}()
		synctest.Wait()
		go func() {
			_, err := dev.Facets().Fence.Fence(t.Context(), primitives.Op{ID: "fence"})
			fenced <- err
		}()
		synctest.Wait()
		if d, err := dev.Describe(t.Context()); err != nil || d.Fenced {
			t.Errorf("Describe beside a fence that waits = fenced %t, %v; want an answer, not fenced", d.Fenced, err)
		}
		create(t, dev, vol("c"), 4096, nil) // who waits is in nobody's way
		if err := <-cloned; err != nil {
			t.Errorf("Clone before a fence = %v", err)
		}
		if err := <-fenced; err != nil {
			t.Errorf("Fence after the clone = %v", err)
		}
		_, err := dev.Read(t.Context(), vol("a"), primitives.Op{})
		wantCode(t, "Read of a fenced device", err, primitives.CodeFenced)
	})
}

// TestAFenceThatWaitsInVainNamesWhoStays waits for a call as long as it may, and
// for a Reader, which may stay open for hours, no longer than for a lock.
func TestAFenceThatWaitsInVainNamesWhoStays(t *testing.T) {
	read := func(t *testing.T, dev *storage.Device, _ *mem.Driver) (leave func()) {
		r, err := dev.Read(t.Context(), vol("a"), primitives.Op{ID: "busy"})
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	clone := func(t *testing.T, dev *storage.Device, drv *mem.Driver) (leave func()) {
		clear := drv.Fault("one", mem.Fault{Op: "clone", Delay: time.Hour})
		done := make(chan error, 1)
		go func() {
			_, err := dev.Clone(t.Context(), vol("a"), vol("b"), primitives.CloneRequest{Op: primitives.Op{ID: "busy"}})
			done <- err
		}()
		synctest.Wait()
		return func() {
			clear()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	cases := map[string]struct {
		begin func(*testing.T, *storage.Device, *mem.Driver) (leave func())
		waits time.Duration
	}{
		"a reader": {read, 2 * time.Second},
		"a call":   {clone, 10 * time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				drv := mem.New()
				dev := open(t, drv, nil, storage.Options{LockWait: 2 * time.Second})
				create(t, dev, vol("a"), 4096, nil)
				leave := c.begin(t, dev, drv)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				_, err := dev.Facets().Fence.Fence(ctx, primitives.Op{})
				wantBlocker(t, wantCode(t, "Fence", err, primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "busy"})
				if waited := time.Since(start); waited != c.waits {
					t.Errorf("Fence waited %s, want %s", waited, c.waits)
				}
				leave()
				if _, err := dev.Facets().Fence.Fence(t.Context(), primitives.Op{}); err != nil {
					t.Errorf("Fence when it had gone = %v", err)
				}
			})
		})
	}
}

// TestNobodyChangesADeviceWhileItIsBeingFenced holds the fence in the driver.
func TestNobodyChangesADeviceWhileItIsBeingFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drv := mem.New()
		dev := open(t, drv, nil, storage.Options{LockWait: time.Second})
		create(t, dev, vol("a"), 4096, nil)
		clear := drv.Fault("one", mem.Fault{Op: "fence", Delay: 30 * time.Second})
		defer clear()
		fenced := make(chan error, 1)
		go func() {
			_, err := dev.Facets().Fence.Fence(t.Context(), primitives.Op{ID: "fence"})
			fenced <- err
		}()
		synctest.Wait()
		_, err := dev.Write(t.Context(), vol("a"), primitives.WriteRequest{})
		wantBlocker(t, wantCode(t, "Write beside a fence", err, primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "fence"})
		if busy := dev.Busy(); len(busy) != 1 || busy[0].Op != "fence" {
			t.Errorf("Busy = %+v, want the fence", busy)
		}
		if err := <-fenced; err != nil {
			t.Errorf("Fence = %v", err)
		}
		if err := dev.Facets().Fence.Unfence(t.Context(), primitives.Op{}); err != nil {
			t.Errorf("Unfence = %v", err)
		}
		create(t, dev, vol("b"), 4096, nil)
	})
}
