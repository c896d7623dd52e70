// SPDX-License-Identifier: Apache-2.0

// Package agent is tenon's service, and the only place where storage meets the
// hypervisor. This file wires its rooms together; what they do is theirs.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/move"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/agent/transfer"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/internal/durable"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// stopTime is how long running operations may take to reach a step at which
// they can be left for the next start.
const stopTime = 10 * time.Second

// Parts are what an agent is made of; tenond takes them from the tables, tests
// bring their own.
type Parts struct {
	Drivers storage.Table
	Adapter hypervisor.Adapter // nil: this host runs no domains
	Journal journal.Options
	BootID  string // empty: the kernel's
	Version string
	Log     *slog.Logger
}

// Agent is a running agent.
type Agent struct {
	journal *journal.Journal
	engine  *operation.Engine
	devices *device.Registry
	disks   *attach.Service
	volumes *volume.Service
	upkeep  *maintenance.Service
	manager *rpc.ManagerLink // nil: this host is managed by nobody else
	server  *rpc.Server
	adapter hypervisor.Adapter
}

// New builds an agent that does nothing yet. Nothing is opened but the journal:
// no device and no hypervisor can keep it from starting.
func New(c config.Config, p Parts) (*Agent, error) {
	bootID, err := bootID(p.BootID)
	if err != nil {
		return nil, err
	}
	if err := makeFolders(c); err != nil {
		return nil, err
	}
	j, err := journal.Open(filepath.Join(c.StateDir, "journal.db"), p.Journal)
	if err != nil {
		return nil, err
	}
	a := &Agent{journal: j, adapter: p.Adapter}
	a.engine = operation.New(j, operation.Options{
		Log: p.Log, Running: c.Limits.Operations, Bulk: c.Limits.Transfers, Keep: c.Limits.KeepOperations, KeepFor: c.Limits.KeepFor,
	})
	a.devices, err = device.New(j, a.engine, p.Drivers, device.Options{
		Log: p.Log, StateDir: c.StateDir, OpenTime: c.Limits.DeviceOpen,
		Host: primitives.HostInfo{ID: j.HostID(), BootID: bootID, RunDir: filepath.Join(c.RunDir, "devices")},
	})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	a.disks = attach.New(j, a.engine, a.devices, p.Adapter, attach.Options{Log: p.Log, DetachTime: c.Limits.Detach})
	a.volumes = volume.New(j, a.engine, a.devices, a.disks)
	snapshot.New(j, a.engine, a.devices, a.disks, snapshot.Options{Log: p.Log, FreezeTime: c.Limits.Freeze})
	transfer.New(a.engine, a.devices)
	move.New(j, a.engine, a.devices, a.disks, move.Options{Log: p.Log})
	// Before any device is opened: those that are fenced stay closed.
	a.upkeep, err = maintenance.New(j, a.engine, a.devices, a.disks, p.Adapter, maintenance.Options{
		Log: p.Log, Boot: bootID, Manager: c.Maintenance.Manager, DetachTime: c.Limits.Detach,
	})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	host := rpc.Host{ID: j.HostID(), BootID: bootID, Version: p.Version}
	if c.Maintenance.Manager != "" {
		a.manager, err = rpc.NewManagerLink(a.upkeep, rpc.ManagerOptions{
			Address: c.Maintenance.Manager, Host: host, AgentStart: a.upkeep.AgentStart(), Log: p.Log,
		})
		if err != nil {
			return nil, errors.Join(err, j.Close())
		}
	}
	a.server = rpc.New(rpc.Rooms{
		Operations: a.engine, Devices: a.devices, Volumes: a.volumes, Disks: a.disks, Maintenance: a.upkeep, Host: host,
	}, p.Log)
	return a, nil
}

// makeFolders makes tenond's folders. The state is nobody else's business; the
// folder for run-time files can be passed through, not read, so that members of
// the socket's group come to the socket in it. What else is in it is closed.
func makeFolders(c config.Config) error {
	err := durable.MkdirAll(c.StateDir, 0o700)
	if err == nil {
		err = durable.MkdirAll(c.RunDir, 0o711)
	}
	if err != nil {
		return fmt.Errorf("make tenond's folders: %w", err)
	}
	return nil
}

// Serve lets what a crash interrupted go on, serves the API on the socket, says
// ready, and returns when ctx ends. Devices and the hypervisor are connected to
// meanwhile.
func (a *Agent) Serve(ctx context.Context, socket rpc.Socket, ready func()) error {
	listener, err := rpc.Listen(ctx, socket)
	if err != nil {
		return err
	}
	if err := a.volumes.DropStreams(); err != nil {
		return errors.Join(err, listener.Close())
	}
	a.devices.Start()
	if err := a.engine.Resume(); err != nil {
		return errors.Join(err, listener.Close())
	}
	a.disks.Start()
	a.upkeep.Start()
	var linked sync.WaitGroup
	defer linked.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before the wait
	if a.manager != nil {
		linked.Go(func() { a.manager.Run(ctx) })
	}
	ready()
	return a.server.Serve(ctx, listener)
}

// Close stops everything. Operations that run are left to be resumed at the next
// start; disks and mappings stay as they are.
func (a *Agent) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	a.upkeep.Stop()
	a.disks.Stop()
	a.engine.Stop(ctx)
	err := a.devices.Close()
	if a.adapter != nil {
		err = errors.Join(err, a.adapter.Close())
	}
	return errors.Join(err, a.journal.Close())
}

// bootID returns the kernel's identity of this boot (random(4)).
func bootID(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("tell this boot from the last: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
