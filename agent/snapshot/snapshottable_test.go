// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"testing"

	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/primitives"
)

type snapshotter struct{ primitives.Snapshotter }

// TestAnInterruptedVolumeIsNotTakenForOneWithoutSnapshots tells what to do about
// each: to complete the one, to copy the other elsewhere.
func TestAnInterruptedVolumeIsNotTakenForOneWithoutSnapshots(t *testing.T) {
	has := primitives.Facets{Snapshots: snapshotter{}}
	can := primitives.Caps{Snapshot: true}
	cases := map[string]struct {
		facets primitives.Facets
		object primitives.Object
		want   primitives.Code // 0: it can
	}{
		"whole":                                {has, primitives.Object{State: primitives.Ready, Caps: can}, 0},
		"whole, of a kind without snapshots":   {has, primitives.Object{State: primitives.Ready}, primitives.CodeUnsupported},
		"interrupted":                          {has, primitives.Object{State: primitives.Incomplete}, primitives.CodeIncomplete},
		"interrupted, where nothing has any":   {primitives.Facets{}, primitives.Object{State: primitives.Incomplete}, primitives.CodeUnsupported},
		"growing, which a snapshot waits for":  {has, primitives.Object{State: primitives.Pending, Caps: can}, 0},
		"on a device without the facet at all": {primitives.Facets{}, primitives.Object{State: primitives.Ready, Caps: can}, primitives.CodeUnsupported},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := snapshot.Snapshottable(c.facets, c.object)
			if got := primitives.CodeOf(err); err == nil && c.want != 0 || err != nil && got != c.want {
				t.Errorf("snapshottable() = %v, want %v", err, c.want)
			}
		})
	}
}
