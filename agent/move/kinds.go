// SPDX-License-Identifier: Apache-2.0

package move

import (
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/primitives"
)

// KindMove is the kind of operation of this package.
const KindMove = "disk.move"

// DefaultKeep is how long a source is kept when nothing else is asked for.
const DefaultKeep = 7 * 24 * time.Hour

// Args are the arguments of disk.move; its result is a Result.
type Args struct {
	Domain    string          // name or ID
	Disk      attach.DiskName // its ID, target or URI
	To        primitives.URI  // a volume that does not exist; without one, the source's name on that device
	Also      []Pair          // more disks of the domain: all of them are copied before the first is switched
	Bandwidth int64           // bytes per second and disk at most; 0: no limit
	Keep      time.Duration   // of the sources' tombstones; 0: DefaultKeep
}

// Pair is a disk and the place it goes to.
type Pair struct {
	Disk attach.DiskName
	To   primitives.URI
}

// pairs lists all disks that are asked for.
func (a Args) pairs() []Pair { return append([]Pair{{a.Disk, a.To}}, a.Also...) }

// Result is the result of disk.move. Beside a failure it is there too, once the
// first disk was to be switched: some disks may have moved and others not.
type Result struct {
	Domain string // its name
	Disks  []Moved
}

// Moved is what became of one disk.
type Moved struct {
	Disk     attach.Disk // as it is shown now
	From, To primitives.URI
	Moved    bool
	Bytes    int64 // that the copy had at its end
	// Tombstone is the source's, or the target's where the disk stayed on its
	// source after all; nil: it is still a volume, and Note says why.
	Tombstone *primitives.Tombstone
	Note      string // what is left to do by hand; empty: nothing
	Failure   string // why it stayed; empty: it did not
}
