// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/primitives"
)

func TestPlanPutsTogetherWhatIsOfOneMoment(t *testing.T) {
	uri := func(d, v string) primitives.URI { return primitives.URI{Device: d, Volume: v} }
	switching := primitives.Caps{SnapshotLive: primitives.LiveRemap, SnapshotGroup: true}
	grouping := primitives.Caps{SnapshotLive: primitives.LiveTransparent, SnapshotGroup: true}
	single := primitives.Caps{SnapshotLive: primitives.LiveTransparent}
	live := journal.Use{ID: "disk-x", Disk: "x"}
	subject := func(d, v string, c primitives.Caps, u journal.Use) snapshot.Subject {
		return snapshot.Subject{URI: uri(d, v), Caps: c, Use: u}
	}
	cases := map[string]struct {
		subjects []snapshot.Subject
		want     []snapshot.Planned
		level    snapshot.Level
	}{
		"one volume that nobody uses": {
			[]snapshot.Subject{subject("a", "1", switching, journal.Use{})},
			[]snapshot.Planned{{Device: "a", URIs: []primitives.URI{uri("a", "1")}, Way: snapshot.Direct}},
			snapshot.CrashConsistent,
		},
		"two of a device that snapshots groups": {
			[]snapshot.Subject{subject("a", "2", grouping, live), subject("a", "1", grouping, live)},
			[]snapshot.Planned{{Device: "a", URIs: []primitives.URI{uri("a", "1"), uri("a", "2")}, Way: snapshot.Direct, Live: true}},
			snapshot.CrashConsistent,
		},
		"two of a device that does not": {
			[]snapshot.Subject{subject("a", "1", single, live), subject("a", "2", single, live)},
			[]snapshot.Planned{
				{Device: "a", URIs: []primitives.URI{uri("a", "1")}, Way: snapshot.Direct, Live: true},
				{Device: "a", URIs: []primitives.URI{uri("a", "2")}, Way: snapshot.Direct, Live: true},
			},
			snapshot.PerGroup,
		},
		"two devices that switch, which is one moment": {
			[]snapshot.Subject{subject("a", "1", switching, live), subject("b", "1", switching, live)},
			[]snapshot.Planned{
				{Device: "a", URIs: []primitives.URI{uri("a", "1")}, Way: snapshot.Remap, Live: true},
				{Device: "b", URIs: []primitives.URI{uri("b", "1")}, Way: snapshot.Remap, Live: true},
			},
			snapshot.CrashConsistent,
		},
		"one that switches and one that does not": {
			[]snapshot.Subject{subject("a", "1", switching, live), subject("b", "1", grouping, live)},
			[]snapshot.Planned{
				{Device: "a", URIs: []primitives.URI{uri("a", "1")}, Way: snapshot.Remap, Live: true},
				{Device: "b", URIs: []primitives.URI{uri("b", "1")}, Way: snapshot.Direct, Live: true},
			},
			snapshot.PerGroup,
		},
		"one in use and one that is not, of one device": {
			[]snapshot.Subject{subject("a", "1", switching, live), subject("a", "2", switching, journal.Use{})},
			[]snapshot.Planned{
				{Device: "a", URIs: []primitives.URI{uri("a", "1")}, Way: snapshot.Remap, Live: true},
				{Device: "a", URIs: []primitives.URI{uri("a", "2")}, Way: snapshot.Direct},
			},
			snapshot.CrashConsistent,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := snapshot.Plan(c.subjects)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
			if l := snapshot.LevelOf(got); l != c.level {
				t.Errorf("level = %q, want %q", l, c.level)
			}
		})
	}
}
