// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"fmt"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/agent/transfer"
	"github.com/tenon-storage/tenon/agent/volume"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// snapshots serves SnapshotService.
type snapshots struct {
	tenonv1.UnimplementedSnapshotServiceServer
	starter
	service  *volume.Service
	registry *device.Registry
}

// CreateSnapshot makes snapshots.
func (s *snapshots) CreateSnapshot(ctx context.Context, r *tenonv1.CreateSnapshotRequest) (*tenonv1.CreateSnapshotResponse, error) {
	args := snapshot.CreateArgs{Name: r.GetName(), Domain: r.GetDomain(), Freeze: r.GetFreeze()}
	for i, text := range r.GetVolumeUris() {
		u, err := volumeFrom(fmt.Sprintf("volume_uris[%d]", i), text)
		if err != nil {
			return nil, err
		}
		args.URIs = append(args.URIs, u)
	}
	op, err := s.start(ctx, snapshot.KindCreate, r.GetRequestId(), args)
	return &tenonv1.CreateSnapshotResponse{Operation: op}, err
}

// ListSnapshots pages through the snapshots of a volume or device.
func (s *snapshots) ListSnapshots(ctx context.Context, r *tenonv1.ListSnapshotsRequest) (*tenonv1.ListSnapshotsResponse, error) {
	u, err := uriFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	if u.IsSnapshot() {
		return nil, primitives.Invalid("uri", "%q names a snapshot; expected DEVICE/VOLUME or DEVICE", r.GetUri())
	}
	request := primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindSnapshot}, Cursor: r.GetPageToken()}
	if u.IsVolume() {
		request.Of = u
	}
	page, err := listPage(ctx, s.service, u.Device, r.GetPageSize(), request)
	if err != nil {
		return nil, err
	}
	f := facetsOf(s.registry, u.Device)
	resp := &tenonv1.ListSnapshotsResponse{NextPageToken: page.Next}
	for _, o := range page.Objects {
		resp.Snapshots = append(resp.Snapshots, snapshotOf(o, f))
	}
	return resp, nil
}

// GetSnapshot looks one snapshot up.
func (s *snapshots) GetSnapshot(ctx context.Context, r *tenonv1.GetSnapshotRequest) (*tenonv1.GetSnapshotResponse, error) {
	u, err := snapshotFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	o, err := stat(ctx, s.service, u)
	if err != nil {
		return nil, err
	}
	return &tenonv1.GetSnapshotResponse{Snapshot: snapshotOf(o, facetsOf(s.registry, u.Device))}, nil
}

// RevertSnapshot gives a volume its snapshot's content.
func (s *snapshots) RevertSnapshot(ctx context.Context, r *tenonv1.RevertSnapshotRequest) (*tenonv1.RevertSnapshotResponse, error) {
	u, err := snapshotFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, snapshot.KindRevert, r.GetRequestId(), snapshot.RevertArgs{URI: u})
	return &tenonv1.RevertSnapshotResponse{Operation: op}, err
}

// DelinkSnapshot takes a snapshot out of the namespace.
func (s *snapshots) DelinkSnapshot(ctx context.Context, r *tenonv1.DelinkSnapshotRequest) (*tenonv1.DelinkSnapshotResponse, error) {
	u, err := snapshotFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	keep, err := durationFrom("keep", r.GetKeep())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, volume.KindDelink, r.GetRequestId(), volume.DelinkArgs{URI: u, Keep: keep})
	return &tenonv1.DelinkSnapshotResponse{Operation: op}, err
}

// DestroySnapshot releases a tombstone's data.
func (s *snapshots) DestroySnapshot(ctx context.Context, r *tenonv1.DestroySnapshotRequest) (*tenonv1.DestroySnapshotResponse, error) {
	op, err := s.destroy(ctx, r.GetRequestId(), r.GetDevice(), r.GetTombstoneId(), r.GetErase())
	return &tenonv1.DestroySnapshotResponse{Operation: op}, err
}

// transfers serves TransferService.
type transfers struct {
	tenonv1.UnimplementedTransferServiceServer
	starter
}

// Copy copies from device to device.
func (s *transfers) Copy(ctx context.Context, r *tenonv1.CopyRequest) (*tenonv1.CopyResponse, error) {
	from, err := contentFrom("source_uri", r.GetSourceUri())
	if err != nil {
		return nil, err
	}
	to, err := volumeFrom("destination_uri", r.GetDestinationUri())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, transfer.KindCopy, r.GetRequestId(), transfer.CopyArgs{From: from, To: to, Format: primitives.Format(r.GetFormat())})
	return &tenonv1.CopyResponse{Operation: op}, err
}
