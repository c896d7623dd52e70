// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"slices"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// recordVersion is the version of the layout that this driver writes.
const recordVersion = 1

// A family is one record: a volume, its snapshots, their tombstones and the
// layers that hold their bytes. Because it is one file, each change of it is
// atomic; where it lies says whether the volume is linked or delinked.
type family struct {
	Version    int
	Handle     primitives.Handle
	Name       string // the volume's
	Format     primitives.Format
	Size       int64
	State      recordState
	Generation uint64
	Created    time.Time
	Props      primitives.Props `json:",omitempty"`

	Head      string // the layer that the volume's writes go to
	Layers    []layer
	Snapshots []snapshot `json:",omitempty"`
	Origin    *origin    `json:",omitempty"`

	MadeBy   request   // the operation that made the volume
	Writing  request   `json:",omitzero"` // the operation that overwrites it, or that left it torn
	Reverted request   `json:",omitzero"` // the last revert, so that its repeat does nothing
	Relinked request   `json:",omitzero"`
	Growing  *growth   `json:",omitempty"`
	Delinked *delinked `json:",omitempty"` // the last delink; in force while the record is in the trash

	// VolumeGone is a family whose volume was destroyed and which lives on for
	// snapshots that had been delinked on their own.
	VolumeGone bool `json:",omitempty"`
}

// recordState is the state of a volume as recorded. Whether a writing one is
// still at work or was interrupted is not recorded: its layer's lock tells.
type recordState string

const (
	stateReady    recordState = "ready"
	stateCreating recordState = "creating" // not there yet
	stateWriting  recordState = "writing"  // being overwritten
)

// request remembers an operation for the sake of its repeat.
type request struct {
	Kind string `json:",omitempty"`
	ID   string `json:",omitempty"`
	Args string `json:",omitempty"`
}

// repeats reports whether r is a repeat of the recorded one.
func (done request) repeats(r request) bool { return r.ID != "" && r == done }

// clashes reports whether r uses the recorded one's id for something else.
func (done request) clashes(r request) bool { return r.ID != "" && r.ID == done.ID && r != done }

// layer is one data file: data/ID.FORMAT.
type layer struct {
	ID     string
	Format primitives.Format
	Below  []layerRef       `json:",omitempty"` // what the file leaves out, nearest first; all immutable
	Shared bool             `json:",omitempty"` // may share extents with another file
	Erase  primitives.Erase `json:",omitempty"` // owed since a snapshot of it was destroyed
}

// layerRef names a layer, maybe of another family.
type layerRef struct {
	ID     string
	Format primitives.Format
}

func (r layerRef) file() string { return dataDir + "/" + r.ID + "." + string(r.Format) }

func (l layer) ref() layerRef { return layerRef{l.ID, l.Format} }
func (l layer) file() string  { return l.ref().file() }

// chain is the layer and everything below it, nearest first.
func (l layer) chain() []layerRef { return append([]layerRef{l.ref()}, l.Below...) }

// snapshot is a snapshot of the volume. It is a fixed view of its layer.
type snapshot struct {
	Name    string
	Handle  primitives.Handle
	Layer   string
	Size    int64
	Created time.Time
	By      request
	Clones  []dependent      `json:",omitempty"`
	Props   primitives.Props `json:",omitempty"`
	// Next is the overlay of a pending snapshot: the volume's head once Settle
	// has been told that the hypervisor writes there.
	Next     string    `json:",omitempty"`
	Delinked *delinked `json:",omitempty"`
	Relinked request   `json:",omitzero"`
}

func (s snapshot) pending() bool { return s.Next != "" }

// dependent names a volume whose bytes lie partly in a snapshot's layer.
type dependent struct {
	Handle primitives.Handle
	Name   string // when it was made
}

// origin is where a dependent clone comes from.
type origin struct {
	Volume   primitives.Handle
	Name     string
	Snapshot primitives.Handle
}

// growth is a resize that waits for the hypervisor, which holds the image.
type growth struct {
	Size int64
	By   request
}

// delinked is a tombstone as recorded.
type delinked struct {
	ID      string
	Was     string // the name it had
	Time    time.Time
	Expires time.Time `json:",omitzero"`
	By      request
	Dying   bool `json:",omitempty"` // destroy began: no way back
	Undone  bool `json:",omitempty"` // relinked since; kept for the repeat of the delink
}

// gone reports whether the snapshot is delinked.
func (s snapshot) gone() bool { return s.Delinked != nil && !s.Delinked.Undone }

func (f *family) layer(id string) *layer {
	i := slices.IndexFunc(f.Layers, func(l layer) bool { return l.ID == id })
	if i < 0 {
		return nil
	}
	return &f.Layers[i]
}

// snapshot returns the linked snapshot of that name.
func (f *family) snapshot(name string) *snapshot {
	i := slices.IndexFunc(f.Snapshots, func(s snapshot) bool { return s.Name == name && !s.gone() })
	if i < 0 {
		return nil
	}
	return &f.Snapshots[i]
}

// buried returns the delinked snapshot of that tombstone.
func (f *family) buried(tombstone string) *snapshot {
	i := slices.IndexFunc(f.Snapshots, func(s snapshot) bool { return s.gone() && s.Delinked.ID == tombstone })
	if i < 0 {
		return nil
	}
	return &f.Snapshots[i]
}

func (f *family) byHandle(h primitives.Handle) *snapshot {
	i := slices.IndexFunc(f.Snapshots, func(s snapshot) bool { return s.Handle == h })
	if i < 0 {
		return nil
	}
	return &f.Snapshots[i]
}

// pending returns the names of the snapshots that wait for Settle.
func (f *family) pending() []string {
	var names []string
	for _, s := range f.Snapshots {
		if s.pending() {
			names = append(names, s.Name)
		}
	}
	return names
}

// clones returns every volume that depends on one of the family's snapshots.
func (f *family) clones() []dependent {
	var all []dependent
	for _, s := range f.Snapshots {
		all = append(all, s.Clones...)
	}
	return all
}

// unneeded returns the layers that nothing in the family reaches any more.
func (f *family) unneeded() []layer {
	needed := map[string]bool{}
	reach := func(id string) {
		if l := f.layer(id); l != nil {
			for _, r := range l.chain() {
				needed[r.ID] = true
			}
		}
	}
	if !f.VolumeGone {
		reach(f.Head)
	}
	for _, s := range f.Snapshots {
		reach(s.Layer)
		reach(s.Next)
	}
	var free []layer
	for _, l := range f.Layers {
		if !needed[l.ID] {
			free = append(free, l)
		}
	}
	return free
}

// drop forgets layers.
func (f *family) drop(gone []layer) {
	f.Layers = slices.DeleteFunc(f.Layers, func(l layer) bool {
		return slices.ContainsFunc(gone, func(g layer) bool { return g.ID == l.ID })
	})
}

// clone returns a copy that shares nothing that the driver changes in place.
func (f *family) clone() *family {
	c := *f
	c.Layers = slices.Clone(f.Layers)
	c.Snapshots = slices.Clone(f.Snapshots)
	for i := range c.Snapshots {
		c.Snapshots[i].Clones = slices.Clone(f.Snapshots[i].Clones)
	}
	return &c
}
