// SPDX-License-Identifier: Apache-2.0

package primitives

import (
	"context"
	"io"
	"iter"
	"time"
)

// Op travels with every call.
type Op struct {
	ID      string // caller-chosen; the same id and arguments give the same outcome. Empty: no replay
	Props   Props  // effective properties of device, volume and operation
	Secrets Secrets
	IfGen   uint64         // 0: any; else CodeConflict when the object's generation differs
	Report  func(Progress) // may be nil; is fast and safe for concurrent calls
}

// Progress is how far an operation is.
type Progress struct {
	Done, Total int64 // bytes; Total 0: unknown
	Note        string
}

// Backend is one opened device. Storage drivers implement it; callers hold a
// storage.Device, which validates, locks, classifies and measures around it.
//
// Every method answers CodeUnavailable after Close, and CodeUnavailable within
// ctx when the backend is dead.
type Backend interface {
	// Describe tells the device's state and capabilities. It changes nothing.
	Describe(ctx context.Context) (Description, error)
	// Facets says which optional parts exist. It does no I/O and never changes
	// during the backend's life.
	Facets() Facets

	// Stat looks one object up, in time that does not grow with the number of
	// volumes. CodeNotFound.
	Stat(ctx context.Context, u URI, op Op) (Object, error)
	// List pages through objects in order of name. An object that exists during
	// the whole listing appears exactly once, whatever happens around it.
	// CodeInvalid for a cursor that List did not issue.
	List(ctx context.Context, r ListRequest) (Page, error)
	// Read opens a volume or snapshot for reading. CodeNotFound, CodeIncomplete;
	// CodeInUse where the content cannot be read consistently because a mapping
	// writes to it.
	Read(ctx context.Context, u URI, op Op) (Reader, error)
	// Write opens a volume for writing, or, with Create, makes one. A create is
	// repeated with the same Op.ID to get the same object: a committed one is
	// returned by Commit unchanged. CodeExists when the name is taken by another
	// object, CodeInUse when a mapping exists, CodeIncomplete when an interrupted
	// write of another id is in the way, CodeNoSpace.
	Write(ctx context.Context, u URI, w WriteRequest) (Writer, error)
	// Clone makes a writable volume dst with the content of src, a volume or
	// snapshot of the same device. A repeat with the same Op.ID returns the same
	// object. CodeExists, CodeInvalid for a smaller size, CodeInUse, CodeNoSpace.
	Clone(ctx context.Context, src, dst URI, c CloneRequest) (Object, error)
	// CopyTo offers to copy src to another device without the host moving the
	// bytes. CodeNoOffload, which leaves no trace, tells the caller to stream.
	CopyTo(ctx context.Context, src URI, dst CopyTarget, op Op) (Object, error)
	// Delink takes the object out of the namespace; its name is free at once and
	// its data is kept. A repeat with the same Op.ID returns the same tombstone.
	// CodeNotFound, CodeInUse, CodeDependents; refused means unchanged.
	Delink(ctx context.Context, u URI, d DelinkRequest) (Tombstone, error)
	// Relink brings a tombstone back under the name as, with content, size,
	// properties and snapshots. as zero: the name it had. CodeExists, CodeNotFound.
	Relink(ctx context.Context, t Tombstone, as URI, op Op) (Object, error)
	// Destroy releases a tombstone's data. An unknown tombstone is success, so a
	// repeat is too. CodeDependents when another object needs the data.
	Destroy(ctx context.Context, t Tombstone, d DestroyRequest) error

	// Close ends the use of the device. It does not unmap. A repeat does nothing.
	Close() error
}

// Facets are the optional parts of a backend; nil means not offered. They are a
// struct of interfaces, not type assertions, because wrappers and out-of-process
// proxies lose optional interfaces.
type Facets struct {
	Snapshots Snapshotter
	Resize    Resizer
	Delta     DeltaReader
	Map       Mapper
	Import    Importer
	Fence     Fencer
}

