// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"

	"github.com/tenon-storage/tenon/primitives"
)

// Pauser stops a domain's processors and lets them go on. A paused domain still
// holds its disks open.
type Pauser interface {
	// Pause stops a running domain; it returns when no request of the guest is
	// under way any more. A paused one is success; CodeConflict for one that is off.
	Pause(ctx context.Context, d DomainID) error
	// Resume lets a paused domain go on, also one that the hypervisor paused for an
	// I/O error, and sees that it does: CodeInUse when it pauses again at once. A
	// running one is success; CodeConflict for one that is off.
	Resume(ctx context.Context, d DomainID) error
}

// MoveRequest asks for a disk's bytes to go to another mapping while the domain
// runs. From is what the disk shows now, To an active mapping of a volume of
// exactly that size whose content does not matter.
type MoveRequest struct {
	Domain    DomainID
	Disk      DiskID
	From, To  primitives.Mapping
	ToIsZero  bool  // To reads as zero everywhere: ranges without data need not be written
	Bandwidth int64 // bytes per second at most; 0: no limit
}

// CheckTarget reports, with CodeInvalid, why no copy can go where r says.
func (r MoveRequest) CheckTarget() error {
	switch {
	case r.Bandwidth < 0:
		return primitives.Invalid("bandwidth", "%d: expected a number of bytes per second, or 0", r.Bandwidth)
	case r.From.Size != r.To.Size:
		return primitives.Invalid("to", "the target has %d bytes, the disk has %d; they must be equal", r.To.Size, r.From.Size)
	case r.To.Access != primitives.ReadWrite:
		return primitives.Invalid("to", "it is mapped %v; a copy writes to it", r.To.Access)
	}
	return nil
}

// MovePhase is how far a move is.
type MovePhase uint8

const (
	MoveNone    MovePhase = iota // the disk shows From and no job runs
	MoveCopying                  // the bytes are being copied; the disk shows From
	MoveReady                    // both have the same bytes and every write goes to both; the disk shows From
	MoveHalf                     // the guest is on To, and what the hypervisor shows does not all say so yet
	MoveDone                     // the disk shows To wherever the domain has it, and no job runs
)

// String returns the phase in words.
func (p MovePhase) String() string {
	return [...]string{"not begun", "copying", "ready", "half done", "done"}[p]
}

// MoveStatus is what the hypervisor shows of a move. It is observed, so a caller
// that was restarted asks for it to learn where its move is.
type MoveStatus struct {
	Phase       MovePhase
	Done, Total int64  // bytes; Total grows while the guest writes. 0: not known
	Failure     string // MoveNone after a job that ended with an error: what the hypervisor said
}

// Mover moves disks of running domains to other mappings: live storage migration.
//
// A move is begun, watched until it is ready, and finished or cancelled, each in
// a call of its own and each safe to repeat, because between two of them the
// caller may have died. The guest sees the same disk throughout: serial, address,
// limits and paths stay. The hypervisor never releases or deletes From.
type Mover interface {
	// StartMove begins to copy. A move of the same disk to the same mapping that
	// runs, or is done, is success. CodeConflict while the disk shows something
	// other than From, is Detaching or another job holds it, naming the job;
	// CodeInvalid when the sizes differ or To cannot be written; CodeInUse when
	// something else has To open; CodeUnsupported for a domain that is off, or where
	// Caps.Move is false, for disks that are read-only or have an overlay of a
	// hypervisor snapshot, and for a To that lies upon another image. After a failure
	// no job is left, but CodeUnavailable leaves open whether one is.
	StartMove(ctx context.Context, r MoveRequest) error
	// MoveStatus tells where a move is, from the hypervisor's state alone. It
	// changes nothing. CodeNotFound for an unknown domain or disk, CodeConflict for a
	// disk on neither side; a domain that was shut down meanwhile shows MoveNone or,
	// from its definition, MoveDone.
	MoveStatus(ctx context.Context, r MoveRequest) (MoveStatus, error)
	// Converge makes every write of the guest wait for both sides, so that a copy
	// which the guest outruns comes to its end. Where the running copy cannot be
	// changed it is begun anew. A repeat, and a copy that is ready or done, is
	// success; CodeConflict where none runs.
	Converge(ctx context.Context, r MoveRequest) error
	// FinishMove switches the running domain to To and verifies it, then the
	// persistent definition and verifies that, and returns when the job is gone
	// and From is closed. It goes on after MoveHalf; MoveDone is success.
	// CodeConflict while the copy is not ready, and when there is none any more: it
	// failed, or the hypervisor had lost the switch and the guest was brought back to
	// From, which after MoveHalf takes as long as a copy. Then the move is to be begun
	// again. After CodeUnavailable either side may be shown: MoveStatus tells, and a
	// repeat goes on.
	FinishMove(ctx context.Context, r MoveRequest) error
	// CancelMove ends a copy that is not finished and returns when its job is gone
	// and To is closed; the disk shows From. No job is success. CodeConflict once
	// the guest is on To: then only FinishMove is left.
	CancelMove(ctx context.Context, r MoveRequest) error
}
