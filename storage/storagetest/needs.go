// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// need tells whether what a check needs is there, and if not, why not.
type need func(c *C) (Reason, bool)

func facet(name string, has func(offers) bool) need {
	return func(c *C) (Reason, bool) { return Reason{NilFacet, name}, has(c.p.offers) }
}

var (
	mapper   = facet("Map", func(o offers) bool { return o.mapper })
	resizer  = facet("Resize", func(o offers) bool { return o.resize })
	importer = facet("Import", func(o offers) bool { return o.importer })
	deltas   = facet("Delta", func(o offers) bool { return o.delta })
)

// declared is a need that the capabilities answer, of the device and of an
// unmapped volume of this variant.
func declared(what string, holds func(p profile) bool) need {
	return func(c *C) (Reason, bool) { return Reason{Declared, what}, holds(c.p) }
}

// snapshots needs volumes of this variant that can be snapshotted.
func snapshots(c *C) (Reason, bool) {
	if !c.p.offers.snapshots {
		return Reason{NilFacet, "Snapshots"}, false
	}
	return Reason{Declared, "volumes of this kind have no snapshots"}, c.p.caps.Snapshot
}

func noSnapshots(c *C) (Reason, bool) {
	if !c.p.offers.snapshots {
		return Reason{NilFacet, "Snapshots"}, false
	}
	return Reason{Declared, "volumes of this kind have snapshots"}, !c.p.caps.Snapshot
}

var (
	reverts = declared("Revert is none", func(p profile) bool { return p.caps.Revert != primitives.RevertNone })
	group   = declared("SnapshotGroup is false", func(p profile) bool { return p.caps.SnapshotGroup })
	shrinks = declared("Shrink is false", func(p profile) bool { return p.caps.Shrink })
	grows   = declared("ResizeOnline is false", func(p profile) bool { return p.caps.ResizeOnline })
	thin    = declared("ThinProvisioned is false", func(p profile) bool { return p.desc.Caps.ThinProvisioned })
	zeroes  = declared("ZeroOnCreate is false", func(p profile) bool { return p.desc.Caps.ZeroOnCreate })
	shared  = declared("SharedAcrossHosts is false", func(p profile) bool { return p.desc.Caps.SharedAcrossHosts })
	fences  = declared("ExclusiveActivate is false", func(p profile) bool { return p.desc.Caps.ExclusiveActivate })
	reuses  = declared("DelinkFreesName is false", func(p profile) bool { return p.desc.Caps.DelinkFreesName })
	random  = declared("RandomWrite is false", func(p profile) bool { return p.desc.Caps.RandomWrite })
)

func live(want primitives.LiveSnapshot) need {
	return func(c *C) (Reason, bool) {
		r := Reason{Declared, fmt.Sprintf("SnapshotLive is %s, not %s", c.p.caps.SnapshotLive, want)}
		return r, c.p.caps.SnapshotLive == want
	}
}

// liveAnyhow needs snapshots of mapped volumes, transparent or with a switch.
func liveAnyhow(c *C) (Reason, bool) {
	return Reason{Declared, "SnapshotLive is offline"}, c.p.caps.SnapshotLive != primitives.LiveNone
}

func network(c *C) (Reason, bool) {
	return Reason{Declared, "Forms has no network"}, slices.Contains(c.p.desc.Caps.Forms, primitives.FormNetwork)
}

func hook(name string, has func(s Store) bool) need {
	return func(c *C) (Reason, bool) { return Reason{NoHook, name}, has(c.p.store) }
}

var (
	recycles  = hook("Recycle", func(s Store) bool { return s.Recycle != nil })
	vanishes  = hook("Vanish", func(s Store) bool { return s.Vanish != nil })
	goesAway  = hook("GoAway", func(s Store) bool { return s.GoAway != nil })
	adoptable = hook("ImportDir", func(s Store) bool { return s.ImportDir != nil })
	outside   = hook("Outside", func(s Store) bool { return s.Outside != nil })
	strict    = hook("Strict: the schema is enforced by the caller's side", func(s Store) bool { return s.Strict })
)

func small(c *C) (Reason, bool) { return Reason{NoHook, "NewSmall"}, c.h.NewSmall != nil }

// guests needs a way to reach the mapped bytes as a guest does.
func guests(c *C) (Reason, bool) {
	return Reason{NoHook, "Guest for this form of mapping"}, c.p.store.Guest != nil || opensItself(c.p.mapping)
}
