// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Volumes lists volumes.
func (s Style) Volumes(volumes []*tenonv1.Volume) string {
	t := table{header: []string{"VOLUME", ">SIZE", ">USED", "FORMAT", "STATE", "CREATED"}}
	for _, v := range volumes {
		t.add(Short(v.GetUri()), Size(v.GetSizeBytes()), Size(v.GetUsedBytes()), or(v.GetFormat()), word(v.GetState()), s.time(v.GetCreateTime()))
	}
	return t.String()
}

// Volume shows one volume.
func (s Style) Volume(v *tenonv1.Volume) string {
	var sh sheet
	sh.add("volume", Short(v.GetUri()))
	sh.add("state", word(v.GetState()))
	sh.add("size", ExactSize(v.GetSizeBytes()))
	sh.add("used", ExactSize(v.GetUsedBytes()))
	sh.add("format", or(v.GetFormat()))
	sh.add("generation", fmt.Sprint(v.GetGeneration()))
	sh.add("handle", or(v.GetHandle()))
	sh.addIf("parent", v.GetParent())
	sh.add("dependents", fmt.Sprint(v.GetDependents()))
	sh.add("created", s.time(v.GetCreateTime()))
	sh.addMap("properties", v.GetProperties())
	if v.GetState() == tenonv1.ObjectState_OBJECT_STATE_READY {
		sh.addIf("can", objectCan(v.GetCapabilities()))
	}
	return sh.String()
}

// Snapshots lists snapshots.
func (s Style) Snapshots(snapshots []*tenonv1.Snapshot) string {
	t := table{header: []string{"SNAPSHOT", ">SIZE", ">USED", "FORMAT", "STATE", "CREATED"}}
	for _, v := range snapshots {
		t.add(Short(v.GetUri()), Size(v.GetSizeBytes()), Size(v.GetUsedBytes()), or(v.GetFormat()), word(v.GetState()), s.time(v.GetCreateTime()))
	}
	return t.String()
}

// Snapshot shows one snapshot.
func (s Style) Snapshot(v *tenonv1.Snapshot) string {
	var sh sheet
	sh.add("snapshot", Short(v.GetUri()))
	sh.add("state", word(v.GetState()))
	sh.add("size", ExactSize(v.GetSizeBytes()))
	sh.add("used", ExactSize(v.GetUsedBytes()))
	sh.add("format", or(v.GetFormat()))
	sh.add("generation", fmt.Sprint(v.GetGeneration()))
	sh.add("handle", or(v.GetHandle()))
	sh.addIf("parent", v.GetParent())
	sh.add("dependents", fmt.Sprint(v.GetDependents()))
	sh.add("created", s.time(v.GetCreateTime()))
	sh.addMap("properties", v.GetProperties())
	return sh.String()
}

// Tombstones lists what was delinked.
func (s Style) Tombstones(tombstones []*tenonv1.Tombstone) string {
	t := table{header: []string{"DEVICE", "TOMBSTONE", "WAS", ">SIZE", ">USED", "DELINKED", "KEEP UNTIL"}}
	for _, v := range tombstones {
		until := "destroyed"
		if v.GetExpireTime() != nil {
			until = s.time(v.GetExpireTime())
		}
		t.add(v.GetDevice(), v.GetId(), Short(v.GetWas()), Size(v.GetSizeBytes()), Size(v.GetUsedBytes()), s.time(v.GetDelinkTime()), until)
	}
	return t.String()
}

// objectCan says in one line what can be done with a volume in its present state.
func objectCan(c *tenonv1.Capabilities) string {
	if c == nil {
		return ""
	}
	var can []string
	if c.GetMap() {
		can = append(can, "attach")
	}
	if c.GetSnapshot() {
		can = append(can, "snapshot ("+word(c.GetSnapshotLive())+")")
	}
	if c.GetResize() {
		resize := "grow"
		if c.GetShrink() {
			resize = "grow, shrink"
		}
		can = append(can, resize)
	}
	if c.GetRevert() > tenonv1.RevertPolicy_REVERT_POLICY_NONE {
		can = append(can, "revert")
	}
	return strings.Join(can, ", ")
}
