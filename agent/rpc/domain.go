// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"

	"github.com/tenon-storage/tenon/agent/attach"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/hypervisor"
)

// domains serves DomainService.
type domains struct {
	tenonv1.UnimplementedDomainServiceServer
	service *attach.Service
}

// ListDomains pages through the domains.
func (s *domains) ListDomains(ctx context.Context, r *tenonv1.ListDomainsRequest) (*tenonv1.ListDomainsResponse, error) {
	all, err := s.service.Domains(ctx)
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(all, func(d hypervisor.Domain) string { return d.Name }, ascending, r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	adapter := s.service.Info(ctx).Name
	resp := &tenonv1.ListDomainsResponse{NextPageToken: next}
	for _, d := range page {
		resp.Domains = append(resp.Domains, domainOf(d, adapter))
	}
	return resp, nil
}

// GetDomain looks one domain up.
func (s *domains) GetDomain(ctx context.Context, r *tenonv1.GetDomainRequest) (*tenonv1.GetDomainResponse, error) {
	d, err := s.service.Domain(ctx, r.GetDomain())
	if err != nil {
		return nil, err
	}
	return &tenonv1.GetDomainResponse{Domain: domainOf(d, s.service.Info(ctx).Name)}, nil
}

// domainOf returns a domain as the API tells it.
func domainOf(d hypervisor.Domain, adapter string) *tenonv1.Domain {
	return &tenonv1.Domain{
		Id: string(d.ID), Name: d.Name, State: tenonv1.DomainState(d.State), Reason: d.Reason, Persistent: d.Persistent, Adapter: adapter,
		Capabilities: &tenonv1.DomainCapabilities{
			AttachLive: d.Caps.AttachLive, DetachLive: d.Caps.DetachLive, ResizeLive: d.Caps.ResizeLive, Freeze: d.Caps.Freeze,
			Switch: d.Caps.Switch, Snapshot: d.Caps.Snapshot, FreeSlots: int32(d.Caps.FreeSlots), Accepts: accepts(d.Caps.Accepts),
		},
	}
}

// hypervisorOf returns an adapter as the API tells it.
func hypervisorOf(i hypervisor.Info) *tenonv1.Hypervisor {
	return &tenonv1.Hypervisor{
		Name: i.Name, Hypervisor: i.Hypervisor, Library: i.Library, Connected: i.Connected, Note: i.Note, Accepts: accepts(i.Accepts),
	}
}

// diskOf returns a disk as the API tells it.
func diskOf(d attach.Disk) *tenonv1.Disk {
	return &tenonv1.Disk{
		Id: string(d.ID), Domain: d.DomainName, DomainId: string(d.Domain), Uri: shownURI(d.URI), Target: d.Target, Serial: d.Serial,
		Bus: d.Bus, Access: accessOf(d.Access), Live: d.Live, Config: d.Config, Detaching: d.Detaching, Source: sourceOf(d.Source),
		Job: d.Job, SizeBytes: d.Size, ConfigNote: d.ConfigNote,
	}
}

func sourceOf(s hypervisor.Source) *tenonv1.DiskSource {
	out := &tenonv1.DiskSource{Form: s.Form.String(), Path: s.Path, Format: string(s.Format), BackingPaths: s.Chain}
	if n := s.Network; n != nil {
		out.Protocol, out.Export, out.Hosts, out.Socket = n.Protocol, n.Export, n.Hosts, n.Socket
	}
	return out
}
