// SPDX-License-Identifier: Apache-2.0

// Package hypervisor holds the contract between tenon's agent and the
// hypervisors it serves. An [Adapter] knows domains and disks and turns a
// [primitives.Mapping] into a disk; it never imports storage code and reads
// nothing about a volume but its mapping.
//
// Errors are [primitives.Error], with these meanings on this side: CodeNotFound
// for an unknown domain or disk, CodeInUse when the guest refuses or a job holds
// the disk, CodeUnsupported for what the domain's capabilities exclude,
// CodeUnavailable when the hypervisor did not answer, or did not finish, in time.
package hypervisor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// Adapter drives one hypervisor on this host.
//
// Each call ends with its context, even when the hypervisor hangs; a domain that
// does not answer makes calls on that domain fail early for a while and leaves
// the others alone.
type Adapter interface {
	// Info describes the adapter and the hypervisor behind it. It answers even
	// when the hypervisor is away: Connected is false then, and Note says why.
	Info(ctx context.Context) Info
	// Domains lists every domain, running or defined, in order of name.
	Domains(ctx context.Context) ([]Domain, error)
	// Domain returns one domain as Domains lists it, by its name or its ID in
	// either case; an ID wins over a name that looks like one. It reads nothing of
	// other domains. CodeNotFound, CodeInvalid for an empty name.
	Domain(ctx context.Context, nameOrID string) (Domain, error)
	// Watch calls wake whenever something about a domain may have changed, with
	// the domain's ID, or "" when any may have; at least once after each time the
	// connection was made anew. A wake carries no truth: the receiver reads the
	// full state. wake must be fast. Watch returns when ctx ends, with its cause.
	Watch(ctx context.Context, wake func(DomainID)) error
	// Disks lists the disks of a domain as the hypervisor shows them now, tenon's
	// and others'. CodeNotFound.
	Disks(ctx context.Context, d DomainID) ([]Disk, error)
	// Attach gives a disk to a domain: to the running domain, to its persistent
	// definition, or both, as two steps with two results. The disk's ID becomes
	// its serial in the guest and the identity by which Disks knows it again. A
	// repeat finds the disk there and is success; the same ID with another
	// mapping, or on a disk that is Detaching, is CodeConflict; CodeInUse when
	// something else has the image open; CodeNoSpace without a free slot. Where a
	// name is asked for, CodeConflict when another domain has it by now, and
	// CodeNotFound when none has. After a failure of the first step nothing is
	// attached, but CodeUnavailable leaves open whether it is: a repeat, or Disks,
	// tells. After a failure of the second the error is nil, the first stands and
	// ConfigErr says why.
	Attach(ctx context.Context, r AttachRequest) (AttachResult, error)
	// Detach takes a disk away. It is a request to the guest: Detach returns when
	// the disk is seen to be gone, CodeInUse when the guest refused, and
	// CodeUnavailable when ctx ended first. Then the disk is still in use, Disks
	// shows it as Detaching, and it may yet go; a repeat goes on. The persistent
	// definition follows once the running domain has let go. CodeDependents while
	// the disk writes to the overlay of a hypervisor snapshot, without which the
	// volume would miss its newest content. An absent disk is success.
	Detach(ctx context.Context, d DomainID, disk DiskID) (DetachResult, error)
	// Facets says which optional parts exist. It does no I/O.
	Facets() Facets
	// Close ends the connection. Domains and their disks stay as they are.
	Close() error
}

// Facets are the optional parts of an adapter; nil means not offered.
type Facets struct {
	Resize   Resizer
	Freeze   Freezer
	Switch   Switcher
	Power    Powerer
	Snapshot Snapshotter
	Pause    Pauser
	Move     Mover
}

// Info describes an adapter.
type Info struct {
	Name       string // "kvm"
	Hypervisor string // name and version of what is behind it, such as "QEMU 7.2.19"
	Library    string // name and version of the way to it, such as "libvirt 9.0.0"
	Connected  bool
	Note       string // why not connected, or what limits apply
	Accepts    []primitives.Acceptable
}

