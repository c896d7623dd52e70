// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"cmp"
	"slices"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

// way is how a group is snapshotted.
type way string

const (
	// direct: the device makes the snapshot at the moment of the call.
	direct way = "direct"
	// remap: the device prepares, the hypervisor switches, the device settles;
	// the switch is the moment.
	remap way = "remap"
)

// group is volumes of one device that one call snapshots.
type group struct {
	Device string
	URIs   []primitives.URI
	Way    way
	Live   bool // a domain writes to them
}

// subject is one volume to be snapshotted.
type subject struct {
	URI  primitives.URI
	Use  journal.Use // of the disk that writes to it; zero: none
	Caps primitives.Caps
}

func (s subject) live() bool { return s.Use.ID != "" }

// plan groups the volumes: those of one device that are written to go together
// where the device can, because only then are they of one moment. Those that
// nobody writes to go apart from them: they are the same at any moment, and must
// not wait for a switch.
func plan(subjects []subject) []group {
	sorted := slices.Clone(subjects)
	slices.SortStableFunc(sorted, func(a, b subject) int {
		return cmp.Or(cmp.Compare(a.URI.Device, b.URI.Device), cmp.Compare(a.URI.Volume, b.URI.Volume))
	})
	var groups []group
	for _, s := range sorted {
		g := group{Device: s.URI.Device, URIs: []primitives.URI{s.URI}, Way: direct, Live: s.live()}
		if s.live() && s.Caps.SnapshotLive == primitives.LiveRemap {
			g.Way = remap
		}
		at := slices.IndexFunc(groups, func(have group) bool {
			return s.Caps.SnapshotGroup && have.Device == g.Device && have.Live == g.Live && have.Way == g.Way
		})
		if at < 0 {
			groups = append(groups, g)
			continue
		}
		groups[at].URIs = append(groups[at].URIs, s.URI)
	}
	return groups
}

// level tells how consistent the groups are, taken without a freeze: all that
// the hypervisor switches is of one moment, every other group of its own.
func level(groups []group) Level {
	moments, switched := 0, false
	for _, g := range groups {
		switch {
		case !g.Live:
		case g.Way == remap:
			switched = true
		default:
			moments++
		}
	}
	if switched {
		moments++
	}
	if moments > 1 {
		return PerGroup
	}
	return CrashConsistent
}
