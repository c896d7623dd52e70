// SPDX-License-Identifier: Apache-2.0

package primitives

import "context"

// Form is one of the three ways in which a host reaches a volume's bytes.
type Form uint8

const (
	FormBlock   Form = iota + 1 // a block device
	FormFile                    // a file of an explicit format
	FormNetwork                 // a network address; "nbd" is the protocol that every adapter accepts
)

// String returns the form's name.
func (f Form) String() string { return [...]string{"", "block", "file", "network"}[f] }

// Format is the format of the bytes in a file or block device. It is never empty
// in a Mapping and never probed: a guest writes what it likes into its disk
// (CVE-2026-24708).
type Format string

const (
	FormatRaw   Format = "raw"
	FormatQcow2 Format = "qcow2"
)

// Access says what a mapping may be used for.
type Access uint8

const (
	ReadOnly Access = iota + 1
	ReadWrite
)

// String returns the access in words.
func (a Access) String() string { return [...]string{"", "read-only", "read-write"}[a] }

// Acceptable is one shape of mapping that a hypervisor takes.
type Acceptable struct {
	Form     Form
	Format   Format // FormFile, FormBlock: the format; empty: any
	Protocol string // FormNetwork: the protocol
}

// Takes reports whether a takes m.
func (a Acceptable) Takes(m Mapping) bool {
	if a.Form != m.Form {
		return false
	}
	switch m.Form {
	case FormFile:
		return a.Format == "" || a.Format == m.File.Format
	case FormNetwork:
		return a.Protocol == m.Network.Protocol
	}
	return true
}

// MapRequest asks for a mapping.
type MapRequest struct {
	Op
	Access   Access
	Consumer string       // opaque to the driver; comes back in Mapping
	Accept   []Acceptable // what the hypervisor takes, best first; empty: anything
}

// MappingID names a mapping on this host.
type MappingID string

// Mapping is plain data: the whole of what storage tells a hypervisor. Exactly
// one of Block, File and Network is set, as Form says.
type Mapping struct {
	ID       MappingID
	URI      URI
	Handle   Handle
	Consumer string
	Access   Access
	Active   bool
	Form     Form
	Block    *BlockMap
	File     *FileMap
	Network  *NetworkMap
	Size     int64
	Logical  int // logical block size in bytes
	Physical int
	Discard  bool   // the volume gives discarded space back
	Direct   bool   // O_DIRECT is safe
	Epoch    uint64 // rises when anything above changed for the same ID
}

// BlockMap is a block device.
type BlockMap struct {
	Path string // a stable link, not a recyclable dm-N or sdX
	WWID string // checked again at Activate and at Unmap
}

// FileMap is a file with its whole backing chain.
type FileMap struct {
	Path    string
	Format  Format
	Backing []FileMap // nearest first, each with its format; their own Backing is empty
}

// NetworkMap is a network address.
type NetworkMap struct {
	Protocol string // "nbd", "rbd", "iscsi": as libvirt's <disk type='network'> calls it
	Export   string
	Hosts    []string // host:port
	Socket   string   // a unix socket instead of hosts
	User     string
	Secret   Secrets // the adapter turns it into its own kind of secret
}

// UnmapRequest says how to unmap.
type UnmapRequest struct {
	Op
	Force bool // even if something still holds the device open
}

// Mapper makes volumes reachable on this host.
type Mapper interface {
	// Map prepares a mapping; it may be slow. The same URI, consumer and access
	// give the same ID, and a repeat refreshes size and epoch. CodeNotFound,
	// CodeIncomplete, CodeUnsupported when nothing in Accept can be offered.
	Map(ctx context.Context, u URI, m MapRequest) (Mapping, error)
	// Activate opens a mapping for I/O; it is fast. It reads the identity again
	// and answers CodeFenced when the path leads elsewhere; CodeInUse when another
	// writer, or a reader beside this writer, is active. A repeat is success.
	Activate(ctx context.Context, id MappingID, op Op) (Mapping, error)
	// Deactivate ends I/O but keeps what Map prepared. A repeat, or an unknown
	// id, is success. CodeInUse while something holds the bytes open.
	Deactivate(ctx context.Context, id MappingID, op Op) error
	// Unmap removes what Map prepared, and nothing else. An unknown id is
	// success. CodeInUse while something holds it open, unless Force.
	Unmap(ctx context.Context, id MappingID, u UnmapRequest) error
	// Mappings tells what is mapped on this host since it booted, as observed.
	Mappings(ctx context.Context) ([]Mapping, error)
}
