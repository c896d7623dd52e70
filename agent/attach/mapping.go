// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

// mapper returns the Map facet of a use's device.
func (s *Service) mapper(ctx context.Context, u primitives.URI) (primitives.Mapper, error) {
	d, err := s.devices.Await(ctx, u.Device)
	if err != nil {
		return nil, err
	}
	m := d.Facets().Map
	if m == nil {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "the device cannot be mapped on a host").On(u).
			Trying("copy it to a device that can: tenonctl copy %s DEVICE/VOLUME", u.Short())
	}
	return m, nil
}

// mapUse makes, or refreshes, the mapping of a use.
func (s *Service) mapUse(ctx context.Context, u journal.Use, op primitives.Op, accept []primitives.Acceptable) (primitives.Mapping, error) {
	m, err := s.mapper(ctx, u.URI)
	if err != nil {
		return primitives.Mapping{}, err
	}
	return m.Map(ctx, u.URI, primitives.MapRequest{Op: op, Access: u.Access, Consumer: u.ID, Accept: accept})
}

// activate opens a mapping for I/O.
func (s *Service) activate(ctx context.Context, u journal.Use, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
	m, err := s.mapper(ctx, u.URI)
	if err != nil {
		return primitives.Mapping{}, err
	}
	return m.Activate(ctx, id, op)
}

// release takes away every mapping that serves a use, as observed on the device.
// A repeat finds none and is success.
func (s *Service) release(ctx context.Context, u journal.Use) error {
	m, err := s.mapper(ctx, u.URI)
	if errors.Is(err, primitives.CodeUnsupported) || errors.Is(err, primitives.CodeNotFound) {
		return nil // nothing was ever mapped, or the device is not ours any more
	}
	if err != nil {
		return err
	}
	mappings, err := m.Mappings(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, x := range mappings {
		if x.Consumer == u.ID {
			errs = append(errs, unmap(ctx, m, x.ID))
		}
	}
	return errors.Join(errs...)
}

func unmap(ctx context.Context, m primitives.Mapper, id primitives.MappingID) error {
	if err := m.Deactivate(ctx, id, primitives.Op{}); err != nil {
		return err
	}
	return m.Unmap(ctx, id, primitives.UnmapRequest{})
}
