// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"
	"time"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Operations lists operations. now is what the age of a running one counts to.
func (s Style) Operations(ops []*tenonv1.Operation, now time.Time) string {
	t := table{header: []string{"OPERATION", "KIND", "SUBJECT", "STATE", "STEP", "STARTED", ">TOOK"}}
	for _, op := range ops {
		t.add(op.GetId(), op.GetKind(), Short(op.GetSubject()), operationState(op), or(op.GetStep()), s.time(op.GetCreateTime()), took(op, now))
	}
	return t.String()
}

// Operation shows one operation.
func (s Style) Operation(op *tenonv1.Operation, now time.Time) string {
	var sh sheet
	sh.add("operation", op.GetId())
	sh.add("kind", op.GetKind())
	sh.add("subject", or(Short(op.GetSubject())))
	sh.add("state", operationState(op))
	sh.add("step", or(op.GetStep()))
	sh.addIf("progress", Progress(op.GetProgress()))
	sh.addIf("note", oneLine(op.GetNote()))
	sh.add("caller", or(op.GetCaller()))
	sh.add("request id", or(op.GetRequestId()))
	sh.add("started", s.time(op.GetCreateTime()))
	if op.GetFinishTime() != nil {
		sh.add("finished", s.time(op.GetFinishTime()))
	}
	sh.add("took", took(op, now))
	if f := op.GetFailure(); f != nil {
		sh.addList("failure", strings.Split(strings.TrimSpace(strings.TrimPrefix(Failure(f), "error: ")), "\n"))
	}
	sh.addIf("result", strings.TrimSuffix(Outcome(op), "\n"))
	return sh.String()
}

// OperationLine is one change of an operation, for a watcher.
func (s Style) OperationLine(op *tenonv1.Operation) string {
	parts := []string{op.GetId(), op.GetKind(), or(Short(op.GetSubject())), operationState(op)}
	if op.GetState() == tenonv1.OperationState_OPERATION_STATE_RUNNING && op.GetStep() != "" {
		parts = append(parts, op.GetStep())
	}
	if p := Progress(op.GetProgress()); p != "" && op.GetState() == tenonv1.OperationState_OPERATION_STATE_RUNNING {
		parts = append(parts, p)
	}
	if f := op.GetFailure(); f != nil && !op.GetCancelAsked() { // who asked knows why it ended
		parts = append(parts, oneLine(f.GetMessage()))
	}
	return strings.Join(parts, gap) + "\n"
}

func operationState(op *tenonv1.Operation) string {
	if op.GetCancelAsked() && op.GetState() == tenonv1.OperationState_OPERATION_STATE_RUNNING {
		return "cancelling"
	}
	return word(op.GetState())
}

func took(op *tenonv1.Operation, now time.Time) string {
	if op.GetCreateTime() == nil {
		return absent
	}
	end := now
	if op.GetFinishTime() != nil {
		end = op.GetFinishTime().AsTime()
	}
	return Duration(max(0, end.Sub(op.GetCreateTime().AsTime())))
}

// Progress shows how far a step is, "" when there is nothing to tell.
func Progress(p *tenonv1.Progress) string {
	var parts []string
	switch {
	case p.GetTotal() > 0:
		parts = append(parts, fmt.Sprintf("%d%% (%s of %s)", p.GetDone()*100/p.GetTotal(), Size(p.GetDone()), Size(p.GetTotal())))
	case p.GetDone() > 0:
		parts = append(parts, Size(p.GetDone()))
	}
	if p.GetNote() != "" {
		parts = append(parts, oneLine(p.GetNote()))
	}
	return strings.Join(parts, ", ")
}

// Outcome says in a line or two what an operation brought: one that succeeded, or
// a move of disks that came out in more than one way.
func Outcome(op *tenonv1.Operation) string {
	if m := op.GetDiskMove(); m != nil {
		return diskMove(m)
	}
	if op.GetState() != tenonv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return ""
	}
	done, ok := past[op.GetKind()]
	if !ok {
		done = "done: " + op.GetKind()
	}
	switch r := op.GetResult().(type) {
	case *tenonv1.Operation_Device:
		return fmt.Sprintf("device %s %s (%s)\n", r.Device.GetName(), done, word(r.Device.GetHealth()))
	case *tenonv1.Operation_Volume:
		return fmt.Sprintf("volume %s %s\n", volumeFacts(r.Volume), done)
	case *tenonv1.Operation_VolumeImport:
		text := fmt.Sprintf("volume %s %s\n", volumeFacts(r.VolumeImport.GetVolume()), done)
		for _, d := range r.VolumeImport.GetAdoptedDisks() {
			text += fmt.Sprintf("disk %s adopted\n", d)
		}
		return text
	case *tenonv1.Operation_Snapshot:
		return fmt.Sprintf("snapshot %s %s\n", Short(r.Snapshot.GetUri()), done)
	case *tenonv1.Operation_SnapshotSet:
		return snapshotSet(r.SnapshotSet)
	case *tenonv1.Operation_Tombstone:
		return fmt.Sprintf("%s %s as tombstone %s\n", Short(r.Tombstone.GetWas()), done, r.Tombstone.GetId())
	case *tenonv1.Operation_Disk:
		return diskOutcome(r.Disk, done)
	}
	return strings.TrimSpace(gone[op.GetKind()]+" "+Short(op.GetSubject())+" "+done) + "\n"
}

