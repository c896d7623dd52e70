// SPDX-License-Identifier: Apache-2.0

package primitives

import "time"

// Health is a device's condition as its driver sees it.
type Health uint8

const (
	Healthy     Health = iota
	Degraded           // works, but something is lost: redundancy, space, writing
	Unreachable        // no answer now
	Failed             // answers, but is not what was configured
)

// String returns the condition's name.
func (h Health) String() string {
	return [...]string{"healthy", "degraded", "unreachable", "failed"}[h]
}

// DeletePolicy says what delink of a volume with snapshots does.
type DeletePolicy uint8

const (
	DeleteRefusedWithSnapshots DeletePolicy = iota // CodeDependents names the snapshots
	DeleteTakesSnapshots                           // the snapshots go along and come back with relink
	DeleteIndependentOfSnapshots
)

// String returns the policy in words.
func (p DeletePolicy) String() string {
	return [...]string{"refused", "takes snapshots", "independent"}[p]
}

// LiveSnapshot says what a snapshot of a mapped volume means to its user.
type LiveSnapshot uint8

const (
	LiveNone        LiveSnapshot = iota // only while unmapped; else CodeInUse
	LiveTransparent                     // the user of the mapping notices nothing
	LiveRemap                           // the mapping changes; the hypervisor must switch
)

// String returns the way in words.
func (l LiveSnapshot) String() string { return [...]string{"offline", "transparent", "remap"}[l] }

// RevertPolicy says what revert does to later snapshots.
type RevertPolicy uint8

const (
	RevertNone       RevertPolicy = iota // no revert
	RevertKeepsLater                     // later snapshots stay
	RevertLatestOnly                     // later snapshots are blockers
)

// Caps are the qualities of what exists. Facets say whether a call exists, Caps
// how good it is; an object's caps are its device's, narrowed to that object.
type Caps struct {
	Manageable        bool // volumes can be made and taken away; false for a read-only or foreign device
	RandomWrite       bool // a Writer accepts any order of offsets
	SharedAcrossHosts bool // another host sees the same volumes
	ExclusiveActivate bool // the backend itself refuses a second writer
	ZeroOnCreate      bool // unwritten space of a new volume reads as zero without work
	ThinProvisioned   bool // space is taken as it is written
	CloneIsCopy       bool // a clone costs the volume's size
	DelinkFreesName   bool // a delinked name can be used again at once
	DeleteWithSnaps   DeletePolicy
	Snapshot          bool // this object can be snapshotted (device: some of its objects can)
	SnapshotLive      LiveSnapshot
	SnapshotGroup     bool // one call snapshots several volumes at one point in time
	Revert            RevertPolicy
	ResizeOnline      bool
	Shrink            bool
	DeltaAcrossDelink bool // a base whose data is gone can still serve
	Formats           []Format
	Forms             []Form
	Erase             []Erase
	CopyPeers         []string // backend identities or driver names that CopyTo reaches without the host
}

// Description is a device's state now.
type Description struct {
	Backend     string // identity that the backend itself reports; equal for two configurations of one store
	Health      Health
	HealthNote  string // why, where Health is not Healthy
	Caps        Caps
	Total, Free int64 // bytes; -1: unknown
	Granule     int64 // volume sizes are multiples of it
	MaxVolume   int64 // 0: no limit known
	Fenced      bool  // closed for service by Fencer.Fence
	AtTime      time.Time
}