// Handle is issued by the driver and opaque to others. It survives a rename and
// names exactly one incarnation: a new volume of an old name has another handle.
type Handle string

// Kind is the kind of an object.
type Kind uint8

const (
	KindVolume Kind = iota + 1
	KindSnapshot
	KindTombstone
)

// String returns the kind's name.
func (k Kind) String() string { return [...]string{"", "volume", "snapshot", "tombstone"}[k] }

// State is the state of an object.
type State uint8

const (
	Ready      State = iota + 1
	Incomplete       // an interrupted write or copy; neither mappable nor readable
	Pending          // not there yet: the backend still works, or Settle is awaited
)

// String returns the state's name.
func (s State) String() string { return [...]string{"", "ready", "incomplete", "pending"}[s] }

// Object is a volume, snapshot or tombstone.
type Object struct {
	URI        URI
	Handle     Handle
	Kind       Kind
	State      State
	Size       int64 // what a guest sees
	Used       int64 // bytes taken on the device by this object alone; -1: unknown
	Format     Format
	Generation uint64 // grows with every content-changing operation made through tenon
	Parent     Handle // origin in a clone or snapshot tree
	Dependents int    // objects that need this one's data
	Created    time.Time
	Props      Props // exactly what was stored
	Caps       Caps  // the device's capabilities, narrowed to this object in its present state
	Tombstone  *Tombstone
}

// Tombstone names a delinked object. Only a tombstone can be destroyed.
type Tombstone struct {
	ID       string
	Was      URI
	Handle   Handle
	Delinked time.Time
	Expires  time.Time // zero: kept until destroyed by hand. A driver never destroys by itself
}

// ListRequest selects what List returns. The zero value lists volumes.
type ListRequest struct {
	Op     Op
	Kinds  []Kind // empty: volumes
	Prefix string // of the volume's name
	Of     URI    // the snapshots of this one volume
	Cursor string // Page.Next of the page before
	Limit  int    // 0: the backend's choice
}

// Page is a part of a listing. Next is empty on the last one.
type Page struct {
	Objects []Object
	Next    string
}

// Reader reads an object's bytes. A range over the end is short with io.EOF.
type Reader interface {
	io.ReaderAt
	Size() int64
	Close() error
}

// Writer writes a volume's bytes, in any order where Caps.RandomWrite says so.
// A Writer that is neither committed nor aborted, for a crash, is made
// Incomplete or taken away by the next Open.
type Writer interface {
	// WriteAt writes; over the end is CodeInvalid and writes nothing.
	io.WriterAt
	// ZeroAt makes a range read as zero, as cheaply as the backend can.
	ZeroAt(off, n int64) error
	// Commit makes the object durable and visible, or neither. A repeat returns
	// the same object.
	Commit(ctx context.Context) (Object, error)
	// Abort gives everything up: a new object never was; an overwrite in place
	// leaves the object Incomplete. After Commit it does nothing.
	Abort(ctx context.Context) error
}

// WriteRequest opens a Writer.
type WriteRequest struct {
	Op
	Create bool
	Size   int64  // with Create; rounded up to Description.Granule
	Format Format // with Create; empty: the device's default
	Resume bool   // go on with an Incomplete object made by the same Op.ID
}

// CloneRequest says how to clone.
type CloneRequest struct {
	Op
	Size int64 // 0: as the source; larger: the tail reads as zero; smaller: CodeInvalid
	Full bool  // the result must not depend on the source
}

// CopyTarget is the place a CopyTo goes to.
type CopyTarget struct {
	URI     URI
	Backend string // Description.Backend of the target
	Driver  string
	Props   Props
}

// Erase says what becomes of the bytes at Destroy.
type Erase uint8

const (
	EraseNone    Erase = iota // only released
	EraseDiscard              // the backend is told that they are unused
	EraseZero                 // overwritten with zeros before release
)

