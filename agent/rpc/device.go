// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/agent/device"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// devices serves DeviceService.
type devices struct {
	tenonv1.UnimplementedDeviceServiceServer
	starter
	registry *device.Registry
}

// ListDevices pages through the devices.
func (s *devices) ListDevices(_ context.Context, r *tenonv1.ListDevicesRequest) (*tenonv1.ListDevicesResponse, error) {
	all, err := s.registry.List()
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(all, func(d device.Status) string { return d.Name }, ascending, r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	resp := &tenonv1.ListDevicesResponse{NextPageToken: next}
	for _, d := range page {
		resp.Devices = append(resp.Devices, s.shown(d))
	}
	return resp, nil
}

// GetDevice describes one device.
func (s *devices) GetDevice(_ context.Context, r *tenonv1.GetDeviceRequest) (*tenonv1.GetDeviceResponse, error) {
	d, err := s.registry.Get(r.GetName())
	if err != nil {
		return nil, err
	}
	return &tenonv1.GetDeviceResponse{Device: s.shown(d)}, nil
}

// CheckDevice looks at a device anew.
func (s *devices) CheckDevice(ctx context.Context, r *tenonv1.CheckDeviceRequest) (*tenonv1.CheckDeviceResponse, error) {
	d, err := s.registry.Check(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return &tenonv1.CheckDeviceResponse{Device: s.shown(d), Checks: checksOf(d)}, nil
}

// checksOf says step by step what a look at a device found.
func checksOf(d device.Status) []*tenonv1.DeviceCheck {
	if d.State != device.Open {
		detail := string(d.State)
		if d.Failure != nil {
			detail = d.Failure.Message
		}
		return []*tenonv1.DeviceCheck{{Name: "open", Detail: detail}}
	}
	checks := []*tenonv1.DeviceCheck{{Name: "open", Ok: true, Detail: "identity " + d.Description.Backend}}
	if !d.Described {
		return append(checks, &tenonv1.DeviceCheck{Name: "describe", Detail: "the device did not describe itself"})
	}
	h := d.Description
	detail := h.Health.String()
	if h.HealthNote != "" {
		detail += ": " + h.HealthNote
	}
	return append(checks,
		&tenonv1.DeviceCheck{Name: "describe", Ok: true, Detail: "at " + h.AtTime.UTC().Format("15:04:05 UTC")},
		&tenonv1.DeviceCheck{Name: "health", Ok: h.Health == primitives.Healthy, Detail: detail},
		&tenonv1.DeviceCheck{Name: "uses", Ok: true, Detail: fmt.Sprintf("%d recorded", d.Uses)},
	)
}

// ValidateDevice tells every problem.
func (s *devices) ValidateDevice(ctx context.Context, r *tenonv1.ValidateDeviceRequest) (*tenonv1.ValidateDeviceResponse, error) {
	problems, err := s.problems(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := new(tenonv1.ValidateDeviceResponse)
	for _, p := range problems {
		resp.Problems = append(resp.Problems, problemOf(p))
	}
	return resp, nil
}

// problems are those of a new device where a driver is named, and else those of
// an update.
func (s *devices) problems(ctx context.Context, r *tenonv1.ValidateDeviceRequest) ([]primitives.Problem, error) {
	secrets := primitives.NewSecrets(r.GetSecrets())
	if r.GetDriver() == "" {
		return s.registry.ValidateEdit(ctx, device.Edit{
			Name: r.GetName(), Set: r.GetProperties(), Secrets: secrets,
			Remove: slices.Concat(r.GetRemoveProperties(), r.GetRemoveSecrets()),
		})
	}
	return s.registry.Validate(ctx, device.Spec{Name: r.GetName(), Driver: r.GetDriver(), Props: r.GetProperties(), Secrets: secrets})
}

// AddDevice configures a device.
func (s *devices) AddDevice(ctx context.Context, r *tenonv1.AddDeviceRequest) (*tenonv1.AddDeviceResponse, error) {
	op, err := s.registry.Add(ctx, device.Spec{
		Name: r.GetName(), Driver: r.GetDriver(), Props: r.GetProperties(), Secrets: primitives.NewSecrets(r.GetSecrets()),
	}, device.Origin{RequestID: r.GetRequestId(), Caller: callerOf(ctx)})
	if err != nil {
		return nil, err
	}
	shown, err := operationOf(op)
	return &tenonv1.AddDeviceResponse{Operation: shown}, err
}

// UpdateDevice changes a device.
func (s *devices) UpdateDevice(ctx context.Context, r *tenonv1.UpdateDeviceRequest) (*tenonv1.UpdateDeviceResponse, error) {
	op, err := s.registry.Update(ctx, device.Edit{
		Name: r.GetName(), Set: r.GetProperties(), Secrets: primitives.NewSecrets(r.GetSecrets()),
		Remove: slices.Concat(r.GetRemoveProperties(), r.GetRemoveSecrets()),
	}, device.Origin{RequestID: r.GetRequestId(), Caller: callerOf(ctx)})
	if err != nil {
		return nil, err
	}
	shown, err := operationOf(op)
	return &tenonv1.UpdateDeviceResponse{Operation: shown}, err
}

// RemoveDevice forgets a device.
func (s *devices) RemoveDevice(ctx context.Context, r *tenonv1.RemoveDeviceRequest) (*tenonv1.RemoveDeviceResponse, error) {
	op, err := s.start(ctx, device.KindRemove, r.GetRequestId(), device.RemoveArgs{Name: r.GetName()})
	return &tenonv1.RemoveDeviceResponse{Operation: op}, err
}

// shown returns a device as the API tells it, with what it can do while it is open.
func (s *devices) shown(d device.Status) *tenonv1.Device {
	return deviceOf(d, facetsOf(s.registry, d.Name))
}

// facetsOf returns an open device's facets; nil where it is not open.
func facetsOf(r *device.Registry, name string) *primitives.Facets {
	d, err := r.Device(name)
	if err != nil {
		return nil
	}
	f := d.Facets()
	return &f
}

// deviceOf returns a device as the API tells it.
func deviceOf(d device.Status, f *primitives.Facets) *tenonv1.Device {
	out := &tenonv1.Device{
		Name: d.Name, Driver: d.Driver, Properties: d.Props, SecretNames: d.Secrets,
		Health: tenonv1.Health_HEALTH_UNREACHABLE, HealthNote: string(d.State), TotalBytes: -1, FreeBytes: -1,
	}
	if d.Failure != nil {
		out.HealthNote = headline(d.Failure)
	}
	if d.State != device.Open || !d.Described {
		return out
	}
	h := d.Description
	out.Health, out.HealthNote, out.Backend = healthOf(h.Health), h.HealthNote, h.Backend
	out.TotalBytes, out.FreeBytes, out.GranuleBytes, out.MaxVolumeBytes = h.Total, h.Free, h.Granule, h.MaxVolume
	out.Capabilities, out.ObserveTime = capabilitiesOf(h.Caps, f), at(h.AtTime)
	return out
}
