// SPDX-License-Identifier: Apache-2.0

package move

import (
	"slices"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// view is what a decision about one disk is made of.
type view struct {
	Domain hypervisor.Domain
	Disk   hypervisor.Disk
	Use    journal.Use
	Source primitives.Object // the volume beneath the disk

	To       primitives.URI
	Device   primitives.Description // of the target
	Mappable bool                   // the target's volumes can be disks at all
	Taken    bool                   // the target's name is
	TakenBy  primitives.State
	Needed   int64 // bytes on the target's device, for the disks named so far
}

// bytes is what the target will hold: as the source does, where that is known.
func (v view) bytes() int64 {
	if v.Source.Used >= 0 {
		return min(v.Source.Used, v.Source.Size)
	}
	return v.Source.Size
}

// format keeps the source's where the target's device has it.
func (v view) format() primitives.Format {
	if slices.Contains(v.Device.Caps.Formats, v.Source.Format) {
		return v.Source.Format
	}
	return "" // the device's default
}

// refuse says why a disk cannot move; nil: it can.
func refuse(v view) error {
	for _, reason := range []func(view) *primitives.Error{refuseDomain, refuseDisk, refuseName, refuseDevice, refuseSize} {
		if err := reason(v); err != nil {
			return err
		}
	}
	return nil
}

func refuseDomain(v view) *primitives.Error {
	switch {
	case v.Domain.State != hypervisor.StateRunning && v.Domain.State != hypervisor.StatePaused:
		return primitives.Errorf(primitives.CodeUnsupported, "domain %s is %v; only the disks of a running one move", v.Domain.Name, v.Domain.State).
			Trying("detach the disk, copy its volume and attach the copy")
	case !v.Domain.Caps.Move:
		return primitives.Errorf(primitives.CodeUnsupported, "the disks of domain %s cannot move while it runs", v.Domain.Name).
			Trying("detach the disk, copy its volume and attach the copy")
	}
	return nil
}

func refuseDisk(v view) *primitives.Error {
	blocker := device.Blocker(v.Use)
	switch {
	case v.Use.URI.IsSnapshot() || v.Disk.Access != primitives.ReadWrite:
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s of domain %s is read-only, and a copy cannot take its place while the domain runs", v.Disk.Target, v.Domain.Name).
			On(v.Use.URI).Trying("detach the disk, copy its volume and attach the copy")
	case !v.Disk.Live:
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s is in the definition of domain %s only, not in the running one", v.Disk.Target, v.Domain.Name).
			On(v.Use.URI).Trying("detach the disk, copy its volume and attach the copy")
	case v.Disk.Detaching:
		return primitives.Errorf(primitives.CodeConflict, "a detach of disk %s of domain %s is under way", v.Disk.Target, v.Domain.Name).
			On(v.Use.URI).By(blocker).Trying("wait until it is gone")
	case v.Disk.Job != "":
		return primitives.Errorf(primitives.CodeConflict, "a block job (%s) runs on disk %s of domain %s", v.Disk.Job, v.Disk.Target, v.Domain.Name).
			On(v.Use.URI).By(blocker).Trying("wait for the job to end, or cancel it with the hypervisor's own tools")
	case v.Source.State != primitives.Ready:
		return primitives.Errorf(primitives.CodeConflict, "its volume is %v", v.Source.State).On(v.Use.URI).Trying("wait until it is ready")
	}
	return nil
}

func refuseName(v view) *primitives.Error {
	switch {
	case v.To == v.Use.URI:
		return primitives.Invalid("to", "the disk is on %s already; name another device, or another volume", v.To.Short())
	case v.Taken && v.TakenBy == primitives.Incomplete:
		return primitives.Errorf(primitives.CodeExists, "an interrupted write has that name").On(v.To).
			Trying("name another volume: DEVICE/VOLUME, or delink that one")
	case v.Taken:
		return primitives.Errorf(primitives.CodeExists, "a volume has that name").On(v.To).Trying("name another volume: DEVICE/VOLUME")
	}
	return nil
}

func refuseDevice(v view) *primitives.Error {
	on := primitives.URI{Device: v.To.Device}
	switch {
	case v.Device.Fenced:
		return primitives.Errorf(primitives.CodeFenced, "the device is closed for service").On(on).Trying("name another device")
	case !v.Device.Caps.Manageable:
		return primitives.Errorf(primitives.CodeUnsupported, "no volume can be made on the device").On(on).Trying("name another device")
	case !v.Mappable || !accepted(v.Device.Caps, v.Domain.Caps.Accepts):
		return primitives.Errorf(primitives.CodeUnsupported, "domain %s takes none of the forms in which the device offers volumes", v.Domain.Name).
			On(on).Trying("name another device")
	case v.Device.Free >= 0 && v.Device.Free < v.Needed:
		return primitives.Errorf(primitives.CodeNoSpace, "%d bytes are free, and %d are to be copied", v.Device.Free, v.Needed).
			On(on).Trying("free space on the device, or name another")
	}
	return nil
}

// refuseSize wants both sizes exactly equal: a disk does not grow or shrink by
// being moved, and hypervisors refuse it.
func refuseSize(v view) *primitives.Error {
	granule, size := max(v.Device.Granule, 1), v.Source.Size
	switch {
	case size%granule != 0:
		return primitives.Errorf(primitives.CodeUnsupported, "volumes there are multiples of %d bytes, and the disk has %d; both must be equal", granule, size).
			On(v.To).Trying("resize the disk to a multiple first: tenonctl disk resize %s %s --size %d", v.Domain.Name, v.Disk.Target, (size+granule-1)/granule*granule)
	case v.Device.MaxVolume > 0 && size > v.Device.MaxVolume:
		return primitives.Errorf(primitives.CodeUnsupported, "the disk has %d bytes, and volumes there have %d at most", size, v.Device.MaxVolume).
			On(v.To).Trying("name another device")
	}
	return nil
}

// accepted reports whether some form of a device's volumes is taken.
func accepted(c primitives.Caps, accept []primitives.Acceptable) bool {
	return slices.ContainsFunc(accept, func(a primitives.Acceptable) bool {
		if !slices.Contains(c.Forms, a.Form) {
			return false
		}
		return a.Form != primitives.FormFile || a.Format == "" || slices.Contains(c.Formats, a.Format)
	})
}

func uses(u journal.Use) []journal.Use { return []journal.Use{u} }
