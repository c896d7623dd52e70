// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/move"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/agent/transfer"
	"github.com/tenon-storage/tenon/agent/volume"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// operations serves OperationService.
type operations struct {
	tenonv1.UnimplementedOperationServiceServer
	engine *operation.Engine
}

// states are the agent's states on the wire.
var states = map[operation.State]tenonv1.OperationState{
	operation.Running:   tenonv1.OperationState_OPERATION_STATE_RUNNING,
	operation.Succeeded: tenonv1.OperationState_OPERATION_STATE_SUCCEEDED,
	operation.Failed:    tenonv1.OperationState_OPERATION_STATE_FAILED,
	operation.Cancelled: tenonv1.OperationState_OPERATION_STATE_CANCELLED,
}

func stateFrom(s tenonv1.OperationState) (operation.State, error) {
	for state, wire := range states {
		if wire == s {
			return state, nil
		}
	}
	return "", primitives.Invalid("states", "%v is not a state to look for", s)
}

// ListOperations pages through operations, newest first.
func (s *operations) ListOperations(ctx context.Context, r *tenonv1.ListOperationsRequest) (*tenonv1.ListOperationsResponse, error) {
	var f operation.Filter
	for _, wanted := range r.GetStates() {
		state, err := stateFrom(wanted)
		if err != nil {
			return nil, err
		}
		f.States = append(f.States, state)
	}
	f.Subject = strings.TrimPrefix(r.GetSubject(), primitives.Scheme+"://")
	all, err := s.engine.List(ctx, f)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(op operation.Operation) bool { return !ofKind(op.Kind, r.GetKind()) })
	slices.Reverse(all)
	page, next, err := pageOf(all, func(op operation.Operation) string { return op.ID }, descending, r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	resp := &tenonv1.ListOperationsResponse{NextPageToken: next}
	for _, op := range page {
		shown, err := operationOf(op)
		if err != nil {
			return nil, err
		}
		resp.Operations = append(resp.Operations, shown)
	}
	return resp, nil
}

// ofKind reports whether kind is the one wanted, or of the noun wanted.
func ofKind(kind, wanted string) bool {
	return wanted == "" || kind == wanted || strings.HasPrefix(kind, wanted+".")
}

