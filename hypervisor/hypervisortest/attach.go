// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

const nobody hypervisor.DomainID = "00000000-1111-4222-8333-444444444444"

var basics = []check{
	{"InfoNamesWhatIsBehind", func(s *suite) {
		got := s.a.Info(s.ctx)
		if got.Name == "" || got.Hypervisor == "" || got.Library == "" || !got.Connected || len(got.Accepts) == 0 {
			s.Errorf("Info = %+v, want every name, a connection and what is accepted", got)
		}
	}},
	{"EveryAdapterAcceptsNBD", func(s *suite) {
		nbd := primitives.Acceptable{Form: primitives.FormNetwork, Protocol: "nbd"}
		if got := s.a.Info(s.ctx).Accepts; !slices.Contains(got, nbd) {
			s.Errorf("Accepts = %v, want %v among them", got, nbd)
		}
	}},
	{"DomainsAreListedInOrderOfName", func(s *suite) {
		all, err := s.a.Domains(s.ctx)
		if err != nil || !slices.IsSortedFunc(all, func(a, b hypervisor.Domain) int { return strings.Compare(a.Name, b.Name) }) {
			s.Errorf("Domains = %v, %v; want them in order", all, err)
		}
		if on := s.domain(s.h.Domain); on.State != hypervisor.StateRunning || !on.Persistent || !on.Caps.AttachLive {
			s.Errorf("the running domain is listed as %+v", on)
		}
		if off := s.domain(s.h.Off); off.State != hypervisor.StateOff || off.Caps.AttachLive || off.Caps.DetachLive || off.Caps.Freeze {
			s.Errorf("the domain that is off is listed as %+v", off)
		}
	}},
	{"OneDomainIsFoundAsItIsListed", func(s *suite) {
		for _, id := range []hypervisor.DomainID{s.h.Domain, s.h.Off} {
			want := s.domain(id)
			for _, name := range []string{want.Name, string(id), strings.ToUpper(string(id))} {
				got, err := s.a.Domain(s.ctx, name)
				if d := cmp.Diff(want, got); err != nil || d != "" {
					s.Errorf("Domain(%q) = %v; it differs from the listing (-listed +found):\n%s", name, err, d)
				}
			}
		}
		for _, name := range []string{"no-domain-of-this-name", string(nobody)} {
			_, err := s.a.Domain(s.ctx, name)
			s.code("Domain("+name+")", err, primitives.CodeNotFound)
		}
		_, err := s.a.Domain(s.ctx, "")
		s.code("Domain of no name", err, primitives.CodeInvalid)
	}},
	{"UnknownDomainIsNotFound", func(s *suite) {
		_, err := s.a.Disks(s.ctx, nobody)
		s.code("Disks", err, primitives.CodeNotFound)
		_, err = s.a.Attach(s.ctx, request(nobody, s.id(), s.file()))
		s.code("Attach", err, primitives.CodeNotFound)
		_, err = s.a.Detach(s.ctx, nobody, s.id())
		s.code("Detach", err, primitives.CodeNotFound)
		_, err = s.a.Disks(s.ctx, "no domain's ID")
		s.code("Disks of what is no ID", err, primitives.CodeNotFound, primitives.CodeInvalid)
	}},
}

