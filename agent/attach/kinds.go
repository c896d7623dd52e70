// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// The kinds of operation of this package.
const (
	KindAttach = "disk.attach"
	KindDetach = "disk.detach"
	KindResize = "disk.resize"
)

// AttachArgs are the arguments of disk.attach; its result is a Disk.
type AttachArgs struct {
	URI      primitives.URI
	Domain   string // name or ID
	ReadOnly bool   // a snapshot is always read-only
	Bus      string // "virtio" (default) or "scsi"
}

// DetachArgs are the arguments of disk.detach, which has no result.
type DetachArgs struct {
	Domain  string // name or ID
	Disk    DiskName
	Timeout time.Duration // how long to wait for the guest; 0: the configured time
}

// ResizeArgs are the arguments of disk.resize; its result is a Disk.
type ResizeArgs struct {
	Domain string // name or ID
	Disk   DiskName
	Size   int64
}

// Disk is a disk of a domain, with what tenon knows of it.
type Disk struct {
	hypervisor.Disk
	DomainName string
	URI        primitives.URI // zero: not tenon's
	Size       int64          // of the volume; 0: unknown
	Use        string         // the use's ID; empty: none is recorded
	ConfigNote string         // why the persistent definition does not have it, where that failed
}
