// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

func TestADiskIsFoundByWhatItIsCalled(t *testing.T) {
	const vm hypervisor.DomainID = "vm"
	v, snapshot, old := primitives.URI{Device: "d", Volume: "v"}, primitives.URI{Device: "d", Volume: "v", Snapshot: "s"}, primitives.URI{Device: "d", Volume: "old"}
	domain := hypervisor.Domain{ID: vm, Name: "web01"}
	shown := []hypervisor.Disk{
		{Domain: vm, Target: "vda"}, // adopted
		{ID: "t1", Domain: vm, Target: "vdb"},
		{ID: "t2", Domain: vm, Target: "vdc"},
		{ID: "t3", Domain: vm, Target: "vdd"},
		{ID: "t4", Domain: vm, Target: "vde"}, // its record was lost
		{Domain: vm, Target: "vdf"},           // not tenon's
	}
	disk := func(domain, id string, u primitives.URI) journal.Use {
		return journal.Use{ID: "disk-" + id, Kind: journal.UseDisk, URI: u, Domain: domain, Disk: id}
	}
	uses := []journal.Use{
		{ID: "disk-t0", Kind: journal.UseDisk, URI: old, Domain: "vm", Target: "vda"},
		disk("vm", "t1", v), disk("vm", "t2", snapshot), disk("vm", "t3", snapshot),
		disk("vm", "t5", primitives.URI{Device: "d", Volume: "gone"}), // not shown any more
		disk("other", "t6", primitives.URI{Device: "d", Volume: "others"}),
		{ID: "stream-x", Kind: journal.UseStream, URI: primitives.URI{Device: "d", Volume: "streamed"}},
	}
	for sentence, c := range map[string]struct {
		name attach.DiskName
		id   hypervisor.DiskID
		use  string
		code primitives.Code
		says string
	}{
		"by ID":                               {name: "t1", id: "t1", use: "disk-t1"},
		"by target":                           {name: "vdb", id: "t1", use: "disk-t1"},
		"by URI":                              {name: "tenon://d/v", id: "t1", use: "disk-t1"},
		"by short URI":                        {name: "d/v", id: "t1", use: "disk-t1"},
		"by URI, when the disk is gone":       {name: "d/gone", id: "t5", use: "disk-t5"},
		"without a record, by ID":             {name: "t4", id: "t4"},
		"without a record, by target":         {name: "vde", id: "t4"},
		"an adopted disk, by target":          {name: "vda", code: primitives.CodeUnsupported, says: "was adopted"},
		"an adopted disk, by URI":             {name: "d/old", code: primitives.CodeUnsupported, says: "disk vda of domain web01 was adopted"},
		"a disk that is not tenon's":          {name: "vdf", code: primitives.CodeUnsupported, says: "tenon did not attach disk vdf"},
		"two disks of one snapshot":           {name: "d/v@s", code: primitives.CodeInvalid, says: "t2, t3"},
		"a volume that another domain has":    {name: "d/others", code: primitives.CodeNotFound, says: `no disk "d/others"`},
		"a volume that a client reads":        {name: "d/streamed", code: primitives.CodeNotFound},
		"a device":                            {name: "d", code: primitives.CodeNotFound},
		"what nothing is called":              {name: "vdz", code: primitives.CodeNotFound, says: `domain web01 has no disk "vdz"`},
		"what nothing could ever be called":   {name: "a b\nc", code: primitives.CodeNotFound, says: `"a b\nc"`},
		"the URI of nothing":                  {name: "tenon://d/x", code: primitives.CodeNotFound},
		"the identity behind an adopted disk": {name: "t0", code: primitives.CodeNotFound},
	} {
		t.Run(sentence, func(t *testing.T) {
			id, use, err := attach.Pick(domain, c.name, shown, uses)
			if c.code != 0 {
				if !errors.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("Pick(%q) = %v, want %v that says %q", c.name, err, c.code, c.says)
				}
				return
			}
			if err != nil || id != c.id || use.ID != c.use {
				t.Errorf("Pick(%q) = %q, %q, %v; want %q, %q", c.name, id, use.ID, err, c.id, c.use)
			}
		})
	}
}