var attaching = []check{
	{"AttachHoldsToTheNameThatWasAskedFor", func(s *suite) {
		r := request(s.h.Domain, s.id(), s.file())
		r.Name = s.domain(s.h.Off).Name
		res, err := s.a.Attach(s.ctx, r)
		s.code("Attach by another domain's name", err, primitives.CodeConflict)
		if res.Live != hypervisor.NotAsked || res.Config != hypervisor.NotAsked {
			s.Errorf("Attach by another domain's name = live %v, config %v; want that nothing was tried", res.Live, res.Config)
		}
		r.Name = "no-domain-of-this-name"
		_, err = s.a.Attach(s.ctx, r)
		s.code("Attach by nobody's name", err, primitives.CodeNotFound)
		s.want(r.Domain, r.Disk, false, false)
		r.Name = s.domain(s.h.Domain).Name
		s.attach(r)
		s.want(r.Domain, r.Disk, true, true)
	}},
	{"AttachGivesTheGuestTheDisk", func(s *suite) {
		for _, storage := range s.h.Storages {
			s.sub(storage.Name, func(s *suite) { s.roundTrip(storage.New(s.T, size), "") })
		}
		for _, bus := range s.h.Buses {
			s.sub("bus "+bus, func(s *suite) { s.roundTrip(s.file(), bus) })
		}
	}},
	{"AttachAgainIsSuccess", func(s *suite) {
		r := request(s.h.Domain, s.id(), s.file())
		first, again := s.attach(r), s.attach(r)
		if again.Live != hypervisor.Already || again.Config != hypervisor.Already || again.Disk.Target != first.Disk.Target {
			s.Errorf("Attach again = %+v, want already there as %s", again, first.Disk.Target)
		}
	}},
	{"TheSameIDWithAnotherMappingIsConflict", func(s *suite) { // E100
		id, m := s.id(), s.file()
		s.attach(request(s.h.Domain, id, m))
		_, err := s.a.Attach(s.ctx, request(s.h.Domain, id, s.file()))
		s.code("Attach", err, primitives.CodeConflict)
		other := m
		other.Access = primitives.ReadOnly
		_, err = s.a.Attach(s.ctx, request(s.h.Domain, id, other))
		s.code("Attach read-only", err, primitives.CodeConflict)
		s.shows(s.h.Domain, id, m)
	}},
	{"EachHalfCanBeAskedForAlone", func(s *suite) { // E99
		live, config := request(s.h.Domain, s.id(), s.file()), request(s.h.Domain, s.id(), s.file())
		live.Where, config.Where = hypervisor.LiveOnly, hypervisor.ConfigOnly
		if got := s.attach(live); got.Live != hypervisor.Done || got.Config != hypervisor.NotAsked {
			s.Errorf("Attach live only = %+v", got)
		}
		s.want(s.h.Domain, live.Disk, true, false)
		if got := s.attach(config); got.Live != hypervisor.NotAsked || got.Config != hypervisor.Done {
			s.Errorf("Attach to the definition only = %+v", got)
		}
		s.want(s.h.Domain, config.Disk, false, true)
	}},
	{"AttachCompletesTheOtherHalf", func(s *suite) { // E99
		for _, first := range []hypervisor.Where{hypervisor.LiveOnly, hypervisor.ConfigOnly} {
			r := request(s.h.Domain, s.id(), s.file())
			r.Where = first
			target := s.attach(r).Disk.Target
			r.Where = hypervisor.Auto
			if got := s.attach(r); got.Disk.Target != target || got.Live == got.Config {
				s.Errorf("Attach of the other half = %+v, want one already and one done as %s", got, target)
			}
			s.want(s.h.Domain, r.Disk, true, true)
		}
	}},
	{"AnOffDomainTakesTheDiskInItsDefinition", func(s *suite) {
		r := request(s.h.Off, s.id(), s.file())
		if got := s.attach(r); got.Live != hypervisor.NotAsked || got.Config != hypervisor.Done {
			s.Errorf("Attach = %+v, want config done", got)
		}
		s.want(s.h.Off, r.Disk, false, true)
		r.Where, r.Disk = hypervisor.LiveOnly, s.id()
		_, err := s.a.Attach(s.ctx, r)
		s.code("Attach live only", err, primitives.CodeUnsupported)
	}},
	{"BadRequestsAreInvalidAndChangeNothing", badRequests},
	{"WhatTheAdapterDoesNotAcceptIsUnsupported", func(s *suite) {
		m := primitives.Mapping{
			Form: primitives.FormNetwork, Access: primitives.ReadWrite,
			Network: &primitives.NetworkMap{Protocol: "carrier-pigeon", Export: "x", Hosts: []string{"localhost:1"}},
		}
		_, err := s.a.Attach(s.ctx, request(s.h.Domain, s.id(), m))
		s.code("Attach", err, primitives.CodeUnsupported)
	}},
	{"AMissingImageLeavesNothing", func(s *suite) {
		r := request(s.h.Domain, s.id(), primitives.Mapping{
			Form: primitives.FormFile, Access: primitives.ReadWrite,
			File: &primitives.FileMap{Path: "/nowhere/at/all.img", Format: primitives.FormatRaw},
		})
		if _, err := s.a.Attach(s.ctx, r); err == nil {
			s.Errorf("Attach of a missing image = nil, want an error")
		}
		s.want(s.h.Domain, r.Disk, false, false)
	}},
	{"AnImageInUseIsRefused", func(s *suite) {
		m := s.file()
		s.attach(request(s.h.Domain, s.id(), m))
		second := request(s.h.Domain, s.id(), m)
		_, err := s.a.Attach(s.ctx, second)
		s.code("Attach of the same image as another disk", err, primitives.CodeInUse)
		s.want(s.h.Domain, second.Disk, false, false)
	}},
	{"AReadOnlyDiskCannotBeWritten", func(s *suite) {
		m := s.file()
		m.Access = primitives.ReadOnly
		r := request(s.h.Domain, s.id(), m)
		if got := s.attach(r).Disk.Access; got != primitives.ReadOnly {
			s.Errorf("Access = %v, want read-only", got)
		}
		if s.h.Guest == nil {
			s.lack(NoGuest)
		}
		dev := s.device(s.h.Domain, r.Disk)
		if out, err := s.h.Guest.Run(s.ctx, "echo x | dd of="+dev+" conv=fsync,notrunc"); err == nil {
			s.Errorf("the guest wrote to a read-only disk: %s", out)
		}
	}},
	{"OddNamesArriveAsTheyAre", func(s *suite) { // E126
		if s.h.NamedFile == nil {
			s.lack(NoNames)
		}
		for _, name := range []string{"Upper Case, comma", "späce→ディスク 💾", `quote"'<&>\`, "colon:semi;equal=%41%%s", "line\nbreak\ttab", "json:{}"} {
			s.sub(fmt.Sprintf("%q", name), func(s *suite) {
				m := s.h.NamedFile(s.T, name, size)
				r := request(s.h.Domain, s.id(), m)
				s.attach(r)
				s.shows(s.h.Domain, r.Disk, m)
				if s.h.Guest != nil {
					s.run("head -c 512 %s >/dev/null", s.device(s.h.Domain, r.Disk))
				}
			})
		}
	}},
	{"DisksAttachedAtOnceGetTargetsOfTheirOwn", func(s *suite) {
		var wg sync.WaitGroup
		results := make([]hypervisor.AttachResult, 3)
		for i := range results {
			r := request(s.h.Domain, s.id(), s.file())
			s.Cleanup(func() { s.clear(r.Domain, r.Disk) })
			wg.Go(func() {
				var err error
				if results[i], err = s.a.Attach(s.ctx, r); err != nil {
					s.Errorf("Attach = %v", err)
				}
			})
		}
		wg.Wait()
		targets := map[string]bool{}
		for _, r := range results {
			targets[r.Disk.Target] = true
		}
		if len(targets) != len(results) {
			s.Errorf("targets = %v, want %d different ones", targets, len(results))
		}
	}},
	{"AnotherAdapterShowsTheDisk", func(s *suite) { // what a restarted agent finds
		m := s.file()
		r := request(s.h.Domain, s.id(), m)
		want := s.attach(r).Disk
		other := *s
		other.a = s.h.Open(s.T)
		defer other.a.Close()
		got, _ := other.disk(s.h.Domain, r.Disk)
		if got.Target != want.Target || got.Serial != string(r.Disk) || !got.Source.Shows(m) {
			s.Errorf("another adapter shows %+v, want %+v", got, want)
		}
	}},
	{"NoFreeSlotIsNoSpace", func(s *suite) { // C3.12
		free := s.domain(s.h.Domain).Caps.FreeSlots
		if free < 0 {
			s.lack(NoSlots)
		}
		for range free {
			r := request(s.h.Domain, s.id(), s.file())
			r.Where = hypervisor.LiveOnly
			s.attach(r)
		}
		r := request(s.h.Domain, s.id(), s.file())
		_, err := s.a.Attach(s.ctx, r)
		s.code("Attach without a free slot", err, primitives.CodeNoSpace)
		s.want(s.h.Domain, r.Disk, false, false)
	}},
}

// roundTrip attaches, lets the guest write, detaches, attaches again and lets the
// guest read.
func (s *suite) roundTrip(m primitives.Mapping, bus string) {
	r := request(s.h.Domain, s.id(), m)
	r.Bus = bus
	res := s.attach(r)
	if res.Live != hypervisor.Done || res.Config != hypervisor.Done {
		s.Errorf("Attach = live %v, config %v; want both done", res.Live, res.Config)
	}
	d := res.Disk
	if d.ID != r.Disk || d.Domain != r.Domain || d.Serial != string(r.Disk) || d.Target == "" || d.Bus == "" || d.Access != m.Access || !d.Live || !d.Config || d.Detaching {
		s.Errorf("Attach shows %+v", d)
	}
	if bus != "" && d.Bus != bus {
		s.Errorf("the disk is on bus %s, want %s", d.Bus, bus)
	}
	s.shows(r.Domain, r.Disk, m)
	var sum string
	if s.h.Guest != nil {
		sum = s.write(s.device(r.Domain, r.Disk), 7)
	}
	s.detach(r.Domain, r.Disk, hypervisor.DetachResult{Live: hypervisor.Done, Config: hypervisor.Done})
	s.want(r.Domain, r.Disk, false, false)
	if s.h.Guest == nil {
		return
	}
	if err := s.h.Guest.Gone(s.ctx, d); err != nil {
		s.Errorf("after Detach, in the guest: %v", err)
	}
	s.attach(r)
	if got := s.sum(s.device(r.Domain, r.Disk)); got != sum {
		s.Errorf("the guest reads %s after attaching again, want %s", got, sum)
	}
}

func badRequests(s *suite) {
	good := request(s.h.Domain, s.id(), s.file())
	file := func(f primitives.FileMap) primitives.Mapping {
		return primitives.Mapping{Form: primitives.FormFile, Access: primitives.ReadWrite, File: &f}
	}
	for name, spoil := range map[string]func(*hypervisor.AttachRequest){
		"no disk ID":              func(r *hypervisor.AttachRequest) { r.Disk = "" },
		"a disk ID too long":      func(r *hypervisor.AttachRequest) { r.Disk = "123456789012345678901" },
		"a disk ID in upper case": func(r *hypervisor.AttachRequest) { r.Disk = "UPPER" },
		"an unknown bus":          func(r *hypervisor.AttachRequest) { r.Bus = "warp" },
		"no mapping":              func(r *hypervisor.AttachRequest) { r.Mapping = primitives.Mapping{} },
		"no access":               func(r *hypervisor.AttachRequest) { r.Mapping.Access = 0 },
		"a form without its part": func(r *hypervisor.AttachRequest) {
			r.Mapping = primitives.Mapping{Form: primitives.FormBlock, Access: 2}
		},
		"a relative path": func(r *hypervisor.AttachRequest) { r.Mapping = file(primitives.FileMap{Path: "x.img", Format: "raw"}) },
		"no format":       func(r *hypervisor.AttachRequest) { r.Mapping = file(primitives.FileMap{Path: "/x.img"}) },
		"a path that is no text": func(r *hypervisor.AttachRequest) {
			r.Mapping = file(primitives.FileMap{Path: "/\xff.img", Format: "raw"})
		},
		"a backing file without format": func(r *hypervisor.AttachRequest) {
			r.Mapping = file(primitives.FileMap{Path: "/x.img", Format: "qcow2", Backing: []primitives.FileMap{{Path: "/y.img"}}})
		},
	} {
		s.sub(name, func(s *suite) {
			r := good
			spoil(&r)
			_, err := s.a.Attach(s.ctx, r)
			s.code("Attach", err, primitives.CodeInvalid)
		})
	}
	s.want(s.h.Domain, good.Disk, false, false)
}
