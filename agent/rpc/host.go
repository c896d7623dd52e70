// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/operation"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// Host is what the agent knows of the host it runs on.
type Host struct {
	ID      string
	BootID  string
	Version string // tenond's
}

// hosts serves HostService.
type hosts struct {
	tenonv1.UnimplementedHostServiceServer
	rooms Rooms
	start time.Time
}

// GetHost describes the host.
func (s *hosts) GetHost(ctx context.Context, _ *tenonv1.GetHostRequest) (*tenonv1.GetHostResponse, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name of the host: %w", err)
	}
	var system unix.Utsname
	if err := unix.Uname(&system); err != nil {
		return nil, fmt.Errorf("kernel of the host: %w", err)
	}
	running, err := s.rooms.Operations.List(ctx, operation.Filter{States: []operation.State{operation.Running}})
	if err != nil {
		return nil, err
	}
	list, err := s.rooms.Devices.List()
	if err != nil {
		return nil, err
	}
	host := &tenonv1.Host{
		Id: s.rooms.Host.ID, Name: name, BootId: s.rooms.Host.BootID, Kernel: unix.ByteSliceToString(system.Release[:]),
		Version: s.rooms.Host.Version, ContractVersion: primitives.APIVersion, StartTime: at(s.start), Pid: int32(os.Getpid()),
		Drivers: int32(len(s.rooms.Devices.Drivers())), Devices: int32(len(list)), OperationsRunning: int32(len(running)),
	}
	for _, d := range list {
		if d.State == device.Open && d.Description.Health == primitives.Healthy {
			host.DevicesHealthy++
		}
	}
	if info := s.rooms.Disks.Info(ctx); info.Name != "" {
		host.Hypervisors = append(host.Hypervisors, hypervisorOf(info))
	}
	return &tenonv1.GetHostResponse{Host: host}, nil
}
