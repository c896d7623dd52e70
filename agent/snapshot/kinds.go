// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// The kinds of operation of this package. Snapshots are delinked, relinked and
// destroyed by the kinds of package volume.
const (
	KindCreate = "snapshot.create"
	KindRevert = "snapshot.revert"
)

// CreateArgs are the arguments of snapshot.create; its result is a Set.
type CreateArgs struct {
	URIs   []primitives.URI // volumes; empty with Domain: all volumes that the domain has as disks and writes to
	Name   string           // empty: made from the time
	Domain string           // name or ID; needed for Freeze. A volume that another domain uses is refused
	Freeze bool             // quiesce the guest's file systems; where that fails the snapshot is crash-consistent and says so
}

// Level is how consistent a snapshot is.
type Level string

// The levels, lowest first.
const (
	// PerGroup: each group is crash-consistent in itself; the groups were taken
	// one after the other.
	PerGroup Level = "crash-consistent per group"
	// CrashConsistent: all volumes at one point in time, as after a loss of power.
	CrashConsistent Level = "crash-consistent"
	// Frozen: all volumes while the guest's file systems were frozen.
	Frozen Level = "frozen"
)

// Set is the result of snapshot.create.
type Set struct {
	Name   string
	Level  Level
	Note   string        // why the level is not what was asked for; empty: it is
	Domain string        // the domain's ID; empty: none took part
	Held   time.Duration // how long the guest's file systems were frozen
	Groups []Group
}

// Group is volumes of one device that were snapshotted at one point in time.
type Group struct {
	Device    string
	Snapshots []primitives.Object
}

// RevertArgs are the arguments of snapshot.revert; its result is a primitives.Object.
type RevertArgs struct {
	URI primitives.URI // of the snapshot
}