// past says in the past tense what an operation of a kind did.
var past = map[string]string{
	"device.add": "added", "device.update": "updated", "device.remove": "removed",
	"volume.create": "created", "volume.import": "imported", "volume.resize": "resized", "volume.clone": "cloned",
	"volume.delink": "delinked", "volume.relink": "relinked", "volume.destroy": "destroyed", "volume.write": "written",
	"snapshot.create": "created", "snapshot.revert": "reverted", "transfer.copy": "copied",
	"disk.attach": "attached", "disk.detach": "detached", "disk.resize": "resized",
}

// gone names what an operation without a result took away.
var gone = map[string]string{"device.remove": "device", "volume.destroy": "tombstone", "disk.detach": "disk"}

func volumeFacts(v *tenonv1.Volume) string {
	return fmt.Sprintf("%s (%s %s)", Short(v.GetUri()), Size(v.GetSizeBytes()), v.GetFormat())
}

func snapshotSet(set *tenonv1.SnapshotSet) string {
	var b strings.Builder
	for _, g := range set.GetGroups() {
		for _, s := range g.GetSnapshots() {
			fmt.Fprintf(&b, "snapshot %s created\n", Short(s.GetUri()))
		}
	}
	level := levels[set.GetLevel()]
	if set.GetFrozenDuration() != nil {
		level += " for " + Duration(set.GetFrozenDuration().AsDuration())
	}
	fmt.Fprintf(&b, "level: %s\n", or(level))
	if set.GetNote() != "" {
		fmt.Fprintf(&b, "note: %s\n", oneLine(set.GetNote()))
	}
	return b.String()
}

// levels spell out what a set of snapshots is consistent with.
var levels = map[tenonv1.SnapshotLevel]string{
	tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_CRASH_CONSISTENT_PER_GROUP: "crash-consistent per device, the devices one after the other",
	tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_CRASH_CONSISTENT:           "crash-consistent",
	tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_FROZEN:                     "file systems frozen",
}

func diskOutcome(d *tenonv1.Disk, done string) string {
	text := fmt.Sprintf("disk %s %s", or(d.GetId()), done)
	if done == "attached" {
		text += fmt.Sprintf(" to %s as %s (%s, %s)", d.GetDomain(), or(d.GetTarget()), access(d), where(d))
	} else if d.GetSizeBytes() > 0 {
		text += " to " + Size(d.GetSizeBytes())
	}
	text += "\n"
	if d.GetConfigNote() != "" {
		text += "note: not in the persistent definition: " + oneLine(d.GetConfigNote()) + "\n"
	}
	return text
}

// diskMove says of each disk where it is now, and what became of the volume that
// is not needed any more.
func diskMove(m *tenonv1.DiskMove) string {
	var b strings.Builder
	for _, d := range m.GetDisks() {
		name, other := or(d.GetDisk().GetTarget())+" of "+m.GetDomain(), d.GetFrom()
		if d.GetMoved() {
			fmt.Fprintf(&b, "disk %s moved from %s to %s (%s)\n", name, Short(d.GetFrom()), Short(d.GetTo()), Size(d.GetCopiedBytes()))
		} else {
			other = d.GetTo()
			fmt.Fprintf(&b, "disk %s stayed on %s: %s\n", name, Short(d.GetFrom()), oneLine(d.GetFailure()))
		}
		if t := d.GetTombstone(); t != nil {
			fmt.Fprintf(&b, "%s is tombstone %s now\n", Short(other), t.GetId())
		}
		if d.GetNote() != "" {
			fmt.Fprintf(&b, "note: %s\n", oneLine(d.GetNote()))
		}
	}
	return b.String()
}
