// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// observed is what was seen in one look at the journal, the hypervisor and the
// devices. What could not be seen is absent, which is not the same as empty.
type observed struct {
	// Uses are the disks' uses that no operation holds and that were there both
	// before and after everything else was looked at.
	Uses []journal.Use
	// Known are all recorded uses, by ID, read last.
	Known map[string]bool
	// Domains says, for each domain whose disks were read, what they are. A
	// domain that does not exist any more is there without disks.
	Domains map[hypervisor.DomainID][]hypervisor.Disk
	// Complete says that the disks of every domain were read.
	Complete bool
	// Mappings are those of each device that answered, by name.
	Mappings map[string][]primitives.Mapping
	// Closed says which devices admit nothing new now: no mapping is restored there.
	Closed map[string]bool
	// Elsewhere says that an adopted disk's target shows another image now.
	Elsewhere map[string]bool
}

// deed is one thing to do about a difference.
type deed struct {
	What    what
	Use     journal.Use        // forget, restore, record
	Device  string             // drop
	Mapping primitives.Mapping // drop
}

// what is a kind of deed.
type what uint8

const (
	forget  what = iota + 1 // the disk is gone: release its mappings and delete the use
	restore                 // the disk is there, its mapping is not, as after a reboot: map it again
	drop                    // the mapping serves nobody: take it away
	record                  // the disk and its mapping are there, the use is not: write it down
)

// String returns the deed's name.
func (w what) String() string { return [...]string{"", "forget", "restore", "drop", "record"}[w] }

// decide compares what was seen and returns what to do. It never concludes
// anything from what could not be seen, and leaves alone what is not tenon's.
func decide(o observed) []deed {
	var deeds []deed
	for _, u := range o.Uses {
		if d, differs := decideUse(o, u); differs {
			deeds = append(deeds, d)
		}
	}
	devices := make([]string, 0, len(o.Mappings))
	for name := range o.Mappings {
		devices = append(devices, name)
	}
	slices.Sort(devices)
	for _, name := range devices {
		for _, m := range o.Mappings[name] {
			if d, differs := decideMapping(o, name, m); differs {
				deeds = append(deeds, d)
			}
		}
	}
	return deeds
}

func decideUse(o observed, u journal.Use) (deed, bool) {
	disks, seen := o.Domains[hypervisor.DomainID(u.Domain)]
	mappings, answered := o.Mappings[u.URI.Device]
	if !seen || !answered {
		return deed{}, false
	}
	there := slices.ContainsFunc(disks, func(d hypervisor.Disk) bool { return serves(u, d) })
	if !there || o.Elsewhere[u.ID] {
		return deed{What: forget, Use: u}, true
	}
	served := slices.ContainsFunc(mappings, func(m primitives.Mapping) bool { return m.Consumer == u.ID && m.Active })
	if !served && !u.Dormant && !o.Closed[u.URI.Device] {
		return deed{What: restore, Use: u}, true
	}
	return deed{}, false
}

// decideMapping looks at a mapping whose use is not recorded: the use is written
// before the mapping is made, so it belongs to nobody, unless its disk is there.
func decideMapping(o observed, device string, m primitives.Mapping) (deed, bool) {
	id, ours := strings.CutPrefix(m.Consumer, usePrefix)
	if !ours || o.Known[m.Consumer] {
		return deed{}, false
	}
	for domain, disks := range o.Domains {
		for _, d := range disks {
			if string(d.ID) == id {
				return deed{What: record, Use: journal.Use{
					ID: m.Consumer, Kind: journal.UseDisk, URI: m.URI, Access: m.Access, Domain: string(domain), Disk: id,
				}}, true
			}
		}
	}
	return deed{What: drop, Device: device, Mapping: m}, o.Complete
}