// DomainID names a domain: its UUID, lower-case, with dashes.
type DomainID string

// DomainState is what a domain is doing.
type DomainState uint8

const (
	StateOff DomainState = iota + 1
	StateRunning
	StatePaused
	StateCrashed
	StateShuttingDown
)

// String returns the state's name.
func (s DomainState) String() string {
	return [...]string{"unknown", "off", "running", "paused", "crashed", "shutting down"}[s]
}

// Domain is a virtual machine.
type Domain struct {
	ID         DomainID
	Name       string
	State      DomainState
	Reason     string // why it is in that state, where the hypervisor says so, such as "ioerror"
	Persistent bool
	Caps       Caps
}

// Caps say, per domain and beforehand, what can be done to it.
type Caps struct {
	AttachLive bool
	DetachLive bool
	ResizeLive bool
	Freeze     bool // a guest agent is connected
	Switch     bool
	Snapshot   bool
	Pause      bool
	Move       bool // a disk's bytes can go to another mapping while the domain runs
	FreeSlots  int  // disks that can still be attached to the running domain; -1: unknown
	Accepts    []primitives.Acceptable
}

// MaxDiskID is the longest DiskID, in bytes: virtio-blk and NVMe serials have 20.
const MaxDiskID = 20

// DiskID is tenon's identity of a disk: its serial in the guest, and part of its
// alias. It belongs to the disk and never changes when the volume beneath does.
type DiskID string

// CheckDiskID reports, with CodeInvalid, why id cannot be a disk's: 1 to 20 of
// a-z, 0-9 and '-'.
func CheckDiskID(id DiskID) error {
	if id == "" || len(id) > MaxDiskID || strings.Trim(string(id), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return primitives.Invalid("disk", "%q: expected 1 to %d of a-z, 0-9 and '-'", string(id), MaxDiskID)
	}
	return nil
}

// Disk is a disk of a domain, as the hypervisor shows it.
type Disk struct {
	ID        DiskID // empty: not tenon's
	Domain    DomainID
	Target    string // the name in the domain's definition, such as "vdb"; guests may call it otherwise
	Serial    string
	Bus       string
	Access    primitives.Access
	Live      bool // the running domain has it
	Config    bool // the persistent definition has it
	Detaching bool // a detach was asked for and has not come to an end
	Source    Source
	Job       string // the kind of a block job on it, such as "copy"; empty: none
}

// Source is where a disk's bytes come from, as the hypervisor shows it.
type Source struct {
	Form    primitives.Form
	Path    string            // FormBlock, FormFile
	Format  primitives.Format // as the hypervisor was told
	Network *primitives.NetworkMap
	Chain   []string // paths of the backing files, nearest first, where the hypervisor shows them
}

// Shows reports whether s is what m describes.
func (s Source) Shows(m primitives.Mapping) bool {
	if s.Form != m.Form {
		return false
	}
	switch m.Form {
	case primitives.FormBlock:
		return s.Path == m.Block.Path && s.Format == primitives.FormatRaw
	case primitives.FormFile:
		return s.Path == m.File.Path && s.Format == m.File.Format
	case primitives.FormNetwork:
		return s.Network != nil && s.Network.Protocol == m.Network.Protocol &&
			s.Network.Export == m.Network.Export && s.Network.Socket == m.Network.Socket &&
			strings.Join(s.Network.Hosts, " ") == strings.Join(m.Network.Hosts, " ")
	}
	return false
}

// String prints the source for people.
func (s Source) String() string {
	if s.Network != nil {
		at := s.Network.Socket
		if at == "" {
			at = strings.Join(s.Network.Hosts, ",")
		}
		return fmt.Sprintf("%s:%s/%s", s.Network.Protocol, at, s.Network.Export)
	}
	return s.Path
}

// Where says which halves of a domain are meant.
type Where uint8

const (
	Auto       Where = iota // running: live; persistent: config too
	LiveOnly                // the running domain
	ConfigOnly              // the persistent definition
)

