// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Domains lists domains.
func Domains(domains []*tenonv1.Domain) string {
	t := table{header: []string{"DOMAIN", "STATE", "HYPERVISOR", "AGENT", "ID"}}
	for _, d := range domains {
		t.add(d.GetName(), domainState(d), d.GetAdapter(), yes(d.GetCapabilities().GetFreeze()), d.GetId())
	}
	return t.String()
}

func domainState(d *tenonv1.Domain) string {
	if d.GetReason() == "" {
		return word(d.GetState())
	}
	return word(d.GetState()) + " (" + d.GetReason() + ")"
}

// Domain shows one domain and its disks.
func Domain(d *tenonv1.Domain, disks []*tenonv1.Disk) string {
	c := d.GetCapabilities()
	var can []string
	for _, each := range []struct {
		is   bool
		what string
	}{
		{c.GetAttachLive(), "attach"},
		{c.GetDetachLive(), "detach"},
		{c.GetResizeLive(), "resize"},
		{c.GetFreeze(), "freeze"},
		{c.GetSwitch(), "switch"},
		{c.GetSnapshot(), "hypervisor snapshot"},
	} {
		if each.is {
			can = append(can, each.what)
		}
	}
	var sh sheet
	sh.add("domain", d.GetName())
	sh.add("id", d.GetId())
	sh.add("state", domainState(d))
	sh.add("persistent", yes(d.GetPersistent()))
	sh.add("hypervisor", d.GetAdapter())
	sh.add("can", or(strings.Join(can, ", ")))
	if c.GetFreeSlots() >= 0 {
		sh.add("free slots", fmt.Sprint(c.GetFreeSlots()))
	}
	sh.addIf("accepts", strings.Join(c.GetAccepts(), ", "))
	if len(disks) == 0 {
		return sh.String()
	}
	return sh.String() + "\n" + Disks(disks)
}

// Disks lists disks.
func Disks(disks []*tenonv1.Disk) string {
	t := table{header: []string{"DISK", "TARGET", "VOLUME", ">SIZE", "BUS", "ACCESS", "WHERE", "SOURCE"}}
	for _, d := range disks {
		size := absent
		if d.GetSizeBytes() > 0 {
			size = Size(d.GetSizeBytes())
		}
		t.add(or(d.GetId()), or(d.GetTarget()), or(Short(d.GetUri())), size, or(d.GetBus()), access(d), where(d), source(d.GetSource()))
	}
	return t.String()
}

// Disk shows one disk.
func Disk(d *tenonv1.Disk) string {
	var sh sheet
	sh.add("disk", or(d.GetId()))
	sh.add("domain", d.GetDomain())
	sh.add("target", or(d.GetTarget()))
	sh.add("volume", or(Short(d.GetUri())))
	if d.GetSizeBytes() > 0 {
		sh.add("size", ExactSize(d.GetSizeBytes()))
	}
	sh.add("bus", or(d.GetBus()))
	sh.add("access", access(d))
	sh.add("where", where(d))
	sh.add("source", source(d.GetSource()))
	sh.addList("backing", d.GetSource().GetBackingPaths())
	sh.addIf("job", d.GetJob())
	sh.addIf("note", oneLine(d.GetConfigNote()))
	return sh.String()
}

// where says which halves of the domain have the disk.
func where(d *tenonv1.Disk) string {
	text := absent
	switch {
	case d.GetLive() && d.GetConfig():
		text = "live+config"
	case d.GetLive():
		text = "live"
	case d.GetConfig():
		text = "config"
	}
	if d.GetDetaching() {
		text += ", detaching"
	}
	return text
}

func source(s *tenonv1.DiskSource) string {
	switch {
	case s == nil:
		return absent
	case s.GetProtocol() != "":
		at := s.GetSocket()
		if at == "" {
			at = strings.Join(s.GetHosts(), ",")
		}
		return s.GetProtocol() + ":" + at + "/" + s.GetExport()
	case s.GetFormat() != "":
		return s.GetPath() + " (" + s.GetFormat() + ")"
	}
	return or(s.GetPath())
}

func access(d *tenonv1.Disk) string { return strings.ReplaceAll(word(d.GetAccess()), " ", "-") }
