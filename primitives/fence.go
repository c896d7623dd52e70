// SPDX-License-Identifier: Apache-2.0

package primitives

import "context"

// Holder is something on this host that has a part of a device open.
type Holder struct {
	URI  URI    // the object whose bytes it holds; only the device where that is not known
	Kind string // "process", "mount", "loop", "mapping"
	PID  int    // of a process; 0: not a process
	Name string // as the host prints it, such as "qemu-system-x86 (pid 812)" or "/dev/loop3"
	Path string // what it has open
}

// Fencer closes a device for service, so that its storage can be taken away
// without anybody's bytes being lost or misread.
type Fencer interface {
	// Holders lists what has a part of the device open on this host now, whoever
	// opened it; calls of this backend that are under way are not in it. It looks
	// at the host, never at memory. It works on a fenced device too.
	Holders(ctx context.Context) ([]Holder, error)
	// Fence refuses the device's bytes to everybody on this host, by the means the
	// storage offers, and verifies it by trying. It looks for holders first:
	// CodeInUse names them and nothing changed. The fence outlives the backend,
	// the process and the host's boot; only Unfence ends it. While it stands every
	// call but Describe, Holders, Fence, Unfence and Close is CodeFenced, and
	// Description.Fenced is true. A repeat verifies again and is success. After
	// another failure the fence may stand or not: Describe tells.
	Fence(ctx context.Context, op Op) (FenceReport, error)
	// Unfence ends the fence. The device's content is as it was. A device that is
	// not fenced is success.
	Unfence(ctx context.Context, op Op) error
}

// FenceReport says how a fence was made and how that was verified.
type FenceReport struct {
	Method   string // such as "data folder set aside"
	Evidence string // what was tried, and how it ended
}