// String returns the way's name.
func (e Erase) String() string { return [...]string{"none", "discard", "zero"}[e] }

// DelinkRequest says how long to keep.
type DelinkRequest struct {
	Op
	Keep time.Duration // 0: until destroyed by hand
}

// DestroyRequest says how to destroy.
type DestroyRequest struct {
	Op
	Erase Erase
}

// Snapshotter makes snapshots. It never touches a hypervisor.
type Snapshotter interface {
	// Snapshot makes a snapshot called name of each volume, crash-consistent and
	// atomic over all of them (more than one needs Caps.SnapshotGroup). The same
	// name on the same volume by the same Op.ID is a repeat; by another, CodeExists.
	//
	// Where Caps.SnapshotLive is LiveRemap and a volume is mapped, the snapshots
	// are Pending and the set's Switch holds the mappings, of a higher epoch, that
	// the hypervisor must switch to in one transaction. The switch is the point
	// in time. Settle ends the second phase.
	Snapshot(ctx context.Context, vols []URI, name string, op Op) (SnapshotSet, error)
	// Settle makes the Pending snapshots called name Ready (switched) or takes
	// them away again as if they had never been (not switched). A repeat is
	// success. CodeNotFound when switched and there is no such snapshot.
	Settle(ctx context.Context, vols []URI, name string, switched bool, op Op) ([]Object, error)
	// Revert gives the volume the snapshot's content and size. Later snapshots
	// are kept where Caps.Revert says RevertKeepsLater, else CodeDependents names
	// them. CodeInUse while mapped.
	Revert(ctx context.Context, vol URI, snap string, op Op) (Object, error)
}

// SnapshotSet is the outcome of Snapshot, in the order of the volumes asked for.
type SnapshotSet struct {
	Snapshots []Object
	Switch    []Mapping // empty: nothing to switch, all snapshots are Ready
}

// Resizer changes a volume's size.
type Resizer interface {
	// Resize sets the size, rounded up to Description.Granule. The present size
	// is success. A new tail reads as zero. Shrinking without Caps.Shrink is
	// CodeUnsupported; a mapped volume without Caps.ResizeOnline is CodeInUse. A
	// mapping shows the new size when Map is repeated.
	Resize(ctx context.Context, u URI, size int64, op Op) (Object, error)
}

// ExtentKind is what an extent holds.
type ExtentKind uint8

const (
	ExtentData ExtentKind = iota + 1
	ExtentZero            // reads as zero; includes what was discarded since the base
)

// Extent is a range of bytes of one kind.
type Extent struct {
	Off, Len int64
	Kind     ExtentKind
}

// DeltaRequest asks for allocated or changed extents.
type DeltaRequest struct {
	Op
	Target URI
	Base   URI   // an older snapshot of the same volume. Zero: what is not zero in Target
	Off    int64 // first byte of interest
	Len    int64 // 0: to the end
}

// DeltaReader tells where bytes are, or changed.
type DeltaReader interface {
	// Extents yields ascending extents that do not overlap, clipped to the range
	// asked for. It may report more than changed, never less: what is not
	// reported equals the base, or is zero where there is no base. An error ends
	// the sequence; the extents before it are valid. CodeNoDelta, as the first
	// item, tells the caller to read everything.
	Extents(ctx context.Context, r DeltaRequest) iter.Seq2[Extent, error]
}

// Importer adopts what exists already.
type Importer interface {
	// Import makes the image at path a volume without copying its bytes; both
	// names lead to the same bytes afterwards. Nothing is probed: the format is
	// the caller's word, and CodeInvalid where the image contradicts it or refers
	// to other files (a backing file, a data file). A repeat with the same Op.ID
	// returns the same object. CodeExists, CodeUnsupported where path cannot be
	// adopted in place.
	Import(ctx context.Context, u URI, r ImportRequest) (Object, error)
}

// ImportRequest names the image.
type ImportRequest struct {
	Op
	Path   string // absolute, on this host
	Format Format
}
