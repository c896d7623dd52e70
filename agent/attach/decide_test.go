// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

func TestDecide(t *testing.T) {
	const vm hypervisor.DomainID = "vm"
	u := primitives.URI{Device: "d", Volume: "v"}
	use := journal.Use{ID: "disk-t1", Kind: journal.UseDisk, URI: u, Access: primitives.ReadWrite, Domain: "vm", Disk: "t1"}
	adopted := journal.Use{ID: "disk-t2", Kind: journal.UseDisk, URI: u, Access: primitives.ReadWrite, Domain: "vm", Target: "vda"}
	disk := hypervisor.Disk{ID: "t1", Domain: vm, Target: "vdb", Live: true}
	foreign := hypervisor.Disk{Domain: vm, Target: "vda", Live: true}
	mapping := primitives.Mapping{ID: "m", URI: u, Consumer: "disk-t1", Access: primitives.ReadWrite, Active: true}
	idle := mapping
	idle.Active = false
	mappings := func(m ...primitives.Mapping) map[string][]primitives.Mapping {
		return map[string][]primitives.Mapping{"d": m}
	}
	disks := func(d ...hypervisor.Disk) map[hypervisor.DomainID][]hypervisor.Disk {
		return map[hypervisor.DomainID][]hypervisor.Disk{vm: d}
	}
	known := map[string]bool{"disk-t1": true, "disk-t2": true}

	cases := map[string]struct {
		o    attach.Observed
		want []attach.Deed
	}{
		"everything is as recorded": {
			attach.Observed{Uses: []journal.Use{use}, Known: known, Domains: disks(disk, foreign), Complete: true, Mappings: mappings(mapping)}, nil,
		},
		"the disk is gone": {
			attach.Observed{Uses: []journal.Use{use}, Known: known, Domains: disks(foreign), Complete: true, Mappings: mappings(mapping)},
			[]attach.Deed{{What: attach.Forget, Use: use}},
		},
		"the domain is gone": {
			attach.Observed{Uses: []journal.Use{use}, Known: known, Domains: disks(), Complete: true, Mappings: mappings()},
			[]attach.Deed{{What: attach.Forget, Use: use}},
		},
		"the domain does not answer": {
			attach.Observed{Uses: []journal.Use{use}, Known: known, Domains: map[hypervisor.DomainID][]hypervisor.Disk{}, Mappings: mappings(mapping)}, nil,
		},
		"the device does not answer": {
			attach.Observed{Uses: []journal.Use{use}, Known: known, Domains: disks(), Complete: true}, nil,
		},
		"the host booted anew": {
			attach.Observed{Uses: []journal.Use{use}, Known: known, Domains: disks(disk), Complete: true, Mappings: mappings()},
			[]attach.Deed{{What: attach.Restore, Use: use}},
		},
		"the mapping is there and not active": {
			attach.Observed{Uses: []journal.Use{use}, Known: known, Domains: disks(disk), Complete: true, Mappings: mappings(idle)},
			[]attach.Deed{{What: attach.Restore, Use: use}},
		},
		"an operation holds the use": {
			attach.Observed{Known: known, Domains: disks(), Complete: true, Mappings: mappings(mapping)}, nil,
		},
		"a mapping serves nobody": {
			attach.Observed{Domains: disks(foreign), Complete: true, Mappings: mappings(mapping)},
			[]attach.Deed{{What: attach.Drop, Device: "d", Mapping: mapping}},
		},
		"a mapping serves nobody that was seen, but not all was seen": {
			attach.Observed{Domains: disks(foreign), Mappings: mappings(mapping)}, nil,
		},
		"the journal lost a use": {
			attach.Observed{Domains: disks(disk), Complete: true, Mappings: mappings(mapping)},
			[]attach.Deed{{What: attach.Record, Use: journal.Use{ID: "disk-t1", Kind: journal.UseDisk, URI: u, Access: primitives.ReadWrite, Domain: "vm", Disk: "t1"}}},
		},
		"somebody else's mapping": {
			attach.Observed{Domains: disks(), Complete: true, Mappings: mappings(primitives.Mapping{ID: "x", Consumer: "export-7"})}, nil,
		},
		"an adopted disk is there": {
			attach.Observed{
				Uses: []journal.Use{adopted}, Known: known, Domains: disks(foreign), Complete: true,
				Mappings: mappings(primitives.Mapping{ID: "m2", Consumer: "disk-t2", Active: true}),
			}, nil,
		},
		"an adopted disk's target shows another image": {
			attach.Observed{
				Uses: []journal.Use{adopted}, Known: known, Domains: disks(foreign), Complete: true,
				Mappings:  mappings(primitives.Mapping{ID: "m2", Consumer: "disk-t2", Active: true}),
				Elsewhere: map[string]bool{"disk-t2": true},
			},
			[]attach.Deed{{What: attach.Forget, Use: adopted}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, attach.Decide(c.o)); d != "" {
				t.Errorf("decide (-want +got):\n%s", d)
			}
		})
	}
}
