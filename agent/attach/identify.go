// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// DiskName is what a caller calls a disk of a domain: its ID, its target such as
// "vdb", or the URI of its volume. Every ID is a name. Operations keep the name
// that they were given, so that a repeated request is recognised when the disk
// is gone, and find out which disk is meant when they begin.
type DiskName = hypervisor.DiskID

// identify finds the disk that a name means. The use is zero where none is
// recorded. CodeNotFound; CodeUnsupported for a disk that has no ID, since the
// hypervisor can be told nothing about it.
func (s *Service) identify(ctx context.Context, domain hypervisor.Domain, name DiskName) (hypervisor.DiskID, journal.Use, error) {
	if name == "" {
		return "", journal.Use{}, primitives.Invalid("disk", "it is empty; expected a disk's ID, target or URI")
	}
	// The record of an ID is enough: the disk may be gone from the domain already.
	use, err := s.useOf(domain.ID, name)
	if err != nil || use.Disk != "" {
		return name, use, err
	}
	shown, err := s.disks(ctx, domain.ID)
	if err != nil {
		return "", journal.Use{}, err
	}
	uses, err := s.Uses("")
	if err != nil {
		return "", journal.Use{}, err
	}
	return pick(domain, name, shown, uses)
}

// pick is identify on what was seen. An ID comes before a target, and a target
// before a URI.
func pick(domain hypervisor.Domain, name DiskName, shown []hypervisor.Disk, uses []journal.Use) (hypervisor.DiskID, journal.Use, error) {
	uses = slices.DeleteFunc(slices.Clone(uses), func(u journal.Use) bool {
		return u.Kind != journal.UseDisk || u.Domain != string(domain.ID)
	})
	for _, called := range []func(hypervisor.Disk) bool{
		func(d hypervisor.Disk) bool { return d.ID == name },
		func(d hypervisor.Disk) bool { return d.Target == string(name) },
	} {
		if i := slices.IndexFunc(shown, called); i >= 0 {
			return known(domain, shown[i], uses)
		}
	}
	return byURI(domain, name, uses)
}

// known returns a disk that the domain shows, with its use.
func known(domain hypervisor.Domain, d hypervisor.Disk, uses []journal.Use) (hypervisor.DiskID, journal.Use, error) {
	var use journal.Use
	if i := slices.IndexFunc(uses, func(u journal.Use) bool { return serves(u, d) }); i >= 0 {
		use = uses[i]
	}
	if d.ID == "" {
		return "", use, nameless(domain, d.Target, use)
	}
	return d.ID, use, nil
}

// byURI returns the disk whose use is of a volume or snapshot, whether or not
// the domain still shows it.
func byURI(domain hypervisor.Domain, name DiskName, uses []journal.Use) (hypervisor.DiskID, journal.Use, error) {
	u, _ := primitives.ParseURI(string(name)) // zero for what is no URI
	var ids []string
	var found journal.Use
	for _, use := range uses {
		if u.Volume == "" || use.URI != u {
			continue
		}
		if use.Disk == "" {
			return "", use, nameless(domain, use.Target, use)
		}
		ids, found = append(ids, use.Disk), use
	}
	switch len(ids) {
	case 0:
		return "", journal.Use{}, primitives.Errorf(primitives.CodeNotFound, "domain %s has no disk %q", domain.Name, string(name)).
			Trying("see: tenonctl disk list %s", domain.Name)
	case 1:
		return hypervisor.DiskID(found.Disk), found, nil
	}
	return "", journal.Use{}, primitives.Invalid("disk", "%d disks of domain %s show %s: %s; name one by its ID",
		len(ids), domain.Name, u.Short(), strings.Join(ids, ", "))
}

// nameless refuses a disk that tenon did not attach: the hypervisor knows it by
// no ID of tenon's, and a target may be another disk's a moment later.
func nameless(domain hypervisor.Domain, target string, use journal.Use) error {
	disk := fmt.Sprintf("disk %s of domain %s", target, domain.Name)
	if use.ID == "" {
		return primitives.Errorf(primitives.CodeUnsupported, "tenon did not attach %s", disk).
			Trying("change it with the hypervisor's own tools; tenon notices")
	}
	return primitives.Errorf(primitives.CodeUnsupported, "%s was adopted, not attached by tenon, and has no ID to change it by", disk).On(use.URI).
		Trying("detach it with the hypervisor's own tools, which tenon notices; to have it as tenon's disk then: tenonctl disk attach %s %s", use.URI.Short(), domain.Name)
}