// GetOperation returns one operation.
func (s *operations) GetOperation(ctx context.Context, r *tenonv1.GetOperationRequest) (*tenonv1.GetOperationResponse, error) {
	op, err := s.engine.Get(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	shown, err := operationOf(op)
	return &tenonv1.GetOperationResponse{Operation: shown}, err
}

// WaitOperation returns the operation at its end, or as it is when the timeout
// is over.
func (s *operations) WaitOperation(ctx context.Context, r *tenonv1.WaitOperationRequest) (*tenonv1.WaitOperationResponse, error) {
	limit, err := durationFrom("timeout", r.GetTimeout())
	if err != nil {
		return nil, err
	}
	waiting := ctx
	if r.GetTimeout() != nil {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	op, err := s.engine.Wait(waiting, r.GetId())
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		op, err = s.engine.Get(ctx, r.GetId())
	}
	if err != nil {
		return nil, err
	}
	shown, err := operationOf(op)
	return &tenonv1.WaitOperationResponse{Operation: shown}, err
}

// CancelOperation asks for an end of the work.
func (s *operations) CancelOperation(ctx context.Context, r *tenonv1.CancelOperationRequest) (*tenonv1.CancelOperationResponse, error) {
	op, err := s.engine.Cancel(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	shown, err := operationOf(op)
	return &tenonv1.CancelOperationResponse{Operation: shown}, err
}

// WatchOperations sends changes.
func (s *operations) WatchOperations(r *tenonv1.WatchOperationsRequest, stream grpc.ServerStreamingServer[tenonv1.WatchOperationsResponse]) error {
	for op, err := range s.engine.Watch(stream.Context(), r.GetId()) {
		if err != nil {
			return err
		}
		shown, err := operationOf(op)
		if err != nil {
			return err
		}
		if err := stream.Send(&tenonv1.WatchOperationsResponse{Operation: shown}); err != nil {
			return err
		}
	}
	return nil
}

// operationOf returns an operation as the API tells it.
func operationOf(op operation.Operation) (*tenonv1.Operation, error) {
	out := &tenonv1.Operation{
		Id: op.ID, RequestId: op.RequestID, Kind: op.Kind, Subject: op.Subject, Caller: op.Caller,
		State: states[op.State], Step: op.Step, Note: op.Note,
		Progress:   &tenonv1.Progress{Done: op.Progress.Done, Total: op.Progress.Total, Note: op.Progress.Note},
		CreateTime: at(op.Created), FinishTime: at(op.Finished), CancelAsked: op.CancelAsked,
		Failure: failureOf(op.Failure),
	}
	if op.State.Finished() && len(op.Result) > 0 && string(op.Result) != "null" {
		if err := setResult(out, op.Result); err != nil {
			return nil, fmt.Errorf("result of operation %s: %w", op.ID, err)
		}
	}
	return out, nil
}

// setResult puts the result of the operation's kind into out.
func setResult(out *tenonv1.Operation, raw json.RawMessage) error {
	read, ok := results[out.GetKind()]
	if !ok {
		return nil // a kind without a result
	}
	return read(out, raw)
}

// results says, for each kind with a result, what it is.
var results = map[string]func(*tenonv1.Operation, json.RawMessage) error{
	volume.KindCreate:   asObject,
	volume.KindResize:   asObject,
	volume.KindClone:    asObject,
	volume.KindRelink:   asObject,
	transfer.KindCopy:   asObject,
	snapshot.KindRevert: asObject,
	volume.KindImport: as(func(out *tenonv1.Operation, r volume.Imported) {
		out.Result = &tenonv1.Operation_VolumeImport{VolumeImport: &tenonv1.VolumeImport{
			Volume: volumeOf(r.Object, nil), AdoptedDisks: r.Adopted,
		}}
	}),
	volume.KindDelink: as(func(out *tenonv1.Operation, r primitives.Tombstone) {
		out.Result = &tenonv1.Operation_Tombstone{Tombstone: tombstoneOf(r, nil)}
	}),
	snapshot.KindCreate: as(func(out *tenonv1.Operation, r snapshot.Set) {
		out.Result = &tenonv1.Operation_SnapshotSet{SnapshotSet: snapshotSetOf(r)}
	}),
	device.KindAdd:    asDevice,
	device.KindUpdate: asDevice,
	attach.KindAttach: asDisk,
	attach.KindResize: asDisk,
	move.KindMove: as(func(out *tenonv1.Operation, r move.Result) {
		out.Result = &tenonv1.Operation_DiskMove{DiskMove: diskMoveOf(r)}
	}),
}

// as reads a result of type R.
func as[R any](set func(*tenonv1.Operation, R)) func(*tenonv1.Operation, json.RawMessage) error {
	return func(out *tenonv1.Operation, raw json.RawMessage) error {
		var r R
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		set(out, r)
		return nil
	}
}

var asObject = as(func(out *tenonv1.Operation, o primitives.Object) {
	if o.Kind == primitives.KindSnapshot {
		out.Result = &tenonv1.Operation_Snapshot{Snapshot: snapshotOf(o, nil)}
		return
	}
	out.Result = &tenonv1.Operation_Volume{Volume: volumeOf(o, nil)}
})

func snapshotSetOf(set snapshot.Set) *tenonv1.SnapshotSet {
	out := &tenonv1.SnapshotSet{Name: set.Name, Level: levels[set.Level], Note: set.Note, DomainId: set.Domain, FrozenDuration: during(set.Held)}
	for _, g := range set.Groups {
		group := &tenonv1.SnapshotGroup{Device: g.Device}
		for _, o := range g.Snapshots {
			group.Snapshots = append(group.Snapshots, snapshotOf(o, nil))
		}
		out.Groups = append(out.Groups, group)
	}
	return out
}

var levels = map[snapshot.Level]tenonv1.SnapshotLevel{
	snapshot.PerGroup:        tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_CRASH_CONSISTENT_PER_GROUP,
	snapshot.CrashConsistent: tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_CRASH_CONSISTENT,
	snapshot.Frozen:          tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_FROZEN,
}

var asDevice = as(func(out *tenonv1.Operation, d device.Status) {
	out.Result = &tenonv1.Operation_Device{Device: deviceOf(d, nil)}
})

var asDisk = as(func(out *tenonv1.Operation, d attach.Disk) { out.Result = &tenonv1.Operation_Disk{Disk: diskOf(d)} })
