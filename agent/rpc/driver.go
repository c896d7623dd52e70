// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"

	"github.com/tenon-storage/tenon/agent/device"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// drivers serves DriverService.
type drivers struct {
	tenonv1.UnimplementedDriverServiceServer
	registry *device.Registry
}

// ListDrivers pages through the drivers.
func (s *drivers) ListDrivers(_ context.Context, r *tenonv1.ListDriversRequest) (*tenonv1.ListDriversResponse, error) {
	page, next, err := pageOf(s.registry.Drivers(), func(d primitives.DriverInfo) string { return d.Name }, ascending, r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	resp := &tenonv1.ListDriversResponse{NextPageToken: next}
	for _, d := range page {
		resp.Drivers = append(resp.Drivers, driverOf(d))
	}
	return resp, nil
}

// GetDriver describes one driver.
func (s *drivers) GetDriver(_ context.Context, r *tenonv1.GetDriverRequest) (*tenonv1.GetDriverResponse, error) {
	d, err := s.registry.Driver(r.GetName())
	if err != nil {
		return nil, err
	}
	return &tenonv1.GetDriverResponse{Driver: driverOf(d)}, nil
}

// GetDriverSchema returns a driver's properties as JSON Schema.
func (s *drivers) GetDriverSchema(_ context.Context, r *tenonv1.GetDriverSchemaRequest) (*tenonv1.GetDriverSchemaResponse, error) {
	d, err := s.registry.Driver(r.GetName())
	if err != nil {
		return nil, err
	}
	text, err := storage.JSONSchema(d)
	return &tenonv1.GetDriverSchemaResponse{JsonSchema: string(text)}, err
}

func driverOf(d primitives.DriverInfo) *tenonv1.Driver {
	out := &tenonv1.Driver{
		Name: d.Name, Version: d.Version, Summary: d.Summary, SchemaVersion: int32(d.Schema.Version),
		ContractMin: int32(d.APIMin), ContractMax: int32(d.APIMax),
	}
	for _, p := range d.Schema.Props {
		out.Properties = append(out.Properties, &tenonv1.PropertySpec{
			Name: p.Name, Help: p.Help, Example: p.Example, Type: tenonv1.PropertyType(p.Type + 1), Scopes: scopesOf(p.Scope),
			Required: p.Required, DefaultValue: p.Default, EnumValues: p.Enum, Min: p.Min, Max: p.Max, Pattern: p.Pattern,
			Secret: p.Secret, Mutability: tenonv1.Mutability(p.Mutable + 1), Inherit: p.Inherit,
			Requires: p.Requires, Conflicts: p.Conflicts, Since: p.Since, Deprecated: p.Deprecated,
		})
	}
	return out
}

func scopesOf(s primitives.Scope) []tenonv1.PropertyScope {
	var all []tenonv1.PropertyScope
	for _, each := range []struct {
		scope primitives.Scope
		wire  tenonv1.PropertyScope
	}{
		{primitives.ScopeDevice, tenonv1.PropertyScope_PROPERTY_SCOPE_DEVICE},
		{primitives.ScopeVolume, tenonv1.PropertyScope_PROPERTY_SCOPE_VOLUME},
		{primitives.ScopeSnapshot, tenonv1.PropertyScope_PROPERTY_SCOPE_SNAPSHOT},
		{primitives.ScopeOp, tenonv1.PropertyScope_PROPERTY_SCOPE_OPERATION},
	} {
		if s&each.scope != 0 {
			all = append(all, each.wire)
		}
	}
	return all
}
