// SPDX-License-Identifier: Apache-2.0

// Package storagetest is the storage contract as a suite that any driver can run
// against itself:
//
//	func TestContract(t *testing.T) {
//		storagetest.Run(t, storagetest.Harness{
//			New: func(t testing.TB) storagetest.Store {
//				return storagetest.Store{Driver: drv, Props: primitives.Props{"path": t.TempDir()}}
//			},
//		})
//	}
//
// The suite knows no driver. A check is left out only for a facet that is nil, a
// capability that is declared as absent, NoDelta where the contract lets a backend
// answer so, or a hook that the harness does not have; the run ends with a list
// of what was left out and why. Each check gets a fresh store, compares content
// byte by byte with a pattern that depends on the position, and repeats the calls
// that change something.
//
// The suite tests itself: [Mutants] are drivers with exactly one bug each, and
// every one of them must fail it.
package storagetest

import (
	"context"
	"io"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

// Harness tells the suite how to get at a driver. Only New is required.
type Harness struct {
	// New makes a fresh, empty store that vanishes with t.
	New func(t testing.TB) Store
	// NewSmall is New with room for about that many bytes.
	NewSmall func(t testing.TB, capacity int64) Store
	// Variants are the kinds of volumes to run every check on; empty: one, of the
	// device's default format.
	Variants []Variant
	// Many is how many volumes the check makes that looks one up among many;
	// 0: 200.
	Many int

	first []check // tried before the others by Try
}

// Variant is one kind of volume, in one kind of store.
type Variant struct {
	Name        string            // in the name of the subtest
	Format      primitives.Format // empty: the device's default
	DeviceProps primitives.Props  // over the store's
	VolumeProps primitives.Props  // given when a volume is made
	Slow        bool              // reading or writing starts a process: random checks take fewer steps
}

// Store is a fresh, empty store and what can be done to it behind its driver's
// back. Every function may be nil; the checks that need it are then left out.
type Store struct {
	Driver  primitives.Driver
	Props   primitives.Props
	Secrets primitives.Secrets

	// Open opens the store in place of Driver.Open, so that the suite can run
	// through a storage.Device or a proxy.
	Open func(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error)
	// Strict says that what Open returns enforces the driver's schema. A bare
	// driver does not: its caller has done so.
	Strict bool

	// Crash ends every open backend as kill -9 would: nothing is committed,
	// aborted or unmapped. nil: the suite merely stops using them.
	Crash func()
	// Guest opens the bytes of an active mapping as a guest does. nil: raw files,
	// block devices and NBD over a unix socket are opened by the suite itself.
	Guest func(t testing.TB, m primitives.Mapping) Guest
	// Recycle makes what the mapping's path or address leads to something else.
	Recycle func(t testing.TB, m primitives.Mapping)
	// Vanish takes the tombstone's bytes away.
	Vanish func(t testing.TB, dead primitives.Tombstone)
	// GoAway makes the store stop answering until back is called.
	GoAway func(t testing.TB) (back func())
	// ImportDir returns a folder whose image files the driver can adopt.
	ImportDir func(t testing.TB) string
	// Outside lists everything that exists around the store but is no part of it,
	// such as the names in the folder above its own.
	Outside func(t testing.TB) []string
}

// Guest is a virtual machine's view of a mapping. What it wrote has reached the
// storage when Flush returned.
type Guest interface {
	io.ReaderAt
	io.WriterAt
	Flush() error
	Close() error
}
