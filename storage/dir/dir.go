// SPDX-License-Identifier: Apache-2.0

// Package dir keeps volumes in a directory of any file system: raw and qcow2
// files, sparse, with snapshots and clones by reflink where the file system has
// it (XFS, Btrfs) and by qcow2 overlays elsewhere.
//
// # The directory
//
//	tenon-device.json   who this device is, so that an unmounted path is noticed instead of filled
//	lock                locked byte by byte, never read
//	volumes/=NAME.json  one record per volume, with its snapshots: what is here exists
//	trash/ID.json       the same records, after delink
//	data/ID.FORMAT      the bytes; a path here never changes its meaning, because guests name it
//	mappings/           what is mapped, on which host, since which boot
//	work/               what is under way; empty when nothing is
//	data.fenced/        data/, while the device is closed for service
//	fence.json          who closed it, and when
//
// A volume's record is the only truth about it, so every change is one durable
// write of one file, and delink is one durable rename. No data file is made
// before a durable record names it, so what a crash leaves behind is always
// known by name and nothing else is ever removed.
package dir

import (
	"context"

	"github.com/tenon-storage/tenon/primitives"
)

// Name is the driver's name.
const Name = "dir"

// Names of the properties.
const (
	propPath     = "path"
	propFormat   = "format"
	propIdentity = "identity"
	propMount    = "mount-point"
)

// Driver speaks to directories. Its zero value is ready.
type Driver struct {
	// step is told of each step that changes the disk, before it is taken, so
	// that the tests can kill the process there.
	step func(string)
}

var _ primitives.Driver = Driver{}

// Info describes the driver.
func (Driver) Info() primitives.DriverInfo {
	return primitives.DriverInfo{
		Name: Name, Version: "1", APIMin: primitives.APIVersion, APIMax: primitives.APIVersion,
		Summary: "a directory on any file system, with raw and qcow2 files",
		Schema: primitives.Schema{Version: 1, Props: []primitives.PropSpec{
			{
				Name: propPath, Scope: primitives.ScopeDevice, Required: true, Pattern: "/.*", Example: "/srv/tenon",
				Help: "absolute path of an existing directory: empty, or a tenon device already",
			},
			{
				Name: propFormat, Type: primitives.PropEnum, Enum: []string{string(primitives.FormatRaw), string(primitives.FormatQcow2)},
				Scope: primitives.ScopeDevice | primitives.ScopeVolume, Inherit: true, Example: "qcow2", Mutable: primitives.MutableOnline,
				Help: "format of new volumes; without it raw where the file system has reflinks, else qcow2, because both then have snapshots",
			},
			{
				Name: propIdentity, Scope: primitives.ScopeDevice, Pattern: identityPattern, Example: "0190b6f2-2f5e-4c3a-9c1d-6d1f0a4b7c11", Mutable: primitives.MutableOffline,
				Help: "identity that the directory must have, as the device reports it; with it the directory is never initialised, so a file system that is not mounted is noticed",
			},
			{
				Name: propMount, Type: primitives.PropBool, Scope: primitives.ScopeDevice, Default: "false", Mutable: primitives.MutableOffline,
				Help: "refuse the path unless a file system is mounted on it",
			},
		}},
	}
}

// Validate checks the directory without changing it.
func (d Driver) Validate(ctx context.Context, c primitives.Change) []primitives.Problem {
	if c.Scope&primitives.ScopeDevice == 0 {
		return nil
	}
	problem := func(prop string, err error) []primitives.Problem {
		return []primitives.Problem{{Prop: prop, Message: err.Error(), Fatal: true}}
	}
	if c.InUse && c.Old[propPath] != "" && c.Old[propPath] != c.New[propPath] {
		return []primitives.Problem{{Prop: propPath, Fatal: true, Message: "the device is in use; its volumes would change under their users"}}
	}
	var found identity
	err := bounded(ctx, func() error {
		var err error
		found, err = inspect(c.New)
		return err
	})
	if err != nil {
		return problem(propPath, err)
	}
	if found.UUID == "" && c.New[propIdentity] != "" {
		return []primitives.Problem{{Prop: propIdentity, Fatal: true, Message: "the directory has no identity: is its file system mounted?"}}
	}
	return nil
}

// Open opens the directory, makes it a device if it is empty and no identity is
// demanded of it, and clears away what a crash left.
func (d Driver) Open(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
	b := &backend{driver: d, name: o.Name, folder: o.Props[propPath], mounted: o.Props[propMount] == "true", machine: o.Host, streams: map[*stream]bool{}, daemons: map[int]bool{}}
	u := primitives.URI{Device: o.Name}
	err := bounded(ctx, func() error {
		found, err := inspectOr(o.Props, b.initialise)
		b.uuid = found.UUID
		return err
	})
	if err != nil {
		return nil, classify(u, err)
	}
	if err := b.prepare(ctx); err != nil {
		return nil, classify(u, err)
	}
	return b, nil
}
