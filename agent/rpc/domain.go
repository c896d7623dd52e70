// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"github.com/tenon-storage/tenon/agent/attach"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/hypervisor"
)

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
