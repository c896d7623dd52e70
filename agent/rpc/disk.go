// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/move"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// disks serves DiskService.
type disks struct {
	tenonv1.UnimplementedDiskServiceServer
	starter
	service *attach.Service
}

// AttachDisk gives a volume to a domain.
func (s *disks) AttachDisk(ctx context.Context, r *tenonv1.AttachDiskRequest) (*tenonv1.AttachDiskResponse, error) {
	u, err := contentFrom("uri", r.GetUri())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, attach.KindAttach, r.GetRequestId(), attach.AttachArgs{
		URI: u, Domain: r.GetDomain(), ReadOnly: r.GetReadOnly(), Bus: r.GetBus(),
	})
	return &tenonv1.AttachDiskResponse{Operation: op}, err
}

// DetachDisk takes a disk from a domain.
func (s *disks) DetachDisk(ctx context.Context, r *tenonv1.DetachDiskRequest) (*tenonv1.DetachDiskResponse, error) {
	limit, err := durationFrom("timeout", r.GetTimeout())
	if err != nil {
		return nil, err
	}
	op, err := s.start(ctx, attach.KindDetach, r.GetRequestId(), attach.DetachArgs{
		Domain: r.GetDomain(), Disk: attach.DiskName(r.GetDisk()), Timeout: limit,
	})
	return &tenonv1.DetachDiskResponse{Operation: op}, err
}

// ListDisks pages through the disks of a domain.
func (s *disks) ListDisks(ctx context.Context, r *tenonv1.ListDisksRequest) (*tenonv1.ListDisksResponse, error) {
	all, err := s.service.Disks(ctx, r.GetDomain())
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(all, func(d attach.Disk) string { return d.Target }, asListed(all), r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	resp := &tenonv1.ListDisksResponse{NextPageToken: next}
	for _, d := range page {
		resp.Disks = append(resp.Disks, diskOf(d))
	}
	return resp, nil
}

// asListed orders targets as the hypervisor lists them: vdz comes before vdaa.
func asListed(all []attach.Disk) func(a, b string) bool {
	place := make(map[string]int, len(all))
	for i, d := range all {
		place[d.Target] = i
	}
	return func(a, b string) bool { return place[a] < place[b] }
}

// ResizeDisk grows a disk.
func (s *disks) ResizeDisk(ctx context.Context, r *tenonv1.ResizeDiskRequest) (*tenonv1.ResizeDiskResponse, error) {
	op, err := s.start(ctx, attach.KindResize, r.GetRequestId(), attach.ResizeArgs{
		Domain: r.GetDomain(), Disk: attach.DiskName(r.GetDisk()), Size: r.GetSizeBytes(),
	})
	return &tenonv1.ResizeDiskResponse{Operation: op}, err
}

// MoveDisk takes disks to other volumes.
func (s *disks) MoveDisk(ctx context.Context, r *tenonv1.MoveDiskRequest) (*tenonv1.MoveDiskResponse, error) {
	to, err := uriFrom("to", r.GetTo())
	if err != nil {
		return nil, err
	}
	keep, err := durationFrom("keep", r.GetKeep())
	if err != nil {
		return nil, err
	}
	args := move.Args{Domain: r.GetDomain(), Disk: attach.DiskName(r.GetDisk()), To: to, Bandwidth: r.GetBandwidthBytes(), Keep: keep}
	for _, d := range r.GetAlso() {
		to, err := uriFrom("also.to", d.GetTo())
		if err != nil {
			return nil, err
		}
		args.Also = append(args.Also, move.Pair{Disk: attach.DiskName(d.GetDisk()), To: to})
	}
	op, err := s.start(ctx, move.KindMove, r.GetRequestId(), args)
	return &tenonv1.MoveDiskResponse{Operation: op}, err
}

// diskMoveOf returns what became of moved disks as the API tells it.
func diskMoveOf(r move.Result) *tenonv1.DiskMove {
	out := &tenonv1.DiskMove{Domain: r.Domain}
	for _, m := range r.Disks {
		one := &tenonv1.MovedDisk{
			Disk: diskOf(m.Disk), From: shownURI(m.From), To: shownURI(m.To), Moved: m.Moved, CopiedBytes: m.Bytes,
			Note: m.Note, Failure: m.Failure,
		}
		if m.Tombstone != nil {
			one.Tombstone = tombstoneOf(*m.Tombstone, nil)
		}
		out.Disks = append(out.Disks, one)
	}
	return out
}