// AttachRequest asks for a disk.
type AttachRequest struct {
	Domain  DomainID
	Name    string // which the domain has to bear at this moment; "": any
	Disk    DiskID
	Mapping primitives.Mapping
	Bus     string // "virtio" (default) or "scsi"
	Where   Where
}

// Outcome is what became of one step.
type Outcome uint8

const (
	NotAsked Outcome = iota
	Done
	Already // it was so before
	Failed
)

// String returns the outcome in words.
func (o Outcome) String() string { return [...]string{"not asked", "done", "already", "failed"}[o] }

// AttachResult is what became of both steps. ConfigErr is set when Config Failed
// after Live was done. Beside an error, the step that failed is Failed; where
// none is, nothing was tried.
type AttachResult struct {
	Disk         Disk
	Live, Config Outcome
	ConfigErr    error
}

// DetachResult is what became of both steps.
type DetachResult struct {
	Live, Config Outcome
}

// Resizer makes a grown volume visible to a guest.
type Resizer interface {
	// ResizeDisk tells the running domain that the disk now has that many bytes.
	// For a file whose format the hypervisor itself writes it also grows the
	// file. The present size is success.
	ResizeDisk(ctx context.Context, d DomainID, disk DiskID, size int64) error
}

// FreezeReport says what a freeze reached.
type FreezeReport struct {
	Filesystems int           // how many were frozen
	Held        time.Duration // from the freeze to the thaw
	ThawErr     error         // the thaw failed too; the domain needs attention
}

// Freezer quiesces a guest's file systems.
type Freezer interface {
	// Freeze freezes the guest's file systems, runs during, and thaws them
	// whatever happened, also when the freeze itself failed. during's context
	// ends after hold. When the freeze fails, during does not run and the error
	// says why; an error of during comes back as it is.
	Freeze(ctx context.Context, d DomainID, hold time.Duration, during func(context.Context) error) (FreezeReport, error)
	// Thaw undoes a freeze that a crash left behind. A guest that is not frozen
	// is success.
	Thaw(ctx context.Context, d DomainID) error
}

// DiskSwitch moves one disk to another mapping.
type DiskSwitch struct {
	Disk DiskID
	To   primitives.Mapping
}

// Switcher moves disks to new mappings of the same volumes.
type Switcher interface {
	// Switch moves all disks named, in one transaction: all of them or none. The
	// running domain switches at one point in time; the persistent definition
	// follows. The mapping of a running domain's disk must be an overlay file
	// directly upon what the disk shows now, else CodeUnsupported; a domain that
	// is off takes any. Disks that show the mapping already are success. Which
	// side of the switch a crash left is what Disks shows, and a repeat completes it.
	Switch(ctx context.Context, d DomainID, disks []DiskSwitch) error
}

// Powerer starts and ends domains.
type Powerer interface {
	// Start starts a defined domain. A running one is success.
	Start(ctx context.Context, d DomainID) error
	// Shutdown asks the guest to power off and waits until it did. It never
	// forces. An ended domain is success; CodeUnavailable when ctx ends first.
	Shutdown(ctx context.Context, d DomainID) error
}

// Snapshot is a hypervisor's own snapshot of a domain, which is not a storage
// snapshot: it puts overlays on disks, beneath which tenon must not revert.
type Snapshot struct {
	Name    string
	Created time.Time
	Disks   []DiskID // tenon's disks that carry an overlay of it
}

// Snapshotter manages hypervisor snapshots.
type Snapshotter interface {
	// CreateSnapshot makes a disk-only snapshot of all writable disks at one
	// point in time. The same name again is CodeExists.
	CreateSnapshot(ctx context.Context, d DomainID, name string) (Snapshot, error)
	// Snapshots lists them, oldest first.
	Snapshots(ctx context.Context, d DomainID) ([]Snapshot, error)
	// DeleteSnapshot merges the newest snapshot's overlays back. An unknown name
	// is success; one that is not the newest is CodeDependents.
	DeleteSnapshot(ctx context.Context, d DomainID, name string) error
}
