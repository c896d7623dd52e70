// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// The kinds of operation of this package.
const (
	KindCreate  = "volume.create"
	KindImport  = "volume.import"
	KindResize  = "volume.resize"
	KindClone   = "volume.clone"
	KindDelink  = "volume.delink"
	KindRelink  = "volume.relink"
	KindDestroy = "volume.destroy"
)

// CreateArgs are the arguments of volume.create; its result is a primitives.Object.
type CreateArgs struct {
	URI    primitives.URI
	Size   int64             // bytes; rounded up to the device's granule
	Format primitives.Format // empty: the device's default
	Props  primitives.Props
}

// ImportArgs are the arguments of volume.import; its result is an Imported.
type ImportArgs struct {
	URI    primitives.URI
	Path   string // absolute, on this host
	Format primitives.Format
}

// Imported is the result of volume.import.
type Imported struct {
	Object  primitives.Object
	Adopted []string // disks of running domains that use the image already, as "DOMAIN/TARGET"
}

// ResizeArgs are the arguments of volume.resize; its result is a
// primitives.Object. A volume that a domain has as a disk is resized by disk.resize.
type ResizeArgs struct {
	URI  primitives.URI
	Size int64
}

// CloneArgs are the arguments of volume.clone; its result is a primitives.Object.
type CloneArgs struct {
	From, To primitives.URI
	Size     int64 // 0: as the source
	Full     bool  // the clone must not depend on the source
	Props    primitives.Props
}

// DelinkArgs are the arguments of volume.delink, for volumes and snapshots; its
// result is a primitives.Tombstone.
type DelinkArgs struct {
	URI  primitives.URI
	Keep time.Duration // 0: until destroyed by hand
}

// RelinkArgs are the arguments of volume.relink; its result is a primitives.Object.
type RelinkArgs struct {
	Device    string
	Tombstone string         // its ID
	As        primitives.URI // zero: the name it had
}

// DestroyArgs are the arguments of volume.destroy, which has no result.
type DestroyArgs struct {
	Device    string
	Tombstone string // its ID
	Erase     primitives.Erase
}
