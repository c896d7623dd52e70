// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"os"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Found is a disk that tenon did not attach and whose bytes an image holds.
type Found struct {
	Domain     hypervisor.DomainID
	DomainName string
	Target     string
	Access     primitives.Access
}

// String prints the disk as people know it.
func (f Found) String() string { return f.DomainName + "/" + f.Target }

// UsersOf finds the disks whose image is the file at path, by the file's
// identity and not by its name. CodeInUse when a disk has it as a backing file:
// writing to it would change that disk, and a disk of tenon's own is a volume
// already.
func (s *Service) UsersOf(ctx context.Context, path string) ([]Found, error) {
	if s.adapter == nil {
		return nil, nil
	}
	image, _ := os.Stat(path)
	if image == nil {
		return nil, nil // the device says what is wrong with it
	}
	is := func(other string) bool {
		if other == "" {
			return false
		}
		info, err := os.Stat(other)
		return err == nil && os.SameFile(image, info)
	}
	domains, err := s.Domains(ctx)
	if err != nil {
		return nil, err
	}
	var found []Found
	for _, domain := range domains {
		disks, err := s.disks(ctx, domain.ID)
		if err != nil {
			return nil, err
		}
		for _, d := range disks {
			below := false
			for _, backing := range d.Source.Chain {
				below = below || is(backing)
			}
			mine := d.Source.Network == nil && is(d.Source.Path)
			if below || mine && d.ID != "" {
				return nil, primitives.Errorf(primitives.CodeInUse, "%s belongs to a disk that is more than this file", path).
					By(primitives.Blocker{Kind: "disk", Name: d.Target + " of domain " + domain.Name}).
					Trying("merge the disk's overlays in the hypervisor first")
			}
			if mine {
				found = append(found, Found{Domain: domain.ID, DomainName: domain.Name, Target: d.Target, Access: d.Access})
			}
		}
	}
	return found, nil
}

// AdoptedUse returns the use to record for a found disk of the volume u.
func (f Found) AdoptedUse(u primitives.URI, operation string) journal.Use {
	return journal.Use{
		ID: usePrefix + string(newDiskID()), Kind: journal.UseDisk, URI: u, Access: f.Access, Operation: operation,
		Domain: string(f.Domain), Target: f.Target, Admitted: time.Now().UTC(),
	}
}

// Serve maps and activates what a recorded use needs; a repeat is success.
func (s *Service) Serve(ctx context.Context, u journal.Use, mapOp, activateOp primitives.Op) error {
	m, err := s.mapUse(ctx, u, mapOp, nil)
	if err == nil {
		_, err = s.activate(ctx, u, m.ID, activateOp)
	}
	return err
}

// Release takes away every mapping that serves a use; a repeat is success.
func (s *Service) Release(ctx context.Context, u journal.Use) error { return s.release(ctx, u) }
