// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/volume"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// volumes serves VolumeService.
type volumes struct {
	tenonv1.UnimplementedVolumeServiceServer
	starter
	service  *volume.Service
	registry *device.Registry
}

// ListVolumes pages through the volumes of a device.
func (s *volumes) ListVolumes(ctx context.Context, r *tenonv1.ListVolumesRequest) (*tenonv1.ListVolumesResponse, error) {
	page, err := listPage(ctx, s.service, r.GetDevice(), r.GetPageSize(), primitives.ListRequest{
		Kinds: []primitives.Kind{primitives.KindVolume}, Prefix: r.GetPrefix(), Cursor: r.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	f := facetsOf(s.registry, r.GetDevice())
	resp := &tenonv1.ListVolumesResponse{NextPageToken: page.Next}
	for _, o := range page.Objects {
		resp.Volumes = append(resp.Volumes, volumeOf(o, f))
	}
	return resp, nil
}

// listPage asks for one page of a device's objects.
func listPage(ctx context.Context, s *volume.Service, name string, size int32, r primitives.ListRequest) (primitives.Page, error) {
	limit, err := pageSize(size)
	if err != nil {
		return primitives.Page{}, err
	}
	if err := primitives.CheckDeviceName(name); err != nil {
		return primitives.Page{}, err
	}
	d, err := s.Device(ctx, primitives.URI{Device: name})
	if err != nil {
		return primitives.Page{}, err
	}
	r.Limit = limit
	return d.List(ctx, r)
}

// stat looks one object up.
func stat(ctx context.Context, s *volume.Service, u primitives.URI) (primitives.Object, error) {
	d, err := s.Device(ctx, u)
	if err != nil {
		return primitives.Object{}, err
	}
	return d.Stat(ctx, u, primitives.Op{})
}

// GetVolume looks one volume up.
func (s *volumes) GetVolume(ctx context.Context, r *tenonv1.GetVolumeRequest) (*tenonv1.GetVolumeResponse, error) {
	u, err := volumeFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	o, err := stat(ctx, s.service, u)
	if err != nil {
		return nil, err
	}
	return &tenonv1.GetVolumeResponse{Volume: volumeOf(o, facetsOf(s.registry, u.Device))}, nil
}

// CreateVolume makes a volume.
func (s *volumes) CreateVolume(ctx context.Context, r *tenonv1.CreateVolumeRequest) (*tenonv1.CreateVolumeResponse, error) {
	u, err := volumeFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, volume.KindCreate, r.GetRequestId(), volume.CreateArgs{
		URI: u, Size: r.GetSizeBytes(), Format: primitives.Format(r.GetFormat()), Props: r.GetProperties(),
	})
	return &tenonv1.CreateVolumeResponse{Operation: op}, err
}

// ImportVolume adopts an image.
func (s *volumes) ImportVolume(ctx context.Context, r *tenonv1.ImportVolumeRequest) (*tenonv1.ImportVolumeResponse, error) {
	u, err := volumeFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, volume.KindImport, r.GetRequestId(), volume.ImportArgs{
		URI: u, Path: r.GetPath(), Format: primitives.Format(r.GetFormat()),
	})
	return &tenonv1.ImportVolumeResponse{Operation: op}, err
}

// ResizeVolume sets a volume's size.
func (s *volumes) ResizeVolume(ctx context.Context, r *tenonv1.ResizeVolumeRequest) (*tenonv1.ResizeVolumeResponse, error) {
	u, err := volumeFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, volume.KindResize, r.GetRequestId(), volume.ResizeArgs{URI: u, Size: r.GetSizeBytes()})
	return &tenonv1.ResizeVolumeResponse{Operation: op}, err
}

// CloneVolume clones.
func (s *volumes) CloneVolume(ctx context.Context, r *tenonv1.CloneVolumeRequest) (*tenonv1.CloneVolumeResponse, error) {
	from, err := contentFrom("source_uri", r.GetSourceUri())
	if err != nil {
		return nil, err
	}
	to, err := volumeFrom("destination_uri", r.GetDestinationUri())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, volume.KindClone, r.GetRequestId(), volume.CloneArgs{
		From: from, To: to, Size: r.GetSizeBytes(), Full: r.GetFull(), Props: r.GetProperties(),
	})
	return &tenonv1.CloneVolumeResponse{Operation: op}, err
}

// DelinkVolume takes a volume out of the namespace.
func (s *volumes) DelinkVolume(ctx context.Context, r *tenonv1.DelinkVolumeRequest) (*tenonv1.DelinkVolumeResponse, error) {
	u, err := volumeFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	keep, err := durationFrom("keep", r.GetKeep())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, volume.KindDelink, r.GetRequestId(), volume.DelinkArgs{URI: u, Keep: keep})
	return &tenonv1.DelinkVolumeResponse{Operation: op}, err
}

// ListTombstones pages through what was delinked.
func (s *volumes) ListTombstones(ctx context.Context, r *tenonv1.ListTombstonesRequest) (*tenonv1.ListTombstonesResponse, error) {
	page, err := listPage(ctx, s.service, r.GetDevice(), r.GetPageSize(), primitives.ListRequest{
		Kinds: []primitives.Kind{primitives.KindTombstone}, Cursor: r.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	resp := &tenonv1.ListTombstonesResponse{NextPageToken: page.Next}
	for _, o := range page.Objects {
		if o.Tombstone != nil {
			resp.Tombstones = append(resp.Tombstones, tombstoneOf(*o.Tombstone, &o))
		}
	}
	return resp, nil
}

// RelinkVolume brings a tombstone back.
func (s *volumes) RelinkVolume(ctx context.Context, r *tenonv1.RelinkVolumeRequest) (*tenonv1.RelinkVolumeResponse, error) {
	args := volume.RelinkArgs{Device: r.GetDevice(), Tombstone: r.GetTombstoneId()}
	if r.GetUri() != "" {
		var err error
		if args.As, err = contentFrom("uri", r.GetUri()); err != nil {
			return nil, err
		}
	}
	op, err := s.start(ctx, volume.KindRelink, r.GetRequestId(), args)
	return &tenonv1.RelinkVolumeResponse{Operation: op}, err
}

// DestroyVolume releases a tombstone's data.
func (s *volumes) DestroyVolume(ctx context.Context, r *tenonv1.DestroyVolumeRequest) (*tenonv1.DestroyVolumeResponse, error) {
	op, err := s.destroy(ctx, r.GetRequestId(), r.GetDevice(), r.GetTombstoneId(), r.GetErase())
	return &tenonv1.DestroyVolumeResponse{Operation: op}, err
}

// destroy is the same for what was a volume and what was a snapshot.
func (s starter) destroy(ctx context.Context, requestID, device, tombstone string, erase tenonv1.Erase) (*tenonv1.Operation, error) {
	way, err := eraseFrom(erase)
	if err != nil {
		return nil, err
	}
	return s.start(ctx, volume.KindDestroy, requestID, volume.DestroyArgs{Device: device, Tombstone: tombstone, Erase: way})
}
