// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// admitted asks a device's gate for a use, within the transaction.
func admitted(tx *journal.Tx, name, use string) (protocol.Stamp, error) {
	a, err := device.Ask(tx, primitives.URI{Device: name}, use)
	return a.Stamp, err
}

// closed reports whether a device's gate is not open.
func (s *Service) closed(name string) bool {
	closed := true
	_ = s.journal.View(func(tx *journal.Tx) error {
		door, err := tx.Door(name)
		closed = err != nil || door.Gate != protocol.GateOpen
		return err
	})
	return closed
}

// AdmitDomain says whether a domain may start on this host, or come to it, as far
// as the gates of the devices beneath its disks are concerned: those that are
// recorded for it, and those in which a source of its definition lies. CodeConflict
// or CodeFenced names the maintenance, its expected time and what else there is.
func (s *Service) AdmitDomain(_ context.Context, r AdmitDomainRequest) error {
	return s.journal.View(func(tx *journal.Tx) error {
		uses, err := tx.Uses()
		if err != nil {
			return err
		}
		for _, u := range uses {
			if u.Kind != journal.UseDisk || r.Domain == "" || u.Domain != strings.ToLower(r.Domain) {
				continue
			}
			if _, err := device.Ask(tx, u.URI, u.ID); err != nil {
				return err
			}
		}
		for _, u := range s.sources(tx, r.Sources) {
			if _, err := device.Ask(tx, u, ""); err != nil {
				return err
			}
		}
		return nil
	})
}

// sources finds the volumes, or at least the devices, that are meant by what a
// definition names. What lies in no device is none of ours.
func (s *Service) sources(tx *journal.Tx, named []string) []primitives.URI {
	var found []primitives.URI
	add := func(u primitives.URI) {
		if _, err := tx.Device(u.Device); err == nil && !slices.Contains(found, u) {
			found = append(found, u)
		}
	}
	for _, src := range named {
		if strings.HasPrefix(src, "/") {
			if name := s.devices.Below(src); name != "" {
				add(primitives.URI{Device: name})
			}
			continue
		}
		if u, err := primitives.ParseURI(src); err == nil {
			add(u)
		}
	}
	return found
}
